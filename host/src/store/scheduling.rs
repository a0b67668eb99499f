//! Messages with a time of sending of their own: until it comes they can be moved and canceled.
//!
//! The schedule and the recipients' `due_ms` say the same time. Invariants: a message whose row says `WAITING` has not
//! been leased, because the writer marks it `SENT`, with the `email.sent` event of each recipient, before it leases what
//! is due at that time; so whether a message goes out or is canceled is decided in one thread, by one transaction, once.

use rusqlite::{Connection, OptionalExtension, params};
use uuid::Uuid;

use super::StoreError;
use super::accepting::Counters;
use super::history;
use super::lanes::Lane;
use super::lease::Held;
use super::writer::GroupError;

/// Messages marked as sent in one transaction; others of the same moment follow in the next.
pub(super) const AT_ONCE: usize = 1000;

const WAITING: i64 = 1;
const SENT: i64 = 2;
const CANCELED: i64 = 3;

/// Puts a new message on the schedule.
pub(super) fn add(connection: &Connection, message: i64, send_ms: i64) -> rusqlite::Result<()> {
    connection
        .prepare_cached("INSERT INTO schedule (message, send_ms, state) VALUES (?1, ?2, ?3)")?
        .execute([message, send_ms, WAITING])?;
    Ok(())
}

/// What came of sending what was due.
pub(super) struct Sent {
    /// The time up to which none waits any more.
    pub(super) until_ms: i64,
    /// Messages whose recipients could not be read: they are leased without having been told of.
    pub(super) damaged: u64,
}

/// Marks what is to be sent up to a time as sent, at most `AT_ONCE` messages: `until_ms` is `now_ms` where that were all.
pub(super) fn send_due(connection: &Connection, counters: &mut Counters, now_ms: i64) -> Result<Sent, GroupError> {
    let mut damaged = 0;
    for (message, _) in due(connection, now_ms, AT_ONCE)? {
        settle(connection, message, SENT)?;
        match record_all(connection, counters, message, mail::EventKind::Sent, now_ms) {
            Ok(()) => {}
            // An error of the database is everybody's, one of a row is its own.
            Err(error) if error.sqlite_error().is_some() => return Err(error.into()),
            Err(error) => {
                damaged += 1;
                tracing::error!(message, %error, "a scheduled message cannot be read; others go on");
            }
        }
    }
    let next = due(connection, now_ms, 1)?;
    Ok(Sent { until_ms: next.first().map_or(now_ms, |(_, send_ms)| send_ms - 1), damaged })
}

/// Whether something is to be sent up to a time.
pub(super) fn is_due(connection: &Connection, now_ms: i64) -> rusqlite::Result<bool> {
    Ok(!due(connection, now_ms, 1)?.is_empty())
}

/// Has a message wait for another time; the answer is what is due then.
pub(super) fn reschedule(
    connection: &Connection,
    tenant: &str,
    id: Uuid,
    send_ms: i64,
) -> Result<Result<Vec<Held>, StoreError>, GroupError> {
    let message = match waiting(connection, tenant, id)? {
        Ok(message) => message,
        Err(error) => return Ok(Err(error)),
    };
    connection.prepare_cached("UPDATE schedule SET send_ms = ?2 WHERE message = ?1")?.execute([message, send_ms])?;
    connection
        .prepare_cached("UPDATE recipient SET due_ms = ?2 WHERE message = ?1 AND done_ms IS NULL")?
        .execute([message, send_ms])?;
    let due = connection
        .prepare_cached("SELECT DISTINCT lane FROM recipient WHERE message = ?1 AND done_ms IS NULL")?
        .query_map([message], |row| Ok((Lane::from_key(row.get(0)?), (send_ms, message, 0))))?
        .collect::<Result<_, _>>()?;
    Ok(Ok(due))
}

/// Ends a message that waits, with an event for each recipient; the answer is how many there are.
pub(super) fn cancel(
    connection: &Connection,
    counters: &mut Counters,
    tenant: &str,
    id: Uuid,
    at_ms: i64,
) -> Result<Result<u64, StoreError>, GroupError> {
    let message = match waiting(connection, tenant, id)? {
        Ok(message) => message,
        Err(error) => return Ok(Err(error)),
    };
    settle(connection, message, CANCELED)?;
    record_all(connection, counters, message, mail::EventKind::Canceled, at_ms)?;
    let ended = connection
        .prepare_cached("UPDATE recipient SET due_ms = NULL, done_ms = ?2 WHERE message = ?1 AND due_ms IS NOT NULL")?
        .execute([message, at_ms])?;
    Ok(Ok(ended as u64))
}

/// A recipient is over before its time came, by an operator; with the last one the message is.
pub(super) fn leave(connection: &Connection, message: i64) -> rusqlite::Result<()> {
    let is_left = connection
        .prepare_cached("SELECT 1 FROM recipient WHERE message = ?1 AND done_ms IS NULL")?
        .exists([message])?;
    if is_left { Ok(()) } else { settle(connection, message, CANCELED) }
}

/// The key of a tenant's message that waits for its time, or why there is none.
fn waiting(connection: &Connection, tenant: &str, id: Uuid) -> rusqlite::Result<Result<i64, StoreError>> {
    let found = connection
        .prepare_cached(
            "SELECT m.key, s.state FROM message m JOIN tenant t ON t.key = m.tenant
             LEFT JOIN schedule s ON s.message = m.key WHERE m.id = ?1 AND t.name = ?2",
        )?
        .query_row(params![id.as_bytes(), tenant], |row| Ok((row.get(0)?, row.get::<_, Option<i64>>(1)?)))
        .optional()?;
    Ok(match found {
        Some((message, Some(WAITING))) => Ok(message),
        Some((_, Some(CANCELED))) => Err(StoreError::NotScheduled("it was canceled")),
        Some((_, Some(_))) => Err(StoreError::NotScheduled("it was sent when its time came")),
        Some((_, None)) => Err(StoreError::NotScheduled("it was sent at once")),
        None => Err(StoreError::NotFound(format!("message {id}"))),
    })
}

fn due(connection: &Connection, now_ms: i64, limit: usize) -> rusqlite::Result<Vec<(i64, i64)>> {
    connection
        .prepare_cached(
            "SELECT message, send_ms FROM schedule WHERE state = 1 AND send_ms <= ?1 ORDER BY send_ms LIMIT ?2",
        )?
        .query_map(params![now_ms, limit as i64], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect()
}

fn settle(connection: &Connection, message: i64, state: i64) -> rusqlite::Result<()> {
    connection.prepare_cached("UPDATE schedule SET state = ?2 WHERE message = ?1")?.execute([message, state])?;
    Ok(())
}

/// Records the same event for each recipient that is not done with.
fn record_all(
    connection: &Connection,
    counters: &mut Counters,
    message: i64,
    kind: mail::EventKind,
    at_ms: i64,
) -> rusqlite::Result<()> {
    let mut statement = connection
        .prepare_cached("SELECT address FROM recipient WHERE message = ?1 AND done_ms IS NULL ORDER BY place")?;
    let mut rows = statement.query([message])?;
    while let Some(row) = rows.next()? {
        counters.seq += 1;
        let address: String = row.get(0)?;
        history::record_plain(connection, (message, counters.seq), Uuid::now_v7(), kind, at_ms, &address)?;
    }
    Ok(())
}
