//! What an operator sees of the queue, and does to it: a page at a time, so that neither memory nor a transaction grows
//! with what waits.
//!
//! A walk goes through the index of lanes, then through that of held recipients; its cursor is a place in one of them. A
//! message on the schedule is ended like any other, and otherwise left alone: its time is its owner's. A recipient that is
//! in delivery is held behind its attempt, and not ended: nobody can say what its peer has by now.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use jiff::Timestamp;
use mail::{Domain, EventKind, Stream};
use rusqlite::{Connection, OptionalExtension, Row, params};
use uuid::Uuid;

use super::accepting::Counters;
use super::history::{self, time};
use super::lanes::{DueKey, Lane};
use super::lease::Leases;
use super::reading::tenant_key;
use super::{Page, StoreError, TenantId, scheduling};
use crate::metrics::Unattempted;

/// The reason of the `email.bounced` of what an operator bounced.
pub const BOUNCED: &str = "bounced_by_operator";
/// The reason of the `email.failed` of what an operator purged.
pub const PURGED: &str = "purged";

/// Recipients looked at for one page, and changed at once.
const LOOKED_AT: usize = 5000;
const CHANGED_AT_ONCE: usize = 500;
/// Recipients on a page, whatever is asked for.
const SHOWN: usize = 1000;

/// Which queued recipients are meant: those that fit all that is given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueFilter {
    pub message: Option<Uuid>,
    pub tenant: Option<TenantId>,
    /// Of the recipient.
    pub domain: Option<Domain>,
    pub stream: Option<Stream>,
    /// Chosen by what the store knows nothing of.
    pub pick: Option<Pick>,
    pub accepted_before: Option<Timestamp>,
    pub held: Option<bool>,
}

/// Whether a message to this domain, with this id, is meant.
type Test = dyn Fn(&Domain, Uuid) -> bool + Send + Sync;

/// Says of a recipient's domain and its message whether they are meant.
#[derive(Clone)]
pub struct Pick(Arc<Test>);

impl Pick {
    pub fn new(is_meant: impl Fn(&Domain, Uuid) -> bool + Send + Sync + 'static) -> Pick {
        Pick(Arc::new(is_meant))
    }

    fn takes(&self, domain: &str, message: Uuid) -> bool {
        Domain::parse(domain).is_ok_and(|domain| (self.0)(&domain, message))
    }
}

impl fmt::Debug for Pick {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pick")
    }
}

/// One picks the same as itself: of others nobody can say.
impl PartialEq for Pick {
    fn eq(&self, other: &Pick) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Pick {}

/// A recipient that is not done with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueuedRecipient {
    pub message: Uuid,
    pub tenant: TenantId,
    pub stream: Stream,
    /// Empty: the null sender.
    pub sender: String,
    pub recipient: String,
    pub size_bytes: u64,
    pub accepted_at: Timestamp,
    pub attempts: u32,
    /// `None`: held.
    pub due_at: Option<Timestamp>,
    /// Whether it waits for a time that its owner chose.
    pub is_scheduled: bool,
}

/// What is done to queued recipients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueChange {
    /// Due now, whatever its next attempt was to be.
    Retry,
    /// No attempt until it is released.
    Hold,
    /// Due now, where it was held.
    Release,
    /// Over, with `email.canceled`.
    Cancel,
    /// Over, with `email.bounced`.
    Bounce,
    /// Over, with `email.failed`.
    Purge,
}

/// What came of a change, up to a place in the queue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tended {
    pub changed: u64,
    /// Recipients that fit, and were left alone because they are in delivery.
    pub in_delivery: u64,
    /// Hand it in to go on; absent at the end.
    pub next: Option<String>,
}

/// A place in a walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Due(i64, DueKey),
    Held(i64, i64, i64),
}

const START: At = At::Due(i64::MIN, (i64::MIN, 0, -1));
const HELD_ONES: At = At::Held(i64::MIN, 0, -1);

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            At::Due(lane, (due, message, place)) => write!(f, "d.{lane}.{due}.{message}.{place}"),
            At::Held(lane, message, place) => write!(f, "h.{lane}.{message}.{place}"),
        }
    }
}

impl FromStr for At {
    type Err = StoreError;

