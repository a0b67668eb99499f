//! Tenants, their keys, the audit log, and that nobody reaches another's.
#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};

use super::super::ROUTES;
use super::super::tests::{ask, ask_with, config};
use super::*;
use crate::api_key;

async fn control(folder: &tempfile::TempDir) -> Arc<Control> {
    crate::serve::open_control(&config(folder.path())).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_are_made_changed_paused_and_removed() {
    let folder = tempfile::tempdir().unwrap();
    let control = control(&folder).await;
    let new = json!({ "name": "acme", "limits": { "recipients": 5, "quotas": { "day": 100, "hour": 10 } } });
    let (status, made) = ask(&control, Method::POST, "tenants", new.clone()).await;
    assert_eq!((status, &made["limits"]["quotas"]), (201, &json!({ "day": 100, "hour": 10 })), "{made}");
    let id = made["id"].as_str().unwrap().to_owned();
    assert!(id.starts_with("ten_"), "{id}");
    assert_eq!(ask(&control, Method::POST, "tenants", new).await.0, 409);
    assert_eq!(ask(&control, Method::GET, &format!("tenants/{id}"), Value::Null).await.1, made, "by id too");

    let change = json!({ "quotas": { "hour": null, "month": 1000 }, "networks": ["192.0.2.0/24"] });
    let (status, changed) = ask(&control, Method::PATCH, "tenants/acme", change).await;
    let limits = json!({ "recipients": 5, "networks": ["192.0.2.0/24"], "quotas": { "day": 100, "month": 1000 } });
    assert_eq!((status, &changed["limits"]), (200, &limits));
    assert_eq!(control.tenancy.of("acme").await.unwrap().terms.quotas.month, Some(1000), "known at once");
    for wrong in [json!({ "colour": 1 }), json!({ "recipients": 0 }), json!({ "networks": ["x"] }), json!([])] {
        assert_eq!(ask(&control, Method::PATCH, "tenants/acme", wrong.clone()).await.0, 422, "{wrong}");
    }

    let (status, paused) = ask(&control, Method::POST, "tenants/acme/pause", json!({ "reason": "unpaid" })).await;
    assert_eq!((status, &paused["pause"]["reason"]), (200, &json!("unpaid")));
    assert!(control.tenancy.of("acme").await.unwrap().check_pause().is_err());
    assert_eq!(ask(&control, Method::POST, "tenants/acme/pause", json!({ "reason": " " })).await.0, 422);
    assert_eq!(ask(&control, Method::POST, "tenants/acme/resume", Value::Null).await.1["pause"], Value::Null);

    let (_, key) = ask(&control, Method::POST, "keys", json!({ "tenant": "acme" })).await;
    ask(&control, Method::POST, "domains", json!({ "domain": "acme.test", "tenant": "acme" })).await;
    assert_eq!(ask(&control, Method::DELETE, "tenants/default", Value::Null).await.0, 422);
    assert_eq!(ask(&control, Method::DELETE, "tenants/acme", Value::Null).await.0, 200);
    assert_eq!(ask(&control, Method::GET, "tenants/acme", Value::Null).await.0, 404);
    assert_eq!(ask(&control, Method::GET, &format!("tenants/{id}"), Value::Null).await.0, 404);
    let hash = api_key::hash(key["key"].as_str().unwrap());
    assert_eq!(control.directory.key_by_hash(hash).await.unwrap(), None);
    assert_eq!(ask(&control, Method::GET, "domains", Value::Null).await.1["data"], json!([]));
    let (status, again) = ask(&control, Method::POST, "tenants", json!({ "name": "acme" })).await;
    assert_eq!(status, 201, "the name is free: {again}");
    assert_ne!(again["id"], json!(id));
}

#[tokio::test(flavor = "multi_thread")]
async fn mail_that_is_queued_keeps_its_tenant_unless_forced() {
    let folder = tempfile::tempdir().unwrap();
    let control = control(&folder).await;
    ask(&control, Method::POST, "tenants", json!({ "name": "acme" })).await;
    let message = crate::store::NewMessage {
        id: uuid::Uuid::new_v4(),
        tenant: "acme".to_owned(),
        sender: None,
        recipients: vec![mail::Address::parse("a@b.test").unwrap()],
        bcc: Vec::new(),
        body: Bytes::from_static(b"Subject: x\r\n\r\n"),
        attributes: Vec::new(),
        tags: Vec::new(),
        idempotency: None,
        accepted_at: Timestamp::now(),
        scheduled_at: None,
        request: None,
    };
    control.store.accept(vec![message]).await.pop().unwrap().unwrap();
    let (status, refused) = ask(&control, Method::DELETE, "tenants/acme", Value::Null).await;
    assert_eq!((status, &refused["name"]), (409, &json!("queued")), "{refused}");
    assert_eq!(ask(&control, Method::DELETE, "tenants/acme?force=true", Value::Null).await.0, 200);
    let leased = control.store.lease(Timestamp::now(), 10).await.unwrap();
    assert_eq!(leased.len(), 1, "what is queued goes on to its end");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_have_scopes_and_ends_and_are_rotated_and_imported() {
    let folder = tempfile::tempdir().unwrap();
    let control = control(&folder).await;
    let new = json!({ "scopes": ["send"], "name": "app" });
    let (_, send) = ask(&control, Method::POST, "keys", new).await;
    assert_eq!(send["scopes"], json!(["send"]));
    let key = send["key"].as_str().unwrap();
    let (status, refused) = ask_with(&control, Some(key), Method::GET, "keys", Value::Null).await;
    assert!(status == 403 && refused["message"].as_str().unwrap().contains("`manage`"), "{refused}");

    let over = json!({ "expires_at": "2026-01-01T00:00:00Z" });
    assert_eq!(ask(&control, Method::POST, "keys", over).await.0, 422);

    let path = format!("keys/{}/rotate", send["id"].as_str().unwrap());
    let (status, rotated) = ask(&control, Method::POST, &path, json!({ "overlap_s": 3600 })).await;
    assert_eq!((status, &rotated["scopes"], &rotated["name"]), (201, &json!(["send"]), &json!("app")), "{rotated}");
    let old = control.directory.key_by_hash(api_key::hash(key)).await.unwrap().unwrap();
    let now = Timestamp::now();
    let later = now.checked_add(jiff::SignedDuration::from_hours(2)).unwrap();
    assert!(old.is_live(now) && !old.is_live(later), "{old:?}");
    let path = format!("keys/{}/rotate", rotated["id"].as_str().unwrap());
    assert_eq!(ask(&control, Method::POST, &path, json!({})).await.0, 201);
    let gone = api_key::hash(rotated["key"].as_str().unwrap());
    assert_eq!(control.directory.key_by_hash(gone).await.unwrap(), None, "no overlap");
    assert_eq!(ask(&control, Method::POST, &path, json!({})).await.0, 404);

    let secret = "an-old-password-of-16+";
    let (status, imported) = ask(&control, Method::POST, "keys", json!({ "key": secret, "tenant": "acme" })).await;
    assert_eq!((status, &imported["prefix"]), (201, &json!("an-o")));
    assert_eq!(ask_with(&control, Some(secret), Method::GET, "keys", Value::Null).await.0, 200);
    for wrong in ["short", "with blanks in between", "pho_looks-like-an-operator"] {
        assert_eq!(ask(&control, Method::POST, "keys", json!({ "key": wrong })).await.0, 422, "{wrong}");
    }
    // Used a moment ago, which is written down with others.
    control.directory.keep_key_uses().await.unwrap();
    let (_, listed) = ask(&control, Method::GET, "keys?tenant=acme", Value::Null).await;
    assert!(listed["data"][0]["used_at"].is_string(), "{listed}");
    let (_, log) = ask(&control, Method::GET, "audit", Value::Null).await;
    assert!(!log.to_string().contains(secret) && !log.to_string().contains(key), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_log_tells_who_changed_what() {
    let folder = tempfile::tempdir().unwrap();
    let control = control(&folder).await;
    ask(&control, Method::POST, "tenants", json!({ "name": "acme", "limits": { "recipients": 5 } })).await;
    ask(&control, Method::PATCH, "tenants/acme", json!({ "recipients": 7 })).await;
    ask(&control, Method::PATCH, "tenants/acme", json!({ "recipients": 0 })).await;
    ask(&control, Method::GET, "tenants/acme", Value::Null).await;
    let (_, made) = ask(&control, Method::POST, "keys", json!({ "tenant": "acme" })).await;
    let (key, id) = (made["key"].as_str().unwrap(), made["id"].as_str().unwrap());
    ask_with(&control, Some(key), Method::DELETE, &format!("keys/{id}"), Value::Null).await;

    let (_, log) = ask(&control, Method::GET, "audit?tenant=acme", Value::Null).await;
    let said: Vec<&str> = log["data"].as_array().unwrap().iter().map(|entry| entry["what"].as_str().unwrap()).collect();
    let revoked = format!("DELETE /control/v1/keys/{id}");
    let expect = [revoked.as_str(), "POST /control/v1/keys", "PATCH /control/v1/tenants/acme"];
    assert_eq!(said, expect, "reading and what was refused change nothing: {log}");
    assert_eq!((&log["data"][0]["who"], &log["data"][0]["from"]), (&json!(id), &json!("unknown")));
    assert_eq!((&log["data"][1]["who"], &log["data"][1]["from"]), (&json!("operator"), &json!("data folder")));
    assert_eq!(log["data"][1]["after"]["key"], json!("(secret)"));
    let change = &log["data"][2];
    assert_eq!((&change["before"]["limits"]["recipients"], &change["asked"]), (&json!(5), &json!({ "recipients": 7 })));
    assert_eq!(change["after"]["limits"]["recipients"], json!(7));

    let (_, page) = ask(&control, Method::GET, "audit?limit=1", Value::Null).await;
    let next = format!("audit?limit=1&before={}", page["next"]);
    let (_, second) = ask(&control, Method::GET, &next, Value::Null).await;
    assert_eq!(second["data"][0]["what"], json!("POST /control/v1/keys"));
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_a_domain_are_its_tenants_to_change() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path());
    // Nobody answers there: what is published is not known.
    config.dns.servers = vec!["127.0.0.1:9".parse().unwrap()];
    let control = crate::serve::open_control(&config).await.unwrap();
    let (_, made) = ask(&control, Method::POST, "keys", json!({ "tenant": "acme" })).await;
    let key = made["key"].as_str().unwrap();
    let new = json!({ "domain": "acme.test", "tenant": "acme", "selector": "s1" });
    let (status, made) = ask(&control, Method::POST, "domains", new).await;
    assert_eq!((status, &made["records"][0]["name"]), (201, &json!("s1-ed25519._domainkey.acme.test")), "{made}");
    let own = async |method, path: &str, body| ask_with(&control, Some(key), method, path, body).await;
    let (status, rotated) = own(Method::POST, "domains/acme.test/rotate", json!({ "selector": "s2" })).await;
    let states: Vec<&str> =
        rotated["keys"].as_array().unwrap().iter().map(|key| key["state"].as_str().unwrap()).collect();
    assert_eq!((status, states), (200, vec!["active", "active", "pending", "pending"]), "{rotated}");
    assert!(rotated["records"][2]["note"].as_str().unwrap().contains("once it is seen"), "{rotated}");
    let (status, problem) = own(Method::POST, "domains/acme.test/rotate", Value::Null).await;
    assert!(status == 409 && problem["message"].as_str().unwrap().contains("remove-key acme.test s2"), "{problem}");
    for selector in ["s2", "s2-ed25519"] {
        assert_eq!(own(Method::DELETE, &format!("domains/acme.test/keys/{selector}"), Value::Null).await.0, 200);
    }
    let (status, problem) = own(Method::POST, "domains/acme.test/rotate", json!({ "selector": "s2" })).await;
    assert!(status == 409 && problem["message"].as_str().unwrap().contains("choose another selector"), "{problem}");
    let (status, problem) = own(Method::POST, "domains/acme.test/rotate", json!({ "selector": "s_2" })).await;
    assert!(status == 422 && problem["message"].as_str().unwrap().starts_with("selector: `s_2`"), "{problem}");

    let pem = include_str!("../../../../tests/vectors/keys/ed25519.pem");
    let import = json!({ "selector": "old", "private_key": pem });
    let (status, imported) = own(Method::POST, "domains/acme.test/keys", import).await;
    let old = imported["keys"].as_array().unwrap().iter().find(|key| key["selector"] == json!("old")).unwrap();
    assert_eq!((status, &old["state"]), (201, &json!("pending")), "{imported}");
    let told = imported["records"].as_array().unwrap().iter().all(|it| it["status"] == json!("temporary_failure"));
    assert!(told && !imported.to_string().contains("PRIVATE"), "{imported}");
    let (status, problem) =
        own(Method::POST, "domains/acme.test/keys", json!({ "selector": "x", "private_key": "" })).await;
    assert!(status == 422 && problem["message"].as_str().unwrap().starts_with("private_key: "), "{problem}");
    assert_eq!(own(Method::POST, "domains/acme.test/check", Value::Null).await.0, 200);
    assert_eq!(own(Method::POST, "master-key/rotate", Value::Null).await.0, 403, "the operator's");
    let (_, log) = ask(&control, Method::GET, "audit?tenant=acme", Value::Null).await;
    assert!(log.to_string().contains("acme.test/rotate") && !log.to_string().contains("PRIVATE"), "{log}");
    let (status, done) = ask(&control, Method::POST, "master-key/rotate", Value::Null).await;
    assert_eq!((status, &done["secrets"], &done["resealed"]), (200, &json!(3), &json!(3)), "{done}");
}

/// Every route of the document, asked with another tenant's key and with none: nothing is told and nothing changes.
#[tokio::test(flavor = "multi_thread")]
async fn no_route_reaches_another_tenant() {
    let folder = tempfile::tempdir().unwrap();
    let control = control(&folder).await;
    let mut ids = Vec::new();
    for tenant in ["victim", "thief"] {
        ask(&control, Method::POST, "tenants", json!({ "name": tenant })).await;
        let (_, key) = ask(&control, Method::POST, "keys", json!({ "tenant": tenant })).await;
        let domain = json!({ "domain": "secret-of.test", "tenant": tenant });
        if tenant == "victim" {
            ask(&control, Method::POST, "domains", domain).await;
            let edge = "domains/secret-of.test/edge-keys?tenant=victim";
            ask(&control, Method::POST, edge, json!({ "selector": "s1" })).await;
        }
        ids.push((key["id"].as_str().unwrap().to_owned(), key["key"].as_str().unwrap().to_owned()));
    }
    let (_, token) = ask(&control, Method::POST, "delivery-tokens", json!({ "tenant": "victim" })).await;
    let (_, operator) = ask(&control, Method::POST, "operator-keys", json!({})).await;
    let everything = async || {
        let mut all = Vec::new();
        for path in
            ["tenants", "keys?tenant=victim", "domains", "delivery-tokens", "operator-keys", "audit?tenant=victim"]
        {
            let (status, mut answer) = ask(&control, Method::GET, path, Value::Null).await;
            assert_eq!(status, 200, "{path}: {answer}");
            if path == "tenants" {
                answer["data"].as_array_mut().unwrap().retain(|tenant| tenant["name"] != json!("thief"));
            }
            all.push(answer);
        }
        all
    };
    let before = everything().await;
    let ((victims_id, victims_key), thief) = (&ids[0], &ids[1].1);
    let (token, operator) = (token["id"].as_str().unwrap(), operator["id"].as_str().unwrap());

    let (_, document) = ask(&control, Method::GET, "openapi.json", Value::Null).await;
    let mut walked = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        let path = path.strip_prefix(super::super::PREFIX).unwrap();
        for (method, operation) in item.as_object().unwrap() {
            walked += 1;
            let method: Method = method.to_uppercase().parse().unwrap();
            let family = path.split('/').next().unwrap();
            let id = match family {
                "delivery-tokens" => token,
                "operator-keys" => operator,
                _ => victims_id.as_str(),
            };
            let filled = path
                .replace("{tenant}", "victim")
                .replace("{id}", id)
                .replace("{domain}", "secret-of.test")
                .replace("{selector}", "s1-rsa")
                .replace("{stage}", "validator")
                .replace("{change}", "purge");
            assert!(!filled.contains('{'), "the test must know the places of {path}");
            let asks = |name: &str| {
                let parameters = operation["parameters"].as_array();
                parameters.is_some_and(|all| all.iter().any(|it| it["name"] == name && it["in"] == "query"))
            };
            let mut tries = vec![filled.clone()];
            if asks("tenant") {
                tries.push(format!("{filled}?tenant=victim"));
            }
            if asks("tenant") && asks("all") {
                tries.push(format!("{filled}?tenant=victim&all=true"));
            }
            // Bodies that name the victim, and bodies that fit.
            let bodies = [
                json!({ "tenant": "victim" }),
                json!({ "tenant": "victim", "domain": "secret-of.test", "name": "x", "reason": "x" }),
                json!({ "reason": "stolen" }),
                json!({ "recipients": 1 }),
                Value::Null,
            ];
            for (path, body) in tries.iter().flat_map(|path| bodies.iter().map(move |body| (path, body))) {
                let (status, answer) = ask_with(&control, None, method.clone(), path, body.clone()).await;
                assert_eq!(status, 401, "{method} {path}: {answer}");
                let (status, answer) = ask_with(&control, Some(thief), method.clone(), path, body.clone()).await;
                let text = answer.to_string();
                if (200..300).contains(&status) {
                    let tells = ["victim", "secret-of", victims_id.as_str()].iter().any(|word| text.contains(word));
                    assert!(!tells || path == "openapi.json", "{method} {path}: {answer}");
                } else {
                    assert!([403, 404, 409, 422].contains(&status), "{method} {path}: {status} {answer}");
                }
                assert!(!text.contains(victims_key.as_str()), "{method} {path}: {answer}");
                if path.contains("victim") {
                    assert!([403, 404].contains(&status), "{method} {path}: {status} {answer}");
                }
            }
        }
    }
    assert_eq!(walked, ROUTES.len());
    assert_eq!(everything().await, before, "nothing of the victim's changed");
}
