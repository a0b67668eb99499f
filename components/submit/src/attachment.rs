//! Attachments of a request: base64 (or a list of bytes, as the Python SDK sends files) to content.

use base64::Engine;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use mail::compose::Attachment;

use crate::json::{Fields, JsonError, Value};

/// Attachments of one message.
const COUNT: usize = 100;
/// Octets of a file name, of a content id and of a content type.
const NAME_OCTETS: usize = 255;
const FIELDS: &[&str] = &["filename", "content", "path", "content_type", "content_id"];
/// What is not told by its name.
const UNKNOWN_TYPE: &str = "application/octet-stream";

/// With or without padding: both are common.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Reads the field `attachments`.
pub fn read(value: &Value<'_>) -> Result<Vec<Attachment>, JsonError> {
    let list = value.list()?;
    if list.len() > COUNT {
        return Err(value.wrong(format!("there are {} attachments: at most {COUNT} are allowed", list.len())));
    }
    list.iter().map(attachment).collect()
}

fn attachment(value: &Value<'_>) -> Result<Attachment, JsonError> {
    let mut fields = value.fields()?;
    if let Some(path) = fields.take("path") {
        return Err(path.wrong("fetching attachments by URL is not supported yet: send the file as base64 `content`"));
    }
    let content_value = fields.need("content")?;
    let content = content(&content_value)?;
    let file_name = label(&fields.need("filename")?)?;
    let content_type = match fields.take("content_type") {
        Some(value) => content_type(&value)?,
        None => type_of(&file_name).to_owned(),
    };
    let content_id = fields.take("content_id").map(|value| content_id(&value)).transpose()?;
    finish(fields)?;
    Ok(Attachment { file_name, content_type, content_id, content })
}

fn finish(fields: Fields<'_>) -> Result<(), JsonError> {
    fields.finish(FIELDS)
}

fn content(value: &Value<'_>) -> Result<Vec<u8>, JsonError> {
    if value.is_list() {
        return value.bytes();
    }
    if value.is_object() {
        // A Buffer of Node, as JSON.stringify writes it.
        let mut fields = value.fields()?;
        fields.take("type");
        let content = fields.need("data")?.bytes()?;
        fields.finish(&[])?;
        return Ok(content);
    }
    let text = value.string()?;
    match BASE64.decode(text.as_bytes()) {
        Ok(content) => Ok(content),
        Err(_) if text.contains(|c: char| c.is_ascii_whitespace()) => {
            // Broken into lines (RFC 2045 s6.8): rare enough to pay for a copy.
            let joined: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
            BASE64.decode(&joined).map_err(|error| value.wrong(format!("it is not base64: {error}")))
        }
        Err(error) => Err(value.wrong(format!("it is not base64: {error}"))),
    }
}

/// A file name: any text of one line.
fn label(value: &Value<'_>) -> Result<String, JsonError> {
    let text = value.string()?;
    let text = text.trim();
    if text.is_empty() {
        return Err(value.wrong("it must not be empty"));
    }
    if text.chars().any(char::is_control) {
        return Err(value.wrong("it holds a control character (CR, LF or another)"));
    }
    if text.len() > NAME_OCTETS {
        return Err(value.wrong(format!("it is {} octets long: at most {NAME_OCTETS} are allowed", text.len())));
    }
    Ok(text.to_owned())
}

