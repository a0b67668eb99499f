//! The header of a message as it stands: fields in order, bytes kept (RFC 5322 s2.2).
//!
//! Everything that comes in is checked here before we own it (`check_format`), and everything that puts a field in or
//! takes one out works on the bytes (`prepend`, `remove`), so that a signature of the sender's survives us.
//! Lines end with CRLF and with nothing else: a bare CR or LF is an octet like others to `remove` and an error to the
//! checks.

use memchr::{memchr, memchr_iter, memchr2_iter, memmem};
use thiserror::Error;

/// The longest line, in octets without its CRLF (RFC 5322 s2.1.1).
pub const MAX_LINE_OCTETS: usize = 998;
/// The most fields a header may have. Fields cost many times their octets once they are read, and no road is that long.
pub const MAX_FIELDS: usize = 2000;
/// The largest header in octets: room for a To field of many thousand mailboxes.
pub const MAX_HEADER_OCTETS: usize = 1024 * 1024;

/// Fields that may stand once only (RFC 5322 s3.6, RFC 2045 s3).
const SINGLE: &[&str] = &[
    "From",
    "Sender",
    "Reply-To",
    "To",
    "Cc",
    "Bcc",
    "Subject",
    "Date",
    "Message-ID",
    "In-Reply-To",
    "References",
    "MIME-Version",
    "Content-Type",
    "Content-Transfer-Encoding",
];

/// One field of a header, borrowed from the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'a> {
    /// The name without the colon, as written.
    pub name: &'a str,
    /// Everything after the colon, folds included, without the CRLF that ends the field.
    pub value: &'a [u8],
}

impl Field<'_> {
    /// Whether it is the field of this name, in any case; blanks before the colon do not count (RFC 5322 s4.5).
    pub fn is(&self, name: &str) -> bool {
        self.name.trim_ascii_end().eq_ignore_ascii_case(name)
    }

    /// The value on one line: folds undone, blanks around it dropped. Octets above 127 that are not UTF-8 become U+FFFD.
    pub fn unfolded(&self) -> String {
        let text = String::from_utf8_lossy(self.value);
        text.chars().filter(|c| !matches!(c, '\r' | '\n')).collect::<String>().trim_matches([' ', '\t']).to_owned()
    }
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
    #[error("the header has more than 2000 fields")]
    TooManyFields,
    #[error("the header is {0} octets long: at most 1048576 are allowed")]
    LargeHeader(usize),
    #[error("the header has no {0} field")]
    Missing(&'static str),
    #[error("the header has more than one {0} field (RFC 5322 s3.6)")]
    Repeated(&'static str),
}

/// Splits a message into its header fields and the offset of the body (behind the empty line; the message's length
/// where there is none). The message must use CRLF.
pub fn split(message: &[u8]) -> Result<(Vec<Field<'_>>, usize), FormatError> {
    let (header_end, body) = bounds(message);
    if header_end > MAX_HEADER_OCTETS {
        return Err(FormatError::LargeHeader(header_end));
    }
    let mut fields = Vec::with_capacity(16);
    let mut line = 1;
    for raw in raw_fields(&message[..header_end]) {
        check_lines(raw, line)?;
        if fields.len() == MAX_FIELDS {
            return Err(FormatError::TooManyFields);
        }
        fields.push(field(raw).ok_or(FormatError::NotAField(line))?);
        line += memchr_iter(b'\n', raw).count();
    }
    Ok((fields, body))
}

/// The fields that can be read, up to the bounds, whatever else the header holds. For showing a message, never for judging it.
pub(crate) fn readable(message: &[u8]) -> (Vec<Field<'_>>, usize) {
    let (header_end, body) = bounds(message);
    let header = &message[..header_end.min(MAX_HEADER_OCTETS)];
    (raw_fields(header).take(MAX_FIELDS).filter_map(field).collect(), body)
}

/// Checks what every message must stand: CRLF only, lines of at most 998 octets, header fields well-formed, no NUL in
/// the header.
pub fn check_format(message: &[u8]) -> Result<(), FormatError> {
    let mut line = 1;
    let mut start = 0;
    let mut next = 0;
    for at in memchr2_iter(b'\r', b'\n', message) {
        if at < next {
            continue;
        }
        if message[at] == b'\n' || message.get(at + 1) != Some(&b'\n') {
            return Err(FormatError::BareLineEnd(line));
        }
        if at - start > MAX_LINE_OCTETS {
            return Err(FormatError::LongLine(line));
        }
        line += 1;
        next = at + 2;
        start = next;
    }
    if message.len() - start > MAX_LINE_OCTETS {
        return Err(FormatError::LongLine(line));
    }
    split(message).map(|_| ())
}

/// Checks how often fields stand: one From, and none of those twice that may stand once only (RFC 5322 s3.6). A second
/// one is read by some and ignored by others, which is how forgeries pass.
pub fn check_fields(headers: &[Field<'_>]) -> Result<(), FormatError> {
    for name in SINGLE {
        match headers.iter().filter(|field| field.is(name)).count() {
            0 if *name == "From" => return Err(FormatError::Missing(name)),
            0 | 1 => {}
            _ => return Err(FormatError::Repeated(name)),
        }
    }
    Ok(())
}

/// Removes every field of these names (any case) from the header; all other bytes stay as they are.
pub fn remove(message: &[u8], names: &[&str]) -> Vec<u8> {
    let (header_end, _) = bounds(message);
    let mut kept = Vec::with_capacity(message.len());
    for raw in raw_fields(&message[..header_end]) {
        let name = memchr(b':', raw).map(|colon| raw[..colon].trim_ascii_end());
        if !name.is_some_and(|name| names.iter().any(|other| name.eq_ignore_ascii_case(other.as_bytes()))) {
            kept.extend_from_slice(raw);
        }
    }
    kept.extend_from_slice(&message[header_end..]);
    kept
}

/// Puts fields, each `Name: value` without CRLF, folded by the caller where long, in front of the message.
pub fn prepend(message: &[u8], fields: &[String]) -> Vec<u8> {
    let added: usize = fields.iter().map(|field| field.len() + 2).sum();
    let mut whole = Vec::with_capacity(added + message.len());
    for field in fields {
        whole.extend_from_slice(field.as_bytes());
        whole.extend_from_slice(b"\r\n");
    }
    whole.extend_from_slice(message);
    whole
}

/// Where the header ends (behind the CRLF of its last field) and where the body begins (behind the empty line).
pub(crate) fn bounds(message: &[u8]) -> (usize, usize) {
    if message.starts_with(b"\r\n") {
        return (0, 2);
    }
    match memmem::find(message, b"\r\n\r\n") {
        Some(at) => (at + 2, at + 4),
        None => (message.len(), message.len()),
    }
}

/// Fields of a header as they stand, each with its folds and its CRLF, well-formed or not.
pub(crate) fn raw_fields(header: &[u8]) -> impl Iterator<Item = &[u8]> {
    Fields { rest: header }
}

struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Fields<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if self.rest.is_empty() {
            return None;
        }
        let end = memchr_iter(b'\n', self.rest)
            .filter(|at| *at > 0 && self.rest[at - 1] == b'\r')
            .map(|at| at + 1)
            .find(|next| !matches!(self.rest.get(*next), Some(b' ' | b'\t')))
            .unwrap_or(self.rest.len());
        let (raw, rest) = self.rest.split_at(end);
        self.rest = rest;
        Some(raw)
    }
}

