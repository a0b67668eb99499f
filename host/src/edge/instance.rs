//! Live instances of stages: made, kept between calls, never shared between tenants.
//!
//! A tenant may have so many calls of one stage at once; more wait. An instance serves one call at a time and goes back
//! to the shelf only when the call ended well; after a trap, a time-out or a limit it is dropped.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wasmtime::Store;

use super::component::{Compiled, Stage};
use super::confine::Guest;
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

/// A live instance.
pub struct Instance {
    pub store: Store<Guest>,
    pub exports: Exports,
    /// Bytes of memory when it was made.
    born_with: usize,
}

impl Instance {
    /// Instantiates a component in a store of its own.
    pub async fn new(mut store: Store<Guest>, compiled: &Compiled) -> wasmtime::Result<Instance> {
        let exports = match compiled {
            Compiled::Renderer(pre) => Exports::Renderer(pre.instantiate_async(&mut store).await?),
            Compiled::Validator(pre) => Exports::Validator(pre.instantiate_async(&mut store).await?),
            Compiled::Transformer(pre) => Exports::Transformer(pre.instantiate_async(&mut store).await?),
            Compiled::Signer(pre) => Exports::Signer(pre.instantiate_async(&mut store).await?),
            Compiled::Shaper(pre) => Exports::Shaper(pre.instantiate_async(&mut store).await?),
            Compiled::Trigger(_) => return Err(wasmtime::Error::msg("a trigger is not a stage")),
        };
        let born_with = store.data().usage.memory;
        Ok(Instance { store, exports, born_with })
    }

    fn is_worth_keeping(&self) -> bool {
        self.store.data().usage.memory <= self.born_with.saturating_add(GROWTH_KEPT)
    }
}

/// A tenant's stage.
type Key = (Arc<str>, Stage);

/// The idle instances of all tenants, and how many more calls each may make.
pub struct Shelf {
    capacity: usize,
    calls_at_once: usize,
    idle: Mutex<VecDeque<(Key, Instant, Instance)>>,
    turns: Mutex<HashMap<Key, Arc<Semaphore>>>,
}

impl Shelf {
    /// `capacity` idle instances in all; `calls_at_once` of one tenant's stage.
    pub fn new(capacity: usize, calls_at_once: usize) -> Shelf {
        Shelf { capacity, calls_at_once: calls_at_once.max(1), idle: Mutex::default(), turns: Mutex::default() }
    }

    /// Waits for the tenant's turn. `None` only where the shelf is gone.
    pub async fn turn(&self, tenant: &Arc<str>, stage: Stage) -> Option<OwnedSemaphorePermit> {
        let turns = {
            let mut all = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            if all.len() >= REMEMBERED {
                all.retain(|_, turns| Arc::strong_count(turns) > 1);
            }
            all.entry((tenant.clone(), stage)).or_insert_with(|| Arc::new(Semaphore::new(self.calls_at_once))).clone()
        };
        turns.acquire_owned().await.ok()
    }

    /// An idle instance of that tenant's stage, the latest used first.
    pub fn take(&self, tenant: &str, stage: Stage) -> Option<Instance> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let place = idle.iter().rposition(|((owner, kind), _, _)| &**owner == tenant && *kind == stage)?;
        idle.remove(place).map(|(_, _, instance)| instance)
    }

    /// Keeps an instance for the tenant's next call, in place of those idle for longest.
    pub fn put(&self, tenant: &Arc<str>, stage: Stage, instance: Instance) {
        if !instance.is_worth_keeping() {
            return;
        }
        let now = Instant::now();
        let mut dropped = Vec::new();
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.push_back(((tenant.clone(), stage), now, instance));
        while idle.len() > self.capacity || idle.front().is_some_and(|(_, since, _)| now.duration_since(*since) > IDLE)
        {
            dropped.extend(idle.pop_front());
        }
        // Giving memory back to the pool takes its time: not under the lock.
        drop(idle);
        drop(dropped);
    }

    /// Idle instances of all tenants.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}
