//! Where mail to a site leaves from: the first source that the site's hosts do not blame, or, of those with a weight, the one
//! that a message falls to. Takes `now`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mail::{EnhancedCode, Outcome, Reply};
use tokio::time::Instant;
use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::config::Source;

/// How long a source is left out where it was blamed.
const BLAMED_FOR: Duration = Duration::from_secs(3600);
/// Blames remembered; at more, those that are over are forgotten, or else all.
const BLAMES_MAX: usize = 10_000;

/// Which sources are blamed where, for all routes.
#[derive(Debug, Default)]
pub struct Blames(Mutex<HashMap<(Arc<str>, String), Instant>>);

/// The source of a site, and those that could take its place.
#[derive(Clone, Debug)]
pub struct Egress {
    pub source: Arc<Source>,
    /// The site's hosts: blame at one of them counts for all.
    hosts: Arc<str>,
    /// All sources of the route.
    sources: Arc<[Arc<Source>]>,
    blames: Arc<Blames>,
}

impl Egress {
    /// The first of the sources that is not blamed at these hosts, or the first where all are; `None` without any.
    pub fn choose(hosts: &str, sources: &Arc<[Arc<Source>]>, blames: &Arc<Blames>, now: Instant) -> Option<Egress> {
        let hosts: Arc<str> = hosts.into();
        let source = match &**sources {
            [] => return None,
            [one] => one,
            [first, ..] => sources.iter().find(|source| !blames.holds(&hosts, source, now)).unwrap_or(first),
        };
        let source = source.clone();
        Some(Egress { source, hosts, sources: sources.clone(), blames: blames.clone() })
    }

    /// The source that a message falls to, where sources share the mail: in proportion to their weights, of those that are
    /// not blamed. It follows from the message, so that its recipients go together, and a retry comes from where a host
    /// that greylists has seen it before; where a source is blamed, only what fell to it goes elsewhere.
    pub fn share_of(&self, message: Uuid, now: Instant) -> Option<Egress> {
        let is_free = |source: &&Arc<Source>| !self.blames.holds(&self.hosts, source, now);
        let own = first(self.sharing(), message)?;
        let chosen = if is_free(&own) { own } else { first(self.sharing().filter(is_free), message)? };
        Some(Egress { source: chosen.clone(), ..self.clone() })
    }

    /// The source that a message leaves from as things are, though this was chosen before some was blamed.
    pub fn source_of(&self, message: Uuid, now: Instant) -> Arc<Source> {
        self.share_of(message, now).map_or_else(|| self.first_free(now), |egress| egress.source)
    }

    /// Whether messages leave from the source of this name as things are: all, or those that fall to it.
    pub fn has(&self, name: &str, now: Instant) -> bool {
        self.first_free(now).name == name || self.sharing().any(|source| source.name == name)
    }

    fn first_free(&self, now: Instant) -> Arc<Source> {
        let chosen = Egress::choose(&self.hosts, &self.sources, &self.blames, now);
        chosen.map_or_else(|| self.source.clone(), |egress| egress.source)
    }

    fn sharing(&self) -> impl Iterator<Item = &Arc<Source>> {
        self.sources.iter().filter(|source| source.weight > 0)
    }

    /// The site's hosts blame the source. `true`: another one is left that they do not.
    pub fn blame(&self, now: Instant) -> bool {
        self.blames.add(&self.hosts, &self.source, now);
        self.has_better(now)
    }

    /// Whether another source would be chosen now, because this one is blamed or the blame of one before it is over: then
    /// the site is to be chosen anew.
    pub fn is_stale(&self, now: Instant) -> bool {
        let is_free = |source: &&Arc<Source>| !self.blames.holds(&self.hosts, source, now);
        let chosen = || self.sources.iter().find(is_free).or(self.sources.first());
        self.sources.len() > 1 && chosen().is_some_and(|chosen| chosen.name != self.source.name)
    }

    fn has_better(&self, now: Instant) -> bool {
        self.sources.iter().any(|source| !self.blames.holds(&self.hosts, source, now))
    }
}

impl Blames {
    fn holds(&self, hosts: &Arc<str>, source: &Source, now: Instant) -> bool {
        let known = self.known();
        let until = if known.is_empty() { None } else { known.get(&(hosts.clone(), source.name.clone())) };
        until.is_some_and(|until| now < *until)
    }

    fn add(&self, hosts: &Arc<str>, source: &Source, now: Instant) {
        let mut known = self.known();
        if known.len() >= BLAMES_MAX {
            known.retain(|_, until| now < *until);
        }
        if known.len() >= BLAMES_MAX {
            known.clear();
        }
        known.insert((hosts.clone(), source.name.clone()), now + BLAMED_FOR);
    }

