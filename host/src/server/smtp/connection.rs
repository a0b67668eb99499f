//! One connection: does what its session asks for.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use mail::{EnhancedCode, Reply};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout, timeout_at};
use uuid::Uuid;

use super::transport::Transport;
use super::{Authority, Incoming, Options, Principal, SessionFacts, SmtpServer};
use crate::metrics::{Road, Turned, metrics};
use crate::smtp::auth::Credentials;
use crate::smtp::session::{Action, Arrived, Link, Session, Verdict};

/// Room for what is read at once, while commands are awaited and while a message comes in.
const COMMAND_READ_OCTETS: usize = 4 * 1024;
const TEXT_READ_OCTETS: usize = 32 * 1024;

/// For a TLS handshake, at most.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);

/// Before a wrong key is told, so that guessing is slow.
const WRONG_KEY_DELAY: Duration = Duration::from_secs(1);

/// Between two looks at the room that is left.
const OUTLOOK_PAUSE: Duration = Duration::from_millis(100);

/// For all that stands behind a message. Clients wait for 10 minutes (RFC 5321 s4.5.3.2.6).
const SUBMIT_TIMEOUT: Duration = Duration::from_secs(5 * 60);

/// How long, and how much, is read after the last reply, so that the client gets it before a reset.
const LINGER_TIMEOUT: Duration = Duration::from_secs(2);
const LINGER_OCTETS: usize = 1024 * 1024;

/// For the one line that a client gets who has too many connections.
const TURN_AWAY_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection and what it holds.
pub struct Connection {
    server: Arc<SmtpServer>,
    options: Arc<Options>,
    session: Session,
    peer: IpAddr,
    link: Link,
    principal: Option<Principal>,
    /// Whose key a SCRAM exchange is to prove.
    claimed: Option<Principal>,
    /// Leave to hold the octets of the message that is coming in or is worked on.
    room: Option<OwnedSemaphorePermit>,
    buffer: Vec<u8>,
    /// When the client has been silent for too long.
    deadline: Instant,
    milestones: u64,
    draining: bool,
}

/// Why a connection ended before its time. For the log alone.
type Ended = io::Error;

impl Connection {
    pub fn new(server: Arc<SmtpServer>, options: Arc<Options>, peer: IpAddr, link: Link) -> Connection {
        Connection {
            session: Session::new(options.settings.clone(), link),
            peer,
            link,
            principal: None,
            claimed: None,
            room: None,
            buffer: Vec::new(),
            deadline: Instant::now() + options.idle_timeout,
            milestones: 0,
            draining: false,
            options,
            server,
        }
    }

    /// Holds the dialogue to its end.
    pub async fn run(mut self, stream: TcpStream) {
        let stream = Transport::Plain(stream);
        let result = if self.link.secured {
            match self.handshake(stream).await {
                Ok(stream) => self.dialogue(stream).await,
                Err(error) => Err(error),
            }
        } else {
            self.dialogue(stream).await
        };
        match result {
            Ok(()) => tracing::debug!("the connection is closed"),
            Err(error) => tracing::debug!(%error, "the connection broke"),
        }
    }

    async fn dialogue(&mut self, mut stream: Transport) -> Result<(), Ended> {
        loop {
            let action = self.session.advance();
            if !self.session.holds_room() && !matches!(action, Action::Room(_)) {
                self.room = None;
            }
            match action {
                Action::Read => {
                    self.send(&mut stream).await?;
                    if !self.read(&mut stream).await? {
                        return Ok(());
                    }
                }
                Action::StartTls => {
                    self.send(&mut stream).await?;
                    stream = self.handshake(stream).await?;
                    self.principal = None;
                    self.session.tls_started();
                    self.touch();
                }
                Action::Authenticate(credentials) => {
                    self.authenticate(&credentials).await;
                    self.touch();
                }
                Action::FindVerifier(username) => {
                    self.challenge(&username).await;
                    self.touch();
                }
                Action::Proved(is_right) => {
                    let claimed = self.claimed.take().filter(|_| is_right);
                    self.conclude(claimed).await;
                    self.touch();
                }
                Action::Room(octets) => {
                    let granted = self.take_room(octets).await;
                    self.session.room(granted);
                }
                Action::Outlook(octets) => {
                    self.send(&mut stream).await?;
                    let granted = self.foresee_room(octets).await;
                    self.session.room(granted);
                    self.touch();
                }
                Action::Deliver(arrived) => {
                    self.send(&mut stream).await?;
                    self.deliver(*arrived).await;
                    self.touch();
                }
                Action::Close => {
                    self.send(&mut stream).await?;
                    return linger(stream).await;
                }
            }
        }
    }

