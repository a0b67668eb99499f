//! The client side of SMTP without I/O (RFC 5321): bytes in, bytes out, and an outcome for every recipient.
//!
//! On the road it stands between `deliver`, which owns the socket, the deadlines and TLS, and the peer. The driver asks
//! `what_next` to do, does it, and asks again; `receive` takes whatever the peer sent, `fail` whatever befell the
//! connection. Invariants: every recipient of a transaction gets exactly one outcome, whatever the peer does; a session
//! that has lost step is never used again; nobody is told "delivered" without a 2xx to the end of the message.
//!
//! RFC 5321 (SMTP), 1870 (SIZE), 2920 (PIPELINING), 3030 (CHUNKING), 3207 (STARTTLS), 3461 (DSN), 4954 (AUTH), 6152
//! (8BITMIME), 6531 (SMTPUTF8).

mod body;
mod capabilities;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod dialogue;
mod exchange;
mod fault;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod hardship;
mod login;
mod moment;
mod reply;

use std::sync::Arc;

use mail::outcome::Phase;
use mail::{EnhancedCode, Outcome, Reply, Verdict};

pub use capabilities::Capabilities;
pub use exchange::Mail;
use exchange::{Command, Exchange, Fate, Needs};
pub use fault::{Fault, Peer};
pub use reply::{ReplyFault, ReplyReader};

/// Octets of output buffer that an idle session keeps.
const OUTPUT_KEPT: usize = 16 * 1024;

/// What the driver has to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Write `output` and call `written`.
    Write(Wait),
    /// Read and call `receive`, until `replies_seen` grows; that is how long one wait lasts, however the bytes drip.
    Read(Wait),
    /// Do the TLS handshake and call `encrypted`, or drop the connection.
    Handshake,
    /// Nothing: `begin` a transaction or `quit`.
    Ready,
    /// Drop the connection; `failure` says why.
    Over,
}

/// What is waited for, which says how long (RFC 5321 s4.5.3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    Greeting,
    Command,
    DataStart,
    DataBlock,
    DataEnd,
}

/// Whether to say STARTTLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsUse {
    Never,
    /// Goes on in the clear where it is not offered or refused.
    IfOffered,
    Always,
}

/// Credentials for a relay.
#[derive(Clone)]
pub struct Login {
    pub username: String,
    pub password: String,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login").field("username", &self.username).finish_non_exhaustive()
    }
}

/// How to open a session.
#[derive(Clone, Debug)]
pub struct Opening {
    /// Our name in EHLO.
    pub hostname: Arc<str>,
    pub tls: TlsUse,
    pub login: Option<Login>,
    /// The peer is on loopback: AUTH is allowed without TLS.
    pub loopback: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    ExpectGreeting,
    ExpectEhlo,
    ExpectHelo,
    ExpectStartTls,
    ExpectHandshake,
    ExpectUserPrompt,
    ExpectPasswordPrompt,
    ExpectAuth,
    Ready,
    /// Replies to RSET, MAIL, RCPT and DATA.
    ExpectCommand,
    SendBody,
    ExpectEnd,
    /// The reply to a dot sent only because DATA was accepted without a recipient (RFC 2920 s3.1).
    ExpectEmptyDot,
    ExpectQuit,
    Over,
}

/// One session with one peer.
#[derive(Debug)]
pub struct Client {
    opening: Opening,
    peer: Peer,
    state: State,
    encrypted: bool,
    capabilities: Capabilities,
    replies: ReplyReader,
    replies_seen: u64,
    out: Vec<u8>,
    exchange: Exchange,
    needs_reset: bool,
    failure: Option<Outcome>,
    had_it_all: bool,
}

impl Client {
    /// A session on a fresh connection to `host`, which is named in outcomes.
    pub fn new(opening: Opening, host: String) -> Client {
        Client {
            opening,
            peer: Peer { host, tls: None },
            state: State::ExpectGreeting,
            encrypted: false,
            capabilities: Capabilities::default(),
            replies: ReplyReader::default(),
            replies_seen: 0,
            out: Vec::new(),
            exchange: Exchange::default(),
            needs_reset: false,
            failure: None,
            had_it_all: false,
        }
    }

