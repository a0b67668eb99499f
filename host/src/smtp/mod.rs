//! SMTP without sockets: state machines that are fed bytes and say what to do next. Synchronous, no clock, no tokio.
//!
//! Server side (RFC 5321, 6409): `line` finds command lines, `command` reads one, `auth` the SASL exchanges, `text`
//! the message itself, and `session` holds the dialogue together. `server` drives it over real connections.

pub mod auth;
pub mod client;
pub mod command;
pub mod line;
pub mod session;
pub mod text;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod dialogue;
