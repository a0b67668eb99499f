//! The envelope: who sends to whom, apart from what the header says (RFC 5321 s2.3.1).

use crate::Address;

/// The reverse path of MAIL FROM: `None` is the null sender `<>`, which never gets a bounce.
pub type ReversePath = Option<Address>;

/// Sender and recipients. Recipients keep their order; each stands once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    pub sender: ReversePath,
    pub recipients: Vec<Address>,
}
