//! Makes 8-bit messages 7-bit before they are signed (RFC 6152 s3, RFC 2045 s6).
//!
//! Done once, on the way in, because afterwards our signature forbids it and the peer at the far end may not take 8-bit.
//! What a sender has signed already never comes here.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use mail_builder::headers::content_type::ContentType;
use mail_parser::decoders::charsets::map::charset_decoder;
use thiserror::Error;

use crate::body::BASE64_LINE_OCTETS;
use crate::compose::{mailboxes, unstructured, write_field};
use crate::header::{self, Field};
use crate::mailbox::{decoded, parse_authors, parse_list};
use crate::mime::{self, Effort, Encoding, Node};

/// How many messages may lie in one another.
const MAX_NESTED: usize = 8;
/// The longest line of quoted-printable in columns (RFC 2045 s6.7).
const MAX_QUOTED_COLUMNS: usize = 76;

/// Fields that hold mailboxes, whose names may be encoded.
const MAILBOX_FIELDS: &[&str] =
    &["From", "Sender", "Reply-To", "To", "Cc", "Bcc", "Resent-From", "Resent-Sender", "Resent-To", "Resent-Cc"];
/// Fields with parameters, which may be encoded (RFC 2231).
const PARAMETER_FIELDS: &[&str] = &["Content-Type", "Content-Disposition"];
/// Fields of other structure, where an encoded word means nothing.
const STRUCTURED_FIELDS: &[&str] = &[
    "Authentication-Results",
    "Content-ID",
    "Content-Transfer-Encoding",
    "Date",
    "DKIM-Signature",
    "In-Reply-To",
    "List-Archive",
    "List-Help",
    "List-ID",
    "List-Owner",
    "List-Post",
    "List-Subscribe",
    "List-Unsubscribe",
    "List-Unsubscribe-Post",
    "Message-ID",
    "MIME-Version",
    "Received",
    "References",
    "Resent-Date",
    "Resent-Message-ID",
    "Return-Path",
];

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
/// back borrowed. Raw UTF-8, or raw text in the charset that the message says, becomes encoded words in unstructured
/// fields and display names and is encoded in parameters; what cannot be is an error. Octets above 127 outside all parts, which nobody reads, become `?`.
pub fn convert(message: &[u8]) -> Result<Cow<'_, [u8]>, SevenBitError> {
    convert_nested(message, 0, &mut Effort::new(message.len()))
}

fn convert_nested<'a>(message: &'a [u8], depth: usize, effort: &mut Effort) -> Result<Cow<'a, [u8]>, SevenBitError> {
    if message.is_ascii() {
        return Ok(Cow::Borrowed(message));
    }
    if depth > MAX_NESTED {
        return Err(SevenBitError::Structure("messages lie too deep in one another"));
    }
    let mut converted = Vec::with_capacity(message.len() * 5 / 4);
    let mut copied = 0;
    let nodes = mime::walk_within(message, effort);
    for (at, node) in nodes.iter().enumerate() {
        if node.is_cut {
            return Err(SevenBitError::Structure("too many parts, or too deep in one another"));
        }
        copy_scrubbed(&message[copied..node.header.start], &mut converted);
        let (encoding, body) = match node.is_multipart {
            true => (Some("7bit"), Cow::Borrowed(&[][..])),
            false => leaf(message, node, depth, effort)?,
        };
        let has_mime = at > 0 || node.is_multipart || encoding.is_none() || has_field(message, node, "MIME-Version");
        let charset = [node, &nodes[0]].iter().find_map(|node| node.content_type.parameter("charset"));
        convert_header(message, node, encoding, charset, &mut converted)?;
        if !has_mime {
            add_mime_fields(message, node, &mut converted);
        }
        converted.extend_from_slice(&message[node.header.end..node.body.start]);
        converted.extend_from_slice(&body);
        copied = if node.is_multipart { node.body.start } else { node.body.end };
    }
    copy_scrubbed(&message[copied..], &mut converted);
    match converted.is_ascii() {
        true => Ok(Cow::Owned(converted)),
        false => Err(SevenBitError::Structure("a part cannot be encoded")),
    }
}

