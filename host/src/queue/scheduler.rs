//! Leasing what is due, within a bounded window, and finding each domain's site.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::time::Duration;

use jiff::Timestamp;
use mail::outcome::Phase;
use mail::{Domain, EnhancedCode, Outcome, Stream, Verdict};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use uuid::Uuid;

use super::bodies::Bodies;
use super::completing::Completer;
use super::lookups::{self, Found, Lookups};
use super::policy::{Schedules, later};
use super::sites::{Added, Item, Lane, Limits, Sites, Stage, Taken};
use super::{Courier, Site, connection};
use crate::config;
use crate::metrics::metrics;
use crate::store::{Leased, Pick, Rest, Store, StoreError};

/// Recipients leased at once, and so held in memory.
pub(super) const WINDOW: usize = 16 * 1024;
/// Recipients taken by one lease. Leasing goes on when the window has room for so many.
const LEASE: usize = 256;
/// Recipients that may wait for sites: never the whole window, so that there is room for those of another site.
const AT_SITES: usize = WINDOW / 8 * 5;
/// Lookups of sites at once, and recipients that wait for them: for all, and the most for one tenant's
/// stream. Both streams of a tenant together have not all.
const LOOKUPS: lookups::Limits =
    lookups::Limits { in_all: 256, per_party: 96, waiting: WINDOW / 4, waiting_per_party: WINDOW / 16 };
/// The longest time a site that refused, or a domain whose lookup failed, is left alone.
const BACKOFF: Duration = Duration::from_secs(5 * 60);
/// How long mail for a site or a domain that failed a moment ago stays where it is: so no dead one takes more than a
/// lease's turn of it in that time.
const DEAD: Duration = Duration::from_secs(1);
/// Wait after a lease that failed.
const AGAIN: Duration = Duration::from_secs(1);

/// The running queue.
pub struct Queue {
    task: JoinHandle<()>,
    abort: CancellationToken,
    tuning: Tuning,
}

/// Changes the limits of a running queue.
#[derive(Clone)]
pub struct Tuning(Weak<Inner>);

impl Tuning {
    /// Other limits, and routes that may be others. Connections that are open stay.
    pub fn change(&self, config: &config::Delivery, schedules: Schedules) {
        // A queue that has stopped has no limits.
        let Some(inner) = self.0.upgrade() else { return };
        let starved = inner.sites().limit(config.connections_per_site, config.connections);
        inner.lookups().forget_sites();
        inner.bodies.resize(config.large_bodies);
        inner.completer.reschedule(schedules);
        *inner.config.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config.clone());
        starved.iter().for_each(|key| inner.grow(key));
    }
}

/// Knows which sites the domains of the queue were found at.
#[derive(Clone)]
pub struct Finder(Weak<Inner>);

impl Finder {
    /// Which mail goes to this site, leaving from this source, as far as mail hosts have been looked up since the routes
    /// last changed. `site` is the name of one of its mail hosts, or the whole name that `posthaste status` shows. `None`:
    /// no domain is known to be meant.
    pub fn find(&self, site: Option<&str>, source: Option<&str>) -> Option<Pick> {
        let found = self.0.upgrade()?.lookups().found_at(site, source);
        if found.is_empty() {
            return None;
        }
        let source = source.map(str::to_owned);
        let is_meant = move |domain: &Domain, message: Uuid| {
            let site = found.get(domain);
            site.is_some_and(|site| source.as_ref().is_none_or(|source| site.leaves_from(source, message)))
        };
        Some(Pick::new(is_meant))
    }
}

