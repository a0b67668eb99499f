#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;

use async_trait::async_trait;
use bytes::Bytes;
use contract::ShaperInput;
use mail::{Address, Event, EventKind};
use tempfile::TempDir;
use tokio::sync::watch;
use uuid::Uuid;

use super::*;
use crate::event::notifier::Notifier;
use crate::event::teller::Clock;
use crate::keyring::{Keyring, MasterKey};
use crate::store::AuditLog as _;
use crate::store::{
    AnyEvent, AnyKind, Directory, Embedded, EventFilter, NewMessage, Options, Replay, Store, StoreError,
    TenantEventKind, WebhookChange,
};

const PATIENCE: Duration = Duration::from_secs(60);

/// A clock that moves when it is told to.
struct Hands(watch::Sender<Timestamp>);

#[async_trait]
impl Clock for Hands {
    fn now(&self) -> Timestamp {
        *self.0.borrow()
    }

    async fn until(&self, at: Timestamp) {
        let _ = self.0.subscribe().wait_for(|now| *now >= at).await;
    }
}

/// Attempts at once in all.
const IN_ALL: usize = 64;

/// What an endpoint was told: its URL, the event's id and name, its message, and the time.
#[derive(Clone, Debug, PartialEq)]
struct Call {
    url: String,
    id: String,
    name: String,
    message: String,
    timestamp_s: u64,
    secrets: usize,
}

/// Plays all endpoints.
struct Endpoints {
    calls: watch::Sender<Vec<Call>>,
    /// Calls under way: now, and the most there were at once; by URL, and by URL and message.
    busy: Mutex<BTreeMap<String, (usize, usize)>>,
    /// What a URL answers, one after the other; the last for good. Those without answer 200.
    script: Mutex<HashMap<String, Vec<u16>>>,
    /// URLs that answer when they are let go.
    gates: Mutex<HashMap<String, Arc<Semaphore>>>,
}

impl Endpoints {
    fn enter(&self, key: &str) {
        let mut busy = self.busy.lock().unwrap();
        let (now, most) = busy.entry(key.to_owned()).or_default();
        *now += 1;
        *most = (*most).max(*now);
    }

    fn leave(&self, key: &str) {
        self.busy.lock().unwrap().get_mut(key).unwrap().0 -= 1;
    }

    fn most(&self, key: &str) -> usize {
        self.busy.lock().unwrap().get(key).map_or(0, |(_, most)| *most)
    }
}

#[async_trait]
impl Notifier for Endpoints {
    async fn notify(&self, input: ShaperInput) -> NotifyAnswer {
        let url = input.endpoint.url.clone();
        let of_message = format!("{url} {}", input.event.message_id);
        self.enter(&url);
        self.enter(&of_message);
        self.calls.send_modify(|calls| {
            calls.push(Call {
                url: url.clone(),
                id: input.event.id,
                name: input.event.name,
                message: input.event.message_id,
                timestamp_s: input.timestamp_s,
                secrets: input.endpoint.secrets.len(),
            });
        });
        let gate = self.gates.lock().unwrap().get(&url).cloned();
        if let Some(gate) = gate {
            gate.acquire().await.unwrap().forget();
        }
        self.leave(&of_message);
        self.leave(&url);
        let mut script = self.script.lock().unwrap();
        let status = match script.get_mut(&url) {
            Some(statuses) if statuses.len() > 1 => statuses.remove(0),
            Some(statuses) => statuses[0],
            None => 200,
        };
        if status == 0 {
            return NotifyAnswer::Unreachable { cause: "no answer".to_owned() };
        }
        NotifyAnswer::Answered { status, retry_after: None, head: "head".to_owned() }
    }
}

struct World {
    folder: TempDir,
    store: Arc<Embedded>,
    keyring: Arc<Keyring>,
    endpoints: Arc<Endpoints>,
    clock: Arc<Hands>,
    stop: CancellationToken,
    tasks: TaskTracker,
    pace: Pace,
}

fn open(folder: &Path) -> Arc<Embedded> {
    let never = Duration::from_secs(3600);
    Embedded::open(folder, Options { events_every: never, sweep_every: never, reserve_bytes: 0, ..Options::default() })
        .unwrap()
}