/// A leaf's new encoding, where it needs one, and its body.
fn leaf<'a>(
    message: &'a [u8],
    node: &Node,
    depth: usize,
    effort: &mut Effort,
) -> Result<(Option<&'static str>, Cow<'a, [u8]>), SevenBitError> {
    let body = &message[node.body.clone()];
    if body.is_ascii() {
        return Ok((None, Cow::Borrowed(body)));
    }
    let kind = node.content_type.value.as_str();
    match (kind.split('/').next().unwrap_or_default(), node.encoding) {
        ("multipart", _) => Err(SevenBitError::Structure("a multipart without its boundary holds octets above 127")),
        (_, Encoding::Base64) => Err(SevenBitError::Structure("base64 holds octets above 127")),
        ("message", Encoding::Identity) if kind == "message/rfc822" => {
            Ok((Some("7bit"), convert_nested(body, depth + 1, effort)?))
        }
        ("message", Encoding::Identity) if kind != "message/global" => {
            Err(SevenBitError::Structure("a part that may not be encoded holds octets above 127"))
        }
        ("text", Encoding::Identity) => Ok((Some("quoted-printable"), Cow::Owned(quoted_printable(body)))),
        (_, Encoding::QuotedPrintable) => {
            let content = mime::content(message, node);
            Ok((Some("quoted-printable"), Cow::Owned(quoted_printable(&content))))
        }
        (_, Encoding::Identity) => Ok((Some("base64"), Cow::Owned(base64(body)))),
    }
}

/// Copies what stands between parts.
fn copy_scrubbed(octets: &[u8], into: &mut Vec<u8>) {
    into.extend(octets.iter().map(|octet| if octet.is_ascii() { *octet } else { b'?' }));
}

fn has_field(message: &[u8], node: &Node, name: &str) -> bool {
    let (fields, _) = header::readable(&message[node.header.clone()]);
    fields.iter().any(|field| field.is(name))
}

/// Says what the body of a message without MIME is, now that it is encoded (RFC 1428 s3).
fn add_mime_fields(message: &[u8], node: &Node, into: &mut Vec<u8>) {
    into.extend_from_slice(b"MIME-Version: 1.0\r\n");
    if has_field(message, node, "Content-Type") {
        return;
    }
    let charset = match std::str::from_utf8(&message[node.body.clone()]) {
        Ok(_) => "utf-8",
        Err(_) => "unknown-8bit",
    };
    into.extend_from_slice(format!("Content-Type: text/plain; charset={charset}\r\n").as_bytes());
}

/// Copies a part's fields, those with octets above 127 encoded and Content-Transfer-Encoding set where it changes. A
/// multipart gets one only in the place of one.
fn convert_header(
    message: &[u8],
    node: &Node,
    encoding: Option<&str>,
    charset: Option<&str>,
    into: &mut Vec<u8>,
) -> Result<(), SevenBitError> {
    let mut is_set = encoding.is_none() || node.is_multipart;
    for raw in header::raw_fields(&message[node.header.clone()]) {
        let field = header::field(raw);
        match (field, encoding) {
            (Some(field), Some(encoding)) if field.is("Content-Transfer-Encoding") => {
                // A second one would contradict the first.
                if !is_set || node.is_multipart {
                    into.extend_from_slice(format!("Content-Transfer-Encoding: {encoding}\r\n").as_bytes());
                }
                is_set = true;
            }
            _ if raw.is_ascii() => into.extend_from_slice(raw),
            (Some(field), _) => convert_field(field, charset, into)?,
            (None, _) => return Err(SevenBitError::Header),
        }
    }
    match encoding {
        Some(encoding) if !is_set => {
            into.extend_from_slice(format!("Content-Transfer-Encoding: {encoding}\r\n").as_bytes());
        }
        Some(_) | None => {}
    }
    Ok(())
}

