//! What the writer is asked to do, what a group of it has for effects, and who is told.

use std::io;
use std::sync::mpsc as std_mpsc;

use bytes::Bytes;
use jiff::Timestamp;
use mail::Event;
use rusqlite::{Connection, ErrorCode};
use tokio::sync::oneshot;
use uuid::Uuid;

use super::accepting::{Counters, Prepared};
use super::history::Stretch;
use super::lease::Held;
use super::retention::MovedBody;
use super::segment::Place;
use super::{Accepted, Completion, Leased, QueueChange, QueueFilter, Rest, StoreError, TenantId, Tended};
use crate::metrics::Unattempted;

pub(super) type Answer<T> = oneshot::Sender<Result<T, StoreError>>;
/// A write of few rows, on its own savepoint inside the group's transaction.
pub(super) type Change = Box<dyn FnOnce(&Connection, &mut Counters) -> Result<(), StoreError> + Send>;

/// What the writer is asked to do.
pub(super) enum Job {
    Accept {
        messages: Vec<Prepared>,
        answer: oneshot::Sender<Vec<Result<Accepted, StoreError>>>,
    },
    Complete {
        batch: Vec<Completion>,
        answer: Answer<()>,
    },
    Reschedule {
        tenant: TenantId,
        message: Uuid,
        to: Timestamp,
        answer: Answer<()>,
    },
    Cancel {
        tenant: TenantId,
        message: Uuid,
        at: Timestamp,
        answer: Answer<()>,
    },
    Record {
        message: Uuid,
        events: Vec<Event>,
        at: Timestamp,
        answer: Answer<()>,
    },
    Change {
        change: Change,
        answer: Answer<()>,
    },
    Tend {
        filter: QueueFilter,
        change: QueueChange,
        cursor: Option<String>,
        at: Timestamp,
        answer: Answer<Tended>,
    },
    /// Events that moved leave the outbox.
    Forget {
        stretch: Stretch,
        answer: std_mpsc::Sender<()>,
    },
    /// Messages whose time is over leave; their events did.
    ForgetMessages {
        keys: Vec<i64>,
        answer: std_mpsc::Sender<()>,
    },
    /// Bodies that keep a segment go to the newest one.
    Move {
        from: i64,
        bodies: Vec<MovedBody>,
        answer: std_mpsc::Sender<()>,
    },
    /// A segment nobody needs leaves.
    Retire {
        segment: u64,
        answer: std_mpsc::Sender<()>,
    },
    /// The rest of the WAL goes to its place (see `checkpointing`).
    Checkpoint {
        answer: std_mpsc::Sender<()>,
    },
    /// Lanes that nothing is leased from for a while.
    Rest {
        rests: Vec<Rest>,
        now: Timestamp,
        answer: Answer<()>,
    },
    Lease {
        now: Timestamp,
        limit: usize,
        answer: Answer<Vec<Leased>>,
    },
}

impl Job {
    pub(super) fn is_outcome(&self) -> bool {
        matches!(self, Job::Complete { .. })
    }

    /// Whether it has bodies to be written to the spool.
    pub(super) fn has_bodies(&self) -> bool {
        match self {
            Job::Accept { .. } | Job::Move { .. } => true,
            Job::Complete { batch, .. } => batch.iter().any(|completion| completion.report.is_some()),
            Job::Reschedule { .. }
            | Job::Cancel { .. }
            | Job::Record { .. }
            | Job::Change { .. }
            | Job::Tend { .. }
            | Job::Forget { .. }
            | Job::ForgetMessages { .. }
            | Job::Retire { .. }
            | Job::Checkpoint { .. }
            | Job::Rest { .. }
            | Job::Lease { .. } => false,
        }
    }

    /// Whether all that it does is done again where a machine that stops forgets it: outcomes (an attempt is repeated,
    /// as when the machine stops before they are recorded) and events that leave the outbox.
    pub(super) fn is_repeatable(&self) -> bool {
        match self {
            Job::Complete { .. } => !self.has_bodies(),
            Job::Forget { .. } => true,
            Job::Accept { .. }
            | Job::Reschedule { .. }
            | Job::Cancel { .. }
            | Job::Record { .. }
            | Job::Change { .. }
            | Job::Tend { .. }
            | Job::ForgetMessages { .. }
            | Job::Move { .. }
            | Job::Retire { .. }
            | Job::Checkpoint { .. }
            | Job::Rest { .. }
            | Job::Lease { .. } => false,
        }
    }

