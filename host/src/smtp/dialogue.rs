//! Plays the scripts of `tests/dialogues/submission/` against the session, in pieces of several sizes.
//!
//! A script line is one of
//! ```text
//! # words for people
//! @ tls | trusted | plain-auth | size=N | recipients=N | room=N     what holds from the start, first line
//! C: text          the client sends text and CRLF
//! C! text          the client sends just this; \r \n \0 \t \\ \xHH and \{N:c} (c, N times) are read
//! S: pattern       the next reply line; * stands for anything
//! H: tls | 250 2.0.0 text | ...   what the host does next: finish a handshake, answer a message
//! M: <sender> <recipient>...      the envelope of the message that arrived
//! B: text          its bytes, escapes as above
//! P: protocol      the protocol for trace fields
//! D: drain | time-out             the host goes down, the client is silent
//! X:               the host closed the connection
//! ```
//! The password `right` is a key, `unknown` cannot be checked, all others are wrong. By SCRAM the key is `pencil`, with salt and
//! nonce of RFC 7677 s3. What a client sends ahead of a
//! handshake is lost. A script fails when a reply is left over.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use mail::{Domain, EnhancedCode, Reply};

use crate::scram::tests::{NONCE, pencil};

use super::session::{Action, Arrived, Link, Session, Settings, Verdict};

/// The client, the host and the session between them.
struct Stage {
    session: Session,
    replies: String,
    /// Octets of messages the host can still hold.
    room: usize,
    arrived: Option<Box<Arrived>>,
    awaiting_tls: bool,
    closed: bool,
}

impl Stage {
    fn new(settings: &str) -> Stage {
        let mut link = Link::default();
        let mut session = Settings { hostname: domain("relay.test"), message_bytes: 100_000, recipients: 100 };
        let mut room = usize::MAX;
        for word in settings.split_whitespace() {
            match word.split_once('=') {
                None if word == "tls" => link.secured = true,
                None if word == "trusted" => link.trusted = true,
                None if word == "plain-auth" => link.plain_auth = true,
                Some(("size", octets)) => session.message_bytes = octets.parse().unwrap(),
                Some(("recipients", count)) => session.recipients = count.parse().unwrap(),
                Some(("room", octets)) => room = octets.parse().unwrap(),
                _ => panic!("unknown setting {word}"),
            }
        }
        let session = Session::new(Arc::new(session), link);
        let mut stage =
            Stage { session, replies: String::new(), room, arrived: None, awaiting_tls: false, closed: false };
        stage.work();
        stage
    }

    /// Does what the session asks for, until it wants the client or the script's word.
    fn work(&mut self) {
        while !self.closed && self.arrived.is_none() && !self.awaiting_tls {
            let action = self.session.advance();
            self.replies.push_str(&String::from_utf8(self.session.take_output()).unwrap());
            match action {
                Action::Read => return,
                Action::StartTls => self.awaiting_tls = true,
                Action::Authenticate(credentials) => self.session.authenticated(match credentials.password.as_str() {
                    "right" => Verdict::Right,
                    "unknown" => Verdict::Unknown,
                    _ => Verdict::Wrong,
                }),
                Action::FindVerifier(user) => match user.as_str() {
                    "unknown" => self.session.challenge(None),
                    _ => self.session.challenge(Some((pencil(), NONCE))),
                },
                Action::Proved(is_right) => {
                    self.session.authenticated(if is_right { Verdict::Right } else { Verdict::Wrong });
                }
                Action::Room(octets) => {
                    let granted = octets <= self.room;
                    self.room -= if granted { octets } else { 0 };
                    self.session.room(granted);
                }
                Action::Outlook(octets) => self.session.room(octets <= self.room as u64),
                Action::Deliver(arrived) => self.arrived = Some(arrived),
                Action::Close => self.closed = true,
            }
        }
    }

    fn client(&mut self, bytes: &[u8], piece: usize) {
        for piece in bytes.chunks(piece) {
            self.session.receive(piece);
            self.work();
        }
    }

    fn host(&mut self, text: &str) -> Result<(), String> {
        if text == "tls" {
            if !std::mem::take(&mut self.awaiting_tls) {
                return Err("no handshake is due".to_owned());
            }
            self.session.tls_started();
        } else {
            let (code, text) = text.split_once(' ').ok_or("a reply has a code")?;
            let mut parts = text.splitn(2, ' ');
            let status: Vec<u16> = parts.next().unwrap_or("").split('.').map(|part| part.parse().unwrap()).collect();
            let status = EnhancedCode::new(u8::try_from(status[0]).unwrap(), status[1], status[2]);
            self.arrived.take().ok_or("no message arrived")?;
            self.session.answer(&Reply::new(code.parse().unwrap(), Some(status), parts.next().unwrap_or("")));
        }
        self.work();
        Ok(())
    }

