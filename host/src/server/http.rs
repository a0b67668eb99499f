//! HTTP and HTTPS listeners: connections within limits, a deadline on every wait, what comes in handed to `routes`.
//!
//! HTTP/1.1, and HTTP/2 where TLS chose it. Whoever is one connection too many is answered 503 or, where it is its own
//! address that has too many, 429; a header that stays away too long is answered
//! 408, one that is too long 431; an idle connection is closed. A peer that reads its answer too slowly is cut. On
//! shutdown requests under way are answered and idle connections end.

mod answer;
mod body;
mod idle;
mod paced;
mod routes;

use std::convert::Infallible;
use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

pub use body::{Admits, Budget};
pub use routes::{Obstacles, Routes};

use super::gate::{AT_THE_DOOR, Gate};
use super::peers::Peers;
use crate::api::control;
use crate::api::credential::Peer;
use crate::metrics::{Road, Turned, metrics};
use answer::Outgoing;
use idle::Activity;
use paced::Paced;

/// Of the connections at once: the part that one address may have, and this machine, where a reverse proxy may stand.
const OF_ONE: usize = 4;
const OF_LOOPBACK: (usize, usize) = (3, 4);

/// How long a newcomer that is turned away may take to hear it, and how much of its request is read meanwhile.
const TURN_AWAY: Duration = Duration::from_secs(2);
const TURN_AWAY_BYTES: usize = 64 << 10;

/// Of a request's header section; more is 431.
const HEADER_BYTES: usize = 64 << 10;
const HEADER_FIELDS: usize = 100;

/// Large answers that are being written, all together.
const ANSWER_BYTES: u64 = 128 << 20;

/// Streams at once on one HTTP/2 connection.
const STREAMS: u32 = 64;

/// How an HTTP/2 connection is found to be dead.
const PING_EVERY: Duration = Duration::from_secs(30);

/// Wait after an accept that failed (no file descriptors left, say).
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

const TOO_SLOW: &[u8] = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

const TOO_MANY: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 5\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
const TOO_MANY_OF_ONE: &[u8] =
    b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 5\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

/// A request may be so many times as large as a message: base64, JSON, and HTML beside text.
const BODY_PER_MESSAGE: u64 = 2;

/// Bytes that a request may have, where a message may have so many.
pub fn body_bytes(message_bytes: u64) -> u64 {
    message_bytes.saturating_mul(BODY_PER_MESSAGE)
}

/// How long peers may take.
#[derive(Clone, Copy, Debug)]
pub struct Deadlines {
    pub handshake: Duration,
    /// For a header section, the idle time before it included.
    pub header: Duration,
    /// Between two pieces of a body.
    pub body_piece: Duration,
    /// For the peer to take another piece of an answer.
    pub write: Duration,
}

impl Default for Deadlines {
    fn default() -> Deadlines {
        Deadlines {
            handshake: Duration::from_secs(10),
            header: Duration::from_secs(30),
            body_piece: Duration::from_secs(20),
            write: Duration::from_secs(30),
        }
    }
}

/// The HTTP side of a host. Lives as long as its listeners and connections.
pub struct HttpServer {
    routes: Routes,
    budget: Budget,
    outgoing: Outgoing,
    deadlines: Deadlines,
    gate: Arc<Gate>,
    /// Newcomers that are not inside yet.
    door: Arc<Semaphore>,
    peers: Arc<Peers>,
    locals: Arc<Peers>,
    shutdown: CancellationToken,
    tasks: TaskTracker,
}

impl HttpServer {
    /// A server without listeners. `shutdown` ends it all; `tasks` knows when it has ended.
    pub fn new(
        routes: Routes,
        budget: Budget,
        connections: usize,
        deadlines: Deadlines,
        shutdown: CancellationToken,
        tasks: TaskTracker,
    ) -> Arc<HttpServer> {
        let gate = Arc::new(Gate::new(connections));
        let door = Arc::new(Semaphore::new(AT_THE_DOOR));
        let (peers, locals) = (Peers::new(share(connections)), Peers::new(local_share(connections)));
        let (peers, locals) = (Arc::new(peers), Arc::new(locals));
        let outgoing = Outgoing::new(ANSWER_BYTES);
        Arc::new(HttpServer { routes, budget, outgoing, deadlines, gate, door, peers, locals, shutdown, tasks })
    }

