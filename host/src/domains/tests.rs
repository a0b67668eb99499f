//! Domains over a real store, with name servers and a clock of the test's.
#![allow(clippy::unwrap_used)]

mod due;
mod steps;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Mutex;

use async_trait::async_trait;
use mail::Domain;
use mail::dkim::Algorithm;
use serde_json::{Value, json};

use super::*;
use crate::api::delivery::tests::World;
use crate::keyring::{KeyFault, SelectorError, Selectors};
use crate::published::RecordStatus;
use crate::route::lookup::Texts;
use crate::store::{AnyEvent, DomainStatus, EventFilter, Verification, Webhooks as _};

const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// What is published: one text a name. Where it is silent nothing is answered.
#[derive(Default)]
struct Zone {
    texts: Mutex<HashMap<String, String>>,
    is_silent: Mutex<bool>,
    asked: Mutex<usize>,
    /// Domains of which each question waits, and those that it was asked of.
    stuck: Mutex<HashMap<String, Arc<Semaphore>>>,
    seen: Mutex<Vec<String>>,
}

impl Zone {
    fn publish(&self, records: &[DnsRecord]) {
        let mut texts = self.texts.lock().unwrap();
        texts.extend(records.iter().map(|record| (record.name.clone(), record.value.clone())));
    }

    fn withdraw(&self, selector: &str) {
        self.texts.lock().unwrap().retain(|name, _| !name.starts_with(&format!("{selector}.")));
    }

    /// Lets questions for names with this end wait for a permit each.
    fn stick(&self, end: &str) -> Arc<Semaphore> {
        let gate = Arc::new(Semaphore::new(0));
        self.stuck.lock().unwrap().insert(end.to_owned(), gate.clone());
        gate
    }

    /// Waits until something was asked.
    async fn until_asked(&self, asked: impl Fn(&[String]) -> bool) {
        let waiting = async {
            while !asked(&self.seen.lock().unwrap()) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), waiting).await.unwrap();
    }

    fn silence(&self, is_silent: bool) {
        *self.is_silent.lock().unwrap() = is_silent;
    }
}

#[async_trait]
impl Records for Zone {
    async fn texts(&self, name: &str) -> Result<Texts, String> {
        *self.asked.lock().unwrap() += 1;
        self.seen.lock().unwrap().push(name.to_owned());
        let stuck =
            self.stuck.lock().unwrap().iter().find(|(end, _)| name.ends_with(*end)).map(|(_, gate)| gate.clone());
        if let Some(gate) = stuck {
            gate.acquire().await.unwrap().forget();
        }
        if *self.is_silent.lock().unwrap() {
            return Err("SERVFAIL".to_owned());
        }
        let records = self.texts.lock().unwrap().get(name).cloned().into_iter().collect();
        Ok(Texts { records, alias: None })
    }

    async fn addresses(&self, _: &str) -> Result<Vec<IpAddr>, String> {
        Ok(Vec::new())
    }
}

struct Desk {
    world: World,
    zone: Arc<Zone>,
    domains: Arc<Domains>,
    begun: Timestamp,
}

impl Desk {
    async fn new() -> Desk {
        let world = World::new(false).await;
        let zone = Arc::new(Zone::default());
        let domains = world.domains(zone.clone());
        // As exact as what is stored.
        let now = Timestamp::from_millisecond(Timestamp::now().as_millisecond()).unwrap();
        let desk = Desk { world, zone, domains, begun: now };
        // The one that is there already is of no interest here.
        let change = DomainChange { check_at: Some(desk.at(2000 * DAY)), ..DomainChange::default() };
        let there = Domain::parse("src.test").unwrap();
        desk.domains.changes.change_domain("acme", &there, change).await.unwrap();
        desk
    }

    /// The domain `own.test` of tenant `acme`, its records published.
    async fn own(&self, needs_proof: bool) -> SendingDomain {
        let made = self.world.keyring.create("acme", &name(), needs_proof).await.unwrap();
        self.zone.publish(&self.domains.records(&made));
        made
    }

    fn at(&self, after: Duration) -> Timestamp {
        later(self.begun, after)
    }

    async fn stored(&self) -> SendingDomain {
        self.world.store.domain("acme", &name()).await.unwrap().unwrap()
    }

