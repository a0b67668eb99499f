//! Components that an operator pushes, tries and takes back by the command line, while the host runs.

use std::time::Duration;

use serde_json::json;
use tests::http;
use tests::product::{Product, Setup, root};
use tests::receiver::{Receiver, Reply};

/// How long a start may take until all is compiled and tried.
const LIMIT: Duration = Duration::from_secs(100);

/// A validator that does what the subject says: `tests/guests/misbehave`.
fn misbehave() -> String {
    let file = root().join("target/guests/misbehave.wasm");
    assert!(file.is_file(), "{} is missing: run `cargo xtask test`", file.display());
    file.display().to_string()
}

/// A validator that was built when the contract's first version began, and takes all of these messages.
fn kept() -> String {
    root().join("tests/vectors/components/validator-0.1.0.wasm").display().to_string()
}

fn start() -> (Setup, Product, String) {
    let setup = Setup::new().unwrap().with("[[route]]\ndomain = \"*\"\nrelay = \"127.0.0.1:1\"");
    setup.command(&["domain", "add", "src.test"]).unwrap();
    let key = setup.create_key().unwrap();
    let product = setup.start().unwrap();
    product.settled().unwrap();
    (setup, product, key)
}

/// The status of a message with this subject, and what was said.
fn send(product: &Product, key: &str, subject: &str) -> (u16, String) {
    let body = json!({"from": "a@src.test", "to": "b@dst.test", "subject": subject, "text": "x"});
    let answer = http::post(product.http, "/emails", key, &body).unwrap();
    (answer.status, String::from_utf8_lossy(&answer.body).into_owned())
}

/// A command about the validator of the default tenant.
fn component(setup: &Setup, words: &[&str]) -> anyhow::Result<String> {
    let of = ["--tenant", "default", "--stage", "validator"];
    setup.command(&[&["component"], &words[..1], &of, &words[1..]].concat())
}

/// The lines of `component list` about versions, oldest first: number and state.
fn versions(setup: &Setup) -> Vec<(String, String)> {
    let list = setup.command(&["component", "list", "--tenant", "default"]).unwrap();
    let rows = list.lines().skip_while(|line| !line.contains("VERSION")).skip(1);
    let mut rows: Vec<(String, String)> = rows
        .map(|row| {
            let mut words = row.split_whitespace().skip(1);
            (words.next().unwrap().to_owned(), words.next().unwrap().to_owned())
        })
        .collect();
    rows.reverse();
    rows
}

fn states(setup: &Setup) -> Vec<String> {
    versions(setup).into_iter().map(|(_, state)| state).collect()
}

#[test]
fn push_rollback_and_activate_by_command() {
    let (setup, product, key) = start();
    let unavailable = |expect: bool| {
        let (status, text) = send(&product, &key, "unavailable");
        assert_eq!(status, if expect { 503 } else { 200 }, "{text}");
    };
    unavailable(false);
    let said = component(&setup, &["push", &misbehave()]).unwrap();
    assert!(said.starts_with("validator version 1 (") && said.contains(") is active, "), "{said}");
    unavailable(true);
    assert_eq!(send(&product, &key, "fine").0, 200);
    component(&setup, &["push", &kept()]).unwrap();
    unavailable(false);
    assert_eq!(states(&setup), ["retired", "active"]);
    component(&setup, &["rollback"]).unwrap();
    unavailable(true);
    assert_eq!(states(&setup), ["active", "rolled_back"]);
    component(&setup, &["activate", "--number", "2"]).unwrap();
    unavailable(false);
    // What was pushed and chosen outlives the host.
    drop(product);
    let product = setup.start().unwrap();
    product.settled().unwrap();
    let list = component(&setup, &["remove"]).unwrap();
    assert!(list.contains("built-in"), "{list}");
    assert_eq!(send(&product, &key, "unavailable").0, 200);
    // Errors name the file and what to do, and change nothing.
    let text = setup.folder().join("text.wasm");
    std::fs::write(&text, "this is text").unwrap();
    let wrong = component(&setup, &["push", &text.display().to_string()]).unwrap_err().to_string();
    assert!(wrong.contains("text.wasm: is not a WASM component"), "{wrong}");
    let name = b"posthaste:validator/validator@0.1.0";
    let mut file = std::fs::read(kept()).unwrap();
    let places: Vec<usize> = (0..file.len()).filter(|at| file[*at..].starts_with(name)).collect();
    places.iter().for_each(|at| file[at + name.len() - 3] = b'2');
    std::fs::write(&text, file).unwrap();
    let wrong = component(&setup, &["push", &text.display().to_string()]).unwrap_err().to_string();
    assert!(wrong.contains("validator@0.2.0`, and this host serves version 0.1 of that interface"), "{wrong}");
    let wrong = component(&setup, &["rollback"]).unwrap_err().to_string();
    assert!(wrong.contains("an active version"), "{wrong}");
    assert_eq!(versions(&setup).len(), 2);
    // Two validators, one behind the other: each must accept.
    component(&setup, &["push", &kept()]).unwrap();
    let said = component(&setup, &["push", "--position", "2", &misbehave()]).unwrap();
    assert!(said.starts_with("validator-2 version 1 ("), "{said}");
    assert_eq!(send(&product, &key, "unavailable").0, 503);
    let list = setup.command(&["component", "list"]).unwrap();
    let answering: Vec<Vec<&str>> = list.lines().map(|line| line.split_whitespace().take(2).collect()).collect();
    let at = answering.iter().position(|words| words == &["validator", "pushed"]).unwrap_or_else(|| panic!("{list}"));
    assert_eq!(answering[at + 1], ["validator-2", "pushed"], "{list}");
    // Versions and trials are those of a position; one canary is on trial in a stage.
    component(&setup, &["push", "--position", "2", &kept()]).unwrap();
    assert_eq!(send(&product, &key, "unavailable").0, 200);
    component(&setup, &["canary", "--position", "2", "--number", "1", "--percent", "99"]).unwrap();
    let wrong = component(&setup, &["canary", "--number", "1", "--percent", "1"]).unwrap_err().to_string();
    assert!(wrong.contains("version 1 of the validator-2 is on trial: end that trial first"), "{wrong}");
    component(&setup, &["activate", "--position", "2", "--number", "1"]).unwrap();
    assert_eq!(send(&product, &key, "unavailable").0, 503);
    component(&setup, &["remove", "--position", "2"]).unwrap();
    assert_eq!(send(&product, &key, "unavailable").0, 200);
    let list = setup.command(&["component", "list"]).unwrap();
    assert!(list.lines().any(|line| line.starts_with("validator ") && line.contains("pushed")), "{list}");
    let wrong = setup.command(&["component", "rollback", "--stage", "signer", "--position", "2"]).unwrap_err();
    assert!(wrong.to_string().contains("there is one signer"), "{wrong}");
}

