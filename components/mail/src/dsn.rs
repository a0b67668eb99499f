//! What a sender asks to be told of by mail: the parameters NOTIFY, ORCPT, RET and ENVID (RFC 3461 s4).
//!
//! Values are kept as they are written on the wire, because they are handed on unchanged (RFC 3461 s5.2.1), and decoded
//! where a report shows them.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use thiserror::Error;

use crate::Address;

/// Longest ENVID, encoded (RFC 3461 s4.4).
const MAX_ENVELOPE_ID_OCTETS: usize = 100;

/// Longest ORCPT, encoded, with its address type (RFC 3461 s4.2).
const MAX_ORIGINAL_OCTETS: usize = 500;

/// Why a parameter cannot be used; the text says what to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DsnError {
    #[error("write NOTIFY=NEVER, or some of SUCCESS, FAILURE and DELAY with commas between")]
    Notify,
    #[error("NEVER stands alone")]
    NotifyNever,
    #[error("write RET=FULL or RET=HDRS")]
    Return,
    #[error("write ENVID=id, printable ASCII, with + and = and blanks as +2B, +3D and +20")]
    EnvelopeId,
    #[error("an envelope id has at most {MAX_ENVELOPE_ID_OCTETS} octets")]
    EnvelopeIdTooLong,
    #[error("write ORCPT=rfc822;address, printable ASCII, with + and = as +2B and +3D")]
    Original,
    #[error("ORCPT has at most {MAX_ORIGINAL_OCTETS} octets")]
    OriginalTooLong,
    #[error("characters beyond ASCII stand in ORCPT=utf-8;address alone, and need SMTPUTF8 behind MAIL FROM")]
    OriginalNotAscii,
}

/// When a sender wants to be told about a recipient (RFC 3461 s4.1). None of them: never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Notify {
    pub success: bool,
    pub failure: bool,
    pub delay: bool,
}

impl Notify {
    pub const NEVER: Notify = Notify { success: false, failure: false, delay: false };

    /// Reads the value of NOTIFY; keywords in any case.
    pub fn parse(text: &str) -> Result<Notify, DsnError> {
        if text.eq_ignore_ascii_case("NEVER") {
            return Ok(Notify::NEVER);
        }
        let mut notify = Notify::NEVER;
        for word in text.split(',') {
            let wanted = match word.to_ascii_uppercase().as_str() {
                "SUCCESS" => &mut notify.success,
                "FAILURE" => &mut notify.failure,
                "DELAY" => &mut notify.delay,
                "NEVER" => return Err(DsnError::NotifyNever),
                _ => return Err(DsnError::Notify),
            };
            *wanted = true;
        }
        Ok(notify)
    }
}

impl fmt::Display for Notify {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = [(self.success, "SUCCESS"), (self.failure, "FAILURE"), (self.delay, "DELAY")];
        let words: Vec<&str> = words.iter().filter(|(wanted, _)| *wanted).map(|(_, word)| *word).collect();
        f.write_str(if words.is_empty() { "NEVER".to_owned() } else { words.join(",") }.as_str())
    }
}

/// How much of the message comes back with a report of a failure (RFC 3461 s4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Return {
    Full,
    Headers,
}

impl Return {
    /// Reads the value of RET, in any case.
    pub fn parse(text: &str) -> Result<Return, DsnError> {
        match text.to_ascii_uppercase().as_str() {
            "FULL" => Ok(Return::Full),
            "HDRS" => Ok(Return::Headers),
            _ => Err(DsnError::Return),
        }
    }
}

impl fmt::Display for Return {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Return::Full => "FULL",
            Return::Headers => "HDRS",
        })
    }
}

/// The sender's name for a transaction (RFC 3461 s4.4), encoded as xtext.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EnvelopeId(String);

impl EnvelopeId {
    /// Reads the value of ENVID.
    pub fn parse(text: &str) -> Result<EnvelopeId, DsnError> {
        if text.len() > MAX_ENVELOPE_ID_OCTETS {
            return Err(DsnError::EnvelopeIdTooLong);
        }
        match decode_xtext(text) {
            Some(id) if !id.is_empty() => Ok(EnvelopeId(text.to_owned())),
            _ => Err(DsnError::EnvelopeId),
        }
    }

    /// As it is written on the wire.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// As its sender meant it: printable ASCII.
    pub fn decoded(&self) -> String {
        decode_xtext(&self.0).unwrap_or_default()
    }
}

/// The recipient as the sender wrote it (RFC 3461 s4.2): a type, `;`, and the address encoded as xtext. ASCII.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct OriginalRecipient(String);

