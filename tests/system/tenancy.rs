//! What a tenant may not do, told over the wire: quotas that are used up, a pause, sizes, networks, calls at once.

use std::sync::{Arc, Barrier};

use serde_json::{Value, json};
use tests::http::{self, Answer};
use tests::product::{Product, Setup, root};
use tests::smtp::Client;

/// What comes by SMTP from loopback is trusted, and so the tenant `default`'s.
fn setup(extra: &str) -> Setup {
    Setup::new().unwrap().with(extra).with("[[route]]\ndomain = \"*\"\nrelay = \"127.0.0.1:1\"")
}

/// A tenant with these limits, and its key.
fn tenant(setup: &Setup, name: &str, limits: &[&str]) -> String {
    // `default` is there, and the configuration may have named others.
    let made = setup.command(&[&["tenant", "create", name][..], limits].concat());
    made.or_else(|_| setup.command(&[&["tenant", "update", name][..], limits].concat())).unwrap();
    setup.command(&["domain", "add", "src.test", "--tenant", name]).unwrap();
    setup.command(&["key", "create", "--tenant", name]).unwrap()
}

fn mail(fields: Value) -> Value {
    let mut mail = json!({ "from": "a@src.test", "to": ["b@dst.test"], "subject": "Hi", "text": "x" });
    mail.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    mail
}

fn send(product: &Product, key: &str, fields: Value) -> Answer {
    http::post(product.http, "/emails", key, &mail(fields)).unwrap()
}

fn batch(product: &Product, key: &str, mode: &str, count: usize) -> Answer {
    let bearer = format!("Bearer {key}");
    let headers = [("authorization", bearer.as_str()), ("x-batch-validation", mode)];
    let body = json!(vec![mail(json!({})); count]).to_string();
    http::request(product.http, "POST", "/emails/batch", &headers, body.as_bytes()).unwrap()
}

fn told(answer: &Answer, status: u16, name: &str, words: &str) {
    let body = answer.json().unwrap();
    assert_eq!((answer.status, body["name"].as_str()), (status, Some(name)), "{body}");
    assert!(body["message"].as_str().unwrap().contains(words), "{body}");
}

/// Seconds of `Retry-After`.
fn retry_after(answer: &Answer) -> Option<u64> {
    let field =
        answer.head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("retry-after:").map(str::to_owned));
    field.map(|value| value.trim().parse().unwrap())
}

fn by_smtp(client: &mut Client) -> (u16, String) {
    client.submit("a@src.test", "b@dst.test", b"From: a@src.test\r\nTo: b@dst.test\r\nSubject: x\r\n\r\nx\r\n").unwrap()
}

/// The quota is that of a month: no test runs over the end of one, but for those at its very end.
const MONTH_S: u64 = 31 * 86_400;

#[test]
fn a_used_up_quota_says_when_it_resets() {
    let setup = setup("");
    let key = tenant(&setup, "default", &["--per-month", "6"]);
    let product = setup.start().unwrap();
    assert_eq!(send(&product, &key, json!({ "to": ["b@dst.test", "c@dst.test"] })).status, 200);
    told(
        &send(
            &product,
            &key,
            json!({ "to": vec!["b@dst.test"; 1], "bcc": (0..6).map(|n| format!("b{n}@dst.test")).collect::<Vec<_>>() }),
        ),
        422,
        "validation_error",
        "more than this account may have in a month",
    );

    // Four are left: of six messages each further one is told by itself when it may come again.
    let mixed = batch(&product, &key, "permissive", 6);
    let body = mixed.json().unwrap();
    assert_eq!((mixed.status, body["data"].as_array().unwrap().len()), (200, 4), "{body}");
    let errors = body["errors"].as_array().unwrap();
    assert_eq!(errors.iter().map(|error| error["index"].as_u64().unwrap()).collect::<Vec<_>>(), [4, 5], "{body}");
    for error in errors {
        assert!((1..=MONTH_S).contains(&error["retry_after"].as_u64().unwrap()), "{error}");
        assert!(error["message"].as_str().unwrap().contains("it resets at 20"), "{error}");
    }
    for refused in [send(&product, &key, json!({})), batch(&product, &key, "strict", 2)] {
        told(&refused, 429, "monthly_quota_exceeded", "quota of 6 recipients a month is used up: it resets at 20");
        assert!((1..=MONTH_S).contains(&retry_after(&refused).unwrap()), "{}", refused.head);
    }
    let (code, text) = by_smtp(&mut Client::greeted(product.smtp).unwrap());
    assert!(
        code == 452 && text.starts_with("4.7.1 The quota of 6 recipients a month") && text.contains("resets at 20"),
        "{code} {text}"
    );

    // What was taken is known behind a restart too, and the events tell of it.
    product.stop().unwrap();
    let product = setup.start().unwrap();
    assert_eq!(send(&product, &key, json!({})).status, 429);
    let bearer = format!("Bearer {key}");
    let events = http::get(product.http, "/events?type=quota.warning", &[("authorization", &bearer)]).unwrap();
    assert_eq!(events.json().unwrap()["data"].as_array().unwrap().len(), 1, "told once");
    setup.command(&["tenant", "update", "default", "--per-month", "none"]).unwrap();
    assert_eq!(send(&product, &key, json!({})).status, 200);
}