/// Writes a field with octets above 127 in the way its kind allows. What is not UTF-8 is in the charset that the message
/// says it is in; one that says none cannot be read.
fn convert_field(field: Field<'_>, charset: Option<&str>, into: &mut Vec<u8>) -> Result<(), SevenBitError> {
    if std::str::from_utf8(field.value).is_err() {
        let decode = charset.and_then(|charset| charset_decoder(charset.as_bytes())).ok_or(SevenBitError::Header)?;
        let text = decode(field.value);
        return match text.contains('\u{fffd}') {
            true => Err(SevenBitError::Header),
            false => convert_field(Field { name: field.name, value: text.as_bytes() }, None, into),
        };
    }
    let is_one_of = |names: &[&str]| names.iter().any(|name| field.is(name));
    if is_one_of(STRUCTURED_FIELDS) {
        return Err(SevenBitError::Header);
    }
    let name = field.name.trim_ascii_end();
    if is_one_of(MAILBOX_FIELDS) {
        let found = match is_one_of(&["From", "Sender"]) {
            true => parse_authors(field.value),
            false => parse_list(field.value).into_iter().collect(),
        };
        let found = found.map_err(|_| SevenBitError::Header)?;
        if found.is_empty() || found.iter().any(|mailbox| mailbox.address.is_internationalized()) {
            return Err(SevenBitError::Header);
        }
        write_field(name, &mailboxes(&found), into);
    } else if is_one_of(PARAMETER_FIELDS) {
        let found = mime::content_type(field.value).ok_or(SevenBitError::Header)?;
        let is_broken = !found.value.is_ascii() || found.parameters.iter().any(|(name, _)| !name.is_ascii());
        if is_broken || found.parameter("boundary").is_some_and(|boundary| !boundary.is_ascii()) {
            return Err(SevenBitError::Header);
        }
        let parameters = found.parameters.into_iter();
        let printed =
            parameters.fold(ContentType::new(found.value), |printed, (name, value)| printed.attribute(name, value));
        write_field(name, &printed.into(), into);
    } else {
        // Encoded words among raw octets are decoded, or they would be encoded twice.
        write_field(name, &unstructured(&decoded(&field.unfolded())), into);
    }
    Ok(())
}

/// Encodes octets (RFC 2045 s6.7): CRLF stays a line end, every other octet that is not plain is escaped, so that
/// decoding gives the same octets.
pub(crate) fn quoted_printable(content: &[u8]) -> Vec<u8> {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let mut encoded = Vec::with_capacity(content.len() * 5 / 4);
    let mut column = 0;
    let mut at = 0;
    while at < content.len() {
        let rest = &content[at..];
        if rest.starts_with(b"\r\n") {
            encoded.extend_from_slice(b"\r\n");
            column = 0;
            at += 2;
            continue;
        }
        let octet = rest[0];
        let is_last = rest.len() == 1 || rest[1..].starts_with(b"\r\n");
        let is_plain = match octet {
            b'=' => false,
            b' ' | b'\t' => !is_last,
            _ => octet.is_ascii_graphic(),
        };
        let width = if is_plain { 1 } else { 3 };
        // One column is the soft line break's, unless the line ends here anyway.
        let room = if is_last { MAX_QUOTED_COLUMNS } else { MAX_QUOTED_COLUMNS - 1 };
        if column + width > room {
            encoded.extend_from_slice(b"=\r\n");
            column = 0;
        }
        match is_plain {
            true => encoded.push(octet),
            false => {
                encoded.extend_from_slice(&[b'=', DIGITS[usize::from(octet >> 4)], DIGITS[usize::from(octet & 15)]])
            }
        }
        column += width;
        at += 1;
    }
    encoded
}

