//! Components that are pushed while requests go on: chosen, swapped, tried, taken back, limited.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use contract::{Acceptance, Header, StageError, Transformed, TransformerInput, ValidatorInput};
use pipeline::Stages as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::tests::{Desk, Folder, Setup, TIME, Vault, ask, bytes, guest, shipped, told};
use super::*;
use crate::config::{ComponentFiles, Dns};
use crate::store::{
    AuditLog as _, ComponentStore, Embedded, OnFailure, Options, StageSettings, TenantLimits, Tenants, VersionState,
};
use crate::web::Web;
use crate::web::address::Reachable;

/// A host's components over a store of their own.
pub(super) struct Field {
    pub registry: Arc<Registry>,
    pub edge: Arc<Edge>,
    store: Arc<Embedded>,
    _folder: Folder,
}

impl Field {
    pub async fn new(setup: &Setup) -> Field {
        let folder = Folder::new();
        std::fs::create_dir_all(&folder.0).unwrap();
        let store = Embedded::open(&folder.0, Options { retention: None, ..Options::default() }).unwrap();
        Field::over(setup, store, folder).await
    }

    async fn over(setup: &Setup, store: Arc<Embedded>, folder: Folder) -> Field {
        let built_in = BuiltIn { validator: Some(bytes("guest_stage")), ..shipped() };
        let edge = setup.edge_of(built_in, Arc::new(Desk), Arc::new(Vault)).unwrap();
        let registry = Arc::new(Registry::open(store.clone(), edge.clone()).await.unwrap());
        Field { registry, edge, store, _folder: folder }
    }

    async fn try_push(&self, file: impl Into<Bytes>, state: VersionState) -> Result<u32, RegistryError> {
        self.try_push_at(1, file, state).await
    }

    pub async fn try_push_at(
        &self,
        position: u8,
        file: impl Into<Bytes>,
        state: VersionState,
    ) -> Result<u32, RegistryError> {
        let pushed = Pushed {
            tenant: "acme".to_owned(),
            place: Place { stage: Stage::Validator, position },
            source: "acme.wasm".to_owned(),
            file: file.into(),
            state,
        };
        self.registry.push(pushed).await.map(|(version, _)| version.version)
    }

    pub async fn push(&self, file: impl Into<Bytes>) -> u32 {
        self.try_push(file, VersionState::Active).await.unwrap()
    }

    async fn states(&self) -> Vec<VersionState> {
        let versions = self.registry.versions("acme", Stage::Validator).await.unwrap();
        versions.into_iter().map(|version| version.state).collect()
    }

    /// The words that a tenant's validator refuses with.
    async fn refusal(&self, tenant: &str) -> String {
        refusal(&self.edge.stages(tenant)).await
    }
}

pub(super) async fn refusal(stages: &TenantStages) -> String {
    match stages.validate(told("refuse")).await {
        Err(StageError::Refused(finding)) => finding.text,
        other => panic!("{other:?}"),
    }
}

/// The test validator, refusing with other words: `told to <word>`. `word` has six letters.
pub(super) fn saying(word: &str) -> Vec<u8> {
    let (from, to) = (b"told to refuse", format!("told to {word}"));
    let mut file = bytes("guest_stage").to_vec();
    let places: Vec<usize> = (0..file.len() - from.len()).filter(|at| file[*at..].starts_with(from)).collect();
    assert!(!places.is_empty() && to.len() == from.len());
    for at in places {
        file[at..at + to.len()].copy_from_slice(to.as_bytes());
    }
    file
}

fn subject(what: &str) -> ValidatorInput {
    let subject = Header { name: "Subject".to_owned(), value: what.to_owned() };
    ValidatorInput { headers: vec![subject], ..ValidatorInput::default() }
}

