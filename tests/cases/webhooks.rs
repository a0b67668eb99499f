//! Webhooks from a request to the sending API to the application that is told: the binary, a real endpoint, real time.
#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};
use tests::http;
use tests::product::{Product, Setup};
use tests::receiver::{Receiver, Reply, Told};
use tests::world::World;

const ALL: [&str; 9] = [
    "email.sent",
    "email.delivered",
    "email.delivery_delayed",
    "email.bounced",
    "email.failed",
    "email.suppressed",
    "email.complained",
    "email.scheduled",
    "email.canceled",
];

struct Case {
    world: World,
    setup: Setup,
    key: String,
}

impl Case {
    fn new(more: &str) -> Case {
        let world = World::start();
        let setup = Setup::new()
            .unwrap()
            .dns(world.dns())
            .delivery(&format!("port = {}\nretry_delays = [\"1s\"]", world.mx_port()))
            .with(more);
        setup.command(&["domain", "add", "src.test"]).unwrap();
        let key = setup.create_key().unwrap();
        Case { world, setup, key }
    }

    fn call(&self, host: &Product, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let bearer = format!("Bearer {}", self.key);
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let answer = http::request(host.http, method, path, &headers, &body).unwrap();
        (answer.status, answer.json().unwrap())
    }

    /// Makes a webhook and answers its id and secret.
    fn webhook(&self, host: &Product, url: &str) -> (String, String) {
        let (status, made) = self.call(host, "POST", "/webhooks", &json!({"endpoint": url, "events": ALL}));
        assert_eq!(status, 201, "{made}");
        (made["id"].as_str().unwrap().to_owned(), made["signing_secret"].as_str().unwrap().to_owned())
    }

    /// Sends a mail and answers its id.
    fn send(&self, host: &Product, to: &str) -> String {
        let mail = json!({
            "from": "Acme <a@src.test>", "to": to, "subject": "Grüße", "text": "x",
            "tags": [{"name": "category", "value": "welcome"}],
        });
        let (status, sent) = self.call(host, "POST", "/emails", &mail);
        assert_eq!(status, 200, "{sent}");
        sent["id"].as_str().unwrap().to_owned()
    }

    /// The ids of a message's events, by name.
    fn events(&self, host: &Product, id: &str) -> Vec<(String, String)> {
        let (_, events) = self.call(host, "GET", &format!("/emails/{id}/events"), &Value::Null);
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        events["data"].as_array().unwrap().iter().map(|event| (text(&event["type"]), text(&event["id"]))).collect()
    }
}

/// What is waited for comes within this, on a busy machine too.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

const PRIVATE: &str = "[webhooks]\nallow_private = true\n";

fn names(told: &[Told]) -> Vec<String> {
    told.iter().map(|told| told.json()["type"].as_str().unwrap_or_default().to_owned()).collect()
}

