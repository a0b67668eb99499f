//! Events of a tenant across its messages, from the outbox and from `events.db`.
//!
//! A list goes by `seq`. For a reader who goes on after the last event seen, none may appear behind: so a list ends
//! where the events are known to be complete. Every event up to the highest that moved (`moved`, read first) and up to
//! the highest in the outbox was committed when the outbox is read, and is in one of both tables then.

use rusqlite::{Connection, OptionalExtension, Row, params};
use uuid::Uuid;

use super::history::{self, Subject};
use super::reading::tenant_key;
use super::webhook_rows::mask;
use super::{EventFilter, EventRecord, StoreError};

/// The highest `seq` that moved. On a reading connection, in a transaction before that of `list`.
pub(super) fn moved(connection: &Connection) -> Result<i64, StoreError> {
    Ok(connection.prepare_cached("SELECT seq FROM events.progress")?.query_row([], |row| row.get(0))?)
}

/// Events that pass the filter, and whether there are more. `NotFound`: the event to go on after.
pub(super) fn list(
    connection: &Connection,
    filter: &EventFilter,
    moved: i64,
    limit: usize,
) -> Result<(Vec<EventRecord>, bool), StoreError> {
    let Some(tenant) = tenant_key(connection, &filter.tenant)? else { return Ok((Vec::new(), false)) };
    // The outbox first: whatever leaves it while we read is in the other table by then.
    let in_outbox: Option<i64> =
        connection.prepare_cached("SELECT max(seq) FROM main.outbox")?.query_row([], |row| row.get(0))?;
    let complete = in_outbox.unwrap_or(0).max(moved);
    let (after, before) = match (&filter.after, filter.oldest_first) {
        (None, _) => (0, complete),
        (Some(id), true) => (seq_of(connection, tenant, id)?, complete),
        (Some(id), false) => (0, seq_of(connection, tenant, id)? - 1),
    };
    let order = if filter.oldest_first { "ASC" } else { "DESC" };
    let wanted = filter.kinds.as_ref().map_or(-1, |kinds| mask(kinds));
    let from = filter.from.map_or(i64::MIN, |at| at.as_millisecond());
    let to = filter.to.map_or(i64::MAX, |at| at.as_millisecond());
    let columns = history::COLUMNS.split(", ").map(|column| format!("e.{column}")).collect::<Vec<_>>().join(", ");
    let mut found: Vec<(i64, EventRecord)> = Vec::new();
    for (table, owner) in [("main.outbox", "m.tenant"), ("events.event", "e.tenant")] {
        let sql = format!(
            "SELECT {columns}, m.id FROM {table} e JOIN main.message m ON m.key = e.message
             WHERE {owner} = ?1 AND e.seq > ?2 AND e.seq <= ?3 AND ?4 >> e.kind & 1 AND e.at_ms BETWEEN ?5 AND ?6
               AND (?8 IS NULL OR m.id = ?8)
             ORDER BY e.seq {order} LIMIT ?7"
        );
        let mut statement = connection.prepare_cached(&sql)?;
        let mut rows = statement.query(params![
            tenant,
            after,
            before,
            wanted,
            from,
            to,
            limit as i64 + 1,
            filter.message.as_ref().map(|id| id.as_bytes())
        ])?;
        while let Some(row) = rows.next()? {
            found.push((row.get(1)?, record(row, &filter.tenant)?));
        }
    }
    found.sort_by_key(|(seq, _)| if filter.oldest_first { *seq } else { -*seq });
    found.dedup_by_key(|(seq, _)| *seq);
    let more = found.len() > limit;
    found.truncate(limit);
    Ok((found.into_iter().map(|(_, record)| record).collect(), more))
}

/// One event of a tenant.
pub(super) fn one(
    connection: &Connection,
    tenant: i64,
    name: &str,
    id: &str,
) -> Result<Option<EventRecord>, StoreError> {
    let Some(uuid) = event_uuid(id) else { return Ok(None) };
    let columns = history::COLUMNS.split(", ").map(|column| format!("e.{column}")).collect::<Vec<_>>().join(", ");
    for table in ["main.outbox", "events.event"] {
        let sql = format!(
            "SELECT {columns}, m.id FROM {table} e JOIN main.message m ON m.key = e.message
             WHERE e.id = ?1 AND m.tenant = ?2"
        );
        let mut statement = connection.prepare_cached(&sql)?;
        let mut rows = statement.query(params![uuid.as_bytes(), tenant])?;
        if let Some(row) = rows.next()? {
            return record(row, name).map(Some);
        }
    }
    Ok(None)
}

/// The UUID in `evt_…`.
pub(super) fn event_uuid(id: &str) -> Option<Uuid> {
    Uuid::parse_str(id.strip_prefix("evt_")?).ok()
}

fn seq_of(connection: &Connection, tenant: i64, id: &str) -> Result<i64, StoreError> {
    let missing = || StoreError::NotFound(format!("event {id}"));
    let uuid = event_uuid(id).ok_or_else(missing)?;
    for table in ["main.outbox", "events.event"] {
        let sql = format!(
            "SELECT e.seq FROM {table} e JOIN main.message m ON m.key = e.message WHERE e.id = ?1 AND m.tenant = ?2"
        );
        let found = connection.prepare_cached(&sql)?.query_row(params![uuid.as_bytes(), tenant], |row| row.get(0));
        if let Some(seq) = found.optional()? {
            return Ok(seq);
        }
    }
    Err(missing())
}

/// A row of the event's columns with the message's id behind them.
fn record(row: &Row<'_>, tenant: &str) -> Result<EventRecord, StoreError> {
    let id = Uuid::from_bytes(row.get(17)?);
    history::decode(row, &Subject { key: row.get(0)?, id, tenant })
}
