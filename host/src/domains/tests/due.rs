//! Looks that are due.

use std::sync::atomic::{AtomicI64, AtomicUsize};

use super::*;
use crate::store::{DueCheck, Embedded};

impl Desk {
    /// A domain of a tenant whose first look is due after a while.
    async fn due(&self, tenant: &str, domain: &str, after: Duration) {
        let domain = Domain::parse(domain).unwrap();
        self.world.keyring.add(tenant, &domain, false, Vec::new()).await.unwrap();
        let change = DomainChange { check_at: Some(self.at(after)), ..DomainChange::default() };
        self.domains.changes.change_domain(tenant, &domain, change).await.unwrap();
    }
}

#[tokio::test]
async fn two_hosts_share_the_looks() {
    let desk = Desk::new().await;
    for number in 0..20 {
        let domain = Domain::parse(&format!("d{number}.test")).unwrap();
        desk.world.keyring.add("acme", &domain, false, Vec::new()).await.unwrap();
    }
    let other = desk.world.domains(desk.zone.clone());
    let now = desk.at(HOUR);
    let (one, two) = tokio::join!(desk.domains.round(|| now), other.round(|| now));
    assert_eq!(one.unwrap() + two.unwrap(), 20, "each once");
    let changes = &desk.domains.changes;
    // A host that died with some in its hands: they are due again.
    let lease = async |now: Duration, until: Duration, limit| {
        let mut leased = 0;
        for due in changes.due_checks(desk.at(now)).await.unwrap().iter().take(limit) {
            leased += usize::from(changes.lease_check(due, desk.at(now), desk.at(until)).await.unwrap().is_some());
            assert!(changes.lease_check(due, desk.at(now), desk.at(until)).await.unwrap().is_none(), "it is taken");
        }
        leased
    };
    assert_eq!(lease(20 * DAY, 21 * DAY, 5).await, 5);
    assert_eq!(lease(20 * DAY, 22 * DAY, 100).await, 15);
    assert_eq!(lease(21 * DAY, 30 * DAY, 100).await, 5);
}

#[tokio::test]
async fn a_tenant_whose_name_servers_are_silent_delays_no_other() {
    let desk = Desk::new().await;
    let _gate = desk.zone.stick("stuck.test");
    for number in 0..3 * AT_ONCE {
        let domain = Domain::parse(&format!("d{number}.stuck.test")).unwrap();
        desk.world.keyring.add("acme", &domain, false, Vec::new()).await.unwrap();
    }
    // Due after all of those.
    let quick = Domain::parse("quick.test").unwrap();
    desk.world.keyring.add("other", &quick, false, Vec::new()).await.unwrap();
    let change = DomainChange { check_at: Some(desk.at(HOUR)), ..DomainChange::default() };
    desk.domains.changes.change_domain("other", &quick, change).await.unwrap();
    let (domains, now) = (desk.domains.clone(), desk.at(2 * HOUR));
    let round = tokio::spawn(async move { domains.round(|| now).await });
    desk.zone.until_asked(|seen| seen.iter().any(|name| name.ends_with("quick.test"))).await;
    let seen = desk.zone.seen.lock().unwrap().clone();
    let stuck: std::collections::BTreeSet<&str> =
        seen.iter().filter(|name| name.ends_with("stuck.test")).filter_map(|name| name.rsplit('.').nth(2)).collect();
    assert!(stuck.len() <= SHARE, "{stuck:?}");
    round.abort();
}

/// Both where a look ends, and where none does for a while.
#[tokio::test]
async fn what_becomes_due_beside_a_slow_look_is_looked_at_beside_it() {
    let desk = Desk::new().await;
    let _stuck = desk.zone.stick("stuck.test");
    let gate = desk.zone.stick("slow.test");
    for (tenant, domain, after) in
        [("acme", "stuck.test", HOUR), ("other", "slow.test", HOUR), ("other", "next.test", 2 * HOUR)]
    {
        desk.due(tenant, domain, after).await;
    }
    desk.due("other", "last.test", 3 * HOUR).await;
    let clock = Arc::new(AtomicI64::new(desk.at(HOUR).as_millisecond()));
    let round = tokio::spawn({
        let (domains, clock) = (desk.domains.clone(), clock.clone());
        async move { domains.round(|| Timestamp::from_millisecond(clock.load(Ordering::SeqCst)).unwrap()).await }
    });
    let asked = async |domain: &str| desk.zone.until_asked(|seen| seen.iter().any(|name| name.ends_with(domain))).await;
    asked("stuck.test").await;
    asked("slow.test").await;
    clock.store(desk.at(2 * HOUR).as_millisecond(), Ordering::SeqCst);
    gate.add_permits(100);
    asked("next.test").await;
    clock.store(desk.at(3 * HOUR).as_millisecond(), Ordering::SeqCst);
    tokio::time::pause();
    tokio::time::advance(super::super::due::LOOK_EVERY).await;
    tokio::time::resume();
    asked("last.test").await;
    assert!(!round.is_finished(), "the slow one is still looked at");
    round.abort();
}

/// Counts how often it is asked what is due.
struct Counted {
    store: Arc<Embedded>,
    lists: AtomicUsize,
}

#[async_trait]
impl DomainChanges for Counted {
    async fn change_domain(&self, tenant: &str, domain: &Domain, change: DomainChange) -> Result<(), StoreError> {
        self.store.change_domain(tenant, domain, change).await
    }

    async fn due_checks(&self, now: Timestamp) -> Result<Vec<DueCheck>, StoreError> {
        self.lists.fetch_add(1, Ordering::SeqCst);
        self.store.due_checks(now).await
    }

    async fn lease_check(
        &self,
        due: &DueCheck,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<Option<SendingDomain>, StoreError> {
        self.store.lease_check(due, now, until).await
    }

    async fn waits_since(&self, tenant: &str, before: Timestamp) -> Result<bool, StoreError> {
        self.store.waits_since(tenant, before).await
    }

    async fn latest_scheduled(&self, tenant: &str) -> Result<Option<Timestamp>, StoreError> {
        self.store.latest_scheduled(tenant).await
    }
}

/// What is due is read for many looks at once: each look alone would pass over all of those before it.
#[tokio::test]
async fn many_domains_are_not_looked_through_for_each_look() {
    const DOMAINS: usize = 100;
    let desk = Desk::new().await;
    for number in 0..DOMAINS {
        desk.due("acme", &format!("d{number}.test"), HOUR).await;
    }
    let store = Arc::new(Counted { store: desk.world.store.clone(), lists: AtomicUsize::default() });
    let (keyring, settings) = (desk.world.keyring.clone(), desk.domains.settings.clone());
    let domains = Domains::new(desk.world.store.clone(), store.clone(), keyring, desk.zone.clone(), settings);
    assert_eq!(domains.round(|| desk.at(2 * HOUR)).await.unwrap(), DOMAINS);
    let lists = store.lists.load(Ordering::SeqCst);
    assert!(lists <= DOMAINS / 5, "{lists} lists");
    // The first of each tenant stand before the second of any.
    desk.due("other", "one.test", 3 * HOUR).await;
    let due = desk.world.store.due_checks(desk.at(20 * DAY)).await.unwrap();
    assert_eq!(due.len(), DOMAINS + 1);
    assert!(due[..2].iter().any(|due| due.tenant == "other"), "{:?}", &due[..2]);
}
