//! Webhooks in `store.db`, and the `Webhooks` trait of the embedded store in terms of its parts.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};

use async_trait::async_trait;
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde_json::json;
use uuid::Uuid;

use super::audit::{self, Audited};
use super::embedded::Embedded;
use super::history::time;
use super::housekeeping::EventsChange;
use super::reading::tenant_key;
use super::writer::Job;
use super::{
    AnyEvent, AnyKind, AttemptRecord, Attempted, EventFilter, Page, Replay, StoreError, TenantEvent, TenantEventKind,
    Waiting, Webhook, WebhookChange, WebhookKey, WebhookStatus, Webhooks, accepting, codes, deliveries, feed,
    tenant_events,
};

pub(super) const COLUMNS: &str =
    "w.key, w.id, t.name, w.url, w.kinds, w.secret, w.old_secret, w.old_until_ms, w.status, w.reason, w.created_ms";

/// One bit for each kind of event.
pub(super) fn mask(kinds: &[AnyKind]) -> i64 {
    kinds.iter().fold(0, |mask, kind| mask | 1 << codes::any_kind_to(*kind))
}

fn kinds(mask: i64) -> Vec<AnyKind> {
    (0..63).filter(|bit| mask >> bit & 1 == 1).filter_map(codes::any_kind_from).collect()
}

fn status_to(status: WebhookStatus) -> i64 {
    match status {
        WebhookStatus::Enabled => 1,
        WebhookStatus::Disabled => 2,
        WebhookStatus::Paused => 3,
    }
}

fn status_from(code: i64) -> WebhookStatus {
    match code {
        1 => WebhookStatus::Enabled,
        3 => WebhookStatus::Paused,
        _ => WebhookStatus::Disabled,
    }
}

pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<(WebhookKey, Webhook)> {
    let old_secret: Option<Vec<u8>> = row.get(6)?;
    let old_until: Option<i64> = row.get(7)?;
    let webhook = Webhook {
        id: row.get(1)?,
        tenant: row.get(2)?,
        url: row.get(3)?,
        kinds: kinds(row.get(4)?),
        sealed_secret: row.get(5)?,
        old_secret: old_secret.zip(old_until.map(time)),
        status: status_from(row.get(8)?),
        reason: row.get(9)?,
        created_at: time(row.get(10)?),
    };
    Ok((WebhookKey(row.get(0)?), webhook))
}

/// Whether any webhook is to be told of events, so that they are moved at once.
pub(super) fn any_enabled(connection: &Connection) -> rusqlite::Result<bool> {
    connection.query_row("SELECT EXISTS (SELECT 1 FROM webhook WHERE status = 1)", [], |row| row.get(0))
}

fn add(connection: &Connection, tenant: i64, webhook: &Webhook, most: usize) -> Result<(), StoreError> {
    let there: i64 =
        connection.query_row("SELECT count(*) FROM webhook WHERE tenant = ?1", [tenant], |row| row.get(0))?;
    if there >= most as i64 {
        return Err(StoreError::Exists(format!("{there} webhooks, which is the most a tenant may have")));
    }
    connection.execute(
        "INSERT INTO webhook (id, tenant, url, kinds, secret, old_secret, old_until_ms, status, reason, created_ms)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        params![
            webhook.id,
            tenant,
            webhook.url,
            mask(&webhook.kinds),
            webhook.sealed_secret,
            webhook.old_secret.as_ref().map(|(secret, _)| secret),
            webhook.old_secret.as_ref().map(|(_, until)| until.as_millisecond()),
            status_to(webhook.status),
            webhook.reason,
            webhook.created_at.as_millisecond(),
        ],
    )?;
    Ok(())
}

/// Changes one row, if it is there.
fn change(connection: &Connection, id: &str, sql: &str, values: impl rusqlite::Params) -> Result<(), StoreError> {
    if connection.execute(sql, values)? == 0 { Err(missing(id)) } else { Ok(()) }
}

fn missing(id: &str) -> StoreError {
    StoreError::NotFound(format!("webhook {id}"))
}

impl Embedded {
    async fn change_events(&self, change: EventsChange) -> Result<(), StoreError> {
        self.write_events(change).await
    }

    async fn change_main(&self, change: super::writer::Change) -> Result<(), StoreError> {
        self.ask(|answer| Job::Change { change, answer }).await?
    }

    /// A webhook may have something to be told now.
    fn tell_of(&self, keys: impl IntoIterator<Item = WebhookKey>) {
        self.shared.prompt.store(true, Ordering::Release);
        let mut news = self.shared.news.lock().unwrap_or_else(PoisonError::into_inner);
        news.extend(keys.into_iter().map(|key| key.0));
        self.shared.told.notify_one();
    }
}