    /// Reads once; false where the client is gone. A silent client and a host that goes down change the session instead.
    async fn read(&mut self, stream: &mut Transport) -> Result<bool, Ended> {
        if self.session.milestones() != self.milestones {
            self.milestones = self.session.milestones();
            self.touch();
        }
        let size = if self.session.is_in_message() { TEXT_READ_OCTETS } else { COMMAND_READ_OCTETS };
        // Who waits holds no buffer: most connections do nothing else.
        if stream.readable().now_or_never().is_none() {
            self.buffer = Vec::new();
        }
        tokio::select! {
            biased;
            () = self.server.shutdown.cancelled(), if !self.draining => {
                self.draining = true;
                self.deadline = self.deadline.min(Instant::now() + self.options.drain);
                self.session.drain();
            }
            read = timeout_at(self.deadline, read(stream, &mut self.buffer, size)) => match read {
                Err(_) => self.session.time_out(),
                Ok(read) => match read? {
                    0 => return Ok(false),
                    count => self.session.receive(&self.buffer[..count]),
                },
            },
        }
        Ok(true)
    }

    /// The client did something: it has its whole time again, but not beyond the host's end.
    fn touch(&mut self) {
        if !self.draining {
            self.deadline = Instant::now() + self.options.idle_timeout;
        }
    }

    async fn send(&mut self, stream: &mut Transport) -> Result<(), Ended> {
        let output = self.session.take_output();
        if output.is_empty() {
            return Ok(());
        }
        tracing::debug!(reply = %String::from_utf8_lossy(&output).trim_end(), "said");
        match timeout(self.options.idle_timeout, stream.write(&output)).await {
            Ok(written) => written,
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read its replies")),
        }
    }

    async fn handshake(&self, stream: Transport) -> Result<Transport, Ended> {
        let limit = HANDSHAKE_TIMEOUT.min(self.options.idle_timeout);
        let stream = tokio::select! {
            biased;
            () = self.server.shutdown.cancelled() => {
                return Err(io::Error::new(io::ErrorKind::Interrupted, "the host goes down"));
            }
            secured = timeout(limit, stream.secure(&self.server.tls)) => match secured {
                Ok(secured) => secured?,
                Err(_) => return Err(io::Error::new(io::ErrorKind::TimedOut, "the TLS handshake took too long")),
            },
        };
        tracing::debug!(tls = stream.cipher(), "encrypted");
        Ok(stream)
    }

    async fn authenticate(&mut self, credentials: &Credentials) {
        match self.server.submit.authenticate(credentials, self.peer).await {
            Ok(principal) => self.conclude(principal).await,
            Err(error) => {
                tracing::error!(%error, "AUTH was answered with a temporary failure");
                self.session.authenticated(Verdict::Unknown);
            }
        }
    }

    /// Challenges a client that says who it is. Where nobody is that, the challenge tells nothing of it.
    async fn challenge(&mut self, username: &str) {
        match self.server.submit.verifier(username, self.peer).await {
            Ok((verifier, principal)) => {
                self.claimed = principal;
                // 122 bits by chance.
                let nonce = Uuid::new_v4().simple().to_string();
                self.session.challenge(Some((verifier, &nonce)));
            }
            Err(error) => {
                tracing::error!(%error, "AUTH was answered with a temporary failure");
                self.session.challenge(None);
            }
        }
    }

    async fn conclude(&mut self, principal: Option<Principal>) {
        let Some(principal) = principal else {
            tracing::info!("a wrong key was given");
            tokio::time::sleep(WRONG_KEY_DELAY).await;
            return self.session.authenticated(Verdict::Wrong);
        };
        tracing::debug!(tenant = principal.tenant, key = principal.key_id, "authenticated");
        self.principal = Some(principal);
        self.session.authenticated(Verdict::Right);
    }

    /// Waits for a while until a message of this size could be held. It is not kept free for it: a client may take its
    /// time before it sends.
    async fn foresee_room(&self, octets: u64) -> bool {
        if self.is_pressed() {
            return false;
        }
        let room = &self.server.room;
        let is_there = async {
            while (room.available_permits() as u64) < octets {
                tokio::time::sleep(OUTLOOK_PAUSE).await;
            }
        };
        let found = timeout(self.options.room_timeout, is_there).await.is_ok();
        if !found {
            tracing::warn!(octets, "no room for a message of the declared size: too many are coming in at once");
        }
        found
    }

    /// Adds to what the message may hold; waits for a while where there is no room. Not for long: messages that wait
    /// for each other's room would wait forever.
    async fn take_room(&mut self, octets: usize) -> bool {
        // What has begun may end: most of it is here already.
        if self.room.is_none() && self.is_pressed() {
            return false;
        }
        let Ok(octets) = u32::try_from(octets) else { return false };
        let room = self.server.room.clone().acquire_many_owned(octets);
        let Ok(Ok(permit)) = timeout(self.options.room_timeout, room).await else {
            tracing::warn!(octets, "no room for a message: too many are coming in at once");
            return false;
        };
        match &mut self.room {
            Some(room) => room.merge(permit),
            None => self.room = Some(permit),
        }
        true
    }

