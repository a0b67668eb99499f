#![allow(clippy::unwrap_used)]

use std::cell::RefCell;

use http::Request;
use serde_json::Value as Json;

use super::*;
use crate::service::tests::{Bytes, Host, answer, check_error, error};

fn mail(subject: &str) -> Json {
    json!({ "from": "a@src.test", "to": "b@dst.test", "subject": subject, "text": "x" })
}

fn post(mode: &str, key: Option<&str>, body: &Json) -> Request<Bytes> {
    let mut request = Request::post("http://edge.test/emails/batch").header("authorization", "Bearer re_1");
    if !mode.is_empty() {
        request = request.header("x-batch-validation", mode);
    }
    if let Some(key) = key {
        request = request.header("idempotency-key", key);
    }
    request.body(Bytes(body.to_string().into_bytes())).unwrap()
}

/// A host that answers a hand-over so.
fn host(answers: &Json) -> Host {
    Host { messages: RefCell::new(vec![(200, answers.to_string())]), ..Default::default() }
}

fn accepted(id: &str) -> Json {
    json!({ "result": "accepted", "id": id, "replayed": false })
}

fn refused(status: u16, text: &str) -> Json {
    json!({ "result": "refused", "status": status, "name": "validation_error", "text": text })
}

#[test]
fn a_batch_is_one_request_of_many_messages() {
    let host = host(&json!([accepted("1"), accepted("2")]));
    let mut second = mail("two");
    second["scheduled_at"] = json!("in 1 min");
    second["topic_id"] = json!("t");
    let response = answer(&host, post("", Some("k"), &json!([mail("warn"), second])));
    assert_eq!(response.status(), 200);
    let body: Json = serde_json::from_slice(response.body()).unwrap();
    assert_eq!(body, json!({ "data": [{ "id": "1" }, { "id": "2" }] }));
    assert_eq!(response.headers()["x-posthaste-ignored"], "topic_id");
    assert_eq!(response.headers()["x-posthaste-warnings"], "[0]: careful");
    assert_eq!(host.calls().len(), 2);
    let frames = host.frames();
    let items: Vec<u32> = frames.iter().map(|(meta, _)| meta.idempotency.as_ref().unwrap().item).collect();
    assert_eq!(items, [0, 1]);
    assert_eq!(frames[0].0.idempotency.as_ref().unwrap().digest, frames[1].0.idempotency.as_ref().unwrap().digest);
    assert_ne!(frames[0].0.id, frames[1].0.id);
    assert!(frames.iter().all(|(meta, message)| meta.with_all && message.contains(&meta.id)));
    assert_eq!((frames[0].0.scheduled_ms.is_none(), frames[1].0.scheduled_ms.is_some()), (true, true));
}

#[test]
fn strict_sends_all_or_none() {
    let untouched = Host::default();
    let mut wrong = mail("x");
    wrong["to"] = json!(["b@dst.test", "nobody"]);
    let request = post("strict", None, &json!([mail("1"), wrong]));
    check_error(answer(&untouched, request), 422, "validation_error", "`[1].to[1]`");
    let request = post("", None, &json!([mail("1"), mail("refuse")]));
    check_error(answer(&untouched, request), 403, "validation_error", "`[1]`: not today");
    let request = post("", None, &json!([mail("break"), mail("2")]));
    check_error(answer(&untouched, request), 503, "application_error", "");
    assert!(untouched.calls().iter().all(|path| !path.ends_with("messages")), "{:?}", untouched.calls());

    let by_host = host(&json!([refused(424, "another"), refused(403, "not yours"), refused(424, "another")]));
    let three = json!([mail("1"), mail("2"), mail("3")]);
    check_error(answer(&by_host, post("", None, &three)), 403, "validation_error", "`[1]`: not yours");
}

