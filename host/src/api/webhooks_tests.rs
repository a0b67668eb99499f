#![allow(clippy::unwrap_used)]

use contract::ShaperInput;
use delivery_client::wire::NotifyAnswer;
use http::header::AUTHORIZATION;

use super::*;
use crate::api::delivery::tests::{KEY, OTHERS_KEY, World};
use crate::event::notifier::Notifier;
use crate::event::teller::SystemClock;

struct Endpoint;

#[async_trait::async_trait]
impl Notifier for Endpoint {
    async fn notify(&self, input: ShaperInput) -> NotifyAnswer {
        let head = format!("{} {} {}", input.event.name, input.endpoint.url, input.endpoint.secrets.len());
        NotifyAnswer::Answered { status: 202, retry_after: None, head }
    }
}

struct Caller {
    _world: World,
    webhooks: Webhooks,
}

impl Caller {
    async fn new() -> Caller {
        let world = World::new(false).await;
        let keyring = Arc::new(Keyring::new(
            world.store.clone(),
            crate::keyring::MasterKey::from_octets(&[7; 32]).unwrap(),
            false,
        ));
        let teller = Arc::new(OnceLock::new());
        let notifier = Arc::new(Endpoint);
        let made = Teller { notifier, keyring: keyring.clone(), clock: Arc::new(SystemClock) };
        assert!(teller.set(made).is_ok());
        let webhooks = Webhooks::new(world.store.clone(), world.store.clone(), keyring, Reachable::Public, teller);
        Caller { _world: world, webhooks }
    }

    async fn call(&self, key: &str, method: &str, path: &str, body: &str) -> (u16, Value) {
        let request = Request::builder().method(method).uri(path).header(AUTHORIZATION, format!("Bearer {key}"));
        let response = self.webhooks.answer(request.body(Bytes::from(body.to_owned())).unwrap()).await;
        (response.status().as_u16(), serde_json::from_slice(response.body()).unwrap())
    }

    async fn created(&self) -> (String, String) {
        let body = r#"{"endpoint": "https://example.com/hook", "events": ["email.bounced", "email.sent"]}"#;
        let (status, made) = self.call(KEY, "POST", "/webhooks", body).await;
        assert_eq!((status, made["object"].as_str()), (201, Some("webhook")), "{made}");
        (made["id"].as_str().unwrap().to_owned(), made["signing_secret"].as_str().unwrap().to_owned())
    }
}

#[tokio::test]
async fn a_webhooks_life() {
    let caller = Caller::new().await;
    let (id, secret) = caller.created().await;
    assert!(secret.starts_with("whsec_") && secret.len() == 50, "{secret}");
    let path = format!("/webhooks/{id}");
    let (status, mut shown) = caller.call(KEY, "GET", &path, "").await;
    assert!(shown["created_at"].take().as_str().unwrap().ends_with("+00:00"));
    let expect = json!({
        "object": "webhook", "id": id, "created_at": null, "status": "enabled", "status_reason": null,
        "endpoint": "https://example.com/hook", "events": ["email.sent", "email.bounced"],
    });
    assert_eq!((status, &shown), (200, &expect), "no secret is shown again");
    let change = r#"{"status": "disabled", "events": ["email.failed"], "endpoint": "http://example.net/"}"#;
    assert_eq!(caller.call(KEY, "PATCH", &path, change).await, (200, json!({"object": "webhook", "id": id})));
    let (_, list) = caller.call(KEY, "GET", "/webhooks", "").await;
    assert_eq!((&list["object"], &list["has_more"]), (&json!("list"), &json!(false)));
    let one = &list["data"][0];
    assert_eq!(
        (&one["status"], &one["events"], &one["endpoint"]),
        (&json!("disabled"), &json!(["email.failed"]), &json!("http://example.net/"))
    );
    let (_, rotated) = caller.call(KEY, "POST", &format!("{path}/rotate"), "").await;
    assert_ne!(rotated["signing_secret"], json!(secret));
    assert!(rotated["old_secret_signs_until"].is_string());
    // A test is sent at once, whatever the status, signed with both secrets, and logged.
    let (status, attempt) = caller.call(KEY, "POST", &format!("{path}/test"), "").await;
    assert_eq!((status, &attempt["http_status_code"]), (200, &json!(202)), "{attempt}");
    assert_eq!(attempt["response"], "email.failed http://example.net/ 2");
    let (_, log) = caller.call(KEY, "GET", &format!("{path}/attempts"), "").await;
    assert_eq!(log["data"], json!([attempt]));
    let (_, gone) = caller.call(KEY, "DELETE", &path, "").await;
    assert_eq!(gone, json!({"object": "webhook", "id": id, "deleted": true}));
    assert_eq!(caller.call(KEY, "GET", &path, "").await.0, 404);
}

