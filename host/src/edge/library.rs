//! All components of this host, and which of them answer for a tenant.
//!
//! The choice for a stage: pushed for the tenant, `[tenant.NAME.components]`, `[components]`, built-in. Compiling what is
//! built in or configured begins at start, on threads of its own, the built-in `submit` first, and whoever needs a
//! component waits for it. The same file is compiled once, whoever uses it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use sha2::{Digest, Sha256};
use wasmtime::Engine;

use super::Settings;
use super::component::{self, Compiled, InspectError, Linkers, Stage};
use super::confine::{Bounds, Frame};
use super::grants::{Grants, Ways};
use super::meter::Meter;
use super::place::Place;
use super::set::{Against, Components, Part, Plan, Seat, Set, Source, Trial};
use super::slot::{Capacity, Loader, Slot};
use super::trial::{Canary, Shadow};
use crate::config::{self, ComponentFiles, StageLimits};
use crate::store::{ComponentVersion, OnFailure, StageSettings, TenantLimits, VersionState};

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

/// The stages of a submission, which an edge may have components for too.
const OF_SUBMISSIONS: [Stage; 4] = [Stage::Renderer, Stage::Validator, Stage::Transformer, Stage::Signer];

/// What was pushed and set for one tenant.
#[derive(Clone, Debug, Default)]
pub struct Assignment {
    /// Live versions; others are not looked at.
    pub versions: Vec<ComponentVersion>,
    pub settings: BTreeMap<Stage, StageSettings>,
    pub limits: TenantLimits,
}

impl Assignment {
    /// Whether it changes anything.
    fn is_empty(&self) -> bool {
        let Assignment { versions, settings, limits } = self;
        *limits == TenantLimits::default()
            && settings.values().all(|one| *one == StageSettings::default())
            && !versions.iter().any(|version| version.state.is_live())
    }

    /// The live versions of a stage, with the place of each.
    fn live(&self, stage: Stage) -> impl Iterator<Item = (Place, &ComponentVersion)> {
        let live = self.versions.iter().filter(|version| version.state.is_live());
        let placed = live.filter_map(|version| Some((version.stage.parse::<Place>().ok()?, version)));
        placed.filter(move |(place, _)| place.stage == stage)
    }
}

/// Slots by what they are (no stage: an HTTP trigger) and the digest of their file.
type ByDigest = HashMap<(Option<Stage>, String), Arc<Slot>>;

/// Slots of stages, by stage.
type Stages = HashMap<Stage, Vec<Arc<Slot>>>;

/// Which component answers for whom.
pub struct Library {
    pub loader: Arc<Loader>,
    submit: Arc<Slot>,
    notify: Arc<Slot>,
    built_in: HashMap<Stage, Arc<Slot>>,
    shared: Stages,
    always: Stages,
    configured: HashMap<String, Stages>,
    /// `[tenant.NAME.grants]`, for stages that nothing was granted to since.
    granted: HashMap<String, BTreeMap<Stage, Arc<Grants>>>,
    /// What the configuration names, for all tenants.
    files: Vec<(Stage, Arc<Slot>)>,
    limits: StageLimits,
    frame: Frame,
    ways: Ways,
    /// Of every tenant that has nothing of its own.
    common: Arc<Set>,
    sets: RwLock<HashMap<String, Arc<Set>>>,
    /// Components that many may share: those of the configuration and of this binary, and pushed ones.
    by_digest: Mutex<ByDigest>,
    /// Those that must be ready before the host is.
    needed: Vec<Arc<Slot>>,
}

impl Library {
    /// Reads the configured files and begins to compile everything; returns at once.
    ///
    /// Errors: a file that is no component of its stage; an engine that cannot link.
    pub fn open(
        engine: &Engine,
        settings: &Settings<'_>,
        built_in: &BuiltIn,
        frame: Frame,
    ) -> Result<Library, super::EdgeError> {
        let linkers =
            Arc::new(Linkers::new(engine).map_err(|error| super::EdgeError::Engine(format!("linking: {error:#}")))?);
        let mut shelving =
            Shelving { by_digest: HashMap::new(), jobs: VecDeque::new(), needed: Vec::new(), of_files: Vec::new() };
        let submit = shelving.built_in(None, "built-in submit", built_in.submit);
        let shared = shelving.files(settings.components)?;
        let always = shelving.files(settings.always)?;
        let mut own = HashMap::new();
        for stage in [Stage::Validator, Stage::Signer, Stage::Renderer, Stage::Shaper] {
            own.insert(stage, shelving.built_in(Some(stage), &format!("built-in {stage}"), built_in.stage(stage)));
        }
        let notify = shelving.built_in(None, "built-in notify", built_in.notify);
        let mut configured = HashMap::new();
        let mut granted = HashMap::new();
        for (name, tenant) in settings.tenants {
            configured.insert(name.clone(), shelving.files(&tenant.components)?);
            granted.insert(name.clone(), configured_grants(&tenant.grants, settings.ways));
        }
        compile_all(engine, &linkers, shelving.jobs);
        let limits = settings.stages.clone();
        let capacity = Capacity { components: limits.loaded, bytes: limits.loaded_bytes };
        let mut library = Library {
            loader: Arc::new(Loader::new(engine.clone(), linkers, capacity)),
            submit,
            notify,
            built_in: own,
            shared,
            always,
            configured,
            granted,
            files: shelving.of_files,
            frame,
            limits,
            ways: settings.ways.clone(),
            common: Arc::new(Set::nothing(frame.bounds)),
            sets: RwLock::default(),
            by_digest: Mutex::new(shelving.by_digest),
            needed: shelving.needed,
        };
        library.common = Arc::new(library.make("", &Assignment::default(), None));
        for name in settings.tenants.keys() {
            library.assign(name, &Assignment::default());
        }
        Ok(library)
    }

