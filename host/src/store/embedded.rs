//! The embedded store: opening and closing it, and the `Store` trait in terms of its parts.
//!
//! Writes go to the writer's thread, reads to a few reading connections on the blocking pool; the reactor never waits
//! for the disk.

use std::collections::{BTreeSet, HashMap};
use std::fs::{File, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, mpsc as std_mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use mail::Event;
use rusqlite::{Connection, OptionalExtension};
use tokio::sync::{Notify, Semaphore, mpsc, oneshot};
use uuid::Uuid;

use super::accepting::{self, Counters, Prepared};
use super::checkpointing::Checkpointer;
use super::directory::KeyCache;
use super::domain_cache::DomainCache;
use super::faults::{Faults, NoFaults};
use super::fresh::Fresh;
use super::housekeeping::{EventsChange, Housekeeper, Wake};
use super::lease::{self, Leases, place};
use super::private;
use super::reading::{Readers, tenant_key};
use super::schema::{self, Layout, OpenError};
use super::segment::{self, BodyError, Place, Spool};
use super::space::Space;
use super::writer::{Job, Writer};
use super::{
    Accepted, ApiKey, Backup, BodyRef, Completion, DeliveryToken, EventRecord, Idempotency, Leased, MessageView,
    NewMessage, OperatorKey, Page, QueueChange, QueueFilter, QueuedRecipient, Rest, Store, StoreError, Tended, backup,
    deliveries, tending, webhook_rows,
};
use crate::metrics::metrics;

/// Jobs that may wait for the writer; whoever comes later waits to hand in.
const WAITING_JOBS: usize = 1024;
/// How long a job may wait to be handed in, when so many wait before it; and mail for its answer before no more is taken.
const HAND_IN: Duration = Duration::from_secs(10);
const TOO_SLOW: &str = "the disk is too slow for what is to be written";

/// Lists of a tenant's events that are read at once.
const LISTS: usize = 2;

/// How the store keeps things. None of it changes what is on disk already.
#[derive(Clone, Debug)]
pub struct Options {
    /// Size of a spool segment; it may be exceeded by one group of messages.
    pub segment_bytes: u64,
    /// How long bodies stay readable after the last recipient is done with; `None`: for good. A body may stay longer,
    /// because a segment goes as a whole.
    pub retention: Option<Duration>,
    /// How long a message and its events stay after the same moment; `None`: for good. Not shorter than `retention`.
    pub keep_messages: Option<Duration>,
    /// Free disk space below which nothing is accepted, so that what was accepted can still be delivered.
    pub reserve_bytes: u64,
    /// Bytes of bodies that were stored just now and are kept in memory too, for their first delivery.
    pub fresh_bytes: usize,
    /// How often events move to their own database: in many small steps, for whoever submits mail waits for the processor
    /// behind each.
    pub events_every: Duration,
    /// How often segments and idempotency keys are looked at.
    pub sweep_every: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            segment_bytes: 64 * 1024 * 1024,
            retention: Some(Duration::from_secs(24 * 60 * 60)),
            keep_messages: Some(Duration::from_secs(30 * 24 * 60 * 60)),
            reserve_bytes: 256 * 1024 * 1024,
            fresh_bytes: 16 * 1024 * 1024,
            events_every: Duration::from_millis(50),
            sweep_every: Duration::from_secs(60),
        }
    }
}

