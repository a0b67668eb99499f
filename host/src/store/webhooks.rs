//! Webhooks and what is still to be told to them.
//!
//! A webhook stands in `store.db`. When events move to `events.db`, the same transaction adds a delivery for each
//! enabled webhook of the message's tenant that wants the event: no accept is slower for it, and a crash before or after
//! loses none and adds none twice. A delivery is there as long as it is to be made; what was tried is in the log.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use mail::ReversePath;

use super::{AnyEvent, AnyKind, Page, StoreError, TenantId};

/// Webhooks, in `store.db`.
pub(super) const SCHEMA: &str = "
CREATE TABLE webhook (
  key          INTEGER PRIMARY KEY AUTOINCREMENT,  -- never used again: deliveries in events.db name it
  id           TEXT NOT NULL UNIQUE,
  tenant       INTEGER NOT NULL,
  url          TEXT NOT NULL,
  kinds        INTEGER NOT NULL,                   -- bit 1 << kind for each kind of event it wants
  secret       BLOB NOT NULL,                      -- sealed
  old_secret   BLOB,                               -- the one before, sealed
  old_until_ms INTEGER,
  status       INTEGER NOT NULL,                   -- 1 enabled, 2 disabled, 3 paused
  reason       TEXT,
  created_ms   INTEGER NOT NULL
) STRICT;
CREATE INDEX webhook_tenant ON webhook (tenant);
";

/// Deliveries, attempts, and how endpoints fare, in `events.db`; and events by tenant and by id.
pub(super) const EVENTS_SCHEMA: &str = "
ALTER TABLE event ADD COLUMN tenant INTEGER;
CREATE INDEX event_tenant ON event (tenant, seq) WHERE tenant IS NOT NULL;
CREATE INDEX event_id ON event (id);

CREATE TABLE delivery (
  webhook  INTEGER NOT NULL,
  seq      INTEGER NOT NULL,     -- the event's
  message  INTEGER NOT NULL,
  due_ms   INTEGER NOT NULL,
  attempts INTEGER NOT NULL,
  PRIMARY KEY (webhook, seq)
) STRICT, WITHOUT ROWID;
CREATE INDEX delivery_due ON delivery (webhook, due_ms, seq);

CREATE TABLE attempt (
  key         INTEGER PRIMARY KEY,
  webhook     INTEGER NOT NULL,
  message     INTEGER,           -- NULL: a test
  event       BLOB NOT NULL,     -- UUID
  kind        INTEGER NOT NULL,
  number      INTEGER NOT NULL,
  at_ms       INTEGER NOT NULL,
  duration_ms INTEGER NOT NULL,
  status      INTEGER,           -- NULL: no answer
  error       TEXT,
  head        TEXT NOT NULL,
  next_ms     INTEGER            -- NULL: none follows
) STRICT;
CREATE INDEX attempt_webhook ON attempt (webhook, key);
CREATE INDEX attempt_message ON attempt (message) WHERE message IS NOT NULL;

-- Endpoints whose last attempt failed.
CREATE TABLE failing (
  webhook  INTEGER PRIMARY KEY,
  failures INTEGER NOT NULL,     -- in a row
  since_ms INTEGER NOT NULL
) STRICT;
";

/// Whether a webhook is told of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WebhookStatus {
    Enabled,
    /// By its owner, or by the endpoint (410).
    Disabled,
    /// By us: it kept failing.
    Paused,
}

/// Where a tenant wants to be told of events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Webhook {
    /// A UUID.
    pub id: String,
    pub tenant: TenantId,
    pub url: String,
    /// The kinds of events it wants.
    pub kinds: Vec<AnyKind>,
    /// The signing secret under the master key, bound to the id.
    pub sealed_secret: Vec<u8>,
    /// The secret before, which signs too until then.
    pub old_secret: Option<(Vec<u8>, Timestamp)>,
    pub status: WebhookStatus,
    /// Why it is not enabled, where its owner did not ask for it.
    pub reason: Option<String>,
    pub created_at: Timestamp,
}

