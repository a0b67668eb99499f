//! That every change by the control API is in the audit log: its whole document is walked.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeSet, HashMap};
use std::future::Future as _;
use std::task::{Context, Waker};

use serde_json::json;

use super::super::{PREFIX, ROUTES};
use super::*;
use crate::api::socket;
use crate::config;
use crate::edge::tests::bytes;
use crate::serve::{Host, Options};
use crate::store::AuditLog as _;

/// A running host, and who asks it through its folder.
struct World {
    config: config::Config,
    host: Host,
    folder: tempfile::TempDir,
}

impl World {
    async fn new() -> World {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("posthaste.toml");
        // Nobody answers there.
        let text = "hostname = \"relay.test\"\ndata = \"data\"\n[http]\nlisten = \"127.0.0.1:0\"\n[smtp]\n\
                    listen = [\"127.0.0.1:0\"]\n[dns]\nservers = [\"127.0.0.1:9\"]\n";
        std::fs::write(&file, text).unwrap();
        let config = config::load(&file).unwrap();
        let options = Options { file: Some(file), ..Options::default() };
        let host = Host::start(config.clone(), options).await.unwrap();
        World { config, host, folder }
    }

    async fn ask(&self, method: Method, path: &str, body: Bytes) -> (u16, Value) {
        let mut request = socket::request(method, path, body.clone()).unwrap();
        if body.starts_with(b"\0asm") {
            let kind = "application/wasm".parse().unwrap();
            request.headers_mut().insert(http::header::CONTENT_TYPE, kind);
        }
        let stream = socket::connect(&self.config.data).await.unwrap().unwrap();
        let answer = socket::call(stream, request).await.unwrap();
        (answer.status().as_u16(), serde_json::from_slice(answer.body()).unwrap())
    }

    /// Entries behind one, oldest first.
    async fn log(&self, behind: i64) -> Vec<AuditEntry> {
        let (_, page) = self.ask(Method::GET, "audit?limit=10", Bytes::new()).await;
        let page: AuditPage = serde_json::from_value(page).unwrap();
        page.data.into_iter().filter(|entry| entry.seq > behind).rev().collect()
    }
}