#[tokio::test]
async fn what_was_pushed_answers_at_once_until_it_is_taken_back() {
    let field = Field::new(&Setup::new()).await;
    let before = field.edge.components("acme");
    assert!(!before.are_configured);
    assert_eq!(field.push(saying("wait 1")).await, 1);
    assert_eq!(field.refusal("acme").await, "told to wait 1");
    assert_eq!(field.refusal("other").await, "told to refuse", "nobody else's");
    let first = field.edge.components("acme");
    assert!(first.are_configured && first.revision != before.revision, "edges are told");
    assert_eq!(field.edge.components("other"), before);
    assert_eq!(field.push(saying("wait 2")).await, 2);
    assert_eq!(field.refusal("acme").await, "told to wait 2");
    assert_ne!(field.edge.components("acme").revision, first.revision);
    field.registry.roll_back("acme", Stage::Validator).await.unwrap();
    assert_eq!(field.refusal("acme").await, "told to wait 1");
    assert_eq!(field.edge.components("acme"), first);
    assert_eq!(field.states().await, [VersionState::Active, VersionState::RolledBack]);
    field.registry.remove("acme", Stage::Validator).await.unwrap();
    assert_eq!(field.refusal("acme").await, "told to refuse");
    assert_eq!(field.edge.components("acme"), before);
    let view = field.registry.stages("acme");
    assert!(view.iter().all(|stage| stage.source == Source::BuiltIn));
}

#[tokio::test]
async fn what_is_active_stays_so_and_goes_with_its_tenant() {
    let field = Field::new(&Setup::new()).await;
    field.push(saying("wait 1")).await;
    for state in [VersionState::Canary(20), VersionState::Shadow] {
        let refused = field.registry.place("acme", Stage::Validator, None, state).await.unwrap_err().to_string();
        assert!(refused.contains("is the active one"), "{refused}");
    }
    assert_eq!(field.refusal("acme").await, "told to wait 1");
    Tenants::remove_tenant(&*field.store, "acme").await.unwrap();
    field.registry.forget("acme").await.unwrap();
    assert!(field.states().await.is_empty());
    assert_eq!(field.refusal("acme").await, "told to refuse");
}

#[tokio::test]
async fn what_was_pushed_outlives_the_host() {
    let setup = Setup::new();
    let Field { registry, edge, store, _folder: folder } = Field::new(&setup).await;
    let field = Field { registry, edge, store: store.clone(), _folder: folder };
    field.push(saying("wait 1")).await;
    let settings = StageSettings { on_failure: Some(OnFailure::Reject), ..StageSettings::default() };
    field.registry.set_settings("acme", Stage::Validator, settings).await.unwrap();
    let Field { registry, edge, _folder: folder, .. } = field;
    drop((registry, edge));
    let field = Field::over(&setup, store, folder).await;
    assert_eq!(field.refusal("acme").await, "told to wait 1");
    let rejected = field.edge.stages("acme").validate(told("panic")).await.unwrap_err();
    assert!(
        matches!(&rejected, StageError::Refused(finding) if finding.text.contains("could not be run")),
        "{rejected:?}"
    );
    // A file that is damaged on the disk is not run, and says so.
    let digest = field.store.component_versions(None).await.unwrap()[0].digest.clone();
    let path = field._folder.0.join(format!("components/{digest}.wasm"));
    std::fs::write(&path, bytes("guest_stage")).unwrap();
    let Field { registry, edge, store, _folder: folder } = field;
    drop((registry, edge));
    let field = Field::over(&setup, store, folder).await;
    let error = field.edge.stages("acme").validate(told("accept")).await.unwrap_err();
    assert!(matches!(&error, StageError::Unavailable(why) if why.contains("its file is damaged")), "{error:?}");
}

