//! The control API over a real store, by itself and through the socket.
#![allow(clippy::unwrap_used)]

use http::Method;
use serde_json::{Value, json};

use super::status::Status;
use super::*;
use crate::api::socket;
use crate::api_key;
use crate::config::Config;
use crate::serve::{Host, Options};

pub(super) fn config(folder: &std::path::Path) -> Config {
    let loopback = "127.0.0.1:0".parse().unwrap();
    Config::development(folder.join("data"), loopback, loopback).unwrap()
}

pub(super) async fn ask(control: &Arc<Control>, method: Method, path: &str, body: Value) -> (u16, Value) {
    let body = if body.is_null() { Bytes::new() } else { body.to_string().into() };
    let answer = control.answer(socket::request(method, path, body).unwrap(), Entry::Folder).await;
    (answer.status().as_u16(), serde_json::from_slice(answer.body()).unwrap())
}

/// The same over the network.
pub(super) async fn ask_with(
    control: &Arc<Control>,
    key: Option<&str>,
    method: Method,
    path: &str,
    body: Value,
) -> (u16, Value) {
    let body = if body.is_null() { Bytes::new() } else { body.to_string().into() };
    let mut request = socket::request(method, path, body).unwrap();
    if let Some(key) = key {
        request.headers_mut().insert("authorization", format!("Bearer {key}").parse().unwrap());
    }
    let answer = control.answer(request, Entry::Network(None)).await;
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

#[tokio::test(flavor = "multi_thread")]
async fn over_the_network_a_key_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let control = crate::serve::open_control(&config(folder.path())).await.unwrap();
    let (_, made) = ask(&control, Method::POST, "operator-keys", json!({ "name": "ci" })).await;
    let operator = made["key"].as_str().unwrap().to_owned();
    assert!(operator.starts_with("pho_"), "{made}");
    let (_, made) = ask(&control, Method::POST, "keys", json!({ "tenant": "acme" })).await;
    let acme = made["key"].as_str().unwrap().to_owned();
    let own = made["id"].as_str().unwrap().to_owned();
    let (_, made) = ask(&control, Method::POST, "keys", json!({})).await;
    let other = made["id"].as_str().unwrap().to_owned();
    let get = async |key: Option<&str>, path: &str| ask_with(&control, key, Method::GET, path, Value::Null).await;

    for path in ["status", "keys", "nothing", "openapi.json"] {
        assert_eq!(get(None, path).await.0, 401, "{path}");
        assert_eq!(get(Some("pho_wrong"), path).await.0, 401, "{path}");
    }
    assert_eq!(get(Some(&operator), "status").await.0, 200);
    assert_eq!(get(Some(&operator), "keys").await.1["data"].as_array().unwrap().len(), 2);
    assert!(!get(Some(&operator), "operator-keys").await.1.to_string().contains(&operator), "it is shown once");

    assert_eq!(get(Some(&acme), "status").await.0, 403);
    assert_eq!(get(Some(&acme), "operator-keys").await.0, 403);
    assert_eq!(get(Some(&acme), "tenants").await.1["data"], json!(["acme"]));
    let (_, keys) = get(Some(&acme), "keys").await;
    assert_eq!((keys["data"].as_array().unwrap().len(), &keys["data"][0]["id"]), (1, &json!(own)));
    assert_eq!(get(Some(&acme), "keys?tenant=default").await.0, 404);
    let (status, made) = ask_with(&control, Some(&acme), Method::POST, "keys", json!({ "tenant": "default" })).await;
    assert_eq!(status, 404, "{made}");
    let (status, made) = ask_with(&control, Some(&acme), Method::POST, "keys", json!({})).await;
    assert_eq!((status, &made["tenant"]), (201, &json!("acme")), "{made}");
    let path = format!("keys/{other}");
    assert_eq!(ask_with(&control, Some(&acme), Method::DELETE, &path, Value::Null).await.0, 404);
    assert_eq!(ask_with(&control, Some(&operator), Method::DELETE, &path, Value::Null).await.0, 200);

    let (_, listed) = get(Some(&operator), "operator-keys").await;
    let path = format!("operator-keys/{}", listed["data"][0]["id"].as_str().unwrap());
    assert_eq!(ask(&control, Method::DELETE, &path, Value::Null).await.0, 200);
    assert_eq!(get(Some(&operator), "status").await.0, 401, "revoked");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_document_tells_every_route() {
    let folder = tempfile::tempdir().unwrap();
    let control = crate::serve::open_control(&config(folder.path())).await.unwrap();
    let (status, document) = ask(&control, Method::GET, "openapi.json", Value::Null).await;
    assert_eq!((status, &document["openapi"]), (200, &json!("3.1.0")));
    let mut ids = std::collections::BTreeSet::new();
    for route in ROUTES.iter() {
        let method = route.method.as_str().to_ascii_lowercase();
        let operation = &document["paths"][format!("{PREFIX}{}", route.template)][&method];
        assert_eq!(operation["summary"], json!(route.summary), "{method} {}", route.template);
        assert!(ids.insert(operation["operationId"].to_string()), "two operations are called {operation}");
        let places = route.template.split('/').filter(|part| part.starts_with('{')).count();
        let parameters = operation["parameters"].as_array().map_or(0, Vec::len);
        assert_eq!(parameters, places + route.parameters.len(), "{operation}");
    }
    let operations: usize =
        document["paths"].as_object().unwrap().values().map(|it| it.as_object().unwrap().len()).sum();
    assert_eq!(operations, ROUTES.len(), "no two routes are one");

    // Whatever is referred to is there.
    let text = document.to_string();
    for reference in text.split("#/components/schemas/").skip(1) {
        let name = reference.split('"').next().unwrap();
        assert!(document["components"]["schemas"].get(name).is_some(), "{name} is not described");
    }
    assert!(text.contains("CreatedKey") && text.contains("Problem"), "{text}");
}
