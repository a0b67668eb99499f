//! Submissions over the embedded store, with stages that pass everything through or play a fault.

mod limits;

use std::thread::{self, ThreadId};

use contract::{
    Acceptance, Finding, Rendered, RendererInput, Signatures, SignerInput, StageError, Transformed, TransformerInput,
    ValidatorInput, Wants,
};
use tempfile::TempDir;

use super::*;
use crate::keyring::MasterKey;
use crate::store::{Embedded, Options, Store};

/// Stages of a tenant; its name decides what the validator says, and so does the thread, which is the reactor's or not.
struct Play(String, ThreadId);

impl Stages for Play {
    async fn render(&self, _: RendererInput) -> Result<Rendered, StageError> {
        Ok(Rendered::default())
    }

    async fn describe_validator(&self) -> Result<Wants, StageError> {
        Ok(Wants::default())
    }

    async fn validate(&self, _: ValidatorInput) -> Result<Acceptance, StageError> {
        match self.0.as_str() {
            "strict" => Err(StageError::Refused(Finding {
                class: FindingClass::Policy,
                text: "not on a Saturday".to_owned(),
                status: None,
                field: None,
                position: None,
            })),
            "apart" if thread::current().id() == self.1 => {
                Err(StageError::Unavailable("it runs on the reactor".to_owned()))
            }
            "broken" => Err(StageError::Unavailable("it trapped".to_owned())),
            _ => Ok(Acceptance::default()),
        }
    }

    fn transforms(&self) -> bool {
        true
    }

    async fn transform(&self, input: TransformerInput) -> Result<Transformed, StageError> {
        let forged = || String::from_utf8(input.message).unwrap().replace("a@acme.test", "a@evil.test").into_bytes();
        Ok(Transformed { message: (self.0 == "forging").then(forged), ..Transformed::default() })
    }

    async fn sign(&self, _: SignerInput) -> Result<Signatures, StageError> {
        Ok(Signatures::default())
    }
}

struct Desk {
    submit: Box<dyn Submit>,
    store: Arc<Embedded>,
    keyring: Arc<Keyring>,
    tenancy: Arc<crate::tenancy::Tenancy>,
    _folder: TempDir,
}

fn desk() -> Desk {
    let folder = tempfile::tempdir().unwrap();
    let store = Embedded::open(folder.path(), Options { reserve_bytes: 0, ..Options::default() }).unwrap();
    let directory: Arc<dyn Directory> = store.clone();
    let master = MasterKey::from_octets(&[1; 32]).unwrap();
    let keyring = Arc::new(Keyring::new(directory.clone(), master, false));
    let tenancy = Arc::new(crate::tenancy::Tenancy::new(store.clone()));
    let intake = Arc::new(Intake::new(store.clone(), tenancy.clone()));
    let sizes = Sizes::new(MESSAGE_OCTETS as u64, 10);
    let reactor = thread::current().id();
    let stages = move |tenant: &str| Play(tenant.to_owned(), reactor);
    let submit = Submissions::new(stages, directory, keyring.clone(), intake, domain("relay.test"), sizes);
    Desk { submit: Box::new(submit), store, keyring, tenancy, _folder: folder }
}

fn domain(name: &str) -> Domain {
    Domain::parse(name).unwrap()
}

fn address(text: &str) -> Address {
    Address::parse(text).unwrap()
}

fn incoming(tenant: Option<&str>, message: impl Into<Vec<u8>>) -> Incoming {
    let principal = |tenant: &str| Principal {
        tenant: tenant.to_owned(),
        key_id: "key_1".to_owned(),
        key_hash: [0; 32],
        stream: None,
    };
    Incoming {
        request: mail::dsn::Request::default(),
        authority: tenant.map_or(Authority::Trusted, |tenant| Authority::Key(principal(tenant))),
        envelope: Envelope {
            sender: Some(address("bounces@acme.test")),
            recipients: vec![address("b@rcpt.test"), address("hidden@rcpt.test")],
        },
        message: message.into(),
        facts: SessionFacts {
            peer: "192.0.2.1".parse().unwrap(),
            hello: "client.test".to_owned(),
            protocol: "ESMTPSA",
        },
    }
}

/// Largest message.
const MESSAGE_OCTETS: usize = 1 << 20;

const MESSAGE: &str = "From: A <a@acme.test>\r\nTo: b@rcpt.test\r\nSubject: x\r\n\r\nhello\r\n";

