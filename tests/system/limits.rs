//! What senders are told when a tenant's component fails or has no time left, by HTTP and by SMTP; which component is
//! chosen; and that a swap is felt by no sender. The component is `tests/guests/misbehave`: it does what the subject says.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::http::{self, Answer};
use tests::product::{Product, Setup, free_port, root};
use tests::receiver::Receiver;
use tests::smtp::Client;

/// What is told beside what it tells of comes within this.
const LIMIT: Duration = Duration::from_secs(60);

const ROUTE: &str = "[[route]]\ndomain = \"*\"\nrelay = \"127.0.0.1:1\"\n";

/// The file that does what the subject says.
fn misbehave() -> Vec<u8> {
    let file = root().join("target/guests/misbehave.wasm");
    std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}: run `cargo xtask test`", file.display()))
}

/// The same, saying `version N` where it is asked who it is.
fn version(number: u8) -> Vec<u8> {
    let mut file = misbehave();
    let at = file.windows(9).position(|nine| nine == b"version 0").unwrap();
    file[at + 8] = number + b'0';
    file
}

fn write(setup: &Setup, name: &str, file: &[u8]) -> String {
    let path = setup.folder().join(name);
    std::fs::write(&path, file).unwrap();
    path.display().to_string()
}

/// A host and the key of its tenant `default`, who is who comes by SMTP too.
fn start(setup: &Setup) -> (Product, String) {
    setup.command(&["domain", "add", "src.test"]).unwrap();
    let key = setup.create_key().unwrap();
    let product = setup.start().unwrap();
    product.settled().unwrap();
    (product, key)
}

/// A command about the validator of the default tenant.
fn component(setup: &Setup, words: &[&str]) -> anyhow::Result<String> {
    setup.command(&[&["component", words[0], "--stage", "validator"], &words[1..]].concat())
}

fn mail(subject: &str) -> Value {
    json!({ "from": "a@src.test", "to": "b@dst.test", "subject": subject, "text": "x" })
}

fn by_http(server: SocketAddr, key: &str, subject: &str) -> Answer {
    http::post(server, "/emails", key, &mail(subject)).unwrap()
}

fn by_smtp(client: &mut Client, subject: &str) -> (u16, String) {
    let message = format!("From: a@src.test\r\nTo: b@dst.test\r\nSubject: {subject}\r\n\r\nx\r\n");
    client.submit("a@src.test", "b@dst.test", message.as_bytes()).unwrap()
}

fn has_retry_after(answer: &Answer) -> bool {
    answer.head.lines().any(|line| line.to_ascii_lowercase().starts_with("retry-after: "))
}

fn events(product: &Product, key: &str, kind: &str) -> Vec<Value> {
    let bearer = format!("Bearer {key}");
    let answer = http::get(product.http, &format!("/events?type={kind}"), &[("authorization", &bearer)]).unwrap();
    answer.json().unwrap()["data"].as_array().unwrap().clone()
}

/// The first digits of a file's digest, as logs, lists, events and metrics show it.
fn digest(file: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, file);
    digest.as_ref().iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

/// Asks until the answer fits: what is told is told beside what it tells of.
fn until(what: &str, mut fits: impl FnMut() -> bool) {
    let asked = Instant::now();
    while !fits() {
        assert!(asked.elapsed() < LIMIT, "{what}");
        std::thread::yield_now();
    }
}