    async fn check(&self, look: Look, after: Duration) -> SendingDomain {
        self.domains.check(self.stored().await, look, self.at(after)).await.unwrap();
        self.stored().await
    }

    /// Selectors that sign now.
    async fn signing(&self) -> Vec<String> {
        let identities = self.world.keyring.identities("acme", "own.test").await.unwrap();
        let mut selectors: Vec<String> = identities.into_iter().map(|identity| identity.selector).collect();
        selectors.sort();
        selectors
    }

    /// The data of the tenant's `domain.updated` events, oldest first.
    async fn events(&self) -> Vec<Value> {
        self.world.store.move_events().await;
        let filter = EventFilter {
            tenant: "acme".to_owned(),
            kinds: Some(vec![UPDATED.into()]),
            message: None,
            stream: None,
            from: None,
            to: None,
            after: None,
            oldest_first: true,
        };
        let (events, _) = self.world.store.tenant_events(filter, 100).await.unwrap();
        let data = |event: AnyEvent| match event {
            AnyEvent::Tenant(record) => Value::Object(record.event.data),
            AnyEvent::Message(_) => unreachable!("kinds of tenants were asked for"),
        };
        events.into_iter().map(data).collect()
    }
}

fn name() -> Domain {
    Domain::parse("own.test").unwrap()
}

fn states(domain: &SendingDomain) -> Vec<&'static str> {
    let mut states: Vec<&str> = domain.keys.iter().map(|key| key.state.name()).collect();
    states.sort_unstable();
    states
}

fn selectors(domain: &SendingDomain, state: &str) -> Vec<String> {
    let keys = domain.keys.iter().filter(|key| key.state.name() == state);
    let mut selectors: Vec<String> = keys.map(|key| key.selector.clone()).collect();
    selectors.sort();
    selectors
}

fn rotation(name: &str) -> Rotation {
    Rotation { at_once: false, selectors: Selectors::asked(Some(name), None).unwrap() }
}

#[tokio::test]
async fn new_keys_sign_once_they_are_seen_and_old_records_stay() {
    let desk = Desk::new().await;
    let old = desk.own(false).await;
    desk.check(Look::Due, Duration::ZERO).await;
    let before = desk.signing().await;
    assert_eq!(before, selectors(&old, "active"));

    let rotated = desk.domains.rotate(&desk.stored().await, rotation("s2"), desk.at(HOUR)).await.unwrap();
    assert_eq!(states(&rotated), ["active", "active", "pending", "pending"]);
    assert_eq!(selectors(&rotated, "pending"), ["s2", "s2-ed25519"]);
    desk.check(Look::Due, HOUR).await;
    assert_eq!(desk.signing().await, before, "what nobody has published signs nothing");
    let again = desk.domains.rotate(&desk.stored().await, rotation("s3"), desk.at(HOUR)).await;
    match again {
        Err(error @ DomainFault::Waiting { .. }) => {
            assert!(error.to_string().contains("._domainkey.own.test"), "{error}")
        }
        other => panic!("{other:?}"),
    }

    // One of the two is published: it takes the place of its algorithm's.
    let records = desk.domains.records(&rotated);
    let rsa: Vec<DnsRecord> = records.iter().filter(|record| record.name.starts_with("s2.")).cloned().collect();
    assert!(!rsa[0].required, "mail verifies without it");
    desk.zone.publish(&rsa);
    let halfway = desk.check(Look::Due, 2 * HOUR).await;
    assert_eq!(states(&halfway), ["active", "active", "pending", "retiring"]);
    assert!(desk.signing().await.contains(&"s2".to_owned()));
    desk.zone.publish(&records);
    let switched = desk.check(Look::Due, 3 * HOUR).await;
    assert_eq!(desk.signing().await, ["s2", "s2-ed25519"]);
    assert_eq!(selectors(&switched, "retiring"), before);
    let old_rsa =
        switched.keys.iter().find(|key| key.state.name() == "retiring" && key.algorithm == Algorithm::RsaSha256);
    let KeyState::Retiring { since, until } = old_rsa.unwrap().state else { panic!("it is retiring") };
    // As long as a message may be on its way, and a day.
    assert_eq!((since, until), (desk.at(2 * HOUR), desk.at(2 * HOUR + 6 * DAY)));

    desk.check(Look::Due, 5 * DAY).await;
    assert_eq!(states(&desk.stored().await), ["active", "active", "retiring", "retiring"]);
    let over = desk.check(Look::Due, 7 * DAY).await;
    assert_eq!(states(&over), ["active", "active", "retired", "retired"]);
    let retired = over.keys.iter().filter(|key| key.state == KeyState::Retired);
    retired.for_each(|key| assert!(key.sealed_private.is_empty(), "the private half is gone"));
    desk.check(Look::Due, 8 * DAY).await;
    assert_eq!(states(&desk.stored().await).len(), 4, "its record is still there");
    before.iter().for_each(|selector| desk.zone.withdraw(selector));
    assert_eq!(states(&desk.check(Look::Due, 9 * DAY).await), ["active", "active"]);

    let told: Vec<Value> =
        desk.events().await.into_iter().flat_map(|event| event["keys"].as_array().unwrap().clone()).collect();
    for (selector, state) in
        [("s2", "active"), ("s2-ed25519", "active"), (&before[0], "retiring"), (&before[1], "retired")]
    {
        let is_told = told.iter().any(|key| key["selector"] == json!(selector) && key["state"] == json!(state));
        assert!(is_told, "{selector} {state}: {told:?}");
    }
    steps::are_audited(&desk, &before).await;
}

