//! Everything durable, behind three traits of few async operations: `Store` for mail, `Directory` for who may send,
//! `Webhooks` for who is told.
//!
//! Embedded, mail and directory are one SQLite database (WAL, synchronous=FULL, one writer thread with group commit) and spool
//! segments beside it. PostgreSQL can stand behind the same traits when a fleet shares one queue, so nothing outside
//! may assume that one process owns the queue.
//!
//! # States of a message, embedded
//!
//! | State | On disk | Who moves it on | What a crash leaves |
//! |---|---|---|---|
//! | handed in | nothing | the writer, into a group | nothing; its sender has no answer and repeats |
//! | appended | a frame in the segment, behind the last committed one | the writer, by a sync | a torn or whole frame that nothing names: overwritten |
//! | synced | the same, durable | the writer, by a commit | the same |
//! | scheduled | message, recipients with `due_ms` ahead, `state` 1 in the schedule, `email.scheduled` in the outbox | the writer before a lease, or a cancellation | scheduled |
//! | canceled | `due_ms` NULL, `done_ms` set, `state` 3, `email.canceled` in the outbox | the retention | canceled |
//! | queued | message, recipients with `due_ms`, event in the outbox | the queue, by a lease | queued; where its sender had no answer, a repetition is `Replayed` |
//! | leased | the same: leases are in memory | the queue, by a completion | queued, due at once; an attempt under way may repeat |
//! | waiting | `due_ms` ahead; after an attempt it is counted and its event is in the outbox | time | waiting |
//! | held | `due_ms` and `done_ms` NULL | the operator | held |
//! | moved | a frame in a newer segment that the row names, a row in `moved`; the old frame lies unused | the retention | before the commit the old place, behind it the new one |
//! | reported | with a recipient's completion, in its transaction: another message, queued | the queue | both or neither |
//! | done | `due_ms` NULL, `done_ms` set, last event in the outbox | the retention | done |
//! | retired | no segment row; rows stay, the body is gone | the spool: the file is used again | a file that no row names: used again |
//! | forgotten | nothing: events went first, then the rows | nobody | done without events, and forgotten by the next sweep |
//! | set aside | as it was, but its bytes do not fit their checksum | the queue: `email.failed`, reason `damaged` | found again when it is leased |
//!
//! `tests/states.rs` stops each of these ways at every point of its group.
//!
//! A machine that stops (not a process) may take back outcomes of the last tenth of a second, as if it had stopped before
//! they were recorded: their commits are synced with the next one that accepts mail, or by then.
//!
//! An event is in the outbox, then in both databases, then in `events.db` alone; a crash leaves it in at least one,
//! and readers see it once.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use mail::{Address, Event, Outcome, ReversePath, Stream, dsn};
use thiserror::Error;
use uuid::Uuid;

use crate::scram::Verifier;

mod accepting;
mod audit;
mod backup;
mod checkpointing;
mod codes;
mod components;
mod deliveries;
mod directory;
mod domain_cache;
mod domain_changes;
mod edges;
mod embedded;
mod faults;
mod feed;
mod fresh;
mod history;
mod housekeeping;
mod jobs;
mod key_schema;
mod lanes;
mod lease;
mod operators;
pub(crate) mod private;
mod queue_schema;
mod reading;
mod requests;
mod retention;
mod scheduling;
mod schema;
mod scopes;
mod segment;
mod sending_schema;
mod space;
mod templates;
mod tenant_events;
mod tenants;
mod tenants_schema;
mod tending;
mod vault;
mod verification;
mod webhook_rows;
mod webhooks;
mod writer;

#[cfg(test)]
mod tests;

