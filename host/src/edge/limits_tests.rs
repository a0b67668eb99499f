//! What a tenant's own components may take, what a push says of those that take more, and which component is chosen.
#![allow(clippy::unwrap_used)]

use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use contract::{StageError, Transformed, TransformerInput};
use pipeline::Stages as _;
use wasmparser::{Parser, Payload};

use super::call::Call as _;
use super::pushed_tests::{Field, refusal, saying};
use super::tests::{Folder, Setup, ask, bytes, guest, told};
use super::*;
use crate::config::{ComponentFiles, Config};
use crate::store::{OnFailure, StageSettings, TenantLimits, VersionState};

const VALIDATOR: Stage = Stage::Validator;

async fn put(field: &Field, tenant: &str, stage: Stage, file: Vec<u8>) {
    let (tenant, source) = (tenant.to_owned(), "acme.wasm".to_owned());
    let pushed = Pushed { tenant, place: stage.into(), source, file: file.into(), state: VersionState::Active };
    field.registry.push(pushed).await.unwrap();
}

async fn limit(field: &Field, limits: TenantLimits) {
    field.registry.set_limits("acme", limits).await.unwrap();
}

async fn on_failure(field: &Field, on_failure: OnFailure) {
    let settings = StageSettings { on_failure: Some(on_failure), ..StageSettings::default() };
    field.registry.set_settings("acme", VALIDATOR, settings).await.unwrap();
}

fn view(field: &Field, tenant: &str, stage: Stage) -> StageView {
    field.registry.stages(tenant).into_iter().find(|view| view.stage == stage).unwrap()
}

fn unavailable<T: std::fmt::Debug>(answer: Result<T, StageError>) -> String {
    match answer {
        Err(StageError::Unavailable(why)) => why,
        other => panic!("{other:?}"),
    }
}

fn expect_all(text: &str, parts: &[&str]) {
    let missing: Vec<_> = parts.iter().filter(|part| !text.contains(**part)).collect();
    assert!(missing.is_empty(), "{text}\ndoes not say {missing:?}");
}

/// The same component under another digest.
fn marked(name: &str, mark: u8) -> Vec<u8> {
    // A custom section.
    [bytes(name), &[0, 2, 1, mark]].concat()
}

/// The same component, which loops when it is instantiated: with one more core module, whose start function does.
fn looping(name: &str) -> Vec<u8> {
    let file = bytes(name);
    let (mut depth, mut modules) = (0, 0_u8);
    for payload in Parser::new(0).parse_all(file) {
        match payload.unwrap() {
            Payload::Version { .. } => depth += 1,
            Payload::End(_) => depth -= 1,
            Payload::ModuleSection { .. } if depth == 1 => modules += 1,
            _ => {}
        }
    }
    const MODULE: &[u8] =
        b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x03\x02\x01\0\x08\x01\0\x0a\x09\x01\x07\0\x03\x40\x0c\0\x0b\x0b";
    let instance = [2, 4, 1, 0, modules, 0];
    [file, &[1, u8::try_from(MODULE.len()).unwrap()], MODULE, &instance].concat()
}

/// What passes as a validator by its names and imports this.
fn importing(name: &str) -> Vec<u8> {
    let named = |name: &str, rest: &[u8]| {
        let length = u8::try_from(name.len()).unwrap();
        [&[1, 0, length], name.as_bytes(), rest].concat()
    };
    let section = |id: u8, content: Vec<u8>| [&[id, u8::try_from(content.len()).unwrap()], content.as_slice()].concat();
    // The type of an instance without exports, an import of it, and its export.
    let parts = [
        section(7, vec![1, 0x42, 0]),
        section(10, named(name, &[5, 0])),
        section(11, named("posthaste:validator/validator@0.1.0", &[5, 0, 0])),
    ];
    [b"\0asm\x0d\0\x01\0".as_slice(), &parts.concat()].concat()
}

