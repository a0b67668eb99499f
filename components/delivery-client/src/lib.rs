//! The seam between an edge and the host: the only code that knows the wire form.
//!
//! Pure: `Http` is the one thing it needs, and the trigger gives it (`wasi:http` in a component). The host reads and
//! writes the same records in `wire`, so the two sides cannot drift apart.

pub mod wire;
