#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use delivery_client::wire::{self, encode_frame};
use http::header::AUTHORIZATION;
use sha2::{Digest, Sha256};

use super::*;
use crate::keyring::MasterKey;
use crate::store::{ApiKey, Embedded, Options, Store};

pub const KEY: &str = "ph_test_key";
pub const OTHERS_KEY: &str = "ph_others_key";

/// A delivery API over a real store in a folder of its own: the tenant `acme` has `KEY` and the domain `src.test`.
pub struct World {
    pub store: Arc<Embedded>,
    pub delivery: Delivery,
    pub keyring: Arc<Keyring>,
    folder: PathBuf,
}

impl World {
    pub async fn new(any_domain: bool) -> World {
        let folder = std::env::temp_dir().join(format!("posthaste-delivery-{}", Uuid::new_v4()));
        let store = Embedded::open(&folder, Options::default()).unwrap();
        let keyring = Arc::new(Keyring::new(store.clone(), MasterKey::from_octets(&[7; 32]).unwrap(), false));
        for (tenant, key, revoked) in [("acme", KEY, false), ("other", OTHERS_KEY, false), ("acme", "revoked", true)] {
            let api_key = ApiKey {
                id: format!("key_{}", Uuid::new_v4()),
                tenant: tenant.to_owned(),
                name: "test".to_owned(),
                prefix: "ph_".to_owned(),
                created_at: Timestamp::UNIX_EPOCH,
                revoked_at: None,
                scopes: crate::store::Scopes::ALL,
                stream: None,
                has_verifier: false,
                expires_at: None,
                used_at: None,
            };
            let id = api_key.id.clone();
            store.add_key(api_key, Sha256::digest(key.as_bytes()).into()).await.unwrap();
            if revoked {
                store.revoke_key(&id, Timestamp::UNIX_EPOCH).await.unwrap();
            }
        }
        let domain = crate::store::SendingDomain {
            id: Uuid::new_v4(),
            tenant: "acme".to_owned(),
            domain: mail::Domain::parse("src.test").unwrap(),
            created_at: Timestamp::UNIX_EPOCH,
            keys: Vec::new(),
            edge_keys: Vec::new(),
            needs_proof: false,
            verification: None,
        };
        store.add_domain(domain).await.unwrap();
        let terms = Terms { sizes: Sizes::new(10_000, 3), any_domain };
        let delivery = Delivery::new(
            store.clone(),
            keyring.clone(),
            Arc::new(Intake::new(store.clone(), Arc::new(crate::tenancy::Tenancy::new(store.clone())))),
            terms,
        );
        World { store, delivery, keyring, folder }
    }

    /// Another API over the same store and keys.
    pub fn other_delivery(&self) -> Delivery {
        let terms = Terms { sizes: Sizes::new(1 << 20, 50), any_domain: false };
        let intake =
            Arc::new(Intake::new(self.store.clone(), Arc::new(crate::tenancy::Tenancy::new(self.store.clone()))));
        Delivery::new(self.store.clone(), self.keyring.clone(), intake, terms)
    }

    /// What triggers reach through it.
    pub fn seam(&self) -> crate::api::seam::Seam {
        let delivery = self.other_delivery();
        let sending = crate::api::sending::Sending::new(self.store.clone(), self.store.clone());
        let resources = Arc::new(self.resources(crate::web::address::Reachable::Public));
        crate::api::seam::Seam::new(Arc::new(delivery.with(resources.clone())), sending).with(resources)
    }

    /// What there is besides mail, over the same store.
    pub fn resources(&self, reachable: crate::web::address::Reachable) -> crate::api::resources::Resources {
        let dns = crate::config::Dns { servers: Vec::new() };
        crate::api::resources::Resources {
            templates: crate::api::templates::TemplateApi::new(self.store.clone(), self.store.clone()),
            domains: crate::api::domains::DomainApi {
                directory: self.store.clone(),
                domains: self.domains(Arc::new(dns.clone())),
                keyring: self.keyring.clone(),
                needs_proof: true,
            },
            web: Arc::new(crate::web::Web::new(&dns, reachable).unwrap()),
            sizes: Sizes::new(10_000, 3),
            errands: Arc::new(tokio::sync::Semaphore::new(8)),
        }
    }

    /// What looks after the domains, by these name servers.
    pub fn domains(&self, dns: Arc<dyn crate::published::Records>) -> Arc<crate::domains::Domains> {
        let host = mail::Domain::parse("mail.host.test").unwrap();
        let settings = crate::domains::Settings {
            targets: crate::keyring::Targets { host, return_path: None, tracking: None },
            check_every: std::time::Duration::from_secs(6 * 60 * 60),
            check_pending_every: std::time::Duration::from_secs(5 * 60),
            overlap: std::time::Duration::from_secs(5 * 24 * 60 * 60),
        };
        let store = self.store.clone();
        Arc::new(crate::domains::Domains::new(store.clone(), store, self.keyring.clone(), dns, settings))
    }

