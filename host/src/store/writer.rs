//! The one writer: a thread that owns the writing connection, the segment being written, and the leases.
//!
//! Jobs that wait are done as one group: all bodies are appended and synced, then everything is committed in one
//! transaction, then all are answered. A group that a machine may forget when it stops (`Job::is_repeatable`) leaves the
//! sync of its commit to the next one that syncs, or to the thread of `checkpointing`. Where a group could not be written,
//! bodies are groups apart for a while (see `space`). Invariants: nothing is answered before its group is committed;
//! nothing is committed before the bodies it names are synced; after a failed sync nothing is written any more, because
//! the system may have dropped the pages it could not write.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc as std_mpsc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use jiff::Timestamp;
use mail::Event;
use rusqlite::{Connection, ErrorCode, OptionalExtension};
use tokio::sync::mpsc;
use uuid::Uuid;

use super::accepting::{self, Counters, Prepared};
use super::checkpointing;
use super::embedded::Shared;
use super::faults::{Faults, Point};
use super::fresh;
use super::history;
use super::housekeeping::Wake;
pub(super) use super::jobs::{Change, GroupError, Job};
use super::jobs::{Effects, Pending, without_result};
use super::lanes::{Lane, domain_number};
use super::lease::Leases;
use super::retention;
use super::segment::{Place, Spool};
use super::space::Space;
use super::{
    Accepted, Completion, Leased, NewMessage, Next, QueueChange, QueueFilter, Rest, StoreError, Tended, requests,
    scheduling, tending,
};
use crate::metrics::{Unattempted, metrics};

/// Bounds of a group: rows (messages, completions, events) and octets of bodies.
const GROUP_ROWS: usize = 1024;
const GROUP_BYTES: usize = 4 * 1024 * 1024;

pub(super) struct Writer {
    pub(super) connection: Connection,
    pub(super) spool: Spool,
    pub(super) counters: Counters,
    pub(super) shared: Arc<Shared>,
    pub(super) faults: Arc<dyn Faults>,
    pub(super) space: Space,
    pub(super) leases: Leases,
    /// Whether commits are synced, as the connection is set.
    pub(super) syncs: bool,
    /// Since when a commit waits for one that is.
    pub(super) unsynced_since: Option<Instant>,
}

