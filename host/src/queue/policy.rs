//! What follows from an attempt: the one place that decides it. Pure; the time and the jitter are handed in.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use mail::{Address, Domain, Event, EventKind, Outcome, Verdict};

use super::advice::{Advice, advice};
use crate::bounce::Reporting;
use crate::config::{Config, Delivery, Route, RouteDomain};
use crate::route::rules;
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

/// The longest that a peer's wish for a later attempt is heeded, and the least that is waited.
const ASKED: std::ops::RangeInclusive<Duration> = Duration::from_secs(5)..=Duration::from_secs(2 * 60 * 60);
/// A greylisted recipient is tried again after so long, where the schedule waits longer: what greylisting servers want.
const GREYLISTED: Duration = Duration::from_secs(5 * 60);
/// The wait for another try that nothing speaks against.
const SOON: Duration = Duration::from_secs(60);
/// After so many attempts the schedule alone counts: a peer that always says "try again in 5 seconds" means nothing.
const ADVISED_ATTEMPTS: u32 = 6;

/// The schedules of all routes.
#[derive(Clone, Debug)]
pub struct Schedules {
    /// Of the routes, in their order.
    routes: Arc<[(RouteDomain, Schedule)]>,
    default: Schedule,
    /// What senders are told of it by mail.
    pub reporting: Reporting,
}

impl Schedules {
    pub fn new(delivery: &Delivery, routes: &[Route], reporting: Reporting) -> Schedules {
        let default = Schedule { retry_delays: delivery.retry_delays.clone(), expire_after: delivery.expire_after };
        let of_route = |route: &Route| {
            let schedule = Schedule {
                retry_delays: route.retry_delays.clone().unwrap_or_else(|| default.retry_delays.clone()),
                expire_after: route.expire_after.unwrap_or(default.expire_after),
            };
            (route.domain.clone(), schedule)
        };
        Schedules { routes: routes.iter().map(of_route).collect(), default, reporting }
    }

    /// The schedule of the first route that fits, as for routing itself.
    pub fn of(&self, domain: &Domain) -> &Schedule {
        let found = self.routes.iter().find(|(rule, _)| rules::fits(rule, domain));
        found.map_or(&self.default, |(_, schedule)| schedule)
    }

    /// The shortest wait behind so many attempts that any of them has.
    pub fn shortest_delay(&self, attempts: u32) -> Duration {
        let delays = self.routes.iter().map(|(_, schedule)| schedule.delay(attempts));
        delays.fold(self.default.delay(attempts), Duration::min)
    }
}

impl From<&Config> for Schedules {
    fn from(config: &Config) -> Schedules {
        Schedules::new(&config.delivery, &config.routes, Reporting::from(config))
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

    /// The wait behind a deferral, jittered by a fifth either way; never shorter than a peer asked for.
    fn wait(&self, number: u32, outcome: &Outcome, jitter: f64) -> Duration {
        let planned = self.delay(number).min(LONGEST);
        let (wait, least) = match advice(outcome).filter(|_| number <= ADVISED_ATTEMPTS) {
            None => (planned, 0.8),
            Some(Advice::Soon) => (planned.min(SOON), 0.8),
            Some(Advice::Greylisted) => (planned.min(GREYLISTED), 0.8),
            Some(Advice::After(asked)) => (asked.clamp(*ASKED.start(), *ASKED.end()), 1.0),
        };
        wait.mul_f64(least + 0.4 * jitter)
    }

    /// Until when a message is tried.
    pub fn expiry(&self, accepted_at: Timestamp) -> Timestamp {
        later(accepted_at, self.expire_after)
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
                let expiry = self.expiry(accepted_at);
                if now >= expiry {
                    (Next::Done, EventKind::Failed, Some(EXPIRED.to_owned()))
                } else {
                    let wait = self.wait(number, &outcome, jitter.clamp(0.0, 1.0));
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
    fn what_the_peer_says_of_the_time_counts() {
        let slow = Schedule { retry_delays: vec![Duration::from_secs(3600)], expire_after: Duration::MAX };
        let recipient = Address::parse("a@b.test").unwrap();
        let check = |before: u32, reply: (u16, &str), jitter: f64, expect: i64| {
            let (enhanced, text) = EnhancedCode::split(reply.1).unwrap();
            let reply = mail::Reply::new(reply.0, Some(enhanced), text);
            let deferred = Outcome { reply: Some(reply), ..outcome(Verdict::Deferred) };
            let attempt = Attempt { recipient: &recipient, before, accepted_at: at(0), now: at(0), outcome: deferred };
            assert_eq!(slow.judge(attempt, jitter).0, Next::Retry(at(expect)), "{before} {text} {jitter}");
        };
        check(0, (451, "4.3.0 later"), 0.5, 3600);
        check(0, (451, "4.7.1 greylisted"), 0.5, 300);
        check(5, (451, "4.7.1 greylisted"), 0.5, 300);
        check(6, (451, "4.7.1 greylisted"), 0.5, 3600);
        check(0, (451, "4.7.1 try again in 10 minutes"), 0.0, 600);
        check(0, (451, "4.7.1 try again in 10 minutes"), 1.0, 840);
        check(0, (451, "4.7.1 try again in 0 seconds"), 0.0, 5);
        check(0, (451, "4.7.1 try again in 90 hours"), 0.0, 7200);
        check(0, (550, "5.7.1 blocked using a list"), 0.5, 60);
    }

    #[test]
    fn each_route_has_its_schedule() {
        let text = "hostname = \"relay.test\"\ndata = \"d\"\n[http]\nlisten = \"127.0.0.1:1\"\n\
                    [delivery]\nretry_delays = [\"10m\"]\nexpire_after = \"2d\"\n\
                    [[route]]\ndomain = \"a.test\"\nretry_delays = [\"1m\", \"2m\"]\n\
                    [[route]]\ndomain = \"*.b.test\"\nexpire_after = \"1h\"\n";
        let config = crate::config::parse(std::path::Path::new("x.toml"), text, &|_| None).unwrap();
        let schedules = Schedules::from(&config);
        let check = |domain: &str, second: u64, expire_s: u64| {
            let schedule = schedules.of(&Domain::parse(domain).unwrap());
            assert_eq!(schedule.delay(2), Duration::from_secs(second), "{domain}");
            assert_eq!(schedule.expire_after, Duration::from_secs(expire_s), "{domain}");
        };
        check("a.test", 120, 2 * 86_400);
        check("x.b.test", 600, 3600);
        check("b.test", 600, 2 * 86_400);
        assert_eq!(schedules.shortest_delay(1), Duration::from_secs(60));
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
