//! The pages of the inbox (askama templates in `host/templates/inbox`), and the headers that keep a mail's content harmless.

use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash, Hasher};

use askama::Template;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{Response, StatusCode, header};
use jiff::Timestamp;

use super::verdict::SignatureVerdict;
use crate::store::{AttemptRecord, EventRecord, MessageView};

/// Inline images larger than this stay out of the HTML view.
const INLINE_IMAGE_BYTES: usize = 5 * 1024 * 1024;

/// One mail in the list.
#[derive(Clone, Debug, Hash)]
pub(super) struct Row {
    pub id: String,
    pub from: String,
    pub to: String,
    pub subject: String,
    /// RFC 3339.
    pub at: String,
    /// The same for people without JavaScript.
    pub when: String,
    /// The last event's name: `delivered`.
    pub status: String,
    /// Of a mail that waits for its time: when that is.
    pub scheduled: Option<String>,
}

/// What the list shows of a mail's content.
#[derive(Clone, Debug, Default)]
pub(super) struct Summary {
    from: Option<String>,
    subject: Option<String>,
}

impl Summary {
    pub(super) fn new(body: &[u8]) -> Summary {
        let parsed = mail::message::parse(body);
        Summary {
            from: parsed.from.first().map(|from| from.name.clone().unwrap_or_else(|| from.address.to_string())),
            subject: parsed.subject.filter(|subject| !subject.trim().is_empty()),
        }
    }
}

impl Row {
    pub(super) fn new(mail: &MessageView, summary: &Summary) -> Row {
        Row {
            id: mail.id.to_string(),
            from: summary.from.clone().unwrap_or_else(|| "<>".to_owned()),
            to: names(&mail.recipients),
            subject: summary.subject.clone().unwrap_or_else(|| "(no subject)".to_owned()),
            at: mail.accepted_at.to_string(),
            when: clock(mail.accepted_at),
            status: mail.last_event.clone().unwrap_or_else(|| "sent".to_owned()),
            scheduled: mail
                .scheduled_at
                .filter(|_| mail.last_event.as_deref() == Some("scheduled"))
                .map(|at| at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()),
        }
    }
}

/// `a@x, b@y and 3 more`.
fn names(addresses: &[mail::Address]) -> String {
    let shown: Vec<String> = addresses.iter().take(3).map(ToString::to_string).collect();
    match addresses.len().saturating_sub(shown.len()) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// Changes whenever the list does.
pub(super) fn etag(rows: &[Row]) -> String {
    let mut hasher = DefaultHasher::new();
    rows.hash(&mut hasher);
    format!("\"{:016x}\"", hasher.finish())
}

#[derive(Template)]
#[template(path = "inbox/list.html")]
struct List<'a> {
    nonce: &'a str,
    rows: &'a [Row],
    tag: &'a str,
    example: &'a str,
}

#[derive(Template)]
#[template(path = "inbox/rows.html")]
struct Fragment<'a> {
    rows: &'a [Row],
    example: &'a str,
}

#[derive(Template)]
#[template(path = "inbox/message.html")]
struct Message<'a> {
    nonce: &'a str,
    row: Row,
    view: &'a str,
    tabs: Vec<Tab>,
    sender: String,
    recipients: String,
    bcc: String,
    cc: String,
    size: String,
    text: &'a str,
    has_html: bool,
    remote: bool,
    headers: &'a [(String, String)],
    source: String,
    parts: Vec<PartRow>,
    events: Vec<EventRow>,
    verdicts: &'a [SignatureVerdict],
    all_pass: bool,
}

struct Tab {
    name: &'static str,
    label: &'static str,
    count: usize,
}

struct PartRow {
    index: usize,
    name: String,
    content_type: String,
    size: String,
}

struct EventRow {
    name: String,
    at: String,
    when: String,
    recipient: String,
    detail: String,
}

/// The whole list page.
pub(super) fn list(rows: &[Row], tag: &str, example: &str) -> Response<Bytes> {
    let nonce = nonce();
    html(&List { nonce: &nonce, rows, tag, example }, &nonce)
}

/// What the live page swaps in.
pub(super) fn fragment(rows: &[Row], tag: &str, example: &str) -> Response<Bytes> {
    let mut response = html(&Fragment { rows, example }, "");
    if let Ok(value) = tag.parse() {
        response.headers_mut().insert(header::ETAG, value);
    }
    response
}

