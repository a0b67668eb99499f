//! When a domain is looked at next, and the task that does it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::verdict::{needed, of};
use super::{AT_ONCE, Domains, Look, SHARE, Settings};
use crate::keyring::DnsRecord;
use crate::published::RecordStatus;
use crate::queue::policy::later;
use crate::store::{DomainStatus, KeyState, SendingDomain, StoreError, TenantId, Verification};

/// How often it is asked whether a look is due.
const LOOK_EVERY: Duration = Duration::from_secs(10);

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
                done = self.round(Timestamp::now()) => if let Err(error) = done {
                    tracing::warn!(%error, "sending domains could not be looked at");
                },
            }
        }
    }

    /// Looks at all domains that are due, those of tenants in turn; how many there were.
    pub async fn round(&self, now: Timestamp) -> Result<usize, StoreError> {
        let (mut looked, mut failure) = (0, None);
        let mut looks = FuturesUnordered::new();
        // Looks of each tenant: under way, and begun in this turn.
        let (mut under_way, mut begun) = (HashMap::<TenantId, usize>::new(), HashMap::<TenantId, usize>::new());
        loop {
            while failure.is_none() && looks.len() < AT_ONCE {
                let counts = under_way.iter().chain(&begun);
                let but_for: Vec<_> = counts.filter(|(_, count)| **count >= SHARE).map(|(it, _)| it.clone()).collect();
                match self.changes.lease_check(now, later(now, LEASE), &but_for).await {
                    Ok(Some(domain)) => {
                        looked += 1;
                        for counts in [&mut under_way, &mut begun] {
                            *counts.entry(domain.tenant.clone()).or_default() += 1;
                        }
                        looks.push(async move {
                            let tenant = domain.tenant.clone();
                            self.look_at(domain, now).await;
                            tenant
                        });
                    }
                    Ok(None) if begun.is_empty() => break,
                    // The next turn, also for those that had theirs.
                    Ok(None) => begun.clear(),
                    Err(error) => failure = Some(error),
                }
            }
            let Some(tenant) = looks.next().await else {
                return failure.map_or(Ok(looked), Err);
            };
            if let Some(count) = under_way.get_mut(&tenant) {
                *count -= 1;
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
