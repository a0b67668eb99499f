//! The body of `POST /emails`, or one mail of a batch, read into a draft and an envelope.
//!
//! Field by field in the shape of Resend's API. What we do not act on yet is accepted where it changes neither content,
//! recipients nor the time of sending (and named in the answer), and refused where it does.

use std::collections::HashSet;

use contract::RendererInput;
use mail::compose::{Attachment, Draft, check_extra_header};
use mail::{Address, Mailbox, Stream};

use crate::attachment::{self, Remote};
use crate::json::{Fields, JsonError, Value};
use crate::schedule;
use crate::template::{self, StoredTemplate, body_text};

/// Addresses in one field: the tenant's limit for the whole message comes on top.
const ADDRESSES: usize = 10_000;
/// Octets of a subject and of a mailbox with its display name.
const LINE_OCTETS: usize = 2048;
/// Tags of one message.
const TAGS: usize = 64;
/// Characters of a tag's name and of its value.
const TAG_LENGTH: usize = 256;
/// Extra header fields of one message.
const HEADERS: usize = 100;
/// Accepted without being acted on.
const IGNORED: &[&str] = &["topic_id"];
/// Every field there is, to help with one that is spelled another way.
const KNOWN: &[&str] = &[
    "from",
    "to",
    "cc",
    "bcc",
    "reply_to",
    "subject",
    "html",
    "text",
    "headers",
    "tags",
    "attachments",
    "template",
    "stream",
    "scheduled_at",
    "topic_id",
];

/// A request to send one message.
#[derive(Debug, PartialEq)]
pub struct Email {
    pub from: Mailbox,
    pub to: Vec<Mailbox>,
    pub cc: Vec<Mailbox>,
    pub bcc: Vec<Mailbox>,
    pub reply_to: Vec<Mailbox>,
    /// Absent where the template has one.
    pub subject: Option<String>,
    pub html: Option<String>,
    pub text: Option<String>,
    pub headers: Vec<(String, String)>,
    pub tags: Vec<(String, String)>,
    pub attachments: Vec<Attachment>,
    /// Those of the attachments that are still to be fetched.
    pub remotes: Vec<Remote>,
    pub template: Option<RendererInput>,
    /// The stream that it names.
    pub stream: Option<Stream>,
    /// When to send it, in milliseconds since 1970; absent for at once.
    pub scheduled_ms: Option<i64>,
    /// Fields that were given and are not acted on.
    pub ignored: Vec<&'static str>,
}

/// The recipients of a message: all of them, each once, and those that stand in no header field.
#[derive(Debug, PartialEq, Eq)]
pub struct Recipients {
    pub all: Vec<Address>,
    pub hidden: Vec<Address>,
}

