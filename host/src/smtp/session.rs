//! The server's side of a submission dialogue (RFC 5321, 6409): bytes in, replies and actions out.
//!
//! The driver calls `advance` in a loop and does what it says: every `Action` names the call that answers it. Replies
//! gather in the output until the driver has to wait for the client, so that pipelined commands (RFC 2920) are
//! answered in one write. States are named for what they await.
//!
//! Never an open relay: MAIL is refused unless the peer is trusted or has authenticated. Nothing that came before TLS
//! is used behind it (RFC 3207 s4.2).

mod authentication;

use std::collections::HashSet;
use std::sync::Arc;

use mail::{Address, Domain, EnhancedCode, Envelope, Reply, ReversePath};

use super::auth::{Credentials, Exchange};
use super::command::{self, Command, MailParameters, sentence};
use super::line::{Inbound, LineFault, LineKind};
use super::text::{Progress, Receiver, TextFault};

/// Faulty commands before the connection is closed. Faulty recipients do not count: lists have them.
const MAX_ERRORS: u32 = 20;

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
}

/// What became of credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Right,
    Wrong,
    /// They could not be checked now.
    Unknown,
}

/// MAIL and what followed.
#[derive(Debug)]
struct Transaction {
    sender: ReversePath,
    eight_bit: bool,
    recipients: Vec<Address>,
    seen: HashSet<Address>,
    /// Whether a recipient was refused: tells DATA without recipients from DATA too early.
    refused: bool,
}

#[derive(Debug)]
enum State {
    ExpectHello,
    ExpectMail,
    ExpectRcpt(Box<Transaction>),
    ExpectAuthResponse(Exchange),
    /// The driver's word on credentials.
    ExpectVerdict,
    /// The driver's handshake.
    ExpectTls,
    /// The driver's word on whether a message of the declared size could be held.
    ExpectOutlook(Box<Transaction>),
    /// The driver's leave to receive a text.
    ExpectFirstRoom(Box<Transaction>),
    ExpectText(Box<Transaction>, Box<Receiver>),
    /// The driver's leave to hold more of a text.
    ExpectRoom(Box<Transaction>, Box<Receiver>, usize),
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
                State::ExpectHello | State::ExpectMail | State::ExpectRcpt(_) | State::ExpectAuthResponse(_) => {
                    self.read_line()
                }
                // Behind these the driver owes an answer; without one nothing can go on.
                State::ExpectVerdict
                | State::ExpectTls
                | State::ExpectOutlook(_)
                | State::ExpectFirstRoom(_)
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

