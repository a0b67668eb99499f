//! Whose turn it is. Queued recipients stand in lanes, one for each tenant, stream and destination domain; a lease takes
//! a few from a lane, then from the next. In memory, synchronous, without I/O.
//!
//! Invariants: transactional lanes go before broadcast ones, which get every eighth turn; tenants take turns, and so do
//! the lanes of a tenant, whatever stands in each. A lane is known here as long as the index may hold a row of it that
//! nobody leased; everything up to its cursor is leased or done with. Whatever becomes due behind the cursor (an accept
//! whose clock was read a little earlier, a release) moves it back, so nothing is overlooked and no lease reads more
//! than what it hands out and what is leased near the cursor.

use std::collections::{BTreeSet, HashMap, VecDeque};

use mail::Stream;
use xxhash_rust::xxh3::xxh3_64;

/// Turns of transactional lanes behind which a broadcast lane has one.
const TURNS_BEFORE_BROADCAST: u32 = 7;
/// Rests remembered before those that ended are looked for.
const RESTS: usize = 1024;

/// A tenant, a stream and a destination domain in one number, which sorts by tenant. Two domains of a tenant may share
/// a lane; then they share its turns, and nothing else comes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Lane(i64);

const STREAM: i64 = 1 << 32;

impl Lane {
    /// `domain` is a `domain_number`.
    pub(super) fn new(tenant: i64, stream: Stream, domain: u32) -> Lane {
        let stream = match stream {
            Stream::Transactional => 0,
            Stream::Broadcast => STREAM,
        };
        Lane(tenant << 33 | stream | i64::from(domain))
    }

    pub(super) fn from_key(key: i64) -> Lane {
        Lane(key)
    }

    /// As it stands in the index.
    pub(super) fn key(self) -> i64 {
        self.0
    }

    fn tenant(self) -> i64 {
        self.0 >> 33
    }

    fn is_broadcast(self) -> bool {
        self.stream() == Stream::Broadcast
    }

    pub(super) fn stream(self) -> Stream {
        if self.0 & STREAM == 0 { Stream::Transactional } else { Stream::Broadcast }
    }
}

/// The number of a domain in a lane; 0 is that of no domain.
pub(super) fn domain_number(domain: &str) -> u32 {
    // The low half: a digest of half the width.
    (xxh3_64(domain.as_bytes()) as u32).max(1)
}

/// A row of a lane's index: due time in milliseconds, message key, place in the envelope.
pub(super) type DueKey = (i64, i64, i64);

/// What a reader found behind what it took from a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Behind {
    /// More may be due.
    More,
    /// The next is due at this time, in milliseconds.
    Later(i64),
    Nothing,
}

#[derive(Default)]
pub(super) struct Lanes {
    lanes: HashMap<Lane, State>,
    /// Lanes by when they are looked at next.
    later: BTreeSet<(i64, Lane)>,
    transactional: Turns,
    broadcast: Turns,
    turns_since_broadcast: u32,
    /// Until when nothing is taken from a lane.
    resting: HashMap<Lane, i64>,
    look_for_ended: usize,
}

struct State {
    cursor: DueKey,
    waits: Waits,
}

#[derive(Clone, Copy)]
enum Waits {
    Until(i64),
    Turn,
    /// For its reader to put it back.
    Reader,
}

impl Lanes {
    /// A row of a lane is due at this key's time.
    pub(super) fn became_due(&mut self, lane: Lane, key: DueKey) {
        let before = (key.0, key.1, key.2 - 1);
        let at = self.resting.get(&lane).map_or(key.0, |until| key.0.max(*until));
        match self.lanes.get_mut(&lane) {
            Some(state) => {
                state.cursor = state.cursor.min(before);
                if let Waits::Until(present) = state.waits
                    && at < present
                {
                    self.later.remove(&(present, lane));
                    self.later.insert((at, lane));
                    state.waits = Waits::Until(at);
                }
            }
            None => {
                self.lanes.insert(lane, State { cursor: before, waits: Waits::Until(at) });
                self.later.insert((at, lane));
            }
        }
    }

    /// Whether something waits in a lane.
    pub(super) fn knows(&self, lane: Lane) -> bool {
        self.lanes.contains_key(&lane)
    }

