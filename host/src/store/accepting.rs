//! What an accept writes: the message, its recipients, its idempotency key and the first event of each recipient
//! (`email.sent`, or `email.scheduled` where it is to be sent later), all in the group's transaction; the body in the group's segment.

use std::collections::HashMap;

use mail::{Address, EventKind, Stream};
use rusqlite::{Connection, OptionalExtension, params};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::lanes::{self, Lane};
use super::lease::Held;
use super::segment::{Spool, digest};
use super::writer::GroupError;
use super::{Accepted, Idempotency, NewMessage, StoreError, history, scheduling, tenants};

/// How long an idempotency key is kept.
pub(super) const IDEMPOTENCY_MS: i64 = 24 * 60 * 60 * 1000;

/// A message made ready by its submitter, so that the writer has nothing to compute.
pub(super) struct Prepared {
    id: Uuid,
    tenant: String,
    sender: Option<String>,
    recipients: Vec<PreparedRecipient>,
    extra: Option<String>,
    pub(super) body: bytes::Bytes,
    digest: u64,
    idempotency: Option<Idempotency>,
    accepted_ms: i64,
    /// Of a message that is sent later.
    send_ms: Option<i64>,
    stream: Stream,
}

struct PreparedRecipient {
    address: String,
    /// Of its domain, for the lane.
    domain: u32,
    /// The id of its first event.
    event: Uuid,
}

/// What few messages have: one JSON column, NULL where all of it is empty.
#[derive(Default, Serialize, Deserialize, PartialEq)]
pub(super) struct Extra {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) bcc: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) attributes: Vec<(String, String)>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) tags: Vec<(String, String)>,
}

impl Prepared {
    pub(super) fn new(message: NewMessage) -> Result<Prepared, StoreError> {
        if u32::try_from(message.body.len()).is_err() {
            return Err(StoreError::Io("a message of 4 GiB or more cannot be stored".to_owned()));
        }
        let stream = Stream::of(&message.attributes);
        let extra = Extra {
            bcc: message.bcc.iter().map(ToString::to_string).collect(),
            attributes: message.attributes,
            tags: message.tags,
        };
        let extra = if extra == Extra::default() {
            None
        } else {
            let text = serde_json::to_string(&extra);
            Some(text.map_err(|error| StoreError::Io(format!("attributes or tags cannot be stored: {error}")))?)
        };
        let accepted_ms = message.accepted_at.as_millisecond();
        let send_ms = message.scheduled_at.map(|at| at.as_millisecond()).filter(|send_ms| *send_ms > accepted_ms);
        Ok(Prepared {
            id: message.id,
            tenant: message.tenant,
            sender: message.sender.map(|sender| sender.to_string()),
            // The ids of their first events are made here, off the writer's thread.
            recipients: message.recipients.iter().map(PreparedRecipient::new).collect(),
            extra,
            digest: digest(&message.body),
            body: message.body,
            idempotency: message.idempotency,
            accepted_ms,
            send_ms,
            stream,
        })
    }
}

impl PreparedRecipient {
    fn new(address: &Address) -> PreparedRecipient {
        PreparedRecipient {
            address: address.to_string(),
            domain: lanes::domain_number(address.domain().as_str()),
            event: history::event_id(),
        }
    }
}

/// The counters of the writer: numbers it hands out, and tenants it knows.
pub(super) struct Counters {
    pub(super) message: i64,
    pub(super) seq: i64,
    pub(super) tenants: HashMap<String, i64>,
    /// The segment that stands in the table already.
    pub(super) segment: Option<u64>,
}

