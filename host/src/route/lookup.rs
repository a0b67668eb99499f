//! DNS as a check asks it: every kind of record, once, with a short wait and nothing kept from before.

use std::net::IpAddr;
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{RData, RecordType};
use hickory_resolver::TokioResolver;
use hickory_resolver::net::{DnsError, NetError, NoRecords};

use super::resolver::configured;
use crate::config::Dns;

/// One question to one server; asked twice at most.
const TIMEOUT: Duration = Duration::from_secs(4);
const RETRIES: usize = 1;

/// Asks the name servers of the configuration, or the system's.
pub struct Lookup(TokioResolver);

/// The TXT records of a name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Texts {
    /// Each in one piece.
    pub records: Vec<String>,
    /// The name that this one is an alias (CNAME) of.
    pub alias: Option<String>,
}

impl Lookup {
    pub fn new(dns: &Dns) -> Result<Lookup, String> {
        let builder = configured(dns);
        let mut builder = builder.map_err(|error| format!("the system's name servers are not known: {error}"))?;
        builder.options_mut().timeout = TIMEOUT;
        builder.options_mut().attempts = RETRIES;
        // Whoever has just published a record must not be told what was so before.
        builder.options_mut().cache_size = 0;
        builder.build().map(Lookup).map_err(|error| format!("the resolver cannot be set up: {error}"))
    }

    /// A and AAAA records.
    pub async fn addresses(&self, name: &str) -> Result<Vec<IpAddr>, String> {
        let (v4, v6) = tokio::join!(self.records(name, RecordType::A), self.records(name, RecordType::AAAA));
        match (v4, v6) {
            (Err(error), Err(_)) => Err(error),
            (v4, v6) => {
                let found = v4.unwrap_or_default().into_iter().chain(v6.unwrap_or_default());
                Ok(found.filter_map(|data| data.ip_addr()).collect())
            }
        }
    }

    /// Names of an address, lower case, without trailing dot.
    pub async fn names(&self, address: IpAddr) -> Result<Vec<String>, String> {
        let name = hickory_proto::rr::Name::from(address).to_ascii();
        let found = self.records(&name, RecordType::PTR).await?;
        let names = found.into_iter().filter_map(|data| match data {
            RData::PTR(name) => Some(name.0.to_ascii().trim_end_matches('.').to_ascii_lowercase()),
            _ => None,
        });
        Ok(names.collect())
    }

    /// Texts of a name, and what it is an alias of.
    pub async fn text_records(&self, name: &str) -> Result<Texts, String> {
        let (texts, aliases) = tokio::join!(self.records(name, RecordType::TXT), self.records(name, RecordType::CNAME));
        let records = texts?.into_iter().filter_map(|data| match data {
            RData::TXT(txt) => Some(String::from_utf8_lossy(&txt.txt_data.concat()).into_owned()),
            _ => None,
        });
        let alias = aliases.unwrap_or_default().into_iter().find_map(|data| match data {
            RData::CNAME(name) => Some(name.0.to_ascii().trim_end_matches('.').to_owned()),
            _ => None,
        });
        Ok(Texts { records: records.collect(), alias })
    }

    /// Mail hosts of a domain, best first, without trailing dots.
    pub async fn mail_hosts(&self, domain: &str) -> Result<Vec<String>, String> {
        let mut found: Vec<(u16, String)> = self
            .records(domain, RecordType::MX)
            .await?
            .into_iter()
            .filter_map(|data| match data {
                RData::MX(mx) => Some((mx.preference, mx.exchange.to_ascii().trim_end_matches('.').to_owned())),
                _ => None,
            })
            .collect();
        found.sort();
        Ok(found.into_iter().map(|(_, host)| host).collect())
    }

    /// No such name and no such record are an empty list; an error is a server that did not answer.
    async fn records(&self, name: &str, kind: RecordType) -> Result<Vec<RData>, String> {
        let rooted = format!("{}.", name.trim_end_matches('.'));
        match self.0.lookup(rooted, kind).await {
            Ok(found) => Ok(found
                .answers()
                .iter()
                .filter(|record| record.record_type() == kind)
                .map(|record| record.data.clone())
                .collect()),
            Err(NetError::Dns(DnsError::NoRecordsFound(NoRecords {
                response_code: ResponseCode::NXDomain | ResponseCode::NoError,
                ..
            }))) => Ok(Vec::new()),
            Err(error) => Err(format!("no answer for {name} {kind}: {error}")),
        }
    }
}
