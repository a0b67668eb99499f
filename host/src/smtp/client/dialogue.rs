//! Plays the scripts of `tests/dialogues/client/` against the machine: what the peer says, what we must say, and the
//! outcomes. Every script is played twice, with the peer's bytes as a whole and one by one.
//!
//! ```text
//! @ tls never | if-offered | always       before the first line of the dialogue; if-offered is the default
//! @ login USER PASSWORD
//! @ loopback
//! S: 220 mx.test                          the peer says; lines one behind the other come in one piece
//! S! 250 \r\n                             the same without the end of line added
//! C: EHLO relay.test                      what we say, in this order and nothing more
//! C! Subject: x\r\n                       the same without the end of line added
//! T:                                      the TLS handshake succeeds
//! X: closed | silent                      the connection breaks off
//! B: Subject: x\r\n\r\nhello\r\n          the body of the messages from here on
//! > a@a.test b@b.test c@c.test            a message from the first to the others; `<>` is the null sender
//! = Delivered Data 2.0.0 said: 250        the outcome of the next recipient, and words of its text
//! F: Deferred Connect 4.3.2 words         the session is over, and why
//! Q:                                      quit
//! R:                                      ready for a message
//! O:                                      over, without a failure
//! ```

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use mail::{Address, Outcome};

use super::*;

#[test]
fn dialogues() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/dialogues/client");
    let mut scripts: Vec<PathBuf> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .collect();
    scripts.sort();
    assert!(scripts.len() >= 20, "only {} scripts in {}", scripts.len(), folder.display());
    for script in scripts {
        let text = std::fs::read_to_string(&script).unwrap();
        for step in [usize::MAX, 1] {
            Stage::new(&text, step).play(&script, &text);
        }
    }
}

/// One script under way.
struct Stage {
    client: Client,
    /// Octets of the peer taken at once.
    step: usize,
    /// What the peer says, until somebody else has a word.
    heard: Vec<u8>,
    /// What we said and the script has not yet checked.
    said: Vec<u8>,
    body: Bytes,
    outcomes: VecDeque<Outcome>,
}

impl Stage {
    fn new(text: &str, step: usize) -> Stage {
        let mut opening =
            Opening { hostname: "relay.test".into(), tls: TlsUse::IfOffered, login: None, loopback: false };
        for setting in text.lines().filter_map(|line| line.strip_prefix("@ ")) {
            let words: Vec<&str> = setting.split_whitespace().collect();
            match words[..] {
                ["tls", "never"] => opening.tls = TlsUse::Never,
                ["tls", "if-offered"] => opening.tls = TlsUse::IfOffered,
                ["tls", "always"] => opening.tls = TlsUse::Always,
                ["loopback"] => opening.loopback = true,
                ["login", username, password] => {
                    opening.login = Some(Login { username: username.to_owned(), password: password.to_owned() });
                }
                _ => panic!("unknown setting `{setting}`"),
            }
        }
        Stage {
            client: Client::new(opening, "mx.test (192.0.2.1)".to_owned()),
            step,
            heard: Vec::new(),
            said: Vec::new(),
            body: Bytes::from_static(b"Subject: x\r\n\r\nhello\r\n"),
            outcomes: VecDeque::new(),
        }
    }

    fn play(mut self, script: &Path, text: &str) {
        for (number, line) in text.lines().enumerate() {
            if line.trim().is_empty() || line.starts_with(['#', '@']) {
                continue;
            }
            let place = format!("{}:{} `{line}`", script.display(), number + 1);
            let (mark, rest) = line.split_at(line.len().min(2));
            self.line(mark, rest.trim_start(), &place);
        }
        self.hear();
        assert!(self.said.is_empty(), "{}: said more: {}", script.display(), self.said.escape_ascii());
        assert!(self.outcomes.is_empty(), "{}: outcomes left: {:?}", script.display(), self.outcomes);
    }

