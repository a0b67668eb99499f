//! The WASM side: serves HTTP triggers, answers their imports, runs the tenants' stages inside limits.
//!
//! A request goes to a fresh instance of `submit`; the stages that it calls are calls into the components of the tenant
//! whose key it brought. The SMTP road makes the same calls through `TenantStages`. Only the host talks to guests, and
//! guests reach nothing but what is answered here: no sockets, no files, no other tenant.
//!
//! Never: two tenants in one instance; two calls in one stage instance at once; an instance used after a failure; a
//! guest that holds a thread for longer than a tick.

mod answers;
mod call;
mod component;
mod confine;
pub mod conformance;
mod engine;
mod instance;
mod library;
mod outbound;
mod survey;
#[cfg(test)]
pub(crate) mod tests;
mod trigger;
pub mod wit;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use contract::{
    Acceptance, HttpRequest, Identity, KeyError, Rendered, RendererInput, ShaperInput, Signatures, SignerInput,
    StageError, Transformed, TransformerInput, ValidatorInput, Wants,
};
use delivery_client::wire::{DELIVERY_TOKEN_HEADER, NOTIFY_PATH, NotifyAnswer, SEAM_HEADER, SEAM_VERSION};
use http::{Request, Response, header};
use thiserror::Error;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use wasmtime::Engine;

pub use component::{InspectError, Inspection, Stage, inspect};
pub use library::{BuiltIn, Components};
pub use survey::{Survey, survey};

use crate::api::fault;
use crate::config::{ComponentFiles, Limits, StageLimits, Tenant};
use crate::event::notifier;
use crate::keyring::Keyring;
use crate::web::{Limits as WebLimits, Web};
use call::{Answer as _, Call, Describe};
use component::Compiled;
use confine::{Bounds, Role};
use instance::{Instance, Shelf};
use library::{Library, Slot};
use outbound::{ORIGIN, Outbound, Trouble};

/// Calls of stages at once besides those of triggers: the SMTP road's.
const SMTP_CALLS: usize = 64;

/// Events told at once, tests of webhooks included: each holds an instance while its endpoint answers.
pub const NOTIFIES: usize = 256;

/// Of the answer of `notify`.
const NOTIFY_BODY_BYTES: usize = 512 << 10;

/// Idle stage instances kept, all tenants together.
const IDLE_INSTANCES: usize = 64;

/// How long a call waits for one of its tenant's instances to be free.
const TURN: Duration = Duration::from_secs(10);

/// How long a request waits for its turn before it is told to come again.
const TRIGGER_TURN: Duration = Duration::from_secs(30);

/// Answers a trigger's outgoing requests in-process: the delivery API and the rest of the sending API.
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    /// Answers one request of the trigger that serves `tenant` (known once the key is checked).
    async fn answer(&self, request: Request<Bytes>) -> Answer;
}

/// An answer, and what it says about the instance that asked.
pub struct Answer {
    pub response: Response<Bytes>,
    /// The tenant whose key was just checked (`POST auth`).
    pub tenant: Option<String>,
}

/// Keeps the private keys and uses them for a tenant's signers: `posthaste:keys`.
#[async_trait]
pub trait Keys: Send + Sync + 'static {
    async fn identities(&self, tenant: &str, domain: &str) -> Result<Vec<Identity>, KeyError>;
    async fn sign_digest(&self, tenant: &str, key_id: &str, digest: &[u8]) -> Result<Vec<u8>, KeyError>;
}

#[async_trait]
impl Keys for Keyring {
    async fn identities(&self, tenant: &str, domain: &str) -> Result<Vec<Identity>, KeyError> {
        Keyring::identities(self, tenant, domain).await
    }

    async fn sign_digest(&self, tenant: &str, key_id: &str, digest: &[u8]) -> Result<Vec<u8>, KeyError> {
        Keyring::sign_digest(self, tenant, key_id, digest).await
    }
}

/// What the WASM side is made with.
#[derive(Clone, Copy, Debug)]
pub struct Settings<'a> {
    /// Folder for compiled components.
    pub cache: &'a Path,
    pub components: &'a ComponentFiles,
    pub tenants: &'a BTreeMap<String, Tenant>,
    pub limits: &'a Limits,
    pub stages: &'a StageLimits,
}

