//! Events of a tenant itself, which belong to no message of its: a webhook that was paused, a quota that runs out.
//!
//! They go the way of all events, in order with them: recorded in the transaction of what they tell, moved to
//! `events.db`, listed, told to webhooks. In the tables they have their tenant's key, negative, where others have their
//! message's key, which is positive; their data stands in `text`.

use async_trait::async_trait;
use jiff::Timestamp;
use mail::EventKind;
use rusqlite::{Connection, Row, params};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::accepting::{self, Counters};
use super::embedded::Embedded;
use super::history::{event_id, time};
use super::writer::Job;
use super::{EventRecord, StoreError, TenantId, codes};

/// A migration of `events.db`: see `schema`.
pub(super) const EVENTS_SCHEMA: &str = "
-- Events of kinds that few have. Every recipient has an email.sent (kind 1): event_tenant finds those as quickly.
CREATE INDEX event_kind ON event (tenant, kind, seq) WHERE kind > 1;

-- Of a delivery that is tried again: what is told of the message's header, whose body may be gone by then.
ALTER TABLE delivery ADD COLUMN head BLOB;
";

/// Octets of an event's data as JSON: it travels in an attribute of the contract.
const DATA_OCTETS: usize = 4 << 10;
/// Of a text in it, where the whole is longer.
const TEXT_OCTETS: usize = 256;

/// What can happen to a tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TenantEventKind {
    /// We tell a webhook no more, because it kept failing.
    WebhookPaused,
    /// A webhook's endpoint wants no more events (410).
    WebhookDisabled,
    /// A tenant comes near to what it may send.
    QuotaWarning,
    /// A domain's verification came to something else than before.
    DomainUpdated,
    /// A component was taken back for the one before it.
    ComponentRolledBack,
    /// A built-in component serves in place of one that fails.
    ComponentFallback,
}

impl TenantEventKind {
    /// All there are, in the order in which they are shown.
    pub const ALL: [TenantEventKind; 6] = [
        TenantEventKind::WebhookPaused,
        TenantEventKind::WebhookDisabled,
        TenantEventKind::QuotaWarning,
        TenantEventKind::DomainUpdated,
        TenantEventKind::ComponentRolledBack,
        TenantEventKind::ComponentFallback,
    ];

    /// `webhook.paused` and so on.
    pub fn name(self) -> &'static str {
        match self {
            TenantEventKind::WebhookPaused => "webhook.paused",
            TenantEventKind::WebhookDisabled => "webhook.disabled",
            TenantEventKind::QuotaWarning => "quota.warning",
            TenantEventKind::DomainUpdated => "domain.updated",
            TenantEventKind::ComponentRolledBack => "component.rolled_back",
            TenantEventKind::ComponentFallback => "component.fallback",
        }
    }
}

/// One fact about a tenant.
#[derive(Clone, Debug, PartialEq)]
pub struct TenantEvent {
    pub kind: TenantEventKind,
    /// What there is to know of it: the `data` that API and webhooks show. Together at most 4 KiB as JSON; where it is
    /// more, texts are cut.
    pub data: Map<String, Value>,
}

impl TenantEvent {
    /// A fact with its data, by name.
    pub fn new<const N: usize>(kind: TenantEventKind, data: [(&str, Value); N]) -> TenantEvent {
        TenantEvent { kind, data: data.into_iter().map(|(name, value)| (name.to_owned(), value)).collect() }
    }
}

/// An event of a tenant as stored.
#[derive(Clone, Debug, PartialEq)]
pub struct TenantEventRecord {
    /// Unique and stable: `evt_` and a UUID.
    pub id: String,
    pub tenant: TenantId,
    pub at: Timestamp,
    pub event: TenantEvent,
}

/// A kind of event, of messages or of tenants: what a list or a webhook asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AnyKind {
    Message(EventKind),
    Tenant(TenantEventKind),
}

impl AnyKind {
    /// The name in API and webhooks.
    pub fn name(self) -> &'static str {
        match self {
            AnyKind::Message(kind) => kind.name(),
            AnyKind::Tenant(kind) => kind.name(),
        }
    }

    /// The reverse of `name`.
    pub fn from_name(name: &str) -> Option<AnyKind> {
        let of_tenant = || TenantEventKind::ALL.into_iter().find(|kind| kind.name() == name);
        EventKind::from_name(name).map(AnyKind::from).or_else(|| of_tenant().map(AnyKind::from))
    }
}

