//! `scheduled_at`: an ISO 8601 time with its offset, or `in 5 minutes`, to milliseconds since 1970.
//!
//! A text that could mean two moments is refused: a time without an offset, `tomorrow at nine`.

use delivery_client::wire::SCHEDULE_DAYS;

use crate::json::{JsonError, Value};

/// A time this far back is taken for now: clocks differ, and requests take a while.
const PAST_S: i64 = 60;
/// So much more than the limit is let through: whoever counted 30 days from now has another clock, and so has the host.
const AHEAD_S: i64 = 300;
const DAY_S: i64 = 86_400;
const FORMS: &str = "write a time such as 2026-12-01T10:00:00Z, with `Z` or an offset, or `in 5 minutes`";

/// When a message is to be sent, in milliseconds since 1970; `None` for at once.
pub fn read(value: &Value<'_>, now_s: u64) -> Result<Option<i64>, JsonError> {
    let text = value.string()?;
    let text = text.trim();
    let now_ms = i64::try_from(now_s).unwrap_or(i64::MAX / 1000).saturating_mul(1000);
    let at_ms = match from_now(text) {
        Some(wait_s) => now_ms.saturating_add(wait_s.saturating_mul(1000)),
        None => moment(text).ok_or_else(|| value.wrong(format!("it is no time to send at: {FORMS}")))?,
    };
    if at_ms < now_ms - PAST_S * 1000 {
        return Err(value.wrong("the time is past: leave it out to send at once"));
    }
    if at_ms > now_ms.saturating_add((SCHEDULE_DAYS * DAY_S + AHEAD_S) * 1000) {
        return Err(value.wrong(format!("the time is more than {SCHEDULE_DAYS} days ahead, which is the limit")));
    }
    Ok((at_ms > now_ms).then_some(at_ms))
}

/// The time as RFC 3339, in UTC.
pub fn iso(at_ms: i64) -> String {
    let (day, ms) = (at_ms.div_euclid(DAY_S * 1000), at_ms.rem_euclid(DAY_S * 1000));
    let (year, month, date) = civil(day);
    let (s, ms) = (ms / 1000, ms % 1000);
    format!("{year:04}-{month:02}-{date:02}T{:02}:{:02}:{:02}.{ms:03}Z", s / 3600, s / 60 % 60, s % 60)
}

/// Seconds of `in 5 minutes`, `in 1 min`, `in an hour`.
fn from_now(text: &str) -> Option<i64> {
    let text = text.to_ascii_lowercase();
    let mut words = text.split_ascii_whitespace();
    let (Some("in"), Some(count), Some(unit), None) = (words.next(), words.next(), words.next(), words.next()) else {
        return None;
    };
    let count: i64 = match count {
        "a" | "an" | "one" => 1,
        digits if digits.len() <= 9 && digits.bytes().all(|byte| byte.is_ascii_digit()) => digits.parse().ok()?,
        _ => return None,
    };
    let unit_s = match unit.strip_suffix('s').unwrap_or(unit) {
        "sec" | "second" => 1,
        "min" | "minute" => 60,
        "hr" | "hour" => 3600,
        "day" => DAY_S,
        "week" => 7 * DAY_S,
        _ => return None,
    };
    Some(count * unit_s)
}

/// `2026-12-01T10:00:00.250+01:00`; seconds may lack, a blank may stand for the `T`.
fn moment(text: &str) -> Option<i64> {
    let (date, rest) = text.split_at_checked(10)?;
    let mut parts = date.split('-');
    let (year, month, day) = (number(parts.next()?, 4)?, number(parts.next()?, 2)?, number(parts.next()?, 2)?);
    let time = rest.strip_prefix(['T', 't', ' '])?;
    let at = time.find(['Z', 'z', '+', '-', ' '])?;
    let (time, offset) = time.split_at(at);
    let offset_s = offset_s(offset.trim_start())?;
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let mut parts = time.split(':');
    let (hour, minute) = (number(parts.next()?, 2)?, number(parts.next()?, 2)?);
    let second = match parts.next() {
        Some(second) => number(second, 2)?,
        None if fraction == "0" => 0,
        None => return None,
    };
    if parts.next().is_some() || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    if !(1..=9).contains(&fraction.len()) || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let ms = number(format!("{fraction:0<3}").get(..3)?, 3)?;
    let days = days(year, month, day)?;
    Some((days * DAY_S + hour * 3600 + minute * 60 + second - offset_s) * 1000 + ms)
}

/// Seconds east of UTC: `Z`, `+01:00`, `+0100`, `+01`.
fn offset_s(text: &str) -> Option<i64> {
    if text.eq_ignore_ascii_case("z") {
        return Some(0);
    }
    let sign = if text.starts_with('+') { 1 } else { -1 };
    let digits = text.strip_prefix(['+', '-'])?;
    let (hours, minutes) = match digits.len() {
        2 => (digits, "00"),
        4 => digits.split_at_checked(2)?,
        _ => digits.split_once(':')?,
    };
    let (hours, minutes) = (number(hours, 2)?, number(minutes, 2)?);
    (hours <= 23 && minutes <= 59).then_some(sign * (hours * 3600 + minutes * 60))
}

fn number(text: &str, digits: usize) -> Option<i64> {
    (text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok()).flatten()
}

