//! The life of a DKIM key: pending until its record is seen, active while it signs, retiring while mail that it signed
//! is on its way, retired when its record may go.

use http::StatusCode;
use jiff::Timestamp;
use mail::Domain;
use serde_json::{Value, json};
use thiserror::Error;

use super::{Domains, IN_FLIGHT, Look, PUT_OFF};
use crate::keyring::{KeyFault, SelectorError, Selectors, key_name};
use crate::published::{RecordStatus, Verdict};
use crate::queue::policy::later;
use crate::store::{Audited, DkimKey, DomainChange, KeyState, Seen, SendingDomain, StoreError};

use super::verdict::of;

/// Steps of keys: id, the state it has, the state it gets.
type Steps = Vec<(String, KeyState, KeyState)>;

/// Octets of a name in DNS, without the dot at its end (RFC 1035 s2.3.4).
const NAME_OCTETS: usize = 253;

/// Why the keys of a domain stay what they are.
#[derive(Debug, Error)]
pub enum DomainFault {
    #[error(
        "a new key of {domain} waits for its record {record}: publish it (`posthaste domain records {domain}` shows it), have it sign at once (`posthaste domain rotate {domain} --now`), or drop it (`posthaste domain remove-key {domain} {selector}`)"
    )]
    Waiting { domain: Domain, record: String, selector: String },
    #[error(
        "{domain} has this very key already, with the selector {selector}, and it is {state}: a key has one selector for good; `posthaste domain show {domain}` shows all"
    )]
    Known { domain: Domain, selector: String, state: &'static str },
    #[error("{domain} has no key with the selector `{selector}`: `posthaste domain show {domain}` shows all")]
    Missing { domain: Domain, selector: String },
    #[error(
        "{selector} is the only key that signs for {domain}: `posthaste domain rotate {domain}` gives it others first"
    )]
    Last { domain: Domain, selector: String },
    #[error("{0} is too long for a name in DNS: choose a shorter selector")]
    Long(String),
    #[error("selector: {0}")]
    Selector(#[from] SelectorError),
    #[error("private_key: {0}")]
    Key(KeyFault),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<KeyFault> for DomainFault {
    fn from(fault: KeyFault) -> DomainFault {
        match fault {
            KeyFault::Selector(fault) => DomainFault::Selector(fault),
            fault => DomainFault::Key(fault),
        }
    }
}

impl DomainFault {
    /// As HTTP says it.
    pub fn status(&self) -> StatusCode {
        match self {
            DomainFault::Waiting { .. } | DomainFault::Known { .. } | DomainFault::Last { .. } => StatusCode::CONFLICT,
            DomainFault::Missing { .. } => StatusCode::NOT_FOUND,
            DomainFault::Long(_) | DomainFault::Selector(_) | DomainFault::Key(_) => StatusCode::UNPROCESSABLE_ENTITY,
            DomainFault::Store(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

/// How keys are rotated.
#[derive(Clone, Debug, Default)]
pub struct Rotation {
    /// A key has leaked: the new ones sign at once, and the old ones are deleted.
    pub at_once: bool,
    pub selectors: Selectors,
}

/// Whether a key that is known already is what this one is to become.
fn is_done(known: &DkimKey, key: &DkimKey) -> bool {
    known.selector == key.selector && (known.state == KeyState::Active || known.state == key.state)
}

/// What a look does to keys by itself, for the audit log: which of them, and their states before and after.
pub(super) fn audited(domain: &SendingDomain, steps: &Steps, removed: &[String], now: Timestamp) -> Option<Audited> {
    let after = |key: &DkimKey| match steps.iter().find(|(id, ..)| *id == key.id) {
        Some((.., to)) => Some(to.name()),
        None => removed.contains(&key.id).then_some("removed"),
    };
    let changed = || domain.keys.iter().filter_map(|key| Some((key, after(key)?)));
    changed().next()?;
    let told = |key: &DkimKey, state: &str| json!({ "selector": key.selector, "algorithm": key.algorithm.name(), "state": state });
    let before: Value = changed().map(|(key, _)| told(key, key.state.name())).collect();
    let after: Value = changed().map(|(key, state)| told(key, state)).collect();
    let what = format!("domains/{}: keys went on by what is published", domain.domain);
    Some(Audited::by_host(Some(&domain.tenant), &what, before, after, now))
}

impl Domains {
    /// Refuses selectors under which a domain's keys could not be published.
    pub fn check_selectors(&self, domain: &Domain, selectors: &Selectors) -> Result<(), DomainFault> {
        let names = [&selectors.rsa, &selectors.ed25519].into_iter().flatten().map(|it| key_name(it, domain));
        names.into_iter().find(|name| name.len() > NAME_OCTETS).map_or(Ok(()), |name| Err(DomainFault::Long(name)))
    }

    /// Makes a fresh RSA and a fresh Ed25519 key. They sign once their records are seen, each in the place of those of its
    /// algorithm. At once, where that is asked: then those that wait sign, fresh ones where none do, and all others are
    /// deleted.
    pub async fn rotate(
        &self,
        domain: &SendingDomain,
        rotation: Rotation,
        now: Timestamp,
    ) -> Result<SendingDomain, DomainFault> {
        self.check_selectors(&domain.domain, &rotation.selectors)?;
        let _sealing = self.keyring.sealing().await;
        let waiting: Vec<&DkimKey> = domain.keys.iter().filter(|key| key.state == KeyState::Pending).collect();
        let mut change = DomainChange::default();
        if rotation.at_once {
            let fresh = self.keyring.make_keys(&rotation.selectors, KeyState::Active).await?;
            let lacks = |key: &DkimKey| waiting.iter().all(|waiting| waiting.algorithm != key.algorithm);
            change.added = fresh.into_iter().filter(lacks).collect();
            for key in &domain.keys {
                match key.state {
                    KeyState::Pending => change.steps.push((key.id.clone(), key.state, KeyState::Active)),
                    KeyState::Active | KeyState::Retiring { .. } => {
                        change.steps.push((key.id.clone(), key.state, KeyState::Retired));
                    }
                    KeyState::Retired => {}
                }
            }
        } else if let Some(key) = waiting.first() {
            return Err(self.waiting(domain, key));
        } else {
            change.added = self.keyring.make_keys(&rotation.selectors, KeyState::Pending).await?;
        }
        self.make(domain, change, now).await
    }

    /// Adds a key that somebody brings along: it signs once its record is seen, or at once. Where it is there already under
    /// its selector, nothing changes: a call may be repeated, and two may be made at once. One that waits for its record
    /// signs from now on, where it is to do so at once.
    pub async fn import_key(
        &self,
        domain: &SendingDomain,
        selector: &str,
        private_pem: &str,
        at_once: bool,
        now: Timestamp,
    ) -> Result<SendingDomain, DomainFault> {
        let state = if at_once { KeyState::Active } else { KeyState::Pending };
        let _sealing = self.keyring.sealing().await;
        let key = self.keyring.import(private_pem, selector, state).await?;
        let name = key_name(&key.selector, &domain.domain);
        if name.len() > NAME_OCTETS {
            return Err(DomainFault::Long(name));
        }
        if let Some(known) = domain.keys.iter().find(|known| known.public == key.public) {
            let (domain_name, selector, state) = (domain.domain.clone(), known.selector.clone(), known.state);
            return match state {
                _ if is_done(known, &key) => Ok(domain.clone()),
                // It waits for its record, and is to sign without.
                KeyState::Pending if selector == key.selector => {
                    let mut steps = self.make_way(domain, &key, now).await?;
                    steps.push((known.id.clone(), state, KeyState::Active));
                    self.make(domain, DomainChange { steps, ..DomainChange::default() }, now).await
                }
                _ => Err(DomainFault::Known { domain: domain_name, selector, state: state.name() }),
            };
        }
        let of_kind = || domain.keys.iter().filter(|known| known.algorithm == key.algorithm);
        let mut change = DomainChange::default();
        if at_once {
            change.steps = self.make_way(domain, &key, now).await?;
        } else if let Some(waiting) = of_kind().find(|known| known.state == KeyState::Pending) {
            return Err(self.waiting(domain, waiting));
        }
        change.added = vec![key.clone()];
        let made = self.make(domain, change, now).await;
        if let Err(DomainFault::Store(StoreError::Exists(_))) = made {
            // Somebody else was quicker, maybe with this very key.
            let is_so = self.directory.domain(&domain.tenant, &domain.domain).await?;
            let has_it = |is_so: &SendingDomain| {
                is_so.id == domain.id
                    && is_so.keys.iter().any(|known| known.public == key.public && is_done(known, &key))
            };
            return is_so.filter(has_it).map_or(made, Ok);
        }
        made
    }

    /// Looks whether the record of a key that was added just now is there already. Where others change the domain
    /// meanwhile, the next look does it: the key is there all the same.
    pub async fn look_for_added(&self, domain: SendingDomain, now: Timestamp) -> Result<SendingDomain, StoreError> {
        match self.check(domain.clone(), Look::Due, now).await {
            Err(StoreError::Exists(_)) => {
                let is_so = self.directory.domain(&domain.tenant, &domain.domain).await?;
                Ok(is_so.filter(|is_so| is_so.id == domain.id).unwrap_or(domain))
            }
            told => told,
        }
    }

    /// Takes a key away: one that waits is dropped, one that signs stops and retires, and one that signs no more is deleted
    /// with what is known of it.
    pub async fn remove_key(
        &self,
        domain: &SendingDomain,
        selector: &str,
        now: Timestamp,
    ) -> Result<SendingDomain, DomainFault> {
        let name = domain.domain.clone();
        let found = domain.keys.iter().find(|key| key.selector == selector.to_ascii_lowercase());
        let missing = || {
            let selector = selector.chars().take(64).collect::<String>().escape_debug().to_string();
            DomainFault::Missing { domain: name.clone(), selector }
        };
        let key = found.ok_or_else(missing)?;
        let mut change = DomainChange::default();
        if key.state == KeyState::Active {
            if domain.keys.iter().filter(|key| key.state == KeyState::Active).count() == 1 {
                return Err(DomainFault::Last { domain: name, selector: key.selector.clone() });
            }
            let until = self.retire_at(&domain.tenant, now).await?;
            change.steps.push((key.id.clone(), key.state, KeyState::Retiring { since: now, until }));
        } else {
            change.removed.push(key.id.clone());
        }
        self.make(domain, change, now).await
    }

    /// The keys in whose place one signs from now on: they retire.
    async fn make_way(&self, domain: &SendingDomain, key: &DkimKey, now: Timestamp) -> Result<Steps, StoreError> {
        let until = self.retire_at(&domain.tenant, now).await?;
        let old = domain.keys.iter().filter(|old| old.algorithm == key.algorithm && old.state == KeyState::Active);
        Ok(old.map(|old| (old.id.clone(), old.state, KeyState::Retiring { since: now, until })).collect())
    }

    fn waiting(&self, domain: &SendingDomain, key: &DkimKey) -> DomainFault {
        let name = domain.domain.clone();
        DomainFault::Waiting { record: key_name(&key.selector, &name), selector: key.selector.clone(), domain: name }
    }

    /// Makes a change, has the records looked at soon, and gives the domain as it is then.
    async fn make(
        &self,
        domain: &SendingDomain,
        mut change: DomainChange,
        now: Timestamp,
    ) -> Result<SendingDomain, DomainFault> {
        change.seen = Some(Seen::from(domain));
        change.check_at = Some(later(now, self.settings.check_pending_every));
        if !change.steps.is_empty() {
            change.event = Some((Domains::told(domain, &change.steps), now));
        }
        let gone = change.steps.iter().filter(|(_, _, to)| *to == KeyState::Retired).map(|(id, ..)| id);
        let gone: Vec<String> = gone.chain(&change.removed).cloned().collect();
        self.changes.change_domain(&domain.tenant, &domain.domain, change).await?;
        gone.iter().for_each(|id| self.keyring.forget(id));
        let found = self.directory.domain(&domain.tenant, &domain.domain).await?;
        Ok(found.ok_or_else(|| StoreError::NotFound(format!("domain {}", domain.domain)))?)
    }

    /// What follows for the keys from a look at their records: the steps of some, and those that go.
    pub(super) async fn key_steps(
        &self,
        domain: &SendingDomain,
        verdicts: &[Verdict],
        now: Timestamp,
    ) -> Result<(Steps, Vec<String>), StoreError> {
        let status = |key: &DkimKey| of(verdicts, &key_name(&key.selector, &domain.domain)).map(|it| it.status);
        let (mut steps, mut removed) = (Steps::new(), Vec::new());
        for key in &domain.keys {
            match key.state {
                KeyState::Pending if status(key) == Some(RecordStatus::Verified) => {
                    let until = self.retire_at(&domain.tenant, now).await?;
                    let old = domain.keys.iter().filter(|old| old.algorithm == key.algorithm);
                    for old in old.filter(|old| old.state == KeyState::Active) {
                        steps.push((old.id.clone(), old.state, KeyState::Retiring { since: now, until }));
                    }
                    steps.push((key.id.clone(), key.state, KeyState::Active));
                }
                KeyState::Retiring { since, until } if until <= now => {
                    let waits = self.changes.waits_since(&domain.tenant, later(since, IN_FLIGHT)).await?;
                    let next = match waits {
                        true => KeyState::Retiring { since, until: later(now, PUT_OFF) },
                        false => KeyState::Retired,
                    };
                    steps.push((key.id.clone(), key.state, next));
                }
                // Its record is gone, as was asked.
                KeyState::Retired if status(key) == Some(RecordStatus::Pending) => removed.push(key.id.clone()),
                KeyState::Pending | KeyState::Active | KeyState::Retiring { .. } | KeyState::Retired => {}
            }
        }
        Ok((steps, removed))
    }
}