impl Email {
    /// Reads a request. `stored` is the template that it names, if it does; `now_s` counts from 1970.
    pub fn read(mut fields: Fields<'_>, stored: Option<StoredTemplate>, now_s: u64) -> Result<Email, JsonError> {
        let scheduled_ms =
            fields.take("scheduled_at").map(|value| schedule::read(&value, now_s)).transpose()?.flatten();
        let (source, defaults) = match stored {
            Some(stored) => (Some(stored.source), stored.defaults),
            None => (None, Default::default()),
        };
        let from = match (fields.take("from"), defaults.from) {
            (Some(value), _) => mailbox(&value)?,
            (None, Some(from)) => from,
            (None, None) => return Err(fields.missing("from")),
        };
        let to = fields.need("to")?;
        let to_list = mailboxes(&to)?;
        if to_list.is_empty() {
            return Err(to.wrong("at least one recipient is needed"));
        }
        let mut optional = |name: &str| fields.take(name).map(|value| mailboxes(&value)).transpose();
        let cc = optional("cc")?.unwrap_or_default();
        let bcc = optional("bcc")?.unwrap_or_default();
        let reply_to = optional("reply_to")?.unwrap_or(defaults.reply_to);

        let template = fields.take("template");
        let subject = fields.take("subject");
        let html = fields.take("html");
        let text = fields.take("text");
        let template = match &template {
            Some(value) => Some(template::read(value, [&subject, &html, &text], source)?),
            None => None,
        };
        match &template {
            Some(template) if subject.is_none() && template.subject.is_none() => {
                return Err(fields.missing("subject"));
            }
            None if subject.is_none() => return Err(fields.missing("subject")),
            None if html.is_none() && text.is_none() => return Err(fields.missing("html` or `text")),
            Some(_) | None => {}
        }
        let (headers, by_header) = match fields.take("headers") {
            Some(value) => headers(&value)?,
            None => Default::default(),
        };
        let stream = match fields.take("stream") {
            Some(value) => Some(stream(&value, by_header)?),
            None => by_header,
        };
        let attached = fields.take("attachments").map(|value| attachment::read(&value)).transpose()?;
        let (attachments, remotes) = attached.unwrap_or_default();
        let email = Email {
            from,
            to: to_list,
            cc,
            bcc,
            reply_to,
            subject: subject.map(|value| line(&value)).transpose()?,
            html: html.map(|value| body_text(&value)).transpose()?.filter(|html| !html.is_empty()),
            text: text.map(|value| body_text(&value)).transpose()?,
            headers,
            tags: fields.take("tags").map(|value| tags(&value)).transpose()?.unwrap_or_default(),
            attachments,
            remotes,
            template,
            stream,
            scheduled_ms,
            ignored: IGNORED.iter().copied().filter(|name| fields.take(name).is_some()).collect(),
        };
        fields.finish(KNOWN)?;
        Ok(Email { text: email.text.filter(|text| !text.is_empty() || email.html.is_none()), ..email })
    }

    /// To, Cc and Bcc in this order.
    pub fn recipients(&self) -> Recipients {
        let mut seen = HashSet::new();
        let mut new = |mailboxes: &[Mailbox]| -> Vec<Address> {
            let addresses = mailboxes.iter().map(|mailbox| &mailbox.address);
            addresses.filter(|address| seen.insert((*address).clone())).cloned().collect()
        };
        let mut all = new(&self.to);
        all.append(&mut new(&self.cc));
        let hidden = new(&self.bcc);
        all.extend(hidden.iter().cloned());
        Recipients { all, hidden }
    }

    /// The fields as the composer wants them, the template beside them.
    pub fn into_draft(self, message_id: String, date_s: i64) -> (Draft, Option<RendererInput>) {
        let draft = Draft {
            from: self.from,
            to: self.to,
            cc: self.cc,
            reply_to: self.reply_to,
            subject: self.subject.unwrap_or_default(),
            html: self.html,
            text: self.text,
            attachments: self.attachments,
            headers: self.headers,
            message_id,
            date_s,
        };
        (draft, self.template)
    }

    /// Bytes of what the message is made of, before it is encoded: a message is never smaller.
    pub fn content_bytes(&self) -> u64 {
        let attached: usize = self.attachments.iter().map(|attachment| attachment.content.len()).sum();
        let bodies: usize = [&self.html, &self.text].into_iter().flatten().map(String::len).sum();
        (attached + bodies) as u64
    }
}

/// One mailbox.
fn mailbox(value: &Value<'_>) -> Result<Mailbox, JsonError> {
    let text = value.string()?;
    short(value, &text)?;
    let mailbox = Mailbox::parse(&text).map_err(|error| value.wrong(error))?;
    if mailbox.address.is_internationalized() {
        return Err(value.wrong("characters beyond ASCII before the `@` are not supported yet"));
    }
    Ok(mailbox)
}

/// One mailbox, as it was written.
pub fn mailbox_text(value: &Value<'_>) -> Result<String, JsonError> {
    mailbox(value).map(|mailbox| mailbox.to_string())
}

/// One mailbox or a list of them.
fn mailboxes(value: &Value<'_>) -> Result<Vec<Mailbox>, JsonError> {
    if value.is_string() {
        return Ok(vec![mailbox(value)?]);
    }
    if !value.is_list() {
        return Err(value.wrong("it must be an address or a list of addresses"));
    }
    let list = value.list()?;
    if list.len() > ADDRESSES {
        return Err(value.wrong(format!("there are {} addresses: at most {ADDRESSES} are allowed", list.len())));
    }
    list.iter().map(mailbox).collect()
}

