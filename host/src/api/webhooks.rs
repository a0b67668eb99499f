//! `/webhooks`, in the shape of Resend's: where a tenant wants to be told of events, and how that went.
//!
//! A caller sees its own tenant's webhooks; another's are not found. A signing secret is shown when it is made, and
//! never again.

use std::sync::{Arc, OnceLock};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, Uri};
use jiff::{SignedDuration, Timestamp};
use mail::EventKind;
use serde_json::{Map, Value, json};
use tokio::sync::Semaphore;
use uuid::Uuid;

use super::credential;
use super::fault::{fault, json as answer, unavailable};
use crate::event::teller::{Teller, sample};
use crate::keyring::Keyring;
use crate::store::{
    AnyKind, AttemptRecord, Attempted, Directory, Replay, StoreError, TenantEventKind, Webhook, WebhookChange,
    WebhookKey, WebhookStatus, Webhooks as Store,
};
use crate::web::address::Reachable;

/// Where all routes of this API begin.
pub const PREFIX: &str = "/webhooks";

/// Webhooks of one tenant.
const OF_ONE_TENANT: usize = 50;
/// Bytes of a URL.
const URL_BYTES: usize = 2048;
/// Octets of a signing secret before base64 (Standard Webhooks: 24 to 64).
const SECRET_OCTETS: usize = 32;
/// How long the secret before signs too.
const ROTATION: SignedDuration = SignedDuration::from_hours(24);
/// Events of one replay.
const REPLAYED: usize = 10_000;
/// Tests under way at once: each waits for its endpoint.
const TESTS: usize = 4;
/// Entries on a page unless the caller says otherwise, and the most there may be.
const PAGE: usize = 20;
const PAGE_MOST: usize = 100;

/// All kinds of events of messages, in the order in which they are shown; those of tenants follow.
const KINDS: [EventKind; 9] = [
    EventKind::Sent,
    EventKind::Scheduled,
    EventKind::Delivered,
    EventKind::DeliveryDelayed,
    EventKind::Complained,
    EventKind::Bounced,
    EventKind::Failed,
    EventKind::Suppressed,
    EventKind::Canceled,
];

/// Answers `/webhooks` and what is below it.
pub struct Webhooks {
    store: Arc<dyn Store>,
    directory: Arc<dyn Directory>,
    keyring: Arc<Keyring>,
    reachable: Reachable,
    /// Set once the WASM side, which answers through this, is there.
    teller: Arc<OnceLock<Teller>>,
    tests: Semaphore,
}

/// Why a request is not answered with what it asked for.
enum Failure {
    NotFound(&'static str),
    /// The request is wrong; the text tells its author, and names the field.
    Wrong(String),
    Busy,
    Method,
    Store(StoreError),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Failure {
        match error {
            StoreError::NotFound(what) if what.starts_with("event") => Failure::NotFound("Event not found."),
            StoreError::NotFound(what) if what.starts_with("attempt") => {
                Failure::Wrong("The attempt to go on `after` is not there.".to_owned())
            }
            StoreError::NotFound(_) => Failure::NotFound("Webhook not found."),
            StoreError::Exists(what) => Failure::Wrong(format!("There are {what}.")),
            error => Failure::Store(error),
        }
    }
}

impl Failure {
    fn into_response(self) -> Response<Bytes> {
        match self {
            Failure::NotFound(text) => fault(StatusCode::NOT_FOUND, "not_found", text),
            Failure::Wrong(text) => fault(StatusCode::UNPROCESSABLE_ENTITY, "validation_error", text),
            Failure::Busy => fault(
                StatusCode::TOO_MANY_REQUESTS,
                "rate_limit_exceeded",
                "Other webhooks are being tested. Try again later.",
            ),
            Failure::Method => {
                fault(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "This method is not answered here.")
            }
            Failure::Store(error) => {
                tracing::error!(%error, "the store did not answer");
                unavailable("Webhooks cannot be reached now. Try again later.")
            }
        }
    }
}

type Answered = Result<Response<Bytes>, Failure>;

impl Webhooks {
    pub fn new(
        store: Arc<dyn Store>,
        directory: Arc<dyn Directory>,
        keyring: Arc<Keyring>,
        reachable: Reachable,
        teller: Arc<OnceLock<Teller>>,
    ) -> Webhooks {
        Webhooks { store, directory, keyring, reachable, teller, tests: Semaphore::new(TESTS) }
    }

