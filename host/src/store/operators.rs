//! Operator keys, on disk by their hash: what the control API is called with over the network. In a table of their own, so
//! that no API key is ever taken for one.

use async_trait::async_trait;
use jiff::Timestamp;
use rusqlite::{OptionalExtension, Row, params};

use super::StoreError;
use super::embedded::Embedded;
use super::history::time;

const KEY: &str = "SELECT id, name, prefix, created_ms, revoked_ms FROM operator_key";

/// What an operator proves itself with. The key itself is shown once and never stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperatorKey {
    /// `opk_` and a UUID.
    pub id: String,
    pub name: String,
    /// The first characters, to know it by.
    pub prefix: String,
    pub created_at: Timestamp,
    pub revoked_at: Option<Timestamp>,
}

/// Who may do everything.
#[async_trait]
pub trait Operators: Send + Sync + 'static {
    /// The live key with this SHA-256.
    async fn operator_key(&self, hash: [u8; 32]) -> Result<Option<OperatorKey>, StoreError>;
    /// `Exists` where the key or its id is there.
    async fn add_operator_key(&self, key: OperatorKey, hash: [u8; 32]) -> Result<(), StoreError>;
    async fn operator_keys(&self) -> Result<Vec<OperatorKey>, StoreError>;
    /// `NotFound` where there is none, or none live.
    async fn revoke_operator_key(&self, id: &str, at: Timestamp) -> Result<(), StoreError>;
}

#[async_trait]
impl Operators for Embedded {
    async fn operator_key(&self, hash: [u8; 32]) -> Result<Option<OperatorKey>, StoreError> {
        let (known, changes) = self.operator_keys.get(&hash);
        if known.is_some() {
            return Ok(known);
        }
        let read = self.readers.read(move |connection| {
            let sql = format!("{KEY} WHERE hash = ?1 AND revoked_ms IS NULL");
            Ok(connection.prepare_cached(&sql)?.query_row([hash], read_key).optional()?)
        });
        let found = read.await?;
        if let Some(key) = &found {
            self.operator_keys.put(hash, key, changes);
        }
        Ok(found)
    }

    async fn add_operator_key(&self, key: OperatorKey, hash: [u8; 32]) -> Result<(), StoreError> {
        self.change(Box::new(move |connection, _| {
            let added = connection.execute(
                "INSERT OR IGNORE INTO operator_key (hash, id, name, prefix, created_ms, revoked_ms)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                params![
                    hash,
                    key.id,
                    key.name,
                    key.prefix,
                    key.created_at.as_millisecond(),
                    key.revoked_at.map(|at| at.as_millisecond())
                ],
            )?;
            if added == 0 { Err(StoreError::Exists(format!("operator key {}", key.id))) } else { Ok(()) }
        }))
        .await
    }

    async fn operator_keys(&self) -> Result<Vec<OperatorKey>, StoreError> {
        let read = self.readers.read(move |connection| {
            let sql = format!("{KEY} ORDER BY created_ms, id");
            let mut statement = connection.prepare_cached(&sql)?;
            Ok(statement.query_map([], read_key)?.collect::<Result<_, _>>()?)
        });
        read.await
    }

    async fn revoke_operator_key(&self, id: &str, at: Timestamp) -> Result<(), StoreError> {
        let id = id.to_owned();
        let change = self.change(Box::new(move |connection, _| {
            let revoked = connection.execute(
                "UPDATE operator_key SET revoked_ms = ?2 WHERE id = ?1 AND revoked_ms IS NULL",
                params![id, at.as_millisecond()],
            )?;
            if revoked == 0 { Err(StoreError::NotFound(format!("a live operator key {id}"))) } else { Ok(()) }
        }));
        let result = change.await;
        // Before the caller is answered: from then on the key is dead.
        self.operator_keys.forget();
        result
    }
}

fn read_key(row: &Row<'_>) -> rusqlite::Result<OperatorKey> {
    Ok(OperatorKey {
        id: row.get(0)?,
        name: row.get(1)?,
        prefix: row.get(2)?,
        created_at: time(row.get(3)?),
        revoked_at: row.get::<_, Option<i64>>(4)?.map(time),
    })
}