    /// The sending API.
    pub fn submit(&self) -> &Arc<Slot> {
        &self.submit
    }

    /// Tells events to webhooks.
    pub fn notify(&self) -> &Arc<Slot> {
        &self.notify
    }

    /// What answers for a tenant from now on, until it is changed.
    pub fn set(&self, tenant: &str) -> Arc<Set> {
        let sets = self.sets.read().unwrap_or_else(PoisonError::into_inner);
        sets.get(tenant).unwrap_or(&self.common).clone()
    }

    /// Puts another set in the place of a tenant's, at once. Answers the id of the new one.
    pub fn assign(&self, tenant: &str, assignment: &Assignment) -> u64 {
        let before = self.set(tenant);
        let is_common = assignment.is_empty() && !self.configured.contains_key(tenant);
        let set = match is_common {
            true => self.common.clone(),
            // What all have in common is nobody's to go on with: its accounts would be shared.
            false => {
                let own = Some(before.as_ref()).filter(|_| !Arc::ptr_eq(&before, &self.common));
                Arc::new(self.make(tenant, assignment, own))
            }
        };
        let id = set.id;
        let mut sets = self.sets.write().unwrap_or_else(PoisonError::into_inner);
        let replaced = match is_common {
            true => sets.remove(tenant),
            false => sets.insert(tenant.to_owned(), set),
        };
        drop(sets);
        drop((replaced, before));
        self.forget_unused();
        id
    }

    /// A pushed component, compiled already by whoever checked it.
    pub fn admit(&self, stage: Stage, digest: &str, compiled: Compiled) {
        let slot = self.pushed(stage, digest);
        if slot.is_stored() && !slot.is_loaded() {
            self.loader.settle(&slot, Ok(compiled));
        }
    }

    /// Why not everything is ready; empty when it is.
    pub fn obstacles(&self) -> Vec<String> {
        self.needed.iter().filter_map(|slot| slot.obstacle()).collect()
    }

    /// The components that the configuration names, each once.
    pub fn files(&self) -> &[(Stage, Arc<Slot>)] {
        &self.files
    }

    /// How what was granted is reached.
    pub fn ways(&self) -> &Ways {
        &self.ways
    }

    /// Within what tenants' components run.
    pub fn frame(&self) -> Frame {
        self.frame
    }

    fn pushed(&self, stage: Stage, digest: &str) -> Arc<Slot> {
        let mut slots = self.by_digest.lock().unwrap_or_else(PoisonError::into_inner);
        slots.entry((Some(stage), digest.to_owned())).or_insert_with(|| Slot::stored(stage, digest)).clone()
    }

    /// Drops pushed components that no set names any more.
    fn forget_unused(&self) {
        let mut slots = self.by_digest.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever loaded it counts it too, until it was idle for long enough.
        slots.retain(|_, slot| !slot.is_stored() || Arc::strong_count(slot) > 1);
    }

    fn make(&self, tenant: &str, assignment: &Assignment, before: Option<&Set>) -> Set {
        static IDS: AtomicU64 = AtomicU64::new(1);
        let TenantLimits { calls, cpu_percent, .. } = assignment.limits;
        let plans = Stage::ALL.map(|stage| self.plan(tenant, stage, assignment, before));
        let percent = cpu_percent.unwrap_or(self.limits.cpu_percent);
        // An account goes on through a change of components: pushing fills it with nothing.
        let account = |of: fn(&Set) -> &Option<Arc<Meter>>| {
            let known = before.and_then(|before| of(before).clone()).filter(|meter| meter.percent() == percent);
            Some(known.unwrap_or_else(|| Arc::new(Meter::new(percent))))
        };
        let is_of_tenant = plans.iter().any(|plan| plan.source.is_of_tenant() || plan.canary.is_some());
        Set {
            id: IDS.fetch_add(1, Ordering::Relaxed),
            components: components(&plans),
            bounds: self.frame.of_tenant(&assignment.limits),
            calls: calls.unwrap_or(self.limits.instances),
            meter: is_of_tenant.then(|| account(|set| &set.meter)).flatten(),
            shadow_meter: account(|set| &set.shadow_meter),
            plans,
        }
    }

