//! One connection: drives the protocol machine with a socket, TLS and deadlines.

use std::io;
use std::mem::MaybeUninit;
use std::sync::Arc;
use std::time::Duration;

use mail::Outcome;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::client::TlsStream;

use super::tls::{self, TlsTarget};
use crate::config::DeliveryTimeouts;
use crate::smtp::client::{Client, Fault, Mail, Next, Wait};

/// Octets read at once; a whole group of pipelined replies fits.
const READ_MAX: usize = 4 * 1024;
/// How long a peer that broke off may take to say why.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// How long a polite goodbye may take.
const QUIT_MAX: Duration = Duration::from_secs(2);

/// An open session, or what is left of one.
pub(super) struct Connection {
    stream: Stream,
    client: Client,
    buffer: Box<[u8; READ_MAX]>,
    timeouts: Arc<DeliveryTimeouts>,
}

/// Why a connection did not become a session.
pub(super) enum Unopened {
    /// The handshake failed; without TLS it may work. `broken`: by what the peer said, and not by a time-out or a lost
    /// connection, which may be the network's doing.
    Handshake {
        outcome: Box<Outcome>,
        broken: bool,
    },
    Other(Box<Outcome>),
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connection {
    /// Speaks until a message can be sent: greeting, EHLO, STARTTLS, AUTH.
    pub(super) async fn open(
        socket: TcpStream,
        client: Client,
        target: TlsTarget<'_>,
        timeouts: Arc<DeliveryTimeouts>,
    ) -> Result<Connection, Unopened> {
        let buffer = Box::new([0; READ_MAX]);
        let mut connection = Connection { stream: Stream::Plain(socket), client, buffer, timeouts };
        if connection.drive().await == Next::Handshake {
            connection = connection.encrypt(target).await?;
            connection.drive().await;
        }
        match connection.client.failure() {
            Some(outcome) => Err(Unopened::Other(Box::new(outcome.clone()))),
            None => Ok(connection),
        }
    }

    async fn encrypt(mut self, target: TlsTarget<'_>) -> Result<Connection, Unopened> {
        let Stream::Plain(socket) = self.stream else { return Ok(self) };
        let handshake = target.connector.connect(target.name, socket);
        let (fault, broken) = match timeout(self.timeouts.command, handshake).await {
            Ok(Ok(stream)) => {
                self.client.encrypted(tls::describe(stream.get_ref().1));
                self.stream = Stream::Tls(Box::new(stream));
                return Ok(self);
            }
            // rustls speaks of the peer's bytes as invalid data.
            Ok(Err(err)) => (err.to_string(), err.kind() == io::ErrorKind::InvalidData),
            Err(_) => ("no answer in time".to_owned(), false),
        };
        Err(Unopened::Handshake { outcome: Box::new(self.client.give_up(Fault::Handshake(fault))), broken })
    }

    /// Sends one message; an outcome for each recipient.
    pub(super) async fn send(&mut self, mail: Mail<'_>) -> Vec<Outcome> {
        self.client.begin(mail);
        self.drive().await;
        self.client.take_outcomes()
    }

    /// Whether the peer takes requests for reports (RFC 3461).
    pub(super) fn takes_requests(&self) -> bool {
        self.client.capabilities().dsn
    }

    /// Whether the last message was lost before the peer said a word about it.
    pub(super) fn lost_unheard(&self) -> bool {
        !self.client.is_ready() && !self.client.mail_was_answered()
    }

    /// Whether the last message was lost when all of it was sent, so that the peer may have it.
    pub(super) fn had_it_all(&self) -> bool {
        self.client.had_it_all()
    }

    /// Whether the session is over before its time.
    pub(super) fn is_broken(&self) -> bool {
        self.client.failure().is_some()
    }

    /// Whether it can take another message: the machine is ready, and the peer has neither closed nor said anything.
    pub(super) fn is_open(&self) -> bool {
        self.client.is_ready() && self.stream.is_quiet()
    }

    pub(super) async fn close(mut self) {
        self.client.quit();
        let _ = timeout(QUIT_MAX, async {
            self.drive().await;
            self.stream.shutdown().await
        })
        .await;
    }

    /// Does what the machine asks for until it is ready, over, or wants TLS.
    async fn drive(&mut self) -> Next {
        loop {
            match self.client.what_next() {
                Next::Write(wait) => self.write(wait).await,
                Next::Read(wait) => self.read_reply(wait).await,
                next @ (Next::Handshake | Next::Ready | Next::Over) => return next,
            }
        }
    }

    async fn write(&mut self, wait: Wait) {
        let limit = self.limit(wait);
        let fault = match timeout(limit, self.stream.write(self.client.output())).await {
            Ok(Ok(())) => return self.client.written(),
            Ok(Err(err)) => broken(&err),
            Err(_) => Fault::Silent,
        };
        // A peer that refuses and closes has often said why.
        let _ = timeout(LAST_WORDS, async { while let Ok(1..) = self.read().await {} }).await;
        self.client.fail(fault);
    }

    /// Reads one whole reply (or more): the deadline is for the reply, not for each piece of it.
    async fn read_reply(&mut self, wait: Wait) {
        let deadline = Instant::now() + self.limit(wait);
        let seen = self.client.replies_seen();
        while self.client.replies_seen() == seen && self.client.what_next() != Next::Over {
            match timeout_at(deadline, self.read()).await {
                Ok(Ok(0)) => self.client.fail(Fault::Closed),
                Ok(Ok(_)) => {}
                Ok(Err(err)) => self.client.fail(broken(&err)),
                Err(_) => self.client.fail(Fault::Silent),
            }
        }
    }

    async fn read(&mut self) -> io::Result<usize> {
        let read = self.stream.read(&mut self.buffer[..]).await?;
        self.client.receive(&self.buffer[..read]);
        Ok(read)
    }

    fn limit(&self, wait: Wait) -> Duration {
        match wait {
            Wait::Greeting => self.timeouts.greeting,
            Wait::Command => self.timeouts.command,
            Wait::DataStart => self.timeouts.data_start,
            Wait::DataBlock => self.timeouts.data_block,
            Wait::DataEnd => self.timeouts.data_end,
        }
    }
}

fn broken(err: &io::Error) -> Fault {
    match err.kind() {
        // rustls says this where the peer closed without saying so.
        io::ErrorKind::UnexpectedEof => Fault::Closed,
        _ => Fault::Network(err.to_string()),
    }
}

impl Stream {
    async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(stream) => stream.read(buffer).await,
            Stream::Tls(stream) => stream.read(buffer).await,
        }
    }

    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Stream::Plain(stream) => stream.write_all(bytes).await,
            Stream::Tls(stream) => {
                stream.write_all(bytes).await?;
                stream.flush().await
            }
        }
    }

    async fn shutdown(&mut self) -> io::Result<()> {
        match self {
            Stream::Plain(stream) => stream.shutdown().await,
            Stream::Tls(stream) => stream.shutdown().await,
        }
    }

    /// Whether an idle peer is still there. In the clear, whatever it says unasked is a goodbye (421); under TLS there
    /// may be session tickets, so that only the end of the stream counts.
    fn is_quiet(&self) -> bool {
        let (socket, encrypted) = match self {
            Stream::Plain(stream) => (stream, false),
            Stream::Tls(stream) => (stream.get_ref().0, true),
        };
        match SockRef::from(socket).peek(&mut [MaybeUninit::uninit()]) {
            Ok(read) => encrypted && read > 0,
            Err(err) => err.kind() == io::ErrorKind::WouldBlock,
        }
    }
}
