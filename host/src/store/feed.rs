//! Events of a tenant and of all its messages, from the outbox and from `events.db`.
//!
//! A list goes by `seq`. For a reader who goes on after the last event seen, none may appear behind: so a list ends
//! where the events are known to be complete. Every event up to the highest that moved (`moved`, read first) and up to
//! the highest in the outbox was committed when the outbox is read, and is in one of both tables then.

use mail::{EventKind, Stream};
use rusqlite::{Connection, OptionalExtension, Row, params};
use uuid::Uuid;

use super::history::{self, Subject};
use super::reading::tenant_key;
use super::webhook_rows::mask;
use super::{AnyEvent, AnyKind, EventFilter, StoreError, codes, tenant_events};

/// What stands in the `extra` of a broadcast: in a text of its sender's the quotes would be escaped.
const BROADCAST: &str = r#"["posthaste.stream","broadcast"]"#;

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
) -> Result<(Vec<AnyEvent>, bool), StoreError> {
    let Some(tenant) = tenant_key(connection, &filter.tenant)? else { return Ok((Vec::new(), false)) };
    let message = match &filter.message {
        None => None,
        Some(id) => match message_key(connection, tenant, id)? {
            Some(key) => Some(key),
            None => return Ok((Vec::new(), false)),
        },
    };
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
    let wants_broadcast = filter.stream.map(|stream| stream == Stream::Broadcast);
    let mut found: Vec<(i64, AnyEvent)> = Vec::new();
    for place in places(filter) {
        let sql = format!(
            "SELECT {}, m.id, m.extra FROM {place} AND e.seq > ?2 AND e.seq <= ?3 AND ?4 >> e.kind & 1
               AND e.at_ms BETWEEN ?5 AND ?6 AND (?8 IS NULL OR e.message = ?8)
               AND (?9 IS NULL OR e.message > 0 AND (instr(coalesce(m.extra, ''), ?10) > 0) = ?9)
             ORDER BY e.seq {order} LIMIT ?7",
            columns()
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
            message,
            wants_broadcast,
            BROADCAST
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

/// Where a filter's events are looked for: tables with conditions, each by the index that leads to few rows.
fn places(filter: &EventFilter) -> Vec<String> {
    let joined = "LEFT JOIN main.message m ON m.key = e.message WHERE";
    let mut places = vec![format!("main.outbox e {joined} (m.tenant = ?1 OR e.message = -?1)")];
    let is_common = |kind: &AnyKind| *kind == AnyKind::Message(EventKind::Sent);
    match (&filter.message, &filter.kinds) {
        (Some(_), _) => places.push(format!("events.event e {joined} e.message = ?8")),
        (None, Some(kinds)) if !kinds.iter().any(is_common) => {
            let mut codes: Vec<i64> = kinds.iter().map(|kind| codes::any_kind_to(*kind)).collect();
            codes.sort_unstable();
            codes.dedup();
            // The condition of the index stands in it word for word, so that it serves.
            places.extend(codes.into_iter().map(|code| {
                format!(
                    "events.event e INDEXED BY event_kind {joined} e.tenant = ?1 AND e.kind = {code} AND e.kind > 1"
                )
            }));
        }
        (None, _) => places.push(format!("events.event e {joined} e.tenant = ?1")),
    }
    places
}

fn columns() -> String {
    history::COLUMNS.split(", ").map(|column| format!("e.{column}")).collect::<Vec<_>>().join(", ")
}

fn message_key(connection: &Connection, tenant: i64, id: &Uuid) -> rusqlite::Result<Option<i64>> {
    connection
        .prepare_cached("SELECT key FROM main.message WHERE id = ?1 AND tenant = ?2")?
        .query_row(params![id.as_bytes(), tenant], |row| row.get(0))
        .optional()
}

/// Events with that id, of that tenant or of a message of its.
const ONE: &str = "LEFT JOIN main.message m ON m.key = e.message
                   WHERE e.id = ?1 AND (m.tenant = ?2 OR e.message = -?2)";

/// One event of a tenant.
pub(super) fn one(connection: &Connection, tenant: i64, name: &str, id: &str) -> Result<Option<AnyEvent>, StoreError> {
    let Some(uuid) = event_uuid(id) else { return Ok(None) };
    for table in ["main.outbox", "events.event"] {
        let sql = format!("SELECT {}, m.id, m.extra FROM {table} e {ONE}", columns());
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
        let sql = format!("SELECT e.seq FROM {table} e {ONE}");
        let found = connection.prepare_cached(&sql)?.query_row(params![uuid.as_bytes(), tenant], |row| row.get(0));
        if let Some(seq) = found.optional()? {
            return Ok(seq);
        }
    }
    Err(missing())
}

/// The stream of a message whose `extra` stands in a column. Few have one, and fewer name a stream in it.
pub(super) fn stream(row: &Row<'_>, column: usize) -> rusqlite::Result<Stream> {
    let is_broadcast = row.get_ref(column)?.as_str_or_null().is_ok_and(|extra| extra.is_some_and(names_broadcast));
    Ok(if is_broadcast { Stream::Broadcast } else { Stream::Transactional })
}

fn names_broadcast(extra: &str) -> bool {
    extra.contains(BROADCAST)
}

/// A row of the event's columns with the message's id and its `extra` behind them.
fn record(row: &Row<'_>, tenant: &str) -> Result<AnyEvent, StoreError> {
    if let Some(event) = tenant_events::decode(row, tenant)? {
        return Ok(AnyEvent::Tenant(event));
    }
    let id = Uuid::from_bytes(row.get(17)?);
    Ok(AnyEvent::Message(history::decode(row, &Subject { key: row.get(0)?, id, tenant, stream: stream(row, 18)? })?))
}
