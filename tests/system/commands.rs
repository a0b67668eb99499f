//! What operators type against a running host, by the real binary: the queue, a backup, tenants, keys, components.

use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::fake_mx::{Step, reply};
use tests::http;
use tests::product::{Product, Setup, binary, root};
use tests::world::World;

const LIMIT: Duration = Duration::from_secs(60);

fn run(setup: &Setup, words: &[&str]) -> Output {
    let config = setup.folder().join("posthaste.toml");
    Command::new(binary().unwrap()).args(words).arg("--config").arg(config).output().unwrap()
}

/// A command that fails, and why.
fn refused(setup: &Setup, words: &[&str]) -> String {
    let output = run(setup, words);
    assert_eq!(output.status.code(), Some(1), "{words:?}: {}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stderr).unwrap()
}

fn until(what: &str, mut is_so: impl FnMut() -> Result<(), String>) {
    let asked = Instant::now();
    while let Err(last) = is_so() {
        assert!(asked.elapsed() < LIMIT, "{what}: {last}");
        std::thread::yield_now();
    }
}

fn send(product: &Product, key: &str, fields: Value) -> String {
    let mut body = json!({ "from": "a@src.test", "subject": "Hi", "text": "x" });
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    let answer = http::post(product.http, "/emails", key, &body).unwrap();
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
    answer.json().unwrap()["id"].as_str().unwrap().to_owned()
}

fn events(product: &Product, key: &str, id: &str) -> Vec<String> {
    let bearer = format!("Bearer {key}");
    let answer = http::get(product.http, &format!("/emails/{id}/events"), &[("authorization", &bearer)]).unwrap();
    let answer = answer.json().unwrap();
    answer["data"].as_array().unwrap().iter().map(|event| event["type"].as_str().unwrap().to_owned()).collect()
}

fn lines(text: &str, part: &str) -> usize {
    text.lines().filter(|line| line.contains(part)).count()
}

#[test]
fn the_queue_is_listed_and_changed_by_what_is_meant() {
    let world = World::start();
    world.publish("other.test MX 10 mx.other.test\nmx.other.test A 127.0.0.1\n");
    world.mx().on(Step::Rcpt(""), reply("451 4.3.0 come later"));
    let setup = Setup::new().unwrap().dns(world.dns()).delivery(&format!("port = {}", world.mx_port()));
    setup.command(&["domain", "add", "src.test"]).unwrap();
    let key = setup.create_key().unwrap();
    let product = setup.start().unwrap();
    let to = |name: &str| send(&product, &key, json!({ "to": format!("{name}@dst.test") }));
    let (canceled, bounced, purged, held) = (to("a"), to("b"), to("c"), to("d"));
    let retried = send(&product, &key, json!({ "to": "e@other.test", "stream": "broadcast" }));
    until("five first attempts", || {
        let list = setup.command(&["queue", "list"]).unwrap();
        if lines(&list, "attempts 1") == 5 { Ok(()) } else { Err(list) }
    });
    let list = |words: &[&str]| setup.command(&[&["queue", "list"][..], words].concat()).unwrap();
    let all = list(&[]);
    assert!(all.starts_with("5 recipients wait, in all tenants\n") && all.lines().count() == 6, "{all}");
    let at_site = list(&["--site", "MX.dst.test"]);
    assert!(lines(&at_site, "@dst.test") == 4 && at_site.ends_with("\n4 recipients fit"), "{at_site}");
    let broadcast = list(&["--stream", "broadcast"]);
    assert!(lines(&broadcast, "broadcast") == 1 && broadcast.ends_with("\n1 recipients fit"), "{broadcast}");
    assert!(list(&["--site", "mx.other.test", "--domain", "dst.test"]).ends_with("0 recipients fit"));
    let shown = list(&["--domain", "dst.test", "--limit", "2"]);
    assert!(lines(&shown, "@dst.test") == 2 && shown.ends_with("see --limit"), "{shown}");
    assert!(refused(&setup, &["queue", "list", "--site", "mx.nowhere.test"]).contains("no domain was found"));
    assert!(refused(&setup, &["queue", "purge"]).contains("all=true"));
    let tend = |words: &[&str]| setup.command(&[&["queue"][..], words].concat()).unwrap();

    let told = tend(&["show", &bounced]);
    assert!(
        told.contains("b@dst.test") && told.contains("email.delivery_delayed") && told.contains("come later"),
        "{told}"
    );
    assert_eq!(tend(&["hold", "--site", "mx.dst.test"]), "hold: 4 recipients");
    assert_eq!(lines(&list(&["--held"]), " held "), 4);
    assert_eq!(tend(&["cancel", &canceled]), "cancel: 1 recipients");
    assert_eq!(tend(&["bounce", &bounced]), "bounce: 1 recipients");
    assert_eq!(tend(&["purge", "--held", &purged]), "purge: 1 recipients");
    for (id, last) in [(&canceled, "email.canceled"), (&bounced, "email.bounced"), (&purged, "email.failed")] {
        assert_eq!(events(&product, &key, id).last().map(String::as_str), Some(last));
    }
    world.mx().forget_rules();
    assert_eq!(tend(&["release", "--all"]), "release: 1 recipients");
    assert_eq!(tend(&["retry", "--domain", "other.test", "--older-than", "1ms"]), "retry: 1 recipients");
    for id in [&held, &retried] {
        until("a delivery", || match events(&product, &key, id).last() {
            Some(last) if last == "email.delivered" => Ok(()),
            other => Err(format!("{other:?}")),
        });
    }
    assert!(list(&[]).starts_with("0 recipients wait"));
    product.stop().unwrap();
    assert!(refused(&setup, &["queue", "list", "--site", "mx.dst.test"]).contains("running host"));
}

#[test]
fn a_host_starts_on_the_backup_of_a_running_one() {
    let world = World::start();
    world.mx().on(Step::Rcpt(""), reply("451 4.3.0 come later"));
    let setup = Setup::new().unwrap().dns(world.dns()).delivery(&format!("port = {}", world.mx_port()));
    setup.command(&["domain", "add", "src.test"]).unwrap();
    let key = setup.create_key().unwrap();
    let product = setup.start().unwrap();
    let id = send(&product, &key, json!({ "to": "a@dst.test" }));
    let copy = setup.folder().join("copy");
    let said = setup.command(&["backup", &copy.to_string_lossy()]).unwrap();
    assert!(said.contains("1 messages") && said.contains("the master key is in it"), "{said}");
    assert!(refused(&setup, &["backup", &copy.to_string_lossy()]).contains("already there"));
    product.kill();
    let data = setup.folder().join("data");
    std::fs::remove_dir_all(&data).unwrap();
    std::fs::rename(&copy, &data).unwrap();
    world.mx().forget_rules();
    let product = setup.start().unwrap();
    setup.command(&["queue", "retry", "--all"]).unwrap();
    until("a delivery", || match events(&product, &key, &id).last() {
        Some(last) if last == "email.delivered" => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

#[test]
fn tenants_and_keys_are_made_changed_and_taken_away() {
    let setup = Setup::new().unwrap().with("[[route]]\ndomain = \"*\"\nrelay = \"127.0.0.1:1\"");
    let made = setup.command(&["tenant", "create", "acme", "--per-day", "10", "--streams", "broadcast"]).unwrap();
    let made: Value = serde_json::from_str(&made).unwrap();
    assert_eq!(made["limits"], json!({ "quotas": { "day": 10 }, "streams": ["broadcast"] }));
    let product = setup.start().unwrap();
    let updated = setup.command(&["tenant", "update", "acme", "--per-day", "none", "--streams", "none"]).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&updated).unwrap()["limits"], json!({ "quotas": {} }));
    assert!(refused(&setup, &["tenant", "update", "acme", "--streams", "bulk"]).contains("no stream `bulk`"));
    assert!(refused(&setup, &["tenant", "create", "acme"]).contains("already there"));
    setup.command(&["tenant", "pause", "acme", "--reason", "unpaid"]).unwrap();
    assert_eq!(lines(&setup.command(&["tenant", "list"]).unwrap(), "paused: unpaid"), 1);
    setup.command(&["tenant", "resume", "acme"]).unwrap();

    let created = ["key", "create", "--tenant", "acme", "--scope", "read", "--stream", "broadcast", "--name", "news"];
    let key = setup.command(&created).unwrap();
    let looks = |key: &str| {
        let bearer = format!("Bearer {key}");
        http::get(product.http, "/emails", &[("authorization", &bearer)]).unwrap().status
    };
    assert_eq!(looks(&key), 200);
    let list = setup.command(&["key", "list", "--tenant", "acme"]).unwrap();
    let line = list.lines().find(|line| line.contains("news")).unwrap();
    assert!(line.contains("broadcast") && line.contains("read") && line.contains("live"), "{list}");
    let id = line.split(' ').next().unwrap();
    let rotated = setup.command(&["key", "rotate", id, "--overlap", "1ms"]).unwrap();
    assert_eq!((looks(&key), looks(&rotated)), (403, 200));
    assert_eq!(lines(&setup.command(&["key", "list", "--tenant", "acme"]).unwrap(), "broadcast"), 2, "it stays bound");
    let secret = setup.folder().join("secret");
    std::fs::write(&secret, "an-old-password-of-16+\n").unwrap();
    setup.command(&["key", "import", "--tenant", "acme", "--file", &secret.to_string_lossy()]).unwrap();
    assert_eq!(looks("an-old-password-of-16+"), 200);
    let audit = setup.command(&["audit", "list", "--tenant", "acme"]).unwrap();
    assert!(lines(&audit, "/rotate") == 1 && lines(&audit, "POST /control/v1/keys") >= 2, "{audit}");
    let document: Value = serde_json::from_str(&setup.command(&["openapi"]).unwrap()).unwrap();
    assert!(document["openapi"] == "3.1.0" && document["paths"]["/control/v1/audit"].is_object(), "{document}");
    setup.command(&["tenant", "delete", "acme"]).unwrap();
    assert_eq!(looks(&rotated), 403);
    assert_eq!(lines(&setup.command(&["tenant", "list"]).unwrap(), "acme"), 0);
}

/// The rules of a shipped example, as a tenant's own.
#[test]
fn a_component_is_pushed_listed_and_rolled_back() {
    let file = root().join("target/components/validate.wasm");
    assert!(file.is_file(), "{} is missing: run `cargo xtask test`", file.display());
    let setup = Setup::new().unwrap();
    setup.command(&["tenant", "create", "acme"]).unwrap();
    let product = setup.start().unwrap();
    product.settled().unwrap();
    let push = |file: &Path| {
        setup.command(&["component", "push", "--tenant", "acme", "--stage", "validator", &file.to_string_lossy()])
    };
    push(&file).unwrap();
    // The same bytes with a section of their own are another version.
    let mut other = std::fs::read(&file).unwrap();
    other.extend([0, 2, 1, b'x']);
    let changed = setup.folder().join("other.wasm");
    std::fs::write(&changed, other).unwrap();
    push(&changed).unwrap();
    let list = || setup.command(&["component", "list", "--tenant", "acme"]).unwrap();
    let second = list();
    assert!(lines(&second, "validator") >= 1, "{second}");
    setup.command(&["component", "rollback", "--tenant", "acme", "--stage", "validator"]).unwrap();
    assert_ne!(list(), second);
    std::fs::write(&changed, b"no component").unwrap();
    assert!(push(&changed).unwrap_err().to_string().contains("is not a WASM component"));
}
