//! The edge as `spin.toml` makes it, away from the host: composed as Spin composes it, run in an engine of the test's
//! own, with real HTTP to a host or an application on loopback.

#![allow(clippy::unwrap_used)]

#[path = "../judge.rs"]
mod judge;
mod manifest;
mod notifying;
mod running;
mod scripted;
mod sending;
mod tenant_manifest;