#[tokio::test]
async fn a_key_is_who_holds_it() {
    let desk = desk();
    let key = api_key::generate(api_key::API_KEY).unwrap();
    let stored = ApiKey {
        id: "key_1".to_owned(),
        tenant: "acme".to_owned(),
        name: "test".to_owned(),
        prefix: api_key::prefix(&key),
        created_at: Timestamp::now(),
        revoked_at: None,
        scopes: crate::store::Scopes::ALL,
        stream: None,
        has_verifier: false,
        expires_at: None,
        used_at: None,
    };
    desk.store.add_key(stored, api_key::hash(&key)).await.unwrap();
    let ask = async |password: &str| {
        let credentials = Credentials { username: "anybody".to_owned(), password: password.to_owned() };
        desk.submit.authenticate(&credentials, "192.0.2.1".parse().unwrap()).await.unwrap()
    };
    let key_hash = api_key::hash(&key);
    let principal = Principal { tenant: "acme".to_owned(), key_id: "key_1".to_owned(), key_hash, stream: None };
    assert_eq!(ask(&key).await, Some(principal.clone()));
    assert!(desk.submit.is_valid(&principal).await.unwrap());
    assert_eq!(ask("ph_wrong").await, None);
    assert_eq!(ask("").await, None);
    // Stored before there were verifiers: its first use made one, soon.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while desk.store.verifier("key_1").await.unwrap().is_none() {
        assert!(std::time::Instant::now() < deadline, "no verifier");
        tokio::task::yield_now().await;
    }
    let peer: IpAddr = "192.0.2.1".parse().unwrap();
    let found = desk.submit.verifier("key_1", peer).await.unwrap();
    assert_eq!(found.1, Some(principal.clone()));
    assert_eq!(found.0, Verifier::make(&key, found.0.salt, found.0.iterations));
    // Who is not there has a salt too, always the same.
    let (nobody, again) =
        (desk.submit.verifier("key_2", peer).await.unwrap(), desk.submit.verifier("key_2", peer).await.unwrap());
    assert!(nobody == again && nobody.1.is_none() && nobody.0.iterations == found.0.iterations);
    assert_ne!(nobody.0.salt, desk.submit.verifier("key_3", peer).await.unwrap().0.salt);
    desk.store.revoke_key("key_1", Timestamp::now()).await.unwrap();
    assert_eq!(ask(&key).await, None);
    assert_eq!(desk.submit.verifier("key_1", peer).await.unwrap().1, None, "revoked");
    assert!(!desk.submit.is_valid(&principal).await.unwrap());
}

#[tokio::test]
async fn a_message_is_stored_with_its_trace() {
    let desk = desk();
    desk.keyring.create_domain("acme", &domain("acme.test")).await.unwrap();
    let queued = desk.submit.submit(incoming(Some("acme"), MESSAGE)).await.unwrap();
    let view = desk.store.message("acme", queued.id).await.unwrap();
    assert_eq!(view.recipients, [address("b@rcpt.test"), address("hidden@rcpt.test")]);
    assert_eq!(view.bcc, [address("hidden@rcpt.test")]);
    let body = desk.store.body(&view.body).await.unwrap();
    let body = std::str::from_utf8(&body).unwrap();
    let trace = format!("Received: from client.test ([192.0.2.1])\r\n\tby relay.test with ESMTPSA id {}", queued.id);
    assert!(body.contains(&trace) && body.ends_with("\r\n\r\nhello\r\n"), "{body}");
    assert!(body.contains(&format!("Message-ID: <{}@relay.test>", queued.id)), "{body}");
}

