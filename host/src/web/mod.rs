//! The guarded way out by HTTP: for URLs that strangers give (webhooks, attachments to be fetched).
//!
//! Invariants: never a connection to an address that may not be reached, whatever its name says a moment later; never a
//! redirect followed; never more of an answer in memory than its caller asks for; never a wait without an end.

pub mod address;
mod connector;
#[cfg(test)]
mod tests;

use std::error::Error as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::{ClientConfig, RootCertStore};
use thiserror::Error;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use self::address::Reachable;
use self::connector::{Connector, Names, Unconnected};
use crate::config::Dns;
use crate::route::resolver::{DnsResolver, Resolver, ResolverError};

/// Requests at once; more wait, on their own time.
const REQUESTS: usize = 1024;
/// Open connections kept for one host, and for how long.
const IDLE_OF_ONE: usize = 16;
const IDLE_FOR: Duration = Duration::from_secs(20);
/// Header fields of an answer, all together.
const HEADER_BYTES: usize = 64 << 10;

/// What one request may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// From the call to the last octet: waits, look-up, TLS and all.
    pub time: Duration,
    /// Of the answer's body; the rest is dropped.
    pub body_bytes: usize,
}

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum WebError {
    /// Its author must correct it.
    #[error("the URL cannot be used: {0}")]
    Target(String),
    /// The host is where no stranger may send us.
    // Not where: names of the operator's network are nothing to tell a customer of.
    #[error("`{host}` is on this machine or in a private network")]
    Barred { host: String, address: IpAddr },
    #[error("no answer within {} s", .0.as_secs_f32())]
    TimedOut(Duration),
    /// Name, connection, TLS or protocol.
    #[error("{0}")]
    Failed(String),
}

/// The client could not be set up.
#[derive(Debug, Error)]
pub enum SetupError {
    #[error(transparent)]
    Resolver(#[from] ResolverError),
    #[error("TLS for outgoing requests cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
}

/// Sends requests; open connections are kept and shared. One for the whole host.
pub struct Web {
    client: Client<HttpsConnector<Connector>, Full<Bytes>>,
    reachable: Reachable,
    room: Semaphore,
}

impl Web {
    /// With the name servers of the configuration or the system's resolver, and the system's root certificates.
    pub fn new(dns: &Dns, reachable: Reachable) -> Result<Web, SetupError> {
        let names = match dns.servers.is_empty() {
            true => Names::system(),
            false => Names::Dns(Arc::new(DnsResolver::new(dns)?)),
        };
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        Ok(Web::assemble(names, roots, reachable)?)
    }

    /// With a resolver and root certificates of the caller's choice.
    pub fn with(resolver: Arc<dyn Resolver>, roots: RootCertStore, reachable: Reachable) -> Result<Web, rustls::Error> {
        Web::assemble(Names::Dns(resolver), roots, reachable)
    }

    fn assemble(names: Names, roots: RootCertStore, reachable: Reachable) -> Result<Web, rustls::Error> {
        let tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(Connector { names, reachable });
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_max_idle_per_host(IDLE_OF_ONE)
            .pool_idle_timeout(IDLE_FOR)
            .http1_max_buf_size(HEADER_BYTES)
            .build(connector);
        Ok(Web { client, reachable, room: Semaphore::new(REQUESTS) })
    }

    /// Whose addresses this reaches: where a URL is an address, its author can be told at once.
    pub fn reachable(&self) -> Reachable {
        self.reachable
    }

    /// Sends one request to its absolute `http` or `https` URL and reads the answer, whatever its status, 3xx included.
    /// A request is repeated only where an open connection was closed before it took any of it.
    pub async fn send(&self, request: Request<Bytes>, limits: Limits) -> Result<Response<Bytes>, WebError> {
        if !matches!(request.uri().scheme_str(), Some("http" | "https")) {
            return Err(WebError::Target("it must begin with https:// or http://".to_owned()));
        }
        let answered = timeout(limits.time, async {
            // Never closed, so this fails never.
            let _place = self.room.acquire().await.map_err(|error| WebError::Failed(error.to_string()))?;
            let response = self.client.request(request.map(Full::new)).await.map_err(|error| cause(&error))?;
            let (parts, body) = response.into_parts();
            Ok(Response::from_parts(parts, first_of(body, limits.body_bytes).await?))
        });
        answered.await.map_err(|_| WebError::TimedOut(limits.time))?
    }
}

/// The first octets of a body.
async fn first_of(mut body: Incoming, limit: usize) -> Result<Bytes, WebError> {
    let mut first = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| WebError::Failed(format!("the answer broke off: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        let room = limit - first.len();
        first.extend_from_slice(&data[..room.min(data.len())]);
        // What is behind it stays unread, and the connection is closed.
        if data.len() > room {
            break;
        }
    }
    Ok(first.freeze())
}

/// What went wrong, in our words where we know it, else in those of the innermost cause.
fn cause(error: &hyper_util::client::legacy::Error) -> WebError {
    let mut source = error.source();
    let mut last = error.to_string();
    while let Some(inner) = source {
        match inner.downcast_ref::<Unconnected>() {
            Some(Unconnected::Target(text)) => return WebError::Target(text.clone()),
            Some(Unconnected::Barred { host, address }) => {
                tracing::debug!(host, %address, "a request to a private address was refused");
                return WebError::Barred { host: host.clone(), address: *address };
            }
            Some(Unconnected::Unreached(text)) => return WebError::Failed(text.clone()),
            None => last = inner.to_string(),
        }
        source = inner.source();
    }
    match error.is_connect() {
        true => WebError::Failed(format!("no connection: {last}")),
        false => WebError::Failed(format!("no answer: {last}")),
    }
}