#[test]
fn what_follows_a_failure_is_told_on_both_roads() {
    let setup = Setup::new().unwrap().with(ROUTE);
    let (product, key) = start(&setup);
    let file = write(&setup, "acme.wasm", &misbehave());
    // A push is refused within the tenant's own limits, with the case and the limit; nothing changes.
    setup.command(&["component", "limit", "--memory-bytes", "1179648"]).unwrap();
    let refused = component(&setup, &["push", &file]).unwrap_err().to_string();
    for part in [
        "acme.wasm: it does not stand ",
        "within the limits of tenant `default` (time_ms 5000, memory_bytes 1179648,",
        "a thousand header fields and recipients: expected an answer within 5000 ms and 1179648 bytes of memory, but it asked \
         for more than 1179648 bytes of memory",
    ] {
        assert!(refused.contains(part), "{refused}\ndoes not say {part}");
    }
    let bounds = ["--memory-bytes", "33554432", "--output-bytes", "2097152", "--time-ms", "500"];
    setup.command(&[&["component", "limit"][..], &bounds].concat()).unwrap();
    component(&setup, &["push", &file]).unwrap();
    let mut client = Client::greeted(product.smtp).unwrap();
    // Over its size, a trap, a time-out, nonsense.
    let deeds = ["headers", "grow", "trap", "loop", "nonsense"];
    let mut check = |follows: &str, status: u16, code: u16, enhanced: &str| {
        component(&setup, &["grant", "--on-failure", follows]).unwrap();
        for deed in deeds {
            let answer = by_http(product.http, &key, deed);
            assert_eq!(answer.status, status, "{follows} {deed}: {}", String::from_utf8_lossy(&answer.body));
            assert_eq!(has_retry_after(&answer), status == 503, "{follows} {deed}: {}", answer.head);
            let (found, text) = by_smtp(&mut client, deed);
            assert!(found == code && text.starts_with(enhanced), "{follows} {deed}: {found} {text}");
        }
        assert_eq!(by_http(product.http, &key, "fine").status, 200);
    };
    check("defer", 503, 451, "4.3.0");
    assert!(events(&product, &key, "component.fallback").is_empty());
    check("reject", 403, 550, "5.7.0");
    check("fallback", 200, 250, "2.");
    until("component.fallback was not told", || !events(&product, &key, "component.fallback").is_empty());
    let told = events(&product, &key, "component.fallback");
    assert_eq!(told.len(), 1, "once for all its failures: {told:?}");
}

/// All calls of the tenant's are taken: whoever waits too long is deferred, although failures are refused for good.
#[test]
fn a_tenant_without_a_free_call_is_deferred() {
    let setup = Setup::new().unwrap().with(ROUTE);
    let (product, key) = start(&setup);
    let file = write(&setup, "acme.wasm", &misbehave());
    component(&setup, &["push", &file]).unwrap();
    component(&setup, &["grant", "--on-failure", "reject"]).unwrap();
    // The one call ends after the others have waited for ten seconds.
    setup.command(&["component", "limit", "--calls", "1", "--time-ms", "15000"]).unwrap();
    let together = Arc::new(Barrier::new(4));
    let http: Vec<_> = (0..2)
        .map(|_| {
            let (server, key, together) = (product.http, key.clone(), together.clone());
            std::thread::spawn(move || {
                together.wait();
                by_http(server, &key, "sleep")
            })
        })
        .collect();
    let smtp: Vec<_> = (0..2)
        .map(|_| {
            let (server, together) = (product.smtp, together.clone());
            std::thread::spawn(move || {
                let mut client = Client::greeted(server).unwrap();
                together.wait();
                by_smtp(&mut client, "sleep")
            })
        })
        .collect();
    let answers: Vec<Answer> = http.into_iter().map(|caller| caller.join().unwrap()).collect();
    let replies: Vec<(u16, String)> = smtp.into_iter().map(|caller| caller.join().unwrap()).collect();
    let shown = format!("{:?} {replies:?}", answers.iter().map(|answer| answer.status).collect::<Vec<_>>());
    let busy = answers.iter().filter(|answer| answer.status == 503 && has_retry_after(answer)).count();
    let deferred = replies.iter().filter(|(code, text)| *code == 451 && text.starts_with("4.3.0")).count();
    let refused = answers.iter().filter(|answer| answer.status == 403).count();
    let rejected = replies.iter().filter(|(code, _)| *code == 550).count();
    // One had the call, and its component took too long.
    assert_eq!((busy + deferred, refused + rejected), (3, 1), "{shown}");
    assert_eq!(
        product.log().matches("failure=\"all its instances were busy for 10 s\"").count(),
        3,
        "{}",
        product.log()
    );
    assert_eq!(by_http(product.http, &key, "fine").status, 200);
}