pub use audit::{AuditLog, Audited};
pub use backup::Backup;
pub use components::{
    ComponentStore, ComponentVersion, NewVersion, OnFailure, StageSettings, TenantLimits, VERSIONS_KEPT, VersionState,
};
pub use domain_changes::{DomainChange, DomainChanges, DueCheck, KeyState, Seen};
pub use edges::{DeliveryToken, EdgeKey, Edges};
pub use embedded::{Embedded, Options};
pub use faults::{Faults, NoFaults, Point};
pub use operators::{OperatorKey, Operators};
pub use schema::OpenError;
pub use scopes::{Scope, Scopes};
pub use templates::{From as TemplateFrom, Template, TemplateChange, TemplateContent, Templates};
pub use tenant_events::{Announcements, AnyEvent, AnyKind, TenantEvent, TenantEventKind, TenantEventRecord};
pub use tenants::{Pause, Quotas, Streams, Tenant, TenantTerms, Tenants, Used};
pub use tending::{BOUNCED, PURGED, Pick, QueueChange, QueueFilter, QueuedRecipient, Tended};
pub use vault::{SealedSecret, SecretPlace, Vault};
pub use verification::{DomainStatus, Verification};
pub use webhooks::{
    AttemptRecord, Attempted, Due, EventFilter, Failing, MessageFacts, Replay, SubjectKey, Tried, Waiting, Webhook,
    WebhookChange, WebhookKey, WebhookStatus, Webhooks,
};

/// A tenant's name. `default` always exists.
pub type TenantId = String;

/// What became of a call into the store.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The idempotency key was used before for another request.
    #[error("the idempotency key was used before for a different request")]
    IdempotencyMismatch,
    /// The message id exists for another message.
    #[error("the message id is taken")]
    DuplicateId,
    #[error("already there: {0}")]
    Exists(String),
    #[error("not found: {0}")]
    NotFound(String),
    /// The disk is full or over its reserve.
    #[error("no space left to store mail")]
    Full,
    /// The message waits for no time of its own (any more); the text says since when not.
    #[error("the message is not scheduled: {0}")]
    NotScheduled(&'static str),
    /// Storage failed. After a failed sync nothing is accepted any more.
    #[error("storage failed: {0}")]
    Io(String),
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> StoreError {
        match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DiskFull) => StoreError::Full,
            _ => StoreError::Io(format!("the database: {error}")),
        }
    }
}

/// Where a body lies. Opaque outside the store.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BodyRef(pub String);

/// A message to be made durable.
#[derive(Clone, Debug)]
pub struct NewMessage {
    pub id: Uuid,
    pub tenant: TenantId,
    pub sender: ReversePath,
    pub recipients: Vec<Address>,
    /// Recipients that stand in no header field.
    pub bcc: Vec<Address>,
    /// RFC 5322, signed.
    pub body: Bytes,
    /// That of the stream among them: see `Stream::of`.
    pub attributes: Vec<(String, String)>,
    pub tags: Vec<(String, String)>,
    pub idempotency: Option<Idempotency>,
    pub accepted_at: Timestamp,
    /// When it is to be sent, where that is later.
    pub scheduled_at: Option<Timestamp>,
    /// What reports its sender asked for. `None`: it came on a road on which none are asked for, and gets none.
    pub request: Option<Arc<dsn::Request>>,
}

/// An idempotency key, the digest of the request it came with, and the message's place in that request, from 0. Kept
/// for 24 h. A key of another request is a mismatch for each of its messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idempotency {
    pub key: String,
    pub digest: String,
    pub item: u32,
}

/// What became of a message that was to be accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// Durable now.
    Stored,
    /// The same request was accepted before, as this message. Nothing new is stored.
    Replayed(Uuid),
}

/// Recipients of one message that are due, in this caller's hands until completed.
#[derive(Clone, Debug)]
pub struct Leased {
    pub message: Uuid,
    pub tenant: TenantId,
    pub stream: Stream,
    pub sender: ReversePath,
    pub body: BodyRef,
    pub size_bytes: u64,
    /// Since when delivery is owed: when it was accepted, or the time it was scheduled for.
    pub accepted_at: Timestamp,
    /// As it was accepted, with what was told since.
    pub request: Option<Arc<dsn::Request>>,
    pub recipients: Vec<LeasedRecipient>,
}

