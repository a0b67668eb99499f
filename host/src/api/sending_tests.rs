#![allow(clippy::unwrap_used)]

use delivery_client::wire;
use http::header::AUTHORIZATION;
use mail::{Event, EventKind};
use serde_json::{Value, json};

use super::*;
use crate::api::delivery::tests::{KEY, MESSAGE, OTHERS_KEY, World, meta};

struct Reader {
    world: World,
    sending: Sending,
}

impl Reader {
    async fn new() -> Reader {
        let world = World::new(false).await;
        let sending = Sending::new(world.store.clone(), world.store.clone());
        Reader { world, sending }
    }

    async fn get(&self, key: &str, path: &str) -> (u16, Value) {
        self.ask(key, Method::GET, path, "").await
    }

    async fn ask(&self, key: &str, method: Method, path: &str, body: &'static str) -> (u16, Value) {
        let request = Request::builder().method(method).uri(path).header(AUTHORIZATION, format!("Bearer {key}"));
        let response = self.sending.answer(request.body(Bytes::from_static(body.as_bytes())).unwrap()).await;
        (response.status().as_u16(), serde_json::from_slice(response.body()).unwrap())
    }

    /// Stores a message and answers its id.
    async fn sent(&self, subject: &str) -> String {
        let meta = meta();
        self.world.send(&meta, &MESSAGE.replace("Subject: Hi", &format!("Subject: {subject}"))).await;
        meta.id
    }
}

#[tokio::test]
async fn a_message_is_shown_in_resends_shape() {
    let reader = Reader::new().await;
    let id = reader.sent("Hi").await;
    let (status, mut shown) = reader.get(KEY, &format!("/emails/{id}")).await;
    assert_eq!(status, 200, "{shown}");
    let created = shown["created_at"].take();
    assert!(created.as_str().unwrap().ends_with("+00:00"), "{created}");
    let expect = json!({
        "object": "email", "id": id, "to": ["To <to@dst.test>"], "from": "Acme <a@src.test>", "created_at": null,
        "subject": "Hi", "bcc": ["hidden@dst.test"], "cc": [], "reply_to": ["r@src.test"], "last_event": "sent",
        "scheduled_at": null, "stream": "transactional", "message_id": "<1@src.test>", "html": null, "text": "It works.",
        "tags": [{"name": "category", "value": "welcome"}],
    });
    assert_eq!(shown, expect);
}

#[test]
fn bodies_are_shown_as_they_were_given() {
    let check = |body: &str, is_alone: bool, expect: &str| assert_eq!(as_given(body.to_owned(), is_alone), expect);
    check("<p>hi</p>\r\n", true, "<p>hi</p>");
    check("hi\r\n\r\n", true, "hi\r\n");
    check("hi", true, "hi");
    check("hi\r\n", false, "hi\r\n");
}

#[tokio::test]
async fn who_may_read_what() {
    let reader = Reader::new().await;
    let id = reader.sent("Hi").await;
    let check = async |key: &str, path: &str, expect: u16, name: &str| {
        let (status, error) = reader.get(key, path).await;
        assert_eq!(
            (status, error["name"].as_str(), error["statusCode"].as_u64()),
            (expect, Some(name), Some(expect.into())),
            "{path}"
        );
    };
    check(OTHERS_KEY, &format!("/emails/{id}"), 404, "not_found").await;
    check(OTHERS_KEY, &format!("/emails/{id}/events"), 404, "not_found").await;
    check(KEY, &format!("/emails/{}", Uuid::nil()), 404, "not_found").await;
    check(KEY, "/emails/nonsense", 404, "not_found").await;
    check(KEY, &format!("/emails/{id}/more"), 404, "not_found").await;
    check("wrong", &format!("/emails/{id}"), 403, "invalid_api_key").await;
    check("revoked", &format!("/emails/{id}"), 403, "invalid_api_key").await;
    check("", &format!("/emails/{id}"), 401, "missing_api_key").await;
    check(KEY, "/emails?limit=0", 422, "validation_error").await;
    check(KEY, "/emails?limit=101", 422, "validation_error").await;
    check(KEY, "/emails?before=x", 422, "validation_error").await;
    let delete = Request::delete("/emails").header(AUTHORIZATION, format!("Bearer {KEY}")).body(Bytes::new()).unwrap();
    assert_eq!(reader.sending.answer(delete).await.status(), 405);
}