    /// Nothing is taken from a lane before a time; one that is over ends a rest.
    pub(super) fn rest(&mut self, lane: Lane, until_ms: i64, now_ms: i64) {
        if until_ms > now_ms {
            self.resting.insert(lane, until_ms);
        } else {
            self.resting.remove(&lane);
        }
        // A lane whose turn it is meets its rest when it is called.
        if let Some(state) = self.lanes.get_mut(&lane)
            && let Waits::Until(present) = state.waits
        {
            self.later.remove(&(present, lane));
            self.later.insert((until_ms, lane));
            state.waits = Waits::Until(until_ms);
        }
        if self.resting.len() > RESTS.max(self.look_for_ended) {
            self.resting.retain(|_, until| *until > now_ms);
            self.look_for_ended = 2 * self.resting.len();
        }
    }

    /// The next lane that something may be taken from, and how far it is read. It is to be `put_back`.
    pub(super) fn next(&mut self, now_ms: i64) -> Option<(Lane, DueKey)> {
        while let Some((at, lane)) = self.later.first().copied().filter(|(at, _)| *at <= now_ms) {
            self.later.remove(&(at, lane));
            self.take_turn(lane);
        }
        loop {
            let lane = self.call()?;
            let rest = self.resting.get(&lane).copied().filter(|until| *until > now_ms);
            let Some(state) = self.lanes.get_mut(&lane) else { continue };
            match rest {
                Some(until) => {
                    state.waits = Waits::Until(until);
                    self.later.insert((until, lane));
                }
                None => {
                    state.waits = Waits::Reader;
                    return Some((lane, state.cursor));
                }
            }
        }
    }

    /// A lane was read up to `cursor`.
    pub(super) fn put_back(&mut self, lane: Lane, cursor: DueKey, behind: Behind) {
        let Some(state) = self.lanes.get_mut(&lane) else { return };
        state.cursor = cursor;
        match behind {
            Behind::More => self.take_turn(lane),
            Behind::Later(at) => {
                state.waits = Waits::Until(at);
                self.later.insert((at, lane));
            }
            Behind::Nothing => {
                self.lanes.remove(&lane);
            }
        }
    }

    /// When there may be something to take, in milliseconds: now, where it is some lane's turn.
    pub(super) fn next_ms(&self) -> i64 {
        match self.transactional.is_empty() && self.broadcast.is_empty() {
            true => self.later.first().map_or(i64::MAX, |(at, _)| *at),
            false => i64::MIN,
        }
    }

    fn take_turn(&mut self, lane: Lane) {
        if let Some(state) = self.lanes.get_mut(&lane) {
            state.waits = Waits::Turn;
            if lane.is_broadcast() { self.broadcast.push(lane) } else { self.transactional.push(lane) }
        }
    }

    fn call(&mut self) -> Option<Lane> {
        let is_broadcasts_turn = self.turns_since_broadcast >= TURNS_BEFORE_BROADCAST;
        let first = if is_broadcasts_turn { self.broadcast.pop() } else { None };
        let lane = first.or_else(|| self.transactional.pop()).or_else(|| self.broadcast.pop())?;
        self.turns_since_broadcast =
            if lane.is_broadcast() || self.broadcast.is_empty() { 0 } else { self.turns_since_broadcast + 1 };
        Some(lane)
    }
}

/// Lanes of one stream, in turn: by tenant, and within a tenant.
#[derive(Default)]
struct Turns {
    tenants: VecDeque<i64>,
    lanes: HashMap<i64, VecDeque<Lane>>,
}

impl Turns {
    fn is_empty(&self) -> bool {
        self.tenants.is_empty()
    }

    fn push(&mut self, lane: Lane) {
        let line = self.lanes.entry(lane.tenant()).or_default();
        if line.is_empty() {
            self.tenants.push_back(lane.tenant());
        }
        line.push_back(lane);
    }