#[async_trait]
impl Webhooks for Embedded {
    async fn add_webhook(&self, webhook: Webhook, most: usize) -> Result<(), StoreError> {
        self.change_main(Box::new(move |connection, counters| {
            let tenant = accepting::tenant_key(connection, counters, &webhook.tenant)?;
            add(connection, tenant, &webhook, most)
        }))
        .await?;
        self.shared.prompt.store(true, Ordering::Release);
        Ok(())
    }

    async fn webhooks(&self, tenant: &str) -> Result<Vec<Webhook>, StoreError> {
        let tenant = tenant.to_owned();
        self.readers
            .read(move |connection| {
                let sql = format!(
                    "SELECT {COLUMNS} FROM webhook w JOIN tenant t ON t.key = w.tenant WHERE t.name = ?1 ORDER BY w.key"
                );
                let mut statement = connection.prepare_cached(&sql)?;
                let found = statement.query_map([tenant], |row| Ok(read(row)?.1))?;
                Ok(found.collect::<Result<_, _>>()?)
            })
            .await
    }

    async fn webhook(&self, tenant: &str, id: &str) -> Result<(WebhookKey, Webhook), StoreError> {
        let (tenant, id) = (tenant.to_owned(), id.to_owned());
        self.readers
            .read(move |connection| {
                let sql = format!(
                    "SELECT {COLUMNS} FROM webhook w JOIN tenant t ON t.key = w.tenant WHERE w.id = ?1 AND t.name = ?2"
                );
                let found = connection.prepare_cached(&sql)?.query_row([&id, &tenant], read).optional()?;
                found.ok_or_else(|| missing(&id))
            })
            .await
    }

    async fn change_webhook(&self, tenant: &str, id: &str, change: WebhookChange) -> Result<(), StoreError> {
        let (key, _) = self.webhook(tenant, id).await?;
        let id = id.to_owned();
        self.change_main(Box::new(move |connection, _| {
            let WebhookChange { url, kinds, status } = change;
            self::change(
                connection,
                &id,
                "UPDATE webhook SET url = coalesce(?2, url), kinds = coalesce(?3, kinds), status = coalesce(?4, status),
                 reason = iif(?4 IS NULL, reason, NULL) WHERE key = ?1",
                params![key.0, url, kinds.as_deref().map(mask), status.map(status_to)],
            )
        }))
        .await?;
        // What waited while it was not enabled may go on, and it starts with a clean slate.
        self.change_events(Box::new(move |connection| deliveries::forget_failures(connection, key))).await?;
        self.tell_of([key]);
        Ok(())
    }

    async fn rotate_secret(
        &self,
        tenant: &str,
        id: &str,
        sealed_secret: Vec<u8>,
        old_until: Timestamp,
    ) -> Result<(), StoreError> {
        let (key, _) = self.webhook(tenant, id).await?;
        let id = id.to_owned();
        self.change_main(Box::new(move |connection, _| {
            // In one statement: of two at once, each has a secret that signs.
            let sql = "UPDATE webhook SET old_secret = secret, old_until_ms = ?3, secret = ?2 WHERE key = ?1";
            self::change(connection, &id, sql, params![key.0, sealed_secret, old_until.as_millisecond()])
        }))
        .await?;
        self.tell_of([key]);
        Ok(())
    }

