//! Whether the DNS records of the sending domains are published as we made them.

use futures::StreamExt as _;
use http::Method;

use super::super::Failure;
use super::super::link::Link;
use super::Finding;
use super::lookup::Lookup;
use crate::api::control::{DnsRecord, DomainView, Listing};

/// Records asked for at once.
const AT_ONCE: usize = 8;

/// One finding for each record; `None`: there is no store yet.
pub(super) async fn published(link: Option<Result<Link, Failure>>, lookup: &Lookup) -> Vec<Finding> {
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
    futures::stream::iter(records.iter().map(|record| one(record, lookup))).buffered(AT_ONCE).collect().await
}

async fn one(record: &DnsRecord, lookup: &Lookup) -> Finding {
    match lookup.texts(&record.name).await {
        Ok(texts) => judge(record, &texts),
        Err(error) => Finding::warn("domains", error, ""),
    }
}

/// What is published against what should be. DKIM records must be equal; the others are the owner's to word.
fn judge(record: &DnsRecord, texts: &[String]) -> Finding {
    let publish = format!("publish: {}", record.zone_line);
    let kind = record.value.split([' ', ';']).next().unwrap_or_default();
    let same_kind = texts.iter().find(|text| text.trim_start().starts_with(kind));
    match (record.required, same_kind) {
        (true, _) if texts.iter().any(|text| tags(text) == tags(&record.value)) => {
            Finding::ok("domains", format!("{} is published", record.name))
        }
        (true, Some(_)) => Finding::fail("domains", format!("{} holds another key than ours", record.name), publish),
        (true, None) => Finding::fail(
            "domains",
            format!("{} is not published: signatures cannot be verified", record.name),
            publish,
        ),
        (false, Some(text)) => Finding::ok("domains", format!("{} has {}", record.name, text.escape_debug())),
        (false, None) => Finding::warn("domains", format!("{} has no {kind} record", record.name), publish),
    }
}

/// The tags of a record without blanks, which receivers ignore (RFC 6376 s3.2).
fn tags(text: &str) -> Vec<String> {
    let tags = text.split(';').map(|tag| tag.chars().filter(|c| !c.is_whitespace()).collect::<String>());
    tags.filter(|tag| !tag.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    fn record(name: &str, value: &str, required: bool) -> DnsRecord {
        let zone_line = format!("{name}. IN TXT \"{value}\"");
        DnsRecord { name: name.to_owned(), kind: "TXT".to_owned(), value: value.to_owned(), zone_line, required }
    }

    #[test]
    fn published_records_are_judged() {
        let dkim = record("s._domainkey.example.com", "v=DKIM1; k=rsa; p=AAAA", true);
        let spf = record("example.com", "v=spf1 a:mail.example.com ~all", false);
        let check = |record: &DnsRecord, published: &[&str], level: Level, part: &str| {
            let texts: Vec<String> = published.iter().map(|text| (*text).to_owned()).collect();
            let finding = judge(record, &texts);
            assert_eq!(finding.level, level, "{finding}");
            assert!(finding.to_string().contains(part), "{finding}");
        };
        check(&dkim, &["v=DKIM1; k=rsa; p=AAAA"], Level::Ok, "is published");
        check(&dkim, &["v=DKIM1;k=rsa;p=AA AA;"], Level::Ok, "is published");
        check(&dkim, &["v=DKIM1; k=rsa; p=BBBB"], Level::Fail, "another key");
        check(&dkim, &["google-verification=1"], Level::Fail, "not published");
        check(&dkim, &[], Level::Fail, "publish: s._domainkey.example.com. IN TXT");
        check(&spf, &["x", "v=spf1 -all"], Level::Ok, "v=spf1 -all");
        check(&spf, &["x"], Level::Warn, "no v=spf1 record");
    }
}
