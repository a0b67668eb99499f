//! What is pushed for tenants: checked, stored, and put to work at once.
//!
//! Every change goes to the store first and then into the library, one change at a time, so that a restart finds what was
//! answered. Where no host runs, a command changes the store alone, and the next start finds it.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use jiff::Timestamp;
use thiserror::Error;
use tokio::sync::{Mutex, mpsc};
use tokio_util::sync::CancellationToken;

use super::component::{self, InspectError, Stage};
use super::library::Assignment;
use super::place::Place;
use super::set::{Seat, Source};
use super::trial::Calls;
use super::{Edge, Frame, Notice, conformance, grants};
use crate::store::{
    ComponentStore, ComponentVersion, NewVersion, StageSettings, StoreError, TenantEvent, TenantEventKind,
    TenantLimits, VersionState,
};
use crate::web::Limits;

/// Of a file that is fetched.
const FETCH: Limits = Limits { time: Duration::from_secs(60), body_bytes: component::FILE_BYTES as usize };

/// How often idle components and instances are given up.
const TIDY: Duration = Duration::from_secs(30);

/// How long one event about a component that fails stands for all its failures.
const FALLBACK_TOLD: Duration = Duration::from_secs(10 * 60);

/// Failed cases that an error names.
const FAULTS_SHOWN: usize = 3;

/// Longest name of a file or URL that a version came from, in bytes.
const SOURCE_BYTES: usize = 1024;

/// Why a change was not made.
#[derive(Debug, Error)]
pub enum RegistryError {
    #[error(transparent)]
    Component(#[from] InspectError),
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What was asked for makes no sense; the text says what does.
    #[error("{0}")]
    Invalid(String),
    /// A file could not be had.
    #[error("{0}")]
    Fetch(String),
}

/// A component that is pushed.
#[derive(Clone, Debug)]
pub struct Pushed {
    pub tenant: String,
    pub place: Place,
    /// The file name or URL that it came from.
    pub source: String,
    pub file: Bytes,
    /// What it is to be: active, a canary or a shadow.
    pub state: VersionState,
}

/// A component in a list: where it stands, its name and the first digits of its digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// Of what was not pushed, the first of its stage.
    pub place: Place,
    pub name: String,
    pub digest: String,
}

/// A version on trial: where it stands, and what was counted of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OnTrial<C> {
    pub place: Place,
    pub version: u32,
    pub counted: C,
}

/// What a running host calls for one stage of a tenant.
#[derive(Clone, Debug)]
pub struct StageView {
    pub stage: Stage,
    pub source: Source,
    pub always: Vec<Named>,
    pub own: Vec<Named>,
    /// The calls of the canary, and those of the active one beside it.
    pub canary: Option<OnTrial<(Calls, Calls)>>,
    /// Calls that came to the same, to something else, to a failure, and that were not made.
    pub shadow: Option<OnTrial<[u64; 4]>>,
}

/// Changes the components of tenants.
pub struct Registry {
    store: Arc<dyn ComponentStore>,
    /// Absent where no host runs.
    edge: Option<Arc<Edge>>,
    /// Within what tenants' components run.
    frame: Frame,
    changes: Mutex<()>,
    /// Which components' failures were told when: all tenants'.
    told: std::sync::Mutex<HashMap<(String, Place, String), Instant>>,
}

impl Registry {
    /// Over the store alone, for a command while no host runs; `frame` is what that host would have.
    pub fn of_store(store: Arc<dyn ComponentStore>, frame: Frame) -> Registry {
        Registry { store, edge: None, frame, changes: Mutex::default(), told: std::sync::Mutex::default() }
    }

