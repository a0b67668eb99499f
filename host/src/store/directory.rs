//! Who may send, on disk: tenants, API keys by their hash, domains with their DKIM keys.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use jiff::Timestamp;
use mail::Domain;
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde_json::{Value, json};
use uuid::Uuid;

use super::audit::{self, Audited};
use super::domain_changes::{FIRST_CHECK_MS, insert_key};
use super::embedded::Embedded;
use super::history::time;
use super::reading::tenant_key;
use super::writer::{Change, Job};
use super::{
    ApiKey, Directory, DkimKey, EdgeKey, KeyState, Scopes, SendingDomain, StoreError, accepting, codes, verification,
};
use crate::scram::Verifier;

/// Live keys remembered; at more, all are forgotten and read again.
const CACHED_KEYS: usize = 4096;

const KEY: &str =
    "SELECT k.id, t.name, k.name, k.prefix, k.created_ms, k.revoked_ms, k.scopes, k.expires_ms, k.used_ms,
                          k.stream, k.scram IS NOT NULL
                   FROM api_key k JOIN tenant t ON t.key = k.tenant";

/// Live keys (or delivery tokens) by hash. Only those that are: strangers' guesses take no memory.
pub(super) struct KeyCache<K> {
    inner: Arc<Mutex<Cached<K>>>,
}

struct Cached<K> {
    keys: HashMap<[u8; 32], K>,
    /// Counts changes, so that a read that began before one does not bring back what it removed.
    changes: u64,
}

impl<K> Default for KeyCache<K> {
    fn default() -> KeyCache<K> {
        KeyCache { inner: Arc::new(Mutex::new(Cached { keys: HashMap::new(), changes: 0 })) }
    }
}

impl<K: Clone> KeyCache<K> {
    pub(super) fn get(&self, hash: &[u8; 32]) -> (Option<K>, u64) {
        let cached = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        (cached.keys.get(hash).cloned(), cached.changes)
    }

    pub(super) fn put(&self, hash: [u8; 32], key: &K, changes: u64) {
        let mut cached = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if cached.changes != changes {
            return;
        }
        if cached.keys.len() >= CACHED_KEYS {
            cached.keys.clear();
        }
        cached.keys.insert(hash, key.clone());
    }

    pub(super) fn forget(&self) {
        let mut cached = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        cached.changes += 1;
        cached.keys.clear();
    }
}

#[async_trait]
impl Directory for Embedded {
    async fn key_by_hash(&self, hash: [u8; 32]) -> Result<Option<ApiKey>, StoreError> {
        let (known, changes) = self.key_cache.get(&hash);
        if known.is_some() {
            return Ok(known);
        }
        let found = self
            .readers
            .read(move |connection| {
                let sql = format!("{KEY} WHERE k.hash = ?1 AND k.revoked_ms IS NULL");
                Ok(connection.prepare_cached(&sql)?.query_row([hash], read_key).optional()?)
            })
            .await?;
        if let Some(key) = &found {
            self.key_cache.put(hash, key, changes);
        }
        Ok(found)
    }

    async fn add_key(&self, key: ApiKey, hash: [u8; 32]) -> Result<(), StoreError> {
        self.change(Box::new(move |connection, counters| {
            let tenant = accepting::tenant_key(connection, counters, &key.tenant)?;
            let added = connection.execute(
                "INSERT OR IGNORE INTO api_key (hash, id, tenant, name, prefix, created_ms, revoked_ms, scopes, expires_ms, stream)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
                params![
                    hash,
                    key.id,
                    tenant,
                    key.name,
                    key.prefix,
                    key.created_at.as_millisecond(),
                    key.revoked_at.map(|at| at.as_millisecond()),
                    key.scopes.bits(),
                    key.expires_at.map(|at| at.as_millisecond()),
                    key.stream.map(codes::stream_to)
                ],
            )?;
            if added == 0 { Err(StoreError::Exists(format!("API key {}", key.id))) } else { Ok(()) }
        }))
        .await
    }