/// What the writer's thread shares with everybody else.
pub(super) struct Shared {
    pub(super) layout: Layout,
    /// Why nothing is written any more.
    pub(super) poisoned: OnceLock<String>,
    pub(super) fresh: Fresh,
    pub(super) queued: AtomicU64,
    /// Rows written since the start, about.
    pub(super) rows: AtomicU64,
    /// Rows and bodies that could not be read and were set aside, since the start.
    pub(super) damaged: AtomicU64,
    /// Changes since the start to anything but mail and events, as far as somebody was told that they were made.
    pub(super) changes: AtomicU64,
    /// The segment that bodies are appended to: those before it are closed for good.
    pub(super) segment: AtomicU64,
    /// Whether the newest commit was left unsynced.
    pub(super) unsynced: AtomicBool,
    /// Whether the disk had less than its reserve when it was looked at last.
    pub(super) full: AtomicBool,
    /// Whether somebody has waited for `HAND_IN` and no group has ended since.
    pub(super) lagging: AtomicBool,
    /// Held by whoever needs that no segment goes.
    pub(super) segments_stay: Mutex<()>,
    /// When the next recipient is due that no lease has seen.
    pub(super) next_due_ms: AtomicI64,
    pub(super) due: Notify,
    /// Whether the outbox may hold events.
    pub(super) outbox: AtomicBool,
    /// Whether events are moved as soon as they are recorded, because there are webhooks.
    pub(super) prompt: AtomicBool,
    /// Webhooks that may have something due since somebody asked, and a bell for whoever asks.
    pub(super) news: Mutex<BTreeSet<i64>>,
    pub(super) told: Notify,
    pub(super) wake: std_mpsc::Sender<Wake>,
}

impl Shared {
    /// Counts rows or bodies that could not be read.
    pub(super) fn set_aside(&self, count: u64) {
        if count > 0 {
            self.damaged.fetch_add(count, Ordering::Relaxed);
            metrics().damaged(count);
        }
    }

    /// Somebody has waited for too long: no other is taken before the writer has ended a group.
    fn lags(&self) {
        if !self.lagging.swap(true, Ordering::AcqRel) {
            tracing::error!(seconds = HAND_IN.as_secs(), "the disk does not keep up: new mail is told to come later");
        }
    }

    pub(super) fn keeps_up(&self) {
        if self.lagging.load(Ordering::Acquire) && self.lagging.swap(false, Ordering::AcqRel) {
            tracing::info!("the disk keeps up: new mail is taken again");
        }
    }

    /// Has nothing be written any more.
    pub(super) fn poison(&self, text: &str) {
        if self.poisoned.set(text.to_owned()).is_ok() {
            tracing::error!(error = %text, "storage failed: nothing is accepted until the host is restarted");
        }
    }
}

/// The store of one host, in one folder.
pub struct Embedded {
    pub(super) shared: Arc<Shared>,
    /// `None` only while closing.
    jobs: Option<mpsc::Sender<Job>>,
    pub(super) readers: Arc<Readers>,
    pub(super) lists: Semaphore,
    pub(super) key_cache: KeyCache<ApiKey>,
    pub(super) domain_cache: DomainCache,
    pub(super) delivery_tokens: KeyCache<DeliveryToken>,
    pub(super) operator_keys: KeyCache<OperatorKey>,
    /// When keys were used that is not written down yet, by id: live ones alone, so it is bounded.
    pub(super) key_uses: Mutex<HashMap<String, i64>>,
    housekeeper: Arc<Mutex<Housekeeper>>,
    wake: std_mpsc::Sender<Wake>,
    /// Moves pages until this is gone.
    checkpoints: Option<std_mpsc::Sender<()>>,
    threads: Vec<JoinHandle<()>>,
    /// Held as long as this lives; the system lets go of it when the process dies.
    _lock: File,
}

impl Embedded {
    /// Opens the store in a data folder, which is created where it lacks and closed to other users.
    ///
    /// Fails where another process has it open, where a database is newer than this program, and where the disk does.
    pub fn open(folder: &Path, options: Options) -> Result<Arc<Embedded>, OpenError> {
        Embedded::open_with(folder, options, Arc::new(NoFaults))
    }

