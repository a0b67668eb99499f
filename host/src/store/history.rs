//! Events on disk: recorded in the outbox by the transaction that made them true, moved to `events.db` in batches.
//!
//! Invariants: an event's `seq` is handed out once, by the writer, and orders it over both databases. A moved event is
//! durable in `events.db` before it leaves the outbox, and readers look at the outbox first: so between the two an
//! event may stand in both, never in neither; who reads both drops the double by `seq`.

use jiff::Timestamp;
use mail::{Event, EventKind, Outcome, Reply, Stream};
use rusqlite::{Connection, Row, params};
use uuid::Uuid;

use super::lease::address;
use super::{EventRecord, StoreError, codes, deliveries};

pub(super) const COLUMNS: &str = "message, seq, id, kind, at_ms, recipient, reason, attempt, verdict, phase, status, text, \
                       remote_host, tls, reply_code, reply_status, reply_text";

/// Events that leave the outbox in one group of the writer's: whoever waits for the group waits for this too.
const FORGOTTEN_AT_ONCE: usize = 250;

/// An event's place: its message's key (or its tenant's, negative) and its `seq`.
pub(super) type EventKey = (i64, i64);

/// A new event's id. Its time stands in front, so that the index by id grows at its end.
pub(super) fn event_id() -> Uuid {
    Uuid::now_v7()
}

/// Records an event that says no more than its kind. The common case, with as few columns as it needs.
pub(super) fn record_plain(
    connection: &Connection,
    (message, seq): EventKey,
    id: Uuid,
    kind: EventKind,
    at_ms: i64,
    recipient: &str,
) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached(
        "INSERT INTO outbox (message, seq, id, kind, at_ms, recipient) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?;
    let kind = codes::kind_to(kind);
    statement.execute(params![message, seq, id.as_bytes(), kind, at_ms, recipient])?;
    Ok(())
}

/// Records an event of no attempt, with a reason.
pub(super) fn record_reason(
    connection: &Connection,
    key: EventKey,
    kind: EventKind,
    at_ms: i64,
    recipient: &str,
    reason: Option<&str>,
) -> rusqlite::Result<()> {
    record_plain(connection, key, event_id(), kind, at_ms, recipient)?;
    if let Some(reason) = reason {
        connection
            .prepare_cached("UPDATE outbox SET reason = ?3 WHERE message = ?1 AND seq = ?2")?
            .execute(params![key.0, key.1, reason])?;
    }
    Ok(())
}

/// Records any event.
pub(super) fn record(
    connection: &Connection,
    (message, seq): EventKey,
    at_ms: i64,
    event: &Event,
) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached(
        "INSERT INTO outbox VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17)",
    )?;
    let (number, outcome) = match &event.attempt {
        Some((number, outcome)) => (Some(*number), Some(outcome)),
        None => (None, None),
    };
    let reply = outcome.and_then(|outcome| outcome.reply.as_ref());
    statement.execute(params![
        message,
        seq,
        event_id().as_bytes(),
        codes::kind_to(event.kind),
        at_ms,
        event.recipient.to_string(),
        event.reason,
        number,
        outcome.map(|outcome| codes::verdict_to(outcome.verdict)),
        outcome.map(|outcome| codes::phase_to(outcome.phase)),
        outcome.map(|outcome| codes::status_to(outcome.status)),
        outcome.map(|outcome| &outcome.text),
        outcome.map(|outcome| &outcome.remote_host),
        outcome.map(|outcome| &outcome.tls),
        reply.map(|reply| reply.code),
        reply.and_then(|reply| reply.enhanced).map(codes::status_to),
        reply.map(|reply| &reply.text),
    ])?;
    Ok(())
}

/// The message whose events are read.
pub(super) struct Subject<'a> {
    pub(super) key: i64,
    pub(super) id: Uuid,
    pub(super) tenant: &'a str,
    pub(super) stream: Stream,
}

/// Events of a message behind `after`, oldest first, at most `limit`, each with its `seq`. On a reading connection,
/// inside a transaction.
pub(super) fn read(
    connection: &Connection,
    subject: &Subject<'_>,
    after: i64,
    limit: usize,
) -> Result<Vec<(i64, EventRecord)>, StoreError> {
    let mut found = Vec::new();
    // The outbox first: see the invariant above.
    for table in ["main.outbox", "events.event"] {
        let sql = format!("SELECT {COLUMNS} FROM {table} WHERE message = ?1 AND seq > ?2 ORDER BY seq LIMIT ?3");
        let mut statement = connection.prepare_cached(&sql)?;
        let mut rows = statement.query(params![subject.key, after, limit as i64])?;
        while let Some(row) = rows.next()? {
            found.push((row.get(1)?, decode(row, subject)?));
        }
    }
    found.sort_by_key(|(seq, _)| *seq);
    found.dedup_by_key(|(seq, _)| *seq);
    found.truncate(limit);
    Ok(found)
}

