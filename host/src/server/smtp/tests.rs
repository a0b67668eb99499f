//! The server over real sockets on loopback, with a fake `Submit` behind it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::*;
use crate::server::{bind, tls};

/// Knows the key `right` until it is revoked, and keeps what it is given. A message that holds `refuse` is refused.
#[derive(Default)]
struct Desk(Mutex<Vec<Incoming>>, AtomicBool);

#[async_trait]
impl Submit for Desk {
    async fn authenticate(&self, credentials: &Credentials, _: IpAddr) -> Result<Option<Principal>, Unavailable> {
        match credentials.password.as_str() {
            "right" => Ok(Some(principal())),
            "unknown" => Err(Unavailable("the store is away".to_owned())),
            _ => Ok(None),
        }
    }

    async fn verifier(&self, username: &str, _: IpAddr) -> Result<(Verifier, Option<Principal>), Unavailable> {
        let verifier = Verifier::make("pencil", [7; 16], crate::scram::ITERATIONS);
        Ok((verifier, (username == "key_1").then(principal)))
    }

    async fn is_valid(&self, _: &Principal) -> Result<bool, Unavailable> {
        Ok(!self.1.load(Ordering::Relaxed))
    }

    async fn submit(&self, incoming: Incoming) -> Result<Queued, Reply> {
        if incoming.message.windows(6).any(|window| window == b"refuse") {
            return Err(Reply::new(550, None, "refused"));
        }
        self.0.lock().unwrap().push(incoming);
        Ok(Queued { id: Uuid::nil() })
    }
}

fn principal() -> Principal {
    Principal { tenant: "acme".to_owned(), key_id: "key_1".to_owned(), key_hash: [1; 32], stream: None }
}

struct Host {
    desk: Arc<Desk>,
    server: Arc<SmtpServer>,
    address: std::net::SocketAddr,
    shutdown: CancellationToken,
    tasks: TaskTracker,
    folder: tempfile::TempDir,
}

fn options() -> Options {
    let settings =
        Settings { hostname: mail::Domain::parse("relay.test").unwrap(), message_bytes: 1_000_000, recipients: 10 };
    Options {
        settings: Arc::new(settings),
        trusted: Vec::new(),
        max_connections: 100,
        max_connections_per_ip: 100,
        idle_timeout: Duration::from_secs(60),
        drain: Duration::from_secs(30),
        plain_auth_on_loopback: false,
        room_timeout: Duration::from_millis(50),
        text_budget_octets: 4_000_000,
    }
}

fn trusting() -> Options {
    Options { trusted: vec![IpNet { address: "127.0.0.1".parse().unwrap(), prefix: 32 }], ..options() }
}

impl Host {
    async fn start(options: Options, secured: bool) -> Host {
        let folder = tempfile::tempdir().unwrap();
        let tls = tls::load(None, folder.path(), &options.settings.hostname).unwrap();
        let (desk, shutdown, tasks) = (Arc::new(Desk::default()), CancellationToken::new(), TaskTracker::new());
        let pressure = Arc::new(Pressure::new(folder.path(), 0, Some(u64::MAX)));
        let server = SmtpServer::new(options, tls.smtp, desk.clone(), pressure, shutdown.clone(), tasks.clone());
        let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        server.serve(listener, secured);
        tasks.close();
        Host { desk, server, address, shutdown, tasks, folder }
    }

    async fn connect(&self) -> Client<TcpStream> {
        Client(BufStream::new(TcpStream::connect(self.address).await.unwrap()))
    }

    async fn handshake(&self, stream: TcpStream) -> Client<TlsStream<TcpStream>> {
        let certificate = self.folder.path().join("tls/relay.test.self-signed.crt");
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(certificate).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from("relay.test").unwrap();
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
        Client(BufStream::new(stream))
    }

    /// Shuts down and waits for the last task.
    async fn stop(self) {
        self.shutdown.cancel();
        self.tasks.wait().await;
    }
}

