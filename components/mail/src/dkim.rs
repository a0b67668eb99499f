//! DKIM without keys (RFC 6376, RFC 8301, RFC 8463): canonical forms, what is signed, and the signature field.
//!
//! The private operation is elsewhere: a signer hashes with `digest`, has the 32 bytes signed behind `posthaste:keys`,
//! and finishes the field with `Unsigned::finish`. Always relaxed/relaxed and SHA-256, never `l=`: a signature says the
//! whole body. Reading signatures of others is in `signature`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use memchr::memchr;
use sha2::{Digest, Sha256};

use crate::header::Field;

/// The name of the field.
pub const FIELD_NAME: &str = "DKIM-Signature";

/// Header fields that are signed when present, each once more than it occurs, so that none can be added.
pub const OVERSIGNED: &[&str] = &[
    "From",
    "Sender",
    "Reply-To",
    "To",
    "Cc",
    "Subject",
    "Date",
    "Message-ID",
    "In-Reply-To",
    "References",
    "MIME-Version",
    "Content-Type",
    "Content-Transfer-Encoding",
    "List-Unsubscribe",
    "List-Unsubscribe-Post",
];

/// Those of `OVERSIGNED` that are left alone where the message has none. Forwarders add them in good faith, and
/// nobody is deceived by them; every other field of the list may not even be added (RFC 6376 s5.4.2 and s8.15).
const ADDABLE: &[&str] = &["Sender", "In-Reply-To", "References"];

/// The longest line of the signature field that we write, in columns.
const MAX_COLUMNS: usize = 76;

/// The `a=` of a signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    RsaSha256,
    Ed25519Sha256,
}

impl Algorithm {
    /// As it stands in `a=`.
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::RsaSha256 => "rsa-sha256",
            Algorithm::Ed25519Sha256 => "ed25519-sha256",
        }
    }
}

/// SHA-256 of a body in relaxed canonical form (RFC 6376 s3.4.4). The body is what stands behind the empty line.
pub fn body_hash(body: &[u8]) -> [u8; 32] {
    let mut hash = Sha256::new();
    relaxed_body(body, |octets| hash.update(octets));
    hash.finalize().into()
}

/// Hands over the relaxed canonical form of a body piece by piece (RFC 6376 s3.4.4): runs of blanks become one space,
/// blanks at line ends and empty lines at the end go, a last line without CRLF gets one.
pub(crate) fn relaxed_body(body: &[u8], mut take: impl FnMut(&[u8])) {
    // Lines that are canonical already are collected into one run of the body itself: the usual body is one run.
    let (mut run, mut run_end) = (0, 0);
    // Empty lines seen since, which count only if something follows.
    let mut empty_lines = 0;
    let mut is_contiguous = true;
    let mut start = 0;
    while start < body.len() {
        let (end, next) = line_end(body, start);
        let line = &body[start..end];
        if line.is_empty() {
            empty_lines += 1;
        } else if next > end && is_canonical(line) {
            if !is_contiguous {
                take(&body[run..run_end]);
                (0..empty_lines).for_each(|_| take(b"\r\n"));
                run = start;
                is_contiguous = true;
            }
            run_end = next;
            empty_lines = 0;
        } else if line.iter().all(|octet| is_blank(*octet)) {
            // Becomes an empty line, but is none yet.
            empty_lines += 1;
            is_contiguous = false;
        } else {
            take(&body[run..run_end]);
            (0..empty_lines).for_each(|_| take(b"\r\n"));
            relaxed_line(line, &mut take);
            take(b"\r\n");
            (run, run_end) = (next, next);
            empty_lines = 0;
            is_contiguous = true;
        }
        start = next;
    }
    take(&body[run..run_end]);
}

/// The end of the line that begins at `start`, and where the next one begins. A lone CR or LF is part of its line.
fn line_end(body: &[u8], start: usize) -> (usize, usize) {
    let mut from = start;
    while let Some(at) = memchr(b'\n', &body[from..]).map(|at| from + at) {
        if at > start && body[at - 1] == b'\r' {
            return (at - 1, at + 1);
        }
        from = at + 1;
    }
    (body.len(), body.len())
}

fn is_blank(octet: u8) -> bool {
    matches!(octet, b' ' | b'\t')
}