    fn from_str(text: &str) -> Result<At, StoreError> {
        let unknown = || StoreError::NotFound(format!("the cursor `{}`", text.escape_debug()));
        let (kind, rest) = text.split_once('.').ok_or_else(unknown)?;
        let numbers: Option<Vec<i64>> = rest.split('.').map(|number| number.parse().ok()).collect();
        match (kind, numbers.as_deref()) {
            ("d", Some(&[lane, due, message, place])) => Ok(At::Due(lane, (due, message, place))),
            ("h", Some(&[lane, message, place])) => Ok(At::Held(lane, message, place)),
            _ => Err(unknown()),
        }
    }
}

/// A row of a walk.
struct Found {
    lane: Lane,
    due_ms: Option<i64>,
    message: i64,
    place: i64,
    queued: QueuedRecipient,
}

const COLUMNS: &str = "r.lane, r.due_ms, r.message, r.place, r.address, r.attempts,
    m.id, t.name, m.sender, m.size, m.accepted_ms, coalesce(s.state = 1, 0)";
const JOINS: &str = "CROSS JOIN message m ON m.key = r.message CROSS JOIN tenant t ON t.key = m.tenant
    LEFT JOIN schedule s ON s.message = m.key";

/// Queued recipients that fit, by domain and due time, held ones last. On a reading connection.
pub(super) fn page(
    connection: &Connection,
    filter: &QueueFilter,
    cursor: Option<&str>,
    limit: usize,
) -> Result<Page<QueuedRecipient>, StoreError> {
    let start = cursor.map_or(Ok(START), str::parse)?;
    let (found, next) = walk(connection, filter, start, limit.clamp(1, SHOWN))?;
    Ok(Page { items: found.into_iter().map(|row| row.queued).collect(), next: next.map(|at| at.to_string()) })
}

/// What a change leaves to be done in memory.
#[derive(Default)]
pub(super) struct Changes {
    pub(super) tended: Tended,
    pub(super) due: Vec<(Lane, DueKey)>,
    /// Recipients that are over, and those of each tenant.
    pub(super) done: u64,
    pub(super) unattempted: HashMap<(TenantId, Unattempted), u64>,
    pub(super) events: bool,
}

/// Changes the next few recipients that fit, inside the writer's transaction.
pub(super) fn tend(
    connection: &Connection,
    counters: &mut Counters,
    leases: &Leases,
    (filter, change): (&QueueFilter, QueueChange),
    cursor: Option<&str>,
    at_ms: i64,
) -> Result<Changes, StoreError> {
    let start = match cursor {
        Some(text) => text.parse()?,
        None if change == QueueChange::Release => HELD_ONES,
        None => START,
    };
    let (found, next) = walk(connection, filter, start, CHANGED_AT_ONCE)?;
    // What was held just now is not walked through again.
    let is_last_held = matches!(change, QueueChange::Retry | QueueChange::Hold);
    let next = next.filter(|at| !(is_last_held && matches!(at, At::Held(..))));
    let mut changes = Changes::default();
    changes.tended.next = next.map(|at| at.to_string());
    let mut tending = Tending { connection, counters, at_ms, changes: &mut changes };
    for row in &found {
        let is_leased = leases.is_held(row.message, row.place);
        match change {
            QueueChange::Retry => tending.retry(row, is_leased)?,
            QueueChange::Hold => tending.hold(row)?,
            QueueChange::Release => tending.release(row)?,
            QueueChange::Cancel => tending.end(row, is_leased, EventKind::Canceled, None)?,
            QueueChange::Bounce => tending.end(row, is_leased, EventKind::Bounced, Some(BOUNCED))?,
            QueueChange::Purge => tending.end(row, is_leased, EventKind::Failed, Some(PURGED))?,
        }
    }
    Ok(changes)
}

struct Tending<'a> {
    connection: &'a Connection,
    counters: &'a mut Counters,
    at_ms: i64,
    changes: &'a mut Changes,
}