impl Queue {
    /// Starts to deliver what is in the store. On `shutdown` nothing new is begun; transactions under way go on to their
    /// end (see `stopped`), and all else is given back to the store.
    pub fn start(
        store: Arc<dyn Store>,
        courier: Arc<dyn Courier>,
        config: config::Delivery,
        schedules: Schedules,
        shutdown: CancellationToken,
    ) -> Queue {
        let (completer, completions) = Completer::new(schedules);
        let limits = Limits { per_site: config.connections_per_site, in_all: config.connections, waiting: AT_SITES };
        let bodies = Bodies::new(config.large_bodies);
        let inner = Arc::new(Inner {
            store,
            courier,
            config: RwLock::new(Arc::new(config)),
            shutdown,
            abort: CancellationToken::new(),
            completer,
            bodies,
            sites: Mutex::new(Sites::new(limits)),
            lookups: Mutex::new(Lookups::new(LOOKUPS)),
            rests: Mutex::default(),
            leased: AtomicUsize::new(0),
            room: Notify::new(),
            roused: Notify::new(),
            tasks: TaskTracker::new(),
        });
        let completing = tokio::spawn({
            let (counting, asking) = (inner.clone(), inner.clone());
            let completed = move |count| counting.completed(count);
            completions.run(inner.store.clone(), completed, move || asking.shutdown.is_cancelled())
        });
        let (abort, tuning) = (inner.abort.clone(), Tuning(Arc::downgrade(&inner)));
        let task = tokio::spawn(async move {
            inner.lease_until_shutdown().await;
            inner.drain().await;
            if completing.await.is_err() {
                tracing::error!("the completing task panicked");
            }
        });
        Queue { task, abort, tuning }
    }

    /// What tells which sites domains were found at.
    pub fn finder(&self) -> Finder {
        Finder(self.tuning.0.clone())
    }

    /// What changes its limits while it runs.
    pub fn tuning(&self) -> Tuning {
        self.tuning.clone()
    }

    /// Resolves when the queue has stopped, after `shutdown`. Transactions that take longer to end are given up.
    pub async fn stopped(self, within: Duration) {
        let Queue { mut task, abort, .. } = self;
        let ended = match tokio::time::timeout(within, &mut task).await {
            Ok(ended) => ended,
            Err(_) => {
                tracing::warn!("transactions are still under way and are given up; their messages are tried again");
                abort.cancel();
                task.await
            }
        };
        if ended.is_err() {
            tracing::error!("the queue's task panicked");
        }
    }
}

/// What the queue's tasks share.
pub(super) struct Inner {
    pub(super) store: Arc<dyn Store>,
    pub(super) courier: Arc<dyn Courier>,
    config: RwLock<Arc<config::Delivery>>,
    pub(super) shutdown: CancellationToken,
    /// Ends transactions that take too long to drain.
    pub(super) abort: CancellationToken,
    pub(super) completer: Completer,
    pub(super) bodies: Bodies,
    sites: Mutex<Sites>,
    lookups: Mutex<Lookups>,
    /// What the store is told before the next lease.
    rests: Mutex<HashMap<Lane, Timestamp>>,
    leased: AtomicUsize,
    room: Notify,
    /// Something that was put off may come again.
    roused: Notify,
    tasks: TaskTracker,
}

impl Inner {
    async fn lease_until_shutdown(self: &Arc<Self>) {
        while !self.shutdown.is_cancelled() {
            let room = WINDOW.saturating_sub(self.leased.load(Ordering::Acquire));
            // A lease is never dropped in the middle: what it hands out must be taken in.
            let leased = if room < LEASE { None } else { Some(self.lease().await) };
            let wait = async {
                match leased {
                    None => self.room.notified().await,
                    Some(Ok(LEASE)) => {}
                    Some(Ok(_)) => self.store.wait_due(Timestamp::now()).await,
                    Some(Err(error)) => {
                        tracing::error!(%error, "nothing can be leased; trying again");
                        tokio::time::sleep(AGAIN).await;
                    }
                }
            };
            tokio::select! {
                () = wait => {}
                () = self.roused.notified() => {}
                () = self.shutdown.cancelled() => {}
            }
        }
    }

    /// Leases once, and sends all of it on its way; the number of recipients.
    async fn lease(self: &Arc<Self>) -> Result<usize, StoreError> {
        let now = Timestamp::now();
        let rests = std::mem::take(&mut *self.rests.lock().unwrap_or_else(PoisonError::into_inner));
        if !rests.is_empty() {
            let rests =
                rests.into_iter().map(|((tenant, domain, stream), until)| Rest { tenant, domain, stream, until });
            self.store.rest(rests.collect(), now).await?;
        }
        let leased = self.store.lease(now, LEASE).await?;
        let count = leased.iter().map(|message| message.recipients.len()).sum();
        metrics().leased(self.leased.fetch_add(count, Ordering::AcqRel) + count);
        self.sites().forget_quiet(now);
        let items = leased.into_iter().flat_map(by_domain);
        let known: Vec<_> = items.filter_map(|(domain, item)| self.admit(domain, item, now)).collect();
        self.enqueue(known);
        Ok(count)
    }