    fn pop(&mut self) -> Option<Lane> {
        let tenant = self.tenants.pop_front()?;
        let line = self.lanes.get_mut(&tenant)?;
        let lane = line.pop_front();
        if line.is_empty() {
            self.lanes.remove(&tenant);
        } else {
            self.tenants.push_back(tenant);
        }
        lane
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn lane(tenant: i64, domain: u32) -> Lane {
        Lane::new(tenant, Stream::Transactional, domain)
    }

    /// Lanes called so many times; each has more behind what is taken.
    fn called(lanes: &mut Lanes, times: usize) -> Vec<Lane> {
        let mut all = Vec::new();
        for _ in 0..times {
            let (lane, cursor) = lanes.next(100).unwrap();
            lanes.put_back(lane, cursor, Behind::More);
            all.push(lane);
        }
        all
    }

    #[test]
    fn a_lane_names_what_it_is_made_of() {
        let lane = Lane::new(7, Stream::Broadcast, domain_number("a.test"));
        assert_eq!((lane.tenant(), lane.is_broadcast()), (7, true));
        assert_ne!(lane, Lane::new(7, Stream::Broadcast, domain_number("b.test")));
        assert!(Lane::new(7, Stream::Broadcast, u32::MAX) < Lane::new(8, Stream::Transactional, 1));
        assert_eq!(Lane::from_key(lane.key()), lane);
    }

    #[test]
    fn tenants_take_turns_and_so_do_the_lanes_of_each() {
        let mut lanes = Lanes::default();
        for domain in 1..=3 {
            lanes.became_due(lane(1, domain), (0, 1, 0));
        }
        lanes.became_due(lane(2, 9), (5, 1, 0));
        let expect = [lane(1, 1), lane(2, 9), lane(1, 2), lane(2, 9), lane(1, 3), lane(2, 9), lane(1, 1)];
        assert_eq!(called(&mut lanes, 7), expect);
    }

    #[test]
    fn transactional_mail_goes_before_broadcast_which_is_not_starved() {
        let mut lanes = Lanes::default();
        let (first, bulk) = (lane(1, 1), Lane::new(1, Stream::Broadcast, 1));
        lanes.became_due(bulk, (0, 1, 0));
        lanes.became_due(first, (0, 2, 0));
        let calls = called(&mut lanes, 24);
        assert_eq!(calls[..7], [first; 7]);
        assert_eq!(calls.iter().filter(|lane| **lane == bulk).count(), 3);
    }

    #[test]
    fn a_lane_is_called_when_it_is_due_and_forgotten_when_empty() {
        let mut lanes = Lanes::default();
        lanes.became_due(lane(1, 1), (50, 1, 0));
        assert_eq!((lanes.next(49), lanes.next_ms()), (None, 50));
        assert_eq!(lanes.next(50), Some((lane(1, 1), (50, 1, -1))));
        lanes.put_back(lane(1, 1), (50, 1, 0), Behind::Later(70));
        assert_eq!(lanes.next_ms(), 70);
        lanes.became_due(lane(1, 1), (60, 2, 0));
        assert_eq!(lanes.next_ms(), 60);
        assert_eq!(lanes.next(60), Some((lane(1, 1), (50, 1, 0))), "the cursor stays");
        lanes.put_back(lane(1, 1), (60, 2, 0), Behind::Nothing);
        assert!(lanes.lanes.is_empty() && lanes.later.is_empty());
        assert_eq!(lanes.next_ms(), i64::MAX);
    }

    #[test]
    fn what_becomes_due_behind_the_cursor_moves_it_back() {
        let mut lanes = Lanes::default();
        lanes.became_due(lane(1, 1), (50, 5, 0));
        lanes.next(50).unwrap();
        lanes.put_back(lane(1, 1), (50, 5, 0), Behind::More);
        lanes.became_due(lane(1, 1), (40, 9, 2));
        assert_eq!(lanes.next(50), Some((lane(1, 1), (40, 9, 1))));
    }

    #[test]
    fn a_lane_rests_until_its_time_or_until_it_is_woken() {
        let mut lanes = Lanes::default();
        lanes.became_due(lane(1, 1), (0, 1, 0));
        lanes.became_due(lane(1, 2), (0, 1, 1));
        lanes.next(0).unwrap();
        lanes.put_back(lane(1, 1), (0, 1, 0), Behind::More);
        lanes.rest(lane(1, 1), 90, 10);
        assert_eq!(lanes.next(20).unwrap().0, lane(1, 2));
        lanes.put_back(lane(1, 2), (0, 1, 1), Behind::Nothing);
        assert_eq!((lanes.next(20), lanes.next_ms()), (None, 90));
        // What comes back to a resting lane waits with it, even where nothing else stood there.
        lanes.rest(lane(1, 2), 95, 20);
        lanes.became_due(lane(1, 2), (0, 1, 1));
        assert_eq!(lanes.next(80), None);
        lanes.rest(lane(1, 1), 30, 80);
        assert_eq!(lanes.next(80).unwrap().0, lane(1, 1));
        assert_eq!(lanes.next_ms(), 95);
    }

    #[test]
    fn rests_that_ended_are_forgotten() {
        let mut lanes = Lanes::default();
        for domain in 1..10_000 {
            lanes.rest(lane(1, domain), i64::from(domain), i64::from(domain) - 1);
        }
        assert!(lanes.resting.len() <= RESTS + 1, "{}", lanes.resting.len());
    }
}
