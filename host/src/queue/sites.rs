//! What waits for each site, and how many connections each has. Synchronous; takes `now`.
//!
//! A site's messages wait in lanes, one per tenant and destination domain, and are taken from the lanes in turn: a
//! tenant's bulk does not stand in the way of another's single message. The recipients of one message at one site go
//! into one transaction, whatever their domains. A site that is slower than what comes for it holds no more than is
//! free for others; the rest stays in the store until it should have come so far.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use jiff::Timestamp;
use mail::{Domain, Outcome, ReversePath};
use tokio::sync::Notify;
use uuid::Uuid;

use super::Site;
use crate::store::{BodyRef, LeasedRecipient};

/// Recipients of one transaction: the least that every server must take (RFC 5321 s4.5.3.1.8).
pub(super) const RECIPIENTS: usize = 100;

/// A message's recipients that wait for the same thing.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub(super) message: Uuid,
    pub(super) tenant: String,
    pub(super) sender: ReversePath,
    pub(super) body: BodyRef,
    pub(super) accepted_at: Timestamp,
    pub(super) recipients: Vec<LeasedRecipient>,
}

/// A tenant's mail for a domain.
pub(super) type Lane = (String, Domain);

/// Lanes remembered by a site that could take no more of them; the others come again by time alone.
const PUT_OFF: usize = 1000;

/// Recipients that may wait for a site however many others do.
const LEAST: usize = 16;

/// How many connections there may be, and how many recipients may wait for all sites.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) per_site: usize,
    pub(super) in_all: usize,
    pub(super) waiting: usize,
}

/// All sites that have something waiting, a connection, or a backoff.
pub(super) struct Sites {
    limits: Limits,
    sites: HashMap<Arc<str>, Waiting>,
    connections: usize,
    /// Recipients that wait, for all sites.
    recipients: usize,
    /// Connections of each source.
    by_source: HashMap<String, usize>,
    /// Sites that wait for a connection of another to end.
    starved: VecDeque<Arc<str>>,
    /// Lanes that were put off and may come again.
    pub(super) roused: Vec<Lane>,
    /// Wakes one idle connection, of whatever site, to make room.
    pub(super) make_room: Arc<Notify>,
}

struct Waiting {
    site: Site,
    items: HashMap<Uuid, Item>,
    /// Of all items.
    recipients: usize,
    pace: Pace,
    /// Lanes that had to wait elsewhere, and how many recipients waited here then.
    put_off: HashSet<Lane>,
    full_at: usize,
    lanes: HashMap<Lane, VecDeque<Uuid>>,
    turn: VecDeque<Lane>,
    /// Open or opening.
    connections: usize,
    connecting: usize,
    idle: usize,
    /// Whether a connection was opened since the last refusal. Until then one tries at a time.
    proven: bool,
    refusal: Option<Refusal>,
    /// The peer refused a connection beside others that it serves: until then none is added to them.
    enough_until: Timestamp,
    news: Arc<Notify>,
}

/// A refused connection: until when none is tried, and what everybody who comes meanwhile is told.
struct Refusal {
    until: Timestamp,
    outcome: Outcome,
    count: u32,
}

/// What becomes of an item that is handed in.
#[derive(Debug)]
pub(super) enum Added {
    Waiting,
    /// The site refused a moment ago; this is the outcome of the item.
    Refused(Item, Box<Outcome>),
    /// The site has its share waiting already, for so long.
    Postponed(Item, Timestamp),
}

impl Sites {
    pub(super) fn new(limits: Limits) -> Sites {
        Sites {
            limits,
            sites: HashMap::new(),
            connections: 0,
            recipients: 0,
            by_source: HashMap::new(),
            starved: VecDeque::new(),
            roused: Vec::new(),
            make_room: Arc::new(Notify::new()),
        }
    }

    /// Other limits of connections. Those that are open stay.
    pub(super) fn limit(&mut self, per_site: usize, in_all: usize) {
        self.limits = Limits { per_site, in_all, ..self.limits };
    }

