#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;

use futures::FutureExt as _;
use tokio::io::AsyncReadExt;

use super::*;
use crate::edge::tests::Setup;
use crate::server::pressure::Pressure;

const LIMIT: u64 = 1 << 20;

const CONNECTIONS: usize = 64;

/// A server on a port of its own; trouble is played by deadlines that are short.
struct World {
    address: SocketAddr,
    server: Arc<HttpServer>,
    shutdown: CancellationToken,
    tasks: TaskTracker,
    _setup: Setup,
}

fn world(deadlines: Deadlines, tls: Option<Arc<ServerConfig>>) -> World {
    world_under(deadlines, tls, None)
}

fn world_under(deadlines: Deadlines, tls: Option<Arc<ServerConfig>>, pressure: Option<Arc<Pressure>>) -> World {
    let setup = Setup::new();
    let routes = Routes {
        edge: setup.edge(),
        network: None,
        inbox: None,
        control: None,
        obstacles: Box::new(|| vec!["the disk".to_owned()]),
    };
    let (shutdown, tasks) = (CancellationToken::new(), TaskTracker::new());
    let budget = Budget::new(4 * LIMIT, LIMIT, admits());
    let budget = match pressure {
        Some(pressure) => budget.under(pressure),
        None => budget,
    };
    let server = HttpServer::new(routes, budget, CONNECTIONS, deadlines, shutdown.clone(), tasks.clone());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    server.serve(TcpListener::from_std(listener).unwrap(), tls);
    World { address, server, shutdown, tasks, _setup: setup }
}

/// Knows every key but `stranger`.
fn admits() -> Admits {
    Box::new(|parts| {
        let is_known = crate::api::credential::bearer(&parts.headers) != Some("stranger");
        let refused = || crate::api::fault::fault(http::StatusCode::FORBIDDEN, "invalid_api_key", "It is not valid.");
        Box::pin(async move { if is_known { Ok(()) } else { Err(refused()) } })
    })
}

impl World {
    /// Writes some bytes and reads until the server closes.
    async fn talk(&self, bytes: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        read_to_end(&mut stream).await
    }
}

async fn read_to_end(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut answer = Vec::new();
    timeout(Duration::from_secs(30), stream.read_to_end(&mut answer)).await.unwrap().unwrap();
    String::from_utf8(answer).unwrap()
}

fn post(path: &str, fields: &str, body: &str) -> Vec<u8> {
    format!("POST {path} HTTP/1.1\r\nhost: localhost\r\n{fields}\r\n{body}").into_bytes()
}

fn short(header: u64, body_piece: u64) -> Deadlines {
    Deadlines {
        header: Duration::from_millis(header),
        body_piece: Duration::from_millis(body_piece),
        ..Deadlines::default()
    }
}

#[tokio::test]
async fn requests_follow_each_other_on_a_connection() {
    let world = world(Deadlines::default(), None);
    let mut both = post("/echo", "content-length: 3\r\n", "one");
    both.extend(post("/echo", "transfer-encoding: chunked\r\nconnection: close\r\n", "3\r\ntwo\r\n0\r\n\r\n"));
    let answer = world.talk(&both).await;
    assert_eq!(answer.matches("HTTP/1.1 200 OK\r\n").count(), 2, "{answer}");
    assert!(answer.contains("\r\n\r\noneHTTP/1.1") && answer.ends_with("\r\n\r\ntwo"), "{answer}");
    assert!(answer.contains("content-length: 3\r\n") && answer.contains("x-posthaste-request-id: "), "{answer}");
}

