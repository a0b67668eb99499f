#![allow(clippy::unwrap_used)]
//! Every route of the sending API, asked with another tenant's key, a wrong one and none.

use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use bytes::Bytes;
use contract::ShaperInput;
use delivery_client::wire::NotifyAnswer;
use http::header::AUTHORIZATION;
use http::{HeaderValue, Request};
use serde_json::{Value, json};

use super::*;
use crate::api::credential::Peer;
use crate::api::delivery::tests::{KEY, MESSAGE, OTHERS_KEY, World, meta};
use crate::api::events::Events;
use crate::api::seam::Seam;
use crate::api::webhooks::Webhooks;
use crate::edge::Backend as _;
use crate::event::notifier::Notifier;
use crate::event::teller::{SystemClock, Teller};
use crate::store::{ApiKey, AuditLog as _, Directory as _, Scope, Scopes, TenantTerms, Tenants as _};
use crate::web::address::Reachable;

#[test]
fn requests_are_looked_up() {
    let check = |method: Method, path: &str, expect: Found| assert_eq!(find(&method, path), expect, "{method} {path}");
    check(Method::GET, "/emails", Found::Route);
    check(Method::GET, "/emails/", Found::Route);
    check(Method::GET, "/emails/1/events", Found::Route);
    check(Method::PUT, "/emails/1", Found::OtherMethod);
    check(Method::GET, "/emails/1/cancel", Found::OtherMethod);
    check(Method::GET, "/emails//events", Found::Nothing);
    check(Method::GET, "/emails/1/events/2", Found::Nothing);
    check(Method::GET, "/emailsx", Found::Nothing);
    check(Method::GET, "/", Found::Nothing);
}

struct Endpoint;

#[async_trait]
impl Notifier for Endpoint {
    async fn notify(&self, _: ShaperInput) -> NotifyAnswer {
        NotifyAnswer::Answered { status: 200, retry_after: None, head: String::new() }
    }
}

struct Api {
    seam: Seam,
    world: World,
}

impl Api {
    async fn new() -> Api {
        let world = World::new(false).await;
        let teller = Arc::new(OnceLock::new());
        let made =
            Teller { notifier: Arc::new(Endpoint), keyring: world.keyring.clone(), clock: Arc::new(SystemClock) };
        assert!(teller.set(made).is_ok());
        let (store, keyring) = (world.store.clone(), world.keyring.clone());
        let webhooks = Webhooks::new(store.clone(), store.clone(), keyring, Reachable::Public, teller);
        let seam = world.seam().telling(webhooks, Events::new(store.clone(), store));
        Api { seam, world }
    }

    async fn ask(&self, key: Option<&str>, method: &Method, path: &str, body: &Value) -> (u16, String) {
        let mut request = Request::builder().method(method).uri(path).body(body.to_string().into()).unwrap();
        if let Some(key) = key {
            let value = HeaderValue::try_from(format!("Bearer {key}")).unwrap();
            request.headers_mut().insert(AUTHORIZATION, value);
        }
        let response = self.seam.answer(request).await.response;
        (response.status().as_u16(), text(response.body()))
    }

    async fn made(&self, path: &str, body: Value) -> String {
        let (status, answer) = self.ask(Some(KEY), &Method::POST, path, &body).await;
        assert_eq!(status, 201, "{path}: {answer}");
        serde_json::from_str::<Value>(&answer).unwrap()["id"].as_str().unwrap().to_owned()
    }
}

