//! Which recipients are in the queue's hands. In memory: a restart of the process owes no wait.
//!
//! `lanes` says whose turn it is; here the rows of a lane are read, a few at a time, in the order in which they are due.

use std::collections::{BTreeSet, HashMap};

use mail::{Address, Stream};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, ErrorCode, OptionalExtension, Row, params};
use uuid::Uuid;

use super::history::time;
use super::lanes::{Behind, DueKey, Lane, Lanes};
use super::segment::Place;
use super::{Leased, LeasedRecipient, StoreError};

/// Recipients taken from a lane in one turn: what goes into one transaction with a peer.
const TURN: usize = 100;

// CROSS JOIN keeps the order: the index of lanes leads.
pub(super) const DUE: &str = "
    SELECT r.due_ms, r.message, r.place, r.address, r.attempts,
           m.id, t.name, m.sender, m.segment, m.position, m.size, coalesce(s.send_ms, m.accepted_ms)
    FROM recipient r CROSS JOIN message m ON m.key = r.message CROSS JOIN tenant t ON t.key = m.tenant
         LEFT JOIN schedule s ON s.message = m.key
    WHERE r.due_ms IS NOT NULL AND r.lane = ?1 AND (r.due_ms, r.message, r.place) > (?2, ?3, ?4)
    ORDER BY r.due_ms, r.message, r.place LIMIT ?5";

// From the index alone.
pub(super) const NEXT_KEY: &str = "
    SELECT due_ms, message, place FROM recipient
    WHERE due_ms IS NOT NULL AND lane = ?1 AND (due_ms, message, place) > (?2, ?3, ?4)
    ORDER BY due_ms, message, place LIMIT 1";

/// A leased row: its lane and its place in the lane's index.
pub(super) type Held = (Lane, DueKey);

/// Leases, and how far each lane is read.
pub(super) struct Leases {
    held: HashMap<(Uuid, u32), Held>,
    rows: BTreeSet<(i64, i64)>,
    pub(super) lanes: Lanes,
    /// Rows that could not be read and were set aside.
    pub(super) damaged: u64,
}

/// What a lease takes together.
struct Taking {
    now_ms: i64,
    room: usize,
    leased: Vec<Leased>,
    /// Where a message stands in `leased`.
    places: HashMap<Uuid, usize>,
}

impl Leases {
    pub(super) fn new(lanes: Lanes) -> Leases {
        Leases { held: HashMap::new(), rows: BTreeSet::new(), lanes, damaged: 0 }
    }

    /// Whether a recipient is leased: by the key of its message and its place.
    pub(super) fn is_held(&self, message: i64, place: i64) -> bool {
        self.rows.contains(&(message, place))
    }

    /// Whether any recipient of a message is leased.
    pub(super) fn holds_any(&self, message: i64) -> bool {
        self.rows.range((message, i64::MIN)..=(message, i64::MAX)).next().is_some()
    }

    /// Ends a lease. `None` where there is none: the completion is a stranger's or a repetition.
    pub(super) fn end(&mut self, message: Uuid, place: u32) -> Option<Held> {
        let held = self.held.remove(&(message, place))?;
        self.rows.remove(&(held.1.1, held.1.2));
        Some(held)
    }

    /// Puts a lease back whose end was not committed.
    pub(super) fn restore(&mut self, message: Uuid, place: u32, held: Held) {
        self.rows.insert((held.1.1, held.1.2));
        self.held.insert((message, place), held);
    }

