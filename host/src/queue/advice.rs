//! What a peer's reply says of when to come again. Pure.

use std::time::Duration;

use mail::outcome::Phase;
use mail::{Outcome, Reply, Verdict};

/// When a deferred recipient is better tried than its schedule says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// Soon: what was refused for good was refused to this connection's source, or to one recipient too many.
    Soon,
    /// The peer wants to see the same sender, source and recipient once more, some minutes later.
    Greylisted,
    /// The peer named the time.
    After(Duration),
}

/// Words of greylisting servers.
const GREYLISTING: &[&str] = &["greylist", "graylist", "grey-list", "gray-list", "grey list", "postgrey"];
/// Words that stand before a time to wait, and how far before, in octets.
const WAITING: &[&str] = &["again", "retry", "try ", "wait", "come back", "greylist", "graylist", "resend"];
const WAITING_BEFORE: usize = 80;

/// The advice of an outcome that deferred its recipient.
pub fn advice(outcome: &Outcome) -> Option<Advice> {
    let reply = outcome.reply.as_ref()?;
    let in_transaction = matches!(outcome.phase, Phase::Mail | Phase::Recipient | Phase::Data);
    if outcome.verdict != Verdict::Deferred || !in_transaction {
        return None;
    }
    let text = reply.text.to_ascii_lowercase();
    if let Some(wait) = named_wait(&text) {
        return Some(Advice::After(wait));
    }
    if is_greylisting(reply, &text) {
        return Some(Advice::Greylisted);
    }
    let too_many = (outcome.status.subject, outcome.status.detail) == (5, 3);
    (reply.is_permanent() || too_many).then_some(Advice::Soon)
}

fn is_greylisting(reply: &Reply, text: &str) -> bool {
    let by_code =
        matches!(reply.code, 450 | 451) && reply.enhanced.is_some_and(|code| (code.subject, code.detail) == (7, 1));
    by_code || GREYLISTING.iter().any(|word| text.contains(word))
}

/// `try again in 5 minutes`, `greylisted for 300 seconds`, `come back in 00:05:00`; the text is lower case.
fn named_wait(text: &str) -> Option<Duration> {
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(start) = bytes[at..].iter().position(u8::is_ascii_digit).map(|found| at + found) {
        let end = start + bytes[start..].iter().take_while(|byte| byte.is_ascii_digit() || **byte == b':').count();
        let begins = start == 0 || matches!(bytes[start - 1], b' ' | b'(' | b'=' | b'\n');
        if begins && let Some(wait) = wait_at(&text[start..end], &text[end..]) {
            let before = &text[text.floor_char_boundary(start.saturating_sub(WAITING_BEFORE))..start];
            if WAITING.iter().any(|word| before.contains(word)) {
                return Some(wait);
            }
        }
        at = end;
    }
    None
}

/// A number and the unit behind it, or hours, minutes and seconds.
fn wait_at(number: &str, behind: &str) -> Option<Duration> {
    if number.contains(':') {
        let mut seconds = 0u64;
        let mut parts = 0;
        for part in number.trim_end_matches(':').split(':') {
            seconds = seconds.checked_mul(60)?.checked_add(part.parse().ok()?)?;
            parts += 1;
        }
        return (2..=3).contains(&parts).then_some(Duration::from_secs(seconds));
    }
    let number: u64 = number.parse().ok()?;
    let unit: String =
        behind.strip_prefix(' ').unwrap_or(behind).chars().take_while(char::is_ascii_lowercase).collect();
    let is_apart = behind.starts_with(' ');
    let seconds = match unit.as_str() {
        "s" if !is_apart => 1,
        "sec" | "secs" | "second" | "seconds" => 1,
        "m" if !is_apart => 60,
        "min" | "mins" | "minute" | "minutes" => 60,
        "h" if !is_apart => 3600,
        "hr" | "hrs" | "hour" | "hours" => 3600,
        _ => return None,
    };
    Some(Duration::from_secs(number.checked_mul(seconds)?))
}

#[cfg(test)]
mod tests {
    use mail::EnhancedCode;

    use super::*;

    fn of(code: u16, text: &str, phase: Phase) -> Option<Advice> {
        let (enhanced, rest) = EnhancedCode::split(text).map_or((None, text), |(code, rest)| (Some(code), rest));
        advice(&Outcome {
            verdict: Verdict::Deferred,
            phase,
            status: enhanced.unwrap_or(EnhancedCode::new(4, 0, 0)),
            remote_host: None,
            reply: Some(Reply::new(code, enhanced, rest)),
            text: String::new(),
            tls: None,
        })
    }

    #[track_caller]
    fn check(code: u16, text: &str, expect: Option<Advice>) {
        assert_eq!(of(code, text, Phase::Recipient), expect, "{code} {text}");
    }

    #[test]
    fn advice_of_real_replies() {
        let after = |seconds| Some(Advice::After(Duration::from_secs(seconds)));
        check(451, "4.7.1 Please try again in 300 seconds", after(300));
        check(450, "4.2.0 <a@b.test>: Greylisted for 5 minutes", after(300));
        check(451, "4.7.1 Greylisting in action, please come back in 00:05:00", after(300));
        check(451, "4.3.2 retry after 90s", after(90));
        check(421, "4.7.0 try again later (1 hour)", after(3600));
        check(451, "retry=2min", after(120));
        check(451, "wait 18446744073709551615 hours", None);
        check(451, "try again in 99999999999999999999 seconds", None);
        check(451, "try again in 5:", None);
        check(451, "4.7.1 Greylisting in action, please come back later", Some(Advice::Greylisted));
        check(450, "4.2.0 <a@b.test>: Recipient address rejected: Greylisted, see a page", Some(Advice::Greylisted));
        check(451, "4.7.1 not now", Some(Advice::Greylisted));
        check(452, "4.5.3 too many recipients", Some(Advice::Soon));
        check(550, "4.7.1 blocked using a list", Some(Advice::Soon));
        check(452, "4.2.2 the mailbox is full since 5 minutes", None);
        check(451, "4.3.0 internal error 17 seconds after start", None);
        check(450, "4.2.1 try again later", None);
        check(451, "\u{fc}\u{fc} try again in 5 min", after(300));
        assert_eq!(of(451, "4.7.1 try again in 300 seconds", Phase::Connect), None, "a site has a backoff of its own");
    }
}