#[tokio::test]
async fn health_and_readiness_tell_the_truth() {
    let world = world(Deadlines::default(), None);
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").into_bytes();
    let answer = world.talk(&get("/healthz")).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nok\n"), "{answer}");
    let answer = world.talk(&get("/readyz")).await;
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("\nthe disk\n"), "{answer}");
    let answer = world.talk(&get("/delivery/v1/auth")).await;
    assert!(answer.starts_with("HTTP/1.1 404 ") && answer.contains(r#""name":"not_found""#), "{answer}");
}

#[tokio::test]
async fn what_is_too_much_is_told() {
    let world = world(Deadlines::default(), None);
    let check = async |bytes: Vec<u8>, status: &str, text: &str| {
        let begin = String::from_utf8_lossy(&bytes[..bytes.len().min(80)]).into_owned();
        let answer = timeout(Duration::from_secs(10), world.talk(&bytes)).await;
        let answer = answer.unwrap_or_else(|_| panic!("no end of {begin}"));
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.contains(text), "{answer:.500}");
    };
    let close = "connection: close\r\n";
    let large = "x".repeat(LIMIT as usize + 1);
    let limit = "at most 1048576 bytes are allowed";
    check(post("/echo", &format!("content-length: {}\r\n{close}", large.len()), &large), "413", limit).await;
    let chunked = format!("{:x}\r\n{large}\r\n0\r\n\r\n", large.len());
    check(post("/echo", &format!("transfer-encoding: chunked\r\n{close}"), &chunked), "413", limit).await;
    check(post("/echo", &format!("x: {}\r\n", "y".repeat(HEADER_BYTES)), ""), "431", "").await;
    check(post("/echo", &"x: y\r\n".repeat(HEADER_FIELDS + 1), ""), "431", "").await;
    check(post("/echo", &format!("content-length: 3\r\nhost: twice and wrong\r\n{close}"), "abc"), "200", "abc").await;
    check(b"nonsense\r\n\r\n".to_vec(), "400", "").await;
    check(b"GET / HTTP/1.1\r\nconnection: close\r\n\r\n".to_vec(), "400", "Host field is missing").await;
}

#[tokio::test]
async fn what_is_too_slow_is_told() {
    let slow_header = world(short(300, 20_000), None);
    let answer = slow_header.talk(b"POST /echo HTTP/1.1\r\nhost: local").await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    // Nothing was begun: nothing is said.
    assert_eq!(slow_header.talk(b"").await, "");
    let slow_body = world(short(20_000, 300), None);
    let answer = slow_body.talk(&post("/echo", "content-length: 10\r\nconnection: close\r\n", "half")).await;
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("too slowly"), "{answer}");
}

/// Strangers send little.
#[tokio::test]
async fn large_bodies_are_read_for_a_known_key_alone() {
    let world = world(Deadlines::default(), None);
    let check = async |fields: &str, body: &str, status: &str| {
        let request = post("/echo", &format!("{fields}connection: close\r\n"), body);
        let answer = timeout(Duration::from_secs(10), world.talk(&request)).await.unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{fields} {answer:.500}");
    };
    let small = "x".repeat(body::STRANGERS_BYTES);
    let stranger = "authorization: Bearer stranger\r\n";
    check(&format!("{stranger}content-length: {}\r\n", small.len()), &small, "200").await;
    let large = "x".repeat(small.len() + 1);
    check(&format!("{stranger}content-length: {}\r\n", large.len()), &large, "403").await;
    check(&format!("content-length: {}\r\n", large.len()), &large, "200").await;
    let chunked = format!("{:x}\r\n{large}\r\n0\r\n\r\n", large.len());
    check(&format!("{stranger}transfer-encoding: chunked\r\n"), &chunked, "403").await;
    // Nothing of the body has come: the answer waits for none of it.
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    stream.write_all(&post("/echo", &format!("{stranger}content-length: 1000000\r\n"), "")).await.unwrap();
    let mut begin = [0; 12];
    timeout(Duration::from_secs(10), stream.read_exact(&mut begin)).await.unwrap().unwrap();
    assert_eq!(&begin, b"HTTP/1.1 403");
}