#[tokio::test]
async fn a_record_stays_while_mail_that_its_key_signed_waits() {
    let desk = Desk::new().await;
    desk.own(false).await;
    desk.check(Look::Due, Duration::ZERO).await;
    let scheduled = desk.at(20 * DAY);
    let message = crate::store::NewMessage {
        request: None,
        id: uuid::Uuid::new_v4(),
        tenant: "acme".to_owned(),
        sender: None,
        recipients: vec![mail::Address::parse("a@b.test").unwrap()],
        bcc: Vec::new(),
        body: bytes::Bytes::from_static(b"Subject: x\r\n\r\nx\r\n"),
        attributes: Vec::new(),
        tags: Vec::new(),
        idempotency: None,
        accepted_at: desk.begun,
        scheduled_at: Some(scheduled),
    };
    crate::store::Store::accept(&*desk.world.store, vec![message]).await.pop().unwrap().unwrap();
    let rotated = desk.domains.rotate(&desk.stored().await, rotation("s2"), desk.at(HOUR)).await.unwrap();
    desk.zone.publish(&desk.domains.records(&rotated));
    let switched = desk.check(Look::Due, 2 * HOUR).await;
    let until = |domain: &SendingDomain| {
        let retiring = domain.keys.iter().filter_map(|key| match key.state {
            KeyState::Retiring { until, .. } => Some(until),
            _ => None,
        });
        retiring.max()
    };
    assert_eq!(until(&switched), Some(later(scheduled, 6 * DAY)), "from when it is sent on");
    // Nobody took it away: held, or put off again and again.
    let late = desk.check(Look::Due, 30 * DAY).await;
    assert_eq!(until(&late), Some(desk.at(31 * DAY)));
    let told = desk.events().await.len();
    desk.check(Look::Due, 32 * DAY).await;
    assert_eq!(desk.events().await.len(), told, "that it stays a day longer is no news");
    let id = crate::store::Store::messages(&*desk.world.store, "acme", None, 10).await.unwrap().items[0].id;
    crate::store::Store::cancel(&*desk.world.store, "acme", id, desk.begun).await.unwrap();
    assert_eq!(states(&desk.check(Look::Due, 40 * DAY).await), ["active", "active", "retired", "retired"]);
}

#[tokio::test]
async fn a_key_that_has_leaked_is_gone_at_once() {
    let desk = Desk::new().await;
    let old = desk.own(false).await;
    desk.check(Look::Due, Duration::ZERO).await;
    let at_once = Rotation { at_once: true, ..rotation("s2") };
    let rotated = desk.domains.rotate(&desk.stored().await, at_once.clone(), desk.at(HOUR)).await.unwrap();
    assert_eq!(desk.signing().await, ["s2", "s2-ed25519"]);
    assert_eq!(states(&rotated), ["active", "active", "retired", "retired"]);
    assert!(rotated.keys.iter().all(|key| key.sealed_private.is_empty() == (key.state == KeyState::Retired)));
    let signed = desk.world.keyring.sign_digest("acme", &old.keys[0].id, &[0; 32]).await;
    assert!(signed.is_err(), "nothing signs with it any more");
    assert_eq!(desk.events().await.last().unwrap()["keys"][0]["state"], json!("retired"));

    // Keys that wait are taken, and fresh ones where none do.
    let waiting = desk.domains.rotate(&rotated, rotation("s3"), desk.at(HOUR)).await.unwrap();
    let without = desk.domains.remove_key(&waiting, "s3-ed25519", desk.at(HOUR)).await.unwrap();
    desk.domains.rotate(&without, Rotation { at_once: true, ..rotation("s4") }, desk.at(HOUR)).await.unwrap();
    assert_eq!(desk.signing().await, ["s3", "s4-ed25519"]);
}