    fn plan(&self, tenant: &str, stage: Stage, assignment: &Assignment, before: Option<&Set>) -> Plan {
        let settings = assignment.settings.get(&stage);
        // In the order of their positions.
        let mut pushed = BTreeMap::new();
        let (mut canary, mut shadow) = (None, None);
        let before = before.map(|before| before.plan(stage));
        for (place, version) in assignment.live(stage) {
            let slot = self.pushed(stage, &version.digest);
            match version.state {
                VersionState::Active => drop(pushed.insert(place.position, Seat::pushed(slot, Part::Own, place))),
                VersionState::Canary(percent) => {
                    let known = before.and_then(|before| before.canary.as_ref()).map(|trial| &trial.canary);
                    let known = known.filter(|known| known.place == place && known.version == version.version);
                    let new = || Arc::new(Canary::new(place, version.version, slot));
                    canary = Some((percent, known.cloned().unwrap_or_else(new)));
                }
                VersionState::Shadow => {
                    let known = before.and_then(|before| before.shadow.as_ref()).map(|(shadow, _)| shadow);
                    let known = known.filter(|known| known.place == place && known.version == version.version);
                    shadow =
                        Some(known.cloned().unwrap_or_else(|| Arc::new(Shadow::new(place, version.version, slot))));
                }
                VersionState::Retired | VersionState::RolledBack | VersionState::Removed => {}
            }
        }
        let canary = canary.map(|(percent, canary)| trial(percent, canary, &pushed));
        let shadow = shadow.map(|shadow: Arc<Shadow>| {
            // At an empty position it stands behind the last.
            let beside = pushed.get(&shadow.place.position).or_else(|| pushed.values().next_back());
            (shadow, beside.map_or(Against::All, |seat| Against::One(seat.id)))
        });
        let of = |stages: &Stages| stages.get(&stage).cloned().filter(|slots| !slots.is_empty());
        let configured = |slots: Vec<Arc<Slot>>, source: Source| {
            let seats = slots.into_iter().map(|slot| Seat::configured(slot, Part::Own, stage, source.is_of_tenant()));
            (seats.collect(), source)
        };
        let fallback = self.built_in.get(&stage).map(|slot| Seat::built_in(slot.clone(), stage));
        let pushed: Vec<Arc<Seat>> = pushed.into_values().collect();
        let (own, source) = Some((pushed, Source::Pushed))
            .filter(|(seats, _)| !seats.is_empty())
            .or_else(|| self.configured.get(tenant).and_then(of).map(|slots| configured(slots, Source::Tenant)))
            .or_else(|| of(&self.shared).map(|slots| configured(slots, Source::Shared)))
            .unwrap_or_else(|| (fallback.iter().cloned().collect(), Source::BuiltIn));
        let always = of(&self.always).unwrap_or_default();
        Plan {
            always: always.into_iter().map(|slot| Seat::configured(slot, Part::Always, stage, false)).collect(),
            own,
            source,
            canary,
            shadow,
            fallback,
            on_failure: settings.and_then(|settings| settings.on_failure).unwrap_or(self.limits.on_failure),
            grants: settings
                .and_then(|settings| Grants::new(settings, &self.ways))
                .map(Arc::new)
                .or_else(|| self.granted.get(tenant)?.get(&stage).cloned()),
        }
    }
}

impl Set {
    /// Stands in until the first real one is made.
    fn nothing(bounds: Bounds) -> Set {
        let plans = Stage::ALL.map(|_| Plan {
            always: Vec::new(),
            own: Vec::new(),
            source: Source::BuiltIn,
            canary: None,
            shadow: None,
            fallback: None,
            on_failure: OnFailure::Defer,
            grants: None,
        });
        let components = Components { are_configured: false, revision: 0 };
        Set { id: 0, plans, bounds, calls: 1, meter: None, shadow_meter: None, components }
    }
}

/// What the requests of a canary are answered by, beside what else was pushed.
fn trial(percent: u8, canary: Arc<Canary>, pushed: &BTreeMap<u8, Arc<Seat>>) -> Trial {
    let position = canary.place.position;
    let instead_of = match pushed.get(&position) {
        Some(seat) => Against::One(seat.id),
        None if pushed.is_empty() => Against::All,
        None => Against::Nobody,
    };
    let mut list = pushed.clone();
    list.insert(position, Seat::pushed(canary.slot.clone(), Part::Canary, canary.place));
    Trial { percent, canary, list: list.into_values().collect(), instead_of }
}