fn text(bytes: &Bytes) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// With another tenant's key nothing is told and nothing changes; nothing at all is without a key.
#[tokio::test]
async fn no_route_reaches_another_tenant() {
    let api = Api::new().await;
    let email = meta().id;
    let meta = delivery_client::wire::MessageMeta {
        id: email.clone(),
        scheduled_ms: Some(jiff::Timestamp::now().as_millisecond() + 3_600_000),
        ..meta()
    };
    api.world.send(&meta, MESSAGE).await;
    let webhook = json!({ "endpoint": "https://secret.example.com/hook", "events": ["email.sent", "email.scheduled"] });
    let webhook = api.made("/webhooks", webhook).await;
    let template = json!({ "name": "Secret", "alias": "secret", "subject": "S", "html": "secret" });
    let template = api.made("/templates", template).await;
    let domain = api.made("/domains", json!({ "name": "secret.test" })).await;
    let (_, events) = api.ask(Some(KEY), &Method::GET, "/events", &Value::Null).await;
    let events: Value = serde_json::from_str(&events).unwrap();
    let event = events["data"][0]["id"].as_str().unwrap();

    // What its owner sees of all of it.
    let everything = async || {
        let mut all = Vec::new();
        let paths = [
            "/emails".to_owned(),
            format!("/emails/{email}"),
            "/events".to_owned(),
            "/domains".to_owned(),
            format!("/domains/{domain}"),
            format!("/templates/{template}"),
            format!("/webhooks/{webhook}"),
            format!("/webhooks/{webhook}/attempts"),
        ];
        for path in paths {
            let (status, answer) = api.ask(Some(KEY), &Method::GET, &path, &Value::Null).await;
            assert_eq!(status, 200, "{path}: {answer}");
            all.push(answer);
        }
        all
    };
    let before = everything().await;
    let bodies = [
        Value::Null,
        json!({ "scheduled_at": "2026-12-24T12:00:00Z" }),
        json!({ "status": "disabled" }),
        json!({ "name": "Stolen", "html": "stolen" }),
        json!({ "event_id": event }),
        json!({ "type": "email.sent" }),
    ];
    for Route { method, path } in ROUTES {
        let filled = path
            .replace("{id}", &email)
            .replace("{event}", event)
            .replace("{domain}", &domain)
            .replace("{template}", &template)
            .replace("{webhook}", &webhook);
        assert!(!filled.contains('{'), "the test must know the places of {path}");
        for body in &bodies {
            let (status, answer) = api.ask(None, method, &filled, body).await;
            assert_eq!(status, 401, "{method} {path} without a key: {answer}");
            let (status, answer) = api.ask(Some("ph_wrong"), method, &filled, body).await;
            assert_eq!(status, 403, "{method} {path} with a wrong key: {answer}");
            let (status, answer) = api.ask(Some(OTHERS_KEY), method, &filled, body).await;
            if path.contains('{') {
                assert!([404, 422].contains(&status), "{method} {path}: {status} {answer}");
            } else {
                assert!([200, 201, 400, 422].contains(&status), "{method} {path}: {status} {answer}");
            }
            // What the caller wrote itself may come back; nothing else of it does.
            let ids = [&email, &webhook, &template, &domain].into_iter().filter(|id| !filled.contains(id.as_str()));
            let words = ["Secret", "secret.", "src.test"].into_iter();
            let tells = ids.map(String::as_str).chain(words).any(|word| answer.contains(word));
            assert!(!tells, "{method} {path}: {answer}");
        }
        // The other key is good: its own lists are empty, or hold what it made here.
        let (status, answer) = api.ask(Some(OTHERS_KEY), &Method::GET, "/emails", &Value::Null).await;
        assert_eq!((status, answer.contains(&email)), (200, false));
    }
    for name in [template.as_str(), "secret"] {
        let path = format!("/templates/{name}");
        assert_eq!(api.ask(Some(OTHERS_KEY), &Method::GET, &path, &Value::Null).await.0, 404, "{path}");
    }
    assert_eq!(everything().await, before, "nothing of the owner's changed");
}

#[tokio::test]
async fn what_is_not_in_the_table_is_not_reached() {
    let api = Api::new().await;
    for (method, path, expect) in [
        (Method::PUT, "/emails", 405),
        (Method::GET, "/webhooks/1/rotate", 405),
        (Method::GET, "/emails/1/source", 404),
        (Method::GET, "/keys", 404),
    ] {
        let (status, answer) = api.ask(Some(KEY), &method, path, &Value::Null).await;
        assert_eq!(status, expect, "{method} {path}: {answer}");
    }
}