#[test]
fn an_application_is_told_what_happens_to_its_mail() {
    let case = Case::new(PRIVATE);
    let receiver = Receiver::start().unwrap();
    let host = case.setup.start().unwrap();
    let (id, secret) = case.webhook(&host, &receiver.url());
    let mail = case.send(&host, "one@dst.test");
    let told = receiver.wait_for(2);
    assert_eq!(names(&told), ["email.sent", "email.delivered"]);
    for (told, (name, event)) in told.iter().zip(case.events(&host, &mail)) {
        assert!(told.is_signed_with(&secret), "{told:?}");
        assert_eq!((told.header("webhook-id"), told.path.as_str()), (event.as_str(), "/hook"));
        for part in ["id", "timestamp", "signature"] {
            assert_eq!(told.header(&format!("svix-{part}")), told.header(&format!("webhook-{part}")));
        }
        let body = told.json();
        assert_eq!(body["type"], json!(name));
        let data = &body["data"];
        assert_eq!(
            (&data["email_id"], &data["from"], &data["to"], &data["subject"], &data["tags"]["category"]),
            (&json!(mail), &json!("Acme <a@src.test>"), &json!(["one@dst.test"]), &json!("Grüße"), &json!("welcome"))
        );
    }
    // The same events by the API, across messages.
    let (_, list) = case.call(&host, "GET", "/events?order=oldest&limit=1", &Value::Null);
    assert_eq!((&list["data"][0]["type"], &list["has_more"]), (&json!("email.sent"), &json!(true)));
    let first = list["data"][0]["id"].as_str().unwrap();
    let (_, list) = case.call(&host, "GET", &format!("/events?order=oldest&after={first}"), &Value::Null);
    assert_eq!((&list["data"][0]["type"], &list["has_more"]), (&json!("email.delivered"), &json!(false)));
    assert_eq!(case.call(&host, "GET", &format!("/events/{first}"), &Value::Null).1["email_id"], json!(mail));
    assert!(case.setup.command(&["events", "list"]).unwrap().contains("email.delivered"));

    // Rotated: both secrets sign. A redirect and a refusal are failures, and the log tells them.
    let (_, rotated) = case.call(&host, "POST", &format!("/webhooks/{id}/rotate"), &Value::Null);
    receiver.script(&[Reply::Status(302, "location: http://169.254.169.254/\r\n"), Reply::Status(200, "")]);
    let (status, attempt) = case.call(&host, "POST", &format!("/webhooks/{id}/test"), &Value::Null);
    assert_eq!((status, &attempt["http_status_code"], &attempt["response"]), (200, &json!(302), &json!("noted\n")));
    let told = receiver.wait_for(3);
    assert!(told[2].is_signed_with(&secret) && told[2].is_signed_with(rotated["signing_secret"].as_str().unwrap()));
    // Sent again on demand, under the same id.
    let replay = json!({"event_id": first});
    assert_eq!(case.call(&host, "POST", &format!("/webhooks/{id}/replay"), &replay).1["replayed"], json!(1));
    assert_eq!(receiver.wait_for(4)[3].header("webhook-id"), first);
    drop(host);
    drop(case.world);
}

#[test]
fn a_failed_event_comes_again_and_a_refusal_for_good_disables() {
    let case = Case::new(PRIVATE);
    let receiver = Receiver::start().unwrap();
    receiver.script(&[Reply::Status(500, "")]);
    let host = case.setup.start().unwrap();
    let (id, _) = case.webhook(&host, &receiver.url());
    case.send(&host, "one@dst.test");
    let told = receiver.wait_for(3);
    assert_eq!(names(&told), ["email.sent", "email.delivered", "email.sent"]);
    assert_eq!(told[0].header("webhook-id"), told[2].header("webhook-id"));
    assert_eq!(told[0].body, told[2].body);
    receiver.script(&[Reply::Status(410, ""), Reply::Status(410, "")]);
    case.send(&host, "two@dst.test");
    receiver.wait_for(4);
    loop {
        let (_, shown) = case.call(&host, "GET", &format!("/webhooks/{id}"), &Value::Null);
        if shown["status"] == json!("disabled") {
            assert!(shown["status_reason"].as_str().unwrap().contains("410"));
            break;
        }
    }
}

/// SIGKILL while the endpoint has the event and has not answered: it is told again after the restart, under the same id,
/// and nothing else is missing.
#[test]
fn a_kill_loses_no_event() {
    let case = Case::new(PRIVATE);
    let receiver = Receiver::start().unwrap();
    receiver.script(&[Reply::Silence]);
    let host = case.setup.start().unwrap();
    case.webhook(&host, &receiver.url());
    let first = case.send(&host, "one@dst.test");
    let told = receiver.wait_for(1);
    // Accepted, and killed at once: perhaps nothing of it has moved yet.
    let second = case.send(&host, "two@dst.test");
    host.kill();
    let host = case.setup.start().unwrap();
    let came = |told: &[Told], mail: &str, name: &str| {
        told.iter().any(|it| it.json()["type"] == name && it.json()["data"]["email_id"] == mail)
    };
    let all = receiver.wait_until(|told| {
        told.len() > 4
            && [&first, &second].iter().all(|mail| came(&told[1..], mail, "email.sent"))
            && [&first, &second].iter().all(|mail| came(told, mail, "email.delivered"))
    });
    let again = all[1..].iter().find(|it| it.header("webhook-id") == told[0].header("webhook-id"));
    assert_eq!(again.unwrap().body, told[0].body);
    for mail in [first, second] {
        for (name, event) in case.events(&host, &mail) {
            assert!(all.iter().any(|it| it.header("webhook-id") == event), "{name} {event}");
        }
    }
}