    /// `open` with faults played at the points of each group.
    pub fn open_with(folder: &Path, options: Options, faults: Arc<dyn Faults>) -> Result<Arc<Embedded>, OpenError> {
        let io = |path: &Path| {
            let path = path.display().to_string();
            move |source| OpenError::Io { path, source }
        };
        private::folder(folder).map_err(io(folder))?;
        let layout = Layout::new(folder);
        let lock = lock(folder, &layout)?;
        let main = schema::open_for_writing(&layout.main, schema::MAIN)?;
        let events = schema::open_for_writing(&layout.events, schema::EVENTS)?;
        let database = |source| OpenError::Database { path: layout.main.display().to_string(), source };
        events.execute("ATTACH DATABASE ?1 AS store", [layout.main.to_string_lossy()]).map_err(database)?;

        schema::leave_checkpoints(&main).map_err(database)?;
        let found = Found::read(&main, &events).map_err(database)?;
        let (lanes, queued) = lease::queued(&main).map_err(database)?;
        let spool = Spool::open(&layout.spool, options.segment_bytes, found.last, &found.segments)
            .map_err(io(&layout.spool))?;
        let (wake, woken) = std_mpsc::channel();
        let shared = Arc::new(Shared {
            layout: layout.clone(),
            poisoned: OnceLock::new(),
            fresh: Fresh::new(options.fresh_bytes),
            queued: AtomicU64::new(queued),
            rows: AtomicU64::new(0),
            damaged: AtomicU64::new(0),
            lagging: AtomicBool::new(false),
            changes: AtomicU64::new(0),
            segment: AtomicU64::new(spool.number()),
            unsynced: AtomicBool::new(false),
            full: AtomicBool::new(false),
            segments_stay: Mutex::default(),
            next_due_ms: AtomicI64::new(i64::MIN),
            due: Notify::new(),
            outbox: AtomicBool::new(true),
            prompt: AtomicBool::new(found.prompt),
            news: Mutex::default(),
            told: Notify::new(),
            wake: wake.clone(),
        });
        let writer = Writer {
            connection: main,
            spool,
            counters: Counters { message: found.message, seq: found.seq, tenants: HashMap::new(), segment: None },
            shared: shared.clone(),
            faults: faults.clone(),
            space: Space::new(options.reserve_bytes),
            leases: Leases::new(lanes),
            syncs: true,
            unsynced_since: None,
        };
        let readers = Arc::new(Readers::new(layout.clone()));
        let (jobs, waiting) = mpsc::channel(WAITING_JOBS);
        let housekeeper = Arc::new(Mutex::new(Housekeeper::new(
            events,
            jobs.clone(),
            readers.clone(),
            shared.clone(),
            faults.clone(),
            found.latest_due_ms,
            &options,
        )));
        let keeper = housekeeper.clone();
        let checkpointer = Checkpointer::new(jobs.clone(), shared.clone(), faults)?;
        let (checkpoints, stopped) = std_mpsc::channel();
        let threads = vec![
            spawn("store-keeper", move || Housekeeper::run(&keeper, &woken)).map_err(io(folder))?,
            spawn("store-pages", move || checkpointer.run(&stopped)).map_err(io(folder))?,
            spawn("store-writer", move || writer.run(waiting)).map_err(io(folder))?,
        ];
        Ok(Arc::new(Embedded {
            shared,
            jobs: Some(jobs),
            readers,
            lists: Semaphore::new(LISTS),
            key_cache: KeyCache::default(),
            domain_cache: DomainCache::default(),
            delivery_tokens: KeyCache::default(),
            operator_keys: KeyCache::default(),
            key_uses: Mutex::default(),
            housekeeper,
            wake,
            checkpoints: Some(checkpoints),
            threads,
            _lock: lock,
        }))
    }

    /// Moves all events out of the outbox now, rather than at the next interval.
    pub async fn move_events(&self) {
        self.keep_house(Housekeeper::move_events).await;
    }

    /// Removes idempotency keys that are over and segments that nobody needs at this time.
    pub async fn sweep(&self, now: Timestamp) {
        self.keep_house(move |keeper| keeper.sweep(now.as_millisecond())).await;
    }