#[derive(Clone, Debug)]
pub struct LeasedRecipient {
    /// Its place in the message's envelope.
    pub index: u32,
    pub address: Address,
    /// Attempts made before.
    pub attempts: u32,
}

/// What an attempt came to, and what follows.
#[derive(Clone, Debug)]
pub struct Completion {
    pub message: Uuid,
    pub index: u32,
    pub next: Next,
    /// Events to record in the same transaction.
    pub events: Vec<Event>,
    pub at: Timestamp,
    /// A report to accept in the same transaction, so that a crash neither loses nor repeats it. What keeps new mail out
    /// does not keep it out.
    pub report: Option<Box<NewMessage>>,
    /// Whether a report in this batch tells of this recipient's delay; it is remembered with the request.
    pub tells_delay: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// The recipient is done with; its last event says how.
    Done,
    /// Due again. Counts as an attempt.
    Retry(Timestamp),
    /// Back to where it was, not counted: the attempt was never made (shutdown, or too much waits for the same peer).
    Release,
}

/// Mail of a tenant's stream to a domain that is left where it is until a time: whatever waits for it already is enough, or nobody
/// there answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rest {
    pub tenant: TenantId,
    pub domain: mail::Domain,
    pub stream: Stream,
    pub until: Timestamp,
}

/// A message as its owner sees it.
#[derive(Clone, Debug)]
pub struct MessageView {
    pub id: Uuid,
    pub tenant: TenantId,
    pub stream: Stream,
    pub sender: ReversePath,
    pub recipients: Vec<Address>,
    /// Of them: those not done with.
    pub waiting: usize,
    pub bcc: Vec<Address>,
    pub body: BodyRef,
    pub size_bytes: u64,
    pub accepted_at: Timestamp,
    /// The time it was or is to be sent at, where it had one of its own.
    pub scheduled_at: Option<Timestamp>,
    pub tags: Vec<(String, String)>,
    /// The latest of its recipients' events.
    pub last_event: Option<String>,
}

/// An event as stored.
#[derive(Clone, Debug)]
pub struct EventRecord {
    /// Unique and stable: `evt_` and a UUID.
    pub id: String,
    pub message: Uuid,
    pub tenant: TenantId,
    /// Of the message.
    pub stream: Stream,
    pub at: Timestamp,
    pub event: Event,
}

/// One page of a list, oldest or newest first as the call says.
#[derive(Clone, Debug)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// Hand it in to get the next page; absent on the last.
    pub next: Option<String>,
}

