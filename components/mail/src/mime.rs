//! The MIME tree of a message as ranges of its bytes (RFC 2045, RFC 2046): what is shown, what is converted and what is
//! handed to validators is the same tree.
//!
//! Strangers choose the nesting, so depth, number of parts and the work of finding them are bounded: a multipart beyond
//! the bounds is a leaf.
//! A message inside a message is a leaf too; nothing here looks into it.

use std::borrow::Cow;
use std::ops::Range;

use mail_parser::HeaderValue;
use mail_parser::decoders::base64::base64_decode;
use mail_parser::decoders::charsets::map::charset_decoder;
use mail_parser::decoders::quoted_printable::quoted_printable_decode;
use mail_parser::parsers::MessageStream;
use memchr::memmem;

use crate::header::{self, Field};

/// How deep multiparts may nest.
pub(crate) const MAX_DEPTH: usize = 32;
/// How many parts, multiparts among them, a message may have.
pub(crate) const MAX_PARTS: usize = 1000;
/// Octets of the bodies of multiparts that are searched for delimiters: so many times the message, and at least so many.
/// Each level of nesting is searched anew, and mail that people write has its bulk at the third or fourth.
const SEARCHES: usize = 6;
const LEAST_SEARCHED_OCTETS: usize = 1 << 20;

/// A part, in the order in which parts stand in the message.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    /// Its fields, the CRLF of the last one included, and its body.
    pub header: Range<usize>,
    pub body: Range<usize>,
    pub content_type: ContentType,
    pub encoding: Encoding,
    pub disposition: Option<ContentType>,
    pub content_id: Option<String>,
    /// Whether its body holds other parts, which follow.
    pub is_multipart: bool,
    /// Whether a multipart was left whole because of `MAX_DEPTH`, `MAX_PARTS` or the `Effort`.
    pub is_cut: bool,
}

/// A Content-Type or Content-Disposition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ContentType {
    /// `text/plain`, `attachment`: lower case.
    pub value: String,
    /// Names in lower case, values decoded (RFC 2231).
    pub parameters: Vec<(String, String)>,
}

impl ContentType {
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }
}

/// A Content-Transfer-Encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// 7bit, 8bit or binary: as it stands. So is what is unknown.
    Identity,
    QuotedPrintable,
    Base64,
}

/// The octets that may still be searched for delimiters.
#[derive(Debug)]
pub(crate) struct Effort(usize);

impl Effort {
    /// For a message of this length and all that lies in it.
    pub fn new(message_bytes: usize) -> Effort {
        Effort(message_bytes.saturating_mul(SEARCHES).max(LEAST_SEARCHED_OCTETS))
    }

    fn spend(&mut self, octets: usize) -> bool {
        let left = self.0.checked_sub(octets);
        self.0 = left.unwrap_or(self.0);
        left.is_some()
    }
}

/// Walks the tree from the message itself down.
pub(crate) fn walk(message: &[u8]) -> Vec<Node> {
    walk_within(message, &mut Effort::new(message.len()))
}

/// `walk` with what others left of an effort.
pub(crate) fn walk_within(message: &[u8], effort: &mut Effort) -> Vec<Node> {
    let mut walk = Walk { message, effort, nodes: Vec::new() };
    walk.entity(0..message.len(), "text/plain", 0);
    walk.nodes
}

/// The octets of a part, its transfer encoding undone; as they stand where it cannot be.
pub(crate) fn content<'a>(message: &'a [u8], node: &Node) -> Cow<'a, [u8]> {
    let body = &message[node.body.clone()];
    let decoded = match node.encoding {
        Encoding::Identity => None,
        Encoding::QuotedPrintable => quoted_printable_decode(body),
        Encoding::Base64 => base64_decode(body),
    };
    decoded.map_or(Cow::Borrowed(body), Cow::Owned)
}

/// The text of a part whose octets these are, in UTF-8; what its charset does not know becomes U+FFFD.
pub(crate) fn text(content: &[u8], node: &Node) -> String {
    match node.content_type.parameter("charset").and_then(|charset| charset_decoder(charset.as_bytes())) {
        Some(decode) => decode(content),
        None => String::from_utf8_lossy(content).into_owned(),
    }
}

/// A walk under way.
struct Walk<'a> {
    message: &'a [u8],
    effort: &'a mut Effort,
    nodes: Vec<Node>,
}

