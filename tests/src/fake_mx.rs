//! A receiving mail server on loopback that does as it is told: takes mail, refuses it, or breaks at any point.
//!
//! It accepts everything until `on` says otherwise. Rules are tried in the order they were given; the first that fits
//! a step and is not used up is played.

mod dialogue;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use self::dialogue::Dialogue;

/// How long a test waits for something before it fails.
pub const PATIENCE: Duration = Duration::from_secs(20);

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
    /// The end of the body, by dot or by BDAT.
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
    /// The address it came from.
    pub from: IpAddr,
    /// Whether it came encrypted.
    pub tls: bool,
    /// Whether the TLS session was resumed.
    pub resumed: bool,
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

/// A port that takes no connection and refuses none: whoever connects there waits. Dropped, it is gone.
pub struct Stalled {
    address: SocketAddr,
    _listener: TcpListener,
    _crowd: Vec<TcpStream>,
}

impl Stalled {
    /// Fills the queue of a listener that nobody serves, until no more get in.
    pub async fn at(address: SocketAddr) -> Stalled {
        const STALLED_FOR: Duration = Duration::from_millis(300);
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.expect("a socket");
        socket.bind(address).unwrap_or_else(|err| panic!("cannot take {address}: {err}"));
        let listener = socket.listen(1).expect("a bound socket can listen");
        let address = listener.local_addr().expect("a bound socket has an address");
        let mut crowd = Vec::new();
        while let Ok(connected) = tokio::time::timeout(STALLED_FOR, TcpStream::connect(address)).await {
            crowd.push(connected.unwrap_or_else(|err| panic!("{address} refused: {err}")));
        }
        Stalled { address, _listener: listener, _crowd: crowd }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
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
    while let Ok((stream, client)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        let number = {
            let mut log = shared.log();
            log.connections += 1;
            log.connections - 1
        };
        shared.changed.send_replace(());
        let mut dialogue = Dialogue::new(Box::new(stream), Arc::clone(&shared), number, client.ip());
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