/// Why the WASM side cannot start.
#[derive(Debug, Error)]
pub enum EdgeError {
    #[error(transparent)]
    Component(#[from] InspectError),
    #[error("the WASM engine cannot start: {0} (an address-space limit such as `ulimit -v` is a common cause)")]
    Engine(String),
}

/// The engine and everything compiled.
pub struct Edge {
    inner: Arc<Inner>,
}

/// What triggers and stages share.
pub struct Inner {
    engine: Engine,
    library: Library,
    shelf: Shelf,
    backend: Arc<dyn Backend>,
    keys: Arc<dyn Keys>,
    triggers: Semaphore,
    trigger_bounds: Bounds,
    stage_bounds: Bounds,
    notifies: Semaphore,
    /// What `notify` takes callers by: for this process alone.
    notify_token: String,
}

impl Edge {
    /// Reads the configured components, begins to compile all and returns at once; requests wait for what they need.
    ///
    /// Errors: a configured file that is not a component of its stage; an engine that cannot be made.
    pub fn new(
        settings: &Settings<'_>,
        built_in: BuiltIn,
        backend: Arc<dyn Backend>,
        keys: Arc<dyn Keys>,
    ) -> Result<Edge, EdgeError> {
        let stage_bounds = Bounds {
            time: settings.stages.time,
            memory_bytes: settings.stages.memory_bytes,
            output_bytes: settings.stages.output_bytes,
        };
        let trigger_bounds = trigger::bounds(settings.limits.message_bytes);
        let triggers = settings.limits.http_requests.max(1);
        // Each trigger may have one stage at work.
        let live = triggers.saturating_mul(2).saturating_add(SMTP_CALLS + IDLE_INSTANCES + 2 * NOTIFIES);
        let size = engine::PoolSize {
            instances: u32::try_from(live).unwrap_or(u32::MAX),
            memory_bytes: stage_bounds.memory_bytes.max(trigger_bounds.memory_bytes),
        };
        let engine =
            engine::start(size, Some(settings.cache)).map_err(|error| EdgeError::Engine(format!("{error:#}")))?;
        let library = Library::open(&engine, settings, &built_in)?;
        Ok(Edge {
            inner: Arc::new(Inner {
                engine,
                library,
                shelf: Shelf::new(IDLE_INSTANCES, settings.stages.instances),
                backend,
                keys,
                triggers: Semaphore::new(triggers),
                trigger_bounds,
                stage_bounds,
                notifies: Semaphore::new(NOTIFIES),
                notify_token: format!("{:032x}", rand::random::<u128>()),
            }),
        })
    }

    /// Serves a request with a fresh instance of `submit`. 503 where it fails; more than the configured number of
    /// requests wait.
    pub async fn serve(&self, request: Request<Bytes>) -> Response<Bytes> {
        let Ok(Ok(_turn)) = timeout(TRIGGER_TURN, self.inner.triggers.acquire()).await else {
            return fault::unavailable("The service is busy. Try again later.");
        };
        let slot = self.inner.library.submit();
        let why = match slot.ready().await.as_deref() {
            Ok(Compiled::Trigger(pre)) => match trigger::serve(&self.inner, pre, request).await {
                Ok(response) => return response,
                Err(error) => error.to_string(),
            },
            Ok(_) => "it is not an HTTP trigger".to_owned(),
            Err(why) => why.to_string(),
        };
        tracing::error!(component = slot.name, digest = slot.digest, error = why, "a request was not served");
        fault::unavailable("The service cannot process the request now. Try again later.")
    }

    /// Tells one event to one endpoint through `notify` and the tenant's shaper, once.
    pub async fn notify(&self, input: &ShaperInput, web: Arc<Web>, limits: WebLimits) -> NotifyAnswer {
        let slot = self.inner.library.notify();
        match self.try_notify(slot, input, web, limits).await {
            Ok(answer) => answer,
            Err(cause) => {
                tracing::error!(component = slot.name, digest = slot.digest, error = cause, "an event was not told");
                NotifyAnswer::Unavailable { cause }
            }
        }
    }

    async fn try_notify(
        &self,
        slot: &Slot,
        input: &ShaperInput,
        web: Arc<Web>,
        limits: WebLimits,
    ) -> Result<NotifyAnswer, String> {
        // Never closed, so this fails never.
        let _place = self.inner.notifies.acquire().await.map_err(|error| error.to_string())?;
        let compiled = slot.ready().await.map_err(|why| why.to_string())?;
        let Compiled::Trigger(pre) = &*compiled else { return Err("it is not an HTTP trigger".to_owned()) };
        let body = serde_json::to_vec(input).map_err(|error| error.to_string())?;
        let request = Request::post(format!("{ORIGIN}{NOTIFY_PATH}"))
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::CONTENT_LENGTH, body.len())
            .header(SEAM_HEADER, SEAM_VERSION)
            .header(DELIVERY_TOKEN_HEADER, &self.inner.notify_token)
            .body(Bytes::from(body))
            .map_err(|error| error.to_string())?;
        let trouble = Trouble::default();
        let outbound = Outbound::world(&input.event.tenant, web, limits, trouble.clone(), NOTIFY_BODY_BYTES);
        let answer = trigger::notify(&self.inner, pre, request, outbound).await.map_err(|error| error.to_string())?;
        let answer = notifier::read_answer(answer.status(), answer.body())?;
        let told = trouble.lock().unwrap_or_else(PoisonError::into_inner).take();
        Ok(match (answer, told) {
            (NotifyAnswer::Unreachable { .. }, Some(cause)) => NotifyAnswer::Unreachable { cause },
            (answer, _) => answer,
        })
    }

