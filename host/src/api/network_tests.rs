//! The network side of the seam over a real store and the shipped components.
#![allow(clippy::unwrap_used)]

use delivery_client::wire::{
    AUTH_PATH, AuthAnswer, AuthRequest, ErrorAnswer, MESSAGES_PATH, MessageAnswer, MessageMeta, encode_frame,
};
use http::Method;
use http::header::AUTHORIZATION;
use jiff::Timestamp;
use mail::Domain;
use mail::dkim::{Algorithm, Parameters, Unsigned, body_hash};
use uuid::Uuid;

use super::*;
use crate::api::control::edges::add_token;
use crate::api::delivery::tests::{KEY, MESSAGE, OTHERS_KEY, World, meta};
use crate::edge::tests::{Setup, bytes, shipped};
use crate::keyring::{NewEdgeKey, make_edge_keys};
use crate::store::Store as _;

const ANY: &str = "phd_any";
const ACMES: &str = "phd_acmes";

/// A network side with two tokens: `ANY` for every tenant, `ACMES` for acme alone.
struct Field {
    world: World,
    network: Network,
    _setup: Setup,
}

impl Field {
    async fn new(setup: Setup) -> Field {
        let world = World::new(false).await;
        world.keyring.create_domain("acme", &Domain::parse("signed.test").unwrap()).await.unwrap();
        for (token, tenant) in [(ANY, None), (ACMES, Some("acme".to_owned()))] {
            add_token(&*world.store, token, tenant, String::new(), Timestamp::now()).await.unwrap();
        }
        let (delivery, backend) = (Arc::new(world.other_delivery()), Arc::new(world.seam()));
        let components = setup.edge_of(shipped(), backend, world.keyring.clone()).unwrap();
        let network = Network::new(delivery, components, world.store.clone());
        Field { world, network, _setup: setup }
    }