/// Every change that a tenant's key makes is in the audit log, with its object; what a message comes to is told by events.
#[tokio::test]
async fn every_change_by_a_key_is_written_down() {
    let api = Api::new().await;
    // Nobody answers there.
    let mut resources = api.world.resources(Reachable::Public);
    let dns = crate::config::Dns { servers: vec!["127.0.0.1:9".parse().unwrap()] };
    resources.domains.domains = api.world.domains(Arc::new(dns));
    let Api { seam, world } = api;
    let api = Api { seam: seam.with(Arc::new(resources)), world };
    let post = || Method::POST;
    let hook = json!({ "endpoint": "https://hooks.example.com/in?token=hidden", "events": ["email.sent"] });
    let changes = [
        (post(), "/domains", json!({ "name": "own-name.test" }), "own-name.test"),
        (post(), "/domains/{domain}/verify", Value::Null, "/domains/"),
        (Method::PATCH, "/domains/{domain}", json!({}), "/domains/"),
        (Method::DELETE, "/domains/{domain}", Value::Null, "/domains/"),
        (post(), "/templates", json!({ "name": "Order", "alias": "order", "subject": "S", "html": "x" }), "Order"),
        (Method::PATCH, "/templates/{template}", json!({ "html": "y".repeat(60_000) }), "/templates/"),
        (post(), "/templates/{template}/publish", Value::Null, "/publish"),
        (post(), "/templates/{template}/duplicate", Value::Null, "/duplicate"),
        (Method::DELETE, "/templates/{template}", Value::Null, "/templates/"),
        (post(), "/webhooks", hook, "hooks.example.com/in\""),
        (Method::PATCH, "/webhooks/{webhook}", json!({ "events": ["email.sent", "email.delivered"] }), "/webhooks/"),
        (post(), "/webhooks/{webhook}/rotate", json!({}), "/rotate"),
        (post(), "/webhooks/{webhook}/signing-secret/rotate", json!({}), "/signing-secret/rotate"),
        (post(), "/webhooks/{webhook}/test", json!({ "type": "email.sent" }), "/test"),
        (post(), "/webhooks/{webhook}/replay", json!({ "event_id": "EVENT" }), "/replay"),
        (post(), "/webhooks/{webhook}/events/{event}/replay", Value::Null, "/replay"),
        (Method::DELETE, "/webhooks/{webhook}", Value::Null, "/webhooks/"),
    ];
    let known: Vec<_> = changes.iter().map(|(method, path, ..)| (method.clone(), *path)).collect();
    let are_changes = ROUTES.iter().filter(|it| it.method != Method::GET && !it.path.starts_with("/emails"));
    let routes: Vec<_> = are_changes.map(|it| (it.method.clone(), it.path)).collect();
    assert!(routes.iter().all(|route| known.contains(route)) && routes.len() == known.len(), "{routes:?} {known:?}");

    api.world.send(&meta(), MESSAGE).await;
    let (_, events) = api.ask(Some(KEY), &Method::GET, "/events", &Value::Null).await;
    let events: Value = serde_json::from_str(&events).unwrap();
    let event = events["data"][0]["id"].as_str().unwrap();
    let (mut made, mut count) = (String::new(), 0);
    for (method, path, body, names) in changes {
        let place = path.replace("{event}", event);
        let place = ["{domain}", "{template}", "{webhook}"].iter().fold(place, |path, name| path.replace(name, &made));
        let body: Value = serde_json::from_str(&body.to_string().replace("EVENT", event)).unwrap();
        let (status, answer) = api.ask(Some(KEY), &method, &place, &body).await;
        assert!((200..300).contains(&status), "{method} {place}: {status} {answer}");
        let answer: Value = serde_json::from_str(&answer).unwrap();
        if path.matches('/').count() == 1 {
            made = answer["id"].as_str().unwrap().to_owned();
        }
        let log = api.world.store.audited(Some("acme"), None, 99).await.unwrap();
        count += 1;
        assert_eq!(log.len(), count, "{method} {place}: {:?}", log.first());
        let entry: Value = serde_json::from_str(&log[0].entry).unwrap();
        assert_eq!(entry["what"], json!(format!("{method} {place}")));
        assert!(entry["who"].as_str().unwrap().starts_with("key_"), "{entry}");
        let text = entry.to_string();
        assert!(text.contains(&made) && text.contains(names), "{names}: {text}");
        let secret = answer["signing_secret"].as_str().unwrap_or("hidden");
        assert!(!text.contains(secret) && !text.contains("hidden"), "{text}");
    }
}