/// Days since 1970 of a date of the Gregorian calendar; `None` where there is no such date.
fn days(year: i64, month: i64, day: i64) -> Option<i64> {
    // Years begin with March here, so that the leap day is the last.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let before = y * 365 + y.div_euclid(4) - y.div_euclid(100) + y.div_euclid(400) + (153 * m + 2) / 5;
    let days = before + day - 1 - EPOCH;
    (civil(days) == (year, month, day)).then_some(days)
}

/// Days from the first of March of year 0 to 1970.
const EPOCH: i64 = 719_468;

/// Year, month and day of a day since 1970.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + EPOCH;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let m = (5 * of_year + 2) / 153;
    let day = of_year - (153 * m + 2) / 5 + 1;
    let month = if m < 10 { m + 3 } else { m - 9 };
    (era * 400 + year + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::json::Fields;

    /// 2026-11-22T10:00:00Z.
    const NOW_S: u64 = 1_795_341_600;

    fn ask(text: &str) -> Result<Option<i64>, JsonError> {
        let json = serde_json::json!({ "scheduled_at": text }).to_string();
        read(&Fields::read(json.as_bytes()).unwrap().take("scheduled_at").unwrap(), NOW_S)
    }

    #[test]
    fn times_as_people_write_them() {
        let check = |text: &str, expect: &str| {
            assert_eq!(ask(text).unwrap().map(iso).as_deref(), Some(expect), "{text}");
        };
        check("2026-12-01T10:00:00Z", "2026-12-01T10:00:00.000Z");
        check("2026-12-01T10:00:00.25Z", "2026-12-01T10:00:00.250Z");
        check("2026-12-01T10:00:00.123456+00:00", "2026-12-01T10:00:00.123Z");
        check("2026-12-01T10:00+01:00", "2026-12-01T09:00:00.000Z");
        check("2026-12-01 10:00:00 -0530", "2026-12-01T15:30:00.000Z");
        check(" 2026-12-01t00:30:00+02 ", "2026-11-30T22:30:00.000Z");
        check("in 1 min", "2026-11-22T10:01:00.000Z");
        check("in 45 seconds", "2026-11-22T10:00:45.000Z");
        check("In an Hour", "2026-11-22T11:00:00.000Z");
        check("in 2 days", "2026-11-24T10:00:00.000Z");
        check("in 1 week", "2026-11-29T10:00:00.000Z");
        check("in 30 days", "2026-12-22T10:00:00.000Z");
        check("2026-12-22T10:05:00Z", "2026-12-22T10:05:00.000Z");
    }

    #[test]
    fn now_is_no_schedule() {
        for text in ["2026-11-22T10:00:00Z", "2026-11-22T09:59:30Z", "in 0 minutes"] {
            assert_eq!(ask(text), Ok(None), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let check = |text: &str, words: &str| match ask(text) {
            Err(JsonError::Wrong(path, why)) => {
                assert_eq!(path, "scheduled_at");
                assert!(why.contains(words), "{text}: {why}");
            }
            other => unreachable!("{text}: {other:?}"),
        };
        for text in [
            "",
            "soon",
            "tomorrow at 9am",
            "in",
            "in five minutes",
            "in 5",
            "in 5 minutes please",
            "in -5 minutes",
            "in 5 fortnights",
            "2026-12-01",
            "2026-12-01T10:00:00",
            "2026-02-30T10:00:00Z",
            "2026-13-01T10:00:00Z",
            "2026-12-01T24:00:00Z",
            "2026-12-01T10:60:00Z",
            "2026-12-01T10:00:00.Z",
            "2026-12-01T10:00:00+1",
            "1795341600",
            "2026-12-01T10:00:00.1x3Z",
            "2026-12-01T10:00:00+24:00",
            "２０２６-12-01T10:00:00Z",
            "2026-12-01T10Z",
        ] {
            check(text, "it is no time to send at");
        }
        check("2026-11-22T09:58:59Z", "past");
        check("1999-01-01T00:00:00Z", "past");
        check("2026-12-22T10:05:01Z", "more than 30 days ahead");
        check("in 31 days", "more than 30 days ahead");
        check("in 999999999 weeks", "more than 30 days ahead");
    }

    #[test]
    fn no_text_panics() {
        for text in ["2026-12-01T10:00:00.250+01:00", "in 5 minutes", "２０-é1T１0:é0:00.éé+é1"] {
            let chars: Vec<char> = text.chars().collect();
            for at in 0..=chars.len() {
                let (before, behind) = chars.split_at(at);
                let _ = ask(&before.iter().collect::<String>());
                for odd in ['é', '字', '.', ':', '-', '+', ' ', '0', '\0', 'Z'] {
                    let inserted: String = before.iter().chain([&odd]).chain(behind).collect();
                    let replaced: String = before.iter().chain([&odd]).chain(behind.iter().skip(1)).collect();
                    let _ = (ask(&inserted), ask(&replaced));
                }
            }
        }
    }

    #[test]
    fn days_and_dates_agree() {
        for day in (-800_000..800_000).step_by(37) {
            let (year, month, date) = civil(day);
            assert_eq!(days(year, month, date), Some(day));
        }
        assert_eq!((civil(0), civil(11_016), civil(20_513)), ((1970, 1, 1), (2000, 2, 29), (2026, 3, 1)));
        assert_eq!((days(2026, 2, 29), days(2100, 2, 29), days(2000, 2, 29)), (None, None, Some(11_016)));
    }
}
