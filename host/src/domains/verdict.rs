//! What looks at a domain's records come to: its status, and what is told of what changed. Pure.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::{Look, UPDATED};
use crate::keyring::{DnsRecord, Purpose};
use crate::published::{RecordStatus, Verdict};
use crate::queue::policy::later;
use crate::store::{DomainStatus, KeyState, SendingDomain, TenantEvent, Verification};

/// A domain that was verified stays so, where nobody asks, until its records were missing or wrong for so long: a name
/// server that loses a zone for an hour must not stop mail.
pub const GRACE: Duration = Duration::from_secs(72 * 60 * 60);

/// Records that an event tells of, and characters of what it says of each: an event's data is small.
const TOLD: usize = 6;
const TOLD_CHARS: usize = 160;

/// What a look found, with the status of the domain by the records that the host's own mail cannot be verified without.
pub fn judge(
    before: Option<&Verification>,
    records: &[DnsRecord],
    verdicts: Vec<Verdict>,
    look: Look,
    now: Timestamp,
) -> Verification {
    let was = before.map_or(DomainStatus::NotStarted, |before| before.status);
    let needed: Vec<&Verdict> = needed(records).filter_map(|record| of(&verdicts, &record.name)).collect();
    let has = |status| needed.iter().any(|verdict| verdict.status == status);
    let found = match () {
        () if has(RecordStatus::Failed) => DomainStatus::Failed,
        () if has(RecordStatus::Pending) || needed.is_empty() => DomainStatus::Pending,
        () if has(RecordStatus::TemporaryFailure) => was,
        () => DomainStatus::Verified,
    };
    // One time for all of them: fresh keys, whose records nobody has seen, begin no new grace.
    let is_whole = !needed.is_empty() && needed.iter().all(|verdict| verdict.settled() == Some(RecordStatus::Verified));
    let lost_before = before.and_then(|before| before.lost_since);
    let lost_since = if is_whole { None } else { Some(lost_before.unwrap_or(now)) };
    let is_lately = lost_since.is_none_or(|since| now < later(since, GRACE));
    let status = match (was, look) {
        (DomainStatus::Verified, Look::Due) if is_lately => was,
        _ => found,
    };
    Verification { status, checked_at: now, records: verdicts, lost_since }
}

/// Keys that the host signs with. What an edge signs with is told as well, but mail of the host needs no edge's record.
pub fn needed(records: &[DnsRecord]) -> impl Iterator<Item = &DnsRecord> {
    records.iter().filter(|record| record.purpose == Purpose::Dkim && record.state == Some(KeyState::Active))
}

/// The verdict on a record.
pub fn of<'a>(verdicts: &'a [Verdict], name: &str) -> Option<&'a Verdict> {
    verdicts.iter().find(|verdict| verdict.name == name)
}

/// What is other than before.
#[derive(Debug)]
pub struct Changes<'a> {
    was: DomainStatus,
    status: DomainStatus,
    records: Vec<(&'a Verdict, RecordStatus)>,
    /// Selector and state.
    keys: Vec<(String, KeyState)>,
}

impl<'a> Changes<'a> {
    /// What a look changed. A first look that finds nothing published is no news.
    pub fn between(
        domain: &SendingDomain,
        before: Option<&Verification>,
        found: &'a Verification,
        steps: &[(String, KeyState, KeyState)],
    ) -> Changes<'a> {
        let mut records = Vec::new();
        for verdict in &found.records {
            let was = before.and_then(|before| of(&before.records, &verdict.name)).and_then(Verdict::settled);
            if let (Some(was), Some(is)) = (was, verdict.settled())
                && was != is
            {
                records.push((verdict, was));
            }
        }
        let was = before.map_or(DomainStatus::NotStarted, |before| before.status);
        Changes { was, status: found.status, records, ..Changes::of_keys(domain, steps) }
    }

    /// What somebody changed of the keys of a domain that was never looked at.
    pub fn of_keys(domain: &SendingDomain, steps: &[(String, KeyState, KeyState)]) -> Changes<'a> {
        let selector = |id: &str| domain.keys.iter().find(|key| key.id == id).map(|key| key.selector.clone());
        // That a record stays a day longer is no news.
        let stepped = steps.iter().filter(|(_, from, to)| from.name() != to.name());
        let keys = stepped.filter_map(|(id, _, to)| Some((selector(id)?, *to))).collect();
        let status = domain.status();
        Changes { was: status, status, records: Vec::new(), keys }
    }

    pub fn is_empty(&self) -> bool {
        let first = self.was == DomainStatus::NotStarted && self.status == DomainStatus::Pending;
        (self.was == self.status || first) && self.records.is_empty() && self.keys.is_empty()
    }

    /// The event that tells it.
    pub fn event(&self, domain: &SendingDomain) -> TenantEvent {
        let record = |(verdict, was): &(&Verdict, RecordStatus)| {
            let message: String = verdict.detail.chars().take(TOLD_CHARS).collect();
            json!({ "name": verdict.name, "status": verdict.status, "previous_status": was, "message": message })
        };
        let key = |(selector, state): &(String, KeyState)| {
            let mut told = Map::new();
            told.insert("selector".to_owned(), json!(selector));
            told.insert("state".to_owned(), json!(state.name()));
            if let KeyState::Retiring { until, .. } = state {
                told.insert("retire_at".to_owned(), json!(until));
            }
            Value::Object(told)
        };
        TenantEvent::new(
            UPDATED,
            [
                ("id", json!(domain.id.to_string())),
                ("name", json!(domain.domain.as_str())),
                ("status", json!(self.status)),
                ("previous_status", json!(self.was)),
                ("can_send", json!(domain.may_send())),
                ("records", self.records.iter().take(TOLD).map(record).collect()),
                ("keys", self.keys.iter().take(TOLD).map(key).collect()),
            ],
        )
    }
}
