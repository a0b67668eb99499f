//! An edge and a host as two programs with a network between them: the edge's own code, run natively, against the running
//! product over loopback HTTP.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use aws_lc_rs::signature::Ed25519KeyPair;
use contract::{
    Acceptance, Algorithm, Identity, KeyError, Rendered, RendererInput, Signatures, SignerInput, StageError,
    Transformed, TransformerInput, ValidatorInput, Wants,
};
use delivery_client::{Client, Http, HttpError, Settings};
use http::{Request, Response};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use submit::{AuthCache, Body, BodyError, Moment, Service};
use tests::product::{Product, Setup};
use tests::world::World;
use tests::{http as wire, product};
use tokio::runtime::Runtime;
use uuid::Uuid;

/// Mail arrives within this.
const LIMIT: Duration = Duration::from_secs(60);

/// An edge: what its variables say, and the little that it keeps between requests.
struct Edge {
    token: String,
    keys: Keys,
    cache: AuthCache,
    runtime: Runtime,
}

/// What an edge answers: to its caller, and to its log.
struct Answered {
    id: String,
    response: Response<Vec<u8>>,
    log: Option<String>,
}

impl Edge {
    fn new(token: &str) -> Edge {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        Edge { token: token.to_owned(), keys: Keys(Vec::new()), cache: AuthCache::new(), runtime }
    }

    /// One request, as it comes from an application, on its way to the host at this address.
    fn serve(&self, host: &str, request: Request<Sent>) -> Answered {
        let id = Uuid::now_v7().to_string();
        let client = Client::new(Network, Settings::new(host, &self.token).unwrap(), id.clone());
        let now_s = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
        let moment = Moment { now_s, id: Uuid::now_v7() };
        let service = Service { client, stages: &self.keys, cache: &self.cache, moment };
        let (response, log) = self.runtime.block_on(service.answer(request));
        Answered { id, response, log }
    }

    fn send(&self, host: SocketAddr, key: &str, subject: &str) -> Answered {
        self.serve(&format!("http://{host}"), email(key, subject))
    }
}

fn email(key: &str, subject: &str) -> Request<Sent> {
    let email = json!({"from": "a@src.test", "to": "b@dst.test", "subject": subject, "text": "It works."});
    let request = Request::post("http://edge.test/emails").header("authorization", format!("Bearer {key}"));
    request.header("idempotency-key", subject).body(Sent(email.to_string().into_bytes())).unwrap()
}

impl Answered {
    fn status(&self) -> u16 {
        self.response.status().as_u16()
    }

    fn json(&self) -> Value {
        serde_json::from_slice(self.response.body()).unwrap_or_default()
    }

    /// A 503 that says when to come again, with this for the operator.
    fn is_unavailable(&self, cause: &str) {
        assert_eq!(self.status(), 503, "{}", self.json());
        assert!(self.response.headers().contains_key("retry-after"));
        assert!(self.json()["message"].as_str().unwrap().contains("nothing was stored"), "{}", self.json());
        assert!(self.log.as_deref().is_some_and(|log| log.contains(cause)), "{:?} does not say {cause}", self.log);
    }
}

struct Sent(Vec<u8>);

impl Body for Sent {
    async fn read(self, limit: usize) -> Result<Vec<u8>, BodyError> {
        if self.0.len() > limit { Err(BodyError::TooLarge) } else { Ok(self.0) }
    }
}

/// A connection for each request.
struct Network;

impl Http for Network {
    async fn send(&self, request: Request<Vec<u8>>) -> Result<Response<Vec<u8>>, HttpError> {
        let uri = request.uri();
        let failed = |error: &dyn std::fmt::Display| HttpError::Unsent(error.to_string());
        let server: SocketAddr = uri.authority().unwrap().as_str().parse().map_err(|error| failed(&error))?;
        let path = uri.path_and_query().unwrap().as_str();
        // The client below writes its own.
        let fields = request.headers().iter().filter(|(name, _)| *name != "content-length");
        let fields: Vec<(&str, &str)> = fields.map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        let answer =
            wire::request(server, request.method().as_str(), path, &fields, request.body()).map_err(|error| {
                let cause = error.root_cause().downcast_ref::<std::io::Error>();
                match cause.is_some_and(|cause| cause.kind() == std::io::ErrorKind::ConnectionRefused) {
                    true => HttpError::Unsent(format!("{error:#}")),
                    false => HttpError::Unanswered(format!("{error:#}")),
                }
            })?;
        let mut response = Response::builder().status(answer.status);
        for line in answer.head.lines().skip(1) {
            let (name, value) = line.split_once(':').unwrap();
            response = response.header(name, value.trim());
        }
        response.body(answer.body).map_err(|error| failed(&error))
    }
}

