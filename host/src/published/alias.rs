//! Aliases (CNAME) to names of the operator's (RFC 1034 s3.6.2: nothing else may stand beside one).

use super::{Expected, RecordStatus, Records, failed, shown};
use crate::route::lookup::Texts;

/// Where a name leads. The error is that nobody answered.
pub(super) async fn judge(
    dns: &dyn Records,
    record: &Expected,
    texts: &Texts,
) -> Result<(RecordStatus, String), String> {
    let target = &record.value;
    if let Some(alias) = &texts.alias {
        return Ok(match alias.trim_end_matches('.').eq_ignore_ascii_case(target) {
            true => (RecordStatus::Verified, format!("is an alias of {target}")),
            false => failed(format!("is an alias (CNAME) of {} and must be one of {target}", shown(alias))),
        });
    }
    let mut own = dns.addresses(&record.name).await?;
    if !own.is_empty() {
        // Some providers put the addresses of an alias in its place.
        let mut theirs = dns.addresses(target).await?;
        own.sort();
        theirs.sort();
        return Ok(match own == theirs {
            true => (RecordStatus::Verified, format!("has the addresses of {target}")),
            false => failed(format!("has addresses of its own: remove them, and make it an alias (CNAME) of {target}")),
        });
    }
    Ok(match texts.records.is_empty() {
        true => (RecordStatus::Pending, "is not published".to_owned()),
        false => failed(format!(
            "holds TXT records, and an alias stands alone: remove them, and make it a CNAME of {target}"
        )),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::IpAddr;

    use async_trait::async_trait;

    use super::*;
    use crate::keyring::Purpose;

    /// Names beginning with this letter have this address.
    struct Zone;

    #[async_trait]
    impl Records for Zone {
        async fn texts(&self, _: &str) -> Result<Texts, String> {
            unreachable!("aliases ask for addresses alone")
        }

        async fn addresses(&self, name: &str) -> Result<Vec<IpAddr>, String> {
            let of = |text: &str| Ok(vec![text.parse().unwrap()]);
            match name {
                "same.a.test" | "links.host.test" => of("192.0.2.1"),
                "other.a.test" => of("192.0.2.2"),
                "silent.a.test" => Err("SERVFAIL".to_owned()),
                _ => Ok(Vec::new()),
            }
        }
    }

    #[tokio::test]
    async fn an_alias_leads_where_it_should() {
        use RecordStatus::{Failed, Pending, Verified};
        let check = async |name: &str, alias: Option<&str>, texts: &[&str], status, words: &str| {
            let record =
                Expected { name: name.to_owned(), purpose: Purpose::Tracking, value: "links.host.test".to_owned() };
            let records = texts.iter().map(|text| (*text).to_owned()).collect();
            let texts = Texts { records, alias: alias.map(str::to_owned) };
            let (found, detail) = judge(&Zone, &record, &texts).await.unwrap();
            assert_eq!(found, status, "{detail}");
            assert!(detail.contains(words), "{detail}");
        };
        check("links.a.test", Some("Links.Host.test"), &[], Verified, "is an alias").await;
        check("links.a.test", Some("x.test"), &[], Failed, "alias (CNAME) of x.test and must be").await;
        check("same.a.test", None, &[], Verified, "has the addresses of").await;
        check("other.a.test", None, &[], Failed, "addresses of its own").await;
        check("links.a.test", None, &["hello"], Failed, "stands alone").await;
        check("links.a.test", None, &[], Pending, "not published").await;
        let record =
            Expected { name: "silent.a.test".to_owned(), purpose: Purpose::ReturnPath, value: "x.test".to_owned() };
        assert!(judge(&Zone, &record, &Texts::default()).await.is_err());
    }
}
