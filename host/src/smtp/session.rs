//! The server's side of a submission dialogue (RFC 5321, 6409; 3030 and 6531 for chunks and UTF-8): bytes in, replies and actions out.
//!
//! The driver calls `advance` in a loop and does what it says: every `Action` names the call that answers it. Replies
//! gather in the output until the driver has to wait for the client, so that pipelined commands (RFC 2920) are
//! answered in one write. States are named for what they await.
//!
//! Never an open relay: MAIL is refused unless the peer is trusted or has authenticated. Nothing that came before TLS
//! is used behind it (RFC 3207 s4.2).

mod auth;
mod chunk;
mod transaction;

use std::sync::Arc;

use mail::{Domain, EnhancedCode, Envelope, Reply};

use self::chunk::{Chunk, Skipped};
use self::transaction::Transaction;
use super::auth::{Credentials, Exchange};
use super::command::{self, Command, sentence};
use super::line::{Inbound, LineFault, LineKind};
use super::text::{Receiver, TextFault};
use crate::scram::ClientFirst;

/// Faulty commands before the connection is closed. Faulty recipients do not count: lists have them.
const MAX_ERRORS: u32 = 20;

/// Wrong keys before the connection is closed.
const MAX_AUTH_FAILURES: u32 = 3;

/// Room asked for before the client is told to go ahead with its text, in octets.
const FIRST_ROOM_OCTETS: usize = 16 * 1024;

/// What a TLS client begins with (RFC 8446 s5.1). No command does.
const TLS_HANDSHAKE: u8 = 0x16;

/// What holds for every session of a host.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The name in the greeting and in EHLO.
    pub hostname: Domain,
    /// Largest message, in octets with CRLF line ends.
    pub message_bytes: u64,
    /// Most recipients of one message.
    pub recipients: usize,
}

/// What holds for one connection from its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// TLS from the first byte.
    pub secured: bool,
    /// May send without AUTH.
    pub trusted: bool,
    /// May give AUTH without TLS.
    pub plain_auth: bool,
}

/// What the driver does next.
#[derive(Debug)]
pub enum Action {
    /// Send the output, read, call `receive`.
    Read,
    /// Send the output, do the handshake, call `tls_started`; close where it fails. Bytes read before must be dropped.
    StartTls,
    /// Check them, call `authenticated`.
    Authenticate(Credentials),
    /// Find what is stored of the key of this user, call `challenge`.
    FindVerifier(String),
    /// The user asked for last has shown that it knows the key, or that it does not: call `authenticated`.
    Proved(bool),
    /// See whether so many octets more can be held, call `room`. What was granted before stays granted.
    Room(usize),
    /// See whether a message of so many octets could be held now, call `room`. Nothing is granted.
    Outlook(u64),
    /// Take responsibility for the message or refuse it, call `answer`.
    Deliver(Box<Arrived>),
    /// Send the output and close.
    Close,
}

/// A message that came in whole. All rules of the protocol are kept; nothing is known of what it says.
#[derive(Debug)]
pub struct Arrived {
    pub envelope: Envelope,
    /// RFC 5322 with CRLF line ends, dot-stuffing undone.
    pub message: Vec<u8>,
    /// Whether BODY=8BITMIME was given.
    pub eight_bit: bool,
    /// Whether SMTPUTF8 was given.
    pub utf8: bool,
}

/// What became of credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Right,
    Wrong,
    /// They could not be checked now.
    Unknown,
}

#[derive(Debug)]
enum State {
    ExpectHello,
    ExpectMail,
    ExpectRcpt(Box<Transaction>),
    ExpectAuthResponse(Exchange),
    /// What is stored of a user's key.
    ExpectVerifier(Box<ClientFirst>),
    /// The driver's word on credentials.
    ExpectVerdict,
    /// The driver's handshake.
    ExpectTls,
    /// The driver's word on whether a message of the declared size could be held.
    ExpectOutlook(Box<Transaction>),
    /// The driver's leave to receive a text, or this chunk of one.
    ExpectFirstRoom(Box<Transaction>, Option<Chunk>),
    ExpectText(Box<Transaction>, Box<Receiver>),
    /// The driver's leave to hold more of a text.
    ExpectRoom(Box<Transaction>, Box<Receiver>, usize, Option<Chunk>),
    /// The octets behind BDAT.
    ExpectChunk(Box<Transaction>, Box<Receiver>, Chunk),
    /// The next BDAT.
    ExpectBdat(Box<Transaction>, Box<Receiver>),
    /// The octets behind a BDAT that is refused.
    SkipChunk(Box<Skipped>),
    /// The driver's word on the message.
    ExpectAcceptance,
    Closed,
}