/// What a body promises takes no room.
#[tokio::test]
async fn promises_stop_nobody() {
    let world = world(Deadlines::default(), None);
    let mut slow = Vec::new();
    for _ in 0..20 {
        let mut stream = TcpStream::connect(world.address).await.unwrap();
        stream.write_all(&post("/echo", &format!("content-length: {LIMIT}\r\n"), "x")).await.unwrap();
        slow.push(stream);
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    for bytes in [3, LIMIT as usize] {
        let close = format!("content-length: {bytes}\r\nconnection: close\r\n");
        let request = post("/echo", &close, &"y".repeat(bytes));
        let answer = timeout(Duration::from_secs(10), world.talk(&request)).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{bytes} {answer:.500}");
    }
}

#[tokio::test(start_paused = true)]
async fn bodies_take_room_as_they_arrive() {
    let budget = Budget::new(4 * LIMIT, LIMIT, admits());
    let (large, small) = (2 * body::SMALL_BYTES, 1000);
    let mut hoards = Vec::new();
    // Each has come in part, and none has room for more but the first to ask.
    for _ in 0..7 {
        let mut held = body::Held::default();
        budget.take(&mut held, large, true).now_or_never().unwrap().unwrap();
        hoards.push(held);
    }
    budget.take(&mut hoards[0], 2 * large, true).now_or_never().unwrap().unwrap();
    let mut second = body::Held::default();
    budget.take(&mut second, large, true).now_or_never().unwrap().unwrap();
    assert!(budget.take(&mut hoards[1], 2 * large, true).now_or_never().is_none());
    budget.take(&mut body::Held::default(), small, false).now_or_never().unwrap().unwrap();
    // Its wait has an end, and the end of another ends it too.
    let refused = budget.take(&mut hoards[1], 2 * large, true).await;
    assert!(matches!(refused, Err(body::Refused::Busy)));
    drop((second, hoards.remove(0)));
    budget.take(&mut hoards[0], 2 * large, true).now_or_never().unwrap().unwrap();
}

/// What is taken off the budget comes out of what bodies give back, and does not keep the others from all of that.
#[tokio::test(start_paused = true)]
async fn bodies_go_on_while_their_budget_becomes_smaller() {
    let budget = Budget::new(4 * LIMIT, LIMIT, admits());
    let large = 2 * body::SMALL_BYTES;
    let mut bodies: Vec<body::Held> = (0..8).map(|_| body::Held::default()).collect();
    for held in &mut bodies {
        budget.take(held, large, true).now_or_never().unwrap().unwrap();
    }
    budget.change(2 * LIMIT, LIMIT);
    tokio::task::yield_now().await;
    let (ends, goes_on) = (bodies.remove(0), &mut bodies[0]);
    let (more, ()) = tokio::join!(budget.take(goes_on, large + 1, true), async { drop(ends) });
    more.unwrap();
}

/// A large body weighs what it costs a component.
#[tokio::test(start_paused = true)]
async fn the_largest_are_worked_on_alone() {
    let budget = Budget::new(4 * LIMIT, LIMIT, admits());
    let first = budget.turn(LIMIT as usize / 2).now_or_never().unwrap().unwrap();
    assert!(budget.turn(body::SMALL_BYTES + 1).now_or_never().is_none());
    assert!(matches!(budget.turn(LIMIT as usize).await, Err(body::Refused::Busy)));
    drop(first);
    assert!(budget.turn(LIMIT as usize).now_or_never().is_some());
}

/// One address leaves places for others.
#[tokio::test]
async fn an_address_has_not_all_connections() {
    let world = world(Deadlines::default(), None);
    let mut open = Vec::new();
    for _ in 0..local_share(CONNECTIONS) {
        open.push(TcpStream::connect(world.address).await.unwrap());
    }
    let answer = world.talk(&post("/echo", "content-length: 0\r\n", "")).await;
    assert!(answer.starts_with("HTTP/1.1 429 ") && answer.contains("\r\nretry-after: 5\r\n"), "{answer}");
    // Where all are taken it is not the address' fault; the first ones are served all along.
    world.server.locals.set_limit(CONNECTIONS);
    world.server.gate.set_limit(open.len());
    let answer = world.talk(&post("/echo", "content-length: 0\r\n", "")).await;
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("\r\nretry-after: 5\r\n"), "{answer}");
    world.server.limit_connections(2 * CONNECTIONS);
    let close = "content-length: 3\r\nconnection: close\r\n";
    assert!(world.talk(&post("/echo", close, "abc")).await.ends_with("\r\n\r\nabc"));
    for stream in &mut open {
        stream.write_all(&post("/echo", close, "abc")).await.unwrap();
        assert!(read_to_end(stream).await.ends_with("\r\n\r\nabc"));
    }
}

