//! What waits until its domain's site is found, and which lookups run. Synchronous; takes `now`.
//!
//! A lookup that nobody answers takes long, and strangers decide how many of those there are. So whatever needs none
//! never waits for one; tenants are served in turn, their broadcasts apart, and none has all lookups; what waits for them is a part of the
//! window, the rest is postponed; and a domain whose lookup failed is remembered for a while.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use mail::{Domain, Outcome, Stream, Verdict};

use super::Site;
use super::pace::Pace;
use super::sites::Item;

/// How long a site that was found is used for further messages.
const ROUTE_AGE: SignedDuration = SignedDuration::from_secs(60);
/// How long it is used where the lookup would have to wait for others.
const ROUTE_AGE_BUSY: SignedDuration = SignedDuration::from_hours(1);
/// A failure is forgotten that long after its backoff; then the next one counts as the first.
const FORGET: Duration = Duration::from_secs(10 * 60);
/// Sites remembered, and failures; at more, all are forgotten and looked up again.
const REMEMBERED: usize = 10_000;
/// Recipients of a party that may wait however many others do.
const LEAST: usize = 64;

/// How many lookups may run at once, and how many recipients may wait for one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) in_all: usize,
    pub(super) per_party: usize,
    pub(super) waiting: usize,
    pub(super) waiting_per_party: usize,
}

/// Sites of domains, and what waits for a lookup.
pub(super) struct Lookups {
    limits: Limits,
    known: HashMap<Domain, (Site, Timestamp)>,
    failed: HashMap<Domain, Failure>,
    asked: HashMap<Domain, Asked>,
    parties: HashMap<Party, Line>,
    /// Those with something in line.
    turn: VecDeque<Party>,
    running: usize,
    /// That wait, of all tenants.
    recipients: usize,
    /// Counts changes of the routes: what was asked before one is not remembered after it.
    generation: u64,
}

/// A lookup nobody answered: until when none is tried, and what everybody who comes meanwhile is told.
struct Failure {
    until: Timestamp,
    outcome: Outcome,
    count: u32,
}

/// A domain whose site is wanted.
#[derive(Default)]
struct Asked {
    items: Vec<Item>,
    /// In whose lines it stands.
    parties: Vec<Party>,
    /// On whose account the lookup runs; `None`: it does not yet.
    runs_for: Option<Party>,
    /// Of the routes that it was asked of.
    generation: u64,
}

/// A tenant's stream: its broadcasts stand in a line of their own.
type Party = (String, Stream);

#[derive(Default)]
struct Line {
    domains: VecDeque<Domain>,
    running: usize,
    recipients: usize,
    pace: Pace,
}

/// What is known of an item's site.
#[derive(Debug)]
pub(super) enum Found {
    Site(Site, Item),
    /// The lookup failed a moment ago; this is the outcome of the item.
    Failed(Item, Box<Outcome>),
    Waiting,
    /// The tenant's stream has its share waiting already.
    Postponed(Item, Timestamp),
}

impl Lookups {
    pub(super) fn new(limits: Limits) -> Lookups {
        Lookups {
            limits,
            known: HashMap::new(),
            failed: HashMap::new(),
            asked: HashMap::new(),
            parties: HashMap::new(),
            turn: VecDeque::new(),
            running: 0,
            recipients: 0,
            generation: 0,
        }
    }

