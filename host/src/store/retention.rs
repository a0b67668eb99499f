//! What the disk gets back while the host runs: segments whose messages are all done with, segments that a few old
//! messages pin (these move to the newest one), and at last the rows of messages and their events.
//!
//! Everything goes in small steps, each safe to be stopped behind: a body is durable in its new place before its row
//! names it, and stays in the old one until nothing does; events go before their message, so none is left without.

use std::collections::{HashMap, HashSet};

use rusqlite::{Connection, params};
use uuid::Uuid;

use super::lease::place;
use super::segment::{Place, digest};
use super::writer::{GroupError, Writer};
use super::{StoreError, accepting};

/// The part of a segment that may be live and still be moved.
const LIVE_SHARE: u64 = 4;
/// Segments looked through for that in one sweep.
pub(super) const LOOKED_THROUGH: usize = 4;
/// Octets of bodies moved at once.
pub(super) const MOVED_BYTES: u64 = 4 * 1024 * 1024;
/// Messages removed in one transaction, and such transactions in one sweep.
pub(super) const FORGOTTEN_AT_ONCE: usize = 500;
pub(super) const FORGET_STEPS: usize = 20;
/// Where webhooks are behind by more messages than these, rows are kept for now.
const TOLD_LATE: usize = 100_000;

/// A body on its way to another segment.
pub(super) struct MovedBody {
    pub(super) key: i64,
    pub(super) id: Uuid,
    pub(super) body: Vec<u8>,
    pub(super) digest: u64,
}

impl MovedBody {
    pub(super) fn new(message: &Live, body: Vec<u8>) -> MovedBody {
        MovedBody { key: message.key, id: message.id, digest: digest(&body), body }
    }
}

/// A message whose body is needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Live {
    pub(super) key: i64,
    pub(super) id: Uuid,
    pub(super) place: Place,
}

/// A segment's number, its first message and that behind its last.
pub(super) type Range = (i64, i64, i64);

/// Segments but for `open`, which is still written to.
pub(super) fn segments(connection: &Connection, open: u64) -> rusqlite::Result<Vec<Range>> {
    let all: Vec<(i64, i64)> = connection
        .prepare_cached("SELECT number, first_message FROM segment ORDER BY number")?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<_, _>>()?;
    let behind = all.iter().skip(1).map(|(_, first)| *first).chain([i64::MAX]);
    let ranges = all.iter().zip(behind).map(|((number, first), behind)| (*number, *first, behind));
    Ok(ranges.filter(|(number, ..)| *number < open.cast_signed()).collect())
}

/// When the last recipient of a segment was done with; `None` while one is queued whose body is there.
pub(super) fn all_done(connection: &Connection, (number, first, behind): Range) -> rusqlite::Result<Option<i64>> {
    let mut is_here = connection.prepare_cached("SELECT 1 FROM message WHERE key = ?1 AND segment = ?2")?;
    let mut latest = i64::MIN;
    // The table's own order: one range, read once.
    let in_range = "SELECT message, done_ms FROM recipient WHERE message >= ?1 AND message < ?2";
    let moved_here = "SELECT r.message, r.done_ms FROM moved v JOIN recipient r ON r.message = v.message WHERE v.segment = ?1 AND ?2 >= 0";
    for (sql, bounds) in [(in_range, [first, behind]), (moved_here, [number, 0])] {
        let mut statement = connection.prepare_cached(sql)?;
        let mut rows = statement.query(bounds)?;
        while let Some(row) = rows.next()? {
            match row.get::<_, Option<i64>>(1)? {
                Some(at) => latest = latest.max(at),
                None if is_here.exists([row.get::<_, i64>(0)?, number])? => return Ok(None),
                None => {}
            }
        }
    }
    Ok(Some(latest))
}

/// Messages of a segment whose bodies are needed at a time, where they are a small part of it.
pub(super) fn live(
    connection: &Connection,
    (number, first, behind): Range,
    before_ms: i64,
    segment_bytes: u64,
) -> rusqlite::Result<Option<Vec<Live>>> {
    let mut live: Vec<Live> = Vec::new();
    let mut octets = 0;
    let columns = "SELECT DISTINCT m.key, m.id, m.segment, m.position, m.size FROM";
    let needed = "m.segment = ?1 AND (r.done_ms IS NULL OR r.done_ms >= ?2)";
    for from in [
        "message m JOIN recipient r ON r.message = m.key WHERE m.key >= ?3 AND m.key < ?4 AND",
        "moved v JOIN message m ON m.key = v.message JOIN recipient r ON r.message = m.key
         WHERE v.segment = ?1 AND ?3 <= ?4 AND",
    ] {
        let mut statement = connection.prepare_cached(&format!("{columns} {from} {needed} ORDER BY m.key"))?;
        let mut rows = statement.query([number, before_ms, first, behind])?;
        while let Some(row) = rows.next()? {
            let message = Live { key: row.get(0)?, id: Uuid::from_bytes(row.get(1)?), place: place(row, 2)? };
            octets += u64::from(message.place.size);
            if octets > segment_bytes / LIVE_SHARE {
                return Ok(None);
            }
            if live.last() != Some(&message) {
                live.push(message);
            }
        }
    }
    Ok(Some(live))
}