struct Client<S: AsyncRead + AsyncWrite>(BufStream<S>);

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).await.unwrap();
        self.0.flush().await.unwrap();
    }

    /// Reads one reply, all lines, and checks how the last one begins.
    async fn expect(&mut self, start: &str) {
        loop {
            let mut line = String::new();
            self.0.read_line(&mut line).await.unwrap();
            if line.as_bytes().get(3) != Some(&b'-') {
                assert!(line.starts_with(start), "got {line:?}, not {start}");
                return;
            }
        }
    }

    async fn ask(&mut self, line: &str, start: &str) {
        self.send(format!("{line}\r\n")).await;
        self.expect(start).await;
    }

    async fn expect_end(&mut self) {
        let mut line = String::new();
        assert_eq!(self.0.read_line(&mut line).await.unwrap(), 0, "got {line:?}");
    }
}

const ENVELOPE: &str = "MAIL FROM:<a@sender.test>\r\nRCPT TO:<b@rcpt.test>\r\nDATA\r\n";

#[tokio::test]
async fn a_stranger_encrypts_authenticates_and_sends() {
    let host = Host::start(options(), false).await;
    let mut client = host.connect().await;
    client.expect("220 relay.test").await;
    client.ask("EHLO client.test", "250 ").await;
    client.ask("MAIL FROM:<a@sender.test>", "530 5.7.0").await;
    client.ask("STARTTLS", "220 2.0.0").await;
    let mut client = host.handshake(client.0.into_inner()).await;
    client.ask("EHLO client.test", "250 ").await;
    client.ask("AUTH PLAIN AABrbm93bg==", "535 5.7.8").await;
    client.ask("AUTH PLAIN AAB1bmtub3du", "454 4.7.0").await;
    client.ask("AUTH PLAIN AAByaWdodA==", "235 2.7.0").await;
    client.send(ENVELOPE).await;
    for reply in ["250 2.1.0", "250 2.1.5", "354"] {
        client.expect(reply).await;
    }
    client.ask("From: a@sender.test\r\n\r\nhello\r\n.", "250 2.0.0 Ok: queued as 00000000-").await;
    client.ask("QUIT", "221").await;
    client.expect_end().await;
    let incoming = host.desk.0.lock().unwrap().pop().unwrap();
    assert_eq!(incoming.authority, Authority::Key(principal()));
    assert_eq!(incoming.message, b"From: a@sender.test\r\n\r\nhello\r\n");
    let SessionFacts { peer, hello, protocol } = incoming.facts;
    assert_eq!((peer.to_string().as_str(), hello.as_str(), protocol), ("127.0.0.1", "client.test", "ESMTPSA"));
    drop(client);
    host.stop().await;
}

#[tokio::test]
async fn a_key_that_is_revoked_sends_no_more_in_an_open_session() {
    let host = Host::start(Options { plain_auth_on_loopback: true, ..options() }, false).await;
    let mut client = host.connect().await;
    client.expect("220").await;
    client.ask("EHLO client.test", "250 ").await;
    client.ask("AUTH PLAIN AAByaWdodA==", "235 2.7.0").await;
    for last in ["250 2.0.0", "535 5.7.8"] {
        client.send(ENVELOPE).await;
        for reply in ["250", "250", "354"] {
            client.expect(reply).await;
        }
        client.ask("hello\r\n.", last).await;
        host.desk.1.store(true, Ordering::Relaxed);
    }
    client.expect_end().await;
    assert_eq!(host.desk.0.lock().unwrap().len(), 1);
    drop(client);
    host.stop().await;
}

#[tokio::test]
async fn tls_from_the_first_byte() {
    let host = Host::start(trusting(), true).await;
    let mut client = host.handshake(host.connect().await.0.into_inner()).await;
    client.expect("220 relay.test").await;
    client.ask("EHLO client.test", "250 ").await;
    client.ask("STARTTLS", "503").await;
    client.send(ENVELOPE).await;
    for reply in ["250", "250", "354"] {
        client.expect(reply).await;
    }
    client.ask("refuse\r\n.", "550 refused").await;
    client.ask("QUIT", "221").await;
    drop(client);
    host.stop().await;
}

