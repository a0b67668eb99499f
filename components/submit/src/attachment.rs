//! Attachments of a request: base64 (or a list of bytes, as the Python SDK sends files) to content; or a URL, to be
//! fetched by the host.

use base64::Engine;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use mail::compose::Attachment;

use delivery_client::Fetched;

use crate::json::{JsonError, Value};

/// Attachments of one message.
const COUNT: usize = 100;
/// Attachments of one request that are fetched.
pub const REMOTE: usize = 10;
/// Of them: at once. So many rounds of what one may take fit into a request's time.
pub const AT_ONCE: usize = 4;
const URL_OCTETS: usize = 2048;
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

/// An attachment whose content is somewhere else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote {
    /// Its place among the message's attachments.
    pub index: usize,
    /// The field that names it, for errors: `attachments[1].path`.
    pub path: String,
    pub url: String,
}

/// Reads the field `attachments`. Remote ones stand among the others without content, and with an empty name or type
/// where the request gives none.
pub fn read(value: &Value<'_>) -> Result<(Vec<Attachment>, Vec<Remote>), JsonError> {
    let list = value.list()?;
    if list.len() > COUNT {
        return Err(value.wrong(format!("there are {} attachments: at most {COUNT} are allowed", list.len())));
    }
    let (mut attachments, mut remotes) = (Vec::with_capacity(list.len()), Vec::new());
    for (index, value) in list.iter().enumerate() {
        let (attachment, remote) = attachment(value, index)?;
        attachments.push(attachment);
        remotes.extend(remote);
    }
    match remotes.get(REMOTE) {
        Some(_) => Err(value.wrong(format!("more than {REMOTE} attachments are given by `path`, which is the limit"))),
        None => Ok((attachments, remotes)),
    }
}

fn attachment(value: &Value<'_>, index: usize) -> Result<(Attachment, Option<Remote>), JsonError> {
    let mut fields = value.fields()?;
    let remote = match fields.take("path") {
        Some(path) => Some(Remote { index, url: url(&path)?, path: path.path }),
        None => None,
    };
    let content = match (&remote, fields.take("content")) {
        (None, Some(value)) => content(&value)?,
        (None, None) => return Err(fields.missing("content")),
        (Some(_), None) => Vec::new(),
        (Some(_), Some(value)) => return Err(value.wrong("`path` says where the content is: leave out one of the two")),
    };
    let file_name = match fields.take("filename") {
        Some(value) => label(&value)?,
        None if remote.is_some() => String::new(),
        None => return Err(fields.missing("filename")),
    };
    let content_type = match fields.take("content_type") {
        Some(value) => content_type(&value)?,
        None if remote.is_some() => String::new(),
        None => type_of(&file_name).to_owned(),
    };
    let content_id = fields.take("content_id").map(|value| content_id(&value)).transpose()?;
    fields.finish(FIELDS)?;
    Ok((Attachment { file_name, content_type, content_id, content }, remote))
}

/// What the host fetched for an attachment: what the request says of it counts more than what its server does.
pub fn fill(attachment: &mut Attachment, fetched: Fetched) {
    let Fetched { content, file_name, content_type } = fetched;
    attachment.content = content;
    if attachment.file_name.is_empty() {
        let is_fit =
            |name: &String| !name.is_empty() && !name.chars().any(char::is_control) && name.len() <= NAME_OCTETS;
        attachment.file_name = file_name.filter(is_fit).unwrap_or_else(|| "attachment".to_owned());
    }
    if attachment.content_type.is_empty() {
        let said = content_type.as_deref().and_then(|text| plain_type(text).ok()).filter(|text| text != UNKNOWN_TYPE);
        attachment.content_type = said.unwrap_or_else(|| type_of(&attachment.file_name).to_owned());
    }
}