/// Text that becomes part of a header field.
fn line(value: &Value<'_>) -> Result<String, JsonError> {
    let text = value.string()?;
    if text.contains(['\r', '\n', '\0']) {
        return Err(value.wrong("it holds a line break or a NUL, which a header field cannot"));
    }
    short(value, &text)?;
    Ok(text.into_owned())
}

fn short(value: &Value<'_>, text: &str) -> Result<(), JsonError> {
    if text.len() <= LINE_OCTETS {
        return Ok(());
    }
    Err(value.wrong(format!("it is {} octets long: at most {LINE_OCTETS} are allowed", text.len())))
}

fn stream(value: &Value<'_>, by_header: Option<Stream>) -> Result<Stream, JsonError> {
    let named = value.string()?.parse().map_err(|error| value.wrong(error))?;
    match by_header.filter(|other| *other != named) {
        Some(other) => Err(value.wrong(format!("a header field names the stream `{other}`: name one stream only"))),
        None => Ok(named),
    }
}

/// Extra fields, and the stream that one of them may name, which stays behind.
type Headers = (Vec<(String, String)>, Option<Stream>);

fn headers(value: &Value<'_>) -> Result<Headers, JsonError> {
    let entries = value.fields()?.rest();
    if entries.len() > HEADERS {
        return Err(value.wrong(format!("there are {} header fields: at most {HEADERS} are allowed", entries.len())));
    }
    let mut seen = HashSet::new();
    let mut stream = None;
    let mut headers = Vec::with_capacity(entries.len());
    for (name, value) in entries {
        let text = value.string()?;
        check_extra_header(&name, &text).map_err(|error| value.wrong(error))?;
        let is_new = seen.insert(name.to_ascii_lowercase());
        if Stream::is_field(&name) {
            let named = Stream::from_field(&text).map_err(|error| value.wrong(error))?;
            if stream.replace(named).is_some_and(|other| other != named) {
                return Err(value.wrong("another header field names another stream: name one only"));
            }
        } else if is_new {
            headers.push((name.into_owned(), text.into_owned()));
        } else {
            return Err(value.wrong("the header field stands twice"));
        }
    }
    Ok((headers, stream))
}

fn tags(value: &Value<'_>) -> Result<Vec<(String, String)>, JsonError> {
    let list = value.list()?;
    if list.len() > TAGS {
        return Err(value.wrong(format!("there are {} tags: at most {TAGS} are allowed", list.len())));
    }
    list.iter()
        .map(|tag| {
            let mut fields = tag.fields()?;
            let name = tag_text(&fields.need("name")?)?;
            let value = tag_text(&fields.need("value")?)?;
            fields.finish(&["name", "value"])?;
            Ok((name, value))
        })
        .collect()
}

