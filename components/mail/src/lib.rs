//! What mail is: addresses, envelopes, header fields, MIME, replies, outcomes, events and DKIM's canonical forms.
//!
//! Pure: no I/O, no clock, no randomness; whoever needs a time or a random token hands it in. Nothing here derives
//! Serialize: wire and disk forms belong to the host and to `delivery-client`, and convert.

pub mod address;
mod body;
pub mod compose;
pub mod dkim;
pub mod envelope;
pub mod event;
pub mod header;
pub mod mailbox;
pub mod message;
mod mime;
pub mod outcome;
pub mod reply;
pub mod seven_bit;
pub mod signature;
pub mod status;
pub mod stream;

pub use address::{Address, Domain, Mailbox};
pub use envelope::{Envelope, ReversePath};
pub use event::{Event, EventKind};
pub use outcome::{Outcome, Verdict};
pub use reply::Reply;
pub use status::EnhancedCode;
pub use stream::Stream;