/// One dialogue.
#[derive(Debug)]
pub struct Session {
    settings: Arc<Settings>,
    link: Link,
    state: State,
    inbound: Inbound,
    output: Vec<u8>,
    hello: Option<(String, bool)>,
    authenticated: bool,
    auth_failures: u32,
    errors: u32,
    /// Lines and blocks of text used so far.
    milestones: u64,
    draining: bool,
}

impl Session {
    /// A new dialogue; its greeting is in the output.
    pub fn new(settings: Arc<Settings>, link: Link) -> Session {
        let mut session = Session {
            link,
            state: State::ExpectHello,
            inbound: Inbound::default(),
            output: Vec::new(),
            hello: None,
            authenticated: false,
            auth_failures: 0,
            errors: 0,
            milestones: 0,
            draining: false,
            settings,
        };
        let greeting = format!("{} ESMTP Posthaste", session.settings.hostname);
        session.say(220, None, greeting);
        session
    }

    /// Adds what the client sent. Bytes that come when none are awaited for are dropped (before TLS, after the end).
    pub fn receive(&mut self, bytes: &[u8]) {
        if !matches!(self.state, State::ExpectTls | State::Closed) {
            self.inbound.push(bytes);
        }
    }

    /// Replies to be sent; the driver sends them before it reads, closes or starts TLS.
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    /// Works on what is there until the driver is needed.
    pub fn advance(&mut self) -> Action {
        loop {
            let action = match &self.state {
                State::ExpectText(..) => self.read_text(),
                State::ExpectChunk(..) => self.read_chunk(),
                State::SkipChunk(_) => self.skip_chunk(),
                State::ExpectHello
                | State::ExpectMail
                | State::ExpectRcpt(_)
                | State::ExpectBdat(..)
                | State::ExpectAuthResponse(_) => self.read_line(),
                // Behind these the driver owes an answer; without one nothing can go on.
                State::ExpectVerifier(_)
                | State::ExpectVerdict
                | State::ExpectTls
                | State::ExpectOutlook(_)
                | State::ExpectFirstRoom(..)
                | State::ExpectRoom(..)
                | State::ExpectAcceptance
                | State::Closed => Some(Action::Close),
            };
            if let Some(action) = action {
                return action;
            }
        }
    }

    /// Answers `StartTls`: the handshake is done, the dialogue begins anew.
    pub fn tls_started(&mut self) {
        self.link.secured = true;
        self.authenticated = false;
        self.hello = None;
        self.inbound.clear();
        self.state = State::ExpectHello;
    }

    /// Answers `Authenticate`.
    pub fn authenticated(&mut self, verdict: Verdict) {
        self.state = State::ExpectMail;
        match verdict {
            Verdict::Right => {
                self.authenticated = true;
                self.say(235, Some((2, 7, 0)), "Authenticated");
            }
            Verdict::Unknown => {
                self.say(454, Some((4, 7, 0)), "The key cannot be checked now: try again later");
            }
            Verdict::Wrong => {
                self.auth_failures += 1;
                self.say(
                    535,
                    Some((5, 7, 8)),
                    "Wrong key: the password must be an API key that is not revoked; with SCRAM, the user name its id",
                );
                if self.auth_failures >= MAX_AUTH_FAILURES {
                    self.close(421, (4, 7, 0), "Too many wrong keys, closing the connection");
                }
            }
        }
    }

    /// Answers `Room` and `Outlook`.
    pub fn room(&mut self, granted: bool) {
        match (std::mem::replace(&mut self.state, State::ExpectMail), granted) {
            (State::ExpectFirstRoom(transaction, Some(chunk)), true) => self.begin_chunks(transaction, chunk),
            (State::ExpectFirstRoom(_, Some(chunk)), false) => self.skip_for_lack_of_room(chunk),
            (State::ExpectFirstRoom(transaction, None), true) => {
                let mut receiver = Box::new(Receiver::new(self.settings.message_bytes));
                receiver.grant(FIRST_ROOM_OCTETS);
                self.state = State::ExpectText(transaction, receiver);
                self.say(354, None, "Send the message, end it with a line that holds a single dot");
            }
            (State::ExpectOutlook(transaction), true) => {
                self.state = State::ExpectRcpt(transaction);
                self.say(250, Some((2, 1, 0)), "Ok");
            }
            (State::ExpectOutlook(_) | State::ExpectFirstRoom(_, None), false) => {
                self.say_text_fault(TextFault::NoRoom)
            }
            (State::ExpectRoom(transaction, mut receiver, octets, chunk), granted) => {
                if granted {
                    receiver.grant(octets);
                } else {
                    receiver.deny();
                }
                self.state = match chunk {
                    Some(chunk) => State::ExpectChunk(transaction, receiver, chunk),
                    None => State::ExpectText(transaction, receiver),
                };
            }
            (state, _) => self.state = state,
        }
    }

