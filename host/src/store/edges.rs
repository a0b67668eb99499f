//! What edges prove themselves with, on disk: delivery tokens by their hash, and the public halves of the DKIM keys that
//! edges sign with.
//!
//! A key of an edge lies among the domain's other keys, so that no two have one selector; its private half is empty,
//! and it is read into a type of its own, so that nothing here ever tries to sign with it.

use async_trait::async_trait;
use jiff::Timestamp;
use mail::Domain;
use rusqlite::{OptionalExtension, Row, params};
use uuid::Uuid;

use super::embedded::Embedded;
use super::history::time;
use super::reading::tenant_key;
use super::{StoreError, TenantId, accepting, codes};

pub(super) const SCHEMA: &str = "
CREATE TABLE delivery_token (
  hash       BLOB PRIMARY KEY,     -- SHA-256 of the token
  id         TEXT NOT NULL UNIQUE,
  tenant     INTEGER,              -- NULL: for every tenant
  name       TEXT NOT NULL,
  prefix     TEXT NOT NULL,
  created_ms INTEGER NOT NULL,
  revoked_ms INTEGER
) STRICT, WITHOUT ROWID;
";

const TOKEN: &str = "SELECT d.id, t.name, d.name, d.prefix, d.created_ms, d.revoked_ms
                     FROM delivery_token d LEFT JOIN tenant t ON t.key = d.tenant";

/// What an edge proves itself with. The token itself is shown once and never stored; it is never an API key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliveryToken {
    /// `dlv_` and a UUID.
    pub id: String,
    /// The only tenant it serves; `None`: all of them.
    pub tenant: Option<TenantId>,
    pub name: String,
    /// The first characters, to know it by.
    pub prefix: String,
    pub created_at: Timestamp,
    pub revoked_at: Option<Timestamp>,
}

/// The public half of a DKIM key pair whose private half an edge holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EdgeKey {
    pub selector: String,
    pub algorithm: mail::dkim::Algorithm,
    /// As in `DkimKey`.
    pub public: Vec<u8>,
}

/// Who may call over the network on behalf of tenants, and what it may have signed with.
#[async_trait]
pub trait Edges: Send + Sync + 'static {
    /// The live token with this SHA-256.
    async fn delivery_token(&self, hash: [u8; 32]) -> Result<Option<DeliveryToken>, StoreError>;
    async fn add_delivery_token(&self, token: DeliveryToken, hash: [u8; 32]) -> Result<(), StoreError>;
    /// All of them, or those that serve this tenant alone.
    async fn delivery_tokens(&self, tenant: Option<&str>) -> Result<Vec<DeliveryToken>, StoreError>;
    /// `NotFound` where there is none, or none live.
    async fn revoke_delivery_token(&self, id: &str, at: Timestamp) -> Result<(), StoreError>;
    /// All or none: `NotFound` without the domain, `Exists` where a selector is taken.
    async fn add_edge_keys(&self, tenant: &str, domain: &Domain, keys: Vec<EdgeKey>) -> Result<(), StoreError>;
    async fn remove_edge_key(&self, tenant: &str, domain: &Domain, selector: &str) -> Result<(), StoreError>;
}

#[async_trait]
impl Edges for Embedded {
    async fn delivery_token(&self, hash: [u8; 32]) -> Result<Option<DeliveryToken>, StoreError> {
        let (known, changes) = self.delivery_tokens.get(&hash);
        if known.is_some() {
            return Ok(known);
        }
        let read = self.readers.read(move |connection| {
            let sql = format!("{TOKEN} WHERE d.hash = ?1 AND d.revoked_ms IS NULL");
            Ok(connection.prepare_cached(&sql)?.query_row([hash], read_token).optional()?)
        });
        let found = read.await?;
        if let Some(token) = &found {
            self.delivery_tokens.put(hash, token, changes);
        }
        Ok(found)
    }

