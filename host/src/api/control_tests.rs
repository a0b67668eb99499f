//! The control API over a real store, by itself and through the socket.
#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};

use super::*;
use crate::api::socket;
use crate::config::Config;
use crate::serve::{Host, Options};

pub(super) fn config(folder: &std::path::Path) -> Config {
    let loopback = "127.0.0.1:0".parse().unwrap();
    Config::development(folder.join("data"), loopback, loopback).unwrap()
}

pub(super) async fn ask(control: &Control, method: Method, path: &str, body: Value) -> (u16, Value) {
    let body = if body.is_null() { Bytes::new() } else { body.to_string().into() };
    let answer = control.answer(socket::request(method, path, body).unwrap()).await;
    (answer.status().as_u16(), serde_json::from_slice(answer.body()).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_made_listed_and_revoked() {
    let folder = tempfile::tempdir().unwrap();
    let control = crate::serve::open_control(&config(folder.path())).await.unwrap();
    let (status, made) = ask(&control, Method::POST, "keys", json!({ "tenant": "acme", "name": "web" })).await;
    assert_eq!(status, 201);
    let key = made["key"].as_str().unwrap();
    assert!(key.starts_with("ph_") && key.len() > 40, "{key}");
    let found = control.directory.key_by_hash(api_key::hash(key)).await.unwrap().unwrap();
    assert_eq!((found.tenant.as_str(), found.name.as_str()), ("acme", "web"));

    let (_, listed) = ask(&control, Method::GET, "keys?tenant=acme", Value::Null).await;
    assert_eq!(listed["data"].as_array().unwrap().len(), 1);
    assert!(!listed.to_string().contains(key), "the key is shown once");
    assert_eq!(ask(&control, Method::GET, "keys?tenant=other", Value::Null).await.1["data"], json!([]));
    assert_eq!(ask(&control, Method::GET, "tenants", Value::Null).await.1["data"], json!(["acme", "default"]));

    let path = format!("keys/{}", found.id);
    assert_eq!(ask(&control, Method::DELETE, &path, Value::Null).await.0, 200);
    assert!(
        control.directory.key_by_hash(api_key::hash(key)).await.unwrap().is_none_or(|key| key.revoked_at.is_some())
    );
    assert_eq!(ask(&control, Method::DELETE, &path, Value::Null).await.0, 404, "revoked already");
}

#[tokio::test(flavor = "multi_thread")]
async fn domains_are_made_with_their_records() {
    let folder = tempfile::tempdir().unwrap();
    let control = crate::serve::open_control(&config(folder.path())).await.unwrap();
    let (status, made) = ask(&control, Method::POST, "domains", json!({ "domain": "Example.com" })).await;
    assert_eq!((status, &made["domain"]), (201, &json!("example.com")));
    let records = made["records"].as_array().unwrap();
    let needed: Vec<&Value> = records.iter().filter(|record| record["required"] == json!(true)).collect();
    assert_eq!(needed.len(), 2, "RSA and Ed25519");
    assert!(needed.iter().all(|record| record["name"].as_str().unwrap().ends_with("._domainkey.example.com")));

    assert_eq!(ask(&control, Method::POST, "domains", json!({ "domain": "example.com" })).await.0, 409);
    let (_, again) = ask(&control, Method::GET, "domains/example.com", Value::Null).await;
    assert_eq!(again["records"], made["records"]);
    assert_eq!(ask(&control, Method::GET, "domains/other.example", Value::Null).await.0, 404);
    assert_eq!(ask(&control, Method::DELETE, "domains/example.com", Value::Null).await.0, 200);
    assert_eq!(ask(&control, Method::GET, "domains", Value::Null).await.1["data"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_calls_are_told_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let control = crate::serve::open_control(&config(folder.path())).await.unwrap();
    for (method, path, body, status, part) in [
        (Method::POST, "keys", json!({ "tenant": "Acme Inc" }), 422, "no name for a tenant"),
        (Method::POST, "keys", json!({ "tenat": "acme" }), 422, "tenat"),
        (Method::POST, "keys", json!({ "name": "a\nb" }), 422, "control characters"),
        (Method::POST, "keys", json!([1]), 422, "not what this route takes"),
        (Method::POST, "domains", json!({ "domain": "not a domain" }), 422, "write a name"),
        (Method::POST, "domains", json!({ "domain": "[192.0.2.1]" }), 422, "write a name"),
        (Method::POST, "domains", json!({ "domain": "com" }), 422, "write a name"),
        (Method::POST, "domains", json!({}), 422, "domain"),
        (Method::GET, "keys?tenant=../etc", Value::Null, 422, "no name for a tenant"),
        (Method::GET, "keys?colour=blue", Value::Null, 422, "colour"),
        (Method::GET, "nothing", Value::Null, 404, "there are status"),
        (Method::PUT, "keys", Value::Null, 405, "PUT"),
        (Method::DELETE, "keys/key_1", Value::Null, 404, "key_1"),
    ] {
        let (got, answer) = ask(&control, method.clone(), path, body).await;
        assert_eq!(got, status, "{method} {path}: {answer}");
        assert!(answer["message"].as_str().unwrap().contains(part), "{method} {path}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_host_answers_on_its_socket_and_only_once_per_folder() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    // Longer than a socket address holds.
    let deep = folder.path().join("d".repeat(120));
    std::fs::create_dir(&deep).unwrap();
    let config = config(&deep);
    let host = Host::start(config.clone(), Options::default()).await.unwrap();
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&config.data), 0o700);
    assert_eq!(mode(&config.data.join(socket::SOCKET_FILE)), 0o600);

    let stream = socket::connect(&config.data).await.unwrap().unwrap();
    let request = socket::request(Method::GET, "status", Bytes::new()).unwrap();
    let answer = socket::call(stream, request).await.unwrap();
    let status: Status = serde_json::from_slice(answer.body()).unwrap();
    assert_eq!((status.hostname.as_str(), status.queued, status.uptime_s.is_some()), ("localhost", 0, true));

    let second = Host::start(config.clone(), Options::default()).await.err().unwrap();
    assert!(second.to_string().contains("locked by another host"), "{second}");
    host.shutdown().await;
    assert!(socket::connect(&config.data).await.unwrap().is_none());
    Host::start(config, Options::default()).await.unwrap().shutdown().await;
}