    async fn keep_house(&self, work: impl FnOnce(&mut Housekeeper) + Send + 'static) {
        let keeper = self.housekeeper.clone();
        let done = tokio::task::spawn_blocking(move || {
            work(&mut keeper.lock().unwrap_or_else(PoisonError::into_inner));
        });
        if done.await.is_err() {
            tracing::error!("housekeeping in the store panicked");
        }
    }

    /// Whether something is written at all; the text says why not.
    pub fn failure(&self) -> Option<&str> {
        self.shared.poisoned.get().map(String::as_str)
    }

    /// Rows and bodies that could not be read and were set aside, since the start.
    pub fn damaged(&self) -> u64 {
        self.shared.damaged.load(Ordering::Relaxed)
    }

    /// Whether mail is refused because the disk has less than its reserve.
    pub fn is_full(&self) -> bool {
        self.shared.full.load(Ordering::Relaxed)
    }

    /// Changes `events.db`, durably.
    pub(super) async fn write_events(&self, change: EventsChange) -> Result<(), StoreError> {
        let stopped = || StoreError::Io("the store is closed".to_owned());
        let (answer, answered) = oneshot::channel();
        self.wake.send(Wake::Write(change, answer)).map_err(|_| stopped())?;
        answered.await.map_err(|_| stopped())?
    }

    /// Why no mail is taken, if none is.
    pub fn obstacle(&self) -> Option<String> {
        let lags = self.shared.lagging.load(Ordering::Acquire);
        let failure = self.failure().map(|why| format!("the store takes nothing: {why}"));
        failure.or_else(|| lags.then(|| TOO_SLOW.to_owned()))
    }

    /// Hands messages to the writer. Behind one that has waited for too long no more are handed in.
    async fn store(&self, messages: Vec<Prepared>) -> Result<Vec<Result<Accepted, StoreError>>, StoreError> {
        if self.shared.lagging.load(Ordering::Acquire) {
            return Err(StoreError::Io(TOO_SLOW.to_owned()));
        }
        let mut answer = std::pin::pin!(self.ask(|answer| Job::Accept { messages, answer }));
        match tokio::time::timeout(HAND_IN, &mut answer).await {
            Ok(answer) => answer,
            Err(_) => {
                self.shared.lags();
                let answer = answer.await;
                // It may have been on its way already, and nobody else would say so.
                self.shared.keeps_up();
                answer
            }
        }
    }

    /// Hands a job to the writer and waits for its answer.
    pub(super) async fn ask<T>(&self, job: impl FnOnce(oneshot::Sender<T>) -> Job) -> Result<T, StoreError> {
        let stopped = || StoreError::Io("the store is closed".to_owned());
        let (answer, answered) = oneshot::channel();
        let jobs = self.jobs.as_ref().ok_or_else(stopped)?;
        // Refused before it is handed in, so that the answer is true.
        let slow = |_| StoreError::Io(TOO_SLOW.to_owned());
        let place = tokio::time::timeout(HAND_IN, jobs.reserve()).await.map_err(slow)?.map_err(|_| stopped())?;
        place.send(job(answer));
        answered.await.map_err(|_| stopped())
    }
}

impl Drop for Embedded {
    /// Waits until what was handed in is done; then the folder is free for another.
    fn drop(&mut self) {
        let _ = self.wake.send(Wake::Stop);
        self.checkpoints = None;
        self.jobs = None;
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the store panicked");
            }
            // The housekeeper is first: only when it is gone, with its way to the writer, does the writer end.
            self.housekeeper.lock().unwrap_or_else(PoisonError::into_inner).hang_up();
        }
    }
}

#[async_trait]
impl Store for Embedded {
    async fn is_replay(&self, tenant: &str, idempotency: &Idempotency, now: Timestamp) -> Result<bool, StoreError> {
        let (tenant, idempotency) = (tenant.to_owned(), idempotency.clone());
        self.readers
            .read(move |connection| match tenant_key(connection, &tenant)? {
                Some(tenant) => Ok(accepting::is_known(connection, tenant, &idempotency, now)?),
                None => Ok(false),
            })
            .await
    }