    /// Answers `Room` and `Outlook`.
    pub fn room(&mut self, granted: bool) {
        match (std::mem::replace(&mut self.state, State::ExpectMail), granted) {
            (State::ExpectFirstRoom(transaction), true) => {
                let mut receiver = Box::new(Receiver::new(self.settings.message_bytes));
                receiver.grant(FIRST_ROOM_OCTETS);
                self.state = State::ExpectText(transaction, receiver);
                self.say(354, None, "Send the message, end it with a line that holds a single dot");
            }
            (State::ExpectOutlook(transaction), true) => {
                self.state = State::ExpectRcpt(transaction);
                self.say(250, Some((2, 1, 0)), "Ok");
            }
            (State::ExpectOutlook(_) | State::ExpectFirstRoom(_), false) => self.say_text_fault(TextFault::NoRoom),
            (State::ExpectRoom(transaction, mut receiver, octets), granted) => {
                if granted {
                    receiver.grant(octets);
                } else {
                    receiver.deny();
                }
                self.state = State::ExpectText(transaction, receiver);
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
            State::ExpectFirstRoom(_) | State::ExpectText(..) | State::ExpectRoom(..) | State::ExpectAcceptance
        )
    }

    /// Whether octets of a message are held that room was granted for.
    pub fn holds_room(&self) -> bool {
        match &self.state {
            State::ExpectText(_, receiver) | State::ExpectRoom(_, receiver, _) => receiver.holds_room(),
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

    /// The protocol for trace fields (RFC 3848).
    pub fn protocol(&self) -> &'static str {
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
            Command::Rcpt { recipient } => self.rcpt(recipient),
            Command::Data => return self.data(),
            Command::Rset => {
                if let State::ExpectRcpt(_) = self.state {
                    self.state = State::ExpectMail;
                }
                self.say(250, Some((2, 0, 0)), "Ok");
            }
            Command::Noop => self.say(250, Some((2, 0, 0)), "Ok"),
            Command::Help => self.say(
                214,
                Some((2, 0, 0)),
                "Commands: EHLO HELO STARTTLS AUTH MAIL RCPT DATA RSET NOOP VRFY HELP QUIT",
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
            text.push_str("\nPIPELINING\n8BITMIME\nENHANCEDSTATUSCODES");
            text.push_str(&format!("\nSIZE {}", self.settings.message_bytes));
            if !self.link.secured {
                text.push_str("\nSTARTTLS");
            }
            if self.link.secured || self.link.plain_auth {
                text.push_str("\nAUTH PLAIN LOGIN");
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

    fn mail(&mut self, sender: ReversePath, parameters: MailParameters) -> Option<Action> {
        match self.state {
            State::ExpectHello => {
                self.fail(503, (5, 5, 1), "Send EHLO first");
                return None;
            }
            State::ExpectRcpt(_) => {
                self.fail(503, (5, 5, 1), "A mail transaction is under way: end it with DATA or RSET");
                return None;
            }
            _ => {}
        }
        if !self.link.trusted && !self.authenticated {
            let text = if self.link.secured || self.link.plain_auth {
                "Authentication required: give AUTH with an API key as the password"
            } else {
                "Authentication required: give STARTTLS, then AUTH with an API key as the password"
            };
            self.fail(530, (5, 7, 0), text);
            return None;
        }
        let limit = self.settings.message_bytes;
        if let Some(size) = parameters.size.filter(|&size| size > limit) {
            let text = format!("A message of {size} octets is larger than the limit of {limit} octets");
            self.say(552, Some((5, 3, 4)), text);
            return None;
        }
        let transaction = Box::new(Transaction {
            sender,
            eight_bit: parameters.eight_bit,
            recipients: Vec::new(),
            seen: HashSet::new(),
            refused: false,
        });
        // A client that is told now need not send it all in vain.
        match parameters.size.filter(|&size| size > FIRST_ROOM_OCTETS as u64) {
            Some(size) => {
                self.state = State::ExpectOutlook(transaction);
                Some(Action::Outlook(size))
            }
            None => {
                self.state = State::ExpectRcpt(transaction);
                self.say(250, Some((2, 1, 0)), "Ok");
                None
            }
        }
    }

    fn rcpt(&mut self, recipient: Address) {
        let limit = self.settings.recipients;
        let State::ExpectRcpt(transaction) = &mut self.state else {
            // Not counted: it follows a refused MAIL in a pipelined group.
            return self.say(503, Some((5, 5, 1)), "Send MAIL first");
        };
        if transaction.seen.contains(&recipient) {
            return self.say(250, Some((2, 1, 5)), "Ok, the recipient was named before");
        }
        if transaction.recipients.len() >= limit {
            transaction.refused = true;
            let text = format!("Too many recipients: one message may have {limit}, send the rest in another");
            return self.say(452, Some((4, 5, 3)), text);
        }
        transaction.seen.insert(recipient.clone());
        transaction.recipients.push(recipient);
        self.say(250, Some((2, 1, 5)), "Ok");
    }

    fn data(&mut self) -> Option<Action> {
        match std::mem::replace(&mut self.state, State::ExpectMail) {
            State::ExpectRcpt(transaction) if !transaction.recipients.is_empty() => {
                self.state = State::ExpectFirstRoom(transaction);
                return Some(Action::Room(FIRST_ROOM_OCTETS));
            }
            State::ExpectRcpt(transaction) => {
                let (code, text) =
                    if transaction.refused { (554, "No recipient was accepted") } else { (503, "Send RCPT first") };
                self.state = State::ExpectRcpt(transaction);
                self.say(code, Some((5, 5, 1)), text);
            }
            state => {
                self.state = state;
                self.say(503, Some((5, 5, 1)), "Send MAIL first");
            }
        }
        None
    }

    fn read_text(&mut self) -> Option<Action> {
        let State::ExpectText(transaction, mut receiver) = std::mem::replace(&mut self.state, State::ExpectMail) else {
            return None;
        };
        let mut progress = Progress::More;
        if !self.inbound.is_empty() {
            self.inbound.take(|bytes| {
                let (used, wanted) = receiver.receive(bytes);
                progress = wanted;
                used
            });
        }
        match progress {
            Progress::More => {
                self.milestones += u64::from(receiver.passed_block());
                self.state = State::ExpectText(transaction, receiver);
                Some(Action::Read)
            }
            Progress::Room(octets) => {
                self.state = State::ExpectRoom(transaction, receiver, octets);
                Some(Action::Room(octets))
            }
            Progress::End(Ok(message)) => {
                self.state = State::ExpectAcceptance;
                let Transaction { sender, recipients, eight_bit, .. } = *transaction;
                let envelope = Envelope { sender, recipients };
                Some(Action::Deliver(Box::new(Arrived { envelope, message, eight_bit })))
            }
            Progress::End(Err(fault)) => {
                self.say_text_fault(fault);
                None
            }
            Progress::Absurd(limit) => {
                self.say_text_fault(TextFault::TooLarge(limit));
                self.state = State::Closed;
                None
            }
        }
    }

    fn say_text_fault(&mut self, fault: TextFault) {
        let (code, status) = match fault {
            TextFault::BareLineEnd(_) | TextFault::LongLine(_) => (550, (5, 6, 0)),
            TextFault::TooLarge(_) => (552, (5, 3, 4)),
            TextFault::NoRoom => (452, (4, 3, 1)),
        };
        self.say(code, Some(status), sentence(&fault.to_string()));
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