#[tokio::test]
async fn events_tell_a_messages_life() {
    let reader = Reader::new().await;
    let id = reader.sent("Hi").await;
    let complaint = Event {
        kind: EventKind::Complained,
        recipient: Address::parse("to@dst.test").unwrap(),
        attempt: None,
        reason: Some("abuse".to_owned()),
    };
    let at: Timestamp = "2026-04-03T22:13:42.5Z".parse().unwrap();
    reader.world.store.record(Uuid::parse_str(&id).unwrap(), vec![complaint], at).await.unwrap();
    let (status, shown) = reader.get(KEY, &format!("/emails/{id}/events")).await;
    assert_eq!((status, &shown["object"], &shown["has_more"]), (200, &json!("list"), &json!(false)), "{shown}");
    let data = shown["data"].as_array().unwrap();
    let kinds: Vec<_> =
        data.iter().map(|event| (event["type"].as_str().unwrap(), event["recipient"].as_str().unwrap())).collect();
    let sent = "email.sent";
    assert_eq!(kinds, [(sent, "to@dst.test"), (sent, "hidden@dst.test"), ("email.complained", "to@dst.test")]);
    assert_eq!(
        (&data[2]["created_at"], &data[2]["reason"]),
        (&json!("2026-04-03T22:13:42.500000+00:00"), &json!("abuse"))
    );
    // One by one, each page after the one before.
    let mut after = String::new();
    for (index, event) in data.iter().enumerate() {
        let (_, page) = reader.get(KEY, &format!("/emails/{id}/events?limit=1{after}")).await;
        assert_eq!(page["data"], json!([event]));
        assert_eq!(page["has_more"], json!(index < 2));
        after = format!("&after={}", event["id"].as_str().unwrap());
    }
    assert_eq!(reader.get(KEY, &format!("/emails/{id}/events?after=evt_x")).await.0, 422);
    assert_eq!(reader.get(KEY, &format!("/emails/{id}")).await.1["last_event"], json!("complained"));
}

#[tokio::test]
async fn lists_go_from_the_newest_on() {
    let reader = Reader::new().await;
    let mut ids = Vec::new();
    for subject in ["one", "two", "three"] {
        ids.insert(0, reader.sent(subject).await);
    }
    let (_, all) = reader.get(KEY, "/emails").await;
    let subjects: Vec<_> =
        all["data"].as_array().unwrap().iter().map(|email| email["subject"].as_str().unwrap()).collect();
    assert_eq!((subjects, &all["has_more"]), (vec!["three", "two", "one"], &json!(false)));
    assert!(all["data"][0].get("html").is_none());
    let (_, page) = reader.get(KEY, &format!("/emails?limit=1&after={}", ids[0])).await;
    assert_eq!((&page["data"][0]["id"], &page["has_more"]), (&json!(ids[1]), &json!(true)));
    let (_, page) = reader.get(KEY, &format!("/emails?limit=1&after={}", ids[1])).await;
    assert_eq!((&page["data"][0]["id"], &page["has_more"]), (&json!(ids[2]), &json!(false)));
    assert_eq!(reader.get(OTHERS_KEY, "/emails").await.1["data"], json!([]));
    assert_eq!(reader.get(KEY, &format!("/emails?after={}", Uuid::nil())).await.0, 422);
}