    async fn ask(&self, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Response<Bytes> {
        let mut request = Request::builder().method(Method::POST).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.network.answer(request.body(body.into()).unwrap()).await
    }

    async fn auth(&self, token: &str, key: &str) -> Response<Bytes> {
        let body = serde_json::to_vec(&AuthRequest::Bearer { key: key.to_owned() }).unwrap();
        self.ask(AUTH_PATH, &[(DELIVERY_TOKEN_HEADER, token), (SEAM_HEADER, SEAM_VERSION)], body).await
    }

    async fn post(&self, token: &str, said: &AuthAnswer, message: &str) -> Response<Bytes> {
        let meta = MessageMeta { component_revision: said.component_revision, ..meta() };
        let body = encode_frame(&meta, message.as_bytes().to_vec()).unwrap();
        let bearer = format!("Bearer {}", said.token);
        let headers =
            [(DELIVERY_TOKEN_HEADER, token), (SEAM_HEADER, SEAM_VERSION), (AUTHORIZATION.as_str(), bearer.as_str())];
        self.ask(MESSAGES_PATH, &headers, body).await
    }

    /// One message through an edge that anybody's mail may come from.
    async fn send(&self, message: &str) -> MessageAnswer {
        let said: AuthAnswer = read(&self.auth(ANY, KEY).await);
        let mut answers: Vec<MessageAnswer> = read(&self.post(ANY, &said, message).await);
        assert_eq!(answers.len(), 1);
        answers.remove(0)
    }

    /// What was stored of an accepted message.
    async fn stored(&self, answer: &MessageAnswer) -> String {
        let MessageAnswer::Accepted { id, .. } = answer else { panic!("{answer:?}") };
        let view = self.world.store.message("acme", Uuid::parse_str(id).unwrap()).await.unwrap();
        String::from_utf8(self.world.store.body(&view.body).await.unwrap().to_vec()).unwrap()
    }

    async fn is_empty(&self) -> bool {
        self.world.store.queued().await.unwrap() == 0
    }
}

fn read<T: serde::de::DeserializeOwned>(response: &Response<Bytes>) -> T {
    serde_json::from_slice(response.body()).unwrap_or_else(|_| panic!("{response:?}"))
}

fn check(response: &Response<Bytes>, status: u16, name: &str, words: &str) {
    let error: ErrorAnswer = read(response);
    assert_eq!((response.status().as_u16(), error.name.as_str()), (status, name), "{}", error.message);
    assert!(error.message.contains(words), "{}", error.message);
}

#[tokio::test]
async fn an_edge_proves_itself_and_names_its_version() {
    let field = Field::new(Setup::new()).await;
    let body = || serde_json::to_vec(&AuthRequest::Bearer { key: KEY.to_owned() }).unwrap();
    let token = (DELIVERY_TOKEN_HEADER, ANY);
    let refused = async |headers: &[(&str, &str)]| field.ask(AUTH_PATH, headers, body()).await;
    for headers in [
        vec![],
        vec![(SEAM_HEADER, "1")],
        vec![(DELIVERY_TOKEN_HEADER, "phd_wrong"), (SEAM_HEADER, "1")],
        // An API key is no delivery token, in whatever field.
        vec![(DELIVERY_TOKEN_HEADER, KEY), (SEAM_HEADER, "1")],
        vec![("authorization", "Bearer phd_any"), (SEAM_HEADER, "1")],
        vec![(DELIVERY_TOKEN_HEADER, ""), (SEAM_HEADER, "1")],
    ] {
        check(&refused(&headers).await, 403, INVALID_DELIVERY_TOKEN, "posthaste key create --delivery");
    }
    check(&refused(&[token]).await, 400, UNSUPPORTED_SEAM, "no version of the seam, this host version 1");
    check(&refused(&[token, (SEAM_HEADER, "2")]).await, 400, UNSUPPORTED_SEAM, "version 2 of the seam, this host");
    assert_eq!(field.auth(ANY, KEY).await.status(), 200);
    // Nor is a delivery token an API key.
    check(&field.auth(ANY, ANY).await, 401, "invalid_api_key", "not valid");

    let id = field.world.store.delivery_tokens(None).await.unwrap().remove(0).id;
    field.world.store.revoke_delivery_token(&id, Timestamp::now()).await.unwrap();
    check(&field.auth(ANY, KEY).await, 403, INVALID_DELIVERY_TOKEN, "not valid");
}

#[tokio::test]
async fn a_token_for_one_tenant_serves_no_other() {
    let field = Field::new(Setup::new()).await;
    check(&field.auth(ACMES, OTHERS_KEY).await, 403, "invalid_access", "does not serve its account");
    let (any, own): (AuthAnswer, AuthAnswer) = (read(&field.auth(ANY, KEY).await), read(&field.auth(ACMES, KEY).await));
    assert!(any.run_stages && own.run_stages && any.component_revision == own.component_revision);
    // What one edge was given is of no use to another, nor to a trigger inside, nor the other way round.
    check(&field.post(ANY, &own, MESSAGE).await, 401, "invalid_token", "ask again");
    check(&field.post(ACMES, &any, MESSAGE).await, 401, "invalid_token", "ask again");
    let inside = AuthAnswer { token: field.world.token().await, ..any.clone() };
    check(&field.post(ANY, &inside, MESSAGE).await, 401, "invalid_token", "ask again");
    assert!(field.is_empty().await);
    assert_eq!(field.post(ACMES, &own, MESSAGE).await.status(), 200);
}

#[tokio::test]
async fn components_of_the_operator_are_never_skipped() {
    let mut setup = Setup::new();
    let builtin = Field::new(Setup::new()).await;
    let before: AuthAnswer = read(&builtin.auth(ANY, KEY).await);
    setup.give_validator("acme", bytes("guest_stage"));
    let field = Field::new(setup).await;
    let (any, own): (AuthAnswer, AuthAnswer) = (read(&field.auth(ANY, KEY).await), read(&field.auth(ACMES, KEY).await));
    assert!(!any.run_stages, "the host runs them");
    assert!(own.run_stages, "the token was made for this tenant");
    let other: AuthAnswer = read(&field.auth(ANY, OTHERS_KEY).await);
    assert!(other.run_stages && other.component_revision == before.component_revision, "another tenant has none");
    assert_ne!(own.component_revision, before.component_revision);
    // An edge that runs them all the same is told to ask anew, and so is one that asked before they changed.
    check(&field.post(ANY, &any, MESSAGE).await, 409, "stale_revision", "ask again");
    let stale = AuthAnswer { component_revision: before.component_revision, ..own.clone() };
    check(&field.post(ACMES, &stale, MESSAGE).await, 409, "stale_revision", "ask again");
    assert!(field.is_empty().await);
    assert_eq!(field.post(ACMES, &own, MESSAGE).await.status(), 200);
}

/// Signs a message as an edge does.
fn sign(message: &str, domain: &str, selector: &str, key: &NewEdgeKey) -> String {
    use aws_lc_rs::signature::Ed25519KeyPair;
    use rustls_pki_types::pem::PemObject as _;
    let (fields, body) = mail::header::split(message.as_bytes()).unwrap();
    let parameters = Parameters {
        domain,
        selector,
        algorithm: Algorithm::Ed25519Sha256,
        timestamp_s: 1_700_000_000,
        body_hash: body_hash(&message.as_bytes()[body..]),
    };
    let unsigned = Unsigned::new(&fields, &parameters);
    let der = rustls_pki_types::PrivatePkcs8KeyDer::from_pem_slice(key.private_pem.as_bytes()).unwrap();
    let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der.secret_pkcs8_der()).unwrap();
    let signature = pair.sign(&unsigned.digest()).as_ref().to_vec();
    format!("DKIM-Signature:{}\r\n{message}", unsigned.finish(&signature))
}