impl Writer {
    /// Works until every sender is gone.
    pub(super) fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        while let Some(first) = jobs.blocking_recv() {
            let (mut rows, mut bytes) = first.weight();
            let mut group = vec![first];
            while rows < GROUP_ROWS && bytes < GROUP_BYTES {
                let Ok(job) = jobs.try_recv() else { break };
                let (more_rows, more_bytes) = job.weight();
                rows += more_rows;
                bytes += more_bytes;
                group.push(job);
            }
            self.serve(group);
        }
        if self.shared.poisoned.get().is_some() {
            return;
        }
        // Leaves a small WAL behind; whatever comes of it, all is committed.
        let _ = self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
    }

    fn serve(&mut self, group: Vec<Job>) {
        let (others, writes): (Vec<Job>, Vec<Job>) = group
            .into_iter()
            .partition(|job| matches!(job, Job::Checkpoint { .. } | Job::Rest { .. } | Job::Lease { .. }));
        if self.space.is_apart() {
            let (bodies, rest): (Vec<Job>, Vec<Job>) = writes.into_iter().partition(Job::has_bodies);
            let (reports, mail): (Vec<Job>, _) = bodies.into_iter().partition(Job::is_outcome);
            [rest, mail].into_iter().for_each(|jobs| self.serve_writes(jobs));
            reports.into_iter().for_each(|job| self.serve_writes(vec![job]));
        } else {
            self.serve_writes(writes);
        }
        // After the commit, so that what was accepted just now is leased at once.
        for job in others {
            match job {
                Job::Checkpoint { answer } => self.checkpoint(&answer),
                Job::Rest { rests, now, answer } => {
                    let _ = answer.send(self.rest(&rests, now));
                }
                Job::Lease { now, limit, answer } => {
                    let _ = answer.send(self.lease(now, limit));
                }
                _ => {}
            }
        }
    }

    fn serve_writes(&mut self, jobs: Vec<Job>) {
        if jobs.is_empty() {
            return;
        }
        let mut effects = Effects::default();
        let start = (self.spool.number(), self.spool.position());
        let rows = jobs.iter().map(|job| job.weight().0).sum();
        let result = match self.shared.poisoned.get() {
            Some(text) => {
                jobs.into_iter().for_each(|job| effects.pending.extend(without_result(job)));
                Err(GroupError::Poisoned(text.clone()))
            }
            None => self.group(jobs, &mut effects),
        };
        metrics().committed(rows, result.as_ref().ok().copied());
        self.shared.rows.fetch_add(rows as u64, Ordering::Relaxed);
        match result {
            Ok(_) => self.committed(effects),
            Err(error) => self.failed(effects, start, &error),
        }
    }

    /// Does the group's work up to the commit. How long the sync of bodies took, where there were any, and the commit.
    fn group(&mut self, jobs: Vec<Job>, effects: &mut Effects) -> Result<(Option<Duration>, Duration), GroupError> {
        let full = self.is_full();
        let has_bodies = jobs.iter().any(Job::has_bodies);
        let waits_long = self.unsynced_since.is_some_and(|at| at.elapsed() >= checkpointing::LOOK);
        let syncs = waits_long || !jobs.iter().all(Job::is_repeatable);
        let mut jobs = jobs.into_iter();
        let mut work = || -> Result<u64, GroupError> {
            if has_bodies {
                self.spool.roll_if_full().map_err(GroupError::write)?;
            }
            self.shared.segment.store(self.spool.number(), Ordering::Release);
            self.begin(syncs)?;
            let before = self.spool.position();
            for job in jobs.by_ref() {
                self.write(job, full, effects)?;
            }
            self.faults.at(Point::Writing).map_err(GroupError::write)?;
            let appended = self.spool.position() - before;
            if appended > 0 {
                self.faults.at(Point::Appending).map_err(GroupError::write)?;
                self.spool.write(!full).map_err(GroupError::write)?;
            }
            Ok(appended)
        };
        let result = work();
        // Whoever the work did not come to is answered with the group's error too.
        jobs.for_each(|job| effects.pending.extend(without_result(job)));
        let began = Instant::now();
        let appended = result?;
        let synced = if appended > 0 { self.sync().map(|()| Some(began.elapsed()))? } else { None };
        let began = Instant::now();
        self.commit()?;
        if appended > 0 {
            self.space.wrote(appended);
            // What has bodies has rows: its commit was synced, with all before it.
            self.shared.unsynced.store(false, Ordering::Release);
        }
        Ok((synced, began.elapsed()))
    }

    /// Begins a transaction whose commit is synced, or not.
    fn begin(&mut self, syncs: bool) -> Result<(), GroupError> {
        if self.syncs != syncs {
            self.connection.pragma_update(None, "synchronous", if syncs { "FULL" } else { "NORMAL" })?;
            self.syncs = syncs;
        }
        self.connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        Ok(())
    }

    fn sync(&mut self) -> Result<(), GroupError> {
        let poisoned = |error: io::Error| GroupError::Poisoned(format!("syncing the spool segment: {error}"));
        self.faults.at(Point::Appended).map_err(poisoned)?;
        self.spool.sync().map_err(poisoned)
    }

    fn commit(&mut self) -> Result<(), GroupError> {
        let poisoned = |error: io::Error| GroupError::Poisoned(format!("committing: {error}"));
        self.faults.at(Point::Synced).map_err(poisoned)?;
        match self.connection.prepare_cached("COMMIT").and_then(|mut commit| commit.execute([])) {
            Ok(_) => {}
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DiskFull) => return Err(GroupError::Full),
            Err(error) => return Err(GroupError::Poisoned(format!("committing: {error}"))),
        }
        // A commit that syncs may have had nothing to write: what came before it is for the next, or the thread.
        if self.syncs {
            self.unsynced_since = None;
        } else {
            self.unsynced_since.get_or_insert_with(Instant::now);
            self.shared.unsynced.store(true, Ordering::Release);
        }
        self.faults.at(Point::Committed).map_err(|error| GroupError::Poisoned(error.to_string()))
    }

    /// One job of the group, inside its transaction.
    fn write(&mut self, job: Job, full: bool, effects: &mut Effects) -> Result<(), GroupError> {
        let (pending, result) = match job {
            // Nobody waits any more: who is not answered sends it again, and it would go out twice.
            Job::Accept { answer, .. } if answer.is_closed() => return Ok(()),
            Job::Accept { messages, answer } => {
                let mut answers = Vec::with_capacity(messages.len());
                let result = self.accept(&messages, full, &mut answers, effects);
                (Pending::Accept { answer, answers, count: messages.len() }, result)
            }
            Job::Complete { batch, answer } => {
                let result = batch.iter().try_for_each(|completion| self.complete(completion, effects));
                (Pending::Unit(answer, Ok(())), result)
            }
            Job::Reschedule { tenant, message, to, answer } => match self.reschedule(&tenant, message, to, effects) {
                Ok(told) => (Pending::Unit(answer, told), Ok(())),
                Err(error) => (Pending::Unit(answer, Ok(())), Err(error)),
            },
            Job::Cancel { tenant, message, at, answer } => match self.cancel(&tenant, message, at, effects) {
                Ok(told) => (Pending::Unit(answer, told), Ok(())),
                Err(error) => (Pending::Unit(answer, Ok(())), Err(error)),
            },
            Job::Record { message, events, at, answer } => match self.record(message, &events, at, effects) {
                Ok(told) => (Pending::Unit(answer, told), Ok(())),
                Err(error) => (Pending::Unit(answer, Ok(())), Err(error)),
            },
            Job::Change { change, answer } => match self.change(change, effects) {
                Ok(told) => (Pending::Unit(answer, told), Ok(())),
                Err(error) => (Pending::Unit(answer, Ok(())), Err(error)),
            },
            Job::Tend { filter, change, cursor, at, answer } => {
                match self.tend((&filter, change), cursor.as_deref(), at, effects) {
                    Ok(told) => (Pending::Tended(answer, told), Ok(())),
                    Err(error) => (Pending::Tended(answer, Ok(Tended::default())), Err(error)),
                }
            }
            Job::Forget { stretch, answer } => {
                (Pending::Done(answer), history::forget(&self.connection, stretch).map_err(GroupError::from))
            }
            Job::ForgetMessages { keys, answer } => {
                (Pending::Done(answer), retention::forget_messages(&self.connection, &keys).map_err(GroupError::from))
            }
            Job::Move { from, bodies, answer } => (Pending::Done(answer), retention::move_bodies(self, from, &bodies)),
            Job::Retire { segment, answer } => (Pending::Done(answer), self.retire(segment, effects)),
            Job::Checkpoint { .. } | Job::Rest { .. } | Job::Lease { .. } => return Ok(()),
        };
        effects.pending.push(pending);
        result
    }

    fn accept(
        &mut self,
        messages: &[Prepared],
        full: bool,
        answers: &mut Vec<Result<Accepted, StoreError>>,
        effects: &mut Effects,
    ) -> Result<(), GroupError> {
        for message in messages {
            if full {
                answers.push(Err(StoreError::Full));
                continue;
            }
            let (connection, spool, counters) = (&self.connection, &mut self.spool, &mut self.counters);
            let (segment, position) = (spool.number(), spool.position());
            let (answer, queued) = accepting::accept(connection, spool, counters, message, &mut effects.due)?;
            effects.queued += queued;
            effects.events = true;
            if let (Ok(Accepted::Stored), size @ ..=fresh::LARGEST) = (&answer, message.body.len())
                && message.is_due()
            {
                // Copied: the rest of the request that it came in would stay in memory with it.
                let body = Bytes::copy_from_slice(&message.body);
                effects.fresh.push((Place { segment, position, size: size as u32 }, body));
            }
            answers.push(answer);
        }
        Ok(())
    }

    fn reschedule(
        &mut self,
        tenant: &str,
        message: Uuid,
        to: Timestamp,
        effects: &mut Effects,
    ) -> Result<Result<(), StoreError>, GroupError> {
        let to_ms = to.as_millisecond();
        let due = scheduling::reschedule(&self.connection, tenant, message, to_ms)?;
        Ok(due.map(|due| effects.due.extend(due)))
    }

    fn cancel(
        &mut self,
        tenant: &str,
        message: Uuid,
        at: Timestamp,
        effects: &mut Effects,
    ) -> Result<Result<(), StoreError>, GroupError> {
        let at_ms = at.as_millisecond();
        let ended = scheduling::cancel(&self.connection, &mut self.counters, tenant, message, at_ms)?;
        let count = *ended.as_ref().unwrap_or(&0);
        effects.done += count;
        effects.unattempted.push((tenant.to_owned(), Unattempted::Canceled, count));
        effects.events = true;
        Ok(ended.map(drop))
    }

    fn complete(&mut self, completion: &Completion, effects: &mut Effects) -> Result<(), GroupError> {
        let Completion { message, index, next, events, at, report, tells_delay } = completion;
        let Some(held) = self.leases.end(*message, *index) else {
            tracing::warn!(id = %message, index, "a completion without a lease changes nothing");
            return Ok(());
        };
        let (lane, (_, key, place)) = held;
        effects.ended.push((*message, *index, held));
        match next {
            Next::Done => {
                self.connection
                    .prepare_cached(
                        "UPDATE recipient SET due_ms = NULL, done_ms = ?3 WHERE message = ?1 AND place = ?2",
                    )?
                    .execute([key, place, at.as_millisecond()])?;
                effects.done += 1;
            }
            Next::Retry(due) => {
                // What was held meanwhile stays so, but for its number of attempts.
                self.connection
                    .prepare_cached(
                        "UPDATE recipient SET due_ms = CASE WHEN due_ms IS NULL THEN NULL ELSE ?3 END, attempts = attempts + 1
                         WHERE message = ?1 AND place = ?2",
                    )?
                    .execute([key, place, due.as_millisecond()])?;
                effects.due.push((lane, (due.as_millisecond(), key, place)));
            }
            Next::Release => effects.due.push(held),
        }
        self.record_all(key, events, *at, effects)?;
        if *tells_delay {
            requests::note_delay_told(&self.connection, key, place)?;
        }
        match report {
            Some(report) => self.accept_report(report, effects),
            None => Ok(()),
        }
    }

    /// Accepts a report, also while less than the reserve is free: it is owed, and the reserve is for what is owed.
    fn accept_report(&mut self, report: &NewMessage, effects: &mut Effects) -> Result<(), GroupError> {
        // Its tenant may be gone meanwhile, and must not come back by it.
        if accepting::known_tenant(&self.connection, &mut self.counters, &report.tenant)?.is_none() {
            return Ok(());
        }
        let failed = |error: &StoreError| tracing::error!(id = %report.id, %error, "a report could not be accepted");
        // It will never be better: what it tells of is recorded without it.
        let Ok(prepared) = Prepared::new(report.clone()).inspect_err(failed) else { return Ok(()) };
        let mut answers = Vec::new();
        self.accept(&[prepared], false, &mut answers, effects)?;
        if let Some(Err(error)) = answers.pop() {
            failed(&error);
        }
        Ok(())
    }

    fn record(
        &mut self,
        message: Uuid,
        events: &[Event],
        at: Timestamp,
        effects: &mut Effects,
    ) -> Result<Result<(), StoreError>, GroupError> {
        let key: Option<i64> = self
            .connection
            .prepare_cached("SELECT key FROM message WHERE id = ?1")?
            .query_row([message.as_bytes()], |row| row.get(0))
            .optional()?;
        match key {
            Some(key) => self.record_all(key, events, at, effects).map(Ok).map_err(GroupError::from),
            None => Ok(Err(StoreError::NotFound(format!("message {message}")))),
        }
    }

    fn record_all(
        &mut self,
        message: i64,
        events: &[Event],
        at: Timestamp,
        effects: &mut Effects,
    ) -> rusqlite::Result<()> {
        for event in events {
            self.counters.seq += 1;
            history::record(&self.connection, (message, self.counters.seq), at.as_millisecond(), event)?;
            effects.events = true;
        }
        Ok(())
    }

    /// What fails leaves the rest of the group alone.
    fn tend(
        &mut self,
        what: (&QueueFilter, QueueChange),
        cursor: Option<&str>,
        at: Timestamp,
        effects: &mut Effects,
    ) -> Result<Result<Tended, StoreError>, GroupError> {
        self.connection.prepare_cached("SAVEPOINT tend")?.execute([])?;
        let (connection, counters) = (&self.connection, &mut self.counters);
        let changes = tending::tend(connection, counters, &self.leases, what, cursor, at.as_millisecond());
        if changes.is_err() {
            self.connection.prepare_cached("ROLLBACK TO tend")?.execute([])?;
        }
        self.connection.prepare_cached("RELEASE tend")?.execute([])?;
        Ok(changes.map(|changes| {
            effects.due.extend(changes.due);
            effects.done += changes.done;
            effects
                .unattempted
                .extend(changes.unattempted.into_iter().map(|((tenant, how), count)| (tenant, how, count)));
            effects.events |= changes.events;
            changes.tended
        }))
    }

    /// A change that fails leaves the rest of the group alone.
    fn change(&mut self, change: Change, effects: &mut Effects) -> Result<Result<(), StoreError>, GroupError> {
        self.connection.prepare_cached("SAVEPOINT change")?.execute([])?;
        let before = self.counters.seq;
        let told = change(&self.connection, &mut self.counters);
        effects.changed = true;
        if told.is_err() {
            self.connection.prepare_cached("ROLLBACK TO change")?.execute([])?;
            self.counters.tenants.clear();
        }
        self.connection.prepare_cached("RELEASE change")?.execute([])?;
        effects.events |= self.counters.seq != before;
        Ok(told)
    }

    fn retire(&mut self, segment: u64, effects: &mut Effects) -> Result<(), GroupError> {
        if segment != self.spool.number() {
            self.connection
                .prepare_cached("DELETE FROM segment WHERE number = ?1")?
                .execute([segment.cast_signed()])?;
            self.connection.prepare_cached("DELETE FROM moved WHERE segment = ?1")?.execute([segment.cast_signed()])?;
            effects.retired.push(segment);
        }
        Ok(())
    }

    fn committed(&mut self, effects: Effects) {
        self.shared.keeps_up();
        if effects.changed {
            // Before anybody is told.
            self.shared.changes.fetch_add(1, Ordering::Release);
        }
        // Before anybody leases them.
        self.shared.fresh.keep(effects.fresh);
        for (lane, key) in &effects.due {
            self.leases.lanes.became_due(*lane, *key);
        }
        self.shared.queued.fetch_add(effects.queued, Ordering::Relaxed);
        self.shared.queued.fetch_sub(effects.done, Ordering::Relaxed);
        for (tenant, how, count) in effects.unattempted {
            metrics().tenants.of(&tenant).ended(how, count);
        }
        if effects.events {
            self.note_events();
        }
        if !effects.due.is_empty() {
            self.shared.next_due_ms.store(self.leases.lanes.next_ms(), Ordering::Release);
            self.shared.due.notify_one();
        }
        for segment in effects.retired {
            self.shared.fresh.forget(segment);
            let keep_free = self.keeps_files();
            let retired = self.faults.at(Point::Deleting).and_then(|()| self.spool.retire(segment, keep_free));
            if let Err(error) = retired {
                tracing::warn!(segment, %error, "a spool segment could not be removed; the next start does it");
            }
        }
        effects.pending.into_iter().for_each(|pending| pending.tell(None));
    }

    fn failed(&mut self, effects: Effects, start: (u64, u64), error: &GroupError) {
        self.shared.keeps_up();
        // Fails where the transaction never began or SQLite ended it itself.
        let _ = self.connection.execute_batch("ROLLBACK");
        let (number, position) = start;
        self.spool.rewind(if self.spool.number() == number { position } else { 0 });
        self.counters.tenants.clear();
        self.counters.segment = None;
        for (message, place, held) in effects.ended {
            self.leases.restore(message, place, held);
        }
        self.space.failed(error);
        self.report(error);
        effects.pending.into_iter().for_each(|pending| pending.tell(Some(error)));
    }

    fn report(&self, error: &GroupError) {
        match error {
            GroupError::Full => tracing::error!("the disk is full: mail is refused until there is space"),
            GroupError::Failed(text) => tracing::error!(error = %text, "a group of writes failed"),
            GroupError::Poisoned(text) => self.shared.poison(text),
        }
    }

    fn lease(&mut self, now: Timestamp, limit: usize) -> Result<Vec<Leased>, StoreError> {
        if let Some(text) = self.shared.poisoned.get() {
            return Err(StoreError::Io(text.clone()));
        }
        let now_ms = now.as_millisecond();
        let until_ms = self.send_scheduled(now_ms)?;
        let leased = self.leases.take(&self.connection, until_ms, limit)?;
        let next_ms = if until_ms < now_ms { i64::MIN } else { self.leases.lanes.next_ms() };
        self.shared.next_due_ms.store(next_ms, Ordering::Release);
        self.shared.set_aside(std::mem::take(&mut self.leases.damaged));
        Ok(leased)
    }

    fn checkpoint(&self, answer: &std_mpsc::Sender<()>) {
        if self.shared.poisoned.get().is_none() {
            checkpointing::checkpoint(&self.connection, &self.shared, &*self.faults);
        }
        // The one who asked ends when the store does.
        let _ = answer.send(());
    }

    fn rest(&mut self, rests: &[Rest], now: Timestamp) -> Result<(), StoreError> {
        for Rest { tenant, domain, stream, until } in rests {
            let tenant = accepting::known_tenant(&self.connection, &mut self.counters, tenant)?;
            let Some(tenant) = tenant else { continue };
            // What an older version stored has no domain in its lane.
            for number in [domain_number(domain.as_str()), 0] {
                let lane = Lane::new(tenant, *stream, number);
                if number != 0 || self.leases.lanes.knows(lane) {
                    self.leases.lanes.rest(lane, until.as_millisecond(), now.as_millisecond());
                }
            }
        }
        Ok(())
    }

    /// Events are in the outbox: they move soon, and at once where somebody waits for them.
    fn note_events(&self) {
        let is_first = !self.shared.outbox.swap(true, Ordering::AcqRel);
        if is_first && self.shared.prompt.load(Ordering::Acquire) {
            // Where the housekeeper is gone the store is closing.
            let _ = self.shared.wake.send(Wake::Move);
        }
    }

    /// Marks scheduled messages whose time has come as sent, durably, so that what is leased was sent. The answer is the
    /// time up to which all were.
    fn send_scheduled(&mut self, now_ms: i64) -> Result<i64, StoreError> {
        if !scheduling::is_due(&self.connection, now_ms)? {
            return Ok(now_ms);
        }
        let mut work = || -> Result<i64, GroupError> {
            self.begin(true)?;
            let due = scheduling::send_due(&self.connection, &mut self.counters, now_ms)?;
            self.commit()?;
            self.shared.set_aside(due.damaged);
            Ok(due.until_ms)
        };
        match work() {
            Ok(until_ms) => {
                self.note_events();
                Ok(until_ms)
            }
            Err(error) => {
                // Fails where the transaction never began or SQLite ended it itself.
                let _ = self.connection.execute_batch("ROLLBACK");
                self.report(&error);
                Err(error.to_store())
            }
        }
    }
}
