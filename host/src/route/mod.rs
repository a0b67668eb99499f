//! Where mail for a domain goes: `[[route]]` rules, MX lookup, TLS policy.
//!
//! On the road it stands between `queue`, which asks per domain, and `deliver`, which connects along the plan. What
//! cannot be routed is an outcome for every recipient of the domain. RFC 5321 s5.1, RFC 7505 (null MX).

pub mod egress;
pub mod gather;
pub mod lookup;
pub mod resolver;
pub(crate) mod rules;

use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::sync::{Arc, LazyLock};

use mail::outcome::Phase;
use mail::{Domain, EnhancedCode, Outcome, Verdict};
use tokio::time::Instant;

use self::egress::{Blames, Egress};
use self::gather::{Gathered, gather};
use self::resolver::{LookupFault, Resolver};
use crate::config::{Config, NextHop, RelayAuth, RelayHost, Route, Source, TlsPolicy};
use crate::queue::Site;

/// How to reach a site: hosts in the order to be tried, with the policy for all of them.
#[derive(Clone, Debug)]
pub struct Plan {
    /// By preference, then by name. Those of equal preference are shuffled for each connection.
    pub hosts: Vec<Host>,
    pub port: u16,
    pub tls: TlsPolicy,
    pub auth: Option<RelayAuth>,
    /// `None`: the system chooses where the mail leaves from.
    pub egress: Option<Egress>,
}

impl Plan {
    fn source(&self) -> Option<&Source> {
        self.egress.as_ref().map(|egress| &*egress.source)
    }

    /// Whether the source has been blamed since, and another one is to be used.
    pub fn is_stale(&self) -> bool {
        self.egress.as_ref().is_some_and(|egress| egress.is_stale(Instant::now()))
    }
}

impl PartialEq for Plan {
    fn eq(&self, other: &Plan) -> bool {
        self.hosts == other.hosts && self.port == other.port && self.tls == other.tls && self.source() == other.source()
    }
}

impl Eq for Plan {}

/// One mail host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// A name in lower case without trailing dot, or an address in text.
    pub name: String,
    pub preference: u16,
    /// Known already, as for an address literal; else looked up at connect.
    pub addresses: Vec<IpAddr>,
    /// Whether a stranger named it (MX record, address literal) and not the operator (`[[route]] relay`): it is kept out
    /// of this machine and of private networks.
    pub foreign: bool,
}

/// Answers where mail for a domain goes.
pub struct Router {
    resolver: Arc<dyn Resolver>,
    hostname: Domain,
    port: u16,
    routes: Vec<Route>,
    /// Sources of each route, and at the end those of all others.
    sources: Vec<Arc<[Arc<Source>]>>,
    blames: Arc<Blames>,
}

impl Router {
    pub fn new(config: &Config, resolver: Arc<dyn Resolver>) -> Router {
        let default: Arc<[Arc<Source>]> = config.delivery.sources.as_slice().into();
        let of_route = |route: &Route| match &*route.sources {
            [] => default.clone(),
            sources => sources.into(),
        };
        let sources = config.routes.iter().map(of_route).chain([default.clone()]).collect();
        Router {
            sources,
            blames: Arc::default(),
            resolver,
            hostname: config.hostname.clone(),
            port: config.delivery.port,
            routes: config.routes.clone(),
        }
    }

    /// The site of a domain, or the outcome for every recipient there.
    pub async fn route(&self, domain: &Domain) -> Result<Site, Box<Outcome>> {
        if let Some(site) = self.known_route(domain) {
            return Ok(site);
        }
        if literal(domain).is_some() {
            let text = format!("`{domain}` is no address literal that we know");
            return Err(refused(Verdict::Bounced, EnhancedCode::new(5, 1, 2), text));
        }
        let chosen = rules::choose(&self.routes, domain);
        let (port, tls) = self.by_mx(chosen.map(|(_, route)| route));
        let hosts = self.mail_hosts(domain).await?;
        Ok(self.site(Plan { hosts, port, tls, auth: None, egress: None }, chosen.map(|(number, _)| number)))
    }

    /// The site where no MX lookup is needed: with a relay host, and for an address literal.
    pub fn known_route(&self, domain: &Domain) -> Option<Site> {
        let chosen = rules::choose(&self.routes, domain);
        if let Some((number, route)) = chosen
            && let NextHop::Relay { host, port, auth } = &route.next_hop
        {
            let hosts = vec![relay_host(host)];
            let plan = Plan { hosts, port: *port, tls: route.tls, auth: auth.clone(), egress: None };
            return Some(self.site(plan, Some(number)));
        }
        let address = literal(domain)??;
        let (port, tls) = self.by_mx(chosen.map(|(_, route)| route));
        let hosts = vec![Host { name: address.to_string(), preference: 0, addresses: vec![address], foreign: true }];
        Some(self.site(Plan { hosts, port, tls, auth: None, egress: None }, chosen.map(|(number, _)| number)))
    }

