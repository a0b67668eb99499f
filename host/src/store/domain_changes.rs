//! What happens to a sending domain on disk: its keys change state, looks at its records are kept, and the next look is
//! handed out. One transaction a change, with the event that tells it.

use std::collections::BTreeMap;

use async_trait::async_trait;
use jiff::Timestamp;
use mail::{Domain, Stream};
use rusqlite::{Connection, OptionalExtension, params};
use tokio::sync::oneshot;
use uuid::Uuid;

use super::audit::{self, Audited};
use super::directory::{Which, read_domains};
use super::embedded::Embedded;
use super::history::time;
use super::lanes::Lane;
use super::reading::tenant_key;
use super::{DkimKey, SendingDomain, StoreError, TenantEvent, TenantId, Verification, codes, tenant_events};

/// A migration of `store.db`: see `schema`.
pub(super) const SCHEMA: &str = "
ALTER TABLE dkim_key ADD COLUMN state INTEGER NOT NULL DEFAULT 2;      -- 1: pending, 2: active, 3: retiring, 4: retired
ALTER TABLE dkim_key ADD COLUMN created_ms INTEGER NOT NULL DEFAULT 0;
ALTER TABLE dkim_key ADD COLUMN switched_ms INTEGER;                   -- retiring: when it stopped to sign
ALTER TABLE dkim_key ADD COLUMN retire_ms INTEGER;                     -- retiring: until when its record must stay
UPDATE dkim_key SET created_ms = (SELECT d.created_ms FROM domain d WHERE d.key = dkim_key.domain);

ALTER TABLE domain ADD COLUMN check_ms INTEGER NOT NULL DEFAULT 0;     -- when its records are looked at next
CREATE INDEX domain_check ON domain (check_ms);

-- A name in DNS is for one key, for good: caches and mail on its way remember it.
CREATE TABLE used_selector (
  tenant   INTEGER NOT NULL,
  domain   TEXT NOT NULL,
  selector TEXT NOT NULL,
  public   BLOB NOT NULL,
  PRIMARY KEY (tenant, domain, selector)
) STRICT, WITHOUT ROWID;
INSERT INTO used_selector
SELECT d.tenant, d.name, k.selector, k.public FROM dkim_key k JOIN domain d ON d.key = k.domain;
";

/// After this long the records of a new domain are looked at for the first time: nobody has published them before.
pub(super) const FIRST_CHECK_MS: i64 = 5 * 60 * 1000;

/// What a DKIM key of the host does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyState {
    /// Its record has not been seen: it signs nothing yet.
    Pending,
    /// It signs.
    Active,
    /// It signs no more, but mail that it signed is on its way: its record must stay published until then.
    Retiring { since: Timestamp, until: Timestamp },
    /// Its private half is deleted, and its record may go.
    Retired,
}

impl KeyState {
    /// `pending` and so on.
    pub fn name(self) -> &'static str {
        match self {
            KeyState::Pending => "pending",
            KeyState::Active => "active",
            KeyState::Retiring { .. } => "retiring",
            KeyState::Retired => "retired",
        }
    }

    fn columns(self) -> (i64, Option<i64>, Option<i64>) {
        match self {
            KeyState::Pending => (1, None, None),
            KeyState::Active => (2, None, None),
            KeyState::Retiring { since, until } => (3, Some(since.as_millisecond()), Some(until.as_millisecond())),
            KeyState::Retired => (4, None, None),
        }
    }

    pub(super) fn read(state: i64, switched_ms: Option<i64>, retire_ms: Option<i64>) -> Option<KeyState> {
        match (state, switched_ms, retire_ms) {
            (1, ..) => Some(KeyState::Pending),
            (2, ..) => Some(KeyState::Active),
            (3, Some(since), Some(until)) => Some(KeyState::Retiring { since: time(since), until: time(until) }),
            (4, ..) => Some(KeyState::Retired),
            _ => None,
        }
    }
}

/// What of a domain a change was made out of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    id: Uuid,
    keys: BTreeMap<String, KeyState>,
    checked_at: Option<Timestamp>,
}

impl From<&SendingDomain> for Seen {
    fn from(domain: &SendingDomain) -> Seen {
        Seen {
            id: domain.id,
            keys: domain.keys.iter().map(|key| (key.id.clone(), key.state)).collect(),
            checked_at: domain.verification.as_ref().map(|found| found.checked_at),
        }
    }
}