    async fn verifier(&self, id: &str) -> Result<Option<(ApiKey, [u8; 32], Verifier)>, StoreError> {
        let id = id.to_owned();
        let read = self.readers.read(move |connection| {
            let sql = KEY.replace("FROM api_key", ", k.hash, k.scram FROM api_key");
            let sql = format!("{sql} WHERE k.id = ?1 AND k.scram IS NOT NULL");
            let found = connection
                .prepare_cached(&sql)?
                .query_row([id], |row| Ok((read_key(row)?, row.get::<_, [u8; 32]>(11)?, row.get::<_, String>(12)?)));
            Ok(found.optional()?)
        });
        let Some((key, hash, text)) = read.await? else { return Ok(None) };
        let read: Result<Verifier, _> = text.parse();
        let unreadable = |_| StoreError::Io(format!("the verifier of API key {} cannot be read", key.id));
        let verifier = read.map_err(unreadable)?;
        Ok(Some((key, hash, verifier)))
    }

    async fn set_verifier(&self, id: &str, verifier: Verifier) -> Result<(), StoreError> {
        let (id, text) = (id.to_owned(), verifier.to_string());
        let change = self.change(Box::new(move |connection, _| {
            let set = connection.execute("UPDATE api_key SET scram = ?2 WHERE id = ?1", params![id, text])?;
            if set == 0 { Err(StoreError::NotFound(format!("API key {id}"))) } else { Ok(()) }
        }));
        let result = change.await;
        self.key_cache.forget();
        result
    }

    async fn keys(&self, tenant: Option<&str>) -> Result<Vec<ApiKey>, StoreError> {
        let tenant = tenant.map(str::to_owned);
        self.readers
            .read(move |connection| {
                let sql = format!("{KEY} WHERE ?1 IS NULL OR t.name = ?1 ORDER BY k.created_ms, k.id");
                let mut statement = connection.prepare_cached(&sql)?;
                Ok(statement.query_map([tenant], read_key)?.collect::<Result<_, _>>()?)
            })
            .await
    }

    async fn revoke_key(&self, id: &str, at: Timestamp) -> Result<(), StoreError> {
        let id = id.to_owned();
        let result = self
            .change(Box::new(move |connection, _| {
                let revoked = connection.execute(
                    "UPDATE api_key SET revoked_ms = ?2 WHERE id = ?1 AND revoked_ms IS NULL",
                    params![id, at.as_millisecond()],
                )?;
                if revoked == 0 { Err(StoreError::NotFound(format!("a live API key {id}"))) } else { Ok(()) }
            }))
            .await;
        // Before the caller is answered: from then on the key is dead.
        self.key_cache.forget();
        result
    }

    async fn expire_key(&self, id: &str, at: Timestamp) -> Result<(), StoreError> {
        let id = id.to_owned();
        let change = self.change(Box::new(move |connection, _| {
            let ended = connection.execute(
                "UPDATE api_key SET expires_ms = min(coalesce(expires_ms, ?2), ?2) WHERE id = ?1 AND revoked_ms IS NULL",
                params![id, at.as_millisecond()],
            )?;
            if ended == 0 { Err(StoreError::NotFound(format!("a live API key {id}"))) } else { Ok(()) }
        }));
        let result = change.await;
        self.key_cache.forget();
        result
    }

    fn key_used(&self, id: &str, at: Timestamp) {
        let at_ms = at.as_millisecond();
        let mut uses = self.key_uses.lock().unwrap_or_else(PoisonError::into_inner);
        match uses.get_mut(id) {
            Some(used_ms) => *used_ms = at_ms,
            None => drop(uses.insert(id.to_owned(), at_ms)),
        }
    }

    async fn keep_key_uses(&self) -> Result<(), StoreError> {
        let uses = std::mem::take(&mut *self.key_uses.lock().unwrap_or_else(PoisonError::into_inner));
        if uses.is_empty() {
            return Ok(());
        }
        self.change(Box::new(move |connection, _| {
            let mut statement = connection.prepare_cached("UPDATE api_key SET used_ms = ?2 WHERE id = ?1")?;
            for (id, used_ms) in &uses {
                statement.execute(params![id, used_ms])?;
            }
            Ok(())
        }))
        .await
    }