/// Mail: from acceptance to the last recipient's end.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Makes messages durable, each on its own: the answers stand in order. `Ok` means that body, envelope, idempotency
    /// key and the first event of each recipient (`email.sent`, or `email.scheduled`) survive a power cut. Repeating a call with the
    /// same id, tenant and digest is answered `Replayed`. A batch is stored in one transaction.
    async fn accept(&self, batch: Vec<NewMessage>) -> Vec<Result<Accepted, StoreError>>;

    /// Whether a call of `accept` with this idempotency key and place would store nothing new.
    async fn is_replay(&self, tenant: &str, idempotency: &Idempotency, now: Timestamp) -> Result<bool, StoreError>;

    /// Gives a message that waits for its time another one. `NotScheduled` once it is sent or canceled.
    async fn reschedule(&self, tenant: &str, message: Uuid, to: Timestamp) -> Result<(), StoreError>;

    /// Ends a message that waits for its time, with `email.canceled` for each recipient. `NotScheduled` once it is sent
    /// or canceled. What was canceled is never leased.
    async fn cancel(&self, tenant: &str, message: Uuid, at: Timestamp) -> Result<(), StoreError>;

    /// Recipients due at `now`, at most `limit` of them, leased to the caller: in no other lease until they are completed.
    /// A restart of the process owes no wait: what was leased is due again. What was scheduled gets its `email.sent` before
    /// it is leased, once.
    ///
    /// Tenants are served in turn, and for each its destination domains, so that nobody's backlog stands in front of
    /// another's mail; for one domain oldest due first.
    ///
    /// Several queues may lease from one store. In PostgreSQL a lease is `SELECT … FOR UPDATE SKIP LOCKED` and an `UPDATE`
    /// that writes holder and end into the rows, in one transaction. Its holder renews it well before its end; a row whose
    /// lease has ended is due again. A completion counts only while the row names its holder, and is compared in the same
    /// statement; so a queue that was cut off may have delivered once more than is recorded, and never records over another's
    /// lease. Clocks are the database's.
    async fn lease(&self, now: Timestamp, limit: usize) -> Result<Vec<Leased>, StoreError>;

    /// Leases nothing of these streams of tenants to these domains until its time; a time that is over ends a rest. For the
    /// caller's leases alone, and forgotten by a restart.
    async fn rest(&self, rests: Vec<Rest>, now: Timestamp) -> Result<(), StoreError>;

    /// Resolves when something may be due that no lease has handed out: after an accept or a release, or at the time
    /// of the next retry. `now` is the caller's clock. One caller at a time is woken.
    async fn wait_due(&self, now: Timestamp);

    /// Ends leases: outcomes and events in one transaction. Reports in it are durable with the answer; outcomes survive the
    /// process then, and soon after the machine: until then an attempt may be repeated.
    async fn complete(&self, batch: Vec<Completion>) -> Result<(), StoreError>;

    /// The bytes of a message. `NotFound` where they are gone or damaged, which is for good.
    async fn body(&self, body: &BodyRef) -> Result<Bytes, StoreError>;

    /// The first `octets` of a message, or all of a shorter one. Damage behind them is not found.
    async fn body_head(&self, body: &BodyRef, octets: u32) -> Result<Bytes, StoreError>;

    async fn message(&self, tenant: &str, id: Uuid) -> Result<MessageView, StoreError>;

    /// Newest first.
    async fn messages(&self, tenant: &str, cursor: Option<&str>, limit: usize)
    -> Result<Page<MessageView>, StoreError>;

    /// Events of one message (all tenants' where `message` is absent is not offered), oldest first.
    async fn events(
        &self,
        tenant: &str,
        message: Uuid,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Page<EventRecord>, StoreError>;

    /// Adds events that come from outside an attempt (a complaint).
    async fn record(&self, message: Uuid, events: Vec<Event>, at: Timestamp) -> Result<(), StoreError>;

    /// Queued recipients that fit. A page may hold fewer than `limit`, or none, and yet have a next one.
    async fn queue(
        &self,
        filter: &QueueFilter,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Page<QueuedRecipient>, StoreError>;

    /// Changes the next of the queued recipients that fit, some hundreds at most, in one transaction, with their events.
    /// The caller goes on with `next` until there is none.
    async fn tend(
        &self,
        filter: &QueueFilter,
        change: QueueChange,
        cursor: Option<&str>,
        at: Timestamp,
    ) -> Result<Tended, StoreError>;

    /// Copies all of it to a folder, which is made and must not be there yet, while everything goes on. `Exists` where it
    /// is there.
    async fn backup(&self, to: &std::path::Path) -> Result<Backup, StoreError>;

    /// Recipients not done with yet: leased, waiting or held.
    async fn queued(&self) -> Result<u64, StoreError>;
}

/// An API key as its owner sees it. The key itself is shown once and never stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiKey {
    /// `key_` and a UUID.
    pub id: String,
    pub tenant: TenantId,
    pub name: String,
    /// The first characters, to know it by.
    pub prefix: String,
    pub created_at: Timestamp,
    pub revoked_at: Option<Timestamp>,
    /// What it may be used for.
    pub scopes: Scopes,
    /// The only stream that it may be used for.
    pub stream: Option<Stream>,
    /// From then on it is dead; `None`: never.
    pub expires_at: Option<Timestamp>,
    /// The last time it was used, late by up to a minute or so; `None`: never.
    pub used_at: Option<Timestamp>,
    /// Whether SCRAM takes it. Set by `set_verifier` alone.
    pub has_verifier: bool,
}

