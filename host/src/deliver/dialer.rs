//! Opens a session along a plan: hosts in order, addresses of each, from the plan's source, TLS as the policy says, plain
//! where it broke.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use mail::outcome::Phase;
use mail::{EnhancedCode, Outcome, Verdict};
use rustls::RootCertStore;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, timeout};
use tracing::debug;

use super::connection::{Connection, Unopened};
use super::race::Race;
use super::reach::{Barred, Reach};
use super::tls::Tls;
use super::trouble::Trouble;
use crate::config::{Config, DeliveryTimeouts, TlsPolicy};
use crate::route::egress::is_blamed;
use crate::route::gather::arrange;
use crate::route::resolver::{LookupFault, Resolver};
use crate::route::{Host, Plan};
use crate::smtp::client::{Client, Login, Opening, TlsUse};

/// Addresses tried for one session, all hosts together.
const DIALS_MAX: usize = 10;

/// Opens sessions.
pub(super) struct Dialer {
    resolver: Arc<dyn Resolver>,
    hostname: Arc<str>,
    timeouts: Arc<DeliveryTimeouts>,
    tls: Tls,
    reach: Reach,
    pub(super) trouble: Trouble,
}

/// An open session, and the host it is with.
pub(super) struct Dialed {
    pub(super) connection: Connection,
    pub(super) host: String,
}

/// Why nobody opened a session; the weightiest is told.
#[derive(Default)]
struct Failures {
    /// Of the last host that was reached.
    unopened: Option<Box<Outcome>>,
    /// Of the last address there is no way to from here, such as one of IPv6 on a machine without.
    wayless: Option<Box<Outcome>>,
    unresolved: Option<Box<Outcome>>,
    /// What never will pass.
    refused: Option<Box<Outcome>>,
}

/// Why an address was not connected to.
struct Unconnected {
    outcome: Box<Outcome>,
    /// There is no way to it from here.
    wayless: bool,
}

impl Dialer {
    pub(super) fn new(
        config: &Config,
        resolver: Arc<dyn Resolver>,
        roots: RootCertStore,
    ) -> Result<Dialer, rustls::Error> {
        Ok(Dialer {
            resolver,
            hostname: config.hostname.as_str().into(),
            timeouts: Arc::new(config.delivery.timeouts.clone()),
            tls: Tls::new(roots)?,
            reach: Reach::new(config),
            trouble: Trouble::default(),
        })
    }

    /// Tries hosts and addresses in order until one opens a session; else the outcome of the last one that was reached,
    /// or of the last look-up where there was nobody to reach, or says that no host may be reached at all.
    pub(super) async fn connect(&self, plan: &Plan) -> Result<Dialed, Box<Outcome>> {
        let mut order = arrange(&plan.hosts, &mut rand::rng());
        if order.len() > 1 {
            order.sort_by_key(|host| self.trouble.has(&host.name));
        }
        let mut failures = Failures::default();
        let mut dials = DIALS_MAX;
        for host in order {
            let mut race = Race::new(self.candidates(host, plan, &mut failures).await);
            loop {
                let connect = async |address| (address, self.connect_to(host, address, plan).await);
                let raced = race.winner(&mut dials, connect, |failed| failures.unconnected(host, failed)).await;
                let Some((address, socket)) = raced else { break };
                match self.greet(host, address, plan, socket).await {
                    Ok(connection) => return Ok(Dialed { connection, host: host.name.clone() }),
                    Err(outcome) => failures.unopened(host, plan, outcome),
                }
            }
        }
        let Failures { unopened, wayless, unresolved, refused } = failures;
        let outcome = unopened.or(wayless).or(unresolved).or(refused);
        Err(outcome.unwrap_or_else(|| undeliverable((4, 4), None, "the site has no hosts".to_owned())))
    }

    /// The addresses of a host that may be connected to, from the plan's source.
    async fn candidates(&self, host: &Host, plan: &Plan, failures: &mut Failures) -> Vec<IpAddr> {
        let mut addresses = match self.addresses(host).await {
            Ok(addresses) => addresses,
            Err(outcome) => {
                failures.unresolved(host, outcome);
                return Vec::new();
            }
        };
        addresses.retain(|&address| {
            let peer = SocketAddr::new(address, plan.port);
            let barred = self.reach.barred(peer, host.foreign);
            if let Some(barred) = barred {
                debug!(mx = %host.name, %address, ?barred, "not connected to");
                failures.refused = Some(out_of_reach(barred, host, peer));
            }
            barred.is_none()
        });
        let found = addresses.len();
        let Some(egress) = &plan.egress else { return addresses };
        addresses.retain(|address| egress.source.address_for(*address).is_some());
        if addresses.is_empty() && found > 0 {
            let text = format!(
                "the mail host `{}` has only addresses of a kind that the source `{}` has none of",
                host.name, egress.source.name
            );
            failures.wayless = Some(undeliverable((4, 4), None, text));
        }
        addresses
    }

