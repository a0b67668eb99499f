//! How a running host does: rates, slow sites, components in trouble, memory and disk.

use std::sync::{Arc, OnceLock, Weak};

use http::StatusCode;
use serde::{Deserialize, Serialize};

use super::Problem;
use crate::metrics::{Failing, Rates, SiteFigures, metrics};
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
    /// Set once everything runs.
    pub reloader: OnceLock<Weak<Reloader>>,
}

/// Part of `GET status`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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

impl Live {
    pub fn new(pressure: Arc<Pressure>) -> Live {
        Live { pressure, obstacles: OnceLock::new(), reloader: OnceLock::new() }
    }

    /// Takes in a changed configuration.
    pub(super) async fn reload(&self) -> Result<Reloaded, Problem> {
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
