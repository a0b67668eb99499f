#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::sync::Mutex;

use async_trait::async_trait;
use http::header::AUTHORIZATION;

use super::*;
use crate::api::delivery::tests::{KEY, OTHERS_KEY, World};
use crate::author::{self, AuthorFault};
use crate::published::Records;
use crate::route::lookup::Texts;
use crate::web::address::Reachable;

/// What is published: what each name answers. A name that is not there has no records.
#[derive(Default)]
struct Zone(Mutex<HashMap<String, Result<Texts, String>>>);

impl Zone {
    fn add(&self, name: &str, values: &[&str]) {
        let records = values.iter().map(|value| (*value).to_owned()).collect();
        self.put(name, Ok(Texts { records, alias: None }));
    }

    fn put(&self, name: &str, answer: Result<Texts, String>) {
        self.0.lock().unwrap().insert(name.to_owned(), answer);
    }

    fn clear(&self) {
        self.0.lock().unwrap().clear();
    }
}

#[async_trait]
impl Records for Zone {
    async fn texts(&self, name: &str) -> Result<Texts, String> {
        self.0.lock().unwrap().get(name).cloned().unwrap_or_else(|| Ok(Texts::default()))
    }

    async fn addresses(&self, _: &str) -> Result<Vec<std::net::IpAddr>, String> {
        Ok(Vec::new())
    }
}

struct Api {
    world: World,
    api: DomainApi,
    zone: Arc<Zone>,
}

impl Api {
    async fn new() -> Api {
        let zone = Arc::new(Zone::default());
        let world = World::new(false).await;
        let domains = world.domains(zone.clone());
        let api = DomainApi { domains, ..world.resources(Reachable::Public).domains };
        Api { world, api, zone }
    }

    /// Publishes all keys of an answer as they should be.
    fn publish(&self, shown: &Value) {
        keys(shown).iter().for_each(|(name, value, ..)| self.zone.add(name, &[value]));
    }

    async fn ask(&self, key: &str, method: Method, path: &str, body: &str) -> (u16, Value) {
        let request = Request::builder().method(method).uri(path).header(AUTHORIZATION, format!("Bearer {key}"));
        let response = self.api.answer(request.body(Bytes::from(body.to_owned())).unwrap()).await;
        (response.status().as_u16(), serde_json::from_slice(response.body()).unwrap())
    }

    async fn add(&self, key: &str, name: &str) -> Value {
        let (status, made) = self.ask(key, Method::POST, "/domains", &json!({ "name": name }).to_string()).await;
        assert_eq!(status, 201, "{made}");
        made
    }

    async fn verify(&self, key: &str, made: &Value) -> Value {
        let path = format!("/domains/{}/verify", made["id"].as_str().unwrap());
        let (status, found) = self.ask(key, Method::POST, &path, "").await;
        assert_eq!(status, 200, "{found}");
        found
    }

    /// Whether this tenant may send from that domain; if not, why.
    async fn may_send(&self, tenant: &str, domain: &str) -> Result<(), AuthorFault> {
        author::check(&self.world.keyring, tenant, format!("From: a@{domain}\r\n\r\nx").as_bytes()).await
    }
}

/// The DKIM records of an answer: name, value, status, message.
fn keys(shown: &Value) -> Vec<(String, String, String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let records = shown["records"].as_array().unwrap().iter().filter(|record| record["record"] == "DKIM");
    records.map(|it| (text(&it["name"]), text(&it["value"]), text(&it["status"]), text(&it["message"]))).collect()
}

#[tokio::test]
async fn a_domain_sends_once_its_keys_are_published() {
    let api = Api::new().await;
    let made = api.add(KEY, "new.test").await;
    assert_eq!((&made["status"], &made["can_send"]), (&json!("not_started"), &json!(false)));
    assert_eq!(made["records"].as_array().map(Vec::len), Some(4));
    for field in ["record", "name", "type", "ttl", "status", "value"] {
        assert!(made["records"][0][field].is_string(), "{field}: {made}");
    }
    let published = keys(&made);
    assert_eq!(published.len(), 2);
    match api.may_send("acme", "sub.new.test").await {
        Err(AuthorFault::Unproved { domain, record, .. }) => {
            assert_eq!((domain.as_str(), record), ("new.test", published[0].0.clone()));
        }
        other => panic!("{other:?}"),
    }
    assert!(api.world.keyring.identities("acme", "new.test").await.unwrap().is_empty(), "nothing is signed either");

    let found = api.verify(KEY, &made).await;
    assert_eq!(found["status"], "pending");
    assert!(keys(&found).iter().all(|(_, _, status, why)| status == "pending" && why.contains("not published")));
    api.zone.add(&published[0].0, &[&published[0].1]);
    api.zone.add(&published[1].0, &["v=DKIM1; k=ed25519; p=AAAA"]);
    let found = api.verify(KEY, &made).await;
    assert_eq!(found["status"], "failed");
    let statuses: Vec<String> = keys(&found).into_iter().map(|(_, _, status, _)| status).collect();
    assert_eq!(statuses, ["verified", "failed"]);
    match api.may_send("acme", "new.test").await {
        Err(AuthorFault::Unproved { record, .. }) => assert_eq!(record, published[1].0, "the one that lacks"),
        other => panic!("{other:?}"),
    }

    api.publish(&made);
    let found = api.verify(KEY, &made).await;
    assert_eq!((&found["status"], &found["can_send"]), (&json!("verified"), &json!(true)), "{found}");
    api.may_send("acme", "sub.new.test").await.unwrap();
    assert_eq!(api.world.keyring.identities("acme", "new.test").await.unwrap().len(), 2);

    // A server that does not answer changes nothing; a record that is gone does.
    published.iter().for_each(|(name, ..)| api.zone.put(name, Err("SERVFAIL".to_owned())));
    let found = api.verify(KEY, &made).await;
    assert_eq!(found["status"], "verified");
    assert!(keys(&found).iter().all(|(_, _, status, _)| status == "temporary_failure"), "{found}");
    api.may_send("acme", "new.test").await.unwrap();
    api.zone.clear();
    assert_eq!(api.verify(KEY, &made).await["status"], "pending");
    assert!(api.may_send("acme", "new.test").await.is_err());
}

