//! `posthaste status`: whether a host runs, and how it does.

use http::Method;

use super::directory::{duration, waiting};
use super::link::Link;
use super::{Failure, Target, say};
use crate::api::control::status::Status;
use crate::api::control::vitals::Vitals;

/// Prints the description of the control API, as JSON.
pub(super) async fn openapi(target: &Target) -> Result<(), Failure> {
    let document: serde_json::Value = Link::open(target).await?.call(Method::GET, "openapi.json", &()).await?;
    say(serde_json::to_string_pretty(&document).map_err(|error| Failure::Refused(error.to_string()))?)
}

/// Prints it; exit code 1 where no host runs.
pub(super) async fn run(target: &Target) -> Result<(), Failure> {
    let link = Link::open(target).await?;
    let status: Status = link.call(Method::GET, "status", &()).await?;
    match status.uptime_s {
        Some(uptime_s) => say(format_args!("running   {} (posthaste {})", duration(uptime_s), status.version))?,
        None => say(format_args!("stopped   no host runs on this data folder (posthaste {})", status.version))?,
    }
    say(format_args!("hostname  {}", status.hostname))?;
    for address in &status.http {
        say(format_args!("http      {address}"))?;
    }
    for address in &status.smtp {
        say(format_args!("smtp      {address}"))?;
    }
    say(format_args!("queue     {}", waiting(status.queued)))?;
    status.vitals.as_ref().map_or(Vec::new(), lines).iter().try_for_each(say)?;
    if link.is_live() { Ok(()) } else { Err(Failure::Told) }
}

/// How a host does, a fact a line.
fn lines(vitals: &Vitals) -> Vec<String> {
    let rates = &vitals.rates;
    let mut lines = vec![format!(
        "rates     accepted {}, delivered {}, deferred {}, bounced {}, failed {} a second (last {} s)",
        rate(rates.accepted),
        rate(rates.delivered),
        rate(rates.deferred),
        rate(rates.bounced),
        rate(rates.failed),
        rates.over_s.round(),
    )];
    if let Some(bytes) = vitals.memory_bytes {
        let limit = match vitals.memory_limit_bytes {
            0..=MOST_SHOWN => format!(" of {}", size(vitals.memory_limit_bytes)),
            _ => String::new(),
        };
        lines.push(format!("memory    {}{limit}", size(bytes)));
    }
    if let Some(free) = vitals.disk_free_bytes {
        lines.push(format!("disk      {} free, {} kept for deliveries", size(free), size(vitals.disk_reserve_bytes)));
    }
    for site in &vitals.slowest {
        lines.push(format!(
            "site      {:.2} s a message at {} ({} tried, {} deferred)",
            site.seconds_per_attempt, site.site, site.attempts, site.deferred
        ));
    }
    for one in &vitals.failing {
        lines.push(format!(
            "TROUBLE   the {} {} failed in {} of {} calls: see the log",
            one.stage, one.component, one.failed, one.calls
        ));
    }
    lines.extend(vitals.obstacles.iter().map(|text| format!("TROUBLE   {text}")));
    lines.extend(vitals.refusing.iter().map(|text| format!("TROUBLE   no new mail is taken: {text}")));
    lines
}

/// More is no limit.
const MOST_SHOWN: u64 = 1 << 50;

/// `0`, `0.3`, `12`.
fn rate(per_second: f64) -> String {
    match per_second {
        0.0 => "0".to_owned(),
        ..10.0 => format!("{per_second:.1}"),
        _ => format!("{per_second:.0}"),
    }
}

fn size(bytes: u64) -> String {
    match bytes {
        0..1_000_000_000 => format!("{} MB", bytes / 1_000_000),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{Failing, Rates, SiteFigures};

    #[test]
    fn what_is_wrong_stands_out() {
        let rates = Rates { over_s: 60.2, accepted: 12.6, delivered: 0.25, ..Rates::default() };
        let mut vitals = Vitals {
            rates,
            slowest: Vec::new(),
            failing: Vec::new(),
            obstacles: Vec::new(),
            refusing: None,
            memory_bytes: Some(90_000_000),
            memory_limit_bytes: 8_000_000_000,
            disk_free_bytes: Some(12_340_000_000),
            disk_reserve_bytes: 67_000_000,
        };
        let text = lines(&vitals).join("\n");
        assert_eq!(
            text,
            "rates     accepted 13, delivered 0.2, deferred 0, bounced 0, failed 0 a second (last 60 s)\n\
             memory    90 MB of 8.0 GB\n\
             disk      12.3 GB free, 67 MB kept for deliveries"
        );
        let site = SiteFigures { site: "mx.a.test".to_owned(), attempts: 3, deferred: 1, seconds_per_attempt: 2.5 };
        let stage = Failing { stage: "signer".to_owned(), component: "0123".to_owned(), calls: 9, failed: 2 };
        (vitals.slowest, vitals.failing) = (vec![site], vec![stage]);
        vitals.refusing = Some("the disk is full".to_owned());
        let text = lines(&vitals).join("\n");
        assert!(text.contains("site      2.50 s a message at mx.a.test (3 tried, 1 deferred)"), "{text}");
        assert!(text.contains("TROUBLE   the signer 0123 failed in 2 of 9 calls"), "{text}");
        assert!(text.ends_with("TROUBLE   no new mail is taken: the disk is full"), "{text}");
    }
}
