//! Receivers: DKIM verifiers with a table for DNS, and a real Postfix as the MX.

use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};
use tests::http;
use tests::postfix::{Postfix, Role};
use tests::product::Setup;
use tests::world::World;

use crate::scripts;

const ARRIVAL_LIMIT: Duration = Duration::from_secs(30);

/// The TXT records that `posthaste domain add` printed as lines of a zone file.
pub fn dkim_records(zone: &str) -> Value {
    let mut records = Map::new();
    for line in zone.lines().filter(|line| line.contains("_domainkey")) {
        let Some((name, strings)) = line.split_once(" IN TXT ") else { continue };
        let text: String = strings.split('"').skip(1).step_by(2).collect();
        records.insert(name.trim_end_matches('.').to_owned(), text.into());
    }
    assert_eq!(records.len(), 2, "an RSA and an Ed25519 key are expected: {zone}");
    records.into()
}

/// Both verifiers find both signatures valid; and neither does when the message is changed.
pub fn verify(message: &[u8], records: &Value) {
    let judge = |message: &[u8]| {
        let job = json!({ "message": base64(message), "records": records });
        [("dkimpy", scripts::python("verify", &job).unwrap()), ("mailauth", scripts::node("verify", &job).unwrap())]
    };
    for (name, results) in judge(message) {
        let mut algorithms: Vec<&str> = Vec::new();
        for result in results.as_array().unwrap() {
            assert_eq!(result["domain"], "src.test", "{name}: {results}");
            assert_eq!(result["valid"], true, "{name}: {results}\n{}", String::from_utf8_lossy(message));
            algorithms.push(result["algorithm"].as_str().unwrap());
        }
        algorithms.sort_unstable();
        assert_eq!(algorithms, ["ed25519-sha256", "rsa-sha256"], "{name}: {results}");
    }
    for (name, results) in judge(&[message, b"one line more\r\n"].concat()) {
        let valid = results.as_array().unwrap().iter().any(|result| result["valid"] == true);
        assert!(!valid, "{name} takes a changed message: {results}");
    }
}

#[test]
fn postfix_receives_over_tls() {
    let folder = tempfile::tempdir().unwrap();
    let role = Role::Receiver { domain: "dst.test", local_parts: &["ada"] };
    let postfix = Postfix::start(folder.path(), &role).unwrap();
    let world = World::start();
    let setup =
        Setup::new().unwrap().dns(world.dns()).delivery(&format!("port = {}\nretry_delays = [\"1s\"]", postfix.port));
    let records = dkim_records(&setup.command(&["domain", "add", "src.test"]).unwrap());
    let key = setup.create_key().unwrap();
    let product = setup.start().unwrap();

    let body = json!({
        "from": "Käthe <sender@src.test>", "to": ["ada@dst.test", "nobody@dst.test"], "subject": "Über Postfix",
        "text": "Grüße\n.\n", "html": "<p>Grüße</p>",
    });
    let answer = http::post(product.http, "/emails", &key, &body).unwrap();
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
    let id = answer.json().unwrap()["id"].as_str().unwrap().to_owned();

    let message = wait(|| postfix.mailbox("ada").unwrap().pop());
    let head = String::from_utf8_lossy(&message).into_owned();
    assert!(head.contains("using TLSv1.3"), "it was not encrypted:\n{head}");
    // Postfix keeps lines with LF and adds its own fields on top.
    verify(&with_crlf(&message), &records);

    // The other recipient does not exist there: a permanent failure of its own.
    let bearer = format!("Bearer {key}");
    let events = wait(|| {
        let path = format!("/emails/{id}/events");
        let answer = http::get(product.http, &path, &[("authorization", &bearer)]).unwrap();
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        (text.contains("bounced") && text.contains("delivered")).then_some(text)
    });
    assert!(events.contains("5.1.1"), "Postfix' own status is told: {events}");
    assert!(events.contains("nobody@dst.test"), "{events}");
}

/// Asks until there is an answer.
fn wait<T>(mut ask: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(start.elapsed() < ARRIVAL_LIMIT, "nothing after {ARRIVAL_LIMIT:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn with_crlf(message: &[u8]) -> Vec<u8> {
    message.split(|byte| *byte == b'\n').collect::<Vec<_>>().join(b"\r\n".as_slice())
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}