    async fn accept(&self, batch: Vec<NewMessage>) -> Vec<Result<Accepted, StoreError>> {
        let count = batch.len();
        let mut messages = Vec::with_capacity(count);
        let mut refused = Vec::new();
        for (index, message) in batch.into_iter().enumerate() {
            match Prepared::new(message) {
                Ok(message) => messages.push(message),
                Err(error) => refused.push((index, error)),
            }
        }
        let failed = messages.len();
        let mut answers = match self.store(messages).await {
            Ok(answers) => answers,
            Err(error) => (0..failed).map(|_| Err(StoreError::Io(error.to_string()))).collect(),
        };
        for (index, error) in refused {
            answers.insert(index, Err(error));
        }
        answers
    }

    async fn reschedule(&self, tenant: &str, message: Uuid, to: Timestamp) -> Result<(), StoreError> {
        let tenant = tenant.to_owned();
        self.ask(|answer| Job::Reschedule { tenant, message, to, answer }).await?
    }

    async fn cancel(&self, tenant: &str, message: Uuid, at: Timestamp) -> Result<(), StoreError> {
        let tenant = tenant.to_owned();
        self.ask(|answer| Job::Cancel { tenant, message, at, answer }).await?
    }

    async fn lease(&self, now: Timestamp, limit: usize) -> Result<Vec<Leased>, StoreError> {
        self.ask(|answer| Job::Lease { now, limit, answer }).await?
    }

    async fn rest(&self, rests: Vec<Rest>, now: Timestamp) -> Result<(), StoreError> {
        self.ask(|answer| Job::Rest { rests, now, answer }).await?
    }

    async fn wait_due(&self, now: Timestamp) {
        let news = self.shared.due.notified();
        let wait_ms = self.shared.next_due_ms.load(Ordering::Acquire).saturating_sub(now.as_millisecond());
        match u64::try_from(wait_ms) {
            Err(_) | Ok(0) => {}
            Ok(wait_ms) => {
                // A timeout is as good as news: both say to look.
                let _ = tokio::time::timeout(Duration::from_millis(wait_ms), news).await;
            }
        }
    }

    async fn complete(&self, batch: Vec<Completion>) -> Result<(), StoreError> {
        self.ask(|answer| Job::Complete { batch, answer }).await?
    }

    async fn body(&self, body: &BodyRef) -> Result<Bytes, StoreError> {
        let fresh = body.0.parse().ok().and_then(|place| self.shared.fresh.take(place));
        match fresh {
            Some(body) => Ok(body),
            None => self.body_head(body, u32::MAX).await,
        }
    }

    async fn body_head(&self, body: &BodyRef, octets: u32) -> Result<Bytes, StoreError> {
        let read = |error: BodyError| match error {
            BodyError::Unreadable(_) | BodyError::Gone(_) => StoreError::NotFound(error.to_string()),
            BodyError::Damaged { .. } => {
                tracing::error!(%error, "a stored message is damaged and is set aside");
                StoreError::NotFound(error.to_string())
            }
            BodyError::Io { .. } => StoreError::Io(error.to_string()),
        };
        let place: Place = body.0.parse().map_err(read)?;
        let shared = self.shared.clone();
        let counting = self.shared.clone();
        let read = move |error: BodyError| {
            if matches!(error, BodyError::Damaged { .. } | BodyError::Gone(_)) {
                counting.set_aside(1);
            }
            read(error)
        };
        let work = move || segment::read_head(&shared.layout.spool, place, octets).map(Bytes::from).map_err(read);
        self.readers.blocking(work).await
    }

    async fn message(&self, tenant: &str, id: Uuid) -> Result<MessageView, StoreError> {
        self.readers.message(tenant.to_owned(), id).await
    }

