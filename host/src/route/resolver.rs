//! DNS as routing needs it: MX records and addresses, and why there are none.

use std::net::IpAddr;
use std::pin::pin;
use std::time::Duration;

use async_trait::async_trait;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{RData, RecordType};
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError, NoRecords};
use hickory_resolver::{ResolverBuilder, TokioResolver};
use thiserror::Error;
use tokio::time::timeout;

use super::gather::Mx;
use crate::config::Dns;

/// One question to one server.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Questions asked again after the first, before we say that nobody answered.
const RETRIES: usize = 2;
/// Answers kept, each for its TTL.
const CACHE_ENTRIES: u64 = 32 * 1024;
/// Answers are kept no longer than this, whatever their TTL says: a wrong record must not haunt us for a week.
const TTL_MAX: Duration = Duration::from_secs(24 * 3600);
/// How long one kind of address waits for the other (RFC 8305 s3).
const RESOLUTION_DELAY: Duration = Duration::from_millis(50);
/// Addresses used of one name.
const ADDRESSES_MAX: usize = 8;

/// Why a name has no answer.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum LookupFault {
    /// NXDOMAIN.
    #[error("the name `{0}` does not exist")]
    NoSuchName(String),
    /// SERVFAIL, time-out, a broken answer: it may be answered later.
    #[error("DNS did not answer for `{name}`: {cause}")]
    Unanswered { name: String, cause: String },
}

/// The seam between routing and DNS. No records of the type asked for is an empty list.
#[async_trait]
pub trait Resolver: Send + Sync + 'static {
    async fn mx(&self, domain: &str) -> Result<Vec<Mx>, LookupFault>;

    /// A and AAAA, aliases followed (RFC 5321 s5.1 lets the target of an MX be none, but many are).
    async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, LookupFault>;
}

/// The resolver could not be set up.
#[derive(Debug, Error)]
#[error("the DNS resolver cannot be set up: {0}; name servers can be given in `[dns] servers`")]
pub struct ResolverError(#[from] NetError);

/// A resolver that asks the servers of the configuration, or the system's where it names none.
pub(super) fn configured(dns: &Dns) -> Result<ResolverBuilder<TokioRuntimeProvider>, NetError> {
    if dns.servers.is_empty() {
        return TokioResolver::builder_tokio();
    }
    let servers = dns.servers.iter().map(|server| {
        let mut connections = vec![ConnectionConfig::udp(), ConnectionConfig::tcp()];
        connections.iter_mut().for_each(|connection| connection.port = server.port());
        NameServerConfig::new(server.ip(), true, connections)
    });
    let config = ResolverConfig::from_parts(None, Vec::new(), servers.collect());
    Ok(TokioResolver::builder_with_config(config, TokioRuntimeProvider::default()))
}

/// DNS over UDP and TCP, with a cache that keeps to the TTLs.
pub struct DnsResolver {
    inner: TokioResolver,
}

impl DnsResolver {
    /// Asks the servers of the configuration, or the system's where it names none.
    pub fn new(dns: &Dns) -> Result<DnsResolver, ResolverError> {
        let mut builder = configured(dns)?;
        let options = builder.options_mut();
        options.timeout = TIMEOUT;
        options.attempts = RETRIES;
        options.cache_size = CACHE_ENTRIES;
        options.positive_max_ttl = Some(TTL_MAX);
        options.negative_max_ttl = Some(TTL_MAX);
        Ok(DnsResolver { inner: builder.build()? })
    }

    /// The records of one type; the trailing dot keeps the search list of resolv.conf out of it.
    async fn lookup(&self, name: &str, kind: RecordType) -> Result<Vec<RData>, LookupFault> {
        let rooted = format!("{}.", name.trim_end_matches('.'));
        match self.inner.lookup(rooted, kind).await {
            Ok(lookup) => {
                Ok(lookup.answers().iter().filter(|r| r.record_type() == kind).map(|r| r.data.clone()).collect())
            }
            Err(NetError::Dns(DnsError::NoRecordsFound(NoRecords { response_code, .. }))) => match response_code {
                ResponseCode::NXDomain => Err(LookupFault::NoSuchName(name.to_owned())),
                ResponseCode::NoError => Ok(Vec::new()),
                other => Err(LookupFault::Unanswered { name: name.to_owned(), cause: other.to_string() }),
            },
            Err(err) => Err(LookupFault::Unanswered { name: name.to_owned(), cause: err.to_string() }),
        }
    }
}

#[async_trait]
impl Resolver for DnsResolver {
    async fn mx(&self, domain: &str) -> Result<Vec<Mx>, LookupFault> {
        let answers = self.lookup(domain, RecordType::MX).await?;
        Ok(answers
            .iter()
            .filter_map(|data| match data {
                RData::MX(mx) => Some(Mx { preference: mx.preference, exchange: mx.exchange.to_ascii() }),
                _ => None,
            })
            .collect())
    }

    async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, LookupFault> {
        let (mut v4, mut v6) = (pin!(self.lookup(host, RecordType::A)), pin!(self.lookup(host, RecordType::AAAA)));
        let late = || LookupFault::Unanswered { name: host.to_owned(), cause: "no answer yet".to_owned() };
        // A name server that is silent about one kind must not keep us from the other.
        let (v4, v6) = tokio::select! {
            v4 = &mut v4 => match v4 {
                Ok(found) if !found.is_empty() => {
                    let v6 = timeout(RESOLUTION_DELAY, v6).await.unwrap_or_else(|_| Err(late()));
                    (Ok(found), v6)
                }
                other => (other, v6.await),
            },
            v6 = &mut v6 => match v6 {
                Ok(found) if !found.is_empty() => {
                    let v4 = timeout(RESOLUTION_DELAY, v4).await.unwrap_or_else(|_| Err(late()));
                    (v4, Ok(found))
                }
                other => (v4.await, other),
            },
        };
        // IPv4 first: a self-hosted sender more often has a PTR and a reputation there.
        match (v4, v6) {
            (Ok(v4), Ok(v6)) => Ok(addresses(v4.into_iter().chain(v6))),
            (Ok(found), Err(_)) | (Err(_), Ok(found)) if !found.is_empty() => Ok(addresses(found.into_iter())),
            (Err(fault @ LookupFault::Unanswered { .. }), _) | (_, Err(fault @ LookupFault::Unanswered { .. })) => {
                Err(fault)
            }
            (Err(fault @ LookupFault::NoSuchName(_)), _) | (_, Err(fault @ LookupFault::NoSuchName(_))) => Err(fault),
        }
    }
}

fn addresses(records: impl Iterator<Item = RData>) -> Vec<IpAddr> {
    records.filter_map(|data| data.ip_addr()).take(ADDRESSES_MAX).collect()
}