    /// Puts an item in line for a site, in the lane of its tenant and of this domain.
    pub(super) fn add(&mut self, site: &Site, domain: &Domain, item: Item, now: Timestamp) -> Added {
        let waiting = self.sites.entry(site.key.clone()).or_insert_with(|| Waiting::new(site.clone()));
        // The newest plan: the same hosts, but addresses may have changed.
        waiting.site = site.clone();
        if let Some(refusal) = waiting.refusal.as_ref().filter(|refusal| now < refusal.until) {
            return Added::Refused(item, Box::new(refusal.outcome.clone()));
        }
        // Each may hold as much as is left for all others: many slow sites leave room for one more.
        let share = self.limits.waiting.saturating_sub(self.recipients).max(LEAST);
        if waiting.recipients >= share {
            let until = waiting.pace.slot(item.recipients.len(), now);
            if waiting.put_off.len() < PUT_OFF {
                waiting.put_off.insert((item.tenant.clone(), domain.clone()));
            }
            waiting.full_at = waiting.recipients;
            return Added::Postponed(item, until);
        }
        self.recipients += item.recipients.len();
        waiting.add(domain, item);
        if waiting.idle > 0 {
            waiting.news.notify_one();
        }
        Added::Waiting
    }

    /// How many connections to open now for a site; they count as open from here on.
    pub(super) fn grow(&mut self, key: &Arc<str>, now: Timestamp) -> Option<(Site, usize)> {
        let room = self.room(key);
        let waiting = self.sites.get_mut(key)?;
        let enough = !waiting.proven || now < waiting.enough_until;
        let allowed = if enough { 1 } else { self.limits.per_site.max(1) };
        // Those that are idle or connecting take one each; where all are busy, another helps.
        let wanted = waiting.items.len().saturating_sub(waiting.idle + waiting.connecting);
        let wanted = wanted.min(allowed.saturating_sub(waiting.connections));
        let opened = wanted.min(room);
        if opened < wanted && waiting.connections == 0 && !self.starved.contains(key) {
            self.starved.push_back(key.clone());
            self.make_room.notify_one();
        }
        waiting.connections += opened;
        waiting.connecting += opened;
        self.connections += opened;
        if let Some(egress) = waiting.site.plan.egress.as_ref().filter(|_| opened > 0) {
            *self.by_source.entry(egress.source.name.clone()).or_default() += opened;
        }
        (opened > 0).then(|| (waiting.site.clone(), opened))
    }

    /// How many connections more there may be, in all and from the site's source.
    fn room(&self, key: &str) -> usize {
        let in_all = self.limits.in_all.max(1).saturating_sub(self.connections);
        let Some(egress) = self.sites.get(key).and_then(|waiting| waiting.site.plan.egress.as_ref()) else {
            return in_all;
        };
        let used = self.by_source.get(&egress.source.name).copied().unwrap_or(0);
        in_all.min(egress.source.connections.max(1).saturating_sub(used))
    }

    /// A connection of the site greeted us.
    pub(super) fn connected(&mut self, key: &str) {
        if let Some(waiting) = self.sites.get_mut(key) {
            waiting.connecting = waiting.connecting.saturating_sub(1);
            waiting.proven = true;
            waiting.refusal = None;
        }
    }

    /// A connection was refused: everything that waits for the site, which is told the outcome, as is who comes
    /// before `until`. `until` is given how many refusals there were in a row.
    pub(super) fn refused(&mut self, key: &str, outcome: &Outcome, until: impl FnOnce(u32) -> Timestamp) -> Vec<Item> {
        let Some(waiting) = self.sites.get_mut(key) else { return Vec::new() };
        let count = waiting.refusal.as_ref().map_or(0, |refusal| refusal.count).saturating_add(1);
        // Others are served: this one was too many.
        if waiting.proven && waiting.connections > waiting.connecting {
            waiting.enough_until = until(count);
            return Vec::new();
        }
        waiting.refusal = Some(Refusal { until: until(count), outcome: outcome.clone(), count });
        waiting.proven = false;
        self.recipients = self.recipients.saturating_sub(waiting.recipients);
        waiting.take_all()
    }