    fn known(&self) -> MutexGuard<'_, HashMap<(Arc<str>, String), Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Of sources with weights, the one that a message falls to (weighted rendezvous hashing). Each draws a time out of its
/// name and the message, the heavier the shorter, and the shortest wins: what the others draw has no part in it.
fn first<'a>(sources: impl Iterator<Item = &'a Arc<Source>>, message: Uuid) -> Option<&'a Arc<Source>> {
    // The low half of an id is random.
    let number = message.as_u128() as u64;
    let drawn = |source: &Source| {
        let hash = xxh3_64_with_seed(source.name.as_bytes(), number);
        // Between 0 and 1, and neither of them.
        let chance = ((hash >> 12) as f64 + 0.5) / (1_u64 << 52) as f64;
        -chance.ln() / source.weight as f64
    };
    let timed = sources.map(|source| (source, drawn(source)));
    timed.min_by(|one, other| one.1.total_cmp(&other.1)).map(|(source, _)| source)
}

/// Whether an outcome is for the address that the mail came from, and not for the message or its recipient.
pub fn is_blamed(outcome: &Outcome) -> bool {
    outcome.reply.as_ref().is_some_and(blames_source)
}

/// Words with which real peers blame an address. Lists of domains (DBL, URIBL) are about what the message says.
const BLAMING: &[&str] = &[
    "blocked using",
    "block list",
    "blocklist",
    "blacklist",
    "black list",
    "dnsbl",
    "spamhaus",
    "spamcop",
    "barracudacentral",
    "your ip",
    "sending ip",
    "source ip",
    "ip reputation",
    "reputation of the ip",
    "connecting ip",
    "client host",
    "mail server ip",
    "banned sending",
    "connections will not be accepted from",
];
const NOT_BLAMING: &[&str] = &["greylist", "graylist", "grey list", "dbl.", "uribl", "surbl", "url"];

