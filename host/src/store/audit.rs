//! The audit log on disk: who changed what. What the host changes by itself is written down in the transaction that
//! changes it, wherever that is possible.

use async_trait::async_trait;
use jiff::Timestamp;
use rusqlite::{Connection, params};
use serde_json::{Value, json};

use super::embedded::Embedded;
use super::history::time;
use super::{StoreError, TenantId};

/// Who changes what nobody asked for, and from where.
const HOST: (&str, &str) = ("posthaste", "host");

/// One change that somebody made.
#[derive(Clone, Debug, PartialEq)]
pub struct Audited {
    /// Grows with every entry; 0 before it is stored.
    pub seq: i64,
    pub at: Timestamp,
    pub tenant: Option<TenantId>,
    /// A JSON object.
    pub entry: String,
}

impl Audited {
    /// A change that the host made by itself: what it changed, and that before and after. None of it is a secret.
    pub fn by_host(tenant: Option<&str>, what: &str, before: Value, after: Value, at: Timestamp) -> Audited {
        let (who, from) = HOST;
        let mut entry = json!({ "who": who, "from": from, "what": what });
        for (name, value) in [("before", before), ("after", after)] {
            if !value.is_null() {
                entry[name] = value;
            }
        }
        Audited { seq: 0, at, tenant: tenant.map(str::to_owned), entry: entry.to_string() }
    }
}

/// Who changed what.
#[async_trait]
pub trait AuditLog: Send + Sync + 'static {
    /// Writes an entry down, durably.
    async fn audit(&self, entry: Audited) -> Result<(), StoreError>;
    /// Newest first, of one tenant or of all, those before `before`.
    async fn audited(
        &self,
        tenant: Option<&str>,
        before: Option<i64>,
        limit: usize,
    ) -> Result<Vec<Audited>, StoreError>;
}

#[async_trait]
impl AuditLog for Embedded {
    async fn audit(&self, entry: Audited) -> Result<(), StoreError> {
        self.change(Box::new(move |connection, _| Ok(write(connection, &entry)?))).await
    }

    async fn audited(
        &self,
        tenant: Option<&str>,
        before: Option<i64>,
        limit: usize,
    ) -> Result<Vec<Audited>, StoreError> {
        let tenant = tenant.map(str::to_owned);
        let read = self.readers.read(move |connection| {
            let sql = "SELECT seq, at_ms, tenant, entry FROM audit
                       WHERE (?1 IS NULL OR tenant = ?1) AND seq < ?2 ORDER BY seq DESC LIMIT ?3";
            let mut statement = connection.prepare_cached(sql)?;
            let rows = statement.query_map(params![tenant, before.unwrap_or(i64::MAX), limit as i64], |row| {
                Ok(Audited { seq: row.get(0)?, at: time(row.get(1)?), tenant: row.get(2)?, entry: row.get(3)? })
            })?;
            Ok(rows.collect::<Result<_, _>>()?)
        });
        read.await
    }
}

/// Writes an entry down inside the transaction of what it tells.
pub(super) fn write(connection: &Connection, entry: &Audited) -> rusqlite::Result<()> {
    let Audited { at, tenant, entry, .. } = entry;
    connection.prepare_cached("INSERT INTO audit (at_ms, tenant, entry) VALUES (?1, ?2, ?3)")?.execute(params![
        at.as_millisecond(),
        tenant,
        entry
    ])?;
    Ok(())
}
