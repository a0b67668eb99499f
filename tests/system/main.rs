//! The whole system as its users run it: the binary, a configuration file, real sockets, a double of the outside world.

#![allow(clippy::unwrap_used)]

mod changing;
mod commands;
mod components;
mod disk;
mod domains;
mod limits;
mod memory;
mod misbehaviour;
mod operator;
mod reports;
mod seam;
mod seeing;
mod sending;
mod start;
mod survival;
mod tenancy;
mod upgrades;
