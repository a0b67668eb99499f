//! What follows from an attempt: the one place that decides it. Pure; the time and the jitter are handed in.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use mail::{Address, Event, EventKind, Outcome, Verdict};

use crate::config;
use crate::store::Next;

/// The reason of the `email.failed` of a message that waited too long.
pub const EXPIRED: &str = "expired";

/// No wait is longer, whatever is configured.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// When to try again, and until when.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// Before the 2nd, 3rd, … attempt; the last one repeats.
    retry_delays: Vec<Duration>,
    expire_after: Duration,
}

impl From<&config::Delivery> for Schedule {
    fn from(delivery: &config::Delivery) -> Schedule {
        Schedule { retry_delays: delivery.retry_delays.clone(), expire_after: delivery.expire_after }
    }
}

/// An attempt that was made for one recipient.
#[derive(Clone, Debug)]
pub struct Attempt<'a> {
    pub recipient: &'a Address,
    /// Attempts made before this one.
    pub before: u32,
    pub accepted_at: Timestamp,
    pub now: Timestamp,
    pub outcome: Outcome,
}

impl Schedule {
    /// The wait behind so many attempts, before jitter. Without any delay configured: a minute.
    pub fn delay(&self, attempts: u32) -> Duration {
        let index = usize::try_from(attempts.saturating_sub(1)).unwrap_or(usize::MAX);
        let last = self.retry_delays.last().copied().unwrap_or(Duration::from_secs(60));
        self.retry_delays.get(index).copied().unwrap_or(last)
    }

    /// What becomes of the recipient, and the event that tells it. `jitter` is between 0 and 1.
    ///
    /// A deferred recipient is tried a last time when it expires; who is deferred then, or later, has failed.
    pub fn judge(&self, attempt: Attempt<'_>, jitter: f64) -> (Next, Event) {
        let Attempt { recipient, before, accepted_at, now, outcome } = attempt;
        let number = before.saturating_add(1);
        let (next, kind, reason) = match outcome.verdict {
            Verdict::Delivered => (Next::Done, EventKind::Delivered, None),
            Verdict::Bounced => (Next::Done, EventKind::Bounced, None),
            Verdict::Failed => (Next::Done, EventKind::Failed, None),
            Verdict::Deferred => {
                let expiry = later(accepted_at, self.expire_after);
                if now >= expiry {
                    (Next::Done, EventKind::Failed, Some(EXPIRED.to_owned()))
                } else {
                    let wait = self.delay(number).min(LONGEST).mul_f64(0.8 + 0.4 * jitter.clamp(0.0, 1.0));
                    (Next::Retry(later(now, wait).min(expiry)), EventKind::DeliveryDelayed, None)
                }
            }
        };
        (next, Event { kind, recipient: recipient.clone(), attempt: Some((number, outcome)), reason })
    }
}

/// A time that much later; the end of time where it overflows.
pub fn later(from: Timestamp, by: Duration) -> Timestamp {
    SignedDuration::try_from(by).ok().and_then(|by| from.checked_add(by).ok()).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use mail::EnhancedCode;
    use mail::outcome::Phase;

    fn schedule() -> Schedule {
        let retry_delays = [60, 300, 1000].map(Duration::from_secs).to_vec();
        Schedule { retry_delays, expire_after: Duration::from_secs(10_000) }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn outcome(verdict: Verdict) -> Outcome {
        Outcome {
            verdict,
            phase: Phase::Data,
            status: EnhancedCode::new(4, 0, 0),
            remote_host: None,
            reply: None,
            text: "text".to_owned(),
            tls: None,
        }
    }

    /// Accepted at 0; so many attempts before, at a second, with this verdict and jitter.
    fn check(before: u32, second: i64, verdict: Verdict, jitter: f64, expect: (Next, EventKind, Option<&str>)) {
        let recipient = Address::parse("a@b.test").unwrap();
        let attempt =
            Attempt { recipient: &recipient, before, accepted_at: at(0), now: at(second), outcome: outcome(verdict) };
        let (next, event) = schedule().judge(attempt, jitter);
        assert_eq!((next, event.kind, event.reason.as_deref()), expect);
        assert_eq!(event.attempt, Some((before + 1, outcome(verdict))));
        assert_eq!(event.recipient, recipient);
    }

    #[test]
    fn every_verdict_has_its_consequence() {
        let delayed = |second| (Next::Retry(at(second)), EventKind::DeliveryDelayed, None);
        check(0, 5, Verdict::Delivered, 0.5, (Next::Done, EventKind::Delivered, None));
        check(9, 99_999, Verdict::Delivered, 0.5, (Next::Done, EventKind::Delivered, None));
        check(0, 5, Verdict::Bounced, 0.5, (Next::Done, EventKind::Bounced, None));
        check(0, 5, Verdict::Failed, 0.5, (Next::Done, EventKind::Failed, None));
        check(0, 100, Verdict::Deferred, 0.5, delayed(160));
        check(0, 100, Verdict::Deferred, 0.0, delayed(148));
        check(0, 100, Verdict::Deferred, 1.0, delayed(172));
        check(0, 100, Verdict::Deferred, 7.0, delayed(172));
        check(1, 100, Verdict::Deferred, 0.5, delayed(400));
        check(2, 100, Verdict::Deferred, 0.5, delayed(1100));
        check(3, 100, Verdict::Deferred, 0.5, delayed(1100));
        check(u32::MAX - 1, 100, Verdict::Deferred, 0.5, delayed(1100));
    }

    #[test]
    fn the_last_attempt_is_at_the_expiry() {
        check(5, 9500, Verdict::Deferred, 0.5, (Next::Retry(at(10_000)), EventKind::DeliveryDelayed, None));
        check(5, 9_999, Verdict::Deferred, 0.5, (Next::Retry(at(10_000)), EventKind::DeliveryDelayed, None));
        check(6, 10_000, Verdict::Deferred, 0.5, (Next::Done, EventKind::Failed, Some(EXPIRED)));
        check(0, 99_000, Verdict::Deferred, 0.5, (Next::Done, EventKind::Failed, Some(EXPIRED)));
    }

    #[test]
    fn extremes_do_not_overflow() {
        assert_eq!(later(Timestamp::MAX, Duration::from_secs(1)), Timestamp::MAX);
        assert_eq!(later(at(0), Duration::MAX), Timestamp::MAX);
        let empty = Schedule { retry_delays: Vec::new(), expire_after: Duration::MAX };
        assert_eq!(empty.delay(0), Duration::from_secs(60));
        assert_eq!(empty.delay(7), Duration::from_secs(60));
    }
}
