//! Components by the control API, of a running host and of a store alone.
#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use serde_json::{Value, json};

use super::super::Entry;
use super::super::tests::{ask, config};
use super::*;
use crate::api::socket;
use crate::edge::tests::bytes;

async fn put(control: &Arc<Control>, path: &str, file: &'static [u8]) -> (u16, Value) {
    let mut request = socket::request(Method::PUT, path, Bytes::from_static(file)).unwrap();
    request.headers_mut().insert(header::CONTENT_TYPE, "application/wasm".parse().unwrap());
    let answer = control.answer(request, Entry::Folder).await;
    (answer.status().as_u16(), serde_json::from_slice(answer.body()).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_component_is_pushed_listed_and_taken_back() {
    let folder = tempfile::tempdir().unwrap();
    let control = crate::serve::open_control(&config(folder.path())).await.unwrap();
    for tenant in ["acme", "other"] {
        // A tenant is there once something of it is.
        assert_eq!(ask(&control, Method::POST, "keys", json!({ "tenant": tenant })).await.0, 201);
    }
    let path = "tenants/acme/components/validator";
    let (status, made) = put(&control, &format!("{path}?source=my%20own.wasm"), bytes("guest_stage")).await;
    assert_eq!((status, &made["version"], &made["state"]), (201, &json!(1), &json!("active")), "{made}");
    assert_eq!(made["source"], json!("my own.wasm"));
    let (status, made) = put(&control, &format!("{path}?canary=5"), bytes("misbehave")).await;
    assert_eq!((status, &made["state"], &made["percent"]), (201, &json!("canary"), &json!(5)));
    let (_, listed) = ask(&control, Method::GET, "tenants/acme/components", Value::Null).await;
    assert_eq!(listed["versions"].as_array().unwrap().len(), 2, "{listed}");
    let (_, others) = ask(&control, Method::GET, "tenants/other/components", Value::Null).await;
    assert_eq!(others["versions"], json!([]));

    let (status, after) = ask(&control, Method::POST, &format!("{path}/rollback"), Value::Null).await;
    assert_eq!((status, &after["versions"][1]["state"]), (200, &json!("rolled_back")), "{after}");
    let (_, after) = ask(&control, Method::POST, &format!("{path}/activate"), json!({ "version": 2 })).await;
    assert_eq!(after["versions"][0]["state"], json!("retired"));
    let (_, after) = ask(&control, Method::POST, &format!("{path}/shadow"), json!({ "version": 1 })).await;
    assert_eq!(after["versions"][0]["state"], json!("shadow"));
    assert_eq!(ask(&control, Method::DELETE, &format!("{path}/shadow"), Value::Null).await.0, 200);
    assert_eq!(ask(&control, Method::DELETE, path, Value::Null).await.0, 200);
    assert_eq!(ask(&control, Method::DELETE, path, Value::Null).await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let control = crate::serve::open_control(&config(folder.path())).await.unwrap();
    for tenant in ["acme", "other"] {
        // A tenant is there once something of it is.
        assert_eq!(ask(&control, Method::POST, "keys", json!({ "tenant": tenant })).await.0, 201);
    }
    let path = "tenants/acme/components/validator";
    let check = |(status, answer): (u16, Value), expect: (u16, &str)| {
        let message = answer["message"].as_str().unwrap_or_default();
        assert!(status == expect.0 && message.contains(expect.1), "{status} {message}, not {expect:?}");
    };
    check(put(&control, &format!("{path}?source=x.wasm"), b"text").await, (422, "x.wasm: is not a WASM component"));
    check(
        put(&control, path, bytes("guest_signer")).await,
        (422, "does not export `posthaste:validator/validator@0.1.0`"),
    );
    check(put(&control, &format!("{path}?canary=100"), bytes("guest_stage")).await, (422, "from 1 to 99"));
    check(put(&control, &format!("{path}?canary=5&shadow=true"), b"").await, (422, "leave out one of the two"));
    check(put(&control, &format!("{path}?colour=red"), b"").await, (422, "unknown parameter `colour`"));
    check(put(&control, "tenants/acme/components/sorter", b"").await, (422, "`sorter` is no stage"));
    check(
        put(&control, "tenants/Acme/components/signer", b"").await,
        (404, "there is no tenant `Acme`: `posthaste tenant list`"),
    );
    // Where no host runs too: the case, what was expected and what it did; and the limits are the tenant's own.
    let expected =
        "ordinary text: expected an answer as the stage's interface promises it, but `conformance-rsa` is not the name";
    check(put(&control, "tenants/acme/components/signer", bytes("guest_signer")).await, (422, expected));
    let limits = "tenants/acme/component-limits";
    assert_eq!(ask(&control, Method::PUT, limits, json!({ "memory_bytes": 1_179_648 })).await.0, 200);
    let within = "within the limits of tenant `acme` (time_ms 5000, memory_bytes 1179648, output_bytes 67108864";
    check(put(&control, path, bytes("misbehave")).await, (422, within));
    check(put(&control, path, bytes("misbehave")).await, (422, "it asked for more than 1179648 bytes of memory"));
    let too_much = json!({ "memory_bytes": 64_u64 << 30 });
    check(ask(&control, Method::PUT, limits, too_much).await, (422, "memory_bytes: 68719476736 is out of range"));
    let fetch = json!({ "url": "https://x.test/a.wasm", "sha256": "00" });
    check(ask(&control, Method::PUT, path, fetch).await, (422, "no host runs that could fetch it"));
    let wrong = json!({ "http_hosts": ["https://x.test/"] });
    check(ask(&control, Method::PUT, &format!("{path}/settings"), wrong).await, (422, "http_hosts: "));
    check(ask(&control, Method::PUT, "tenants/acme/component-limits", json!({ "calls": 0 })).await, (422, "calls: 0"));
    check(ask(&control, Method::POST, &format!("{path}/rollback"), Value::Null).await, (404, "an active version"));
    check(ask(&control, Method::POST, &format!("{path}/dance"), Value::Null).await, (404, ""));
    let settings = json!({ "on_failure": "fallback", "http_hosts": ["keys.test:8443"] });
    assert_eq!(ask(&control, Method::PUT, &format!("{path}/settings"), settings.clone()).await.0, 200);
    let (_, found) = ask(&control, Method::GET, &format!("{path}/settings"), Value::Null).await;
    assert_eq!(found, settings);
}
