//! The components of tenants in the control API: `tenants/{tenant}/components/{stage}` and what hangs on it.

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Control, PREFIX, Problem, body, json, named_tenant};
use crate::edge::{Calls, Pushed, RegistryError, Source, Stage, StageView};
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
    pub stage: String,
    pub version: u32,
    /// Hexadecimal SHA-256 of the file.
    pub digest: String,
    pub size_bytes: u64,
    /// The file name or URL that it came from.
    pub source: String,
    #[schema(value_type = String)]
    pub pushed_at: Timestamp,
    /// `active`, `canary`, `shadow`, `retired`, `rolled_back` or `removed`.
    pub state: String,
    /// Of a canary: its share of requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub percent: Option<u8>,
    /// Why it came to its state, where somebody should know.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// A component that answers: its name and the first digits of its digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NameView {
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
    pub version: u32,
    pub canary: CallsView,
    pub active: CallsView,
}

/// A shadow, since its trial or the host began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ShadowView {
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
        VersionView { stage, version, digest, size_bytes, source, pushed_at, state: state.to_owned(), percent, note }
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
            all.into_iter().map(|one| NameView { name: one.name, digest: one.digest }).collect()
        };
        StageAnswer {
            stage: stage.name().to_owned(),
            source: Source::name(source).to_owned(),
            always: named(always),
            components: named(own),
            canary: canary.map(|(version, canary, active)| CanaryView {
                version,
                canary: canary.into(),
                active: active.into(),
            }),
            shadow: shadow.map(|(version, [same, different, failed, skipped])| ShadowView {
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

impl Control {
    /// Answers `tenants/{tenant}/components…` and `tenants/{tenant}/component-limits`.
    pub(super) async fn component_route(
        &self,
        path: &[&str],
        request: &Request<Bytes>,
    ) -> Result<Option<Response<Bytes>>, Problem> {
        let registry = &self.registry;
        let ok = StatusCode::OK;
        match (request.method(), path) {
            (&Method::GET, [tenant, "components"]) => Ok(json(ok, &self.components(&named(tenant)?, None).await?)),
            (&Method::GET, [tenant, "component-limits"]) => Ok(json(ok, &registry.limits(&named(tenant)?).await?)),
            (&Method::PUT, [tenant, "component-limits"]) => {
                let limits: TenantLimits = body(request)?;
                registry.set_limits(&named(tenant)?, limits).await?;
                Ok(json(ok, &limits))
            }
            (method, [tenant, "components", stage, rest @ ..]) => {
                let (tenant, stage) = (named(tenant)?, stage.parse().map_err(Problem::invalid)?);
                self.stage_route(method, &tenant, stage, rest, request).await
            }
            (method, path) => Err(Problem::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                format!("{method} is not for {PREFIX}tenants/{}", path.join("/")),
            )),
        }
    }

    async fn stage_route(
        &self,
        method: &Method,
        tenant: &str,
        stage: Stage,
        rest: &[&str],
        request: &Request<Bytes>,
    ) -> Result<Option<Response<Bytes>>, Problem> {
        let registry = &self.registry;
        match (method, rest) {
            (&Method::GET, []) => {}
            (&Method::PUT, []) => {
                let version = VersionView::from(self.push(tenant, stage, request).await?);
                return Ok(json(StatusCode::CREATED, &version));
            }
            (&Method::DELETE, []) => registry.remove(tenant, stage).await?,
            (&Method::POST, ["rollback"]) => registry.roll_back(tenant, stage).await?,
            (&Method::POST, ["activate"]) => {
                let WhichVersion { version } = body(request)?;
                registry.place(tenant, stage, version, VersionState::Active).await?;
            }
            (&Method::POST, ["canary"]) => {
                let NewCanary { percent, version } = body(request)?;
                registry.place(tenant, stage, version, VersionState::Canary(percent)).await?;
            }
            (&Method::POST, ["shadow"]) => {
                let WhichVersion { version } = body(request)?;
                registry.place(tenant, stage, version, VersionState::Shadow).await?;
            }
            (&Method::DELETE, ["canary"]) => registry.end_trial(tenant, stage, true).await?,
            (&Method::DELETE, ["shadow"]) => registry.end_trial(tenant, stage, false).await?,
            (&Method::GET, ["settings"]) => {
                let settings = registry.settings(tenant, stage).await?;
                return Ok(json(StatusCode::OK, &settings));
            }
            (&Method::PUT, ["settings"]) => {
                let settings: StageSettings = body(request)?;
                registry.set_settings(tenant, stage, settings.clone()).await?;
                return Ok(json(StatusCode::OK, &settings));
            }
            _ => {
                let text = format!("{method} is not for {PREFIX}{}", request.uri().path().trim_start_matches(PREFIX));
                return Err(Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", text));
            }
        }
        Ok(json(StatusCode::OK, &self.components(tenant, Some(stage)).await?))
    }

    /// What answers for a tenant and what was pushed for it: one stage, or all.
    async fn components(&self, tenant: &str, only: Option<Stage>) -> Result<TenantComponents, Problem> {
        let mut versions = Vec::new();
        for stage in Stage::ALL.into_iter().filter(|stage| only.is_none_or(|only| only == *stage)) {
            versions.extend(self.registry.versions(tenant, stage).await?.into_iter().map(VersionView::from));
        }
        let stages = self.registry.stages(tenant).into_iter();
        let stages = stages.filter(|view| only.is_none_or(|only| only == view.stage)).map(StageAnswer::from);
        Ok(TenantComponents { stages: stages.collect(), versions })
    }

    /// The file in the request's body, or the one that it names.
    async fn push(&self, tenant: &str, stage: Stage, request: &Request<Bytes>) -> Result<ComponentVersion, Problem> {
        let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let asked = Asked::read(request.uri().query().unwrap_or_default())?;
        let (source, file, state) = match kind.split(';').next().unwrap_or_default().trim() {
            "application/json" => {
                let FetchComponent { url, sha256, canary, shadow } = body(request)?;
                let state = trial(canary, shadow)?;
                (url.clone(), self.registry.fetch(&url, &sha256).await?, state)
            }
            _ => {
                let source = asked.source.unwrap_or_else(|| format!("{stage}.wasm"));
                (source, request.body().clone(), trial(asked.canary, asked.shadow)?)
            }
        };
        let pushed = Pushed { tenant: tenant.to_owned(), stage, source, file, state };
        Ok(self.registry.push(pushed).await?)
    }
}

/// The query of a push.
#[derive(Debug, Default)]
struct Asked {
    source: Option<String>,
    canary: Option<u8>,
    shadow: bool,
}

impl Asked {
    fn read(query: &str) -> Result<Asked, Problem> {
        let mut asked = Asked::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let wrong = |what: &str| Problem::invalid(format!("`{name}` is {what}"));
            match name {
                "source" => asked.source = Some(delivery_client::unescape(value)),
                "canary" => {
                    asked.canary = Some(value.parse().map_err(|_| wrong("a share in percent, from 1 to 99"))?);
                }
                "shadow" => asked.shadow = value.parse().map_err(|_| wrong("true or false"))?,
                _ => {
                    let text = format!("unknown parameter `{name}`: there is `source`, `canary`, `shadow`");
                    return Err(Problem::invalid(text));
                }
            }
        }
        Ok(asked)
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

fn named(tenant: &str) -> Result<String, Problem> {
    named_tenant(Some(tenant.to_owned()))
}

#[cfg(test)]
#[path = "components_tests.rs"]
mod tests;
