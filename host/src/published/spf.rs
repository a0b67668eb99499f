//! SPF records (RFC 7208): their owner's to word, but well-formed, alone, and within ten look-ups (s4.6.4).

use std::net::{Ipv4Addr, Ipv6Addr};

use super::{Expected, RecordStatus, Records, failed, of_kind, shown};

/// Terms that cause a look-up, those of included records counted (RFC 7208 s4.6.4).
const LOOKUPS: usize = 10;

/// Octets of a record that are read.
const RECORD_OCTETS: usize = 4096;

const KIND: &str = "v=spf1";

/// One record, read.
#[derive(Debug, Default, PartialEq, Eq)]
struct Policy {
    /// Terms that cause a look-up, `include` and `redirect` among them.
    lookups: usize,
    /// The domains whose records count as well.
    others: Vec<String>,
    /// Whether it passes whoever sends.
    passes_all: bool,
}

/// What is published at the domain. The error is that nobody answered.
pub(super) async fn judge(
    dns: &dyn Records,
    record: &Expected,
    records: &[String],
) -> Result<(RecordStatus, String), String> {
    let text = match of_kind(KIND, records).as_slice() {
        [] => return Ok((RecordStatus::Pending, format!("has no {KIND} record"))),
        [text] => (*text).to_owned(),
        several => {
            let count = several.len();
            return Ok(failed(format!("has {count} {KIND} records, so that none counts: merge them into one")));
        }
    };
    let mut lookups = 0;
    let mut to_read = vec![(record.name.clone(), text.clone())];
    while let Some((owner, text)) = to_read.pop() {
        let is_own = owner == record.name && lookups == 0;
        let has = if is_own { format!("has {}", shown(&text)) } else { format!("leads to {}", shown(&owner)) };
        let policy = match read(&text) {
            Ok(policy) => policy,
            Err(fault) => {
                return Ok(failed(format!("{has}, which {fault}, so that the whole record counts for nothing")));
            }
        };
        if is_own && policy.passes_all {
            return Ok(failed(format!("{has}, which lets everybody send in your name: end it with ~all")));
        }
        lookups += policy.lookups;
        if lookups > LOOKUPS {
            let text = format!(
                "needs more than {LOOKUPS} look-ups with what it includes (RFC 7208 s4.6.4), so that it counts for nothing: leave some `include`, `a` or `mx` out"
            );
            return Ok(failed(text));
        }
        for other in policy.others {
            let texts = dns.texts(&other).await?;
            match of_kind(KIND, &texts.records).as_slice() {
                [text] => to_read.push((other, (*text).to_owned())),
                found => {
                    let text = format!(
                        "leads to {}, which has {} {KIND} records instead of one, so that the whole record counts for nothing",
                        shown(&other),
                        found.len()
                    );
                    return Ok(failed(text));
                }
            }
        }
    }
    // What we suggest names this host; whether another wording covers its address is for the owner to know.
    let ours = record.value.split(' ').find(|term| term.starts_with("a:")).unwrap_or_default();
    let covers = text.split(' ').any(|term| term.trim_start_matches('+').eq_ignore_ascii_case(ours));
    let hint = if covers { String::new() } else { format!("; see that it covers this host, for instance with {ours}") };
    Ok((RecordStatus::Verified, format!("has {} ({lookups} of {LOOKUPS} look-ups){hint}", shown(&text))))
}

/// The terms of a record (RFC 7208 s4.6.1, s12). The error begins behind "which".
fn read(text: &str) -> Result<Policy, String> {
    if text.len() > RECORD_OCTETS {
        return Err(format!("is longer than {RECORD_OCTETS} characters"));
    }
    let mut policy = Policy::default();
    let mut redirect = None;
    let mut has_all = false;
    for term in text.split_ascii_whitespace().skip(1) {
        let name_end = term.find([':', '/', '=']).unwrap_or(term.len());
        let (name, rest) = term.split_at(name_end);
        if let Some(value) = rest.strip_prefix('=') {
            if name.eq_ignore_ascii_case("redirect") {
                redirect = Some(value.to_owned());
            }
            // Other modifiers are not looked up, or not known, which does no harm.
            continue;
        }
        let unknown = || format!("has `{}`, which is no mechanism of SPF", shown(term));
        let (qualifier, name) = match name.strip_prefix(['+', '-', '~', '?']) {
            Some(bare) => (name.get(..1).unwrap_or("+"), bare),
            None => ("+", name),
        };
        let domain = rest.strip_prefix(':').map(|it| it.split('/').next().unwrap_or_default());
        let needs_domain = || match domain {
            Some(domain) if !domain.is_empty() => Ok(domain.to_owned()),
            _ => Err(format!("has `{}` without a domain", shown(term))),
        };
        let wrong_address = || format!("has `{}`, whose address cannot be read", shown(term));
        match name.to_ascii_lowercase().as_str() {
            "all" if rest.is_empty() => {
                has_all = true;
                policy.passes_all = qualifier == "+";
                // What stands behind it is never reached.
                break;
            }
            "a" | "mx" | "ptr" => policy.lookups += 1,
            "exists" => {
                needs_domain()?;
                policy.lookups += 1;
            }
            "include" => {
                policy.lookups += 1;
                policy.others.push(needs_domain()?);
            }
            "ip4" => block::<Ipv4Addr>(rest, 32).ok_or_else(wrong_address)?,
            "ip6" => block::<Ipv6Addr>(rest, 128).ok_or_else(wrong_address)?,
            _ => return Err(unknown()),
        }
    }
    if let Some(target) = redirect.filter(|_| !has_all) {
        policy.lookups += 1;
        policy.others.push(target);
    }
    // A macro depends on the message, so nobody can look it up before.
    policy.others.retain(|name| !name.contains('%'));
    Ok(policy)
}

