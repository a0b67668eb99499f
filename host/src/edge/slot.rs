//! One component file: compiled, on its way, or on the disk until somebody needs it.
//!
//! Those of this binary and of the configuration are compiled at start and stay. Pushed ones are loaded when they are
//! first called and given up when they were unused for longest; the engine's cache on disk makes the next load short.
//! Whoever holds what was compiled keeps it alive, so a call under way never sees its component go.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, watch};
use wasmtime::Engine;

use super::component::{self, Compiled, Linkers, Stage};
use crate::store::ComponentStore;

/// A component that could not be loaded is tried again after this.
const RETRY: Duration = Duration::from_secs(10);

/// Pushed components unused for longer are given up.
const IDLE: Duration = Duration::from_secs(600);

/// Digits of a digest that tell components apart in logs and revisions.
const DIGITS: usize = 12;

/// Where a component stands.
#[derive(Clone)]
enum State {
    /// On the disk.
    Stored,
    Compiling,
    Ready(Arc<Compiled>),
    /// Why it is not ready, and since when.
    Failed(Arc<str>, Instant),
}

/// One component, whoever uses it.
pub struct Slot {
    /// No two have the same.
    pub id: u64,
    /// `built-in validator`, the file's path, or `pushed validator`.
    pub name: String,
    /// The first digits of the file's SHA-256, for the log.
    pub digest: String,
    state: watch::Sender<State>,
    /// Of a pushed component: what it is and where its file lies.
    stored: Option<(Stage, String)>,
    /// Bytes of machine code.
    image_bytes: AtomicUsize,
    /// Milliseconds of `START`.
    used_ms: AtomicU64,
}

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

fn now_ms() -> u64 {
    ms_of(Instant::now())
}

fn ms_of(moment: Instant) -> u64 {
    u64::try_from(moment.saturating_duration_since(*START).as_millis()).unwrap_or(u64::MAX)
}

impl Slot {
    fn new(name: String, digest: &str, stored: Option<(Stage, String)>, state: State) -> Arc<Slot> {
        static IDS: AtomicU64 = AtomicU64::new(0);
        Arc::new(Slot {
            id: IDS.fetch_add(1, Ordering::Relaxed),
            name,
            digest: digest.chars().take(DIGITS).collect(),
            state: watch::Sender::new(state),
            stored,
            image_bytes: AtomicUsize::new(0),
            used_ms: AtomicU64::new(now_ms()),
        })
    }

    /// One that is about to be compiled, by whoever calls `finish`.
    pub fn compiling(name: String, digest: &str) -> Arc<Slot> {
        Slot::new(name, digest, None, State::Compiling)
    }

    /// One that will never be there.
    pub fn missing(name: &str, why: &str) -> Arc<Slot> {
        Slot::new(name.to_owned(), "none", None, State::Failed(why.into(), Instant::now()))
    }

    /// A pushed one, to be loaded when it is needed.
    pub fn stored(stage: Stage, digest: &str) -> Arc<Slot> {
        Slot::new(format!("pushed {stage}"), digest, Some((stage, digest.to_owned())), State::Stored)
    }

    /// Says what became of compiling it.
    pub fn finish(&self, compiled: wasmtime::Result<Compiled>) {
        self.state.send_replace(match compiled {
            Ok(compiled) => {
                tracing::debug!(component = self.name, digest = self.digest, "compiled");
                self.image_bytes.store(compiled.image_bytes(), Ordering::Relaxed);
                State::Ready(Arc::new(compiled))
            }
            Err(error) => {
                let why = format!("{error:#}");
                tracing::error!(component = self.name, digest = self.digest, error = why, "cannot be compiled");
                State::Failed(why.into(), Instant::now())
            }
        });
    }

    /// Waits until it is compiled, and loads it where nobody does yet. The error says why it cannot be.
    pub async fn ready(self: &Arc<Self>, loader: &Arc<Loader>) -> Result<Arc<Compiled>, Arc<str>> {
        if let State::Ready(compiled) = &*self.state.borrow() {
            self.used_ms.store(now_ms(), Ordering::Relaxed);
            return Ok(compiled.clone());
        }
        let mut state = self.state.subscribe();
        if self.stored.is_some() && self.state.send_if_modified(State::begin) {
            tokio::spawn(loader.clone().load(self.clone()));
        }
        let settled = state.wait_for(|state| matches!(state, State::Ready(_) | State::Failed(..))).await;
        match settled.as_deref() {
            Ok(State::Ready(compiled)) => Ok(compiled.clone()),
            Ok(State::Failed(why, _)) => Err(why.clone()),
            // The sender is in `self`, so the wait cannot end otherwise.
            Ok(State::Compiling | State::Stored) | Err(_) => Err("it is not compiled yet".into()),
        }
    }

    /// Why it is not ready, where it is not.
    pub fn obstacle(&self) -> Option<String> {
        match &*self.state.borrow() {
            State::Ready(_) | State::Stored => None,
            State::Compiling => Some(format!("{} is still being compiled", self.name)),
            State::Failed(why, _) => Some(format!("{} cannot be used: {why}", self.name)),
        }
    }

    /// Whether its machine code is in memory.
    pub fn is_loaded(&self) -> bool {
        matches!(&*self.state.borrow(), State::Ready(_))
    }