#[tokio::test]
async fn commands_behind_starttls_are_dropped() {
    let host = Host::start(trusting(), false).await;
    let mut client = host.connect().await;
    client.expect("220").await;
    client.ask("EHLO client.test", "250 ").await;
    client.send("STARTTLS\r\nMAIL FROM:<evil@evil.test>\r\n").await;
    client.expect("220 2.0.0").await;
    let mut client = host.handshake(client.0.into_inner()).await;
    client.ask("RCPT TO:<b@rcpt.test>", "503").await;
    client.ask("QUIT", "221").await;
    drop(client);
    host.stop().await;
}

#[tokio::test]
async fn a_large_message_comes_in_whole() {
    let host = Host::start(trusting(), false).await;
    let mut client = host.connect().await;
    let line = format!("{}\r\n", "x".repeat(98));
    let message = format!("Subject: x\r\n\r\n{}", line.repeat(9_000));
    client.send(format!("EHLO client.test\r\n{ENVELOPE}")).await;
    for reply in ["220", "250 ", "250", "250", "354"] {
        client.expect(reply).await;
    }
    client.ask(&format!("{message}."), "250 2.0.0").await;
    assert_eq!(host.desk.0.lock().unwrap()[0].message, message.as_bytes());
    // Over the limit: refused at its end, and the connection goes on.
    client.send(ENVELOPE).await;
    for reply in ["250", "250", "354"] {
        client.expect(reply).await;
    }
    client.ask(&format!("{message}{message}."), "552 5.3.4").await;
    client.ask("NOOP", "250").await;
    drop(client);
    host.stop().await;
}

#[tokio::test]
async fn messages_share_one_budget() {
    let host = Host::start(Options { text_budget_octets: 100_000, ..trusting() }, false).await;
    let (mut one, mut other) = (host.connect().await, host.connect().await);
    let line = format!("{}\r\n", "x".repeat(98));
    for client in [&mut one, &mut other] {
        client.send(format!("EHLO client.test\r\n{ENVELOPE}")).await;
        for reply in ["220", "250 ", "250", "250", "354"] {
            client.expect(reply).await;
        }
    }
    // Both hold the room they were given at DATA; the second asks for more than there is.
    other.ask(&format!("{}.", line.repeat(1_500)), "452 4.3.1").await;
    // Told before it is sent, where its size is.
    other.ask("MAIL FROM:<a@sender.test> SIZE=90000", "452 4.3.1 Too many large messages").await;
    other.ask("MAIL FROM:<a@sender.test> SIZE=70000", "250 2.1.0").await;
    // What the other held is free again.
    one.ask(&format!("{}.", line.repeat(500)), "250 2.0.0").await;
    drop((one, other));
    host.stop().await;
}

#[tokio::test]
async fn a_message_waits_for_the_room_of_another() {
    let patient = Options { text_budget_octets: 100_000, room_timeout: Duration::from_secs(60), ..trusting() };
    let host = Host::start(patient, false).await;
    let (mut one, mut other) = (host.connect().await, host.connect().await);
    let text = format!("{}\r\n", "x".repeat(98)).repeat(600);
    for client in [&mut one, &mut other] {
        client.send(format!("EHLO client.test\r\n{ENVELOPE}")).await;
        for reply in ["220", "250 ", "250", "250", "354"] {
            client.expect(reply).await;
        }
    }
    one.send(&text).await;
    // All of it has come in, beside what the other holds from the start.
    while host.server.room.available_permits() > 100_000 - 16 * 1024 - text.len() {
        tokio::task::yield_now().await;
    }
    other.send(format!("{text}.\r\n")).await;
    drop(one);
    other.expect("250 2.0.0").await;
    drop(other);
    host.stop().await;
}

