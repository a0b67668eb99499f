//! Tells webhooks what happened: a worker for each webhook that has something waiting.
//!
//! Invariants: the first attempts for the events of one message are made in their order, each after the one before has
//! come to something; retries wait on their own and hold nothing back; at most `concurrency` attempts at once for one
//! endpoint, and one where the last got no answer, so that endpoints in trouble take little of what all share. Memory
//! holds a window of what is due, never all of it. What an attempt came to is durable before its event is looked at
//! again; after a crash in between it is told once more, under the same id.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use delivery_client::wire::NotifyAnswer;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::policy::{self, Next};
use super::teller::{Teller, Told, event_of};
use crate::store::{
    Attempted, Due, Failing, SubjectKey, TenantId, Tried, Webhook, WebhookKey, WebhookStatus, Webhooks,
};

/// Events of one webhook in memory, as a multiple of its concurrency.
const WINDOW: usize = 8;
/// Windows that are read at once, at the most.
const REACH: usize = 16;
/// Of the attempts at once in all: the share of one tenant, whose endpoints may all be slow.
const SHARE: usize = 4;
/// Attempts of one webhook that may wait to be written down.
const UNWRITTEN: usize = 256;
/// How soon a changed webhook is looked at while its window is full.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Before the store is asked again where it failed.
const AGAIN: Duration = Duration::from_secs(1);
/// How often the log is looked through for what is over, and what is removed from it.
const SWEEP: SignedDuration = SignedDuration::from_mins(1);

/// How webhooks are told.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Attempts at once for one endpoint.
    pub concurrency: usize,
    /// Attempts at once in all.
    pub in_all: usize,
    /// How long the log keeps an attempt.
    pub keep_log: SignedDuration,
}

/// What all workers share.
struct Shared {
    store: Arc<dyn Webhooks>,
    teller: Teller,
    pace: Pace,
    room: Arc<Semaphore>,
    /// The share of each tenant that is telling something.
    shares: Mutex<HashMap<TenantId, Weak<Semaphore>>>,
    workers: Mutex<HashMap<WebhookKey, Arc<Bell>>>,
    stop: CancellationToken,
}

/// Rung when a worker's webhook may have more, or is another.
#[derive(Default)]
struct Bell {
    rung: AtomicBool,
    ring: Notify,
}

impl Bell {
    fn ring(&self) {
        self.rung.store(true, Ordering::Release);
        self.ring.notify_one();
    }

    fn take(&self) -> bool {
        self.rung.swap(false, Ordering::AcqRel)
    }
}

/// Begins to tell webhooks; ends with `stop`, after what is under way. All tasks are tracked.
pub fn start(store: Arc<dyn Webhooks>, teller: Teller, pace: Pace, stop: CancellationToken, tasks: &TaskTracker) {
    let room = Arc::new(Semaphore::new(pace.in_all));
    let shared =
        Arc::new(Shared { store, teller, pace, room, shares: Mutex::default(), workers: Mutex::default(), stop });
    let own = tasks.clone();
    tasks.spawn(async move {
        let stop = shared.stop.clone();
        tokio::select! {
            () = stop.cancelled() => {}
            () = supervise(&shared, &own) => {}
        }
    });
    // Workers go on by themselves.
}

