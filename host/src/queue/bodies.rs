//! How much of memory the bodies take that are on their way: a connection holds the one it sends, and a slow peer holds it
//! for minutes.
//!
//! Bodies up to `SMALL` count nothing, for the number of connections bounds them. All others share a room: whoever finds it
//! full waits in line.

use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Octets.
const SMALL: u64 = 64 << 10;
/// What is counted: octets would not fit into a semaphore's numbers.
const UNIT: u64 = 1 << 10;

/// The room, by `[delivery] large_bodies`.
pub(super) struct Bodies(RwLock<Room>);

struct Room {
    octets: u64,
    units: Arc<Semaphore>,
}

/// The room that one body takes, until this is dropped.
pub(super) struct Held {
    _units: Option<OwnedSemaphorePermit>,
}

impl Bodies {
    pub(super) fn new(octets: u64) -> Bodies {
        Bodies(RwLock::new(Room::new(octets)))
    }

    /// Another size; bodies that are on their way count for the old one until they are sent.
    pub(super) fn resize(&self, octets: u64) {
        let mut room = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if room.octets != octets {
            *room = Room::new(octets);
        }
    }

    /// Waits until there is room for a body of this size. One that is larger than all of the room waits until it is empty.
    pub(super) async fn hold(&self, octets: u64) -> Held {
        if octets <= SMALL {
            return Held { _units: None };
        }
        let (units, all) = {
            let room = self.0.read().unwrap_or_else(PoisonError::into_inner);
            (room.units.clone(), units_of(room.octets))
        };
        // Nobody closes it.
        Held { _units: units.acquire_many_owned(units_of(octets).min(all)).await.ok() }
    }
}

impl Room {
    fn new(octets: u64) -> Room {
        Room { octets, units: Arc::new(Semaphore::new(units_of(octets) as usize)) }
    }
}

/// At least one.
fn units_of(octets: u64) -> u32 {
    u32::try_from(octets.div_ceil(UNIT).max(1)).unwrap_or(u32::MAX)
}