impl ApiKey {
    /// Whether it is good at this time.
    pub fn is_live(&self, now: Timestamp) -> bool {
        self.revoked_at.is_none() && self.expires_at.is_none_or(|end| now < end)
    }
}

/// A sending domain of a tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SendingDomain {
    pub id: Uuid,
    pub tenant: TenantId,
    pub domain: mail::Domain,
    pub created_at: Timestamp,
    /// In every state; those that are active sign.
    pub keys: Vec<DkimKey>,
    /// Keys that edges sign with.
    pub edge_keys: Vec<EdgeKey>,
    /// It was added by API key: it sends once its records are verified.
    pub needs_proof: bool,
    pub verification: Option<Verification>,
}

/// A DKIM key pair; the private half is sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DkimKey {
    /// `dkim_` and a UUID: the `key-id` of `posthaste:keys`.
    pub id: String,
    pub selector: String,
    pub algorithm: mail::dkim::Algorithm,
    /// What the DNS record's `p=` holds, before base64: SubjectPublicKeyInfo DER for RSA, 32 raw bytes for Ed25519.
    pub public: Vec<u8>,
    /// PKCS#8 DER under the master key; empty once it is retired.
    pub sealed_private: Vec<u8>,
    pub state: KeyState,
    pub created_at: Timestamp,
}

/// Who may send: tenants, API keys, domains.
#[async_trait]
pub trait Directory: Send + Sync + 'static {
    /// The live key with this SHA-256.
    async fn key_by_hash(&self, hash: [u8; 32]) -> Result<Option<ApiKey>, StoreError>;
    async fn add_key(&self, key: ApiKey, hash: [u8; 32]) -> Result<(), StoreError>;
    /// The key of this id with its SHA-256 and what SCRAM needs of it, where that is known.
    async fn verifier(&self, id: &str) -> Result<Option<(ApiKey, [u8; 32], Verifier)>, StoreError>;
    /// Stores what SCRAM needs of a key that is there.
    async fn set_verifier(&self, id: &str, verifier: Verifier) -> Result<(), StoreError>;
    async fn keys(&self, tenant: Option<&str>) -> Result<Vec<ApiKey>, StoreError>;
    /// `NotFound` where there is none, or none live.
    async fn revoke_key(&self, id: &str, at: Timestamp) -> Result<(), StoreError>;
    /// Ends a live key at this time, where it does not end before. `NotFound` as in `revoke_key`.
    async fn expire_key(&self, id: &str, at: Timestamp) -> Result<(), StoreError>;
    /// Takes note that a key was used; it is written with others, later.
    fn key_used(&self, id: &str, at: Timestamp);
    /// Writes down which keys were used since the last time.
    async fn keep_key_uses(&self) -> Result<(), StoreError>;
    async fn add_domain(&self, domain: SendingDomain) -> Result<(), StoreError>;
    async fn domains(&self, tenant: Option<&str>) -> Result<Vec<SendingDomain>, StoreError>;
    async fn domain(&self, tenant: &str, domain: &mail::Domain) -> Result<Option<SendingDomain>, StoreError>;
    /// The operator's word: the domain sends without proof from now on.
    async fn vouch_for(&self, tenant: &str, domain: &mail::Domain) -> Result<(), StoreError>;
    async fn remove_domain(&self, tenant: &str, domain: &mail::Domain) -> Result<(), StoreError>;
}

/// The name of the last event, for a recipient whose attempt came to this outcome.
pub fn is_final(outcome: &Outcome) -> bool {
    !matches!(outcome.verdict, mail::Verdict::Deferred)
}
