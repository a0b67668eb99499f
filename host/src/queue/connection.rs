//! One connection to a site, from its opening to its end: a task.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mail::outcome::Phase;
use mail::{EnhancedCode, Outcome, Verdict};
use tracing::{Instrument as _, Span};

use super::bodies::Held;
use super::scheduler::Inner;
use super::sites::{Item, Stage, Taken};
use super::{Session, Site, Transaction};
use crate::event::mail_log::Via;
use crate::metrics::{SiteTally, metrics};
use crate::store::StoreError;
use crate::telemetry;

/// How long a connection may keep the place that a site without any waits for.
const TURN: Duration = Duration::from_secs(5);
/// How long a connection waits for room for a large body before the message goes back to the store.
const ROOM_LIMIT: Duration = Duration::from_secs(60);

/// A place among the connections; given back when the task ends, however it does.
struct Slot {
    inner: Arc<Inner>,
    key: Arc<str>,
    stage: Stage,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.inner.connection_closed(&self.key, self.stage);
    }
}

/// A message in this connection's hands: released where nothing else became of it, deferred where the attempt broke.
struct InHand {
    inner: Arc<Inner>,
    item: Option<Item>,
}

impl InHand {
    /// Tells each recipient's outcome. Fewer outcomes than recipients are a fault of the session; the rest is deferred.
    fn attempted(mut self, outcomes: Vec<Outcome>, via: impl Fn(usize) -> Via) {
        let Some(mut item) = self.item.take() else { return };
        let rest = item.recipients.split_off(outcomes.len().min(item.recipients.len()));
        for (place, (recipient, outcome)) in item.recipients.iter().zip(outcomes).enumerate() {
            self.inner.completer.attempted(&item, recipient, outcome, Some(via(place)));
        }
        if !rest.is_empty() {
            tracing::error!(id = %item.message, missing = rest.len(), "a session gave too few outcomes");
            self.inner.completer.all_attempted(&Item { recipients: rest, ..item }, &broken());
        }
    }
}

impl Drop for InHand {
    fn drop(&mut self) {
        match &self.item {
            // Tried again at once it would most likely break again.
            Some(item) if std::thread::panicking() => self.inner.completer.all_attempted(item, &broken()),
            Some(item) => self.inner.completer.release(item),
            None => {}
        }
    }
}

/// Opens a connection and sends what waits for the site, until there is nothing for a while.
pub(super) async fn run(inner: Arc<Inner>, site: Site) {
    let _open = metrics().leave();
    let tally = metrics().sites.of(&site.key);
    let began = Instant::now();
    let mut slot = Slot { inner: inner.clone(), key: site.key.clone(), stage: Stage::Connecting };
    let opened = tokio::select! {
        opened = inner.courier.connect(&site) => opened,
        () = unwanted(&inner, &mut slot) => return,
        () = inner.shutdown.cancelled() => return,
    };
    metrics().connected(opened.is_ok());
    match opened {
        Ok(session) => {
            slot.stage = Stage::Fresh;
            inner.connected(&site.key);
            use_session(&inner, &site, session, (&tally, &mut slot)).await;
        }
        Err(outcome) => {
            tally.attempted(began.elapsed(), [outcome.verdict]);
            inner.refused(&site.key, &outcome);
        }
    }
}

/// Waits until a connection that is being opened has to stop for one of another tenant's.
async fn unwanted(inner: &Inner, slot: &mut Slot) {
    let signal = inner.sites().unwanted_signal(&slot.key);
    loop {
        // Asked before it waits: two that are called at once may find one call.
        let called = signal.notified();
        if inner.sites().is_unwanted(&slot.key, &mut slot.stage) {
            return;
        }
        called.await;
    }
}

async fn use_session(
    inner: &Arc<Inner>,
    site: &Site,
    mut session: Box<dyn Session>,
    (tally, slot): (&SiteTally, &mut Slot),
) {
    let (key, opened) = (&site.key, Instant::now());
    let source = site.plan.egress.as_ref().map(|egress| egress.source.name.clone());
    let mut sent = 0;
    while sent < inner.config().messages_per_connection.max(1) && session.is_open() {
        let Some(item) = next_item(inner, slot, opened).await else { break };
        let mut in_hand = InHand { inner: inner.clone(), item: Some(item) };
        let Some(room) = room(inner, &in_hand).await else { continue };
        let Some(transaction) = transaction(inner, &mut in_hand).await else { continue };
        let begun_at = jiff::Timestamp::now();
        let (began, span) =
            (Instant::now(), telemetry::attempt(transaction.message, key, transaction.recipients.len()));
        tokio::select! {
            outcomes = session.send(&transaction).instrument(span.clone()) => {
                note(&span, &outcomes);
                tally.attempted(began.elapsed(), outcomes.iter().map(|outcome| outcome.verdict));
                let handed_on = |place| session.handed_on(place);
                in_hand.attempted(outcomes, |place| Via {
                    source: source.clone(),
                    begun_at,
                    handed_on: handed_on(place),
                });
            }
            // Dropped in the middle: in_hand releases it. The peer may have it all the same.
            () = inner.abort.cancelled() => {
                tracing::warn!(
                    id = %transaction.message,
                    site = %key,
                    recipients = transaction.recipients.len(),
                    "given up in the middle for want of time; the peer may have it, and it is sent again"
                );
                return;
            }
        }
        drop((transaction, room));
        sent += 1;
    }
    tokio::select! {
        () = session.close() => {}
        () = inner.abort.cancelled() => {}
    }
}

