//! Events through the composed `notify`, to an application that is scripted.

use std::sync::Arc;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use contract::{Attempt, Endpoint, Event, ShaperInput};
use delivery_client::wire::{
    DELIVERY_TOKEN_HEADER, INVALID_DELIVERY_TOKEN, NOTIFY_PATH, NotifyAnswer, SEAM_HEADER, SEAM_VERSION,
};
use http::Request;
use serde_json::{Value, json};
use tests::edge::{Loopback, Platform, Runner, Served};
use tests::product::{Product, Setup};
use tests::spin::Manifest;

use crate::scripted::{Asked, Scripted};

const SECRETS: [[u8; 32]; 2] = [[1; 32], [2; 32]];

fn notify() -> Runner {
    let composed = Manifest::read().unwrap().compose("notify").unwrap();
    let runner = Runner::new(&composed, Platform::Spin, Arc::new(Loopback)).unwrap();
    runner.variables(&[("delivery_token", "edge-token")])
}

fn input(url: &str) -> ShaperInput {
    ShaperInput {
        event: Event {
            id: "evt_1".to_owned(),
            name: "email.bounced".to_owned(),
            occurred_at_ms: 1_732_318_872_126,
            tenant: "default".to_owned(),
            message_id: "56761188-7520-42d8-8898-ff6fc54ce618".to_owned(),
            message_created_at_ms: 1_732_318_871_000,
            sender: "you@src.test".to_owned(),
            to: vec!["friend@dst.test".to_owned()],
            subject: "Hello".to_owned(),
            recipient: "friend@dst.test".to_owned(),
            attempt: Some(Attempt { number: 1, code: Some(550), text: "no".to_owned(), ..Attempt::default() }),
            ..Event::default()
        },
        endpoint: Endpoint {
            id: "ep_1".to_owned(),
            url: url.to_owned(),
            secrets: SECRETS.map(|secret| format!("whsec_{}", STANDARD.encode(secret))).to_vec(),
        },
        timestamp_s: 1_732_318_900,
        attributes: vec![],
    }
}

fn request(token: &str, input: &ShaperInput) -> Request<Bytes> {
    Request::post(format!("http://edge.test{NOTIFY_PATH}"))
        .header(DELIVERY_TOKEN_HEADER, token)
        .header(SEAM_HEADER, SEAM_VERSION)
        .body(serde_json::to_vec(input).unwrap().into())
        .unwrap()
}

async fn deliver(edge: &Runner, url: &str) -> NotifyAnswer {
    let Served { response, log } = edge.serve(request("edge-token", &input(url))).await.unwrap();
    assert_eq!((response.status().as_u16(), log.as_str()), (200, ""), "{response:?}");
    serde_json::from_slice(response.body()).unwrap()
}

/// What the receiver's library does: any of the signatures must be right.
fn check_signed(asked: &Asked) {
    for prefix in ["webhook", "svix"] {
        let header = |name: &str| asked.header(&format!("{prefix}-{name}")).unwrap();
        assert_eq!((header("id"), header("timestamp")), ("evt_1", "1732318900"));
        let signatures: Vec<&str> = header("signature").split(' ').collect();
        assert_eq!(signatures.len(), SECRETS.len());
        let signed = [b"evt_1.1732318900.", asked.body.as_slice()].concat();
        for (signature, secret) in signatures.into_iter().zip(SECRETS) {
            let tag = STANDARD.decode(signature.strip_prefix("v1,").unwrap()).unwrap();
            hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, &secret), &signed, &tag).unwrap();
        }
    }
}

#[tokio::test]
async fn events_go_out_shaped_and_signed() {
    let app = Scripted::start(|asked| match asked.line.as_str() {
        "POST /ok?a=b" => (200, String::new(), b"thanks".to_vec()),
        "POST /later" => (503, "retry-after: 120\r\n".to_owned(), vec![b'x'; 100_000]),
        "POST /moved" => (302, "location: /ok\r\n".to_owned(), vec![]),
        other => panic!("{other}"),
    });
    let edge = notify();
    let url = |path: &str| format!("http://{}{path}", app.address);
    let answered = |status, retry_after: Option<&str>, head: &str| NotifyAnswer::Answered {
        status,
        retry_after: retry_after.map(str::to_owned),
        head: head.to_owned(),
    };
    assert_eq!(deliver(&edge, &url("/ok?a=b")).await, answered(200, None, "thanks"));
    assert_eq!(deliver(&edge, &url("/later")).await, answered(503, Some("120"), &"x".repeat(1024)));
    assert_eq!(deliver(&edge, &url("/moved")).await, answered(302, None, ""));

    let asked = app.asked();
    assert_eq!(asked.len(), 3, "a redirect is not followed");
    for request in &asked {
        check_signed(request);
        assert_eq!(request.header("content-type"), Some("application/json"));
        assert_eq!(request.header(DELIVERY_TOKEN_HEADER), None);
        assert_eq!(request.body, asked[0].body);
    }
    let body: Value = serde_json::from_slice(&asked[0].body).unwrap();
    assert_eq!((&body["type"], &body["data"]["bounce"]["type"]), (&json!("email.bounced"), &json!("Permanent")));
}