    /// Whether memory or disk is short; the log has said why.
    fn is_pressed(&self) -> bool {
        let is_high = self.server.pressure.is_high();
        if is_high {
            metrics().turned_away(Road::Smtp, Turned::Pressed);
            tracing::debug!("a message is told to come later: memory or disk is short");
        }
        is_high
    }

    async fn deliver(&mut self, arrived: Arrived) {
        let dot = Instant::now();
        let authority = match (&self.principal, self.link.trusted) {
            (Some(principal), _) => Authority::Key(principal.clone()),
            (None, true) => Authority::Trusted,
            // The session refuses MAIL before it comes to this.
            (None, false) => return self.session.answer(&reply(530, (5, 7, 0), "Authentication required")),
        };
        if let Authority::Key(principal) = &authority {
            match self.server.submit.is_valid(principal).await {
                Ok(true) => {}
                Ok(false) => {
                    tracing::info!(tenant = principal.tenant, key = principal.key_id, "the key was revoked meanwhile");
                    return self.session.key_revoked();
                }
                Err(error) => {
                    tracing::error!(%error, "a message was answered with a temporary failure");
                    let answer = reply(451, (4, 3, 0), "The key cannot be checked now: try again later");
                    return self.session.answer(&answer);
                }
            }
        }
        let Arrived { envelope, message, utf8, .. } = arrived;
        let protocol = self.session.protocol(utf8);
        let facts = SessionFacts { peer: self.peer, hello: self.session.hello().to_owned(), protocol };
        let incoming = Incoming { authority, envelope, message, facts };
        let answer = match timeout(SUBMIT_TIMEOUT, self.server.submit.submit(incoming)).await {
            Ok(Ok(queued)) => {
                metrics().answered(Road::Smtp, dot.elapsed());
                reply(250, (2, 0, 0), &format!("Ok: queued as {}", queued.id))
            }
            Ok(Err(refusal)) => {
                let status = refusal.enhanced.map(|status| status.to_string());
                tracing::info!(code = refusal.code, status, text = refusal.text, "a message was refused");
                refusal
            }
            Err(_) => {
                tracing::error!("a message was not accepted in time");
                reply(451, (4, 3, 0), "The message could not be accepted in time: try again later")
            }
        };
        self.session.answer(&answer);
    }
}

fn reply(code: u16, (class, subject, detail): (u8, u16, u16), text: &str) -> Reply {
    Reply::new(code, Some(EnhancedCode::new(class, subject, detail)), text)
}

/// Reads at most so many octets into a buffer that is there only then.
async fn read(stream: &mut Transport, buffer: &mut Vec<u8>, size: usize) -> io::Result<usize> {
    stream.readable().await?;
    if buffer.len() != size {
        *buffer = vec![0; size];
    }
    stream.read(buffer).await
}

/// Closes so that the last reply arrives: a connection closed with bytes unread is reset, and the reply lost.
async fn linger(mut stream: Transport) -> Result<(), Ended> {
    let drained = async {
        stream.shutdown().await?;
        let mut buffer = vec![0; COMMAND_READ_OCTETS];
        let mut read = 0;
        while read < LINGER_OCTETS {
            match stream.read(&mut buffer).await? {
                0 => break,
                count => read += count,
            }
        }
        Ok(())
    };
    timeout(LINGER_TIMEOUT, drained).await.unwrap_or(Ok(()))
}

/// Tells a client that there are too many connections: in all, or from its address. Where TLS comes first nothing is said:
/// a handshake costs what is to be saved.
pub async fn turn_away(stream: TcpStream, secured: bool, why: Turned, limit: usize) {
    metrics().turned_away(Road::Smtp, why);
    if secured {
        return tracing::debug!(limit, ?why, "turned away without a word");
    }
    let reply = match why {
        Turned::Address => {
            reply(421, (4, 7, 0), &format!("Too many connections from your address: {limit} at once are allowed"))
        }
        Turned::Full | Turned::Pressed => reply(421, (4, 3, 2), "Too many connections: try again later"),
    };
    let mut stream = Transport::Plain(stream);
    let told = async {
        stream.write(&reply.to_wire()).await?;
        linger(stream).await
    };
    match timeout(TURN_AWAY_TIMEOUT, told).await {
        Ok(Ok(())) => tracing::info!(limit, ?why, "turned away: too many connections"),
        Ok(Err(error)) => tracing::debug!(%error, "turned away, and gone already"),
        Err(_) => tracing::debug!("turned away, and not listening"),
    }
}
