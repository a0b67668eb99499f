//! One connection to the fake mail server: the commands it knows, and the rules it plays instead.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use rustls::HandshakeKind;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, Take};

use super::{Act, Received, Shared, Step};

/// A client that writes longer lines than this is broken.
const LINE_MAX: u64 = 1 << 20;

pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// One connection.
pub(super) struct Dialogue {
    io: Option<Take<BufReader<Box<dyn Stream>>>>,
    shared: Arc<Shared>,
    number: usize,
    write_budget: usize,
    hello: String,
    from: IpAddr,
    tls: bool,
    resumed: bool,
    login: Option<(String, String)>,
    open: Option<Received>,
    /// What came by BDAT so far.
    chunks: Vec<u8>,
}

/// What a step came to.
#[derive(PartialEq, Eq)]
enum Played {
    /// The usual: carry it out and say so.
    Usual,
    /// Answered; whether the answer was positive.
    Answered(bool),
}

impl Dialogue {
    pub(super) fn new(stream: Box<dyn Stream>, shared: Arc<Shared>, number: usize, from: IpAddr) -> Dialogue {
        let (cut_reading, write_budget) = (shared.setup.cut_reading, shared.setup.cut_writing);
        Dialogue {
            io: Some(BufReader::new(stream).take(cut_reading)),
            shared,
            number,
            write_budget,
            hello: String::new(),
            from,
            tls: false,
            resumed: false,
            login: None,
            open: None,
            chunks: Vec::new(),
        }
    }

    pub(super) async fn run(&mut self) -> io::Result<()> {
        if self.play(Step::Greeting, "").await? == Played::Usual {
            let greeting = format!("220 {} ESMTP", self.shared.setup.name);
            self.say(&greeting).await?;
        }
        loop {
            let line = self.read_line().await?;
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            self.shared.log().commands.push(text.clone());
            self.shared.changed.send_replace(());
            if !self.command(&text).await? {
                return Ok(());
            }
        }
    }

    /// Carries out one command; `false` ends the connection.
    async fn command(&mut self, line: &str) -> io::Result<bool> {
        let (verb, argument) = line.split_once(' ').unwrap_or((line, ""));
        match verb.to_ascii_uppercase().as_str() {
            "EHLO" => self.hello(Step::Ehlo, argument).await?,
            "HELO" => self.hello(Step::Helo, argument).await?,
            "STARTTLS" => self.start_tls().await?,
            "AUTH" => self.auth(argument).await?,
            "MAIL" => self.mail(argument).await?,
            "RCPT" => self.rcpt(argument).await?,
            "DATA" => self.data().await?,
            "BDAT" if self.shared.setup.offers.iter().any(|offer| offer == "CHUNKING") => self.chunk(argument).await?,
            "RSET" => {
                self.open = None;
                if self.play(Step::Rset, "").await? == Played::Usual {
                    self.say("250 2.0.0 reset").await?;
                }
            }
            "QUIT" => {
                if self.play(Step::Quit, "").await? == Played::Usual {
                    self.say("221 2.0.0 bye").await?;
                }
                return Ok(false);
            }
            _ => self.say("500 5.5.1 what?").await?,
        }
        Ok(true)
    }

    async fn hello(&mut self, step: Step, name: &str) -> io::Result<()> {
        name.clone_into(&mut self.hello);
        if self.play(step, "").await? != Played::Usual {
            return Ok(());
        }
        let setup = &self.shared.setup;
        let mut lines = vec![setup.name.clone()];
        if step == Step::Ehlo {
            lines.extend(setup.offers.iter().cloned());
            if setup.starttls && !self.tls {
                lines.push("STARTTLS".to_owned());
            }
            if setup.login.is_some() && !setup.offers.iter().any(|offer| offer.starts_with("AUTH")) {
                lines.push("AUTH PLAIN LOGIN".to_owned());
            }
        }
        let last = lines.len() - 1;
        let text: Vec<String> = lines
            .iter()
            .enumerate()
            .map(|(at, line)| format!("250{}{line}", if at == last { ' ' } else { '-' }))
            .collect();
        self.say(&text.join("\n")).await
    }