#[tokio::test]
async fn what_is_wrong_with_a_record_is_told() {
    let api = Api::new().await;
    let made = api.add(KEY, "new.test").await;
    // The RSA key, which does not fit into one string.
    let place = keys(&made).iter().position(|(_, value, ..)| value.len() > 255).unwrap();
    let (name, value, ..) = keys(&made).remove(place);
    let check = async |answer: Texts, words: &str| {
        api.zone.put(&name, Ok(answer));
        let found = api.verify(KEY, &made).await;
        let (_, _, status, message) = keys(&found).remove(place);
        assert!(message.contains(words) && status == "failed", "{status} {message}");
        let path = format!("/domains/{}", made["id"].as_str().unwrap());
        let (status, shown) = api.ask(KEY, Method::GET, &path, "").await;
        assert_eq!((status, keys(&shown).remove(place).3), (200, message), "it is kept");
    };
    let texts = |records: &[&str]| Texts { records: records.iter().map(|it| (*it).to_owned()).collect(), alias: None };
    let alias = Some("keys.elsewhere.test".to_owned());
    check(Texts { records: Vec::new(), alias }, "alias (CNAME) of keys.elsewhere.test").await;
    check(texts(&[&value, "v=DKIM1; p=AAAA"]), "holds 2 keys").await;
    check(texts(&[&value[..200]]), "cut off").await;
    check(texts(&[&value[..200], &value[200..]]), "split into 2 records").await;
    check(texts(&["v=DKIM1; p=AAAA"]), "another key").await;
}

