//! Reading, on a few connections of its own, on the blocking pool. No read transaction outlives one page.

use std::sync::{Arc, Mutex, PoisonError};

use mail::{Address, Stream};
use rusqlite::{Connection, OptionalExtension, Row, params};
use tokio::sync::Semaphore;
use uuid::Uuid;

use super::accepting::Extra;
use super::feed;
use super::history::{self, Subject, time};
use super::lease::{address, place, sender};
use super::schema::{self, Layout};
use super::{EventRecord, MessageView, Page, StoreError};

/// Reads at once; more wait.
const READERS: usize = 8;
/// Items of one page, whatever the caller asks for.
const PAGE: usize = 1000;

const MESSAGE: &str = "SELECT key, id, sender, segment, position, size, accepted_ms, extra, send_ms
                       FROM message LEFT JOIN schedule ON message = key WHERE tenant = ?1";

pub(super) struct Readers {
    layout: Layout,
    idle: Mutex<Vec<Connection>>,
    permits: Arc<Semaphore>,
}

impl Readers {
    pub(super) fn new(layout: Layout) -> Readers {
        Readers { layout, idle: Mutex::new(Vec::new()), permits: Arc::new(Semaphore::new(READERS)) }
    }

    /// Runs disk work off the reactor, bounded.
    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let closed = |error: &dyn std::fmt::Display| StoreError::Io(format!("a read was given up: {error}"));
        let permit = self.permits.clone().acquire_owned().await.map_err(|error| closed(&error))?;
        let result = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            work()
        });
        result.await.map_err(|error| closed(&error))?
    }

    /// Runs a read in a transaction of its own, on this thread.
    pub(super) fn now<T>(&self, read: impl FnOnce(&Connection) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let connection = match idle {
            Some(connection) => connection,
            None => schema::open_for_reading(&self.layout)?,
        };
        let transaction = connection.unchecked_transaction()?;
        let result = read(&transaction);
        transaction.finish()?;
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        result
    }

    /// `now`, off the reactor.
    pub(super) async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let this = self.clone();
        self.blocking(move || this.now(read)).await
    }

    pub(super) async fn message(self: &Arc<Self>, tenant: String, id: Uuid) -> Result<MessageView, StoreError> {
        self.read(move |connection| {
            let missing = || StoreError::NotFound(format!("message {id}"));
            let key = tenant_key(connection, &tenant)?.ok_or_else(missing)?;
            let mut statement = connection.prepare_cached(&format!("{MESSAGE} AND id = ?2"))?;
            let mut rows = statement.query(params![key, id.as_bytes()])?;
            let row = rows.next()?.ok_or_else(missing)?;
            Ok(view(connection, row, &tenant)?.1)
        })
        .await
    }

    pub(super) async fn messages(
        self: &Arc<Self>,
        tenant: String,
        cursor: Option<String>,
        limit: usize,
    ) -> Result<Page<MessageView>, StoreError> {
        let before = read_cursor(cursor.as_deref(), i64::MAX)?;
        let limit = limit.clamp(1, PAGE);
        self.read(move |connection| {
            let Some(key) = tenant_key(connection, &tenant)? else { return Ok(Page { items: Vec::new(), next: None }) };
            let sql = format!("{MESSAGE} AND key < ?2 ORDER BY key DESC LIMIT ?3");
            let mut statement = connection.prepare_cached(&sql)?;
            let mut rows = statement.query(params![key, before, limit as i64 + 1])?;
            let mut found = Vec::new();
            while let Some(row) = rows.next()? {
                found.push(view(connection, row, &tenant)?);
            }
            Ok(page(found, limit))
        })
        .await
    }

    pub(super) async fn events(
        self: &Arc<Self>,
        tenant: String,
        message: Uuid,
        cursor: Option<String>,
        limit: usize,
    ) -> Result<Page<EventRecord>, StoreError> {
        let after = read_cursor(cursor.as_deref(), 0)?;
        let limit = limit.clamp(1, PAGE);
        self.read(move |connection| {
            let found: Option<(i64, Stream)> = connection
                .prepare_cached(
                    "SELECT m.key, m.extra FROM message m JOIN tenant t ON t.key = m.tenant WHERE m.id = ?1 AND t.name = ?2",
                )?
                .query_row(params![message.as_bytes(), tenant], |row| Ok((row.get(0)?, feed::stream(row, 1)?)))
                .optional()?;
            let (key, stream) = found.ok_or_else(|| StoreError::NotFound(format!("message {message}")))?;
            let subject = Subject { key, id: message, tenant: &tenant, stream };
            Ok(page(history::read(connection, &subject, after, limit + 1)?, limit))
        })
        .await
    }
}

/// The integer that stands for a tenant, where it is known.
pub(super) fn tenant_key(connection: &Connection, name: &str) -> rusqlite::Result<Option<i64>> {
    connection.prepare_cached("SELECT key FROM tenant WHERE name = ?1")?.query_row([name], |row| row.get(0)).optional()
}

/// A page out of one item more than fit on it; the cursor is the last item's number.
fn page<T>(mut found: Vec<(i64, T)>, limit: usize) -> Page<T> {
    let more = found.len() > limit;
    found.truncate(limit);
    let next = if more { found.last().map(|(number, _)| number.to_string()) } else { None };
    Page { items: found.into_iter().map(|(_, item)| item).collect(), next }
}

fn read_cursor(cursor: Option<&str>, start: i64) -> Result<i64, StoreError> {
    match cursor {
        None => Ok(start),
        Some(text) => text.parse().map_err(|_| StoreError::NotFound(format!("the cursor `{text}`"))),
    }
}

/// A message with its recipients and its latest event; the number is its key.
fn view(connection: &Connection, row: &Row<'_>, tenant: &str) -> Result<(i64, MessageView), StoreError> {
    let key: i64 = row.get(0)?;
    let id = Uuid::from_bytes(row.get(1)?);
    let unreadable = |what: &str| StoreError::Io(format!("the {what} of message {id} cannot be read"));
    let extra: Extra = match row.get::<_, Option<String>>(7)? {
        Some(text) => serde_json::from_str(&text).map_err(|_| unreadable("attributes"))?,
        None => Extra::default(),
    };
    let mut recipients = Vec::new();
    let mut statement = connection
        .prepare_cached("SELECT address, due_ms IS NOT NULL FROM recipient WHERE message = ?1 ORDER BY place")?;
    let mut waiting = 0;
    let mut rows = statement.query([key])?;
    while let Some(row) = rows.next()? {
        recipients.push(address(row, 0)?);
        waiting += usize::from(row.get::<_, bool>(1)?);
    }
    let place = place(row, 3)?;
    let bcc = extra.bcc.iter().map(|text| Address::parse(text)).collect::<Result<_, _>>();
    Ok((
        key,
        MessageView {
            id,
            tenant: tenant.to_owned(),
            stream: Stream::of(&extra.attributes),
            sender: sender(row, 2)?,
            recipients,
            waiting,
            bcc: bcc.map_err(|_| unreadable("Bcc addresses"))?,
            body: place.to_ref(),
            size_bytes: u64::from(place.size),
            accepted_at: time(row.get(6)?),
            scheduled_at: row.get::<_, Option<i64>>(8)?.map(time),
            tags: extra.tags,
            last_event: history::latest(connection, key)?,
        },
    ))
}