    async fn add_delivery_token(&self, token: DeliveryToken, hash: [u8; 32]) -> Result<(), StoreError> {
        self.change(Box::new(move |connection, counters| {
            let tenant = token.tenant.as_deref().map(|name| accepting::tenant_key(connection, counters, name));
            let added = connection.execute(
                "INSERT OR IGNORE INTO delivery_token (hash, id, tenant, name, prefix, created_ms, revoked_ms)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                params![
                    hash,
                    token.id,
                    tenant.transpose()?,
                    token.name,
                    token.prefix,
                    token.created_at.as_millisecond(),
                    token.revoked_at.map(|at| at.as_millisecond())
                ],
            )?;
            if added == 0 { Err(StoreError::Exists(format!("delivery token {}", token.id))) } else { Ok(()) }
        }))
        .await
    }

    async fn delivery_tokens(&self, tenant: Option<&str>) -> Result<Vec<DeliveryToken>, StoreError> {
        let tenant = tenant.map(str::to_owned);
        let read = self.readers.read(move |connection| {
            let sql = format!("{TOKEN} WHERE ?1 IS NULL OR t.name = ?1 ORDER BY d.created_ms, d.id");
            let mut statement = connection.prepare_cached(&sql)?;
            Ok(statement.query_map([tenant], read_token)?.collect::<Result<_, _>>()?)
        });
        read.await
    }

    async fn revoke_delivery_token(&self, id: &str, at: Timestamp) -> Result<(), StoreError> {
        let id = id.to_owned();
        let change = self.change(Box::new(move |connection, _| {
            let revoked = connection.execute(
                "UPDATE delivery_token SET revoked_ms = ?2 WHERE id = ?1 AND revoked_ms IS NULL",
                params![id, at.as_millisecond()],
            )?;
            if revoked == 0 { Err(StoreError::NotFound(format!("a live delivery token {id}"))) } else { Ok(()) }
        }));
        let result = change.await;
        // Before the caller is answered: from then on the token is dead.
        self.delivery_tokens.forget();
        result
    }

    async fn add_edge_keys(&self, tenant: &str, domain: &Domain, keys: Vec<EdgeKey>) -> Result<(), StoreError> {
        let (tenant, domain) = (tenant.to_owned(), domain.clone());
        self.change(Box::new(move |connection, _| {
            let missing = || StoreError::NotFound(format!("domain {domain} of tenant {tenant}"));
            let tenant_key = tenant_key(connection, &tenant)?.ok_or_else(missing)?;
            let sql = "SELECT key FROM domain WHERE tenant = ?1 AND name = ?2";
            let found = connection.query_row(sql, params![tenant_key, domain.as_str()], |row| row.get(0)).optional()?;
            let domain_key: i64 = found.ok_or_else(missing)?;
            let taken = "SELECT 1 FROM dkim_key WHERE domain = ?1 AND selector = ?2";
            for key in &keys {
                if connection.prepare_cached(taken)?.exists(params![domain_key, key.selector])? {
                    return Err(StoreError::Exists(format!("selector {} of {domain}", key.selector)));
                }
            }
            for key in &keys {
                connection.execute(
                    "INSERT INTO dkim_key (id, domain, selector, algorithm, public, private)
                     VALUES (?1, ?2, ?3, ?4, ?5, x'')",
                    params![
                        format!("edge_{}", Uuid::new_v4()),
                        domain_key,
                        key.selector,
                        codes::algorithm_to(key.algorithm),
                        key.public
                    ],
                )?;
                connection.execute(
                    "INSERT OR REPLACE INTO used_selector (tenant, domain, selector, public) VALUES (?1, ?2, ?3, ?4)",
                    params![tenant_key, domain.as_str(), key.selector, key.public],
                )?;
            }
            Ok(())
        }))
        .await
    }

    async fn remove_edge_key(&self, tenant: &str, domain: &Domain, selector: &str) -> Result<(), StoreError> {
        let (tenant, domain, selector) = (tenant.to_owned(), domain.clone(), selector.to_owned());
        self.change(Box::new(move |connection, _| {
            let sql = "DELETE FROM dkim_key WHERE selector = ?3 AND length(private) = 0 AND state = 2 AND domain =
                         (SELECT key FROM domain WHERE tenant = ?1 AND name = ?2)";
            let removed = match tenant_key(connection, &tenant)? {
                Some(key) => connection.execute(sql, params![key, domain.as_str(), selector])?,
                None => 0,
            };
            let missing = || StoreError::NotFound(format!("a key of an edge with selector {selector} of {domain}"));
            if removed == 0 { Err(missing()) } else { Ok(()) }
        }))
        .await
    }
}

fn read_token(row: &Row<'_>) -> rusqlite::Result<DeliveryToken> {
    Ok(DeliveryToken {
        id: row.get(0)?,
        tenant: row.get(1)?,
        name: row.get(2)?,
        prefix: row.get(3)?,
        created_at: time(row.get(4)?),
        revoked_at: row.get::<_, Option<i64>>(5)?.map(time),
    })
}