impl Seen {
    /// Whether a change made out of this fits the domain as it is now. Another look alone is in the way of a look only.
    fn fits(&self, domain: &SendingDomain, is_look: bool) -> bool {
        let now = Seen::from(domain);
        (self.id, &self.keys) == (now.id, &now.keys) && (!is_look || self.checked_at == now.checked_at)
    }
}

/// What changes of a domain: all of it, or nothing.
#[derive(Clone, Debug, Default)]
pub struct DomainChange {
    /// Where this is no longer so, nothing changes. `None`: whatever is so.
    pub seen: Option<Seen>,
    pub added: Vec<DkimKey>,
    /// Ids of keys, each with the state that it has and the one it gets. With `Retired` the private half is erased.
    pub steps: Vec<(String, KeyState, KeyState)>,
    /// Ids of keys that go.
    pub removed: Vec<String>,
    /// What a look at the records found.
    pub found: Option<Verification>,
    /// When the records are looked at next.
    pub check_at: Option<Timestamp>,
    pub event: Option<(TenantEvent, Timestamp)>,
    /// What the host did by itself.
    pub audit: Option<Audited>,
}

/// A domain whose records are to be looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DueCheck {
    pub tenant: TenantId,
    pub id: Uuid,
}

/// Due looks that are listed at once: of a tenant, and in all. A tenant that has many does not fill the list.
const DUE_OF_EACH: i64 = 512;
const DUE_AT_ONCE: i64 = 4096;

/// Changes sending domains.
#[async_trait]
pub trait DomainChanges: Send + Sync + 'static {
    /// Makes a change. `NotFound` where the tenant does not have the domain (any more); `Exists` where a selector was used
    /// before for another key, or where the domain is another one than the change takes it to be, or a key in another state.
    async fn change_domain(&self, tenant: &str, domain: &Domain, change: DomainChange) -> Result<(), StoreError>;

    /// Domains whose next look is due, a few of each tenant: first that of each which has been due for longest, then the
    /// second of each. Not all, where many are due.
    async fn due_checks(&self, now: Timestamp) -> Result<Vec<DueCheck>, StoreError>;

    /// Takes a look over: the domain is the caller's until `until`, and due again where nothing is kept by then. `None`
    /// where it is not due any more: another caller was quicker.
    async fn lease_check(
        &self,
        due: &DueCheck,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<Option<SendingDomain>, StoreError>;

    /// Whether mail of a tenant that was accepted before that time is still to be delivered, whatever it waits for.
    async fn waits_since(&self, tenant: &str, before: Timestamp) -> Result<bool, StoreError>;

    /// The latest time that a message of this tenant is scheduled for.
    async fn latest_scheduled(&self, tenant: &str) -> Result<Option<Timestamp>, StoreError>;
}

#[async_trait]
impl DomainChanges for Embedded {
    async fn change_domain(&self, tenant: &str, domain: &Domain, change: DomainChange) -> Result<(), StoreError> {
        let (tenant, domain) = (tenant.to_owned(), domain.clone());
        self.change(Box::new(move |connection, counters| {
            let missing = || StoreError::NotFound(format!("domain {domain}"));
            let owner = tenant_key(connection, &tenant)?.ok_or_else(missing)?;
            let sql = "SELECT key FROM domain WHERE tenant = ?1 AND name = ?2";
            let found = connection.prepare_cached(sql)?.query_row(params![owner, domain.as_str()], |row| row.get(0));
            let key: i64 = found.optional()?.ok_or_else(missing)?;
            let DomainChange { seen, added, steps, removed, found, check_at, event, audit } = change;
            if let Some(seen) = seen {
                let is_so = read_domains(connection, Which::Key(key))?;
                if !is_so.iter().any(|domain| seen.fits(domain, found.is_some())) {
                    return Err(StoreError::Exists(format!(
                        "a change of {domain}, made a moment ago: look at it again"
                    )));
                }
            }
            for (id, from, to) in &steps {
                step(connection, key, id, *from, *to)?;
            }
            for id in &removed {
                connection.execute("DELETE FROM dkim_key WHERE id = ?1 AND domain = ?2", params![id, key])?;
            }
            for dkim in &added {
                has_room(connection, key, dkim)?;
                insert_key(connection, key, dkim)?;
            }
            if let Some(found) = &found {
                let json = serde_json::to_string(found)
                    .map_err(|error| StoreError::Io(format!("a verification cannot be stored: {error}")))?;
                connection
                    .prepare_cached("UPDATE domain SET verification = ?2 WHERE key = ?1")?
                    .execute(params![key, json])?;
            }
            if let Some(at) = check_at {
                connection
                    .prepare_cached("UPDATE domain SET check_ms = ?2 WHERE key = ?1")?
                    .execute([key, at.as_millisecond()])?;
            }
            if let Some(entry) = audit {
                audit::write(connection, &entry)?;
            }
            match event {
                Some((event, at)) => tenant_events::record(connection, counters, owner, event, at),
                None => Ok(()),
            }
        }))
        .await
    }