    fn line(&mut self, mark: &str, rest: &str, place: &str) {
        match mark {
            "S:" => return self.heard.extend_from_slice(&[unescaped(rest).as_slice(), b"\r\n"].concat()),
            "S!" => return self.heard.extend_from_slice(&unescaped(rest)),
            _ => self.hear(),
        }
        match mark {
            "C:" => return self.expect_said(&[rest.as_bytes(), b"\r\n"].concat(), place),
            "C!" => return self.expect_said(&unescaped(rest), place),
            _ => assert!(self.said.is_empty(), "{place}: said before: {}", self.said.escape_ascii()),
        }
        match mark {
            "T:" => {
                assert_eq!(self.client.what_next(), Next::Handshake, "{place}");
                self.client.encrypted("TLSv1.3 TEST".to_owned());
            }
            "X:" => self.client.fail(if rest == "silent" { Fault::Silent } else { Fault::Closed }),
            "B:" => self.body = unescaped(rest).into(),
            "> " => self.begin(rest),
            "= " => {
                if self.outcomes.is_empty() {
                    self.outcomes = self.client.take_outcomes().into();
                }
                let outcome = self.outcomes.pop_front().unwrap_or_else(|| panic!("{place}: no outcome"));
                expect_outcome(&outcome, rest, place);
            }
            "F:" => {
                assert_eq!(self.client.what_next(), Next::Over, "{place}");
                let failure = self.client.failure().unwrap_or_else(|| panic!("{place}: no failure"));
                expect_outcome(failure, rest, place);
            }
            "Q:" => self.client.quit(),
            "R:" => assert_eq!(self.client.what_next(), Next::Ready, "{place}"),
            "O:" => {
                assert_eq!(self.client.what_next(), Next::Over, "{place}");
                assert_eq!(self.client.failure(), None, "{place}");
            }
            _ => panic!("{place}: unknown mark"),
        }
        self.speak();
    }

    fn begin(&mut self, rest: &str) {
        let mut paths = rest.split_whitespace();
        let sender = paths.next().filter(|&path| path != "<>").map(|path| Address::parse(path).unwrap());
        let recipients: Vec<Address> = paths.map(|path| Address::parse(path).unwrap()).collect();
        self.client.begin(Mail { sender: &sender, recipients: &recipients, body: &self.body, request: None });
    }

    fn hear(&mut self) {
        let heard = std::mem::take(&mut self.heard);
        for piece in heard.chunks(self.step.min(heard.len().max(1))) {
            self.client.receive(piece);
        }
        self.speak();
    }

    fn speak(&mut self) {
        while let Next::Write(_) = self.client.what_next() {
            self.said.extend_from_slice(self.client.output());
            self.client.written();
        }
    }

    fn expect_said(&mut self, expect: &[u8], place: &str) {
        assert!(self.said.starts_with(expect), "{place}: said {}", self.said.escape_ascii());
        self.said.drain(..expect.len());
    }
}

#[track_caller]
fn expect_outcome(outcome: &Outcome, expect: &str, place: &str) {
    let shown = format!("{:?} {:?} {} {}", outcome.verdict, outcome.phase, outcome.status, outcome.text);
    let head: Vec<&str> = expect.splitn(4, ' ').collect();
    let words = head.get(3).copied().unwrap_or_default();
    assert!(shown.starts_with(&head[..3].join(" ")) && shown.contains(words), "{place}: {shown}");
}

/// `\r`, `\n`, `\0` and `\xNN`.
fn unescaped(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('r') => bytes.push(b'\r'),
                Some('n') => bytes.push(b'\n'),
                Some('0') => bytes.push(0),
                Some('x') => {
                    let hex: String = chars.by_ref().take(2).collect();
                    bytes.push(u8::from_str_radix(&hex, 16).unwrap());
                }
                other => panic!("unknown escape {other:?}"),
            },
            c => bytes.extend_from_slice(c.to_string().as_bytes()),
        }
    }
    bytes
}
