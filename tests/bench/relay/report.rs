//! The figures as lines for people, and whether the aim is met.

use super::load::{Measured, Sessions};
use super::machine;

/// One round of one relay.
pub struct Row {
    pub relay: &'static str,
    pub sessions: Sessions,
    pub result: Measured,
    pub fsyncs: f64,
}

/// One figure of a round.
type Figure = fn(&Row) -> f64;

/// What the run shows.
pub struct Verdict {
    pub lines: Vec<String>,
    /// Unsigned mail is taken and delivered no slower than by Postfix; true where there was no comparison.
    pub met: bool,
}

/// The figures of one round.
pub fn line(relay: &str, sessions: Sessions, result: &Measured, fsyncs: f64) -> String {
    format!(
        "{relay:<20} {:<5} accept {:>6.0}/s  end to end {:>6.0}/s  CPU {:>5.2} ms  RSS {:>4} MB  fsync {fsyncs:>6.0}/s  load {:.1}",
        sessions.name(),
        result.accepted_per_second,
        result.delivered_per_second,
        result.cpu_ms_per_message,
        result.resident_bytes / 1_000_000,
        machine::load(),
    )
}

/// One line for each relay and way of using sessions: the medians of its rounds.
pub fn table(rows: &[Row]) -> Vec<String> {
    let mut lines = Vec::new();
    let mut done: Vec<(&str, Sessions)> = Vec::new();
    for row in rows {
        if done.contains(&(row.relay, row.sessions)) {
            continue;
        }
        done.push((row.relay, row.sessions));
        let of = |figure: Figure| median(rows, row.relay, row.sessions, figure).unwrap_or(0.0);
        let result = Measured {
            accepted_per_second: of(|row| row.result.accepted_per_second),
            delivered_per_second: of(|row| row.result.delivered_per_second),
            cpu_ms_per_message: of(|row| row.result.cpu_ms_per_message),
            resident_bytes: row.result.resident_bytes,
        };
        lines.push(line(row.relay, row.sessions, &result, of(|row| row.fsyncs)));
    }
    lines
}

/// Compares unsigned mail with Postfix.
pub fn verdict(rows: &[Row]) -> Verdict {
    let mut verdict = Verdict { lines: Vec::new(), met: true };
    let figures: [(&str, Figure); 2] =
        [("accept", |row| row.result.accepted_per_second), ("end to end", |row| row.result.delivered_per_second)];
    for sessions in [Sessions::Kept, Sessions::New] {
        for (name, figure) in figures {
            let ours = median(rows, "posthaste", sessions, figure);
            let theirs = median(rows, "postfix", sessions, figure);
            if let (Some(ours), Some(theirs)) = (ours, theirs) {
                let ratio = ours / theirs;
                verdict.met &= ratio >= 1.0;
                verdict.lines.push(format!("posthaste / postfix, {} sessions, {name}: {ratio:.2}", sessions.name()));
            }
        }
    }
    verdict
}

fn median(rows: &[Row], relay: &str, sessions: Sessions, figure: Figure) -> Option<f64> {
    let mut values: Vec<f64> =
        rows.iter().filter(|row| row.relay == relay && row.sessions == sessions).map(figure).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}