    /// Other limits for bodies that come: of all together, and of one, as large as a message makes it.
    pub fn limit_bodies(&self, total_bytes: u64, message_bytes: u64) {
        self.budget.change(total_bytes, body_bytes(message_bytes));
    }

    /// So many connections at once from now on; those that are open stay.
    pub fn limit_connections(&self, connections: usize) {
        self.gate.set_limit(connections);
        self.peers.set_limit(share(connections));
        self.locals.set_limit(local_share(connections));
    }

    /// Serves a listener in a task of its own; with `tls` over TLS alone.
    pub fn serve(self: &Arc<Self>, listener: TcpListener, tls: Option<Arc<ServerConfig>>) {
        let server = self.clone();
        let tls = tls.map(TlsAcceptor::from);
        self.tasks.spawn(async move {
            let shutdown = server.shutdown.clone();
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = server.accept(listener, tls) => {}
            }
        });
    }

    async fn accept(self: Arc<Self>, listener: TcpListener, tls: Option<TlsAcceptor>) {
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
            let ip = peer.ip().to_canonical();
            let own = (if ip.is_loopback() { &self.locals } else { &self.peers }).enter(ip);
            let turned = match (own, self.gate.enter()) {
                (Some(own), Some(inside)) => {
                    let (server, tls) = (self.clone(), tls.clone());
                    self.tasks.spawn(async move {
                        let _open = metrics().enter(Road::Http);
                        let span = tracing::info_span!("connection", peer = %ip);
                        if let Err(error) = server.converse(stream, ip, tls).instrument(span).await {
                            tracing::debug!(error, "an HTTP connection ended");
                        }
                        drop((own, inside));
                    });
                    continue;
                }
                (None, _) => Turned::Address,
                (Some(_), None) => Turned::Full,
            };
            metrics().turned_away(Road::Http, turned);
            tracing::debug!(peer = %ip, ?turned, "an HTTP connection was turned away");
            // Under TLS nothing is said: a handshake costs what is to be saved.
            if tls.is_none() {
                self.tasks.spawn(async move {
                    turn_away(stream, turned).await;
                    drop(door);
                });
            }
        }
    }

    /// One connection from its first byte to its end. The error is for the log.
    async fn converse(self: Arc<Self>, stream: TcpStream, ip: IpAddr, tls: Option<TlsAcceptor>) -> Result<(), String> {
        // Without it small answers wait for acknowledgements.
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        let Some(tls) = tls else { return self.http1(stream, ip, "http").await };
        let handshake = timeout(self.deadlines.handshake, tls.accept(stream)).await;
        let stream = handshake.map_err(|_| "the TLS handshake took too long")?.map_err(|error| error.to_string())?;
        match stream.get_ref().1.alpn_protocol() {
            Some(b"h2") => self.http2(stream, ip).await,
            Some(_) | None => self.http1(stream, ip, "https").await,
        }
    }

    async fn http1<S>(self: Arc<Self>, stream: S, ip: IpAddr, scheme: &'static str) -> Result<(), String>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (stream, unanswered) = Paced::new(stream, self.deadlines.write);
        let server = self.clone();
        let service = service_fn(move |request| {
            let (server, unanswered) = (server.clone(), unanswered.clone());
            Box::pin(async move {
                let response = server.respond(request, ip, scheme).await;
                unanswered.clear();
                response
            }) as Answering
        });
        let mut connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.deadlines.header)
            .max_headers(HEADER_FIELDS)
            .max_header_size(HEADER_BYTES)
            .max_buf_size(HEADER_BYTES)
            .serve_connection(TokioIo::new(stream), service);
        let mut stopped = Box::pin(self.shutdown.cancelled());
        let mut is_stopping = false;
        let ended = poll_fn(|context| {
            if !is_stopping && stopped.as_mut().poll(context).is_ready() {
                is_stopping = true;
                Pin::new(&mut connection).graceful_shutdown();
            }
            match connection.poll_without_shutdown(context) {
                Poll::Ready(ended) => Poll::Ready(ended),
                Poll::Pending => Poll::Pending,
            }
        })
        .await;
        let mut stream = connection.into_parts().io.into_inner();
        let late = ended.as_ref().is_err_and(hyper::Error::is_timeout) && stream.is_unanswered();
        if late {
            stream.write_all(TOO_SLOW).await.map_err(|error| error.to_string())?;
        }
        let closed = stream.shutdown().await;
        match ended {
            // Idle for so long: nothing to tell.
            Err(error) if error.is_timeout() && !late => Ok(()),
            Err(error) => Err(error.to_string()),
            Ok(()) => closed.map_err(|error| error.to_string()),
        }
    }

    async fn http2<S>(self: Arc<Self>, stream: S, ip: IpAddr) -> Result<(), String>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (stream, _) = Paced::new(stream, self.deadlines.write);
        let activity = Arc::new(Activity::new());
        let (server, counted) = (self.clone(), activity.clone());
        let service = service_fn(move |request| {
            let (server, under_way) = (server.clone(), counted.begin());
            Box::pin(async move {
                let response = server.respond(request, ip, "https").await;
                drop(under_way);
                response
            }) as Answering
        });
        let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_header_list_size(HEADER_BYTES as u32)
            .max_concurrent_streams(STREAMS)
            .keep_alive_interval(PING_EVERY)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = Box::pin(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = async {
                tokio::select! {
                    () = self.shutdown.cancelled() => {}
                    () = activity.ceased(self.deadlines.header) => {}
                }
            } => {
                // Streams under way are answered; a peer that holds on to the rest is cut by its own silence.
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        ended.map_err(|error| error.to_string())
    }

    /// One request, read in whole and answered. Its bytes count against the budget until it is.
    async fn respond(
        &self,
        request: Request<Incoming>,
        ip: IpAddr,
        scheme: &'static str,
    ) -> Result<Response<Full<Bytes>>, Infallible> {
        let (mut parts, body) = request.into_parts();
        parts.extensions.insert(Peer(ip));
        let is_mail = parts.method == Method::POST && !parts.uri.path().starts_with(control::PREFIX);
        let response = match self.budget.read(&parts, body, self.deadlines.body_piece).await {
            Ok((body, _held)) => {
                let whole = Instant::now();
                let response = self.routes.answer(Request::from_parts(parts, body), scheme).await;
                if is_mail && response.status().is_success() {
                    metrics().answered(Road::Http, whole.elapsed());
                }
                response
            }
            Err(refused) => refused.into_response(),
        };
        Ok(self.outgoing.admit(response).await.map(Full::new))
    }
}

/// Of so many connections, how many one address may have.
fn share(connections: usize) -> usize {
    (connections / OF_ONE).max(1)
}

fn local_share(connections: usize) -> usize {
    (connections * OF_LOOPBACK.0 / OF_LOOPBACK.1).max(1)
}

/// Tells a newcomer to come later. Its request is read beside, or it would be reset before it sees the answer.
async fn turn_away(mut stream: TcpStream, why: Turned) {
    let answer = if why == Turned::Address { TOO_MANY_OF_ONE } else { TOO_MANY };
    let told = async {
        stream.write_all(answer).await?;
        stream.shutdown().await?;
        (&mut stream).take(TURN_AWAY_BYTES as u64).read_to_end(&mut Vec::new()).await
    };
    // Whoever is gone or does not listen is none of our trouble.
    let _ = timeout(TURN_AWAY, told).await;
}

type Answering = Pin<Box<dyn Future<Output = Result<Response<Full<Bytes>>, Infallible>> + Send>>;

#[cfg(test)]
mod tests;