    async fn due_checks(&self, now: Timestamp) -> Result<Vec<DueCheck>, StoreError> {
        let bounds = [now.as_millisecond(), DUE_OF_EACH, DUE_AT_ONCE];
        let read = self.readers.read(move |connection| {
            let sql = "SELECT t.name, d.id FROM (
                         SELECT tenant, id, check_ms, row_number() OVER (PARTITION BY tenant ORDER BY check_ms) AS turn
                         FROM domain WHERE check_ms <= ?1
                       ) d JOIN tenant t ON t.key = d.tenant
                       WHERE d.turn <= ?2 ORDER BY d.turn, d.check_ms LIMIT ?3";
            let mut due = connection.prepare_cached(sql)?;
            let due = due.query_map(bounds, |row| Ok((row.get(0)?, row.get(1)?)))?;
            let due = due.map(|row| row.map(|(tenant, id)| DueCheck { tenant, id: Uuid::from_bytes(id) }));
            Ok(due.collect::<Result<_, _>>()?)
        });
        read.await
    }

    async fn lease_check(
        &self,
        due: &DueCheck,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<Option<SendingDomain>, StoreError> {
        let (id, now_ms, until_ms) = (due.id, now.as_millisecond(), until.as_millisecond());
        let (tell, told) = oneshot::channel();
        let lease = self.change(Box::new(move |connection, _| {
            let sql = "UPDATE domain SET check_ms = ?2 WHERE id = ?1 AND check_ms <= ?3 RETURNING key";
            let mut take = connection.prepare_cached(sql)?;
            let taken = take.query_row(params![id.as_bytes(), until_ms, now_ms], |row| row.get(0)).optional()?;
            // Leased also where it cannot be read, so that it does not stand before all others.
            let leased = taken.map_or_else(|| Ok(Vec::new()), |key| read_domains(connection, Which::Key(key)));
            // Whoever asked may be gone; then the lease runs out.
            let _ = tell.send(leased);
            Ok(())
        }));
        lease.await?;
        Ok(told.await.map_err(|_| StoreError::Io("the store gave no answer".to_owned()))??.pop())
    }

    async fn waits_since(&self, tenant: &str, before: Timestamp) -> Result<bool, StoreError> {
        let (tenant, before_ms) = (tenant.to_owned(), before.as_millisecond());
        let read = self.readers.read(move |connection| {
            let Some(key) = tenant_key(connection, &tenant)? else { return Ok(false) };
            let (first, end) = {
                // Those of a tenant stand together, transactional mail first.
                let first = |tenant| Lane::new(tenant, Stream::Transactional, 0).key();
                (first(key), first(key + 1))
            };
            // Each of the two has an index of its own: what is due some time, and what is held.
            for waits in ["r.due_ms IS NOT NULL", "r.due_ms IS NULL AND r.done_ms IS NULL"] {
                let sql = format!(
                    "SELECT 1 FROM recipient r JOIN message m ON m.key = r.message
                     WHERE r.lane >= ?1 AND r.lane < ?2 AND {waits} AND m.accepted_ms < ?3 LIMIT 1"
                );
                if connection.prepare_cached(&sql)?.exists([first, end, before_ms])? {
                    return Ok(true);
                }
            }
            Ok(false)
        });
        read.await
    }

    async fn latest_scheduled(&self, tenant: &str) -> Result<Option<Timestamp>, StoreError> {
        let tenant = tenant.to_owned();
        let read = self.readers.read(move |connection| {
            let Some(key) = tenant_key(connection, &tenant)? else { return Ok(None) };
            let sql = "SELECT s.send_ms FROM schedule s JOIN message m ON m.key = s.message
                       WHERE s.state = 1 AND m.tenant = ?1 ORDER BY s.send_ms DESC LIMIT 1";
            let found: Option<i64> = connection.prepare_cached(sql)?.query_row([key], |row| row.get(0)).optional()?;
            Ok(found.map(time))
        });
        read.await
    }
}

