//! Sending domains as their operator runs them: rotation with overlap, imported keys, the master key.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use serde_json::json;
use tests::http;
use tests::product::{Product, Setup, free_port};
use tests::world::World;

const ARRIVAL_LIMIT: Duration = Duration::from_secs(30);

/// Publishes the lines of zone files among these.
fn publish(world: &World, lines: &str) {
    lines.lines().filter(|line| line.contains(" IN TXT ")).for_each(|line| {
        world.publish(&format!("{}\n", line.trim_start_matches("  publish: ").replace(". IN", "")));
    });
}

/// Sends one message, waits for it, and gives the selectors that signed it.
fn selectors_of_next(world: &World, product: &Product, key: &str) -> Vec<String> {
    let before = world.received().len();
    let bearer = format!("Bearer {key}");
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    let mail = json!({ "from": "a@src.test", "to": "b@dst.test", "subject": "Hi", "text": "x" }).to_string();
    let answer = http::request(product.http, "POST", "/emails", &headers, mail.as_bytes()).unwrap();
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
    world.wait_until(ARRIVAL_LIMIT, |received| match received.len() {
        there if there > before => Ok(()),
        _ => Err("nothing arrived".to_owned()),
    });
    let body = String::from_utf8_lossy(&world.received()[before].body).into_owned();
    let mut selectors: Vec<String> = body
        .split("s=")
        .skip(1)
        .filter_map(|rest| rest.split_once(';').map(|(selector, _)| selector.trim().to_owned()))
        .filter(|selector| selector.starts_with('s'))
        .collect();
    selectors.sort();
    selectors
}

#[test]
fn keys_are_rotated_while_mail_flows() {
    let world = World::start();
    let setup = Setup::new().unwrap().dns(world.dns()).delivery(&format!("port = {}", world.mx_port()));
    let records = setup.command(&["domain", "add", "src.test", "--selector", "s1"]).unwrap();
    assert!(
        records.contains("s1._domainkey.src.test.") && records.contains("s1-ed25519._domainkey.src.test."),
        "{records}"
    );
    let key = setup.create_key().unwrap();
    let product = setup.start().unwrap();
    let list = setup.command(&["domain", "list"]).unwrap();
    assert!(list.contains("2 active") && list.contains("never"), "{list}");
    let shown = setup.command(&["domain", "check", "src.test"]).unwrap();
    assert!(shown.contains("s1._domainkey.src.test is not published"), "{shown}");
    let list = setup.command(&["domain", "list"]).unwrap();
    assert!(list.contains("sends (2 DKIM records missing)"), "{list}");
    publish(&world, &records);
    let shown = setup.command(&["domain", "check", "src.test"]).unwrap();
    assert!(shown.contains("s1._domainkey.src.test is published") && shown.contains("1 of 10 look-ups"), "{shown}");
    assert_eq!(selectors_of_next(&world, &product, &key), ["s1", "s1-ed25519"]);

    let rotated = setup.command(&["domain", "rotate", "src.test", "--selector", "s2"]).unwrap();
    assert_eq!(rotated.lines().filter(|line| line.contains(" IN TXT ")).count(), 2, "{rotated}");
    setup.command(&["domain", "check", "src.test"]).unwrap();
    assert_eq!(selectors_of_next(&world, &product, &key), ["s1", "s1-ed25519"], "nobody has published the new ones");
    let refused = setup.command(&["domain", "rotate", "src.test"]).unwrap_err().to_string();
    assert!(refused.contains("waits for its record s2"), "{refused}");
    publish(&world, &rotated);
    let switched = setup.command(&["domain", "check", "src.test"]).unwrap();
    assert_eq!(switched.matches("record stays until ").count(), 2, "{switched}");
    assert_eq!(selectors_of_next(&world, &product, &key), ["s2", "s2-ed25519"]);

    // A key of the user's own, by a file; what is no key is told with its field.
    let file = tests::product::root().join("tests/vectors/keys/rsa-2048-pkcs1.pem");
    let import = |file: &str| setup.command(&["domain", "import-key", "src.test", "--selector", "s3", file, "--now"]);
    let nonsense = import(setup.folder().join("posthaste.toml").to_str().unwrap()).unwrap_err().to_string();
    assert!(nonsense.contains("private_key: it holds no private key"), "{nonsense}");
    import(file.to_str().unwrap()).unwrap();
    assert_eq!(selectors_of_next(&world, &product, &key), ["s2-ed25519", "s3"]);
    let audit = setup.command(&["audit", "list"]).unwrap();
    assert!(audit.contains("domains/src.test/rotate") && !audit.contains("BEGIN"), "{audit}");

    // Gone at once, with what to publish in their place.
    let leaked = setup.command(&["domain", "rotate", "src.test", "--now", "--selector", "s4"]).unwrap();
    assert!(leaked.contains("s3._domainkey.src.test. IN TXT \"v=DKIM1; p=\""), "{leaked}");
    assert_eq!(selectors_of_next(&world, &product, &key), ["s4", "s4-ed25519"]);

    // The master key is exchanged in a running host, and a killed one opens everything with the new one.
    let path = setup.folder().join("data/master.key");
    let old = std::fs::read(&path).unwrap();
    let done = setup.command(&["master-key", "rotate"]).unwrap();
    assert!(done.contains("2 of 2 secrets were sealed anew"), "{done}");
    assert_ne!(std::fs::read(&path).unwrap(), old);
    assert_eq!(selectors_of_next(&world, &product, &key), ["s4", "s4-ed25519"]);
    product.kill();
    let product = setup.start().unwrap();
    assert_eq!(selectors_of_next(&world, &product, &key), ["s4", "s4-ed25519"]);
    product.stop().unwrap();
    // And without a host, where an exchange was broken off: any command goes on with it.
    let next = setup.folder().join("data/master.key.next");
    std::fs::copy(setup.folder().join("data/master.key"), &next).unwrap();
    std::fs::write(&next, format!("{}=\n", "A".repeat(43))).unwrap();
    setup.command(&["domain", "list"]).unwrap();
    assert!(!next.exists() && std::fs::read(&path).unwrap().starts_with(b"AAAA"));
    let product = setup.start().unwrap();
    assert_eq!(selectors_of_next(&world, &product, &key), ["s4", "s4-ed25519"]);
}

