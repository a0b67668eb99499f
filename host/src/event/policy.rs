//! When an event is told again, and when an endpoint is told no more. Pure: time and chance come in.

use std::time::Duration;

use delivery_client::wire::NotifyAnswer;
use jiff::{SignedDuration, Timestamp};

use crate::store::Failing;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;

/// Waits before each attempt, from the attempt before; jittered by a fifth either way. After the last there is none.
pub const WAITS: [Duration; 10] = [
    Duration::ZERO,
    Duration::from_secs(5),
    Duration::from_secs(5 * MINUTE),
    Duration::from_secs(30 * MINUTE),
    Duration::from_secs(2 * HOUR),
    Duration::from_secs(5 * HOUR),
    Duration::from_secs(10 * HOUR),
    Duration::from_secs(14 * HOUR),
    Duration::from_secs(20 * HOUR),
    Duration::from_secs(24 * HOUR),
];

/// An endpoint may ask for a longer wait than ours, up to this.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * HOUR);

/// An endpoint is paused after so many failures in a row over so long: busy ones by the first pair, quiet ones by the
/// second.
const HOPELESS: [(u32, SignedDuration); 2] =
    [(100, SignedDuration::from_hours(24)), (10, SignedDuration::from_hours(5 * 24))];

/// What follows an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The endpoint has taken the event.
    Done,
    Retry(Timestamp),
    /// It was tried for the last time, or nobody will ever make a request of it.
    GiveUp,
    /// The endpoint wants no more events (410).
    Disable,
}

/// What follows the attempt of that number (from 1). `chance` is from 0 to 1.
pub fn judge(number: u32, answer: &NotifyAnswer, now: Timestamp, chance: f64) -> Next {
    let asked = match answer {
        NotifyAnswer::Answered { status: 200..=299, .. } => return Next::Done,
        NotifyAnswer::Answered { status: 410, .. } => return Next::Disable,
        NotifyAnswer::Refused { .. } => return Next::GiveUp,
        NotifyAnswer::Answered { retry_after, .. } => retry_after.as_deref().and_then(|field| wait_of(field, now)),
        NotifyAnswer::Unreachable { .. } | NotifyAnswer::Unavailable { .. } => None,
    };
    match WAITS.get(number as usize) {
        Some(wait) => {
            let jittered = wait.mul_f64(0.8 + 0.4 * chance.clamp(0.0, 1.0));
            let wait = jittered.max(asked.unwrap_or_default().min(RETRY_AFTER_MAX));
            Next::Retry(now.checked_add(wait).unwrap_or(Timestamp::MAX))
        }
        None => Next::GiveUp,
    }
}

/// How the endpoint fares after an attempt. What went wrong on our side says nothing about it.
pub fn after(before: Option<Failing>, answer: &NotifyAnswer, now: Timestamp) -> Option<Failing> {
    match answer {
        NotifyAnswer::Answered { status: 200..=299, .. } => None,
        NotifyAnswer::Answered { .. } | NotifyAnswer::Unreachable { .. } => match before {
            Some(Failing { failures, since }) => Some(Failing { failures: failures.saturating_add(1), since }),
            None => Some(Failing { failures: 1, since: now }),
        },
        NotifyAnswer::Refused { .. } | NotifyAnswer::Unavailable { .. } => before,
    }
}

/// Whether an endpoint has failed so often and for so long that it is paused.
pub fn is_hopeless(failing: Failing, now: Timestamp) -> bool {
    let lasted = now.duration_since(failing.since);
    HOPELESS.iter().any(|(failures, time)| failing.failures >= *failures && lasted >= *time)
}

/// `Retry-After`: seconds or a date (RFC 9110 s10.2.3).
fn wait_of(field: &str, now: Timestamp) -> Option<Duration> {
    let field = field.trim();
    if let Ok(seconds) = field.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = jiff::fmt::rfc2822::DateTimeParser::new().relaxed_weekday(true).parse_timestamp(field).ok()?;
    at.duration_since(now).try_into().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).unwrap()
    }

    fn answered(status: u16, retry_after: Option<&str>) -> NotifyAnswer {
        NotifyAnswer::Answered { status, retry_after: retry_after.map(str::to_owned), head: String::new() }
    }

    #[test]
    fn statuses_and_what_follows() {
        let check = |answer: NotifyAnswer, expect: Next| {
            assert_eq!(judge(1, &answer, at(0), 0.5), expect, "{answer:?}");
        };
        let again = Next::Retry(at(5));
        check(answered(200, None), Next::Done);
        check(answered(204, None), Next::Done);
        check(answered(301, None), again);
        check(answered(404, None), again);
        check(answered(410, None), Next::Disable);
        check(answered(500, None), again);
        check(NotifyAnswer::Unreachable { cause: "x".to_owned() }, again);
        check(NotifyAnswer::Unavailable { cause: "x".to_owned() }, again);
        check(NotifyAnswer::Refused { text: "x".to_owned() }, Next::GiveUp);
        check(answered(503, Some("120")), Next::Retry(at(120)));
        check(answered(503, Some("1")), again);
        check(answered(503, Some("99999999999")), Next::Retry(at(86_400)));
        check(answered(503, Some("Tue, 14 Nov 2023 22:15:20 GMT")), Next::Retry(at(120)));
        check(answered(503, Some("Tue, 14 Nov 2022 22:15:20 GMT")), again);
        check(answered(503, Some("soon")), again);
    }

    #[test]
    fn waits_between_attempts() {
        let failed = answered(500, None);
        let waits: Vec<i64> = (1..10)
            .map(|number| match judge(number, &failed, at(0), 0.5) {
                Next::Retry(due) => due.duration_since(at(0)).as_secs(),
                other => panic!("{other:?}"),
            })
            .collect();
        let minute = 60;
        let hour = 60 * minute;
        assert_eq!(waits, [5, 5 * minute, 30 * minute, 2 * hour, 5 * hour, 10 * hour, 14 * hour, 20 * hour, 24 * hour]);
        assert_eq!(judge(10, &failed, at(0), 0.5), Next::GiveUp);
        assert_eq!(judge(2, &failed, at(0), 0.0), Next::Retry(at(4 * minute)));
        assert_eq!(judge(2, &failed, at(0), 1.0), Next::Retry(at(6 * minute)));
    }

    #[test]
    fn endpoints_without_hope() {
        let failing = |failures| Failing { failures, since: at(0) };
        let day = 86_400;
        assert!(!is_hopeless(failing(99), at(day)));
        assert!(!is_hopeless(failing(100), at(day - 1)));
        assert!(is_hopeless(failing(100), at(day)));
        assert!(!is_hopeless(failing(9), at(6 * day)));
        assert!(is_hopeless(failing(10), at(5 * day)));
        let failed = answered(500, None);
        assert_eq!(after(None, &failed, at(7)), Some(Failing { failures: 1, since: at(7) }));
        assert_eq!(after(Some(failing(3)), &failed, at(7)), Some(failing(4)));
        assert_eq!(after(Some(failing(3)), &answered(200, None), at(7)), None);
        let ours = NotifyAnswer::Unavailable { cause: String::new() };
        assert_eq!(after(Some(failing(3)), &ours, at(7)), Some(failing(3)));
    }
}
