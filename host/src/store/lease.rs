//! Which recipients are in the queue's hands. In memory: a restart of the process owes no wait.
//!
//! The due index is read forward only: everything up to the cursor is leased or done with. Whatever becomes due behind
//! it (an accept whose clock was read a little earlier, a release) moves the cursor back, so nothing is overlooked and
//! no lease reads more than what it hands out and what is leased near the cursor.

use std::collections::{HashMap, HashSet};

use mail::Address;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, ErrorCode, OptionalExtension, Row, params};
use uuid::Uuid;

use super::history::time;
use super::segment::Place;
use super::{Leased, LeasedRecipient, StoreError};

// CROSS JOIN keeps the order: the due index leads.
pub(super) const DUE: &str = "
    SELECT r.due_ms, r.message, r.place, r.address, r.attempts,
           m.id, t.name, m.sender, m.segment, m.position, m.size, coalesce(s.send_ms, m.accepted_ms)
    FROM recipient r CROSS JOIN message m ON m.key = r.message CROSS JOIN tenant t ON t.key = m.tenant
         LEFT JOIN schedule s ON s.message = m.key
    WHERE r.due_ms <= ?1 AND (r.due_ms, r.message, r.place) > (?2, ?3, ?4)
    ORDER BY r.due_ms, r.message, r.place";

// From the due index alone.
const NEXT_KEY: &str = "
    SELECT due_ms, message, place FROM recipient
    WHERE due_ms <= ?1 AND (due_ms, message, place) > (?2, ?3, ?4)
    ORDER BY due_ms, message, place LIMIT 1";

pub(super) const NEXT_DUE: &str = "SELECT due_ms FROM recipient WHERE due_ms > ?1 ORDER BY due_ms LIMIT 1";

/// A row of the due index: due time, message key, place in the envelope.
pub(super) type DueKey = (i64, i64, i64);

/// Leases, and how far the due index is read.
pub(super) struct Leases {
    held: HashMap<(Uuid, u32), DueKey>,
    rows: HashSet<(i64, i64)>,
    cursor: DueKey,
}

impl Leases {
    pub(super) fn new() -> Leases {
        Leases { held: HashMap::new(), rows: HashSet::new(), cursor: (i64::MIN, 0, 0) }
    }

    /// A row became due at this place of the index.
    pub(super) fn became_due(&mut self, key: DueKey) {
        if key <= self.cursor {
            self.cursor = (key.0, key.1, key.2 - 1);
        }
    }

    /// Ends a lease. `None` where there is none: the completion is a stranger's or a repetition.
    pub(super) fn end(&mut self, message: Uuid, place: u32) -> Option<DueKey> {
        let key = self.held.remove(&(message, place))?;
        self.rows.remove(&(key.1, key.2));
        Some(key)
    }

    /// Puts a lease back whose end was not committed.
    pub(super) fn restore(&mut self, message: Uuid, place: u32, key: DueKey) {
        self.rows.insert((key.1, key.2));
        self.held.insert((message, place), key);
    }

    /// Leases what is due, oldest first, at most `limit` recipients; whether there may be more. What was leased before
    /// an error is handed out; the next lease meets the error first.
    pub(super) fn take(
        &mut self,
        connection: &Connection,
        now_ms: i64,
        limit: usize,
    ) -> Result<(Vec<Leased>, bool), StoreError> {
        let mut leased = Vec::new();
        let mut room = limit;
        loop {
            let error = match self.read_on(connection, now_ms, &mut room, &mut leased) {
                Ok(more) => return Ok((leased, more)),
                Err(error) => error,
            };
            if error.sqlite_error_code() == Some(ErrorCode::DatabaseCorrupt)
                && let Ok(Some(key)) = self.next_key(connection, now_ms)
            {
                tracing::error!(message = key.1, place = key.2, %error, "a damaged recipient is set aside");
                self.cursor = key;
                continue;
            }
            return if leased.is_empty() { Err(error.into()) } else { Ok((leased, true)) };
        }
    }

    /// Reads from the cursor on while there is room; whether there may be more.
    fn read_on(
        &mut self,
        connection: &Connection,
        now_ms: i64,
        room: &mut usize,
        leased: &mut Vec<Leased>,
    ) -> rusqlite::Result<bool> {
        let mut statement = connection.prepare_cached(DUE)?;
        let (due, message, place) = self.cursor;
        let mut rows = statement.query(params![now_ms, due, message, place])?;
        while *room > 0 {
            let Some(row) = rows.next()? else { return Ok(false) };
            let key: DueKey = (row.get(0)?, row.get(1)?, row.get(2)?);
            self.cursor = key;
            if self.rows.contains(&(key.1, key.2)) {
                continue;
            }
            match add(row, leased) {
                Ok((id, place)) => {
                    self.restore(id, place, key);
                    *room -= 1;
                }
                Err(error) => {
                    tracing::error!(message = key.1, place = key.2, %error, "a queued recipient cannot be read and is set aside");
                }
            }
        }
        Ok(true)
    }

    fn next_key(&self, connection: &Connection, now_ms: i64) -> rusqlite::Result<Option<DueKey>> {
        let (due, message, place) = self.cursor;
        connection
            .prepare_cached(NEXT_KEY)?
            .query_row(params![now_ms, due, message, place], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
            .optional()
    }
}

/// Adds a row to what is leased: to the last message where it is of that.
fn add(row: &Row<'_>, leased: &mut Vec<Leased>) -> Result<(Uuid, u32), StoreError> {
    let id = Uuid::from_bytes(row.get(5)?);
    let recipient = recipient(row)?;
    let place = recipient.index;
    match leased.last_mut().filter(|last| last.message == id) {
        Some(last) => last.recipients.push(recipient),
        None => leased.push(message_of(row, id, recipient)?),
    }
    Ok((id, place))
}

/// When the next row beyond `now` is due.
pub(super) fn next_due(connection: &Connection, now_ms: i64) -> rusqlite::Result<Option<i64>> {
    let mut statement = connection.prepare_cached(NEXT_DUE)?;
    let mut rows = statement.query([now_ms])?;
    rows.next()?.map(|row| row.get(0)).transpose()
}

fn recipient(row: &Row<'_>) -> Result<LeasedRecipient, StoreError> {
    Ok(LeasedRecipient { index: row.get(2)?, address: address(row, 3)?, attempts: row.get(4)? })
}

fn message_of(row: &Row<'_>, id: Uuid, first: LeasedRecipient) -> Result<Leased, StoreError> {
    let place = place(row, 8)?;
    Ok(Leased {
        message: id,
        tenant: row.get(6)?,
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
                "CREATE TABLE recipient (due_ms, message, place, address, attempts);
                 CREATE INDEX recipient_due ON recipient (due_ms, message, place);
                 INSERT INTO recipient VALUES (1, 1, 0, 'x@a.test', 0), (2, 2, 0, 'x@a.test', 0), (3, 3, 0, 'x@a.test', 0);
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
        let mut leases = Leases::new();
        let (leased, more) = leases.take(&connection, 9, 9).unwrap();
        assert_eq!((leased.len(), leased[0].message, more), (1, Uuid::from_u128(1), true));
        assert!(leases.take(&connection, 9, 9).is_err());
        connection.execute_batch("DELETE FROM trouble").unwrap();
        let (leased, more) = leases.take(&connection, 9, 9).unwrap();
        let numbers: Vec<u128> = leased.iter().map(|message| message.message.as_u128()).collect();
        assert_eq!((numbers, more), (vec![2, 3], false));
    }
}