/// Refuses a CR or LF outside a CRLF and a NUL, in a field that begins at this line.
fn check_lines(raw: &[u8], first_line: usize) -> Result<(), FormatError> {
    let mut line = first_line;
    let mut previous = 0;
    for (at, &octet) in raw.iter().enumerate() {
        match octet {
            0 => return Err(FormatError::Nul(line)),
            b'\n' if previous != b'\r' => return Err(FormatError::BareLineEnd(line)),
            b'\r' if raw.get(at + 1) != Some(&b'\n') => return Err(FormatError::BareLineEnd(line)),
            b'\n' => line += 1,
            _ => {}
        }
        previous = octet;
    }
    Ok(())
}

/// Reads one field: a name of printable ASCII (RFC 5322 s2.2), a colon, a value.
pub(crate) fn field(raw: &[u8]) -> Option<Field<'_>> {
    let raw = raw.strip_suffix(b"\r\n").unwrap_or(raw);
    let colon = memchr(b':', raw)?;
    let name = std::str::from_utf8(&raw[..colon]).ok()?;
    let bare = name.trim_ascii_end();
    let is_name = !bare.is_empty() && bare.bytes().all(|octet| octet.is_ascii_graphic());
    is_name.then_some(Field { name, value: &raw[colon + 1..] })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn names(message: &str) -> Result<(Vec<String>, usize), FormatError> {
        split(message.as_bytes()).map(|(fields, body)| (fields.iter().map(|f| f.name.to_owned()).collect(), body))
    }

    #[test]
    fn splits_header_from_body() {
        let check = |message: &str, expected: &[&str], body: usize| {
            let expected = expected.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
            assert_eq!(names(message), Ok((expected, body)), "{message:?}");
        };
        check("", &[], 0);
        check("\r\nbody", &[], 2);
        check("A: b\r\n\r\nbody", &["A"], 8);
        check("A: b\r\n", &["A"], 6);
        check("A: b", &["A"], 4);
        check("A: b\r\n c\r\n\td\r\nE :f\r\n\r\n", &["A", "E "], 22);
        check("A:\r\n\r\n\r\n", &["A"], 6);
        check("A: b\r\n \r\nC: d\r\n\r\nx", &["A", "C"], 17);
    }

    #[test]
    fn keeps_values_as_they_stand() {
        let (fields, _) = split(b"Subject:  a\r\n\tb \r\nX:\xff\r\n\r\n").unwrap();
        assert_eq!(fields[0].value, b"  a\r\n\tb ");
        assert_eq!(fields[0].unfolded(), "a\tb");
        assert_eq!(fields[1].value, b"\xff");
        assert!(fields[0].is("SUBJECT"));
    }

    #[test]
    fn refuses_what_is_not_a_header() {
        let check = |message: &str, expected: FormatError| assert_eq!(names(message), Err(expected), "{message:?}");
        check(" folded first\r\n\r\n", FormatError::NotAField(1));
        check("From alice@a.test Sat Jan  1 00:00:00\r\nA: b\r\n\r\n", FormatError::NotAField(1));
        check("A: b\r\n c\r\nno colon\r\n\r\n", FormatError::NotAField(3));
        check(": b\r\n\r\n", FormatError::NotAField(1));
        check("N\u{e4}me: b\r\n\r\n", FormatError::NotAField(1));
        check("A: b\nB: c\r\n\r\n", FormatError::BareLineEnd(1));
        check("A: b\r\n c\rd\r\n\r\n", FormatError::BareLineEnd(2));
        check("A: b\r\nC: \0\r\n\r\n", FormatError::Nul(2));
        check(&"A:\r\n".repeat(2001), FormatError::TooManyFields);
        check(&format!("A:{}", " b\r\n".repeat(300_000)), FormatError::LargeHeader(1_200_002));
    }

    #[test]
    fn checks_lines_of_the_whole_message() {
        let long = "x".repeat(999);
        let check = |message: String, expected: Result<(), FormatError>| {
            assert_eq!(check_format(message.as_bytes()), expected, "{message:?}");
        };
        check("A: b\r\n\r\nbody\r\n".into(), Ok(()));
        check("A: b\r\n\r\nNUL \0 passes in a body\r\n".into(), Ok(()));
        check("A: b\r\n\r\nbody".into(), Ok(()));
        check(format!("A: b\r\n\r\n{}\r\n", &long[1..]), Ok(()));
        check(format!("A: b\r\n\r\n{long}\r\n"), Err(FormatError::LongLine(3)));
        check(format!("A: b\r\n\r\n{long}"), Err(FormatError::LongLine(3)));
        check("A: b\r\n\r\nx\n".into(), Err(FormatError::BareLineEnd(3)));
        check("A: b\r\n\r\nx\r".into(), Err(FormatError::BareLineEnd(3)));
        check("A: b\r\n\r\nx\r\r\n".into(), Err(FormatError::BareLineEnd(3)));
        check("A: b\r\n\r\nx\r\n.\r.\r\n".into(), Err(FormatError::BareLineEnd(4)));
        check("A b\r\n\r\nbody\r\n".into(), Err(FormatError::NotAField(1)));
    }

    #[test]
    fn counts_fields() {
        let check = |message: &str, expected: Result<(), FormatError>| {
            assert_eq!(check_fields(&split(message.as_bytes()).unwrap().0), expected, "{message:?}");
        };
        check("From: a@b.test\r\n\r\n", Ok(()));
        check("Received: a\r\nReceived: b\r\nFrom: a@b.test\r\n\r\n", Ok(()));
        check("To: a@b.test\r\n\r\n", Err(FormatError::Missing("From")));
        check("From: a@b.test\r\nFROM : c@d.test\r\n\r\n", Err(FormatError::Repeated("From")));
        check("From: a@b.test\r\nSubject: 1\r\nsubject: 2\r\n\r\n", Err(FormatError::Repeated("Subject")));
    }

    #[test]
    fn removes_fields_with_their_folds() {
        let check = |message: &str, names: &[&str], expected: &str| {
            assert_eq!(String::from_utf8(remove(message.as_bytes(), names)).unwrap(), expected, "{message:?}");
        };
        let message = "A: 1\r\nBcc: x@y.test,\r\n z@y.test\r\nbCC : q\r\nC: 2\r\n\r\nBcc: body\r\n";
        check(message, &["Bcc"], "A: 1\r\nC: 2\r\n\r\nBcc: body\r\n");
        check(message, &["X"], message);
        check("Bcc: only", &["bcc"], "");
        check("Bcc: only\r\n\r\nbody", &["bcc"], "\r\nbody");
        check("A: 1\r\n\r\n", &["a"], "\r\n");
    }

    #[test]
    fn prepends_fields() {
        let whole = prepend(b"A: 1\r\n\r\n", &["X: 1".into(), "Y: 2\r\n 3".into()]);
        assert_eq!(whole, b"X: 1\r\nY: 2\r\n 3\r\nA: 1\r\n\r\n");
    }
}
