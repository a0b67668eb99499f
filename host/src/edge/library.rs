//! All components of this host: which one a tenant's stage is, and whether it is compiled yet.
//!
//! Compiling takes from a tenth of a second to several; it runs on threads of its own from the start on, the built-in
//! `submit` first, and whoever needs a component waits for it. Two tenants with the same file share what is compiled.

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use contract::Wants;
use sha2::{Digest, Sha256};
use tokio::sync::{OnceCell, watch};
use wasmtime::Engine;

use super::Settings;
use super::component::{self, Compiled, InspectError, Linkers, Stage};
use crate::config::ComponentFiles;

/// The components that come with the host. `None`: not built into this binary.
#[derive(Clone, Copy, Debug)]
pub struct BuiltIn {
    pub submit: Option<&'static [u8]>,
    pub renderer: Option<&'static [u8]>,
    pub validator: Option<&'static [u8]>,
    pub signer: Option<&'static [u8]>,
    pub shaper: Option<&'static [u8]>,
    pub notify: Option<&'static [u8]>,
}

impl BuiltIn {
    /// Those that `build.rs` embedded.
    pub fn embedded() -> BuiltIn {
        BuiltIn {
            submit: embedded::SUBMIT,
            renderer: embedded::RENDER,
            validator: embedded::VALIDATE,
            signer: embedded::SIGN,
            shaper: embedded::SHAPE,
            notify: embedded::NOTIFY,
        }
    }

    fn stage(&self, stage: Stage) -> Option<&'static [u8]> {
        match stage {
            Stage::Renderer => self.renderer,
            Stage::Validator => self.validator,
            Stage::Signer => self.signer,
            Stage::Shaper => self.shaper,
            // Messages pass through natively.
            Stage::Transformer => None,
        }
    }
}

mod embedded {
    include!(concat!(env!("OUT_DIR"), "/built_in.rs"));
}

/// Where a component stands.
#[derive(Clone)]
enum State {
    Compiling,
    Ready(Arc<Compiled>),
    /// Why it will never be ready.
    Failed(Arc<str>),
}

/// One component, compiled or on its way.
pub struct Slot {
    /// `built-in validator` or the file's path.
    pub name: String,
    /// The first digits of the file's SHA-256, for the log.
    pub digest: String,
    /// What a validator wants to see; asked once.
    pub wants: OnceCell<Wants>,
    state: watch::Sender<State>,
}

impl Slot {
    fn new(name: String, digest: &str, state: State) -> Arc<Slot> {
        let digest = digest.chars().take(12).collect();
        Arc::new(Slot { name, digest, wants: OnceCell::new(), state: watch::Sender::new(state) })
    }

    /// Waits until it is compiled. The error says why it cannot be.
    pub async fn ready(&self) -> Result<Arc<Compiled>, Arc<str>> {
        let mut state = self.state.subscribe();
        let settled = state.wait_for(|state| !matches!(state, State::Compiling)).await;
        match settled.as_deref() {
            Ok(State::Ready(compiled)) => Ok(compiled.clone()),
            Ok(State::Failed(why)) => Err(why.clone()),
            // The sender is in `self`, so the wait cannot end otherwise.
            Ok(State::Compiling) | Err(_) => Err("it is not compiled yet".into()),
        }
    }

    /// Why it is not ready, where it is not.
    fn obstacle(&self) -> Option<String> {
        match &*self.state.borrow() {
            State::Ready(_) => None,
            State::Compiling => Some(format!("{} is still being compiled", self.name)),
            State::Failed(why) => Some(format!("{} cannot be used: {why}", self.name)),
        }
    }
}

/// The stages of a submission, which an edge may have components for too.
const OF_SUBMISSIONS: [Stage; 4] = [Stage::Renderer, Stage::Validator, Stage::Transformer, Stage::Signer];

/// What an edge must know of a tenant's components.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Components {
    /// Whether a stage of its submissions is one that the operator configured, for it or for all. No edge has those.
    pub are_configured: bool,
    /// Another one whenever a stage of its submissions is answered by another component. Of 53 bits, which every reader of
    /// JSON keeps.
    pub revision: u64,
}

/// Which component answers for whom.
pub struct Library {
    submit: Arc<Slot>,
    notify: Arc<Slot>,
    defaults: HashMap<Stage, Arc<Slot>>,
    tenants: HashMap<String, HashMap<Stage, Arc<Slot>>>,
    /// Stages that are the operator's for all tenants.
    configured: Vec<Stage>,
    slots: Vec<Arc<Slot>>,
}

impl Library {
    /// Reads the configured files and begins to compile everything; returns at once.
    ///
    /// Errors: a file that is no component of its stage.
    pub fn open(engine: &Engine, settings: &Settings<'_>, built_in: &BuiltIn) -> Result<Library, InspectError> {
        let mut shelf = Shelving { by_digest: HashMap::new(), jobs: VecDeque::new(), slots: Vec::new() };
        let submit = match built_in.submit {
            Some(bytes) => shelf.add(None, "built-in submit".to_owned(), bytes.into()),
            None => shelf.missing("built-in submit"),
        };
        let mut defaults = shelf.files(settings.components)?;
        let configured = defaults.keys().copied().collect();
        for stage in [Stage::Validator, Stage::Signer, Stage::Renderer, Stage::Shaper] {
            if defaults.contains_key(&stage) {
                continue;
            }
            let name = format!("built-in {stage}");
            let slot = match built_in.stage(stage) {
                Some(bytes) => shelf.add(Some(stage), name, bytes.into()),
                None => shelf.missing(&name),
            };
            defaults.insert(stage, slot);
        }
        let notify = match built_in.notify {
            Some(bytes) => shelf.add(None, "built-in notify".to_owned(), bytes.into()),
            None => shelf.missing("built-in notify"),
        };
        let mut tenants = HashMap::new();
        for (name, tenant) in settings.tenants {
            tenants.insert(name.clone(), shelf.files(&tenant.components)?);
        }
        compile_all(engine, shelf.jobs);
        Ok(Library { submit, notify, defaults, tenants, configured, slots: shelf.slots })
    }

