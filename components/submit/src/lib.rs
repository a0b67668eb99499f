//! The sending API: an HTTP trigger in the shape of Resend's, so that its SDKs are ours.
//!
//! `service` takes a request from the route to the answer: `auth` checks the key, `email` reads the fields out of the
//! JSON (`json`), the pipeline makes the message, the delivery client hands it over, `answer` says what came of it. All
//! of that runs natively too; `component` is the WASM shell around it. Nothing is kept between requests but the short
//! memory of `auth`.

mod answer;
mod attachment;
mod auth;
mod batch;
mod email;
mod json;
mod schedule;
mod service;
mod stored;
mod template;

pub use auth::AuthCache;
pub use service::{Body, BodyError, Moment, Service};

#[cfg(target_family = "wasm")]
mod component;
