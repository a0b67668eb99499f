//! A message read for what it says: decoded header fields, addresses, parts, text and HTML (mail-parser behind it).

use crate::{Address, Mailbox};

/// How a part wants to be shown (RFC 2183).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    Inline,
    Attachment,
}

/// One leaf of the MIME tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Lower case, without parameters.
    pub content_type: String,
    pub file_name: Option<String>,
    /// Decoded size.
    pub size_bytes: u64,
    pub disposition: Disposition,
    pub content_id: Option<String>,
    /// Whether it is the body's text or HTML rather than an attachment.
    pub is_body: bool,
}

/// What a message says. Owned, so that it outlives the bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parsed {
    /// All fields in order: name as written, value unfolded and decoded.
    pub headers: Vec<(String, String)>,
    /// All mailboxes of From; usually one.
    pub from: Vec<Mailbox>,
    pub to: Vec<Mailbox>,
    pub cc: Vec<Mailbox>,
    pub reply_to: Vec<Mailbox>,
    pub subject: Option<String>,
    /// With angle brackets.
    pub message_id: Option<String>,
    pub parts: Vec<Part>,
    /// The first text/plain and text/html bodies, decoded to UTF-8.
    pub text: Option<String>,
    pub html: Option<String>,
}

/// Reads a message. Never fails: what cannot be read is left out. Addresses that are not valid are left out too.
pub fn parse(message: &[u8]) -> Parsed {
    let _ = message;
    todo!()
}

/// The decoded content of the nth part as `parse` counts them, with its content type.
pub fn part_content(message: &[u8], index: usize) -> Option<(String, Vec<u8>)> {
    let _ = (message, index);
    todo!()
}

/// The address of the From field; of the Sender field where From has several (RFC 5322 s3.6.2).
pub fn author(parsed: &Parsed) -> Option<&Address> {
    let _ = parsed;
    todo!()
}
