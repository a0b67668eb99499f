//! Who waits for a connection of another site to end, and which connections could be stopped for them. Ordered, so that
//! ten thousand sites that wait cost what one costs.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// Connections of each tenant.
#[derive(Default)]
pub(super) struct Held {
    counts: HashMap<String, usize>,
    order: BTreeSet<(usize, String)>,
}

impl Held {
    /// Connections that were opened for a tenant.
    pub(super) fn of(&self, tenant: &str) -> usize {
        self.counts.get(tenant).copied().unwrap_or(0)
    }

    /// The tenant that has most, and how many.
    pub(super) fn most(&self) -> Option<(&str, usize)> {
        self.order.last().map(|(count, tenant)| (tenant.as_str(), *count))
    }

    /// Counts some more of a tenant, or fewer.
    pub(super) fn count(&mut self, tenant: &str, by: isize) {
        let before = self.of(tenant);
        let after = before.saturating_add_signed(by);
        self.order.remove(&(before, tenant.to_owned()));
        if after == 0 {
            self.counts.remove(tenant);
        } else {
            self.counts.insert(tenant.to_owned(), after);
            self.order.insert((after, tenant.to_owned()));
        }
    }
}

/// Sites that have mail and no connection, for want of room. The next is that of the tenant with the fewest connections,
/// then who has waited longest.
#[derive(Default)]
pub(super) struct Starved {
    /// Grows with each that comes.
    next: u64,
    places: HashMap<Arc<str>, (Wants, u64)>,
    lines: HashMap<Wants, Line>,
    /// Of each source: tenants with somebody in line, by their connections and by how long the first has waited.
    turns: HashMap<Option<String>, BTreeSet<(usize, u64, String)>>,
    /// Lines and sites that were looked at.
    #[cfg(test)]
    pub(super) looks: std::cell::Cell<usize>,
}

/// What a site waits for: room at its source, in the turn of the tenant whose mail is first.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Wants {
    pub(super) source: Option<String>,
    pub(super) tenant: String,
}

/// Who waits for the same, by when they came; and the connections that the tenant has.
#[derive(Default)]
struct Line {
    sites: BTreeMap<u64, Arc<str>>,
    connections: usize,
}

impl Starved {
    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.places.contains_key(key)
    }

    /// Whether somebody waits for room at this source.
    pub(super) fn waits_for(&self, source: &str) -> bool {
        // The map is as small as the configuration's list of sources.
        self.turns.keys().any(|wanted| wanted.as_deref() == Some(source))
    }

    /// Puts a site behind those that wait. `connections`: of its tenant.
    pub(super) fn push(&mut self, key: Arc<str>, wants: Wants, connections: usize) {
        self.next += 1;
        self.put(key, wants, self.next, connections);
    }

    /// A site that waits may wait for something else now; its place stays.
    pub(super) fn update(&mut self, key: &str, wants: Wants, connections: usize) {
        let Some((before, place)) = self.places.get(key) else { return };
        let place = *place;
        if *before != wants
            && let Some(key) = self.remove(key)
        {
            self.put(key, wants, place, connections);
        }
    }

    /// Takes a site out; it, where it waited.
    pub(super) fn remove(&mut self, key: &str) -> Option<Arc<str>> {
        let (wants, place) = self.places.remove(key)?;
        let mut removed = None;
        self.change(&wants, |line| removed = line.sites.remove(&place));
        removed
    }

    /// A tenant has so many connections now.
    pub(super) fn recount(&mut self, tenant: &str, connections: usize) {
        let wants = |source: &Option<String>| Wants { source: source.clone(), tenant: tenant.to_owned() };
        let lines: Vec<Wants> = self.turns.keys().map(wants).filter(|wants| self.lines.contains_key(wants)).collect();
        for wants in lines {
            self.change(&wants, |line| line.connections = connections);
        }
    }

    /// Of each source, the site whose turn it is: the connections of its tenant, when it came, and itself.
    pub(super) fn firsts(&self) -> impl Iterator<Item = (usize, u64, &Arc<str>)> {
        self.turns.iter().filter_map(|(source, turns)| {
            self.look();
            let (connections, place, tenant) = turns.first()?;
            let line = self.lines.get(&Wants { source: source.clone(), tenant: tenant.clone() })?;
            Some((*connections, *place, line.sites.get(place)?))
        })
    }

    /// Takes all out, the longest waiting first.
    pub(super) fn take_all(&mut self) -> Vec<Arc<str>> {
        let mut all: Vec<(u64, Arc<str>)> = self.places.drain().map(|(key, (_, place))| (place, key)).collect();
        all.sort_unstable();
        (self.lines, self.turns) = (HashMap::new(), HashMap::new());
        all.into_iter().map(|(_, key)| key).collect()
    }

    fn put(&mut self, key: Arc<str>, wants: Wants, place: u64, connections: usize) {
        self.change(&wants, |line| {
            line.sites.insert(place, key.clone());
            line.connections = connections;
        });
        self.places.insert(key, (wants, place));
    }

    /// Changes a line, and keeps its turn.
    fn change(&mut self, wants: &Wants, change: impl FnOnce(&mut Line)) {
        self.look();
        let line = self.lines.entry(wants.clone()).or_default();
        let turns = self.turns.entry(wants.source.clone()).or_default();
        let turn = |line: &Line| {
            let first = line.sites.first_key_value().map(|(place, _)| *place)?;
            Some((line.connections, first, wants.tenant.clone()))
        };
        if let Some(turn) = turn(line) {
            turns.remove(&turn);
        }
        change(line);
        match turn(line) {
            Some(turn) => {
                turns.insert(turn);
            }
            None => {
                self.lines.remove(wants);
            }
        }
        if turns.is_empty() {
            self.turns.remove(&wants.source);
        }
    }

    fn look(&self) {
        #[cfg(test)]
        self.looks.set(self.looks.get() + 1);
    }
}

/// Sites with a connection that is being opened and could be stopped: of each tenant and source, the one first that was
/// stopped least.
#[derive(Default)]
pub(super) struct Opening(HashMap<String, HashMap<Option<String>, Stoppable>>);

/// Sites, by how many of their connections were stopped so far.
type Stoppable = BTreeSet<(usize, Arc<str>)>;

/// Where a site stands among them: the tenant that its first connection was opened for, its source, and how many of its
/// connections were stopped so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Spot {
    pub(super) tenant: String,
    pub(super) source: Option<String>,
    pub(super) stopped: usize,
}

impl Opening {
    /// A site stands elsewhere, or nowhere.
    pub(super) fn exchange(&mut self, key: Arc<str>, before: Option<Spot>, after: Option<Spot>) {
        if let Some(Spot { tenant, source, stopped }) = before
            && let Some(sources) = self.0.get_mut(&tenant)
            && let Some(sites) = sources.get_mut(&source)
        {
            sites.remove(&(stopped, key.clone()));
            if sites.is_empty() {
                sources.remove(&source);
            }
            if sources.is_empty() {
                self.0.remove(&tenant);
            }
        }
        if let Some(Spot { tenant, source, stopped }) = after {
            self.0.entry(tenant).or_default().entry(source).or_default().insert((stopped, key));
        }
    }

    /// A tenant's site to stop a connection of: at this source, or at any.
    pub(super) fn first(&self, tenant: &str, source: Option<&str>) -> Option<Arc<str>> {
        let sources = self.0.get(tenant)?.iter();
        let meant = sources.filter(|(own, _)| source.is_none_or(|source| own.as_deref() == Some(source)));
        meant.filter_map(|(_, sites)| sites.first()).min().map(|(_, key)| key.clone())
    }
}
