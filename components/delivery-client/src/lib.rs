//! The seam between an edge and the host: the only code that knows the wire form.
//!
//! Pure: `Http` is the one thing it needs, and the trigger gives it (`wasi:http` in a component). The host reads and
//! writes the same records in `wire` and the same frames in `frame`, so the two sides cannot drift apart.

mod base;
mod client;
pub mod frame;
mod resources;
pub mod wire;

pub use base::below;
pub use client::{Client, DeliveryError, Http, HttpError, Settings};
pub use resources::{Fetched, escape, unescape};