/// Who follows sees what happens as it happens, of messages and of the account, once each.
#[test]
fn events_are_followed() {
    let case = Case::new(PRIVATE);
    let receiver = Receiver::start().unwrap();
    receiver.script(&[Reply::Status(410, "")]);
    let host = case.setup.start().unwrap();
    case.send(&host, "one@dst.test");
    let mut tail = case.setup.follow(&["events", "tail", "--follow"]).unwrap();
    let stdout = tail.stdout.take().unwrap();
    let (lines, came) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for line in std::io::BufRead::lines(std::io::BufReader::new(stdout)) {
            let Ok(line) = line else { return };
            let _ = lines.send(line);
        }
    });
    let mut seen: Vec<String> = Vec::new();
    let mut wait_for = |name: &str, count: usize| {
        let found = |seen: &[String]| seen.iter().filter(|line| line.contains(name)).count();
        while found(&seen) < count {
            seen.push(came.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no {name} in {seen:?}")));
        }
        assert_eq!(found(&seen), count, "{seen:?}");
    };
    wait_for("email.delivered", 1);
    let second = case.send(&host, "two@dst.test");
    wait_for("email.delivered", 2);
    wait_for(&second, 2);
    let (id, _) = case.webhook(&host, &receiver.url());
    case.send(&host, "three@dst.test");
    wait_for("webhook.disabled", 1);
    wait_for(&format!("\"webhook_id\":\"{id}\""), 1);
    tail.kill().unwrap();
    tail.wait().unwrap();
}

/// An endpoint that takes the event and never answers: what came of it is told after `[webhooks] timeout`.
#[test]
fn an_endpoint_has_its_time() {
    let case = Case::new(&format!("{PRIVATE}timeout = \"1s\"\n"));
    let receiver = Receiver::start().unwrap();
    receiver.script(&[Reply::Silence, Reply::Silence]);
    let host = case.setup.start().unwrap();
    let (id, _) = case.webhook(&host, &receiver.url());
    let (status, attempt) = case.call(&host, "POST", &format!("/webhooks/{id}/test"), &Value::Null);
    assert_eq!((status, &attempt["http_status_code"]), (200, &Value::Null), "{attempt}");
    assert!(attempt["duration_ms"].as_u64().unwrap() >= 1000, "{attempt}");
    assert!(attempt["error"].as_str().is_some_and(|error| !error.is_empty()), "{attempt}");
    // An event that found no answer comes again, after its wait.
    case.send(&host, "one@dst.test");
    let told = receiver.wait_until(|told| {
        let first = told.get(1).map(|told| told.header("webhook-id").to_owned());
        told.iter().skip(2).any(|told| Some(told.header("webhook-id")) == first.as_deref())
    });
    assert_eq!(told[1].json()["type"], "email.sent");
}

#[test]
fn private_addresses_are_not_reached() {
    let case = Case::new("");
    let receiver = Receiver::start().unwrap();
    let host = case.setup.start().unwrap();
    let body = json!({"endpoint": receiver.url(), "events": ["email.sent"]});
    let (status, error) = case.call(&host, "POST", "/webhooks", &body);
    assert!(status == 422 && error["message"].as_str().unwrap().contains("`endpoint`"), "{error}");
    let (id, _) = case.webhook(&host, &format!("http://mx.dst.test:{}/", receiver.address().port()));
    let (status, attempt) = case.call(&host, "POST", &format!("/webhooks/{id}/test"), &Value::Null);
    assert_eq!((status, &attempt["http_status_code"]), (200, &Value::Null), "{attempt}");
    // Where the name leads is nothing to tell a customer.
    let told = attempt["error"].as_str().unwrap();
    assert!(told.contains("`mx.dst.test` is on this machine or in a private network"), "{attempt}");
    assert!(!told.contains("127.0.0.1"), "{attempt}");
    assert_eq!(receiver.take_count(), 0);
}