/// The stages of an edge, and the keys of its variable `dkim_keys`.
struct Keys(Vec<(Identity, Ed25519KeyPair)>);

impl Keys {
    fn read(dkim_keys: &str) -> Keys {
        let list: Value = serde_json::from_str(dkim_keys).unwrap();
        let pair = |key: &Value| {
            let text = |name: &str| key[name].as_str().unwrap().to_owned();
            let der = PrivatePkcs8KeyDer::from_pem_slice(text("private_key").as_bytes()).unwrap();
            let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der.secret_pkcs8_der()).unwrap();
            assert_eq!(text("algorithm"), "ed25519-sha256");
            let algorithm = Algorithm::Ed25519Sha256;
            let (domain, selector) = (text("domain"), text("selector"));
            (Identity { domain, selector: selector.clone(), algorithm, key_id: selector }, pair)
        };
        Keys(list.as_array().unwrap().iter().map(pair).collect())
    }
}

impl sign::Keys for Keys {
    fn identities(&self, domain: &str) -> Result<Vec<Identity>, KeyError> {
        Ok(self.0.iter().map(|(identity, _)| identity.clone()).filter(|identity| identity.domain == domain).collect())
    }

    fn sign_digest(&self, key_id: &str, digest: &[u8]) -> Result<Vec<u8>, KeyError> {
        let (_, pair) = self.0.iter().find(|(identity, _)| identity.key_id == key_id).unwrap();
        Ok(pair.sign(digest).as_ref().to_vec())
    }
}

impl pipeline::Stages for Keys {
    async fn render(&self, _input: RendererInput) -> Result<Rendered, StageError> {
        Ok(Rendered::default())
    }

    async fn describe_validator(&self) -> Result<Wants, StageError> {
        Ok(Wants::default())
    }

    async fn validate(&self, _input: ValidatorInput) -> Result<Acceptance, StageError> {
        Ok(Acceptance::default())
    }

    async fn transform(&self, _input: TransformerInput) -> Result<Transformed, StageError> {
        Ok(Transformed::default())
    }

    async fn sign(&self, input: SignerInput) -> Result<Signatures, StageError> {
        sign::sign(self, &input)
    }
}

fn setup(world: &World) -> Setup {
    Setup::new().unwrap().dns(world.dns()).delivery(&format!("port = {}", world.mx_port()))
}

/// Waits for the mail with this subject and gives it back.
fn arrived(world: &World, subject: &str) -> String {
    let wanted = format!("Subject: {subject}\r\n");
    let find = || {
        let texts = world.received().into_iter().map(|mail| String::from_utf8(mail.body).unwrap());
        texts.filter(|text| text.contains(&wanted)).collect::<Vec<_>>()
    };
    world.wait_until(LIMIT, |_| if find().is_empty() { Err(format!("{subject} has not arrived")) } else { Ok(()) });
    let mut found = find();
    assert_eq!(found.len(), 1, "{subject} came more than once");
    found.remove(0)
}

/// The host's lines about a request.
fn lines<'a>(log: &'a str, id: &str) -> Vec<&'a str> {
    log.lines().filter(|line| line.contains(id)).collect()
}