    /// What the driver has to do now.
    pub fn what_next(&mut self) -> Next {
        if self.state == State::SendBody && self.out.is_empty() && self.exchange.body.fill(&mut self.out) {
            // From here on nobody knows whose the message is until the reply comes.
            self.state = State::ExpectEnd;
        }
        if self.state == State::Over {
            Next::Over
        } else if !self.out.is_empty() {
            Next::Write(self.write_wait())
        } else {
            match self.state {
                State::ExpectHandshake => Next::Handshake,
                State::Ready => Next::Ready,
                _ => Next::Read(self.read_wait()),
            }
        }
    }

    /// The bytes to write.
    pub fn output(&self) -> &[u8] {
        &self.out
    }

    /// All of `output` is written.
    pub fn written(&mut self) {
        self.out.clear();
    }

    /// Whole replies so far.
    pub fn replies_seen(&self) -> u64 {
        self.replies_seen
    }

    /// What the peer offered last.
    pub fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// Whether it can take another message.
    pub fn is_ready(&self) -> bool {
        self.state == State::Ready
    }

    /// Why the session is over, as an outcome for whoever waited for it.
    pub fn failure(&self) -> Option<&Outcome> {
        self.failure.as_ref()
    }

    /// Whether the peer has said anything to the MAIL of the last transaction. Where it has not, the message may be
    /// tried on another connection at once.
    pub fn mail_was_answered(&self) -> bool {
        self.exchange.mail_answered
    }

    /// Whether the peer had the whole of the last message when the connection was lost: then it may have taken it.
    pub fn had_it_all(&self) -> bool {
        self.had_it_all
    }

    /// Takes bytes from the peer, cut in any way.
    pub fn receive(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && self.state != State::Over {
            if self.state == State::ExpectHandshake {
                // What came in the clear must not be taken for part of the encrypted session (RFC 3207 s6).
                return self.fail(Fault::Injected);
            }
            // Replies to the commands in front of a body may come while that body is still being written.
            let written = self.out.is_empty() || self.state == State::ExpectCommand && self.exchange.body_in_group;
            let asked = written && !matches!(self.state, State::Ready | State::SendBody);
            match self.replies.read(bytes) {
                Err(fault) => return self.fail(Fault::Unreadable(fault)),
                Ok((_, None)) => return,
                Ok((taken, Some(reply))) => {
                    bytes = &bytes[taken..];
                    self.replies_seen += 1;
                    match reply.code {
                        421 if self.state == State::ExpectQuit => self.state = State::Over,
                        421 => self.fail(Fault::Refused(reply)),
                        _ if asked => self.on_reply(reply),
                        _ => self.on_unasked(&reply),
                    }
                }
            }
        }
    }

    /// The handshake succeeded: `tls` is protocol and cipher suite. What the peer said before counts no more.
    pub fn encrypted(&mut self, tls: String) {
        if self.state == State::ExpectHandshake {
            self.encrypted = true;
            self.peer.tls = Some(tls);
            self.capabilities = Capabilities::default();
            self.say_ehlo();
        }
    }

    /// The session is over for a reason that only the driver sees. Once over, it stays as it was.
    pub fn fail(&mut self, fault: Fault) {
        if self.state == State::Over {
            return;
        }
        let outcome = self.lost(&fault);
        self.exchange.settle(&outcome);
        if self.state != State::ExpectQuit {
            self.failure = Some(outcome);
        }
        self.had_it_all = self.is_all_sent() && !matches!(fault, Fault::Refused(_));
        self.state = State::Over;
        self.out.clear();
    }

    /// Ends the session that has not opened yet; the outcome is for everybody who waited for it.
    pub fn give_up(mut self, fault: Fault) -> Outcome {
        let outcome = self.lost(&fault);
        self.failure.take().unwrap_or(outcome)
    }

    /// Starts a transaction. What the peer cannot take is settled here, without a word on the wire.
    pub fn begin(&mut self, mail: Mail<'_>) {
        let needs = Needs::of(mail);
        self.exchange.begin(mail, &self.capabilities, needs, self.needs_reset);
        if self.state != State::Ready {
            let lost = match &self.failure {
                Some(failure) => failure.clone(),
                None => self.lost(&Fault::Closed),
            };
            return self.exchange.settle(&lost);
        }
        if let Some(refusal) = self.refusal(mail, needs) {
            return self.exchange.settle(&refusal);
        }
        if mail.recipients.is_empty() {
            return;
        }
        self.needs_reset = false;
        self.send_commands();
    }

