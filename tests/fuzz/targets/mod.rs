//! What is given bytes that mean no good: one function for each way in, which panics where a promise is broken.
//!
//! Two look for such bytes: `tests/fuzz/corpus.rs`, with the tests, over what was found before; and the engine of
//! `cargo xtask fuzz`, which is guided by the code that it reaches. The second builds this file in a workspace of its own.

mod dns;
mod http;
mod mail;
mod smtp;

/// A way in.
pub type Target = fn(&[u8]);

/// All of them, by the name of their folder in the corpus.
pub const TARGETS: &[(&str, Target)] = &[
    ("address", mail::address),
    ("client", smtp::client),
    ("config", http::config),
    ("frames", http::frames),
    ("message", mail::message),
    ("record", dns::record),
    ("server", smtp::server),
    ("submission", http::submission),
    ("template", http::template),
];
