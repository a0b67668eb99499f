//! Whether a domain's DNS records are published as its owner was told to (RFC 6376 s3.6.2, RFC 7208, RFC 7489), and if
//! not, what is wrong with them. Asked by `domains` and by `posthaste check`.

mod alias;
mod key;
mod policy;
mod spf;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout_at};
use tokio_util::task::AbortOnDropHandle;
use utoipa::ToSchema;

use crate::config::Dns;
use crate::keyring::{DnsRecord, Purpose};
use crate::route::lookup::{Lookup, Texts};

/// Records asked for at once.
const AT_ONCE: usize = 8;

/// How long a look at all records of a domain may take.
const LOOK: Duration = Duration::from_secs(30);

/// Characters of somebody else's record that are shown.
const SHOWN_CHARS: usize = 200;

/// A record that should be there.
#[derive(Clone, Debug)]
pub struct Expected {
    /// Absolute, without a trailing dot.
    pub name: String,
    pub purpose: Purpose,
    pub value: String,
}

impl From<&DnsRecord> for Expected {
    fn from(record: &DnsRecord) -> Expected {
        Expected { name: record.name.clone(), purpose: record.purpose, value: record.value.clone() }
    }
}

/// How a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RecordStatus {
    NotStarted,
    /// Not there (yet).
    Pending,
    Verified,
    /// There and wrong.
    Failed,
    /// DNS did not answer.
    TemporaryFailure,
}

/// What was found of a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    pub name: String,
    pub status: RecordStatus,
    /// What is so, in words for its owner: begins behind the record's name.
    pub detail: String,
    /// Since when it is so, looks without an answer left out.
    #[serde(default)]
    pub since: Option<Timestamp>,
    /// Where DNS did not answer: what was found the last time it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub was: Option<RecordStatus>,
}

impl Verdict {
    fn new(name: &str, (status, detail): (RecordStatus, String)) -> Verdict {
        Verdict { name: name.to_owned(), status, detail, since: None, was: None }
    }

    /// What the last answer of DNS was; `None` before the first.
    pub fn settled(&self) -> Option<RecordStatus> {
        match self.status {
            RecordStatus::TemporaryFailure => self.was,
            RecordStatus::NotStarted => None,
            RecordStatus::Pending | RecordStatus::Verified | RecordStatus::Failed => Some(self.status),
        }
    }

    /// The verdict with its history: that of the record's verdict before.
    pub fn after(mut self, before: Option<&Verdict>, now: Timestamp) -> Verdict {
        let settled = before.and_then(Verdict::settled);
        if self.status == RecordStatus::TemporaryFailure {
            self.was = settled;
        }
        self.since = match before {
            Some(before) if self.settled() == settled => before.since.or(Some(now)),
            _ => Some(now),
        };
        self
    }
}

/// Where records are read.
#[async_trait]
pub trait Records: Send + Sync + 'static {
    /// The TXT records of a name. The error is for people: nobody answered.
    async fn texts(&self, name: &str) -> Result<Texts, String>;
    /// Its addresses, aliases followed.
    async fn addresses(&self, name: &str) -> Result<Vec<IpAddr>, String>;
}

/// The servers of the configuration, or the system's, with nothing kept from one question to the next.
#[async_trait]
impl Records for Dns {
    async fn texts(&self, name: &str) -> Result<Texts, String> {
        Lookup::new(self)?.text_records(name).await
    }

    async fn addresses(&self, name: &str) -> Result<Vec<IpAddr>, String> {
        Lookup::new(self)?.addresses(name).await
    }
}

/// Looks all records up, for half a minute at most; one verdict for each, in order.
pub async fn look(dns: &Arc<dyn Records>, records: &[Expected]) -> Vec<Verdict> {
    let end = Instant::now() + LOOK;
    let mut verdicts = Vec::with_capacity(records.len());
    for some in records.chunks(AT_ONCE) {
        let ask = |record: &Expected| AbortOnDropHandle::new(tokio::spawn(one(dns.clone(), record.clone())));
        let asked: Vec<_> = some.iter().map(ask).collect();
        for (answered, record) in asked.into_iter().zip(some) {
            verdicts.push(match timeout_at(end, answered).await {
                Ok(Ok(verdict)) => verdict,
                Ok(Err(error)) => unanswered(record, &error.to_string()),
                Err(_) => unanswered(record, &format!("no answer within {} seconds", LOOK.as_secs())),
            });
        }
    }
    verdicts
}