/// Accepts one message inside the group's transaction. The outer error fails the group, the inner one this message.
/// What became due by it is added to `due`; the number is that of its recipients, 0 where nothing was stored.
pub(super) fn accept(
    connection: &Connection,
    spool: &mut Spool,
    counters: &mut Counters,
    message: &Prepared,
    due: &mut Vec<Held>,
) -> Result<(Result<Accepted, StoreError>, u64), GroupError> {
    let tenant = tenant_key(connection, counters, &message.tenant)?;
    if let Some(answer) = replay(connection, tenant, message)? {
        return Ok((answer, 0));
    }
    let Some(key) = insert_message(connection, spool, counters, tenant, message)? else {
        return Ok((same_id(connection, tenant, message)?, 0));
    };
    let due_ms = message.send_ms.unwrap_or(message.accepted_ms);
    let kind = if message.send_ms.is_some() { EventKind::Scheduled } else { EventKind::Sent };
    if let Some(send_ms) = message.send_ms {
        scheduling::add(connection, key, send_ms)?;
    }
    let mut last = None;
    for (place, PreparedRecipient { address, domain, event }) in message.recipients.iter().enumerate() {
        let lane = Lane::new(tenant, message.stream, *domain);
        connection
            .prepare_cached(
                "INSERT INTO recipient (message, place, address, attempts, due_ms, lane) VALUES (?1, ?2, ?3, 0, ?4, ?5)",
            )?
            .execute(params![key, place as i64, address, due_ms, lane.key()])?;
        counters.seq += 1;
        history::record_plain(connection, (key, counters.seq), *event, kind, message.accepted_ms, address)?;
        // The first of each run is enough: the lane is read from there.
        if last.replace(lane) != Some(lane) {
            due.push((lane, (due_ms, key, place as i64)));
        }
    }
    if let Some(Idempotency { key, digest, item }) = &message.idempotency {
        // REPLACE: an expired one may stand there still.
        connection
            .prepare_cached(
                "INSERT OR REPLACE INTO idempotency (tenant, key, item, digest, message, at_ms)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            )?
            .execute(params![tenant, key, item, digest, message.id.as_bytes(), message.accepted_ms])?;
    }
    Ok((Ok(Accepted::Stored), message.recipients.len() as u64))
}

/// Removes idempotency keys that are over.
pub(super) fn forget_idempotency(connection: &Connection, now_ms: i64) -> rusqlite::Result<usize> {
    connection.prepare_cached("DELETE FROM idempotency WHERE at_ms < ?1")?.execute([now_ms - IDEMPOTENCY_MS])
}

/// The integer that stands for a tenant; a tenant seen for the first time is added.
pub(super) fn tenant_key(connection: &Connection, counters: &mut Counters, name: &str) -> rusqlite::Result<i64> {
    if let Some(key) = counters.tenants.get(name) {
        return Ok(*key);
    }
    connection
        .prepare_cached("INSERT OR IGNORE INTO tenant (name, id, created_ms) VALUES (?1, ?2, unixepoch() * 1000)")?
        .execute([name, &tenants::tenant_id()])?;
    let key =
        connection.prepare_cached("SELECT key FROM tenant WHERE name = ?1")?.query_row([name], |row| row.get(0))?;
    counters.tenants.insert(name.to_owned(), key);
    Ok(key)
}

/// The same for a tenant that is there already.
pub(super) fn known_tenant(
    connection: &Connection,
    counters: &mut Counters,
    name: &str,
) -> rusqlite::Result<Option<i64>> {
    match counters.tenants.get(name) {
        Some(key) => Ok(Some(*key)),
        None => super::reading::tenant_key(connection, name),
    }
}

/// The answer of an earlier request with the same idempotency key.
fn replay(
    connection: &Connection,
    tenant: i64,
    message: &Prepared,
) -> rusqlite::Result<Option<Result<Accepted, StoreError>>> {
    let Some(idempotency) = &message.idempotency else { return Ok(None) };
    let Idempotency { key, digest, item } = idempotency;
    // The message's own place in the request first; any other of the same key tells whether the request is the same.
    let found = connection
        .prepare_cached(
            "SELECT digest, message, item FROM idempotency WHERE tenant = ?1 AND key = ?2 AND at_ms >= ?3
             ORDER BY item = ?4 DESC LIMIT 1",
        )?
        .query_row(params![tenant, key, message.accepted_ms - IDEMPOTENCY_MS, item], |row| {
            Ok((row.get::<_, String>(0)?, Uuid::from_bytes(row.get(1)?), row.get::<_, u32>(2)?))
        })
        .optional()?;
    Ok(match found {
        None => None,
        Some((first, _, _)) if first != *digest => Some(Err(StoreError::IdempotencyMismatch)),
        Some((_, id, place)) => (place == *item).then_some(Ok(Accepted::Replayed(id))),
    })
}

/// Whether an idempotency key has stood for the same place of a request in the time that keys are kept.
pub(super) fn is_known(
    connection: &Connection,
    tenant: i64,
    idempotency: &Idempotency,
    now: jiff::Timestamp,
) -> rusqlite::Result<bool> {
    let Idempotency { key, item, .. } = idempotency;
    connection
        .prepare_cached("SELECT 1 FROM idempotency WHERE tenant = ?1 AND key = ?2 AND item = ?3 AND at_ms >= ?4")?
        .exists(params![tenant, key, item, now.as_millisecond() - IDEMPOTENCY_MS])
}

/// Adds body and message row; `None` where the id is taken.
fn insert_message(
    connection: &Connection,
    spool: &mut Spool,
    counters: &mut Counters,
    tenant: i64,
    message: &Prepared,
) -> Result<Option<i64>, GroupError> {
    let key = counters.message + 1;
    let added = connection
        .prepare_cached(
            "INSERT INTO message (key, id, tenant, sender, segment, position, size, digest, accepted_ms, extra)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10) ON CONFLICT (id) DO NOTHING",
        )?
        .execute(params![
            key,
            message.id.as_bytes(),
            tenant,
            message.sender,
            spool.number().cast_signed(),
            spool.position().cast_signed(),
            message.body.len() as i64,
            message.digest.cast_signed(),
            message.accepted_ms,
            message.extra,
        ])?;
    if added == 0 {
        return Ok(None);
    }
    counters.message = key;
    spool.append(message.id, &message.body, message.digest).map_err(GroupError::write)?;
    note_segment(connection, counters, spool.number(), key)?;
    Ok(Some(key))
}

/// Has a segment that is written to stand in the table, with its first message.
pub(super) fn note_segment(
    connection: &Connection,
    counters: &mut Counters,
    segment: u64,
    first_message: i64,
) -> rusqlite::Result<()> {
    if counters.segment != Some(segment) {
        connection
            .prepare_cached("INSERT OR IGNORE INTO segment (number, first_message) VALUES (?1, ?2)")?
            .execute([segment.cast_signed(), first_message])?;
        counters.segment = Some(segment);
    }
    Ok(())
}

/// The answer where the id is taken: by the same message, or by another.
fn same_id(connection: &Connection, tenant: i64, message: &Prepared) -> rusqlite::Result<Result<Accepted, StoreError>> {
    let same = connection
        .prepare_cached("SELECT tenant = ?2 AND digest = ?3 AND size = ?4 FROM message WHERE id = ?1")?
        .query_row(
            params![message.id.as_bytes(), tenant, message.digest.cast_signed(), message.body.len() as i64],
            |row| row.get::<_, bool>(0),
        )?;
    Ok(if same { Ok(Accepted::Replayed(message.id)) } else { Err(StoreError::DuplicateId) })
}
