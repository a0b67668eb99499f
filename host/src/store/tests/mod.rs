//! Tests of the embedded store, on real files.

#![allow(clippy::unwrap_used)]

mod backup;
mod components;
mod crashes;
mod directory;
mod edges;
mod events;
mod leases;
mod mail_rows;
mod retention;
mod scheduling;
mod slow;
mod states;
mod templates;
mod tending;
mod versions;
mod walks;
mod webhooks;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use mail::outcome::Phase;
use mail::{Address, EnhancedCode, Event, EventKind, Outcome, Reply, Verdict};
use tempfile::TempDir;
use uuid::Uuid;

use super::*;

/// Options under which nothing happens but by a call.
fn still() -> Options {
    let never = Duration::from_secs(3600);
    Options { events_every: never, sweep_every: never, reserve_bytes: 0, ..Options::default() }
}

fn open(folder: &Path) -> Arc<Embedded> {
    Embedded::open(folder, still()).unwrap()
}

fn fresh() -> (TempDir, Arc<Embedded>) {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    (folder, store)
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

fn address(text: &str) -> Address {
    Address::parse(text).unwrap()
}

/// A message accepted at a second, to so many recipients `r0@a.test`, `r1@a.test`, …
fn message(number: u128, second: i64, recipients: usize) -> NewMessage {
    NewMessage {
        id: Uuid::from_u128(number),
        tenant: "default".to_owned(),
        sender: Some(address("sender@example.com")),
        recipients: (0..recipients).map(|n| address(&format!("r{n}@a.test"))).collect(),
        bcc: Vec::new(),
        body: Bytes::from(format!("Subject: {number}\r\n\r\nbody {number}\r\n")),
        attributes: Vec::new(),
        tags: Vec::new(),
        idempotency: None,
        accepted_at: at(second),
        scheduled_at: None,
        request: None,
    }
}

fn with_key(mut message: NewMessage, key: &str, digest: &str) -> NewMessage {
    message.idempotency = Some(Idempotency { key: key.to_owned(), digest: digest.to_owned(), item: 0 });
    message
}

async fn accept(store: &Embedded, message: NewMessage) -> Result<Accepted, StoreError> {
    store.accept(vec![message]).await.pop().unwrap()
}

fn outcome(verdict: Verdict) -> Outcome {
    Outcome {
        verdict,
        phase: Phase::Data,
        status: EnhancedCode::new(4, 7, 1),
        remote_host: Some("mx.a.test (192.0.2.1)".to_owned()),
        reply: Some(Reply::new(451, Some(EnhancedCode::new(4, 7, 1)), "later\nplease")),
        text: "later please".to_owned(),
        tls: Some("TLSv1.3".to_owned()),
    }
}

fn event(kind: EventKind, recipient: &Address, attempt: Option<(u32, Outcome)>) -> Event {
    Event { kind, recipient: recipient.clone(), attempt, reason: None }
}

fn completion(leased: &Leased, place: usize, next: Next, kind: Option<EventKind>) -> Completion {
    let recipient = &leased.recipients[place];
    let events = kind.map(|kind| event(kind, &recipient.address, None)).into_iter().collect();
    Completion {
        message: leased.message,
        index: recipient.index,
        next,
        events,
        at: at(100),
        report: None,
        tells_delay: false,
    }
}

/// Numbers of the leased messages with their recipients' places.
fn places(leased: &[Leased]) -> Vec<(u128, Vec<u32>)> {
    let of = |one: &Leased| one.recipients.iter().map(|recipient| recipient.index).collect();
    leased.iter().map(|one| (one.message.as_u128(), of(one))).collect()
}

async fn kinds(store: &Embedded, number: u128) -> Vec<EventKind> {
    let page = store.events("default", Uuid::from_u128(number), None, 100).await.unwrap();
    page.items.into_iter().map(|record| record.event.kind).collect()
}
