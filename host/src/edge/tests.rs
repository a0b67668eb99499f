//! Good and bad guests (`tests/guests/`) in the real engine: what is served, and what is contained.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use contract::{Algorithm, RawHeader, StageError, Transformed, TransformerInput, ValidatorInput};
use pipeline::Stages;

use super::*;
use crate::config::{ComponentFiles, Limits, OnFailure, StageLimits, Tenant};
use crate::sizes::Sizes;

/// One call's limit: far more than a good call takes on a busy machine.
pub const TIME: Duration = Duration::from_secs(2);

/// A test guest, built on first use (`cargo xtask test` has built it before).
pub fn guest(name: &str) -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let folder = BUILT.get_or_init(|| {
        let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
        let status = Command::new(env!("CARGO"))
            .args(["build", "--release", "--target", "wasm32-wasip2", "--target-dir"])
            .arg(&target)
            .args(["-p", "guest-stage", "-p", "guest-signer", "-p", "guest-trigger", "-p", "guest-changer"])
            .args(["-p", "misbehave"])
            .args([
                "-p", "submit", "-p", "render", "-p", "validate", "-p", "sign", "-p", "shape", "-p", "notify", "-p",
                "track",
            ])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status()
            .unwrap();
        assert!(status.success(), "the test guests cannot be built: is the target wasm32-wasip2 installed?");
        target.join("wasm32-wasip2/release")
    });
    folder.join(format!("{name}.wasm"))
}

pub fn bytes(name: &str) -> &'static [u8] {
    std::fs::read(guest(name)).unwrap().leak()
}

/// The components that are shipped, as built from this tree.
pub fn shipped() -> BuiltIn {
    static BYTES: OnceLock<BuiltIn> = OnceLock::new();
    *BYTES.get_or_init(|| BuiltIn {
        submit: Some(bytes("submit")),
        renderer: Some(bytes("render")),
        validator: Some(bytes("validate")),
        signer: Some(bytes("sign")),
        shaper: Some(bytes("shape")),
        notify: Some(bytes("notify")),
    })
}

fn built_in() -> BuiltIn {
    static BYTES: OnceLock<BuiltIn> = OnceLock::new();
    *BYTES.get_or_init(|| BuiltIn {
        submit: Some(bytes("guest_trigger")),
        renderer: None,
        validator: Some(bytes("guest_stage")),
        signer: Some(bytes("guest_signer")),
        shaper: None,
        notify: None,
    })
}

/// A folder that goes with the test.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new() -> Folder {
        Folder(std::env::temp_dir().join(format!("posthaste-edge-{}", uuid::Uuid::new_v4())))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Says who is asked for: `POST /auth` with a tenant's name.
pub struct Desk;

#[async_trait]
impl Backend for Desk {
    async fn answer(&self, request: Request<Bytes>) -> Answer {
        let is_auth = request.uri().path() == "/auth";
        let tenant = is_auth.then(|| String::from_utf8_lossy(request.body()).into_owned());
        Answer { response: Response::new(format!("[{} {:?}]", request.uri(), request.body()).into()), tenant }
    }
}

/// Signs by naming what it was asked.
pub struct Vault;

#[async_trait]
impl Keys for Vault {
    async fn identities(&self, tenant: &str, domain: &str) -> Result<Vec<Identity>, KeyError> {
        let identity = |selector: &str| Identity {
            domain: domain.to_owned(),
            selector: selector.to_owned(),
            algorithm: Algorithm::Ed25519Sha256,
            key_id: format!("{tenant}-{selector}"),
        };
        Ok(vec![identity("x-s1"), identity("x-s2")])
    }

    async fn sign_digest(&self, tenant: &str, key_id: &str, digest: &[u8]) -> Result<Vec<u8>, KeyError> {
        // Suspends for real, as the keyring does.
        tokio::task::yield_now().await;
        Ok(format!("{tenant} {key_id} {digest:?}").into_bytes())
    }
}

/// What an edge is made with; tests change what they are about.
pub struct Setup {
    folder: Folder,
    pub components: ComponentFiles,
    pub always: ComponentFiles,
    pub ways: Ways,
    pub tenants: BTreeMap<String, Tenant>,
    pub stages: StageLimits,
    requests: usize,
}

