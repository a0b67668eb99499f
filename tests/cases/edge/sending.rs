//! Mail through the composed `submit`, to a host that is scripted.

use std::sync::Arc;

use bytes::Bytes;
use delivery_client::wire::{
    AUTH_PATH, AuthAnswer, DELIVERY_TOKEN_HEADER, FrameLimits, MESSAGES_PATH, MessageAnswer, REQUEST_ID_HEADER,
    SEAM_HEADER, decode_frames,
};
use http::Request;
use serde_json::{Value, json};
use tests::edge::{Loopback, Platform, Runner, Served};
use tests::edge_key::EdgeKey;
use tests::spin::Manifest;

use crate::judge::{Fate, Keys, judged};
use crate::scripted::{Asked, Reply, Scripted};

const REQUEST_ID: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

const LIMITS: FrameLimits = FrameLimits { frames: 10, meta_bytes: 1 << 20, message_bytes: 1 << 20 };

/// A host that knows one edge and one key, and takes every message.
fn host() -> Scripted {
    Scripted::start(answer)
}

fn answer(asked: &Asked) -> Reply {
    match asked.line.as_str() {
        line if line == format!("POST {AUTH_PATH}") => {
            if asked.header(DELIVERY_TOKEN_HEADER) != Some("edge-token") {
                return json(403, &json!({"statusCode": 403, "name": "invalid_delivery_token", "message": "who?"}));
            }
            json(
                200,
                &serde_json::to_value(AuthAnswer {
                    tenant: "default".to_owned(),
                    token: "short-lived".to_owned(),
                    message_bytes: 1 << 20,
                    recipients: 50,
                    domains: vec!["src.test".to_owned()],
                    any_domain: false,
                    streams: Vec::new(),
                    run_stages: true,
                    component_revision: 7,
                })
                .unwrap(),
            )
        }
        line if line == format!("POST {MESSAGES_PATH}") => {
            let frames = decode_frames(&asked.body, LIMITS).unwrap();
            let answers: Vec<MessageAnswer> = frames
                .iter()
                .map(|frame| MessageAnswer::Accepted { id: frame.meta.id.clone(), replayed: false })
                .collect();
            json(200, &serde_json::to_value(answers).unwrap())
        }
        _ => json(404, &json!({"statusCode": 404, "name": "not_found", "message": "passed through"})),
    }
}

fn json(status: u16, value: &Value) -> Reply {
    (status, "content-type: application/json\r\n".to_owned(), value.to_string().into_bytes())
}

/// A request with an application's key.
pub fn request(key: &str, from: &str) -> Request<Bytes> {
    let body = json!({"from": from, "to": ["friend@dst.test"], "subject": "Hello", "html": "<p>Grüße</p>"});
    Request::post("http://edge.test/emails")
        .header("authorization", format!("Bearer {key}"))
        .header("content-type", "application/json")
        .header(REQUEST_ID_HEADER, REQUEST_ID)
        .body(body.to_string().into())
        .unwrap()
}

/// `submit` as Spin has it.
fn submit() -> Runner {
    let composed = Manifest::read().unwrap().compose("submit").unwrap();
    Runner::new(&composed, Platform::Spin, Arc::new(Loopback)).unwrap()
}

async fn serve(runner: &Runner, request: Request<Bytes>) -> (u16, Value, Served) {
    let served = runner.serve(request).await.unwrap();
    let value = serde_json::from_slice(served.response.body()).unwrap();
    (served.response.status().as_u16(), value, served)
}

/// The one message that the host got.
fn message(asked: &[Asked]) -> Vec<u8> {
    let [_, sent] = asked else { panic!("{asked:?}") };
    let frames = decode_frames(&sent.body, LIMITS).unwrap();
    assert_eq!(frames.len(), 1);
    frames[0].message.to_vec()
}

/// How many fields of that name a message has.
fn header_count(message: &[u8], name: &str) -> usize {
    let (fields, _) = mail::header::split(message).unwrap();
    fields.iter().filter(|field| field.is(name)).count()
}

