//! The seam through which a crash or a failing disk is played at the points that matter.

use std::io;

/// A point of a group on its way to the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// Bodies are with the system, not yet synced.
    Appended,
    /// Bodies are durable, the transaction is not.
    Synced,
    /// The transaction is durable, nobody is answered yet.
    Committed,
    /// Events and the deliveries of them are durable in `events.db`, and still in the outbox.
    Copied,
}

/// Called at each point. An error there counts as a failed sync and poisons the store.
pub trait Faults: Send + Sync + 'static {
    fn at(&self, point: Point) -> io::Result<()>;
}

/// None: what a host runs with.
pub struct NoFaults;

impl Faults for NoFaults {
    fn at(&self, _point: Point) -> io::Result<()> {
        Ok(())
    }
}