#[tokio::test]
async fn what_is_wrong_is_named() {
    let caller = Caller::new().await;
    let (id, _) = caller.created().await;
    let check = async |method: &str, path: &str, body: &str, expect: &str| {
        let (status, error) = caller.call(KEY, method, path, body).await;
        let text = error["message"].as_str().unwrap_or_default();
        assert!(status == 422 && text.contains(expect), "{body}: {status} {error}");
    };
    let create = async |body: &str, expect: &str| check("POST", "/webhooks", body, expect).await;
    create("[]", "must be a JSON object").await;
    create("{", "is not JSON").await;
    create("{}", "`endpoint` is missing").await;
    create(r#"{"endpoint": 3}"#, "`endpoint` must be text").await;
    create(r#"{"endpoint": "https://a.example"}"#, "`events` is missing").await;
    let endpoint = async |url: &str, expect: &str| {
        create(&json!({"endpoint": url, "events": ["email.sent"]}).to_string(), expect).await;
    };
    endpoint("ftp://example.com", "`endpoint` must begin with https://").await;
    endpoint("/path", "`endpoint` must begin with https://").await;
    endpoint("https://", "`endpoint` is not a URL").await;
    endpoint("https://user:secret@example.com/", "holds credentials").await;
    endpoint("https://example.com/#x", "holds a fragment").await;
    endpoint("http://127.0.0.1/", "private network").await;
    endpoint("http://localhost:3000/", "private network").await;
    endpoint("http://[::ffff:10.0.0.1]/", "private network").await;
    endpoint("http://169.254.169.254/latest", "private network").await;
    endpoint(&format!("https://example.com/{}", "a".repeat(3000)), "at most 2048").await;
    let events = async |events: Value, expect: &str| {
        create(&json!({"endpoint": "https://example.com", "events": events}).to_string(), expect).await;
    };
    events(json!([]), "`events` is empty").await;
    events(json!("email.sent"), "`events` must be a list").await;
    events(json!(["email.sent", 1]), "`events[1]` must be text").await;
    events(json!(["email.opened"]), "`events[0]`: there is no event `email.opened`").await;
    create(r#"{"endpoint": "https://a.example", "events": ["email.sent"], "name": 1}"#, "`name` is no field").await;
    let path = format!("/webhooks/{id}");
    check("PATCH", &path, r#"{"status": "paused"}"#, "`status` must be").await;
    check("POST", &format!("{path}/test"), r#"{"type": "x"}"#, "`type`").await;
    let replay = format!("{path}/replay");
    check("POST", &replay, "{}", "Say what to replay").await;
    check("POST", &replay, r#"{"event_id": "evt_x", "from": "2026-01-01T00:00:00Z"}"#, "stands alone").await;
    check("POST", &replay, r#"{"from": "soon"}"#, "`from` must be a time").await;
    check("GET", &format!("{path}/attempts?limit=0"), "", "`limit`").await;
    check("GET", &format!("{path}/attempts?after=x"), "", "`after`").await;
    check("GET", &format!("{path}/attempts?before=x"), "", "`before=x` is no parameter").await;
    assert_eq!(caller.call(KEY, "POST", &replay, r#"{"event_id": "evt_x"}"#).await.0, 404);
    assert_eq!(caller.call(KEY, "PUT", &path, "").await.0, 405);
    for _ in 1..OF_ONE_TENANT {
        caller.created().await;
    }
    create(r#"{"endpoint": "https://a.example", "events": ["email.sent"]}"#, "50 webhooks").await;
}

#[tokio::test]
async fn webhooks_are_their_tenants() {
    let caller = Caller::new().await;
    let (id, _) = caller.created().await;
    for (method, path) in [
        ("GET", format!("/webhooks/{id}")),
        ("PATCH", format!("/webhooks/{id}")),
        ("DELETE", format!("/webhooks/{id}")),
        ("POST", format!("/webhooks/{id}/rotate")),
        ("POST", format!("/webhooks/{id}/test")),
        ("POST", format!("/webhooks/{id}/replay")),
        ("GET", format!("/webhooks/{id}/attempts")),
    ] {
        assert_eq!(caller.call(OTHERS_KEY, method, &path, "").await.0, 404, "{method} {path}");
    }
    assert_eq!(caller.call(OTHERS_KEY, "GET", "/webhooks", "").await.1["data"], json!([]));
    assert_eq!(caller.call("wrong", "GET", "/webhooks", "").await.0, 403);
}