    async fn ask(&self, request: Request<Bytes>) -> Answer {
        self.delivery.answer(request, Caller::Inside).await
    }

    async fn auth(&self, key: &str) -> Answer {
        let body = serde_json::to_vec(&AuthRequest::Bearer { key: key.to_owned() }).unwrap();
        self.ask(Request::post(AUTH_PATH).body(body.into()).unwrap()).await
    }

    pub async fn token(&self) -> String {
        read::<AuthAnswer>(&self.auth(KEY).await.response).token
    }

    async fn post(&self, token: &str, body: Vec<u8>) -> Response<Bytes> {
        let request = Request::post(MESSAGES_PATH).header(AUTHORIZATION, format!("Bearer {token}"));
        self.ask(request.body(body.into()).unwrap()).await.response
    }

    /// One message, one answer.
    pub async fn send(&self, meta: &MessageMeta, message: &str) -> MessageAnswer {
        let body = encode_frame(meta, message.as_bytes().to_vec()).unwrap();
        let mut answers: Vec<MessageAnswer> = read(&self.post(&self.token().await, body).await);
        assert_eq!(answers.len(), 1);
        answers.remove(0)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn read<T: serde::de::DeserializeOwned>(response: &Response<Bytes>) -> T {
    serde_json::from_slice(response.body()).unwrap()
}

fn status_and_name(response: &Response<Bytes>) -> (u16, String) {
    (response.status().as_u16(), read::<wire::ErrorAnswer>(response).name)
}

pub fn meta() -> MessageMeta {
    MessageMeta {
        id: Uuid::now_v7().to_string(),
        sender: Some("bounces@src.test".to_owned()),
        recipients: vec!["to@dst.test".to_owned(), "hidden@dst.test".to_owned()],
        bcc: vec!["hidden@dst.test".to_owned()],
        attributes: vec![("a".to_owned(), "1".to_owned())],
        tags: vec![("category".to_owned(), "welcome".to_owned())],
        idempotency: None,
        component_revision: 0,
        scheduled_ms: None,
        with_all: false,
    }
}

pub const MESSAGE: &str = "From: Acme <a@src.test>\r\nTo: To <to@dst.test>\r\nReply-To: r@src.test\r\nSubject: Hi\r\n\
    Message-ID: <1@src.test>\r\nContent-Type: text/plain\r\n\r\nIt works.\r\n";

#[tokio::test]
async fn keys_become_tokens() {
    let world = World::new(false).await;
    let answer = world.auth(KEY).await;
    assert_eq!((answer.response.status(), answer.tenant.as_deref()), (StatusCode::OK, Some("acme")));
    let said: AuthAnswer = read(&answer.response);
    assert_eq!((said.tenant.as_str(), said.domains, said.any_domain), ("acme", vec!["src.test".to_owned()], false));
    assert_eq!((said.message_bytes, said.recipients, said.run_stages), (10_000, 3, true));
    for wrong in ["", "ph_test_ke", "revoked", &"x".repeat(10_000)] {
        let answer = world.auth(wrong).await;
        assert_eq!(status_and_name(&answer.response), (401, "invalid_api_key".to_owned()), "{wrong:.20}");
        assert_eq!(answer.tenant, None);
    }
    let nonsense = Request::post(AUTH_PATH).body(Bytes::from("{}")).unwrap();
    assert_eq!(world.ask(nonsense).await.response.status(), 400);
    assert_eq!(world.ask(Request::get(AUTH_PATH).body(Bytes::new()).unwrap()).await.response.status(), 405);
    assert_eq!(world.ask(Request::post("/delivery/v2").body(Bytes::new()).unwrap()).await.response.status(), 404);
}

#[tokio::test]
async fn a_message_is_durable_and_a_repetition_is_the_same() {
    let world = World::new(false).await;
    let meta = meta();
    let id = meta.id.clone();
    assert_eq!(world.send(&meta, MESSAGE).await, MessageAnswer::Accepted { id: id.clone(), replayed: false });
    let view = world.store.message("acme", Uuid::parse_str(&id).unwrap()).await.unwrap();
    assert_eq!(world.store.body(&view.body).await.unwrap(), MESSAGE);
    assert_eq!(view.bcc.len(), 1);
    let key = |digest: &str| Some(wire::Idempotency { key: "k-1".to_owned(), digest: digest.to_owned(), item: 0 });
    let first = MessageMeta { idempotency: key("d1"), ..super::tests::meta() };
    let again = MessageMeta { idempotency: key("d1"), ..super::tests::meta() };
    let other = MessageMeta { idempotency: key("d2"), ..super::tests::meta() };
    let expect = |replayed| MessageAnswer::Accepted { id: first.id.clone(), replayed };
    assert_eq!(world.send(&first, MESSAGE).await, expect(false));
    assert_eq!(world.send(&again, MESSAGE).await, expect(true));
    let refused = world.send(&other, MESSAGE).await;
    assert!(
        matches!(&refused, MessageAnswer::Refused { status: 409, name, .. } if name == "invalid_idempotent_request"),
        "{refused:?}"
    );
}

/// Each message may be as large as any, but a request does not hold as many such.
#[tokio::test]
async fn the_messages_of_a_request_have_a_size_together() {
    let world = World::new(false).await;
    let message = format!("{MESSAGE}{}", "x\r\n".repeat(3000));
    let frames: Vec<u8> = (0..3).flat_map(|_| encode_frame(&meta(), message.clone().into_bytes()).unwrap()).collect();
    let answer = world.post(&world.token().await, frames).await;
    assert_eq!(answer.status(), 413);
    let text = String::from_utf8_lossy(answer.body()).into_owned();
    assert!(text.contains("at most 20000 are allowed in one request"), "{text}");
    assert_eq!(world.store.messages("acme", None, 9).await.unwrap().items.len(), 0);
}

#[tokio::test]
async fn nothing_an_edge_says_is_believed() {
    let world = World::new(false).await;
    let check =
        async |meta: MessageMeta, message: &str, expect: u16, words: &str| match world.send(&meta, message).await {
            MessageAnswer::Refused { status, text, .. } if status == expect && text.contains(words) => {}
            answer => panic!("{words}: {answer:?}"),
        };
    let list = |addresses: &[&str]| addresses.iter().map(|address| (*address).to_owned()).collect::<Vec<_>>();
    check(meta(), &MESSAGE.replace("src.test", "foreign.test"), 403, "foreign.test is not registered").await;
    check(meta(), &MESSAGE.replace("From:", "X-From:"), 422, "From").await;
    let with = |more: &str| MESSAGE.replace("To: ", &format!("{more}\r\nTo: "));
    check(meta(), &with("From: b@src.test"), 422, "more than one From").await;
    check(meta(), &with("Sender: s@foreign.test"), 403, "Sender domain foreign.test is not registered").await;
    let two = with("Sender: a@src.test").replace("From: Acme", "From: ceo@foreign.test, Acme");
    check(meta(), &two, 403, "From domain foreign.test is not registered").await;
    check(meta(), &MESSAGE.replace("Acme <a@src.test>", "<b@foreign.test>: a@src.test;"), 422, "From field").await;
    check(meta(), &MESSAGE.replace("Subject: Hi", "Subject: Hi\nFrom: b@foreign.test"), 422, "CR or LF").await;
    check(MessageMeta { id: "1".to_owned(), ..meta() }, MESSAGE, 422, "UUID").await;
    check(MessageMeta { recipients: Vec::new(), bcc: Vec::new(), ..meta() }, MESSAGE, 422, "no recipient").await;
    let four = list(&["a@d.test", "b@d.test", "c@d.test", "d@d.test"]);
    check(MessageMeta { recipients: four, bcc: Vec::new(), ..meta() }, MESSAGE, 422, "4 recipients: at most 3").await;
    check(MessageMeta { bcc: list(&["stranger@d.test"]), ..meta() }, MESSAGE, 422, "Bcc").await;
    let tags = Stream::Broadcast.attributes();
    check(MessageMeta { tags, ..meta() }, MESSAGE, 422, "The tag `posthaste.stream` is reserved").await;
    check(MessageMeta { sender: Some("x\r\ny@d.test".to_owned()), ..meta() }, MESSAGE, 422, "envelope").await;
    let long = wire::Idempotency { key: "k".repeat(257), digest: String::new(), item: 0 };
    check(MessageMeta { idempotency: Some(long), ..meta() }, MESSAGE, 400, "1 to 256 characters").await;
    assert_eq!(world.store.queued().await.unwrap(), 0);
    // A subdomain of a registered domain may be used; a null sender too.
    let accepted =
        world.send(&MessageMeta { sender: None, ..meta() }, &MESSAGE.replace("a@src.test", "a@sub.src.test")).await;
    assert!(matches!(accepted, MessageAnswer::Accepted { replayed: false, .. }), "{accepted:?}");
}

#[tokio::test]
async fn requests_that_are_wrong_as_a_whole() {
    let world = World::new(false).await;
    let frame = |meta: MessageMeta, message: &str| encode_frame(&meta, message.as_bytes().to_vec()).unwrap();
    let token = world.token().await;
    let check = async |token: &str, body: Vec<u8>, expect: (u16, &str)| {
        let (status, name) = status_and_name(&world.post(token, body).await);
        assert_eq!((status, name.as_str()), expect);
    };
    check("wrong", frame(meta(), MESSAGE), (401, "invalid_token")).await;
    check(KEY, frame(meta(), MESSAGE), (401, "invalid_token")).await;
    check(&token, Vec::new(), (400, "validation_error")).await;
    check(&token, vec![0xff; 100], (413, "validation_error")).await;
    check(&token, frame(meta(), &"x".repeat(10_001)), (413, "validation_error")).await;
    check(&token, frame(MessageMeta { component_revision: 1, ..meta() }, MESSAGE), (409, "stale_revision")).await;
    assert_eq!(world.store.queued().await.unwrap(), 0);
}

#[tokio::test]
async fn a_development_host_takes_any_domain() {
    let world = World::new(true).await;
    let answer = world.send(&meta(), &MESSAGE.replace("src.test", "anything.test")).await;
    assert!(matches!(answer, MessageAnswer::Accepted { .. }), "{answer:?}");
}

#[tokio::test]
async fn a_batch_is_stored_whole_or_not_at_all() {
    let world = World::new(false).await;
    let foreign = MESSAGE.replace("a@src.test", "a@foreign.test");
    let send = async |with_all: bool, messages: &[&str]| -> Vec<MessageAnswer> {
        let mut body = Vec::new();
        for message in messages {
            let meta = MessageMeta { with_all, ..meta() };
            body.append(&mut encode_frame(&meta, message.as_bytes().to_vec()).unwrap());
        }
        read(&world.post(&world.token().await, body).await)
    };
    let statuses = |answers: &[MessageAnswer]| -> Vec<u16> {
        let status = |answer: &MessageAnswer| match answer {
            MessageAnswer::Accepted { .. } => 200,
            MessageAnswer::Refused { status, .. } => *status,
        };
        answers.iter().map(status).collect()
    };
    assert_eq!(statuses(&send(true, &[MESSAGE, &foreign, MESSAGE]).await), [424, 403, 424]);
    assert_eq!(world.store.queued().await.unwrap(), 0);
    assert_eq!(statuses(&send(false, &[MESSAGE, &foreign, MESSAGE]).await), [200, 403, 200]);
    assert_eq!(statuses(&send(true, &[MESSAGE, MESSAGE]).await), [200, 200]);
    assert_eq!(world.store.queued().await.unwrap(), 8);
}

#[tokio::test]
async fn a_message_goes_by_a_stream_that_is_open_to_its_key() {
    use mail::Stream;
    let world = World::new(false).await;
    let said: AuthAnswer = read(&world.auth(KEY).await.response);
    assert_eq!(said.streams, ["transactional", "broadcast"]);
    let key = "ph_newsletters";
    let bound = ApiKey {
        id: "key_bound".to_owned(),
        tenant: "acme".to_owned(),
        name: String::new(),
        prefix: "ph_".to_owned(),
        created_at: Timestamp::UNIX_EPOCH,
        revoked_at: None,
        scopes: crate::store::Scopes::ALL,
        stream: Some(Stream::Broadcast),
        has_verifier: false,
        expires_at: None,
        used_at: None,
    };
    world.store.add_key(bound, Sha256::digest(key.as_bytes()).into()).await.unwrap();
    let said: AuthAnswer = read(&world.auth(key).await.response);
    assert_eq!(said.streams, ["broadcast"]);
    let send = async |attributes: Vec<(String, String)>| -> MessageAnswer {
        let body = encode_frame(&MessageMeta { attributes, ..meta() }, MESSAGE.as_bytes().to_vec()).unwrap();
        read::<Vec<MessageAnswer>>(&world.post(&said.token, body).await).remove(0)
    };
    let MessageAnswer::Accepted { id, .. } = send(Stream::Broadcast.attributes()).await else { panic!() };
    let view = world.store.message("acme", Uuid::parse_str(&id).unwrap()).await.unwrap();
    assert_eq!(view.stream, Stream::Broadcast);
    for (value, expect) in [(None, 403), (Some("transactional"), 403), (Some("bulk"), 422)] {
        let attributes = value.map(|value| (Stream::ATTRIBUTE.to_owned(), value.to_owned()));
        let answer = send(attributes.into_iter().collect()).await;
        assert!(matches!(&answer, MessageAnswer::Refused { status, .. } if *status == expect), "{value:?}: {answer:?}");
    }
}
