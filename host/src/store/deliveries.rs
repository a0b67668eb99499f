//! What is to be told to webhooks, and what was tried: the rows of `events.db`.
//!
//! Invariant: a delivery is added in the transaction that brings its event to `events.db`, and leaves in the one that
//! logs its last attempt.

use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use mail::Stream;
use rusqlite::{Connection, OptionalExtension, Row, params};
use uuid::Uuid;

use super::accepting::Extra;
use super::feed::event_uuid;
use super::history::{self, EventKey, Subject, time};
use super::lease::{place, sender};
use super::segment::{self, Place};
use super::{
    AnyEvent, AttemptRecord, Attempted, Due, Failing, MessageFacts, Page, Replay, StoreError, SubjectKey, Tried,
    Waiting, WebhookKey, codes, tenant_events, webhook_rows,
};

/// Of a message: what its From, To and Subject are read from.
const HEAD_OCTETS: u32 = 16 << 10;
/// Rows removed in one transaction.
const FORGOTTEN_AT_ONCE: usize = 2000;

/// Adds deliveries for the first `limit` events of the outbox that are not in `events.db` yet, and answers whose they
/// are. The connection writes `events.db` and reads the store as `store`, inside a transaction.
pub(super) fn add(connection: &Connection, limit: usize, now_ms: i64) -> rusqlite::Result<Vec<i64>> {
    let any = "SELECT EXISTS (SELECT 1 FROM store.webhook WHERE status = 1)";
    if !connection.prepare_cached(any)?.query_row([], |row| row.get(0))? {
        return Ok(Vec::new());
    }
    let mut statement = connection.prepare_cached(
        "INSERT OR IGNORE INTO delivery (webhook, seq, message, due_ms, attempts)
         SELECT w.key, o.seq, o.message, ?2, 0
         FROM (SELECT message, seq, kind FROM store.outbox ORDER BY message, seq LIMIT ?1) o
         LEFT JOIN store.message m ON m.key = o.message
         JOIN store.webhook w ON w.tenant = coalesce(m.tenant, -o.message)
         WHERE w.status = 1 AND w.kinds >> o.kind & 1
           AND NOT EXISTS (SELECT 1 FROM event e WHERE e.message = o.message AND e.seq = o.seq)
         RETURNING webhook",
    )?;
    let mut whose: Vec<i64> =
        statement.query_map(params![limit as i64, now_ms], |row| row.get(0))?.collect::<Result<_, _>>()?;
    whose.sort_unstable();
    whose.dedup();
    Ok(whose)
}

/// The latest time at which a first attempt was made due: those made due later must not come before them.
pub(super) fn latest_due(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("SELECT coalesce(max(due_ms), 0) FROM delivery WHERE attempts = 0", [], |row| row.get(0))
}

pub(super) fn waiting_webhooks(connection: &Connection) -> Result<Vec<WebhookKey>, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT w.key FROM main.webhook w
         WHERE w.status = 1 AND EXISTS (SELECT 1 FROM events.delivery d WHERE d.webhook = w.key)",
    )?;
    Ok(statement.query_map([], |row| row.get(0).map(WebhookKey))?.collect::<Result<_, _>>()?)
}

/// On a reading connection, inside a transaction.
pub(super) fn waiting(
    connection: &Connection,
    spool: &Path,
    webhook: WebhookKey,
    now: Timestamp,
    limit: usize,
) -> Result<Waiting, StoreError> {
    // The deliveries first: what they name is older than they, so it is there when the store is read behind them.
    let next: Option<i64> = connection
        .prepare_cached("SELECT min(due_ms) FROM events.delivery WHERE webhook = ?1 AND due_ms > ?2")?
        .query_row([webhook.0, now.as_millisecond()], |row| row.get(0))?;
    let sql = format!(
        "SELECT {} FROM main.webhook w JOIN main.tenant t ON t.key = w.tenant WHERE w.key = ?1",
        webhook_rows::COLUMNS
    );
    let found = connection.prepare_cached(&sql)?.query_row([webhook.0], webhook_rows::read).optional()?;
    let found = found.map(|(_, webhook)| webhook);
    let failing = connection
        .prepare_cached("SELECT failures, since_ms FROM events.failing WHERE webhook = ?1")?
        .query_row([webhook.0], |row| Ok(Failing { failures: row.get(0)?, since: time(row.get(1)?) }))
        .optional()?;
    let due = match &found {
        Some(found) => read_due(connection, spool, webhook, &found.tenant, now, limit)?,
        None => Vec::new(),
    };
    Ok(Waiting { webhook: found, due, next: next.map(time), failing })
}