    /// Port and policy towards a domain's own hosts.
    fn by_mx(&self, route: Option<&Route>) -> (u16, TlsPolicy) {
        match route {
            None => (self.port, TlsPolicy::Opportunistic),
            Some(Route { next_hop: NextHop::Mx { port: Some(port) }, tls, .. }) => (*port, *tls),
            Some(Route { tls, .. }) => (self.port, *tls),
        }
    }

    async fn mail_hosts(&self, domain: &Domain) -> Result<Vec<Host>, Box<Outcome>> {
        let name = domain.as_str();
        let records = self.resolver.mx(name).await.map_err(|fault| unresolved(&fault))?;
        match gather(&records, self.hostname.as_str()) {
            Gathered::Hosts(hosts) => Ok(hosts),
            Gathered::Implicit => {
                let addresses = self.resolver.addresses(name).await.map_err(|fault| unresolved(&fault))?;
                if addresses.is_empty() {
                    let text = format!("the domain `{name}` has neither mail hosts (MX) nor addresses");
                    return Err(refused(Verdict::Bounced, EnhancedCode::new(5, 4, 4), text));
                }
                if name == self.hostname.as_str() {
                    return Err(looping(name));
                }
                // Looked up again at connect, from the cache: a plan must not outlive the addresses' TTL.
                Ok(vec![Host { name: name.to_owned(), preference: 0, addresses: Vec::new(), foreign: true }])
            }
            Gathered::NullMx => {
                let text = format!("the domain `{name}` takes no mail: it has a null MX record");
                Err(refused(Verdict::Bounced, EnhancedCode::new(5, 1, 10), text))
            }
            Gathered::Loop => Err(looping(name)),
        }
    }

    /// The site of a plan, under the route of that number, with the source it is reached from.
    fn site(&self, mut plan: Plan, route: Option<usize>) -> Site {
        let mut names: Vec<&str> = plan.hosts.iter().map(|host| host.name.as_str()).collect();
        names.sort_unstable();
        let hosts = names.join(",");
        let mut key = format!("{hosts} port {} tls {:?}", plan.port, plan.tls);
        // A connection to a relay may stand where one along an MX record may not: they are not shared.
        if plan.hosts.iter().any(|host| !host.foreign) {
            key.push_str(" relay");
        }
        if let Some(auth) = &plan.auth {
            key.push_str(&format!(" login {:08x}", credentials(auth)));
        }
        if let Some(sources) = route.map_or(self.sources.last(), |number| self.sources.get(number)) {
            plan.egress = Egress::choose(&hosts, sources, &self.blames, Instant::now());
        }
        if let Some(source) = plan.source() {
            key.push_str(&format!(" from {}", source.name));
        }
        Site { key: key.into(), plan: Arc::new(plan) }
    }
}

/// Names credentials in site keys without showing them: the same for the same ones, whatever rule has them and across
/// reloads, and nothing that a stranger could compute.
fn credentials(auth: &RelayAuth) -> u32 {
    static NAMES: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    NAMES.hash_one((&auth.username, &auth.password)) as u32
}

fn relay_host(host: &RelayHost) -> Host {
    match host {
        RelayHost::Ip(address) => {
            Host { name: address.to_string(), preference: 0, addresses: vec![*address], foreign: false }
        }
        RelayHost::Name(name) => {
            Host { name: name.as_str().to_owned(), preference: 0, addresses: Vec::new(), foreign: false }
        }
    }
}

/// `[192.0.2.1]` or `[IPv6:2001:db8::1]` (RFC 5321 s4.1.3); `Some(None)` for a literal that is neither.
fn literal(domain: &Domain) -> Option<Option<IpAddr>> {
    let inner = domain.as_str().strip_prefix('[')?.strip_suffix(']').unwrap_or_default();
    let tagged = inner.split_at_checked(5).filter(|(tag, _)| tag.eq_ignore_ascii_case("ipv6:"));
    Some(match tagged {
        Some((_, v6)) => v6.parse().ok().map(IpAddr::V6),
        None => inner.parse().ok().map(IpAddr::V4),
    })
}

fn unresolved(fault: &LookupFault) -> Box<Outcome> {
    let (verdict, status) = match fault {
        LookupFault::NoSuchName(_) => (Verdict::Bounced, EnhancedCode::new(5, 1, 2)),
        LookupFault::Unanswered { .. } => (Verdict::Deferred, EnhancedCode::new(4, 4, 3)),
    };
    refused(verdict, status, fault.to_string())
}

fn looping(name: &str) -> Box<Outcome> {
    let text =
        format!("mail for `{name}` would come back to us: its best mail host is this one, which does not take it");
    refused(Verdict::Failed, EnhancedCode::new(5, 4, 6), text)
}

fn refused(verdict: Verdict, status: EnhancedCode, text: String) -> Box<Outcome> {
    Box::new(Outcome { verdict, phase: Phase::Route, status, remote_host: None, reply: None, text, tls: None })
}