/// A URL that may be fetched; the host looks at it more closely.
fn url(value: &Value<'_>) -> Result<String, JsonError> {
    let text = value.string()?;
    let is_web = ["https://", "http://"].iter().any(|scheme| {
        text.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme)) && text.len() > scheme.len()
    });
    if !is_web || text.len() > URL_OCTETS || text.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err(value
            .wrong(format!("it must be a URL that begins with https:// or http://, of at most {URL_OCTETS} octets")));
    }
    Ok(text.into_owned())
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
    plain_type(&label(value)?).map_err(|why| value.wrong(why))
}

fn plain_type(text: &str) -> Result<String, &'static str> {
    let (essence, parameters) = text.split_once(';').map_or((text, None), |(e, p)| (e, Some(p)));
    let essence = essence.trim().to_ascii_lowercase();
    let is_token = |token: &str| {
        !token.is_empty() && token.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`{|}~".contains(&b))
    };
    let is_type = essence.split_once('/').is_some_and(|(kind, subtype)| is_token(kind) && is_token(subtype));
    if !is_type || !text.is_ascii() || text.len() > NAME_OCTETS || text.chars().any(char::is_control) {
        return Err("it is not a content type: write type/subtype");
    }
    if essence.starts_with("multipart/") {
        return Err("an attachment cannot be multipart");
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
    use crate::json::Fields;

    fn parse(attachment: &str) -> Result<Attachment, JsonError> {
        parse_all(attachment).map(|(mut list, _)| list.remove(0))
    }

    fn parse_all(attachments: &str) -> Result<(Vec<Attachment>, Vec<Remote>), JsonError> {
        let json = format!("{{\"attachments\":[{attachments}]}}");
        read(&Fields::read(json.as_bytes()).unwrap().take("attachments").unwrap())
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
    fn remote_attachments() {
        let json = r#"{"filename":"a","content":"aGk="},{"path":"https://x.test/b.pdf"},
            {"path":"HTTP://x.test/c","filename":"c.png","content_type":"image/webp","content_id":"c"}"#;
        let (attachments, remotes) = parse_all(json).unwrap();
        let places: Vec<_> = remotes.iter().map(|it| (it.index, it.path.as_str(), it.url.as_str())).collect();
        assert_eq!(
            places,
            [(1, "attachments[1].path", "https://x.test/b.pdf"), (2, "attachments[2].path", "HTTP://x.test/c")]
        );
        let check = |index: usize, name: Option<&str>, kind: Option<&str>, expect: (&str, &str)| {
            let mut attachment = attachments[index].clone();
            let (file_name, content_type) = (name.map(str::to_owned), kind.map(str::to_owned));
            fill(&mut attachment, Fetched { content: b"x".to_vec(), file_name, content_type });
            assert_eq!((attachment.file_name.as_str(), attachment.content_type.as_str()), expect);
            assert_eq!(attachment.content, b"x");
        };
        check(1, Some("b.pdf"), Some("Application/PDF"), ("b.pdf", "application/pdf"));
        check(1, Some("b.pdf"), Some("application/octet-stream"), ("b.pdf", "application/pdf"));
        check(1, Some("b.pdf"), Some("multipart/mixed; boundary=x"), ("b.pdf", "application/pdf"));
        check(1, Some("b\r\n.pdf"), Some("a/b\r\nX: y"), ("attachment", UNKNOWN_TYPE));
        check(1, None, None, ("attachment", UNKNOWN_TYPE));
        check(2, Some("b.pdf"), Some("application/pdf"), ("c.png", "image/webp"));
        check_wrong(r#"{"path":"https://x.test/a","content":"aGk="}"#, ".content", "leave out one");
        for url in
            ["", "x", "https://", "ftp://x.test", "file:///etc/passwd", "https://x.test/a b", "https://x.test/\\n"]
        {
            check_wrong(&format!(r#"{{"path":"{url}"}}"#), ".path", "must be a URL");
        }
        let many = [r#"{"path":"https://x.test/a"}"#; REMOTE + 1].join(",");
        assert!(matches!(parse_all(&many), Err(JsonError::Wrong(_, text)) if text.contains("more than 10")));
    }

    #[test]
    fn what_is_not_there_and_what_is_too_much() {
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
