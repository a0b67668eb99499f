//! How many connections there are in all, and how many may be.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Newcomers that are being told that the host is full, at once. Further ones wait in the kernel's queue.
pub const AT_THE_DOOR: usize = 64;

/// Counts connections; the limit may change while they are open.
pub struct Gate {
    limit: AtomicUsize,
    inside: AtomicUsize,
}

/// A connection's place, given back when dropped.
pub struct Inside(Arc<Gate>);

impl Gate {
    pub fn new(limit: usize) -> Gate {
        Gate { limit: AtomicUsize::new(limit), inside: AtomicUsize::new(0) }
    }

    /// Another limit. Whoever is inside stays.
    pub fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// A place for one more; `None` where the host is full.
    pub fn enter(self: &Arc<Self>) -> Option<Inside> {
        let limit = self.limit.load(Ordering::Relaxed);
        let more = |inside: usize| (inside < limit).then_some(inside + 1);
        self.inside.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok().map(|_| Inside(self.clone()))
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.0.inside.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_and_the_limit_moves() {
        let gate = Arc::new(Gate::new(2));
        let (one, two) = (gate.enter(), gate.enter());
        assert!(one.is_some() && two.is_some() && gate.enter().is_none());
        drop(one);
        let three = gate.enter();
        assert!(three.is_some() && gate.enter().is_none());
        gate.set_limit(1);
        drop(two);
        assert!(gate.enter().is_none(), "one is inside, and one may be");
        gate.set_limit(2);
        assert!(gate.enter().is_some());
    }
}
