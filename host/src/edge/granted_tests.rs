//! What a tenant's stage may reach by HTTP, and files that are fetched by it.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use contract::StageError;
use pipeline::Stages as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::pushed_tests::{Field, refusal, saying};
use super::tests::{Setup, bytes, told};
use super::*;
use crate::config::{Dns, Grants};
use crate::store::StageSettings;
use crate::web::Web;
use crate::web::address::Reachable;

/// Answers every request on a port of loopback with the same bytes.
struct Peer {
    authority: String,
    asked: Arc<AtomicUsize>,
}

impl Peer {
    async fn start(body: Vec<u8>) -> Peer {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let authority = listener.local_addr().unwrap().to_string();
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = asked.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::Relaxed);
                let mut head = [0; 4096];
                let _ = stream.read(&mut head).await;
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
                let _ = stream.write_all(&[head.as_bytes(), &body].concat()).await;
            }
        });
        Peer { authority, asked }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

/// A host whose public way leads to loopback too, where `is_open`.
fn setup(is_open: bool) -> Setup {
    let mut setup = Setup::new();
    let web = |reachable| Some(Arc::new(Web::new(&Dns::default(), reachable).unwrap()));
    let public = if is_open { Reachable::PublicAndLoopback } else { Reachable::Public };
    setup.ways = Ways { public: web(public), private: web(Reachable::All) };
    setup
}

/// What the tenant's validator gets from there, by WASI 0.2 (`http`) or 0.3 (`http3`).
async fn get(field: &Field, tenant: &str, how: &str, authority: &str) -> Result<String, StageError> {
    let mut input = told(how);
    input.attributes.push(("authority".to_owned(), authority.to_owned()));
    let answer = field.edge.stages(tenant).validate(input).await;
    answer.map(|mut acceptance| acceptance.attributes.pop().unwrap().1)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_configuration_grants_until_something_else_is_granted() {
    let (peer, other) = (Peer::start(Vec::new()).await, Peer::start(Vec::new()).await);
    let mut setup = setup(false);
    let hosts = BTreeMap::from([(Stage::Validator, vec![peer.authority.clone()])]);
    setup.give_validator("acme", bytes("guest_stage"));
    setup.give_validator("closed", bytes("guest_stage"));
    setup.tenants.get_mut("acme").unwrap().grants = Grants { hosts: hosts.clone(), private: true };
    setup.tenants.get_mut("closed").unwrap().grants = Grants { hosts, private: false };
    let field = Field::new(&setup).await;
    let check = async |tenant: &str, authority: &str, expect: &str| {
        let found = get(&field, tenant, "http", authority).await.unwrap();
        assert!(found.contains(expect), "{tenant}: {found} is not {expect}");
    };
    check("acme", &peer.authority, "200").await;
    check("acme", &other.authority, "HttpRequestDenied").await;
    check("closed", &peer.authority, "DestinationIpProhibited").await;
    check("third", &peer.authority, "HttpRequestDenied").await;
    // It is the tenant's stage that may, whichever component answers for it.
    field.push(saying("wait 1")).await;
    check("acme", &peer.authority, "200").await;
    let http_hosts = vec![other.authority.clone()];
    let settings = StageSettings { http_hosts, private_hosts: true, ..StageSettings::default() };
    field.registry.set_settings("acme", Stage::Validator, settings).await.unwrap();
    check("acme", &other.authority, "200").await;
    check("acme", &peer.authority, "HttpRequestDenied").await;
    field.registry.set_settings("acme", Stage::Validator, StageSettings::default()).await.unwrap();
    check("acme", &peer.authority, "200").await;
    assert_eq!((peer.asked(), other.asked()), (3, 1));
}

/// By WASI 0.3 a stage is denied what it is denied by 0.2; where it is granted something the error says how to wait for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_by_wasi_0_3_are_errors() {
    let peer = Peer::start(Vec::new()).await;
    let field = Field::new(&setup(false)).await;
    field.push(saying("wait 1")).await;
    let check = async |expect: &str| {
        let found = get(&field, "acme", "http3", &peer.authority).await.unwrap();
        assert!(found.contains(expect), "{found} is not {expect}");
    };
    check("HttpRequestDenied").await;
    check("HttpRequestDenied").await;
    let http_hosts = vec![peer.authority.clone()];
    let settings = StageSettings { http_hosts, private_hosts: true, ..StageSettings::default() };
    field.registry.set_settings("acme", Stage::Validator, settings).await.unwrap();
    check("use wasi:http/outgoing-handler@0.2").await;
    assert_eq!(get(&field, "acme", "http", &peer.authority).await.unwrap(), "200");
    assert_eq!(peer.asked(), 1);
}

/// Sockets, names and files by WASI 0.3: errors and nothing, as by 0.2. What really waits traps, and costs its own call.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_else_is_reached_by_wasi_0_3() {
    let field = Field::new(&setup(false)).await;
    field.push(saying("wait 1")).await;
    let ask = async |how: &str| field.edge.stages("acme").validate(told(how)).await;
    for (name, found) in ask("sockets3").await.unwrap().attributes {
        let expect = if name == "name" { "PermanentResolverFailure" } else { "AccessDenied" };
        assert!(found.contains(expect), "{name}: {found}");
    }
    assert_eq!(ask("files3").await.unwrap().attributes, [("directories".to_owned(), "0".to_owned())]);
    let waited = ask("wait3").await.unwrap_err();
    let expect = "cannot block a synchronous task";
    assert!(matches!(&waited, StageError::Unavailable(why) if why.contains(expect)), "{waited:?}");
    assert_eq!(ask("accept").await.unwrap().attributes[0].1, "1", "a fresh instance answers");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_is_fetched_where_its_digest_fits() {
    let file = saying("wait 7");
    let (digest, peer) = (component::digest(&file), Peer::start(file).await);
    let url = format!("http://{}/acme.wasm", peer.authority);
    let closed = Field::new(&setup(false)).await;
    let barred = closed.registry.fetch(&url, &digest).await.unwrap_err().to_string();
    assert!(barred.contains("is on this machine or in a private network"), "{barred}");
    assert_eq!(peer.asked(), 0);
    let field = Field::new(&setup(true)).await;
    let wrong = field.registry.fetch(&url, &digest.replace('a', "b")).await.unwrap_err().to_string();
    assert!(wrong.contains(&format!("has the digest {digest}")), "{wrong}");
    let fetched = field.registry.fetch(&url, &digest.to_ascii_uppercase()).await.unwrap();
    field.push(fetched).await;
    assert_eq!(refusal(&field.edge.stages("acme")).await, "told to wait 7");
}