/// Memory follows the configuration, not the readers.
#[tokio::test(start_paused = true)]
async fn large_messages_wait_for_room() {
    let sending = Reader::new().await.sending;
    const LARGE: u64 = 20 << 20;
    let first = sending.room_for(LARGE).await.ok().flatten().unwrap();
    assert!(matches!(sending.room_for(LARGE).await, Err(Failure::Busy)));
    assert!(matches!(sending.room_for(SMALL_OCTETS).await, Ok(None)), "small ones wait for nobody");
    // It lasts as long as the answer.
    let answer = Bytes::from_owner(Roomy { bytes: Bytes::from_static(b"{}"), _room: first });
    assert!(matches!(sending.room_for(LARGE).await, Err(Failure::Busy)));
    drop(answer);
    assert!(sending.room_for(u64::MAX).await.is_ok_and(|room| room.is_some()));
}

#[tokio::test]
async fn a_scheduled_message_is_moved_and_canceled_until_it_is_sent() {
    let reader = Reader::new().await;
    let scheduled = async |ms: i64| {
        let meta = delivery_client::wire::MessageMeta { scheduled_ms: Some(ms), ..meta() };
        let answer = reader.world.send(&meta, MESSAGE).await;
        (meta.id, answer)
    };
    let later = Timestamp::now().as_millisecond() + 3_600_000;
    let (id, _) = scheduled(later).await;
    let (email, cancel) = (format!("/emails/{id}"), format!("/emails/{id}/cancel"));
    let (_, shown) = reader.get(KEY, &email).await;
    assert_eq!(shown["last_event"], "scheduled");
    let moment = |shown: &Value| shown["scheduled_at"].as_str().unwrap().parse::<Timestamp>().unwrap();
    assert_eq!(moment(&shown).as_millisecond(), later);
    let (_, listed) = reader.get(KEY, "/emails").await;
    assert_eq!(moment(&listed["data"][0]).as_millisecond(), later);

    let body = r#"{"scheduled_at":"2030-01-02T03:04:05.678Z"}"#;
    assert_eq!(reader.ask(OTHERS_KEY, Method::PATCH, &email, body).await.0, 404);
    assert_eq!(reader.ask(OTHERS_KEY, Method::POST, &cancel, "").await.0, 404);
    let (status, answer) = reader.ask(KEY, Method::PATCH, &email, body).await;
    assert_eq!((status, answer), (200, json!({ "object": "email", "id": id })));
    assert_eq!(moment(&reader.get(KEY, &email).await.1).to_string(), "2030-01-02T03:04:05.678Z");
    assert_eq!(reader.ask(KEY, Method::PATCH, &email, "{}").await.0, 422);

    let (status, answer) = reader.ask(KEY, Method::POST, &cancel, "").await;
    assert_eq!((status, answer), (200, json!({ "object": "email", "id": id })));
    let (_, shown) = reader.get(KEY, &email).await;
    assert_eq!((&shown["last_event"], &shown["text"]), (&json!("canceled"), &json!("It works.")));
    let (_, events) = reader.get(KEY, &format!("/emails/{id}/events")).await;
    let kinds: Vec<&str> =
        events["data"].as_array().unwrap().iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["email.scheduled", "email.scheduled", "email.canceled", "email.canceled"]);
    for (method, path) in [(Method::POST, &cancel), (Method::PATCH, &email)] {
        let (status, error) = reader.ask(KEY, method, path, body).await;
        assert_eq!((status, error["name"].as_str()), (422, Some("validation_error")));
        assert!(error["message"].as_str().unwrap().contains("it was canceled"), "{error}");
    }
    let sent = reader.sent("at once").await;
    let (status, error) = reader.ask(KEY, Method::POST, &format!("/emails/{sent}/cancel"), "").await;
    assert!(status == 422 && error["message"].as_str().unwrap().contains("sent at once"), "{error}");

    let (_, answer) = scheduled(later + 40 * 86_400_000).await;
    assert!(matches!(answer, wire::MessageAnswer::Refused { status: 422, .. }), "{answer:?}");
}
