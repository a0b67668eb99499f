//! The whole system as its users run it: the binary, a configuration file, real sockets, a double of the outside world.

#![allow(clippy::unwrap_used)]

mod changing;
mod commands;
mod domains;
mod memory;
mod misbehaviour;
mod operator;
mod seam;
mod seeing;
mod sending;
mod start;
mod survival;
mod tenancy;
