#![allow(clippy::unwrap_used)]
//! The shipped components stand every case; what misbehaves is told.

use mail::{Address, Envelope};

use super::*;
use crate::edge::tests::bytes;

const BOUNDS: Bounds = Bounds { time: Duration::from_secs(10), memory_bytes: 64 << 20, output_bytes: 16 << 20 };

struct Ready {
    engine: Engine,
    compiled: Compiled,
    stage: Stage,
}

fn ready(stage: Stage, component: &[u8]) -> Ready {
    let engine = engine::start(engine::PoolSize { instances: 2, memory_bytes: BOUNDS.memory_bytes }, None).unwrap();
    let linkers = Linkers::new(&engine).unwrap();
    let compiled = Compiled::stage(&engine, &linkers, stage, component).unwrap();
    Ready { engine, compiled, stage }
}

/// With this it is known that every case comes to its stage.
#[tokio::test]
async fn shipped_components_conform() {
    let shipped = [
        (Stage::Validator, "validate"),
        (Stage::Renderer, "render"),
        (Stage::Transformer, "track"),
        (Stage::Signer, "sign"),
        (Stage::Shaper, "shape"),
    ];
    let mut faults = Vec::new();
    for (stage, component) in shipped {
        let Ready { engine, compiled, .. } = ready(stage, bytes(component));
        let report = check(&engine, &compiled, stage, &BOUNDS).await;
        faults.extend(report.faults().into_iter().map(|fault| format!("{component}: {fault}")));
        let answered = report.cases.iter().filter(|case| case.outcome == Ok(Verdict::Answered)).count();
        if report.cases.len() < 10 || answered < 5 {
            faults.push(format!("{component} answers {answered} of {} cases", report.cases.len()));
        }
        assert!(report.cases.iter().all(|case| case.memory_bytes > 0 && !case.fresh.is_zero()), "{report:#?}");
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

/// Component files that were built for version 0.1.0 of the contract, one a stage, stay usable, whatever becomes of the
/// contract: each is the file that was kept, and stands the cases of its stage.
#[tokio::test]
async fn components_of_0_1_0_are_served_for_ever() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors/components");
    let readme = std::fs::read_to_string(folder.join("README.md")).unwrap();
    let sums: Vec<(&str, &str)> = readme.lines().filter_map(|line| line.split_once("  ")).collect();
    let kept = std::fs::read_dir(&folder)
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().path().extension().is_some_and(|extension| extension == "wasm"));
    assert_eq!(kept.count(), sums.len(), "every file has its digest in the README, and every digest its file");
    for stage in Stage::ALL {
        let name = format!("{stage}-0.1.0.wasm");
        let path = folder.join(&name);
        let survey = crate::edge::survey(&path).unwrap();
        assert_eq!((survey.stages, survey.foreign), (vec![stage], vec![]));
        assert!(sums.contains(&(survey.digest.as_str(), name.as_str())), "{name} is another file than the one kept");
        let Ready { engine, compiled, .. } = ready(stage, &std::fs::read(&path).unwrap());
        let report = check(&engine, &compiled, stage, &BOUNDS).await;
        assert!(report.passed(), "{name}: {:#?}", report.faults());
        let answered = report.cases.iter().filter(|case| case.outcome == Ok(Verdict::Answered)).count();
        assert!(answered >= 5, "{name} answers {answered} of {} cases", report.cases.len());
    }
}

/// A message that tells the test guest what to do.
fn told(deed: &str) -> Case {
    let message = b"From: alice@example.com\r\n\r\nx\r\n".to_vec();
    let content = pipeline::Content::Raw { message, message_id: "<1@example.com>".to_owned(), trace: Vec::new() };
    let submission = pipeline::Submission {
        envelope: Envelope { sender: None, recipients: vec![Address::parse("bob@example.net").unwrap()] },
        content,
        attributes: vec![("do".to_owned(), deed.to_owned())],
        limits: pipeline::Limits { message_bytes: 1 << 20, recipients: 1 },
        now_s: 0,
    };
    Case {
        name: deed.to_owned(),
        question: Question::Submission(Box::new(submission)),
        keys: Default::default(),
        is_result_used: true,
    }
}

#[test]
fn two_answers_are_shown_where_they_part() {
    let check = |first: &str, second: &str, expect: &str| {
        assert_eq!(differ(first.as_bytes(), second.as_bytes()), expect);
    };
    check("one", "two", "it answered `one` first and then `two`");
    check("one", "", "it answered `one` first and then ``");
    let long = |end: &str| format!("{}{end}", "0123456789".repeat(10));
    check(&long("x\n"), &long("y"), "it answered `01234567890123456789x\\n` first and then `01234567890123456789y`");
    let refused = std::str::from_utf8(NOT_ANSWERED).unwrap();
    check("", refused, "it answered first and then refused");
    check(refused, "", "it refused first and then answered");
}

#[tokio::test]
async fn misdeeds_are_told() {
    let Ready { engine, compiled, stage } = ready(Stage::Validator, bytes("guest_stage"));
    let bounds = Bounds { time: Duration::from_millis(500), memory_bytes: 32 << 20, ..BOUNDS };
    let ask = async |deed: &str| judge(&engine, &compiled, stage, &bounds, told(deed)).await.outcome;
    assert_eq!(ask("accept").await, Ok(Verdict::Answered));
    assert_eq!(ask("refuse").await, Ok(Verdict::Refused("told to refuse".to_owned())));
    assert_eq!(ask("nonsense").await, Ok(Verdict::Unavailable("cannot `nonsense`".to_owned())));
    let time = ["it used more than 500 ms of CPU", "it took longer than 500 ms"];
    let misdeeds: [(&str, &[&str]); 7] = [
        ("panic", &["it trapped: "]),
        ("recurse", &["it trapped: wasm trap: "]),
        ("allocate", &["it asked for more than 33554432 bytes of memory"]),
        ("loop", &time),
        ("sleep", &time),
        ("attributes", &["it returned 65 attributes: at most 64"]),
        ("flood", &["too much data at once: more than 16777216 bytes"]),
    ];
    for (deed, expect) in misdeeds {
        let fault = ask(deed).await.unwrap_err();
        assert!(fault.starts_with("expected an answer "), "{deed}: {fault}");
        assert!(expect.iter().any(|expect| fault.contains(expect)), "{deed}: {fault}");
    }
}

/// What the pipeline would not have is nonsense: here, header fields that are no signatures.
#[tokio::test]
async fn nonsense_is_told() {
    let Ready { engine, compiled, stage } = ready(Stage::Signer, bytes("guest_signer"));
    let report = check(&engine, &compiled, stage, &BOUNDS).await;
    let fault = report.faults().into_iter().next().unwrap();
    assert!(fault.contains("`conformance-rsa` is not the name of a signature field"), "{fault}");
    assert!(!report.passed());
}
