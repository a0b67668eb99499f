//! The components of tenants in the control API: `tenants/{tenant}/components/{stage}` and what hangs on it.

use std::sync::Arc;

use http::{Method, StatusCode, header};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Body, Call, Control, File, Made, Problem, Route, audit};
use crate::edge::{Calls, OnTrial, Place, Pushed, RegistryError, Source, Stage, StageView};
use crate::store::{ComponentVersion, StageSettings, TenantLimits, VersionState};

/// `PUT tenants/{tenant}/components/{stage}` where the file is to be fetched; the digest says which file is meant.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FetchComponent {
    pub url: String,
    /// Hexadecimal SHA-256 of the file.
    pub sha256: String,
    /// Share of requests in percent, for a canary.
    #[serde(default)]
    pub canary: Option<u8>,
    /// Whether it is only to run beside the active one.
    #[serde(default)]
    pub shadow: bool,
}

/// Which version is meant; left out, the newest.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WhichVersion {
    #[serde(default)]
    pub version: Option<u32>,
}

/// `POST …/canary`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewCanary {
    /// Share of requests, from 1 to 99.
    pub percent: u8,
    /// Left out, the newest.
    #[serde(default)]
    pub version: Option<u32>,
}

/// One version of a tenant's stage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VersionView {
    /// With its position where it is not the first: `validator-2`.
    pub stage: String,
    pub version: u32,
    /// Hexadecimal SHA-256 of the file.
    pub digest: String,
    pub size_bytes: u64,
    /// The file name or URL that it came from.
    pub source: String,
    #[schema(value_type = String, format = DateTime)]
    pub pushed_at: Timestamp,
    /// `active`, `canary`, `shadow`, `retired`, `rolled_back` or `removed`.
    pub state: String,
    /// Of a canary: its share of requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub percent: Option<u8>,
    /// Why it came to its state, where somebody should know.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// In the answer of a push: milliseconds from the end of its checks, which compile it, until it was at work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activated_ms: Option<u64>,
}

/// A component that answers: its name and the first digits of its digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NameView {
    /// With its position where it was pushed to another than the first: `validator-2`.
    pub stage: String,
    pub name: String,
    pub digest: String,
}

/// What was counted of a component's calls.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CallsView {
    pub calls: u64,
    pub failed: u64,
    /// 95 % of the calls took no longer, in microseconds.
    pub p95_us: u64,
}

/// A canary and the active component beside it, since its trial or the host began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CanaryView {
    /// With its position where it is not the first: `validator-2`.
    pub stage: String,
    pub version: u32,
    pub canary: CallsView,
    pub active: CallsView,
}

/// A shadow, since its trial or the host began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ShadowView {
    /// With its position where it is not the first: `validator-2`.
    pub stage: String,
    pub version: u32,
    /// Answers like those of the active one, and others.
    pub same: u64,
    pub different: u64,
    pub failed: u64,
    /// Not called, because as many as may be were under way.
    pub skipped: u64,
}

/// What answers for one stage of a tenant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StageAnswer {
    pub stage: String,
    /// `pushed`, `[tenant.NAME.components]`, `[components]` or `built-in`.
    pub source: String,
    /// Those of `[components.always]`.
    pub always: Vec<NameView>,
    pub components: Vec<NameView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canary: Option<CanaryView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shadow: Option<ShadowView>,
}

/// `GET tenants/{tenant}/components`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TenantComponents {
    /// Empty where no host runs.
    pub stages: Vec<StageAnswer>,
    /// What was pushed, oldest first.
    pub versions: Vec<VersionView>,
}

impl From<ComponentVersion> for VersionView {
    fn from(found: ComponentVersion) -> VersionView {
        let ComponentVersion { stage, version, digest, size_bytes, source, pushed_at, state, note, .. } = found;
        let (state, percent) = match state {
            VersionState::Active => ("active", None),
            VersionState::Canary(percent) => ("canary", Some(percent)),
            VersionState::Shadow => ("shadow", None),
            VersionState::Retired => ("retired", None),
            VersionState::RolledBack => ("rolled_back", None),
            VersionState::Removed => ("removed", None),
        };
        let state = state.to_owned();
        VersionView { stage, version, digest, size_bytes, source, pushed_at, state, percent, note, activated_ms: None }
    }
}

impl From<Calls> for CallsView {
    fn from(calls: Calls) -> CallsView {
        let p95_us = u64::try_from(calls.p95().as_micros()).unwrap_or(u64::MAX);
        CallsView { calls: calls.made, failed: calls.failed, p95_us }
    }
}

