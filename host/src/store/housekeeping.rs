//! What is done behind the writer's back: events move out of the outbox, `events.db` is written, and what nobody needs
//! any more goes (see `retention`). One thread.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, mpsc as std_mpsc};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::StoreError;
use super::accepting::forget_idempotency;
use super::deliveries;
use super::embedded::{Options, Shared};
use super::faults::{Faults, Point};
use super::history::{self, Copied};
use super::reading::Readers;
use super::retention::{self, Ended, FORGET_STEPS, LOOKED_THROUGH, Live, MOVED_BYTES, MovedBody, Range};
use super::segment;
use super::writer::Job;

/// Events moved in one transaction.
const MOVED_AT_ONCE: usize = 500;

/// How far the clock may have gone back without the order of first attempts being given up for it.
const CLOCK_SLACK_MS: i64 = 60_000;

/// Between two moves of events, so that a busy host moves them in batches.
const MOVE_PAUSE: Duration = Duration::from_millis(10);

/// Writes to `events.db` that are committed together.
const WRITES_AT_ONCE: usize = 512;

/// Messages of a segment whose header is kept for webhooks when it goes.
const HEADS_KEPT: usize = 10_000;

/// How often the disk is swept while space is scarce.
const SWEEP_SCARCE: Duration = Duration::from_secs(5);

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
    keep_messages_ms: Option<i64>,
    segment_bytes: u64,
    reserve_bytes: u64,
    ended: Ended,
    /// The segment that was looked through last for what keeps it.
    looked_through: i64,
    /// The message up to which was looked for what is over.
    forgotten: i64,
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
            retention_ms: options.retention.map(milliseconds),
            keep_messages_ms: options.keep_messages.map(milliseconds),
            segment_bytes: options.segment_bytes,
            reserve_bytes: options.reserve_bytes,
            ended: Ended::default(),
            looked_through: 0,
            forgotten: 0,
        }
    }

    /// The thread's work: until it is told to stop.
    pub(super) fn run(this: &Mutex<Housekeeper>, woken: &std_mpsc::Receiver<Wake>) {
        Housekeeper::keep(this, woken);
        let keeper = this.lock().unwrap_or_else(PoisonError::into_inner);
        if keeper.shared.poisoned.get().is_none() {
            // Leaves a small WAL behind; whatever comes of it, all is committed.
            let _ = keeper.events.query_row("PRAGMA main.wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
        }
    }

    fn keep(this: &Mutex<Housekeeper>, woken: &std_mpsc::Receiver<Wake>) {
        let lock = || this.lock().unwrap_or_else(PoisonError::into_inner);
        let events_every = lock().events_every;
        let (mut moved, mut swept) = (Instant::now(), Instant::now());
        let mut move_in = events_every;
        loop {
            let sweep_every = lock().sweep_every();
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

    /// Moves the events that are in the outbox now.
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
            let Copied { stretches, webhooks } =
                match history::copy_out(&mut self.events, MOVED_AT_ONCE, self.latest_due_ms) {
                    Ok(copied) => copied,
                    Err(error) => {
                        tracing::warn!(%error, "events stay in the outbox: events.db cannot be written");
                        return later(self);
                    }
                };
            if stretches.is_empty() {
                return;
            }
            let copied: usize = stretches.iter().map(|stretch| stretch.count).sum();
            if self.faults.at(Point::Copied).is_err() {
                return later(self);
            }
            if !webhooks.is_empty() {
                self.shared.news.lock().unwrap_or_else(PoisonError::into_inner).extend(webhooks);
                self.shared.told.notify_one();
            }
            for stretch in stretches {
                if !self.tell(|answer| Job::Forget { stretch, answer }) {
                    return later(self);
                }
            }
            // What was recorded meanwhile has its turn: else a busy host would be moved event by event.
            if copied < MOVED_AT_ONCE {
                return;
            }
        }
    }

    /// How often is swept: at once, nearly, where space is scarce.
    fn sweep_every(&self) -> Duration {
        if self.is_scarce() { self.sweep_every.min(SWEEP_SCARCE) } else { self.sweep_every }
    }

    /// Whether the disk has less than twice its reserve: what is only kept makes room before mail has to be refused.
    fn is_scarce(&self) -> bool {
        let free = self.faults.free_bytes(&self.shared.layout.spool);
        free.is_some_and(|bytes| bytes < self.reserve_bytes.saturating_mul(2))
    }

    /// Removes what is over at this time.
    pub(super) fn sweep(&mut self, now_ms: i64) {
        // A backup copies segments: none goes meanwhile.
        let shared = self.shared.clone();
        if let Ok(_guard) = shared.segments_stay.try_lock()
            && let Err(error) = self.free_segments(now_ms)
        {
            tracing::warn!(%error, "spool segments could not be looked at");
        }
        if let Err(error) = self.forget_messages(now_ms) {
            tracing::warn!(%error, "messages whose time is over could not be removed");
        }
        let (answer, answered) = oneshot::channel();
        let change = Box::new(move |connection: &Connection, _: &mut _| {
            forget_idempotency(connection, now_ms).map(drop).map_err(StoreError::from)
        });
        if let Some(jobs) = &self.jobs {
            // Where that fails, the next sweep does it.
            let _ = jobs.blocking_send(Job::Change { change, answer }).map(|()| answered.blocking_recv());
        }
    }

    /// Gives up segments that nobody needs, and moves what keeps the others for no good reason.
    fn free_segments(&mut self, now_ms: i64) -> Result<(), StoreError> {
        let Some(retention_ms) = self.retention_ms else { return Ok(()) };
        // Where space lacks, bodies are kept for those who wait for them alone; where it is scarce, the oldest others go.
        let before_ms = if self.shared.full.load(Ordering::Relaxed) { i64::MAX } else { now_ms - retention_ms };
        let mut spared = if self.is_scarce() { 1 + self.reserve_bytes / self.segment_bytes.max(1) } else { 0 };
        let ended = &mut self.ended;
        // Asked before the rows: what was appended to those before it is there for certain.
        let open = self.shared.segment.load(Ordering::Acquire);
        let (over, pinned) = self.readers.now(|connection| {
            let (mut over, mut pinned) = (Vec::new(), Vec::new());
            for range in retention::segments(connection, open)? {
                match ended.at(connection, range)? {
                    Some(at) if at < before_ms => over.push(range.0),
                    Some(_) if spared > 0 => {
                        spared -= 1;
                        over.push(range.0);
                    }
                    Some(_) => {}
                    None => pinned.push(range),
                }
            }
            Ok((over, pinned))
        })?;
        if !over.is_empty() && self.shared.prompt.load(Ordering::Acquire) {
            // What webhooks are to be told of bodies that go must be known.
            self.move_events();
        }
        for segment in over {
            if let Err(error) = self.keep_heads(segment) {
                tracing::warn!(%error, segment, "what webhooks are to be told of messages could not be kept");
                // The next sweep does both, unless space lacks.
                if !self.shared.full.load(Ordering::Relaxed) {
                    continue;
                }
            }
            if self.tell(|answer| Job::Retire { segment: segment.cast_unsigned(), answer }) {
                self.ended.forget(segment);
            }
        }
        // In turn, a few in each sweep.
        let behind = pinned.iter().filter(|range| range.0 > self.looked_through);
        let ranges: Vec<Range> = behind.chain(&pinned).take(LOOKED_THROUGH.min(pinned.len())).copied().collect();
        for range in ranges {
            self.looked_through = range.0;
            let segment_bytes = self.segment_bytes;
            let live =
                self.readers.now(|connection| Ok(retention::live(connection, range, before_ms, segment_bytes)?))?;
            self.move_bodies(range.0, live.unwrap_or_default());
        }
        Ok(())
    }

    /// Webhooks that were down for as long as bodies are kept are told From, To and Subject all the same.
    fn keep_heads(&mut self, segment: i64) -> Result<(), StoreError> {
        let mut after = None;
        loop {
            let untold =
                self.readers.now(|connection| Ok(deliveries::untold(connection, segment, after, HEADS_KEPT)?))?;
            let Some((last, _)) = untold.last() else { return Ok(()) };
            after = Some(*last);
            deliveries::keep_heads(&mut self.events, &self.shared.layout.spool, &untold)?;
        }
    }

    /// Has bodies written anew, to the newest segment. What cannot be read stays where it is.
    fn move_bodies(&self, from: i64, live: Vec<Live>) {
        let (mut bodies, mut octets) = (Vec::new(), 0);
        let count = live.len();
        for (index, message) in live.iter().enumerate() {
            match segment::read(&self.shared.layout.spool, message.place) {
                Ok(body) => {
                    octets += body.len() as u64;
                    bodies.push(MovedBody::new(message, body));
                }
                Err(error) => tracing::error!(id = %message.id, %error, "a stored message cannot be moved"),
            }
            if octets >= MOVED_BYTES || index + 1 == count {
                (octets, _) = (0, self.tell(|answer| Job::Move { from, bodies: std::mem::take(&mut bodies), answer }));
            }
        }
    }

    /// Removes messages that were over long ago, with their events.
    fn forget_messages(&mut self, now_ms: i64) -> Result<(), StoreError> {
        let Some(keep_ms) = self.keep_messages_ms else { return Ok(()) };
        retention::forget_tenant_events(&self.events, now_ms - keep_ms)?;
        let Some(keep) = retention::to_be_told(&self.events)? else { return Ok(()) };
        for _ in 0..FORGET_STEPS {
            let after = self.forgotten;
            let (over, next) =
                self.readers.now(|connection| retention::over(connection, after, now_ms - keep_ms, &keep))?;
            self.forgotten = next.unwrap_or(0);
            if !over.is_empty() {
                retention::forget_events(&mut self.events, &over)?;
                if !self.tell(|answer| Job::ForgetMessages { keys: over, answer }) {
                    break;
                }
            }
            if next.is_none() {
                break;
            }
        }
        Ok(())
    }

    /// Has the writer do something, and waits; whether it was done.
    fn tell(&self, job: impl FnOnce(std_mpsc::Sender<()>) -> Job) -> bool {
        let Some(jobs) = &self.jobs else { return false };
        let (answer, answered) = std_mpsc::channel();
        jobs.blocking_send(job(answer)).is_ok() && answered.recv().is_ok()
    }
}

fn milliseconds(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}