/// Tells a span what came of its attempt: of the first recipient, who mostly stands for all.
fn note(span: &Span, outcomes: &[Outcome]) {
    let Some(first) = outcomes.first().filter(|_| !span.is_disabled()) else { return };
    span.record("mx", first.remote_host.as_deref());
    span.record("code", first.reply.as_ref().map(|reply| reply.code));
    span.record("status", tracing::field::display(first.status));
    span.record("verdict", tracing::field::debug(first.verdict));
}

/// The next message for the site, waited for as long as an idle connection is kept.
async fn next_item(inner: &Inner, slot: &mut Slot, opened: Instant) -> Option<Item> {
    let (news, make_room) = inner.idle_signals(&slot.key);
    let deadline = tokio::time::sleep(inner.config().idle_connection);
    tokio::pin!(deadline);
    loop {
        if inner.shutdown.is_cancelled() {
            return None;
        }
        // Made before the question, so that no call is missed.
        let called = make_room.notified();
        match inner.take(&slot.key, &mut slot.stage, opened.elapsed() >= TURN) {
            Taken::Item(item) => return Some(item),
            Taken::Leave => return None,
            Taken::Nothing => {}
        }
        let goes_on = tokio::select! {
            () = news.notified() => true,
            () = called => true,
            () = inner.shutdown.cancelled() => false,
            () = &mut deadline => false,
        };
        if !goes_on {
            inner.idle_no_more(&slot.key, &mut slot.stage);
            return None;
        }
    }
}

/// Room in memory for the body. `None`: it was not there in time, and the item goes back to the store.
async fn room(inner: &Inner, in_hand: &InHand) -> Option<Held> {
    let octets = in_hand.item.as_ref()?.size_bytes;
    tokio::select! {
        biased;
        held = tokio::time::timeout(ROOM_LIMIT, inner.bodies.hold(octets)) => held.ok(),
        () = inner.shutdown.cancelled() => None,
    }
}

/// Reads the body, right before it is sent. `None`: it cannot be, and what follows from that is told.
async fn transaction(inner: &Inner, in_hand: &mut InHand) -> Option<Transaction> {
    let item = in_hand.item.as_ref()?;
    match inner.store.body(&item.body).await {
        Ok(body) => Some(Transaction {
            message: item.message,
            sender: item.sender.clone(),
            recipients: item.recipients.iter().map(|recipient| recipient.address.clone()).collect(),
            request: item.request.as_ref().and_then(|request| {
                request.handed_on(item.recipients.iter().map(|recipient| (recipient.index, &recipient.address)))
            }),
            body,
        }),
        Err(error) => {
            let item = in_hand.item.take()?;
            let outcome = unreadable(&error);
            match outcome.verdict {
                Verdict::Failed => inner.completer.set_aside(&item, &outcome),
                _ => inner.completer.all_attempted(&item, &outcome),
            }
            None
        }
    }
}

/// The outcome of a message whose bytes cannot be had: for good where they are gone, for now where reading failed.
fn unreadable(error: &StoreError) -> Outcome {
    let (verdict, status) = match error {
        StoreError::NotFound(_) => (Verdict::Failed, EnhancedCode::new(5, 3, 0)),
        StoreError::IdempotencyMismatch
        | StoreError::DuplicateId
        | StoreError::Exists(_)
        | StoreError::NotScheduled(_)
        | StoreError::Full
        | StoreError::Io(_) => (Verdict::Deferred, EnhancedCode::new(4, 3, 0)),
    };
    of_ours(verdict, status, format!("the stored message cannot be read: {error}"))
}

/// The outcome of an attempt that a fault of this host ended.
fn broken() -> Outcome {
    let text =
        "the attempt broke off because of a fault in this host, which its log tells; the peer may have the message";
    of_ours(Verdict::Deferred, EnhancedCode::new(4, 3, 0), text.to_owned())
}

fn of_ours(verdict: Verdict, status: EnhancedCode, text: String) -> Outcome {
    Outcome { verdict, phase: Phase::Local, status, remote_host: None, reply: None, text, tls: None }
}

impl Inner {
    /// A connection could not be opened: whoever waits is deferred, and the site is left alone for a while.
    fn refused(&self, key: &Arc<str>, outcome: &Outcome) {
        let now = jiff::Timestamp::now();
        let refused = self.sites().refused(key, outcome, |count| self.left_alone(now, count));
        refused.iter().for_each(|item| self.completer.all_attempted(item, outcome));
    }
}