/// Requests under way end with what they began with; those that begin after a push was answered have the new one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_swap_under_load_fails_and_mixes_nothing() {
    let mut setup = Setup::new();
    setup.stages.instances = 8;
    let field = Field::new(&setup).await;
    let files = [saying("wait 1"), saying("wait 2")];
    // Compiled before: what is measured is the swap.
    for file in &files {
        field.push(file.clone()).await;
    }
    let is_over = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..4)
        .map(|_| {
            let (edge, is_over) = (field.edge.clone(), is_over.clone());
            tokio::spawn(async move {
                let mut requests = 0_u32;
                while !is_over.load(Ordering::Relaxed) {
                    let stages = edge.stages("acme");
                    let first = refusal(&stages).await;
                    assert!(first == "told to wait 1" || first == "told to wait 2", "{first}");
                    tokio::task::yield_now().await;
                    assert_eq!(ask(&stages, "accept").await.parse::<u32>().unwrap().min(1), 1);
                    assert_eq!(refusal(&stages).await, first, "one request, one set of components");
                    requests += 1;
                }
                requests
            })
        })
        .collect();
    let mut activations = Vec::new();
    for number in 0..21 {
        let (file, expect) = match number % 2 {
            0 => (&files[0], "told to wait 1"),
            _ => (&files[1], "told to wait 2"),
        };
        let pushed = Pushed {
            tenant: "acme".to_owned(),
            place: Stage::Validator.into(),
            source: "acme.wasm".to_owned(),
            file: file.clone().into(),
            state: VersionState::Active,
        };
        let (_, activation) = field.registry.push(pushed).await.unwrap();
        assert_eq!(field.refusal("acme").await, expect, "it answers as soon as the push is answered");
        activations.push(activation);
    }
    activations.sort_unstable();
    is_over.store(true, Ordering::Relaxed);
    let mut requests = 0;
    for caller in callers {
        requests += caller.await.unwrap();
    }
    assert!(requests > 20, "{requests} requests in 21 swaps ({activations:?}) are no load");
    // The promise is for each; a machine that does much else may break it for some.
    let median = activations[activations.len() / 2];
    assert!(median < Duration::from_millis(200), "{activations:?}");
}

#[tokio::test]
async fn bad_files_are_told_before_anything_changes() {
    let field = Field::new(&Setup::new()).await;
    let check = async |file: &'static [u8], expect: &str| {
        let error = field.try_push(file, VersionState::Active).await.unwrap_err().to_string();
        assert!(error.starts_with("acme.wasm: ") && error.contains(expect), "{error} does not say {expect}");
    };
    check(b"text", "is not a WASM component").await;
    check(b"\0asm\x01\0\0\0", "it is a core module: build it for wasm32-wasip2").await;
    check(bytes("guest_signer"), "does not export `posthaste:validator/validator@0.1.0`").await;
    check(bytes("guest_trigger"), "does not export `posthaste:validator/validator@0.1.0`").await;
    let wrong = field.try_push(bytes("guest_stage"), VersionState::Canary(100)).await.unwrap_err().to_string();
    assert!(wrong.contains("write a number from 1 to 99"), "{wrong}");
    assert!(field.states().await.is_empty());
    let hosts = |host: &str| StageSettings { http_hosts: vec![host.to_owned()], ..StageSettings::default() };
    let wrong = field.registry.set_settings("acme", Stage::Signer, hosts("https://x.test")).await.unwrap_err();
    assert!(wrong.to_string().starts_with("http_hosts: `https://x.test` is no host"), "{wrong}");
    let limits = TenantLimits { memory_bytes: Some(usize::MAX), ..TenantLimits::default() };
    let wrong = field.registry.set_limits("acme", limits).await.unwrap_err();
    assert!(wrong.to_string().starts_with("memory_bytes: "), "{wrong}");
    let nothing = field.registry.roll_back("acme", Stage::Validator).await.unwrap_err();
    assert!(matches!(nothing, RegistryError::Store(crate::store::StoreError::NotFound(_))), "{nothing}");
}

#[tokio::test]
async fn a_failure_is_deferred_answered_by_the_built_in_one_or_refused() {
    let field = Field::new(&Setup::new()).await;
    field.push(bytes("misbehave")).await;
    let check = async |on_failure| {
        let settings = StageSettings { on_failure, ..StageSettings::default() };
        field.registry.set_settings("acme", Stage::Validator, settings).await.unwrap();
        let stages = field.edge.stages("acme");
        stages.validate(subject("fine")).await.unwrap();
        stages.validate(subject("trap")).await
    };
    let deferred = check(None).await.unwrap_err();
    assert!(matches!(&deferred, StageError::Unavailable(why) if why.starts_with("pushed validator (")), "{deferred:?}");
    let refused = check(Some(OnFailure::Reject)).await.unwrap_err();
    assert!(matches!(&refused, StageError::Refused(_)), "{refused:?}");
    let accepted = check(Some(OnFailure::Fallback)).await.unwrap();
    assert_eq!(accepted.attributes, [("calls".to_owned(), "1".to_owned())], "the built-in one answered");
    let mut notices = field.edge.notices().unwrap();
    let notice = notices.recv().await.unwrap();
    assert!(matches!(&notice, Notice::FellBack { tenant, .. } if tenant == "acme"), "{notice:?}");
    // What a component says itself is no failure.
    let unavailable = field.edge.stages("acme").validate(subject("unavailable")).await.unwrap_err();
    assert_eq!(unavailable, StageError::Unavailable("asked to be unavailable".to_owned()));
    let stages = field.edge.stages("acme");
    assert_eq!(stages.transform(TransformerInput::default()).await, Ok(Transformed::default()));
    assert!(!stages.transforms(), "there is no transformer");
}

