//! What becomes of sending domains once they are there: their records are looked at, again and again, their DKIM keys are
//! rotated, and what changed is told by a `domain.updated` event.
//!
//! A new key signs once its record has been seen, and takes the place of those of its algorithm. The one before it signs
//! no more; its record must stay until the last message that it signed has arrived. Invariants: never two keys under one
//! selector; never a look of two hosts at one domain for the same reason.

mod due;
mod rotation;
mod verdict;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore, SemaphorePermit};

pub use rotation::{DomainFault, Rotation};

use crate::config::Config;
use crate::keyring::{DnsRecord, Keyring, Targets, dns_records};
use crate::published::{self, Expected, Records};
use crate::queue::policy::later;
use crate::store::{
    Directory, DomainChange, DomainChanges, KeyState, Seen, SendingDomain, StoreError, TenantEvent, TenantEventKind,
    TenantId,
};
use verdict::Changes;

/// Domains that are looked at at once, and those of one tenant among them: its name servers may be slow.
const AT_ONCE: usize = 8;
const SHARE: usize = 2;

/// How often a look is begun again where the domain was changed under it.
const TRIES: usize = 3;

/// Beyond the last attempt: mail that was delivered then is read, and its signature looked at, a little later.
const MARGIN: Duration = Duration::from_secs(24 * 60 * 60);

/// What was signed just before a key was changed may be accepted so much later.
const IN_FLIGHT: Duration = Duration::from_secs(60 * 60);

/// How much longer a record stays where mail that its key signed still waits.
const PUT_OFF: Duration = Duration::from_secs(24 * 60 * 60);

/// Why a domain is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Somebody asked: what is found counts at once.
    Asked,
    /// It is time to: what was verified and is found no more counts after a while (`verdict::GRACE`).
    Due,
}

/// What it is done by.
#[derive(Clone, Debug)]
pub struct Settings {
    pub targets: Targets,
    pub check_every: Duration,
    pub check_pending_every: Duration,
    /// How long a message may be on its way.
    pub overlap: Duration,
}

impl From<&Config> for Settings {
    fn from(config: &Config) -> Settings {
        let rules = &config.domains;
        let targets = Targets {
            host: config.hostname.clone(),
            return_path: rules.return_path_target.clone(),
            tracking: rules.tracking_target.clone(),
        };
        Settings {
            targets,
            check_every: rules.check_every,
            check_pending_every: rules.check_pending_every,
            overlap: overlap(config),
        }
    }
}

/// The longest time from acceptance to the last attempt that a route has.
fn overlap(config: &Config) -> Duration {
    let routes = config.routes.iter().filter_map(|route| route.expire_after);
    routes.fold(config.delivery.expire_after, Duration::max)
}

/// Looks after the sending domains of all tenants.
pub struct Domains {
    directory: Arc<dyn Directory>,
    changes: Arc<dyn DomainChanges>,
    keyring: Arc<Keyring>,
    /// Who is asked for records.
    dns: Arc<dyn Records>,
    settings: Settings,
    overlap_s: AtomicU64,
    places: Places,
}

/// Looks at once, whoever asked for them.
struct Places {
    all: Semaphore,
    /// Of tenants that have a look under way, or wait for one.
    of_tenants: Mutex<HashMap<TenantId, Arc<Semaphore>>>,
}

impl Places {
    fn new() -> Places {
        Places { all: Semaphore::new(AT_ONCE), of_tenants: Mutex::default() }
    }

    /// Waits for a place of the tenant's, and only then for one of all.
    async fn take(&self, tenant: &str) -> Result<(OwnedSemaphorePermit, SemaphorePermit<'_>), AcquireError> {
        let own = {
            let mut of_tenants = self.of_tenants.lock().unwrap_or_else(PoisonError::into_inner);
            of_tenants.retain(|_, places| Arc::strong_count(places) > 1);
            of_tenants.entry(tenant.to_owned()).or_insert_with(|| Arc::new(Semaphore::new(SHARE))).clone()
        };
        let own = own.acquire_owned().await?;
        Ok((own, self.all.acquire().await?))
    }
}

impl Domains {
    pub fn new(
        directory: Arc<dyn Directory>,
        changes: Arc<dyn DomainChanges>,
        keyring: Arc<Keyring>,
        dns: Arc<dyn Records>,
        settings: Settings,
    ) -> Domains {
        let overlap_s = AtomicU64::new(settings.overlap.as_secs());
        Domains { directory, changes, keyring, dns, settings, overlap_s, places: Places::new() }
    }