impl Setup {
    pub fn new() -> Setup {
        Setup {
            folder: Folder::new(),
            components: ComponentFiles::default(),
            always: ComponentFiles::default(),
            ways: Ways::default(),
            tenants: BTreeMap::new(),
            stages: StageLimits {
                time: TIME,
                memory_bytes: 32 << 20,
                output_bytes: 8 << 20,
                instances: 2,
                cpu_percent: 10_000,
                on_failure: OnFailure::Defer,
                idle_instances: 64,
                idle_bytes: 512 << 20,
                loaded: 100,
                loaded_bytes: 512 << 20,
            },
            requests: 4,
        }
    }

    fn try_edge(&self) -> Result<Arc<Edge>, EdgeError> {
        self.edge_of(built_in(), Arc::new(Desk), Arc::new(Vault))
    }

    pub fn edge_of(
        &self,
        built_in: BuiltIn,
        backend: Arc<dyn Backend>,
        keys: Arc<dyn Keys>,
    ) -> Result<Arc<Edge>, EdgeError> {
        let limits = Limits {
            message_bytes: 1 << 20,
            recipients: 50,
            http_body_bytes: 4 << 20,
            http_requests: self.requests,
            http_connections: 8,
            memory_bytes: None,
            drain: Duration::from_secs(1),
        };
        let settings = Settings {
            cache: &self.folder.0,
            components: &self.components,
            always: &self.always,
            tenants: &self.tenants,
            limits: &limits,
            stages: &self.stages,
            sizes: &Sizes::new(limits.message_bytes, limits.recipients),
            ways: &self.ways,
        };
        Edge::new(&settings, built_in, backend, keys).map(Arc::new)
    }

    /// Gives a tenant a validator of its own.
    pub fn give_validator(&mut self, tenant: &str, component: &[u8]) {
        std::fs::create_dir_all(&self.folder.0).unwrap();
        let path = self.folder.0.join(format!("{tenant}.wasm"));
        std::fs::write(&path, component).unwrap();
        let components = ComponentFiles { validator: vec![path], ..ComponentFiles::default() };
        self.tenants.insert(tenant.to_owned(), Tenant { components, ..Tenant::default() });
    }

    pub fn edge(&self) -> Arc<Edge> {
        self.try_edge().unwrap()
    }
}

pub fn told(what: &str) -> ValidatorInput {
    ValidatorInput { attributes: vec![("do".to_owned(), what.to_owned())], ..ValidatorInput::default() }
}

/// The value of the one attribute that came back.
pub async fn ask(stages: &TenantStages, what: &str) -> String {
    stages.validate(told(what)).await.unwrap().attributes.pop().unwrap().1
}

async fn post(edge: &Edge, path: &str, body: &str) -> (u16, String) {
    let request = Request::post(format!("http://localhost{path}")).body(Bytes::from(body.to_owned())).unwrap();
    let response = edge.serve(request).await;
    (response.status().as_u16(), String::from_utf8(response.into_body().to_vec()).unwrap())
}