#[tokio::test]
async fn a_bad_canary_is_taken_back_and_a_good_one_is_not() {
    let field = Field::new(&Setup::new()).await;
    let mut notices = field.edge.notices().unwrap();
    field.push(bytes("guest_stage")).await;
    field.try_push(bytes("misbehave"), VersionState::Canary(50)).await.unwrap();
    let under_way: Vec<_> = (0..50).map(|_| field.edge.stages("acme")).collect();
    let mut calls = 0;
    while notices.is_empty() {
        assert!(calls < 2000, "a canary that fails every call is still there");
        let _ = field.edge.stages("acme").validate(subject("trap")).await;
        calls += 1;
    }
    assert!(calls >= 100, "judged after {calls} calls");
    // From that moment on, before anything was stored; a request that had begun keeps what it began with.
    for _ in 0..50 {
        field.edge.stages("acme").validate(subject("trap")).await.unwrap();
    }
    let mut kept = 0;
    for stages in under_way {
        kept += usize::from(stages.validate(subject("trap")).await.is_err());
    }
    assert!((1..50).contains(&kept), "{kept} of 50 were the canary's");
    field.registry.act(notices.recv().await.unwrap()).await;
    assert_eq!(field.states().await, [VersionState::Active, VersionState::RolledBack]);
    let versions = field.registry.versions("acme", Stage::Validator).await.unwrap();
    assert!(versions[1].note.as_deref().unwrap().contains("calls failed, against 0 of"), "{:?}", versions[1].note);
    let log = field.store.audited(Some("acme"), None, 9).await.unwrap();
    let entry: serde_json::Value = serde_json::from_str(&log[0].entry).unwrap();
    assert_eq!(
        (log.len(), &entry["who"], &entry["what"]),
        (1, &"posthaste".into(), &"components/validator: version 2 rolled back".into())
    );
    assert!(
        entry["after"]["note"].as_str().unwrap().contains("calls failed") && entry["before"]["digest"].is_string(),
        "{entry}"
    );
    // A good one stays, is seen at work, and becomes the active one.
    field.try_push(saying("wait 3"), VersionState::Canary(50)).await.unwrap();
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..300 {
        let stages = field.edge.stages("acme");
        let first = refusal(&stages).await;
        assert_eq!(refusal(&stages).await, first, "a request is a canary's or it is not");
        seen.insert(first);
    }
    assert_eq!(seen.len(), 2, "{seen:?}");
    assert!(notices.is_empty());
    let view = field.registry.stages("acme").into_iter().find(|view| view.stage == Stage::Validator).unwrap();
    let OnTrial { version, counted: (canary, active), .. } = view.canary.unwrap();
    assert!(version == 3 && canary.made + active.made == 600 && canary.failed == 0);
    field.registry.place("acme", Stage::Validator, None, VersionState::Active).await.unwrap();
    assert_eq!(field.refusal("acme").await, "told to wait 3");
    // Rolling back ends a trial first.
    field.try_push(saying("wait 4"), VersionState::Canary(99)).await.unwrap();
    field.registry.roll_back("acme", Stage::Validator).await.unwrap();
    assert_eq!(field.refusal("acme").await, "told to wait 3");
}