/// What is changed of a webhook.
#[derive(Clone, Debug, Default)]
pub struct WebhookChange {
    pub url: Option<String>,
    pub kinds: Option<Vec<AnyKind>>,
    /// Its owner's word: whatever reason there was is gone.
    pub status: Option<WebhookStatus>,
}

/// A webhook inside: small, and never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WebhookKey(pub(super) i64);

/// What an event is about, inside: a message or a tenant. First attempts for one subject keep their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SubjectKey(pub(super) i64);

/// One event to be told to one webhook.
#[derive(Clone, Debug)]
pub struct Due {
    pub subject: SubjectKey,
    /// The order of events.
    pub seq: i64,
    pub due_at: Timestamp,
    /// Attempts made before.
    pub attempts: u32,
    pub event: AnyEvent,
    /// Of the message; empty where the event is a tenant's.
    pub message: MessageFacts,
}

/// What is told of a message beside its event.
#[derive(Clone, Debug, Default)]
pub struct MessageFacts {
    pub accepted_at: Timestamp,
    pub sender: ReversePath,
    pub tags: Vec<(String, String)>,
    pub attributes: Vec<(String, String)>,
    /// The message's header, as far as its first octets hold it, or what an earlier attempt kept of it.
    pub head: Option<Bytes>,
}

/// Failures in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failing {
    pub failures: u32,
    pub since: Timestamp,
}

/// What a webhook has waiting at a time.
#[derive(Clone, Debug)]
pub struct Waiting {
    /// Absent where it is gone.
    pub webhook: Option<Webhook>,
    /// Those due, first due first, in the order of events where that is the same.
    pub due: Vec<Due>,
    /// When the first of those not due yet is.
    pub next: Option<Timestamp>,
    pub failing: Option<Failing>,
}

/// One attempt, as its log tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptRecord {
    /// `att_` and a number.
    pub id: String,
    /// The webhook's id.
    pub webhook: String,
    pub url: String,
    /// The event's id.
    pub event: String,
    pub kind: AnyKind,
    /// From 1.
    pub number: u32,
    pub at: Timestamp,
    pub duration: Duration,
    /// Absent where there was no answer.
    pub status: Option<u16>,
    /// Why the attempt failed, where no status tells it.
    pub error: Option<String>,
    /// The first octets of the answer.
    pub head: String,
    /// When the next attempt is due; absent where none follows.
    pub next_at: Option<Timestamp>,
}

/// What one attempt came to, for the log and for what follows.
#[derive(Clone, Debug)]
pub struct Attempted {
    pub webhook: WebhookKey,
    /// The delivery that was tried; absent for a test, which is logged alone.
    pub delivery: Option<Tried>,
    /// The event's id.
    pub event: String,
    pub kind: AnyKind,
    pub number: u32,
    pub at: Timestamp,
    pub duration: Duration,
    pub status: Option<u16>,
    pub error: Option<String>,
    pub head: String,
}

/// A delivery after an attempt.
#[derive(Clone, Debug)]
pub struct Tried {
    pub subject: SubjectKey,
    pub seq: i64,
    /// As it was handed out: where it is due at another time by now, it was asked for anew and stays.
    pub due_at: Timestamp,
    /// `None`: done with.
    pub next: Option<Timestamp>,
    /// Of the message's header, for the tries to come: its body may be gone by then.
    pub head: Option<Bytes>,
    /// How the endpoint fares after it.
    pub failing: Option<Failing>,
}

/// What is sent again.
#[derive(Clone, Debug)]
pub enum Replay {
    /// One event by its id, whether the webhook wants its kind or not.
    Event(String),
    /// Those that the webhook wants, from and to included.
    Range(Timestamp, Timestamp),
}