    /// Puts to work what was pushed before, and answers for changes from then on.
    pub async fn open(store: Arc<dyn ComponentStore>, edge: Arc<Edge>) -> Result<Registry, StoreError> {
        edge.inner.library.loader.read_from(store.clone());
        let mut assignments: BTreeMap<String, Assignment> = BTreeMap::new();
        for version in store.component_versions(None).await?.into_iter().filter(|version| version.state.is_live()) {
            assignments.entry(version.tenant.clone()).or_default().versions.push(version);
        }
        for (tenant, stage, settings) in store.stage_settings(None).await? {
            if let Ok(stage) = stage.parse() {
                assignments.entry(tenant).or_default().settings.insert(stage, settings);
            }
        }
        for (tenant, limits) in store.tenant_limits(None).await? {
            assignments.entry(tenant).or_default().limits = limits;
        }
        for (tenant, assignment) in &assignments {
            edge.assign(tenant, assignment);
        }
        let frame = edge.inner.library.frame();
        Ok(Registry { store, edge: Some(edge), frame, changes: Mutex::default(), told: std::sync::Mutex::default() })
    }

    /// Acts on what the components come to, and gives up what is idle, until it is told to stop.
    pub async fn watch(self: Arc<Self>, stop: CancellationToken) {
        let Some(edge) = self.edge.clone() else { return };
        let Some(mut notices) = edge.notices() else { return };
        let mut tidy = tokio::time::interval(TIDY);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = tidy.tick() => {
                    let now = Instant::now();
                    edge.inner.library.loader.give_up_idle(now);
                    edge.inner.shelf.tidy(now);
                }
                notice = notices.recv() => match notice {
                    Some(notice) => self.act(notice).await,
                    None => return,
                },
            }
        }
    }

    /// Gives each component that the configuration names the cases of its stage, once it is compiled, until it is told to
    /// stop. One that does not stand them is used all the same, as the operator said: the log says what is wrong.
    pub async fn try_configured(self: Arc<Self>, stop: CancellationToken) {
        let Some(edge) = self.edge.clone() else { return };
        tokio::select! {
            () = stop.cancelled() => {}
            () = try_all(&edge) => {}
        }
    }

    pub(super) async fn act(&self, notice: Notice) {
        if let Notice::CanaryOver { tenant, place, version, why, .. } = &notice {
            let _turn = self.changes.lock().await;
            // An operator may have decided meanwhile; requests under way still count for what was.
            let is_on_trial = self.versions(tenant, *place).await.is_ok_and(|all| {
                all.iter().any(|it| it.version == *version && matches!(it.state, VersionState::Canary(_)))
            });
            if !is_on_trial {
                return;
            }
            let place = place.to_string();
            let state = VersionState::RolledBack;
            let mut done = self.store.place_component(tenant, &place, *version, state, Some(why.clone())).await;
            if let Some(entry) = notice.audited(Timestamp::now()).filter(|_| done.is_ok()) {
                done = self.store.audit(entry).await;
            }
            let done = match done {
                Ok(()) => self.refresh(tenant).await,
                failed => failed,
            };
            if let Err(error) = done {
                // It is not called any more until the next start, which finds it still on trial and watches it again.
                tracing::error!(tenant, stage = place, version, %error, "the end of a canary was not stored");
            }
        }
        self.announce(&notice).await;
    }

    /// Tells whoever should know: the log, and the tenant by an event.
    async fn announce(&self, notice: &Notice) {
        let (tenant, event) = match notice {
            Notice::CanaryOver { tenant, place, version, digest, why } => {
                tracing::warn!(tenant, stage = %place, version, digest, why, "a canary was rolled back");
                let data = [
                    ("stage", place.to_string().into()),
                    ("version", (*version).into()),
                    ("digest", digest.as_str().into()),
                    ("reason", why.as_str().into()),
                ];
                (tenant, TenantEvent::new(TenantEventKind::ComponentRolledBack, data))
            }
            Notice::FellBack { tenant, place, digest, why } => {
                tracing::warn!(tenant, stage = %place, digest, why, "the built-in component answered instead");
                if !self.is_news(tenant, *place, digest) {
                    return;
                }
                let data = [
                    ("stage", place.to_string().into()),
                    ("digest", digest.as_str().into()),
                    ("reason", why.as_str().into()),
                ];
                (tenant, TenantEvent::new(TenantEventKind::ComponentFallback, data))
            }
        };
        if let Err(error) = self.store.announce(tenant, event, Timestamp::now()).await {
            tracing::error!(tenant, %error, "an event about a component was not stored");
        }
    }

    /// Whether nobody was told of this component's failures in the last `FALLBACK_TOLD`: every message may be one.
    fn is_news(&self, tenant: &str, place: Place, digest: &str) -> bool {
        let now = Instant::now();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.retain(|_, at| now.duration_since(*at) < FALLBACK_TOLD);
        match told.entry((tenant.to_owned(), place, digest.to_owned())) {
            Entry::Occupied(_) => false,
            Entry::Vacant(entry) => {
                entry.insert(now);
                true
            }
        }
    }

    /// Checks a component, stores it and puts it to work. The second value is how long it took from the end of the checks,
    /// which compile it, until it was at work.
    pub async fn push(&self, pushed: Pushed) -> Result<(ComponentVersion, Duration), RegistryError> {
        let Pushed { tenant, place, source, file, state } = pushed;
        check_state(state)?;
        if source.is_empty() || source.len() > SOURCE_BYTES || source.chars().any(char::is_control) {
            let text = format!("the source is the name of a file or a URL, of at most {SOURCE_BYTES} bytes");
            return Err(RegistryError::Invalid(text));
        }
        let digest = self.check(place.stage, Path::new(&source), &file).await?;
        let checked = Instant::now();
        let _turn = self.changes.lock().await;
        self.expect_one_trial(&tenant, place, state).await?;
        let new = NewVersion {
            tenant: tenant.clone(),
            stage: place.to_string(),
            digest,
            source,
            pushed_at: Timestamp::now(),
            state,
        };
        let version = self.store.add_component(new, file).await?;
        self.refresh(&tenant).await?;
        let ComponentVersion { version: number, digest, .. } = &version;
        let took = checked.elapsed();
        tracing::info!(tenant, stage = %place, version = number, digest, ?state, ?took, "a component was pushed");
        Ok((version, took))
    }

    /// Fetches the file with this digest through the guarded client.
    pub async fn fetch(&self, url: &str, sha256: &str) -> Result<Bytes, RegistryError> {
        let web = self.edge.as_ref().and_then(|edge| edge.inner.library.ways().public.clone());
        let web =
            web.ok_or_else(|| RegistryError::Invalid("url: no host runs that could fetch it: start it".into()))?;
        let request = http::Request::get(url).body(Bytes::new());
        let request = request.map_err(|error| RegistryError::Invalid(format!("url: {error}")))?;
        let answer = web.send(request, FETCH).await.map_err(|error| RegistryError::Fetch(format!("{url}: {error}")))?;
        if !answer.status().is_success() {
            return Err(RegistryError::Fetch(format!("{url}: answered {}", answer.status())));
        }
        let file = answer.into_body();
        let found = component::digest(&file);
        match found.eq_ignore_ascii_case(sha256) {
            true => Ok(file),
            false => Err(RegistryError::Invalid(format!("sha256: the file at {url} has the digest {found}"))),
        }
    }

    /// Every check of a file before it is stored: outline, imports, types. Answers its digest.
    async fn check(&self, stage: Stage, source: &Path, file: &Bytes) -> Result<String, RegistryError> {
        component::check_outline(source, file, stage)?;
        let digest = component::digest(file);
        let failed = |error: wasmtime::Error| InspectError::Compile {
            path: source.to_owned(),
            stage,
            what: format!("{error:#}"),
        };
        match &self.edge {
            Some(edge) => {
                let library = &edge.inner.library;
                let compiled = library.loader.compile(stage, file.to_vec()).await.map_err(failed)?;
                library.admit(stage, &digest, compiled);
            }
            None => {
                let file = file.clone();
                let work = tokio::task::spawn_blocking(move || component::compile_alone(&file, stage));
                let done = work.await.unwrap_or_else(|error| Err(wasmtime::Error::msg(error.to_string())));
                done.map_err(failed)?;
            }
        }
        Ok(digest)
    }

    /// Whether a component stands the cases of its stage (`conformance`), within the limits that it will run in: the
    /// tenant's own, and for all else those for all.
    ///
    /// Errors: what it is not, or which cases it does not stand, with what was expected and what it did.
    pub async fn conform(&self, tenant: &str, stage: Stage, source: &str, file: &Bytes) -> Result<(), RegistryError> {
        let source = Path::new(source);
        component::check_outline(source, file, stage)?;
        let bounds = self.frame.of_tenant(&self.limits(tenant).await?);
        let report = match &self.edge {
            Some(edge) => {
                let failed = |error: wasmtime::Error| InspectError::Compile {
                    path: source.to_owned(),
                    stage,
                    what: format!("{error:#}"),
                };
                let library = &edge.inner.library;
                let compiled = library.loader.compile(stage, file.to_vec()).await.map_err(failed)?;
                conformance::check(&edge.inner.engine, &compiled, stage, &bounds).await
            }
            None => conformance::test_bytes(source, file, stage, &bounds).await?.0,
        };
        match report.faults().as_slice() {
            [] => Ok(()),
            faults => Err(RegistryError::Invalid(format!(
                "{}: it does not stand {} of the {} cases of a {stage} within the limits of tenant `{tenant}` (time_ms {}, \
                 memory_bytes {}, output_bytes {}; `posthaste component test` shows all cases, `component limit` changes \
                 limits): {}",
                source.display(),
                faults.len(),
                report.cases.len(),
                bounds.time.as_millis(),
                bounds.memory_bytes,
                bounds.output_bytes,
                faults.iter().take(FAULTS_SHOWN).cloned().collect::<Vec<_>>().join("; ")
            ))),
        }
    }

    /// Gives a version another state; left out, the newest. What had that state before gives way.
    pub async fn place(
        &self,
        tenant: &str,
        place: impl Into<Place>,
        version: Option<u32>,
        state: VersionState,
    ) -> Result<(), RegistryError> {
        let place = place.into();
        check_state(state)?;
        let _turn = self.changes.lock().await;
        self.expect_one_trial(tenant, place, state).await?;
        let versions = self.versions(tenant, place).await?;
        let newest = versions.last().map(|newest| newest.version);
        let version = version.or(newest).ok_or_else(|| nothing(tenant, place))?;
        let is_active = versions.iter().any(|it| it.version == version && it.state == VersionState::Active);
        if is_active && state != VersionState::Active {
            return Err(RegistryError::Invalid(format!(
                "version {version} is the active one: name one that is not, or activate another first"
            )));
        }
        self.store.place_component(tenant, &place.to_string(), version, state, None).await?;
        Ok(self.refresh(tenant).await?)
    }

    /// Refuses a second canary, or a second shadow, of one stage: which position is better could not be told apart.
    async fn expect_one_trial(&self, tenant: &str, place: Place, state: VersionState) -> Result<(), RegistryError> {
        let is_alike = |known: VersionState| match state {
            VersionState::Canary(_) => matches!(known, VersionState::Canary(_)),
            VersionState::Shadow => known == VersionState::Shadow,
            _ => false,
        };
        let versions = self.store.component_versions(Some(tenant)).await?;
        let other = versions.iter().find(|version| {
            let of = version.stage.parse::<Place>();
            is_alike(version.state) && of.is_ok_and(|of| of.stage == place.stage && of != place)
        });
        match other {
            None => Ok(()),
            Some(other) => Err(RegistryError::Invalid(format!(
                "version {} of the {} is on trial: end that trial first",
                other.version, other.stage
            ))),
        }
    }

    /// Calls nothing of a tenant's own any more: it was removed from the store.
    pub async fn forget(&self, tenant: &str) -> Result<(), StoreError> {
        let _turn = self.changes.lock().await;
        self.refresh(tenant).await
    }

    /// Ends the trial of a canary or of a shadow.
    pub async fn end_trial(&self, tenant: &str, place: impl Into<Place>, of_canary: bool) -> Result<(), RegistryError> {
        let place = place.into();
        let _turn = self.changes.lock().await;
        let on_trial = self.versions(tenant, place).await?.into_iter().find(|version| match version.state {
            VersionState::Canary(_) => of_canary,
            VersionState::Shadow => !of_canary,
            _ => false,
        });
        let kind = if of_canary { "canary" } else { "shadow" };
        let missing = || StoreError::NotFound(format!("a {kind} of the {place} of tenant {tenant}"));
        let version = on_trial.ok_or_else(missing)?.version;
        self.store.place_component(tenant, &place.to_string(), version, VersionState::RolledBack, None).await?;
        Ok(self.refresh(tenant).await?)
    }

    /// Takes back what was changed last: a canary where there is one, else the active version, for which the one that was
    /// active before it comes back, or the configuration's.
    pub async fn roll_back(&self, tenant: &str, place: impl Into<Place>) -> Result<(), RegistryError> {
        let place = place.into();
        let has_canary =
            self.versions(tenant, place).await?.iter().any(|version| matches!(version.state, VersionState::Canary(_)));
        if has_canary {
            return self.end_trial(tenant, place, true).await;
        }
        let _turn = self.changes.lock().await;
        self.store.roll_back_component(tenant, &place.to_string(), None).await?;
        Ok(self.refresh(tenant).await?)
    }

    /// Gives a place up; with its last one a stage goes back to the configuration.
    pub async fn remove(&self, tenant: &str, place: impl Into<Place>) -> Result<(), RegistryError> {
        let _turn = self.changes.lock().await;
        self.store.remove_components(tenant, &place.into().to_string()).await?;
        Ok(self.refresh(tenant).await?)
    }

    /// All versions of a place, oldest first.
    pub async fn versions(&self, tenant: &str, place: impl Into<Place>) -> Result<Vec<ComponentVersion>, StoreError> {
        let place = place.into().to_string();
        let versions = self.store.component_versions(Some(tenant)).await?;
        Ok(versions.into_iter().filter(|version| version.stage == place).collect())
    }

    /// All versions of a stage, at all of its positions.
    pub async fn versions_of_stage(&self, tenant: &str, stage: Stage) -> Result<Vec<ComponentVersion>, StoreError> {
        let versions = self.store.component_versions(Some(tenant)).await?;
        let is_of = |version: &ComponentVersion| version.stage.parse::<Place>().is_ok_and(|place| place.stage == stage);
        Ok(versions.into_iter().filter(is_of).collect())
    }

    /// What a tenant's stage may, and what follows when it fails.
    pub async fn settings(&self, tenant: &str, stage: Stage) -> Result<StageSettings, StoreError> {
        let found = self.store.stage_settings(Some(tenant)).await?;
        let found = found.into_iter().find(|(_, name, _)| name == stage.name());
        Ok(found.map(|(_, _, settings)| settings).unwrap_or_default())
    }

    pub async fn set_settings(&self, tenant: &str, stage: Stage, settings: StageSettings) -> Result<(), RegistryError> {
        if settings.http_hosts.len() > grants::HOSTS {
            return Err(RegistryError::Invalid(format!("http_hosts: at most {} hosts are granted", grants::HOSTS)));
        }
        for text in &settings.http_hosts {
            grants::host(text).map_err(|why| RegistryError::Invalid(format!("http_hosts: {why}")))?;
        }
        let _turn = self.changes.lock().await;
        self.store.set_stage_settings(tenant, stage.name(), settings).await?;
        Ok(self.refresh(tenant).await?)
    }

    pub async fn limits(&self, tenant: &str) -> Result<TenantLimits, StoreError> {
        let found = self.store.tenant_limits(Some(tenant)).await?;
        Ok(found.into_iter().next().map(|(_, limits)| limits).unwrap_or_default())
    }

    pub async fn set_limits(&self, tenant: &str, limits: TenantLimits) -> Result<(), RegistryError> {
        self.check_limits(&limits)?;
        let _turn = self.changes.lock().await;
        self.store.set_tenant_limits(tenant, limits).await?;
        Ok(self.refresh(tenant).await?)
    }

    fn check_limits(&self, limits: &TenantLimits) -> Result<(), RegistryError> {
        let TenantLimits { time_ms, memory_bytes, output_bytes, calls, cpu_percent } = *limits;
        let ceiling = self.frame.memory_ceiling;
        let check = |name: &str, value: Option<usize>, most: usize| match value {
            Some(value) if value == 0 || value > most => {
                Err(RegistryError::Invalid(format!("{name}: {value} is out of range: write a number from 1 to {most}")))
            }
            _ => Ok(()),
        };
        check("time_ms", time_ms.and_then(|time| usize::try_from(time).ok()), 60_000)?;
        check("memory_bytes", memory_bytes, ceiling)?;
        check("output_bytes", output_bytes, ceiling)?;
        check("calls", calls, 64)?;
        check("cpu_percent", cpu_percent, 10_000)
    }

    /// What a running host calls for a tenant; empty where none runs.
    pub fn stages(&self, tenant: &str) -> Vec<StageView> {
        let Some(edge) = &self.edge else { return Vec::new() };
        let set = edge.inner.library.set(tenant);
        let named = |seats: &[Arc<Seat>]| {
            let name = |Seat { name, slot, place, .. }: &Seat| Named {
                place: *place,
                name: name.clone(),
                digest: slot.digest.clone(),
            };
            seats.iter().map(|seat| name(seat)).collect()
        };
        let view = |stage| {
            let plan = set.plan(stage);
            let canary = plan.canary.as_ref().map(|trial| &trial.canary).map(|canary| OnTrial {
                place: canary.place,
                version: canary.version,
                counted: canary.counted(),
            });
            let shadow = plan.shadow.as_ref().map(|(shadow, _)| {
                let counts = &shadow.counts;
                let counts = [&counts.same, &counts.different, &counts.failed, &counts.skipped];
                let counted = counts.map(|count| count.load(Ordering::Relaxed));
                OnTrial { place: shadow.place, version: shadow.version, counted }
            });
            StageView { stage, source: plan.source, always: named(&plan.always), own: named(&plan.own), canary, shadow }
        };
        Stage::ALL.map(view).into()
    }

    /// Puts to work what the store says of a tenant.
    async fn refresh(&self, tenant: &str) -> Result<(), StoreError> {
        let Some(edge) = &self.edge else { return Ok(()) };
        let mut versions = self.store.component_versions(Some(tenant)).await?;
        versions.retain(|version| version.state.is_live());
        let settings: HashMap<_, _> =
            self.store.stage_settings(Some(tenant)).await?.into_iter().map(|(_, stage, it)| (stage, it)).collect();
        let settings =
            settings.into_iter().filter_map(|(stage, settings)| Some((stage.parse().ok()?, settings))).collect();
        let limits = self.limits(tenant).await?;
        edge.assign(tenant, &Assignment { versions, settings, limits });
        Ok(())
    }
}