    /// The next item for a connection of a site; where there is none, the connection counts as idle until it asks
    /// again (`woken`) or ends.
    pub(super) fn take(&mut self, key: &str, now: Timestamp) -> Option<Item> {
        let waiting = self.sites.get_mut(key)?;
        let item = waiting.take();
        match &item {
            Some(item) => {
                self.recipients = self.recipients.saturating_sub(item.recipients.len());
                waiting.pace.took(item.recipients.len(), now);
                // Half of it is gone: time for more, however slow it was before.
                if !waiting.put_off.is_empty() && waiting.recipients <= waiting.full_at / 2 {
                    self.roused.extend(waiting.put_off.drain());
                }
            }
            None => waiting.idle += 1,
        }
        item
    }

    /// An idle connection is idle no longer.
    pub(super) fn woken(&mut self, key: &str) {
        if let Some(waiting) = self.sites.get_mut(key) {
            waiting.idle = waiting.idle.saturating_sub(1);
        }
    }

    /// What wakes the idle connections of a site.
    pub(super) fn news(&self, key: &str) -> Arc<Notify> {
        self.sites.get(key).map(|waiting| waiting.news.clone()).unwrap_or_default()
    }

    /// A connection ended, while it was opened still or later. The sites that may open one instead, in order.
    pub(super) fn closed(&mut self, key: &Arc<str>, connecting: bool) -> Vec<Arc<str>> {
        self.connections = self.connections.saturating_sub(1);
        if let Some(waiting) = self.sites.get_mut(key) {
            if connecting {
                waiting.connecting = waiting.connecting.saturating_sub(1);
            }
            waiting.connections = waiting.connections.saturating_sub(1);
            let source = waiting.site.plan.egress.as_ref().map(|egress| &egress.source.name);
            if let Some(used) = source.and_then(|name| self.by_source.get_mut(name)) {
                *used = used.saturating_sub(1);
            }
        }
        let mut next = Vec::with_capacity(2);
        // What a starved site had may be gone meanwhile; then it is the next one's turn.
        self.starved.retain(|starved| self.sites.get(starved).is_some_and(|waiting| !waiting.items.is_empty()));
        // Room at one source is none at another.
        if let Some(place) = self.starved.iter().position(|starved| self.room(starved) > 0) {
            next.extend(self.starved.remove(place));
        }
        next.push(key.clone());
        next
    }

    /// Forgets sites that have nothing waiting, no connection and no backoff.
    pub(super) fn forget_quiet(&mut self, now: Timestamp) {
        self.sites.retain(|_, waiting| {
            let backing_off = waiting.refusal.as_ref().is_some_and(|refusal| now < refusal.until);
            !waiting.items.is_empty() || waiting.connections > 0 || backing_off
        });
    }

    /// Takes everything that waits, of all sites.
    pub(super) fn take_all(&mut self) -> Vec<Item> {
        self.recipients = 0;
        self.sites.values_mut().flat_map(Waiting::take_all).collect()
    }
}

impl Waiting {
    fn new(site: Site) -> Waiting {
        Waiting {
            site,
            items: HashMap::new(),
            recipients: 0,
            pace: Pace::default(),
            put_off: HashSet::new(),
            full_at: 0,
            lanes: HashMap::new(),
            turn: VecDeque::new(),
            connections: 0,
            connecting: 0,
            idle: 0,
            proven: false,
            refusal: None,
            enough_until: Timestamp::MIN,
            news: Arc::new(Notify::new()),
        }
    }

