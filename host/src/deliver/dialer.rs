//! Opens a session along a plan: hosts in order, addresses of each, TLS as the policy says, plain where it broke.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use mail::outcome::Phase;
use mail::{EnhancedCode, Outcome, Verdict};
use rustls::RootCertStore;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tracing::debug;

use super::connection::{Connection, Unopened};
use super::reach::{Barred, Reach};
use super::tls::Tls;
use crate::config::{Config, DeliveryTimeouts, TlsPolicy};
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
        })
    }

    /// Tries hosts and addresses in order until one opens a session; else the outcome of the last one that was reached,
    /// or of the last look-up where there was nobody to reach, or says that no host may be reached at all.
    pub(super) async fn connect(&self, plan: &Plan) -> Result<Connection, Box<Outcome>> {
        let order = arrange(&plan.hosts, &mut rand::rng());
        let mut unresolved: Option<Box<Outcome>> = None;
        let mut unopened = None;
        let mut refused = None;
        let mut dials = 0;
        for host in order {
            let addresses = match self.addresses(host).await {
                Ok(addresses) => addresses,
                Err(outcome) => {
                    debug!(mx = %host.name, text = %outcome.text, "no address");
                    // What may be answered later outweighs what is certain.
                    if unresolved.as_ref().is_none_or(|known| known.status.detail != 3) {
                        unresolved = Some(outcome);
                    }
                    continue;
                }
            };
            for address in addresses {
                let peer = SocketAddr::new(address, plan.port);
                if let Some(barred) = self.reach.barred(peer, host.foreign) {
                    debug!(mx = %host.name, %address, ?barred, "not connected to");
                    refused = Some(out_of_reach(barred, host, peer));
                    continue;
                }
                if dials == DIALS_MAX {
                    break;
                }
                dials += 1;
                match self.dial(host, address, plan).await {
                    Ok(connection) => return Ok(connection),
                    Err(outcome) => {
                        debug!(mx = %host.name, %address, text = %outcome.text, "no session");
                        // What may pass later outweighs what never will.
                        let kept = if outcome.verdict == Verdict::Deferred { &mut unopened } else { &mut refused };
                        *kept = Some(outcome);
                    }
                }
            }
        }
        let outcome = unopened.or(unresolved).or(refused);
        Err(outcome.unwrap_or_else(|| undeliverable((4, 4), None, "the site has no hosts".to_owned())))
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

    /// One address of one host; once more without TLS where the policy allows and the handshake failed.
    async fn dial(&self, host: &Host, address: IpAddr, plan: &Plan) -> Result<Connection, Box<Outcome>> {
        // Without TLS a login is refused anyway but on loopback: to fall back would only hide the cause.
        let may_fall_back =
            plan.tls == TlsPolicy::Opportunistic && (plan.auth.is_none() || address.to_canonical().is_loopback());
        let tls = match plan.tls {
            TlsPolicy::Off => TlsUse::Never,
            TlsPolicy::Opportunistic if may_fall_back && self.tls.is_broken(&host.name) => TlsUse::Never,
            TlsPolicy::Opportunistic => TlsUse::IfOffered,
            TlsPolicy::Require | TlsPolicy::Verify => TlsUse::Always,
        };
        match self.open(host, address, plan, tls).await {
            Ok(connection) => {
                if tls == TlsUse::IfOffered {
                    self.tls.forget_failed(&host.name);
                }
                Ok(connection)
            }
            Err(Unopened::Handshake { outcome, broken }) if may_fall_back => {
                debug!(mx = %host.name, text = %outcome.text, broken, "no TLS there; going on in the clear");
                self.tls.remember_failed(&host.name, broken);
                self.open(host, address, plan, TlsUse::Never).await.map_err(Unopened::into_outcome)
            }
            Err(unopened) => Err(unopened.into_outcome()),
        }
    }

    async fn open(&self, host: &Host, address: IpAddr, plan: &Plan, tls: TlsUse) -> Result<Connection, Unopened> {
        let label = label(host, address, plan.port);
        let failed = |text: String| {
            let text = format!("{label}, port {}: {text}", plan.port);
            Unopened::Other(undeliverable((4, 1), Some(label.clone()), text))
        };
        let target = self.tls.target(&host.name, address, plan.tls).map_err(&failed)?;
        let socket = TcpStream::connect(SocketAddr::new(address, plan.port));
        let socket = match timeout(self.timeouts.connect, socket).await {
            Ok(Ok(socket)) => socket,
            Ok(Err(err)) => return Err(failed(format!("cannot connect: {err}"))),
            Err(_) => return Err(failed("cannot connect: no answer in time".to_owned())),
        };
        if let (Ok(local), Ok(peer)) = (socket.local_addr(), socket.peer_addr())
            && self.reach.came_home(local, peer)
        {
            return Err(Unopened::Other(out_of_reach(Barred::Ourselves, host, peer)));
        }
        // The end of one write must not wait for the acknowledgement of the one before.
        socket.set_nodelay(true).map_err(|err| failed(err.to_string()))?;
        let login =
            plan.auth.as_ref().map(|auth| Login { username: auth.username.clone(), password: auth.password.clone() });
        let loopback = address.to_canonical().is_loopback();
        let opening = Opening { hostname: Arc::clone(&self.hostname), tls, login, loopback };
        Connection::open(socket, Client::new(opening, label.clone()), target, Arc::clone(&self.timeouts)).await
    }
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