#[test]
fn mail_from_an_edge_is_signed_once() {
    let world = World::start();
    let setup = setup(&world);
    setup.command(&["domain", "add", "src.test"]).unwrap();
    let key = setup.create_key().unwrap();
    let mut edge = Edge::new(&setup.command(&["key", "create", "--delivery"]).unwrap());
    let host = setup.start().unwrap();

    // Without keys the host signs.
    let sent = edge.send(host.http, &key, "unsigned");
    assert_eq!(sent.status(), 200, "{} {:?}", sent.json(), sent.log);
    let message = arrived(&world, "unsigned");
    assert_eq!(message.matches("DKIM-Signature:").count(), 2, "{message}");
    let log = host.log();
    let told = lines(&log, &sent.id);
    assert!(told.len() == 2 && told[0].contains("/delivery/v1/auth") && told[1].contains("messages"), "{log}");

    // Everything else passes through with the caller's own key, and the same id at both ends.
    let id = sent.json()["id"].as_str().unwrap().to_owned();
    let get = Request::get(format!("http://edge.test/emails/{id}")).header("authorization", format!("Bearer {key}"));
    let shown = edge.serve(&format!("http://{}", host.http), get.body(Sent(Vec::new())).unwrap());
    assert_eq!((shown.status(), shown.json()["subject"].as_str()), (200, Some("unsigned")), "{}", shown.json());
    assert_eq!(shown.response.headers()["x-posthaste-request-id"], shown.id.as_str());
    let log = host.log();
    let told = lines(&log, &shown.id);
    assert!(told.len() == 1 && told[0].contains("GET") && told[0].contains(&format!("/emails/{id}")), "{log}");

    // With keys the edge signs, and the host does not sign again.
    let made =
        setup.command(&["domain", "edge-key", "src.test", "--algorithm", "ed25519", "--selector", "spin"]).unwrap();
    let shown = setup.command(&["domain", "records", "src.test"]).unwrap();
    assert!(shown.contains("spin._domainkey.src.test. IN TXT \"v=DKIM1; k=ed25519; p="), "{shown}");
    edge.keys = Keys::read(&made);
    assert_eq!(edge.send(host.http, &key, "signed").status(), 200);
    let message = arrived(&world, "signed");
    assert_eq!(message.matches("DKIM-Signature:").count(), 1, "{message}");
    assert!(message.contains("s=spin;") && message.contains("a=ed25519-sha256;"), "{message}");

    // A key that is gone signs nothing any more: its selector is named, and nothing is stored.
    setup.command(&["domain", "edge-key", "src.test", "--remove", "spin"]).unwrap();
    let refused = edge.send(host.http, &key, "gone");
    let text = refused.json()["message"].to_string();
    assert!(refused.status() == 422 && text.contains("no key with selector spin for src.test"), "{text}");
    edge.keys = Keys(Vec::new());
    assert_eq!(edge.send(host.http, &key, "last").status(), 200);
    arrived(&world, "last");
    assert!(world.received().iter().all(|mail| !String::from_utf8_lossy(&mail.body).contains("Subject: gone")));
}

#[test]
fn components_of_a_tenant_run_in_the_host() {
    let world = World::start();
    let setup = setup(&world);
    setup.command(&["domain", "add", "src.test", "--tenant", "acme"]).unwrap();
    let key = setup.command(&["key", "create", "--tenant", "acme"]).unwrap();
    let of_all = setup.command(&["key", "create", "--delivery"]).unwrap();
    let of_acme = setup.command(&["key", "create", "--delivery", "--tenant", "acme"]).unwrap();
    let (edge, own) = (Edge::new(&of_all), Edge::new(&of_acme));
    let host = setup.start().unwrap();
    assert_eq!(edge.send(host.http, &key, "before").status(), 200);
    host.stop().unwrap();

    // The edge still holds what it was told before the tenant got a component.
    let component = product::root().join("target/components/validate.wasm");
    let setup = setup.with(&format!("[tenant.acme.components]\nvalidator = \"{}\"", component.display()));
    let host = setup.start().unwrap();
    let handed = edge.send(host.http, &key, "handed over");
    assert_eq!(handed.status(), 200, "{} {:?}", handed.json(), handed.log);
    let log = host.log();
    let told = lines(&log, &handed.id);
    assert!(told.iter().any(|line| line.contains("POST") && line.contains("path=\"/emails\"")), "{told:?}");
    let handed = edge.send(host.http, &key, "handed over again");
    let log = host.log();
    let told = lines(&log, &handed.id);
    assert!(handed.status() == 200 && told.len() == 1 && told[0].contains("path=\"/emails\""), "{told:?}");
    // The host may say no in the caller's words.
    let broken = email(&key, "broken").map(|_| Sent(b"{".to_vec()));
    let refused = edge.serve(&format!("http://{}", host.http), broken);
    assert_eq!((refused.status(), refused.json()["name"].as_str()), (400, Some("validation_error")));

    // The edge of that very tenant runs its stages itself.
    let sent = own.send(host.http, &key, "own edge");
    let log = host.log();
    assert!(sent.status() == 200 && lines(&log, &sent.id)[1].contains("/delivery/v1/messages"), "{log}");
    for subject in ["before", "handed over", "handed over again", "own edge"] {
        let message = arrived(&world, subject);
        assert_eq!(message.matches("DKIM-Signature:").count(), 2, "{message}");
    }
}

