//! What is done behind the writer's back: events move out of the outbox, `events.db` is written, segments and
//! idempotency keys go when nobody needs them any more. One thread.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, mpsc as std_mpsc};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rusqlite::{Connection, params};
use tokio::sync::{mpsc, oneshot};

use super::StoreError;
use super::accepting::forget_idempotency;
use super::embedded::{Options, Shared};
use super::faults::{Faults, Point};
use super::history::{self, Copied};
use super::reading::Readers;
use super::writer::Job;

/// Events moved in one transaction.
const MOVED_AT_ONCE: usize = 1000;

/// How far the clock may have gone back without the order of first attempts being given up for it.
const CLOCK_SLACK_MS: i64 = 60_000;

/// Between two moves of events, so that a busy host moves them in batches.
const MOVE_PAUSE: Duration = Duration::from_millis(10);

/// Writes to `events.db` that are committed together.
const WRITES_AT_ONCE: usize = 512;

/// A write of few rows to `events.db`.
pub(super) type EventsChange = Box<dyn FnOnce(&Connection) -> rusqlite::Result<()> + Send>;

/// Told to the thread.
pub(super) enum Wake {
    /// Events are in the outbox, and somebody waits for them.
    Move,
    Write(EventsChange, oneshot::Sender<Result<(), StoreError>>),
    Stop,
}

pub(super) struct Housekeeper {
    /// Writes `events.db`, reads the store as `store`.
    events: Connection,
    /// `None` once closing.
    jobs: Option<mpsc::Sender<Job>>,
    readers: Arc<Readers>,
    shared: Arc<Shared>,
    faults: Arc<dyn Faults>,
    /// When the newest deliveries were made due; never goes back, whatever the clock does.
    latest_due_ms: i64,
    events_every: Duration,
    sweep_every: Duration,
    retention_ms: Option<i64>,
    /// Segments whose messages are all done with, and when the last was. Done is for good, so each is counted once.
    done: HashMap<i64, i64>,
}

impl Housekeeper {
    pub(super) fn new(
        events: Connection,
        jobs: mpsc::Sender<Job>,
        readers: Arc<Readers>,
        shared: Arc<Shared>,
        faults: Arc<dyn Faults>,
        latest_due_ms: i64,
        options: &Options,
    ) -> Housekeeper {
        Housekeeper {
            events,
            jobs: Some(jobs),
            readers,
            shared,
            faults,
            latest_due_ms,
            events_every: options.events_every,
            sweep_every: options.sweep_every,
            retention_ms: options.retention.map(|time| i64::try_from(time.as_millis()).unwrap_or(i64::MAX)),
            done: HashMap::new(),
        }
    }

    /// The thread's work: until it is told to stop.
    pub(super) fn run(this: &Mutex<Housekeeper>, woken: &std_mpsc::Receiver<Wake>) {
        let lock = || this.lock().unwrap_or_else(PoisonError::into_inner);
        let (events_every, sweep_every) = {
            let keeper = lock();
            (keeper.events_every, keeper.sweep_every)
        };
        let (mut moved, mut swept) = (Instant::now(), Instant::now());
        let mut move_in = events_every;
        loop {
            let left = move_in.saturating_sub(moved.elapsed()).min(sweep_every.saturating_sub(swept.elapsed()));
            match woken.recv_timeout(left) {
                Ok(Wake::Move) => move_in = move_in.min(MOVE_PAUSE),
                Ok(Wake::Write(change, answer)) => {
                    let mut writes = vec![(change, answer)];
                    let mut stop = false;
                    while writes.len() < WRITES_AT_ONCE && !stop {
                        match woken.try_recv() {
                            Ok(Wake::Write(change, answer)) => writes.push((change, answer)),
                            Ok(Wake::Move) => move_in = move_in.min(MOVE_PAUSE),
                            Ok(Wake::Stop) => stop = true,
                            Err(_) => break,
                        }
                    }
                    lock().write(writes);
                    if stop {
                        return;
                    }
                }
                Ok(Wake::Stop) | Err(std_mpsc::RecvTimeoutError::Disconnected) => return,
                Err(std_mpsc::RecvTimeoutError::Timeout) => {}
            }
            if moved.elapsed() >= move_in {
                lock().move_events();
                (moved, move_in) = (Instant::now(), events_every);
            }
            if swept.elapsed() >= sweep_every {
                lock().sweep(Timestamp::now().as_millisecond());
                swept = Instant::now();
            }
        }
    }