#[tokio::test]
async fn a_shadow_is_compared_and_never_used() {
    let field = Field::new(&Setup::new()).await;
    field.try_push(bytes("misbehave"), VersionState::Shadow).await.unwrap();
    let shadowed = async |input: ValidatorInput| {
        let answer = field.edge.stages("acme").validate(input).await;
        // All that are under way have ended when all places are free.
        let all = u32::try_from(SHADOWS).unwrap();
        drop(field.edge.inner.shadows.acquire_many(all).await.unwrap());
        answer
    };
    // The active one counts its calls, which the shadow does not: that is another answer.
    shadowed(subject("fine")).await.unwrap();
    shadowed(subject("trap")).await.unwrap();
    // The active one refuses, the shadow does not.
    shadowed(told("refuse")).await.unwrap_err();
    let view = field.registry.stages("acme").into_iter().find(|view| view.stage == Stage::Validator).unwrap();
    let place = Stage::Validator.into();
    assert_eq!(view.shadow, Some(OnTrial { place, version: 1, counted: [0, 2, 1, 0] }));
    assert_eq!(view.source, Source::BuiltIn);
    field.registry.end_trial("acme", Stage::Validator, false).await.unwrap();
    assert_eq!(field.states().await, [VersionState::RolledBack]);
    let gone = field.registry.end_trial("acme", Stage::Validator, false).await.unwrap_err().to_string();
    assert!(gone.contains("a shadow of the validator of tenant acme"), "{gone}");
}

#[tokio::test]
async fn lists_are_called_in_order_and_what_is_always_there_first() {
    let mut setup = Setup::new();
    let folder = Folder::new();
    std::fs::create_dir_all(&folder.0).unwrap();
    let first = folder.0.join("first.wasm");
    std::fs::write(&first, saying("wait 0")).unwrap();
    setup.always = ComponentFiles { validator: vec![first, guest("misbehave")], ..ComponentFiles::default() };
    let field = Field::new(&setup).await;
    assert!(field.edge.components("acme").are_configured, "no edge skips them");
    assert_eq!(field.refusal("acme").await, "told to wait 0");
    field.push(saying("wait 1")).await;
    assert_eq!(field.refusal("acme").await, "told to wait 0", "pushing replaces none of them");
    let stages = field.edge.stages("acme");
    let Acceptance { attributes, .. } = stages.validate(told("accept")).await.unwrap();
    assert_eq!(attributes.len(), 1, "later ones replace what earlier ones returned: {attributes:?}");
    assert!(stages.describe_validator().await.unwrap().text);
    // They fail for all, whatever the tenant wants to follow.
    let settings = StageSettings { on_failure: Some(OnFailure::Fallback), ..StageSettings::default() };
    field.registry.set_settings("acme", Stage::Validator, settings).await.unwrap();
    let failed = field.edge.stages("acme").validate(subject("trap")).await.unwrap_err();
    assert!(matches!(failed, StageError::Unavailable(_)), "{failed:?}");
}

#[tokio::test]
async fn a_tenant_computes_its_share_and_no_more() {
    let mut setup = Setup::new();
    setup.stages.cpu_percent = 1; // 100 ms saved up
    let field = Field::new(&setup).await;
    field.push(saying("wait 1")).await;
    ask(&field.edge.stages("acme"), "accept").await;
    let started = Instant::now();
    let cut = field.edge.stages("acme").validate(told("loop")).await.unwrap_err();
    let over =
        |error: &StageError| matches!(error, StageError::Unavailable(why) if why.contains("more than 1 % of a core"));
    assert!(over(&cut), "{cut:?}");
    let refused = field.edge.stages("acme").validate(told("loop")).await.unwrap_err();
    assert!(over(&refused), "{refused:?}");
    assert!(started.elapsed() < TIME, "long before a call's own time is over: {:?}", started.elapsed());
    // Neither others nor what the tenant has of the host pay for it.
    ask(&field.edge.stages("other"), "accept").await;
    field
        .registry
        .set_limits("acme", TenantLimits { cpu_percent: Some(500), ..TenantLimits::default() })
        .await
        .unwrap();
    ask(&field.edge.stages("acme"), "accept").await;
}

#[tokio::test]
async fn limits_of_a_tenant_are_its_own() {
    let field = Field::new(&Setup::new()).await;
    field.push(saying("wait 1")).await;
    ask(&field.edge.stages("acme"), "grow").await;
    let limits = TenantLimits { memory_bytes: Some(8 << 20), time_ms: Some(100), ..TenantLimits::default() };
    field.registry.set_limits("acme", limits).await.unwrap();
    let check = async |what: &str, expect: &[&str]| {
        let error = field.edge.stages("acme").validate(told(what)).await.unwrap_err();
        let StageError::Unavailable(why) = &error else { panic!("{error:?}") };
        assert!(expect.iter().any(|expect| why.contains(expect)), "{why}");
    };
    check("grow", &["more than 8388608 bytes of memory"]).await;
    check("sleep", &["it took longer than 100 ms"]).await;
    check("loop", &["it took longer than 100 ms", "it used more than 100 ms of CPU"]).await;
    ask(&field.edge.stages("other"), "grow").await;
}

