//! An HTTP trigger: an event in, the shaped and signed webhook out.
//!
//! Outbox, order and retries are the host's: one request here is one try, and the answer says what came of it. `service`
//! runs natively too; `component` is the WASM shell around it. Nothing is kept between requests.

mod service;

pub use service::{BodyError, Service, Shaper};

#[cfg(target_family = "wasm")]
mod component;