#[tokio::test]
async fn selectors_are_never_used_twice() {
    let desk = Desk::new().await;
    desk.own(false).await;
    let first = desk.domains.rotate(&desk.stored().await, rotation("s2"), desk.begun).await.unwrap();
    for selector in ["s2", "s2-ed25519"] {
        let left = desk.domains.remove_key(&desk.stored().await, selector, desk.begun).await.unwrap();
        assert!(left.keys.iter().all(|key| key.selector != selector));
    }
    let taken = |result: Result<SendingDomain, DomainFault>| match result {
        Err(DomainFault::Store(StoreError::Exists(text))) => {
            assert!(text.contains("choose another selector"), "{text}")
        }
        other => panic!("{other:?}"),
    };
    taken(desk.domains.rotate(&desk.stored().await, rotation("s2"), desk.begun).await);
    // Nor when the domain is another one of the same name.
    desk.world.store.remove_domain("acme", &name()).await.unwrap();
    let again = desk.world.keyring.create("acme", &name(), false).await.unwrap();
    taken(desk.domains.rotate(&again, rotation("s2"), desk.begun).await);
    let back: Vec<_> = first.keys.into_iter().filter(|key| key.selector == "s2").collect();
    let change = DomainChange { added: back, ..DomainChange::default() };
    desk.domains.changes.change_domain("acme", &name(), change).await.unwrap();
}

#[tokio::test]
async fn names_of_selectors_are_checked() {
    let asked = |rsa, ed25519| Selectors::asked(rsa, ed25519);
    let both = asked(Some("S1"), None).unwrap();
    assert_eq!((both.rsa.as_deref(), both.ed25519.as_deref()), (Some("s1"), Some("s1-ed25519")));
    assert_eq!(asked(Some("s1"), Some("e1")).unwrap().ed25519.as_deref(), Some("e1"));
    assert!(matches!(asked(Some("s1"), Some("S1")), Err(SelectorError::Twice(_))));
    assert!(matches!(asked(Some("s_1"), None), Err(SelectorError::Form(_))));
    let desk = Desk::new().await;
    let long = Domain::parse(&["a"; 60].map(|it| format!("{it}bc")).join(".")).unwrap();
    let error = desk.domains.check_selectors(&long, &asked(Some("s1"), None).unwrap()).unwrap_err();
    assert!(error.to_string().contains("too long"), "{error}");
}

/// `openssl genrsa -traditional 2048`, `openssl genpkey -algorithm ed25519`, and others.
const PEM: [(&str, &str); 5] = [
    ("pkcs1", include_str!("../../../tests/vectors/keys/rsa-2048-pkcs1.pem")),
    ("pkcs8", include_str!("../../../tests/vectors/keys/rsa-2048-pkcs8.pem")),
    ("ed25519", include_str!("../../../tests/vectors/keys/ed25519.pem")),
    ("small", include_str!("../../../tests/vectors/keys/rsa-1024.pem")),
    ("curve", include_str!("../../../tests/vectors/keys/p256.pem")),
];

fn pem(name: &str) -> &'static str {
    PEM.iter().find(|(known, _)| *known == name).map(|(_, text)| *text).unwrap()
}