#[tokio::test]
async fn cases_are_given_within_the_tenants_own_limits() {
    let field = Field::new(&Setup::new()).await;
    let conform = async |tenant: &str, file: &[u8]| {
        field.registry.conform(tenant, VALIDATOR, "acme.wasm", &Bytes::copy_from_slice(file)).await
    };
    let good = bytes("guest_stage");
    conform("acme", good).await.unwrap();
    limit(&field, TenantLimits { memory_bytes: Some(1 << 20), ..TenantLimits::default() }).await;
    let refused = conform("acme", good).await.unwrap_err().to_string();
    let within = "within the limits of tenant `acme` (time_ms 2000, memory_bytes 1048576, output_bytes 8388608";
    expect_all(&refused, &["acme.wasm: it does not stand ", within, "it asked for more than 1048576 bytes of memory"]);
    // Nobody else's limit.
    conform("other", good).await.unwrap();
    limit(&field, TenantLimits { output_bytes: Some(4), ..TenantLimits::default() }).await;
    let refused = conform("acme", good).await.unwrap_err().to_string();
    expect_all(&refused, &["output_bytes 4;", "it gave too much data at once: more than 4 bytes"]);
    limit(&field, TenantLimits { time_ms: Some(50), ..TenantLimits::default() }).await;
    let refused = conform("acme", &looping("guest_stage")).await.unwrap_err().to_string();
    let in_time = "expected an instance within 50 ms and 33554432 bytes of memory, but it ";
    expect_all(&refused, &["(time_ms 50, memory_bytes 33554432,", in_time]);
    assert!(refused.contains("more than 50 ms of CPU") || refused.contains("longer than 50 ms"), "{refused}");
    limit(&field, TenantLimits::default()).await;
    conform("acme", good).await.unwrap();
}

/// Each by its case: what was expected, and what the component did.
#[tokio::test]
async fn a_failed_case_is_told_with_what_was_expected() {
    let field = Field::new(&Setup::new()).await;
    let file = Bytes::from_static(bytes("guest_signer"));
    let refused = field.registry.conform("acme", Stage::Signer, "acme.wasm", &file).await.unwrap_err().to_string();
    let case = "ordinary text: expected an answer as the stage's interface promises it, but `conformance-rsa` is not the \
                name of a signature field";
    expect_all(&refused, &["cases of a signer", case, "; "]);
}

#[tokio::test]
async fn unknown_imports_are_told_with_what_there_is() {
    let field = Field::new(&Setup::new()).await;
    let refused = async |import: &str, parts: &[&str]| {
        let error = field.try_push_at(1, importing(import), VersionState::Active).await.unwrap_err().to_string();
        expect_all(&error, &[&format!("acme.wasm: imports `{import}`, which a validator does not get here: ")]);
        expect_all(&error, parts);
        let file = importing(import).into();
        let told = field.registry.conform("acme", VALIDATOR, "acme.wasm", &file).await.unwrap_err().to_string();
        assert_eq!(told, error, "before anything is compiled");
    };
    let wasi =
        "WASI 0.2 and 0.3 (`wasi:` cli, clocks, filesystem, http, io, random, sockets): build it without this import";
    refused("foo:bar/x", &[wasi]).await;
    refused("wasi:keyvalue/store@0.2.0", &[wasi]).await;
    refused("wasi:http/bogus@0.2.0", &["`wasi:http/{outgoing-handler, types}@0.2`", "build with those"]).await;
    refused("wasi:http/types@0.1.0", &["offered in version 0.2 and 0.3"]).await;
    refused("posthaste:keys/keys@0.1.0", &["only a signer is given the keys"]).await;
    // What is offered is no fault; this file has others.
    let error = field.try_push_at(1, importing("wasi:http/types@0.2.0"), VersionState::Active).await.unwrap_err();
    assert!(!error.to_string().contains("imports"), "{error}");
}