/// Every changing route, in an order in which each has something to change: its path, what is asked, and what of its entry
/// names the object. `ID` stands for the id of what was made before.
fn changes(folder: &std::path::Path) -> Vec<(&'static str, String, Value, &'static str)> {
    const COMPONENT: &str = "tenants/acme/components/validator";
    let pem = include_str!("../../../../tests/vectors/keys/ed25519.pem");
    let domain = |below: &str| format!("domains/acme.test{below}?tenant=acme");
    let component = |below: &str| format!("{COMPONENT}{below}");
    let file = json!("file");
    vec![
        ("POST tenants", "tenants".into(), json!({ "name": "acme" }), "acme"),
        ("PATCH tenants/{tenant}", "tenants/acme".into(), json!({ "recipients": 5 }), "tenants/acme"),
        ("POST tenants/{tenant}/pause", "tenants/acme/pause".into(), json!({ "reason": "unpaid" }), "unpaid"),
        ("POST tenants/{tenant}/resume", "tenants/acme/resume".into(), Value::Null, "tenants/acme"),
        ("POST keys", "keys".into(), json!({ "tenant": "acme", "name": "web" }), "\"web\""),
        ("POST keys/{id}/rotate", "keys/ID/rotate".into(), json!({}), "\"web\""),
        ("DELETE keys/{id}", "keys/ID".into(), Value::Null, "\"web\""),
        ("POST operator-keys", "operator-keys".into(), json!({ "name": "ci" }), "\"ci\""),
        ("DELETE operator-keys/{id}", "operator-keys/ID".into(), Value::Null, "operator-keys/opk_"),
        ("POST delivery-tokens", "delivery-tokens".into(), json!({ "tenant": "acme", "name": "east" }), "\"east\""),
        ("DELETE delivery-tokens/{id}", "delivery-tokens/ID".into(), Value::Null, "delivery-tokens/dlv_"),
        (
            "POST domains",
            "domains".into(),
            json!({ "domain": "acme.test", "tenant": "acme", "selector": "s1" }),
            "\"acme.test\"",
        ),
        ("POST domains/{domain}/check", domain("/check"), Value::Null, "acme.test"),
        ("POST domains/{domain}/rotate", domain("/rotate"), json!({ "selector": "s2" }), "\"s2\""),
        ("DELETE domains/{domain}/keys/{selector}", domain("/keys/s2"), Value::Null, "keys/s2"),
        (
            "POST domains/{domain}/keys",
            domain("/keys"),
            json!({ "selector": "old", "private_key": pem, "now": true }),
            "\"old\"",
        ),
        ("POST domains/{domain}/edge-keys", domain("/edge-keys"), json!({ "selector": "e1" }), "\"e1"),
        ("DELETE domains/{domain}/edge-keys/{selector}", domain("/edge-keys/e1-rsa"), Value::Null, "edge-keys/e1-rsa"),
        ("DELETE domains/{domain}", domain(""), Value::Null, "domains/acme.test"),
        ("PUT tenants/{tenant}/components/{stage}", component("?source=own.wasm"), file.clone(), "own.wasm"),
        ("PUT tenants/{tenant}/components/{stage}", component("?source=two.wasm"), file, "two.wasm"),
        (
            "PUT tenants/{tenant}/components/{stage}/settings",
            component("/settings"),
            json!({ "http_hosts": ["keys.test:8443"] }),
            "keys.test:8443",
        ),
        (
            "PUT tenants/{tenant}/component-limits",
            "tenants/acme/component-limits".into(),
            json!({ "calls": 2 }),
            "\"calls\"",
        ),
        (
            "POST tenants/{tenant}/components/{stage}/canary",
            component("/canary"),
            json!({ "percent": 5, "version": 1 }),
            "validator",
        ),
        ("DELETE tenants/{tenant}/components/{stage}/canary", component("/canary"), Value::Null, "validator"),
        ("POST tenants/{tenant}/components/{stage}/shadow", component("/shadow"), json!({ "version": 1 }), "validator"),
        ("DELETE tenants/{tenant}/components/{stage}/shadow", component("/shadow"), Value::Null, "validator"),
        (
            "POST tenants/{tenant}/components/{stage}/activate",
            component("/activate"),
            json!({ "version": 1 }),
            "validator",
        ),
        ("POST tenants/{tenant}/components/{stage}/rollback", component("/rollback"), Value::Null, "validator"),
        ("DELETE tenants/{tenant}/components/{stage}", component(""), Value::Null, "validator"),
        ("POST queue/{change}", "queue/purge?tenant=acme&domain=dst.test".into(), Value::Null, "domain=dst.test"),
        ("POST backup", "backup".into(), json!({ "folder": folder.join("copy") }), "copy"),
        ("POST master-key/rotate", "master-key/rotate".into(), Value::Null, "resealed"),
        ("POST reload", "reload".into(), Value::Null, "needs_restart"),
        ("DELETE tenants/{tenant}", "tenants/acme?force=true".into(), Value::Null, "acme"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_by_a_route_is_written_down() {
    let world = World::new().await;
    let changes = changes(world.folder.path());
    let known: BTreeSet<&str> = changes.iter().map(|(route, ..)| *route).collect();
    let (_, document) = world.ask(Method::GET, "openapi.json", Bytes::new()).await;
    let of_path = |(path, item): (&String, &Value)| -> Vec<String> {
        let path = path.strip_prefix(PREFIX).unwrap().to_owned();
        let methods = item.as_object().unwrap().keys().filter(|method| *method != "get");
        methods.map(|method| format!("{} {path}", method.to_uppercase())).collect()
    };
    let told: Vec<String> = document["paths"].as_object().unwrap().iter().flat_map(of_path).collect();
    assert_eq!(
        known,
        told.iter().map(String::as_str).collect(),
        "a route that the test does not know, or one that is gone"
    );
    assert_eq!(told.len(), ROUTES.iter().filter(|route| route.method != Method::GET).count());

    let (mut seen, mut made) = (0, HashMap::new());
    for (route, path, asked, names) in changes {
        let (method, template) = route.split_once(' ').unwrap();
        let family = template.split('/').next().unwrap();
        let path = path.replace("ID", made.get(family).map_or("", String::as_str));
        let body = match &asked {
            Value::Null => Bytes::new(),
            Value::String(_) => Bytes::from_static(bytes("guest_stage")),
            asked => asked.to_string().into(),
        };
        let (status, answer) = world.ask(method.parse().unwrap(), &path, body).await;
        assert!(status < 300, "{method} {path}: {status} {answer}");
        if let Some(id) = answer["id"].as_str() {
            made.insert(family, id.to_owned());
        }
        let log = world.log(seen).await;
        let what = format!("{method} {PREFIX}{path}");
        let entries: Vec<&AuditEntry> = log.iter().filter(|entry| entry.what == what).collect();
        assert_eq!(entries.len(), 1, "{what}: {log:?}");
        let entry = entries[0];
        assert_eq!((entry.who.as_str(), entry.from.as_str()), ("operator", "data folder"), "{entry:?}");
        let text = serde_json::to_string(entry).unwrap();
        assert!(text.contains(names), "{what} does not name {names}: {text}");
        let secrets = [answer["key"].as_str(), answer["token"].as_str(), Some("PRIVATE KEY")];
        assert!(secrets.into_iter().flatten().all(|secret| !text.contains(secret)), "{text}");
        if path.contains("tenants/acme") || path.contains("tenant=acme") || asked["tenant"] == json!("acme") {
            assert_eq!(entry.tenant.as_deref(), Some("acme"), "{what}");
        }
        seen = log.last().map_or(seen, |entry| entry.seq);
    }
    world.host.shutdown().await;
}

/// Who hangs up in the middle neither stops a change nor keeps it out of the log.
#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_goes_away_does_not_hide_a_change() {
    let folder = tempfile::tempdir().unwrap();
    let control = crate::serve::open_control(&super::super::tests::config(folder.path())).await.unwrap();
    let request = || socket::request(Method::POST, "tenants", Bytes::from_static(br#"{"name":"acme"}"#)).unwrap();
    {
        let call = control.answer(request(), Entry::Folder);
        tokio::pin!(call);
        // Begun, and dropped where it waits for the store.
        let mut context = Context::from_waker(Waker::noop());
        assert!(call.as_mut().poll(&mut context).is_pending());
    }
    let written = async {
        while control.tenants.audited(None, None, 9).await.unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), written).await.unwrap();
    assert!(control.tenants.tenant("acme").await.unwrap().is_some());
}

#[tokio::test]
async fn entries_are_bounded_and_hold_no_credentials() {
    let folder = tempfile::tempdir().unwrap();
    let store = crate::store::Embedded::open(folder.path(), crate::store::Options::default()).unwrap();
    let asked = json!({
        "name": "Order", "endpoint": "https://user:secret@hooks.test/in?token=secret", "html": "x".repeat(40_000),
        "items": vec![json!({ "signing_secret": "secret" }); 50],
    });
    let uri: Uri = format!("/templates?{}", "y".repeat(9000)).parse().unwrap();
    let entry = AuditEntry::asked("key_1".into(), Entry::Network(None), &Method::POST, &uri, &asked.to_string().into());
    write(&*store, Some("acme".to_owned()), entry).await;
    let log = store.audited(Some("acme"), None, 9).await.unwrap();
    let text = &log[0].entry;
    assert!(text.len() < ENTRY_BYTES && !text.contains("secret@") && !text.contains("token="), "{text}");
    let entry: AuditEntry = serde_json::from_str(text).unwrap();
    let asked = entry.asked.unwrap();
    assert_eq!((&asked["name"], &asked["endpoint"]), (&json!("Order"), &json!("https://hooks.test/in")));
    assert_eq!(asked["items"][0]["signing_secret"], json!("(secret)"));
    assert!(entry.what.starts_with("POST /templates?yyy") && entry.what.len() < 3000);
}