    async fn addresses(&self, host: &Host) -> Result<Vec<IpAddr>, Box<Outcome>> {
        if !host.addresses.is_empty() {
            return Ok(host.addresses.clone());
        }
        match self.resolver.addresses(&host.name).await {
            Ok(addresses) if !addresses.is_empty() => Ok(addresses),
            Ok(_) => Err(undeliverable((4, 4), None, format!("the mail host `{}` has no address", host.name))),
            Err(fault @ LookupFault::NoSuchName(_)) => {
                Err(undeliverable((4, 4), None, format!("the mail host has no address: {fault}")))
            }
            Err(fault @ LookupFault::Unanswered { .. }) => Err(undeliverable((4, 3), None, fault.to_string())),
        }
    }

    /// A connection to one address, from the source's address of that kind.
    async fn connect_to(&self, host: &Host, address: IpAddr, plan: &Plan) -> Result<TcpStream, Unconnected> {
        let label = label(host, address, plan.port);
        let peer = SocketAddr::new(address, plan.port);
        let failed = |text: String, wayless: bool| {
            let text = format!("{label}, port {}: {text}", plan.port);
            Unconnected { outcome: undeliverable((4, 1), Some(label.clone()), text), wayless }
        };
        let from = plan.egress.as_ref().and_then(|egress| Some((egress, egress.source.address_for(address)?)));
        let socket = match from {
            None => Ok(None),
            Some((egress, own)) => bound(own).map(Some).map_err(|err| {
                egress.blame(Instant::now());
                failed(
                    format!("cannot send from {own}, the address of the source `{}`: {err}", egress.source.name),
                    true,
                )
            }),
        };
        let connecting = async {
            match socket? {
                None => Ok(TcpStream::connect(peer).await),
                Some(socket) => Ok(socket.connect(peer).await),
            }
        };
        let socket = match timeout(self.timeouts.connect, connecting).await {
            Ok(Ok(Ok(socket))) => socket,
            Ok(Ok(Err(err))) => return Err(failed(format!("cannot connect: {err}"), is_wayless(&err))),
            Ok(Err(unbound)) => return Err(unbound),
            Err(_) => return Err(failed("cannot connect: no answer in time".to_owned(), false)),
        };
        if let (Ok(local), Ok(peer)) = (socket.local_addr(), socket.peer_addr())
            && self.reach.came_home(local, peer)
        {
            return Err(Unconnected { outcome: out_of_reach(Barred::Ourselves, host, peer), wayless: false });
        }
        // The end of one write must not wait for the acknowledgement of the one before.
        socket.set_nodelay(true).map_err(|err| failed(err.to_string(), false))?;
        Ok(socket)
    }

    /// A session on a connection; on another one, without TLS, where the policy allows and the handshake failed.
    async fn greet(
        &self,
        host: &Host,
        address: IpAddr,
        plan: &Plan,
        socket: TcpStream,
    ) -> Result<Connection, Box<Outcome>> {
        // Without TLS a login is refused anyway but on loopback: to fall back would only hide the cause.
        let may_fall_back =
            plan.tls == TlsPolicy::Opportunistic && (plan.auth.is_none() || address.to_canonical().is_loopback());
        let tls = match plan.tls {
            TlsPolicy::Off => TlsUse::Never,
            TlsPolicy::Opportunistic if may_fall_back && self.tls.is_broken(&host.name) => TlsUse::Never,
            TlsPolicy::Opportunistic => TlsUse::IfOffered,
            TlsPolicy::Require | TlsPolicy::Verify => TlsUse::Always,
        };
        match self.open(host, address, plan, socket, tls).await {
            Ok(connection) => {
                if tls == TlsUse::IfOffered {
                    self.tls.forget_failed(&host.name);
                }
                Ok(connection)
            }
            Err(Unopened::Handshake { outcome, broken }) if may_fall_back => {
                debug!(mx = %host.name, text = %outcome.text, broken, "no TLS there; going on in the clear");
                self.tls.remember_failed(&host.name, broken);
                let socket = self.connect_to(host, address, plan).await.map_err(|failed| failed.outcome)?;
                self.open(host, address, plan, socket, TlsUse::Never).await.map_err(Unopened::into_outcome)
            }
            Err(unopened) => Err(unopened.into_outcome()),
        }
    }

