//! Tenants on disk: whose mail it is, what each may, what it has used of its quotas.

use async_trait::async_trait;
use jiff::Timestamp;
use mail::Stream;
use mail::stream::UnknownStream;
use rusqlite::{OptionalExtension, Row, params};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;
use uuid::Uuid;

use super::audit::{self, AuditLog, Audited};
use super::embedded::Embedded;
use super::history::time;
use super::reading::tenant_key;
use super::{StoreError, TenantId, accepting};

/// Whose mail it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tenant {
    /// `ten_` and a UUID.
    pub id: String,
    pub name: TenantId,
    pub created_at: Timestamp,
    pub pause: Option<Pause>,
    pub terms: TenantTerms,
}

/// Why a tenant may not send now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Pause {
    /// For people: its senders are told.
    pub reason: String,
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
}

/// What a tenant may, within what the host does for anybody. What is absent is not limited further.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TenantTerms {
    /// Size of one message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_bytes: Option<u64>,
    /// Recipients of one message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recipients: Option<usize>,
    /// The streams that it has, the one of messages that name none in front; none: both, transactional in front.
    #[serde(skip_serializing_if = "Streams::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub streams: Streams,
    /// Submissions that are being taken at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub calls_at_once: Option<usize>,
    /// Blocks of addresses that its keys are good from; none: from anywhere.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub networks: Vec<ipnet::IpNet>,
    pub quotas: Quotas,
}

/// Streams, each once; as JSON their names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct Streams(pub Vec<Stream>);

impl TryFrom<Vec<String>> for Streams {
    type Error = UnknownStream;

    fn try_from(names: Vec<String>) -> Result<Streams, UnknownStream> {
        let mut streams = Vec::new();
        for name in names {
            let stream = name.parse()?;
            if !streams.contains(&stream) {
                streams.push(stream);
            }
        }
        Ok(Streams(streams))
    }
}

impl From<Streams> for Vec<String> {
    fn from(streams: Streams) -> Vec<String> {
        streams.0.iter().map(ToString::to_string).collect()
    }
}

impl Streams {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Recipients that a tenant may have in a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Quotas {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub second: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hour: Option<u64>,
    /// From midnight to midnight, UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub day: Option<u64>,
    /// Of the calendar, UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub month: Option<u64>,
}

/// What was taken of one window of a quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    /// 0: second, 1: hour, 2: day, 3: month.
    pub span: u8,
    /// When the window began, from 1970.
    pub start_s: i64,
    pub recipients: u64,
}

/// Tenants, and who changed what.
#[async_trait]
pub trait Tenants: AuditLog {
    /// By name.
    async fn tenants(&self) -> Result<Vec<Tenant>, StoreError>;
    /// By name or id.
    async fn tenant(&self, named: &str) -> Result<Option<Tenant>, StoreError>;
    /// `Exists` where the name is taken.
    async fn add_tenant(&self, name: &str, terms: TenantTerms, at: Timestamp) -> Result<(), StoreError>;
    /// Adds it where it lacks, because the configuration names it.
    async fn ensure_tenant(&self, name: &str) -> Result<(), StoreError>;
    /// `NotFound` where there is none.
    async fn set_terms(&self, name: &str, terms: TenantTerms) -> Result<(), StoreError>;
    async fn set_pause(&self, name: &str, pause: Option<Pause>) -> Result<(), StoreError>;
    /// Recipients of it that are not done with.
    async fn queued_of(&self, name: &str) -> Result<u64, StoreError>;
    /// Takes its keys, tokens, domains, templates and name away. What is queued goes on to its end; its messages and
    /// events are nobody's then.
    async fn remove_tenant(&self, name: &str) -> Result<(), StoreError>;
    async fn usage(&self, name: &str) -> Result<Vec<Used>, StoreError>;
    async fn keep_usage(&self, used: Vec<(TenantId, Used)>) -> Result<(), StoreError>;
}

const TENANT: &str = "SELECT id, name, created_ms, pause, terms FROM tenant";

/// No tenant may be called so: a removed one's row keeps it, for the messages that refer to it.
const REMOVED: &str = "~";

/// A fresh id.
pub(super) fn tenant_id() -> String {
    format!("ten_{}", Uuid::now_v7().simple())
}

#[async_trait]
impl Tenants for Embedded {
    async fn tenants(&self) -> Result<Vec<Tenant>, StoreError> {
        let read = self.readers.read(move |connection| {
            let sql = format!("{TENANT} WHERE substr(name, 1, 1) <> '{REMOVED}' ORDER BY name");
            let mut statement = connection.prepare_cached(&sql)?;
            let rows = statement.query_map([], read_tenant)?.collect::<Result<Vec<_>, _>>()?;
            rows.into_iter().collect()
        });
        read.await
    }

    async fn tenant(&self, named: &str) -> Result<Option<Tenant>, StoreError> {
        let named = named.to_owned();
        let read = self.readers.read(move |connection| {
            let sql = format!("{TENANT} WHERE (name = ?1 OR id = ?1) AND substr(name, 1, 1) <> '{REMOVED}'");
            let found = connection.prepare_cached(&sql)?.query_row([named], read_tenant).optional()?;
            found.transpose()
        });
        read.await
    }

    async fn add_tenant(&self, name: &str, terms: TenantTerms, at: Timestamp) -> Result<(), StoreError> {
        let (name, terms) = (name.to_owned(), to_json(&terms)?);
        self.change(Box::new(move |connection, _| {
            let added = connection.execute(
                "INSERT OR IGNORE INTO tenant (name, id, created_ms, terms) VALUES (?1, ?2, ?3, ?4)",
                params![name, tenant_id(), at.as_millisecond(), terms],
            )?;
            if added == 0 { Err(StoreError::Exists(format!("tenant {name}"))) } else { Ok(()) }
        }))
        .await
    }