impl OriginalRecipient {
    /// Reads the value of ORCPT. Characters beyond ASCII, in a transaction with SMTPUTF8 and behind `utf-8;` alone, are
    /// turned into `\x{…}` (RFC 6533 s3), which every server of DSN takes.
    pub fn parse(text: &str, utf8: bool) -> Result<OriginalRecipient, DsnError> {
        let (kind, address) = text.split_once(';').ok_or(DsnError::Original)?;
        let is_atom = !kind.is_empty() && kind.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if !is_atom || address.is_empty() {
            return Err(DsnError::Original);
        }
        let text = match text.is_ascii() {
            true => text.to_owned(),
            false if utf8 && kind.eq_ignore_ascii_case("utf-8") => {
                format!("{kind};{}", address.chars().map(escaped_beyond_ascii).collect::<String>())
            }
            false => return Err(DsnError::OriginalNotAscii),
        };
        if text.len() > MAX_ORIGINAL_OCTETS {
            return Err(DsnError::OriginalTooLong);
        }
        match text.split_once(';').and_then(|(_, address)| decode_xtext(address)) {
            Some(_) => Ok(OriginalRecipient(text)),
            None => Err(DsnError::Original),
        }
    }

    /// As it is written on the wire.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// For a field of a report: `rfc822; ada+tag@example.net`. What is of type `utf-8` stays encoded (RFC 6533 s3).
    pub fn shown(&self) -> String {
        match self.0.split_once(';') {
            Some((kind, address)) if kind.eq_ignore_ascii_case("utf-8") => format!("{kind}; {address}"),
            Some((kind, address)) => format!("{kind}; {}", decode_xtext(address).unwrap_or_default()),
            None => String::new(),
        }
    }
}

/// A recipient's address for a field of a report, in ASCII (RFC 3464 s2.3.2, RFC 6533 s3).
pub fn shown_address(address: &Address) -> String {
    let text = address.to_string();
    if text.is_ascii() {
        return format!("rfc822; {text}");
    }
    let escaped = |c: char| match c {
        '\\' | '+' | '=' => format!("\\x{{{:02X}}}", u32::from(c)),
        _ => escaped_beyond_ascii(c),
    };
    format!("utf-8; {}", text.chars().map(escaped).collect::<String>())
}

fn escaped_beyond_ascii(c: char) -> String {
    if c.is_ascii() { c.to_string() } else { format!("\\x{{{:X}}}", u32::from(c)) }
}

/// What was asked for one recipient.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecipientRequest {
    /// `None`: NOTIFY was not given, and it is for each host to choose.
    pub notify: Option<Notify>,
    pub original: Option<OriginalRecipient>,
    /// Whether the sender was told of the delay already.
    pub delay_told: bool,
}

/// What was asked in a transaction. Empty: nothing was, by a sender who could have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    pub ret: Option<Return>,
    pub envelope_id: Option<EnvelopeId>,
    /// By place in the envelope, from 0; those of whom nothing was asked are missing.
    pub recipients: BTreeMap<u32, RecipientRequest>,
}

impl Request {
    pub fn is_empty(&self) -> bool {
        self.ret.is_none() && self.envelope_id.is_none() && self.recipients.is_empty()
    }

    /// What is asked of the next host for some of the recipients, with their places; `None`: nothing.
    pub fn handed_on<'a>(&self, recipients: impl Iterator<Item = (u32, &'a Address)>) -> Option<HandedOn> {
        if self.is_empty() {
            return None;
        }
        let asked = |(place, address): (u32, &Address)| Some((address.clone(), self.of(place)?.clone()));
        let recipients = recipients.filter_map(asked).collect();
        Some(HandedOn { ret: self.ret, envelope_id: self.envelope_id.clone(), recipients })
    }

    /// What was asked for the recipient at that place.
    pub fn of(&self, place: u32) -> Option<&RecipientRequest> {
        self.recipients.get(&place)
    }
}

/// What is asked of the next host in one transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HandedOn {
    pub ret: Option<Return>,
    pub envelope_id: Option<EnvelopeId>,
    /// Recipients of whom something is asked.
    pub recipients: HashMap<Address, RecipientRequest>,
}

/// Decodes xtext (RFC 3461 s4); `None` where it is none, or not of printable ASCII.
fn decode_xtext(text: &str) -> Option<String> {
    let mut decoded = String::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let byte = match byte {
            b'+' => hex_digit(bytes.next()?)? << 4 | hex_digit(bytes.next()?)?,
            b'=' => return None,
            b'!'..=b'~' => byte,
            _ => return None,
        };
        if !matches!(byte, b' '..=b'~') {
            return None;
        }
        decoded.push(char::from(byte));
    }
    Some(decoded)
}

