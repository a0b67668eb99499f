//! The native host: owns the sockets, the disk, DNS, time, tenants' data and the WASM engine, and nothing else.
//!
//! Modules stand in the order of a message's road: `smtp` (protocol) and `server` (listeners) or `edge` (HTTP
//! triggers) take a submission in, `author` tells whose it may be and `signed` whether an edge signed it, `accept` makes it
//! durable in the `store` if `tenancy` lets its tenant send it, the `queue` leases what is due, `route` finds the peer, `deliver` speaks to it, `bounce` tells the sender by mail, `event` tells what happened. `api` is the seam for components and people,
//! `inbox` the development host's page, `cli` the commands people type, `serve` wires it all.

/// The tenant that always exists, so that a single-tenant user never meets the word.
pub const DEFAULT_TENANT: &str = "default";

pub mod accept;
pub mod api;
pub mod api_key;
pub mod author;
pub mod bounce;
pub mod cli;
pub mod config;
pub mod deliver;
pub mod domains;
pub mod edge;
pub mod event;
pub mod inbox;
pub mod keyring;
pub mod metrics;
pub mod published;
pub mod queue;
pub mod reload;
pub mod route;
pub mod scram;
pub mod serve;
pub mod server;
pub mod signed;
pub mod sizes;
pub mod smtp;
pub mod store;
pub mod telemetry;
pub mod tenancy;
pub mod web;