    /// Leases what is due, at most `limit` recipients, from each lane in turn. What was leased before an error is handed
    /// out; the next lease meets the error first.
    pub(super) fn take(
        &mut self,
        connection: &Connection,
        now_ms: i64,
        limit: usize,
    ) -> Result<Vec<Leased>, StoreError> {
        let mut taking = Taking { now_ms, room: limit, leased: Vec::new(), places: HashMap::new() };
        while taking.room > 0 {
            let Some((lane, mut cursor)) = self.lanes.next(now_ms) else { break };
            let read = self.read(connection, lane, &mut cursor, &mut taking);
            let error = match read {
                Ok(behind) => {
                    self.lanes.put_back(lane, cursor, behind);
                    continue;
                }
                Err(error) => error,
            };
            let damaged = match error.sqlite_error_code() {
                Some(ErrorCode::DatabaseCorrupt) => next_key(connection, lane, cursor).ok().flatten(),
                _ => None,
            };
            self.lanes.put_back(lane, damaged.unwrap_or(cursor), Behind::More);
            match damaged {
                Some(key) => self.set_aside(key, &error),
                None if taking.leased.is_empty() => return Err(error.into()),
                None => break,
            }
        }
        for message in &mut taking.leased {
            message.recipients.sort_by_key(|recipient| recipient.index);
        }
        Ok(taking.leased)
    }

    /// Reads a lane from the cursor on, for one turn.
    fn read(
        &mut self,
        connection: &Connection,
        lane: Lane,
        cursor: &mut DueKey,
        taking: &mut Taking,
    ) -> rusqlite::Result<Behind> {
        let turn = taking.room.min(TURN);
        let mut statement = connection.prepare_cached(DUE)?;
        // One more than is taken: it says what is behind.
        let mut rows = statement.query(params![lane.key(), cursor.0, cursor.1, cursor.2, turn as i64 + 1])?;
        for _ in 0..turn {
            let Some(row) = rows.next()? else { return Ok(Behind::Nothing) };
            let key: DueKey = (row.get(0)?, row.get(1)?, row.get(2)?);
            if key.0 > taking.now_ms {
                return Ok(Behind::Later(key.0));
            }
            *cursor = key;
            if self.is_held(key.1, key.2) {
                continue;
            }
            match taking.add(row, lane.stream()) {
                Ok((id, place)) => self.restore(id, place, (lane, key)),
                Err(error) => self.set_aside(key, &error),
            }
        }
        Ok(match rows.next()? {
            Some(row) => match row.get(0)? {
                due_ms if due_ms > taking.now_ms => Behind::Later(due_ms),
                _ => Behind::More,
            },
            None => Behind::Nothing,
        })
    }

    fn set_aside(&mut self, key: DueKey, error: &dyn std::fmt::Display) {
        self.damaged += 1;
        tracing::error!(message = key.1, place = key.2, %error, "a queued recipient cannot be read and is set aside");
    }
}

impl Taking {
    /// Adds a row to what is leased: to its message where that is there.
    fn add(&mut self, row: &Row<'_>, stream: Stream) -> Result<(Uuid, u32), StoreError> {
        let id = Uuid::from_bytes(row.get(5)?);
        let recipient = recipient(row)?;
        let place = recipient.index;
        match self.places.get(&id).and_then(|place| self.leased.get_mut(*place)) {
            Some(message) => message.recipients.push(recipient),
            None => {
                self.leased.push(Leased { stream, ..message_of(row, id, recipient)? });
                self.places.insert(id, self.leased.len() - 1);
            }
        }
        self.room -= 1;
        Ok((id, place))
    }
}

fn next_key(connection: &Connection, lane: Lane, after: DueKey) -> rusqlite::Result<Option<DueKey>> {
    connection
        .prepare_cached(NEXT_KEY)?
        .query_row(params![lane.key(), after.0, after.1, after.2], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .optional()
}

/// What is queued, as the database says when it is opened: the lanes, and how many recipients, held ones included.
pub(super) fn queued(connection: &Connection) -> rusqlite::Result<(Lanes, u64)> {
    let mut lanes = Lanes::default();
    let mut all: i64 = connection.query_row(HELD, [], |row| row.get(0))?;
    let mut statement = connection.prepare(LANES)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        lanes.became_due(Lane::from_key(row.get(0)?), (row.get(1)?, 0, 0));
        all += row.get::<_, i64>(2)?;
    }
    Ok((lanes, all.unsigned_abs()))
}

pub(super) const LANES: &str =
    "SELECT lane, min(due_ms), count(*) FROM recipient WHERE due_ms IS NOT NULL GROUP BY lane";