#[tokio::test]
async fn a_key_sends_from_its_own_domains_only() {
    let desk = desk();
    desk.keyring.create_domain("acme", &domain("acme.test")).await.unwrap();
    let check = async |tenant: Option<&str>, from: &str, expect: &str| {
        let message = format!("{from}\r\nTo: b@rcpt.test\r\n\r\nhello\r\n");
        let told = match desk.submit.submit(incoming(tenant, message)).await {
            Ok(_) => "250".to_owned(),
            Err(reply) => format!("{} {} {}", reply.code, reply.enhanced.unwrap(), reply.text),
        };
        assert!(told.starts_with(expect), "{from}: {told}");
    };
    check(Some("acme"), "From: a@acme.test", "250").await;
    check(Some("acme"), "From: a@news.ACME.test", "250").await;
    check(Some("acme"), "From: a@acme.test, b@acme.test\r\nSender: a@acme.test", "250").await;
    let refused = "550 5.7.1 The From domain evil.test is not registered: add it with \
                   `posthaste domain add evil.test --tenant acme`";
    check(Some("acme"), "From: a@evil.test", refused).await;
    check(Some("acme"), "From: a@acme.test, b@evil.test\r\nSender: a@acme.test", "550 5.7.1").await;
    check(Some("acme"), "From: a@acme.test\r\nFrom: b@evil.test", "550 5.6.0").await;
    check(Some("acme"), "From: a@acme.test\r\nSender: s@evil.test", "550 5.7.1 The Sender domain evil.test is not")
        .await;
    check(Some("acme"), "From: a@acme.test\r\nSender: nobody", "550 5.6.0 The Sender field").await;
    check(Some("acme"), "From: CEO <ceo@evil.test>: a@acme.test;", "550 5.6.0 The message has no From field").await;
    check(Some("acme"), "From: nobody", "550 5.6.0").await;
    check(Some("acme"), "Subject: x", "550 5.6.0").await;
    check(Some("other"), "From: a@acme.test", "550 5.7.1").await;
    check(Some("default"), "From: a@evil.test", "550 5.7.1 The From domain evil.test is not registered").await;
    // A trusted peer may be anybody.
    check(None, "From: a@evil.test", "250").await;
}

#[tokio::test]
async fn a_header_field_names_the_stream_and_goes_no_further() {
    let desk = desk();
    desk.keyring.create_domain("acme", &domain("acme.test")).await.unwrap();
    let submit = async |bound: Option<Stream>, fields: &str| {
        let mut incoming = incoming(Some("acme"), format!("{fields}{MESSAGE}"));
        if let Authority::Key(principal) = &mut incoming.authority {
            principal.stream = bound;
        }
        let queued = desk.submit.submit(incoming).await?;
        let view = desk.store.message("acme", queued.id).await.unwrap();
        let body = String::from_utf8(desk.store.body(&view.body).await.unwrap().to_vec()).unwrap();
        Ok::<_, Reply>((view.stream, body.contains("-Stream:")))
    };
    let (broadcast, transactional) = (Stream::Broadcast, Stream::Transactional);
    assert_eq!(submit(None, "").await.unwrap(), (transactional, false));
    assert_eq!(submit(None, "X-Posthaste-Stream: broadcast\r\n").await.unwrap(), (broadcast, false));
    assert_eq!(submit(None, "x-pm-message-stream:\r\n outbound\r\n").await.unwrap(), (transactional, false));
    assert_eq!(submit(Some(broadcast), "").await.unwrap(), (broadcast, false));
    let signed = "DKIM-Signature: v=1; d=acme.test\r\nX-Posthaste-Stream: broadcast\r\n";
    assert_eq!(submit(None, signed).await.unwrap(), (broadcast, true), "a signed message is never changed");
    for (bound, fields, code, words) in [
        (None, "X-PM-Message-Stream: newsletters\r\n", 550, "no stream `newsletters`"),
        (None, "X-Posthaste-Stream: broadcast\r\nX-PM-Message-Stream: outbound\r\n", 550, "name one only"),
        (Some(transactional), "X-Posthaste-Stream: broadcast\r\n", 550, "`broadcast` is not open to this API key"),
    ] {
        let reply = submit(bound, fields).await.unwrap_err();
        assert!(reply.code == code && reply.text.contains(words), "{fields}: {reply:?}");
    }
    let terms = crate::store::TenantTerms { streams: crate::store::Streams(vec![broadcast]), ..Default::default() };
    crate::store::Tenants::set_terms(&*desk.store, "acme", terms).await.unwrap();
    desk.tenancy.forget("acme", false);
    assert_eq!(submit(None, "").await.unwrap(), (broadcast, false), "the only one that the tenant has");
    assert!(submit(Some(transactional), "").await.unwrap_err().text.starts_with("no stream is open"));
}

#[tokio::test]
async fn a_stage_gives_no_key_another_author() {
    let desk = desk();
    desk.keyring.create_domain("forging", &domain("acme.test")).await.unwrap();
    let reply = desk.submit.submit(incoming(Some("forging"), MESSAGE)).await.unwrap_err();
    assert!(reply.text.starts_with("The From domain evil.test is not registered"), "{}", reply.text);
    assert_eq!(desk.store.queued().await.unwrap(), 0);
}