    /// The site of an item where it is known; else it waits until that is looked up.
    fn admit(self: &Arc<Self>, domain: Domain, item: Item, now: Timestamp) -> Option<(Site, Domain, Item)> {
        let found = self.lookups().find(&domain, item, || self.courier.known_route(&domain), now);
        match found {
            Found::Site(site, item) => return Some((site, domain, item)),
            Found::Failed(item, outcome) => self.refuse(domain, &item, &outcome, now),
            Found::Postponed(item, until) => self.put_off(domain, &item, until),
            Found::Waiting => self.start_lookups(),
        }
        None
    }

    /// Starts as many lookups as the limits allow.
    fn start_lookups(self: &Arc<Self>) {
        while !self.shutdown.is_cancelled() {
            let Some(domain) = self.lookups().next() else { return };
            self.tasks.spawn(self.clone().look_up(domain));
        }
    }

    /// Finds a domain's site, once for all that wait for it.
    async fn look_up(self: Arc<Self>, domain: Domain) {
        let found = async {
            // A task of its own: a panic in there must not leave the domain waiting for ever.
            let (courier, domain) = (self.courier.clone(), domain.clone());
            let looking = AbortOnDropHandle::new(tokio::spawn(async move { courier.route(&domain).await }));
            looking.await.unwrap_or_else(|error| Err(Box::new(lookup_failed(&error))))
        };
        let found = tokio::select! {
            found = found => Some(found),
            () = self.shutdown.cancelled() => None,
        };
        let now = Timestamp::now();
        let items = self.lookups().looked_up(&domain, found.as_ref(), |count| self.left_alone(now, count), now);
        match found {
            Some(Ok(site)) => {
                self.enqueue(items.into_iter().map(|item| (site.clone(), domain.clone(), item)).collect());
            }
            Some(Err(outcome)) => items.iter().for_each(|item| self.completer.all_attempted(item, &outcome)),
            None => items.iter().for_each(|item| self.completer.release(item)),
        }
        self.start_lookups();
    }

    /// Until when nothing is tried again behind so many failures in a row: shorter than the retries of those deferred,
    /// so that they do not meet the same failure.
    pub(super) fn left_alone(&self, now: Timestamp, count: u32) -> Timestamp {
        later(now, (self.completer.schedules().shortest_delay(count) / 2).min(BACKOFF))
    }

    /// The same just failed: all recipients get its outcome, and more of that mail is not looked at for a moment.
    fn refuse(&self, domain: Domain, item: &Item, outcome: &Outcome, now: Timestamp) {
        self.rest(&domain, item, &Stream::ALL, later(now, DEAD));
        self.completer.all_attempted(item, outcome);
    }

    /// Too much waits for the same: it goes back to the store, and no more comes from there before a time.
    fn put_off(&self, domain: Domain, item: &Item, until: Timestamp) {
        // First the rest: nothing may be leased between the two.
        self.rest(&domain, item, &[item.stream], until);
        self.completer.release(item);
    }

    fn rest(&self, domain: &Domain, item: &Item, streams: &[Stream], until: Timestamp) {
        let mut rests = self.rests.lock().unwrap_or_else(PoisonError::into_inner);
        rests.extend(streams.iter().map(|stream| ((item.tenant.clone(), domain.clone(), *stream), until)));
    }

    /// Puts items in line, all of them before any is taken: so recipients of one message meet at their site.
    fn enqueue(self: &Arc<Self>, items: Vec<(Site, Domain, Item)>) {
        let now = Timestamp::now();
        let mut keys: HashSet<Arc<str>> = HashSet::new();
        let mut sites = self.sites();
        for (site, domain, item) in items {
            let site = site.for_message(item.message);
            match sites.add(&site, &domain, item, now) {
                Added::Waiting => {}
                Added::Refused(item, outcome) => self.refuse(domain, &item, &outcome, now),
                Added::Postponed(item, until) => self.put_off(domain, &item, until),
            }
            keys.insert(site.key);
        }
        drop(sites);
        keys.iter().for_each(|key| self.grow(key));
    }

