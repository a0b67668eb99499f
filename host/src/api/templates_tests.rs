#![allow(clippy::unwrap_used)]

use http::header::AUTHORIZATION;

use super::*;
use crate::api::delivery::tests::{KEY, OTHERS_KEY, World};

struct Api {
    _world: World,
    api: TemplateApi,
}

impl Api {
    async fn new() -> Api {
        let world = World::new(false).await;
        Api { api: TemplateApi::new(world.store.clone(), world.store.clone()), _world: world }
    }

    async fn ask(&self, key: &str, method: Method, path: &str, body: Value) -> (u16, Value) {
        let request = Request::builder().method(method).uri(path).header(AUTHORIZATION, format!("Bearer {key}"));
        let response = self.api.answer(request.body(Bytes::from(body.to_string())).unwrap()).await;
        (response.status().as_u16(), serde_json::from_slice(response.body()).unwrap())
    }
}

#[tokio::test]
async fn a_template_lives_in_resends_shape() {
    let api = Api::new().await;
    let new = json!({
        "name": "Order", "alias": "order", "from": "Acme <a@src.test>", "subject": "Hi {{NAME}}", "html": "<p>{{NAME}}</p>",
        "variables": [{"key": "NAME", "type": "string", "fallback_value": "friend"}],
    });
    let (status, made) = api.ask(KEY, Method::POST, "/templates", new.clone()).await;
    assert_eq!((status, &made["object"]), (201, &json!("template")), "{made}");
    let id = made["id"].as_str().unwrap();
    let (status, mut shown) = api.ask(KEY, Method::GET, "/templates/order", Value::Null).await;
    assert_eq!(status, 200);
    for time in ["created_at", "updated_at"] {
        assert!(shown[time].take().as_str().unwrap().ends_with("+00:00"));
        shown["variables"][0][time].take();
    }
    let expect = json!({
        "object": "template", "id": id, "name": "Order", "alias": "order", "status": "draft", "created_at": null,
        "updated_at": null, "published_at": null, "from": "Acme <a@src.test>", "reply_to": null, "subject": "Hi {{NAME}}",
        "html": "<p>{{NAME}}</p>", "text": null, "has_unpublished_versions": true, "current_version_id": id,
        "variables": [{"key": "NAME", "type": "string", "fallback_value": "friend", "created_at": null, "updated_at": null}],
    });
    assert_eq!(shown, expect);

    assert!(api.api.published("acme", "order").await.is_err(), "a draft is not sent");
    assert_eq!(api.ask(KEY, Method::POST, "/templates/order/publish", Value::Null).await.0, 200);
    let sent = api.api.published("acme", id).await.unwrap().unwrap();
    assert_eq!((sent.subject.as_deref(), sent.variables.len()), (Some("Hi {{NAME}}"), 1));
    assert!(matches!(api.api.published("other", "order").await, Ok(None)));
    let (status, _) =
        api.ask(KEY, Method::PATCH, "/templates/order", json!({ "subject": "Ho", "reply_to": ["r@x.test"] })).await;
    assert_eq!(status, 200);
    let (_, shown) = api.ask(KEY, Method::GET, "/templates/order", Value::Null).await;
    assert_eq!((&shown["subject"], &shown["status"]), (&json!("Ho"), &json!("published")));
    assert_eq!((&shown["has_unpublished_versions"], &shown["reply_to"]), (&json!(true), &json!(["r@x.test"])));
    assert_eq!(api.api.published("acme", id).await.unwrap().unwrap().subject.as_deref(), Some("Hi {{NAME}}"));

    let (status, copy) = api.ask(KEY, Method::POST, "/templates/order/duplicate", Value::Null).await;
    assert_eq!(status, 201);
    let (_, list) = api.ask(KEY, Method::GET, "/templates?limit=1", Value::Null).await;
    assert_eq!((&list["has_more"], &list["data"][0]["id"]), (&json!(true), &copy["id"]));
    assert_eq!(list["data"][0]["name"], "Order (copy)");
    let rest = format!("/templates?after={}", copy["id"].as_str().unwrap());
    let (_, list) = api.ask(KEY, Method::GET, &rest, Value::Null).await;
    assert_eq!((&list["has_more"], list["data"].as_array().map(Vec::len)), (&json!(false), Some(1)));

    let (status, gone) = api.ask(KEY, Method::DELETE, "/templates/order", Value::Null).await;
    assert_eq!((status, gone), (200, json!({ "object": "template", "id": id, "deleted": true })));
    assert_eq!(api.ask(KEY, Method::GET, "/templates/order", Value::Null).await.0, 404);
}

#[tokio::test]
async fn what_is_wrong_is_named() {
    let api = Api::new().await;
    let new = json!({ "name": "Order", "alias": "order", "text": "x" });
    assert_eq!(api.ask(KEY, Method::POST, "/templates", new.clone()).await.0, 201);
    let check = async |key: &str, method: Method, path: &str, body: Value, status: u16, words: &str| {
        let (found, error) = api.ask(key, method, path, body).await;
        assert_eq!((found, error["statusCode"].as_u64()), (status, Some(status.into())), "{error}");
        assert!(error["message"].as_str().unwrap().contains(words), "{error}");
    };
    check(KEY, Method::POST, "/templates", new, 422, "alias order").await;
    check(KEY, Method::POST, "/templates", json!({ "text": "x" }), 422, "`name`").await;
    check(KEY, Method::POST, "/templates", json!({ "name": "x" }), 422, "`html` or `text`").await;
    let large = json!({ "name": "x", "html": "x".repeat(TEMPLATE_BYTES + 1) });
    check(KEY, Method::POST, "/templates", large, 422, "at most 524288").await;
    check(OTHERS_KEY, Method::GET, "/templates/order", Value::Null, 404, "template order").await;
    check(OTHERS_KEY, Method::DELETE, "/templates/order", Value::Null, 404, "template order").await;
    check("wrong", Method::GET, "/templates", Value::Null, 403, "not valid").await;
    check(KEY, Method::PUT, "/templates/order", Value::Null, 405, "method").await;
    check(KEY, Method::GET, "/templates/order/more", Value::Null, 404, "").await;
    check(KEY, Method::GET, "/templates?limit=0", Value::Null, 422, "`limit`").await;
    check(KEY, Method::GET, "/templates?after=x", Value::Null, 422, "`after`").await;
}
