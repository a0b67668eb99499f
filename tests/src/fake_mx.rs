//! A receiving mail server on loopback that does as it is told: takes mail, refuses it, or breaks at any point.
//!
//! It accepts everything until `on` says otherwise. Rules are tried in the order they were given; the first that fits
//! a step and is not used up is played.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, Take};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

/// How long a test waits for something before it fails.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// A client that writes longer lines than this is broken.
const LINE_MAX: u64 = 1 << 20;

/// A point of the dialogue; the text of `Mail` and `Rcpt` must be part of the command, `""` fits every one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Greeting,
    Ehlo,
    Helo,
    StartTls,
    Auth,
    Mail(&'static str),
    Rcpt(&'static str),
    Data,
    /// The end of the body.
    Dot,
    Rset,
    Quit,
}

/// What happens at a step instead of the usual.
#[derive(Clone, Debug)]
pub enum Act {
    /// These lines, LF between them; CRLF is put on the wire. A 2xx (354 for DATA) goes on as usual.
    Reply(String),
    /// These lines, and the connection is closed.
    ReplyAndClose(String),
    /// Exactly these bytes.
    Raw(Vec<u8>),
    /// Closes without a word.
    Close,
    /// Never answers.
    Silence,
    /// The letters of these lines one by one with a pause before each.
    Drip(String, Duration),
    /// Lines of a reply that never ends.
    Flood,
    /// 220 to STARTTLS, then something that is no handshake.
    BreakTls,
}

/// Lines of a reply, codes included: `reply("550 5.1.1 nobody")`, `reply("250-a\n250 b")`.
pub fn reply(lines: &str) -> Act {
    Act::Reply(lines.to_owned())
}

/// A reply after which the server closes the connection.
pub fn reply_and_close(lines: &str) -> Act {
    Act::ReplyAndClose(lines.to_owned())
}

/// One message as it came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// `<>` is the empty string.
    pub sender: String,
    /// Those that were accepted.
    pub recipients: Vec<String>,
    /// What followed the path in MAIL, such as `SIZE=12 BODY=8BITMIME`.
    pub parameters: String,
    /// Without dot-stuffing and final dot.
    pub body: Vec<u8>,
    /// The name in EHLO or HELO.
    pub hello: String,
    /// Whether it came encrypted.
    pub tls: bool,
    /// User name and password, where the client logged in.
    pub login: Option<(String, String)>,
    /// The number of the connection, from 0.
    pub connection: usize,
}

impl Received {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Sets a server up.
#[derive(Clone, Debug)]
pub struct FakeMxBuilder {
    name: String,
    address: SocketAddr,
    offers: Vec<String>,
    starttls: bool,
    login: Option<(String, String)>,
    cut_reading: u64,
    cut_writing: usize,
    rules: Vec<Rule>,
}

/// The server; dropped, it is gone.
pub struct FakeMx {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Clone, Debug)]
struct Rule {
    step: Step,
    /// How often it may still be played.
    left: usize,
    act: Act,
}

struct Shared {
    setup: FakeMxBuilder,
    address: SocketAddr,
    /// Made when the first one asks: most servers need none.
    tls: OnceLock<(TlsAcceptor, CertificateDer<'static>)>,
    log: Mutex<Log>,
    changed: watch::Sender<()>,
}

#[derive(Default)]
struct Log {
    rules: Vec<Rule>,
    messages: Vec<Received>,
    commands: Vec<String>,
    connections: usize,
}

impl FakeMx {
    /// One that takes everything, offers PIPELINING, 8BITMIME and SIZE, and no TLS.
    pub async fn start() -> FakeMx {
        FakeMx::build().start().await
    }

    pub fn build() -> FakeMxBuilder {
        FakeMxBuilder {
            name: "mx.test".to_owned(),
            address: (Ipv4Addr::LOCALHOST, 0).into(),
            offers: ["PIPELINING", "8BITMIME", "SIZE 10000000", "ENHANCEDSTATUSCODES"].map(str::to_owned).to_vec(),
            starttls: false,
            login: None,
            cut_reading: u64::MAX,
            cut_writing: usize::MAX,
            rules: Vec::new(),
        }
    }

    /// Another address of loopback, such as 127.0.0.2, and the same port: a second mail host beside this one.
    pub fn beside(&self, last: u8) -> FakeMxBuilder {
        FakeMx::build().at((Ipv4Addr::new(127, 0, 0, last), self.port()).into())
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// For `[delivery] port`.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// To be trusted by whoever verifies.
    pub fn certificate(&self) -> CertificateDer<'static> {
        self.shared.tls().1.clone()
    }

    /// From now on, plays `act` at `step`.
    pub fn on(&self, step: Step, act: Act) {
        self.shared.log().rules.push(Rule { step, left: usize::MAX, act });
    }

    /// The next time, plays `act` at `step`.
    pub fn once(&self, step: Step, act: Act) {
        self.shared.log().rules.push(Rule { step, left: 1, act });
    }

    /// Takes everything again.
    pub fn forget_rules(&self) {
        self.shared.log().rules.clear();
    }

    /// Messages taken so far.
    pub fn messages(&self) -> Vec<Received> {
        self.shared.log().messages.clone()
    }

