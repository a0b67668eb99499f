//! One request through an HTTP trigger: a fresh instance, its answer collected, both bounded.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Limited};
use tokio::time::timeout;
use wasmtime::{Error, Store};
use wasmtime_wasi_http::WasiHttpView;
use wasmtime_wasi_http::p3::Request as GuestRequest;
use wasmtime_wasi_http::p3::bindings::ServicePre;

use super::Inner;
use super::confine::{self, Bounds, Guest, Role};
use super::outbound::{Outbound, full};
use crate::api::credential::Peer;

/// Wall clock of one request, the wait for the disk included.
pub const WALL_CLOCK: Duration = Duration::from_secs(60);

/// CPU of one request: a 25 MB message takes about a second.
pub const CPU: Duration = Duration::from_secs(15);

/// Memory of an instance besides what grows with the message.
const MEMORY_BASE: usize = 64 << 20;

/// Copies of a message that an instance may hold: the request, its decoded parts, the composed message, its frame.
const MEMORY_COPIES: usize = 8;

/// What frames add to a message on its way to the backend.
const FRAME_BYTES: usize = 2 << 20;

/// Of one answer to a caller. A message of the greatest size can be shown as JSON.
const ANSWER_COPIES: usize = 3;

/// Why a trigger gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum TriggerError {
    #[error("it gave no answer within {} s", WALL_CLOCK.as_secs())]
    TimedOut,
    #[error("it used more than {} s of CPU", CPU.as_secs())]
    Cpu,
    #[error("it asked for more memory than it may have")]
    Memory,
    #[error("it failed: {0}")]
    Failed(String),
}

/// What a trigger may use, with messages of at most so many bytes.
pub fn bounds(message_bytes: u64) -> Bounds {
    let message = usize::try_from(message_bytes).unwrap_or(usize::MAX);
    Bounds {
        time: CPU,
        memory_bytes: message.saturating_mul(MEMORY_COPIES).saturating_add(MEMORY_BASE),
        output_bytes: message.saturating_mul(ANSWER_COPIES).saturating_add(MEMORY_BASE),
    }
}

/// Serves one request. The instance is gone afterwards.
pub async fn serve(
    edge: &Arc<Inner>,
    pre: &ServicePre<Guest>,
    request: Request<Bytes>,
) -> Result<Response<Bytes>, TriggerError> {
    let bounds = &edge.trigger_bounds;
    let body_bytes = bounds.output_bytes.saturating_add(FRAME_BYTES);
    let peer = request.extensions().get::<Peer>().copied();
    let outbound = Outbound::to(edge.backend.clone(), body_bytes).of(peer);
    let store = confine::store(&edge.engine, Role::Trigger(edge.clone()), outbound, bounds);
    run(store, pre, request, bounds).await
}

/// Bounds of the trigger that tells events: it holds one event and the head of an answer.
pub const NOTIFY_BOUNDS: Bounds =
    Bounds { time: Duration::from_secs(5), memory_bytes: 32 << 20, output_bytes: 4 << 20 };

/// Tells one event through `notify`. The instance is gone afterwards.
pub async fn notify(
    edge: &Arc<Inner>,
    pre: &ServicePre<Guest>,
    request: Request<Bytes>,
    outbound: Outbound,
) -> Result<Response<Bytes>, TriggerError> {
    let store = confine::store(&edge.engine, Role::Notifier(edge.clone()), outbound, &NOTIFY_BOUNDS);
    run(store, pre, request, &NOTIFY_BOUNDS).await
}

async fn run(
    mut store: Store<Guest>,
    pre: &ServicePre<Guest>,
    request: Request<Bytes>,
    bounds: &Bounds,
) -> Result<Response<Bytes>, TriggerError> {
    let answer = timeout(WALL_CLOCK, exchange(&mut store, pre, request, bounds.output_bytes)).await;
    let result = match answer {
        Err(_) => Err(TriggerError::TimedOut),
        Ok(Ok(response)) => Ok(response),
        Ok(Err(_)) if store.data().usage.refused => Err(TriggerError::Memory),
        Ok(Err(_)) if store.data().usage.is_exhausted() => Err(TriggerError::Cpu),
        Ok(Err(error)) => Err(TriggerError::Failed(format!("{error:#}"))),
    };
    let said = store.data().stderr.take();
    if !said.is_empty() {
        tracing::debug!(said, "a trigger wrote to stderr");
    }
    result
}

/// Asks a fresh instance and collects its answer, of at most `limit` bytes.
async fn exchange(
    store: &mut Store<Guest>,
    pre: &ServicePre<Guest>,
    request: Request<Bytes>,
    limit: usize,
) -> wasmtime::Result<Response<Bytes>> {
    let service = pre.instantiate_async(&mut *store).await?;
    store
        .run_concurrent(async |accessor| {
            // What becomes of reading the request's body is the guest's business alone.
            let request =
                accessor.with(|mut store| GuestRequest::from_http(store.data_mut().http().hooks, request.map(full)).0);
            let answer = service.handle(accessor, request).await?;
            let answer = answer.map_err(|code| Error::msg(format!("it answered {code:?}")))?;
            let answer = accessor.with(|store| answer.into_http(store, async { Ok(()) }))?;
            let (parts, body) = answer.into_parts();
            let body = Limited::new(body, limit).collect().await.map_err(|error| Error::msg(error.to_string()))?;
            Ok(Response::from_parts(parts, body.to_bytes()))
        })
        .await?
}
