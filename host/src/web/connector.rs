//! Opens connections for requests: the name is resolved, every address is held against what may be reached, and the
//! very address that was looked at is connected to, so that a second answer of a name server changes nothing.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tower_service::Service;

use super::address::Reachable;
use crate::route::resolver::Resolver;

/// For one address; then the next is tried.
const CONNECT: Duration = Duration::from_secs(5);
/// Addresses tried of one name.
const ADDRESSES_MAX: usize = 4;
/// Questions to the system's resolver at once: each holds a thread while it waits.
const SYSTEM_LOOKUPS: usize = 16;

/// Who resolves names.
#[derive(Clone)]
pub(super) enum Names {
    /// The system: `/etc/hosts` and what else it knows. At most so many questions at once.
    System(Arc<Semaphore>),
    /// The name servers of the configuration.
    Dns(Arc<dyn Resolver>),
}

impl Names {
    pub(super) fn system() -> Names {
        Names::System(Arc::new(Semaphore::new(SYSTEM_LOOKUPS)))
    }
}

/// Why there is no connection.
#[derive(Clone, Debug, Error)]
pub(super) enum Unconnected {
    #[error("{0}")]
    Target(String),
    #[error("`{host}` is at {address}, which is on this machine or in a private network")]
    Barred { host: String, address: IpAddr },
    #[error("{0}")]
    Unreached(String),
}

/// The connector of one `Web`.
#[derive(Clone)]
pub(super) struct Connector {
    pub(super) names: Names,
    pub(super) reachable: Reachable,
}

impl Service<Uri> for Connector {
    type Response = TokioIo<TcpStream>;
    type Error = Unconnected;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Unconnected>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Unconnected>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let this = self.clone();
        Box::pin(async move { this.connect(&uri).await.map(TokioIo::new) })
    }
}

impl Connector {
    async fn connect(&self, uri: &Uri) -> Result<TcpStream, Unconnected> {
        let host = uri.host().map(|host| host.trim_matches(['[', ']'])).filter(|host| !host.is_empty());
        let host = host.ok_or_else(|| Unconnected::Target("the URL names no host".to_owned()))?;
        let default = if uri.scheme_str() == Some("https") { 443 } else { 80 };
        let port = uri.port_u16().unwrap_or(default);
        let found = self.addresses(host).await?;
        let (open, barred): (Vec<IpAddr>, Vec<IpAddr>) = found.into_iter().partition(|ip| self.reachable.allows(*ip));
        let mut last = match barred.first() {
            Some(address) => Unconnected::Barred { host: host.to_owned(), address: *address },
            None => Unconnected::Unreached(format!("`{host}` has no address")),
        };
        for address in open.into_iter().take(ADDRESSES_MAX) {
            match open_one(SocketAddr::new(address, port)).await {
                Ok(stream) => return Ok(stream),
                Err(error) => {
                    last = Unconnected::Unreached(format!("cannot connect to {address}, port {port}: {error}"))
                }
            }
        }
        Err(last)
    }

    async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, Unconnected> {
        if let Ok(literal) = host.parse() {
            return Ok(vec![literal]);
        }
        // No name server is to be asked for it (RFC 6761 s6.3).
        if host.eq_ignore_ascii_case("localhost") {
            return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
        }
        match &self.names {
            Names::Dns(resolver) => {
                resolver.addresses(host).await.map_err(|fault| Unconnected::Unreached(fault.to_string()))
            }
            Names::System(permits) => {
                let failed = |error: &dyn std::fmt::Display| {
                    Unconnected::Unreached(format!("the name `{host}` cannot be resolved: {error}"))
                };
                let _permit = permits.acquire().await.map_err(|error| failed(&error))?;
                let found = tokio::net::lookup_host((host, 0)).await.map_err(|error| failed(&error))?;
                Ok(found.map(|address| address.ip()).collect())
            }
        }
    }
}

async fn open_one(peer: SocketAddr) -> io::Result<TcpStream> {
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, "no answer in time");
    let stream = timeout(CONNECT, TcpStream::connect(peer)).await.map_err(late)??;
    stream.set_nodelay(true)?;
    Ok(stream)
}
