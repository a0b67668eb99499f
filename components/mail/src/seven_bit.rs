//! Makes 8-bit messages 7-bit before they are signed (RFC 6152 s3, RFC 2045 s6).

use std::borrow::Cow;

use thiserror::Error;

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SevenBitError {
    #[error("the header holds octets above 127, which need SMTPUTF8")]
    Header,
    #[error("the MIME structure is broken: {0}")]
    Structure(&'static str),
}

/// Whether every octet is below 128.
pub fn is_seven_bit(message: &[u8]) -> bool {
    message.is_ascii()
}

/// Re-encodes the leaf parts that hold octets above 127 as quoted-printable (text) or base64 (all else) and corrects
/// their Content-Transfer-Encoding, and that of the multiparts around them; all other bytes stay as they are. A message that is 7-bit already comes
/// back borrowed. Non-UTF-8 or raw 8-bit header values: raw UTF-8 in unstructured fields and display names becomes
/// encoded words; what cannot be is an error.
pub fn convert(message: &[u8]) -> Result<Cow<'_, [u8]>, SevenBitError> {
    let _ = message;
    todo!()
}