async fn supervise(shared: &Arc<Shared>, tasks: &TaskTracker) {
    loop {
        match shared.store.waiting_webhooks().await {
            Ok(keys) => {
                keys.into_iter().for_each(|key| shared.look_at(key, tasks));
                break;
            }
            Err(error) => {
                tracing::error!(%error, "webhooks cannot be read; trying again");
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
    let mut sweep_at = shared.teller.clock.now();
    loop {
        tokio::select! {
            keys = shared.store.news() => keys.into_iter().for_each(|key| shared.look_at(key, tasks)),
            () = shared.teller.clock.until(sweep_at) => {
                let now = shared.teller.clock.now();
                if now < sweep_at {
                    continue;
                }
                sweep_at = now.checked_add(SWEEP).unwrap_or(Timestamp::MAX);
                let before = now.checked_sub(shared.pace.keep_log).unwrap_or(Timestamp::MIN);
                match shared.store.forget_attempts(before).await {
                    // Piece by piece, so that nobody waits long for the database, but not slower than it grows.
                    Ok(true) => sweep_at = now,
                    Ok(false) => {}
                    Err(error) => tracing::warn!(%error, "the log of webhooks could not be swept"),
                }
            }
        }
    }
}

impl Shared {
    /// Has a worker look at a webhook.
    fn look_at(self: &Arc<Self>, key: WebhookKey, tasks: &TaskTracker) {
        let mut workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bell) = workers.get(&key) {
            bell.ring();
            return;
        }
        let bell = Arc::new(Bell::default());
        workers.insert(key, bell.clone());
        tasks.spawn(Worker::new(self.clone(), key, bell).run());
    }

    /// A tenant's share of the room.
    fn share(&self, tenant: &str) -> Arc<Semaphore> {
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(share) = shares.get(tenant).and_then(Weak::upgrade) {
            return share;
        }
        shares.retain(|_, share| share.strong_count() > 0);
        let share = Arc::new(Semaphore::new((self.pace.in_all / SHARE).max(1)));
        shares.insert(tenant.to_owned(), Arc::downgrade(&share));
        share
    }

    /// Whether a worker may go: not where its bell was rung meanwhile.
    fn may_leave(&self, key: WebhookKey, bell: &Bell) -> bool {
        let mut workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        if bell.take() {
            return false;
        }
        workers.remove(&key);
        true
    }
}

/// One attempt that has ended.
struct Attempt {
    due: Due,
    /// As it was when the attempt began.
    webhook: Arc<Webhook>,
    /// What it came to; absent where the host stops and it was not begun.
    told: Option<Told>,
}

/// Tells one webhook.
struct Worker {
    shared: Arc<Shared>,
    key: WebhookKey,
    bell: Arc<Bell>,
    webhook: Option<Arc<Webhook>>,
    /// What is due, in the order in which it is told.
    window: Vec<Due>,
    /// Whether more was due than the window took.
    more: bool,
    /// How many windows are read at once.
    reach: usize,
    /// Whether the webhook may be another than when the window was filled.
    is_stale: bool,
    /// When the store was last asked.
    looked: Instant,
    /// When something is due that is not in the window.
    next: Option<Timestamp>,
    /// Events whose attempt is under way or not written down yet.
    held: HashSet<i64>,
    /// Messages, and the tenant, with a first attempt under way.
    first: HashSet<SubjectKey>,
    failing: Option<Failing>,
    /// Whether the last attempt got no answer.
    silent: bool,
    attempts: JoinSet<Attempt>,
    /// Events written down, and when each is due again.
    writes: JoinSet<(i64, Option<Timestamp>)>,
}

impl Worker {
    fn new(shared: Arc<Shared>, key: WebhookKey, bell: Arc<Bell>) -> Worker {
        Worker {
            shared,
            key,
            bell,
            webhook: None,
            window: Vec::new(),
            more: true,
            reach: 1,
            is_stale: false,
            looked: Instant::now(),
            next: None,
            held: HashSet::new(),
            first: HashSet::new(),
            failing: None,
            silent: false,
            attempts: JoinSet::new(),
            writes: JoinSet::new(),
        }
    }

    async fn run(mut self) {
        while !self.shared.stop.is_cancelled() {
            // The webhook may be another, or gone: what is in the window would go where it must not any more.
            let is_stale = self.is_stale && self.looked.elapsed() >= LOOK_EVERY;
            if self.more && (is_stale || self.is_short()) {
                if self.look().await {
                    self.start_attempts();
                }
                continue;
            }
            self.start_attempts();
            let is_idle = self.attempts.is_empty() && self.writes.is_empty();
            if is_idle && self.window.is_empty() && !self.more && self.next.is_none() {
                if self.shared.may_leave(self.key, &self.bell) {
                    return;
                }
                self.more = true;
                continue;
            }
            self.wait().await;
        }
        // What is under way is finished and written down.
        while let Some(done) = self.attempts.join_next().await {
            self.ended(done.ok()).await;
        }
        while self.writes.join_next().await.is_some() {}
    }

    /// Whether too little of the window can begin. Where events of one message fill it, which are told one after the
    /// other, more is read, within bounds.
    fn is_short(&mut self) -> bool {
        let enough = self.shared.pace.concurrency;
        if self.window.len() < enough {
            return true;
        }
        let mut subjects = HashSet::new();
        let can_begin =
            |due: &&Due| due.attempts > 0 || (!self.first.contains(&due.subject) && subjects.insert(due.subject));
        let is_short = self.window.iter().filter(can_begin).take(enough).count() < enough && self.reach < REACH;
        if is_short {
            self.reach *= 2;
        }
        is_short
    }

    /// Waits for whatever comes next.
    async fn wait(&mut self) {
        let clock = self.shared.teller.clock.clone();
        let next = self.next;
        let due = async {
            match next {
                Some(at) => clock.until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.shared.stop.cancelled() => {}
            Some(done) = self.attempts.join_next() => self.ended(done.ok()).await,
            Some(written) = self.writes.join_next() => {
                if let Ok((seq, retry)) = written {
                    self.held.remove(&seq);
                    self.next = [self.next, retry].into_iter().flatten().min();
                }
                // An event that was replayed while it was held is in no window yet.
                self.more |= self.attempts.is_empty() && self.writes.is_empty();
            }
            () = self.bell.ring.notified() => {
                self.bell.take();
                (self.more, self.is_stale) = (true, true);
            }
            () = due, if !self.more => {
                self.more = self.next.is_some_and(|at| at <= clock.now());
            }
        }
    }

    /// Fills the window; whether that was possible.
    async fn look(&mut self) -> bool {
        (self.looked, self.is_stale) = (Instant::now(), false);
        let limit = self.shared.pace.concurrency.saturating_mul(WINDOW * self.reach) + self.held.len();
        let now = self.shared.teller.clock.now();
        let waiting = match self.shared.store.waiting(self.key, now, limit).await {
            Ok(waiting) => waiting,
            Err(error) => {
                tracing::error!(%error, "a webhook's events cannot be read; trying again");
                tokio::time::sleep(AGAIN).await;
                return false;
            }
        };
        // Before the first attempt the store knows better, later we do.
        if self.webhook.is_none() {
            self.failing = waiting.failing;
        }
        let before = self.webhook.take().map(|webhook| webhook.url.clone());
        self.webhook = waiting.webhook.filter(|it| it.status == WebhookStatus::Enabled).map(Arc::new);
        if self.webhook.as_ref().zip(before).is_some_and(|(now, before)| now.url != before) {
            // Another endpoint: the failures were not its own.
            self.failing = None;
        }
        self.more = waiting.due.len() == limit;
        if !self.more {
            self.reach = 1;
        }
        self.next = waiting.next;
        self.window = waiting.due;
        self.window.retain(|due| !self.held.contains(&due.seq));
        if self.webhook.is_none() {
            self.close();
        }
        true
    }

    /// Nothing is told any more.
    fn close(&mut self) {
        (self.window, self.more, self.next) = (Vec::new(), false, None);
    }

    fn start_attempts(&mut self) {
        let Some(webhook) = self.webhook.clone() else { return };
        let allowed = if self.silent { 1 } else { self.shared.pace.concurrency };
        while self.attempts.len() < allowed && self.writes.len() < UNWRITTEN {
            let ready = |due: &Due| due.attempts > 0 || !self.first.contains(&due.subject);
            let Some(place) = self.window.iter().position(ready) else { return };
            let due = self.window.remove(place);
            self.held.insert(due.seq);
            if due.attempts == 0 {
                self.first.insert(due.subject);
            }
            let (shared, webhook) = (self.shared.clone(), webhook.clone());
            let share = shared.share(&webhook.tenant);
            self.attempts.spawn(async move {
                // Never closed, so these fail never.
                let places = async { (share.acquire().await, shared.room.acquire().await) };
                let _places = tokio::select! {
                    biased;
                    () = shared.stop.cancelled() => return Attempt { due, webhook, told: None },
                    places = places => places,
                };
                let told = shared.teller.tell(&webhook, event_of(&due)).await;
                Attempt { due, webhook, told: Some(told) }
            });
        }
    }

    /// An attempt came to something.
    async fn ended(&mut self, done: Option<Attempt>) {
        let Some(Attempt { due, webhook, told }) = done else {
            // Panicked: which one is not known, so all are looked at anew.
            tracing::error!("an attempt to tell a webhook panicked");
            (self.held, self.first, self.more) = (HashSet::new(), HashSet::new(), true);
            return;
        };
        if due.attempts == 0 {
            self.first.remove(&due.subject);
        }
        let Some(told) = told else { return };
        let now = self.shared.teller.clock.now();
        let number = due.attempts + 1;
        let next = policy::judge(number, &told.answer, now, rand::random());
        // What another endpoint answered says nothing about this one.
        let is_current = self.webhook.as_ref().is_none_or(|current| current.url == webhook.url);
        if is_current {
            self.failing = policy::after(self.failing, &told.answer, now);
            self.silent = matches!(told.answer, NotifyAnswer::Unreachable { .. });
        }
        let reason = match self.failing {
            _ if next == Next::Disable => Some((WebhookStatus::Disabled, "the endpoint answered 410 Gone".to_owned())),
            Some(failing) if is_current && policy::is_hopeless(failing, now) => {
                let text = format!("{} attempts in a row failed since {}", failing.failures, failing.since);
                Some((WebhookStatus::Paused, text))
            }
            Some(_) | None => None,
        };
        let is_stopped = match reason {
            Some((status, reason)) => self.stop(&webhook, status, &reason, now).await,
            None => false,
        };
        let retry = match next {
            Next::Retry(at) => Some(at),
            // The endpoint that wants no more is not this one any more.
            Next::Disable if !is_stopped => Some(now),
            Next::Done | Next::GiveUp | Next::Disable => None,
        };
        self.write_down(&due, &told, retry);
    }

    /// Logs an attempt and moves its delivery on; the event is held until that is durable.
    fn write_down(&mut self, due: &Due, told: &Told, next: Option<Timestamp>) {
        let (status, error, head) = told.summary();
        let attempted = Attempted {
            webhook: self.key,
            delivery: Some(Tried {
                subject: due.subject,
                seq: due.seq,
                due_at: due.due_at,
                next,
                head: next.and_then(|_| kept_head(due)),
                failing: self.failing,
            }),
            event: due.event.id().to_owned(),
            kind: due.event.kind(),
            number: due.attempts + 1,
            at: told.at,
            duration: told.duration,
            status,
            error,
            head,
        };
        tracing::debug!(
            event = attempted.event,
            number = attempted.number,
            status,
            error = attempted.error,
            "a webhook was told"
        );
        let (shared, seq) = (self.shared.clone(), due.seq);
        self.writes.spawn(async move {
            while let Err(error) = shared.store.attempted(vec![attempted.clone()]).await {
                tracing::error!(%error, "an attempt to tell a webhook could not be written down; trying again");
                if shared.stop.is_cancelled() {
                    break;
                }
                tokio::time::sleep(AGAIN).await;
            }
            (seq, next)
        });
    }

    /// Disables or pauses the webhook, where it still has the URL that was tried; whether it is told no more.
    async fn stop(&mut self, tried: &Webhook, status: WebhookStatus, reason: &str, now: Timestamp) -> bool {
        let is_stopped = loop {
            match self.shared.store.stop_webhook(self.key, &tried.url, status, reason, now).await {
                Ok(is_stopped) => break is_stopped,
                Err(error) if self.shared.stop.is_cancelled() => {
                    tracing::error!(%error, "a webhook could not be stopped");
                    break true;
                }
                Err(error) => {
                    tracing::error!(%error, "a webhook could not be stopped; trying again");
                    tokio::time::sleep(AGAIN).await;
                }
            }
        };
        if is_stopped {
            tracing::warn!(webhook = tried.id, tenant = tried.tenant, ?status, reason, "a webhook is told no more");
            self.webhook = None;
            self.close();
        } else {
            // What is in the window was meant for the URL before.
            (self.window, self.more) = (Vec::new(), true);
        }
        is_stopped
    }
}

/// What is told of a message's header, for tries after its body is gone. Kept with the first of them.
fn kept_head(due: &Due) -> Option<Bytes> {
    let told = ["From", "To", "Subject", "Message-ID"];
    let head = due.message.head.as_deref().filter(|_| due.attempts == 0)?;
    let (fields, _) = mail::header::split(head).ok()?;
    let kept = fields.iter().filter(|field| told.iter().any(|name| field.is(name)));
    Some(kept.flat_map(|field| [field.name.as_bytes(), b":", field.value, b"\r\n"].concat()).collect())
}

#[cfg(test)]
#[path = "dispatcher_tests.rs"]
mod tests;