/// The road of a submission: the key is checked in-process, then the tenant's stages answer, with the tenant's keys.
#[tokio::test]
async fn a_trigger_reaches_the_backend_and_its_tenants_stages() {
    let setup = Setup::new();
    let edge = setup.edge();
    let (status, text) = post(&edge, "/road", "acme").await;
    assert_eq!(status, 200, "{text}");
    assert!(text.starts_with("[http://delivery.internal/auth b\"acme\"] Ok(Acceptance"), "{text}");
    assert!(text.contains(r#"("calls", "1")"#), "{text}");
    let expect = ["x-s1", "x-s2"].map(|selector| RawHeader {
        name: selector.to_owned(),
        value: format!("acme acme-{selector} []").into_bytes(),
    });
    assert!(text.ends_with(&format!("Ok(Signatures {{ headers: {expect:?}, attributes: [] }})")), "{text}");
    // Instances of stages are kept for the tenant, and for that tenant alone.
    assert!(post(&edge, "/road", "acme").await.1.contains(r#"("calls", "2")"#));
    assert!(post(&edge, "/road", "other").await.1.contains(r#"("calls", "1")"#));
}

#[tokio::test]
async fn a_trigger_reaches_nothing_else() {
    let setup = Setup::new();
    let edge = setup.edge();
    let check = async |path: &str, expect: &str| {
        let (status, text) = post(&edge, path, "acme").await;
        assert!(status == 200 && text.contains(expect), "{path}: {status} {text}");
    };
    check("/early", "before the caller's key was checked").await;
    check("/outside", "HttpRequestDenied").await;
    check("/twice", "HttpRequestDenied").await;
    check("/variables", "http://delivery.internal true").await;
}

/// A body of some size goes in and out; an instance that fails costs its request a 503 and nothing else.
#[tokio::test]
async fn a_trigger_that_fails_costs_its_request() {
    let setup = Setup::new();
    let edge = setup.edge();
    for path in ["/panic", "/allocate"] {
        let (status, text) = post(&edge, path, "").await;
        assert_eq!(status, 503, "{path}");
        assert!(text.starts_with(r#"{"statusCode":503,"name":"application_error","message":""#), "{text}");
        let body = "x".repeat(1 << 20);
        assert_eq!(post(&edge, "/echo", &body).await, (200, body), "after {path}");
    }
}

/// Every way to misbehave costs the call an `unavailable` that names the component and the reason, and the next call is
/// served by a fresh instance.
#[tokio::test]
async fn bad_stages_cost_their_call() {
    let setup = Setup::new();
    let edge = setup.edge();
    let stages = edge.stages("acme");
    let digest: String = component::digest(bytes("guest_stage")).chars().take(12).collect();
    let check = async |what: &str, expect: &[&str]| {
        ask(&stages, "accept").await;
        let error = stages.validate(told(what)).await.unwrap_err();
        let StageError::Unavailable(text) = error else { panic!("{what}: {error:?}") };
        assert!(text.starts_with(&format!("built-in validator ({digest}): ")), "{what}: {text}");
        assert!(expect.iter().any(|expect| text.contains(expect)), "{what}: {text}");
        assert_eq!(ask(&stages, "accept").await, "1", "after {what} a fresh instance answers");
    };
    let time = ["it used more than 2000 ms of CPU", "it took longer than 2000 ms"];
    check("panic", &["told to panic"]).await;
    check("recurse", &["it trapped: wasm trap: "]).await;
    check("allocate", &["it asked for more than 33554432 bytes of memory"]).await;
    check("loop", &time).await;
    check("sleep", &time).await;
    check("attributes", &["it returned 65 attributes: at most 64"]).await;
    check("flood", &["it gave too much data at once: more than 8388608 bytes"]).await;
}

/// What a component says itself is no failure: its instance lives on.
#[tokio::test]
async fn a_stage_may_refuse() {
    let setup = Setup::new();
    let edge = setup.edge();
    let stages = edge.stages("acme");
    let refused = stages.validate(told("refuse")).await.unwrap_err();
    assert!(matches!(&refused, StageError::Refused(finding) if finding.text == "told to refuse"), "{refused:?}");
    let unavailable = stages.validate(told("nonsense")).await.unwrap_err();
    assert_eq!(unavailable, StageError::Unavailable("cannot `nonsense`".to_owned()));
    assert_eq!(ask(&stages, "accept").await, "3");
}

/// On a runtime with a single thread a looping guest still lets everybody else work.
#[tokio::test]
async fn a_looping_stage_does_not_stall_the_reactor() {
    let setup = Setup::new();
    let edge = setup.edge();
    let (bad, good) = (edge.stages("acme"), edge.stages("other"));
    ask(&good, "accept").await;
    let started = Instant::now();
    let looping = async {
        bad.validate(told("loop")).await.unwrap_err();
        started.elapsed()
    };
    let working = async {
        // Each waits for some ticks of the loop: few enough that a busy machine makes them in time.
        for _ in 0..8 {
            ask(&good, "accept").await;
            tokio::time::sleep(Duration::from_millis(1)).await;
            assert_eq!(post(&edge, "/echo", "x").await.0, 200);
        }
        started.elapsed()
    };
    let (cut, worked) = tokio::join!(looping, working);
    assert!(worked < cut, "8 calls took {worked:?}, as long as the loop was let run: {cut:?}");
}

/// One tenant has so many instances and no more; what waits too long for one is told so.
#[tokio::test]
async fn calls_at_once_are_bounded() {
    let setup = Setup::new();
    let edge = setup.edge();
    let stages = edge.stages("acme");
    let (first, second, third) = tokio::join!(ask(&stages, "accept"), ask(&stages, "accept"), ask(&stages, "accept"));
    let mut calls = [first, second, third];
    calls.sort();
    // Two instances: one of them served twice.
    assert!(calls == ["1", "1", "2"] || calls == ["1", "2", "3"], "{calls:?}");
    assert!(edge.inner.shelf.len() <= 2);
}

/// An instance that grew for a large message is not held for good.
#[tokio::test]
async fn grown_instances_are_dropped() {
    let setup = Setup::new();
    let edge = setup.edge();
    let stages = edge.stages("acme");
    assert_eq!(ask(&stages, "grow").await, "1");
    assert_eq!(ask(&stages, "accept").await, "1");
    assert_eq!(ask(&stages, "accept").await, "2");
}

/// WASI may be imported and gives nothing.
#[tokio::test]
async fn stages_find_no_files_addresses_or_environment() {
    let setup = Setup::new();
    let edge = setup.edge();
    let stages = edge.stages("acme");
    assert_ne!(ask(&stages, "files").await, "read");
    assert_eq!(ask(&stages, "connect").await, "permission denied");
    assert_eq!(ask(&stages, "environment").await, "0");
    // Megabytes of stderr are neither kept nor waited for.
    assert_eq!(ask(&stages, "write").await, "4");
}

#[tokio::test]
async fn a_tenants_own_component_goes_before_the_default() {
    let mut setup = Setup::new();
    let good = ComponentFiles { validator: vec![guest("guest_stage")], ..ComponentFiles::default() };
    setup.tenants.insert("acme".to_owned(), Tenant { components: good, ..Tenant::default() });
    let without = BuiltIn { validator: None, ..built_in() };
    let edge = setup.edge_of(without, Arc::new(Desk), Arc::new(Vault)).unwrap();
    assert!(edge.stages("acme").describe_validator().await.unwrap().text);
    assert_eq!(ask(&edge.stages("acme"), "accept").await, "1");
    let error = edge.stages("other").validate(told("accept")).await.unwrap_err();
    assert!(matches!(&error, StageError::Unavailable(text) if text.contains("cargo xtask build")), "{error:?}");
    // No transformer: messages pass through.
    assert_eq!(edge.stages("acme").transform(TransformerInput::default()).await.unwrap(), Transformed::default());
    assert!(edge.obstacles().iter().any(|why| why.contains("built-in validator")), "{:?}", edge.obstacles());
}

#[tokio::test]
async fn what_is_compiled_is_kept_on_disk() {
    let setup = Setup::new();
    let edge = setup.edge();
    ask(&edge.stages("acme"), "accept").await;
    assert_eq!(post(&edge, "/echo", "x").await.0, 200);
    let entries = || walk(&setup.folder.0);
    assert!(entries() >= 2, "{} files in the cache", entries());
}

fn walk(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder).unwrap().map(Result::unwrap);
    entries.map(|entry| if entry.path().is_dir() { walk(&entry.path()) } else { 1 }).sum()
}

/// A wrong file is a start error that names the file and what is wrong.
#[tokio::test]
async fn wrong_files_are_start_errors() {
    let mut setup = Setup::new();
    let signer = guest("guest_signer");
    setup.components.validator = vec![signer.clone()];
    let error = setup.try_edge().err().unwrap().to_string();
    let expect = format!(
        "{}: does not export `posthaste:validator/validator@0.1.0`, which a validator must; it exports \
         `posthaste:signer/signer@0.1.0`",
        signer.display()
    );
    assert_eq!(error, expect);
    let inspected = inspect(&guest("guest_stage"), Stage::Validator).unwrap();
    assert_eq!(inspected.exports, ["posthaste:validator/validator@0.1.0"]);
    assert!(
        inspected.imports.iter().all(|import| import.starts_with("wasi:") || import.starts_with("posthaste:types/"))
    );
}