/// What is offered is linked: else the engine would be the one to say so.
#[tokio::test]
async fn what_guests_import_is_offered() {
    for (name, stage) in [("guest_stage", VALIDATOR), ("sign", Stage::Signer), ("render", Stage::Renderer)] {
        let outline = component::Outline::read(bytes(name)).unwrap();
        assert!(outline.imports.iter().any(|import| import.starts_with("wasi:")), "{name}: {outline:?}");
        let foreign: Vec<_> = outline.imports.iter().filter(|import| !imports::is_offered(stage, import)).collect();
        assert!(foreign.is_empty(), "{name}: {foreign:?}");
    }
}

/// Pushed, the tenant's in the configuration, the one for all, built-in: in this order, and the list names which.
#[tokio::test]
async fn the_first_of_four_answers() {
    let mut setup = Setup::new();
    let folder = Folder::new();
    std::fs::create_dir_all(&folder.0).unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.0.join(name);
        std::fs::write(&path, bytes).unwrap();
        vec![path]
    };
    setup.components = ComponentFiles {
        validator: file("shared.wasm", &saying("wait 3")),
        signer: file("shared-signer.wasm", &marked("guest_signer", 3)),
        ..ComponentFiles::default()
    };
    setup.give_validator("acme", &saying("wait 2"));
    setup.tenants.get_mut("acme").unwrap().components.signer = file("signer.wasm", &marked("guest_signer", 2));
    let field = Field::new(&setup).await;
    let digest = |file: &[u8]| component::digest(file)[..12].to_owned();
    let chosen = async |tenant: &str, source: Source, words: &str, signer: &[u8]| {
        let [validators, signers] = [VALIDATOR, Stage::Signer].map(|stage| view(&field, tenant, stage));
        assert_eq!((validators.source, signers.source), (source, source), "{tenant}");
        assert_eq!(refusal(&field.edge.stages(tenant)).await, format!("told to {words}"));
        assert_eq!((signers.own.len(), &signers.own[0].digest), (1, &digest(signer)));
    };
    chosen("acme", Source::Tenant, "wait 2", &marked("guest_signer", 2)).await;
    chosen("other", Source::Shared, "wait 3", &marked("guest_signer", 3)).await;
    put(&field, "acme", VALIDATOR, saying("wait 1")).await;
    put(&field, "acme", Stage::Signer, marked("guest_signer", 1)).await;
    chosen("acme", Source::Pushed, "wait 1", &marked("guest_signer", 1)).await;
    chosen("other", Source::Shared, "wait 3", &marked("guest_signer", 3)).await;
    for stage in [VALIDATOR, Stage::Signer] {
        field.registry.remove("acme", stage).await.unwrap();
    }
    chosen("acme", Source::Tenant, "wait 2", &marked("guest_signer", 2)).await;
    let renderer = view(&field, "acme", Stage::Renderer);
    assert_eq!((renderer.source, &*renderer.own[0].name), (Source::BuiltIn, "built-in renderer"));
    let transformer = view(&field, "acme", Stage::Transformer);
    assert_eq!((transformer.source, transformer.own.len()), (Source::BuiltIn, 0));
    drop(field);
    let plain = Field::new(&Setup::new()).await;
    let signer = view(&plain, "acme", Stage::Signer);
    assert_eq!((signer.source, &signer.own[0].digest), (Source::BuiltIn, &digest(bytes("sign"))));
    assert_eq!(refusal(&plain.edge.stages("acme")).await, "told to refuse");
}

/// The test transformer, adding another word.
fn adding(word: u8) -> Vec<u8> {
    let mut file = bytes("guest_changer").to_vec();
    let at = file.windows(6).position(|six| six == b"word 0").unwrap();
    file[at + 5] = word;
    file
}

const MESSAGE: &[u8] = b"From: a@src.test\r\nSubject: x\r\n\r\nbody\r\n";