    /// Opens as many connections as the site needs and the limits allow.
    fn grow(self: &Arc<Self>, key: &Arc<str>) {
        if self.shutdown.is_cancelled() {
            return;
        }
        let opened = self.sites().grow(key, Timestamp::now());
        let Some((site, count)) = opened else { return };
        for _ in 0..count {
            self.tasks.spawn(connection::run(self.clone(), site.clone()));
        }
    }

    /// Waits for what is under way, and gives the rest back.
    async fn drain(&self) {
        self.release_waiting();
        self.tasks.close();
        self.tasks.wait().await;
        // What came in while the others ended.
        self.release_waiting();
        self.completer.stop();
    }

    fn release_waiting(&self) {
        let (at_sites, for_lookups) = (self.sites().take_all(), self.lookups().take_all());
        at_sites.iter().chain(&for_lookups).for_each(|item| self.completer.release(item));
    }

    pub(super) fn connected(self: &Arc<Self>, key: &Arc<str>) {
        self.sites().connected(key);
        self.grow(key);
    }

    pub(super) fn connection_closed(self: &Arc<Self>, key: &Arc<str>, stage: Stage) {
        let next = self.sites().closed(key, stage);
        next.iter().for_each(|key| self.grow(key));
    }

    pub(super) fn take(&self, key: &str, stage: &mut Stage, had_turn: bool) -> Taken {
        let now = Timestamp::now();
        let (taken, roused) = {
            let mut sites = self.sites();
            (sites.take(key, stage, had_turn, now), std::mem::take(&mut sites.roused))
        };
        if !roused.is_empty() {
            let mut rests = self.rests.lock().unwrap_or_else(PoisonError::into_inner);
            rests.extend(roused.into_iter().map(|lane| (lane, now)));
            self.roused.notify_one();
        }
        taken
    }

    pub(super) fn idle_no_more(&self, key: &str, stage: &mut Stage) {
        self.sites().idle_no_more(key, stage);
    }

    /// What wakes an idle connection of a site: something to send, and the need of another site.
    pub(super) fn idle_signals(&self, key: &str) -> (Arc<Notify>, Arc<Notify>) {
        let sites = self.sites();
        (sites.news(key), sites.make_room.clone())
    }

    pub(super) fn config(&self) -> Arc<config::Delivery> {
        self.config.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn completed(&self, count: usize) {
        metrics().leased(self.leased.fetch_sub(count, Ordering::AcqRel).saturating_sub(count));
        self.room.notify_one();
    }

    pub(super) fn sites(&self) -> MutexGuard<'_, Sites> {
        self.sites.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lookups(&self) -> MutexGuard<'_, Lookups> {
        self.lookups.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn lookup_failed(error: &tokio::task::JoinError) -> Outcome {
    Outcome {
        verdict: Verdict::Deferred,
        phase: Phase::Local,
        status: EnhancedCode::new(4, 3, 0),
        remote_host: None,
        reply: None,
        text: format!("the lookup of the domain's mail hosts broke off: {error}"),
        tls: None,
    }
}

/// Sorts a message's recipients by domain, in their order.
fn by_domain(leased: Leased) -> Vec<(Domain, Item)> {
    let Leased { message, tenant, stream, sender, body, size_bytes, accepted_at, request, recipients } = leased;
    let mut items: Vec<(Domain, Item)> = Vec::new();
    let mut places: HashMap<Domain, usize> = HashMap::new();
    for recipient in recipients {
        let domain = recipient.address.domain().clone();
        let place = *places.entry(domain.clone()).or_insert_with(|| {
            let (tenant, sender, body) = (tenant.clone(), sender.clone(), body.clone());
            let (request, recipients) = (request.clone(), Vec::new());
            items.push((
                domain,
                Item { message, tenant, stream, sender, body, size_bytes, accepted_at, request, recipients },
            ));
            items.len() - 1
        });
        if let Some((_, item)) = items.get_mut(place) {
            item.recipients.push(recipient);
        }
    }
    items
}
