//! A message read for what it says: decoded header fields, addresses, parts, text and HTML.
//!
//! For showing, validating and choosing the signing domain. mail-parser decodes (encoded words, charsets, parameters);
//! the tree (`mime`) and the address fields (`mailbox`) are read here, bounded and strict.

use crate::header::{self, Field};
use crate::mailbox::{decoded, parse_list};
use crate::mime::{self, Node};
use crate::{Address, Mailbox};

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

/// Reads a message. Never fails: what cannot be read is left out. Addresses that are not valid are left out too; where
/// one of From is not, all of From is, because a receiver may read it otherwise than we do.
pub fn parse(message: &[u8]) -> Parsed {
    let (fields, _) = header::readable(message);
    let mut parsed = Parsed {
        headers: fields
            .iter()
            .map(|field| (field.name.trim_ascii_end().to_owned(), decoded(&field.unfolded())))
            .collect(),
        from: all_mailboxes(&fields, "From").unwrap_or_default(),
        sender: all_mailboxes(&fields, "Sender")
            .and_then(|found| <[Mailbox; 1]>::try_from(found).ok())
            .map(|[one]| one),
        to: mailboxes(&fields, "To"),
        cc: mailboxes(&fields, "Cc"),
        reply_to: mailboxes(&fields, "Reply-To"),
        subject: find(&fields, "Subject").map(|field| decoded(&field.unfolded())),
        message_id: find(&fields, "Message-ID").map(|field| field.unfolded()).filter(|id| id.starts_with('<')),
        ..Parsed::default()
    };
    for node in leaves(message) {
        let part = part(message, &node);
        match part.content_type.as_str() {
            "text/plain" if part.is_body && parsed.text.is_none() => parsed.text = Some(mime::text(message, &node)),
            "text/html" if part.is_body && parsed.html.is_none() => parsed.html = Some(mime::text(message, &node)),
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

/// The address of the From field; of the Sender field where From has several (RFC 5322 s3.6.2).
pub fn author(parsed: &Parsed) -> Option<&Address> {
    match parsed.from.as_slice() {
        [] => None,
        [one] => Some(&one.address),
        [_, ..] => parsed.sender.as_ref().map(|sender| &sender.address),
    }
}

fn leaves(message: &[u8]) -> impl Iterator<Item = Node> {
    mime::walk(message).into_iter().filter(|node| !node.is_multipart)
}

fn part(message: &[u8], node: &Node) -> Part {
    let disposition = node.disposition.as_ref();
    let file_name = disposition
        .and_then(|disposition| disposition.parameter("filename"))
        .or_else(|| node.content_type.parameter("name"))
        .map(decoded)
        .filter(|name| !name.is_empty());
    let is_text = matches!(node.content_type.value.as_str(), "text/plain" | "text/html");
    let is_attached = disposition.is_some_and(|disposition| disposition.value != "inline");
    let is_body = is_text && !is_attached && file_name.is_none();
    let is_inline = is_body || disposition.map_or(node.content_id.is_some(), |_| !is_attached);
    Part {
        content_type: node.content_type.value.clone(),
        file_name,
        size_bytes: mime::content(message, node).len() as u64,
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

/// The mailboxes of every field of this name; `None` where one is bad.
fn all_mailboxes(fields: &[Field<'_>], name: &str) -> Option<Vec<Mailbox>> {
    fields
        .iter()
        .filter(|field| field.is(name))
        .flat_map(|field| parse_list(field.value))
        .collect::<Result<_, _>>()
        .ok()
}
