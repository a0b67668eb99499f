//! Whose turn it is at a site. Synchronous.

use std::collections::VecDeque;

use mail::Stream;

use super::sites::Lane;

/// Turns of transactional lanes behind which a broadcast lane has one.
pub(super) const TURNS_BEFORE_BROADCAST: u32 = 7;

/// Lanes in turn: transactional ones first, broadcast ones at every eighth turn.
#[derive(Default)]
pub(super) struct Turns {
    transactional: VecDeque<Lane>,
    broadcast: VecDeque<Lane>,
    since_broadcast: u32,
}

impl Turns {
    pub(super) fn push(&mut self, lane: Lane) {
        match lane.2 {
            Stream::Transactional => self.transactional.push_back(lane),
            Stream::Broadcast => self.broadcast.push_back(lane),
        }
    }

    /// The lane whose turn it is, or will be soon.
    pub(super) fn next(&self) -> Option<&Lane> {
        self.transactional.front().or_else(|| self.broadcast.front())
    }

    pub(super) fn pop(&mut self) -> Option<Lane> {
        let is_broadcasts_turn = self.since_broadcast >= TURNS_BEFORE_BROADCAST;
        let first = if is_broadcasts_turn { self.broadcast.pop_front() } else { None };
        let lane = first.or_else(|| self.transactional.pop_front()).or_else(|| self.broadcast.pop_front())?;
        let has_waited = lane.2 == Stream::Transactional && !self.broadcast.is_empty();
        self.since_broadcast = if has_waited { self.since_broadcast + 1 } else { 0 };
        Some(lane)
    }
}