impl From<StageView> for StageAnswer {
    fn from(view: StageView) -> StageAnswer {
        let StageView { stage, source, always, own, canary, shadow } = view;
        let named = |all: Vec<crate::edge::Named>| {
            let name =
                |one: crate::edge::Named| NameView { stage: one.place.to_string(), name: one.name, digest: one.digest };
            all.into_iter().map(name).collect()
        };
        StageAnswer {
            stage: stage.name().to_owned(),
            source: Source::name(source).to_owned(),
            always: named(always),
            components: named(own),
            canary: canary.map(|OnTrial { place, version, counted: (canary, active) }| CanaryView {
                stage: place.to_string(),
                version,
                canary: canary.into(),
                active: active.into(),
            }),
            shadow: shadow.map(|OnTrial { place, version, counted: [same, different, failed, skipped] }| ShadowView {
                stage: place.to_string(),
                version,
                same,
                different,
                failed,
                skipped,
            }),
        }
    }
}

impl From<RegistryError> for Problem {
    fn from(error: RegistryError) -> Problem {
        match error {
            RegistryError::Store(error) => error.into(),
            RegistryError::Component(error) => {
                Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_component", error.to_string())
            }
            RegistryError::Invalid(text) => Problem::invalid(text),
            RegistryError::Fetch(text) => Problem::new(StatusCode::BAD_GATEWAY, "fetch_failed", text),
        }
    }
}

/// The routes of this family. A `stage` may be that of a position: `validator-2` is called behind `validator`.
pub fn routes() -> Vec<Route> {
    const STAGE: &str = "tenants/{tenant}/components/{stage}";
    const SETTINGS: &str = "tenants/{tenant}/components/{stage}/settings";
    const CANARY: &str = "tenants/{tenant}/components/{stage}/canary";
    const SHADOW: &str = "tenants/{tenant}/components/{stage}/shadow";
    const LIMITS: &str = "tenants/{tenant}/component-limits";
    vec![
        Route::new(Method::GET, "tenants/{tenant}/components", "What answers for a tenant, and what was pushed", all),
        Route::new(Method::GET, STAGE, "The same for one stage", one),
        Route::new(Method::PUT, STAGE, "Pushes a component: the file, or JSON with its `url` and `sha256`", push)
            .asks("source", "The name of the file.")
            .asks("canary", "Only for this share of requests, in percent.")
            .asks("shadow", "`true`: only beside what answers now."),
        Route::new(
            Method::DELETE,
            STAGE,
            "Takes away what was pushed; with none left, the configuration answers",
            remove,
        ),
        Route::new(
            Method::POST,
            "tenants/{tenant}/components/{stage}/rollback",
            "Takes back what was changed last: a canary, or the active version",
            roll_back,
        ),
        Route::new(
            Method::POST,
            "tenants/{tenant}/components/{stage}/activate",
            "Makes a version the active one",
            activate,
        ),
        Route::new(Method::POST, CANARY, "Lets a version answer a share of the requests", start_canary),
        Route::new(Method::DELETE, CANARY, "Ends the trial of the canary", end_canary),
        Route::new(Method::POST, SHADOW, "Lets a version run beside what answers now", start_shadow),
        Route::new(Method::DELETE, SHADOW, "Ends the trial of the shadow", end_shadow),
        Route::new(Method::GET, SETTINGS, "What the stage may, and what follows when it fails", settings),
        Route::new(Method::PUT, SETTINGS, "Changes it", set_settings),
        Route::new(Method::GET, LIMITS, "Limits of the tenant's own components", limits),
        Route::new(Method::PUT, LIMITS, "Changes them", set_limits),
    ]
}

async fn all(control: Arc<Control>, call: Call) -> Result<TenantComponents, Problem> {
    control.components(call.tenant(), None).await
}

async fn one(control: Arc<Control>, call: Call) -> Result<TenantComponents, Problem> {
    control.components(call.tenant(), Some(place(&call)?.stage)).await
}

/// The file in the request's body, or the one that it names.
async fn push(control: Arc<Control>, call: Call<File>) -> Result<Made<VersionView>, Problem> {
    let place = place(&call)?;
    let kind = call.headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let (source, file, state) = match kind.split(';').next().unwrap_or_default().trim() {
        "application/json" => {
            let FetchComponent { url, sha256, canary, shadow } = Body::read(&call.headers, call.body.0.clone())?;
            let state = trial(canary, shadow)?;
            (audit::without_credentials(&url), control.registry.fetch(&url, &sha256).await?, state)
        }
        _ => {
            let canary = call.asked_number("canary", 0, 100)?.and_then(|percent| u8::try_from(percent).ok());
            let shadow = match call.asked("shadow") {
                None | Some("false") => false,
                Some("true") => true,
                Some(_) => return Err(Problem::invalid("`shadow` must be true or false")),
            };
            let source = call.asked("source").map_or_else(|| format!("{place}.wasm"), str::to_owned);
            (source, call.body.0.clone(), trial(canary, shadow)?)
        }
    };
    control.registry.conform(call.tenant(), place.stage, &source, &file).await?;
    let pushed = Pushed { tenant: call.tenant().to_owned(), place, source, file, state };
    let (version, took) = control.registry.push(pushed).await?;
    let activated_ms = u64::try_from(took.as_millis()).ok();
    Ok(Made(VersionView { activated_ms, ..version.into() }))
}