    async fn stop_webhook(
        &self,
        webhook: WebhookKey,
        url: &str,
        status: WebhookStatus,
        reason: &str,
        at: Timestamp,
    ) -> Result<bool, StoreError> {
        let is_stopped = Arc::new(AtomicBool::new(true));
        let (url, reason, told) = (url.to_owned(), reason.to_owned(), is_stopped.clone());
        self.change_main(Box::new(move |connection, counters| {
            let sql =
                "SELECT w.tenant, w.id, w.url, w.status = 1, t.name FROM webhook w JOIN tenant t ON t.key = w.tenant
                       WHERE w.key = ?1";
            let found: Option<(i64, String, String, bool, String)> = connection
                .prepare_cached(sql)?
                .query_row([webhook.0], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?)))
                .optional()?;
            let Some((tenant, id, current, is_enabled, name)) = found else { return Ok(()) };
            if current != url {
                told.store(false, Ordering::Release);
                return Ok(());
            }
            if !is_enabled {
                return Ok(());
            }
            connection.execute(
                "UPDATE webhook SET status = ?2, reason = ?3 WHERE key = ?1",
                params![webhook.0, status_to(status), reason],
            )?;
            let (kind, state) = match status {
                WebhookStatus::Paused => (TenantEventKind::WebhookPaused, "paused"),
                WebhookStatus::Disabled | WebhookStatus::Enabled => (TenantEventKind::WebhookDisabled, "disabled"),
            };
            // Without the endpoint, which may hold a password.
            let (before, after) = (json!({ "status": "enabled" }), json!({ "status": state, "reason": reason }));
            let what = format!("webhooks/{id}: {state}");
            audit::write(connection, &Audited::by_host(Some(&name), &what, before, after, at))?;
            let data = [("webhook_id", id.into()), ("endpoint", url.into()), ("reason", reason.into())];
            tenant_events::record(connection, counters, tenant, TenantEvent::new(kind, data), at)
        }))
        .await?;
        Ok(is_stopped.load(Ordering::Acquire))
    }

    async fn remove_webhook(&self, tenant: &str, id: &str) -> Result<(), StoreError> {
        let (key, _) = self.webhook(tenant, id).await?;
        self.change_main(Box::new(move |connection, _| {
            connection.execute("DELETE FROM webhook WHERE key = ?1", [key.0])?;
            Ok(())
        }))
        .await?;
        self.change_events(Box::new(move |connection| deliveries::forget_webhook(connection, key))).await?;
        // What is in memory of it goes too.
        self.tell_of([key]);
        Ok(())
    }

    async fn replay(
        &self,
        webhook: WebhookKey,
        what: Replay,
        now: Timestamp,
        most: usize,
    ) -> Result<usize, StoreError> {
        // What was recorded before this call must be found.
        self.move_events().await;
        let found = self.readers.read(move |connection| deliveries::find(connection, webhook, &what, most)).await?;
        let count = found.len();
        self.change_events(Box::new(move |connection| deliveries::make_due(connection, webhook, &found, now))).await?;
        self.tell_of([webhook]);
        Ok(count)
    }

    async fn attempts(
        &self,
        webhook: WebhookKey,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Page<AttemptRecord>, StoreError> {
        let cursor = cursor.map(str::to_owned);
        self.readers.read(move |connection| deliveries::log(connection, webhook, cursor.as_deref(), limit)).await
    }

    async fn attempt_for(&self, webhook: WebhookKey, event: &str) -> Result<AttemptRecord, StoreError> {
        let event = event.to_owned();
        self.readers.read(move |connection| deliveries::last_attempt(connection, webhook, &event)).await
    }

    async fn attempts_for(&self, message: Uuid, limit: usize) -> Result<Vec<AttemptRecord>, StoreError> {
        self.readers.read(move |connection| deliveries::log_of_message(connection, message, limit)).await
    }

    async fn waiting_webhooks(&self) -> Result<Vec<WebhookKey>, StoreError> {
        self.readers.read(deliveries::waiting_webhooks).await
    }

    async fn waiting(&self, webhook: WebhookKey, now: Timestamp, limit: usize) -> Result<Waiting, StoreError> {
        let spool = self.shared.layout.spool.clone();
        self.readers.read(move |connection| deliveries::waiting(connection, &spool, webhook, now, limit)).await
    }

    async fn attempted(&self, attempts: Vec<Attempted>) -> Result<(), StoreError> {
        self.change_events(Box::new(move |connection| {
            attempts.iter().try_for_each(|attempt| deliveries::attempted(connection, attempt))
        }))
        .await
    }

    async fn news(&self) -> Vec<WebhookKey> {
        loop {
            let told = self.shared.told.notified();
            let news: BTreeSet<i64> =
                std::mem::take(&mut *self.shared.news.lock().unwrap_or_else(PoisonError::into_inner));
            if !news.is_empty() {
                return news.into_iter().map(WebhookKey).collect();
            }
            told.await;
        }
    }

    async fn forget_attempts(&self, before: Timestamp) -> Result<bool, StoreError> {
        let more = Arc::new(AtomicBool::new(false));
        let told = more.clone();
        self.change_events(Box::new(move |connection| {
            told.store(deliveries::forget_attempts(connection, before)?, Ordering::Release);
            Ok(())
        }))
        .await?;
        Ok(more.load(Ordering::Acquire))
    }

    async fn tenant_events(&self, filter: EventFilter, limit: usize) -> Result<(Vec<AnyEvent>, bool), StoreError> {
        // A filter may pass few of many rows: such reads are few at once, and leave room for all others.
        let _place = self.lists.acquire().await.map_err(|error| StoreError::Io(error.to_string()))?;
        // How far the events are complete, read before the events themselves: see `feed`.
        let moved = self.readers.read(feed::moved).await?;
        self.readers.read(move |connection| feed::list(connection, &filter, moved, limit)).await
    }

    async fn event(&self, tenant: &str, id: &str) -> Result<AnyEvent, StoreError> {
        let (tenant, id) = (tenant.to_owned(), id.to_owned());
        self.readers
            .read(move |connection| {
                let missing = || StoreError::NotFound(format!("event {id}"));
                let key = tenant_key(connection, &tenant)?.ok_or_else(missing)?;
                feed::one(connection, key, &tenant, &id)?.ok_or_else(missing)
            })
            .await
    }
}