/// Messages that webhooks are still to be told of; `None` where these are too many to know. On `events.db`.
pub(super) fn to_be_told(events: &Connection) -> rusqlite::Result<Option<HashSet<i64>>> {
    let told: HashSet<i64> = events
        .prepare_cached("SELECT DISTINCT message FROM delivery LIMIT ?1")?
        .query_map([TOLD_LATE as i64 + 1], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    Ok((told.len() <= TOLD_LATE).then_some(told))
}

/// Messages behind `after` that were over before a time, and where to go on: `None` at the end. The newest stays: its key
/// is the highest ever given.
pub(super) fn over(
    connection: &Connection,
    after: i64,
    before_ms: i64,
    keep: &HashSet<i64>,
) -> Result<(Vec<i64>, Option<i64>), StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT key, accepted_ms,
                NOT EXISTS (SELECT 1 FROM recipient WHERE message = key AND (done_ms IS NULL OR done_ms >= ?2))
                AND NOT EXISTS (SELECT 1 FROM outbox WHERE message = key)
         FROM message WHERE key > ?1 AND key < (SELECT max(key) FROM message) ORDER BY key LIMIT ?3",
    )?;
    let mut rows = statement.query(params![after, before_ms, FORGOTTEN_AT_ONCE as i64])?;
    let (mut over, mut last, mut looked) = (Vec::new(), after, 0);
    while let Some(row) = rows.next()? {
        let key: i64 = row.get(0)?;
        if row.get::<_, i64>(1)? >= before_ms {
            return Ok((over, None));
        }
        (last, looked) = (key, looked + 1);
        if row.get(2)? && !keep.contains(&key) {
            over.push(key);
        }
    }
    Ok((over, (looked == FORGOTTEN_AT_ONCE).then_some(last)))
}

/// Removes the events of messages. On `events.db`.
pub(super) fn forget_events(events: &mut Connection, messages: &[i64]) -> rusqlite::Result<()> {
    let transaction = events.transaction()?;
    for message in messages {
        transaction.prepare_cached("DELETE FROM event WHERE message = ?1")?.execute([message])?;
    }
    transaction.commit()
}

/// Removes some of the events of tenants from before a time, but for those that a webhook is still to be told of. They
/// belong to no message that would take them along. On `events.db`.
pub(super) fn forget_tenant_events(events: &Connection, before_ms: i64) -> rusqlite::Result<usize> {
    events
        .prepare_cached(
            "DELETE FROM event WHERE (message, seq) IN (
               SELECT e.message, e.seq FROM event e WHERE e.message < 0 AND e.at_ms < ?1
               AND NOT EXISTS (SELECT 1 FROM delivery d WHERE d.message = e.message AND d.seq = e.seq) LIMIT ?2)",
        )?
        .execute(params![before_ms, FORGOTTEN_AT_ONCE as i64])
}

/// Removes messages, inside the writer's transaction.
pub(super) fn forget_messages(connection: &Connection, messages: &[i64]) -> rusqlite::Result<()> {
    for sql in [
        "DELETE FROM recipient WHERE message = ?1",
        "DELETE FROM schedule WHERE message = ?1",
        "DELETE FROM message WHERE key = ?1",
    ] {
        let mut statement = connection.prepare_cached(sql)?;
        for message in messages {
            statement.execute([message])?;
        }
    }
    Ok(())
}

/// Segments known to be done with: done is for good, so each is looked through once.
#[derive(Default)]
pub(super) struct Ended {
    done: HashMap<i64, i64>,
}

impl Ended {
    /// When a segment's last recipient was done with.
    pub(super) fn at(&mut self, connection: &Connection, range: Range) -> rusqlite::Result<Option<i64>> {
        if let Some(at) = self.done.get(&range.0) {
            return Ok(Some(*at));
        }
        let at = all_done(connection, range)?;
        if let Some(at) = at {
            self.done.insert(range.0, at);
        }
        Ok(at)
    }

    pub(super) fn forget(&mut self, number: i64) {
        self.done.remove(&number);
    }
}

/// Writes bodies anew, inside the group's transaction. What is leased stays: its holder knows where it is.
pub(super) fn move_bodies(writer: &mut Writer, from: i64, bodies: &[MovedBody]) -> Result<(), GroupError> {
    let Writer { connection, spool, counters, leases, .. } = writer;
    for MovedBody { key, id, body, digest } in bodies {
        let is_there = "SELECT 1 FROM message WHERE key = ?1 AND segment = ?2";
        if leases.holds_any(*key) || !connection.prepare_cached(is_there)?.exists([*key, from])? {
            continue;
        }
        let first_message = counters.message + 1;
        accepting::note_segment(connection, counters, spool.number(), first_message)?;
        let place = spool.append(*id, body, *digest).map_err(GroupError::write)?;
        let (segment, position) = (place.segment.cast_signed(), place.position.cast_signed());
        connection
            .prepare_cached("UPDATE message SET segment = ?2, position = ?3 WHERE key = ?1")?
            .execute([*key, segment, position])?;
        connection.prepare_cached("DELETE FROM moved WHERE segment = ?1 AND message = ?2")?.execute([from, *key])?;
        connection.prepare_cached("INSERT INTO moved (segment, message) VALUES (?1, ?2)")?.execute([segment, *key])?;
    }
    Ok(())
}