async fn remove(control: Arc<Control>, call: Call) -> Result<TenantComponents, Problem> {
    control.registry.remove(call.tenant(), place(&call)?).await?;
    one(control, call).await
}

async fn roll_back(control: Arc<Control>, call: Call) -> Result<TenantComponents, Problem> {
    control.registry.roll_back(call.tenant(), place(&call)?).await?;
    one(control, call).await
}

async fn activate(control: Arc<Control>, call: Call<WhichVersion>) -> Result<TenantComponents, Problem> {
    put(&control, &call, call.body.version, VersionState::Active).await
}

async fn start_canary(control: Arc<Control>, call: Call<NewCanary>) -> Result<TenantComponents, Problem> {
    put(&control, &call, call.body.version, VersionState::Canary(call.body.percent)).await
}

async fn start_shadow(control: Arc<Control>, call: Call<WhichVersion>) -> Result<TenantComponents, Problem> {
    put(&control, &call, call.body.version, VersionState::Shadow).await
}

async fn end_canary(control: Arc<Control>, call: Call) -> Result<TenantComponents, Problem> {
    control.registry.end_trial(call.tenant(), place(&call)?, true).await?;
    one(control, call).await
}

async fn end_shadow(control: Arc<Control>, call: Call) -> Result<TenantComponents, Problem> {
    control.registry.end_trial(call.tenant(), place(&call)?, false).await?;
    one(control, call).await
}

async fn settings(control: Arc<Control>, call: Call) -> Result<StageSettings, Problem> {
    Ok(control.registry.settings(call.tenant(), stage(&call)?).await?)
}

async fn set_settings(control: Arc<Control>, call: Call<StageSettings>) -> Result<StageSettings, Problem> {
    control.registry.set_settings(call.tenant(), stage(&call)?, call.body.clone()).await?;
    Ok(call.body)
}

async fn limits(control: Arc<Control>, call: Call) -> Result<TenantLimits, Problem> {
    Ok(control.registry.limits(call.tenant()).await?)
}

async fn set_limits(control: Arc<Control>, call: Call<TenantLimits>) -> Result<TenantLimits, Problem> {
    control.registry.set_limits(call.tenant(), call.body).await?;
    Ok(call.body)
}

async fn put<B>(
    control: &Arc<Control>,
    call: &Call<B>,
    version: Option<u32>,
    state: VersionState,
) -> Result<TenantComponents, Problem> {
    let place = place(call)?;
    control.registry.place(call.tenant(), place, version, state).await?;
    control.components(call.tenant(), Some(place.stage)).await
}

/// The place that a path names: `validator`, `validator-2`.
fn place<B>(call: &Call<B>) -> Result<Place, Problem> {
    call.place("stage").parse().map_err(Problem::invalid)
}

/// The stage that a path names.
fn stage<B>(call: &Call<B>) -> Result<Stage, Problem> {
    call.place("stage").parse().map_err(Problem::invalid)
}

impl Control {
    /// What answers for a tenant and what was pushed for it: one stage, or all.
    async fn components(&self, tenant: &str, only: Option<Stage>) -> Result<TenantComponents, Problem> {
        let is_asked = |stage: Stage| only.is_none_or(|only| only == stage);
        let mut versions = Vec::new();
        for stage in Stage::ALL.into_iter().filter(|stage| is_asked(*stage)) {
            versions.extend(self.registry.versions_of_stage(tenant, stage).await?.into_iter().map(VersionView::from));
        }
        let stages = self.registry.stages(tenant).into_iter().filter(|view| is_asked(view.stage));
        Ok(TenantComponents { stages: stages.map(StageAnswer::from).collect(), versions })
    }
}

/// What a pushed version is to be.
fn trial(canary: Option<u8>, shadow: bool) -> Result<VersionState, Problem> {
    match (canary, shadow) {
        (None, false) => Ok(VersionState::Active),
        (Some(percent), false) => Ok(VersionState::Canary(percent)),
        (None, true) => Ok(VersionState::Shadow),
        (Some(_), true) => Err(Problem::invalid("a version is a canary or a shadow: leave out one of the two")),
    }
}

#[cfg(test)]
#[path = "components_tests.rs"]
mod tests;
