//! Pages of `store.db` go from the WAL to their places behind the writer's back. One thread.
//!
//! A commit that moved them itself would keep everybody in its group waiting for tens of milliseconds. Moving does not
//! hinder the writer, but the WAL begins anew only when nothing of it is left: so once it is long, and nearly all of it
//! was moved here, the writer moves the last pages between two groups.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc as std_mpsc;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tokio::sync::mpsc;

use super::embedded::Shared;
use super::schema::{self, OpenError};
use super::writer::Job;

/// Rows written before pages are moved.
const ROWS: u64 = 32 * 1024;
/// How long fewer rows may wait for it.
const AT_LATEST: Duration = Duration::from_secs(10);
/// How often is looked.
const LOOK: Duration = Duration::from_millis(100);
/// Pages of a WAL that should begin anew: 32 MiB.
const LONG: i64 = 8192;

/// Moves what no reader still needs where it is, without waiting for anybody. How many pages the WAL has, moved or not.
pub(super) fn checkpoint(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("PRAGMA main.wal_checkpoint(PASSIVE)", [], |row| row.get(1))
}

pub(super) struct Checkpointer {
    connection: Connection,
    jobs: mpsc::Sender<Job>,
    shared: Arc<Shared>,
}

impl Checkpointer {
    pub(super) fn new(jobs: mpsc::Sender<Job>, shared: Arc<Shared>) -> Result<Checkpointer, OpenError> {
        let connection = schema::open_for_writing(&shared.layout.main, schema::MAIN)?;
        Ok(Checkpointer { connection, jobs, shared })
    }

    /// The thread's work: until the other end of `stopped` is gone.
    pub(super) fn run(self, stopped: &std_mpsc::Receiver<()>) {
        let (mut rows_before, mut at) = (0, Instant::now());
        while stopped.recv_timeout(LOOK) == Err(std_mpsc::RecvTimeoutError::Timeout) {
            let rows = self.shared.rows.load(Ordering::Relaxed);
            let new = rows - rows_before;
            if new == 0 || (new < ROWS && at.elapsed() < AT_LATEST) {
                continue;
            }
            match checkpoint(&self.connection) {
                Ok(pages) if pages >= LONG => self.finish(),
                Ok(_) => {}
                // The WAL grows meanwhile; nothing is lost.
                Err(error) => tracing::warn!(%error, "pages of the store cannot be moved out of its WAL"),
            }
            (rows_before, at) = (rows, Instant::now());
        }
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