    /// What is to be published for a domain.
    pub fn records(&self, domain: &SendingDomain) -> Vec<DnsRecord> {
        dns_records(domain, &self.settings.targets)
    }

    /// Takes in how long mail may be on its way, for keys that are rotated from now on.
    pub fn set_overlap(&self, config: &Config) {
        self.overlap_s.store(overlap(config).as_secs(), Ordering::Relaxed);
    }

    /// Looks all records up, keeps what was found, and lets keys take the next step: one whose record is seen signs, one
    /// whose time is over is deleted. Gives the domain as it is then.
    ///
    /// Where DNS does not answer for a needed record, the domain's status stays what it was. What was found of a domain
    /// that somebody changed meanwhile is thrown away, and it is looked at again; `Exists` where that happens too often.
    pub async fn check(
        &self,
        mut domain: SendingDomain,
        look: Look,
        now: Timestamp,
    ) -> Result<SendingDomain, StoreError> {
        for _ in 1..TRIES {
            let (id, tenant, name) = (domain.id, domain.tenant.clone(), domain.domain.clone());
            match self.check_once(domain, look, now).await {
                Err(StoreError::Exists(_)) => {}
                told => return told,
            }
            let is_so = self.directory.domain(&tenant, &name).await?.filter(|is_so| is_so.id == id);
            domain = is_so.ok_or_else(|| StoreError::NotFound(format!("domain {name}")))?;
        }
        self.check_once(domain, look, now).await
    }

    async fn check_once(
        &self,
        mut domain: SendingDomain,
        look: Look,
        now: Timestamp,
    ) -> Result<SendingDomain, StoreError> {
        let seen = Some(Seen::from(&domain));
        let records = self.records(&domain);
        let expected: Vec<Expected> = records.iter().map(Expected::from).collect();
        let looked = {
            let places = self.places.take(&domain.tenant).await;
            let _places = places.map_err(|error| StoreError::Io(error.to_string()))?;
            published::look(&self.dns, &expected).await
        };
        let before = domain.verification.take();
        let known = |name: &str| before.iter().flat_map(|it| &it.records).find(|verdict| verdict.name == name);
        let verdicts: Vec<_> = looked
            .into_iter()
            .map(|verdict| {
                let earlier = known(&verdict.name).cloned();
                verdict.after(earlier.as_ref(), now)
            })
            .collect();
        let (steps, removed) = self.key_steps(&domain, &verdicts, now).await?;
        let audit = rotation::audited(&domain, &steps, &removed, now);
        for (id, _, to) in &steps {
            if let Some(key) = domain.keys.iter_mut().find(|key| key.id == *id) {
                key.state = *to;
            }
        }
        domain.keys.retain(|key| !removed.contains(&key.id));
        let listed = self.records(&domain);
        let found = verdict::judge(before.as_ref(), &listed, verdicts, look, now);
        let changes = Changes::between(&domain, before.as_ref(), &found, &steps);
        let check_at = due::next(&self.settings, &domain, &listed, &found, now, rand::random());
        domain.verification = Some(found.clone());
        let event = (!changes.is_empty()).then(|| (changes.event(&domain), now));
        let change = DomainChange {
            seen,
            steps,
            removed,
            found: Some(found),
            check_at: Some(check_at),
            event,
            audit,
            ..DomainChange::default()
        };
        let gone = domain.keys.iter().filter(|key| key.state == KeyState::Retired);
        let gone: Vec<String> = gone.map(|key| key.id.clone()).collect();
        self.changes.change_domain(&domain.tenant, &domain.domain, change).await?;
        gone.iter().for_each(|id| self.keyring.forget(id));
        Ok(domain)
    }

    /// The event that tells of a domain whose keys somebody changed.
    fn told(domain: &SendingDomain, steps: &[(String, KeyState, KeyState)]) -> TenantEvent {
        let unchanged = domain.verification.clone();
        match &unchanged {
            Some(found) => Changes::between(domain, Some(found), found, steps).event(domain),
            None => Changes::of_keys(domain, steps).event(domain),
        }
    }

    /// Until when the record of a key must stay that signs no more from now on.
    async fn retire_at(&self, tenant: &str, now: Timestamp) -> Result<Timestamp, StoreError> {
        let last = self.changes.latest_scheduled(tenant).await?.map_or(now, |scheduled| scheduled.max(now));
        Ok(later(last, Duration::from_secs(self.overlap_s.load(Ordering::Relaxed)).saturating_add(MARGIN)))
    }
}

/// The kind of event that tells of a domain.
const UPDATED: TenantEventKind = TenantEventKind::DomainUpdated;

#[cfg(test)]
mod tests;