/// `:192.0.2.0/24`.
fn block<A: std::str::FromStr>(text: &str, most: u8) -> Option<()> {
    let text = text.strip_prefix(':')?;
    let (address, prefix) = text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
    let fits = prefix.is_none_or(|prefix| prefix.parse::<u8>().is_ok_and(|prefix| prefix <= most));
    (address.parse::<A>().is_ok() && fits).then_some(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::IpAddr;

    use async_trait::async_trait;

    use super::*;
    use crate::keyring::Purpose;
    use crate::route::lookup::Texts;

    /// `n5.test` has a record with five look-ups, `loop.test` includes itself, `none.test` has no record.
    struct Zone;

    #[async_trait]
    impl Records for Zone {
        async fn texts(&self, name: &str) -> Result<Texts, String> {
            let text = match name {
                "n5.test" => "v=spf1 a mx exists:x.test a:b.test mx:c.test -all".to_owned(),
                "loop.test" => "v=spf1 include:loop.test -all".to_owned(),
                "bad.test" => "v=spf1 ip4:1.2.3 -all".to_owned(),
                "silent.test" => return Err("SERVFAIL".to_owned()),
                _ => return Ok(Texts::default()),
            };
            Ok(Texts { records: vec![text], alias: None })
        }

        async fn addresses(&self, _: &str) -> Result<Vec<IpAddr>, String> {
            unreachable!("SPF asks for texts alone")
        }
    }

    #[tokio::test]
    async fn records_are_well_formed_and_within_ten_look_ups() {
        use RecordStatus::{Failed, Pending, Verified};
        let record = Expected {
            name: "a.test".to_owned(),
            purpose: Purpose::Spf,
            value: "v=spf1 a:mail.host.test ~all".to_owned(),
        };
        let check = async |records: &[&str], status, words: &str| {
            let records: Vec<String> = records.iter().map(|text| (*text).to_owned()).collect();
            let (found, detail) = judge(&Zone, &record, &records).await.unwrap();
            assert_eq!(found, status, "{detail}");
            assert!(detail.contains(words), "{detail}");
        };
        check(&["x", "v=spf1 a:mail.host.test ~all"], Verified, "(1 of 10 look-ups)").await;
        check(&["v=spf1 -all"], Verified, "has v=spf1 -all (0 of 10 look-ups); see that it covers").await;
        check(&["v=spf1 ip4:192.0.2.0/24 ip6:2001:db8::/32 ?all"], Verified, "see that it covers this host").await;
        check(&["v=spf1 include:n5.test a mx mx mx -all"], Verified, "10 of 10").await;
        check(&["v=spf1 redirect=n5.test"], Verified, "6 of 10").await;
        check(&["v=spf1 redirect=n5.test -all"], Verified, "0 of 10").await;
        check(&["v=spf1 exists:%{i}.x.test include:%{d}.y.test -all"], Verified, "2 of 10").await;
        check(&["x", "v=spf10 -all"], Pending, "no v=spf1 record").await;
        check(&["v=spf1 -all", "V=SPF1 ~all"], Failed, "2 v=spf1 records").await;
        check(&["v=spf1 include:n5.test include:n5.test -all"], Failed, "more than 10 look-ups").await;
        check(&["v=spf1 include:loop.test -all"], Failed, "more than 10 look-ups").await;
        check(&["v=spf1 include:none.test -all"], Failed, "none.test, which has 0 v=spf1 records").await;
        check(&["v=spf1 include:bad.test -all"], Failed, "leads to bad.test, which has `ip4:1.2.3`").await;
        check(&["v=spf1 include -all"], Failed, "without a domain").await;
        check(&["v=spf1 ipv4:192.0.2.1 -all"], Failed, "no mechanism of SPF").await;
        check(&["v=spf1 all"], Failed, "lets everybody send").await;
        check(&["v=spf1 ip4:192.0.2.1/33"], Failed, "cannot be read").await;
        let silent = ["v=spf1 include:silent.test -all".to_owned()];
        assert!(judge(&Zone, &record, &silent).await.is_err());
    }
}