/// Events by the API and by webhook, and metrics, name the version by the digits of its digest.
#[test]
fn events_and_metrics_name_the_digest() {
    let admin = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port().unwrap()));
    let more = format!("[admin]\nlisten = \"{admin}\"\n[webhooks]\nallow_private = true\n{ROUTE}");
    let setup = Setup::new().unwrap().with(&more);
    let operator = format!("Bearer {}", setup.command(&["key", "create", "--operator"]).unwrap());
    let (product, key) = start(&setup);
    let receiver = Receiver::start().unwrap();
    let kinds = ["component.fallback", "component.rolled_back"];
    let webhook = json!({ "endpoint": receiver.url(), "events": kinds });
    assert_eq!(http::post(product.http, "/webhooks", &key, &webhook).unwrap().status, 201);
    let push = |words: &[&str], name: &str, file: &[u8]| {
        let path = write(&setup, name, file);
        component(&setup, &[&["push"], words, &[&*path]].concat()).unwrap();
        digest(file)
    };
    let first = push(&[], "first.wasm", &version(1));
    component(&setup, &["grant", "--on-failure", "fallback"]).unwrap();
    assert_eq!(by_http(product.http, &key, "trap").status, 200);
    component(&setup, &["grant", "--on-failure", "defer"]).unwrap();
    // One that takes all, and nearly every request for the one that does not.
    let kept = std::fs::read(root().join("tests/vectors/components/validator-0.1.0.wasm")).unwrap();
    push(&[], "kept.wasm", &kept);
    let second = push(&["--canary", "99"], "second.wasm", &version(2));
    let digests = [&first, &second];
    let rolled_back = || !events(&product, &key, kinds[1]).is_empty();
    for number in 0..2000 {
        by_http(product.http, &key, "trap");
        if number % 20 == 19 && rolled_back() {
            break;
        }
    }
    let told = receiver.wait_for(2);
    for (kind, digest) in kinds.into_iter().zip(digests) {
        let stored = events(&product, &key, kind);
        let data = &stored[0]["data"];
        assert_eq!(
            (stored.len(), data["digest"].as_str(), data["stage"].as_str()),
            (1, Some(&**digest), Some("validator"))
        );
        let same = |told: &tests::receiver::Told| {
            let body = told.json();
            body["type"] == kind && body["data"]["digest"] == **digest
        };
        assert!(told.iter().any(same), "{kind}: {told:?}");
    }
    assert!(events(&product, &key, kinds[1])[0]["data"]["reason"].as_str().unwrap().contains("calls failed"));
    let page = http::get(admin, "/metrics", &[("authorization", &operator)]).unwrap();
    let page = String::from_utf8(page.body).unwrap();
    for digest in digests {
        let is_failed = |line: &str| {
            let labels =
                ["posthaste_stage_call_seconds_count{", &format!("component=\"{digest}\""), "result=\"failed\""];
            labels.iter().all(|label| line.contains(label)) && line.contains("stage=\"validator\"")
        };
        assert!(page.lines().any(|line| is_failed(line) && !line.ends_with(" 0")), "{digest} is not in\n{page}");
    }
}

/// Each line of the list names where the component comes from, in the order of calls.
#[test]
fn the_list_names_the_source_of_each() {
    let setup = Setup::new().unwrap();
    let [always, shared, own, pushed] = ["always", "shared", "own", "pushed"]
        .map(|name| write(&setup, &format!("{name}.wasm"), &version(name.len() as u8)));
    let setup = setup.with(&format!(
        "[components.always]\nvalidator = \"{always}\"\n[components]\nvalidator = \"{shared}\"\n\
         [tenant.acme.components]\nvalidator = \"{own}\"\n"
    ));
    let product = setup.start().unwrap();
    product.settled().unwrap();
    let sources = |tenant: &str, stage: &str| {
        let list = setup.command(&["component", "list", "--tenant", tenant]).unwrap();
        let rows = list.lines().take_while(|line| !line.is_empty()).filter(|line| line.starts_with(stage));
        rows.map(|line| line.split_whitespace().nth(1).unwrap().to_owned()).collect::<Vec<_>>()
    };
    setup.command(&["tenant", "create", "other"]).unwrap();
    assert_eq!(sources("other", "validator"), ["[components.always]", "[components]"]);
    assert_eq!(sources("acme", "validator"), ["[components.always]", "[tenant.NAME.components]"]);
    setup.command(&["component", "push", "--tenant", "acme", "--stage", "validator", &pushed]).unwrap();
    assert_eq!(sources("acme", "validator"), ["[components.always]", "pushed"]);
    assert_eq!(sources("acme", "signer"), ["built-in"]);
    setup.command(&["component", "remove", "--tenant", "acme", "--stage", "validator"]).unwrap();
    assert_eq!(sources("acme", "validator"), ["[components.always]", "[tenant.NAME.components]"]);
    let unknown = setup.command(&["component", "list", "--tenant", "nobody"]).unwrap_err().to_string();
    assert!(unknown.contains("there is no tenant `nobody`: `posthaste tenant list`"), "{unknown}");
}

