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
use crate::api::delivery::tests::{KEY, MESSAGE, OTHERS_KEY, World, meta};
use crate::api::events::Events;
use crate::api::seam::Seam;
use crate::api::webhooks::Webhooks;
use crate::edge::Backend as _;
use crate::event::notifier::Notifier;
use crate::event::teller::{SystemClock, Teller};
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
