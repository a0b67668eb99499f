//! Whether a domain's DNS records are published as its owner was told to (RFC 6376 s3.6.2, RFC 7208 s4.5), and if not,
//! what is wrong with them. Asked by `POST /domains/{id}/verify` and by `posthaste check`.

use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::config::Dns;
use crate::route::lookup::{Lookup, Texts};

/// Records asked for at once.
const AT_ONCE: usize = 8;

/// Characters of somebody else's record that are shown.
const SHOWN_CHARS: usize = 200;

/// A record that should be there.
#[derive(Clone, Debug)]
pub struct Expected {
    /// Absolute, without a trailing dot.
    pub name: String,
    pub value: String,
    /// Whether it must be exactly this: a DKIM key. The others (SPF, DMARC) are the owner's to word.
    pub required: bool,
}

/// How a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
}

/// Where records are read.
#[async_trait]
pub trait Records: Send + Sync + 'static {
    /// The TXT records of a name. The error is for people: nobody answered.
    async fn texts(&self, name: &str) -> Result<Texts, String>;
}

/// The servers of the configuration, or the system's, with nothing kept from one question to the next.
#[async_trait]
impl Records for Dns {
    async fn texts(&self, name: &str) -> Result<Texts, String> {
        Lookup::new(self)?.text_records(name).await
    }
}

/// Looks all records up; one verdict for each, in order.
pub async fn look(dns: &Arc<dyn Records>, records: &[Expected]) -> Vec<Verdict> {
    let mut verdicts = Vec::with_capacity(records.len());
    for some in records.chunks(AT_ONCE) {
        let asked: Vec<_> = some.iter().map(|record| tokio::spawn(one(dns.clone(), record.clone()))).collect();
        for (answered, record) in asked.into_iter().zip(some) {
            verdicts.push(answered.await.unwrap_or_else(|error| unanswered(record, &error.to_string())));
        }
    }
    verdicts
}

async fn one(dns: Arc<dyn Records>, record: Expected) -> Verdict {
    match dns.texts(&record.name).await {
        Ok(texts) => {
            let (status, detail) = judge(&record, &texts);
            Verdict { name: record.name, status, detail }
        }
        Err(error) => unanswered(&record, &error),
    }
}

fn unanswered(record: &Expected, error: &str) -> Verdict {
    let detail = format!("could not be looked up: {error}");
    Verdict { name: record.name.clone(), status: RecordStatus::TemporaryFailure, detail }
}

/// What is published against what should be.
pub fn judge(record: &Expected, texts: &Texts) -> (RecordStatus, String) {
    if record.required { judge_key(&record.value, texts) } else { judge_policy(&record.value, &texts.records) }
}

fn judge_key(value: &str, Texts { records, alias }: &Texts) -> (RecordStatus, String) {
    let wanted = tags(value);
    let keys: Vec<&String> = records.iter().filter(|text| is_key(text)).collect();
    let is_there = keys.iter().any(|text| tags(text) == wanted);
    let failed = |text: String| (RecordStatus::Failed, text);
    match (is_there, keys.len()) {
        (true, 1) => return (RecordStatus::Verified, "is published".to_owned()),
        (true, count) => {
            return failed(format!("holds {count} keys, so that none counts: remove all but ours"));
        }
        (false, _) => {}
    }
    if let Some(alias) = alias {
        return failed(format!("is an alias (CNAME) of {alias}, which stands in the way: remove it"));
    }
    if let Some(fault) = split_fault(value, records) {
        return failed(fault);
    }
    match keys.len() {
        0 => (RecordStatus::Pending, "is not published: signatures cannot be verified".to_owned()),
        1 => failed("holds another key than ours".to_owned()),
        count => failed(format!("holds {count} keys, and none is ours")),
    }
}

/// How a value that is longer than one string of 255 octets got broken.
fn split_fault(value: &str, records: &[String]) -> Option<String> {
    let bare = |text: &str| text.chars().filter(|c| !c.is_whitespace()).collect::<String>();
    let wanted = bare(value);
    let unquoted = |text: &str| bare(&text.replace(['"', '\\'], ""));
    if records.iter().any(|text| text.contains(['"', '\\']) && unquoted(text) == wanted) {
        return Some("has quotation marks or backslashes in its value: remove them".to_owned());
    }
    let pieces: Vec<String> =
        records.iter().map(|text| unquoted(text)).filter(|text| wanted.contains(text.as_str())).collect();
    let octets: usize = pieces.iter().map(String::len).sum();
    let begins = pieces.iter().any(|piece| !piece.is_empty() && wanted.starts_with(piece.as_str()));
    match pieces.len() {
        1 if begins && octets < wanted.len() => Some(format!(
            "is cut off after {octets} characters: publish all of it, split into strings of at most 255 characters"
        )),
        2.. if begins && octets >= wanted.len() => {
            Some(format!("is split into {} records: it must be one record of several strings", pieces.len()))
        }
        _ => None,
    }
}