#[tokio::test]
async fn endpoints_that_do_not_answer() {
    let edge = notify();
    let closed = format!("http://127.0.0.1:{}/", tests::product::free_port().unwrap());
    assert!(matches!(deliver(&edge, &closed).await, NotifyAnswer::Unreachable { .. }));
    assert!(matches!(deliver(&edge, "ftp://app.test/").await, NotifyAnswer::Refused { .. }));
}

#[tokio::test]
async fn strangers_send_nothing() {
    let app = Scripted::start(|_| (200, String::new(), vec![]));
    let url = format!("http://{}/", app.address);
    let edge = notify();
    let served = edge.serve(request("guess", &input(&url))).await.unwrap();
    assert_eq!(served.response.status(), 403);
    let error: Value = serde_json::from_slice(served.response.body()).unwrap();
    assert_eq!(error["name"], INVALID_DELIVERY_TOKEN);
    // An edge without a token takes nothing, whatever is given.
    let bare = edge.variables(&[]);
    for token in ["", "edge-token"] {
        let served = bare.serve(request(token, &input(&url))).await.unwrap();
        assert_eq!(served.response.status(), 503);
        assert!(served.log.contains("`delivery_token` is missing or empty"), "{}", served.log);
    }
    assert!(app.asked().is_empty());
}

/// A host that sends its events through an edge: `[edge] notify_url`.
#[test]
fn a_host_tells_through_the_edge() {
    let app = Scripted::start(|_| (200, String::new(), b"thanks".to_vec()));
    let (edge, runtime) = (notify(), tokio::runtime::Runtime::new().unwrap());
    let edge = Scripted::start(move |asked| {
        assert_eq!(asked.line, format!("POST {NOTIFY_PATH}"));
        let request = Request::post(format!("http://edge.test{NOTIFY_PATH}"))
            .header(DELIVERY_TOKEN_HEADER, asked.header(DELIVERY_TOKEN_HEADER).unwrap_or_default())
            .header(SEAM_HEADER, asked.header(SEAM_HEADER).unwrap_or_default())
            .body(asked.body.clone().into())
            .unwrap();
        let Served { response, .. } = runtime.block_on(edge.serve(request)).unwrap();
        (response.status().as_u16(), String::new(), response.into_body().to_vec())
    });
    let setup = Setup::new().unwrap().with(&format!(
        "[edge]\nnotify_url = \"http://{}\"\nnotify_token_file = \"token\"\n[webhooks]\nallow_private = true\n",
        edge.address
    ));
    let token = setup.folder().join("token");
    std::fs::write(&token, "edge-token\n").unwrap();
    let key = setup.create_key().unwrap();
    let call = |host: &Product, path: &str, body: &str| -> Value {
        let bearer = format!("Bearer {key}");
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        let answer = tests::http::request(host.http, "POST", path, &headers, body.as_bytes()).unwrap();
        answer.json().unwrap()
    };
    let host = setup.start().unwrap();
    let url = format!("http://{}/hook", app.address);
    let made = call(&host, "/webhooks", &json!({"endpoint": url, "events": ["email.sent"]}).to_string());
    let test = format!("/webhooks/{}/test", made["id"].as_str().unwrap());
    let attempt = call(&host, &test, r#"{"type": "webhook.paused"}"#);
    assert_eq!((&attempt["http_status_code"], &attempt["response"]), (&json!(200), &json!("thanks")), "{attempt}");
    let told = app.asked().remove(0);
    let body: Value = serde_json::from_slice(&told.body).unwrap();
    assert_eq!((&body["type"], &body["data"]), (&json!("webhook.paused"), &json!({"test": true})));
    assert_eq!(told.header("webhook-id"), attempt["event_id"].as_str());
    drop(host);

    // A token that is not the edge's: the customer learns that it is on our side, the operator what it is.
    std::fs::write(&token, "another\n").unwrap();
    let host = setup.start().unwrap();
    let attempt = call(&host, &test, "");
    assert_eq!(
        (&attempt["http_status_code"], &attempt["error"]),
        (&Value::Null, &json!("the event could not be sent from here"))
    );
    assert!(host.log().contains("403") && host.log().contains("`delivery_token`"), "{}", host.log());
    assert_eq!(app.asked().len(), 1);
}
