//! The last minute: rates out of totals that are noted every few seconds.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What counts as recent.
pub(super) const SPAN: Duration = Duration::from_secs(60);

/// Notes that are kept, more than a minute's worth however often they are taken.
const NOTES: usize = 128;

/// Messages accepted, and attempts by result, a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Rates {
    /// The time they are taken over, in seconds.
    pub over_s: f64,
    pub accepted: f64,
    pub delivered: f64,
    pub deferred: f64,
    pub bounced: f64,
    pub failed: f64,
}

type Totals = [u64; 5];

/// How far the totals had come at times in the last minute.
pub struct History {
    notes: Mutex<Notes>,
}

struct Notes {
    taken: VecDeque<(Instant, Totals)>,
    rotated: Instant,
}

impl Default for History {
    fn default() -> History {
        let now = Instant::now();
        History { notes: Mutex::new(Notes { taken: VecDeque::from([(now, Totals::default())]), rotated: now }) }
    }
}

impl History {
    /// Notes the totals; whether a minute is over since this was last true.
    pub(super) fn note(&self, totals: Totals) -> bool {
        self.note_at(totals, Instant::now())
    }

    fn note_at(&self, totals: Totals, now: Instant) -> bool {
        let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        notes.taken.push_back((now, totals));
        // The oldest one that is kept is the newest that is a minute old.
        while notes.taken.get(1).is_some_and(|(at, _)| now.duration_since(*at) >= SPAN) || notes.taken.len() > NOTES {
            notes.taken.pop_front();
        }
        let is_over = now.duration_since(notes.rotated) >= SPAN;
        if is_over {
            notes.rotated = now;
        }
        is_over
    }

    pub(super) fn rates(&self, totals: Totals) -> Rates {
        self.rates_at(totals, Instant::now())
    }

    fn rates_at(&self, totals: Totals, now: Instant) -> Rates {
        let notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((since, before)) = notes.taken.front() else { return Rates::default() };
        let over_s = now.duration_since(*since).as_secs_f64().max(0.001);
        let [accepted, delivered, deferred, bounced, failed]: [f64; 5] =
            std::array::from_fn(|at| totals[at].saturating_sub(before[at]) as f64 / over_s);
        Rates { over_s, accepted, delivered, deferred, bounced, failed }
    }
}

/// A count of the minute that is under way and of the one before: what happened in the last one to two minutes.
#[derive(Debug, Default)]
pub(super) struct Recent {
    now: AtomicU64,
    before: AtomicU64,
}

impl Recent {
    pub(super) fn add(&self, number: u64) {
        self.now.fetch_add(number, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.now.load(Ordering::Relaxed) + self.before.load(Ordering::Relaxed)
    }

    /// Another minute begins.
    pub(super) fn rotate(&self) {
        self.before.store(self.now.swap(0, Ordering::Relaxed), Ordering::Relaxed);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_those_of_the_last_minute() {
        let history = History::default();
        let start = history.notes.lock().unwrap().taken[0].0;
        let at = |second| start + Duration::from_secs(second);
        // Ten a second for two minutes, and none behind them.
        let total = |second: u64| [10 * second.min(120), 0, 0, 0, 0];
        assert_eq!(history.rates_at(total(10), at(10)).accepted, 10.0, "since the start, before a minute is over");
        let turned = (5..=600).step_by(5).filter(|second| history.note_at(total(*second), at(*second))).count();
        assert_eq!(turned, 10);
        let later = history.rates_at(total(600), at(601));
        assert_eq!((later.accepted, later.over_s), (0.0, 61.0));
        assert!(history.notes.lock().unwrap().taken.len() <= 14);
    }

    #[test]
    fn a_rate_is_the_last_minutes_while_it_changes() {
        let history = History::default();
        let start = history.notes.lock().unwrap().taken[0].0;
        for second in (5..=120).step_by(5) {
            let total = if second <= 60 { 0 } else { 100 * (second - 60) };
            history.note_at([0, total, 0, 0, 0], start + Duration::from_secs(second));
        }
        let rates = history.rates_at([0, 6000, 0, 0, 0], start + Duration::from_secs(120));
        assert_eq!((rates.delivered, rates.over_s), (100.0, 60.0));
    }

    #[test]
    fn what_is_old_is_forgotten() {
        let recent = Recent::default();
        recent.add(3);
        recent.rotate();
        recent.add(4);
        assert_eq!(recent.get(), 7);
        recent.rotate();
        assert_eq!(recent.get(), 4);
        recent.rotate();
        assert_eq!(recent.get(), 0);
    }
}