fn judge_policy(value: &str, records: &[String]) -> (RecordStatus, String) {
    let kind = value.split([' ', ';']).next().unwrap_or_default();
    let of_kind = |text: &&String| {
        let start = text.trim_start().get(..kind.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(kind))
    };
    let found: Vec<&String> = records.iter().filter(of_kind).collect();
    match found.as_slice() {
        [] => (RecordStatus::Pending, format!("has no {kind} record")),
        [text] => {
            let shown: String = text.chars().take(SHOWN_CHARS).collect();
            (RecordStatus::Verified, format!("has {}", shown.escape_debug()))
        }
        several => (
            RecordStatus::Failed,
            format!("has {} {kind} records, so that none counts: merge them into one", several.len()),
        ),
    }
}

fn is_key(text: &str) -> bool {
    tags(text).iter().any(|tag| tag.starts_with("p=") || tag.starts_with("v=DKIM1"))
}

/// The tags of a record without blanks, which receivers ignore (RFC 6376 s3.2).
fn tags(text: &str) -> Vec<String> {
    let tags = text.split(';').map(|tag| tag.chars().filter(|c| !c.is_whitespace()).collect::<String>());
    tags.filter(|tag| !tag.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(value: &str, required: bool, records: &[&str], alias: Option<&str>, status: RecordStatus, words: &str) {
        let records = records.iter().map(|text| (*text).to_owned()).collect();
        let texts = Texts { records, alias: alias.map(str::to_owned) };
        let (found, detail) = judge(&Expected { name: "x".to_owned(), value: value.to_owned(), required }, &texts);
        assert_eq!(found, status, "{detail}");
        assert!(detail.contains(words), "{detail}");
    }

    #[test]
    fn keys_must_be_ours_and_alone() {
        use RecordStatus::{Failed, Pending, Verified};
        let value = "v=DKIM1; k=rsa; p=AAAABBBBCCCC";
        let key = |records: &[&str], status, words: &str| check(value, true, records, None, status, words);
        key(&["v=DKIM1; k=rsa; p=AAAABBBBCCCC"], Verified, "is published");
        key(&["v=DKIM1;k=rsa;p=AAAA BBBBCCCC;"], Verified, "is published");
        key(&["google-verification=1", value], Verified, "is published");
        key(&[value, value], Failed, "holds 2 keys");
        key(&[value, "v=DKIM1; k=rsa; p=XXXX"], Failed, "holds 2 keys");
        key(&["v=DKIM1; k=rsa; p=XXXX"], Failed, "another key");
        key(&["v=DKIM1; k=rsa; p="], Failed, "cut off after 16 characters");
        key(&["v=DKIM1; k=rsa; p=AAAABB"], Failed, "cut off after 22 characters");
        key(&["\"v=DKIM1; k=rsa; \" \"p=AAAABBBBCCCC\""], Failed, "quotation marks");
        key(&["v=DKIM1\\; k=rsa\\; p=AAAABBBBCCCC"], Failed, "backslashes");
        key(&["v=DKIM1; k=rsa; p=AAAA", "BBBBCCCC"], Failed, "split into 2 records");
        key(&["BBBBCCCC", "v=DKIM1; k=rsa; p=AAAA"], Failed, "split into 2 records");
        key(&["v=DKIM1; p=XXXX", "v=DKIM1; p=YYYY"], Failed, "none is ours");
        key(&["google-verification=1"], Pending, "not published");
        key(&[], Pending, "not published");
        check(value, true, &[], Some("keys.other.test"), Failed, "alias (CNAME) of keys.other.test");
        check(value, true, &["v=DKIM1; p=XXXX"], Some("keys.other.test"), Failed, "stands in the way");
        check(value, true, &[value], Some("keys.other.test"), Verified, "is published");
    }

    #[test]
    fn policies_are_their_owners_to_word() {
        use RecordStatus::{Failed, Pending, Verified};
        let spf = |records: &[&str], status, words: &str| {
            check("v=spf1 a:mail.example.com ~all", false, records, None, status, words);
        };
        spf(&["x", "v=spf1 -all"], Verified, "has v=spf1 -all");
        spf(&["x"], Pending, "no v=spf1 record");
        spf(&["v=spf1 -all", "V=SPF1 ~all"], Failed, "2 v=spf1 records");
        check("v=DMARC1; p=none", false, &["v=DMARC1; p=reject"], None, Verified, "p=reject");
        check("v=DMARC1; p=none", false, &["ü"], None, Pending, "no v=DMARC1 record");
    }
}