fn keyring(store: &Arc<Embedded>) -> Arc<Keyring> {
    Arc::new(Keyring::new(store.clone() as Arc<dyn Directory>, MasterKey::from_octets(&[7; 32]).unwrap(), false))
}

impl World {
    fn new(concurrency: usize) -> World {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path());
        let endpoints = Arc::new(Endpoints {
            calls: watch::Sender::default(),
            busy: Mutex::default(),
            script: Mutex::default(),
            gates: Mutex::default(),
        });
        // Never behind the system's, by which events become due.
        let clock = Arc::new(Hands(watch::Sender::new(Timestamp::now() + SignedDuration::from_hours(1))));
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let pace = Pace { concurrency, in_all: IN_ALL, keep_log: SignedDuration::from_hours(24 * 365) };
        let keyring = keyring(&store);
        World { folder, store, keyring, endpoints, clock, stop, tasks, pace }
    }

    fn start(&self) {
        let teller =
            Teller { notifier: self.endpoints.clone(), keyring: self.keyring.clone(), clock: self.clock.clone() };
        start(self.store.clone(), teller, self.pace, self.stop.clone(), &self.tasks);
    }

    async fn webhook<K: Copy + Into<AnyKind>>(&self, tenant: &str, url: &str, kinds: &[K]) -> Webhook {
        let id = Uuid::new_v4().to_string();
        let webhook = Webhook {
            tenant: tenant.to_owned(),
            url: url.to_owned(),
            kinds: kinds.iter().map(|kind| (*kind).into()).collect(),
            sealed_secret: self.keyring.seal(&id, b"whsec_x").unwrap(),
            old_secret: None,
            status: WebhookStatus::Enabled,
            reason: None,
            created_at: Timestamp::now(),
            id,
        };
        self.store.add_webhook(webhook.clone(), 10).await.unwrap();
        webhook
    }

    /// Accepts a message for a tenant to one recipient, and moves its `email.sent`.
    async fn accept(&self, tenant: &str) -> Uuid {
        let id = Uuid::new_v4();
        let message = NewMessage {
            scheduled_at: None,
            request: None,
            id,
            tenant: tenant.to_owned(),
            sender: None,
            recipients: vec![Address::parse("to@dst.test").unwrap()],
            bcc: Vec::new(),
            body: Bytes::from_static(b"From: a@src.test\r\nSubject: Hi\r\n\r\nx\r\n"),
            attributes: Vec::new(),
            tags: Vec::new(),
            idempotency: None,
            accepted_at: Timestamp::now(),
        };
        self.store.accept(vec![message]).await.pop().unwrap().unwrap();
        self.store.move_events().await;
        id
    }

    async fn record(&self, message: Uuid, kinds: &[EventKind]) {
        let recipient = Address::parse("to@dst.test").unwrap();
        let event = |kind: &EventKind| Event { kind: *kind, recipient: recipient.clone(), attempt: None, reason: None };
        self.store.record(message, kinds.iter().map(event).collect(), Timestamp::now()).await.unwrap();
        self.store.move_events().await;
    }

    fn answers(&self, url: &str, statuses: &[u16]) {
        self.endpoints.script.lock().unwrap().insert(url.to_owned(), statuses.to_vec());
    }

    fn gate(&self, url: &str) -> Arc<Semaphore> {
        let gate = Arc::new(Semaphore::new(0));
        self.endpoints.gates.lock().unwrap().insert(url.to_owned(), gate.clone());
        gate
    }

    /// The calls, once there are so many.
    async fn calls(&self, count: usize) -> Vec<Call> {
        let mut calls = self.endpoints.calls.subscribe();
        let found = tokio::time::timeout(PATIENCE, calls.wait_for(|calls| calls.len() >= count)).await;
        let found = found.map(|found| found.unwrap().clone());
        found.unwrap_or_else(|_| panic!("only {:?}", self.endpoints.calls.borrow()))
    }

    /// Waits until the log of a webhook has so many attempts.
    async fn logged(&self, webhook: &Webhook, count: usize) -> Vec<crate::store::AttemptRecord> {
        let (key, _) = self.store.webhook(&webhook.tenant, &webhook.id).await.unwrap();
        let reading = async {
            loop {
                let log = self.store.attempts(key, None, 1000).await.unwrap().items;
                if log.len() >= count {
                    return log;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, reading).await.unwrap()
    }

    fn pass(&self, time: SignedDuration) {
        self.clock.0.send_modify(|now| *now += time);
    }

    async fn end(&self) {
        self.stop.cancel();
        self.tasks.close();
        tokio::time::timeout(PATIENCE, self.tasks.wait()).await.unwrap();
    }
}

use EventKind::{Bounced, Delivered, Sent};

fn names(calls: &[Call]) -> Vec<&str> {
    calls.iter().map(|call| call.name.as_str()).collect()
}

#[tokio::test]
async fn a_failed_event_is_told_again_and_holds_no_other_back() {
    let world = World::new(8);
    world.start();
    let webhook = world.webhook("default", "http://a", &[Sent, Delivered]).await;
    world.answers("http://a", &[500, 200]);
    let message = world.accept("default").await;
    world.calls(1).await;
    world.record(message, &[Bounced, Delivered]).await;
    let calls = world.calls(2).await;
    assert_eq!(names(&calls), ["email.sent", "email.delivered"], "not the bounce, which it does not want");
    world.logged(&webhook, 2).await;
    world.pass(SignedDuration::from_secs(6));
    let calls = world.calls(3).await;
    assert_eq!((&calls[2].id, &calls[2].name), (&calls[0].id, &calls[0].name));
    assert!(calls[2].timestamp_s >= calls[0].timestamp_s + 6, "signed anew");
    let log = world.logged(&webhook, 3).await;
    let statuses: Vec<_> = log.iter().rev().map(|it| (it.number, it.status, it.next_at.is_some())).collect();
    assert_eq!(statuses, [(1, Some(500), true), (1, Some(200), false), (2, Some(200), false)]);
    assert_eq!((log[0].head.as_str(), log[0].url.as_str()), ("head", "http://a"));
    assert!(world.store.waiting_webhooks().await.unwrap().is_empty());
    world.end().await;
}

#[tokio::test]
async fn first_attempts_keep_the_order_of_their_message_and_the_bound_of_their_endpoint() {
    let world = World::new(3);
    let webhook = world.webhook("default", "http://a", &[Sent, Delivered]).await;
    let gate = world.gate("http://a");
    let mut messages = Vec::new();
    for _ in 0..5 {
        let message = world.accept("default").await;
        world.record(message, &[Delivered]).await;
        messages.push(message.to_string());
    }
    world.start();
    world.calls(3).await;
    gate.add_permits(10);
    world.logged(&webhook, 10).await;
    let calls = world.calls(10).await;
    assert_eq!(world.endpoints.most("http://a"), 3);
    for message in messages {
        assert_eq!(world.endpoints.most(&format!("http://a {message}")), 1);
        let told: Vec<&str> =
            calls.iter().filter(|call| call.message == message).map(|call| call.name.as_str()).collect();
        assert_eq!(told, ["email.sent", "email.delivered"]);
    }
    world.end().await;
}

#[tokio::test]
async fn a_slow_endpoint_delays_no_other() {
    let world = World::new(2);
    world.start();
    let _gate = world.gate("http://slow");
    world.webhook("default", "http://slow", &[Sent]).await;
    let quick = world.webhook("default", "http://quick", &[Sent]).await;
    for _ in 0..6 {
        world.accept("default").await;
    }
    assert_eq!(world.logged(&quick, 6).await.len(), 6);
    assert_eq!(world.endpoints.most("http://slow"), 2);
}

#[tokio::test]
async fn an_endpoint_that_gives_no_answer_is_asked_one_by_one() {
    let world = World::new(8);
    let webhook = world.webhook("default", "http://dead", &[Sent]).await;
    world.answers("http://dead", &[0]);
    let gate = world.gate("http://dead");
    for _ in 0..12 {
        world.accept("default").await;
    }
    world.start();
    world.calls(8).await;
    gate.add_permits(8);
    for count in 9..=12 {
        world.calls(count).await;
        let now = world.endpoints.busy.lock().unwrap().get("http://dead").unwrap().0;
        assert_eq!(now, 1);
        gate.add_permits(1);
    }
    let log = world.logged(&webhook, 12).await;
    assert!(log.iter().all(|it| it.status.is_none() && it.error.as_deref() == Some("no answer")));
    world.end().await;
}

#[tokio::test]
async fn an_event_is_given_up_after_its_last_attempt() {
    let world = World::new(8);
    world.start();
    let webhook = world.webhook("default", "http://a", &[Sent]).await;
    world.answers("http://a", &[500]);
    world.accept("default").await;
    for attempt in 1..=10 {
        let log = world.logged(&webhook, attempt).await;
        assert_eq!((log[0].number as usize, log[0].next_at.is_some()), (attempt, attempt < 10));
        world.pass(SignedDuration::from_hours(29));
    }
    let calls = world.calls(10).await;
    assert!(calls.iter().all(|call| call.id == calls[0].id));
    // Nothing is left to be told, so nothing is told.
    assert!(world.store.waiting_webhooks().await.unwrap().is_empty());
    world.end().await;
    assert_eq!(world.calls(10).await.len(), 10);
}

#[tokio::test]
async fn gone_disables() {
    let world = World::new(1);
    world.start();
    let webhook = world.webhook("default", "http://a", &[Sent]).await;
    world.answers("http://a", &[410, 200]);
    world.accept("default").await;
    world.logged(&webhook, 1).await;
    let status = async || world.store.webhook("default", &webhook.id).await.unwrap().1;
    while status().await.status == WebhookStatus::Enabled {
        tokio::task::yield_now().await;
    }
    assert_eq!(status().await.status, WebhookStatus::Disabled);
    assert!(status().await.reason.unwrap().contains("410"));
    let log = world.store.audited(Some("default"), None, 9).await.unwrap();
    let is_said = |words: &str| log.len() == 1 && log[0].entry.contains(words);
    let what = format!("webhooks/{}: disabled", webhook.id);
    assert!(is_said(&what) && is_said("\"posthaste\"") && is_said("410"), "{log:?}");
    world.accept("default").await;
    // Enabled again it is told of what happens from then on; what it missed can be replayed.
    let enable = WebhookChange { status: Some(WebhookStatus::Enabled), ..WebhookChange::default() };
    world.store.change_webhook("default", &webhook.id, enable).await.unwrap();
    assert_eq!(status().await.reason, None);
    world.accept("default").await;
    let calls = world.calls(2).await;
    assert_ne!(calls[0].id, calls[1].id);
    let (key, _) = world.store.webhook("default", &webhook.id).await.unwrap();
    let range = Replay::Range(Timestamp::UNIX_EPOCH, Timestamp::MAX);
    assert!(matches!(world.store.replay(key, range.clone(), world.clock.now(), 2).await, Err(StoreError::Full)));
    assert_eq!(world.store.replay(key, range, world.clock.now(), 3).await.unwrap(), 3);
    let calls = world.calls(5).await;
    assert_eq!(calls[2].id, calls[0].id);
    assert_eq!(calls[4].id, calls[1].id);
    world.end().await;
}

/// A message with more events than a window holds stops no other message.
#[tokio::test]
async fn many_events_of_one_message_hold_no_other_back() {
    let world = World::new(2);
    let _webhook = world.webhook("default", "http://a", &[Sent, Delivered]).await;
    let gate = world.gate("http://a");
    let large = world.accept("default").await;
    world.record(large, &[Delivered; 40]).await;
    let small = world.accept("default").await;
    world.start();
    let calls = world.calls(2).await;
    let messages = [&calls[0].message, &calls[1].message];
    assert_eq!(messages, [&large.to_string(), &small.to_string()]);
    gate.add_permits(42);
    world.calls(42).await;
    world.end().await;
}

/// One tenant's slow endpoints leave room for others.
#[tokio::test]
async fn slow_endpoints_of_one_tenant_take_their_share_alone() {
    let world = World::new(8);
    world.start();
    let mut gates = Vec::new();
    for number in 0..IN_ALL / 8 {
        let url = format!("http://slow{number}");
        gates.push(world.gate(&url));
        world.webhook("slow", &url, &[Sent]).await;
    }
    for _ in 0..8 {
        world.accept("slow").await;
    }
    world.calls(IN_ALL / SHARE).await;
    world.webhook("default", "http://fast", &[Sent]).await;
    world.accept("default").await;
    let calls = world.calls(IN_ALL / SHARE + 1).await;
    assert!(calls.iter().any(|call| call.url == "http://fast"));
    gates.iter().for_each(|gate| gate.add_permits(8));
    world.end().await;
}

/// An event that is asked for anew while it is being told is told again.
#[tokio::test]
async fn a_replay_meanwhile_is_not_lost() {
    let world = World::new(1);
    world.start();
    let webhook = world.webhook("default", "http://a", &[Sent]).await;
    let gate = world.gate("http://a");
    world.accept("default").await;
    let first = world.calls(1).await[0].id.clone();
    let (key, _) = world.store.webhook("default", &webhook.id).await.unwrap();
    // Due at another time than it was: that is what makes it another delivery.
    world.pass(SignedDuration::from_secs(1));
    world.store.replay(key, Replay::Event(first.clone()), world.clock.now(), 1).await.unwrap();
    gate.add_permits(2);
    let calls = world.calls(2).await;
    assert_eq!(calls[1].id, first);
    world.end().await;
}

#[tokio::test]
async fn an_endpoint_that_keeps_failing_is_paused() {
    let world = World::new(8);
    world.start();
    let webhook = world.webhook("default", "http://a", &[Sent]).await;
    let other = world.webhook("default", "http://other", &[TenantEventKind::WebhookPaused]).await;
    world.answers("http://a", &[500]);
    for _ in 0..20 {
        world.accept("default").await;
    }
    // Five attempts of each, and no day is over.
    for round in 1..=5 {
        world.logged(&webhook, 20 * round).await;
        world.pass(SignedDuration::from_mins(144));
    }
    let status = async || world.store.webhook("default", &webhook.id).await.unwrap().1;
    assert_eq!(status().await.status, WebhookStatus::Enabled);
    world.pass(SignedDuration::from_hours(24));
    while status().await.status == WebhookStatus::Enabled {
        tokio::task::yield_now().await;
    }
    assert_eq!(status().await.status, WebhookStatus::Paused);
    assert!(status().await.reason.unwrap().contains("in a row failed since"));
    // Its tenant's other webhooks are told, if they want to be.
    world.store.move_events().await;
    world.logged(&other, 1).await;
    let told: Vec<Call> = world.calls(101).await.into_iter().filter(|call| call.url == "http://other").collect();
    assert_eq!(told.iter().map(|call| call.name.as_str()).collect::<Vec<_>>(), ["webhook.paused"]);
    let filter = EventFilter { tenant: "default".to_owned(), ..EventFilter::default() };
    let newest = world.store.tenant_events(filter, 1).await.unwrap().0.remove(0);
    let AnyEvent::Tenant(record) = newest else { panic!("{newest:?}") };
    assert_eq!((&record.id, &record.event.data["webhook_id"]), (&told[0].id, &webhook.id.clone().into()));
    world.end().await;
}

/// What the endpoint before said, which is not asked any more, stops nothing, and the event comes to the one there is now.
#[tokio::test]
async fn a_late_410_does_not_stop_another_endpoint() {
    let world = World::new(1);
    world.start();
    let webhook = world.webhook("default", "http://old", &[Sent]).await;
    world.answers("http://old", &[410]);
    let gate = world.gate("http://old");
    world.accept("default").await;
    let first = world.calls(1).await[0].id.clone();
    let change = WebhookChange { url: Some("http://new".to_owned()), ..WebhookChange::default() };
    world.store.change_webhook("default", &webhook.id, change).await.unwrap();
    gate.add_permits(1);
    let calls = world.calls(2).await;
    assert_eq!((calls[1].url.as_str(), &calls[1].id), ("http://new", &first));
    world.logged(&webhook, 2).await;
    assert_eq!(world.store.webhook("default", &webhook.id).await.unwrap().1.status, WebhookStatus::Enabled);
    world.end().await;
}

/// Where the host stops, what waits for its turn is not begun, and is still to be told.
#[tokio::test]
async fn attempts_that_wait_for_a_place_do_not_begin_after_a_stop() {
    let world = World { pace: Pace { in_all: 1, ..World::new(8).pace }, ..World::new(8) };
    world.start();
    world.webhook("default", "http://a", &[Sent]).await;
    let gate = world.gate("http://a");
    for _ in 0..3 {
        world.accept("default").await;
    }
    world.calls(1).await;
    world.stop.cancel();
    gate.add_permits(3);
    world.end().await;
    assert_eq!(world.calls(1).await.len(), 1);
    let key = world.store.waiting_webhooks().await.unwrap()[0];
    assert_eq!(world.store.waiting(key, world.clock.now(), 9).await.unwrap().due.len(), 2);
}

#[tokio::test]
async fn tenants_are_told_of_their_own() {
    let world = World::new(8);
    world.start();
    let ours = world.webhook("default", "http://ours", &[Sent]).await;
    let theirs = world.webhook("acme", "http://theirs", &[Sent]).await;
    let (our_mail, their_mail) = (world.accept("default").await, world.accept("acme").await);
    world.logged(&ours, 1).await;
    world.logged(&theirs, 1).await;
    let mut told: Vec<_> = world.calls(2).await.into_iter().map(|call| (call.url, call.message)).collect();
    told.sort();
    let expect =
        [("http://ours".to_owned(), our_mail.to_string()), ("http://theirs".to_owned(), their_mail.to_string())];
    assert_eq!(told, expect);
    assert!(world.store.webhook("acme", &ours.id).await.is_err());
    world.end().await;
}

#[tokio::test]
async fn two_secrets_sign_until_the_old_one_is_over() {
    let world = World::new(1);
    world.start();
    let webhook = world.webhook("default", "http://a", &[Sent]).await;
    let until = world.clock.now() + SignedDuration::from_hours(24);
    let secret = world.keyring.seal(&webhook.id, b"whsec_y").unwrap();
    world.store.rotate_secret("default", &webhook.id, secret, until).await.unwrap();
    world.accept("default").await;
    world.calls(1).await;
    world.pass(SignedDuration::from_hours(25));
    world.accept("default").await;
    let secrets: Vec<usize> = world.calls(2).await.iter().map(|call| call.secrets).collect();
    assert_eq!(secrets, [2, 1]);
    world.end().await;
}

/// A stop in the middle of everything: what was not written down is told again at the next start, under the same id.
#[tokio::test]
async fn what_was_under_way_is_told_after_a_restart() {
    let mut world = World::new(8);
    world.start();
    world.webhook("default", "http://a", &[Sent]).await;
    let _gate = world.gate("http://a");
    world.accept("default").await;
    let before = world.calls(1).await;
    // As a kill would: nothing is finished.
    let crashed = world.folder.path().join("crashed");
    let copy = |name: &str| std::fs::copy(world.folder.path().join(name), crashed.join(name)).map(drop);
    std::fs::create_dir_all(crashed.join("spool")).unwrap();
    for name in ["store.db", "store.db-wal", "events.db", "events.db-wal"] {
        copy(name).unwrap();
    }
    for entry in std::fs::read_dir(world.folder.path().join("spool")).unwrap() {
        let name = format!("spool/{}", entry.unwrap().file_name().to_str().unwrap());
        copy(&name).unwrap();
    }
    world.endpoints.gates.lock().unwrap().clear();
    world.store = open(&crashed);
    world.keyring = keyring(&world.store);
    world.start();
    let after = world.calls(2).await;
    assert_eq!((&before[0].id, &before[0].message), (&after[1].id, &after[1].message));
}
