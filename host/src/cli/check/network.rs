//! Our own name in DNS, and the way out.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::net::TcpStream;

use super::{Finding, is_relayed};
use crate::config::{Config, NextHop, RelayHost};
use crate::route::lookup::Lookup;

/// A peer has this long to take a connection and again to greet: shorter than for mail, a person waits.
const PATIENCE: Duration = Duration::from_secs(10);

/// Longest greeting line that is read.
const GREETING_BYTES: u64 = 2048;

/// Addresses of a host that are tried.
const ADDRESSES: usize = 4;

/// Mail hosts of the probe domain that are tried.
const HOSTS: usize = 4;

/// Advice where the probe domain tells nothing of the way out.
const ANOTHER: &str = "probe another domain";

/// Why a host did not greet.
#[derive(Debug, thiserror::Error)]
enum Ungreeted {
    /// Its last address did not answer in time: a firewall on the way may have taken it.
    #[error("{0}")]
    Silent(String),
    #[error("{0}")]
    Other(String),
}

/// HELO name: it resolves, and its addresses lead back to it.
pub(super) async fn name(config: &Config, lookup: &Lookup) -> Vec<Finding> {
    let name = config.hostname.as_str();
    let addresses = match lookup.addresses(name).await {
        Ok(addresses) => addresses,
        Err(error) => {
            let advice = "check that a name server answers here (/etc/resolv.conf), or name one in [dns] servers";
            return vec![Finding::fail("dns", error, advice)];
        }
    };
    let mut findings = vec![Finding::ok("dns", "the name servers answer")];
    // A relay in front speaks with its own name to the world.
    let bad = |text, advice: String| match is_relayed(config) {
        true => Finding::warn("name", text, advice),
        false => Finding::fail("name", text, advice),
    };
    if addresses.is_empty() {
        let advice = format!(
            "publish an A (and AAAA) record of {name} with the public address of this host, or set `hostname` to the name it has"
        );
        findings.push(bad(format!("{name} has no address in DNS"), advice));
        return findings;
    }
    let list = addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    findings.push(Finding::ok("name", format!("{name} is {list}")));
    for address in addresses.into_iter().take(ADDRESSES) {
        findings.push(reverse(name, address, lookup, &bad).await);
    }
    findings
}

async fn reverse(name: &str, address: IpAddr, lookup: &Lookup, bad: &impl Fn(String, String) -> Finding) -> Finding {
    let advice = format!(
        "have the owner of {address} (your hosting provider) set its PTR record to {name}: many receivers refuse mail without it"
    );
    if is_private(address) {
        let text = format!("{address} is a private address: its PTR record means nothing to the world");
        return Finding::warn("name", text, "publish the public address that mail leaves from");
    }
    match lookup.names(address).await {
        Err(error) => Finding::warn("name", error, advice),
        Ok(names) if names.iter().any(|found| found == name) => Finding::ok("name", format!("{address} is {name}")),
        Ok(names) if names.is_empty() => bad(format!("{address} has no PTR record"), advice),
        Ok(names) => bad(format!("{address} is {} and not {name}", names.join(", ")), advice),
    }
}

fn is_private(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(ip) => ip.is_private() || ip.is_loopback() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}

/// Relays of the configuration greet; port 25 is open to the mail host of the probe domain.
pub(super) async fn way_out(config: &Config, lookup: &Lookup, probe: Option<&str>) -> Vec<Finding> {
    let mut relays: Vec<(&RelayHost, u16)> = Vec::new();
    for route in &config.routes {
        if let NextHop::Relay { host, port, .. } = &route.next_hop
            && !relays.contains(&(host, *port))
        {
            relays.push((host, *port));
        }
    }
    let mut findings = Vec::new();
    for (host, port) in relays {
        let name = match host {
            RelayHost::Ip(ip) => ip.to_string(),
            RelayHost::Name(name) => name.to_string(),
        };
        findings.push(match greeted(&name, port, lookup).await {
            Ok(greeting) => Finding::ok("relay", format!("{name}:{port} greets: {greeting}")),
            Err(error) => {
                let advice = "check host and port in [[route]] relay, and the firewall";
                Finding::fail("relay", format!("{name}:{port}: {error}"), advice)
            }
        });
    }
    match probe {
        Some(domain) => findings.push(probe_domain(domain, config.delivery.port, lookup).await),
        None if is_relayed(config) => {}
        None => {
            let text = "not tried whether this host reaches others";
            let advice = "name a domain whose mail host is connected to (nothing is sent): --probe-domain example.com";
            findings.push(Finding::warn("port 25", text, advice));
        }
    }
    findings
}