/// Which version refused: `version N`. Any other answer is a failure.
fn who(text: &str) -> u8 {
    let at = text.find("version ").unwrap_or_else(|| panic!("no version answered: {text}"));
    text.as_bytes()[at + 8] - b'0'
}

/// The versions of a batch of messages that one request carries.
fn of_batch(server: SocketAddr, key: &str) -> Vec<u8> {
    let bearer = format!("Bearer {key}");
    let headers = [("authorization", bearer.as_str()), ("x-batch-validation", "permissive")];
    let body = json!(vec![mail("who"); 4]).to_string();
    let answer = http::request(server, "POST", "/emails/batch", &headers, body.as_bytes()).unwrap();
    let body = answer.json().unwrap();
    let errors = body["errors"].as_array().unwrap_or_else(|| panic!("{} {body}", answer.status));
    assert_eq!(errors.len(), 4, "{body}");
    errors.iter().map(|error| who(error["message"].as_str().unwrap())).collect()
}

/// Senders on both roads while five versions are pushed: each request is one version's from begin to end, none fails, and
/// none that begins after a push was answered has an older one.
#[test]
fn senders_on_both_roads_feel_no_swap() {
    let setup = Setup::new().unwrap().with(ROUTE);
    let (product, key) = start(&setup);
    let push = |number: u8| {
        let file = write(&setup, "acme.wasm", &version(number));
        component(&setup, &["push", &file]).unwrap()
    };
    push(1);
    let is_over = Arc::new(AtomicBool::new(false));
    let mut senders = Vec::new();
    for _ in 0..2 {
        let (server, key, over) = (product.http, key.clone(), is_over.clone());
        senders.push(std::thread::spawn(move || {
            let mut seen = Vec::new();
            while !over.load(Ordering::Relaxed) {
                let versions = of_batch(server, &key);
                assert!(versions.iter().all(|one| *one == versions[0]), "one request, one set: {versions:?}");
                seen.push(versions[0]);
            }
            seen
        }));
        let (server, over) = (product.smtp, is_over.clone());
        senders.push(std::thread::spawn(move || {
            let mut client = Client::greeted(server).unwrap();
            let mut seen = Vec::new();
            while !over.load(Ordering::Relaxed) {
                let (code, text) = by_smtp(&mut client, "who");
                assert_eq!(code, 550, "{text}");
                seen.push(who(&text));
            }
            seen
        }));
    }
    let mut activations = Vec::new();
    for number in 2..=6 {
        let said = push(number);
        let milliseconds = said.split("is active, ").nth(1).and_then(|rest| rest.split(' ').next());
        activations.push(milliseconds.unwrap_or_else(|| panic!("{said}")).parse::<u64>().unwrap());
        assert_eq!(of_batch(product.http, &key), [number; 4]);
        let (code, text) = by_smtp(&mut Client::greeted(product.smtp).unwrap(), "who");
        assert_eq!((code, who(&text)), (550, number));
    }
    is_over.store(true, Ordering::Relaxed);
    for sender in senders {
        let seen = sender.join().unwrap();
        assert!(seen.is_sorted(), "an older version after a newer one: {seen:?}");
        assert!(seen.len() >= 10 && seen[0] < seen[seen.len() - 1], "no swap came between: {seen:?}");
    }
    // The promise is for each; a machine that does much else may break it for some.
    activations.sort_unstable();
    assert!(activations[2] < 200, "{activations:?} ms");
}