#[tokio::test]
async fn transformers_for_all_run_first_and_stay() {
    let mut setup = Setup::new();
    setup.always = ComponentFiles { transformer: vec![guest("guest_changer")], ..ComponentFiles::default() };
    let field = Field::new(&setup).await;
    let transform = async |tenant: &str| {
        let attributes = vec![("do".to_owned(), "add add".to_owned())];
        let input = TransformerInput { message: MESSAGE.to_vec(), attributes, ..TransformerInput::default() };
        let message = field.edge.stages(tenant).transform(input).await.unwrap().message.unwrap();
        String::from_utf8(message.strip_suffix(MESSAGE).unwrap().to_vec()).unwrap()
    };
    assert_eq!(transform("acme").await, "X-Word: word 0\r\n");
    put(&field, "acme", Stage::Transformer, adding(b'1')).await;
    // Each puts its word in front: the first one's stands last.
    assert_eq!(transform("acme").await, "X-Word: word 1\r\nX-Word: word 0\r\n");
    assert_eq!(transform("other").await, "X-Word: word 0\r\n");
    let both = view(&field, "acme", Stage::Transformer);
    assert_eq!((both.source, both.always.len(), both.own.len()), (Source::Pushed, 1, 1));
    field.registry.remove("acme", Stage::Transformer).await.unwrap();
    assert_eq!(transform("acme").await, "X-Word: word 0\r\n");
    let left = view(&field, "acme", Stage::Transformer);
    assert_eq!((left.source, left.always.len(), left.own.len()), (Source::BuiltIn, 1, 0));
}

#[tokio::test]
async fn the_size_of_an_answer_is_the_tenants_own() {
    let field = Field::new(&Setup::new()).await;
    put(&field, "acme", VALIDATOR, saying("wait 1")).await;
    put(&field, "other", VALIDATOR, saying("wait 1")).await;
    assert_eq!(refusal(&field.edge.stages("acme")).await, "told to wait 1");
    limit(&field, TenantLimits { output_bytes: Some(8), ..TenantLimits::default() }).await;
    let over = unavailable(field.edge.stages("acme").validate(told("refuse")).await);
    expect_all(&over, &["pushed validator (", "it gave too much data at once: more than 8 bytes"]);
    assert_eq!(refusal(&field.edge.stages("other")).await, "told to wait 1");
    on_failure(&field, OnFailure::Fallback).await;
    assert_eq!(refusal(&field.edge.stages("acme")).await, "told to refuse", "the built-in one's limit is for all");
}

/// All turns of the one tenant are taken: its next call waits ten seconds and is deferred, whatever follows failures.
#[tokio::test]
async fn calls_at_once_are_the_tenants_own() {
    let field = Field::new(&Setup::new()).await;
    put(&field, "acme", VALIDATOR, saying("wait 1")).await;
    limit(&field, TenantLimits { calls: Some(1), ..TenantLimits::default() }).await;
    on_failure(&field, OnFailure::Reject).await;
    ask(&field.edge.stages("acme"), "accept").await;
    ask(&field.edge.stages("other"), "accept").await;
    let taken = field.edge.inner.shelf.turn(&"acme".into(), VALIDATOR, 1).await.unwrap();
    tokio::time::pause();
    let asked = tokio::time::Instant::now();
    let busy = unavailable(field.edge.stages("acme").validate(told("accept")).await);
    expect_all(&busy, &["all its instances were busy for 10 s"]);
    assert_eq!(asked.elapsed().as_secs(), 10);
    let asked = tokio::time::Instant::now();
    ask(&field.edge.stages("other"), "accept").await;
    drop(taken);
    ask(&field.edge.stages("acme"), "accept").await;
    assert!(asked.elapsed().as_secs() < 10, "nobody waited any more");
}