    /// Answers `Deliver` with what the client is told.
    pub fn answer(&mut self, reply: &Reply) {
        if reply.is_positive() {
            self.errors = 0;
        }
        self.output.extend_from_slice(&reply.to_wire());
        self.state = State::ExpectMail;
    }

    /// The host is going down: the dialogue ends at once, or behind the message that is coming in.
    pub fn drain(&mut self) {
        self.draining = true;
    }

    /// The client was silent for too long.
    pub fn time_out(&mut self) {
        self.close(421, (4, 4, 2), "Nothing came for too long, closing the connection");
    }

    /// Whether a message is coming in or is being worked on.
    pub fn is_in_message(&self) -> bool {
        matches!(
            self.state,
            State::ExpectFirstRoom(..)
                | State::ExpectText(..)
                | State::ExpectRoom(..)
                | State::ExpectChunk(..)
                | State::ExpectBdat(..)
                | State::SkipChunk(_)
                | State::ExpectAcceptance
        )
    }

    /// Whether octets of a message are held that room was granted for.
    pub fn holds_room(&self) -> bool {
        match &self.state {
            State::ExpectText(_, receiver)
            | State::ExpectRoom(_, receiver, ..)
            | State::ExpectChunk(_, receiver, _)
            | State::ExpectBdat(_, receiver) => receiver.holds_room(),
            State::ExpectAcceptance => true,
            _ => false,
        }
    }

    /// Grows with every command and every block of text: a client that makes it grow is not idle.
    pub fn milestones(&self) -> u64 {
        self.milestones
    }

    /// The name in the last EHLO or HELO.
    pub fn hello(&self) -> &str {
        self.hello.as_ref().map_or("", |(name, _)| name)
    }