/// `type/subtype`, with parameters or without (RFC 2045 s5.1), never multipart: that is the message's own.
fn content_type(value: &Value<'_>) -> Result<String, JsonError> {
    let text = label(value)?;
    let (essence, parameters) = text.split_once(';').map_or((text.as_str(), None), |(e, p)| (e, Some(p)));
    let essence = essence.trim().to_ascii_lowercase();
    let is_token = |token: &str| {
        !token.is_empty() && token.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`{|}~".contains(&b))
    };
    let is_type = essence.split_once('/').is_some_and(|(kind, subtype)| is_token(kind) && is_token(subtype));
    if !is_type || !text.is_ascii() {
        return Err(value.wrong("it is not a content type: write type/subtype"));
    }
    if essence.starts_with("multipart/") {
        return Err(value.wrong("an attachment cannot be multipart"));
    }
    Ok(match parameters {
        Some(parameters) => format!("{essence};{parameters}"),
        None => essence,
    })
}

/// What stands behind `cid:` in the HTML; angle brackets around it are taken off.
fn content_id(value: &Value<'_>) -> Result<String, JsonError> {
    let text = label(value)?;
    let id = text.strip_prefix('<').and_then(|text| text.strip_suffix('>')).unwrap_or(&text);
    if id.is_empty() || !id.bytes().all(|byte| byte.is_ascii_graphic() && !b"<>()\\\"".contains(&byte)) {
        return Err(value.wrong("it must be printable ASCII without spaces, quotes and brackets"));
    }
    Ok(id.to_owned())
}

/// The type that a file's name tells.
fn type_of(file_name: &str) -> &'static str {
    let extension = file_name.rsplit_once('.').map(|(_, extension)| extension.to_ascii_lowercase());
    match extension.as_deref().unwrap_or_default() {
        "avif" => "image/avif",
        "csv" => "text/csv",
        "doc" => "application/msword",
        "docx" => "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
        "gif" => "image/gif",
        "gz" => "application/gzip",
        "htm" | "html" => "text/html",
        "ics" => "text/calendar",
        "jpeg" | "jpg" => "image/jpeg",
        "json" => "application/json",
        "mp3" => "audio/mpeg",
        "mp4" => "video/mp4",
        "odt" => "application/vnd.oasis.opendocument.text",
        "pdf" => "application/pdf",
        "png" => "image/png",
        "ppt" => "application/vnd.ms-powerpoint",
        "pptx" => "application/vnd.openxmlformats-officedocument.presentationml.presentation",
        "svg" => "image/svg+xml",
        "txt" => "text/plain",
        "webp" => "image/webp",
        "xls" => "application/vnd.ms-excel",
        "xlsx" => "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
        "xml" => "application/xml",
        "zip" => "application/zip",
        _ => UNKNOWN_TYPE,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn parse(attachment: &str) -> Result<Attachment, JsonError> {
        let json = format!("{{\"attachments\":[{attachment}]}}");
        let value = Fields::read(json.as_bytes()).unwrap().take("attachments").unwrap();
        read(&value).map(|mut list| list.remove(0))
    }

    fn check(attachment: &str, file_name: &str, content_type: &str, content_id: Option<&str>, content: &[u8]) {
        let expect = Attachment {
            file_name: file_name.to_owned(),
            content_type: content_type.to_owned(),
            content_id: content_id.map(str::to_owned),
            content: content.to_vec(),
        };
        assert_eq!(parse(attachment), Ok(expect), "{attachment}");
    }

    fn check_wrong(attachment: &str, path: &str, words: &str) {
        match parse(attachment) {
            Err(JsonError::Wrong(at, text)) => {
                assert_eq!(at, format!("attachments[0]{path}"));
                assert!(text.contains(words), "{text}");
            }
            other => unreachable!("{attachment}: {other:?}"),
        }
    }

    #[test]
    fn what_the_sdks_send() {
        check(
            r#"{"content":"JVBERi0xLjQgZmFrZQ==","filename":"a.pdf","content_type":"application/pdf"}"#,
            "a.pdf",
            "application/pdf",
            None,
            b"%PDF-1.4 fake",
        );
        check(
            r#"{"content":"aGVsbG8=","filename":"i.png","content_id":"logo"}"#,
            "i.png",
            "image/png",
            Some("logo"),
            b"hello",
        );
        check(r#"{"filename":"a.pdf","content":[37,80,68,70]}"#, "a.pdf", "application/pdf", None, b"%PDF");
        check(r#"{"filename":"x","content":{"type":"Buffer","data":[1,2]}}"#, "x", UNKNOWN_TYPE, None, &[1, 2]);
        check(r#"{"filename":"x","content":""}"#, "x", UNKNOWN_TYPE, None, b"");
    }

    #[test]
    fn base64_as_people_write_it() {
        check(r#"{"filename":"x","content":"aGVsbG8"}"#, "x", UNKNOWN_TYPE, None, b"hello");
        check(r#"{"filename":"x","content":"aGVs\r\nbG8="}"#, "x", UNKNOWN_TYPE, None, b"hello");
        check(r#"{"filename":"x","content":"\/\/8="}"#, "x", UNKNOWN_TYPE, None, &[0xff, 0xff]);
        check_wrong(r#"{"filename":"x","content":"aGVs*G8="}"#, ".content", "not base64");
        check_wrong(r#"{"filename":"x","content":"aGVs bG8=*"}"#, ".content", "not base64");
        check_wrong(r#"{"filename":"x","content":"a"}"#, ".content", "not base64");
        check_wrong(r#"{"filename":"x","content":5}"#, ".content", "must be a string, not a number");
        check_wrong(r#"{"filename":"x","content":[300]}"#, ".content", "0 to 255");
    }

    #[test]
    fn names_and_types() {
        check(
            r#"{"filename":" Ünï.ics ","content":"","content_type":"Text/Calendar; method=REQUEST","content_id":"<a@b>"}"#,
            "Ünï.ics",
            "text/calendar; method=REQUEST",
            Some("a@b"),
            b"",
        );
        check_wrong(r#"{"filename":"a\r\nb","content":""}"#, ".filename", "control character");
        check_wrong(r#"{"filename":" ","content":""}"#, ".filename", "empty");
        check_wrong(&format!(r#"{{"filename":"{}","content":""}}"#, "x".repeat(256)), ".filename", "256 octets");
        for content_type in ["pdf", "a/", "/b", "a b/c", "a/b\\u000d\\u000aX: y", "ä/b", "a/b/c"] {
            let json = format!(r#"{{"filename":"x","content":"","content_type":"{content_type}"}}"#);
            check_wrong(&json, ".content_type", "");
        }
        check_wrong(r#"{"filename":"x","content":"","content_type":"multipart/mixed"}"#, ".content_type", "multipart");
        check_wrong(r#"{"filename":"x","content":"","content_id":"a b"}"#, ".content_id", "spaces");
    }

    #[test]
    fn what_is_not_there_and_what_is_too_much() {
        check_wrong(r#"{"path":"https://x.test/a.pdf","filename":"x"}"#, ".path", "not supported yet");
        check_wrong(
            r#"{"filename":"x","content":"","contentType":"a/b"}"#,
            ".contentType",
            "did you mean `content_type`",
        );
        check_wrong(r#""x""#, "", "must be an object");
        assert_eq!(parse(r#"{"content":""}"#), Err(JsonError::Missing("attachments[0].filename".to_owned())));
        assert_eq!(parse(r#"{"filename":"x"}"#), Err(JsonError::Missing("attachments[0].content".to_owned())));
        let many = format!("{{\"a\":[{}0]}}", "0,".repeat(COUNT));
        let value = Fields::read(many.as_bytes()).unwrap().take("a").unwrap();
        assert!(matches!(read(&value), Err(JsonError::Wrong(_, text)) if text.contains("101 attachments")));
    }
}