fn read_due(
    connection: &Connection,
    spool: &Path,
    webhook: WebhookKey,
    tenant: &str,
    now: Timestamp,
    limit: usize,
) -> Result<Vec<Due>, StoreError> {
    let columns = history::COLUMNS.split(", ").map(|column| format!("e.{column}")).collect::<Vec<_>>().join(", ");
    let sql = format!(
        "SELECT {columns}, m.id, d.due_ms, d.attempts, m.accepted_ms, m.extra, m.sender, m.segment, m.position, m.size, d.head
         FROM events.delivery d
         JOIN events.event e ON e.message = d.message AND e.seq = d.seq
         LEFT JOIN main.message m ON m.key = d.message
         WHERE d.webhook = ?1 AND d.due_ms <= ?2 ORDER BY d.due_ms, d.seq LIMIT ?3"
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query(params![webhook.0, now.as_millisecond(), limit as i64])?;
    let mut due: Vec<Due> = Vec::new();
    while let Some(row) = rows.next()? {
        let subject = SubjectKey(row.get(0)?);
        let (seq, due_at, attempts) = (row.get(1)?, time(row.get(18)?), row.get(19)?);
        if let Some(event) = tenant_events::decode(row, tenant)? {
            let (event, message) = (AnyEvent::Tenant(event), MessageFacts::default());
            due.push(Due { subject, seq, due_at, attempts, event, message });
            continue;
        }
        let extra: Extra = match row.get::<_, Option<String>>(21)? {
            // What cannot be read is left out: the event itself is told all the same.
            Some(text) => serde_json::from_str(&text).unwrap_or_default(),
            None => Extra::default(),
        };
        // Events of one message often follow each other.
        let head = match (row.get::<_, Option<Vec<u8>>>(26)?, due.last()) {
            (Some(kept), _) => Some(kept.into()),
            (None, Some(last)) if last.subject == subject => last.message.head.clone(),
            (None, _) => read_head(spool, place(row, 23)?),
        };
        let id = Uuid::from_bytes(row.get(17)?);
        let event = AnyEvent::Message(history::decode(
            row,
            &Subject { key: subject.0, id, tenant, stream: Stream::of(&extra.attributes) },
        )?);
        let message = MessageFacts {
            accepted_at: time(row.get(20)?),
            sender: sender(row, 22)?,
            tags: extra.tags,
            attributes: extra.attributes,
            head,
        };
        due.push(Due { subject, seq, due_at, attempts, event, message });
    }
    Ok(due)
}

/// Messages in a segment that webhooks were never told of and still are to be, at most `limit`. On a reading connection.
pub(super) fn untold(connection: &Connection, segment: i64, limit: usize) -> rusqlite::Result<Vec<(i64, Place)>> {
    connection
        .prepare_cached(
            "SELECT DISTINCT m.key, m.segment, m.position, m.size
             FROM events.delivery d JOIN main.message m ON m.key = d.message
             WHERE d.head IS NULL AND m.segment = ?1 LIMIT ?2",
        )?
        .query_map([segment, limit as i64], |row| Ok((row.get(0)?, place(row, 1)?)))?
        .collect()
}

/// Keeps what is told of these messages, whose bodies are about to go. On `events.db`.
pub(super) fn keep_heads(events: &mut Connection, spool: &Path, messages: &[(i64, Place)]) -> rusqlite::Result<()> {
    let transaction = events.transaction()?;
    for (message, place) in messages {
        if let Some(head) = read_head(spool, *place) {
            transaction
                .prepare_cached("UPDATE delivery SET head = ?2 WHERE message = ?1 AND head IS NULL")?
                .execute(params![message, &*head])?;
        }
    }
    transaction.commit()
}

/// The header of a message and what follows it in the same octets; `None` where its body is gone or cannot be read.
fn read_head(spool: &Path, place: Place) -> Option<bytes::Bytes> {
    let mut head = segment::read_head(spool, place, HEAD_OCTETS).ok()?;
    if let Some(end) = head.windows(4).position(|four| four == b"\r\n\r\n") {
        head.truncate(end + 2);
    }
    // Copied: the rest of what was read would stay in memory with it.
    Some(bytes::Bytes::copy_from_slice(&head))
}

/// Logs one attempt and moves its delivery on.
pub(super) fn attempted(connection: &Connection, attempt: &Attempted) -> rusqlite::Result<()> {
    let ms = |at: Timestamp| at.as_millisecond();
    let webhook = attempt.webhook.0;
    if let Some(Tried { seq, due_at, next, head, failing, .. }) = &attempt.delivery {
        match next {
            None => connection
                .prepare_cached("DELETE FROM delivery WHERE webhook = ?1 AND seq = ?2 AND due_ms = ?3")?
                .execute([webhook, *seq, ms(*due_at)])?,
            Some(next) => connection
                .prepare_cached(
                    "UPDATE delivery SET due_ms = ?4, attempts = ?5, head = coalesce(head, ?6)
                     WHERE webhook = ?1 AND seq = ?2 AND due_ms = ?3",
                )?
                .execute(params![webhook, seq, ms(*due_at), ms(*next), attempt.number, head.as_deref()])?,
        };
        match failing {
            None => connection.prepare_cached("DELETE FROM failing WHERE webhook = ?1")?.execute([webhook])?,
            Some(failing) => connection
                .prepare_cached("INSERT OR REPLACE INTO failing VALUES (?1, ?2, ?3)")?
                .execute([webhook, i64::from(failing.failures), ms(failing.since)])?,
        };
    }
    connection
        .prepare_cached(
            "INSERT INTO attempt (webhook, message, event, kind, number, at_ms, duration_ms, status, error, head, next_ms)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
        )?
        .execute(params![
            webhook,
            attempt.delivery.as_ref().map(|tried| tried.subject.0),
            event_uuid(&attempt.event).unwrap_or_default().as_bytes(),
            codes::any_kind_to(attempt.kind),
            attempt.number,
            ms(attempt.at),
            i64::try_from(attempt.duration.as_millis()).unwrap_or(i64::MAX),
            attempt.status,
            attempt.error,
            attempt.head,
            attempt.delivery.as_ref().and_then(|tried| tried.next).map(ms),
        ])?;
    Ok(())
}

const ATTEMPT: &str = "SELECT a.key, coalesce(w.id, ''), coalesce(w.url, ''), a.event, a.kind, a.number, a.at_ms,
    a.duration_ms, a.status, a.error, a.head, a.next_ms
    FROM events.attempt a LEFT JOIN main.webhook w ON w.key = a.webhook";

/// A webhook's log, newest first; a cursor is the id of the last one seen.
pub(super) fn log(
    connection: &Connection,
    webhook: WebhookKey,
    cursor: Option<&str>,
    limit: usize,
) -> Result<Page<AttemptRecord>, StoreError> {
    let before = match cursor {
        None => i64::MAX,
        Some(id) => id
            .strip_prefix("att_")
            .and_then(|number| number.parse().ok())
            .ok_or_else(|| StoreError::NotFound(format!("attempt {id}")))?,
    };
    let sql = format!("{ATTEMPT} WHERE a.webhook = ?1 AND a.key < ?2 ORDER BY a.key DESC LIMIT ?3");
    let mut statement = connection.prepare_cached(&sql)?;
    let rows = statement.query_map(params![webhook.0, before, limit as i64 + 1], read_attempt)?;
    let mut items: Vec<AttemptRecord> = rows.collect::<Result<_, _>>()?;
    let more = items.len() > limit;
    items.truncate(limit);
    let next = if more { items.last().map(|last| last.id.clone()) } else { None };
    Ok(Page { items, next })
}

/// The last attempt for an event.
pub(super) fn last_attempt(
    connection: &Connection,
    webhook: WebhookKey,
    event: &str,
) -> Result<AttemptRecord, StoreError> {
    let uuid = event_uuid(event).unwrap_or_default();
    let sql = format!("{ATTEMPT} WHERE a.webhook = ?1 AND a.event = ?2 ORDER BY a.key DESC LIMIT 1");
    let mut statement = connection.prepare_cached(&sql)?;
    let found = statement.query_row(params![webhook.0, uuid.as_bytes()], read_attempt).optional()?;
    found.ok_or_else(|| StoreError::NotFound(format!("attempt for {event}")))
}

/// The attempts made for a message's events, oldest first.
pub(super) fn log_of_message(
    connection: &Connection,
    message: Uuid,
    limit: usize,
) -> Result<Vec<AttemptRecord>, StoreError> {
    let key: Option<i64> = connection
        .prepare_cached("SELECT key FROM main.message WHERE id = ?1")?
        .query_row([message.as_bytes()], |row| row.get(0))
        .optional()?;
    let sql = format!("{ATTEMPT} WHERE a.message = ?1 ORDER BY a.key LIMIT ?2");
    let mut statement = connection.prepare_cached(&sql)?;
    Ok(statement.query_map(params![key, limit as i64], read_attempt)?.collect::<Result<_, _>>()?)
}

fn read_attempt(row: &Row<'_>) -> rusqlite::Result<AttemptRecord> {
    Ok(AttemptRecord {
        id: format!("att_{}", row.get::<_, i64>(0)?),
        webhook: row.get(1)?,
        url: row.get(2)?,
        event: format!("evt_{}", Uuid::from_bytes(row.get(3)?)),
        // Only ours are stored.
        kind: codes::any_kind_from(row.get(4)?).unwrap_or(mail::EventKind::Sent.into()),
        number: row.get(5)?,
        at: time(row.get(6)?),
        duration: Duration::from_millis(row.get::<_, i64>(7)?.unsigned_abs()),
        status: row.get(8)?,
        error: row.get(9)?,
        head: row.get(10)?,
        next_at: row.get::<_, Option<i64>>(11)?.map(time),
    })
}

/// The events that a replay names, of the webhook's tenant. `Full` where there are more than `most`.
pub(super) fn find(
    connection: &Connection,
    webhook: WebhookKey,
    what: &Replay,
    most: usize,
) -> Result<Vec<EventKey>, StoreError> {
    let (tenant, kinds): (i64, i64) = connection
        .prepare_cached("SELECT tenant, kinds FROM main.webhook WHERE key = ?1")?
        .query_row([webhook.0], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?
        .ok_or_else(|| StoreError::NotFound("the webhook".to_owned()))?;
    let keys = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?));
    let found: Vec<EventKey> = match what {
        Replay::Event(id) => {
            let missing = || StoreError::NotFound(format!("event {id}"));
            let uuid = event_uuid(id).ok_or_else(missing)?;
            let key = connection
                .prepare_cached("SELECT message, seq FROM events.event WHERE id = ?1 AND tenant = ?2")?
                .query_row(params![uuid.as_bytes(), tenant], keys)
                .optional()?;
            vec![key.ok_or_else(missing)?]
        }
        Replay::Range(from, to) => connection
            .prepare_cached(
                "SELECT message, seq FROM events.event
                 WHERE tenant = ?1 AND at_ms BETWEEN ?2 AND ?3 AND ?4 >> kind & 1 ORDER BY seq LIMIT ?5",
            )?
            .query_map(params![tenant, from.as_millisecond(), to.as_millisecond(), kinds, most as i64 + 1], keys)?
            .collect::<Result<_, _>>()?,
    };
    if found.len() > most { Err(StoreError::Full) } else { Ok(found) }
}