impl Tending<'_> {
    fn retry(&mut self, row: &Found, is_leased: bool) -> rusqlite::Result<()> {
        if is_leased {
            self.changes.tended.in_delivery += 1;
        } else if !row.queued.is_scheduled && row.due_ms.is_some_and(|due| due > self.at_ms) {
            self.set_due(row, Some(self.at_ms))?;
        }
        Ok(())
    }

    fn hold(&mut self, row: &Found) -> rusqlite::Result<()> {
        if !row.queued.is_scheduled && row.due_ms.is_some() {
            self.set_due(row, None)?;
        }
        Ok(())
    }

    fn release(&mut self, row: &Found) -> rusqlite::Result<()> {
        if row.due_ms.is_none() {
            self.set_due(row, Some(self.at_ms))?;
        }
        Ok(())
    }

    fn set_due(&mut self, row: &Found, due_ms: Option<i64>) -> rusqlite::Result<()> {
        self.connection
            .prepare_cached("UPDATE recipient SET due_ms = ?3 WHERE message = ?1 AND place = ?2")?
            .execute(params![row.message, row.place, due_ms])?;
        self.changes.due.extend(due_ms.map(|due_ms| (row.lane, (due_ms, row.message, row.place))));
        self.changes.tended.changed += 1;
        Ok(())
    }

    fn end(&mut self, row: &Found, is_leased: bool, kind: EventKind, reason: Option<&str>) -> rusqlite::Result<()> {
        if is_leased {
            self.changes.tended.in_delivery += 1;
            return Ok(());
        }
        self.connection
            .prepare_cached("UPDATE recipient SET due_ms = NULL, done_ms = ?3 WHERE message = ?1 AND place = ?2")?
            .execute([row.message, row.place, self.at_ms])?;
        if row.queued.is_scheduled {
            scheduling::leave(self.connection, row.message)?;
        }
        self.counters.seq += 1;
        let key = (row.message, self.counters.seq);
        history::record_reason(self.connection, key, kind, self.at_ms, &row.queued.recipient, reason)?;
        self.changes.tended.changed += 1;
        self.changes.done += 1;
        let how = if kind == EventKind::Canceled { Unattempted::Canceled } else { Unattempted::ByOperator };
        *self.changes.unattempted.entry((row.queued.tenant.clone(), how)).or_default() += 1;
        self.changes.events = true;
        Ok(())
    }
}

/// The next rows that fit, at most `limit`, and where to go on.
fn walk(
    connection: &Connection,
    filter: &QueueFilter,
    start: At,
    limit: usize,
) -> Result<(Vec<Found>, Option<At>), StoreError> {
    let mut walk = Walk { filter, room: limit, looks: LOOKED_AT, found: Vec::new() };
    let tenant = match &filter.tenant {
        Some(name) => match tenant_key(connection, name)? {
            Some(key) => Some(key),
            None => return Ok((Vec::new(), None)),
        },
        None => None,
    };
    if let Some(id) = filter.message {
        walk.message(connection, id)?;
        return Ok((walk.found, None));
    }
    // A tenant's lanes lie side by side.
    let lanes = tenant.map_or((i64::MIN, i64::MAX), |key| (key << 33, ((key + 1) << 33) - 1));
    let mut at = start;
    if let At::Due(lane, (due, message, place)) = at {
        let behind = match filter.held {
            Some(true) => None,
            _ => walk.due(connection, (lane.max(lanes.0), lane, due, message, place), lanes.1)?,
        };
        match behind {
            Some(behind) => return Ok((walk.found, Some(behind))),
            None => at = HELD_ONES,
        }
    }
    if filter.held == Some(false) {
        return Ok((walk.found, None));
    }
    let At::Held(lane, message, place) = at else { return Ok((walk.found, None)) };
    let behind = walk.held(connection, (lane.max(lanes.0), lane, message, place), lanes.1)?;
    Ok((walk.found, behind))
}

struct Walk<'a> {
    filter: &'a QueueFilter,
    room: usize,
    looks: usize,
    found: Vec<Found>,
}

