//! Bodies that were stored just now, in memory: most are delivered at once, and need not be read from the disk for it.
//!
//! Each is taken once; a retry reads the disk. The oldest give way to newer ones.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

use super::segment::Place;

/// A larger body is read from the disk: it would drive out many others.
pub(super) const LARGEST: usize = 256 << 10;

/// By segment and position, which are never given to another body.
type Key = (u64, u64);

pub(super) struct Fresh {
    /// Bytes of all bodies.
    room: usize,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    bodies: HashMap<Key, Bytes>,
    /// Oldest first; some of them were taken.
    order: VecDeque<Key>,
    bytes: usize,
}

impl Fresh {
    pub(super) fn new(room: usize) -> Fresh {
        Fresh { room, inner: Mutex::default() }
    }

    pub(super) fn keep(&self, bodies: Vec<(Place, Bytes)>) {
        if bodies.is_empty() {
            return;
        }
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        for (place, body) in bodies {
            let key = (place.segment, place.position);
            inner.bytes += body.len();
            inner.bodies.insert(key, body);
            inner.order.push_back(key);
        }
        while inner.bytes > self.room {
            let Some(oldest) = inner.order.pop_front() else { break };
            inner.remove(oldest);
        }
        inner.tidy();
    }

    pub(super) fn take(&self, place: Place) -> Option<Bytes> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.remove((place.segment, place.position))
    }
}

impl Inner {
    fn remove(&mut self, key: Key) -> Option<Bytes> {
        let body = self.bodies.remove(&key)?;
        self.bytes -= body.len();
        Some(body)
    }

    /// Forgets the places of bodies that were taken, now and then.
    fn tidy(&mut self) {
        while self.order.front().is_some_and(|key| !self.bodies.contains_key(key)) {
            self.order.pop_front();
        }
        if self.order.len() > 2 * self.bodies.len() + 64 {
            let Inner { bodies, order, .. } = self;
            order.retain(|key| bodies.contains_key(key));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(position: u64) -> Place {
        Place { segment: 1, position, size: 4 }
    }

    #[test]
    fn each_is_taken_once_and_the_oldest_give_way() {
        let fresh = Fresh::new(12);
        let body = Bytes::from_static(b"body");
        fresh.keep((0..4).map(|position| (place(position), body.clone())).collect());
        assert_eq!(fresh.take(place(0)), None);
        assert_eq!(fresh.take(place(2)), Some(body.clone()));
        assert_eq!(fresh.take(place(2)), None);
        fresh.keep(vec![(place(4), body.clone())]);
        assert_eq!(fresh.take(place(1)), Some(body));
    }

    #[test]
    fn what_was_taken_leaves_nothing_behind() {
        let fresh = Fresh::new(1 << 20);
        let first = (place(0), Bytes::from_static(b"stays"));
        fresh.keep(vec![first]);
        for position in 1..10_000 {
            fresh.keep(vec![(place(position), Bytes::from_static(b"body"))]);
            fresh.take(place(position));
        }
        let inner = fresh.inner.lock().unwrap_or_else(PoisonError::into_inner);
        assert_eq!((inner.bodies.len(), inner.bytes), (1, 5));
        assert!(inner.order.len() <= 100);
    }
}