/// Which events are listed.
#[derive(Clone, Debug, Default)]
pub struct EventFilter {
    pub tenant: TenantId,
    pub kinds: Option<Vec<AnyKind>>,
    pub message: Option<uuid::Uuid>,
    /// Only events of messages of this stream.
    pub stream: Option<mail::Stream>,
    pub from: Option<Timestamp>,
    pub to: Option<Timestamp>,
    /// The id of the event to go on after.
    pub after: Option<String>,
    /// Oldest first, without gaps: whoever goes on after the last one misses none.
    pub oldest_first: bool,
}

/// Webhooks, their outbox, and events across messages.
#[async_trait]
pub trait Webhooks: Send + Sync + 'static {
    /// `Exists` where the tenant has `most` already.
    async fn add_webhook(&self, webhook: Webhook, most: usize) -> Result<(), StoreError>;

    /// Those of a tenant, oldest first.
    async fn webhooks(&self, tenant: &str) -> Result<Vec<Webhook>, StoreError>;

    async fn webhook(&self, tenant: &str, id: &str) -> Result<(WebhookKey, Webhook), StoreError>;

    /// Changes what is given and leaves the rest as it is by then.
    async fn change_webhook(&self, tenant: &str, id: &str, change: WebhookChange) -> Result<(), StoreError>;

    /// Gives it another signing secret, sealed; the one it had until now signs too for a while.
    async fn rotate_secret(
        &self,
        tenant: &str,
        id: &str,
        sealed_secret: Vec<u8>,
        old_until: Timestamp,
    ) -> Result<(), StoreError>;

    /// Disables or pauses one that is enabled and still has that URL, says why, and announces it in the same
    /// transaction. Whether none with that URL is enabled now: `false` where it has another by now.
    async fn stop_webhook(
        &self,
        webhook: WebhookKey,
        url: &str,
        status: WebhookStatus,
        reason: &str,
        at: Timestamp,
    ) -> Result<bool, StoreError>;

    /// Its deliveries go with it; its log goes with time.
    async fn remove_webhook(&self, tenant: &str, id: &str) -> Result<(), StoreError>;

    /// Makes events due again now, at most `most` of them, and answers how many there are; `Full` where there are more.
    async fn replay(&self, webhook: WebhookKey, what: Replay, now: Timestamp, most: usize)
    -> Result<usize, StoreError>;

    /// The log of a webhook, newest first.
    async fn attempts(
        &self,
        webhook: WebhookKey,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Page<AttemptRecord>, StoreError>;

    /// The last attempt that told a webhook of an event.
    async fn attempt_for(&self, webhook: WebhookKey, event: &str) -> Result<AttemptRecord, StoreError>;

    /// The attempts made for a message's events, oldest first.
    async fn attempts_for(&self, message: uuid::Uuid, limit: usize) -> Result<Vec<AttemptRecord>, StoreError>;

    /// Enabled webhooks with something to be told, now or later.
    async fn waiting_webhooks(&self) -> Result<Vec<WebhookKey>, StoreError>;

    /// What a webhook has waiting, at most `limit` of what is due.
    async fn waiting(&self, webhook: WebhookKey, now: Timestamp, limit: usize) -> Result<Waiting, StoreError>;

    /// Logs attempts and moves their deliveries on, durably.
    async fn attempted(&self, attempts: Vec<Attempted>) -> Result<(), StoreError>;

    /// Resolves when webhooks may have something due that they had not before, and names them. One caller at a time.
    async fn news(&self) -> Vec<WebhookKey>;

    /// Removes what the log holds from before a time.
    async fn forget_attempts(&self, before: Timestamp) -> Result<bool, StoreError>;

    /// Events of a tenant and of its messages, at most `limit`, and whether there are more.
    async fn tenant_events(&self, filter: EventFilter, limit: usize) -> Result<(Vec<AnyEvent>, bool), StoreError>;

    /// One event of a tenant by its id.
    async fn event(&self, tenant: &str, id: &str) -> Result<AnyEvent, StoreError>;
}