/// What `domain add` prints is complete, and says what each record that is advised does; the answer of the API has the same.
#[test]
fn records_are_told_with_their_meaning() {
    let admin = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port().unwrap()));
    let setup = Setup::new().unwrap().with(&format!(
        "[admin]\nlisten = \"{admin}\"\n[domains]\nreturn_path_target = \"bounces.relay.test\"\n\
         tracking_target = \"links.relay.test\""
    ));
    let said = setup.command(&["domain", "add", "src.test", "--selector", "s1"]).unwrap();
    let lines: Vec<&str> = said.lines().collect();
    let dkim = ["s1._domainkey.src.test. IN TXT \"v=DKIM1; ", "s1-ed25519._domainkey.src.test. IN TXT \"v=DKIM1; "];
    for record in dkim {
        assert!(lines.iter().any(|line| line.starts_with(record)), "{record}: {said}");
    }
    // Each with the line above it, which says what it is for.
    let advised = [
        ("src.test. IN TXT \"v=spf1 a:relay.test ~all\"", "merge it with an SPF record that is there"),
        (
            "_dmarc.src.test. IN TXT \"v=DMARC1; p=none\"",
            "p=none changes nothing yet; with rua=mailto:… receivers report, and p=quarantine or p=reject then has them \
             act on mail that is not yours",
        ),
        ("bounces.src.test. IN CNAME bounces.relay.test.", "bounces come back by it"),
        ("links.src.test. IN CNAME links.relay.test.", "links in mail lead through it"),
    ];
    for (record, meaning) in advised {
        let at = lines.iter().position(|line| *line == record).unwrap_or_else(|| panic!("{record}: {said}"));
        assert!(lines[at - 1].starts_with("; ") && lines[at - 1].contains(meaning), "{record}: {said}");
    }
    assert_eq!(setup.command(&["domain", "records", "src.test"]).unwrap(), said);

    let key = format!("Bearer {}", setup.command(&["key", "create", "--operator"]).unwrap());
    let _product = setup.start().unwrap();
    let answer = http::get(admin, "/control/v1/domains/src.test", &[("authorization", &key)]).unwrap();
    let answer = answer.json().unwrap();
    let records = answer["records"].as_array().unwrap();
    assert_eq!(records.len(), dkim.len() + advised.len(), "{answer}");
    for record in records {
        let zone_line = record["zone_line"].as_str().unwrap();
        let (name, kind, value) = (&record["name"], &record["type"], &record["value"]);
        assert!(lines.contains(&zone_line), "{record}");
        assert!(zone_line.starts_with(&format!("{}. IN {} ", name.as_str().unwrap(), kind.as_str().unwrap())));
        assert!(!value.as_str().unwrap().is_empty(), "{record}");
        let meaning = advised.iter().find(|(line, _)| *line == zone_line).map(|(_, meaning)| *meaning);
        let note = record["note"].as_str();
        assert!(meaning.is_none_or(|meaning| note.is_some_and(|note| note.contains(meaning))), "{record}");
        assert_eq!(record["required"], json!(meaning.is_none()), "{record}");
    }
}
