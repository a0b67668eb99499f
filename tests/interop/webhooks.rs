//! Webhooks before their judges: the official verifiers of Standard Webhooks, Svix and Resend, in Node and Python.

use serde_json::{Value, json};
use tests::http;
use tests::product::Setup;
use tests::receiver::{Receiver, Told};

use crate::scripts;

/// A webhook of a development host as it came, with its secret.
fn told() -> (Told, String) {
    let receiver = Receiver::start().unwrap();
    let setup = Setup::new().unwrap();
    let host = setup.start_development("ph_test").unwrap();
    let hook = json!({"endpoint": receiver.url(), "events": ["email.bounced"]});
    let made = http::post(host.http, "/webhooks", "ph_test", &hook).unwrap().json().unwrap();
    let mail = json!({"from": "a@src.test", "to": "bounced@dst.test", "subject": "Grüße", "text": "x"});
    assert_eq!(http::post(host.http, "/emails", "ph_test", &mail).unwrap().status, 200);
    let told = receiver.wait_for(1).remove(0);
    (told, made["signing_secret"].as_str().unwrap().to_owned())
}

fn judge(run: impl Fn(&str, &Value) -> anyhow::Result<Value>, parsed: &[&str]) {
    let (told, secret) = told();
    let fields =
        ["webhook-id", "webhook-timestamp", "webhook-signature", "svix-id", "svix-timestamp", "svix-signature"];
    let headers: serde_json::Map<String, Value> =
        fields.iter().map(|name| ((*name).to_owned(), told.header(name).into())).collect();
    let payload = String::from_utf8(told.body.clone()).unwrap();
    let job = json!({"secret": secret, "payload": payload, "headers": headers});
    let answer = run("webhook", &job).unwrap();
    assert_eq!(answer["refused"], json!(2), "what was changed must not verify");
    for by in parsed {
        assert_eq!(answer[by], told.json(), "{by}");
        assert_eq!(answer[by]["type"], json!("email.bounced"));
        assert_eq!(answer[by]["data"]["subject"], json!("Grüße"));
    }
}

#[test]
fn official_verifiers_in_node() {
    judge(scripts::node, &["standardwebhooks", "svix", "resend"]);
}

#[test]
fn official_verifiers_in_python() {
    judge(scripts::python, &["standardwebhooks", "svix", "resend"]);
}