#[tokio::test]
async fn a_spent_share_defers_whatever_follows_failures() {
    let development = || Config::development("data".into(), ([127, 0, 0, 1], 0).into(), ([127, 0, 0, 1], 0).into());
    let mut setup = Setup::new();
    // What is so where nothing is configured.
    setup.stages.cpu_percent = development().unwrap().stages.cpu_percent;
    let field = Field::new(&setup).await;
    put(&field, "acme", VALIDATOR, saying("wait 1")).await;
    for follows in [OnFailure::Reject, OnFailure::Fallback, OnFailure::Defer] {
        on_failure(&field, follows).await;
        field.edge.inner.library.set("acme").meter.as_ref().unwrap().exhaust();
        let over = unavailable(field.edge.stages("acme").validate(told("accept")).await);
        expect_all(&over, &["its tenant's components used more than 25 % of a core"]);
    }
    ask(&field.edge.stages("other"), "accept").await;
    // Another share is another account.
    limit(&field, TenantLimits { cpu_percent: Some(26), ..TenantLimits::default() }).await;
    ask(&field.edge.stages("acme"), "accept").await;
}

#[tokio::test]
async fn what_is_idle_is_given_up_and_loaded_again() {
    let field = Field::new(&Setup::new()).await;
    put(&field, "acme", VALIDATOR, saying("wait 1")).await;
    let (loader, shelf) = (&field.edge.inner.library.loader, &field.edge.inner.shelf);
    assert_eq!(ask(&field.edge.stages("acme"), "accept").await, "1");
    let after = |seconds| Instant::now() + Duration::from_secs(seconds);
    loader.give_up_idle(after(590));
    shelf.tidy(after(50));
    assert_eq!((loader.loaded(), shelf.len()), (1, 1));
    assert_eq!(ask(&field.edge.stages("acme"), "accept").await, "2");
    loader.give_up_idle(after(610));
    shelf.tidy(after(70));
    assert_eq!((loader.loaded(), shelf.len()), (0, 0));
    assert_eq!(ask(&field.edge.stages("acme"), "accept").await, "1", "another instance, of what was loaded again");
    assert_eq!((loader.loaded(), shelf.len()), (1, 1));
}

/// From the moment on at which the next one is there, whoever is faster.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_over_the_memory_for_machine_code_gives_way() {
    let mut setup = Setup::new();
    // Less than any has: one is kept all the same.
    setup.stages.loaded_bytes = 1;
    let field = Field::new(&setup).await;
    put(&field, "one", VALIDATOR, saying("wait 1")).await;
    put(&field, "two", VALIDATOR, saying("wait 2")).await;
    for _ in 0..20 {
        for (tenant, expect) in [("one", "told to wait 1"), ("two", "told to wait 2")] {
            assert_eq!(refusal(&field.edge.stages(tenant)).await, expect);
            assert_eq!(field.edge.inner.library.loader.loaded(), 1);
        }
    }
}

/// On a reactor whose one other thread is busy: what a large message is read by must wait for that thread.
#[test]
fn large_messages_are_read_on_another_thread() {
    let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).build().unwrap();
    runtime.block_on(async {
        let (free, held) = std::sync::mpsc::channel::<()>();
        tokio::task::spawn_blocking(move || held.recv());
        let answer = |lines| {
            let message = Some([MESSAGE, &b"a line\r\n".repeat(lines)].concat());
            Transformed { message, ..Transformed::default() }
        };
        let (input, mut context) = (TransformerInput::default(), Context::from_waker(Waker::noop()));
        let mut small = answer(1000);
        assert_eq!(pin!(input.fault(&mut small, u64::MAX, None)).poll(&mut context), Poll::Ready(None));
        let mut large = answer(100_000);
        let before = large.clone();
        {
            let mut reading = pin!(input.fault(&mut large, u64::MAX, None));
            assert_eq!(reading.as_mut().poll(&mut context), Poll::Pending);
            free.send(()).unwrap();
            assert_eq!(reading.await, None);
        }
        assert!(large == before, "the message is there afterwards");
        large.message.as_mut().unwrap().extend(b"a bare\nline end\r\n");
        assert!(input.fault(&mut large, u64::MAX, None).await.is_some());
    });
}
