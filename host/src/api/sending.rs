//! What the host answers of the sending API, in the shape of Resend's: a message, its events, the list of messages,
//! and another time or none for a message that is scheduled.
//!
//! A caller sees its own tenant's messages; another's are not found.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use jiff::Timestamp;
use mail::message::Parsed;
use mail::{Address, Mailbox};
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use uuid::Uuid;

use super::fault::{fault, json, unavailable};
use super::{credential, parameter, time};
use crate::store::{Directory, EventRecord, MessageView, Store, StoreError};

/// Where all routes of this API begin.
pub const PREFIX: &str = "/emails";

/// Entries on a page unless the caller says otherwise, and the most there may be.
const PAGE: usize = 20;
const PAGE_MOST: usize = 100;

/// Messages that are looked through, newest first, for the one to go on after.
const LOOKED_THROUGH: usize = 1000;

/// Of a message in a list: more than its header is not read.
const HEAD_OCTETS: u32 = 64 << 10;

/// Memory for messages that are being shown, all together; more wait.
const SHOWN_BYTES: usize = 128 << 20;

/// What showing a message costs, in its own size: its body, the decoded parts, the JSON, the copy in the instance.
const COPIES: u64 = 4;

/// A message of so many octets waits for no large one: what runs components bounds how many there are.
const SMALL_OCTETS: u64 = 256 << 10;

/// What a permit stands for, and how long one is waited for.
const PERMIT_BYTES: usize = 1024;
const ROOM: Duration = Duration::from_secs(10);

/// Answers `GET /emails`, `GET` and `PATCH /emails/{id}`, `GET /emails/{id}/events` and `POST /emails/{id}/cancel`.
pub struct Sending {
    store: Arc<dyn Store>,
    directory: Arc<dyn Directory>,
    /// For messages that are being shown.
    room: Arc<Semaphore>,
}

/// An answer, and the room it takes as long as its bytes are there.
struct Roomy {
    bytes: Bytes,
    _room: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Roomy {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// A list as Resend writes it.
#[derive(Serialize)]
struct List<T> {
    object: &'static str,
    has_more: bool,
    data: Vec<T>,
}

#[derive(Serialize)]
struct Tag<'a> {
    name: &'a str,
    value: &'a str,
}

/// A message; in a list without what it says.
#[derive(Serialize)]
struct Email {
    #[serde(skip_serializing_if = "Option::is_none")]
    object: Option<&'static str>,
    id: String,
    to: Vec<String>,
    from: String,
    created_at: String,
    subject: String,
    bcc: Vec<String>,
    cc: Vec<String>,
    reply_to: Vec<String>,
    last_event: Option<String>,
    scheduled_at: Option<String>,
    stream: &'static str,
    #[serde(flatten)]
    content: Option<Content>,
}

#[derive(Serialize)]
struct Content {
    message_id: Option<String>,
    html: Option<String>,
    text: Option<String>,
    tags: serde_json::Value,
}

/// `PATCH /emails/{id}`.
#[derive(Deserialize)]
struct Reschedule {
    scheduled_at: Timestamp,
}

#[derive(Serialize)]
struct EventView {
    id: String,
    #[serde(rename = "type")]
    kind: &'static str,
    created_at: String,
    recipient: String,
    stream: &'static str,
    attempt: Option<AttemptView>,
    reason: Option<String>,
}

#[derive(Serialize)]
struct AttemptView {
    number: u32,
    remote_host: Option<String>,
    code: Option<u16>,
    status: String,
    text: String,
    tls: Option<String>,
}

impl Sending {
    pub fn new(store: Arc<dyn Store>, directory: Arc<dyn Directory>) -> Sending {
        Sending { store, directory, room: Arc::new(Semaphore::new(SHOWN_BYTES / PERMIT_BYTES)) }
    }

