//! SMTP over real connections: accepts them within limits, drives `smtp::session` over each, hands what comes in to
//! `Submit`.
//!
//! A limit of connections in all and one per client address: whoever is one too many is told so with 421. A deadline on
//! every wait. Where memory or disk is short, no message is taken (452). Memory follows the configuration: an idle connection holds a few KiB, and the octets of all
//! messages that are coming in are counted against one budget. On shutdown idle sessions end with 421, those within a
//! message finish it.

mod connection;
mod transport;

use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use mail::{Envelope, Reply};
use rustls::ServerConfig;
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;
use uuid::Uuid;

use crate::config::{Config, IpNet};
use crate::metrics::{Road, Turned, metrics};
use crate::scram::Verifier;
use crate::server::gate::{AT_THE_DOOR, Gate};
use crate::server::peers::Peers;
use crate::server::pressure::Pressure;
use crate::smtp::auth::Credentials;
use crate::smtp::session::{Link, Settings};
use crate::store::TenantId;
use connection::Connection;

/// Octets of messages that are coming in or are being worked on, all connections together; at least two of the largest
/// messages.
const TEXT_BUDGET_OCTETS: u64 = 64 * 1024 * 1024;

/// How long a message waits for the room that others have. Those others may wait for its own, so it is short.
const ROOM_TIMEOUT: Duration = Duration::from_secs(5);

/// Wait after an accept that failed (no file descriptors left, say).
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Who sends, once the key is checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    pub tenant: TenantId,
    /// `key_` and a UUID.
    pub key_id: String,
    /// What the key is found by again.
    pub key_hash: [u8; 32],
    /// The only stream that the key is good for.
    pub stream: Option<mail::Stream>,
}

/// By what right a message comes in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authority {
    Key(Principal),
    /// The peer's address is in `[smtp] trusted`.
    Trusted,
}

/// What is known of the session a message came by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionFacts {
    pub peer: IpAddr,
    /// The name in EHLO: an atom or an address literal, fit for a trace field as it is.
    pub hello: String,
    /// `ESMTPSA` and so on (RFC 3848).
    pub protocol: &'static str,
}

/// A message that came in whole.
#[derive(Debug)]
pub struct Incoming {
    pub authority: Authority,
    pub envelope: Envelope,
    /// RFC 5322 with CRLF line ends.
    pub message: Vec<u8>,
    pub facts: SessionFacts,
}

/// A message that is durable now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queued {
    pub id: Uuid,
}

/// Keys cannot be checked now. The text is for the log.
#[derive(Clone, Debug, Error)]
#[error("keys cannot be checked: {0}")]
pub struct Unavailable(pub String);

/// What stands behind the dialogue.
#[async_trait]
pub trait Submit: Send + Sync + 'static {
    /// Who this is; `None` where the key is wrong.
    async fn authenticate(&self, credentials: &Credentials, peer: IpAddr) -> Result<Option<Principal>, Unavailable>;

    /// What is stored of the key with this id, and who that is; where there is none, a verifier that nothing proves.
    async fn verifier(&self, username: &str, peer: IpAddr) -> Result<(Verifier, Option<Principal>), Unavailable>;

    /// Whether the key is still one: it may be revoked while a session is open.
    async fn is_valid(&self, principal: &Principal) -> Result<bool, Unavailable>;

    /// Takes responsibility for a message: on `Ok` it is durable. The reply tells the client why not; nothing is stored then.
    async fn submit(&self, incoming: Incoming) -> Result<Queued, Reply>;
}

/// Limits and facts of the SMTP side.
#[derive(Clone, Debug)]
pub struct Options {
    pub settings: Arc<Settings>,
    pub trusted: Vec<IpNet>,
    pub max_connections: usize,
    /// Trusted peers are not counted.
    pub max_connections_per_ip: usize,
    pub idle_timeout: Duration,
    /// For a message that is coming in when the host goes down.
    pub drain: Duration,
    pub plain_auth_on_loopback: bool,
    /// For room, where other messages have it.
    pub room_timeout: Duration,
    /// Octets of messages held at once.
    pub text_budget_octets: usize,
}