    /// The stages of a tenant, to be called by the host itself (SMTP).
    pub fn stages(self: &Arc<Self>, tenant: &str) -> TenantStages {
        TenantStages::new(self.inner.clone(), tenant.into())
    }

    /// What an edge must know of a tenant's components.
    pub fn components(&self, tenant: &str) -> Components {
        self.inner.library.components(tenant)
    }

    /// Why not every component is ready; empty when all are.
    pub fn obstacles(&self) -> Vec<String> {
        self.inner.library.obstacles()
    }
}

/// Calls one tenant's components.
pub struct TenantStages {
    edge: Arc<Inner>,
    tenant: Arc<str>,
}

impl TenantStages {
    fn new(edge: Arc<Inner>, tenant: Arc<str>) -> TenantStages {
        TenantStages { edge, tenant }
    }

    /// One bounded call. Whatever goes wrong is `unavailable`, and told in the log with the component's digest.
    async fn call<C: Call>(&self, call: C) -> Result<C::Answer, StageError> {
        let Some(slot) = self.edge.library.find(&self.tenant, C::STAGE) else {
            return Err(StageError::Unavailable(format!("there is no {}", C::STAGE)));
        };
        let failure = match self.attempt(slot, &call).await {
            Ok(answer) => return answer,
            Err(failure) => failure,
        };
        let (stage, component, digest) = (C::STAGE.name(), &slot.name, &slot.digest);
        tracing::warn!(tenant = &*self.tenant, stage, component, digest, failure, "a stage failed");
        Err(StageError::Unavailable(format!("{component} ({digest}): {failure}")))
    }

    async fn attempt<C: Call>(&self, slot: &Slot, call: &C) -> Result<Result<C::Answer, StageError>, String> {
        let compiled = slot.ready().await.map_err(|why| why.to_string())?;
        let turn = timeout(TURN, self.edge.shelf.turn(&self.tenant, C::STAGE)).await;
        let Ok(Some(_turn)) = turn else {
            return Err(format!("all its instances were busy for {} s", TURN.as_secs()));
        };
        let bounds = &self.edge.stage_bounds;
        let asked = timeout(bounds.time, async {
            let mut instance = self.instance(&compiled, C::STAGE).await?;
            match call.ask(&mut instance).await {
                Ok(answer) => Ok((answer, instance)),
                Err(error) => Err(call::cause(&error, &instance, bounds.time, bounds.memory_bytes)),
            }
        });
        let late = |_| format!("it took longer than {} ms", bounds.time.as_millis());
        let (answer, instance) = asked.await.map_err(late)??;
        let said = instance.store.data().stderr.take();
        if !said.is_empty() {
            tracing::debug!(tenant = &*self.tenant, stage = C::STAGE.name(), said, "a stage wrote to stderr");
        }
        let excess = match &answer {
            Ok(good) => good.excess(),
            Err(error) => error.excess(),
        };
        match excess {
            None => {
                self.edge.shelf.put(&self.tenant, C::STAGE, instance);
                Ok(answer)
            }
            Some(excess) => Err(excess),
        }
    }

    /// An idle instance with a fresh budget, or a new one.
    async fn instance(&self, compiled: &Compiled, stage: Stage) -> Result<Instance, String> {
        let bounds = &self.edge.stage_bounds;
        if let Some(mut instance) = self.edge.shelf.take(&self.tenant, stage) {
            confine::arm(&mut instance.store, bounds.time);
            return Ok(instance);
        }
        let role = Role::Stage(self.edge.keys.clone());
        let store = confine::store(&self.edge.engine, role, Outbound::none(&self.tenant), bounds);
        Instance::new(store, compiled).await.map_err(|error| format!("it cannot be instantiated: {error:#}"))
    }
}

impl TenantStages {
    /// Shapes and signs the request of an event.
    async fn shape(&self, input: ShaperInput) -> Result<HttpRequest, StageError> {
        self.call(input).await
    }
}

impl pipeline::Stages for TenantStages {
    async fn render(&self, input: RendererInput) -> Result<Rendered, StageError> {
        self.call(input).await
    }

    /// Asked once for each component; a failure is not remembered.
    async fn describe_validator(&self) -> Result<Wants, StageError> {
        match self.edge.library.find(&self.tenant, Stage::Validator) {
            Some(slot) => slot.wants.get_or_try_init(|| self.call(Describe)).await.cloned(),
            None => Ok(Wants::default()),
        }
    }

    async fn validate(&self, input: ValidatorInput) -> Result<Acceptance, StageError> {
        self.call(input).await
    }

    /// Passes through where no transformer is configured.
    async fn transform(&self, input: TransformerInput) -> Result<Transformed, StageError> {
        match self.edge.library.find(&self.tenant, Stage::Transformer) {
            Some(_) => self.call(input).await,
            None => Ok(Transformed::default()),
        }
    }

    async fn sign(&self, input: SignerInput) -> Result<Signatures, StageError> {
        self.call(input).await
    }
}