    /// Answers one request for `/emails` or a path below it.
    pub async fn answer(&self, request: Request<Bytes>) -> Response<Bytes> {
        let tenant = match credential::caller(&*self.directory, request.headers()).await {
            Ok(key) => key.tenant,
            Err(response) => return response,
        };
        let query = request.uri().query().unwrap_or_default();
        let path: Vec<&str> = request.uri().path().trim_matches('/').split('/').skip(1).collect();
        let answer = match (request.method(), path.as_slice()) {
            (&Method::GET, []) => self.list(&tenant, query).await,
            (&Method::GET, [id]) => self.email(&tenant, id).await,
            (&Method::GET, [id, "events"]) => self.events(&tenant, id, query).await,
            (&Method::PATCH, [id]) => self.reschedule(&tenant, id, request.body()).await,
            (&Method::POST, [id, "cancel"]) => self.cancel(&tenant, id).await,
            (_, [] | [_] | [_, "events" | "cancel"]) => Err(Failure::Method),
            _ => Err(Failure::NotFound),
        };
        answer.unwrap_or_else(Failure::into_response)
    }

    async fn email(&self, tenant: &str, id: &str) -> Result<Response<Bytes>, Failure> {
        let view = self.store.message(tenant, message_id(id)?).await?;
        let room = self.room_for(view.size_bytes).await?;
        let parsed = parsed(self.store.body(&view.body).await).await?;
        let response = json(StatusCode::OK, &email(view, parsed, true));
        let Some(room) = room else { return Ok(response) };
        Ok(response.map(|bytes| Bytes::from_owner(Roomy { bytes, _room: room })))
    }

    /// The body is the trigger's: a moment, in whatever way the caller wrote it.
    async fn reschedule(&self, tenant: &str, id: &str, body: &[u8]) -> Result<Response<Bytes>, Failure> {
        let id = message_id(id)?;
        let Ok(Reschedule { scheduled_at }) = serde_json::from_slice(body) else {
            return Err(Failure::Wrong("`scheduled_at` must be a time with its offset."));
        };
        self.store.reschedule(tenant, id, scheduled_at).await?;
        Ok(changed(id))
    }

    async fn cancel(&self, tenant: &str, id: &str) -> Result<Response<Bytes>, Failure> {
        let id = message_id(id)?;
        self.store.cancel(tenant, id, Timestamp::now()).await?;
        Ok(changed(id))
    }

    /// Waits until a message of so many octets may be read whole.
    async fn room_for(&self, octets: u64) -> Result<Option<OwnedSemaphorePermit>, Failure> {
        if octets <= SMALL_OCTETS {
            return Ok(None);
        }
        let bytes = usize::try_from(octets.saturating_mul(COPIES)).unwrap_or(usize::MAX).min(SHOWN_BYTES);
        let permits = u32::try_from(bytes / PERMIT_BYTES).unwrap_or(u32::MAX);
        match timeout(ROOM, self.room.clone().acquire_many_owned(permits)).await {
            Ok(Ok(permit)) => Ok(Some(permit)),
            Ok(Err(_)) | Err(_) => Err(Failure::Busy),
        }
    }

    async fn events(&self, tenant: &str, id: &str, query: &str) -> Result<Response<Bytes>, Failure> {
        let id = message_id(id)?;
        let limit = limit(query)?;
        // Not every store tells an unknown message from one without events.
        self.store.message(tenant, id).await?;
        let after = parameter(query, "after");
        let mut cursor = None;
        let mut found = after.is_none();
        let mut data = Vec::new();
        loop {
            let page = self.store.events(tenant, id, cursor.as_deref(), PAGE_MOST).await?;
            for record in page.items {
                if data.len() == limit {
                    return Ok(json(StatusCode::OK, &List { object: "list", has_more: true, data }));
                }
                if found {
                    data.push(event(record));
                } else {
                    found = after.is_some_and(|after| record.id == after);
                }
            }
            match page.next {
                Some(next) => cursor = Some(next),
                None if found => return Ok(json(StatusCode::OK, &List { object: "list", has_more: false, data })),
                None => return Err(Failure::Wrong("The event to go on `after` is not there.")),
            }
        }
    }