/// The grammar has capitals alone; small letters do no harm.
fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn notify_is_read_and_written() {
        let check = |text: &str, expect: Result<&str, DsnError>| {
            assert_eq!(Notify::parse(text).map(|notify| notify.to_string()), expect.map(str::to_owned), "{text}");
        };
        check("NEVER", Ok("NEVER"));
        check("never", Ok("NEVER"));
        check("SUCCESS", Ok("SUCCESS"));
        check("delay,Failure", Ok("FAILURE,DELAY"));
        check("SUCCESS,FAILURE,DELAY", Ok("SUCCESS,FAILURE,DELAY"));
        check("NEVER,SUCCESS", Err(DsnError::NotifyNever));
        check("SUCCESS,", Err(DsnError::Notify));
        check("", Err(DsnError::Notify));
        check("ALWAYS", Err(DsnError::Notify));
    }

    #[test]
    fn envelope_ids_are_kept_and_decoded() {
        let check = |text: &str, expect: Result<&str, DsnError>| {
            let read = EnvelopeId::parse(text);
            assert_eq!(read.as_ref().map(EnvelopeId::decoded), expect.map(str::to_owned).as_ref().cloned(), "{text}");
            if let Ok(id) = read {
                assert_eq!(id.as_str(), text);
            }
        };
        check("QQ314159", Ok("QQ314159"));
        check("a+2Bb+3Dc+20d", Ok("a+b=c d"));
        check("a+2bb", Ok("a+b"));
        check("", Err(DsnError::EnvelopeId));
        check("a=b", Err(DsnError::EnvelopeId));
        check("a+2", Err(DsnError::EnvelopeId));
        check("a+XY", Err(DsnError::EnvelopeId));
        check("a+0D+0ABcc:+20x", Err(DsnError::EnvelopeId));
        check("a+FF", Err(DsnError::EnvelopeId));
        check("\u{e9}", Err(DsnError::EnvelopeId));
        check(&"x".repeat(100), Ok(&"x".repeat(100)));
        check(&"x".repeat(101), Err(DsnError::EnvelopeIdTooLong));
    }

    #[test]
    fn original_recipients_are_kept_and_shown() {
        let check = |text: &str, utf8, expect: Result<(&str, &str), DsnError>| {
            let read = OriginalRecipient::parse(text, utf8);
            let read = read.as_ref().map(|it| (it.as_str().to_owned(), it.shown()));
            assert_eq!(
                read,
                expect.map(|(wire, shown)| (wire.to_owned(), shown.to_owned())).as_ref().cloned(),
                "{text}"
            );
        };
        check("rfc822;a+2Bb@c.test", false, Ok(("rfc822;a+2Bb@c.test", "rfc822; a+b@c.test")));
        check("RFC822;a@c.test", true, Ok(("RFC822;a@c.test", "RFC822; a@c.test")));
        check("x-local;a+20b", false, Ok(("x-local;a+20b", "x-local; a b")));
        check("utf-8;m\\x{FC}ller@c.test", false, Ok(("utf-8;m\\x{FC}ller@c.test", "utf-8; m\\x{FC}ller@c.test")));
        check("utf-8;m\u{fc}ller@c.test", true, Ok(("utf-8;m\\x{FC}ller@c.test", "utf-8; m\\x{FC}ller@c.test")));
        check("utf-8;m\u{fc}ller@c.test", false, Err(DsnError::OriginalNotAscii));
        check("rfc822;m\u{fc}ller@c.test", true, Err(DsnError::OriginalNotAscii));
        check("a@c.test", false, Err(DsnError::Original));
        check(";a@c.test", false, Err(DsnError::Original));
        check("rfc822;", false, Err(DsnError::Original));
        check("rf c;a", false, Err(DsnError::Original));
        check("rfc822;a=b", false, Err(DsnError::Original));
        check("rfc822;a+0Ab", false, Err(DsnError::Original));
        let fits = format!("rfc822;{}", "x".repeat(493));
        check(&fits, false, Ok((&fits, &format!("rfc822; {}", "x".repeat(493)))));
        check(&format!("{fits}x"), false, Err(DsnError::OriginalTooLong));
    }

    #[test]
    fn addresses_are_shown_in_ascii() {
        let shown = |text| shown_address(&Address::parse(text).unwrap());
        assert_eq!(shown("a+b@c.test"), "rfc822; a+b@c.test");
        assert_eq!(shown("m\u{fc}ller+x@c.test"), "utf-8; m\\x{FC}ller\\x{2B}x@c.test");
    }

    #[test]
    fn ret_is_read_and_written() {
        assert_eq!(Return::parse("full").map(|it| it.to_string()), Ok("FULL".to_owned()));
        assert_eq!(Return::parse("HDRS").map(|it| it.to_string()), Ok("HDRS".to_owned()));
        assert_eq!(Return::parse("HEADERS"), Err(DsnError::Return));
    }
}