#[tokio::test]
async fn imported_keys_sign_once_their_records_are_seen() {
    let desk = Desk::new().await;
    desk.own(false).await;
    desk.check(Look::Due, Duration::ZERO).await;
    let made = desk.stored().await;
    let import = async |selector: &str, text: &str, at_once| {
        desk.domains.import_key(&desk.stored().await, selector, text, at_once, desk.begun).await
    };
    let imported = import("Old1", pem("pkcs1"), false).await.unwrap();
    assert_eq!(selectors(&imported, "pending"), ["old1"]);
    let second = import("old2", pem("pkcs8"), false).await.unwrap_err();
    assert!(matches!(&second, DomainFault::Waiting { .. }), "one of a kind waits at a time: {second}");
    desk.zone.publish(&desk.domains.records(&imported));
    let switched = desk.check(Look::Due, HOUR).await;
    assert_eq!(states(&switched), ["active", "active", "retiring"]);
    let signing = desk.signing().await;
    assert!(signing.contains(&"old1".to_owned()) && signing.len() == 2, "{signing:?}");
    let ed25519 = made.keys.iter().find(|key| key.algorithm == Algorithm::Ed25519Sha256).unwrap();
    assert!(signing.contains(&ed25519.selector), "the other kind stays");
    // What it signs verifies with what is published.
    let key = switched.keys.iter().find(|key| key.selector == "old1").unwrap();
    let signature = desk.world.keyring.sign_digest("acme", &key.id, &[7; 32]).await.unwrap();
    assert!(crate::keyring::verifies(key.algorithm, &key.public, &[7; 32], &signature));

    import("edwards", pem("ed25519"), true).await.unwrap();
    assert!(desk.signing().await.contains(&"edwards".to_owned()), "at once");
    let before = desk.stored().await;
    let repeated = import("Old1", pem("pkcs1"), true).await.unwrap();
    assert_eq!((&repeated, &desk.stored().await), (&before, &before), "a call may be repeated");
    let again = import("other", pem("pkcs1"), true).await.unwrap_err();
    assert!(again.to_string().contains("with the selector old1"), "{again}");

    let fault = async |selector: &str, text: &str, words: &str| {
        let error = import(selector, text, true).await.unwrap_err();
        assert!(error.status().is_client_error() && error.to_string().contains(words), "{error}");
    };
    fault("s_1", pem("pkcs8"), "selector: `s_1` is no selector").await;
    fault("s1", "", "private_key: it holds no private key in PEM").await;
    fault("s1", &"x".repeat(20_000), "at most 16 KiB").await;
    fault("s1", pem("small"), "fewer than 2048 bits").await;
    fault("s1", pem("curve"), "neither an RSA nor an Ed25519 key").await;
    fault("s1", &format!("{}{}", pem("pkcs8"), pem("ed25519")), "more than one private key").await;
    fault("s1", "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n", "decrypt it")
        .await;
    fault("s1", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "holds a public key").await;
    fault("s1", "-----BEGIN PRIVATE KEY-----\nAAAA\n", "END line").await;
    fault("s1", "-----BEGIN PRIVATE KEY-----\n!!!!\n-----END PRIVATE KEY-----\n", "base64").await;
    fault("s1", "-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----\n", "cannot be used").await;
    assert_eq!(KeyFault::Encrypted.to_string().lines().count(), 1);
}

/// Two calls with one key, made out of the same domain; and a look behind the import that others are in the way of.
#[tokio::test]
async fn a_key_that_was_imported_is_never_said_not_to_be() {
    let desk = Desk::new().await;
    let domain = desk.own(false).await;
    let import = || desk.domains.import_key(&domain, "old1", pem("pkcs1"), false, desk.begun);
    let (one, other) = tokio::join!(import(), import());
    assert_eq!(selectors(&one.unwrap(), "pending"), ["old1"]);
    let imported = other.unwrap();
    assert_eq!(selectors(&imported, "pending"), ["old1"]);
    assert!(desk.domains.import_key(&domain, "old2", pem("pkcs1"), false, desk.begun).await.is_err());

    let mut gate = desk.zone.stick("own.test");
    let look = tokio::spawn({
        let (domains, now) = (desk.domains.clone(), desk.begun);
        async move { domains.look_for_added(imported, now).await }
    });
    for number in 0..TRIES {
        let asked = move |seen: &[String]| seen.iter().filter(|name| name.starts_with("_dmarc.")).count() > number;
        desk.zone.until_asked(asked).await;
        let behind = desk.zone.stick("own.test");
        // Somebody else's look comes before it each time.
        let (status, checked_at) = (DomainStatus::Pending, desk.at(HOUR * number as u32));
        let found = Some(Verification { status, checked_at, records: Vec::new(), lost_since: None });
        let change = DomainChange { found, ..DomainChange::default() };
        desk.domains.changes.change_domain("acme", &name(), change).await.unwrap();
        std::mem::replace(&mut gate, behind).add_permits(100);
    }
    let told = look.await.unwrap().unwrap();
    assert!(told.keys.iter().any(|key| key.selector == "old1"), "{:?}", told.keys);
}