/// Base64 in lines; the last one's line end is the part's delimiter's.
fn base64(content: &[u8]) -> Vec<u8> {
    let lines = content.chunks(BASE64_LINE_OCTETS).map(|line| STANDARD.encode(line));
    lines.collect::<Vec<_>>().join("\r\n").into_bytes()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::header::check_format;
    use crate::message::{parse, part_content};

    fn converted(message: &str) -> String {
        let result = convert(message.as_bytes()).unwrap_or_else(|error| panic!("{error}: {message:?}"));
        assert_eq!(check_format(&result), Ok(()));
        assert!(is_seven_bit(&result));
        String::from_utf8(result.into_owned()).unwrap()
    }

    #[test]
    fn leaves_seven_bit_alone() {
        let message = b"Content-Transfer-Encoding: 8bit\r\n\r\nplain";
        assert!(matches!(convert(message), Ok(Cow::Borrowed(same)) if same == message));
    }

    #[test]
    fn converts_bodies() {
        let check = |message: &str, expected: &str| assert_eq!(converted(message), expected, "{message:?}");
        let mime = "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n";
        check(
            &format!("{mime}Content-Transfer-Encoding: 8bit\r\nX: y\r\n\r\n\u{fc} = 1 \r\n"),
            &format!("{mime}Content-Transfer-Encoding: quoted-printable\r\nX: y\r\n\r\n=C3=BC =3D 1=20\r\n"),
        );
        check(
            &format!("{mime}\r\n\u{fc}"),
            &format!("{mime}Content-Transfer-Encoding: quoted-printable\r\n\r\n=C3=BC"),
        );
        check(
            "From: a@x.test\r\n\r\n\u{fc}\r\n",
            "From: a@x.test\r\nContent-Transfer-Encoding: quoted-printable\r\nMIME-Version: 1.0\r\n\
             Content-Type: text/plain; charset=utf-8\r\n\r\n=C3=BC\r\n",
        );
        check(
            "MIME-Version: 1.0\r\nContent-Type: image/x\r\nContent-Transfer-Encoding: binary\r\n\r\n\u{fc}\u{fc}",
            "MIME-Version: 1.0\r\nContent-Type: image/x\r\nContent-Transfer-Encoding: base64\r\n\r\nw7zDvA==",
        );
        check(
            &format!("{mime}Content-Transfer-Encoding: quoted-printable\r\n\r\n\u{fc}=3D=\r\nx\r\n"),
            &format!("{mime}Content-Transfer-Encoding: quoted-printable\r\n\r\n=C3=BC=3Dx\r\n"),
        );
    }

    #[test]
    fn converts_only_the_parts_that_need_it() {
        let message = "MIME-Version: 1.0\r\nContent-Transfer-Encoding: 8bit\r\nContent-Type: multipart/mixed;\r\n boundary=b\r\n\
                       \r\npre\u{e4}mble\r\n--b\r\n\r\nplain  \r\n--b \r\nContent-Type: text/html\r\n\r\n<p>\u{fc}\r\n--b\r\n\
                       Content-Type: message/rfc822\r\nContent-Transfer-Encoding: 8bit\r\n\r\nSubject: \u{fc}\r\n\r\n\u{fc}\r\n\
                       --b--\r\n\u{e9}pilogue";
        let expected = "MIME-Version: 1.0\r\nContent-Transfer-Encoding: 7bit\r\nContent-Type: multipart/mixed;\r\n boundary=b\r\n\
                        \r\npre??mble\r\n--b\r\n\r\nplain  \r\n--b \r\nContent-Type: text/html\r\n\
                        Content-Transfer-Encoding: quoted-printable\r\n\r\n<p>=C3=BC\r\n--b\r\n\
                        Content-Type: message/rfc822\r\nContent-Transfer-Encoding: 7bit\r\n\r\nSubject: =?utf-8?B?w7w=?=\r\n\
                        Content-Transfer-Encoding: quoted-printable\r\nMIME-Version: 1.0\r\n\
                        Content-Type: text/plain; charset=utf-8\r\n\r\n=C3=BC\r\n--b--\r\n??pilogue";
        assert_eq!(converted(message), expected);
    }

    #[test]
    fn converts_header_fields() {
        let message = "From: \"J\u{fc}rgen, K.\" <j@m\u{fc}nchen.test>, b@x.test\r\nSubject: Gr\u{fc}\u{df}e\r\n aus \u{d6}l\r\n\
                       X-Note: \u{2764}\r\nMIME-Version: 1.0\r\nContent-Type: application/pdf; name=\"\u{fc}.pdf\"\r\n\r\nx\r\n";
        let parsed = parse(converted(message).as_bytes());
        assert_eq!(parsed.from, parse(message.as_bytes()).from);
        assert_eq!(parsed.from[0].name.as_deref(), Some("J\u{fc}rgen, K."));
        assert_eq!(parsed.subject.as_deref(), Some("Gr\u{fc}\u{df}e aus \u{d6}l"));
        assert_eq!(parsed.headers[2].1, "\u{2764}");
        assert_eq!(parsed.parts[0].file_name.as_deref(), Some("\u{fc}.pdf"));
    }

    #[test]
    fn reads_header_fields_in_the_charset_of_the_message() {
        let message = b"From: J\xfcrgen <j@x.test>\r\nSubject: Gr\xfc\xdfe\r\nMIME-Version: 1.0\r\n\
                        Content-Type: text/plain; charset=iso-8859-1\r\n\r\n\xfc\r\n";
        let parsed = parse(&convert(message).unwrap());
        assert_eq!(parsed.from[0].name.as_deref(), Some("J\u{fc}rgen"));
        assert_eq!(parsed.subject.as_deref(), Some("Gr\u{fc}\u{df}e"));
        assert_eq!(parsed.text.as_deref(), Some("\u{fc}\r\n"));
    }

    #[test]
    fn refuses_what_it_cannot_convert() {
        let check = |message: &[u8], expected: SevenBitError| {
            assert_eq!(convert(message), Err(expected), "{}", String::from_utf8_lossy(message));
        };
        check("From: j\u{fc}@x.test\r\n\r\n".as_bytes(), SevenBitError::Header);
        check("Message-ID: <\u{fc}@x.test>\r\n\r\n".as_bytes(), SevenBitError::Header);
        check(b"Subject: \xff\r\n\r\n", SevenBitError::Header);
        check(b"Subject: \xff\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n", SevenBitError::Header);
        check("\u{fc}: x\r\n\r\n".as_bytes(), SevenBitError::Header);
        check("Content-Type: multipart/mixed; boundary=\u{fc}\r\n\r\nx".as_bytes(), SevenBitError::Header);
        let structure = |message: &str| {
            assert!(matches!(convert(message.as_bytes()), Err(SevenBitError::Structure(_))), "{message:?}");
        };
        structure("Content-Type: multipart/mixed\r\n\r\n\u{fc}");
        structure("Content-Transfer-Encoding: base64\r\n\r\nw7\u{fc}zDvA==");
        structure("Content-Type: message/delivery-status\r\n\r\n\u{fc}");
        structure(&format!("{}\u{fc}", "Content-Type: message/rfc822\r\n\r\n".repeat(20)));
    }

    #[test]
    fn quotes_so_that_decoding_gives_the_same() {
        let every = (0..=255u8).collect::<Vec<_>>();
        for content in
            [every.repeat(9), b"\xfc \r\n\t\r\n=\r\n\r\n \xfc".to_vec(), b"\xfc".repeat(100), b"x\n\ry \xfc ".to_vec()]
        {
            let message = [b"MIME-Version: 1.0\r\nContent-Type: text/x\r\n\r\n".as_slice(), &content].concat();
            let converted = convert(&message).unwrap();
            assert!(converted.split(|octet| *octet == b'\n').all(|line| line.len() <= 77));
            assert_eq!(part_content(&converted, 0).unwrap().1, content);
        }
    }
}