async fn one(dns: Arc<dyn Records>, record: Expected) -> Verdict {
    let texts = match dns.texts(&record.name).await {
        Ok(texts) => texts,
        Err(error) => return unanswered(&record, &error),
    };
    let judged = match record.purpose {
        Purpose::Dkim => Ok(key::judge(&record.value, &texts)),
        Purpose::Dmarc => Ok(policy::judge(&texts.records)),
        Purpose::Spf => spf::judge(&*dns, &record, &texts.records).await,
        Purpose::ReturnPath | Purpose::Tracking => alias::judge(&*dns, &record, &texts).await,
    };
    judged.map_or_else(|error| unanswered(&record, &error), |judged| Verdict::new(&record.name, judged))
}

fn unanswered(record: &Expected, error: &str) -> Verdict {
    Verdict::new(&record.name, (RecordStatus::TemporaryFailure, format!("could not be looked up: {error}")))
}

/// There and wrong.
fn failed(text: impl Into<String>) -> (RecordStatus, String) {
    (RecordStatus::Failed, text.into())
}

/// The records that begin with this version tag.
fn of_kind<'a>(kind: &str, records: &'a [String]) -> Vec<&'a str> {
    let is_of_kind = |text: &&str| {
        let text = text.trim_start();
        let start = text.get(..kind.len()).is_some_and(|start| start.eq_ignore_ascii_case(kind));
        start && text.get(kind.len()..).is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', ';', '\t']))
    };
    records.iter().map(String::as_str).filter(is_of_kind).collect()
}

/// A stranger's text for people.
fn shown(text: &str) -> String {
    text.chars().take(SHOWN_CHARS).collect::<String>().escape_debug().to_string()
}

/// The tags of a record without blanks, which receivers ignore (RFC 6376 s3.2).
fn tags(text: &str) -> Vec<String> {
    let tags = text.split(';').map(|tag| tag.chars().filter(|c| !c.is_whitespace()).collect::<String>());
    tags.filter(|tag| !tag.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(status: RecordStatus) -> Verdict {
        Verdict::new("x.test", (status, String::new()))
    }

    #[test]
    fn a_verdict_knows_since_when_it_stands() {
        use RecordStatus::{Pending, TemporaryFailure, Verified};
        let at = |second| Timestamp::from_second(second).unwrap_or_default();
        let first = verdict(Verified).after(None, at(1));
        let unanswered = verdict(TemporaryFailure).after(Some(&first), at(2));
        assert_eq!((unanswered.since, unanswered.settled()), (Some(at(1)), Some(Verified)), "nothing new is known");
        let again = verdict(Verified).after(Some(&unanswered), at(3));
        assert_eq!(again.since, Some(at(1)));
        let gone = verdict(Pending).after(Some(&again), at(4));
        assert_eq!((gone.since, gone.settled()), (Some(at(4)), Some(Pending)));
        assert_eq!(verdict(TemporaryFailure).after(None, at(5)).settled(), None);
    }

    /// A name server that never answers for names below `silent.test`, and knows no others.
    struct Silent;

    #[async_trait]
    impl Records for Silent {
        async fn texts(&self, name: &str) -> Result<Texts, String> {
            match name.ends_with("silent.test") {
                true => std::future::pending().await,
                false => Ok(Texts::default()),
            }
        }

        async fn addresses(&self, _: &str) -> Result<Vec<IpAddr>, String> {
            Ok(Vec::new())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_ends_though_nobody_answers() {
        use RecordStatus::{Pending, TemporaryFailure};
        let record = |number: usize| Expected {
            name: format!("{number}.{}.test", if number.is_multiple_of(2) { "silent" } else { "known" }),
            purpose: Purpose::Dkim,
            value: "v=DKIM1; p=AAAA".to_owned(),
        };
        let records: Vec<Expected> = (0..2 * AT_ONCE).map(record).collect();
        let began = Instant::now();
        let dns: Arc<dyn Records> = Arc::new(Silent);
        let verdicts = look(&dns, &records).await;
        assert_eq!(began.elapsed(), LOOK);
        let first: Vec<RecordStatus> = verdicts.iter().take(3).map(|verdict| verdict.status).collect();
        assert_eq!(first, [TemporaryFailure, Pending, TemporaryFailure]);
        assert_eq!(verdicts.len(), records.len());
        assert!(verdicts[0].detail.contains("no answer within 30 seconds"), "{}", verdicts[0].detail);
    }
}