/// Whether a line that is not empty is its own canonical form. No early exit, so that the compiler makes vectors of it.
fn is_canonical(line: &[u8]) -> bool {
    let mut is_dirty = line[0] == b'\t';
    for (left, right) in line.iter().zip(&line[1..]) {
        is_dirty |= (*right == b'\t') | ((*left == b' ') & (*right == b' '));
    }
    !is_dirty && line[line.len() - 1] != b' '
}

/// Hands over a line with its blanks made single and those at its end gone.
fn relaxed_line(line: &[u8], take: &mut impl FnMut(&[u8])) {
    let mut is_first = !line.first().is_some_and(|octet| is_blank(*octet));
    for word in line.split(|octet| is_blank(*octet)).filter(|word| !word.is_empty()) {
        if !is_first {
            take(b" ");
        }
        take(word);
        is_first = false;
    }
}

/// Appends the relaxed canonical form of a field (RFC 6376 s3.4.2) with its CRLF.
pub fn canonicalize_field(field: Field<'_>, into: &mut Vec<u8>) {
    into.extend(field.name.trim_ascii_end().bytes().map(|octet| octet.to_ascii_lowercase()));
    into.push(b':');
    let start = into.len();
    let mut is_pending = false;
    for &octet in field.value {
        match octet {
            b' ' | b'\t' => is_pending = true,
            b'\r' | b'\n' => {}
            _ => {
                if is_pending && into.len() > start {
                    into.push(b' ');
                }
                is_pending = false;
                into.push(octet);
            }
        }
    }
    into.extend_from_slice(b"\r\n");
}

/// What a signature says but for `b=`.
#[derive(Clone, Debug)]
pub struct Parameters<'a> {
    pub domain: &'a str,
    pub selector: &'a str,
    pub algorithm: Algorithm,
    pub timestamp_s: u64,
    pub body_hash: [u8; 32],
}

/// A signature field that lacks its `b=`.
#[derive(Clone, Debug)]
pub struct Unsigned {
    /// The folded value up to and including `b=`.
    value: Folded,
    digest: [u8; 32],
}

