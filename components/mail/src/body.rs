//! The body of a composed message: which multiparts it needs, its texts and its files.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use mail_builder::headers::content_type::ContentType;
use mail_builder::headers::raw::Raw;
use mail_builder::mime::{BodyPart, MimePart};
use sha2::{Digest, Sha256};

use crate::compose::{Attachment, Draft, MAX_NAME_OCTETS, bracketed, on_one_line};
use crate::header::check_format;
use crate::mime;

/// The octets that make a base64 line of 76 columns (RFC 2045 s6.8).
pub(crate) const BASE64_LINE_OCTETS: usize = 57;

/// The boundaries of one message, told apart by a letter.
pub(crate) struct Boundaries {
    stem: String,
}

impl Boundaries {
    /// From the Message-ID; `=_` cannot stand in quoted-printable or base64, and what is written as it is is searched.
    pub(crate) fn new(draft: &Draft) -> Boundaries {
        let as_is = [draft.text.as_deref(), draft.html.as_deref()];
        let as_is = as_is.into_iter().flatten().map(str::as_bytes);
        let as_is = as_is.chain(draft.attachments.iter().filter(|a| is_message(a)).map(|a| a.content.as_slice()));
        let as_is = as_is.filter(|content| memchr::memmem::find(content, b"=_").is_some()).collect::<Vec<_>>();
        for turn in 0u32.. {
            let hash = Sha256::new().chain_update(turn.to_be_bytes()).chain_update(&draft.message_id).finalize();
            let stem = hash[..12].iter().fold("=_".to_owned(), |stem, octet| format!("{stem}{octet:02x}"));
            if as_is.iter().all(|content| memchr::memmem::find(content, stem.as_bytes()).is_none()) {
                return Boundaries { stem };
            }
        }
        Boundaries { stem: String::new() }
    }

    fn multipart<'a>(&self, subtype: &'static str, root: Option<&str>, parts: Vec<MimePart<'a>>) -> MimePart<'a> {
        let letter = subtype.get(..1).unwrap_or_default();
        let mut content_type = ContentType::new(format!("multipart/{subtype}"));
        if let Some(root) = root {
            // RFC 2387 s3.1.
            content_type = content_type.attribute("type", root.to_owned());
        }
        MimePart::new(content_type.attribute("boundary", format!("{}{letter}", self.stem)), parts)
    }
}

/// The body: text and HTML as alternatives, with what the HTML shows (related), with what goes along (mixed).
pub(crate) fn body<'a>(draft: &'a Draft, boundaries: &Boundaries) -> MimePart<'a> {
    let text = draft.text.as_deref().map(|text| text_part("text/plain", text));
    let html = draft.html.as_deref().map(|html| text_part("text/html", html));
    let has_html = html.is_some();
    let (main, main_type) = match (text, html) {
        (Some(text), Some(html)) => {
            (boundaries.multipart("alternative", None, vec![text, html]), "multipart/alternative")
        }
        (Some(text), None) => (text, "text/plain"),
        (None, Some(html)) => (html, "text/html"),
        (None, None) => (text_part("text/plain", ""), "text/plain"),
    };
    let is_shown = |attachment: &&Attachment| has_html && attachment.content_id.is_some();
    let shown = draft.attachments.iter().filter(|a| is_shown(a)).map(attachment_part).collect::<Vec<_>>();
    let attached = draft.attachments.iter().filter(|a| !is_shown(a)).map(attachment_part).collect::<Vec<_>>();
    let main = match shown.is_empty() {
        true => main,
        false => boundaries.multipart("related", Some(main_type), [vec![main], shown].concat()),
    };
    match attached.is_empty() {
        true => main,
        false => boundaries.multipart("mixed", None, [vec![main], attached].concat()),
    }
}

/// Text with CRLF line ends, encoded where it is not short lines of ASCII.
fn text_part<'a>(content_type: &'static str, text: &'a str) -> MimePart<'a> {
    let text = with_crlf(text);
    let is_text = !text.bytes().any(|octet| octet < b' ' && !matches!(octet, b'\t' | b'\r' | b'\n'));
    match is_text {
        true => MimePart::new(content_type, BodyPart::Text(text)),
        // mail-builder leaves control characters as they are, NUL among them.
        false => {
            let content_type = ContentType::new(content_type).attribute("charset", "utf-8");
            MimePart::new(content_type, BodyPart::Binary(base64_lines(text.as_bytes()).into()))
                .transfer_encoding("base64")
        }
    }
}