/// One mail, in the view that the query asks for.
pub(super) fn message(
    mail: &MessageView,
    body: &[u8],
    (events, attempts): (&[EventRecord], &[AttemptRecord]),
    verdicts: &[SignatureVerdict],
    query: &str,
) -> Response<Bytes> {
    let parsed = mail::message::parse(body);
    let attachments: Vec<PartRow> = parsed
        .parts
        .iter()
        .enumerate()
        .filter(|(_, part)| !part.is_body)
        .map(|(index, part)| PartRow {
            index,
            name: part.file_name.clone().unwrap_or_else(|| format!("part-{index}")),
            content_type: part.content_type.clone(),
            size: human_size(part.size_bytes),
        })
        .collect();
    let has_html = parsed.html.is_some();
    let tabs = vec![
        Tab { name: "html", label: "HTML", count: 0 },
        Tab { name: "text", label: "Text", count: 0 },
        Tab { name: "headers", label: "Headers", count: parsed.headers.len() },
        Tab { name: "source", label: "Source", count: 0 },
        Tab { name: "attachments", label: "Attachments", count: attachments.len() },
        Tab { name: "events", label: "Events", count: events.len() + attempts.len() },
    ];
    let asked = parameter(query, "view");
    let fallback = if has_html { "html" } else { "text" };
    let view = tabs.iter().map(|tab| tab.name).find(|name| Some(*name) == asked).unwrap_or(fallback);
    let nonce = nonce();
    let page = Message {
        nonce: &nonce,
        row: Row::new(mail, &Summary::new(body)),
        view,
        tabs,
        sender: mail.sender.as_ref().map_or_else(|| "<>".to_owned(), ToString::to_string),
        recipients: names(&mail.recipients),
        bcc: names(&mail.bcc),
        cc: parsed.cc.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        size: human_size(mail.size_bytes),
        text: parsed.text.as_deref().unwrap_or_default(),
        has_html,
        remote: wants_remote(query),
        headers: &parsed.headers,
        source: String::from_utf8_lossy(body).into_owned(),
        parts: attachments,
        events: rows(events, attempts),
        verdicts,
        all_pass: verdicts.iter().all(|verdict| verdict.passed),
    };
    html(&page, &nonce)
}

/// Events and the attempts to tell webhooks of them, as they happened.
fn rows(events: &[EventRecord], attempts: &[AttemptRecord]) -> Vec<EventRow> {
    let events = events.iter().map(|event| (event.at, EventRow::new(event)));
    let attempts = attempts.iter().map(|attempt| (attempt.at, EventRow::told(attempt)));
    let mut rows: Vec<(Timestamp, EventRow)> = events.chain(attempts).collect();
    rows.sort_by_key(|(at, _)| *at);
    rows.into_iter().map(|(_, row)| row).collect()
}

#[derive(Template)]
#[template(path = "inbox/events.html")]
struct Events {
    events: Vec<EventRow>,
}

/// What the live view of a mail's events swaps in.
pub(super) fn events(events: &[EventRecord], attempts: &[AttemptRecord]) -> Response<Bytes> {
    html(&Events { events: rows(events, attempts) }, "")
}

impl EventRow {
    /// An attempt to tell a webhook.
    fn told(record: &AttemptRecord) -> EventRow {
        let kind = record.kind.name().trim_start_matches("email.");
        let mut detail = format!("{kind}, attempt {}: ", record.number);
        match (record.status, &record.error) {
            (Some(status), _) => {
                let head: String = record.head.chars().filter(|c| !c.is_control()).take(120).collect();
                let _ = write!(detail, "{status} {head}");
            }
            (None, error) => detail.push_str(error.as_deref().unwrap_or("no answer")),
        }
        let _ = write!(detail, " ({} ms)", record.duration.as_millis());
        if let Some(next) = record.next_at {
            let _ = write!(detail, " · again at {}", clock(next));
        }
        EventRow {
            name: "webhook".to_owned(),
            at: record.at.to_string(),
            when: clock(record.at),
            recipient: record.url.clone(),
            detail,
        }
    }

    fn new(record: &EventRecord) -> EventRow {
        let mut detail = String::new();
        if let Some((number, outcome)) = &record.event.attempt {
            let code = outcome.reply.as_ref().map(|reply| format!("{} ", reply.code)).unwrap_or_default();
            let _ = write!(detail, "attempt {number}: {code}{} {}", outcome.status, outcome.text);
        }
        if let Some(reason) = &record.event.reason {
            let _ = write!(detail, "{}{reason}", if detail.is_empty() { "" } else { " · " });
        }
        EventRow {
            name: record.event.kind.name().trim_start_matches("email.").to_owned(),
            at: record.at.to_string(),
            when: clock(record.at),
            recipient: record.event.recipient.to_string(),
            detail,
        }
    }
}

/// The mail's own HTML, for the sandboxed frame: nothing runs, nothing is loaded unless asked, links open elsewhere.
pub(super) fn frame(body: &[u8], remote: bool) -> Response<Bytes> {
    let parsed = mail::message::parse(body);
    let html = inline_images(parsed.html.unwrap_or_default(), body, &parsed.parts);
    let policy = if remote {
        "sandbox allow-popups allow-popups-to-escape-sandbox; default-src 'none'; img-src data: http: https:; \
         style-src 'unsafe-inline' http: https:; font-src data: http: https:; media-src http: https:"
    } else {
        "sandbox allow-popups allow-popups-to-escape-sandbox; default-src 'none'; img-src data:; style-src 'unsafe-inline'; font-src data:"
    };
    Response::builder()
        .header(header::CONTENT_TYPE, "text/html; charset=utf-8")
        .header(header::CONTENT_SECURITY_POLICY, policy)
        .header(header::X_CONTENT_TYPE_OPTIONS, "nosniff")
        .header(header::REFERRER_POLICY, "no-referrer")
        .header(header::CACHE_CONTROL, "no-store")
        .body(Bytes::from(with_base(&html)))
        .unwrap_or_default()
}