    async fn messages(
        &self,
        tenant: &str,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Page<MessageView>, StoreError> {
        self.readers.messages(tenant.to_owned(), cursor.map(str::to_owned), limit).await
    }

    async fn events(
        &self,
        tenant: &str,
        message: Uuid,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Page<EventRecord>, StoreError> {
        self.readers.events(tenant.to_owned(), message, cursor.map(str::to_owned), limit).await
    }

    async fn record(&self, message: Uuid, events: Vec<Event>, at: Timestamp) -> Result<(), StoreError> {
        self.ask(|answer| Job::Record { message, events, at, answer }).await?
    }

    async fn queue(
        &self,
        filter: &QueueFilter,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Page<QueuedRecipient>, StoreError> {
        let (filter, cursor) = (filter.clone(), cursor.map(str::to_owned));
        self.readers.read(move |connection| tending::page(connection, &filter, cursor.as_deref(), limit)).await
    }

    async fn tend(
        &self,
        filter: &QueueFilter,
        change: QueueChange,
        cursor: Option<&str>,
        at: Timestamp,
    ) -> Result<Tended, StoreError> {
        let (filter, cursor) = (filter.clone(), cursor.map(str::to_owned));
        self.ask(|answer| Job::Tend { filter, change, cursor, at, answer }).await?
    }

    async fn backup(&self, to: &Path) -> Result<Backup, StoreError> {
        backup::make(&self.shared, to).await
    }

    async fn queued(&self) -> Result<u64, StoreError> {
        Ok(self.shared.queued.load(Ordering::Relaxed))
    }
}

/// What the databases say when they are opened.
struct Found {
    message: i64,
    seq: i64,
    last: Option<Place>,
    segments: Vec<u64>,
    prompt: bool,
    latest_due_ms: i64,
}

impl Found {
    fn read(main: &Connection, events: &Connection) -> rusqlite::Result<Found> {
        let number = |connection: &Connection, sql| connection.query_row(sql, [], |row| row.get::<_, i64>(0));
        // Positions grow with keys, but for bodies that moved: the last frame is that of the newest, or of one of these.
        let last_of = |sql| main.query_row(sql, [], |row| Ok((row.get::<_, i64>(0)?, place(row, 1)?))).optional();
        let noted = number(main, "SELECT coalesce(max(first_message), 1) - 1 FROM segment")?;
        let newest = last_of("SELECT key, segment, position, size FROM message ORDER BY key DESC LIMIT 1")?;
        let moved = last_of(
            "SELECT m.key, m.segment, m.position, m.size FROM moved v JOIN message m ON m.key = v.message
             WHERE v.segment = (SELECT max(number) FROM segment) ORDER BY m.position DESC LIMIT 1",
        )?;
        let places = newest.iter().chain(&moved).map(|(_, place)| *place);
        let last = places.max_by_key(|place| (place.segment, place.position));
        let segments = main
            .prepare("SELECT number FROM segment")?
            .query_map([], |row| row.get::<_, i64>(0).map(i64::cast_unsigned))?
            .collect::<Result<_, _>>()?;
        Ok(Found {
            // A group that failed may have left a gap below what a segment begins with.
            message: newest.map_or(0, |(key, _)| key).max(noted),
            seq: number(main, "SELECT coalesce(max(seq), 0) FROM outbox")?
                .max(number(events, "SELECT seq FROM progress")?),
            last,
            segments,
            prompt: webhook_rows::any_enabled(main)?,
            latest_due_ms: deliveries::latest_due(events)?,
        })
    }
}

fn lock(folder: &Path, layout: &Layout) -> Result<File, OpenError> {
    let io = |source| OpenError::Io { path: layout.lock.display().to_string(), source };
    let mut file = private::file(&layout.lock).map_err(io)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            // The holder may be about to write it.
            if file.read_to_string(&mut pid).is_err() || pid.trim().is_empty() {
                pid = "unknown".to_owned();
            }
            return Err(OpenError::Locked { folder: folder.display().to_string(), pid: pid.trim().to_owned() });
        }
        Err(TryLockError::Error(source)) => return Err(io(source)),
    }
    file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(io)?;
    Ok(file)
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(work)
}