#[test]
fn a_bad_canary_goes_by_itself_and_a_good_one_is_activated() {
    let (setup, product, key) = start();
    component(&setup, &["push", &kept()]).unwrap();
    let said = component(&setup, &["push", "--canary", "50", &misbehave()]).unwrap();
    assert!(said.contains("version 2") && said.contains(") is a canary for "), "{said}");
    let is_over = || states(&setup) == ["active", "rolled_back"];
    let mut refused = 0;
    // Some hundred of its calls fail before it is judged; half of the requests are the active one's.
    for number in 0..2000 {
        refused += usize::from(send(&product, &key, "unavailable").0 == 503);
        if number % 50 == 49 && is_over() {
            break;
        }
    }
    assert!(is_over() && refused >= 100, "{refused} refused, {:?}", versions(&setup));
    let list = setup.command(&["component", "list", "--tenant", "default"]).unwrap();
    assert!(list.contains("calls failed, against 0 of"), "{list}");
    assert_eq!(send(&product, &key, "unavailable").0, 200);
    component(&setup, &["canary", "--percent", "10", "--number", "2"]).unwrap();
    assert_eq!(states(&setup), ["active", "canary"]);
    component(&setup, &["canary", "--off"]).unwrap();
    assert_eq!(states(&setup), ["active", "rolled_back"]);
    component(&setup, &["shadow", "--number", "2"]).unwrap();
    assert_eq!(send(&product, &key, "unavailable").0, 200, "a shadow's answer is not used");
    component(&setup, &["activate", "--number", "2"]).unwrap();
    assert_eq!(send(&product, &key, "unavailable").0, 503);
}

/// By URL: the host fetches the file, and takes it where the digest is the one that was named.
#[test]
fn a_component_is_pushed_by_url() {
    let setup = Setup::new().unwrap();
    // A development host reaches this machine.
    let product = setup.start_development("ph_test").unwrap();
    let file: &'static [u8] = std::fs::read(misbehave()).unwrap().leak();
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, file);
    let digest: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let server = Receiver::start().unwrap();
    server.script(&[Reply::Body(file), Reply::Body(file), Reply::Status(404, "")]);
    let url = format!("http://{}/misbehave.wasm", server.address());
    let data = setup.folder().join("data").display().to_string();
    let push = |digest: &str| {
        let words = ["component", "push", "--data", &data, "--stage", "validator", "--sha256", digest, &url];
        let output = std::process::Command::new(tests::product::binary().unwrap()).args(words).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    let (done, said) = push(&"0".repeat(64));
    assert!(!done && said.contains(&format!("has the digest {digest}")), "{said}");
    let (done, said) = push(&digest);
    assert!(done && said.starts_with("validator version 1 ("), "{said}");
    assert!(said.contains("misbehave.wasm: the host fetches, compiles and tests it"), "{said}");
    let (done, said) = push(&digest);
    assert!(!done && said.contains("answered 404"), "{said}");
    assert_eq!(send(&product, "ph_test", "unavailable").0, 503);
}

/// What the configuration names is given the cases of its stage: by the check, and at the start with a line in the log.
#[test]
fn configured_components_are_given_the_cases_of_their_stage() {
    // It traps for a subject that no case has: it stands them all, unless it has too little memory.
    let named = format!("[tenant.acme.components]\nvalidator = \"{}\"", misbehave());
    let report_of = |setup: &Setup| {
        setup.command(&["key", "list"]).unwrap();
        let config = setup.folder().join("posthaste.toml");
        let words = ["check".as_ref(), "--config".as_ref(), config.as_os_str()];
        let output = std::process::Command::new(tests::product::binary().unwrap()).args(words).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let report = report_of(&Setup::new().unwrap().with(&named));
    assert!(report.contains("misbehave.wasm stands all ") && report.contains(" cases of its stage"), "{report}");
    // One page above what it begins with.
    let tight = Setup::new().unwrap().with(&named).with("[stages]\nmemory_bytes = 1179648");
    let report = report_of(&tight);
    let line = report.lines().find(|line| line.contains("misbehave.wasm")).unwrap_or_default();
    assert!(line.starts_with("FAIL") && line.contains("does not stand "), "{report}");
    let product = tight.start().unwrap();
    let asked = std::time::Instant::now();
    while !product.log().contains("a configured component does not stand the cases of its stage") {
        assert!(asked.elapsed() < LIMIT, "{}", product.log());
        // Nothing tells an outsider that a line was logged but looking again.
        std::thread::sleep(Duration::from_millis(20));
    }
}