/// The name of a message's latest event, without `email.`. On a reading connection, inside a transaction.
pub(super) fn latest(connection: &Connection, message: i64) -> Result<Option<String>, StoreError> {
    let mut newest: Option<(i64, i64)> = None;
    for table in ["main.outbox", "events.event"] {
        let sql = format!("SELECT seq, kind FROM {table} WHERE message = ?1 ORDER BY seq DESC LIMIT 1");
        let mut statement = connection.prepare_cached(&sql)?;
        let mut rows = statement.query([message])?;
        if let Some(row) = rows.next()? {
            newest = newest.max(Some((row.get(0)?, row.get(1)?)));
        }
    }
    let name = newest.and_then(|(_, kind)| codes::kind_from(kind)).map(|kind| kind.name());
    Ok(name.map(|name| name.strip_prefix("email.").unwrap_or(name).to_owned()))
}

/// Events that were next to each other in the outbox, and are copied.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stretch {
    first: EventKey,
    last: EventKey,
    /// No copied event is newer. What was recorded between the two since is.
    newest_seq: i64,
    pub(super) count: usize,
}

/// What `copy_out` did.
pub(super) struct Copied {
    /// For `forget`, one after the other.
    pub(super) stretches: Vec<Stretch>,
    /// Webhooks that have more to be told.
    pub(super) webhooks: Vec<i64>,
}

/// Copies the first `limit` events of the outbox, durably, with a delivery for each webhook that wants one. The
/// connection writes `events.db` and reads the store, attached as `store`.
pub(super) fn copy_out(connection: &mut Connection, limit: usize, now_ms: i64) -> rusqlite::Result<Copied> {
    // Not IMMEDIATE: that would lock the store against its writer too.
    let transaction = connection.transaction()?;
    let first = "FROM store.outbox ORDER BY message, seq LIMIT ?1";
    let keys: Vec<EventKey> = transaction
        .prepare_cached(&format!("SELECT message, seq {first}"))?
        .query_map([limit as i64], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<_, _>>()?;
    let webhooks = deliveries::add(&transaction, limit, now_ms)?;
    // What was copied before a crash, and not yet forgotten, is there already.
    let owner =
        "CASE WHEN message < 0 THEN -message ELSE (SELECT m.tenant FROM store.message m WHERE m.key = message) END";
    transaction
        .prepare_cached(&format!("INSERT OR IGNORE INTO event ({COLUMNS}, tenant) SELECT {COLUMNS}, {owner} {first}"))?
        .execute([limit as i64])?;
    let newest = keys.iter().map(|(_, seq)| *seq).max().unwrap_or(0);
    transaction.execute("UPDATE progress SET seq = max(seq, ?1)", [newest])?;
    transaction.commit()?;
    let stretch = |keys: &[EventKey]| {
        let (first, last) = (*keys.first()?, *keys.last()?);
        Some(Stretch { first, last, newest_seq: newest, count: keys.len() })
    };
    Ok(Copied { stretches: keys.chunks(FORGOTTEN_AT_ONCE).filter_map(stretch).collect(), webhooks })
}

/// Removes copied events from the outbox, inside the writer's transaction.
pub(super) fn forget(connection: &Connection, stretch: Stretch) -> rusqlite::Result<()> {
    let Stretch { first, last, newest_seq, .. } = stretch;
    connection
        .prepare_cached(
            "DELETE FROM outbox WHERE (message, seq) >= (?1, ?2) AND (message, seq) <= (?3, ?4) AND seq <= ?5",
        )?
        .execute([first.0, first.1, last.0, last.1, newest_seq])?;
    Ok(())
}

/// The event in a row of `COLUMNS`.
pub(super) fn decode(row: &Row<'_>, subject: &Subject<'_>) -> Result<EventRecord, StoreError> {
    let unreadable = || StoreError::Io(format!("an event of message {} is not readable", subject.id));
    let id: [u8; 16] = row.get(2)?;
    let kind = codes::kind_from(row.get(3)?).ok_or_else(unreadable)?;
    let recipient = address(row, 5)?;
    let attempt = match row.get::<_, Option<u32>>(7)? {
        Some(number) => Some((number, decode_outcome(row)?.ok_or_else(unreadable)?)),
        None => None,
    };
    Ok(EventRecord {
        id: format!("evt_{}", Uuid::from_bytes(id)),
        message: subject.id,
        tenant: subject.tenant.to_owned(),
        stream: subject.stream,
        at: time(row.get(4)?),
        event: Event { kind, recipient, attempt, reason: row.get(6)? },
    })
}

fn decode_outcome(row: &Row<'_>) -> rusqlite::Result<Option<Outcome>> {
    let reply = match row.get::<_, Option<u16>>(14)? {
        Some(code) => Some(Reply {
            code,
            enhanced: row.get::<_, Option<i64>>(15)?.and_then(codes::status_from),
            text: row.get::<_, Option<String>>(16)?.unwrap_or_default(),
        }),
        None => None,
    };
    let verdict = row.get::<_, Option<i64>>(8)?.and_then(codes::verdict_from);
    let phase = row.get::<_, Option<i64>>(9)?.and_then(codes::phase_from);
    let status = row.get::<_, Option<i64>>(10)?.and_then(codes::status_from);
    let (Some(verdict), Some(phase), Some(status)) = (verdict, phase, status) else { return Ok(None) };
    let text = row.get::<_, Option<String>>(11)?.unwrap_or_default();
    Ok(Some(Outcome { verdict, phase, status, remote_host: row.get(12)?, reply, text, tls: row.get(13)? }))
}

/// A stored time. Times out of range cannot come from us; they read as 1970.
pub(super) fn time(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(ms).unwrap_or(Timestamp::UNIX_EPOCH)
}