    /// The site for an item where it is known, or `without_lookup` knows it; else it waits, if it may.
    pub(super) fn find(
        &mut self,
        domain: &Domain,
        item: Item,
        without_lookup: impl FnOnce() -> Option<Site>,
        now: Timestamp,
    ) -> Found {
        let age = |found: &Timestamp| now.duration_since(*found).abs();
        let known = self.known.get(domain).filter(|(site, _)| !site.plan.is_stale());
        let known = known.map(|(site, found)| (site, age(found)));
        if let Some((site, _)) = known.filter(|(_, age)| *age < ROUTE_AGE) {
            return Found::Site(site.clone(), item);
        }
        if let Some(site) = without_lookup() {
            self.remember(domain, &site, now);
            return Found::Site(site, item);
        }
        if let Some(failure) = self.failed.get(domain).filter(|failure| now < failure.until) {
            return Found::Failed(item, Box::new(failure.outcome.clone()));
        }
        let share = (self.limits.waiting.saturating_sub(self.recipients) / 2).max(LEAST);
        let share = share.min(self.limits.waiting_per_party);
        let party = (item.tenant.clone(), item.stream);
        let line = self.parties.entry(party.clone()).or_default();
        let full = line.recipients >= share;
        if let Some((site, _)) = known.filter(|(_, age)| *age < ROUTE_AGE_BUSY && (full || !line.domains.is_empty())) {
            return Found::Site(site.clone(), item);
        }
        if full {
            let until = line.pace.slot(item.recipients.len(), now);
            return Found::Postponed(item, until);
        }
        line.recipients += item.recipients.len();
        self.recipients += item.recipients.len();
        let asked = self.asked.entry(domain.clone()).or_default();
        // In the line of everybody who wants it: the first one's may be long.
        if asked.runs_for.is_none() && !asked.parties.contains(&party) {
            if line.domains.is_empty() {
                self.turn.push_back(party.clone());
            }
            line.domains.push_back(domain.clone());
            asked.parties.push(party);
        }
        asked.items.push(item);
        Found::Waiting
    }

    /// The next domain to be looked up; it counts as running until `looked_up`.
    pub(super) fn next(&mut self) -> Option<Domain> {
        for _ in 0..self.turn.len() {
            if self.running >= self.limits.in_all {
                return None;
            }
            let party = self.turn.pop_front()?;
            let Some(line) = self.parties.get_mut(&party) else { continue };
            if line.running >= self.limits.per_party {
                self.turn.push_back(party);
                continue;
            }
            while let Some(domain) = line.domains.pop_front() {
                // Another's turn may have come to it before.
                let Some(asked) = self.asked.get_mut(&domain).filter(|asked| asked.runs_for.is_none()) else {
                    continue;
                };
                asked.runs_for = Some(party.clone());
                asked.generation = self.generation;
                line.running += 1;
                self.running += 1;
                if !line.domains.is_empty() {
                    self.turn.push_back(party);
                }
                return Some(domain);
            }
        }
        None
    }

    /// A lookup ended; `None`: it was given up. All that waited for it. `until` is given how many failures there were
    /// in a row.
    pub(super) fn looked_up(
        &mut self,
        domain: &Domain,
        found: Option<&Result<Site, Box<Outcome>>>,
        until: impl FnOnce(u32) -> Timestamp,
        now: Timestamp,
    ) -> Vec<Item> {
        let is_current = self.asked.get(domain).is_some_and(|asked| asked.generation == self.generation);
        match found {
            _ if !is_current => {}
            Some(Ok(site)) => {
                self.failed.remove(domain);
                self.remember(domain, site, now);
            }
            // What is final was answered: no need to spare anybody another question.
            Some(Err(outcome)) if outcome.verdict == Verdict::Deferred => {
                let last = self.failed.get(domain).filter(|last| now < super::policy::later(last.until, FORGET));
                let count = last.map_or(0, |last| last.count).saturating_add(1);
                if self.failed.len() >= REMEMBERED {
                    self.failed.clear();
                }
                let failure = Failure { until: until(count), outcome: (**outcome).clone(), count };
                self.failed.insert(domain.clone(), failure);
            }
            Some(Err(_)) | None => {}
        }
        let Some(asked) = self.asked.remove(domain) else { return Vec::new() };
        for item in &asked.items {
            let count = item.recipients.len();
            self.recipients = self.recipients.saturating_sub(count);
            if let Some(line) = self.parties.get_mut(&(item.tenant.clone(), item.stream)) {
                line.recipients = line.recipients.saturating_sub(count);
                line.pace.took(count, now);
            }
        }
        if let Some(party) = asked.runs_for {
            self.running = self.running.saturating_sub(1);
            if let Some(line) = self.parties.get_mut(&party) {
                line.running = line.running.saturating_sub(1);
            }
        }
        self.parties.retain(|_, line| line.recipients > 0 || line.running > 0 || !line.domains.is_empty());
        asked.items
    }