#[test]
fn a_host_that_is_away_loses_and_doubles_nothing() {
    let world = World::start();
    let setup = setup(&world);
    setup.command(&["domain", "add", "src.test"]).unwrap();
    let key = setup.create_key().unwrap();
    let edge = Edge::new(&setup.command(&["key", "create", "--delivery"]).unwrap());
    let host = setup.start().unwrap();
    assert_eq!(edge.send(host.http, &key, "first").status(), 200);
    let address = host.http;
    host.stop().unwrap();
    // Both with what the edge remembers of the key and without.
    edge.send(address, &key, "second").is_unavailable("refused");
    edge.send(address, "ph_other", "second").is_unavailable("refused");
    let get = Request::get("http://edge.test/emails").header("authorization", format!("Bearer {key}"));
    edge.serve(&format!("http://{address}"), get.body(Sent(Vec::new())).unwrap()).is_unavailable("refused");

    // A new process knows none of the short-lived tokens: the edge asks anew, and the sender notices nothing.
    let host = setup.start().unwrap();
    let second = edge.send(host.http, &key, "second");
    assert_eq!(second.status(), 200, "{} {:?}", second.json(), second.log);
    let again = edge.send(host.http, &key, "second");
    assert_eq!((again.status(), again.json()), (200, second.json()), "the same request is the same mail");
    edge.send(host.http, &key, "third");
    for subject in ["first", "second", "third"] {
        arrived(&world, subject);
    }
    assert_eq!(world.received().len(), 3);
}

#[test]
fn what_is_set_up_wrongly_is_told_in_the_edges_log() {
    let setup = Setup::new().unwrap();
    let key = setup.create_key().unwrap();
    let token = setup.command(&["key", "create", "--delivery"]).unwrap();
    let host = setup.start().unwrap();
    Edge::new("").send(host.http, &key, "x").is_unavailable("does not accept this edge's delivery token");
    Edge::new("phd_wrong").send(host.http, &key, "x").is_unavailable("does not accept this edge's delivery token");
    // Neither kind of key passes for the other.
    Edge::new(&key).send(host.http, &key, "x").is_unavailable("does not accept this edge's delivery token");
    let unknown = Edge::new(&token).send(host.http, &token, "x");
    assert_eq!((unknown.status(), unknown.json()["name"].as_str()), (403, Some("invalid_api_key")));
    let list = setup.command(&["key", "list", "--delivery"]).unwrap();
    assert!(list.contains("(all)") && list.contains(&token[..11]) && !list.contains(&token), "{list}");
    let id = list.lines().nth(1).unwrap().split(' ').next().unwrap();
    setup.command(&["key", "revoke", "--delivery", id]).unwrap();
    Edge::new(&token).send(host.http, &key, "x").is_unavailable("does not accept this edge's delivery token");
}

#[test]
fn a_strangers_body_is_not_waited_for() {
    let setup = Setup::new().unwrap();
    let host: Product = setup.start().unwrap();
    for path in ["/delivery/v1/messages", "/delivery/v1/auth"] {
        let mut stream = TcpStream::connect(host.http).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 10000000\r\nx-posthaste-seam: 1\r\n\
             x-posthaste-delivery-token: phd_wrong\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = [0; 1024];
        let length = stream.read(&mut answer).unwrap();
        let answer = String::from_utf8_lossy(&answer[..length]);
        assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    }
}

#[test]
fn a_development_host_prints_how_to_run_an_edge() {
    let setup = Setup::new().unwrap();
    let host = setup.start_development("ph_mine").unwrap();
    let expect = format!(
        "  spin up -f spin.toml --variable delivery_url=http://{} --variable delivery_token=phd_dev",
        host.http
    );
    assert!(host.log().lines().any(|line| line == expect), "{}", host.log());
    assert_eq!(Edge::new("phd_dev").send(host.http, "ph_mine", "hello").status(), 200);
    host.stop().unwrap();
    // The same token is good after a restart.
    let host = setup.start_development("ph_mine").unwrap();
    assert_eq!(Edge::new("phd_dev").send(host.http, "ph_mine", "hello").status(), 200);
}