#[test]
fn permissive_tells_of_each() {
    let host = host(&json!([accepted("1"), refused(403, "not yours")]));
    let mut wrong = mail("x");
    wrong["colour"] = json!("red");
    let request = post("permissive", Some("k"), &json!([wrong, mail("1"), 7, mail("refuse"), mail("2")]));
    let response = answer(&host, request);
    assert_eq!(response.status(), 200);
    let body: Json = serde_json::from_slice(response.body()).unwrap();
    assert_eq!(body["data"], json!([{ "id": "1" }]));
    let told: Vec<(u64, &str)> = body["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|error| (error["index"].as_u64().unwrap(), error["message"].as_str().unwrap()))
        .collect();
    let words = ["`[0].colour`", "`[2]`: it must be an object", "`[3]`: not today", "`[4]`: not yours"];
    for ((index, message), (expect, words)) in told.iter().zip([0, 2, 3, 4].iter().zip(words)) {
        assert_eq!(index, expect);
        assert!(message.contains(words), "{message}");
    }
    let frames = host.frames();
    let items: Vec<u32> = frames.iter().map(|(meta, _)| meta.idempotency.as_ref().unwrap().item).collect();
    assert_eq!(items, [1, 4], "the place in the request, whatever became of the others");
    assert!(frames.iter().all(|(meta, _)| !meta.with_all));
    let none = answer(&Host::default(), post("permissive", None, &json!([7])));
    let body: Json = serde_json::from_slice(none.body()).unwrap();
    assert_eq!((none.status().as_u16(), body["data"].as_array().map(Vec::len)), (200, Some(0)));
}

#[test]
fn what_concerns_the_whole_batch_is_its_answer() {
    let two = json!([mail("1"), mail("2")]);
    for mode in ["strict", "permissive"] {
        let clash = host(&json!([refused(409, "the key"), refused(409, "the key")]));
        check_error(answer(&clash, post(mode, Some("k"), &two)), 409, "validation_error", "the key");
        let full = host(&json!([refused(503, "full"), refused(503, "full")]));
        check_error(answer(&full, post(mode, None, &two)), 503, "validation_error", "full");
        let gone = Host { messages: RefCell::new(vec![error(503, "application_error")]), ..Default::default() };
        check_error(answer(&gone, post(mode, None, &two)), 503, "application_error", "again later");
        let short = host(&json!([accepted("1")]));
        check_error(answer(&short, post(mode, None, &two)), 502, "application_error", "may have been done");
    }
    let ask = |mode: &str, body: &Json| answer(&Host::default(), post(mode, None, body));
    check_error(ask("", &json!([])), 422, "missing_required_field", "`[0]`");
    check_error(ask("", &json!(vec![1; 101])), 422, "validation_error", "101 messages");
    check_error(ask("", &mail("1")), 400, "validation_error", "must be a JSON list");
    check_error(ask("lenient", &two), 422, "validation_error", "`x-batch-validation`");
}

/// Files, or a template, may make many messages large that are small in the request.
#[test]
fn a_batch_has_a_size_of_its_own() {
    let mut large = mail("x");
    large["attachments"] = json!([{ "path": "https://x.test/a", "filename": "a" }]);
    let host = || Host { resources: vec![("/delivery/v1/fetch", 200, "x".repeat(60_000))], ..Default::default() };
    let three = host();
    check_error(
        answer(&three, post("permissive", None, &json!([large, large, large]))),
        413,
        "validation_error",
        "more than 200000 bytes together",
    );
    assert!(!three.calls().contains(&"/delivery/v1/messages".to_owned()));
    let eleven = vec![large; 11];
    let refused = answer(&host(), post("strict", None, &json!(eleven)));
    assert_eq!(refused.status(), 413, "whichever comes first");
    let mut small = mail("x");
    small["attachments"] = json!([{ "path": "https://x.test/a", "filename": "a" }]);
    let host = Host { resources: vec![("/delivery/v1/fetch", 200, "x".to_owned())], ..Default::default() };
    let refused = answer(&host, post("strict", None, &json!(vec![small; 11])));
    check_error(refused, 422, "validation_error", "more than 10 files");
}

#[test]
fn a_batch_is_made_anew_where_components_changed() {
    let host = Host {
        messages: RefCell::new(vec![
            error(409, "stale_revision"),
            (200, json!([accepted("1"), accepted("2")]).to_string()),
        ]),
        ..Default::default()
    };
    assert_eq!(answer(&host, post("", None, &json!([mail("1"), mail("2")]))).status(), 200);
    assert_eq!(host.calls().len(), 4);
}

#[test]
fn each_refused_message_is_told_when_it_may_come_again() {
    let two = json!([mail("1"), mail("2")]);
    let mut spent = refused(429, "the quota is used up");
    spent["retry_after_s"] = json!(60);
    let some = answer(&host(&json!([accepted("1"), spent])), post("permissive", None, &two));
    let body: Json = serde_json::from_slice(some.body()).unwrap();
    assert_eq!((&body["errors"][0]["index"], &body["errors"][0]["retry_after"]), (&json!(1), &json!(60)), "{body}");
    let none = answer(&host(&json!([spent, spent])), post("strict", None, &two));
    assert_eq!((none.status().as_u16(), none.headers()["retry-after"].to_str().unwrap()), (429, "60"));
}