async fn probe_domain(domain: &str, port: u16, lookup: &Lookup) -> Finding {
    let hosts = match lookup.mail_hosts(domain).await {
        Ok(hosts) if hosts.is_empty() => vec![domain.to_owned()],
        Ok(hosts) => hosts,
        Err(error) => return Finding::fail("port 25", error, ""),
    };
    let hosts: Vec<&String> = hosts.iter().filter(|host| !host.is_empty()).take(HOSTS).collect();
    if hosts.is_empty() {
        return Finding::warn("port 25", format!("{domain} takes no mail (null MX)"), ANOTHER);
    }
    let mut faults = Vec::new();
    for host in hosts {
        match greeted(host, port, lookup).await {
            Ok(greeting) => return Finding::ok("port 25", format!("{host}:{port} greets: {greeting}")),
            Err(fault) => faults.push((format!("{host}:{port}: {fault}"), fault)),
        }
    }
    let text = faults.iter().map(|(text, _)| text.as_str()).collect::<Vec<_>>().join("; ");
    let silent = faults.iter().all(|(_, fault)| matches!(fault, Ungreeted::Silent(_)));
    if !silent {
        // Somebody answered, if only to refuse, or there was nobody to ask: that is no firewall on the way out.
        return Finding::warn("port 25", text, ANOTHER);
    }
    let advice = "if other domains fail too, your provider blocks port 25: ask to have it opened, or send through a \
                  relay: [[route]] domain = \"*\", relay = \"host:587\"";
    Finding::fail("port 25", text, advice)
}

/// The greeting of a mail host, without its code.
async fn greeted(host: &str, port: u16, lookup: &Lookup) -> Result<String, Ungreeted> {
    let addresses = match host.parse::<IpAddr>() {
        Ok(ip) => vec![ip],
        Err(_) => lookup.addresses(host).await.map_err(Ungreeted::Other)?,
    };
    let mut last = Ungreeted::Other("it has no address in DNS".to_owned());
    for address in addresses.into_iter().take(ADDRESSES) {
        match tokio::time::timeout(PATIENCE, greeting(SocketAddr::new(address, port))).await {
            Ok(Ok(greeting)) => return Ok(greeting),
            Ok(Err(error)) => last = Ungreeted::Other(format!("{address}: {error}")),
            Err(_) => last = Ungreeted::Silent(format!("{address}: no greeting within {} s", PATIENCE.as_secs())),
        }
    }
    Err(last)
}

async fn greeting(address: SocketAddr) -> std::io::Result<String> {
    let stream = TcpStream::connect(address).await?;
    let mut line = String::new();
    BufReader::new(stream.take(GREETING_BYTES)).read_line(&mut line).await?;
    match line.strip_prefix("220") {
        Some(text) => Ok(text.trim_start_matches(['-', ' ']).trim_end().escape_debug().to_string()),
        None => Err(std::io::Error::other(format!("it answers `{}`", line.trim_end().escape_debug()))),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;

    use super::*;

    async fn greeting_of(says: &'static [u8]) -> Result<String, Ungreeted> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(says).await.unwrap();
        });
        let lookup = Lookup::new(&crate::config::Dns { servers: vec!["127.0.0.1:9".parse().unwrap()] }).unwrap();
        greeted("127.0.0.1", port, &lookup).await
    }

    #[tokio::test]
    async fn peers_greet_or_not() {
        assert_eq!(greeting_of(b"220 mx.example ESMTP\r\n").await.unwrap(), "mx.example ESMTP");
        assert!(greeting_of(b"554 go away\r\n").await.unwrap_err().to_string().contains("go away"));
        assert!(greeting_of(b"").await.is_err());
    }

    #[test]
    fn private_addresses() {
        for (address, private) in [
            ("10.0.0.1", true),
            ("127.0.0.1", true),
            ("::1", true),
            ("fd00::1", true),
            ("192.0.2.1", false),
            ("2001:db8::1", false),
        ] {
            assert_eq!(is_private(address.parse().unwrap()), private, "{address}");
        }
    }
}