    /// Does writes in one transaction and tells each whether it is durable.
    fn write(&mut self, writes: Vec<(EventsChange, oneshot::Sender<Result<(), StoreError>>)>) {
        let (changes, answers): (Vec<_>, Vec<_>) = writes.into_iter().unzip();
        let all = || -> rusqlite::Result<()> {
            let transaction = self.events.transaction()?;
            for change in changes {
                change(&transaction)?;
            }
            transaction.commit()
        };
        let result = all();
        if let Err(error) = &result {
            tracing::warn!(%error, "events.db cannot be written");
        }
        for answer in answers {
            // Whoever asked may be gone.
            let _ = answer.send(match &result {
                Ok(()) => Ok(()),
                Err(error) => Err(StoreError::Io(format!("the database of events: {error}"))),
            });
        }
    }

    /// Lets go of the writer, which ends when nobody holds on to it.
    pub(super) fn hang_up(&mut self) {
        self.jobs = None;
    }

    /// Moves events until the outbox is empty.
    pub(super) fn move_events(&mut self) {
        if !self.shared.outbox.swap(false, Ordering::AcqRel) {
            return;
        }
        let later = |keeper: &Housekeeper| keeper.shared.outbox.store(true, Ordering::Release);
        loop {
            let now_ms = Timestamp::now().as_millisecond();
            // Never back, so that events keep their order; but a clock that was far ahead for a moment must not put off
            // whatever happens after it.
            let is_ahead = self.latest_due_ms > now_ms.saturating_add(CLOCK_SLACK_MS);
            self.latest_due_ms = if is_ahead { now_ms } else { self.latest_due_ms.max(now_ms) };
            let Copied { keys, webhooks } = match history::copy_out(&mut self.events, MOVED_AT_ONCE, self.latest_due_ms)
            {
                Ok(copied) => copied,
                Err(error) => {
                    tracing::warn!(%error, "events stay in the outbox: events.db cannot be written");
                    return later(self);
                }
            };
            if keys.is_empty() {
                return;
            }
            if self.faults.at(Point::Copied).is_err() {
                return later(self);
            }
            if !webhooks.is_empty() {
                self.shared.news.lock().unwrap_or_else(PoisonError::into_inner).extend(webhooks);
                self.shared.told.notify_one();
            }
            if !self.tell(|answer| Job::Forget { keys, answer }) {
                return later(self);
            }
        }
    }

    /// Removes what is over at this time.
    pub(super) fn sweep(&mut self, now_ms: i64) {
        let (answer, _) = oneshot::channel();
        let change = Box::new(move |connection: &Connection, _: &mut _| {
            forget_idempotency(connection, now_ms).map(drop).map_err(StoreError::from)
        });
        if let Some(jobs) = &self.jobs {
            let _ = jobs.blocking_send(Job::Change { change, answer });
        }
        let Some(retention_ms) = self.retention_ms else { return };
        match self.over(now_ms - retention_ms) {
            Ok(over) => {
                for segment in over {
                    if self.tell(|answer| Job::Retire { segment: segment.cast_unsigned(), answer }) {
                        self.done.remove(&segment);
                    }
                }
            }
            Err(error) => tracing::warn!(%error, "spool segments could not be looked at"),
        }
    }

    /// Segments whose last recipient was done with before a time. The newest is still written to.
    fn over(&mut self, before_ms: i64) -> Result<Vec<i64>, StoreError> {
        let done = &mut self.done;
        self.readers.now(|connection| {
            let segments: Vec<(i64, i64)> = connection
                .prepare_cached("SELECT number, first_message FROM segment ORDER BY number")?
                .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect::<Result<_, _>>()?;
            let mut over = Vec::new();
            for pair in segments.windows(2) {
                let [(number, first), (_, behind)] = pair else { continue };
                if !done.contains_key(number)
                    && let Some(at) = all_done(connection, *first, *behind)?
                {
                    done.insert(*number, at);
                }
                if done.get(number).is_some_and(|at| *at < before_ms) {
                    over.push(*number);
                }
            }
            Ok(over)
        })
    }

    /// Has the writer do something, and waits; whether it was done.
    fn tell(&self, job: impl FnOnce(std_mpsc::Sender<()>) -> Job) -> bool {
        let Some(jobs) = &self.jobs else { return false };
        let (answer, answered) = std_mpsc::channel();
        jobs.blocking_send(job(answer)).is_ok() && answered.recv().is_ok()
    }
}

/// When the last recipient of a range of messages was done with; `None` while one is queued.
fn all_done(connection: &Connection, first: i64, behind: i64) -> rusqlite::Result<Option<i64>> {
    // The table's own order, not the due index: one range, read once.
    let mut statement =
        connection.prepare_cached("SELECT due_ms, done_ms FROM recipient WHERE message >= ?1 AND message < ?2")?;
    let mut rows = statement.query(params![first, behind])?;
    let mut latest = i64::MIN;
    while let Some(row) = rows.next()? {
        if row.get::<_, Option<i64>>(0)?.is_some() {
            return Ok(None);
        }
        latest = latest.max(row.get::<_, Option<i64>>(1)?.unwrap_or(i64::MAX));
    }
    Ok(Some(latest))
}
