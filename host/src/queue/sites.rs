//! What waits for each site, and how many connections each has. Synchronous; takes `now`.
//!
//! A site's messages wait in lanes, one per tenant, stream and destination domain, and are taken from the lanes in turn: a
//! tenant's bulk does not stand in the way of another's single message, and no broadcast in that of transactional mail. The recipients of one message at one site go
//! into one transaction, whatever their domains. A site that is slower than what comes for it holds no more than is
//! free for others; the rest stays in the store until it should have come so far.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use jiff::Timestamp;
use mail::{Domain, Outcome, ReversePath, Stream};
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
    pub(super) stream: Stream,
    pub(super) sender: ReversePath,
    pub(super) body: BodyRef,
    pub(super) accepted_at: Timestamp,
    pub(super) recipients: Vec<LeasedRecipient>,
}

/// A tenant's mail for a domain, of one stream.
pub(super) type Lane = (String, Domain, Stream);

/// Lanes remembered by a site that could take no more of them; the others come again by time alone.
const PUT_OFF: usize = 1000;

/// Recipients of a stream that may wait for a site however many others do.
const LEAST: usize = 16;

/// Turns of transactional lanes behind which a broadcast lane has one.
const TURNS_BEFORE_BROADCAST: u32 = 7;

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
    /// Of all items, and of the broadcasts among them.
    recipients: usize,
    broadcast_recipients: usize,
    pace: Pace,
    /// Lanes that had to wait elsewhere, and how many recipients waited here then.
    put_off: HashSet<Lane>,
    full_at: usize,
    lanes: HashMap<Lane, VecDeque<Uuid>>,
    turns: Turns,
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

    /// Puts an item in line for a site, in the lane of its tenant, its stream and this domain.
    pub(super) fn add(&mut self, site: &Site, domain: &Domain, item: Item, now: Timestamp) -> Added {
        let waiting = self.sites.entry(site.key.clone()).or_insert_with(|| Waiting::new(site.clone()));
        // The newest plan: the same hosts, but addresses may have changed.
        waiting.site = site.clone();
        if let Some(refusal) = waiting.refusal.as_ref().filter(|refusal| now < refusal.until) {
            return Added::Refused(item, Box::new(refusal.outcome.clone()));
        }
        // Each may hold as much as is left for all others: many slow sites leave room for one more.
        let share = self.limits.waiting.saturating_sub(self.recipients).max(LEAST);
        if waiting.ahead_of(item.stream) >= share {
            let until = waiting.pace.slot(item.recipients.len(), now);
            if waiting.put_off.len() < PUT_OFF {
                waiting.put_off.insert((item.tenant.clone(), domain.clone(), item.stream));
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
            broadcast_recipients: 0,
            pace: Pace::default(),
            put_off: HashSet::new(),
            full_at: 0,
            lanes: HashMap::new(),
            turns: Turns::default(),
            connections: 0,
            connecting: 0,
            idle: 0,
            proven: false,
            refusal: None,
            enough_until: Timestamp::MIN,
            news: Arc::new(Notify::new()),
        }
    }

    /// Recipients that wait, as far as mail of a stream has them before it.
    fn ahead_of(&self, stream: Stream) -> usize {
        match stream {
            Stream::Transactional => self.recipients.saturating_sub(self.broadcast_recipients),
            Stream::Broadcast => self.recipients,
        }
    }

    fn add(&mut self, domain: &Domain, item: Item) {
        self.recipients += item.recipients.len();
        if item.stream == Stream::Broadcast {
            self.broadcast_recipients += item.recipients.len();
        }
        if let Some(waiting) = self.items.get_mut(&item.message) {
            waiting.recipients.extend(item.recipients);
            return;
        }
        let lane = (item.tenant.clone(), domain.clone(), item.stream);
        let line = self.lanes.entry(lane.clone()).or_default();
        if line.is_empty() {
            self.turns.push(lane);
        }
        line.push_back(item.message);
        self.items.insert(item.message, item);
    }

    fn take(&mut self) -> Option<Item> {
        let lane = self.turns.pop()?;
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
            self.turns.push(lane);
        }
        self.recipients = self.recipients.saturating_sub(item.recipients.len());
        if item.stream == Stream::Broadcast {
            self.broadcast_recipients = self.broadcast_recipients.saturating_sub(item.recipients.len());
        }
        Some(item)
    }

    fn take_all(&mut self) -> Vec<Item> {
        self.lanes.clear();
        self.turns = Turns::default();
        (self.recipients, self.broadcast_recipients) = (0, 0);
        self.items.drain().map(|(_, item)| item).collect()
    }
}

/// Lanes in turn: transactional ones first, broadcast ones at every eighth turn.
#[derive(Default)]
struct Turns {
    transactional: VecDeque<Lane>,
    broadcast: VecDeque<Lane>,
    since_broadcast: u32,
}

impl Turns {
    fn push(&mut self, lane: Lane) {
        match lane.2 {
            Stream::Transactional => self.transactional.push_back(lane),
            Stream::Broadcast => self.broadcast.push_back(lane),
        }
    }

    fn pop(&mut self) -> Option<Lane> {
        let is_broadcasts_turn = self.since_broadcast >= TURNS_BEFORE_BROADCAST;
        let first = if is_broadcasts_turn { self.broadcast.pop_front() } else { None };
        let lane = first.or_else(|| self.transactional.pop_front()).or_else(|| self.broadcast.pop_front())?;
        let has_waited = lane.2 == Stream::Transactional && !self.broadcast.is_empty();
        self.since_broadcast = if has_waited { self.since_broadcast + 1 } else { 0 };
        Some(lane)
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
#[path = "sites_tests.rs"]
mod tests;