    /// Command lines so far, of all connections, in the order they came.
    pub fn commands(&self) -> Vec<String> {
        self.shared.log().commands.clone()
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> usize {
        self.shared.log().connections
    }

    /// Waits until `count` messages have come; all of them. Fails the test when that takes longer than `PATIENCE`.
    pub async fn wait_for_messages(&self, count: usize) -> Vec<Received> {
        self.wait(&format!("{count} messages"), |log| log.messages.len() >= count).await;
        self.messages()
    }

    /// Waits until a command that starts with `command` has come.
    pub async fn wait_for_command(&self, command: &str) {
        self.wait(command, |log| log.commands.iter().any(|line| line.starts_with(command))).await;
    }

    /// Waits until `count` connections have come.
    pub async fn wait_for_connections(&self, count: usize) {
        self.wait(&format!("{count} connections"), |log| log.connections >= count).await;
    }

    async fn wait(&self, what: &str, is_there: impl Fn(&Log) -> bool) {
        let mut changed = self.shared.changed.subscribe();
        let waited = tokio::time::timeout(PATIENCE, async {
            while !is_there(&self.shared.log()) {
                let _ = changed.changed().await;
            }
        });
        if waited.await.is_err() {
            let log = self.shared.log();
            panic!(
                "{} waited in vain for {what}: {} connections, {} messages, commands {:#?}",
                self.shared.setup.name,
                log.connections,
                log.messages.len(),
                log.commands
            );
        }
    }
}

impl Drop for FakeMx {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl FakeMxBuilder {
    /// The name in the greeting and in the certificate.
    pub fn name(mut self, name: &str) -> FakeMxBuilder {
        name.clone_into(&mut self.name);
        self
    }

    pub fn at(mut self, address: SocketAddr) -> FakeMxBuilder {
        self.address = address;
        self
    }

    /// Offers these extensions instead of the usual ones.
    pub fn offers(mut self, offers: &[&str]) -> FakeMxBuilder {
        self.offers = offers.iter().map(|&offer| offer.to_owned()).collect();
        self
    }

    /// Offers STARTTLS, with a self-signed certificate for its name and address.
    pub fn starttls(mut self) -> FakeMxBuilder {
        self.starttls = true;
        self
    }

    /// Takes mail only from who logs in; offers AUTH PLAIN and LOGIN unless `offers` says which.
    pub fn login(mut self, user: &str, password: &str) -> FakeMxBuilder {
        self.login = Some((user.to_owned(), password.to_owned()));
        self
    }

    /// Plays `act` at `step`.
    pub fn on(mut self, step: Step, act: Act) -> FakeMxBuilder {
        self.rules.push(Rule { step, left: usize::MAX, act });
        self
    }

    /// Closes each connection after this many bytes from the client.
    pub fn close_after_reading(mut self, bytes: u64) -> FakeMxBuilder {
        self.cut_reading = bytes;
        self
    }

    /// Closes each connection after this many bytes of replies, TLS not counted.
    pub fn close_after_writing(mut self, bytes: usize) -> FakeMxBuilder {
        self.cut_writing = bytes;
        self
    }

    pub async fn start(self) -> FakeMx {
        let listener = TcpListener::bind(self.address)
            .await
            .unwrap_or_else(|err| panic!("{} cannot listen on {}: {err}", self.name, self.address));
        let address = listener.local_addr().expect("a bound socket has an address");
        let log = Mutex::new(Log { rules: self.rules.clone(), ..Log::default() });
        let shared =
            Arc::new(Shared { setup: self, address, tls: OnceLock::new(), log, changed: watch::Sender::new(()) });
        let task = tokio::spawn(accept(listener, Arc::clone(&shared)));
        FakeMx { address, shared, task }
    }
}

/// An acceptor with a fresh self-signed certificate.
fn tls(names: Vec<String>) -> (TlsAcceptor, CertificateDer<'static>) {
    let made = rcgen::generate_simple_self_signed(names).expect("a certificate can be made");
    let certificate = made.cert.der().clone();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a fresh key can be read");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|config| config.with_no_client_auth().with_single_cert(vec![certificate.clone()], key))
        .expect("a fresh certificate can be served");
    (TlsAcceptor::from(Arc::new(config)), certificate)
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        let number = {
            let mut log = shared.log();
            log.connections += 1;
            log.connections - 1
        };
        shared.changed.send_replace(());
        let mut dialogue = Dialogue::new(Box::new(stream), Arc::clone(&shared), number);
        connections.spawn(async move {
            // A client that goes away is no fault of the server's.
            let _ = dialogue.run().await;
        });
    }
}

impl Shared {
    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tls(&self) -> &(TlsAcceptor, CertificateDer<'static>) {
        self.tls.get_or_init(|| tls(vec![self.setup.name.clone(), self.address.ip().to_string()]))
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// One connection.
struct Dialogue {
    io: Option<Take<BufReader<Box<dyn Stream>>>>,
    shared: Arc<Shared>,
    number: usize,
    write_budget: usize,
    hello: String,
    tls: bool,
    login: Option<(String, String)>,
    open: Option<Received>,
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
    fn new(stream: Box<dyn Stream>, shared: Arc<Shared>, number: usize) -> Dialogue {
        let (cut_reading, write_budget) = (shared.setup.cut_reading, shared.setup.cut_writing);
        Dialogue {
            io: Some(BufReader::new(stream).take(cut_reading)),
            shared,
            number,
            write_budget,
            hello: String::new(),
            tls: false,
            login: None,
            open: None,
        }
    }

    async fn run(&mut self) -> io::Result<()> {
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
            tls: self.tls,
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
