//! How fast mail goes, and when what has to wait elsewhere may come again. Synchronous; takes `now`.

use jiff::Timestamp;

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
