#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::route::gather::Mx;
use crate::route::resolver::LookupFault;

/// Answers every name with the next of its lists of addresses.
struct Names(Vec<Vec<IpAddr>>, AtomicUsize);

#[async_trait]
impl Resolver for Names {
    async fn mx(&self, _: &str) -> Result<Vec<Mx>, LookupFault> {
        Ok(Vec::new())
    }

    async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, LookupFault> {
        let asked = self.1.fetch_add(1, Ordering::SeqCst);
        self.0.get(asked).cloned().ok_or_else(|| LookupFault::NoSuchName(host.to_owned()))
    }
}

fn web(answers: &[&[&str]], reachable: Reachable) -> Web {
    let answers = answers.iter().map(|list| list.iter().map(|text| text.parse().unwrap()).collect()).collect();
    Web::with(Arc::new(Names(answers, AtomicUsize::new(0))), RootCertStore::empty(), reachable).unwrap()
}

const LIMITS: Limits = Limits { time: Duration::from_secs(20), body_bytes: 10 };

fn get(url: &str) -> Request<Bytes> {
    Request::get(url).body(Bytes::new()).unwrap()
}

/// A server that answers every request with the same bytes, and how many connections it took.
async fn server(answer: &'static str) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = connections.clone();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            counted.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
            });
        }
    });
    (address, connections)
}

#[tokio::test]
async fn private_addresses_are_refused_by_name_and_as_literals() {
    let check =
        async |answers: &[&[&str]], url: &str, reachable: Reachable, address: &str| match web(answers, reachable)
            .send(get(url), LIMITS)
            .await
        {
            Err(WebError::Barred { address: found, .. }) => {
                assert_eq!(found, address.parse::<IpAddr>().unwrap(), "{url}")
            }
            other => panic!("{url}: {other:?}"),
        };
    use Reachable::{Public, PublicAndLoopback};
    check(&[], "http://127.0.0.1:1/", Public, "127.0.0.1").await;
    check(&[], "http://localhost:1/", Public, "127.0.0.1").await;
    check(&[], "https://[::1]/", Public, "::1").await;
    check(&[], "http://[::ffff:10.0.0.1]/", PublicAndLoopback, "::ffff:10.0.0.1").await;
    check(&[], "http://169.254.169.254/latest/meta-data", PublicAndLoopback, "169.254.169.254").await;
    check(&[&["10.0.0.1"]], "http://inside.test/", Public, "10.0.0.1").await;
    check(&[&["fd00:ec2::254"]], "https://inside.test/", PublicAndLoopback, "fd00:ec2::254").await;
}

/// The address that was looked at is the one connected to: the name is asked once, and only what may be reached is used.
#[tokio::test]
async fn only_the_address_that_was_looked_at_is_connected_to() {
    let (address, _) = server("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    let web = web(&[&["10.0.0.1", "127.0.0.1"], &["10.0.0.1"]], Reachable::PublicAndLoopback);
    let url = format!("http://mixed.test:{}/", address.port());
    assert_eq!(web.send(get(&url), LIMITS).await.unwrap().body(), "ok");
    // The open connection serves again; nobody asks for the name, which has moved into the private network.
    assert_eq!(web.send(get(&url), LIMITS).await.unwrap().body(), "ok");
    let other = format!("http://mixed.test:{}/", address.port().wrapping_add(1));
    assert!(matches!(web.send(get(&other), LIMITS).await, Err(WebError::Barred { .. })));
}

#[tokio::test]
async fn redirects_are_answers() {
    let (address, connections) =
        server("HTTP/1.1 302 Found\r\nlocation: http://169.254.169.254/\r\ncontent-length: 0\r\n\r\n").await;
    let web = web(&[], Reachable::All);
    let response = web.send(get(&format!("http://{address}/")), LIMITS).await.unwrap();
    assert_eq!((response.status().as_u16(), connections.load(Ordering::SeqCst)), (302, 1));
}

#[tokio::test]
async fn a_body_is_read_up_to_its_limit() {
    let (address, _) = server("HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n0123456789abc").await;
    let web = web(&[], Reachable::All);
    let response = web.send(get(&format!("http://{address}/")), LIMITS).await.unwrap();
    assert_eq!(response.body(), "0123456789");
}

#[tokio::test]
async fn connections_are_kept() {
    let (address, connections) = server("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n0123456789").await;
    let web = web(&[], Reachable::All);
    for _ in 0..5 {
        web.send(get(&format!("http://{address}/")), LIMITS).await.unwrap();
    }
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn silence_has_an_end() {
    let (address, _) = server("").await;
    let web = web(&[], Reachable::All);
    let limits = Limits { time: Duration::from_millis(50), ..LIMITS };
    let error = web.send(get(&format!("http://{address}/")), limits).await.unwrap_err();
    assert!(matches!(error, WebError::TimedOut(_)), "{error}");
}

#[tokio::test]
async fn what_goes_wrong_is_told() {
    let check = async |answers: &[&[&str]], url: &str, expect: &str| {
        let error = web(answers, Reachable::All).send(get(url), LIMITS).await.unwrap_err().to_string();
        assert!(error.contains(expect), "{url}: {error}");
    };
    check(&[], "ftp://127.0.0.1/", "must begin with https://").await;
    check(&[], "http://nobody.test/", "the name `nobody.test` does not exist").await;
    check(&[&[]], "http://nobody.test/", "`nobody.test` has no address").await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let closed = listener.local_addr().unwrap();
    drop(listener);
    check(&[], &format!("http://{closed}/"), "cannot connect to 127.0.0.1").await;
    let (plain, _) = server("not TLS").await;
    check(&[], &format!("https://{plain}/"), "no connection").await;
    check(&[], &format!("http://{plain}/"), "no answer").await;
}