    /// Answers one request for `/webhooks` or a path below it.
    pub async fn answer(&self, request: Request<Bytes>) -> Response<Bytes> {
        let tenant = match credential::caller(&*self.directory, request.headers()).await {
            Ok(key) => key.tenant,
            Err(response) => return response,
        };
        self.route(&tenant, &request).await.unwrap_or_else(Failure::into_response)
    }

    async fn route(&self, tenant: &str, request: &Request<Bytes>) -> Answered {
        let path: Vec<&str> = request.uri().path().trim_matches('/').split('/').skip(1).collect();
        let body = request.body();
        match (request.method(), path.as_slice()) {
            (&Method::POST, []) => self.create(tenant, body).await,
            (&Method::GET, []) => self.list(tenant).await,
            (&Method::GET, [id]) => Ok(answer(StatusCode::OK, &shown(&self.find(tenant, id).await?.1, true))),
            (&Method::PATCH, [id]) => self.change(tenant, id, body).await,
            (&Method::DELETE, [id]) => {
                let id = uuid(id)?;
                self.store.remove_webhook(tenant, &id).await?;
                Ok(answer(StatusCode::OK, &json!({"object": "webhook", "id": id, "deleted": true})))
            }
            (&Method::POST, [id, "rotate"] | [id, "signing-secret", "rotate"]) => self.rotate(tenant, id).await,
            (&Method::POST, [id, "test"]) => self.test(tenant, id, body).await,
            (&Method::POST, [id, "replay"]) => self.replay(tenant, id, body).await,
            (&Method::POST, [id, "events", event, "replay"]) => {
                let (key, _) = self.find(tenant, id).await?;
                self.store.replay(key, Replay::Event((*event).to_owned()), Timestamp::now(), 1).await?;
                Ok(answer(StatusCode::OK, &json!({"object": "webhook_event", "id": event})))
            }
            (&Method::GET, [id, "attempts"]) => self.attempts(tenant, id, request.uri()).await,
            (_, [] | [_] | [_, "rotate" | "test" | "replay" | "attempts"]) => Err(Failure::Method),
            _ => Err(Failure::NotFound("There is nothing at this path.")),
        }
    }

    async fn find(&self, tenant: &str, id: &str) -> Result<(WebhookKey, Webhook), Failure> {
        Ok(self.store.webhook(tenant, &uuid(id)?).await?)
    }

    async fn create(&self, tenant: &str, body: &[u8]) -> Answered {
        let mut fields = Fields::read(body)?;
        let url = fields.endpoint(self.reachable)?.ok_or_else(|| missing("endpoint"))?;
        let kinds = fields.events()?.ok_or_else(|| missing("events"))?;
        fields.end(&["endpoint", "events"])?;
        let id = Uuid::new_v4().to_string();
        let _sealing = self.keyring.sealing().await;
        let (secret, sealed_secret) = self.secret(&id)?;
        let webhook = Webhook {
            id: id.clone(),
            tenant: tenant.to_owned(),
            url,
            kinds,
            sealed_secret,
            old_secret: None,
            status: WebhookStatus::Enabled,
            reason: None,
            created_at: Timestamp::now(),
        };
        self.store.add_webhook(webhook, OF_ONE_TENANT).await?;
        Ok(answer(StatusCode::CREATED, &json!({"object": "webhook", "id": id, "signing_secret": secret})))
    }

    /// A fresh signing secret, and the same sealed.
    fn secret(&self, id: &str) -> Result<(String, Vec<u8>), Failure> {
        let octets: [u8; SECRET_OCTETS] = rand::random();
        let secret = format!("whsec_{}", STANDARD.encode(octets));
        let sealed = self.keyring.seal(id, secret.as_bytes());
        Ok((secret, sealed.map_err(|error| Failure::Store(StoreError::Io(error.to_string())))?))
    }