/// Each scope is refused where another one is needed, an end is an end, and addresses of elsewhere are refused everywhere.
#[tokio::test]
async fn a_key_does_what_its_scope_says_until_its_end_and_from_where_it_may() {
    let api = Api::new().await;
    let now = jiff::Timestamp::now();
    let hour = jiff::SignedDuration::from_hours(1);
    let add = async |key: &str, scopes: &[Scope], expires_at: Option<jiff::Timestamp>| {
        let stored = ApiKey {
            id: format!("key_{key}"),
            tenant: "acme".to_owned(),
            name: String::new(),
            prefix: "x".to_owned(),
            created_at: now,
            revoked_at: None,
            scopes: Scopes::of(scopes),
            stream: None,
            has_verifier: false,
            expires_at,
            used_at: None,
        };
        api.world.store.add_key(stored, crate::api_key::hash(key)).await.unwrap();
    };
    let keys =
        [("key-for-sending-1", Scope::Send), ("key-for-reading-1", Scope::Read), ("key-for-managing", Scope::Manage)];
    for (key, scope) in keys {
        add(key, &[scope], None).await;
    }
    let auth = async |key: &str| {
        let body = json!({ "scheme": "bearer", "key": key });
        api.ask(None, &Method::POST, "/delivery/v1/auth", &body).await
    };
    let filled = |path: &str| {
        let places = ["{id}", "{event}", "{domain}", "{template}", "{webhook}"];
        places.iter().fold(path.to_owned(), |path, place| path.replace(place, "3e4c1a4e-0000-4000-8000-000000000000"))
    };
    for Route { method, path } in ROUTES {
        let needed = match (method == Method::GET, path.starts_with("/emails")) {
            (true, _) => Scope::Read,
            (false, true) => Scope::Send,
            (false, false) => Scope::Manage,
        };
        for (key, scope) in keys {
            let (status, answer) = api.ask(Some(key), method, &filled(path), &Value::Null).await;
            let is_refused = status == 403 && answer.contains("restricted_api_key");
            assert_eq!(is_refused, scope != needed, "{method} {path} with {key}: {status} {answer}");
            assert!(!is_refused || answer.contains(&format!("`{}`", needed.name())), "{answer}");
        }
    }
    for (key, scope) in keys {
        let (status, answer) = auth(key).await;
        assert_eq!(status, if scope == Scope::Send { 200 } else { 403 }, "{key}: {answer}");
    }

    // A rotation leaves the old key until the overlap ends.
    add("key-with-a-future", &[], Some(now + hour)).await;
    add("key-that-has-ended", &[], Some(now - hour)).await;
    let list = async |key: &str| api.ask(Some(key), &Method::GET, "/emails", &Value::Null).await.0;
    assert_eq!((list("key-with-a-future").await, auth("key-with-a-future").await.0), (200, 200));
    assert_eq!((list("key-that-has-ended").await, auth("key-that-has-ended").await.0), (403, 401));
    api.world.store.expire_key("key_key-with-a-future", now - hour).await.unwrap();
    assert_eq!((list("key-with-a-future").await, auth("key-with-a-future").await.0), (403, 401));

    // A network of elsewhere: nothing is answered to the key, on any route.
    let networks = vec!["192.0.2.0/24".parse().unwrap()];
    api.world.store.set_terms("acme", TenantTerms { networks, ..TenantTerms::default() }).await.unwrap();
    let api = Api { seam: api.world.seam(), world: api.world };
    for (from, expect) in [("192.0.2.7", false), ("198.51.100.7", true)] {
        let paths = ROUTES.iter().map(|route| (route.method.clone(), filled(route.path)));
        for (method, path) in paths.chain([(Method::POST, "/delivery/v1/auth".to_owned())]) {
            let body = json!({ "scheme": "bearer", "key": KEY }).to_string();
            let mut request = Request::builder().method(&method).uri(&path).body(Bytes::from(body)).unwrap();
            request.headers_mut().insert(AUTHORIZATION, HeaderValue::try_from(format!("Bearer {KEY}")).unwrap());
            request.extensions_mut().insert(Peer(from.parse().unwrap()));
            let response = api.seam.answer(request).await.response;
            let is_refused = response.status() == 403 && text(response.body()).contains("invalid_access");
            assert_eq!(is_refused, expect, "{method} {path} from {from}: {}", text(response.body()));
        }
    }
}