impl Options {
    /// Those of a configuration.
    pub fn new(config: &Config) -> Options {
        let message_bytes = config.limits.message_bytes;
        let budget = TEXT_BUDGET_OCTETS.max(message_bytes.saturating_mul(2));
        let settings =
            Settings { hostname: config.hostname.clone(), message_bytes, recipients: config.limits.recipients };
        Options {
            settings: Arc::new(settings),
            trusted: config.smtp.trusted.clone(),
            max_connections: config.smtp.max_connections,
            max_connections_per_ip: config.smtp.max_connections_per_ip,
            idle_timeout: config.smtp.idle_timeout,
            drain: config.limits.drain,
            plain_auth_on_loopback: config.smtp.plain_auth_on_loopback,
            room_timeout: ROOM_TIMEOUT,
            text_budget_octets: usize::try_from(budget).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS),
        }
    }
}

/// The SMTP side of a host. Lives as long as its listeners and connections.
pub struct SmtpServer {
    /// For connections that come; those that are open keep what they began with.
    options: RwLock<Arc<Options>>,
    tls: TlsAcceptor,
    submit: Arc<dyn Submit>,
    gate: Arc<Gate>,
    /// Newcomers that are not inside yet.
    door: Arc<Semaphore>,
    peers: Arc<Peers>,
    pressure: Arc<Pressure>,
    /// Octets of messages that can still be held.
    room: Arc<Semaphore>,
    shutdown: CancellationToken,
    tasks: TaskTracker,
}

impl SmtpServer {
    /// A server without listeners. `shutdown` ends it all; `tasks` knows when it has ended.
    pub fn new(
        options: Options,
        tls: Arc<ServerConfig>,
        submit: Arc<dyn Submit>,
        pressure: Arc<Pressure>,
        shutdown: CancellationToken,
        tasks: TaskTracker,
    ) -> Arc<SmtpServer> {
        Arc::new(SmtpServer {
            tls: TlsAcceptor::from(tls),
            submit,
            gate: Arc::new(Gate::new(options.max_connections)),
            door: Arc::new(Semaphore::new(AT_THE_DOOR)),
            peers: Arc::new(Peers::new(options.max_connections_per_ip)),
            room: Arc::new(Semaphore::new(options.text_budget_octets)),
            pressure,
            shutdown,
            tasks,
            options: RwLock::new(Arc::new(options)),
        })
    }

    /// Other limits for connections that come; the budget of octets stays.
    pub fn change(&self, options: Options) {
        self.gate.set_limit(options.max_connections);
        self.peers.set_limit(options.max_connections_per_ip);
        *self.options.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(options);
    }

    fn options(&self) -> Arc<Options> {
        self.options.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Serves a listener in a task of its own; `secured`: TLS from the first byte.
    pub fn serve(self: &Arc<Self>, listener: TcpListener, secured: bool) {
        let server = self.clone();
        self.tasks.spawn(async move {
            let shutdown = server.shutdown.clone();
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = server.accept(listener, secured) => {}
            }
        });
    }

    async fn accept(self: Arc<Self>, listener: TcpListener, secured: bool) {
        loop {
            // Never closed, so this fails never.
            let Ok(door) = self.door.clone().acquire_owned().await else { return };
            let (stream, peer) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let (server, ip) = (self.clone(), peer.ip().to_canonical());
            let span = tracing::info_span!("connection", peer = %ip);
            match self.gate.enter() {
                Some(place) => {
                    drop(door);
                    let task = async move {
                        server.converse(stream, ip, secured).await;
                        drop(place);
                    };
                    self.tasks.spawn(task.instrument(span));
                }
                None => {
                    let task = async move {
                        connection::turn_away(stream, secured, Turned::Full, server.options().max_connections).await;
                        drop(door);
                    };
                    self.tasks.spawn(task.instrument(span));
                }
            }
        }
    }

    async fn converse(self: Arc<Self>, stream: TcpStream, peer: IpAddr, secured: bool) {
        // Without it replies wait for acknowledgements.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "the connection was gone at once");
            return;
        }
        let options = self.options();
        let trusted = options.trusted.iter().any(|block| block.contains(peer));
        // Trusted peers are the operator's own.
        let place = if trusted { None } else { Some(self.peers.enter(peer)) };
        if let Some(None) = place {
            return connection::turn_away(stream, secured, Turned::Address, options.max_connections_per_ip).await;
        }
        let link = Link { secured, trusted, plain_auth: peer.is_loopback() && options.plain_auth_on_loopback };
        let _open = metrics().enter(Road::Smtp);
        Connection::new(self.clone(), options, peer, link).run(stream).await;
        drop(place);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
