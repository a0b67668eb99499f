//! Makes a message out of fields (mail-builder behind it). The result is 7-bit, CRLF, lines of at most 76 columns in
//! encoded bodies, and well-formed whatever the fields hold.

use thiserror::Error;

use crate::Mailbox;

/// A file that goes with a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    pub file_name: String,
    /// Lower case, `application/octet-stream` where nothing better is known.
    pub content_type: String,
    /// Present for inline parts (`cid:`), without angle brackets.
    pub content_id: Option<String>,
    pub content: Vec<u8>,
}

/// The fields of a message to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    pub from: Mailbox,
    pub to: Vec<Mailbox>,
    pub cc: Vec<Mailbox>,
    pub reply_to: Vec<Mailbox>,
    pub subject: String,
    pub html: Option<String>,
    pub text: Option<String>,
    pub attachments: Vec<Attachment>,
    /// Extra fields: name and value, decoded. Checked by `check_extra_header`.
    pub headers: Vec<(String, String)>,
    /// With angle brackets.
    pub message_id: String,
    /// Seconds since 1970, printed in UTC.
    pub date_s: i64,
}

/// Why an extra header field cannot be added.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum HeaderError {
    #[error("`{0}` is not a header field name: use letters, digits and hyphens")]
    Name(String),
    #[error("the header field `{0}` is set by the service and cannot be given")]
    Reserved(String),
    #[error("the value of `{0}` holds a CR, LF or NUL")]
    Control(String),
    #[error("the value of `{0}` is {1} octets long: at most 8192 are allowed")]
    TooLong(String, usize),
}

/// Checks one extra field: its name is a field name (RFC 5322 s2.2), is not one of those the service writes itself
/// (From, To, Cc, Bcc, Subject, Date, Message-ID, Reply-To, Return-Path, Received, DKIM-Signature, MIME-Version,
/// Content-*, …) and its value holds no line end.
pub fn check_extra_header(name: &str, value: &str) -> Result<(), HeaderError> {
    let _ = (name, value);
    todo!()
}

/// Composes the message: multipart/mixed around multipart/related around multipart/alternative, as few of them as
/// needed. Bcc is never written. Header values are encoded (RFC 2047) where they are not ASCII; Message-ID, Date and
/// MIME-Version are always there. Boundaries are derived from the Message-ID, so that the same draft gives the same bytes.
pub fn compose(draft: &Draft) -> Vec<u8> {
    let _ = draft;
    todo!()
}
