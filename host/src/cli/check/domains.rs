//! Whether the DNS records of the sending domains are published as we made them.

use std::sync::Arc;

use http::Method;

use super::super::Failure;
use super::super::link::Link;
use super::Finding;
use crate::api::control::Listing;
use crate::api::control::domains::{DnsRecord, DomainView};
use crate::config::Dns;
use crate::published::{self, Expected, RecordStatus, Records, Verdict};

/// One finding for each record; `None`: there is no store yet.
pub(super) async fn published(link: Option<Result<Link, Failure>>, dns: Dns) -> Vec<Finding> {
    let dns: Arc<dyn Records> = Arc::new(dns);
    let none = || {
        Finding::warn(
            "domains",
            "there is no sending domain yet",
            "add one: posthaste domain add example.com --config FILE",
        )
    };
    let domains = match link {
        None => return vec![none()],
        Some(Err(failure)) => return vec![Finding::fail("domains", failure.to_string(), "")],
        Some(Ok(link)) => link.call::<Listing<DomainView>>(Method::GET, "domains", &()).await,
    };
    let records: Vec<DnsRecord> = match domains {
        Ok(domains) if domains.data.is_empty() => return vec![none()],
        Ok(domains) => domains.data.into_iter().flat_map(|domain| domain.records).collect(),
        Err(failure) => return vec![Finding::fail("domains", failure.to_string(), "")],
    };
    // One that may be removed is nobody's to check.
    let records: Vec<DnsRecord> = records.into_iter().filter(|it| it.state.as_deref() != Some("retired")).collect();
    let expected = |record: &DnsRecord| Expected {
        name: record.name.clone(),
        purpose: record.purpose,
        value: record.value.clone(),
    };
    let expected: Vec<Expected> = records.iter().map(expected).collect();
    let verdicts = published::look(&dns, &expected).await;
    records.iter().zip(verdicts).map(|(record, verdict)| finding(record, &verdict)).collect()
}

/// A verdict as a line of the report. What mail can do without is no failure.
fn finding(record: &DnsRecord, verdict: &Verdict) -> Finding {
    let text = match record.state.as_deref() {
        Some(state @ ("pending" | "retiring")) => format!("{} ({state}) {}", verdict.name, verdict.detail),
        _ => format!("{} {}", verdict.name, verdict.detail),
    };
    let publish = format!("publish: {}", record.zone_line);
    match verdict.status {
        RecordStatus::Verified => Finding::ok("domains", text),
        RecordStatus::TemporaryFailure | RecordStatus::NotStarted => Finding::warn("domains", text, ""),
        RecordStatus::Pending | RecordStatus::Failed if record.required => Finding::fail("domains", text, publish),
        RecordStatus::Pending | RecordStatus::Failed => Finding::warn("domains", text, publish),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;
    use crate::keyring::Purpose;

    #[test]
    fn verdicts_become_lines() {
        let check = |required: bool, status: RecordStatus, level: Level, part: &str| {
            let record = DnsRecord {
                name: "s._domainkey.example.com".to_owned(),
                kind: "TXT".to_owned(),
                value: "v".to_owned(),
                zone_line: "s._domainkey.example.com. IN TXT \"v\"".to_owned(),
                required,
                purpose: Purpose::Dkim,
                state: None,
                note: None,
                status: None,
                message: None,
                since: None,
            };
            let detail = "is so".to_owned();
            let verdict = Verdict { name: record.name.clone(), status, detail, since: None, was: None };
            let finding = finding(&record, &verdict);
            assert_eq!(finding.level, level, "{finding}");
            assert!(finding.to_string().contains(part), "{finding}");
        };
        check(true, RecordStatus::Verified, Level::Ok, "s._domainkey.example.com is so");
        check(true, RecordStatus::Failed, Level::Fail, "publish: s._domainkey.example.com. IN TXT");
        check(true, RecordStatus::Pending, Level::Fail, "publish: ");
        check(false, RecordStatus::Failed, Level::Warn, "publish: ");
        check(true, RecordStatus::TemporaryFailure, Level::Warn, "is so");
    }
}
