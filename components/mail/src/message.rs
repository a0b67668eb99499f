//! A message read for what it says: decoded header fields, addresses, parts, text and HTML.
//!
//! For showing, validating and choosing the signing domain. mail-parser decodes (encoded words, charsets, parameters);
//! the tree (`mime`) and the address fields (`mailbox`) are read here, bounded and strict.

use thiserror::Error;

use crate::header::{self, Field, FormatError};
use crate::mailbox::{decoded, parse_authors, parse_list};
use crate::mime::{self, Node};
use crate::{Domain, Mailbox};

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
    /// The one mailbox of Sender.
    pub sender: Option<Mailbox>,
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

/// Why it cannot be told who a message is from.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AuthorError {
    #[error("{0}")]
    Header(#[from] FormatError),
    #[error("the message has more than one {0} field")]
    Repeated(&'static str),
    #[error("the message has no From field with valid addresses and nothing else in it")]
    From,
    #[error("the Sender field of the message does not hold one valid address")]
    Sender,
}

/// Reads a message. Never fails: what cannot be read is left out. Addresses that are not valid are left out too; where
/// one of From is not, all of From is, because a receiver may read it otherwise than we do.
pub fn parse(message: &[u8]) -> Parsed {
    let (fields, _) = header::readable(message);
    let mut parsed = Parsed {
        headers: fields
            .iter()
            .map(|field| (field.name.trim_ascii_end().to_owned(), decoded(&field.unfolded())))
            .collect(),
        from: authors(&fields, "From").unwrap_or_default(),
        sender: authors(&fields, "Sender").and_then(|found| <[Mailbox; 1]>::try_from(found).ok()).map(|[one]| one),
        to: mailboxes(&fields, "To"),
        cc: mailboxes(&fields, "Cc"),
        reply_to: mailboxes(&fields, "Reply-To"),
        subject: find(&fields, "Subject").map(|field| decoded(&field.unfolded())),
        message_id: find(&fields, "Message-ID").map(|field| field.unfolded()).filter(|id| id.starts_with('<')),
        ..Parsed::default()
    };
    for node in leaves(message) {
        let content = mime::content(message, &node);
        let part = part(&node, content.len());
        match part.content_type.as_str() {
            "text/plain" if part.is_body && parsed.text.is_none() => parsed.text = Some(mime::text(&content, &node)),
            "text/html" if part.is_body && parsed.html.is_none() => parsed.html = Some(mime::text(&content, &node)),
            _ => {}
        }
        parsed.parts.push(part);
    }
    parsed
}

/// The decoded content of the nth part as `parse` counts them, with its content type. Text stays in its own charset.
pub fn part_content(message: &[u8], index: usize) -> Option<(String, Vec<u8>)> {
    let node = leaves(message).nth(index)?;
    Some((node.content_type.value.clone(), mime::content(message, &node).into_owned()))
}

/// The domains that a message claims to come from, each with the name of its field: those of all mailboxes in From, and
/// that of Sender where there is such a field (RFC 5322 s3.6.2). The body is not looked at.
pub fn author_domains(message: &[u8]) -> Result<Vec<(&'static str, Domain)>, AuthorError> {
    let (fields, _) = header::split(message)?;
    let from = sole(&fields, "From")?.map(|field| parse_authors(field.value).unwrap_or_default()).unwrap_or_default();
    if from.is_empty() {
        return Err(AuthorError::From);
    }
    let mut domains: Vec<_> = from.iter().map(|mailbox| ("From", mailbox.address.domain().clone())).collect();
    if let Some(field) = sole(&fields, "Sender")? {
        match parse_authors(field.value).as_deref() {
            Ok([sender]) => domains.push(("Sender", sender.address.domain().clone())),
            Ok(_) | Err(_) => return Err(AuthorError::Sender),
        }
    }
    Ok(domains)
}

/// The only field of this name. Which of two a reader shows is anybody's guess.
fn sole<'a>(fields: &[Field<'a>], name: &'static str) -> Result<Option<Field<'a>>, AuthorError> {
    match fields.iter().filter(|field| field.is(name)).count() {
        0 | 1 => Ok(find(fields, name)),
        _ => Err(AuthorError::Repeated(name)),
    }
}