    async fn ensure_tenant(&self, name: &str) -> Result<(), StoreError> {
        let name = name.to_owned();
        self.change(Box::new(move |connection, counters| {
            if tenant_key(connection, &name)?.is_none() {
                let (what, made) = (format!("tenants/{name}: named in the configuration"), json!({ "name": name }));
                let entry = Audited::by_host(Some(&name), &what, Value::Null, made, Timestamp::now());
                audit::write(connection, &entry)?;
            }
            Ok(accepting::tenant_key(connection, counters, &name).map(drop)?)
        }))
        .await
    }

    async fn set_terms(&self, name: &str, terms: TenantTerms) -> Result<(), StoreError> {
        self.set(name, "UPDATE tenant SET terms = ?2 WHERE name = ?1", Some(to_json(&terms)?)).await
    }

    async fn set_pause(&self, name: &str, pause: Option<Pause>) -> Result<(), StoreError> {
        let pause = pause.as_ref().map(to_json).transpose()?;
        self.set(name, "UPDATE tenant SET pause = ?2 WHERE name = ?1", pause).await
    }

    async fn queued_of(&self, name: &str) -> Result<u64, StoreError> {
        let name = name.to_owned();
        let read = self.readers.read(move |connection| {
            let Some(key) = tenant_key(connection, &name)? else { return Ok(0) };
            let sql = "SELECT count(*) FROM recipient r JOIN message m ON m.key = r.message
                       WHERE r.done_ms IS NULL AND m.tenant = ?1";
            let count: i64 = connection.prepare_cached(sql)?.query_row([key], |row| row.get(0))?;
            Ok(count.cast_unsigned())
        });
        read.await
    }

    async fn remove_tenant(&self, name: &str) -> Result<(), StoreError> {
        let name = name.to_owned();
        let change = self.change(Box::new(move |connection, counters| {
            let missing = || StoreError::NotFound(format!("tenant {name}"));
            let key = tenant_key(connection, &name)?.ok_or_else(missing)?;
            let tables = [
                "api_key",
                "delivery_token",
                "domain",
                "used_selector",
                "template",
                "idempotency",
                "quota_usage",
                "component",
                "stage_settings",
            ];
            for table in tables {
                connection.execute(&format!("DELETE FROM {table} WHERE tenant = ?1"), [key])?;
            }
            connection.execute(
                "UPDATE tenant SET name = ?2 || id, pause = NULL, terms = NULL WHERE key = ?1",
                params![key, REMOVED],
            )?;
            counters.tenants.remove(&name);
            Ok(())
        }));
        let result = change.await;
        self.key_cache.forget();
        self.delivery_tokens.forget();
        result
    }

    async fn usage(&self, name: &str) -> Result<Vec<Used>, StoreError> {
        let name = name.to_owned();
        let read = self.readers.read(move |connection| {
            let sql = "SELECT u.span, u.start_s, u.used FROM quota_usage u JOIN tenant t ON t.key = u.tenant WHERE t.name = ?1";
            let mut statement = connection.prepare_cached(sql)?;
            let used = statement.query_map([name], |row| {
                Ok(Used { span: row.get(0)?, start_s: row.get(1)?, recipients: row.get::<_, i64>(2)?.cast_unsigned() })
            })?;
            Ok(used.collect::<Result<_, _>>()?)
        });
        read.await
    }

    async fn keep_usage(&self, used: Vec<(TenantId, Used)>) -> Result<(), StoreError> {
        self.change(Box::new(move |connection, _| {
            let sql = "INSERT OR REPLACE INTO quota_usage (tenant, span, start_s, used)
                       SELECT key, ?2, ?3, ?4 FROM tenant WHERE name = ?1";
            let mut statement = connection.prepare_cached(sql)?;
            for (tenant, used) in &used {
                statement.execute(params![tenant, used.span, used.start_s, used.recipients.cast_signed()])?;
            }
            Ok(())
        }))
        .await
    }
}

impl Embedded {
    async fn set(&self, name: &str, sql: &'static str, value: Option<String>) -> Result<(), StoreError> {
        let name = name.to_owned();
        self.change(Box::new(move |connection, _| {
            let changed = connection.execute(sql, params![name, value])?;
            if changed == 0 { Err(StoreError::NotFound(format!("tenant {name}"))) } else { Ok(()) }
        }))
        .await
    }
}

fn to_json<T: Serialize>(value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|error| StoreError::Io(format!("a tenant cannot be stored: {error}")))
}

fn read_tenant(row: &Row<'_>) -> rusqlite::Result<Result<Tenant, StoreError>> {
    let (id, name): (String, String) = (row.get(0)?, row.get(1)?);
    let created_at = time(row.get(2)?);
    let (pause, terms): (Option<String>, Option<String>) = (row.get(3)?, row.get(4)?);
    let unreadable = |error: serde_json::Error| StoreError::Io(format!("tenant {name} cannot be read: {error}"));
    let read = || {
        let pause = pause.as_deref().map(serde_json::from_str).transpose()?;
        let terms = terms.as_deref().map(serde_json::from_str).transpose()?.unwrap_or_default();
        Ok((pause, terms))
    };
    Ok(match read() {
        Ok((pause, terms)) => Ok(Tenant { id, name, created_at, pause, terms }),
        Err(error) => Err(unreadable(error)),
    })
}
