//! What the WAL of `store.db` needs behind the writer's back: its pages go to their places, commits that were left unsynced
//! are synced, and it is read ahead of the writer. One thread.
//!
//! A commit that moved them itself would keep everybody in its group waiting for tens of milliseconds. Moving does not
//! hinder the writer, but the WAL begins anew only when nothing of it is left: so once it is long, and nearly all of it
//! was moved here, the writer moves the last pages between two groups.
//!
//! A WAL that begins anew overwrites its file, in pieces that do not fit the blocks of the file system: whatever of these
//! the system has dropped from memory is read first, block by block, while a group waits. So they are read ahead here.

use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc as std_mpsc;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, ffi};
use rustix::fs::{Advice, fadvise};
use tokio::sync::mpsc;

use super::embedded::Shared;
use super::faults::{Faults, Point};
use super::schema::{self, OpenError};
use super::writer::Job;

/// Rows written before pages are moved.
const ROWS: u64 = 32 * 1024;
/// How long fewer rows may wait for it.
const AT_LATEST: Duration = Duration::from_secs(10);
/// How often is looked, and so the longest that an outcome waits to be synced.
pub(super) const LOOK: Duration = Duration::from_millis(100);
/// Pages of a WAL that should begin anew: 32 MiB.
const LONG: i64 = 8192;
/// Octets of the WAL that are read ahead: about twice what is written between two looks.
const AHEAD: NonZeroU64 = NonZeroU64::new(16 << 20).unwrap();
/// Of a page with its header in the WAL, and of the WAL's own header (https://sqlite.org/walformat.html).
const FRAME_BYTES: u64 = 4096 + 24;
const WAL_HEADER_BYTES: u64 = 32;

/// Moves what no reader still needs where it is, without waiting for anybody. How many pages the WAL has, moved or not.
///
/// Poisons the store where the disk fails: what could not be synced may be gone from memory, and another sync would not say so.
pub(super) fn checkpoint(connection: &Connection, shared: &Shared, faults: &dyn Faults) -> Option<i64> {
    let failed = |_| rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_IOERR_FSYNC), None);
    let moved = faults
        .at(Point::Moving)
        .map_err(failed)
        .and_then(|()| connection.query_row("PRAGMA main.wal_checkpoint(PASSIVE)", [], |row| row.get(1)));
    match moved {
        Ok(pages) => Some(pages),
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::SystemIoFailure) => {
            shared.poison(&format!("moving pages out of the WAL: {error}"));
            None
        }
        // The WAL grows meanwhile; nothing is lost.
        Err(error) => {
            tracing::warn!(%error, "pages of the store cannot be moved out of its WAL");
            None
        }
    }
}

pub(super) struct Checkpointer {
    connection: Connection,
    jobs: mpsc::Sender<Job>,
    shared: Arc<Shared>,
    faults: Arc<dyn Faults>,
    /// The WAL, once there is one: an error of writing is told to those who had it open then.
    wal: Option<File>,
}

impl Checkpointer {
    pub(super) fn new(
        jobs: mpsc::Sender<Job>,
        shared: Arc<Shared>,
        faults: Arc<dyn Faults>,
    ) -> Result<Checkpointer, OpenError> {
        let connection = schema::open_again(&shared.layout.main)?;
        Ok(Checkpointer { connection, jobs, shared, faults, wal: None })
    }

    /// The thread's work: until the other end of `stopped` is gone, or something could not be written.
    pub(super) fn run(mut self, stopped: &std_mpsc::Receiver<()>) {
        let (mut rows_before, mut at) = (0, Instant::now());
        let mut seen = 0;
        while stopped.recv_timeout(LOOK) == Err(std_mpsc::RecvTimeoutError::Timeout) {
            let rows = self.shared.rows.load(Ordering::Relaxed);
            let new = rows - rows_before;
            if rows != seen
                && let Err(error) = self.read_ahead()
            {
                // A group waits longer; nothing else depends on it.
                tracing::debug!(%error, "the WAL of the store is not read ahead");
            }
            seen = rows;
            if self.shared.unsynced.swap(false, Ordering::AcqRel)
                && let Err(error) = self.sync()
            {
                self.shared.poison(&format!("syncing the WAL: {error}"));
            }
            if self.shared.poisoned.get().is_some() {
                // What could not be written may be gone from memory: it must not be moved to its place.
                return;
            }
            if new == 0 || (new < ROWS && at.elapsed() < AT_LATEST) {
                continue;
            }
            if checkpoint(&self.connection, &self.shared, &*self.faults).is_some_and(|pages| pages >= LONG) {
                self.finish();
            }
            (rows_before, at) = (rows, Instant::now());
        }
    }

    /// Makes all commits durable.
    fn sync(&mut self) -> io::Result<()> {
        self.faults.at(Point::Following)?;
        self.wal()?.sync_data()
    }

    /// The WAL is the same file for as long as the database is open.
    fn wal(&mut self) -> io::Result<&File> {
        if self.wal.is_none() {
            let mut path = self.shared.layout.main.clone().into_os_string();
            path.push("-wal");
            self.wal = Some(File::open(PathBuf::from(path))?);
        }
        self.wal.as_ref().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Has the system read what of the WAL is overwritten next: behind its newest page, and where it begins anew.
    fn read_ahead(&mut self) -> io::Result<()> {
        // The wal-index tells too, but to open and close it would let go of SQLite's locks on it.
        let pages = self.connection.query_row("PRAGMA main.wal_checkpoint(NOOP)", [], |row| row.get::<_, i64>(1));
        let pages = pages.map_err(io::Error::other)?;
        let end = WAL_HEADER_BYTES + pages.max(0).cast_unsigned() * FRAME_BYTES;
        let wal = self.wal()?;
        let length = wal.metadata()?.len();
        for from in [0, end].into_iter().filter(|from| *from < length) {
            fadvise(wal, from, Some(AHEAD), Advice::WillNeed)?;
        }
        Ok(())
    }

    /// Has the writer move the rest, and waits.
    fn finish(&self) {
        let (answer, answered) = std_mpsc::channel();
        if self.jobs.blocking_send(Job::Checkpoint { answer }).is_ok() {
            // Where the writer is gone there is nobody to wait for.
            let _ = answered.recv();
        }
    }
}