fn blames_source(reply: &Reply) -> bool {
    if reply.is_positive() {
        return false;
    }
    // Reverse DNS (RFC 7372 s3.3), and codes that only an address gets at Google and Microsoft.
    let by_code = |code: EnhancedCode| code.subject == 7 && matches!(code.detail, 25 | 28 | 511 | 512 | 606..=649);
    let text = reply.text.to_ascii_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
    reply.enhanced.is_some_and(by_code) || says(BLAMING) && !says(NOT_BLAMING)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(names: &[&str]) -> Arc<[Arc<Source>]> {
        let source = |name: &&str| {
            Arc::new(Source {
                name: (*name).to_owned(),
                addresses: Vec::new(),
                hostname: None,
                connections: 1,
                weight: 0,
            })
        };
        names.iter().map(source).collect()
    }

    #[test]
    fn the_first_source_that_is_not_blamed() {
        let (blames, now) = (Arc::new(Blames::default()), Instant::now());
        let three = sources(&["a", "b", "c"]);
        let chosen = |hosts: &str, now| {
            Egress::choose(hosts, &three, &blames, now).unwrap_or_else(|| unreachable!("there are sources"))
        };
        assert!(Egress::choose("mx", &sources(&[]), &blames, now).is_none());
        let first = chosen("mx", now);
        assert_eq!(first.source.name, "a");
        assert!(!first.is_stale(now));
        assert!(first.blame(now), "b and c are left");
        assert!(first.is_stale(now));
        let second = chosen("mx", now);
        assert_eq!(second.source.name, "b");
        let (message, later) = (Uuid::from_u128(1), now + BLAMED_FOR);
        assert!(!second.is_stale(now) && second.source_of(message, now).name == "b");
        assert!(second.is_stale(later), "what is said to leave from `a` again does");
        assert_eq!(second.source_of(message, later).name, "a");
        assert_eq!(chosen("other", now).source.name, "a", "blame counts at one site");
        assert!(chosen("mx", now).blame(now));
        assert!(!chosen("mx", now).blame(now), "nobody is left");
        assert_eq!(chosen("mx", now).source.name, "a");
        assert!(!chosen("mx", now).is_stale(now));
        assert_eq!(chosen("mx", now + BLAMED_FOR).source.name, "a");
    }

    #[test]
    fn sources_with_weights_share_the_mail() {
        let (blames, now) = (Arc::new(Blames::default()), Instant::now());
        let weighted = |name: &str, weight| Source { weight, ..Source::clone(&sources(&[name])[0]) };
        let list: Arc<[Arc<Source>]> =
            [weighted("a", 3), weighted("substitute", 0), weighted("b", 1)].map(Arc::new).into();
        let Some(egress) = Egress::choose("mx", &list, &blames, now) else { unreachable!("there are sources") };
        let shares = |now| {
            let names = (0..4000).filter_map(|number| egress.share_of(Uuid::from_u128(number), now));
            names.fold(HashMap::<String, usize>::new(), |mut counts, egress| {
                *counts.entry(egress.source.name.clone()).or_default() += 1;
                counts
            })
        };
        let both = shares(now);
        assert!(both.len() == 2 && (2900..3100).contains(&both["a"]), "three to one: {both:?}");
        let of_one = |_| egress.share_of(Uuid::from_u128(7), now).map(|egress| egress.source.name.clone());
        assert_eq!(of_one(1), of_one(2), "a message keeps its source");
        egress.blame(now);
        assert_eq!(shares(now), HashMap::from([("b".to_owned(), 4000)]));
        blames.add(&"mx".into(), &list[2], now);
        assert_eq!(shares(now), HashMap::new());
        let chosen = Egress::choose("mx", &list, &blames, now);
        assert_eq!(chosen.map(|egress| egress.source.name.clone()), Some("substitute".to_owned()));
        assert_eq!(shares(now + BLAMED_FOR).len(), 2);
        assert!(egress.has("a", now) && egress.has("b", now) && egress.has("substitute", now));
        assert!(!egress.has("substitute", now + BLAMED_FOR));
        let plain = Egress::choose("mx", &sources(&["a", "b"]), &blames, now + BLAMED_FOR);
        assert!(plain.is_some_and(|egress| egress.share_of(Uuid::from_u128(1), now).is_none()), "the first alone");
    }

    #[test]
    fn blame_of_a_source_moves_its_own_mail_alone() {
        let (blames, now) = (Arc::new(Blames::default()), Instant::now());
        let shared = |name: &&str| Arc::new(Source { weight: 1, ..Source::clone(&sources(&[*name])[0]) });
        let list: Arc<[Arc<Source>]> = ["a", "b", "c", "d"].iter().map(shared).collect();
        let Some(egress) = Egress::choose("mx", &list, &blames, now) else { unreachable!("there are sources") };
        let fall = || -> Vec<String> {
            let ids = (0..1000_u128).map(|number| Uuid::from_u128(number * 0x9e37_79b9_7f4a_7c15));
            ids.filter_map(|id| egress.share_of(id, now)).map(|egress| egress.source.name.clone()).collect()
        };
        // Also the second time: what went elsewhere before stays there.
        for (blamed, left) in [(0, &["b", "c", "d"][..]), (1, &["c", "d"])] {
            let before = fall();
            blames.add(&"mx".into(), &list[blamed], now);
            let after = fall();
            assert_eq!((before.len(), after.len()), (1000, 1000));
            let is_moved = |(before, _): &(&String, &String)| **before == list[blamed].name;
            let (moved, stayed): (Vec<_>, Vec<_>) = before.iter().zip(&after).partition(is_moved);
            assert!(stayed.iter().all(|(before, after)| before == after), "{blamed}");
            for name in left {
                let count = moved.iter().filter(|(_, after)| after == name).count();
                assert!(count > 60, "the others share what was its own: {name} {count}");
            }
        }
    }

    #[test]
    fn blames_are_bounded() {
        let (blames, now, one) = (Blames::default(), Instant::now(), sources(&["a"]));
        for number in 0..BLAMES_MAX + 5 {
            blames.add(&number.to_string().into(), &one[0], now);
        }
        assert!(blames.known().len() <= BLAMES_MAX);
    }

    #[track_caller]
    fn check(code: u16, text: &str, expect: bool) {
        let (enhanced, rest) = EnhancedCode::split(text).map_or((None, text), |(code, rest)| (Some(code), rest));
        assert_eq!(blames_source(&Reply::new(code, enhanced, rest)), expect, "{code} {text}");
    }

    #[test]
    fn blaming_replies() {
        check(554, "5.7.1 Service unavailable; Client host [192.0.2.1] blocked using zen.spamhaus.org", true);
        check(550, "5.7.1 Messages from [192.0.2.1] were not sent, part of their network is on our block list", true);
        check(421, "4.7.28 an unusual rate of mail from your network", true);
        check(421, "4.7.0 unsolicited mail originating from your IP address", true);
        check(550, "5.7.25 no PTR record", true);
        check(550, "5.7.606 Access denied, banned sending IP", true);
        check(550, "5.1.1 no such user", false);
        check(550, "5.7.1 spam", false);
        check(451, "4.7.1 Greylisted, your IP is new to us", false);
        check(550, "5.7.1 the message holds a URL on a blocklist", false);
        check(550, "5.7.1 domain listed in dbl.spamhaus.org", false);
        check(250, "2.0.0 your IP is fine", false);
    }
}