impl Walk<'_> {
    /// Adds the entity in this range and those inside it.
    fn entity(&mut self, range: Range<usize>, default_type: &str, depth: usize) {
        let message = self.message;
        let bytes = &message[range.clone()];
        let (header_end, _) = header::bounds(bytes);
        let (fields, body) = header::readable(bytes);
        let content_type = find(&fields, "Content-Type")
            .and_then(|field| content_type(field.value))
            .filter(|found| found.value.contains('/'))
            .unwrap_or_else(|| ContentType { value: default_type.to_owned(), parameters: Vec::new() });
        let body = range.start + body..range.end;

        let boundary = content_type.parameter("boundary").filter(|boundary| !boundary.is_empty()).map(str::to_owned);
        let boundary = boundary.filter(|_| content_type.value.starts_with("multipart/"));
        let is_searched = boundary.is_none() || self.effort.spend(body.len());
        let boundary = boundary.filter(|_| is_searched);
        let children = boundary.map(|boundary| split(message, body.clone(), &boundary)).unwrap_or_default();
        let is_too_much = depth >= MAX_DEPTH || self.nodes.len() + children.len() >= MAX_PARTS;
        let is_cut = !is_searched || !children.is_empty() && is_too_much;
        let is_multipart = !children.is_empty() && !is_cut;
        let default_type = match content_type.value.as_str() {
            "multipart/digest" => "message/rfc822",
            _ => "text/plain",
        };
        self.nodes.push(Node {
            header: range.start..range.start + header_end,
            body,
            encoding: find(&fields, "Content-Transfer-Encoding").map_or(Encoding::Identity, encoding),
            disposition: find(&fields, "Content-Disposition").and_then(|field| self::content_type(field.value)),
            content_id: find(&fields, "Content-ID").map(content_id).filter(|id| !id.is_empty()),
            content_type,
            is_multipart,
            is_cut,
        });
        if is_multipart {
            for child in children {
                self.entity(child, default_type, depth + 1);
            }
        }
    }
}

fn find<'a>(fields: &[Field<'a>], name: &str) -> Option<Field<'a>> {
    fields.iter().find(|field| field.is(name)).copied()
}

/// The ranges between the delimiter lines of a multipart (RFC 2046 s5.1.1); nothing where there is none. A missing
/// close delimiter is forgiven.
fn split(message: &[u8], body: Range<usize>, boundary: &str) -> Vec<Range<usize>> {
    let delimiter = format!("--{boundary}");
    let bytes = &message[body.clone()];
    let mut parts = Vec::new();
    let mut part: Option<usize> = None;
    for at in memmem::find_iter(bytes, delimiter.as_bytes()) {
        if at > 0 && bytes[at - 1] != b'\n' {
            continue;
        }
        let rest = &bytes[at + delimiter.len()..];
        let (rest, closes) = match rest.strip_prefix(b"--") {
            Some(rest) => (rest, true),
            None => (rest, false),
        };
        let padding = rest.iter().take_while(|octet| matches!(octet, b' ' | b'\t')).count();
        let Some(line_end) = line_end(&rest[padding..]) else { continue };
        if let Some(start) = part.take() {
            // The CRLF in front of a delimiter belongs to the delimiter.
            let end = if bytes[..at].ends_with(b"\r\n") { at - 2 } else { at - 1 };
            parts.push(body.start + start..body.start + end.max(start));
        }
        if closes || parts.len() >= MAX_PARTS {
            return parts;
        }
        part = Some(bytes.len() - rest.len() + padding + line_end);
    }
    if let Some(start) = part {
        parts.push(body.start + start..body.end);
    }
    parts
}

/// The length of the line end these bytes begin with; `None` where they begin with something else.
fn line_end(bytes: &[u8]) -> Option<usize> {
    match bytes {
        [] => Some(0),
        [b'\r', b'\n', ..] => Some(2),
        [b'\n', ..] => Some(1),
        _ => None,
    }
}

/// Reads a Content-Type or Content-Disposition value.
pub(crate) fn content_type(value: &[u8]) -> Option<ContentType> {
    let line = [value, b"\n"].concat();
    let HeaderValue::ContentType(found) = MessageStream::new(&line).parse_content_type() else {
        return None;
    };
    let main = found.c_type.trim().to_ascii_lowercase();
    let value = match &found.c_subtype {
        Some(subtype) => format!("{main}/{}", subtype.trim().to_ascii_lowercase()),
        None => main,
    };
    let parameters = found.attributes.unwrap_or_default().into_iter();
    let parameters = parameters.map(|parameter| (parameter.name.to_ascii_lowercase(), parameter.value.into_owned()));
    Some(ContentType { value, parameters: parameters.collect() })
}

fn encoding(field: Field<'_>) -> Encoding {
    let value = field.unfolded();
    let token = value.split(['(', ';', ' ', '\t']).next().unwrap_or_default();
    if token.eq_ignore_ascii_case("base64") {
        Encoding::Base64
    } else if token.eq_ignore_ascii_case("quoted-printable") {
        Encoding::QuotedPrintable
    } else {
        Encoding::Identity
    }
}