#[tokio::test]
async fn mail_is_signed_at_the_edge() {
    let host = host();
    let keys = [EdgeKey::rsa("src.test", "edge-r").unwrap(), EdgeKey::ed25519("src.test", "edge-e").unwrap()];
    let runner = submit().variables(&[
        ("delivery_url", &format!("http://{}", host.address)),
        ("delivery_token", "edge-token"),
        ("dkim_keys", &EdgeKey::variable(&keys)),
    ]);
    let (status, body, served) = serve(&runner, request("re_key", "You <you@news.src.test>")).await;
    assert_eq!((status, served.log.as_str()), (200, ""), "{body}");
    assert_eq!(served.response.headers()[REQUEST_ID_HEADER], REQUEST_ID);

    let asked = host.asked();
    for request in &asked {
        assert_eq!(request.header(SEAM_HEADER), Some("1"));
        assert_eq!(request.header(REQUEST_ID_HEADER), Some(REQUEST_ID));
        assert_eq!(request.header(DELIVERY_TOKEN_HEADER), Some("edge-token"));
    }
    let message = message(&asked);
    let mut published = Keys::default();
    keys.iter().for_each(|key| published.publish(&key.name, &key.record));
    assert_eq!(judged(&message, &published).await, [Fate::Pass, Fate::Pass]);
    let text = String::from_utf8_lossy(&message);
    for selector in ["s=edge-r;", "s=edge-e;"] {
        assert_eq!(text.matches(selector).count(), 1, "{text}");
    }
    let meta = decode_frames(&asked[1].body, LIMITS).unwrap().remove(0).meta;
    assert_eq!(body["id"], meta.id);
    assert_eq!((meta.recipients, meta.component_revision), (vec!["friend@dst.test".to_owned()], 7));
}

#[tokio::test]
async fn mail_without_a_key_stays_unsigned() {
    let host = host();
    let url = format!("http://{}", host.address);
    let other = EdgeKey::variable(&[EdgeKey::ed25519("other.test", "e").unwrap()]);
    let mut runner = Some(submit());
    for keys in ["", "[]", &other] {
        let asked = host.asked().len();
        let variables = [("delivery_url", url.as_str()), ("delivery_token", "edge-token"), ("dkim_keys", keys)];
        let edge = runner.take().unwrap().variables(&variables);
        let (status, body, _) = serve(&edge, request("re_key", "you@src.test")).await;
        assert_eq!(status, 200, "{body}");
        assert_eq!(header_count(&message(&host.asked()[asked..]), "DKIM-Signature"), 0);
        runner = Some(edge);
    }
}

/// What is wrong at the edge is a 503, is told to the log, and no key is.
#[tokio::test]
async fn an_edge_that_is_set_up_wrongly_sends_nothing() {
    let host = host();
    let url = format!("http://{}", host.address);
    let closed = format!("http://127.0.0.1:{}", tests::product::free_port().unwrap());
    let good = EdgeKey::variable(&[EdgeKey::ed25519("src.test", "e").unwrap()]);
    let bad = good.replace("ed25519-sha256", "rsa-sha256");
    let mut runner = Some(submit());
    for (variables, expect) in [
        (
            [("delivery_url", url.as_str()), ("delivery_token", "edge-token"), ("dkim_keys", "{SECRET")],
            "`dkim_keys` is not JSON",
        ),
        (
            [("delivery_url", &url), ("delivery_token", "edge-token"), ("dkim_keys", &bad)],
            "`dkim_keys[0].private_key` is not an RSA key",
        ),
        (
            [("delivery_url", &url), ("delivery_token", "SECRET"), ("dkim_keys", &good)],
            "does not accept this edge's delivery token",
        ),
        (
            [("delivery_url", "http://127.0.0.1:1/path"), ("delivery_token", "edge-token"), ("dkim_keys", "")],
            "bare origin",
        ),
        ([("delivery_url", &closed), ("delivery_token", "edge-token"), ("dkim_keys", "")], "Connection refused"),
    ] {
        let edge = runner.take().unwrap().variables(&variables);
        let (status, body, served) = serve(&edge, request("re_key", "you@src.test")).await;
        assert_eq!(status, 503, "{body}");
        assert!(served.response.headers().contains_key("retry-after"), "{expect}");
        assert!(served.log.contains(expect), "{expect}: {}", served.log);
        assert!(served.log.contains(REQUEST_ID), "{}", served.log);
        // The second is how every Ed25519 key begins.
        for secret in ["SECRET", "MC4CAQAwBQYDK2VwBCIEI"] {
            assert!(!served.log.contains(secret) && !body.to_string().contains(secret), "{} {body}", served.log);
        }
        runner = Some(edge);
    }
    assert!(host.asked().iter().all(|asked| asked.line.ends_with(AUTH_PATH)), "nothing was half sent");
}