#[tokio::test]
async fn keys_are_taken_away() {
    let desk = Desk::new().await;
    desk.own(false).await;
    let [one, other] = <[String; 2]>::try_from(desk.signing().await).unwrap();
    let remove = async |selector: &str| desk.domains.remove_key(&desk.stored().await, selector, desk.begun).await;
    assert!(matches!(remove("none").await, Err(DomainFault::Missing { .. })));
    assert_eq!(selectors(&remove(&one).await.unwrap(), "retiring"), std::slice::from_ref(&one));
    assert!(matches!(remove(&other).await, Err(DomainFault::Last { .. })));
    assert_eq!(remove(&one).await.unwrap().keys.len(), 1, "what is retiring is forgotten");
}

#[tokio::test]
async fn what_changes_is_told_once() {
    let desk = Desk::new().await;
    let made = desk.world.keyring.create("acme", &name(), false).await.unwrap();
    desk.check(Look::Due, Duration::ZERO).await;
    assert!(desk.events().await.is_empty(), "that nothing is published at first is no news");
    desk.zone.publish(&desk.domains.records(&made));
    desk.check(Look::Due, HOUR).await;
    desk.check(Look::Due, 2 * HOUR).await;
    let events = desk.events().await;
    assert_eq!(events.len(), 1, "{events:?}");
    assert_eq!((&events[0]["name"], &events[0]["status"]), (&json!("own.test"), &json!("verified")));
    assert_eq!(events[0]["records"].as_array().map(Vec::len), Some(4), "two keys, SPF and DMARC");
    assert_eq!(events[0]["records"][0]["previous_status"], json!("pending"));

    // No answer is no news, then or afterwards.
    desk.zone.silence(true);
    let silent = desk.check(Look::Due, 3 * HOUR).await;
    assert_eq!(silent.status(), DomainStatus::Verified);
    desk.zone.silence(false);
    desk.check(Look::Due, 4 * HOUR).await;
    assert_eq!(desk.events().await.len(), 1);
    let lost = &made.keys[0].selector;
    desk.zone.withdraw(lost);
    desk.check(Look::Due, 5 * HOUR).await;
    let event = desk.events().await.pop().unwrap();
    assert_eq!(event["records"].as_array().map(Vec::len), Some(1), "{event}");
    assert!(event["records"][0]["name"].as_str().unwrap().starts_with(lost.as_str()));
    assert!(event["records"][0]["message"].as_str().unwrap().contains("not published"), "{event}");
}

/// A tenant's own domain goes on sending for a while when its records are missed by chance; at once it stops only where
/// somebody asks.
#[tokio::test]
async fn what_was_proved_stays_so_for_three_days() {
    let desk = Desk::new().await;
    let made = desk.own(true).await;
    assert!(desk.check(Look::Asked, Duration::ZERO).await.may_send());
    desk.zone.withdraw(&made.keys[0].selector);
    for after in [HOUR, DAY, 3 * DAY] {
        let found = desk.check(Look::Due, after).await;
        assert!(found.may_send(), "{after:?}");
        let lost = found.verification.unwrap().records.into_iter().find(|it| it.status == RecordStatus::Pending);
        assert_eq!(lost.unwrap().since, Some(desk.at(HOUR)), "it is told");
    }
    let stopped = desk.check(Look::Due, 3 * DAY + HOUR).await;
    assert!(!stopped.may_send() && stopped.status() == DomainStatus::Pending);
    assert_eq!(desk.events().await.last().unwrap()["can_send"], json!(false));
    desk.zone.publish(&desk.domains.records(&made));
    assert!(desk.check(Look::Due, 4 * DAY).await.may_send());
    desk.zone.withdraw(&made.keys[0].selector);
    assert!(!desk.check(Look::Asked, 4 * DAY).await.may_send(), "asked, it counts at once");
}

