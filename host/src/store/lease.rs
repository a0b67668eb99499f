//! Which recipients are in the queue's hands. In memory: a restart of the process owes no wait.
//!
//! The due index is read forward only: everything up to the cursor is leased or done with. Whatever becomes due behind
//! it (an accept whose clock was read a little earlier, a release) moves the cursor back, so nothing is overlooked and
//! no lease reads more than what it hands out and what is leased near the cursor.

use std::collections::{HashMap, HashSet};

use mail::Address;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row, params};
use uuid::Uuid;

use super::history::time;
use super::segment::Place;
use super::{Leased, LeasedRecipient, StoreError};

// CROSS JOIN keeps the order: the due index leads.
pub(super) const DUE: &str = "
    SELECT r.due_ms, r.message, r.place, r.address, r.attempts,
           m.id, t.name, m.sender, m.segment, m.position, m.size, m.accepted_ms
    FROM recipient r CROSS JOIN message m ON m.key = r.message CROSS JOIN tenant t ON t.key = m.tenant
    WHERE r.due_ms <= ?1 AND (r.due_ms, r.message, r.place) > (?2, ?3, ?4)
    ORDER BY r.due_ms, r.message, r.place";

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

    /// Leases what is due, oldest first, at most `limit` recipients; whether there may be more.
    pub(super) fn take(
        &mut self,
        connection: &Connection,
        now_ms: i64,
        limit: usize,
    ) -> Result<(Vec<Leased>, bool), StoreError> {
        let mut statement = connection.prepare_cached(DUE)?;
        let (due, message, place) = self.cursor;
        let mut rows = statement.query(params![now_ms, due, message, place])?;
        let mut leased: Vec<Leased> = Vec::new();
        let mut count = 0;
        while count < limit {
            let Some(row) = rows.next()? else { return Ok((leased, false)) };
            let key: DueKey = (row.get(0)?, row.get(1)?, row.get(2)?);
            self.cursor = key;
            if self.rows.contains(&(key.1, key.2)) {
                continue;
            }
            let id = Uuid::from_bytes(row.get(5)?);
            let place = row.get(2)?;
            let last = leased.last_mut().filter(|last| last.message == id);
            let added = match (recipient(row), last) {
                (Ok(recipient), Some(last)) => {
                    last.recipients.push(recipient);
                    Ok(())
                }
                (Ok(recipient), None) => message_of(row, id, recipient).map(|message| leased.push(message)),
                (Err(error), _) => Err(error),
            };
            if let Err(error) = added {
                tracing::error!(%id, place, %error, "a queued recipient cannot be read and is set aside");
                continue;
            }
            self.restore(id, place, key);
            count += 1;
        }
        Ok((leased, true))
    }
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