    async fn start_tls(&mut self) -> io::Result<()> {
        if self.play(Step::StartTls, "").await? != Played::Usual {
            return Ok(());
        }
        if !self.shared.setup.starttls || self.tls {
            return self.say("502 5.5.1 no TLS here").await;
        }
        self.say("220 2.0.0 go ahead").await?;
        let Some(io) = self.io.take() else { return Err(closed()) };
        let limit = io.limit();
        let stream = self.shared.tls().0.accept(io.into_inner().into_inner()).await?;
        self.resumed = stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed);
        self.io = Some(BufReader::new(Box::new(stream) as Box<dyn Stream>).take(limit));
        self.tls = true;
        Ok(())
    }

    async fn auth(&mut self, argument: &str) -> io::Result<()> {
        if self.play(Step::Auth, "").await? != Played::Usual {
            return Ok(());
        }
        let (mechanism, initial) = argument.split_once(' ').unwrap_or((argument, ""));
        let login = if mechanism.eq_ignore_ascii_case("PLAIN") {
            let text = decoded(initial);
            let mut parts = text.split('\0').skip(1).map(str::to_owned);
            parts.next().zip(parts.next())
        } else {
            self.say("334 VXNlcm5hbWU6").await?;
            let user = self.read_line().await?;
            self.say("334 UGFzc3dvcmQ6").await?;
            let password = self.read_line().await?;
            Some((decoded(&String::from_utf8_lossy(&user)), decoded(&String::from_utf8_lossy(&password))))
        };
        if login.is_some() && login == self.shared.setup.login {
            self.login = login;
            self.say("235 2.7.0 welcome").await
        } else {
            self.say("535 5.7.8 wrong user name or password").await
        }
    }

    async fn mail(&mut self, argument: &str) -> io::Result<()> {
        let played = self.play(Step::Mail(""), argument).await?;
        if played == Played::Answered(false) {
            return Ok(());
        }
        if self.shared.setup.login.is_some() && self.login.is_none() {
            return self.say("530 5.7.0 log in first").await;
        }
        let (sender, parameters) = path(argument);
        self.open = Some(Received {
            sender,
            recipients: Vec::new(),
            parameters,
            body: Vec::new(),
            hello: self.hello.clone(),
            from: self.from,
            tls: self.tls,
            resumed: self.resumed,
            login: self.login.clone(),
            connection: self.number,
        });
        if played == Played::Usual { self.say("250 2.1.0 sender ok").await } else { Ok(()) }
    }

    async fn rcpt(&mut self, argument: &str) -> io::Result<()> {
        let played = self.play(Step::Rcpt(""), argument).await?;
        if played == Played::Answered(false) {
            return Ok(());
        }
        let Some(open) = &mut self.open else { return self.say("503 5.5.1 MAIL first").await };
        open.recipients.push(path(argument).0);
        if played == Played::Usual { self.say("250 2.1.5 recipient ok").await } else { Ok(()) }
    }

    async fn data(&mut self) -> io::Result<()> {
        let ready = self.open.as_ref().is_some_and(|open| !open.recipients.is_empty());
        match self.play(Step::Data, "").await? {
            Played::Answered(false) => return Ok(()),
            Played::Answered(true) => {}
            Played::Usual if ready => self.say("354 go ahead").await?,
            Played::Usual => return self.say("503 5.5.1 no recipients").await,
        }
        let body = self.body().await?;
        self.end(body, ready).await
    }

    /// `BDAT 12 LAST`: the chunk is read whatever becomes of it.
    async fn chunk(&mut self, argument: &str) -> io::Result<()> {
        let (length, last) = argument.split_once(' ').unwrap_or((argument, ""));
        let Ok(length) = length.parse() else { return self.say("501 5.5.4 BDAT length [LAST]").await };
        let mut chunk = vec![0; length];
        let Some(io) = &mut self.io else { return Err(closed()) };
        io.read_exact(&mut chunk).await?;
        self.chunks.extend(chunk);
        if last.is_empty() {
            return self.say("250 2.0.0 more").await;
        }
        let ready = self.open.as_ref().is_some_and(|open| !open.recipients.is_empty());
        let body = std::mem::take(&mut self.chunks);
        if !ready {
            return self.say("503 5.5.1 no recipients").await;
        }
        self.end(body, ready).await
    }

    async fn end(&mut self, body: Vec<u8>, ready: bool) -> io::Result<()> {
        let positive = match self.play(Step::Dot, "").await? {
            Played::Usual => ready,
            Played::Answered(positive) => {
                self.take(body, positive);
                return Ok(());
            }
        };
        // Noted before it is said, so that whoever got the reply finds the message here.
        self.take(body, positive);
        self.say(if positive { "250 2.0.0 taken" } else { "554 5.5.1 no valid recipients" }).await
    }

    fn take(&mut self, body: Vec<u8>, positive: bool) {
        if let Some(open) = self.open.take().filter(|_| positive) {
            self.shared.log().messages.push(Received { body, ..open });
            self.shared.changed.send_replace(());
        }
    }

    async fn body(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line = self.read_line().await?;
            if line == b".\r\n" {
                return Ok(body);
            }
            body.extend_from_slice(line.strip_prefix(b".").unwrap_or(&line));
        }
    }

    /// Plays the rule for a step, if there is one.
    async fn play(&mut self, step: Step, argument: &str) -> io::Result<Played> {
        let act = {
            let mut log = self.shared.log();
            let rule = log.rules.iter_mut().find(|rule| rule.left > 0 && fits(rule.step, step, argument));
            rule.map(|rule| {
                rule.left -= usize::from(rule.left != usize::MAX);
                rule.act.clone()
            })
        };
        match act {
            None => return Ok(Played::Usual),
            Some(Act::Reply(lines)) => {
                self.say(&lines).await?;
                return Ok(Played::Answered(matches!(lines.as_bytes().first(), Some(b'2' | b'3'))));
            }
            Some(Act::ReplyAndClose(lines)) => self.say(&lines).await?,
            Some(Act::Raw(bytes)) => {
                self.write(&bytes).await?;
                return Ok(Played::Answered(matches!(bytes.first(), Some(b'2' | b'3'))));
            }
            Some(Act::Close) => {}
            Some(Act::Silence) => std::future::pending().await,
            Some(Act::Drip(lines, pause)) => {
                for byte in wire(&lines) {
                    tokio::time::sleep(pause).await;
                    self.write(&[byte]).await?;
                }
                return Ok(Played::Answered(matches!(lines.as_bytes().first(), Some(b'2' | b'3'))));
            }
            Some(Act::Flood) => loop {
                self.write(b"250-and another thing\r\n").await?;
            },
            Some(Act::BreakTls) => {
                self.say("220 2.0.0 go ahead").await?;
                // The first bytes of the client's handshake must be under way before the nonsense goes out.
                let mut first = [0];
                if let Some(io) = &mut self.io {
                    io.read_exact(&mut first).await?;
                }
                self.write(b"this is no TLS\r\n").await?;
            }
        }
        Err(closed())
    }

    async fn say(&mut self, lines: &str) -> io::Result<()> {
        self.write(&wire(lines)).await
    }

    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let allowed = bytes.len().min(self.write_budget);
        self.write_budget -= allowed;
        let Some(io) = &mut self.io else { return Err(closed()) };
        let stream = io.get_mut();
        stream.write_all(&bytes[..allowed]).await?;
        stream.flush().await?;
        if allowed < bytes.len() { Err(closed()) } else { Ok(()) }
    }

    async fn read_line(&mut self) -> io::Result<Vec<u8>> {
        let Some(io) = &mut self.io else { return Err(closed()) };
        let mut line = Vec::new();
        (&mut *io).take(LINE_MAX).read_until(b'\n', &mut line).await?;
        if line.ends_with(b"\n") { Ok(line) } else { Err(closed()) }
    }
}

fn closed() -> io::Error {
    io::ErrorKind::ConnectionAborted.into()
}

fn wire(lines: &str) -> Vec<u8> {
    let mut bytes = lines.replace('\n', "\r\n").into_bytes();
    bytes.extend_from_slice(b"\r\n");
    bytes
}

fn fits(rule: Step, step: Step, argument: &str) -> bool {
    match (rule, step) {
        (Step::Mail(part), Step::Mail(_)) | (Step::Rcpt(part), Step::Rcpt(_)) => argument.contains(part),
        _ => rule == step,
    }
}

/// `FROM:<a@b> X Y`: `a@b` and `X Y`.
fn path(argument: &str) -> (String, String) {
    let inner = argument.split_once('<').map_or(argument, |(_, inner)| inner);
    let (path, parameters) = inner.rsplit_once('>').unwrap_or((inner, ""));
    (path.to_owned(), parameters.trim().to_owned())
}

fn decoded(text: &str) -> String {
    let bytes = BASE64.decode(text.trim()).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}
