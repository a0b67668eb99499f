//! The seam through which a crash, a failing disk or a full one is played at the points that matter.

use std::io;
use std::path::Path;

/// A point of a group on its way to the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// The group's rows stand in its transaction; its bodies are about to be handed to the system. An error there is one
    /// of writing: the group fails, and the next may do better.
    Writing,
    /// The same, in a group that has bodies.
    Appending,
    /// Bodies are with the system, not yet synced.
    Appended,
    /// Bodies are durable, where there are any; the transaction is not.
    Synced,
    /// The transaction is durable, nobody is answered yet.
    Committed,
    /// Commits that were left unsynced are about to be synced.
    Following,
    /// Pages are about to be moved out of the WAL, which syncs it before.
    Moving,
    /// Events and the deliveries of them are durable in `events.db`, and still in the outbox.
    Copied,
    /// A segment's row is gone, its file is not. An error there leaves the file to the next start.
    Deleting,
}

/// Called at each point. Where nothing else is said, an error there counts as a failed sync and poisons the store.
pub trait Faults: Send + Sync + 'static {
    fn at(&self, point: Point) -> io::Result<()>;

    /// Octets that are free on the disk of this folder; `None` where that cannot be told.
    fn free_bytes(&self, folder: &Path) -> Option<u64> {
        let space = rustix::fs::statvfs(folder).ok()?;
        Some(space.f_bavail.saturating_mul(space.f_frsize))
    }
}

/// None: what a host runs with.
pub struct NoFaults;

impl Faults for NoFaults {
    fn at(&self, _point: Point) -> io::Result<()> {
        Ok(())
    }
}
