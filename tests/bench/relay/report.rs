//! The figures as lines for people, and whether the bars are met.

use super::latency::Latency;
use super::load::{Measured, Sessions};
use super::machine::{self, SyncTimes};
use super::relays::{POSTFIX, POSTFIX_SIGNING, POSTHASTE, POSTHASTE_SIGNING};

/// The bars: CPU and latency at most this part of Postfix', messages a second at least so many times as many.
const COST: f64 = 0.25;
const RATE: f64 = 4.0;

/// One round of one relay.
pub struct Row {
    pub relay: &'static str,
    /// Sessions at once.
    pub count: u32,
    pub sessions: Sessions,
    pub result: Measured,
    pub fsyncs: f64,
}

/// One figure of a round.
type Figure = fn(&Row) -> f64;

/// What the run shows.
pub struct Verdict {
    pub lines: Vec<String>,
    /// True where there was no comparison.
    pub met: bool,
}

/// The figures of one round.
pub fn line(row: &Row) -> String {
    let Row { relay, count, sessions, result, fsyncs } = row;
    format!(
        "{relay:<20} {count:>4} {:<5} accept {:>6.0}/s  end to end {:>6.0}/s  CPU {:>5.2} ms  RSS {:>4} MB  fsync {fsyncs:>6.0}/s  load {:.1}",
        sessions.name(),
        result.accepted_per_second,
        result.delivered_per_second,
        result.cpu_ms_per_message,
        result.resident_bytes / 1_000_000,
        machine::load(),
    )
}

/// The latencies of one relay; `load` says what its rate is.
pub fn latency_line(relay: &str, seen: &Latency, load: &str) -> String {
    format!(
        "{relay:<20} dot to 250 at {:>5.0}/s ({load}): p50 {:>7.2} ms  p99 {:>7.2} ms  most {:>7.2} ms  ({} messages)",
        seen.per_second, seen.p50_ms, seen.p99_ms, seen.most_ms, seen.messages,
    )
}

/// What the disk itself takes, without a relay.
pub fn sync_line(what: &str, SyncTimes { p50_ms, p99_ms, p999_ms, most_ms }: SyncTimes) -> String {
    format!("{what}: p50 {p50_ms:.2} ms  p99 {p99_ms:.2} ms  p99.9 {p999_ms:.2} ms  most {most_ms:.2} ms")
}

/// One line for each relay and way of using sessions: the medians of its rounds.
pub fn table(rows: &[Row]) -> Vec<String> {
    let mut lines = Vec::new();
    let mut done: Vec<(&str, u32, Sessions)> = Vec::new();
    for row in rows {
        let case = (row.relay, row.count, row.sessions);
        if done.contains(&case) {
            continue;
        }
        done.push(case);
        let of = |figure: Figure| median(rows, case, figure).unwrap_or(0.0);
        let result = Measured {
            accepted_per_second: of(|row| row.result.accepted_per_second),
            delivered_per_second: of(|row| row.result.delivered_per_second),
            cpu_ms_per_message: of(|row| row.result.cpu_ms_per_message),
            resident_bytes: row.result.resident_bytes,
        };
        let (relay, count, sessions) = case;
        lines.push(line(&Row { relay, count, sessions, result, fsyncs: of(|row| row.fsyncs) }));
    }
    lines
}

/// Compares with Postfix, unsigned mail and signed.
pub fn verdict(rows: &[Row], latencies: &[(&'static str, Latency)]) -> Verdict {
    let mut verdict = Verdict { lines: Vec::new(), met: true };
    let mut counts: Vec<u32> = rows.iter().map(|row| row.count).collect();
    counts.sort_unstable();
    counts.dedup();
    let end_to_end: Figure = |row| row.result.delivered_per_second;
    let cpu: Figure = |row| row.result.cpu_ms_per_message;
    for (what, ours, theirs) in [("unsigned", POSTHASTE, POSTFIX), ("RSA-signed", POSTHASTE_SIGNING, POSTFIX_SIGNING)] {
        for &count in &counts {
            for sessions in [Sessions::Kept, Sessions::New] {
                let name = format!("{what}, {count} {} sessions", sessions.name());
                let ratio = |figure: Figure| {
                    let ours = median(rows, (ours, count, sessions), figure)?;
                    let theirs = median(rows, (theirs, count, sessions), figure)?;
                    Some(ours / theirs)
                };
                verdict.at_least(&format!("{name}, end to end"), ratio(end_to_end), RATE);
                // What signing costs is the signature's own price on either side.
                if ours == POSTHASTE {
                    verdict.at_most(&format!("{name}, CPU a message"), ratio(cpu), COST);
                }
            }
        }
    }
    let p99 = |relay| latencies.iter().find(|(name, _)| *name == relay).map(|(_, latency)| latency.p99_ms);
    let ratio = p99(POSTHASTE).zip(p99(POSTFIX)).map(|(ours, theirs)| ours / theirs);
    verdict.at_most("unsigned, p99 from dot to 250 at half of full rate", ratio, COST);
    verdict
}

impl Verdict {
    fn at_least(&mut self, name: &str, ratio: Option<f64>, bar: f64) {
        let Some(ratio) = ratio else { return };
        self.judge(name, ratio, ratio >= bar, &format!("at least {bar}"));
    }

    fn at_most(&mut self, name: &str, ratio: Option<f64>, bar: f64) {
        let Some(ratio) = ratio else { return };
        self.judge(name, ratio, ratio <= bar, &format!("at most {bar}"));
    }

    fn judge(&mut self, name: &str, ratio: f64, is_met: bool, bar: &str) {
        self.met &= is_met;
        let mark = if is_met { "met   " } else { "MISSED" };
        self.lines.push(format!("{mark} posthaste / postfix: {ratio:.2} ({bar}): {name}"));
    }
}

fn median(rows: &[Row], (relay, count, sessions): (&str, u32, Sessions), figure: Figure) -> Option<f64> {
    let of_case = |row: &&Row| row.relay == relay && row.count == count && row.sessions == sessions;
    let mut values: Vec<f64> = rows.iter().filter(of_case).map(figure).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}