fn refusal(answer: &MessageAnswer) -> (u16, &str) {
    match answer {
        MessageAnswer::Refused { status, text, .. } => (*status, text),
        MessageAnswer::Accepted { .. } => panic!("{answer:?}"),
    }
}

#[tokio::test]
async fn signatures_of_an_edge_are_verified_and_none_is_made_twice() {
    let field = Field::new(Setup::new()).await;
    let domain = Domain::parse("signed.test").unwrap();
    let made = make_edge_keys(&[Algorithm::Ed25519Sha256], Some("edge"), Timestamp::now()).await.unwrap();
    let key = &made[0];
    field.world.store.add_edge_keys("acme", &domain, vec![key.public.clone()]).await.unwrap();
    let plain = MESSAGE.replace("src.test", "signed.test");

    let signed = sign(&plain, "signed.test", "edge", key);
    assert_eq!(field.stored(&field.send(&signed).await).await, signed, "not a byte is changed");

    // Nothing that is wrong is stored.
    let before = field.world.store.queued().await.unwrap();
    let stranger = &make_edge_keys(&[Algorithm::Ed25519Sha256], Some("edge"), Timestamp::now()).await.unwrap()[0];
    let rsa = field.world.keyring.find("acme", &domain).await.unwrap().unwrap().keys;
    let rsa = rsa.iter().find(|key| key.algorithm == Algorithm::RsaSha256).unwrap();
    for (message, words) in [
        (sign(&plain, "signed.test", "gone", key), "no key with selector gone for signed.test"),
        (sign(&plain, "sub.signed.test", "edge", key), "no key with selector edge for sub.signed.test"),
        (sign(&plain, "signed.test", "edge", stranger), "selector edge does not verify: the header or the key"),
        (signed.replace("Subject: Hi", "Subject: Ho"), "selector edge does not verify: the header or the key"),
        (signed.replace("It works", "It breaks"), "selector edge does not verify: the body"),
        (signed.replace("c=relaxed/relaxed", "c=simple/simple"), "selector edge does not verify: the signature has"),
        (sign(&plain, "signed.test", &rsa.selector, key), "does not verify: the key is for rsa-sha256"),
        (format!("{}{plain}", "DKIM-Signature: v=1\r\n".repeat(17)), "more than 16"),
    ] {
        let answer = field.send(&message).await;
        let (status, text) = refusal(&answer);
        assert!(status == 422 && text.contains(words), "{words}: {text}");
    }
    assert_eq!(field.world.store.queued().await.unwrap(), before);
}

#[tokio::test]
async fn what_an_edge_has_not_signed_the_host_signs() {
    let field = Field::new(Setup::new()).await;
    let domain = Domain::parse("signed.test").unwrap();
    let made = make_edge_keys(&[Algorithm::Ed25519Sha256], Some("edge"), Timestamp::now()).await.unwrap();
    field.world.store.add_edge_keys("acme", &domain, vec![made[0].public.clone()]).await.unwrap();
    let plain = MESSAGE.replace("src.test", "signed.test");
    let by_others = sign(&plain, "elsewhere.test", "theirs", &made[0]);
    // A good signature by a domain that does not speak for the author is not enough.
    let unaligned = sign(MESSAGE, "signed.test", "edge", &made[0]);
    let large = plain.clone() + &"A line of text.\r\n".repeat(20_000);
    for (message, expect) in [(&plain, 2), (&by_others, 3), (&large, 2), (&unaligned, 1)] {
        let stored = field.stored(&field.send(message).await).await;
        assert!(stored.ends_with(message.as_str()), "fields are put in front, nothing else: {stored:.800}");
        assert_eq!(stored.matches("DKIM-Signature:").count(), expect, "{stored:.800}");
        let domains = [field.world.keyring.find("acme", &domain).await.unwrap().unwrap()];
        let ours = crate::inbox::verdict::verify(stored.as_bytes(), &domains).await;
        let ours: Vec<_> = ours.into_iter().filter(|verdict| verdict.domain == "signed.test").collect();
        assert!(!ours.is_empty() && ours.iter().all(|verdict| verdict.passed), "{ours:?}");
    }
}

/// An edge may be anybody's: what the pipeline of this process would refuse is refused here too.
#[tokio::test]
async fn malformed_messages_of_an_edge_are_refused() {
    let field = Field::new(Setup::new()).await;
    let long = "x".repeat(999);
    for body in ["a\n.\nb\r\n", "a\r.\rb\r\n", "a\r\n.\nb\r\n", long.as_str()] {
        let answer = field.send(&format!("{MESSAGE}{body}")).await;
        let (status, text) = refusal(&answer);
        assert_eq!(status, 422, "{body:?}");
        assert!(text.contains("malformed"), "{text}");
    }
    assert!(field.is_empty().await);
}