    /// Whether it was pushed, so that it can be loaded again.
    pub fn is_stored(&self) -> bool {
        self.stored.is_some()
    }

    fn give_up(&self) {
        self.state.send_if_modified(|state| {
            let is_ready = matches!(state, State::Ready(_));
            if is_ready {
                *state = State::Stored;
            }
            is_ready
        });
    }
}

impl State {
    /// Takes the work of loading on, where nobody has.
    fn begin(state: &mut State) -> bool {
        let is_free = match state {
            State::Stored => true,
            State::Failed(_, since) => since.elapsed() > RETRY,
            State::Compiling | State::Ready(_) => false,
        };
        if is_free {
            *state = State::Compiling;
        }
        is_free
    }
}

/// How many pushed components are kept in memory.
#[derive(Clone, Copy, Debug)]
pub struct Capacity {
    pub components: usize,
    /// Of machine code.
    pub bytes: usize,
}

/// Loads pushed components, off the reactor, and gives up those unused for longest.
pub struct Loader {
    engine: Engine,
    linkers: Arc<Linkers>,
    files: std::sync::OnceLock<Arc<dyn ComponentStore>>,
    /// Components compiled at once.
    room: Arc<Semaphore>,
    capacity: Capacity,
    loaded: Mutex<Vec<Arc<Slot>>>,
}

impl Loader {
    pub fn new(engine: Engine, linkers: Arc<Linkers>, capacity: Capacity) -> Loader {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let room = Arc::new(Semaphore::new(cores.saturating_sub(1).max(1)));
        Loader { engine, linkers, files: std::sync::OnceLock::new(), room, capacity, loaded: Mutex::default() }
    }

    /// Where pushed files come from; said once.
    pub fn read_from(&self, files: Arc<dyn ComponentStore>) {
        let _ = self.files.set(files);
    }

    /// Compiles a file off the reactor.
    ///
    /// Errors: it does not fit the interface of its stage.
    pub async fn compile(&self, stage: Stage, bytes: Vec<u8>) -> wasmtime::Result<Compiled> {
        // Never closed, so there always is one in the end.
        let permit = self.room.clone().acquire_owned().await;
        let (engine, linkers) = (self.engine.clone(), self.linkers.clone());
        let work = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            Compiled::stage(&engine, &linkers, stage, &bytes)
        });
        work.await.unwrap_or_else(|error| Err(wasmtime::Error::msg(format!("compiling was broken off: {error}"))))
    }

    async fn load(self: Arc<Self>, slot: Arc<Slot>) {
        let Some((stage, digest)) = &slot.stored else { return };
        let compiled = match self.read(digest).await {
            Ok(bytes) => self.compile(*stage, bytes).await,
            Err(why) => Err(wasmtime::Error::msg(why)),
        };
        self.settle(&slot, compiled);
    }

    async fn read(&self, digest: &str) -> Result<Vec<u8>, String> {
        let files = self.files.get().ok_or("there is no store of components")?;
        let bytes = files.component_file(digest).await.map_err(|error| error.to_string())?;
        match component::digest(&bytes) == digest {
            true => Ok(bytes),
            false => Err("its file is damaged: push it again".to_owned()),
        }
    }

    /// Says what became of compiling a pushed component. What is too much with it is given up before: whoever waits for it
    /// finds no more in memory than there may be.
    pub fn settle(&self, slot: &Arc<Slot>, compiled: wasmtime::Result<Compiled>) {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Ok(compiled) = &compiled {
            loaded.retain(|known| known.id != slot.id);
            self.make_room(&mut loaded, compiled.image_bytes());
            slot.used_ms.store(now_ms(), Ordering::Relaxed);
            loaded.push(slot.clone());
        }
        // Under the lock: nobody else must give it up before it is there.
        slot.finish(compiled);
    }

    /// Gives up those unused for longest, until there is room for one more of so many bytes.
    fn make_room(&self, loaded: &mut Vec<Arc<Slot>>, image_bytes: usize) {
        let Capacity { components, bytes } = self.capacity;
        let size = |slot: &Arc<Slot>| slot.image_bytes.load(Ordering::Relaxed);
        let is_too_much = |loaded: &[Arc<Slot>]| {
            loaded.len() >= components || loaded.iter().map(size).sum::<usize>().saturating_add(image_bytes) > bytes
        };
        while is_too_much(loaded) {
            let oldest = loaded.iter().enumerate().min_by_key(|(_, slot)| slot.used_ms.load(Ordering::Relaxed));
            let Some((place, _)) = oldest else { return };
            loaded.swap_remove(place).give_up();
        }
    }

    /// Gives up what nobody has called for a while before this moment.
    pub fn give_up_idle(&self, now: Instant) {
        let before = ms_of(now).saturating_sub(u64::try_from(IDLE.as_millis()).unwrap_or(u64::MAX));
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        loaded.retain(|slot| {
            let is_used = slot.used_ms.load(Ordering::Relaxed) >= before;
            if !is_used {
                slot.give_up();
            }
            is_used
        });
    }

    /// Pushed components in memory.
    #[cfg(test)]
    pub fn loaded(&self) -> usize {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}
