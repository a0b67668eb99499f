//! What operators type: keys, domains and the check of the set-up, against the stopped and the running host.

use std::process::{Command, Output};

use tests::fake_dns::FakeDns;
use tests::fake_mx::FakeMx;
use tests::http;
use tests::product::{Setup, binary};
use tokio::runtime::Runtime;

/// Runs a command with the configuration of a set-up, whatever comes of it.
fn run(setup: &Setup, words: &[&str]) -> Output {
    let config = setup.folder().join("posthaste.toml");
    Command::new(binary().unwrap()).args(words).arg("--config").arg(config).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The lines of a check with this mark.
fn marked<'a>(report: &'a str, mark: &str) -> Vec<&'a str> {
    report.lines().filter(|line| line.starts_with(mark)).collect()
}

#[test]
fn a_key_is_printed_alone_and_works_until_it_is_revoked() {
    let setup = Setup::new().unwrap();
    // Once while no host runs, once through the running one.
    let early = setup.create_key().unwrap();
    let product = setup.start().unwrap();
    let late = setup.create_key().unwrap();
    for key in [&early, &late] {
        assert!(key.starts_with("ph_") && !key.contains(char::is_whitespace), "{key}");
        let authorization = format!("Bearer {key}");
        let answer = http::get(product.http, "/emails", &[("authorization", &authorization)]).unwrap();
        assert_eq!(answer.status, 200, "{key}");
    }
    let list = setup.command(&["key", "list"]).unwrap();
    assert!(!list.contains(&early) && list.lines().count() == 3, "{list}");
    let id = list.lines().find(|line| line.contains(&early[..11])).unwrap().split(' ').next().unwrap().to_owned();
    setup.command(&["key", "revoke", &id]).unwrap();
    let authorization = format!("Bearer {early}");
    let answer = http::get(product.http, "/emails", &[("authorization", &authorization)]).unwrap();
    assert!(matches!(answer.status, 401 | 403), "{}", answer.status);
    let again = run(&setup, &["key", "revoke", &id]);
    assert_eq!(again.status.code(), Some(1), "revoked already");
    assert_eq!(run(&setup, &["key", "make"]).status.code(), Some(2), "wrong usage");
}

#[test]
fn the_check_follows_what_is_published() {
    let runtime = Runtime::new().unwrap();
    let (dns, mx) = runtime.block_on(async {
        let zone = "relay.test A 203.0.113.7\nprobe.test MX 10 mx.probe.test\nmx.probe.test A 127.0.0.1\n";
        (FakeDns::start(zone).await, FakeMx::start().await)
    });
    let setup = Setup::new().unwrap().dns(dns.address()).delivery(&format!("port = {}", mx.port()));
    let records = setup.command(&["domain", "add", "example.com"]).unwrap();
    let needed: Vec<&str> = records.lines().filter(|line| line.contains("._domainkey.example.com. IN TXT")).collect();
    assert_eq!(needed.len(), 2, "{records}");

    // Neither the PTR record nor the keys are published.
    let before = run(&setup, &["check", "--probe-domain", "probe.test"]);
    let report = text(&before.stdout);
    assert_eq!(before.status.code(), Some(1), "{report}");
    assert_eq!(marked(&report, "FAIL").len(), 3, "{report}");
    assert!(report.contains("203.0.113.7 has no PTR record") && report.contains("is not published"), "{report}");
    assert!(marked(&report, "ok").iter().any(|line| line.contains("port 25") && line.contains("greets")), "{report}");

    dns.add("7.113.0.203.in-addr.arpa PTR relay.test");
    records.lines().filter(|line| !line.starts_with(';')).for_each(|line| dns.add(&line.replace(". IN", "")));
    let after = run(&setup, &["check", "--probe-domain", "probe.test"]);
    let report = text(&after.stdout);
    assert_eq!(after.status.code(), Some(0), "{report}");
    assert!(report.contains("203.0.113.7 is relay.test"), "{report}");
    assert_eq!(marked(&report, "ok").iter().filter(|line| line.contains("domains")).count(), 4, "{report}");

    // A host that runs is asked instead. A port that is closed is told, but says nothing of the way out.
    let _product = setup.start().unwrap();
    drop(mx);
    let closed = run(&setup, &["check", "--probe-domain", "probe.test"]);
    let report = text(&closed.stdout);
    assert_eq!(closed.status.code(), Some(0), "{report}");
    assert!(report.contains("the host runs"), "{report}");
    assert!(
        marked(&report, "warn").iter().any(|line| line.contains("port 25") && line.contains("refused")),
        "{report}"
    );
}

#[test]
fn a_check_of_a_bad_configuration_tells_all_faults() {
    let setup = Setup::new().unwrap();
    std::fs::write(setup.folder().join("posthaste.toml"), "hostnme = 1\ndata = \"d\"\n[smtp]\nlisten = [\"25\"]\n")
        .unwrap();
    let output = run(&setup, &["check"]);
    let report = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1));
    for part in ["did you mean `hostname`", "`hostname` is missing", "`25` is not address:port"] {
        assert!(report.contains(part), "{report}");
    }
    assert!(!setup.folder().join("d").exists(), "a check makes nothing");
}

#[test]
fn status_says_whether_it_runs() {
    let setup = Setup::new().unwrap();
    setup.create_key().unwrap();
    let stopped = run(&setup, &["status"]);
    assert_eq!((stopped.status.code(), text(&stopped.stdout).starts_with("stopped")), (Some(1), true));
    let product = setup.start().unwrap();
    let running = run(&setup, &["status"]);
    let report = text(&running.stdout);
    assert_eq!(running.status.code(), Some(0), "{report}");
    for part in ["running", &product.http.to_string(), &product.smtp.to_string(), "nothing waits"] {
        assert!(report.contains(part), "{report}");
    }
}