/// Makes links open in a new tab, with a `base` inside the head where there is one, so that quirks mode stays as the mail has it.
fn with_base(html: &str) -> String {
    const BASE: &str = "<base target=\"_blank\">";
    let lower = html.to_ascii_lowercase();
    let inside = lower.find("<head").and_then(|start| Some(start + lower[start..].find('>')? + 1));
    let at = inside.filter(|&at| html.is_char_boundary(at)).unwrap_or(0);
    format!("{}{BASE}{}", &html[..at], &html[at..])
}

/// Replaces `cid:` references by the parts themselves (RFC 2392).
fn inline_images(mut html: String, body: &[u8], parts: &[mail::message::Part]) -> String {
    for (index, part) in parts.iter().enumerate() {
        let Some(id) = part.content_id.as_deref().filter(|id| !id.is_empty()) else { continue };
        let reference = format!("cid:{id}");
        if !part.content_type.starts_with("image/") || !html.contains(&reference) {
            continue;
        }
        let Some((_, content)) = mail::message::part_content(body, index) else { continue };
        if content.len() <= INLINE_IMAGE_BYTES {
            html = html.replace(&reference, &format!("data:{};base64,{}", part.content_type, STANDARD.encode(content)));
        }
    }
    html
}

/// A file to be saved, or (`inline`) read as plain text; never sniffed, never run.
pub(super) fn download(content_type: &str, name: &str, content: Bytes, inline: bool) -> Response<Bytes> {
    let safe: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() || "._- ".contains(c) { c } else { '_' }).collect();
    let disposition = format!("{}; filename=\"{safe}\"", if inline { "inline" } else { "attachment" });
    Response::builder()
        .header(header::CONTENT_TYPE, content_type)
        .header(header::CONTENT_DISPOSITION, disposition)
        .header(header::CONTENT_SECURITY_POLICY, "sandbox; default-src 'none'")
        .header(header::X_CONTENT_TYPE_OPTIONS, "nosniff")
        .body(content)
        .unwrap_or_else(|_| Response::new(Bytes::new()))
}

/// Whether the reader asked for remote images.
pub(super) fn wants_remote(query: &str) -> bool {
    parameter(query, "remote") == Some("1")
}

fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name).map(|(_, value)| value)
}

fn html(template: &impl Template, nonce: &str) -> Response<Bytes> {
    let Ok(text) = template.render() else {
        return Response::builder().status(StatusCode::INTERNAL_SERVER_ERROR).body(Bytes::new()).unwrap_or_default();
    };
    let policy = format!(
        "default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; connect-src 'self'; frame-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    Response::builder()
        .header(header::CONTENT_TYPE, "text/html; charset=utf-8")
        .header(header::CONTENT_SECURITY_POLICY, policy)
        .header(header::X_CONTENT_TYPE_OPTIONS, "nosniff")
        .header(header::REFERRER_POLICY, "no-referrer")
        .header(header::CACHE_CONTROL, "no-store")
        .body(Bytes::from(text))
        .unwrap_or_default()
}

fn nonce() -> String {
    URL_SAFE_NO_PAD.encode(rand::random::<[u8; 16]>())
}

fn human_size(bytes: u64) -> String {
    match bytes {
        0..1_024 => format!("{bytes} B"),
        1_024..1_048_576 => format!("{:.1} KB", bytes as f64 / 1_024.0),
        _ => format!("{:.1} MB", bytes as f64 / 1_048_576.0),
    }
}

/// A time for people: the page turns it into a relative one.
fn clock(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_goes_inside_the_head() {
        fn check(html: &str, expect: &str) {
            assert_eq!(with_base(html), expect);
        }
        check("<p>x</p>", "<base target=\"_blank\"><p>x</p>");
        check("<!doctype html><HEAD lang=x><title>", "<!doctype html><HEAD lang=x><base target=\"_blank\"><title>");
        check("<head", "<base target=\"_blank\"><head");
    }

    #[test]
    fn parameters_are_found() {
        assert_eq!(parameter("view=text&remote=1", "remote"), Some("1"));
        assert_eq!(parameter("", "remote"), None);
        assert!(!wants_remote("remote=0"));
    }

    #[test]
    fn file_names_cannot_break_out_of_the_field() {
        let response = download("application/pdf", "a\"; x=\r\ny.pdf", Bytes::new(), false);
        assert_eq!(response.headers()[header::CONTENT_DISPOSITION], "attachment; filename=\"a__ x___y.pdf\"");
    }

    #[test]
    fn sizes_read_well() {
        assert_eq!(human_size(12), "12 B");
        assert_eq!(human_size(10_240), "10.0 KB");
        assert_eq!(human_size(3 * 1_048_576), "3.0 MB");
    }
}