    fn add(&mut self, domain: &Domain, item: Item) {
        self.recipients += item.recipients.len();
        if let Some(waiting) = self.items.get_mut(&item.message) {
            waiting.recipients.extend(item.recipients);
            return;
        }
        let lane = (item.tenant.clone(), domain.clone());
        let line = self.lanes.entry(lane.clone()).or_default();
        if line.is_empty() {
            self.turn.push_back(lane);
        }
        line.push_back(item.message);
        self.items.insert(item.message, item);
    }

    fn take(&mut self) -> Option<Item> {
        let lane = self.turn.pop_front()?;
        let line = self.lanes.get_mut(&lane)?;
        let mut item = line.pop_front().and_then(|message| self.items.remove(&message))?;
        if item.recipients.len() > RECIPIENTS {
            let rest = item.recipients.split_off(RECIPIENTS);
            line.push_front(item.message);
            self.items.insert(item.message, Item { recipients: rest, ..item.clone() });
        }
        if line.is_empty() {
            self.lanes.remove(&lane);
        } else {
            self.turn.push_back(lane);
        }
        self.recipients = self.recipients.saturating_sub(item.recipients.len());
        Some(item)
    }

    fn take_all(&mut self) -> Vec<Item> {
        self.lanes.clear();
        self.turn.clear();
        self.recipients = 0;
        self.items.drain().map(|(_, item)| item).collect()
    }
}

/// How fast recipients are taken by a site, or by lookups, and up to when the slots of the postponed reach.
#[derive(Default)]
pub(super) struct Pace {
    since_ms: i64,
    count: u32,
    /// Of the last whole span.
    per_second: f64,
    slot_ms: f64,
}

/// The span over which the pace is measured.
const SPAN_MS: i64 = 2000;
/// Nobody is postponed less, or more. The upper bound is what a site that recovers may cost.
const LEAST_WAIT_MS: f64 = 1000.0;
const MOST_WAIT_MS: f64 = 60_000.0;

impl Pace {
    pub(super) fn took(&mut self, recipients: usize, now: Timestamp) {
        let now_ms = now.as_millisecond();
        if now_ms - self.since_ms >= SPAN_MS {
            let span = (now_ms - self.since_ms).max(1);
            self.per_second = f64::from(self.count) * 1000.0 / span as f64;
            (self.since_ms, self.count) = (now_ms, 0);
        }
        self.count = self.count.saturating_add(u32::try_from(recipients).unwrap_or(u32::MAX));
    }