    async fn add_domain(&self, domain: SendingDomain) -> Result<(), StoreError> {
        self.change(Box::new(move |connection, counters| {
            let tenant = accepting::tenant_key(connection, counters, &domain.tenant)?;
            let name = domain.domain.as_str();
            let added = connection.execute(
                "INSERT OR IGNORE INTO domain (tenant, name, created_ms, id, needs_proof, check_ms)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?3 + ?6)",
                params![
                    tenant,
                    name,
                    domain.created_at.as_millisecond(),
                    domain.id.as_bytes(),
                    domain.needs_proof,
                    FIRST_CHECK_MS
                ],
            )?;
            if added == 0 {
                return Err(StoreError::Exists(format!("domain {name}")));
            }
            let key = connection.last_insert_rowid();
            domain.keys.iter().try_for_each(|dkim| insert_key(connection, key, dkim))
        }))
        .await
    }

    async fn domains(&self, tenant: Option<&str>) -> Result<Vec<SendingDomain>, StoreError> {
        let tenant = tenant.map(str::to_owned);
        self.readers
            .read(move |connection| match &tenant {
                Some(tenant) => read_domains(connection, Which::Of(tenant)),
                None => read_domains(connection, Which::All),
            })
            .await
    }

    async fn domain(&self, tenant: &str, domain: &Domain) -> Result<Option<SendingDomain>, StoreError> {
        let changes = self.shared.changes.load(Ordering::Acquire);
        if let Some(found) = self.domain_cache.get(changes, tenant, domain.as_str()) {
            return Ok(found);
        }
        let (of, name) = (tenant.to_owned(), domain.clone());
        let found = self
            .readers
            .read(move |connection| Ok(read_domains(connection, Which::Named(&of, name.as_str()))?.pop()))
            .await?;
        self.domain_cache.put(changes, tenant, domain.as_str(), found.clone());
        Ok(found)
    }

    async fn vouch_for(&self, tenant: &str, domain: &Domain) -> Result<(), StoreError> {
        let (tenant, domain) = (tenant.to_owned(), domain.clone());
        self.change(Box::new(move |connection, _| {
            let changed = match tenant_key(connection, &tenant)? {
                Some(key) => connection.execute(
                    "UPDATE domain SET needs_proof = 0 WHERE tenant = ?1 AND name = ?2",
                    params![key, domain.as_str()],
                )?,
                None => 0,
            };
            if changed == 0 { Err(StoreError::NotFound(format!("domain {domain}"))) } else { Ok(()) }
        }))
        .await
    }

    async fn remove_domain(&self, tenant: &str, domain: &Domain) -> Result<(), StoreError> {
        let (tenant, domain) = (tenant.to_owned(), domain.clone());
        self.change(Box::new(move |connection, _| {
            let removed = match tenant_key(connection, &tenant)? {
                Some(key) => connection
                    .execute("DELETE FROM domain WHERE tenant = ?1 AND name = ?2", params![key, domain.as_str()])?,
                None => 0,
            };
            if removed == 0 { Err(StoreError::NotFound(format!("domain {domain}"))) } else { Ok(()) }
        }))
        .await
    }
}

impl Embedded {
    /// Takes away an API key and a delivery token that everybody knows, where they are live: what was revoked stays so.
    /// Whether there was one.
    pub async fn forget_known(&self, key: [u8; 32], token: [u8; 32]) -> Result<bool, StoreError> {
        let found = Arc::new(AtomicBool::new(false));
        let change = self.change(Box::new({
            let found = found.clone();
            move |connection, _| {
                let keys = "DELETE FROM api_key WHERE hash = ?1 AND revoked_ms IS NULL";
                let tokens = "DELETE FROM delivery_token WHERE hash = ?1 AND revoked_ms IS NULL";
                let removed = connection.execute(keys, [key])? + connection.execute(tokens, [token])?;
                found.store(removed > 0, Ordering::Relaxed);
                if removed > 0 {
                    let what = "keys: a development host's, which everybody knows, were taken away";
                    let after = json!({ "removed": removed });
                    audit::write(connection, &Audited::by_host(None, what, Value::Null, after, Timestamp::now()))?;
                }
                Ok(())
            }
        }));
        let result = change.await;
        self.key_cache.forget();
        self.delivery_tokens.forget();
        result.map(|()| found.load(Ordering::Relaxed))
    }

    pub(super) async fn change(&self, change: Change) -> Result<(), StoreError> {
        self.ask(|answer| Job::Change { change, answer }).await?
    }
}

