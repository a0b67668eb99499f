//! How a running host does: rates, slow sites, components in trouble, memory and disk; its figures for Prometheus; and
//! `reload`.

use std::sync::{Arc, OnceLock, Weak};

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Response, StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Call, Caller, Control, Problem, Route};
use crate::metrics::{self, Depth, Failing, Rates, SiteFigures, metrics};
use crate::queue::Finder;
use crate::reload::{Reloaded, Reloader};
use crate::server::pressure::Pressure;

/// Sites that are shown.
const SITES: usize = 5;

/// Says what stands in the way, a sentence each.
type Obstacles = Box<dyn Fn() -> Vec<String> + Send + Sync>;

/// What the control API sees of a running host.
pub struct Live {
    pub pressure: Arc<Pressure>,
    /// Components that are not ready; set once they are there.
    pub obstacles: OnceLock<Obstacles>,
    /// Set once the queue runs.
    pub finder: OnceLock<Finder>,
    /// Set once everything runs.
    pub reloader: OnceLock<Weak<Reloader>>,
}

/// Part of `GET status`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Vitals {
    pub rates: Rates,
    /// The slowest sites of the last minute or two.
    pub slowest: Vec<SiteFigures>,
    /// Components whose calls failed in the last minute or two.
    pub failing: Vec<Failing>,
    /// Components that are not ready.
    pub obstacles: Vec<String>,
    /// Why new mail is told to come later.
    pub refusing: Option<String>,
    pub memory_bytes: Option<u64>,
    pub memory_limit_bytes: u64,
    pub disk_free_bytes: Option<u64>,
    /// Free space below which no mail is taken.
    pub disk_reserve_bytes: u64,
}

/// The routes of this family.
pub fn routes() -> Vec<Route> {
    let summary = "Has the host read its configuration again: routes, limits and the TLS certificate change at once";
    vec![Route::new(Method::POST, "reload", summary, reload)]
}

async fn reload(control: Arc<Control>, _: Call) -> Result<Reloaded, Problem> {
    match &control.live {
        Some(live) => live.reload().await,
        None => Err(Problem::new(StatusCode::CONFLICT, "stopped", "no host runs: its next start reads the file")),
    }
}

impl Control {
    /// The figures of this process, for Prometheus and whoever operates the host.
    pub(super) async fn metrics(&self, caller: &Caller) -> Result<Response<Bytes>, Problem> {
        if !caller.is_operator() {
            let text = "/metrics is for operators: use an operator key";
            return Err(Problem::new(StatusCode::FORBIDDEN, "operators_only", text));
        }
        let disk_free_bytes = self.live.as_ref().and_then(|live| live.pressure.free_bytes());
        // Where the store cannot tell, the rest is still worth having.
        let depth = Depth { queued: self.store.queued().await.unwrap_or(0), disk_free_bytes };
        let mut response = Response::new(metrics().render(depth).into());
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(metrics::CONTENT_TYPE));
        Ok(response)
    }
}

impl Live {
    pub fn new(pressure: Arc<Pressure>) -> Live {
        Live { pressure, obstacles: OnceLock::new(), finder: OnceLock::new(), reloader: OnceLock::new() }
    }

    /// Takes in a changed configuration.
    async fn reload(&self) -> Result<Reloaded, Problem> {
        let unready = || Problem::new(StatusCode::SERVICE_UNAVAILABLE, "unready", "the host is starting or ending");
        let reloader = self.reloader.get().and_then(Weak::upgrade).ok_or_else(unready)?;
        let refused = |error| Problem::invalid(format!("nothing has changed: {error}"));
        reloader.reload().await.map_err(refused)
    }

    pub(super) fn vitals(&self) -> Vitals {
        Vitals {
            rates: metrics().rates(),
            slowest: metrics().sites.slowest(SITES),
            failing: metrics().stages.failing(),
            obstacles: self.obstacles.get().map(|tell| tell()).unwrap_or_default(),
            refusing: self.pressure.reason(),
            memory_bytes: self.pressure.resident_bytes(),
            memory_limit_bytes: self.pressure.memory_limit_bytes(),
            disk_free_bytes: self.pressure.free_bytes(),
            disk_reserve_bytes: self.pressure.reserve_bytes(),
        }
    }
}