#[tokio::test]
async fn one_address_has_so_many_connections() {
    let host = Host::start(Options { max_connections_per_ip: 1, ..options() }, false).await;
    let mut first = host.connect().await;
    first.expect("220").await;
    let mut second = host.connect().await;
    second.expect("421 4.7.0 Too many connections").await;
    second.expect_end().await;
    first.ask("QUIT", "221").await;
    first.expect_end().await;
    drop(first);
    // Its place is free once its task has ended.
    loop {
        let mut third = host.connect().await;
        let mut line = String::new();
        third.0.read_line(&mut line).await.unwrap();
        if line.starts_with("220") {
            break;
        }
    }
    host.stop().await;
}

#[tokio::test]
async fn trusted_peers_are_not_counted_and_told_where_the_host_is_full() {
    let options = Options { max_connections: 2, max_connections_per_ip: 1, ..trusting() };
    let host = Host::start(options.clone(), false).await;
    let (mut one, mut two) = (host.connect().await, host.connect().await);
    one.expect("220").await;
    two.expect("220").await;
    let mut three = host.connect().await;
    three.expect("421 4.3.2 Too many connections").await;
    three.expect_end().await;
    // More of them are let in once the limit is another; who is inside notices nothing.
    host.server.change(Options { max_connections: 3, ..options });
    let mut four = host.connect().await;
    four.expect("220").await;
    one.ask("NOOP", "250").await;
    drop((one, two, three, four));
    host.stop().await;
}

#[tokio::test]
async fn no_message_is_taken_while_memory_is_short() {
    let host = Host::start(trusting(), false).await;
    let mut client = host.connect().await;
    client.expect("220").await;
    // One octet is more than enough for it.
    host.server.pressure.limit_memory(Some(1));
    let watch = tokio::spawn(host.server.pressure.clone().watch(host.shutdown.clone()));
    while !host.server.pressure.is_high() {
        tokio::task::yield_now().await;
    }
    client.ask("EHLO client.test", "250 ").await;
    client.ask("MAIL FROM:<a@src.test>", "250").await;
    client.ask("RCPT TO:<b@dst.test>", "250").await;
    client.ask("DATA", "452 4.3.1").await;
    // With its size told, it is refused before anything else is.
    client.ask("MAIL FROM:<a@src.test> SIZE=100000", "452 4.3.1").await;
    drop(client);
    host.stop().await;
    watch.await.unwrap();
}

#[tokio::test]
async fn silence_ends_a_connection() {
    let host = Host::start(Options { idle_timeout: Duration::from_millis(50), ..options() }, false).await;
    let mut client = host.connect().await;
    client.expect("220").await;
    client.expect("421 4.4.2").await;
    client.expect_end().await;
    drop(client);
    host.stop().await;
}

#[tokio::test]
async fn shutdown_does_not_wait_for_a_handshake() {
    let host = Host::start(options(), true).await;
    let silent = host.connect().await;
    // The listener's task, and that of the connection.
    while host.tasks.len() < 2 {
        tokio::task::yield_now().await;
    }
    tokio::time::timeout(Duration::from_secs(10), host.stop()).await.unwrap();
    drop(silent);
}

#[tokio::test]
async fn shutdown_ends_the_idle_and_lets_messages_finish() {
    let host = Host::start(trusting(), false).await;
    let (mut idle, mut busy) = (host.connect().await, host.connect().await);
    idle.expect("220").await;
    busy.send(format!("EHLO client.test\r\n{ENVELOPE}")).await;
    for reply in ["220", "250 ", "250", "250", "354"] {
        busy.expect(reply).await;
    }
    host.shutdown.cancel();
    idle.expect("421 4.3.2").await;
    idle.expect_end().await;
    busy.ask("hello\r\n.", "250 2.0.0").await;
    busy.expect("421 4.3.2").await;
    busy.expect_end().await;
    drop((idle, busy));
    host.tasks.wait().await;
    assert_eq!(host.desk.0.lock().unwrap().len(), 1);
}
