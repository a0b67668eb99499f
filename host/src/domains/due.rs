//! When a domain is looked at next, and the task that does it.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use jiff::Timestamp;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::verdict::{needed, of};
use super::{AT_ONCE, Domains, Look, SHARE, Settings};
use crate::keyring::DnsRecord;
use crate::published::RecordStatus;
use crate::queue::policy::later;
use crate::store::{DomainStatus, DueCheck, KeyState, SendingDomain, StoreError, TenantId, Verification};

/// How often it is asked whether a look is due.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(10);

/// A look takes seconds; whoever is given a domain and does not come back loses it after so long.
const LEASE: Duration = Duration::from_secs(5 * 60);

/// Of the time since the last change: the wait for the next look where something is awaited.
const PART: u32 = 8;

/// Seldom where all is well. Where something is awaited or wrong, often at first, and the rarer the longer nothing
/// changes. `chance` is between 0 and 1: looks are spread by a tenth either way.
pub fn next(
    settings: &Settings,
    domain: &SendingDomain,
    records: &[DnsRecord],
    found: &Verification,
    now: Timestamp,
    chance: f64,
) -> Timestamp {
    let pending: Vec<Timestamp> =
        domain.keys.iter().filter(|key| key.state == KeyState::Pending).map(|key| key.created_at).collect();
    let of_needed = || needed(records).filter_map(|record| of(&found.records, &record.name));
    let is_well = found.status == DomainStatus::Verified
        && pending.is_empty()
        && of_needed().all(|verdict| verdict.status == RecordStatus::Verified);
    let is_silent = of_needed().any(|verdict| verdict.status == RecordStatus::TemporaryFailure);
    let wait = if is_well {
        settings.check_every
    } else if is_silent {
        settings.check_pending_every
    } else {
        let changed = of_needed().filter_map(|verdict| verdict.since).chain(pending).max().unwrap_or(now);
        let still = Duration::try_from(now.duration_since(changed)).unwrap_or_default() / PART;
        still.clamp(settings.check_pending_every, settings.check_every.max(settings.check_pending_every))
    };
    let at = later(now, wait.mul_f64(0.9 + 0.2 * chance.clamp(0.0, 1.0)));
    // A key whose time is over is deleted then, and not hours later.
    let ends = domain.keys.iter().filter_map(|key| match key.state {
        KeyState::Retiring { until, .. } if until > now => Some(until),
        _ => None,
    });
    ends.fold(at, Timestamp::min)
}

/// What was due when it was read: read again when it is through, or old.
#[derive(Default)]
struct Line {
    due: VecDeque<DueCheck>,
    read: Option<Instant>,
}

impl Domains {
    /// Looks at domains when they are due, until it is told to stop.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            tokio::select! {
                () = stop.cancelled() => return,
                done = self.round(Timestamp::now) => if let Err(error) = done {
                    tracing::warn!(%error, "sending domains could not be looked at");
                },
            }
        }
    }

    /// Looks at all domains that are due, those of tenants in turn; how many there were. What becomes due meanwhile is
    /// looked at as soon as there is a place for it.
    pub async fn round(&self, clock: impl Fn() -> Timestamp) -> Result<usize, StoreError> {
        let (mut looked, mut failure) = (0, None);
        let mut looks = FuturesUnordered::new();
        let mut under_way = HashMap::<TenantId, usize>::new();
        let mut line = Line::default();
        loop {
            while failure.is_none() && looks.len() < AT_ONCE {
                let now = clock();
                match self.next_due(&mut line, &under_way, now).await {
                    Ok(Some(domain)) => {
                        looked += 1;
                        *under_way.entry(domain.tenant.clone()).or_default() += 1;
                        looks.push(async move {
                            let tenant = domain.tenant.clone();
                            self.look_at(domain, now).await;
                            tenant
                        });
                    }
                    Ok(None) => break,
                    Err(error) => failure = Some(error),
                }
            }
            if looks.is_empty() {
                return failure.map_or(Ok(looked), Err);
            }
            // Looks may be slow: it is asked now and then what became due beside them.
            if let Ok(Some(tenant)) = timeout(LOOK_EVERY, looks.next()).await
                && let Entry::Occupied(mut count) = under_way.entry(tenant)
            {
                *count.get_mut() -= 1;
                if *count.get() == 0 {
                    count.remove();
                }
            }
        }
    }

    /// The next in line whose tenant has a place: it is leased.
    async fn next_due(
        &self,
        line: &mut Line,
        under_way: &HashMap<TenantId, usize>,
        now: Timestamp,
    ) -> Result<Option<SendingDomain>, StoreError> {
        let has_place = |due: &DueCheck| under_way.get(&due.tenant).is_none_or(|count| *count < SHARE);
        loop {
            if line.due.is_empty() || line.read.is_none_or(|at| at.elapsed() >= LOOK_EVERY) {
                *line = Line { due: self.changes.due_checks(now).await?.into(), read: Some(Instant::now()) };
            }
            let Some(due) = line.due.iter().position(has_place).and_then(|place| line.due.remove(place)) else {
                return Ok(None);
            };
            if let Some(domain) = self.changes.lease_check(&due, now, later(now, LEASE)).await? {
                return Ok(Some(domain));
            }
        }
    }

    async fn look_at(&self, domain: SendingDomain, now: Timestamp) {
        let (name, tenant) = (domain.domain.clone(), domain.tenant.clone());
        match self.check(domain, Look::Due, now).await {
            Ok(_) => {}
            // Removed meanwhile, or somebody changed its keys: the next look sees them as they are.
            Err(StoreError::NotFound(_) | StoreError::Exists(_)) => {}
            Err(error) => tracing::warn!(tenant, domain = %name, %error, "a sending domain could not be looked at"),
        }
    }
}
