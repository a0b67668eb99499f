//! Secrets at rest, wherever they stand: so that all of them can be sealed with another master key.

use async_trait::async_trait;
use rusqlite::params;

use super::StoreError;
use super::audit::AuditLog;
use super::embedded::Embedded;

/// Every column of `store.db` that is sealed: table, the column whose value the secret is bound to, the sealed one. A test
/// holds that no column is left out whose comment says that it is sealed.
pub(super) const SEALED: &[(&str, &str, &str)] =
    &[("dkim_key", "id", "private"), ("webhook", "id", "secret"), ("webhook", "id", "old_secret")];

/// A place among all secrets, in the order in which they are gone through.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SecretPlace {
    /// Of `SEALED`.
    column: usize,
    id: String,
}

/// A secret as it lies on disk.
#[derive(Clone, Debug)]
pub struct SealedSecret {
    pub place: SecretPlace,
    pub sealed: Vec<u8>,
}

impl SealedSecret {
    /// What it is bound to.
    pub fn id(&self) -> &str {
        &self.place.id
    }

    /// What it is, for people.
    pub fn name(&self) -> String {
        let (table, ..) = SEALED.get(self.place.column).copied().unwrap_or_default();
        format!("{table} {}", self.place.id)
    }
}

/// All secrets of a store.
#[async_trait]
pub trait Vault: AuditLog {
    /// The next secrets behind a place, or the first ones; none at the end.
    async fn secrets(&self, after: Option<SecretPlace>, limit: usize) -> Result<Vec<SealedSecret>, StoreError>;

    /// Puts other bytes in the place of some, in one transaction. One that somebody else has changed meanwhile, or that is
    /// gone, stays as it is.
    async fn replace_secrets(&self, changed: Vec<(SealedSecret, Vec<u8>)>) -> Result<(), StoreError>;
}

#[async_trait]
impl Vault for Embedded {
    async fn secrets(&self, after: Option<SecretPlace>, limit: usize) -> Result<Vec<SealedSecret>, StoreError> {
        let read = self.readers.read(move |connection| {
            let mut found = Vec::new();
            let first = after.as_ref().map_or(0, |after| after.column);
            for (column, (table, id, sealed)) in SEALED.iter().enumerate().skip(first) {
                let behind = after.as_ref().filter(|after| after.column == column).map(|after| after.id.clone());
                let left = i64::try_from(limit.saturating_sub(found.len())).unwrap_or(i64::MAX);
                let sql = format!(
                    "SELECT {id}, {sealed} FROM {table} WHERE length({sealed}) > 0 AND (?1 IS NULL OR {id} > ?1) ORDER BY {id} LIMIT ?2"
                );
                let mut statement = connection.prepare(&sql)?;
                let rows = statement.query_map(params![behind, left], |row| {
                    Ok(SealedSecret { place: SecretPlace { column, id: row.get(0)? }, sealed: row.get(1)? })
                })?;
                found.extend(rows.collect::<Result<Vec<_>, _>>()?);
            }
            Ok(found)
        });
        read.await
    }

    async fn replace_secrets(&self, changed: Vec<(SealedSecret, Vec<u8>)>) -> Result<(), StoreError> {
        self.change(Box::new(move |connection, _| {
            for (secret, resealed) in &changed {
                let Some((table, id, sealed)) = SEALED.get(secret.place.column) else { continue };
                let sql = format!("UPDATE {table} SET {sealed} = ?3 WHERE {id} = ?1 AND {sealed} = ?2");
                connection.prepare_cached(&sql)?.execute(params![secret.place.id, secret.sealed, resealed])?;
            }
            Ok(())
        }))
        .await
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::schema::{MAIN, open_for_writing};
    use super::*;

    #[test]
    fn no_sealed_column_is_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let connection = open_for_writing(&folder.path().join("store.db"), MAIN).unwrap();
        let mut tables = connection.prepare("SELECT name, sql FROM sqlite_master WHERE type = 'table'").unwrap();
        let rows = tables.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        let mut found = Vec::new();
        for (table, sql) in rows.collect::<Result<Vec<(String, String)>, _>>().unwrap() {
            let sealed = sql.lines().filter(|line| line.split_once("--").is_some_and(|(_, it)| it.contains("sealed")));
            found.extend(sealed.map(|line| (table.clone(), line.split_whitespace().next().unwrap().to_owned())));
        }
        let known: Vec<_> =
            SEALED.iter().map(|(table, _, sealed)| ((*table).to_owned(), (*sealed).to_owned())).collect();
        assert_eq!(found, known);
    }
}