    /// The sending API.
    pub fn submit(&self) -> &Arc<Slot> {
        &self.submit
    }

    /// Tells events to webhooks.
    pub fn notify(&self) -> &Arc<Slot> {
        &self.notify
    }

    /// The component of a tenant's stage: its own, the host's default, or none.
    pub fn find(&self, tenant: &str, stage: Stage) -> Option<&Arc<Slot>> {
        self.tenants.get(tenant).and_then(|own| own.get(&stage)).or_else(|| self.defaults.get(&stage))
    }

    /// What an edge must know of a tenant's components.
    pub fn components(&self, tenant: &str) -> Components {
        let own = |stage| self.tenants.get(tenant).is_some_and(|own| own.contains_key(stage));
        let mut digests = Sha256::new();
        for stage in OF_SUBMISSIONS {
            let digest = self.find(tenant, stage).map_or("none", |slot| slot.digest.as_str());
            digests.update(format!("{stage} {digest}\n"));
        }
        let [a, b, c, d, e, f, g, h, ..] = <[u8; 32]>::from(digests.finalize());
        Components {
            are_configured: OF_SUBMISSIONS.iter().any(|stage| own(stage) || self.configured.contains(stage)),
            revision: u64::from_be_bytes([a, b, c, d, e, f, g, h]) >> 11,
        }
    }

    /// Why not everything is ready; empty when it is.
    pub fn obstacles(&self) -> Vec<String> {
        self.slots.iter().filter_map(|slot| slot.obstacle()).collect()
    }
}

/// One component to compile. No stage: an HTTP trigger.
struct Job {
    slot: Arc<Slot>,
    stage: Option<Stage>,
    bytes: std::borrow::Cow<'static, [u8]>,
}

/// Gathers components, each once.
struct Shelving {
    by_digest: HashMap<(Option<Stage>, String), Arc<Slot>>,
    jobs: VecDeque<Job>,
    slots: Vec<Arc<Slot>>,
}

impl Shelving {
    fn add(&mut self, stage: Option<Stage>, name: String, bytes: std::borrow::Cow<'static, [u8]>) -> Arc<Slot> {
        let digest = component::digest(&bytes);
        if let Some(slot) = self.by_digest.get(&(stage, digest.clone())) {
            return slot.clone();
        }
        let slot = Slot::new(name, &digest, State::Compiling);
        self.by_digest.insert((stage, digest), slot.clone());
        self.jobs.push_back(Job { slot: slot.clone(), stage, bytes });
        self.slots.push(slot.clone());
        slot
    }

    fn missing(&mut self, name: &str) -> Arc<Slot> {
        let why = "it is not in this binary; run `cargo xtask build`";
        let slot = Slot::new(name.to_owned(), "none", State::Failed(why.into()));
        self.slots.push(slot.clone());
        slot
    }

    fn files(&mut self, files: &ComponentFiles) -> Result<HashMap<Stage, Arc<Slot>>, InspectError> {
        let mut found = HashMap::new();
        for stage in Stage::ALL {
            if let Some(path) = file_of(files, stage) {
                let bytes = component::read(path, stage)?;
                found.insert(stage, self.add(Some(stage), path.display().to_string(), bytes.into()));
            }
        }
        Ok(found)
    }
}

fn file_of(files: &ComponentFiles, stage: Stage) -> Option<&PathBuf> {
    match stage {
        Stage::Renderer => files.renderer.as_ref(),
        Stage::Validator => files.validator.as_ref(),
        Stage::Transformer => files.transformer.as_ref(),
        Stage::Signer => files.signer.as_ref(),
        Stage::Shaper => files.shaper.as_ref(),
    }
}

/// Compiles on as many threads as there are processors; they end with the work.
fn compile_all(engine: &Engine, jobs: VecDeque<Job>) {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(jobs.len());
    let jobs = Arc::new(Mutex::new(jobs));
    for number in 0..threads {
        let (worker_engine, worker_jobs) = (engine.clone(), jobs.clone());
        let started = std::thread::Builder::new()
            .name(format!("compile-{number}"))
            .spawn(move || work(&worker_engine, &worker_jobs));
        if started.is_err() {
            work(engine, &jobs);
        }
    }
}

fn work(engine: &Engine, jobs: &Mutex<VecDeque<Job>>) {
    let linkers = Linkers::new(engine);
    loop {
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let Some(Job { slot, stage, bytes }) = job else { return };
        let compiled = match (&linkers, stage) {
            (Ok(linkers), Some(stage)) => Compiled::stage(engine, linkers, stage, &bytes),
            (Ok(linkers), None) => Compiled::trigger(engine, linkers, &bytes),
            (Err(error), _) => Err(wasmtime::Error::msg(format!("{error:#}"))),
        };
        slot.state.send_replace(match compiled {
            Ok(compiled) => {
                tracing::debug!(component = slot.name, digest = slot.digest, "compiled");
                State::Ready(Arc::new(compiled))
            }
            Err(error) => {
                let why = format!("{error:#}");
                tracing::error!(component = slot.name, digest = slot.digest, error = why, "cannot be compiled");
                State::Failed(why.into())
            }
        });
    }
}