    async fn list(&self, tenant: &str) -> Answered {
        let webhooks = self.store.webhooks(tenant).await?;
        let data: Vec<Value> = webhooks.iter().map(|webhook| shown(webhook, false)).collect();
        Ok(answer(StatusCode::OK, &json!({"object": "list", "has_more": false, "data": data})))
    }

    async fn change(&self, tenant: &str, id: &str, body: &[u8]) -> Answered {
        let id = uuid(id)?;
        // Whose it is comes before what is wrong with the request.
        self.store.webhook(tenant, &id).await?;
        let mut fields = Fields::read(body)?;
        let (url, kinds) = (fields.endpoint(self.reachable)?, fields.events()?);
        let change = WebhookChange { url, kinds, status: fields.status()? };
        fields.end(&["endpoint", "events", "status"])?;
        self.store.change_webhook(tenant, &id, change).await?;
        Ok(answer(StatusCode::OK, &json!({"object": "webhook", "id": id})))
    }

    async fn rotate(&self, tenant: &str, id: &str) -> Answered {
        let id = uuid(id)?;
        let _sealing = self.keyring.sealing().await;
        let (secret, sealed) = self.secret(&id)?;
        let until = Timestamp::now().checked_add(ROTATION).unwrap_or(Timestamp::MAX);
        self.store.rotate_secret(tenant, &id, sealed, until).await?;
        let view = json!({
            "object": "webhook", "id": id, "signing_secret": secret, "old_secret_signs_until": time(until),
        });
        Ok(answer(StatusCode::OK, &view))
    }

    async fn test(&self, tenant: &str, id: &str, body: &[u8]) -> Answered {
        let (key, webhook) = self.find(tenant, id).await?;
        let mut fields = Fields::read(body)?;
        let kind = fields.kind("type")?.or(webhook.kinds.first().copied()).unwrap_or(EventKind::Sent.into());
        fields.end(&["type"])?;
        let Some(teller) = self.teller.get() else { return Err(Failure::Busy) };
        let Ok(_place) = self.tests.try_acquire() else { return Err(Failure::Busy) };
        let event = format!("evt_{}", Uuid::now_v7());
        let told = teller.tell(&webhook, sample(kind, tenant, &event, Timestamp::now())).await;
        let (status, error, head) = told.summary();
        let attempted = Attempted {
            webhook: key,
            delivery: None,
            event: event.clone(),
            kind,
            number: 1,
            at: told.at,
            duration: told.duration,
            status,
            error,
            head,
        };
        self.store.attempted(vec![attempted]).await?;
        let logged = self.store.attempt_for(key, &event).await?;
        Ok(answer(StatusCode::OK, &attempt(&logged)))
    }

    async fn replay(&self, tenant: &str, id: &str, body: &[u8]) -> Answered {
        let (key, webhook) = self.find(tenant, id).await?;
        let mut fields = Fields::read(body)?;
        let event = fields.text("event_id")?;
        let (from, to) = (fields.time("from")?, fields.time("to")?);
        fields.end(&["event_id", "from", "to"])?;
        let what = match (event, from, to) {
            (Some(event), None, None) => Replay::Event(event),
            (None, Some(from), to) => Replay::Range(from, to.unwrap_or(Timestamp::MAX)),
            (Some(_), _, _) => {
                return Err(Failure::Wrong("`event_id` stands alone, without `from` and `to`.".to_owned()));
            }
            (None, None, _) => {
                return Err(Failure::Wrong("Say what to replay: `event_id`, or `from` and `to`.".to_owned()));
            }
        };
        if webhook.status != WebhookStatus::Enabled {
            return Err(Failure::Wrong("The webhook is not enabled: enable it before you replay.".to_owned()));
        }
        let replayed = self.store.replay(key, what, Timestamp::now(), REPLAYED).await;
        let count = replayed.map_err(|error| match error {
            StoreError::Full => Failure::Wrong(format!(
                "There are more than {REPLAYED} events from `from` to `to`: replay them in parts."
            )),
            error => error.into(),
        })?;
        Ok(answer(StatusCode::OK, &json!({"object": "webhook", "id": webhook.id, "replayed": count})))
    }