    async fn list(&self, tenant: &str, query: &str) -> Result<Response<Bytes>, Failure> {
        if parameter(query, "before").is_some() {
            return Err(Failure::Wrong("`before` is not supported: lists go from the newest on, with `after`."));
        }
        let limit = limit(query)?;
        let after = parameter(query, "after").map(message_id).transpose()?;
        let (views, has_more) = self.page(tenant, after, limit).await?;
        let mut data = Vec::with_capacity(views.len());
        for view in views {
            let head = self.store.body_head(&view.body, HEAD_OCTETS).await;
            let parsed = parsed(head.map(header_of)).await?;
            data.push(email(view, parsed, false));
        }
        Ok(json(StatusCode::OK, &List { object: "list", has_more, data }))
    }

    /// The messages behind the one with the id `after`, newest first, and whether there are more.
    async fn page(&self, tenant: &str, after: Option<Uuid>, limit: usize) -> Result<(Vec<MessageView>, bool), Failure> {
        let Some(after) = after else {
            let page = self.store.messages(tenant, None, limit).await?;
            return Ok((page.items, page.next.is_some()));
        };
        let (mut cursor, mut looked, mut found) = (None, 0, false);
        let mut views = Vec::new();
        while looked < LOOKED_THROUGH || found {
            let page = self.store.messages(tenant, cursor.as_deref(), PAGE_MOST).await?;
            looked += page.items.len();
            for view in page.items {
                if views.len() == limit {
                    return Ok((views, true));
                }
                if found {
                    views.push(view);
                } else {
                    found = view.id == after;
                }
            }
            match page.next {
                Some(next) => cursor = Some(next),
                None if found => return Ok((views, false)),
                None => break,
            }
        }
        Err(Failure::Wrong("The message to go on `after` is not among the newest 1000."))
    }
}

/// A message was changed.
fn changed(id: Uuid) -> Response<Bytes> {
    json(StatusCode::OK, &serde_json::json!({ "object": "email", "id": id.to_string() }))
}

/// What a stored message says; nothing once its body is gone. Large ones are read off the reactor.
async fn parsed(body: Result<Bytes, StoreError>) -> Result<Parsed, Failure> {
    let bytes = match body {
        Ok(bytes) => bytes,
        Err(StoreError::NotFound(_)) => return Ok(Parsed::default()),
        Err(error) => return Err(error.into()),
    };
    let parsed = tokio::task::spawn_blocking(move || mail::message::parse(&bytes)).await;
    parsed.map_err(|error| Failure::Store(StoreError::Io(format!("the message could not be read: {error}"))))
}

/// Why a request is not answered with what it asked for.
enum Failure {
    NotFound,
    /// There is such a resource, but not with this method.
    Method,
    /// The message waits for no time of its own (any more): since when not.
    NotScheduled(&'static str),
    /// The request is wrong; the text tells its author.
    Wrong(&'static str),
    /// No room became free in time.
    Busy,
    Store(StoreError),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Failure {
        match error {
            StoreError::NotFound(_) => Failure::NotFound,
            StoreError::NotScheduled(why) => Failure::NotScheduled(why),
            error => Failure::Store(error),
        }
    }
}

impl Failure {
    fn into_response(self) -> Response<Bytes> {
        match self {
            Failure::NotFound => fault(StatusCode::NOT_FOUND, "not_found", "Email not found."),
            Failure::Method => {
                fault(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "This method is not answered here.")
            }
            Failure::NotScheduled(why) => {
                let text = format!("The email is not scheduled and cannot be changed: {why}.");
                fault(StatusCode::UNPROCESSABLE_ENTITY, "validation_error", text)
            }
            Failure::Wrong(text) => fault(StatusCode::UNPROCESSABLE_ENTITY, "validation_error", text),
            Failure::Busy => unavailable("Too many large messages at once. Try again later."),
            Failure::Store(error) => {
                tracing::error!(%error, "the store did not answer");
                unavailable("The message cannot be shown now. Try again later.")
            }
        }
    }
}

fn message_id(text: &str) -> Result<Uuid, Failure> {
    Uuid::parse_str(text).map_err(|_| Failure::NotFound)
}

fn limit(query: &str) -> Result<usize, Failure> {
    let Some(text) = parameter(query, "limit") else { return Ok(PAGE) };
    let limit = text.parse().ok().filter(|limit| (1..=PAGE_MOST).contains(limit));
    limit.ok_or(Failure::Wrong("`limit` must be a number from 1 to 100."))
}

/// The header of a message without its body.
fn header_of(message: Bytes) -> Bytes {
    match message.windows(4).position(|four| four == b"\r\n\r\n") {
        Some(at) => message.slice(..at + 2),
        // Cut off within it: what is there counts.
        None => message,
    }
}

fn email(view: MessageView, parsed: Parsed, whole: bool) -> Email {
    let from = parsed.from.first().map(ToString::to_string);
    let to = shown(&parsed.to);
    // In base64 the line end of the message is not in the text.
    let is_alone = parsed.parts.len() == 1 && !is_base64(&parsed.headers);
    // A message without To, or one whose body is gone, was still sent to somebody.
    let visible = view.recipients.iter().filter(|recipient| !view.bcc.contains(recipient));
    Email {
        object: whole.then_some("email"),
        id: view.id.to_string(),
        to: if to.is_empty() && parsed.cc.is_empty() { visible.map(Address::to_string).collect() } else { to },
        from: from.or_else(|| view.sender.as_ref().map(Address::to_string)).unwrap_or_default(),
        created_at: time(view.accepted_at),
        subject: parsed.subject.unwrap_or_default(),
        bcc: view.bcc.iter().map(Address::to_string).collect(),
        cc: shown(&parsed.cc),
        reply_to: shown(&parsed.reply_to),
        last_event: view.last_event,
        scheduled_at: view.scheduled_at.map(time),
        stream: view.stream.name(),
        content: whole.then(|| Content {
            message_id: parsed.message_id,
            html: parsed.html.map(|html| as_given(html, is_alone)),
            text: parsed.text.map(|text| as_given(text, is_alone)),
            tags: view.tags.iter().map(|(name, value)| serde_json::json!(Tag { name, value })).collect(),
        }),
    }
}

fn is_base64(headers: &[(String, String)]) -> bool {
    let encoding = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("Content-Transfer-Encoding"));
    encoding.is_some_and(|(_, value)| value.trim().eq_ignore_ascii_case("base64"))
}

/// A body without the line end that composing adds to the one that stands alone in its message.
fn as_given(mut body: String, is_alone: bool) -> String {
    if is_alone && body.ends_with("\r\n") {
        body.truncate(body.len() - 2);
    }
    body
}

fn shown(mailboxes: &[Mailbox]) -> Vec<String> {
    mailboxes.iter().map(ToString::to_string).collect()
}

fn event(record: EventRecord) -> EventView {
    EventView {
        id: record.id,
        kind: record.event.kind.name(),
        created_at: time(record.at),
        recipient: record.event.recipient.to_string(),
        stream: record.stream.name(),
        attempt: record.event.attempt.map(|(number, outcome)| AttemptView {
            number,
            remote_host: outcome.remote_host,
            code: outcome.reply.map(|reply| reply.code),
            status: outcome.status.to_string(),
            text: outcome.text,
            tls: outcome.tls,
        }),
        reason: record.event.reason,
    }
}

#[cfg(test)]
#[path = "sending_tests.rs"]
mod tests;