fn read_key(row: &Row<'_>) -> rusqlite::Result<ApiKey> {
    Ok(ApiKey {
        id: row.get(0)?,
        tenant: row.get(1)?,
        name: row.get(2)?,
        prefix: row.get(3)?,
        created_at: time(row.get(4)?),
        revoked_at: row.get::<_, Option<i64>>(5)?.map(time),
        scopes: Scopes::from_bits(row.get(6)?),
        expires_at: row.get::<_, Option<i64>>(7)?.map(time),
        used_at: row.get::<_, Option<i64>>(8)?.map(time),
        stream: row.get::<_, Option<i64>>(9)?.map(codes::stream_from),
        has_verifier: row.get(10)?,
    })
}

/// Domains that are asked for.
#[derive(Clone, Copy)]
pub(super) enum Which<'a> {
    All,
    /// Of this tenant.
    Of(&'a str),
    /// Of this tenant, with this name.
    Named(&'a str, &'a str),
    Key(i64),
}

const DOMAINS: &str = "SELECT d.key, t.name, d.name, d.created_ms, d.id, d.needs_proof, d.verification
                       FROM domain d JOIN tenant t ON t.key = d.tenant";

pub(super) fn read_domains(connection: &Connection, which: Which<'_>) -> Result<Vec<SendingDomain>, StoreError> {
    let mut domains = Vec::new();
    let mut read = |condition: &str, values: &[&dyn rusqlite::ToSql]| -> Result<(), StoreError> {
        let mut statement = connection.prepare_cached(&format!("{DOMAINS} {condition}"))?;
        let mut rows = statement.query(values)?;
        while let Some(row) = rows.next()? {
            domains.push(read_domain(connection, row)?);
        }
        Ok(())
    };
    match which {
        Which::All => read("ORDER BY t.name, d.name", &[])?,
        Which::Of(tenant) => read("WHERE t.name = ?1 ORDER BY d.name", &[&tenant])?,
        Which::Named(tenant, name) => read("WHERE t.name = ?1 AND d.name = ?2", &[&tenant, &name])?,
        Which::Key(key) => read("WHERE d.key = ?1", &[&key])?,
    }
    Ok(domains)
}

fn read_domain(connection: &Connection, row: &Row<'_>) -> Result<SendingDomain, StoreError> {
    let name: String = row.get(2)?;
    let domain = Domain::parse(&name)
        .map_err(|error| StoreError::Io(format!("the stored domain `{name}` cannot be read: {error}")))?;
    let (keys, edge_keys) = read_dkim_keys(connection, row.get(0)?)?;
    Ok(SendingDomain {
        id: Uuid::from_bytes(row.get(4)?),
        tenant: row.get(1)?,
        domain,
        created_at: time(row.get(3)?),
        keys,
        edge_keys,
        needs_proof: row.get(5)?,
        verification: verification::read(row.get(6)?),
    })
}

/// The keys of a domain: those whose private half is or was here, and those of edges, where it never was.
fn read_dkim_keys(connection: &Connection, domain: i64) -> Result<(Vec<DkimKey>, Vec<EdgeKey>), StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT id, selector, algorithm, public, private, state, created_ms, switched_ms, retire_ms
         FROM dkim_key WHERE domain = ?1 ORDER BY selector",
    )?;
    let mut rows = statement.query([domain])?;
    let (mut keys, mut edge_keys) = (Vec::new(), Vec::new());
    while let Some(row) = rows.next()? {
        let id: String = row.get(0)?;
        let unreadable = |what: &str| StoreError::Io(format!("the {what} of DKIM key {id} cannot be read"));
        let algorithm = codes::algorithm_from(row.get(2)?).ok_or_else(|| unreadable("algorithm"))?;
        let state = KeyState::read(row.get(5)?, row.get(7)?, row.get(8)?).ok_or_else(|| unreadable("state"))?;
        let (selector, public) = (row.get(1)?, row.get(3)?);
        let sealed_private: Vec<u8> = row.get(4)?;
        match sealed_private.is_empty() && state != KeyState::Retired {
            true => edge_keys.push(EdgeKey { selector, algorithm, public }),
            false => {
                let created_at = time(row.get(6)?);
                keys.push(DkimKey { id, selector, algorithm, public, sealed_private, state, created_at });
            }
        }
    }
    Ok((keys, edge_keys))
}
