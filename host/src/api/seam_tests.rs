//! The whole road of an HTTP submission in one process: the shipped components in the engine, over a real store.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use http::Response;
use http::header::AUTHORIZATION;
use mail::Domain;
use serde_json::{Value, json};
use uuid::Uuid;

use super::*;
use crate::api::delivery::tests::{KEY, World};
use crate::edge::Edge;
use crate::edge::tests::{Setup, shipped};
use crate::store::Store as _;

async fn ask(edge: &Edge, method: &str, path: &str, key: &str, body: &Value) -> (u16, Value) {
    let request = Request::builder()
        .method(method)
        .uri(format!("http://localhost{path}"))
        .header(AUTHORIZATION, format!("Bearer {key}"))
        .header("content-type", "application/json");
    let body = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
    let response: Response<Bytes> = edge.serve(request.body(body).unwrap()).await;
    (response.status().as_u16(), serde_json::from_slice(response.body()).unwrap_or_default())
}

#[tokio::test]
async fn a_submission_is_rendered_signed_stored_and_read_back() {
    let world = World::new(false).await;
    world.keyring.create_domain("acme", &Domain::parse("signed.test").unwrap()).await.unwrap();
    let setup = Setup::new();
    let edge = setup.edge_of(shipped(), Arc::new(world.seam()), world.keyring.clone()).unwrap();
    let email = json!({
        "from": "Acme <a@signed.test>", "to": "b@dst.test", "bcc": ["h@dst.test"],
        "template": {"subject": "Hello {{name}}", "html": "<p>Dear {{name}}</p>", "variables": {"name": "Bo"}},
        "tags": [{"name": "category", "value": "welcome"}],
    });
    let (status, answer) = ask(&edge, "POST", "/emails", KEY, &email).await;
    assert_eq!(status, 200, "{answer}");
    let id = answer["id"].as_str().unwrap();
    let view = world.store.message("acme", Uuid::parse_str(id).unwrap()).await.unwrap();
    let message = String::from_utf8(world.store.body(&view.body).await.unwrap().to_vec()).unwrap();
    assert_eq!(message.matches("DKIM-Signature:").count(), 2, "{message}");
    assert!(message.contains("d=signed.test") && !message.contains("h@dst.test"), "{message}");
    let (status, shown) = ask(&edge, "GET", &format!("/emails/{id}"), KEY, &Value::Null).await;
    assert_eq!((status, &shown["subject"], &shown["last_event"]), (200, &json!("Hello Bo"), &json!("sent")), "{shown}");
    assert_eq!(shown["bcc"], json!(["h@dst.test"]));
    assert!(shown["html"].as_str().unwrap().contains("Dear Bo"), "{shown}");
    let (status, events) = ask(&edge, "GET", &format!("/emails/{id}/events"), KEY, &Value::Null).await;
    assert_eq!((status, events["data"].as_array().map(Vec::len)), (200, Some(2)), "{events}");
}

#[tokio::test]
async fn what_is_wrong_is_answered_and_changes_nothing() {
    let world = World::new(false).await;
    let setup = Setup::new();
    let edge = setup.edge_of(shipped(), Arc::new(world.seam()), world.keyring.clone()).unwrap();
    let email = json!({"from": "a@src.test", "to": "b@dst.test", "subject": "Hi", "text": "x"});
    let with = |field: &str, value: Value| {
        let mut email = email.clone();
        email[field] = value;
        email
    };
    let check = async |key: &str, body: Value, status: u16| {
        let (found, answer) = ask(&edge, "POST", "/emails", key, &body).await;
        assert_eq!((found, answer["statusCode"].as_u64()), (status, Some(status.into())), "{answer}");
    };
    check("wrong", email.clone(), 403).await;
    check(KEY, with("to", json!([])), 422).await;
    check(KEY, with("from", json!("a@foreign.test")), 403).await;
    check(KEY, with("unknown", json!(1)), 422).await;
    check(KEY, with("text", json!("x".repeat(1 << 21))), 413).await;
    for path in ["/delivery/v1/auth", "/control/v1/keys", "/inbox", "/nothing"] {
        assert_eq!(ask(&edge, "GET", path, KEY, &Value::Null).await.0, 404, "{path}");
    }
    assert_eq!(world.store.queued().await.unwrap(), 0);
}