impl From<EventKind> for AnyKind {
    fn from(kind: EventKind) -> AnyKind {
        AnyKind::Message(kind)
    }
}

impl From<TenantEventKind> for AnyKind {
    fn from(kind: TenantEventKind) -> AnyKind {
        AnyKind::Tenant(kind)
    }
}

/// An event as stored, of a message or of a tenant.
#[derive(Clone, Debug)]
pub enum AnyEvent {
    Message(EventRecord),
    Tenant(TenantEventRecord),
}

impl AnyEvent {
    /// `evt_` and a UUID.
    pub fn id(&self) -> &str {
        match self {
            AnyEvent::Message(record) => &record.id,
            AnyEvent::Tenant(record) => &record.id,
        }
    }

    pub fn at(&self) -> Timestamp {
        match self {
            AnyEvent::Message(record) => record.at,
            AnyEvent::Tenant(record) => record.at,
        }
    }

    pub fn kind(&self) -> AnyKind {
        match self {
            AnyEvent::Message(record) => record.event.kind.into(),
            AnyEvent::Tenant(record) => record.event.kind.into(),
        }
    }
}

/// Where the host says what happened to a tenant.
#[async_trait]
pub trait Announcements: Send + Sync + 'static {
    /// Records an event of a tenant, durably: it is listed, and told to the tenant's webhooks that want it. Where the
    /// event tells of something else that is stored, it belongs into that one's transaction instead.
    async fn announce(&self, tenant: &str, event: TenantEvent, at: Timestamp) -> Result<(), StoreError>;
}

#[async_trait]
impl Announcements for Embedded {
    async fn announce(&self, tenant: &str, event: TenantEvent, at: Timestamp) -> Result<(), StoreError> {
        let tenant = tenant.to_owned();
        self.ask(|answer| Job::Change {
            change: Box::new(move |connection, counters| {
                let tenant = accepting::tenant_key(connection, counters, &tenant)?;
                record(connection, counters, tenant, event, at)
            }),
            answer,
        })
        .await?
    }
}

/// Records an event of a tenant in the outbox, inside the transaction of what it tells.
pub(super) fn record(
    connection: &Connection,
    counters: &mut Counters,
    tenant: i64,
    event: TenantEvent,
    at: Timestamp,
) -> Result<(), StoreError> {
    let kind = codes::any_kind_to(event.kind.into());
    let data = written(event.data)?;
    counters.seq += 1;
    connection
        .prepare_cached(
            "INSERT INTO outbox (message, seq, id, kind, at_ms, recipient, text) VALUES (?1, ?2, ?3, ?4, ?5, '', ?6)",
        )?
        .execute(params![-tenant, counters.seq, event_id().as_bytes(), kind, at.as_millisecond(), data])?;
    Ok(())
}

fn written(mut data: Map<String, Value>) -> Result<String, StoreError> {
    let write = |data: &Map<String, Value>| {
        serde_json::to_string(data)
            .map_err(|error| StoreError::Io(format!("an event's data cannot be stored: {error}")))
    };
    let text = write(&data)?;
    if text.len() <= DATA_OCTETS {
        return Ok(text);
    }
    for value in data.values_mut() {
        if let Value::String(text) = value {
            text.truncate(text.floor_char_boundary(TEXT_OCTETS));
        }
    }
    let text = write(&data)?;
    if text.len() > DATA_OCTETS {
        return Err(StoreError::Io(format!("an event's data has {} octets of {DATA_OCTETS}", text.len())));
    }
    Ok(text)
}

/// The event in a row of `history::COLUMNS`, where it is a tenant's.
pub(super) fn decode(row: &Row<'_>, tenant: &str) -> Result<Option<TenantEventRecord>, StoreError> {
    if row.get::<_, i64>(0)? >= 0 {
        return Ok(None);
    }
    let unreadable = || StoreError::Io(format!("an event of tenant {tenant} is not readable"));
    let Some(AnyKind::Tenant(kind)) = codes::any_kind_from(row.get(3)?) else { return Err(unreadable()) };
    let data = serde_json::from_str(&row.get::<_, String>(11)?).map_err(|_| unreadable())?;
    Ok(Some(TenantEventRecord {
        id: format!("evt_{}", Uuid::from_bytes(row.get(2)?)),
        tenant: tenant.to_owned(),
        at: time(row.get(4)?),
        event: TenantEvent { kind, data },
    }))
}