    /// The outcomes of the last transaction, in the order of its recipients.
    pub fn take_outcomes(&mut self) -> Vec<Outcome> {
        let fates = std::mem::take(&mut self.exchange.fates);
        fates
            .into_iter()
            .map(|fate| match fate {
                Fate::Settled(outcome) => outcome,
                // Only a driver that stops halfway gets here.
                Fate::Waiting | Fate::Accepted => self.lost(&Fault::Closed),
            })
            .collect()
    }

    /// Says QUIT.
    pub fn quit(&mut self) {
        if self.state == State::Ready {
            self.say("QUIT", State::ExpectQuit);
        }
    }

    fn say(&mut self, command: &str, then: State) {
        self.out.extend_from_slice(command.as_bytes());
        self.out.extend_from_slice(b"\r\n");
        self.state = then;
    }

    fn say_ehlo(&mut self) {
        let ehlo = format!("EHLO {}", self.opening.hostname);
        self.say(&ehlo, State::ExpectEhlo);
    }

    fn on_reply(&mut self, reply: Reply) {
        match self.state {
            State::ExpectGreeting => match reply.code / 100 {
                2 => self.say_ehlo(),
                3 => self.fail(Fault::Unexpected(reply)),
                _ => self.fail(Fault::Refused(reply)),
            },
            State::ExpectEhlo => self.on_ehlo(reply),
            State::ExpectHelo => match reply.code / 100 {
                2 => self.after_hello(),
                3 => self.fail(Fault::Unexpected(reply)),
                _ => self.fail(Fault::Refused(reply)),
            },
            State::ExpectStartTls => match reply.code / 100 {
                2 => self.state = State::ExpectHandshake,
                3 => self.fail(Fault::Unexpected(reply)),
                _ if self.opening.tls == TlsUse::Always => self.fail(Fault::TlsRefused(reply)),
                _ => self.log_in(),
            },
            State::ExpectUserPrompt | State::ExpectPasswordPrompt | State::ExpectAuth => self.on_auth(reply),
            State::ExpectCommand => self.on_command(reply),
            State::ExpectEnd => self.on_end(reply),
            State::ExpectEmptyDot => self.finish(),
            State::ExpectQuit => self.state = State::Over,
            // `receive` lets no reply through in these.
            State::ExpectHandshake | State::Ready | State::SendBody | State::Over => self.fail(Fault::Unsolicited),
        }
    }

    /// A reply ahead of its time. Some peers refuse a body before its end, and close; nothing else is an answer.
    fn on_unasked(&mut self, reply: &Reply) {
        if matches!(self.state, State::SendBody | State::ExpectEnd) && matches!(reply.code / 100, 4 | 5) {
            let outcome = self.peer.answered(reply, Phase::Data);
            self.exchange.settle(&outcome);
        }
        self.fail(Fault::Unsolicited);
    }

    fn on_ehlo(&mut self, reply: Reply) {
        match reply.code / 100 {
            2 => {
                self.capabilities = Capabilities::read(&reply);
                self.after_hello();
            }
            // It may be of before 1995 (RFC 5321 s3.2).
            5 => {
                let helo = format!("HELO {}", self.opening.hostname);
                self.say(&helo, State::ExpectHelo);
            }
            3 => self.fail(Fault::Unexpected(reply)),
            _ => self.fail(Fault::Refused(reply)),
        }
    }

    fn after_hello(&mut self) {
        let wanted = !self.encrypted && self.opening.tls != TlsUse::Never;
        if wanted && self.capabilities.starttls {
            self.say("STARTTLS", State::ExpectStartTls);
        } else if wanted && self.opening.tls == TlsUse::Always {
            self.fail(Fault::NoTls);
        } else {
            self.log_in();
        }
    }

    /// What keeps this message from this peer, known before a word is said.
    fn refusal(&self, mail: Mail<'_>, needs: Needs) -> Option<Outcome> {
        let (verdict, phase, (subject, detail), text) = if needs.utf8 && !self.capabilities.smtp_utf8 {
            let text = "does not take addresses and header fields with characters beyond ASCII (SMTPUTF8)";
            (Verdict::Failed, Phase::Local, (6, 7), text.to_owned())
        } else if needs.eight_bit && !self.capabilities.eight_bit_mime {
            // Bodies of ours were made 7-bit before they were signed; this one its sender had signed (RFC 6152 s3).
            let text = "takes no 8-bit bodies, and a signed message must not be changed";
            (Verdict::Failed, Phase::Local, (6, 3), text.to_owned())
        } else {
            let limit = self.capabilities.size.flatten().filter(|&limit| mail.body.len() as u64 > limit)?;
            let text = format!("takes messages of at most {limit} octets; this one has {}", mail.body.len());
            (Verdict::Bounced, Phase::Mail, (3, 4), text)
        };
        let text = format!("{} {text}", self.peer.host);
        Some(self.peer.outcome(verdict, phase, EnhancedCode::new(5, subject, detail), None, text))
    }