/// A message whose answer got lost may be stored: nobody is told that it is not.
#[tokio::test]
async fn a_lost_answer_is_no_promise() {
    let host = Scripted::start(|asked| match asked.line.ends_with(MESSAGES_PATH) {
        true => (0, String::new(), vec![]),
        false => answer(asked),
    });
    let url = format!("http://{}", host.address);
    let edge = submit().variables(&[("delivery_url", &url), ("delivery_token", "edge-token")]);
    let (status, body, served) = serve(&edge, request("re_key", "you@src.test")).await;
    assert_eq!((status, &body["name"]), (502, &json!("application_error")));
    assert!(body["message"].as_str().unwrap().contains("may have been done"), "{body}");
    assert_eq!(served.response.headers().get("retry-after"), None);
    assert!(served.log.contains("the host's answer got lost"), "{}", served.log);
    assert_eq!(host.asked().len(), 2, "nothing is sent twice");
}

/// Every other path goes to the host with the caller's own credential, and never with the edge's.
#[tokio::test]
async fn other_paths_are_passed_through() {
    let host = host();
    let url = format!("http://{}", host.address);
    let edge = submit().variables(&[("delivery_url", &url), ("delivery_token", "edge-token")]);
    let get = |path: &str| {
        let request = Request::get(format!("http://edge.test{path}")).header("authorization", "Bearer re_key");
        request.body(Bytes::new()).unwrap()
    };
    let (status, body, _) = serve(&edge, get("/emails/1/events?limit=2")).await;
    assert_eq!((status, &body["message"]), (404, &json!("passed through")));
    let asked = host.asked();
    assert_eq!(asked[0].line, "GET /emails/1/events?limit=2");
    assert_eq!(asked[0].header("authorization"), Some("Bearer re_key"));
    assert_eq!(asked[0].header(DELIVERY_TOKEN_HEADER), None);
    for hidden in ["/delivery/v1/auth", "/control/v1/keys", "/metrics", "/inbox", "/notify"] {
        assert_eq!(serve(&edge, get(hidden)).await.0, 404, "{hidden}");
    }
    assert_eq!(host.asked().len(), 1);
}

/// Without Spin's interfaces: the same program, its settings from the environment.
#[tokio::test]
async fn mail_goes_through_a_plain_wasi_host() {
    let host = host();
    let file = Manifest::read().unwrap().source("submit").unwrap().with_file_name("submit-wasi.wasm");
    let runner = Runner::new(&std::fs::read(file).unwrap(), Platform::Wasi, Arc::new(Loopback)).unwrap();
    let key = EdgeKey::ed25519("src.test", "edge-e").unwrap();
    let edge = runner.environment(&[
        ("SPIN_VARIABLE_DELIVERY_URL", &format!("http://{}", host.address)),
        ("SPIN_VARIABLE_DELIVERY_TOKEN", "edge-token"),
        ("SPIN_VARIABLE_DKIM_KEYS", &json!([key.item]).to_string()),
    ]);
    let (status, body, served) = serve(&edge, request("re_key", "you@src.test")).await;
    assert_eq!((status, served.log.as_str()), (200, ""), "{body}");
    let mut published = Keys::default();
    published.publish(&key.name, &key.record);
    assert_eq!(judged(&message(&host.asked()), &published).await, [Fate::Pass]);
}