    async fn open(
        &self,
        host: &Host,
        address: IpAddr,
        plan: &Plan,
        socket: TcpStream,
        tls: TlsUse,
    ) -> Result<Connection, Unopened> {
        let label = label(host, address, plan.port);
        let target = self.tls.target(&host.name, address, plan.tls).map_err(|text| {
            let text = format!("{label}, port {}: {text}", plan.port);
            Unopened::Other(undeliverable((4, 1), Some(label.clone()), text))
        })?;
        let login =
            plan.auth.as_ref().map(|auth| Login { username: auth.username.clone(), password: auth.password.clone() });
        let loopback = address.to_canonical().is_loopback();
        let own_name = plan.egress.as_ref().and_then(|egress| egress.source.hostname.as_ref());
        let hostname = own_name.map_or_else(|| Arc::clone(&self.hostname), |name| name.as_str().into());
        let opening = Opening { hostname, tls, login, loopback };
        Connection::open(socket, Client::new(opening, label), target, Arc::clone(&self.timeouts)).await
    }
}

impl Failures {
    fn unresolved(&mut self, host: &Host, outcome: Box<Outcome>) {
        debug!(mx = %host.name, text = %outcome.text, "no address");
        // What may be answered later outweighs what is certain.
        if self.unresolved.as_ref().is_none_or(|known| known.status.detail != 3) {
            self.unresolved = Some(outcome);
        }
    }

    fn unconnected(&mut self, host: &Host, failed: Unconnected) {
        debug!(mx = %host.name, text = %failed.outcome.text, "no connection");
        let kept = match (failed.outcome.verdict, failed.wayless) {
            (Verdict::Deferred, false) => &mut self.unopened,
            (Verdict::Deferred, true) => &mut self.wayless,
            // What may pass later outweighs what never will.
            _ => &mut self.refused,
        };
        *kept = Some(failed.outcome);
    }

    fn unopened(&mut self, host: &Host, plan: &Plan, outcome: Box<Outcome>) {
        debug!(mx = %host.name, text = %outcome.text, "no session");
        if let Some(egress) = &plan.egress
            && is_blamed(&outcome)
        {
            egress.blame(Instant::now());
        }
        let kept = if outcome.verdict == Verdict::Deferred { &mut self.unopened } else { &mut self.refused };
        *kept = Some(outcome);
    }
}

/// A socket that sends from an address of ours.
fn bound(own: IpAddr) -> io::Result<TcpSocket> {
    let socket = if own.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.bind(SocketAddr::new(own, 0))?;
    Ok(socket)
}

/// Whether an address cannot be reached from this machine, whoever stands there.
fn is_wayless(err: &io::Error) -> bool {
    matches!(
        err.kind(),
        io::ErrorKind::NetworkUnreachable | io::ErrorKind::AddrNotAvailable | io::ErrorKind::Unsupported
    )
}

impl Unopened {
    fn into_outcome(self) -> Box<Outcome> {
        match self {
            Unopened::Handshake { outcome, .. } | Unopened::Other(outcome) => outcome,
        }
    }
}

/// `mx1.example.net (192.0.2.1)`, or the bare address; a relay's port stands behind its name where it is not 25.
fn label(host: &Host, address: IpAddr, port: u16) -> String {
    let text = address.to_string();
    match (host.name == text, !host.foreign && port != 25) {
        (true, true) => SocketAddr::new(address, port).to_string(),
        (true, false) => text,
        (false, true) => format!("{}:{port} ({text})", host.name),
        (false, false) => format!("{} ({text})", host.name),
    }
}

/// Nobody may be reached there, ever: class 5.
fn out_of_reach(barred: Barred, host: &Host, peer: SocketAddr) -> Box<Outcome> {
    let (verdict, status) = barred.verdict();
    let text = format!("{} {}", label(host, peer.ip(), peer.port()), barred.words());
    Box::new(Outcome { verdict, phase: Phase::Connect, status, remote_host: None, reply: None, text, tls: None })
}

/// Nobody could be reached, now: class 4.
fn undeliverable((subject, detail): (u16, u16), remote_host: Option<String>, text: String) -> Box<Outcome> {
    let status = EnhancedCode::new(4, subject, detail);
    Box::new(Outcome {
        verdict: Verdict::Deferred,
        phase: Phase::Connect,
        status,
        remote_host,
        reply: None,
        text,
        tls: None,
    })
}
