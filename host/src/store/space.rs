//! What the writer knows of the disk's free space, and what it gives up where that runs short.
//!
//! Below twice the reserve no file of a segment is kept to be used again; below the reserve the present segment is closed
//! too, and no mail is taken. Where a group could not be written all the same, for lack of room or of anything else, new mail
//! and each report are groups apart, until bodies are written again: what keeps bodies from being written must not keep
//! outcomes from being recorded.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::jobs::GroupError;
use super::writer::Writer;

/// How often the free space of the disk is looked at; sooner where this part of the reserve was written.
const CHECK: Duration = Duration::from_secs(1);
const CHECK_SHARE: u64 = 8;
/// How long after a group that could not be written bodies are written apart at least: longer than whoever repeats a job
/// waits.
const APART: Duration = Duration::from_secs(5);

pub(super) struct Space {
    /// Free space below which nothing is accepted.
    reserve_bytes: u64,
    checked: Option<Instant>,
    /// Octets of bodies since then.
    written: u64,
    full: bool,
    /// When a group could not be written, until bodies are written together again.
    refused: Option<Instant>,
}

impl Space {
    pub(super) fn new(reserve_bytes: u64) -> Space {
        Space { reserve_bytes, checked: None, written: 0, full: false, refused: None }
    }

    /// Bodies of so many octets were written.
    pub(super) fn wrote(&mut self, octets: u64) {
        self.written = self.written.saturating_add(octets);
        self.refused = self.refused.filter(|at| at.elapsed() < APART);
    }

    /// A group failed.
    pub(super) fn failed(&mut self, error: &GroupError) {
        if matches!(error, GroupError::Full | GroupError::Failed(_)) {
            self.refused = Some(Instant::now());
        }
    }

    /// Whether bodies are groups of their own.
    pub(super) fn is_apart(&self) -> bool {
        self.refused.is_some()
    }

    /// Whether the disk had room a moment ago. One that had none is looked at each time, so that mail is taken as soon as it
    /// has.
    fn has_room(&self) -> bool {
        let is_fresh = self.checked.is_some_and(|at| at.elapsed() < CHECK);
        is_fresh && !self.full && self.written <= self.reserve_bytes / CHECK_SHARE
    }
}

impl Writer {
    /// Whether the disk has less than its reserve left. Where that cannot be told, writing will. Only between groups.
    pub(super) fn is_full(&mut self) -> bool {
        if self.space.has_room() {
            return false;
        }
        let free = self.free_bytes();
        let full = free.is_some_and(|bytes| bytes < self.space.reserve_bytes);
        let freed = if full && !self.space.full {
            self.spool.make_room()
        } else if self.is_scarce(free) {
            self.spool.trim_free(0)
        } else {
            Ok(())
        };
        if let Err(error) = freed {
            tracing::warn!(%error, "a spool segment could not be closed, or a file that is kept could not be removed");
        }
        (self.space.checked, self.space.written, self.space.full) = (Some(Instant::now()), 0, full);
        self.shared.full.store(full, Ordering::Relaxed);
        full
    }

    /// Whether the file of a segment that goes may be used again.
    pub(super) fn keeps_files(&self) -> bool {
        !self.is_scarce(self.free_bytes())
    }

    fn free_bytes(&self) -> Option<u64> {
        self.faults.free_bytes(&self.shared.layout.spool)
    }

    fn is_scarce(&self, free: Option<u64>) -> bool {
        free.is_some_and(|bytes| bytes < self.space.reserve_bytes.saturating_mul(2))
    }
}