#[tokio::test]
async fn tenants_hold_the_same_domain_apart() {
    let api = Api::new().await;
    let (mine, theirs) = (api.add(KEY, "shared.test").await, api.add(OTHERS_KEY, "shared.test").await);
    assert_ne!(keys(&mine)[0].0, keys(&theirs)[0].0);
    api.publish(&mine);
    assert_eq!(api.verify(OTHERS_KEY, &theirs).await["status"], "pending");
    assert_eq!(api.verify(KEY, &mine).await["status"], "verified");
    api.may_send("acme", "shared.test").await.unwrap();
    assert!(api.may_send("other", "shared.test").await.is_err());
    let path = format!("/domains/{}", mine["id"].as_str().unwrap());
    for (method, path) in
        [(Method::GET, path.clone()), (Method::DELETE, path.clone()), (Method::POST, format!("{path}/verify"))]
    {
        assert_eq!(api.ask(OTHERS_KEY, method, &path, "").await.0, 404);
    }
    let (status, gone) = api.ask(KEY, Method::DELETE, &path, "").await;
    assert_eq!((status, gone), (200, json!({ "object": "domain", "id": mine["id"], "deleted": true })));
    assert!(matches!(api.may_send("acme", "shared.test").await, Err(AuthorFault::Unregistered { .. })));
    assert_eq!(api.ask(OTHERS_KEY, Method::GET, "/domains", "").await.1["data"].as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn an_unproved_domain_takes_nothing_from_its_parent() {
    let api = Api::new().await;
    // The operator added src.test: it sends, and so do the domains below it.
    api.add(KEY, "sub.src.test").await;
    api.may_send("acme", "sub.src.test").await.unwrap();
}

#[tokio::test]
async fn lists_and_faults() {
    let api = Api::new().await;
    for name in ["a.test", "b.test", "c.test"] {
        api.add(KEY, name).await;
    }
    let list = async |query: &str| {
        let (status, list) = api.ask(KEY, Method::GET, &format!("/domains{query}"), "").await;
        assert_eq!(status, 200, "{list}");
        let names = list["data"].as_array().unwrap().iter().map(|it| it["name"].as_str().unwrap().to_owned());
        (names.collect::<Vec<_>>(), list["has_more"].as_bool().unwrap(), list)
    };
    let (names, more, whole) = list("").await;
    assert_eq!(
        (names, more),
        (vec!["c.test", "b.test", "a.test", "src.test"].into_iter().map(str::to_owned).collect(), false)
    );
    let id = whole["data"][1]["id"].as_str().unwrap();
    let (names, more, _) = list("?limit=2").await;
    assert_eq!((names.len(), more), (2, true));
    assert_eq!(list(&format!("?after={id}")).await.0, ["a.test", "src.test"]);
    assert_eq!(list(&format!("?before={id}")).await.0, ["c.test"]);

    let check = async |body: &str, words: &str| {
        let (status, error) = api.ask(KEY, Method::POST, "/domains", body).await;
        assert_eq!(status, 422, "{error}");
        assert!(error["message"].as_str().unwrap().contains(words), "{error}");
    };
    check("", "not a JSON object").await;
    check("{}", "`name`: the field is missing").await;
    check(r#"{"name":5}"#, "`name`: it must be a string").await;
    check(r#"{"name":"no domain"}"#, "`name`").await;
    check(r#"{"name":"localhost"}"#, "such as example.com").await;
    check(r#"{"name":"[127.0.0.1]"}"#, "`name`").await;
    check(r#"{"name":"a.test"}"#, "there already is domain a.test").await;
    check(r#"{"name":"d.test","colour":1}"#, "`colour`").await;
    assert_eq!(api.ask("wrong", Method::GET, "/domains", "").await.0, 403);
    assert_eq!(api.ask(KEY, Method::PUT, "/domains", "").await.0, 405);
    assert_eq!(api.ask(KEY, Method::GET, "/domains/x", "").await.0, 404);
}

#[tokio::test]
async fn settings_say_what_is_so_or_are_refused() {
    let api = Api::new().await;
    let made = api.add(KEY, "new.test").await;
    assert_eq!((&made["open_tracking"], &made["tls"]), (&json!(false), &json!("opportunistic")));
    let id = made["id"].as_str().unwrap();
    let path = format!("/domains/{id}");
    let change = async |body: &str| api.ask(KEY, Method::PATCH, &path, body).await;
    let all = r#"{"open_tracking":false,"click_tracking":false,"tls":"opportunistic","tracking_subdomain":null,
                 "capabilities":{"sending":"enabled","receiving":"disabled"}}"#;
    for body in ["{}", all] {
        assert_eq!(change(body).await, (200, json!({ "object": "domain", "id": id })));
    }
    for (body, words) in [
        (r#"{"open_tracking":true}"#, "`open_tracking`: opens are not tracked"),
        (r#"{"click_tracking":"false"}"#, "`click_tracking`: clicks"),
        (r#"{"tls":"enforced"}"#, "`tls`: TLS towards receivers"),
        (r#"{"tracking_subdomain":"links"}"#, "`tracking_subdomain`"),
        (r#"{"capabilities":{"receiving":"enabled"}}"#, "`capabilities`: a domain of this host sends"),
        (r#"{"capabilities":"all"}"#, "`capabilities`"),
        (r#"{"name":"other.test"}"#, "`name`: there is no such field"),
        ("[]", "not a JSON object"),
    ] {
        let (status, error) = change(body).await;
        assert!(status == 422 && error["message"].as_str().unwrap().contains(words), "{status} {error}");
    }
    assert_eq!(api.ask(OTHERS_KEY, Method::PATCH, &path, "{}").await.0, 404);
}

/// A key made for an edge has a record of its own, without which mail that the host signs goes out all the same.
#[tokio::test]
async fn a_new_key_of_an_edge_stops_nothing() {
    let api = Api::new().await;
    let made = api.add(KEY, "new.test").await;
    api.publish(&made);
    assert_eq!(api.verify(KEY, &made).await["status"], "verified");
    let algorithm = mail::dkim::Algorithm::Ed25519Sha256;
    let edge = crate::keyring::make_edge_keys(&[algorithm], Some("edge"), jiff::Timestamp::now()).await.unwrap();
    let domain = mail::Domain::parse("new.test").unwrap();
    crate::store::Edges::add_edge_keys(&*api.world.store, "acme", &domain, vec![edge[0].public.clone()]).await.unwrap();
    let found = api.verify(KEY, &made).await;
    assert_eq!(found["status"], "verified");
    let of_edge = keys(&found).into_iter().find(|(name, ..)| name.starts_with("edge.")).unwrap();
    assert_eq!(of_edge.2, "pending", "it is told");
    api.may_send("acme", "new.test").await.unwrap();
}

/// The operator's command stands for the proof, and the keys that its tenant may have published stay.
#[tokio::test]
async fn the_operator_can_vouch_for_a_domain() {
    let api = Api::new().await;
    let made = api.add(KEY, "new.test").await;
    assert!(api.may_send("acme", "new.test").await.is_err());
    let domain = mail::Domain::parse("new.test").unwrap();
    api.world.store.vouch_for("acme", &domain).await.unwrap();
    api.may_send("acme", "new.test").await.unwrap();
    let shown = api.ask(KEY, Method::GET, &format!("/domains/{}", made["id"].as_str().unwrap()), "").await.1;
    assert_eq!((keys(&shown), &shown["can_send"]), (keys(&made), &json!(true)));
    assert!(matches!(api.world.store.vouch_for("other", &domain).await, Err(StoreError::NotFound(_))));
}