    /// The protocol for trace fields (RFC 3848, RFC 6531 s4.3); `utf8`: the message came with SMTPUTF8.
    pub fn protocol(&self, utf8: bool) -> &'static str {
        if utf8 {
            return match (self.link.secured, self.authenticated) {
                (false, false) => "UTF8SMTP",
                (false, true) => "UTF8SMTPA",
                (true, false) => "UTF8SMTPS",
                (true, true) => "UTF8SMTPSA",
            };
        }
        let extended = self.hello.as_ref().is_some_and(|(_, extended)| *extended);
        match (extended, self.link.secured, self.authenticated) {
            (false, _, _) => "SMTP",
            (true, false, false) => "ESMTP",
            (true, false, true) => "ESMTPA",
            (true, true, false) => "ESMTPS",
            (true, true, true) => "ESMTPSA",
        }
    }

    fn read_line(&mut self) -> Option<Action> {
        if self.draining {
            self.close(421, (4, 3, 2), "The server is going down: connect again in a while");
            return None;
        }
        if self.milestones == 0 && self.inbound.first() == Some(TLS_HANDSHAKE) {
            self.close(421, (4, 7, 0), "This port speaks plain SMTP at first: use STARTTLS, or the port for TLS");
            return None;
        }
        let kind = match &self.state {
            State::ExpectAuthResponse(_) => LineKind::AuthResponse,
            _ => LineKind::Command,
        };
        let Some(line) = self.inbound.next_line(kind) else { return Some(Action::Read) };
        self.milestones += 1;
        match line {
            Err(fault) => {
                self.refuse_line(kind, fault);
                None
            }
            Ok(line) => match kind {
                LineKind::AuthResponse => self.auth_response(&line),
                LineKind::Command => match command::parse(&line, &self.settings.hostname) {
                    Ok(command) => self.follow(command),
                    Err(error) => {
                        self.refuse_command(&error);
                        None
                    }
                },
            },
        }
    }

    fn refuse_line(&mut self, kind: LineKind, fault: LineFault) {
        // A response that cannot be read ends its exchange.
        if kind == LineKind::AuthResponse {
            self.state = State::ExpectMail;
        }
        let text = sentence(&fault.to_string());
        match (fault, kind) {
            (LineFault::Endless, _) => self.close(421, (4, 7, 0), &text),
            (LineFault::TooLong(_), LineKind::AuthResponse) => self.fail(500, (5, 5, 6), text),
            (LineFault::TooLong(_) | LineFault::BareCr | LineFault::BareLf, _) => self.fail(500, (5, 5, 2), text),
        }
    }

    fn refuse_command(&mut self, error: &command::CommandError) {
        use command::CommandError::{Http, PathTooLong, Recipient};
        let reply = error.reply();
        match error {
            Http => {
                self.output.extend_from_slice(&reply.to_wire());
                self.state = State::Closed;
            }
            Recipient(_) | PathTooLong { sender: false } => {
                if let State::ExpectRcpt(transaction) = &mut self.state {
                    transaction.refused = true;
                }
                self.output.extend_from_slice(&reply.to_wire());
            }
            _ => {
                if let State::ExpectRcpt(transaction) = &mut self.state {
                    transaction.refused = true;
                }
                self.output.extend_from_slice(&reply.to_wire());
                self.count_error();
            }
        }
    }

    fn follow(&mut self, command: Command) -> Option<Action> {
        match command {
            Command::Hello { name, extended } => self.greet(name, extended),
            Command::StartTls => return self.start_tls(),
            Command::Auth { mechanism, initial } => return self.auth(&mechanism, initial.as_deref()),
            Command::Mail { sender, parameters } => return self.mail(sender, parameters),
            Command::Rcpt { recipient, internationalized } => self.rcpt(recipient, internationalized),
            Command::Data => return self.data(),
            Command::Bdat { octets, last } => return self.bdat(octets, last),
            Command::Rset => {
                if let State::ExpectRcpt(_) | State::ExpectBdat(..) = self.state {
                    self.state = State::ExpectMail;
                }
                self.say(250, Some((2, 0, 0)), "Ok");
            }
            Command::Noop => self.say(250, Some((2, 0, 0)), "Ok"),
            Command::Help => self.say(
                214,
                Some((2, 0, 0)),
                "Commands: EHLO HELO STARTTLS AUTH MAIL RCPT DATA BDAT RSET NOOP VRFY HELP QUIT",
            ),
            Command::Vrfy => self.say(252, Some((2, 0, 0)), "Addresses are not looked up, but mail to them is taken"),
            Command::Quit => self.close(221, (2, 0, 0), "Bye"),
        }
        None
    }

    /// EHLO and HELO; a transaction under way is dropped (RFC 5321 s4.1.4).
    fn greet(&mut self, name: String, extended: bool) {
        let mut text = format!("{} greets {name}", self.settings.hostname);
        if extended {
            text.push_str("\nPIPELINING\n8BITMIME\nSMTPUTF8\nCHUNKING\nENHANCEDSTATUSCODES");
            text.push_str(&format!("\nSIZE {}", self.settings.message_bytes));
            if !self.link.secured {
                text.push_str("\nSTARTTLS");
            }
            if self.link.secured || self.link.plain_auth {
                text.push_str("\nAUTH PLAIN LOGIN SCRAM-SHA-256");
            }
            text.push_str("\nHELP");
        }
        self.say(250, None, text);
        self.hello = Some((name, extended));
        self.state = State::ExpectMail;
    }

    fn start_tls(&mut self) -> Option<Action> {
        if self.link.secured {
            self.fail(503, (5, 5, 1), "TLS is active already");
            return None;
        }
        self.say(220, Some((2, 0, 0)), "Go ahead with TLS");
        self.inbound.clear();
        self.state = State::ExpectTls;
        Some(Action::StartTls)
    }

    fn say(&mut self, code: u16, status: Option<(u8, u16, u16)>, text: impl Into<String>) {
        let enhanced = status.map(|(class, subject, detail)| EnhancedCode::new(class, subject, detail));
        self.output.extend_from_slice(&Reply::new(code, enhanced, text).to_wire());
    }

    fn fail(&mut self, code: u16, status: (u8, u16, u16), text: impl Into<String>) {
        self.say(code, Some(status), text);
        self.count_error();
    }

    fn count_error(&mut self) {
        self.errors += 1;
        if self.errors >= MAX_ERRORS {
            self.close(421, (4, 7, 0), "Too many faulty commands, closing the connection");
        }
    }

    fn close(&mut self, code: u16, status: (u8, u16, u16), text: &str) {
        self.say(code, Some(status), text);
        self.state = State::Closed;
        self.inbound.clear();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