    /// Rows and octets it adds to its group.
    pub(super) fn weight(&self) -> (usize, usize) {
        match self {
            Job::Accept { messages, .. } => (messages.len(), messages.iter().map(|message| message.body.len()).sum()),
            Job::Complete { batch, .. } => {
                let reports = batch.iter().filter_map(|completion| completion.report.as_ref());
                (batch.len(), reports.map(|report| report.body.len()).sum())
            }
            Job::Forget { stretch, .. } => (stretch.count, 0),
            Job::ForgetMessages { keys, .. } => (keys.len(), 0),
            Job::Move { bodies, .. } => (bodies.len(), bodies.iter().map(|body| body.body.len()).sum()),
            Job::Reschedule { .. }
            | Job::Cancel { .. }
            | Job::Record { .. }
            | Job::Change { .. }
            | Job::Tend { .. }
            | Job::Retire { .. }
            | Job::Checkpoint { .. }
            | Job::Rest { .. }
            | Job::Lease { .. } => (1, 0),
        }
    }
}

/// Why a whole group failed.
#[derive(Clone, Debug)]
pub(super) enum GroupError {
    Full,
    /// Nothing was committed; the next group may do better.
    Failed(String),
    /// What reached the disk is not known.
    Poisoned(String),
}

impl GroupError {
    /// A failed write of bodies.
    pub(super) fn write(error: io::Error) -> GroupError {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => GroupError::Full,
            _ => GroupError::Failed(format!("writing the spool segment: {error}")),
        }
    }

    pub(super) fn to_store(&self) -> StoreError {
        match self {
            GroupError::Full => StoreError::Full,
            GroupError::Failed(text) | GroupError::Poisoned(text) => StoreError::Io(text.clone()),
        }
    }
}

impl From<rusqlite::Error> for GroupError {
    fn from(error: rusqlite::Error) -> GroupError {
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => GroupError::Full,
            _ => GroupError::Failed(format!("the database: {error}")),
        }
    }
}

/// What is told to whom once the group is committed.
pub(super) enum Pending {
    Accept {
        answer: oneshot::Sender<Vec<Result<Accepted, StoreError>>>,
        answers: Vec<Result<Accepted, StoreError>>,
        count: usize,
    },
    Unit(Answer<()>, Result<(), StoreError>),
    Tended(Answer<Tended>, Result<Tended, StoreError>),
    Done(std_mpsc::Sender<()>),
}

/// What follows in memory from a committed group, and what is undone in it by a failed one.
#[derive(Default)]
pub(super) struct Effects {
    pub(super) pending: Vec<Pending>,
    /// Bodies that were stored.
    pub(super) fresh: Vec<(Place, Bytes)>,
    /// Recipients accepted.
    pub(super) queued: u64,
    /// Rows that are due, at the times in their keys.
    pub(super) due: Vec<Held>,
    /// Leases that ended.
    pub(super) ended: Vec<(Uuid, u32, Held)>,
    /// Recipients that are done with.
    pub(super) done: u64,
    /// Of them, those that no attempt ended: for the counters of their tenants.
    pub(super) unattempted: Vec<(TenantId, Unattempted, u64)>,
    pub(super) retired: Vec<u64>,
    pub(super) events: bool,
    /// Whether anything but mail and events changed.
    pub(super) changed: bool,
}

impl Pending {
    pub(super) fn tell(self, error: Option<&GroupError>) {
        // Whoever asked may be gone; what was committed stays committed.
        match (self, error) {
            (Pending::Accept { answer, answers, .. }, None) => drop(answer.send(answers)),
            (Pending::Accept { answer, count, .. }, Some(error)) => {
                drop(answer.send((0..count).map(|_| Err(error.to_store())).collect()));
            }
            (Pending::Unit(answer, told), None) => drop(answer.send(told)),
            (Pending::Unit(answer, _), Some(error)) => drop(answer.send(Err(error.to_store()))),
            (Pending::Tended(answer, told), None) => drop(answer.send(told)),
            (Pending::Tended(answer, _), Some(error)) => drop(answer.send(Err(error.to_store()))),
            (Pending::Done(answer), None) => drop(answer.send(())),
            (Pending::Done(_), Some(_)) => {}
        }
    }
}

/// A job that was not come to: its answer is the group's error.
pub(super) fn without_result(job: Job) -> Option<Pending> {
    match job {
        Job::Accept { answer, messages } => {
            Some(Pending::Accept { answer, answers: Vec::new(), count: messages.len() })
        }
        Job::Complete { answer, .. }
        | Job::Reschedule { answer, .. }
        | Job::Cancel { answer, .. }
        | Job::Record { answer, .. }
        | Job::Change { answer, .. } => Some(Pending::Unit(answer, Ok(()))),
        Job::Tend { answer, .. } => Some(Pending::Tended(answer, Ok(Tended::default()))),
        Job::Forget { answer, .. }
        | Job::ForgetMessages { answer, .. }
        | Job::Move { answer, .. }
        | Job::Retire { answer, .. } => Some(Pending::Done(answer)),
        Job::Checkpoint { .. } | Job::Rest { .. } | Job::Lease { .. } => None,
    }
}