#[tokio::test]
async fn refusals_of_the_road_become_replies() {
    let desk = desk();
    let check = async |tenant: Option<&str>, message: String, expect: &str| {
        let reply = desk.submit.submit(incoming(tenant, message)).await.unwrap_err();
        let told = format!("{} {} {}", reply.code, reply.enhanced.unwrap(), reply.text);
        assert!(told.starts_with(expect), "{told}");
    };
    for tenant in ["strict", "broken"] {
        desk.keyring.create_domain(tenant, &domain("acme.test")).await.unwrap();
    }
    check(Some("strict"), MESSAGE.to_owned(), "550 5.7.1 not on a Saturday").await;
    check(Some("broken"), MESSAGE.to_owned(), "451 4.3.0").await;
    check(None, "no header at all\r\n".to_owned(), "550 5.6.0").await;
    let circling = format!("{}{MESSAGE}", "Received: from a by b\r\n".repeat(MAX_HOPS + 1));
    check(None, circling, "554 5.4.6").await;
    assert_eq!(desk.store.queued().await.unwrap(), 0);
}

#[tokio::test]
async fn a_message_that_just_fits_is_taken() {
    let desk = desk();
    let message = format!("{MESSAGE}{}", "x\r\n".repeat((MESSAGE_OCTETS - MESSAGE.len()) / 3));
    desk.submit.submit(incoming(None, message)).await.unwrap();
}

#[tokio::test]
async fn a_large_message_is_not_worked_on_by_the_reactor() {
    let desk = desk();
    desk.keyring.create_domain("apart", &domain("acme.test")).await.unwrap();
    let reply = desk.submit.submit(incoming(Some("apart"), MESSAGE)).await.unwrap_err();
    assert_eq!(reply.code, 451, "a small one is: {}", reply.text);
    let large = format!("{MESSAGE}{}", "x\r\n".repeat(LARGE_OCTETS / 3));
    let all = (0..5).map(|_| desk.submit.submit(incoming(Some("apart"), large.clone())));
    for told in futures::future::join_all(all).await {
        told.unwrap();
    }
    assert_eq!(desk.store.queued().await.unwrap(), 10);
}

#[test]
fn the_trace_field_tells_the_hop() {
    let check = |peer: &str, hello: &str, expect: &str| {
        let facts = SessionFacts { peer: peer.parse().unwrap(), hello: hello.to_owned(), protocol: "ESMTPSA" };
        let at: Timestamp = "2026-11-21T23:06:53Z".parse().unwrap();
        assert_eq!(received(&facts, &domain("relay.test"), Uuid::nil(), at), expect);
    };
    check(
        "192.0.2.1",
        "client.test",
        "Received: from client.test ([192.0.2.1])\r\n\tby relay.test with ESMTPSA \
         id 00000000-0000-0000-0000-000000000000;\r\n\tSat, 21 Nov 2026 23:06:53 +0000",
    );
    check(
        "2001:db8::1",
        "[IPv6:2001:db8::1]",
        "Received: from [IPv6:2001:db8::1] ([IPv6:2001:db8::1])\r\n\tby relay.test with ESMTPSA \
         id 00000000-0000-0000-0000-000000000000;\r\n\tSat, 21 Nov 2026 23:06:53 +0000",
    );
}

#[test]
fn every_error_of_the_store_has_its_reply() {
    let check = |error: StoreError, expect: &str| {
        let reply = store_reply(&error);
        assert_eq!(format!("{} {}", reply.code, reply.enhanced.unwrap()), expect);
    };
    check(StoreError::Full, "452 4.3.1");
    check(StoreError::Io("disk".to_owned()), "451 4.3.0");
    check(StoreError::DuplicateId, "451 4.3.0");
}

#[test]
fn an_unproved_domain_has_its_reply() {
    let record = "s._domainkey.own.test".to_owned();
    let fault = AuthorFault::Unproved { field: "From", domain: domain("own.test"), record };
    let reply = author_reply(&fault, TRUSTED_TENANT);
    assert_eq!((reply.code, reply.enhanced.unwrap().to_string().as_str()), (550, "5.7.1"));
    assert!(reply.text.contains("publish the TXT record s._domainkey.own.test"), "{}", reply.text);
}

#[test]
fn recipients_in_no_field_are_found() {
    let parsed = message::parse(b"To: A <a@x.test>\r\nCc: b@x.test\r\n\r\n");
    let recipients = ["a@x.test", "b@x.test", "c@x.test"].map(address).to_vec();
    assert_eq!(unnamed(&Envelope { sender: None, recipients }, &parsed), [address("c@x.test")]);
}
