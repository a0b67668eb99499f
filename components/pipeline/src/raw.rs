//! A whole message (SMTP) made fit for the road: what every message must stand, and the little that a submission
//! server adds (RFC 6409 s8).

use contract::FindingClass;
use jiff::Timestamp;
use jiff::fmt::rfc2822;
use mail::dkim;
use mail::header::{self, Field};
use mail::seven_bit::{self, SevenBitError};
use mail::stream::Stream;

use crate::Refusal;

/// A message and what is known of it.
pub(crate) struct Prepared {
    pub message: Vec<u8>,
    /// Its sender has signed it: not a byte below the trace fields may change.
    pub signed_by_sender: bool,
}

/// Checks a message and completes it: Date and Message-ID where they lack, no Bcc and no field that is for us alone, 7-bit where it can be; trace fields on top. One that
/// its sender has signed gets the trace fields only.
pub(crate) fn prepare(message: Vec<u8>, message_id: &str, trace: Vec<String>, now_s: u64) -> Result<Prepared, Refusal> {
    header::check_format(&message).map_err(malformed)?;
    let (fields, body) = header::split(&message).map_err(malformed)?;
    one_from(&fields)?;
    if dkim::is_signed(&fields) {
        let message = on_top(message, &trace);
        return Ok(Prepared { message, signed_by_sender: true });
    }

    let has = |name: &str| fields.iter().any(|field| is(field, name));
    let mut top = trace;
    if !has("Message-ID") {
        top.push(format!("Message-ID: {message_id}"));
    }
    if !has("Date") {
        top.push(format!("Date: {}", date(now_s)?));
    }
    let has_utf8_header = std::str::from_utf8(message.get(..body).unwrap_or_default()).is_ok();
    let hidden = HIDDEN.iter().any(|name| has(name));
    let message = if hidden { header::remove(&message, HIDDEN) } else { message };
    let converted = match seven_bit::convert(&message) {
        Ok(std::borrow::Cow::Owned(converted)) => Some(converted),
        Ok(std::borrow::Cow::Borrowed(_)) => None,
        // An address in UTF-8 has no other form: such a message goes to those who take SMTPUTF8 (RFC 6531).
        Err(SevenBitError::Header) if has_utf8_header => None,
        Err(error) => return Err(malformed(error)),
    };
    let message = on_top(converted.unwrap_or(message), &top);
    Ok(Prepared { message, signed_by_sender: false })
}

/// What no recipient may see.
const HIDDEN: &[&str] = &["Bcc", "Resent-Bcc", Stream::FIELDS[0], Stream::FIELDS[1]];

/// A message has one From field (RFC 5322 s3.6): DKIM, DMARC and people judge by it.
pub(crate) fn one_from(fields: &[Field<'_>]) -> Result<(), Refusal> {
    match fields.iter().filter(|field| is(field, "From")).count() {
        1 => Ok(()),
        0 => Err(malformed(header::FormatError::Missing("From"))),
        _ => Err(malformed(header::FormatError::Repeated("From"))),
    }
}

/// Puts fields in front of a message, in its own buffer.
pub(crate) fn on_top(mut message: Vec<u8>, fields: &[String]) -> Vec<u8> {
    if fields.is_empty() {
        return message;
    }
    let bytes = fields.iter().map(|field| field.len() + 2).sum();
    let mut top = Vec::with_capacity(bytes);
    for field in fields {
        top.extend_from_slice(field.as_bytes());
        top.extend_from_slice(b"\r\n");
    }
    message.splice(0..0, top);
    message
}

fn is(field: &Field<'_>, name: &str) -> bool {
    field.name.trim().eq_ignore_ascii_case(name)
}

fn date(now_s: u64) -> Result<String, Refusal> {
    let printed = i64::try_from(now_s)
        .ok()
        .and_then(|now_s| Timestamp::from_second(now_s).ok())
        .and_then(|now| rfc2822::to_string(&now.to_zoned(jiff::tz::TimeZone::UTC)).ok());
    printed.ok_or_else(|| Refusal::nonsense("clock", format!("{now_s} s since 1970 is no date")))
}

fn malformed(error: impl std::fmt::Display) -> Refusal {
    Refusal::new(FindingClass::Malformed, None, error.to_string())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn prepared(message: &str) -> Result<String, Refusal> {
        let prepared = prepare(message.as_bytes().to_vec(), "<1@relay.test>", Vec::new(), 0)?;
        Ok(String::from_utf8(prepared.message).unwrap())
    }

    #[test]
    fn what_can_be_is_made_seven_bit() {
        let message = prepared("From: J\u{fc}rgen <j@a.test>\r\nSubject: gr\u{fc}n\r\n\r\ngr\u{fc}n\r\n").unwrap();
        assert!(message.is_ascii(), "{message}");
    }

    #[test]
    fn an_address_in_utf8_stays_as_it_is() {
        let given = "From: j\u{fc}rgen@a.test\r\nSubject: gr\u{fc}n\r\n\r\ngr\u{fc}n\r\n";
        let message = prepared(given).unwrap();
        assert!(message.ends_with(given), "{message}");
    }

    #[test]
    fn octets_of_no_charset_are_refused() {
        let message = b"From: j@a.test\r\nReferences: \xfc\r\n\r\nx\r\n".to_vec();
        assert!(prepare(message, "<1@relay.test>", Vec::new(), 0).is_err());
    }
}