    async fn attempts(&self, tenant: &str, id: &str, uri: &Uri) -> Answered {
        let (key, _) = self.find(tenant, id).await?;
        let query = uri.query().unwrap_or_default();
        let (mut after, mut limit) = (None, PAGE);
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some(("after", id)) => after = Some(id),
                Some(("limit", text)) => limit = page_limit(text).ok_or_else(wrong_limit)?,
                _ => return Err(Failure::Wrong(format!("`{pair}` is no parameter: there are `after` and `limit`."))),
            }
        }
        let page = self.store.attempts(key, after, limit).await?;
        let data: Vec<Value> = page.items.iter().map(attempt).collect();
        Ok(answer(StatusCode::OK, &json!({"object": "list", "has_more": page.next.is_some(), "data": data})))
    }
}

/// The fields of a request, taken one by one; what is left over is nobody's.
struct Fields(Map<String, Value>);

impl Fields {
    fn read(body: &[u8]) -> Result<Fields, Failure> {
        if body.iter().all(u8::is_ascii_whitespace) {
            return Ok(Fields(Map::new()));
        }
        match serde_json::from_slice(body) {
            Ok(Value::Object(fields)) => Ok(Fields(fields)),
            Ok(_) => Err(Failure::Wrong("The body must be a JSON object.".to_owned())),
            Err(error) => Err(Failure::Wrong(format!("The body is not JSON: {error}."))),
        }
    }

    fn text(&mut self, name: &'static str) -> Result<Option<String>, Failure> {
        match self.0.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(Failure::Wrong(format!("`{name}` must be text."))),
        }
    }

    fn time(&mut self, name: &'static str) -> Result<Option<Timestamp>, Failure> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        let wrong = || Failure::Wrong(format!("`{name}` must be a time such as 2026-11-22T10:00:00Z."));
        text.parse().map(Some).map_err(|_| wrong())
    }

    fn endpoint(&mut self, reachable: Reachable) -> Result<Option<String>, Failure> {
        let Some(url) = self.text("endpoint")? else { return Ok(None) };
        match endpoint_fault(&url, reachable) {
            None => Ok(Some(url)),
            Some(text) => Err(Failure::Wrong(format!("`endpoint` {text}."))),
        }
    }

    fn kind(&mut self, name: &'static str) -> Result<Option<AnyKind>, Failure> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        AnyKind::from_name(&text).map(Some).ok_or_else(|| unknown_event(name, &text))
    }

    fn events(&mut self) -> Result<Option<Vec<AnyKind>>, Failure> {
        let names = match self.0.remove("events") {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::Array(names)) => names,
            Some(_) => return Err(Failure::Wrong("`events` must be a list of names of events.".to_owned())),
        };
        let mut wanted = Vec::new();
        for (index, name) in names.iter().enumerate() {
            let field = format!("events[{index}]");
            let Value::String(name) = name else { return Err(Failure::Wrong(format!("`{field}` must be text."))) };
            wanted.push(AnyKind::from_name(name).ok_or_else(|| unknown_event(&field, name))?);
        }
        if wanted.is_empty() {
            return Err(Failure::Wrong("`events` is empty: name at least one event.".to_owned()));
        }
        Ok(Some(kinds().filter(|kind| wanted.contains(kind)).collect()))
    }

    fn status(&mut self) -> Result<Option<WebhookStatus>, Failure> {
        match self.text("status")?.as_deref() {
            None => Ok(None),
            Some("enabled") => Ok(Some(WebhookStatus::Enabled)),
            Some("disabled") => Ok(Some(WebhookStatus::Disabled)),
            Some(_) => Err(Failure::Wrong("`status` must be `enabled` or `disabled`.".to_owned())),
        }
    }

    fn end(self, known: &[&str]) -> Result<(), Failure> {
        match self.0.keys().next() {
            None => Ok(()),
            Some(name) => {
                let name: String = name.chars().take(64).collect();
                let known = known.join("`, `");
                Err(Failure::Wrong(format!("`{name}` is no field of this request: there are `{known}`.")))
            }
        }
    }
}