/// Components of many tenants in the memory of few.
#[tokio::test]
async fn what_is_unused_for_longest_gives_way() {
    let mut setup = Setup::new();
    setup.stages.loaded = 2;
    let field = Field::new(&setup).await;
    let tenants = ["t1", "t2", "t3", "t4"];
    for (number, tenant) in tenants.iter().enumerate() {
        let pushed = Pushed {
            tenant: (*tenant).to_owned(),
            place: Stage::Validator.into(),
            source: "file".to_owned(),
            file: saying(&format!("wait {number}")).into(),
            state: VersionState::Active,
        };
        field.registry.push(pushed).await.unwrap();
    }
    let loader = &field.edge.inner.library.loader;
    for _ in 0..2 {
        for (number, tenant) in tenants.iter().enumerate() {
            assert_eq!(field.refusal(tenant).await, format!("told to wait {number}"));
            assert!(loader.loaded() <= 2, "{}", loader.loaded());
        }
    }
}

/// Answers every request on a port of loopback with 200.
async fn peer() -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = [0; 4096];
            let _ = stream.read(&mut head).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await;
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_was_granted_is_reached() {
    let mut setup = Setup::new();
    let web = |reachable| Some(Arc::new(Web::new(&Dns::default(), reachable).unwrap()));
    setup.ways = Ways { public: web(Reachable::Public), private: web(Reachable::All) };
    let field = Field::new(&setup).await;
    field.push(saying("wait 1")).await;
    let (granted, other) = (format!("127.0.0.1:{}", peer().await), format!("127.0.0.1:{}", peer().await));
    let get = async |tenant: &str, authority: &str| {
        let mut input = told("http");
        input.attributes.push(("authority".to_owned(), authority.to_owned()));
        field.edge.stages(tenant).validate(input).await.unwrap().attributes.pop().unwrap().1
    };
    let expect = |found: String, expect: &str| assert!(found.contains(expect), "{found} is not {expect}");
    let settings =
        |private_hosts| StageSettings { http_hosts: vec![granted.clone()], private_hosts, ..StageSettings::default() };
    expect(get("acme", &granted).await, "HttpRequestDenied");
    field.registry.set_settings("acme", Stage::Validator, settings(false)).await.unwrap();
    expect(get("acme", &granted).await, "DestinationIpProhibited");
    field.registry.set_settings("acme", Stage::Validator, settings(true)).await.unwrap();
    expect(get("acme", &granted).await, "200");
    expect(get("acme", &other).await, "HttpRequestDenied");
    expect(get("other", &granted).await, "HttpRequestDenied");
    // What was granted is taken away at once, from instances that live too.
    field.registry.set_settings("acme", Stage::Validator, StageSettings::default()).await.unwrap();
    expect(get("acme", &granted).await, "HttpRequestDenied");
}

/// One tenant's component does everything bad at once; another tenant's calls are all answered meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn misdeeds_are_contained() {
    let mut setup = Setup::new();
    setup.stages.cpu_percent = 25;
    setup.stages.instances = 6;
    let field = Field::new(&setup).await;
    field.push(saying("wait 1")).await;
    let deeds = ["loop", "sleep", "allocate", "panic", "flood", "attributes", "recurse"];
    let bad: Vec<_> = deeds
        .into_iter()
        .map(|deed| {
            let edge = field.edge.clone();
            tokio::spawn(async move {
                let error = edge.stages("acme").validate(told(deed)).await.unwrap_err();
                assert!(matches!(error, StageError::Unavailable(_)), "{deed}: {error:?}");
            })
        })
        .collect();
    let mut calls = 0;
    while bad.iter().any(|task| !task.is_finished()) {
        ask(&field.edge.stages("other"), "accept").await;
        tokio::task::yield_now().await;
        calls += 1;
    }
    for task in bad {
        task.await.unwrap();
    }
    assert!(calls > 100, "{calls} calls of the other tenant while one misbehaved");
    ask(&field.edge.stages("other"), "accept").await;
}
