//! The HTTP APIs that the host answers itself: control for people (`control`), and for triggers, in-process, the
//! delivery API (`delivery`) and the reading side of the sending API (`sending`), both behind `seam`. Edges reach the
//! delivery API over the network, through `network`.

pub mod control;
pub(crate) mod credential;
pub mod delivery;
pub mod domains;
pub mod events;
pub mod fault;
pub mod network;
mod refused;
pub mod resources;
pub mod routes;
pub mod seam;
pub mod sending;
pub mod socket;
pub mod templates;
pub mod webhooks;

/// A parameter of a query. Ids and numbers need no percent-decoding.
fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').filter_map(|pair| pair.split_once('=')).find_map(|(key, value)| (key == name).then_some(value))
}

/// A time as Resend writes it: `2026-04-03T22:13:42.674981+00:00`.
fn time(at: jiff::Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S.%6f+00:00").to_string()
}
