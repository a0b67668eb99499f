//! Counters of each tenant, bounded: tenants that come late share one set.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use prometheus::{IntCounter, IntCounterVec};

/// Tenants that have counters of their own.
const TENANTS: usize = 500;

/// What all others count as. No tenant has that name.
const OTHERS: &str = "(others)";

/// How a recipient ends that no attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unattempted {
    /// By its owner or the operator, before it was delivered.
    Canceled,
    /// Bounced or purged by the operator.
    ByOperator,
    /// Its message cannot be read any more.
    SetAside,
}

impl Unattempted {
    const ALL: [&'static str; 3] = ["canceled", "ended by operator", "set aside"];

    fn place(self) -> usize {
        match self {
            Unattempted::Canceled => 0,
            Unattempted::ByOperator => 1,
            Unattempted::SetAside => 2,
        }
    }
}

/// The counters of one tenant.
#[derive(Debug)]
pub struct TenantTally {
    /// Recipients.
    pub(super) accepted: IntCounter,
    /// By verdict: delivered, deferred, bounced, failed.
    pub(super) attempts: [IntCounter; 4],
    unattempted: [IntCounter; 3],
}

impl TenantTally {
    /// So many recipients ended without an attempt.
    pub fn ended(&self, how: Unattempted, recipients: u64) {
        self.unattempted[how.place()].inc_by(recipients);
    }
}

/// All of them.
pub struct Tenants {
    counters: IntCounterVec,
    known: RwLock<HashMap<String, Arc<TenantTally>>>,
}

impl Tenants {
    pub(super) fn new(counters: IntCounterVec) -> Tenants {
        Tenants { counters, known: RwLock::default() }
    }

    /// The counters of a tenant. Readers do not wait for each other.
    pub fn of(&self, tenant: &str) -> Arc<TenantTally> {
        if let Some(tally) = self.known.read().unwrap_or_else(PoisonError::into_inner).get(tenant) {
            return tally.clone();
        }
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let name = if known.len() < TENANTS { tenant } else { OTHERS };
        if let Some(tally) = known.get(name) {
            return tally.clone();
        }
        let counter = |result: &str| self.counters.with_label_values(&[name, result]);
        let tally = Arc::new(TenantTally {
            accepted: counter("accepted"),
            attempts: ["delivered", "deferred", "bounced", "failed"].map(counter),
            unattempted: Unattempted::ALL.map(counter),
        });
        known.insert(name.to_owned(), tally.clone());
        tally
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use prometheus::Opts;

    use super::*;

    #[test]
    fn tenants_are_bounded() {
        let counters = IntCounterVec::new(Opts::new("t", "t"), &["tenant", "result"]).unwrap();
        let tenants = Tenants::new(counters.clone());
        for number in 0..TENANTS + 50 {
            tenants.of(&format!("t{number}")).accepted.inc();
        }
        assert_eq!(tenants.known.read().unwrap().len(), TENANTS + 1);
        assert_eq!(tenants.of("t0").accepted.get(), 1);
        assert_eq!(tenants.of("one more").accepted.get(), 50);
    }
}