    fn expect_reply(&mut self, pattern: &str) -> Result<(), String> {
        let (line, rest) = self.replies.split_once("\r\n").ok_or("the server said nothing")?;
        let (line, rest) = (line.to_owned(), rest.to_owned());
        self.replies = rest;
        if matches(&line, pattern) { Ok(()) } else { Err(format!("the server said `{line}`")) }
    }

    fn play(&mut self, line: &str, piece: usize) -> Result<(), String> {
        let (kind, text) = line.split_at(2.min(line.len()));
        let text = text.strip_prefix(' ').unwrap_or(text);
        match kind {
            "C:" => self.client(format!("{text}\r\n").as_bytes(), piece),
            "C!" => self.client(&unescape(text), piece),
            "S:" => self.expect_reply(text)?,
            "H:" => self.host(text)?,
            "D:" if text == "drain" => {
                self.session.drain();
                self.work();
            }
            "D:" => {
                self.session.time_out();
                self.work();
            }
            "M:" => same(&self.envelope()?, text)?,
            "B:" => {
                let arrived = self.arrived.as_ref().ok_or("no message arrived")?;
                let (got, expect) = (&arrived.message, unescape(text));
                if *got != expect {
                    return Err(format!("the message is {:?}", String::from_utf8_lossy(got)));
                }
            }
            "P:" => same(self.session.protocol(self.arrived.as_ref().is_some_and(|arrived| arrived.utf8)), text)?,
            "X:" if self.closed => {}
            "X:" => return Err("the connection is open".to_owned()),
            _ => return Err("this is no line of a script".to_owned()),
        }
        Ok(())
    }

    fn envelope(&self) -> Result<String, String> {
        let envelope = &self.arrived.as_ref().ok_or("no message arrived")?.envelope;
        let sender = envelope.sender.as_ref().map_or_else(String::new, ToString::to_string);
        let recipients: Vec<_> = envelope.recipients.iter().map(|recipient| format!(" <{recipient}>")).collect();
        Ok(format!("<{sender}>{}", recipients.concat()))
    }
}

fn domain(name: &str) -> Domain {
    Domain::parse(name).unwrap()
}

fn same(got: &str, expect: &str) -> Result<(), String> {
    if got == expect { Ok(()) } else { Err(format!("got `{got}`")) }
}

/// Whether a line is what the pattern says; `*` is anything.
fn matches(line: &str, pattern: &str) -> bool {
    match pattern.split_once('*') {
        None => line == pattern,
        Some((start, rest)) => line.strip_prefix(start).is_some_and(|line| {
            (0..=line.len()).filter(|&at| line.is_char_boundary(at)).any(|at| matches(&line[at..], rest))
        }),
    }
}

fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut chars = text.chars();
    while let Some(character) = chars.next() {
        if character != '\\' {
            bytes.extend_from_slice(character.to_string().as_bytes());
            continue;
        }
        match chars.next().unwrap() {
            'r' => bytes.push(b'\r'),
            'n' => bytes.push(b'\n'),
            't' => bytes.push(b'\t'),
            '0' => bytes.push(0),
            '\\' => bytes.push(b'\\'),
            'x' => {
                let digits: String = chars.by_ref().take(2).collect();
                bytes.push(u8::from_str_radix(&digits, 16).unwrap());
            }
            '{' => {
                let repeat: String = chars.by_ref().take_while(|&c| c != '}').collect();
                let (count, what) = repeat.split_once(':').unwrap();
                bytes.extend_from_slice(what.repeat(count.parse().unwrap()).as_bytes());
            }
            other => panic!("unknown escape \\{other}"),
        }
    }
    bytes
}

fn run(script: &str, piece: usize) -> Result<(), String> {
    let lines: Vec<_> =
        script.lines().enumerate().filter(|(_, line)| !line.is_empty() && !line.starts_with('#')).collect();
    let settings = lines.first().and_then(|(_, line)| line.strip_prefix('@')).unwrap_or("");
    let mut stage = Stage::new(settings);
    for (number, line) in lines.into_iter().filter(|(_, line)| !line.starts_with('@')) {
        stage.play(line, piece).map_err(|fault| format!("line {}: `{line}`: {fault}", number + 1))?;
    }
    if stage.replies.is_empty() { Ok(()) } else { Err(format!("left over: {:?}", stage.replies)) }
}

#[test]
fn scripts() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/dialogues/submission");
    let mut count = 0;
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "txt") {
            continue;
        }
        let script = fs::read_to_string(&path).unwrap();
        for piece in [usize::MAX, 1, 2, 7, 64] {
            if let Err(fault) = run(&script, piece) {
                panic!("{} in pieces of {piece}: {fault}", path.display());
            }
        }
        count += 1;
    }
    assert!(count >= 10, "only {count} scripts in {}", folder.display());
}