fn missing(field: &str) -> Failure {
    Failure::Wrong(format!("`{field}` is missing."))
}

fn unknown_event(field: &str, name: &str) -> Failure {
    let name: String = name.chars().take(64).collect();
    let names = kinds().map(AnyKind::name).collect::<Vec<_>>().join("`, `");
    Failure::Wrong(format!("`{field}`: there is no event `{name}`; there are `{names}`."))
}

fn kinds() -> impl Iterator<Item = AnyKind> {
    KINDS.into_iter().map(AnyKind::from).chain(TenantEventKind::ALL.into_iter().map(AnyKind::from))
}

/// The limit of a page, where the text is one.
pub(super) fn page_limit(text: &str) -> Option<usize> {
    text.parse().ok().filter(|limit| (1..=PAGE_MOST).contains(limit))
}

fn wrong_limit() -> Failure {
    Failure::Wrong("`limit` must be a number from 1 to 100.".to_owned())
}

/// What is wrong with an endpoint's URL. Names are looked up, and their addresses checked, at every try.
fn endpoint_fault(url: &str, reachable: Reachable) -> Option<String> {
    if url.len() > URL_BYTES {
        return Some(format!("has {} bytes: at most {URL_BYTES} are allowed", url.len()));
    }
    let uri: Uri = match url.parse() {
        Ok(uri) => uri,
        Err(error) => return Some(format!("is not a URL: {error}")),
    };
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Some("must begin with https:// or http://".to_owned());
    }
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    if host.is_empty() {
        return Some("names no host".to_owned());
    }
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Some("holds credentials, which would not be sent: authenticate by the signature".to_owned());
    }
    if url.contains('#') {
        return Some("holds a fragment, which would not be sent".to_owned());
    }
    let literal = if host.eq_ignore_ascii_case("localhost") { "127.0.0.1" } else { host };
    let is_barred = literal.parse().is_ok_and(|ip| !reachable.allows(ip));
    is_barred.then(|| format!("is on this machine or in a private network (`{host}`), which is not allowed here"))
}

fn uuid(text: &str) -> Result<String, Failure> {
    let id = Uuid::parse_str(text).map_err(|_| Failure::NotFound("Webhook not found."))?;
    Ok(id.to_string())
}

fn shown(webhook: &Webhook, alone: bool) -> Value {
    let status = match webhook.status {
        WebhookStatus::Enabled => "enabled",
        WebhookStatus::Disabled => "disabled",
        WebhookStatus::Paused => "paused",
    };
    let events: Vec<&str> = webhook.kinds.iter().map(|kind| kind.name()).collect();
    let mut view = json!({
        "id": webhook.id, "created_at": time(webhook.created_at), "status": status, "status_reason": webhook.reason,
        "endpoint": webhook.url, "events": events,
    });
    if let (true, Some(fields)) = (alone, view.as_object_mut()) {
        fields.insert("object".to_owned(), "webhook".into());
    }
    view
}

fn attempt(record: &AttemptRecord) -> Value {
    json!({
        "id": record.id, "event_id": record.event, "type": record.kind.name(), "number": record.number,
        "sent_at": time(record.at), "duration_ms": u64::try_from(record.duration.as_millis()).unwrap_or(u64::MAX),
        "http_status_code": record.status, "response": record.head, "error": record.error,
        "next_attempt_at": record.next_at.map(time),
    })
}

/// `2026-04-03T22:13:42.674981+00:00`.
pub(super) fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S.%6f+00:00").to_string()
}

#[cfg(test)]
#[path = "webhooks_tests.rs"]
mod tests;