/// Makes events due anew, as if never tried.
pub(super) fn make_due(
    connection: &Connection,
    webhook: WebhookKey,
    events: &[EventKey],
    now: Timestamp,
) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached(
        "INSERT OR REPLACE INTO delivery (webhook, seq, message, due_ms, attempts) VALUES (?1, ?2, ?3, ?4, 0)",
    )?;
    for (message, seq) in events {
        statement.execute([webhook.0, *seq, *message, now.as_millisecond()])?;
    }
    Ok(())
}

pub(super) fn forget_webhook(connection: &Connection, webhook: WebhookKey) -> rusqlite::Result<()> {
    connection.execute("DELETE FROM delivery WHERE webhook = ?1", [webhook.0])?;
    forget_failures(connection, webhook)
}

pub(super) fn forget_failures(connection: &Connection, webhook: WebhookKey) -> rusqlite::Result<()> {
    connection.execute("DELETE FROM failing WHERE webhook = ?1", [webhook.0])?;
    Ok(())
}

/// Removes the log from before a time, and deliveries whose webhook went while the host was killed. The oldest rows are
/// looked at; whether more may be left for the next call.
pub(super) fn forget_attempts(connection: &Connection, before: Timestamp) -> rusqlite::Result<bool> {
    let removed = connection.execute(
        "DELETE FROM attempt WHERE key IN (SELECT key FROM attempt ORDER BY key LIMIT ?1) AND at_ms < ?2",
        params![FORGOTTEN_AT_ONCE as i64, before.as_millisecond()],
    )?;
    let orphan: Option<i64> = connection
        .query_row(
            "SELECT webhook FROM (SELECT DISTINCT webhook FROM delivery) d
             WHERE NOT EXISTS (SELECT 1 FROM store.webhook w WHERE w.key = d.webhook) LIMIT 1",
            [],
            |row| row.get(0),
        )
        .optional()?;
    if let Some(key) = orphan {
        forget_webhook(connection, WebhookKey(key))?;
    }
    Ok(removed == FORGOTTEN_AT_ONCE)
}
