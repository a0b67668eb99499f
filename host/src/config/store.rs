//! `[store]`: what is kept, and for how long.

use std::time::Duration;

use super::load::section;
use super::reader::{Context, Reader};
use super::value::ByteSize;

/// What the store keeps.
#[derive(Clone, Debug)]
pub struct StoreRules {
    /// Free disk space below which no mail is taken.
    pub reserve_bytes: u64,
    /// How long a body stays readable when its last recipient is done with.
    pub keep_bodies: Duration,
    /// How long a message and its events stay, from the same moment.
    pub keep_messages: Duration,
}

/// Idempotency keys name messages for so long.
const KEEP_MESSAGES_MIN: Duration = Duration::from_secs(24 * 60 * 60);

pub(super) fn store(context: &mut Context<'_, '_>, top: &Reader<'_, '_>) -> Option<StoreRules> {
    let section = section(context, top, "store");
    let reserve = section.get(context, "reserve").map(|ByteSize(bytes)| bytes);
    let keep_bodies: Option<Duration> = section.get(context, "keep_bodies");
    let keep_messages: Option<Duration> = section.get(context, "keep_messages");
    if let (Some(bodies), Some(messages)) = (keep_bodies, keep_messages) {
        let place = section.raw("keep_messages").or_else(|| section.raw("keep_bodies"));
        if let Some((span, _)) = place.filter(|_| messages < bodies.max(KEEP_MESSAGES_MIN)) {
            context.faults.add(span, "store.keep_messages must be at least 1d, and at least store.keep_bodies");
        }
    }
    Some(StoreRules { reserve_bytes: reserve?, keep_bodies: keep_bodies?, keep_messages: keep_messages? })
}