fn tag_text(value: &Value<'_>) -> Result<String, JsonError> {
    let text = value.string()?;
    let is_clean = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
    if text.is_empty() || text.len() > TAG_LENGTH || !is_clean {
        return Err(value.wrong(format!("use 1 to {TAG_LENGTH} ASCII letters, digits, underscores and hyphens")));
    }
    Ok(text.into_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// A request with these fields besides (or instead of) the least there must be.
    fn with(fields: &str) -> String {
        let least =
            [("from", r#""Acme <a@src.test>""#), ("to", r#""b@dst.test""#), ("subject", r#""Hi""#), ("text", r#""x""#)];
        let json = format!("{{{fields}}}");
        let given = Fields::read(json.as_bytes()).unwrap().rest();
        let mut all: Vec<String> = given.iter().map(|(name, value)| format!("\"{name}\":{}", value.source())).collect();
        for (name, value) in least {
            if !given.iter().any(|(given, _)| given == name) {
                all.push(format!("\"{name}\":{value}"));
            }
        }
        format!("{{{}}}", all.join(","))
    }

    /// 2026-11-22T10:00:00Z.
    const NOW_S: u64 = 1_795_341_600;

    fn ask(body: &[u8]) -> Result<Email, JsonError> {
        Email::read(Fields::read(body)?, None, NOW_S)
    }

    fn read(fields: &str) -> Email {
        ask(with(fields).as_bytes()).unwrap()
    }

    fn check_wrong(fields: &str, path: &str, words: &str) {
        match ask(with(fields).as_bytes()) {
            Err(JsonError::Wrong(at, text)) => {
                assert_eq!(at, path, "{fields}: {text}");
                assert!(text.contains(words), "{fields}: {text}");
            }
            other => unreachable!("{fields}: {other:?}"),
        }
    }

    fn check_missing(body: &str, path: &str) {
        assert_eq!(ask(body.as_bytes()), Err(JsonError::Missing(path.to_owned())), "{body}");
    }

    fn addresses(list: &[Address]) -> Vec<String> {
        list.iter().map(Address::to_string).collect()
    }

    #[test]
    fn the_full_request_of_the_node_sdk() {
        let body = r#"{"attachments":[{"content":"JVBERi0xLjQgZmFrZQ==","filename":"a.pdf","content_type":"application/pdf"},
            {"content":"aGVsbG8=","filename":"i.png","content_id":"logo"}],"bcc":["d@dst.test"],"cc":"c@dst.test",
            "from":"Acme <a@src.test>","headers":{"X-Entity-Ref-ID":"1"},"html":"<p>x</p>","reply_to":"r@src.test",
            "subject":"Hi","tags":[{"name":"cat","value":"welcome"}],"text":"plain","to":"b@dst.test"}"#;
        let email = ask(body.as_bytes()).unwrap();
        assert_eq!(email.from.to_string(), "Acme <a@src.test>");
        assert_eq!(email.attachments.len(), 2);
        assert_eq!(email.headers, [("X-Entity-Ref-ID".to_owned(), "1".to_owned())]);
        assert_eq!(email.tags, [("cat".to_owned(), "welcome".to_owned())]);
        assert_eq!(email.content_bytes(), 13 + 5 + 8 + 5);
        let recipients = email.recipients();
        assert_eq!(addresses(&recipients.all), ["b@dst.test", "c@dst.test", "d@dst.test"]);
        assert_eq!(addresses(&recipients.hidden), ["d@dst.test"]);
        let (draft, template) = email.into_draft("<1@src.test>".to_owned(), 5);
        assert_eq!((draft.subject.as_str(), draft.text.as_deref(), draft.date_s), ("Hi", Some("plain"), 5));
        assert_eq!(template, None);
    }

    #[test]
    fn what_must_be_there() {
        check_missing("{}", "from");
        check_missing(r#"{"from":"a@src.test"}"#, "to");
        check_missing(r#"{"from":"a@src.test","to":null}"#, "to");
        check_missing(r#"{"from":"a@src.test","to":"b@dst.test"}"#, "subject");
        check_missing(r#"{"from":"a@src.test","to":"b@dst.test","subject":""}"#, "html` or `text");
        check_wrong(r#""to":[]"#, "to", "at least one recipient");
    }

    #[test]
    fn addresses_are_checked_one_by_one() {
        check_wrong(r#""from":5"#, "from", "must be a string, not a number");
        check_wrong(r#""from":["a@src.test"]"#, "from", "must be a string, not a list");
        check_wrong("\"to\":\"\"", "to", "an address is missing");
        check_wrong(r#""to":["b@dst.test","x@"]"#, "to[1]", "");
        check_wrong(r#""to":["b@dst.test",5]"#, "to[1]", "must be a string");
        check_wrong(r#""to":{"email":"b@dst.test"}"#, "to", "an address or a list");
        check_wrong(r#""cc":"no address""#, "cc", "");
        check_wrong(r#""bcc":["a@b.test\r\nX: y"]"#, "bcc[0]", "");
        check_wrong(r#""reply_to":["Bo <bo@>"]"#, "reply_to[0]", "");
        check_wrong(&format!(r#""to":"{}@dst.test""#, "x".repeat(65)), "to", "64");
        check_wrong(r#""to":"bö@dst.test""#, "to", "beyond ASCII");
    }

    #[test]
    fn recipients_stand_once() {
        let email = read(
            r#""to":["b@dst.test","B <b@DST.test>"],"cc":["b@dst.test","c@dst.test"],"bcc":["c@dst.test","d@dst.test"]"#,
        );
        let recipients = email.recipients();
        assert_eq!(addresses(&recipients.all), ["b@dst.test", "c@dst.test", "d@dst.test"]);
        assert_eq!(addresses(&recipients.hidden), ["d@dst.test"]);
    }

    #[test]
    fn no_line_ends_in_header_fields() {
        for text in [r"a\r\nBcc: x@y.test", r"a\nb", r"a\rb", r"a\u0000b"] {
            check_wrong(&format!(r#""subject":"{text}""#), "subject", "line break");
            check_wrong(&format!(r#""headers":{{"X-A":"{text}"}}"#), "headers.X-A", "");
        }
        check_wrong(&format!(r#""subject":"{}""#, "x".repeat(2049)), "subject", "2049 octets");
        check_wrong(&format!(r#""cc":"{} <c@dst.test>""#, "x".repeat(2049)), "cc", "2062 octets");
        check_wrong(r#""headers":{"X A":"1"}"#, "headers.X A", "");
        check_wrong(r#""headers":{"From":"x@y.test"}"#, "headers.From", "set by the service");
        check_wrong(r#""headers":{"X-A":1}"#, "headers.X-A", "must be a string");
        check_wrong(r#""headers":{"X-A":"1","x-a":"2"}"#, "headers.x-a", "twice");
        check_wrong(r#""headers":["X-A"]"#, "headers", "must be an object");
        let email = read(r#""headers":{"X-B":"2","List-Unsubscribe":"<https://x.test>","X-A":"ü"}"#);
        let names: Vec<&str> = email.headers.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["X-B", "List-Unsubscribe", "X-A"]);
    }

    #[test]
    fn tags_are_short_words() {
        assert_eq!(read(r#""tags":[{"name":"a-1_B","value":"z"}]"#).tags, [("a-1_B".to_owned(), "z".to_owned())]);
        check_wrong(r#""tags":[{"name":"a b","value":"z"}]"#, "tags[0].name", "ASCII letters");
        check_wrong(r#""tags":[{"name":"a","value":""}]"#, "tags[0].value", "1 to 256");
        check_wrong(r#""tags":[{"name":"a","value":1}]"#, "tags[0].value", "must be a string");
        check_wrong(r#""tags":[{"name":"a","value":"b","c":1}]"#, "tags[0].c", "no such field");
        check_wrong(&format!(r#""tags":[{}0]"#, "0,".repeat(64)), "tags", "65 tags");
    }

    #[test]
    fn bodies_as_given() {
        let email = read("\"html\":\"{{x}}\",\"text\":\"\"");
        assert_eq!((email.html.as_deref(), email.text.as_deref()), (Some("{{x}}"), None));
        assert_eq!(read(r#""text":"{{y}}""#).text.as_deref(), Some("{{y}}"));
        check_wrong(r#""html":["x"]"#, "html", "must be a string, not a list");
    }

    #[test]
    fn templates() {
        let body = |rest: &str| format!(r#"{{"from":"a@src.test","to":"b@dst.test",{rest}}}"#);
        let email =
            ask(body(r#""template":{"subject":"S {{a}}","html":"H","variables":{"a": [1, "\u00e9"]}}"#).as_bytes())
                .unwrap();
        let template = email.template.unwrap();
        assert_eq!(
            (template.subject.as_deref(), template.html.as_deref(), template.text),
            (Some("S {{a}}"), Some("H"), None)
        );
        assert_eq!(template.variables, r#"{"a": [1, "\u00e9"]}"#);
        assert!(ask(body(r#""subject":"S","template":{"text":"T"}"#).as_bytes()).is_ok());

        let check = |rest: &str, path: &str, words: &str| match ask(body(rest).as_bytes()) {
            Err(JsonError::Wrong(at, text)) => {
                assert_eq!(at, path, "{rest}");
                assert!(text.contains(words), "{text}");
            }
            other => unreachable!("{rest}: {other:?}"),
        };
        check(r#""subject":"S","template":{"subject":"S","text":"T"}"#, "subject", "of its own");
        check(r#""subject":"S","html":"H","template":{"text":"T"}"#, "html", "leave it out");
        check(r#""subject":"S","template":{"text":"T","variables":[]}"#, "template.variables", "must be an object");
        check(r#""subject":"S","template":{"text":"T","vars":{}}"#, "template.vars", "no such field");
        check(r#""subject":"S","template":"order""#, "template", "must be an object");
        check_missing(&body(r#""template":{"text":"T"}"#), "subject");
        check_missing(&body(r#""subject":"S","template":{"subject":null}"#), "template.html` or `template.text");
    }

    #[test]
    fn times_and_fields_that_are_not_there() {
        assert_eq!(read(r#""scheduled_at":"2026-11-22T10:00:01Z""#).scheduled_ms, Some((NOW_S as i64 + 1) * 1000));
        check_wrong(r#""scheduled_at":"soon""#, "scheduled_at", "no time");
        check_wrong(r#""scheduled_at":5"#, "scheduled_at", "must be a string");
        assert_eq!(read(r#""topic_id":"t""#).ignored, ["topic_id"]);
        assert_eq!(read(r#""stream":null"#).stream, None);
        assert!(read(r#""topic_id":null,"scheduled_at":null"#).ignored.is_empty());
        check_wrong(r#""replyTo":"r@src.test""#, "replyTo", "did you mean `reply_to`");
        check_wrong(r#""whatever":null"#, "whatever", "no such field");
    }

    #[test]
    fn a_stream_is_named_by_field_or_header() {
        assert_eq!(read(r#""stream":"broadcast""#).stream, Some(Stream::Broadcast));
        let email = read(r#""headers":{"X-Posthaste-Stream":"broadcast","X-A":"1"}"#);
        assert_eq!(email.stream, Some(Stream::Broadcast));
        assert_eq!(email.headers, [("X-A".to_owned(), "1".to_owned())], "it goes no further");
        let email = read(r#""stream":"transactional","headers":{"x-pm-message-stream":"outbound"}"#);
        assert_eq!((email.stream, email.headers.len()), (Some(Stream::Transactional), 0));
        check_wrong(r#""stream":"bulk""#, "stream", "use `transactional` or `broadcast`");
        check_wrong(r#""stream":1"#, "stream", "must be a string");
        check_wrong(r#""headers":{"X-PM-Message-Stream":"news"}"#, "headers.X-PM-Message-Stream", "no stream `news`");
        let both = r#""stream":"broadcast","headers":{"X-Posthaste-Stream":"transactional"}"#;
        check_wrong(both, "stream", "name one stream only");
    }

    #[test]
    fn no_bytes_panic() {
        let body = br#"{"from":"A <a@src.test>","to":["b@dst.test"],"subject":"\u00e9","headers":{"X-A":"1"},
            "tags":[{"name":"a","value":"b"}],"attachments":[{"filename":"a","content":"aGk="},{"path":"https://x.test/a"}],"scheduled_at":"in 5 min","template":{"text":"{{a}}",
            "variables":{"a":[1]}},"topic_id":null}"#;
        assert!(ask(body).is_ok());
        for at in 0..body.len() {
            let _ = ask(&body[..at]);
            for byte in [b'"', b'\\', b'{', b']', b',', b'0', b'\n', 0, 0xff] {
                let mut changed = body.to_vec();
                changed[at] = byte;
                let _ = ask(&changed);
                changed.insert(at, byte);
                let _ = ask(&changed);
            }
        }
    }
}
