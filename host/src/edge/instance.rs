//! Live instances of stages: made, kept between calls, never shared between tenants.
//!
//! A tenant may have so many calls of one stage at once; more wait. An instance serves one call at a time and goes back
//! to the shelf only when the call ended well; after a trap, a time-out or a limit it is dropped. It is kept for the seat
//! in the set of components that it was made for: another set never gets it, nor the same file in another seat.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wasmtime::Store;

use super::call;
use super::component::{Compiled, Pre, Stage};
use super::confine::{Bounds, Guest};
use super::wit;

/// An instance that grew by more than this in its life is dropped instead of kept: memories never shrink, and one
/// large message would be held for good.
const GROWTH_KEPT: usize = 4 << 20;

/// Instances idle for longer are dropped.
const IDLE: Duration = Duration::from_secs(60);

/// Tenants whose number of calls at once is remembered; beyond it those without a call are forgotten.
const REMEMBERED: usize = 4096;

/// What a live stage can be asked.
pub enum Exports {
    Renderer(wit::renderer::RenderStage),
    Validator(wit::validator::ValidateStage),
    Transformer(wit::transformer::TransformStage),
    Signer(wit::signer::SignStage),
    Shaper(wit::shaper::ShapeStage),
}

impl Exports {
    async fn new(store: &mut Store<Guest>, compiled: &Compiled) -> wasmtime::Result<Exports> {
        Ok(match &compiled.pre {
            Pre::Renderer(pre) => Exports::Renderer(pre.instantiate_async(store).await?),
            Pre::Validator(pre) => Exports::Validator(pre.instantiate_async(store).await?),
            Pre::Transformer(pre) => Exports::Transformer(pre.instantiate_async(store).await?),
            Pre::Signer(pre) => Exports::Signer(pre.instantiate_async(store).await?),
            Pre::Shaper(pre) => Exports::Shaper(pre.instantiate_async(store).await?),
            Pre::Trigger(_) => return Err(wasmtime::Error::msg("a trigger is not a stage")),
        })
    }
}

/// A live instance.
pub struct Instance {
    pub store: Store<Guest>,
    pub exports: Exports,
    /// Bytes of memory when it was made.
    born_with: usize,
}

impl Instance {
    /// Instantiates a component in a store of its own, which these bounds hold for. The error is in words for the operator.
    pub async fn new(mut store: Store<Guest>, compiled: &Compiled, bounds: &Bounds) -> Result<Instance, String> {
        let exports = match Exports::new(&mut store, compiled).await {
            Ok(exports) => exports,
            Err(error) => {
                let limit = call::over_limit(&error, store.data(), bounds);
                let why = limit.unwrap_or_else(|| format!("{error:#}"));
                return Err(format!("it cannot be instantiated: {why}"));
            }
        };
        let born_with = store.data().usage.memory;
        Ok(Instance { store, exports, born_with })
    }

    /// Of all its memories.
    fn bytes(&self) -> usize {
        self.store.data().usage.memory
    }

    fn is_worth_keeping(&self) -> bool {
        self.store.data().usage.memory <= self.born_with.saturating_add(GROWTH_KEPT)
    }
}

/// Whose an idle instance is: a tenant's, of one set, of one seat in it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Key {
    pub tenant: Arc<str>,
    pub set: u64,
    pub seat: u64,
}

/// How many idle instances are kept, and their memory in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    pub instances: usize,
    pub bytes: usize,
}

/// The idle instances of all tenants, and how many more calls each may make.
pub struct Shelf {
    room: Room,
    idle: Mutex<Idle>,
    turns: Mutex<HashMap<(Arc<str>, Stage), Turns>>,
}

struct Turns {
    calls: usize,
    left: Arc<Semaphore>,
}

#[derive(Default)]
struct Idle {
    /// The latest used stands last.
    by_key: HashMap<Key, Vec<Kept>>,
    /// Whose the instances are, by when they were put here.
    by_age: BTreeMap<u64, Key>,
    put: u64,
    bytes: usize,
}

struct Kept {
    number: u64,
    since: Instant,
    instance: Instance,
}