impl Walk<'_> {
    /// Recipients of one message, few enough for one page.
    fn message(&mut self, connection: &Connection, id: Uuid) -> Result<(), StoreError> {
        let key: Option<i64> = connection
            .prepare_cached("SELECT key FROM message WHERE id = ?1")?
            .query_row([id.as_bytes()], |row| row.get(0))
            .optional()?;
        let Some(key) = key else { return Err(StoreError::NotFound(format!("message {id}"))) };
        let sql = format!(
            "SELECT {COLUMNS} FROM recipient r {JOINS} WHERE r.message = ?1 AND r.done_ms IS NULL ORDER BY r.place"
        );
        let mut statement = connection.prepare_cached(&sql)?;
        let mut rows = statement.query([key])?;
        while let Some(row) = rows.next()? {
            self.look(row)?;
        }
        Ok(())
    }

    fn due(
        &mut self,
        connection: &Connection,
        (first, lane, due, message, place): (i64, i64, i64, i64, i64),
        last: i64,
    ) -> Result<Option<At>, StoreError> {
        let (due, message, place) = if first == lane { (due, message, place) } else { (i64::MIN, 0, -1) };
        let sql = format!(
            "SELECT {COLUMNS} FROM recipient r {JOINS}
             WHERE r.due_ms IS NOT NULL AND (r.lane, r.due_ms, r.message, r.place) > (?1, ?2, ?3, ?4) AND r.lane <= ?5
             ORDER BY r.lane, r.due_ms, r.message, r.place"
        );
        let mut statement = connection.prepare_cached(&sql)?;
        let mut rows = statement.query([first, due, message, place, last])?;
        while let Some(row) = rows.next()? {
            let at = At::Due(row.get(0)?, (row.get(1)?, row.get(2)?, row.get(3)?));
            self.look(row)?;
            if self.is_over() {
                return Ok(Some(at));
            }
        }
        Ok(None)
    }

    fn held(
        &mut self,
        connection: &Connection,
        (first, lane, message, place): (i64, i64, i64, i64),
        last: i64,
    ) -> Result<Option<At>, StoreError> {
        let (message, place) = if first == lane { (message, place) } else { (0, -1) };
        let sql = format!(
            "SELECT {COLUMNS} FROM recipient r {JOINS}
             WHERE r.due_ms IS NULL AND r.done_ms IS NULL AND (r.lane, r.message, r.place) > (?1, ?2, ?3)
               AND r.lane <= ?4
             ORDER BY r.lane, r.message, r.place"
        );
        let mut statement = connection.prepare_cached(&sql)?;
        let mut rows = statement.query([first, message, place, last])?;
        while let Some(row) = rows.next()? {
            let at = At::Held(row.get(0)?, row.get(2)?, row.get(3)?);
            self.look(row)?;
            if self.is_over() {
                return Ok(Some(at));
            }
        }
        Ok(None)
    }

    fn is_over(&self) -> bool {
        self.room == 0 || self.looks == 0
    }

    fn look(&mut self, row: &Row<'_>) -> Result<(), StoreError> {
        self.looks = self.looks.saturating_sub(1);
        match found(row) {
            Ok(found) if self.filter.fits(&found.queued) => {
                self.room = self.room.saturating_sub(1);
                self.found.push(found);
            }
            Ok(_) => {}
            // It stays where it is; those behind it are reached.
            Err(error) => {
                let (message, place) = (row.get::<_, i64>(2).ok(), row.get::<_, i64>(3).ok());
                tracing::error!(message, place, %error, "a queued recipient cannot be read and is left out");
            }
        }
        Ok(())
    }
}

impl QueueFilter {
    fn fits(&self, queued: &QueuedRecipient) -> bool {
        let domain = || queued.recipient.rsplit_once('@').map_or("", |(_, domain)| domain);
        self.tenant.as_ref().is_none_or(|tenant| *tenant == queued.tenant)
            && self.domain.as_ref().is_none_or(|wanted| wanted.as_str() == domain())
            && self.pick.as_ref().is_none_or(|pick| pick.takes(domain(), queued.message))
            && self.stream.is_none_or(|stream| stream == queued.stream)
            && self.accepted_before.is_none_or(|before| queued.accepted_at < before)
            && self.held.is_none_or(|held| held == queued.due_at.is_none())
    }
}

fn found(row: &Row<'_>) -> rusqlite::Result<Found> {
    let due_ms: Option<i64> = row.get(1)?;
    let lane = Lane::from_key(row.get(0)?);
    let queued = QueuedRecipient {
        message: Uuid::from_bytes(row.get(6)?),
        tenant: row.get(7)?,
        stream: lane.stream(),
        sender: row.get::<_, Option<String>>(8)?.unwrap_or_default(),
        recipient: row.get(4)?,
        size_bytes: row.get::<_, i64>(9)?.unsigned_abs(),
        accepted_at: time(row.get(10)?),
        attempts: row.get(5)?,
        due_at: due_ms.map(time),
        is_scheduled: row.get(11)?,
    };
    Ok(Found { lane, due_ms, message: row.get(2)?, place: row.get(3)?, queued })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_cursor_reads_back_and_nonsense_is_refused() {
        for at in [START, HELD_ONES, At::Due(7, (8, 9, 10)), At::Held(-1, 2, 3)] {
            assert_eq!(at.to_string().parse::<At>().unwrap(), at);
        }
        for text in ["", "d", "d.1", "x.1.2.3", "h.1.2.3.4", "d.1.2.3.x", "d.1.2.3.99999999999999999999"] {
            assert!(text.parse::<At>().is_err(), "{text}");
        }
    }
}
