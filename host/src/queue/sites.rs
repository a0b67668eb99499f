//! What waits for each site, and how many connections each has. Synchronous; takes `now`.
//!
//! A site's messages wait in lanes, one per tenant, stream and destination domain, and are taken from the lanes in turn: a
//! tenant's bulk does not stand in the way of another's single message, and no broadcast in that of transactional mail. The recipients of one message at one site go
//! into one transaction, whatever their domains. A site that is slower than what comes for it holds no more than is
//! free for others; the rest stays in the store until it should have come so far.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use jiff::Timestamp;
use mail::{Domain, Outcome, ReversePath, Stream, dsn};
use tokio::sync::Notify;
use uuid::Uuid;

use super::Site;
use super::pace::Pace;
use super::starved::{Held, Opening, Spot, Starved, Wants};
use super::turns::Turns;
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
    pub(super) size_bytes: u64,
    pub(super) accepted_at: Timestamp,
    /// What reports its sender asked for.
    pub(super) request: Option<Arc<dsn::Request>>,
    pub(super) recipients: Vec<LeasedRecipient>,
}

/// A tenant's mail for a domain, of one stream.
pub(super) type Lane = (String, Domain, Stream);

/// Lanes remembered by a site that could take no more of them; the others come again by time alone.
const PUT_OFF: usize = 1000;

/// Recipients of a stream that may wait for a site however many others do.
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
    /// Connections of each source, and those that were opened for each tenant.
    by_source: HashMap<String, usize>,
    by_tenant: Held,
    /// Sites that wait for a connection of another to end.
    starved: Starved,
    /// Sites of which a connection may be stopped that is being opened.
    opening: Opening,
    /// Connections that are being opened and are to stop, of all sites.
    unwanted: usize,
    /// Lanes that were put off and may come again.
    pub(super) roused: Vec<Lane>,
    /// Connections that were told to end for a starved site, and have not yet.
    leaving: usize,
    /// Wakes all idle connections, so that one that stands in a starved site's way ends.
    pub(super) make_room: Arc<Notify>,
}

/// How far a connection is, from the site's view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// It is being opened.
    Connecting,
    /// It was greeted, and has asked for nothing yet.
    Fresh,
    /// It has asked before.
    Used,
    /// It has asked, and waits for something to send.
    Idle,
    /// It makes room for another site.
    Leaving,
}

/// What a connection gets that asks for something to send.
#[derive(Debug)]
pub(super) enum Taken {
    Item(Item),
    /// There is nothing: it counts as idle until it asks again or ends.
    Nothing,
    /// It is to end: another site waits for its place.
    Leave,
}

struct Waiting {
    site: Site,
    items: HashMap<Uuid, Item>,
    /// Of all items, and of the broadcasts among them.
    recipients: usize,
    broadcast_recipients: usize,
    /// Of transactional mail, and of broadcasts: no postponed broadcast stands before transactional mail.
    transactional: Overflow,
    broadcast: Overflow,
    lanes: HashMap<Lane, VecDeque<Uuid>>,
    turns: Turns,
    /// Open or opening.
    connections: usize,
    connecting: usize,
    fresh: usize,
    idle: usize,
    /// The tenants that they were opened for.
    tenants: Vec<String>,
    /// Of those that are being opened: how many are to end for a tenant that has fewer, and what tells them.
    unwanted: usize,
    unwanted_signal: Arc<Notify>,
    /// Connections that ended so, ever: it is not always the same site's turn.
    stopped: usize,
    /// Where it stands in `opening`.
    spot: Option<Spot>,
    /// Whether a connection was opened since the last refusal. Until then one tries at a time.
    proven: bool,
    refusal: Option<Refusal>,
    /// The peer refused a connection beside others that it serves: until then none is added to them.
    enough_until: Timestamp,
    news: Arc<Notify>,
}