impl Idle {
    fn add(&mut self, key: Key, instance: Instance, since: Instant) {
        self.put += 1;
        self.bytes += instance.bytes();
        self.by_age.insert(self.put, key.clone());
        self.by_key.entry(key).or_default().push(Kept { number: self.put, since, instance });
    }

    fn take(&mut self, key: &Key) -> Option<Instance> {
        let kept = self.by_key.get_mut(key)?;
        let last = kept.pop();
        if kept.is_empty() {
            self.by_key.remove(key);
        }
        let Kept { number, instance, .. } = last?;
        self.by_age.remove(&number);
        self.bytes -= instance.bytes();
        Some(instance)
    }

    /// The one that is idle for longest, where it fits what is asked for.
    fn take_oldest(&mut self, fits: impl FnOnce(&Idle, &Kept) -> bool) -> Option<Instance> {
        let (number, key) = self.by_age.first_key_value()?;
        let (number, key) = (*number, key.clone());
        // Of one key the oldest stands first.
        let oldest = self.by_key.get(&key)?.first()?;
        if oldest.number != number || !fits(self, oldest) {
            return None;
        }
        self.by_age.remove(&number);
        let kept = self.by_key.get_mut(&key)?;
        let Kept { instance, .. } = kept.remove(0);
        if kept.is_empty() {
            self.by_key.remove(&key);
        }
        self.bytes -= instance.bytes();
        Some(instance)
    }
}

impl Shelf {
    pub fn new(room: Room) -> Shelf {
        Shelf { room, idle: Mutex::default(), turns: Mutex::default() }
    }

    /// Waits for the tenant's turn: so many calls of one stage at once. `None` only where the shelf is gone.
    pub async fn turn(&self, tenant: &Arc<str>, stage: Stage, calls: usize) -> Option<OwnedSemaphorePermit> {
        let turns = {
            let mut all = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            if all.len() >= REMEMBERED {
                all.retain(|_, turns| Arc::strong_count(&turns.left) > 1);
            }
            let fresh = || Turns { calls, left: Arc::new(Semaphore::new(calls.max(1))) };
            let turns = all.entry((tenant.clone(), stage)).or_insert_with(fresh);
            if turns.calls != calls {
                *turns = fresh();
            }
            turns.left.clone()
        };
        turns.acquire_owned().await.ok()
    }

    /// An idle instance, the latest used first.
    pub fn take(&self, key: &Key) -> Option<Instance> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).take(key)
    }

    /// Keeps an instance for the next call, in place of those idle for longest.
    pub fn put(&self, key: Key, instance: Instance) {
        if !instance.is_worth_keeping() {
            return;
        }
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        idle.add(key, instance, now);
        let dropped = self.excess(&mut idle, now);
        // Giving memory back to the pool takes its time: not under the lock.
        drop(idle);
        drop(dropped);
    }

    /// Drops what is idle for too long at this moment.
    pub fn tidy(&self, now: Instant) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let dropped = self.excess(&mut idle, now);
        drop(idle);
        drop(dropped);
    }

    fn excess(&self, idle: &mut Idle, now: Instant) -> Vec<Instance> {
        let Room { instances, bytes } = self.room;
        let is_too_much = |idle: &Idle, oldest: &Kept| {
            idle.by_age.len() > instances || idle.bytes > bytes || now.saturating_duration_since(oldest.since) > IDLE
        };
        std::iter::from_fn(|| idle.take_oldest(is_too_much)).collect()
    }

    /// Drops the idle instances of all sets of a tenant but this one.
    pub fn keep_only(&self, tenant: &str, set: u64) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let others: Vec<Key> =
            idle.by_key.keys().filter(|key| &*key.tenant == tenant && key.set != set).cloned().collect();
        let dropped: Vec<Instance> =
            others.iter().flat_map(|key| std::iter::from_fn(|| idle.take(key)).collect::<Vec<_>>()).collect();
        drop(idle);
        drop(dropped);
    }

    /// Idle instances of all tenants.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).by_age.len()
    }
}