pub(super) const HELD: &str = "SELECT count(*) FROM recipient WHERE due_ms IS NULL AND done_ms IS NULL";

fn recipient(row: &Row<'_>) -> Result<LeasedRecipient, StoreError> {
    Ok(LeasedRecipient { index: row.get(2)?, address: address(row, 3)?, attempts: row.get(4)? })
}

fn message_of(row: &Row<'_>, id: Uuid, first: LeasedRecipient) -> Result<Leased, StoreError> {
    let place = place(row, 8)?;
    Ok(Leased {
        message: id,
        tenant: row.get(6)?,
        stream: Stream::default(),
        sender: sender(row, 7)?,
        body: place.to_ref(),
        size_bytes: u64::from(place.size),
        accepted_at: time(row.get(11)?),
        recipients: vec![first],
    })
}

/// Reads `segment, position, size` from a column on.
pub(super) fn place(row: &Row<'_>, column: usize) -> rusqlite::Result<Place> {
    let (segment, position): (i64, i64) = (row.get(column)?, row.get(column + 1)?);
    Ok(Place { segment: segment.cast_unsigned(), position: position.cast_unsigned(), size: row.get(column + 2)? })
}

/// Reads an address.
pub(super) fn address(row: &Row<'_>, column: usize) -> Result<Address, StoreError> {
    let text: String = row.get(column)?;
    Address::parse(&text).map_err(|error| StoreError::Io(format!("a stored address cannot be read: {error}")))
}

/// Reads a reverse path.
pub(super) fn sender(row: &Row<'_>, column: usize) -> Result<mail::ReversePath, StoreError> {
    match row.get_ref(column)? {
        ValueRef::Null => Ok(None),
        _ => address(row, column).map(Some),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_read_that_fails_in_the_middle_loses_no_lease() {
        let connection = Connection::open_in_memory().unwrap();
        // The sender of the second message cannot be computed: the step to its row fails.
        connection
            .execute_batch(
                "CREATE TABLE recipient (lane, due_ms, message, place, address, attempts);
                 CREATE INDEX recipient_lane ON recipient (lane, due_ms, message, place);
                 INSERT INTO recipient VALUES (8, 1, 1, 0, 'x@a.test', 0), (8, 2, 2, 0, 'x@a.test', 0), (8, 3, 3, 0, 'x@a.test', 0);
                 CREATE TABLE tenant (key, name);
                 INSERT INTO tenant VALUES (1, 'default');
                 CREATE TABLE schedule (message INTEGER PRIMARY KEY, send_ms);
                 CREATE TABLE trouble (key);
                 INSERT INTO trouble VALUES (2);
                 CREATE TABLE stored (key, id);
                 INSERT INTO stored VALUES (1, x'00000000000000000000000000000001'), (2, x'00000000000000000000000000000002'), (3, x'00000000000000000000000000000003');
                 CREATE VIEW message AS
                 SELECT key, id, 1 AS tenant, 1 AS segment, 0 AS position, 1 AS size, 0 AS accepted_ms,
                        CASE WHEN key IN (SELECT key FROM trouble) THEN abs(-9223372036854775807 - key / 2) END AS sender
                 FROM stored;",
            )
            .unwrap();
        let mut lanes = Lanes::default();
        lanes.became_due(Lane::from_key(8), (1, 0, 0));
        let mut leases = Leases::new(lanes);
        let leased = leases.take(&connection, 9, 9).unwrap();
        assert_eq!((leased.len(), leased[0].message), (1, Uuid::from_u128(1)));
        assert!(leases.take(&connection, 9, 9).is_err());
        connection.execute_batch("DELETE FROM trouble").unwrap();
        let leased = leases.take(&connection, 9, 9).unwrap();
        let numbers: Vec<u128> = leased.iter().map(|message| message.message.as_u128()).collect();
        assert_eq!(numbers, vec![2, 3]);
        assert_eq!(leases.lanes.next_ms(), i64::MAX);
    }
}
