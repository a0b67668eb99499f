//! The header of a message as it stands: fields in order, bytes kept (RFC 5322 s2.2).

use thiserror::Error;

/// One field of a header, borrowed from the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'a> {
    /// The name without the colon, as written.
    pub name: &'a str,
    /// Everything after the colon, folds included, without the CRLF that ends the field.
    pub value: &'a [u8],
}

/// What makes a message unfit to be carried, with the line (from 1) where it stands.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FormatError {
    #[error("line {0} holds a CR or LF that is not part of a CRLF (RFC 5322 s2.3)")]
    BareLineEnd(usize),
    #[error("line {0} is longer than 998 octets (RFC 5322 s2.1.1)")]
    LongLine(usize),
    #[error("line {0} of the header is neither a field nor a fold")]
    NotAField(usize),
    #[error("the header holds a NUL octet in line {0}")]
    Nul(usize),
    #[error("the header has no {0} field")]
    Missing(&'static str),
    #[error("the header has more than one {0} field (RFC 5322 s3.6)")]
    Repeated(&'static str),
}

/// Splits a message into its header fields and the offset of the body (behind the empty line; the message's length
/// where there is none). The message must use CRLF.
pub fn split(message: &[u8]) -> Result<(Vec<Field<'_>>, usize), FormatError> {
    let _ = message;
    todo!()
}

/// Checks what every message must stand: CRLF only, lines of at most 998 octets, header fields well-formed.
pub fn check_format(message: &[u8]) -> Result<(), FormatError> {
    let _ = message;
    todo!()
}

/// Removes every field of these names (any case) from the header; all other bytes stay as they are.
pub fn remove(message: &[u8], names: &[&str]) -> Vec<u8> {
    let _ = (message, names);
    todo!()
}

/// Puts fields, each `Name: value` without CRLF, folded by the caller where long, in front of the message.
pub fn prepend(message: &[u8], fields: &[String]) -> Vec<u8> {
    let _ = (message, fields);
    todo!()
}