/// The text with every line end a CRLF, whatever they were.
fn with_crlf(text: &str) -> Cow<'_, str> {
    let octets = text.as_bytes();
    let is_clean = memchr::memchr2_iter(b'\r', b'\n', octets).all(|at| match octets[at] {
        b'\r' => octets.get(at + 1) == Some(&b'\n'),
        _ => at > 0 && octets[at - 1] == b'\r',
    });
    if is_clean {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.replace("\r\n", "\n").replace('\r', "\n").replace('\n', "\r\n"))
}

/// A file: base64 keeps every octet, whatever its type. A message stays as it is where it can, because it must not be
/// encoded (RFC 2046 s5.2.1), and loses its type where it cannot.
fn attachment_part(attachment: &Attachment) -> MimePart<'_> {
    let is_message = is_message(attachment);
    let mut content_type = safe_content_type(&attachment.content_type, is_message);
    // A text without a name would pass for the body.
    let file_name = match on_one_line(&attachment.file_name).trim() {
        "" => "attachment".to_owned(),
        name => name.to_owned(),
    };
    // The type's own `name` is for the readers that know no other.
    content_type = content_type.attribute("name", file_name.clone());
    let disposition = ContentType::new(if attachment.content_id.is_some() { "inline" } else { "attachment" });
    let disposition = disposition.attribute("filename", file_name);
    let (content, encoding) = match is_message {
        true => (BodyPart::Binary(Cow::Borrowed(attachment.content.as_slice())), "7bit"),
        false => (BodyPart::Binary(base64_lines(&attachment.content).into()), "base64"),
    };
    // A type of its own keeps `MimePart::new` from adding a charset.
    let mut part = MimePart::raw(content).header("Content-Type", content_type);
    part = part.header("Content-Disposition", disposition);
    if let Some(id) = &attachment.content_id {
        part = part.header("Content-ID", Raw::new(bracketed(id)));
    }
    part.transfer_encoding(encoding)
}

/// Whether it is a message that can stand in another one as it is.
fn is_message(attachment: &Attachment) -> bool {
    let is_type = mime::content_type(attachment.content_type.as_bytes()).is_some_and(|t| t.value == "message/rfc822");
    is_type
        && attachment.content.is_ascii()
        && check_format(&attachment.content).is_ok()
        && !attachment.content.contains(&0)
}

/// A type that is one, with its parameters; `application/octet-stream` instead of none and of those that need a
/// structure of their own.
fn safe_content_type(text: &str, is_message: bool) -> ContentType<'static> {
    let is_token = |text: &str| {
        !text.is_empty() && text.bytes().all(|octet| octet.is_ascii_alphanumeric() || b"!#$&^_.+-".contains(&octet))
    };
    let found = mime::content_type(on_one_line(text).as_bytes()).filter(|found| {
        let is_composite = found.value.starts_with("multipart/") || found.value.starts_with("message/");
        let is_type = found.value.split_once('/').is_some_and(|(main, sub)| is_token(main) && is_token(sub));
        is_type && found.value.len() <= MAX_NAME_OCTETS && (is_message || !is_composite)
    });
    let Some(found) = found else {
        return ContentType::new("application/octet-stream");
    };
    let parameters =
        found.parameters.into_iter().filter(|(name, _)| is_token(name) && name.len() <= 32 && name != "name");
    parameters.fold(ContentType::new(found.value), |content_type, (name, value)| content_type.attribute(name, value))
}

/// Base64 in lines of 76 columns, each with its CRLF. Encoded in place: a file is the largest thing that is composed.
fn base64_lines(content: &[u8]) -> Vec<u8> {
    const LINE: usize = BASE64_LINE_OCTETS / 3 * 4;
    let mut lines = vec![0; content.len().div_ceil(BASE64_LINE_OCTETS) * (LINE + 2)];
    let mut end = 0;
    for line in content.chunks(BASE64_LINE_OCTETS) {
        // The buffer holds every line in full, so this cannot fail.
        end += STANDARD.encode_slice(line, &mut lines[end..]).unwrap_or(0);
        lines[end..end + 2].copy_from_slice(b"\r\n");
        end += 2;
    }
    lines.truncate(end);
    lines
}
