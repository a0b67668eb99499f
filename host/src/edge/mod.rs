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
#[cfg(test)]
mod granted_tests;
mod grants;
mod imports;
mod instance;
mod library;
#[cfg(test)]
mod limits_tests;
#[cfg(test)]
mod listed_tests;
mod meter;
mod outbound;
mod place;
#[cfg(test)]
mod pushed_tests;
mod registry;
mod set;
mod slot;
mod stages;
mod survey;
#[cfg(test)]
pub(crate) mod tests;
mod trial;
mod trigger;
mod unwaiting;
pub mod wit;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use contract::{Identity, KeyError, ShaperInput};
use delivery_client::wire::{DELIVERY_TOKEN_HEADER, NOTIFY_PATH, NotifyAnswer, SEAM_HEADER, SEAM_VERSION};
use http::{Request, Response, header};
use jiff::Timestamp;
use serde_json::json;
use thiserror::Error;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;
use wasmtime::Engine;

pub use component::{InspectError, Inspection, Stage, inspect};
pub use confine::{Bounds, Frame};
pub use grants::{HOSTS as GRANTED_HOSTS, Ways, host as granted_host};
pub use library::{Assignment, BuiltIn};
pub use place::{POSITIONS, Place};
pub use registry::{Named, OnTrial, Pushed, Registry, RegistryError, StageView};
pub use set::{Components, Source};
pub use stages::TenantStages;
pub use survey::{Survey, survey};
pub use trial::Calls;

use crate::api::fault;
use crate::config::{ComponentFiles, Limits, StageLimits, Tenant};
use crate::event::notifier;
use crate::keyring::Keyring;
use crate::sizes::Sizes;
use crate::store::Audited;
use crate::web::{Limits as WebLimits, Web};
use component::Pre;
use instance::{Room, Shelf};
use library::Library;
use outbound::{ORIGIN, Outbound, Trouble};
use slot::Slot;

/// Calls of stages at once besides those of triggers: the SMTP road's.
const SMTP_CALLS: usize = 64;

/// Events told at once, tests of webhooks included: each holds an instance while its endpoint answers.
pub const NOTIFIES: usize = 256;

/// Of the answer of `notify`.
const NOTIFY_BODY_BYTES: usize = 512 << 10;

/// Calls of shadows at once, all tenants together; what comes while as many are under way is not made.
const SHADOWS: usize = 16;

/// Notices that wait for the registry; more are lost, and the log has them.
const NOTICES: usize = 256;

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
    /// Those that no tenant's component replaces.
    pub always: &'a ComponentFiles,
    pub tenants: &'a BTreeMap<String, Tenant>,
    pub limits: &'a Limits,
    pub stages: &'a StageLimits,
    /// What a message may have.
    pub sizes: &'a Arc<Sizes>,
    /// How stages that were granted hosts reach them.
    pub ways: &'a Ways,
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
    sizes: Arc<Sizes>,
    notifies: Semaphore,
    shadows: Arc<Semaphore>,
    notices: mpsc::Sender<Notice>,
    unheard: Mutex<Option<mpsc::Receiver<Notice>>>,
    /// What `notify` takes callers by: for this process alone.
    notify_token: String,
}

/// What the tenants' components came to that somebody should act on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A canary was found to be bad, and is not called any more.
    CanaryOver { tenant: String, place: Place, version: u32, digest: String, why: String },
    /// A component failed, and the built-in one answered instead.
    FellBack { tenant: String, place: Place, digest: String, why: String },
}

impl Notice {
    /// What the host changes by itself because of it, for the audit log.
    fn audited(&self, now: Timestamp) -> Option<Audited> {
        let Notice::CanaryOver { tenant, place, version, digest, why } = self else { return None };
        let before = json!({ "version": version, "digest": digest, "state": "canary" });
        let after = json!({ "version": version, "digest": digest, "state": "rolled_back", "note": why });
        let what = format!("components/{place}: version {version} rolled back");
        Some(Audited::by_host(Some(tenant), &what, before, after, now))
    }
}

impl Inner {
    /// Never waits: the request goes on.
    fn tell(&self, notice: Notice) {
        let _ = self.notices.try_send(notice);
    }
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
        let frame = Frame::new(settings.stages, settings.limits.message_bytes);
        let trigger_bounds = trigger::bounds(settings.limits.message_bytes);
        let triggers = settings.limits.http_requests.max(1);
        // Each trigger may have one stage at work.
        let live = triggers
            .saturating_mul(2)
            .saturating_add(SMTP_CALLS + SHADOWS + settings.stages.idle_instances + 2 * NOTIFIES);
        let size =
            engine::PoolSize { instances: u32::try_from(live).unwrap_or(u32::MAX), memory_bytes: frame.memory_ceiling };
        let engine =
            engine::start(size, Some(settings.cache)).map_err(|error| EdgeError::Engine(format!("{error:#}")))?;
        let library = Library::open(&engine, settings, &built_in, frame)?;
        let room = Room { instances: settings.stages.idle_instances, bytes: settings.stages.idle_bytes };
        let (notices, unheard) = mpsc::channel(NOTICES);
        Ok(Edge {
            inner: Arc::new(Inner {
                engine,
                library,
                shelf: Shelf::new(room),
                backend,
                keys,
                triggers: Semaphore::new(triggers),
                trigger_bounds,
                stage_bounds: frame.bounds,
                sizes: settings.sizes.clone(),
                notifies: Semaphore::new(NOTIFIES),
                shadows: Arc::new(Semaphore::new(SHADOWS)),
                notices,
                unheard: Mutex::new(Some(unheard)),
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
        let compiled = slot.ready(&self.inner.library.loader).await;
        let why = match compiled.as_deref().map(|compiled| &compiled.pre) {
            Ok(Pre::Trigger(pre)) => match trigger::serve(&self.inner, pre, request).await {
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
        slot: &Arc<Slot>,
        input: &ShaperInput,
        web: Arc<Web>,
        limits: WebLimits,
    ) -> Result<NotifyAnswer, String> {
        // Never closed, so this fails never.
        let _place = self.inner.notifies.acquire().await.map_err(|error| error.to_string())?;
        let compiled = slot.ready(&self.inner.library.loader).await.map_err(|why| why.to_string())?;
        let Pre::Trigger(pre) = &compiled.pre else { return Err("it is not an HTTP trigger".to_owned()) };
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
        self.inner.library.set(tenant).components
    }

    /// Puts what was pushed and set for a tenant in the place of what it had, at once: a request that begins after this
    /// returns has the new components, one under way ends with the old.
    pub fn assign(&self, tenant: &str, assignment: &Assignment) {
        let set = self.inner.library.assign(tenant, assignment);
        self.inner.shelf.keep_only(tenant, set);
    }

    /// Why not every component is ready; empty when all are.
    pub fn obstacles(&self) -> Vec<String> {
        self.inner.library.obstacles()
    }
}