fn leaves(message: &[u8]) -> impl Iterator<Item = Node> {
    mime::walk(message).into_iter().filter(|node| !node.is_multipart)
}

fn part(node: &Node, size: usize) -> Part {
    let disposition = node.disposition.as_ref();
    let file_name = disposition
        .and_then(|disposition| disposition.parameter("filename"))
        .or_else(|| node.content_type.parameter("name"))
        .map(|name| decoded(name).trim().to_owned())
        .filter(|name| !name.is_empty());
    let is_text = matches!(node.content_type.value.as_str(), "text/plain" | "text/html");
    let is_attached = disposition.is_some_and(|disposition| disposition.value != "inline");
    let is_body = is_text && !is_attached && file_name.is_none();
    let is_inline = is_body || disposition.map_or(node.content_id.is_some(), |_| !is_attached);
    Part {
        content_type: node.content_type.value.clone(),
        file_name,
        size_bytes: size as u64,
        disposition: if is_inline { Disposition::Inline } else { Disposition::Attachment },
        content_id: node.content_id.clone(),
        is_body,
    }
}

fn find<'a>(fields: &[Field<'a>], name: &str) -> Option<Field<'a>> {
    fields.iter().find(|field| field.is(name)).copied()
}

/// The mailboxes of every field of this name, the bad ones left out.
fn mailboxes(fields: &[Field<'_>], name: &str) -> Vec<Mailbox> {
    fields.iter().filter(|field| field.is(name)).flat_map(|field| parse_list(field.value)).flatten().collect()
}

/// The mailboxes of every field of this name; `None` where one is not beyond doubt.
fn authors(fields: &[Field<'_>], name: &str) -> Option<Vec<Mailbox>> {
    let read = fields.iter().filter(|field| field.is(name)).map(|field| parse_authors(field.value));
    read.collect::<Result<Vec<_>, _>>().ok().map(|found| found.concat())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn reads_header_fields() {
        let parsed = parse(
            b"From: \"Doe, J.\" <j@x.test>\r\nTo: a@y.test, broken, B <b@y.test>\r\nCc: c@y.test\r\nReply-To: r@x.test\r\n\
              subject: =?utf-8?Q?Gr=C3=BC?=\r\n =?utf-8?Q?=C3=9Fe?=\r\nMessage-ID: <1@x.test>\r\nX-A : 1\r\nX-A: 2\r\n\r\nhi",
        );
        let printed = |mailboxes: &[Mailbox]| mailboxes.iter().map(Mailbox::to_string).collect::<Vec<_>>();
        assert_eq!(printed(&parsed.from), ["Doe, J. <j@x.test>"]);
        assert_eq!(printed(&parsed.to), ["a@y.test", "B <b@y.test>"]);
        assert_eq!(printed(&parsed.cc), ["c@y.test"]);
        assert_eq!(printed(&parsed.reply_to), ["r@x.test"]);
        assert_eq!(parsed.subject.as_deref(), Some("Gr\u{fc}\u{df}e"));
        assert_eq!(parsed.message_id.as_deref(), Some("<1@x.test>"));
        let headers = parsed.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect::<Vec<_>>();
        assert_eq!(headers[4], ("subject", "Gr\u{fc}\u{df}e"));
        assert_eq!(headers[6..], [("X-A", "1"), ("X-A", "2")]);
        assert_eq!(parse(b""), Parsed { parts: parse(b"").parts, text: Some(String::new()), ..Parsed::default() });
    }

    #[test]
    fn names_the_domains_of_authors() {
        let check = |header: &str, expected: Result<&[&str], AuthorError>| {
            let found = author_domains(format!("{header}\r\n\r\nbody").as_bytes());
            let found =
                found.map(|all| all.iter().map(|(field, domain)| format!("{field} {domain}")).collect::<Vec<_>>());
            let expected = expected.map(|all| all.iter().map(|one| (*one).to_owned()).collect());
            assert_eq!(found, expected, "{header:?}");
        };
        check("From: a@x.test", Ok(&["From x.test"]));
        check("From: a@x.test, b@y.test", Ok(&["From x.test", "From y.test"]));
        check("From: a@x.test\r\nSender: S <s@z.test>", Ok(&["From x.test", "Sender z.test"]));
        check("From: a@x.test, b@y.test\r\nSender : s@z.test", Ok(&["From x.test", "From y.test", "Sender z.test"]));
        check("From: =?utf-8?q?=3Ce=40y=2Etest=3E=2C?= <a@x.test>", Ok(&["From x.test"]));
        check("From: a@x.test\r\nSender: s@x.test, t@x.test", Err(AuthorError::Sender));
        check("From: a@x.test\r\nSender: S <s@z.test>: s@x.test;", Err(AuthorError::Sender));
        check("From: a@x.test\r\nSender:", Err(AuthorError::Sender));
        check("From: a@x.test\r\nSender: s@x.test\r\nsender: s@x.test", Err(AuthorError::Repeated("Sender")));
        check("From: a@x.test\r\nFROM : b@x.test", Err(AuthorError::Repeated("From")));
        for from in ["From:", "From: a@x.test, @broken", "From: B <b@y.test>: a@x.test;", "To: a@x.test"] {
            check(from, Err(AuthorError::From));
        }
        check("From: =?utf-8?q?=3Ca=40x=2Etest=3E?=", Err(AuthorError::From));
        check("From: a@x.test\r\nX: 1\nFrom: b@y.test", Err(FormatError::BareLineEnd(2).into()));
        check(&format!("From: a@x.test{}", "\r\nX: 1".repeat(2000)), Err(FormatError::TooManyFields.into()));
    }

    const MIXED: &str = "MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=m\r\n\r\n\
        --m\r\nContent-Type: multipart/alternative; boundary=a\r\n\r\n\
        --a\r\nContent-Type: text/plain; charset=iso-8859-1\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\nGr=FC=DFe\r\n\
        --a\r\nContent-Type: text/html\r\n\r\n<p>1</p>\r\n--a--\r\n\
        --m\r\nContent-Type: image/PNG\r\nContent-ID: <logo>\r\nContent-Transfer-Encoding: base64\r\n\r\niVBO\r\nRw==\r\n\
        --m\r\nContent-Type: text/plain; name=\"n.txt\"\r\nContent-Disposition: attachment;\r\n filename*=utf-8''%C3%BC.txt\r\n\r\nfile\r\n\
        --m\r\nContent-Type: text/html\r\n\r\n<p>2</p>\r\n\
        --m\r\nContent-Type: message/rfc822\r\n\r\nSubject: inner\r\n\r\ninner\r\n--m--\r\n";

    #[test]
    fn reads_parts() {
        let parsed = parse(MIXED.as_bytes());
        assert_eq!(parsed.text.as_deref(), Some("Gr\u{fc}\u{df}e"));
        assert_eq!(parsed.html.as_deref(), Some("<p>1</p>"));
        let shown = |part: &Part| {
            let (kind, name) = (part.content_type.as_str(), part.file_name.as_deref().unwrap_or("-"));
            format!("{kind} {name} {} {:?} {}", part.size_bytes, part.disposition, part.is_body)
        };
        let expected = [
            "text/plain - 5 Inline true",
            "text/html - 8 Inline true",
            "image/png - 4 Inline false",
            "text/plain \u{fc}.txt 4 Attachment false",
            "text/html - 8 Inline true",
            "message/rfc822 - 23 Attachment false",
        ];
        assert_eq!(parsed.parts.iter().map(shown).collect::<Vec<_>>(), expected);
        assert_eq!(parsed.parts[2].content_id.as_deref(), Some("logo"));
    }

    #[test]
    fn hands_over_content() {
        let check = |index: usize, expected: Option<(&str, &[u8])>| {
            let found = part_content(MIXED.as_bytes(), index);
            let found = found.as_ref().map(|(content_type, content)| (content_type.as_str(), content.as_slice()));
            assert_eq!(found, expected, "{index}");
        };
        check(0, Some(("text/plain", b"Gr\xfc\xdfe")));
        check(2, Some(("image/png", b"\x89PNG")));
        check(5, Some(("message/rfc822", b"Subject: inner\r\n\r\ninner")));
        check(6, None);
    }
}