impl Unsigned {
    /// Chooses the fields (`OVERSIGNED` plus nothing else), canonicalizes and hashes them: relaxed/relaxed, no `l=`.
    /// `headers` are all fields of the message, top to bottom; `DKIM-Signature` among them is never signed.
    pub fn new(headers: &[Field<'_>], parameters: &Parameters<'_>) -> Unsigned {
        let mut value = Folded::new();
        value.word("v=1;");
        value.word(&format!("a={};", parameters.algorithm.name()));
        value.word("c=relaxed/relaxed;");
        value.word(&format!("d={};", parameters.domain));
        value.word(&format!("s={};", parameters.selector));
        value.word(&format!("t={};", parameters.timestamp_s));

        let mut canonical = Vec::with_capacity(2048);
        let mut separator = "h=";
        for name in OVERSIGNED {
            let before = canonical.len();
            // The lowest of a kind is the first that `h=` means (RFC 6376 s5.4.2).
            for field in headers.iter().rev().filter(|field| field.is(name)) {
                canonicalize_field(*field, &mut canonical);
                value.piece(separator, name);
                separator = ":";
            }
            if canonical.len() > before || !ADDABLE.contains(name) {
                value.piece(separator, name);
                separator = ":";
            }
        }
        value.close(";");
        value.word(&format!("bh={};", STANDARD.encode(parameters.body_hash)));
        value.word("b=");

        canonicalize_field(Field { name: FIELD_NAME, value: value.text.as_bytes() }, &mut canonical);
        // The signature's own field is hashed without a CRLF (RFC 6376 s3.7).
        canonical.truncate(canonical.len() - 2);
        Unsigned { value, digest: Sha256::digest(&canonical).into() }
    }

    /// The SHA-256 digest to have signed.
    pub fn digest(&self) -> [u8; 32] {
        self.digest
    }

    /// The value of the DKIM-Signature field, folded at 76 columns: it begins with a space and has no CRLF at its end.
    pub fn finish(self, signature: &[u8]) -> String {
        let mut value = self.value;
        value.broken(&STANDARD.encode(signature));
        value.text
    }
}

/// Whether a message carries a DKIM-Signature field already.
pub fn is_signed(headers: &[Field<'_>]) -> bool {
    headers.iter().any(|field| field.is(FIELD_NAME))
}

/// The value of a field as it grows, folded where the next word would pass `MAX_COLUMNS`.
#[derive(Clone, Debug)]
struct Folded {
    text: String,
    column: usize,
}

impl Folded {
    fn new() -> Folded {
        Folded { text: String::with_capacity(1024), column: FIELD_NAME.len() + 1 }
    }

    /// Adds a word behind a space or a fold.
    fn word(&mut self, word: &str) {
        match self.column + 1 + word.len() > MAX_COLUMNS {
            true => self.fold(),
            false => self.push(" "),
        }
        self.push(word);
    }

    /// Adds one of a list, behind its separator, with room kept for the next separator. `h=` begins a word.
    fn piece(&mut self, separator: &str, piece: &str) {
        if separator == "h=" {
            self.word("h=");
        } else {
            self.push(separator);
        }
        if self.column + piece.len() + 1 > MAX_COLUMNS {
            self.fold();
        }
        self.push(piece);
    }

    /// Ends a list; its last piece kept the room.
    fn close(&mut self, end: &str) {
        self.push(end);
    }

    /// Adds text that may be broken anywhere.
    fn broken(&mut self, text: &str) {
        let mut rest = text;
        while !rest.is_empty() {
            if self.column >= MAX_COLUMNS {
                self.fold();
            }
            let (piece, next) = rest.split_at(rest.len().min(MAX_COLUMNS - self.column));
            self.push(piece);
            rest = next;
        }
    }

    fn fold(&mut self) {
        self.text.push_str("\r\n ");
        self.column = 1;
    }

    fn push(&mut self, text: &str) {
        self.text.push_str(text);
        self.column += text.len();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::header;

    fn canonical_body(body: &[u8]) -> Vec<u8> {
        let mut canonical = Vec::new();
        relaxed_body(body, |octets| canonical.extend_from_slice(octets));
        canonical
    }

    #[test]
    fn canonicalizes_bodies() {
        let check = |body: &str, expected: &str| {
            assert_eq!(String::from_utf8(canonical_body(body.as_bytes())).unwrap(), expected, "{body:?}");
        };
        check("", "");
        check("\r\n", "");
        check("\r\n\r\n", "");
        check(" \t\r\n \r\n", "");
        check(" ", "");
        check("a", "a\r\n");
        check("a\r\n", "a\r\n");
        check("a \r\n\r\n \r\n\t\r\n", "a\r\n");
        check(" C \r\nD \t E\r\n\r\n\r\n", " C\r\nD E\r\n");
        check("\r\n\r\na\r\n\r\nb\r\n\r\n", "\r\n\r\na\r\n\r\nb\r\n");
        check("a\r\n \r\nb", "a\r\n\r\nb\r\n");
        check("a\r\n\r\n \r\n\r\nb\r\n", "a\r\n\r\n\r\n\r\nb\r\n");
        check("a\r\n \r\nb  c\r\n \r\nd\r\n", "a\r\n\r\nb c\r\n\r\nd\r\n");
        check("\ta\t\tb\t\r\nc", " a b\r\nc\r\n");
        check("  a", " a\r\n");
        check("\u{fc}  \u{fc}\r\n", "\u{fc} \u{fc}\r\n");
        check("a\nb\rc\r\n", "a\nb\rc\r\n");
        check("\n", "\n\r\n");
    }

    #[test]
    fn agrees_with_the_rules_taken_one_by_one() {
        // The RFC's rules as plain passes, against the single pass above, over every short body.
        let alphabet = [&b"a"[..], b" ", b"\t", b"\r\n", b"\r", b"\n"];
        let naive = |body: &[u8]| {
            let mut lines = vec![Vec::new()];
            let mut rest = body;
            while let Some((first, next)) = rest.split_first() {
                if rest.starts_with(b"\r\n") {
                    lines.push(Vec::new());
                    rest = &rest[2..];
                    continue;
                }
                let line = lines.last_mut().unwrap();
                match (is_blank(*first), line.last()) {
                    (true, Some(b' ')) => {}
                    (true, _) => line.push(b' '),
                    (false, _) => line.push(*first),
                }
                rest = next;
            }
            for line in &mut lines {
                line.truncate(line.iter().rposition(|octet| *octet != b' ').map_or(0, |at| at + 1));
            }
            while lines.last().is_some_and(Vec::is_empty) {
                lines.pop();
            }
            lines.iter().flat_map(|line| [line.as_slice(), b"\r\n"].concat()).collect::<Vec<_>>()
        };
        for length in 0..=6u32 {
            for mut number in 0..6usize.pow(length) {
                let mut body = Vec::new();
                for _ in 0..length {
                    body.extend_from_slice(alphabet[number % 6]);
                    number /= 6;
                }
                assert_eq!(canonical_body(&body), naive(&body), "{body:?}");
            }
        }
    }

    #[test]
    fn canonicalizes_fields() {
        let check = |field: &str, expected: &str| {
            let message = format!("{field}\r\n\r\n");
            let (fields, _) = header::split(message.as_bytes()).unwrap();
            let mut canonical = Vec::new();
            canonicalize_field(fields[0], &mut canonical);
            assert_eq!(String::from_utf8(canonical).unwrap(), expected, "{field:?}");
        };
        check("A: X", "a:X\r\n");
        check("B : Y\t\r\n\tZ  ", "b:Y Z\r\n");
        check("SUBJect:  \t a  b\t\tc \r\n d", "subject:a b c d\r\n");
        check("X:", "x:\r\n");
        check("X: \r\n ", "x:\r\n");
        check("X:a\r\n\tb", "x:a b\r\n");
        check("X:\u{fc}", "x:\u{fc}\r\n");
    }

    fn unsigned(message: &str, domain: &str) -> Unsigned {
        let (fields, _) = header::split(message.as_bytes()).unwrap();
        let parameters = Parameters {
            domain,
            selector: "s1",
            algorithm: Algorithm::RsaSha256,
            timestamp_s: 1_700_000_000,
            body_hash: body_hash(b""),
        };
        Unsigned::new(&fields, &parameters)
    }

    #[test]
    fn lists_each_field_once_more_than_it_occurs() {
        let value =
            unsigned("From: a@x.test\r\nTo: b\r\nReferences: <1>\r\nto: c\r\nX: y\r\n\r\n", "x.test").finish(&[]);
        let flat = value.replace("\r\n ", "");
        let list = flat.split("h=").nth(1).unwrap().split(';').next().unwrap();
        let expected = "From:From:Reply-To:To:To:To:Cc:Subject:Date:Message-ID:References:References:MIME-Version:\
                        Content-Type:Content-Transfer-Encoding:List-Unsubscribe:List-Unsubscribe-Post";
        assert_eq!(list, expected);
    }

    #[test]
    fn folds_the_field() {
        let long = format!("{}.test", ["label"; 20].join("."));
        for (domain, octets) in [("x.test", 256), ("x.test", 64), ("x.test", 512), (long.as_str(), 256)] {
            let value = unsigned("From: a@x.test\r\nSubject: b\r\n\r\n", domain).finish(&vec![7; octets]);
            assert!(value.starts_with(' ') && !value.ends_with('\n'), "{value:?}");
            let field = format!("DKIM-Signature:{value}");
            for line in field.split("\r\n") {
                assert!(line.len() <= 76 || line.contains("d=label"), "{} columns: {line:?}", line.len());
                assert!(!line.trim().is_empty());
            }
            assert_eq!(header::split(format!("{field}\r\n\r\n").as_bytes()).unwrap().0.len(), 1);
        }
    }

    #[test]
    fn hashes_what_it_writes() {
        let message = "Subject: b\r\nFrom: a@x.test\r\n\r\n";
        let unsigned = unsigned(message, "x.test");
        let digest = unsigned.digest();
        let value = unsigned.finish(&[1; 256]);
        let emptied = &value[..value.rfind("b=").unwrap() + 2];
        let mut canonical = b"from:a@x.test\r\nsubject:b\r\n".to_vec();
        canonicalize_field(Field { name: FIELD_NAME, value: emptied.as_bytes() }, &mut canonical);
        canonical.truncate(canonical.len() - 2);
        assert_eq!(digest, <[u8; 32]>::from(Sha256::digest(&canonical)));
    }

    #[test]
    fn knows_a_signed_message() {
        let check = |message: &str, expected: bool| {
            assert_eq!(is_signed(&header::split(message.as_bytes()).unwrap().0), expected, "{message:?}");
        };
        check("From: a@x.test\r\n\r\n", false);
        check("From: a@x.test\r\ndkim-signature : v=1\r\n\r\n", true);
    }
}
