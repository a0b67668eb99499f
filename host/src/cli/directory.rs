//! `domain`, `tenant`, `queue`: a route of the control API each, and its answer printed.

use clap::{Args, Subcommand};
use http::Method;
use jiff::Timestamp;

use super::edges::EdgeKey;
use super::link::Link;
use super::{Failure, Target, say};
use crate::api::control::Listing;
use crate::api::control::domains::{DnsRecord, DomainView, NewDomain};
use crate::api::control::tenants::TenantNames;

/// One tenant, or all where none is named.
#[derive(Clone, Debug, Args)]
pub(crate) struct OfTenant {
    /// The tenant: lower-case letters, digits, `-` and `_`.
    #[arg(long, value_name = "NAME")]
    pub(super) tenant: Option<String>,
}

impl OfTenant {
    pub(super) fn query(&self) -> String {
        self.tenant.as_ref().map_or(String::new(), |tenant| format!("?tenant={}", encode(tenant)))
    }
}

/// Escapes what a user typed for a place in a path or query.
pub(super) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[derive(Debug, Subcommand)]
pub(crate) enum Domain {
    /// Add a sending domain: makes its DKIM keys and prints the DNS records to publish.
    Add {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        of: OfTenant,
        /// The domain in From addresses; its subdomains may send too.
        domain: String,
    },
    /// List sending domains.
    List {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        of: OfTenant,
    },
    /// Remove a sending domain and its keys: mail from it is refused from now on.
    Remove {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        of: OfTenant,
        /// The domain as `domain list` shows it.
        domain: String,
    },
    /// Make DKIM keys for an edge: prints the value of its variable `dkim_keys` on stdout, this once, and the DNS records
    /// to publish on stderr. The private keys are kept nowhere else.
    EdgeKey(EdgeKey),
    /// Print the DNS records of a sending domain again.
    Records {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        of: OfTenant,
        /// The domain as `domain list` shows it.
        domain: String,
    },
}

impl Domain {
    pub(super) async fn run(self) -> Result<(), Failure> {
        match self {
            Domain::Add { target, of, domain } => {
                let new = NewDomain { domain, tenant: of.tenant };
                let made: DomainView = Link::open(&target).await?.call(Method::POST, "domains", &new).await?;
                print_records(&made.records)?;
            }
            Domain::List { target, of } => {
                let path = format!("domains{}", of.query());
                let domains: Listing<DomainView> = Link::open(&target).await?.call(Method::GET, &path, &()).await?;
                let rows = domains.data.into_iter().map(|domain| {
                    let keys = domain.records.iter().filter(|record| record.required).count();
                    [domain.domain, domain.tenant, domain.state, format!("{keys} DKIM keys"), day(domain.created_at)]
                });
                table(["DOMAIN", "TENANT", "STATE", "KEYS", "CREATED"], rows)?;
            }
            Domain::EdgeKey(edge_key) => edge_key.run().await?,
            Domain::Remove { target, of, domain } => {
                let path = format!("domains/{}{}", encode(&domain), of.query());
                let _: serde_json::Value = Link::open(&target).await?.call(Method::DELETE, &path, &()).await?;
                say(format_args!(
                    "{domain} is removed. Leave its DNS records until all mail signed with its keys has arrived (5 days)."
                ))?;
            }
            Domain::Records { target, of, domain } => {
                let path = format!("domains/{}{}", encode(&domain), of.query());
                let view: DomainView = Link::open(&target).await?.call(Method::GET, &path, &()).await?;
                print_records(&view.records)?;
            }
        }
        Ok(())
    }
}

/// Lines of a zone file, so that they can be pasted as they stand.
fn print_records(records: &[DnsRecord]) -> Result<(), Failure> {
    say("; needed: receivers verify signatures with these")?;
    records.iter().filter(|record| record.required).try_for_each(|record| say(&record.zone_line))?;
    say("; advised: merge them with what is published already")?;
    records.iter().filter(|record| !record.required).try_for_each(|record| say(&record.zone_line))
}

#[derive(Debug, Subcommand)]
pub(crate) enum Tenant {
    /// List tenants. `default` is the one of keys made without --tenant.
    List {
        #[command(flatten)]
        target: Target,
    },
}

impl Tenant {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let Tenant::List { target } = self;
        let tenants: TenantNames = Link::open(&target).await?.call(Method::GET, "tenants", &()).await?;
        tenants.data.iter().try_for_each(say)
    }
}

pub(super) fn waiting(recipients: u64) -> String {
    match recipients {
        0 => "nothing waits".to_owned(),
        1 => "1 recipient waits".to_owned(),
        more => format!("{more} recipients wait"),
    }
}

/// `2d 3h`, `3h 4m`, `4m 5s`, `5s`.
pub(super) fn duration(seconds: u64) -> String {
    let units = [(86_400, "d"), (3_600, "h"), (60, "m"), (1, "s")];
    let mut rest = seconds;
    let mut parts = Vec::new();
    for (size, name) in units {
        if rest >= size || (size == 1 && parts.is_empty()) {
            parts.push(format!("{}{name}", rest / size));
            rest %= size;
        }
    }
    parts.truncate(2);
    parts.join(" ")
}

pub(super) fn day(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d").to_string()
}

/// Prints rows in columns as wide as their widest cell.
pub(super) fn table<const N: usize>(head: [&str; N], rows: impl Iterator<Item = [String; N]>) -> Result<(), Failure> {
    let rows: Vec<[String; N]> = std::iter::once(head.map(str::to_owned)).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    for row in &rows {
        let line: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        say(line.join("  ").trim_end())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_for_people() {
        let check = |seconds, expect| assert_eq!(duration(seconds), expect);
        check(0, "0s");
        check(59, "59s");
        check(61, "1m 1s");
        check(3_600, "1h");
        check(180_000, "2d 2h");
    }

    #[test]
    fn what_users_type_is_escaped() {
        assert_eq!(encode("example.com"), "example.com");
        assert_eq!(encode("a/b?c=ü"), "a%2Fb%3Fc%3D%C3%BC");
    }
}