fn content_id(field: Field<'_>) -> String {
    field.unfolded().trim_start_matches('<').trim_end_matches('>').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each node as `type: body` in one string.
    fn tree(message: &str) -> Vec<String> {
        let nodes = walk(message.as_bytes());
        let show = |node: &Node| match node.is_multipart {
            true => node.content_type.value.clone(),
            false => format!("{}: {:?}", node.content_type.value, &message[node.body.clone()]),
        };
        nodes.iter().map(show).collect()
    }

    #[test]
    fn finds_parts() {
        let check = |message: &str, expected: &[&str]| assert_eq!(tree(message), expected, "{message:?}");
        check("", &["text/plain: \"\""]);
        check("A: b\r\n\r\nhello", &["text/plain: \"hello\""]);
        check("Content-Type: Text/HTML; charset=x\r\n\r\n<p>", &["text/html: \"<p>\""]);
        check("Content-Type: broken\r\n\r\nx", &["text/plain: \"x\""]);
        let multipart = "Content-Type: multipart/mixed; boundary=\"b b\"\r\n\r\npreamble\r\n";
        check(
            &format!(
                "{multipart}--b b\r\n\r\none\r\n--b b \t\r\nContent-Type: a/b\r\n\r\ntwo\r\n\r\n--b b--\r\n--b b\r\n"
            ),
            &["multipart/mixed", "text/plain: \"one\"", "a/b: \"two\\r\\n\""],
        );
        check(&format!("{multipart}--b b\r\n\r\none"), &["multipart/mixed", "text/plain: \"one\""]);
        check(&format!("{multipart}--b b\r\n--b b--"), &["multipart/mixed", "text/plain: \"\""]);
        check(
            &format!("{multipart}--b bc\r\n\r\nx --b b\r\n"),
            &["multipart/mixed: \"preamble\\r\\n--b bc\\r\\n\\r\\nx --b b\\r\\n\""],
        );
        let digest = "Content-Type: multipart/digest; boundary=b\r\n\r\n--b\r\n\r\nA: b\r\n\r\nx\r\n--b--";
        check(digest, &["multipart/digest", "message/rfc822: \"A: b\\r\\n\\r\\nx\""]);
    }

    #[test]
    fn keeps_inner_parts_inside_outer_ones() {
        let message = "Content-Type: multipart/mixed; boundary=o\r\n\r\n--o\r\nContent-Type: multipart/alternative;\r\n \
                       boundary=i\r\n\r\n--i\r\n\r\none\r\n--o\r\n\r\ntwo\r\n--i\r\n\r\nthree\r\n--o--\r\n";
        let expected = [
            "multipart/mixed",
            "multipart/alternative",
            "text/plain: \"one\"",
            "text/plain: \"two\\r\\n--i\\r\\n\\r\\nthree\"",
        ];
        assert_eq!(tree(message), expected);
    }

    #[test]
    fn bounds_depth_and_number() {
        let mut deep = String::new();
        for level in 0..200 {
            deep.push_str(&format!("Content-Type: multipart/mixed; boundary=b{level}\r\n\r\n--b{level}\r\n"));
        }
        let nodes = walk(deep.as_bytes());
        assert_eq!(nodes.len(), MAX_DEPTH + 1);
        assert!(nodes.last().is_some_and(|node| node.is_cut));
        // Bulk below many levels is not searched at each of them.
        let bulk = format!(
            "{}\r\n{}",
            deep.split("Content-Type: multipart/mixed; boundary=b31").next().unwrap_or(""),
            "x\r\n".repeat(1 << 20)
        );
        let nodes = walk(bulk.as_bytes());
        assert_eq!(nodes.len(), SEARCHES + 1);
        assert!(nodes.last().is_some_and(|node| node.is_cut));
        // A parser that makes a tree of this overflows its stack when it lets go of it.
        assert_eq!(walk("Content-Type: message/rfc822\r\n\r\n".repeat(200_000).as_bytes()).len(), 1);
        let wide = format!("Content-Type: multipart/mixed; boundary=b\r\n\r\n{}", "--b\r\n\r\nx\r\n".repeat(5000));
        assert!(walk(wide.as_bytes()).len() <= MAX_PARTS);
    }

    #[test]
    fn undoes_encodings() {
        let check = |header: &str, body: &str, expected: &str| {
            let message = format!("{header}\r\n\r\n{body}");
            let node = &walk(message.as_bytes())[0];
            assert_eq!(text(&content(message.as_bytes(), node), node), expected, "{message:?}");
        };
        check("Content-Transfer-Encoding: BASE64 (x)", "aGVs\r\nbG8=\r\n", "hello");
        check("Content-Transfer-Encoding: quoted-printable", "a=3Db=\r\nc\r\n", "a=bc\r\n");
        check("Content-Transfer-Encoding: 8bit", "\u{fc}", "\u{fc}");
        check("Content-Transfer-Encoding: base64", "!!!", "!!!");
        let encoded = "Content-Transfer-Encoding: quoted-printable\r\nContent-Type: text/plain; charset=";
        check(&format!("{encoded}iso-8859-1"), "=FC", "\u{fc}");
        check(&format!("{encoded}iso-2022-jp"), "=1B$B$\"=1B(B", "\u{3042}");
        check(&format!("{encoded}unknown"), "=FC", "\u{fffd}");
    }
}