#[tokio::test]
async fn looks_are_seldom_where_all_is_well() {
    let desk = Desk::new().await;
    let made = desk.own(false).await;
    // Nothing is due before anybody can have published anything.
    assert_eq!(desk.domains.round(|| desk.at(Duration::from_secs(60))).await.unwrap(), 0);
    let rounds = async |after: Duration| {
        let before = *desk.zone.asked.lock().unwrap();
        desk.domains.round(|| desk.at(after)).await.unwrap();
        *desk.zone.asked.lock().unwrap() - before
    };
    rounds(Duration::from_secs(600)).await;
    assert_eq!(desk.stored().await.status(), DomainStatus::Verified);
    rounds(10 * HOUR).await;
    let records = 4;
    assert_eq!(rounds(15 * HOUR).await, 0, "within six hours, less a tenth");
    assert_eq!(rounds(17 * HOUR).await, records);
    desk.zone.withdraw(&made.keys[0].selector);
    assert_eq!(rounds(24 * HOUR).await, records);
    assert_eq!(rounds(24 * HOUR + Duration::from_secs(6 * 60)).await, records, "soon again, where something is wrong");
    rounds(24 * HOUR + 4 * HOUR).await;
    assert_eq!(rounds(24 * HOUR + 4 * HOUR + Duration::from_secs(6 * 60)).await, 0, "and rarer when nothing changes");
}

#[tokio::test]
async fn fresh_keys_begin_no_new_grace() {
    let desk = Desk::new().await;
    let made = desk.own(true).await;
    assert!(desk.check(Look::Asked, Duration::ZERO).await.may_send());
    made.keys.iter().for_each(|key| desk.zone.withdraw(&key.selector));
    assert!(desk.check(Look::Due, HOUR).await.may_send());
    for (number, after) in [(2, DAY), (3, 2 * DAY), (4, 3 * DAY)] {
        let at_once = Rotation { at_once: true, ..rotation(&format!("s{number}")) };
        desk.domains.rotate(&desk.stored().await, at_once, desk.at(after)).await.unwrap();
        assert!(desk.check(Look::Due, after).await.may_send(), "{after:?}");
    }
    assert!(!desk.check(Look::Due, 3 * DAY + HOUR).await.may_send());
    desk.zone.publish(&desk.domains.records(&desk.stored().await));
    let found = desk.check(Look::Due, 4 * DAY).await;
    assert_eq!((found.may_send(), found.verification.unwrap().lost_since), (true, None));
}

#[tokio::test]
async fn what_was_seen_of_a_domain_that_was_changed_meanwhile_does_not_count() {
    let desk = Desk::new().await;
    desk.own(true).await;
    let gate = desk.zone.stick("own.test");
    let look = tokio::spawn({
        let (domains, domain, now) = (desk.domains.clone(), desk.stored().await, desk.at(HOUR));
        async move { domains.check(domain, Look::Asked, now).await }
    });
    desk.zone.until_asked(|seen| !seen.is_empty()).await;
    let at_once = Rotation { at_once: true, ..rotation("s2") };
    desk.domains.rotate(&desk.stored().await, at_once, desk.at(HOUR)).await.unwrap();
    gate.add_permits(1000);
    let found = look.await.unwrap().unwrap();
    assert_eq!(found.status(), DomainStatus::Pending, "the records of s2 are not published");
    assert!(desk.zone.seen.lock().unwrap().iter().any(|name| name.starts_with("s2.")), "it was looked at again");
    assert_eq!(desk.stored().await.status(), DomainStatus::Pending);
}

#[tokio::test]
async fn what_was_seen_of_a_domain_does_not_count_for_another_of_its_name() {
    let desk = Desk::new().await;
    desk.own(true).await;
    let gate = desk.zone.stick("own.test");
    let look = tokio::spawn({
        let (domains, domain, now) = (desk.domains.clone(), desk.stored().await, desk.at(HOUR));
        async move { domains.check(domain, Look::Asked, now).await }
    });
    desk.zone.until_asked(|seen| !seen.is_empty()).await;
    desk.world.store.remove_domain("acme", &name()).await.unwrap();
    desk.world.keyring.create("acme", &name(), true).await.unwrap();
    gate.add_permits(1000);
    assert!(matches!(look.await.unwrap(), Err(StoreError::NotFound(_))));
    assert_eq!(desk.stored().await.status(), DomainStatus::NotStarted);
}