    fn on_command(&mut self, reply: Reply) {
        let command = self.exchange.current();
        let class = reply.code / 100;
        match (command, class) {
            (Command::Reset, 2) => {}
            (Command::Mail, 2) => self.exchange.mail_answered = true,
            (Command::Mail, 4 | 5) => {
                self.exchange.mail_answered = true;
                self.exchange.sender_refused = true;
                let outcome = self.peer.answered(&reply, Phase::Mail);
                self.exchange.settle(&outcome);
            }
            (Command::Recipient(at), 2 | 4 | 5) => self.on_recipient(at, &reply),
            (Command::Data, 3..=5) => {
                self.exchange.advance();
                return self.on_data(&reply);
            }
            (Command::Chunk, 2 | 4 | 5) => return self.on_end(reply),
            (Command::Reset | Command::Mail | Command::Recipient(_) | Command::Data | Command::Chunk, _) => {
                return self.fail(Fault::Unexpected(reply));
            }
        }
        self.exchange.advance();
        self.proceed();
    }

    fn on_recipient(&mut self, at: usize, reply: &Reply) {
        if self.exchange.sender_refused {
            return;
        }
        if reply.is_positive() {
            if let Some(fate) = self.exchange.fates.get_mut(at) {
                *fate = Fate::Accepted;
            }
            return;
        }
        let mut outcome = self.peer.answered(reply, Phase::Recipient);
        // "Too many recipients" is 452, but RFC 821 had 552 (RFC 5321 s4.5.3.1.10).
        let names_limit = reply.enhanced.is_none_or(|code| (code.subject, code.detail) == (5, 3));
        if reply.code == 552 && names_limit && self.exchange.has_accepted() {
            outcome.verdict = Verdict::Deferred;
            outcome.status = EnhancedCode::new(4, 5, 3);
        }
        if let Some(fate) = self.exchange.fates.get_mut(at) {
            *fate = Fate::Settled(outcome);
        }
    }

    /// Sends the next commands once all before them are answered.
    fn proceed(&mut self) {
        if self.exchange.is_due() {
            return;
        }
        let is_last = matches!(self.exchange.current(), Command::Data | Command::Chunk);
        let nobody = is_last && !self.exchange.has_accepted();
        if self.exchange.sender_refused || nobody {
            self.needs_reset = !self.exchange.sender_refused;
            self.finish();
        } else {
            self.send_commands();
        }
    }

    /// Puts commands on the wire, and the body where they end with BDAT.
    fn send_commands(&mut self) {
        let body_follows = self.exchange.send(&mut self.out, self.capabilities.pipelining);
        self.state = match body_follows {
            false => State::ExpectCommand,
            true if self.exchange.body.fill(&mut self.out) => State::ExpectEnd,
            true => State::SendBody,
        };
    }

    fn on_data(&mut self, reply: &Reply) {
        if reply.code / 100 != 3 {
            let outcome = self.peer.answered(reply, Phase::Data);
            self.exchange.settle(&outcome);
            self.needs_reset = !self.exchange.sender_refused;
            self.finish();
        } else if self.exchange.has_accepted() && !self.exchange.sender_refused {
            self.state = State::SendBody;
        } else {
            self.say(".", State::ExpectEmptyDot);
        }
    }

    /// The reply to the final dot, or to BDAT.
    fn on_end(&mut self, reply: Reply) {
        if reply.code / 100 == 3 {
            return self.fail(Fault::Unexpected(reply));
        }
        // A body that went with its commands may have been for nobody; whatever was said of it then settles nothing.
        let outcome = self.peer.answered(&reply, Phase::Data);
        if self.exchange.has_accepted() {
            self.exchange.settle(&outcome);
        }
        // Behind a BDAT that failed, peers may refuse all but RSET (RFC 3030 s2).
        self.needs_reset = self.exchange.ends_with_chunk() && !reply.is_positive();
        self.finish();
    }

    fn finish(&mut self) {
        self.state = State::Ready;
        self.out.shrink_to(OUTPUT_KEPT);
    }
}