/// Takes a key from one state to another, where it is in the first.
fn step(connection: &Connection, domain: i64, id: &str, from: KeyState, to: KeyState) -> Result<(), StoreError> {
    let ((was, ..), (state, switched_ms, retire_ms)) = (from.columns(), to.columns());
    let sql = "UPDATE dkim_key SET state = ?4, switched_ms = ?5, retire_ms = ?6,
                      private = CASE WHEN ?4 = 4 THEN x'' ELSE private END
               WHERE id = ?1 AND domain = ?2 AND state = ?3";
    let stepped = connection.prepare_cached(sql)?.execute(params![id, domain, was, state, switched_ms, retire_ms])?;
    match stepped {
        0 => Err(StoreError::Exists(format!("a change of the key {id}, which was {} a moment ago", from.name()))),
        _ => Ok(()),
    }
}

/// Keys of a domain at most: each costs a look at DNS, and place in memory for every message.
const KEYS: i64 = 16;

/// Whether a domain may have this key too. At most one of an algorithm waits for its record: two would both take the
/// place of the one in use.
fn has_room(connection: &Connection, domain: i64, key: &DkimKey) -> Result<(), StoreError> {
    let algorithm = codes::algorithm_to(key.algorithm);
    let (all, pending): (i64, i64) = connection
        .prepare_cached(
            "SELECT count(*), count(*) FILTER (WHERE state = 1 AND algorithm = ?2) FROM dkim_key
             WHERE domain = ?1 AND length(private) > 0",
        )?
        .query_row(params![domain, algorithm], |row| Ok((row.get(0)?, row.get(1)?)))?;
    if all >= KEYS {
        return Err(StoreError::Exists(format!("{KEYS} keys of this domain: remove one first")));
    }
    if key.state == KeyState::Pending && pending > 0 {
        let text = "a key of this algorithm that waits for its record: remove it, or wait until it is published";
        return Err(StoreError::Exists(text.to_owned()));
    }
    Ok(())
}

/// Adds a key under a selector that was never another key's.
pub(super) fn insert_key(connection: &Connection, domain: i64, key: &DkimKey) -> Result<(), StoreError> {
    let sql = "SELECT d.name, u.public FROM domain d
               LEFT JOIN used_selector u ON u.tenant = d.tenant AND u.domain = d.name AND u.selector = ?2
               WHERE d.key = ?1";
    let (name, used): (String, Option<Vec<u8>>) = connection
        .prepare_cached(sql)?
        .query_row(params![domain, key.selector], |row| Ok((row.get(0)?, row.get(1)?)))?;
    if used.is_some_and(|public| public != key.public) {
        let text = format!(
            "the selector {} of {name} with another key, now or earlier: a name in DNS is for one key, so choose another selector",
            key.selector
        );
        return Err(StoreError::Exists(text));
    }
    let sql = "INSERT OR IGNORE INTO used_selector (tenant, domain, selector, public)
               SELECT tenant, name, ?2, ?3 FROM domain WHERE key = ?1";
    connection.prepare_cached(sql)?.execute(params![domain, key.selector, key.public])?;
    let (state, switched_ms, retire_ms) = key.state.columns();
    let added = connection.execute(
        "INSERT OR IGNORE INTO dkim_key (id, domain, selector, algorithm, public, private, state, created_ms, switched_ms, retire_ms)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        params![
            key.id,
            domain,
            key.selector,
            codes::algorithm_to(key.algorithm),
            key.public,
            key.sealed_private,
            state,
            key.created_at.as_millisecond(),
            switched_ms,
            retire_ms
        ],
    )?;
    if added == 0 { Err(StoreError::Exists(format!("DKIM key {} ({})", key.id, key.selector))) } else { Ok(()) }
}