#[test]
fn a_paused_tenant_is_told_why_and_others_send() {
    let setup = setup("");
    let key = tenant(&setup, "default", &[]);
    let other = tenant(&setup, "other", &[]);
    let product = setup.start().unwrap();
    let mut open = Client::greeted(product.smtp).unwrap();
    assert_eq!(by_smtp(&mut open).0, 250);
    setup.command(&["tenant", "pause", "default", "--reason", "the invoice is overdue"]).unwrap();
    told(&send(&product, &key, json!({})), 403, "account_paused", "the invoice is overdue");
    // In a session that was open before, too.
    let (code, text) = by_smtp(&mut open);
    assert!(code == 451 && text.starts_with("4.7.1") && text.contains("the invoice is overdue"), "{code} {text}");
    let bearer = format!("Bearer {key}");
    assert_eq!(http::get(product.http, "/emails", &[("authorization", &bearer)]).unwrap().status, 200, "it may look");
    assert_eq!(send(&product, &other, json!({})).status, 200);
    setup.command(&["tenant", "resume", "default"]).unwrap();
    assert_eq!(send(&product, &key, json!({})).status, 200);
    assert_eq!(by_smtp(&mut open).0, 250);
}

#[test]
fn sizes_and_networks_of_a_tenant_bind_both_roads() {
    let setup = setup("");
    let key = tenant(
        &setup,
        "default",
        &["--message-bytes", "20000", "--recipients", "2", "--networks", "127.0.0.0/8,192.0.2.0/24"],
    );
    let product = setup.start().unwrap();
    assert_eq!(send(&product, &key, json!({})).status, 200);
    told(&send(&product, &key, json!({ "text": "x".repeat(30_000) })), 413, "validation_error", "20000");
    let three = json!({ "to": ["b@dst.test", "c@dst.test", "d@dst.test"] });
    told(&send(&product, &key, three), 422, "validation_error", "3 recipients");
    let mut client = Client::greeted(product.smtp).unwrap();
    let large = format!("From: a@src.test\r\nTo: b@dst.test\r\n\r\n{}", "x\r\n".repeat(10_000));
    let (code, text) = client.submit("a@src.test", "b@dst.test", large.as_bytes()).unwrap();
    assert!(code == 552 && text.starts_with("5.3.4") && text.contains("at most 20000"), "{code} {text}");
    client.command("MAIL FROM:<a@src.test>", 250).unwrap();
    for to in ["b", "c", "d"] {
        client.command(&format!("RCPT TO:<{to}@dst.test>"), 250).unwrap();
    }
    client.command("DATA", 354).unwrap();
    client.write(b"From: a@src.test\r\nTo: b@dst.test\r\n\r\nx\r\n.\r\n").unwrap();
    let (code, text) = client.reply().unwrap();
    assert!(code == 550 && text.starts_with("5.5.3") && text.contains("at most 2"), "{code} {text}");

    setup.command(&["tenant", "update", "default", "--networks", "192.0.2.0/24"]).unwrap();
    told(&send(&product, &key, json!({})), 403, "invalid_access", "127.0.0.1");
    let bearer = format!("Bearer {key}");
    let looked = http::get(product.http, "/emails", &[("authorization", &bearer)]).unwrap();
    told(&looked, 403, "invalid_access", "127.0.0.1");
}

/// What is bounded is the whole of a submission, and so the calls of the tenant's components.
#[test]
fn calls_at_once_bound_what_the_components_do() {
    let component = root().join("target/guests/misbehave.wasm");
    assert!(component.is_file(), "{} is missing: run `cargo xtask test`", component.display());
    let stages = "[stages]\ntime = \"2s\"\n";
    let setup = setup(&format!("[tenant.acme.components]\nvalidator = \"{}\"\n{stages}", component.display()));
    let key = tenant(&setup, "acme", &["--calls-at-once", "1"]);
    let product = setup.start().unwrap();
    product.settled().unwrap();
    let together = Arc::new(Barrier::new(4));
    let callers: Vec<_> = (0..4)
        .map(|_| {
            let (server, key, together) = (product.http, key.clone(), together.clone());
            std::thread::spawn(move || {
                together.wait();
                http::post(server, "/emails", &key, &mail(json!({ "subject": "loop" }))).unwrap()
            })
        })
        .collect();
    let answers: Vec<Answer> = callers.into_iter().map(|caller| caller.join().unwrap()).collect();
    let busy: Vec<&Answer> = answers.iter().filter(|answer| answer.status == 429).collect();
    assert_eq!(busy.len(), 3, "{:?}", answers.iter().map(|answer| answer.status).collect::<Vec<_>>());
    for answer in &busy {
        told(answer, 429, "rate_limit_exceeded", "1 submissions under way");
        assert_eq!(retry_after(answer), Some(1));
    }
    // The place is free again when the request is answered.
    assert_eq!(answers.iter().filter(|answer| answer.status == 503).count(), 1);
}
