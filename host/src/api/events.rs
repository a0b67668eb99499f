//! `GET /events` and `GET /events/{id}`: what happened to a tenant and to all its messages.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::credential;
use super::fault::{fault, json as answer, unavailable};
use super::webhooks::{page_limit, time};
use crate::store::{AnyEvent, AnyKind, Directory, EventFilter, EventRecord, StoreError, Webhooks};

/// Where all routes of this API begin.
pub const PREFIX: &str = "/events";

/// Entries on a page unless the caller says otherwise.
const PAGE: usize = 20;

/// Answers `GET /events` and `GET /events/{id}`.
pub struct Events {
    store: Arc<dyn Webhooks>,
    directory: Arc<dyn Directory>,
}

impl Events {
    pub fn new(store: Arc<dyn Webhooks>, directory: Arc<dyn Directory>) -> Events {
        Events { store, directory }
    }

    /// Answers one request for `/events` or a path below it.
    pub async fn answer(&self, request: Request<Bytes>) -> Response<Bytes> {
        let tenant = match credential::caller(&*self.directory, request.headers()).await {
            Ok(key) => key.tenant,
            Err(response) => return response,
        };
        if request.method() != Method::GET {
            return fault(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "Only GET is answered here.");
        }
        let path: Vec<&str> = request.uri().path().trim_matches('/').split('/').skip(1).collect();
        match path.as_slice() {
            [] => list(&*self.store, &tenant, request.uri().query().unwrap_or_default()).await,
            [id] => match self.store.event(&tenant, id).await {
                Ok(record) => answer(StatusCode::OK, &shown(&record)),
                Err(error) => failed(&error),
            },
            _ => fault(StatusCode::NOT_FOUND, "not_found", "There is nothing at this path."),
        }
    }
}

/// A page of a tenant's events, as the query asks.
pub async fn list(store: &dyn Webhooks, tenant: &str, query: &str) -> Response<Bytes> {
    let (filter, limit) = match read_query(tenant, query) {
        Ok(read) => read,
        Err(text) => return fault(StatusCode::UNPROCESSABLE_ENTITY, "validation_error", text),
    };
    match store.tenant_events(filter, limit).await {
        Ok((events, has_more)) => {
            let data: Vec<Value> = events.iter().map(shown).collect();
            answer(StatusCode::OK, &json!({"object": "list", "has_more": has_more, "data": data}))
        }
        Err(StoreError::NotFound(_)) => {
            let text = "The event to go on `after` is not there.";
            fault(StatusCode::UNPROCESSABLE_ENTITY, "validation_error", text)
        }
        Err(error) => failed(&error),
    }
}

fn failed(error: &StoreError) -> Response<Bytes> {
    if let StoreError::NotFound(_) = error {
        return fault(StatusCode::NOT_FOUND, "not_found", "Event not found.");
    }
    tracing::error!(%error, "the store did not answer");
    unavailable("Events cannot be read now. Try again later.")
}

fn read_query(tenant: &str, query: &str) -> Result<(EventFilter, usize), String> {
    let mut filter = EventFilter { tenant: tenant.to_owned(), ..EventFilter::default() };
    let mut limit = PAGE;
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = decoded(value);
        let at = || value.parse::<Timestamp>().map(Some);
        match name {
            "type" => {
                let found =
                    AnyKind::from_name(&value).ok_or_else(|| format!("`type`: there is no event `{value}`."))?;
                filter.kinds.get_or_insert_default().push(found);
            }
            "from" => filter.from = at().map_err(|_| wrong_time(name))?,
            "to" => filter.to = at().map_err(|_| wrong_time(name))?,
            "email_id" => {
                let id = uuid::Uuid::parse_str(&value).map_err(|_| "`email_id` must be a UUID.".to_owned())?;
                filter.message = Some(id);
            }
            "stream" => {
                filter.stream = Some(value.parse().map_err(|error| format!("`stream`: {error}."))?);
            }
            "after" => filter.after = Some(value),
            "order" if value == "newest" => filter.oldest_first = false,
            "order" if value == "oldest" => filter.oldest_first = true,
            "order" => return Err("`order` must be `newest` or `oldest`.".to_owned()),
            "limit" => limit = page_limit(&value).ok_or("`limit` must be a number from 1 to 100.")?,
            _ => {
                let name: String = name.chars().take(64).collect();
                return Err(format!(
                    "`{name}` is no parameter: there are `type`, `email_id`, `stream`, `from`, `to`, `order`, `after`, `limit`."
                ));
            }
        }
    }
    Ok((filter, limit))
}

fn wrong_time(name: &str) -> String {
    format!("`{name}` must be a time such as 2026-11-22T10:00:00Z.")
}

/// A value of a query with its percent signs resolved, as far as they are right.
fn decoded(value: &str) -> String {
    let mut octets = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        let hex = behind.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        match hex.filter(|_| *first == b'%').and_then(|two| u8::from_str_radix(two, 16).ok()) {
            Some(octet) => {
                octets.push(octet);
                rest = &behind[2..];
            }
            None => {
                octets.push(*first);
                rest = behind;
            }
        }
    }
    String::from_utf8_lossy(&octets).into_owned()
}

/// An event as this API shows it.
pub(super) fn shown(event: &AnyEvent) -> Value {
    match event {
        AnyEvent::Message(record) => of_message(record),
        AnyEvent::Tenant(record) => json!({
            "object": "event", "id": record.id, "type": record.event.kind.name(), "created_at": time(record.at),
            "data": record.event.data,
        }),
    }
}

fn of_message(record: &EventRecord) -> Value {
    let attempt = record.event.attempt.as_ref().map(|(number, outcome)| {
        json!({
            "number": number, "remote_host": outcome.remote_host,
            "code": outcome.reply.as_ref().map(|reply| reply.code), "status": outcome.status.to_string(),
            "text": outcome.text, "tls": outcome.tls,
        })
    });
    json!({
        "object": "event", "id": record.id, "type": record.event.kind.name(), "created_at": time(record.at),
        "email_id": record.message.to_string(), "recipient": record.event.recipient.to_string(),
        "stream": record.stream.name(), "attempt": attempt,
        "reason": record.event.reason,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries() {
        let check = |query: &str, expect: Result<usize, &str>| match (read_query("t", query), expect) {
            (Ok((_, limit)), Ok(expect)) => assert_eq!(limit, expect, "{query}"),
            (Err(text), Err(expect)) => assert!(text.contains(expect), "{query}: {text}"),
            (found, _) => panic!("{query}: {found:?}"),
        };
        check("", Ok(PAGE));
        check("limit=7&type=email.sent&type=webhook.paused&order=oldest&after=evt_x", Ok(7));
        check("from=2026-11-22T10:00:00%2B00:00&to=2026-11-22T10:00:00Z", Ok(PAGE));
        check("limit=0", Err("`limit`"));
        check("type=email.opened", Err("no event `email.opened`"));
        check("from=yesterday", Err("`from`"));
        check("email_id=1", Err("`email_id`"));
        check("stream=broadcast", Ok(PAGE));
        check("stream=bulk", Err("`stream`"));
        check("order=up", Err("`order`"));
        check("before=x", Err("`before` is no parameter"));
        assert_eq!(decoded("a%2Bb%zz%4"), "a+b%zz%4");
    }
}