/// What a site takes of a stream, and what had to wait elsewhere.
#[derive(Default)]
struct Overflow {
    pace: Pace,
    /// Lanes that had to wait elsewhere, and how many recipients the last of them had before it here.
    put_off: HashSet<Lane>,
    full_at: usize,
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
            by_tenant: Held::default(),
            starved: Starved::default(),
            opening: Opening::default(),
            unwanted: 0,
            roused: Vec::new(),
            leaving: 0,
            make_room: Arc::new(Notify::new()),
        }
    }

    /// Other limits of connections. Those that are open stay. Sites that had none may have one now.
    pub(super) fn limit(&mut self, per_site: usize, in_all: usize) -> Vec<Arc<str>> {
        self.limits = Limits { per_site, in_all, ..self.limits };
        self.starved.take_all()
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
        let ahead = waiting.ahead_of(item.stream);
        if ahead >= share {
            let overflow = waiting.overflow(item.stream);
            let until = overflow.pace.slot(item.recipients.len(), now);
            if overflow.put_off.len() < PUT_OFF {
                overflow.put_off.insert((item.tenant.clone(), domain.clone(), item.stream));
            }
            overflow.full_at = ahead;
            return Added::Postponed(item, until);
        }
        self.recipients += item.recipients.len();
        waiting.add(domain, item);
        if waiting.idle > 0 {
            waiting.news.notify_one();
        }
        if self.starved.has(&site.key)
            && let Some(wants) = waiting.wants()
        {
            let connections = self.by_tenant.of(&wants.tenant);
            self.starved.update(&site.key, wants, connections);
        }
        Added::Waiting
    }

    /// How many connections to open now for a site; they count as open from here on.
    pub(super) fn grow(&mut self, key: &Arc<str>, now: Timestamp) -> Option<(Site, usize)> {
        let room = self.room(key);
        let waiting = self.sites.get_mut(key)?;
        let enough = !waiting.proven || now < waiting.enough_until;
        let allowed = if enough { 1 } else { self.limits.per_site.max(1) };
        // Those that are idle or on their way take one each; where all are busy, another helps.
        let wanted = waiting.items.len().saturating_sub(waiting.idle + waiting.connecting + waiting.fresh);
        let wanted = wanted.min(allowed.saturating_sub(waiting.connections));
        let opened = wanted.min(room);
        let is_starved = opened == 0 && wanted > 0 && waiting.connections == 0 && !self.starved.has(key);
        waiting.connections += opened;
        waiting.connecting += opened;
        self.connections += opened;
        if let Some(egress) = waiting.site.plan.egress.as_ref().filter(|_| opened > 0) {
            *self.by_source.entry(egress.source.name.clone()).or_default() += opened;
        }
        let grown = (opened > 0).then(|| (waiting.site.clone(), opened));
        let wants = waiting.wants();
        if let Some(Wants { tenant, .. }) = wants.as_ref().filter(|_| opened > 0) {
            waiting.tenants.extend(std::iter::repeat_n(tenant.clone(), opened));
            self.count_tenant(tenant, opened.cast_signed());
        }
        if opened > 0 {
            self.starved.remove(key);
            self.index(key);
        }
        if let Some(wants) = wants.filter(|_| is_starved) {
            let connections = self.by_tenant.of(&wants.tenant);
            self.starved.push(key.clone(), wants, connections);
            self.make_room.notify_waiters();
            self.stop_one_for(key);
        }
        grown
    }

    /// Counts connections of a tenant, whose turn among those that wait may change with that.
    fn count_tenant(&mut self, tenant: &str, by: isize) {
        self.by_tenant.count(tenant, by);
        self.starved.recount(tenant, self.by_tenant.of(tenant));
    }

    /// Keeps a site in its place in `opening`.
    fn index(&mut self, key: &str) {
        let Some(waiting) = self.sites.get_mut(key) else { return };
        let tenant = waiting.tenants.first().filter(|_| waiting.connecting > waiting.unwanted).cloned();
        let source = waiting.source().map(str::to_owned);
        let spot = tenant.map(|tenant| Spot { tenant, source, stopped: waiting.stopped });
        if spot != waiting.spot {
            let before = std::mem::replace(&mut waiting.spot, spot.clone());
            self.opening.exchange(waiting.site.key.clone(), before, spot);
        }
    }

    /// Connections that were opened for the tenant whose turn it is at a site.
    fn of_tenant(&self, key: &str) -> usize {
        let lane = self.sites.get(key).and_then(|waiting| waiting.turns.next());
        lane.map_or(0, |lane| self.by_tenant.of(&lane.0))
    }

    /// Where another tenant has more connections than the one that waits for this site, has one of the other's stop that
    /// is still being opened: its peer may be silent, and hundreds of such peers are no reason for anybody else to wait.
    fn stop_one_for(&mut self, key: &str) {
        let own = self.of_tenant(key);
        let Some((largest, count)) = self.by_tenant.most() else { return };
        if count <= own + 1 {
            return;
        }
        // Those that stop already stop for others that wait.
        let stopping = self.leaving + self.unwanted;
        if count.saturating_sub(stopping) <= own + stopping + 1 {
            return;
        }
        let is_full = self.connections >= self.limits.in_all.max(1);
        let found = match self.sites.get(key).and_then(Waiting::source) {
            _ if is_full => self.opening.first(largest, None),
            Some(source) => self.opening.first(largest, Some(source)),
            None => None,
        };
        let Some(found) = found else { return };
        if let Some(waiting) = self.sites.get_mut(&found) {
            waiting.unwanted += 1;
            waiting.stopped += 1;
            self.unwanted += 1;
            waiting.unwanted_signal.notify_one();
        }
        self.index(&found);
    }

    /// What tells a connection of a site that is being opened that it may have to stop.
    pub(super) fn unwanted_signal(&self, key: &str) -> Arc<Notify> {
        self.sites.get(key).map(|waiting| waiting.unwanted_signal.clone()).unwrap_or_default()
    }

    /// Whether a connection that is being opened has to stop; then it counts as leaving.
    pub(super) fn is_unwanted(&mut self, key: &str, stage: &mut Stage) -> bool {
        let Some(waiting) = self.sites.get_mut(key).filter(|waiting| waiting.unwanted > 0) else { return false };
        waiting.unwanted -= 1;
        self.unwanted = self.unwanted.saturating_sub(1 + waiting.count(*stage, -1));
        self.leaving += 1;
        *stage = Stage::Leaving;
        self.index(key);
        true
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
            self.unwanted = self.unwanted.saturating_sub(waiting.count(Stage::Connecting, -1));
            waiting.fresh += 1;
            waiting.proven = true;
            waiting.refusal = None;
        }
        self.index(key);
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
        self.starved.remove(key);
        waiting.take_all()
    }

    /// What is next for a connection of a site. `had_turn`: it was open for long, or has nothing to do, so that it ends
    /// where another site has none at all for want of room.
    pub(super) fn take(&mut self, key: &str, stage: &mut Stage, had_turn: bool, now: Timestamp) -> Taken {
        let leaves = had_turn && self.stands_in_the_way(key);
        let Some(waiting) = self.sites.get_mut(key) else { return Taken::Leave };
        waiting.count(*stage, -1);
        if leaves {
            self.leaving += 1;
            *stage = Stage::Leaving;
            return Taken::Leave;
        }
        let Some(item) = waiting.take() else {
            *stage = Stage::Idle;
            waiting.count(*stage, 1);
            // Nothing to do is reason enough.
            if !had_turn && !self.starved.is_empty() {
                return self.take(key, stage, true, now);
            }
            return Taken::Nothing;
        };
        *stage = Stage::Used;
        self.recipients = self.recipients.saturating_sub(item.recipients.len());
        waiting.overflow(item.stream).pace.took(item.recipients.len(), now);
        // Half of it is gone: time for more, however slow it was before.
        for stream in Stream::ALL {
            let ahead = waiting.ahead_of(stream);
            let overflow = waiting.overflow(stream);
            if !overflow.put_off.is_empty() && ahead <= overflow.full_at / 2 {
                self.roused.extend(overflow.put_off.drain());
            }
        }
        Taken::Item(item)
    }

    /// An idle connection is about to end: nobody is to wait for it.
    pub(super) fn idle_no_more(&mut self, key: &str, stage: &mut Stage) {
        let before = std::mem::replace(stage, Stage::Used);
        if let Some(waiting) = self.sites.get_mut(key) {
            waiting.count(before, -1);
        }
    }

    /// Whether a site without any connection waits for the place of one of this site's, and fewer are leaving than such
    /// sites wait.
    fn stands_in_the_way(&self, key: &str) -> bool {
        if self.starved.len() <= self.leaving {
            return false;
        }
        let is_full = self.connections >= self.limits.in_all.max(1);
        // A site with a connection is none of those that wait.
        is_full || self.sites.get(key).and_then(Waiting::source).is_some_and(|source| self.starved.waits_for(source))
    }

    /// What wakes the idle connections of a site.
    pub(super) fn news(&self, key: &str) -> Arc<Notify> {
        self.sites.get(key).map(|waiting| waiting.news.clone()).unwrap_or_default()
    }

    /// A connection ended, however far it was. The sites that may open one instead, in order.
    pub(super) fn closed(&mut self, key: &Arc<str>, stage: Stage) -> Vec<Arc<str>> {
        self.connections = self.connections.saturating_sub(1);
        if stage == Stage::Leaving {
            self.leaving = self.leaving.saturating_sub(1);
        }
        if let Some(waiting) = self.sites.get_mut(key) {
            self.unwanted = self.unwanted.saturating_sub(waiting.count(stage, -1));
            waiting.connections = waiting.connections.saturating_sub(1);
            let tenant = waiting.tenants.pop();
            let source = waiting.site.plan.egress.as_ref().map(|egress| &egress.source.name);
            if let Some(used) = source.and_then(|name| self.by_source.get_mut(name)) {
                *used = used.saturating_sub(1);
            }
            if let Some(tenant) = tenant {
                self.count_tenant(&tenant, -1);
            }
            self.index(key);
        }
        self.next_starved().into_iter().chain([key.clone()]).collect()
    }

    /// The starved site that has room now, if any: that of the tenant with the fewest connections, then the first.
    fn next_starved(&mut self) -> Option<Arc<str>> {
        // Room at one source is none at another.
        let with_room = self.starved.firsts().filter(|(.., starved)| self.room(starved) > 0);
        let next = with_room.min_by_key(|(connections, came, _)| (*connections, *came)).map(|(.., key)| key.clone());
        self.starved.remove(&next?)
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
        self.starved.take_all();
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
            transactional: Overflow::default(),
            broadcast: Overflow::default(),
            lanes: HashMap::new(),
            turns: Turns::default(),
            connections: 0,
            connecting: 0,
            fresh: 0,
            idle: 0,
            tenants: Vec::new(),
            unwanted: 0,
            unwanted_signal: Arc::new(Notify::new()),
            stopped: 0,
            spot: None,
            proven: false,
            refusal: None,
            enough_until: Timestamp::MIN,
            news: Arc::new(Notify::new()),
        }
    }

    fn source(&self) -> Option<&str> {
        self.site.plan.egress.as_ref().map(|egress| egress.source.name.as_str())
    }

    /// What it waits for, where it has mail.
    fn wants(&self) -> Option<Wants> {
        let (tenant, ..) = self.turns.next()?;
        Some(Wants { source: self.source().map(str::to_owned), tenant: tenant.clone() })
    }

    /// Counts one connection more or less of a stage; how many fewer are unwanted because of it.
    fn count(&mut self, stage: Stage, by: isize) -> usize {
        let counted = match stage {
            Stage::Connecting => &mut self.connecting,
            Stage::Fresh => &mut self.fresh,
            Stage::Idle => &mut self.idle,
            Stage::Used | Stage::Leaving => return 0,
        };
        *counted = counted.saturating_add_signed(by);
        let before = self.unwanted;
        self.unwanted = before.min(self.connecting);
        before - self.unwanted
    }

    /// Recipients that wait, as far as mail of a stream has them before it.
    fn ahead_of(&self, stream: Stream) -> usize {
        match stream {
            Stream::Transactional => self.recipients.saturating_sub(self.broadcast_recipients),
            Stream::Broadcast => self.recipients,
        }
    }

    fn overflow(&mut self, stream: Stream) -> &mut Overflow {
        match stream {
            Stream::Transactional => &mut self.transactional,
            Stream::Broadcast => &mut self.broadcast,
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

#[cfg(test)]
#[path = "sites_tests.rs"]
mod tests;