    /// When so many more may come: behind those postponed before, at twice the pace seen, so that the site never
    /// waits for us where it becomes faster.
    pub(super) fn slot(&mut self, recipients: usize, now: Timestamp) -> Timestamp {
        let now_ms = now.as_millisecond() as f64;
        let each_ms = 1000.0 / (2.0 * self.per_second.max(1.0));
        let earliest = self.slot_ms.max(now_ms + LEAST_WAIT_MS);
        self.slot_ms = (earliest + each_ms * recipients as f64).min(now_ms + MOST_WAIT_MS);
        Timestamp::from_millisecond(earliest.min(now_ms + MOST_WAIT_MS) as i64).unwrap_or(now)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use super::*;
    use crate::config::TlsPolicy;
    use crate::route::Plan;
    use mail::outcome::Phase;
    use mail::{Address, EnhancedCode, Verdict};

    fn site(key: &str) -> Site {
        let plan = Plan { hosts: Vec::new(), port: 25, tls: TlsPolicy::Off, auth: None, egress: None };
        Site { key: key.into(), plan: Arc::new(plan) }
    }

    fn item(message: u128, tenant: &str, recipients: &[&str]) -> Item {
        let recipient = |(index, text): (usize, &&str)| LeasedRecipient {
            index: index as u32,
            address: Address::parse(text).unwrap(),
            attempts: 0,
        };
        Item {
            message: Uuid::from_u128(message),
            tenant: tenant.to_owned(),
            sender: None,
            body: BodyRef(String::new()),
            accepted_at: at(0),
            recipients: recipients.iter().enumerate().map(recipient).collect(),
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn domain(name: &str) -> Domain {
        Domain::parse(name).unwrap()
    }

    fn sites(per_site: usize, in_all: usize) -> Sites {
        Sites::new(Limits { per_site, in_all, waiting: 1000 })
    }

    fn add(sites: &mut Sites, key: &str, message: u128, tenant: &str, recipient: &str) {
        let item = item(message, tenant, &[recipient]);
        let domain = item.recipients[0].address.domain().clone();
        assert!(matches!(sites.add(&site(key), &domain, item, at(0)), Added::Waiting));
    }

    fn taken(sites: &mut Sites, key: &str) -> Vec<u128> {
        std::iter::from_fn(|| sites.take(key, at(0))).map(|item| item.message.as_u128()).collect()
    }

    fn refusal() -> Outcome {
        Outcome {
            verdict: Verdict::Deferred,
            phase: Phase::Connect,
            status: EnhancedCode::new(4, 4, 1),
            remote_host: None,
            reply: None,
            text: "refused".to_owned(),
            tls: None,
        }
    }

    #[test]
    fn a_source_has_a_limit_of_its_own() {
        let source = |name: &str| crate::config::Source {
            name: name.to_owned(),
            addresses: Vec::new(),
            hostname: None,
            connections: 2,
        };
        let from = |key: &str, name: &str| {
            let sources: Arc<[Arc<crate::config::Source>]> = [Arc::new(source(name))].into();
            let egress =
                crate::route::egress::Egress::choose(key, &sources, &Arc::default(), tokio::time::Instant::now());
            Site { key: key.into(), plan: Arc::new(Plan { egress, ..(*site(key).plan).clone() }) }
        };
        let mut sites = sites(5, 100);
        for (message, (key, name)) in [("x", "a"), ("y", "a"), ("z", "b")].into_iter().enumerate() {
            for number in 0..5 {
                let item = item((message * 10 + number) as u128, "t", &["x@a.test"]);
                assert!(matches!(sites.add(&from(key, name), &domain("a.test"), item, at(0)), Added::Waiting));
            }
        }
        let grown = |sites: &mut Sites, key: &str| {
            let opened = sites.grow(&key.into(), at(0)).map_or(0, |(_, count)| count);
            (0..opened).for_each(|_| sites.connected(key));
            opened + sites.grow(&key.into(), at(0)).map_or(0, |(_, count)| count)
        };
        assert_eq!(grown(&mut sites, "x"), 2, "of its source's two, one of them once the first is proven");
        assert_eq!(grown(&mut sites, "y"), 0, "the same source");
        assert_eq!(grown(&mut sites, "z"), 2, "another one");
        assert_eq!(sites.closed(&"z".into(), false), ["z".into()], "room at b is none at a");
        assert_eq!(sites.closed(&"x".into(), false), [Arc::from("y"), "x".into()]);
        assert_eq!(grown(&mut sites, "y"), 1);
    }

    #[test]
    fn lanes_take_turns() {
        let mut sites = sites(1, 1);
        for message in 1..=4 {
            add(&mut sites, "s", message, "bulk", "x@a.test");
        }
        add(&mut sites, "s", 5, "other", "x@a.test");
        add(&mut sites, "s", 6, "bulk", "x@b.test");
        add(&mut sites, "s", 7, "other", "y@a.test");
        assert_eq!(taken(&mut sites, "s"), [1, 5, 6, 2, 7, 3, 4]);
    }

    #[test]
    fn recipients_of_one_message_at_one_site_go_together() {
        let mut sites = sites(1, 1);
        add(&mut sites, "s", 1, "t", "x@a.test");
        add(&mut sites, "s", 2, "t", "x@a.test");
        add(&mut sites, "s", 1, "t", "y@b.test");
        add(&mut sites, "elsewhere", 1, "t", "z@c.test");
        assert_eq!(sites.take("s", at(0)).unwrap().recipients.len(), 2);
        assert_eq!(taken(&mut sites, "s"), [2]);
        assert_eq!(taken(&mut sites, "elsewhere"), [1]);
    }

    #[test]
    fn a_message_with_many_recipients_goes_in_several_transactions() {
        let mut sites = sites(1, 1);
        let addresses: Vec<String> = (0..250).map(|n| format!("r{n}@a.test")).collect();
        let all = item(1, "t", &addresses.iter().map(String::as_str).collect::<Vec<_>>());
        sites.add(&site("s"), &domain("a.test"), all, at(0));
        let sizes: Vec<usize> =
            std::iter::from_fn(|| sites.take("s", at(0))).map(|item| item.recipients.len()).collect();
        assert_eq!(sizes, [100, 100, 50]);
    }

    #[test]
    fn a_site_holds_its_share_and_the_rest_comes_at_its_pace() {
        let mut sites = Sites::new(Limits { per_site: 1, in_all: 1, waiting: 200 });
        let mut put =
            |message, second| sites.add(&site("s"), &domain("a.test"), item(message, "t", &["x@a.test"]), at(second));
        let waiting = (1..=200).filter(|message| matches!(put(*message, 0), Added::Waiting)).count();
        assert_eq!(waiting, 100);
        assert!(matches!(put(900, 0), Added::Postponed(_, until) if until == at(1) + Duration::from_secs(50)));
        assert!(matches!(
            sites.add(&site("other"), &domain("b.test"), item(900, "t", &["x@b.test"]), at(0)),
            Added::Waiting
        ));
        for second in 0..4 {
            (0..20).for_each(|_| drop(sites.take("s", at(second))));
        }
        // 20 a second, and so 40 a second come; those before are spread up to 50.5 seconds.
        let mut slots = Vec::new();
        for message in 1000..1101 {
            if let Added::Postponed(_, until) =
                sites.add(&site("s"), &domain("a.test"), item(message, "t", &["x@a.test"]), at(60))
            {
                slots.push(until);
            }
        }
        assert_eq!((slots.len(), slots[0], slots[20]), (21, at(61), at(61) + Duration::from_millis(500)));
    }

    #[test]
    fn many_slow_sites_leave_room_for_one_more() {
        let mut sites = Sites::new(Limits { per_site: 1, in_all: 1, waiting: 1000 });
        let mut held = Vec::new();
        for name in ["a.test", "b.test", "c.test", "d.test", "e.test"] {
            let mut put = |message| sites.add(&site(name), &domain(name), item(message, "t", &["x@a.test"]), at(0));
            held.push((1..=1000).filter(|message| matches!(put(*message), Added::Waiting)).count());
        }
        assert_eq!(held, [500, 250, 125, 63, 31]);
        assert_eq!(sites.recipients, 969);
        (0..600).for_each(|_| drop(sites.take("a.test", at(0))));
        assert_eq!(sites.recipients, 469);
        assert!(matches!(sites.add(&site("f"), &domain("f"), item(1, "t", &["x@f"]), at(0)), Added::Waiting));
        sites.take_all();
        assert_eq!(sites.recipients, 0);
    }

    #[test]
    fn a_site_that_took_half_of_what_waits_is_given_more() {
        let mut sites = Sites::new(Limits { per_site: 1, in_all: 1, waiting: 200 });
        for message in 1..=101 {
            drop(sites.add(&site("s"), &domain("a.test"), item(message, "t", &["x@a.test"]), at(0)));
        }
        (0..49).for_each(|_| drop(sites.take("s", at(0))));
        assert!(sites.roused.is_empty());
        sites.take("s", at(0));
        assert_eq!(sites.roused, [("t".to_owned(), domain("a.test"))]);
    }

    #[test]
    fn nobody_is_postponed_for_long() {
        let mut pace = Pace::default();
        let latest = (0..10_000).map(|_| pace.slot(1, at(0))).max();
        assert_eq!(latest, Some(at(60)));
    }

    #[test]
    fn one_connection_tries_before_many_open() {
        let mut sites = sites(3, 10);
        for message in 1..=9 {
            add(&mut sites, "s", message, "t", "x@a.test");
        }
        let opened = |sites: &mut Sites| sites.grow(&"s".into(), at(0)).map_or(0, |(_, count)| count);
        assert_eq!(opened(&mut sites), 1);
        assert_eq!(opened(&mut sites), 0);
        sites.connected("s");
        assert_eq!(opened(&mut sites), 2, "up to the limit of the site");
        assert_eq!(opened(&mut sites), 0);
    }

    #[test]
    fn idle_connections_are_used_before_new_ones() {
        let mut sites = sites(3, 10);
        add(&mut sites, "s", 1, "t", "x@a.test");
        sites.grow(&"s".into(), at(0));
        sites.connected("s");
        assert_eq!(taken(&mut sites, "s"), [1]);
        add(&mut sites, "s", 2, "t", "x@a.test");
        assert!(sites.grow(&"s".into(), at(0)).is_none());
        sites.woken("s");
        assert_eq!(sites.take("s", at(0)).unwrap().message.as_u128(), 2);
    }

    #[test]
    fn a_starved_site_gets_the_next_free_connection() {
        let mut sites = sites(2, 1);
        add(&mut sites, "one", 1, "t", "x@a.test");
        add(&mut sites, "two", 2, "t", "x@b.test");
        assert!(sites.grow(&"one".into(), at(0)).is_some());
        assert!(sites.grow(&"two".into(), at(0)).is_none());
        assert!(sites.grow(&"two".into(), at(0)).is_none());
        assert_eq!(sites.closed(&"one".into(), true), ["two".into(), "one".into()]);
        assert!(sites.grow(&"two".into(), at(0)).is_some());
        assert_eq!(sites.closed(&"two".into(), true), ["two".into()]);
    }

    #[test]
    fn a_refusal_is_told_to_all_who_wait_and_who_come_before_it_ends() {
        let mut sites = sites(2, 2);
        add(&mut sites, "s", 1, "t", "x@a.test");
        add(&mut sites, "s", 2, "t", "x@a.test");
        sites.grow(&"s".into(), at(0));
        let mut counts = Vec::new();
        assert_eq!(
            sites
                .refused("s", &refusal(), |count| {
                    counts.push(count);
                    at(10)
                })
                .len(),
            2
        );
        sites.closed(&"s".into(), true);
        sites.forget_quiet(at(5));
        let late = sites.add(&site("s"), &domain("a.test"), item(3, "t", &["x@a.test"]), at(9));
        assert!(matches!(late, Added::Refused(_, outcome) if *outcome == refusal()));
        let later = sites.add(&site("s"), &domain("a.test"), item(3, "t", &["x@a.test"]), at(10));
        assert!(matches!(later, Added::Waiting));
        sites.grow(&"s".into(), at(0));
        assert_eq!(
            sites
                .refused("s", &refusal(), |count| {
                    counts.push(count);
                    at(20)
                })
                .len(),
            1
        );
        sites.closed(&"s".into(), true);
        assert_eq!(counts, [1, 2]);
        sites.forget_quiet(at(21));
        assert!(sites.sites.is_empty());
    }

    #[test]
    fn one_lost_connection_among_good_ones_is_no_refusal() {
        let mut sites = sites(2, 2);
        add(&mut sites, "s", 1, "t", "x@a.test");
        add(&mut sites, "s", 2, "t", "x@a.test");
        sites.grow(&"s".into(), at(0));
        sites.connected("s");
        sites.grow(&"s".into(), at(0));
        assert!(sites.refused("s", &refusal(), |_| at(10)).is_empty());
        sites.closed(&"s".into(), true);
        assert!(sites.grow(&"s".into(), at(9)).is_none(), "one was too many");
        assert!(sites.grow(&"s".into(), at(10)).is_some());
        assert_eq!(taken(&mut sites, "s"), [1, 2]);
    }
}
