//! A component from the configuration that traps, loops, sleeps, grows or answers nonsense costs its own message and nothing
//! else. The component is `tests/guests/misbehave`: it does what the subject says.

use serde_json::json;
use tests::http;
use tests::product::{Product, Setup, root};
use tests::smtp::Client;

/// What the component may be asked for. Each makes the stage unavailable.
const DEEDS: &[&str] = &["trap", "loop", "sleep", "grow", "headers", "nonsense", "unavailable"];

fn start(section: &str) -> (Setup, Product, String) {
    let component = root().join("target/guests/misbehave.wasm");
    assert!(component.is_file(), "{} is missing: run `cargo xtask test`", component.display());
    let setup = Setup::new().unwrap().with(&format!(
        "[{section}]\nvalidator = \"{}\"\n\
         [stages]\ntime = \"500ms\"\nmemory_bytes = \"64MiB\"\noutput_bytes = \"2MiB\"\n\
         [[route]]\ndomain = \"*\"\nrelay = \"127.0.0.1:1\"",
        component.display()
    ));
    setup.command(&["domain", "add", "src.test"]).unwrap();
    let key = setup.create_key().unwrap();
    let product = setup.start().unwrap();
    (setup, product, key)
}

fn by_http(product: &Product, key: &str, subject: &str) -> http::Answer {
    let body = json!({ "from": "a@src.test", "to": "b@dst.test", "subject": subject, "text": "x" });
    http::post(product.http, "/emails", key, &body).unwrap()
}

fn by_smtp(client: &mut Client, subject: &str) -> (u16, String) {
    let message = format!("From: a@src.test\r\nTo: b@dst.test\r\nSubject: {subject}\r\n\r\nx\r\n");
    client.submit("a@src.test", "b@dst.test", message.as_bytes()).unwrap()
}

#[test]
fn each_misdeed_costs_its_message_a_503() {
    let (_setup, mut product, key) = start("components");
    for deed in DEEDS {
        let answer = by_http(&product, &key, deed);
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        assert_eq!(answer.status, 503, "{deed}: {text}");
        assert!(!text.contains("asked to"), "{deed}: a stage's own words are for the operator: {text}");
        // The next message finds everything in order.
        let answer = by_http(&product, &key, "fine");
        assert_eq!(answer.status, 200, "after {deed}: {}", String::from_utf8_lossy(&answer.body));
    }
    assert!(product.is_running());
}

#[test]
fn each_misdeed_costs_its_message_a_451() {
    let (_setup, mut product, _key) = start("components");
    let mut client = Client::greeted(product.smtp).unwrap();
    for deed in DEEDS {
        let (code, text) = by_smtp(&mut client, deed);
        assert_eq!(code, 451, "{deed}: {text}");
        assert!(text.starts_with("4.3.0"), "{deed}: {text}");
        // In the same session.
        let (code, text) = by_smtp(&mut client, "fine");
        assert_eq!(code, 250, "after {deed}: {text}");
    }
    assert!(product.is_running());
}

#[test]
fn others_are_served_while_a_component_loops() {
    let (setup, product, key) = start("tenant.other.components");
    let other = setup.command(&["key", "create", "--tenant", "other"]).unwrap();
    setup.command(&["domain", "add", "other.test", "--tenant", "other"]).unwrap();
    let looping: Vec<_> = (0..4)
        .map(|_| {
            let (server, key) = (product.http, other.clone());
            std::thread::spawn(move || {
                let body = json!({ "from": "a@other.test", "to": "b@dst.test", "subject": "loop", "text": "x" });
                http::post(server, "/emails", &key, &body).unwrap().status
            })
        })
        .collect();
    while looping.iter().any(|thread| !thread.is_finished()) {
        let answer = by_http(&product, &key, "loop"); // Only the other tenant has the component.
        assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
    }
    for thread in looping {
        assert_eq!(thread.join().unwrap(), 503);
    }
}

#[test]
fn a_file_that_is_no_component_is_told_at_start() {
    let setup = Setup::new().unwrap();
    let file = setup.folder().join("nonsense.wasm");
    std::fs::write(&file, b"this is no component").unwrap();
    let setup = setup.with(&format!("[components]\nvalidator = \"{}\"", file.display()));
    let error = format!("{:#}", setup.start().err().expect("the component cannot be loaded"));
    assert!(error.contains("nonsense.wasm"), "the text must name the file: {error}");
}
