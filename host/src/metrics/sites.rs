//! How fast each site takes mail, for `posthaste status`. Not a figure of `/metrics`: there are as many sites as the world
//! has mail hosts.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mail::Verdict;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::recent::Recent;

/// Sites that are watched at once; mail to more of them goes out all the same.
const SITES: usize = 4096;

/// What one site did in the last minute or two. A connection keeps it.
#[derive(Debug, Default)]
pub struct SiteTally {
    attempts: Recent,
    micros: Recent,
    deferred: Recent,
}

/// A site as it is shown.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SiteFigures {
    /// Its mail hosts.
    pub site: String,
    /// Transactions, one for each message however many recipients it has there.
    pub attempts: u64,
    /// Of them, those with a recipient that was deferred; and refused connections.
    pub deferred: u64,
    pub seconds_per_attempt: f64,
}

/// All sites that mail went to lately.
#[derive(Default)]
pub struct Sites {
    known: Mutex<HashMap<Arc<str>, Arc<SiteTally>>>,
}

impl SiteTally {
    /// An attempt of this length.
    pub fn attempted(&self, took: Duration, verdicts: impl IntoIterator<Item = Verdict>) {
        self.attempts.add(1);
        self.micros.add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        if verdicts.into_iter().any(|verdict| verdict == Verdict::Deferred) {
            self.deferred.add(1);
        }
    }
}

impl Sites {
    /// What a connection to a site counts with. `name` is what people are shown.
    pub fn of(&self, name: &str) -> Arc<SiteTally> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tally) = known.get(name) {
            return tally.clone();
        }
        let tally = Arc::new(SiteTally::default());
        if known.len() < SITES {
            known.insert(name.into(), tally.clone());
        }
        tally
    }

    /// Another minute begins: sites with nothing in the last two are forgotten.
    pub(super) fn rotate(&self) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, tally| {
            [&tally.attempts, &tally.micros, &tally.deferred].into_iter().for_each(Recent::rotate);
            tally.attempts.get() > 0 || Arc::strong_count(tally) > 1
        });
    }

    /// The slowest of the last minute or two, slowest first.
    pub fn slowest(&self, count: usize) -> Vec<SiteFigures> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<SiteFigures> = known.iter().filter_map(|(site, tally)| tally.shown(site)).collect();
        drop(known);
        all.sort_by(|one, other| other.seconds_per_attempt.total_cmp(&one.seconds_per_attempt));
        all.truncate(count);
        all
    }
}

impl SiteTally {
    fn shown(&self, site: &str) -> Option<SiteFigures> {
        let attempts = self.attempts.get();
        let seconds = self.micros.get() as f64 / 1e6;
        (attempts > 0).then(|| SiteFigures {
            site: site.to_owned(),
            attempts,
            deferred: self.deferred.get(),
            seconds_per_attempt: seconds / attempts as f64,
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_stand_first_and_the_quiet_are_forgotten() {
        let sites = Sites::default();
        sites.of("fast").attempted(Duration::from_millis(10), [Verdict::Delivered]);
        let slow = sites.of("slow");
        slow.attempted(Duration::from_secs(2), [Verdict::Delivered, Verdict::Deferred]);
        slow.attempted(Duration::from_secs(4), []);
        drop(slow);
        let shown = sites.slowest(5);
        assert_eq!(shown.iter().map(|site| site.site.as_str()).collect::<Vec<_>>(), ["slow", "fast"]);
        assert_eq!((shown[0].attempts, shown[0].deferred, shown[0].seconds_per_attempt), (2, 1, 3.0));
        assert_eq!(sites.slowest(1).len(), 1);
        sites.rotate();
        assert_eq!(sites.slowest(5).len(), 2);
        sites.rotate();
        assert!(sites.known.lock().unwrap().is_empty());
    }

    #[test]
    fn sites_are_bounded() {
        let sites = Sites::default();
        for number in 0..SITES + 10 {
            sites.of(&number.to_string()).attempted(Duration::ZERO, []);
        }
        assert_eq!(sites.known.lock().unwrap().len(), SITES);
    }
}