impl Edge {
    /// What the components come to; for one listener.
    pub(super) fn notices(&self) -> Option<mpsc::Receiver<Notice>> {
        self.inner.unheard.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take()
    }
}

async fn try_all(edge: &Edge) {
    let library = &edge.inner.library;
    for (stage, slot) in library.files() {
        // What cannot be compiled has been told.
        let Ok(compiled) = slot.ready(&library.loader).await else { continue };
        let report = conformance::check(&edge.inner.engine, &compiled, *stage, &edge.inner.stage_bounds).await;
        let (stage, component, digest) = (stage.name(), &slot.name, &slot.digest);
        let (faults, cases) = (report.faults(), report.cases.len());
        if faults.is_empty() {
            tracing::debug!(stage, component, digest, cases, "a configured component stands the cases of its stage");
            continue;
        }
        let failed = faults.len();
        let first = faults.iter().take(FAULTS_SHOWN).cloned().collect::<Vec<_>>().join("; ");
        tracing::error!(
            stage,
            component,
            digest,
            failed,
            cases,
            first,
            "a configured component does not stand the cases of its stage: `posthaste component test` shows all"
        );
    }
}

fn check_state(state: VersionState) -> Result<(), RegistryError> {
    match state {
        VersionState::Canary(percent) if !(1..=99).contains(&percent) => Err(RegistryError::Invalid(format!(
            "percent: {percent} is out of range: write a number from 1 to 99; for all requests make it active"
        ))),
        _ => Ok(()),
    }
}

fn nothing(tenant: &str, place: Place) -> RegistryError {
    RegistryError::Store(StoreError::NotFound(format!("a pushed {place} of tenant {tenant}")))
}