    /// Domains whose site was found to have a mail host of this name (or to be called so), and to have this source, each
    /// with its site.
    pub(super) fn found_at(&self, site: Option<&str>, source: Option<&str>) -> HashMap<Domain, Site> {
        let is_meant = |found: &Site| {
            let plan = &found.plan;
            let named =
                |name: &str| *name == *found.key || plan.hosts.iter().any(|it| it.name.eq_ignore_ascii_case(name));
            let has =
                |name: &str| plan.egress.as_ref().is_some_and(|egress| egress.has(name, tokio::time::Instant::now()));
            site.is_none_or(named) && source.is_none_or(has)
        };
        let meant = self.known.iter().filter(|(_, (found, _))| is_meant(found));
        meant.map(|(domain, (found, _))| (domain.clone(), found.clone())).collect()
    }

    /// Forgets which sites were found: routes have changed.
    pub(super) fn forget_sites(&mut self) {
        self.known.clear();
        self.failed.clear();
        self.generation += 1;
    }

    /// Takes everything that waits.
    pub(super) fn take_all(&mut self) -> Vec<Item> {
        self.parties.clear();
        self.turn.clear();
        (self.running, self.recipients) = (0, 0);
        self.asked.drain().flat_map(|(_, asked)| asked.items).collect()
    }

    fn remember(&mut self, domain: &Domain, site: &Site, now: Timestamp) {
        if self.known.len() >= REMEMBERED {
            self.known.clear();
        }
        self.known.insert(domain.clone(), (site.clone(), now));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use super::*;
    use crate::config::{self, TlsPolicy};
    use crate::route::egress::Egress;
    use crate::route::{Host, Plan};

    /// A site of one mail host, reached from sources of these names and weights.
    fn site(host: &str, sources: &[(&str, usize)]) -> Site {
        let source = |(name, weight): &(&str, usize)| {
            let (name, weight) = ((*name).to_owned(), *weight);
            Arc::new(config::Source { name, addresses: Vec::new(), hostname: None, connections: 9, weight })
        };
        let sources: Arc<[_]> = sources.iter().map(source).collect();
        let egress = Egress::choose(host, &sources, &Arc::default(), tokio::time::Instant::now());
        let host = Host { name: host.to_owned(), preference: 0, addresses: Vec::new(), foreign: true };
        let plan = Plan { hosts: vec![host.clone()], port: 25, tls: TlsPolicy::Off, auth: None, egress };
        Site { key: format!("{}!", host.name).into(), plan: Arc::new(plan) }
    }

    #[test]
    fn domains_are_found_by_host_and_by_source() {
        let mut lookups = Lookups::new(Limits { in_all: 1, per_party: 1, waiting: 1, waiting_per_party: 1 });
        let domain = |name: &str| Domain::parse(name).unwrap();
        for (name, site) in [
            ("one.test", site("mx.test", &[("a", 0), ("b", 0)])),
            ("two.test", site("mx.test", &[("b", 0)])),
            ("shared.test", site("other.test", &[("a", 1), ("b", 1)])),
            ("plain.test", site("other.test", &[])),
        ] {
            lookups.remember(&domain(name), &site, Timestamp::UNIX_EPOCH);
        }
        let found = |site: Option<&str>, source: Option<&str>| -> Vec<String> {
            let mut names: Vec<String> = lookups.found_at(site, source).keys().map(ToString::to_string).collect();
            names.sort();
            names
        };
        assert_eq!(found(Some("MX.test"), None), ["one.test", "two.test"]);
        assert_eq!(found(Some("other.test!"), None), ["plain.test", "shared.test"]);
        assert_eq!(found(None, Some("a")), ["one.test", "shared.test"]);
        assert_eq!(found(None, Some("b")), ["shared.test", "two.test"]);
        assert_eq!(found(Some("mx.test"), Some("b")), ["two.test"]);

        let shared = &lookups.found_at(None, Some("a"))[&domain("shared.test")];
        let (mut of_a, mut of_b) = (0, 0);
        for number in 0..100 {
            let message = uuid::Uuid::from_u128(number);
            let goes = shared.clone().for_message(message).plan.egress.as_ref().unwrap().source.name.clone();
            assert!(shared.leaves_from(&goes, message), "the very source that it will leave from");
            of_a += usize::from(shared.leaves_from("a", message));
            of_b += usize::from(shared.leaves_from("b", message));
        }
        assert!(of_a > 20 && of_b > 20 && of_a + of_b == 100, "{of_a} {of_b}");
        let plain = &lookups.found_at(Some("other.test"), None)[&domain("plain.test")];
        assert!(!plain.leaves_from("a", uuid::Uuid::nil()));
    }
}