/// `[tenant.NAME.grants]`.
fn configured_grants(configured: &config::Grants, ways: &Ways) -> BTreeMap<Stage, Arc<Grants>> {
    let of = |(stage, hosts): (&Stage, &Vec<String>)| {
        let private_hosts = configured.private;
        let settings = StageSettings { http_hosts: hosts.clone(), private_hosts, ..StageSettings::default() };
        Grants::new(&settings, ways).map(|grants| (*stage, Arc::new(grants)))
    };
    configured.hosts.iter().filter_map(of).collect()
}

/// What an edge must know of these stages.
fn components(plans: &[Plan; 5]) -> Components {
    let mut digests = Sha256::new();
    let mut are_configured = false;
    for (stage, plan) in Stage::ALL.into_iter().zip(plans).filter(|(stage, _)| OF_SUBMISSIONS.contains(stage)) {
        are_configured |= plan.source != Source::BuiltIn || !plan.always.is_empty() || plan.canary.is_some();
        // With what each is: whoever changes places with the one on trial makes another set of the same files.
        let tried = plan.canary.iter().flat_map(|trial| &trial.list).filter(|seat| seat.part == Part::Canary);
        for seat in plan.always.iter().chain(&plan.own).chain(tried) {
            digests.update(format!("{stage} {:?} {} {}\n", seat.part, seat.place.position, seat.slot.digest));
        }
    }
    let [a, b, c, d, e, f, g, h, ..] = <[u8; 32]>::from(digests.finalize());
    Components { are_configured, revision: u64::from_be_bytes([a, b, c, d, e, f, g, h]) >> 11 }
}

/// One component to compile. No stage: an HTTP trigger.
struct Job {
    slot: Arc<Slot>,
    stage: Option<Stage>,
    bytes: std::borrow::Cow<'static, [u8]>,
}

/// Gathers components, each once.
struct Shelving {
    by_digest: ByDigest,
    jobs: VecDeque<Job>,
    needed: Vec<Arc<Slot>>,
    of_files: Vec<(Stage, Arc<Slot>)>,
}

impl Shelving {
    fn add(&mut self, stage: Option<Stage>, name: String, bytes: std::borrow::Cow<'static, [u8]>) -> Arc<Slot> {
        let digest = component::digest(&bytes);
        if let Some(slot) = self.by_digest.get(&(stage, digest.clone())) {
            return slot.clone();
        }
        let slot = Slot::compiling(name, &digest);
        self.by_digest.insert((stage, digest), slot.clone());
        self.jobs.push_back(Job { slot: slot.clone(), stage, bytes });
        self.needed.push(slot.clone());
        slot
    }

    fn built_in(&mut self, stage: Option<Stage>, name: &str, bytes: Option<&'static [u8]>) -> Arc<Slot> {
        let Some(bytes) = bytes else {
            let slot = Slot::missing(name, "it is not in this binary; run `cargo xtask build`");
            self.needed.push(slot.clone());
            return slot;
        };
        self.add(stage, name.to_owned(), bytes.into())
    }

    fn files(&mut self, files: &ComponentFiles) -> Result<Stages, InspectError> {
        let mut found = Stages::new();
        for stage in Stage::ALL {
            for path in files.of(stage) {
                let bytes = component::read(path, stage)?;
                let slot = self.add(Some(stage), path.display().to_string(), bytes.into());
                if !self.of_files.iter().any(|(_, known)| known.id == slot.id) {
                    self.of_files.push((stage, slot.clone()));
                }
                found.entry(stage).or_default().push(slot);
            }
        }
        Ok(found)
    }
}

/// Compiles on as many threads as there are processors; they end with the work.
fn compile_all(engine: &Engine, linkers: &Arc<Linkers>, jobs: VecDeque<Job>) {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(jobs.len());
    let jobs = Arc::new(Mutex::new(jobs));
    for number in 0..threads {
        let (worker_engine, worker_linkers, worker_jobs) = (engine.clone(), linkers.clone(), jobs.clone());
        let started = std::thread::Builder::new()
            .name(format!("compile-{number}"))
            .spawn(move || work(&worker_engine, &worker_linkers, &worker_jobs));
        if started.is_err() {
            work(engine, linkers, &jobs);
        }
    }
}

fn work(engine: &Engine, linkers: &Linkers, jobs: &Mutex<VecDeque<Job>>) {
    loop {
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let Some(Job { slot, stage, bytes }) = job else { return };
        slot.finish(match stage {
            Some(stage) => Compiled::stage(engine, linkers, stage, &bytes),
            None => Compiled::trigger(engine, linkers, &bytes),
        });
    }
}
