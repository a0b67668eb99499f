//! What answers for a tenant: one immutable set of components, with the limits they run under.
//!
//! A request takes its tenant's set once and uses it from begin to end. A change of the tenant's components makes another
//! set and puts it in the old one's place; what is under way ends with the set that it has.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use contract::Wants;
use tokio::sync::OnceCell;

use super::component::Stage;
use super::confine::Bounds;
use super::grants::Grants;
use super::meter::Meter;
use super::place::Place;
use super::slot::Slot;
use super::trial::{Canary, Shadow};
use crate::store::OnFailure;

/// Where the component of a stage comes from, first choice first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Pushed for the tenant.
    Pushed,
    /// `[tenant.NAME.components]`.
    Tenant,
    /// `[components]`.
    Shared,
    BuiltIn,
}

impl Source {
    /// As people are shown it.
    pub fn name(self) -> &'static str {
        match self {
            Source::Pushed => "pushed",
            Source::Tenant => "[tenant.NAME.components]",
            Source::Shared => "[components]",
            Source::BuiltIn => "built-in",
        }
    }

    /// Whether the tenant brought it, and not the operator for all.
    pub fn is_of_tenant(self) -> bool {
        matches!(self, Source::Pushed | Source::Tenant)
    }
}

/// What a component is to a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Of `[components.always]`.
    Always,
    /// Pushed or configured.
    Own,
    Canary,
    BuiltIn,
}

/// A component where it is called. What is kept of it is kept for this seat alone: the same file in another seat has
/// instances, limits and grants of its own.
pub struct Seat {
    /// No two have the same.
    pub id: u64,
    /// `built-in validator`, `pushed validator`, or the file's path.
    pub name: String,
    pub slot: Arc<Slot>,
    pub part: Part,
    /// Of what was not pushed, the first of its stage.
    pub place: Place,
    /// Whether the tenant brought it: the limits, the account and the grants of the tenant are for those alone.
    pub is_of_tenant: bool,
    /// What a validator wants to see; asked once.
    pub wants: OnceCell<Wants>,
}

impl Seat {
    /// Of a version that was pushed.
    pub fn pushed(slot: Arc<Slot>, part: Part, place: Place) -> Arc<Seat> {
        Seat::new(format!("pushed {}", place.stage), slot, part, place, true)
    }

    /// Of a file that the configuration names.
    pub fn configured(slot: Arc<Slot>, part: Part, stage: Stage, is_of_tenant: bool) -> Arc<Seat> {
        Seat::new(slot.name.clone(), slot, part, stage.into(), is_of_tenant)
    }

    pub fn built_in(slot: Arc<Slot>, stage: Stage) -> Arc<Seat> {
        Seat::new(format!("built-in {stage}"), slot, Part::BuiltIn, stage.into(), false)
    }

    fn new(name: String, slot: Arc<Slot>, part: Part, place: Place, is_of_tenant: bool) -> Arc<Seat> {
        static IDS: AtomicU64 = AtomicU64::new(0);
        let id = IDS.fetch_add(1, Ordering::Relaxed);
        Arc::new(Seat { id, name, slot, part, place, is_of_tenant, wants: OnceCell::new() })
    }
}

/// What one stage of a tenant is.
pub struct Plan {
    /// Called first, for every tenant.
    pub always: Vec<Arc<Seat>>,
    /// Called in order; empty where the stage does nothing.
    pub own: Vec<Arc<Seat>>,
    pub source: Source,
    pub canary: Option<Trial>,
    /// With what it is compared with.
    pub shadow: Option<(Arc<Shadow>, Against)>,
    /// The built-in component.
    pub fallback: Option<Arc<Seat>>,
    pub on_failure: OnFailure,
    pub grants: Option<Arc<Grants>>,
}

/// The components of `own` that a version on trial is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Against {
    /// Each: nothing else was pushed.
    All,
    /// The seat with this id.
    One(u64),
    /// Others were pushed, and none to its position.
    Nobody,
}

impl Against {
    pub fn is(self, seat: &Seat) -> bool {
        match self {
            Against::All => true,
            Against::One(id) => id == seat.id,
            Against::Nobody => false,
        }
    }
}

/// A canary, and what its requests are answered by.
pub struct Trial {
    /// Of the requests.
    pub percent: u8,
    pub canary: Arc<Canary>,
    /// Takes the place of `own` in these requests: the canary, and what stands before and behind it.
    pub list: Vec<Arc<Seat>>,
    /// Whose place the canary has.
    pub instead_of: Against,
}

/// What an edge must know of a tenant's components.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Components {
    /// Whether a stage of its submissions is one that was pushed, or that the operator configured, for it or for all. No
    /// edge has those.
    pub are_configured: bool,
    /// Another one whenever a stage of its submissions is answered by another component. Of 53 bits, which every reader of
    /// JSON keeps.
    pub revision: u64,
}

/// The components of a tenant.
pub struct Set {
    /// No two sets have the same: instances are kept by it.
    pub id: u64,
    /// In the order of `Stage::ALL`.
    pub plans: [Plan; 5],
    pub bounds: Bounds,
    /// Of one stage, at once.
    pub calls: usize,
    /// The account of what the tenant's own components compute.
    pub meter: Option<Arc<Meter>>,
    /// Shadows have an account of their own, so that they never use up the tenant's.
    pub shadow_meter: Option<Arc<Meter>>,
    pub components: Components,
}

impl Set {
    pub fn plan(&self, stage: Stage) -> &Plan {
        let [renderer, validator, transformer, signer, shaper] = &self.plans;
        match stage {
            Stage::Renderer => renderer,
            Stage::Validator => validator,
            Stage::Transformer => transformer,
            Stage::Signer => signer,
            Stage::Shaper => shaper,
        }
    }
}

impl Plan {
    /// Whether a request that drew this number of 0 to 99 is the canary's.
    pub fn is_tried(&self, draw: u8) -> bool {
        self.canary.as_ref().is_some_and(|trial| draw < trial.percent && !trial.canary.is_over())
    }
}