/// What is new comes later; the operator is answered, and so is who asks.
#[tokio::test]
async fn no_mail_is_taken_while_memory_is_short() {
    let pressure = Arc::new(Pressure::new(std::path::Path::new("/"), 0, Some(1)));
    let watch = tokio::spawn(pressure.clone().watch(CancellationToken::new()));
    while !pressure.is_high() {
        tokio::task::yield_now().await;
    }
    watch.abort();
    let world = world_under(Deadlines::default(), None, Some(pressure.clone()));
    let close = "content-length: 3\r\nconnection: close\r\n";
    let answer = world.talk(&post("/echo", close, "abc")).await;
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("\r\nretry-after: 5\r\n"), "{answer}");
    let get = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    assert!(world.talk(get).await.starts_with("HTTP/1.1 200 "));
    let answer = world.talk(&post("/control/v1/keys", close, "abc")).await;
    assert!(!answer.starts_with("HTTP/1.1 503 "), "{answer}");
}

#[tokio::test]
async fn shutdown_ends_idle_connections() {
    let world = world(Deadlines::default(), None);
    let mut idle = TcpStream::connect(world.address).await.unwrap();
    let request = post("/echo", "content-length: 3\r\n", "one");
    idle.write_all(&request).await.unwrap();
    let mut first = vec![0; 15];
    idle.read_exact(&mut first).await.unwrap();
    world.shutdown.cancel();
    assert!(read_to_end(&mut idle).await.ends_with("one"));
    world.tasks.close();
    timeout(Duration::from_secs(30), world.tasks.wait()).await.unwrap();
    assert!(TcpStream::connect(world.address).await.is_err());
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// A server's side with a certificate of its own, and who trusts it.
fn localhost() -> (Arc<ServerConfig>, rustls::RootCertStore) {
    let pair = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let certificate = pair.cert.der().clone();
    let key = rustls_pki_types::PrivatePkcs8KeyDer::from(pair.signing_key.serialize_der());
    let mut tls = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key.into())
        .unwrap();
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate).unwrap();
    (Arc::new(tls), roots)
}

async fn connect(
    world: &World,
    roots: &rustls::RootCertStore,
    version: &[u8],
) -> tokio_rustls::client::TlsStream<TcpStream> {
    let mut tls = rustls::ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots.clone())
        .with_no_client_auth();
    tls.alpn_protocols = vec![version.to_vec()];
    let stream = TcpStream::connect(world.address).await.unwrap();
    let name = "localhost".try_into().unwrap();
    tokio_rustls::TlsConnector::from(Arc::new(tls)).connect(name, stream).await.unwrap()
}

/// HTTP/2 where the peer asks for it, HTTP/1.1 where it does not.
#[tokio::test]
async fn tls_serves_both_versions() {
    let (tls, roots) = localhost();
    let world = world(Deadlines::default(), Some(tls));
    let mut stream = connect(&world, &roots, b"http/1.1").await;
    stream.write_all(&post("/echo", "content-length: 3\r\nconnection: close\r\n", "one")).await.unwrap();
    assert!(read_to_end(&mut stream).await.ends_with("\r\n\r\none"));
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(connect(&world, &roots, b"h2").await))
            .await
            .unwrap();
    let connection = tokio::spawn(connection);
    let request = Request::post("https://localhost/echo").body(Full::new(Bytes::from("two"))).unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!((response.status().as_u16(), response.version()), (200, http::Version::HTTP_2));
    use http_body_util::BodyExt as _;
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "two");
    drop(sender);
    connection.await.unwrap().unwrap();
}

/// A peer that opens a connection and asks for nothing is sent away, as with HTTP/1.1.
#[tokio::test]
async fn idle_http2_connections_end() {
    let (tls, roots) = localhost();
    let world = world(short(300, 20_000), Some(tls));
    let stream = connect(&world, &roots, b"h2").await;
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = Request::post("https://localhost/echo").body(Full::new(Bytes::from("two"))).unwrap();
    assert_eq!(sender.send_request(request).await.unwrap().status().as_u16(), 200);
    timeout(Duration::from_secs(30), connection).await.unwrap().unwrap().unwrap();
    assert!(sender.is_closed());
}
