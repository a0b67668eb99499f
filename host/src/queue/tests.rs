//! The queue with a played network and the real store.

#![allow(clippy::unwrap_used)]

mod bodies;
mod full;
mod turns;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use jiff::Timestamp;
use mail::outcome::Phase;
use mail::{EnhancedCode, EventKind, Verdict};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::*;
use crate::bounce::Reporting;
use crate::config::{Delivery, TlsPolicy};
use crate::queue::policy::Schedules;
use crate::route::Plan;
use crate::store::{Embedded, Faults, NewMessage, NoFaults, Options, Store};

const DEADLINE: Duration = Duration::from_secs(20);

/// A network that does as it is told. The site of a domain is the part before its first dot, so that `mx.a.test` and
/// `mx.b.test` share one.
#[derive(Default)]
struct Net {
    /// What recipients get, in order; at the end the last repeats. Without any: delivered.
    verdicts: HashMap<String, Vec<Verdict>>,
    no_route: HashSet<String>,
    /// Domains whose lookup fails for now.
    lost: HashSet<String>,
    dead_sites: HashSet<String>,
    /// Sites whose peers say nothing at all.
    silent_sites: HashSet<String>,
    /// Sites that bounce all recipients.
    bouncing: HashSet<String>,
    /// Sites whose transactions wait for a permit each.
    held: HashMap<String, Arc<Semaphore>>,
    /// Recipients at whom a session breaks.
    breaks_at: HashSet<String>,
    /// The peer closes behind each message.
    hangs_up: bool,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    connects: BTreeMap<String, usize>,
    lookups: HashMap<String, usize>,
    open: usize,
    most_open: usize,
    transactions: Vec<(String, Vec<String>)>,
    attempts: HashMap<String, usize>,
    bodies: Vec<Bytes>,
    begun: usize,
}

struct NetSession {
    net: Arc<Net>,
    site: String,
    open: bool,
}

fn outcome(verdict: Verdict) -> Outcome {
    Outcome {
        verdict,
        phase: Phase::Data,
        status: EnhancedCode::new(2, 0, 0),
        remote_host: None,
        reply: None,
        text: String::new(),
        tls: None,
    }
}

fn site(domain: &Domain) -> Site {
    let key = domain.as_str().split('.').next().unwrap_or_default();
    let plan = Plan { hosts: Vec::new(), port: 25, tls: TlsPolicy::Off, auth: None, egress: None };
    Site { key: key.into(), plan: Arc::new(plan) }
}

struct Courierly(Arc<Net>);

#[async_trait]
impl Courier for Courierly {
    async fn route(&self, domain: &Domain) -> Result<Site, Box<Outcome>> {
        *self.0.seen.lock().unwrap().lookups.entry(domain.to_string()).or_default() += 1;
        if domain.as_str().ends_with(".silent.test") {
            std::future::pending::<()>().await;
        }
        if self.0.lost.contains(domain.as_str()) {
            return Err(Box::new(outcome(Verdict::Deferred)));
        }
        if self.0.no_route.contains(domain.as_str()) {
            return Err(Box::new(outcome(Verdict::Bounced)));
        }
        Ok(site(domain))
    }

    fn known_route(&self, domain: &Domain) -> Option<Site> {
        (domain.as_str() == "relayed.test").then(|| site(domain))
    }

    async fn connect(&self, site: &Site) -> Result<Box<dyn Session>, Box<Outcome>> {
        *self.0.seen.lock().unwrap().connects.entry(site.key.to_string()).or_default() += 1;
        if self.0.silent_sites.contains(&*site.key) {
            std::future::pending::<()>().await;
        }
        let mut seen = self.0.seen.lock().unwrap();
        if self.0.dead_sites.contains(&*site.key) {
            return Err(Box::new(outcome(Verdict::Deferred)));
        }
        seen.open += 1;
        seen.most_open = seen.most_open.max(seen.open);
        Ok(Box::new(NetSession { net: self.0.clone(), site: site.key.to_string(), open: true }))
    }
}

#[async_trait]
impl Session for NetSession {
    async fn send(&mut self, transaction: &Transaction) -> Vec<Outcome> {
        self.net.seen.lock().unwrap().begun += 1;
        if let Some(gate) = self.net.held.get(&self.site) {
            gate.acquire().await.unwrap().forget();
        }
        let mut seen = self.net.seen.lock().unwrap();
        self.open = !self.net.hangs_up;
        let recipients: Vec<String> = transaction.recipients.iter().map(ToString::to_string).collect();
        seen.transactions.push((self.site.clone(), recipients.clone()));
        seen.bodies.push(transaction.body.clone());
        if let Some(broken) = recipients.iter().find(|recipient| self.net.breaks_at.contains(*recipient)) {
            let broken = broken.clone();
            drop(seen);
            panic!("played: a session breaks at {broken}");
        }
        let verdict = |recipient: &String| {
            let attempt = seen.attempts.entry(recipient.clone()).or_default();
            *attempt += 1;
            let script = self.net.verdicts.get(recipient);
            let verdict = script.and_then(|script| script.get(*attempt - 1).or(script.last()));
            let bounces = self.net.bouncing.contains(&self.site);
            outcome(verdict.copied().unwrap_or(if bounces { Verdict::Bounced } else { Verdict::Delivered }))
        };
        recipients.iter().map(verdict).collect()
    }

    fn is_open(&self) -> bool {
        self.open
    }

    async fn close(self: Box<Self>) {}
}

impl Drop for NetSession {
    fn drop(&mut self) {
        self.net.seen.lock().unwrap().open -= 1;
    }
}

fn config() -> Delivery {
    let text = "hostname = \"relay.test\"\ndata = \"d\"\n[http]\nlisten = \"127.0.0.1:1\"\n[delivery]\nexpire_after = \"1h\"\n\
                retry_delays = [\"20ms\"]\nconnections_per_site = 4\nconnections = 8\nidle_connection = \"20ms\"\n";
    crate::config::parse(Path::new("test.toml"), text, &|_| None).unwrap().delivery
}

fn schedules(config: &Delivery) -> Schedules {
    let hostname = Domain::parse("relay.test").unwrap();
    let reporting = Reporting { hostname, bounces: config.bounces, delay_after: config.report_delay_after };
    Schedules::new(config, &[], reporting)
}

struct Running {
    net: Arc<Net>,
    store: Arc<Embedded>,
    queue: Queue,
    shutdown: CancellationToken,
}

fn start(folder: &Path, net: Net, config: Delivery) -> Running {
    start_on(folder, Arc::new(NoFaults), net, config)
}

fn start_on(folder: &Path, disk: Arc<dyn Faults>, net: Net, config: Delivery) -> Running {
    // Bodies are read from the disk, where tests can damage them.
    let options = Options { reserve_bytes: 0, fresh_bytes: 0, ..Options::default() };
    let store = Embedded::open_with(folder, options, disk).unwrap();
    let net = Arc::new(net);
    let shutdown = CancellationToken::new();
    let courier = Arc::new(Courierly(net.clone()));
    let queue = Queue::start(store.clone(), courier, config.clone(), schedules(&config), shutdown.clone());
    Running { net, store, queue, shutdown }
}

fn message(number: u128, recipients: &[&str]) -> NewMessage {
    NewMessage {
        id: Uuid::from_u128(number),
        tenant: "default".to_owned(),
        sender: None,
        recipients: recipients.iter().map(|text| Address::parse(text).unwrap()).collect(),
        bcc: Vec::new(),
        body: Bytes::from(format!("Subject: {number}\r\n\r\n")),
        attributes: Vec::new(),
        tags: Vec::new(),
        idempotency: None,
        accepted_at: Timestamp::now(),
        scheduled_at: None,
        request: None,
    }
}

impl Running {
    async fn accept(&self, number: u128, recipients: &[&str]) {
        self.accept_at(number, recipients, Timestamp::now()).await;
    }

    async fn accept_at(&self, number: u128, recipients: &[&str], accepted_at: Timestamp) {
        self.accept_of("default", number, recipients, accepted_at).await;
    }

    async fn accept_of(&self, tenant: &str, number: u128, recipients: &[&str], accepted_at: Timestamp) {
        let message = NewMessage { tenant: tenant.to_owned(), accepted_at, ..message(number, recipients) };
        self.store.accept(vec![message]).await.pop().unwrap().unwrap();
    }

    async fn until(&self, what: &str, done: impl AsyncFn(&Running) -> bool) {
        let waiting = async {
            while !done(self).await {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        assert!(tokio::time::timeout(DEADLINE, waiting).await.is_ok(), "never came: {what}");
    }

    async fn until_empty(&self) {
        self.until("an empty queue", async |this: &Running| this.store.queued().await.unwrap() == 0).await;
    }

    /// The events of a message, but for `email.sent`, as kind and recipient.
    async fn events(&self, number: u128) -> Vec<(EventKind, String)> {
        let page = self.store.events("default", Uuid::from_u128(number), None, 1000).await.unwrap();
        let told = page.items.into_iter().map(|record| (record.event.kind, record.event.recipient.to_string()));
        told.filter(|(kind, _)| *kind != EventKind::Sent).collect()
    }

    async fn stop(self) -> (Arc<Net>, Arc<Embedded>) {
        self.shutdown.cancel();
        tokio::time::timeout(DEADLINE, self.queue.stopped(DEADLINE)).await.unwrap();
        (self.net, self.store)
    }

    fn transactions(&self) -> usize {
        self.net.seen.lock().unwrap().transactions.len()
    }
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn told(kind: EventKind, recipient: &str) -> (EventKind, String) {
    (kind, recipient.to_owned())
}

#[tokio::test]
async fn a_message_is_delivered_and_told() {
    let folder = folder();
    let running = start(folder.path(), Net::default(), config());
    running.accept(1, &["x@a.test"]).await;
    running.until_empty().await;
    assert_eq!(running.events(1).await, [told(EventKind::Delivered, "x@a.test")]);
    let view = running.store.message("default", Uuid::from_u128(1)).await.unwrap();
    assert_eq!(view.last_event.as_deref(), Some("delivered"));
    let (net, _store) = running.stop().await;
    let seen = net.seen.lock().unwrap();
    assert_eq!(seen.bodies, [Bytes::from_static(b"Subject: 1\r\n\r\n")]);
    assert_eq!(seen.open, 0);
}

#[tokio::test]
async fn a_deferred_recipient_is_tried_again_alone() {
    let folder = folder();
    let verdicts = HashMap::from([
        ("late@a.test".to_owned(), vec![Verdict::Deferred, Verdict::Deferred, Verdict::Delivered]),
        ("gone@a.test".to_owned(), vec![Verdict::Bounced]),
        ("odd@a.test".to_owned(), vec![Verdict::Failed]),
    ]);
    let running = start(folder.path(), Net { verdicts, ..Net::default() }, config());
    running.accept(1, &["ok@a.test", "late@a.test", "gone@a.test", "odd@a.test"]).await;
    running.until_empty().await;
    let mut events = running.events(1).await;
    events[..4].sort_by(|a, b| a.1.cmp(&b.1));
    assert_eq!(
        events,
        [
            told(EventKind::Bounced, "gone@a.test"),
            told(EventKind::DeliveryDelayed, "late@a.test"),
            told(EventKind::Failed, "odd@a.test"),
            told(EventKind::Delivered, "ok@a.test"),
            told(EventKind::DeliveryDelayed, "late@a.test"),
            told(EventKind::Delivered, "late@a.test"),
        ]
    );
    let (net, _store) = running.stop().await;
    let sizes: Vec<usize> = net.seen.lock().unwrap().transactions.iter().map(|(_, to)| to.len()).collect();
    assert_eq!(sizes, [4, 1, 1]);
}

#[tokio::test]
async fn an_old_message_fails_as_expired() {
    let folder = folder();
    let verdicts = HashMap::from([("x@a.test".to_owned(), vec![Verdict::Deferred])]);
    let running = start(folder.path(), Net { verdicts, ..Net::default() }, config());
    let old = Timestamp::now().checked_sub(jiff::SignedDuration::from_hours(2)).unwrap();
    running.accept_at(1, &["x@a.test", "y@a.test"], old).await;
    running.until_empty().await;
    let page = running.store.events("default", Uuid::from_u128(1), None, 9).await.unwrap();
    let failed: Vec<_> = page.items.iter().filter(|record| record.event.kind == EventKind::Failed).collect();
    assert_eq!(failed.len(), 1);
    assert_eq!(failed[0].event.reason.as_deref(), Some(policy::EXPIRED));
    assert_eq!(failed[0].event.recipient.to_string(), "x@a.test");
    assert!(
        running.events(1).await.contains(&told(EventKind::Delivered, "y@a.test")),
        "old, but it could be delivered"
    );
    running.stop().await;
}

#[tokio::test]
async fn a_domain_without_a_route_gets_its_outcome() {
    let folder = folder();
    let net = Net { no_route: HashSet::from(["none.test".to_owned()]), ..Net::default() };
    let running = start(folder.path(), net, config());
    running.accept(1, &["x@none.test", "y@a.test"]).await;
    running.until_empty().await;
    let mut events = running.events(1).await;
    events.sort_by(|a, b| a.1.cmp(&b.1));
    assert_eq!(events, [told(EventKind::Bounced, "x@none.test"), told(EventKind::Delivered, "y@a.test")]);
    running.stop().await;
}

#[tokio::test]
async fn a_failed_lookup_is_remembered_for_a_while() {
    let folder = folder();
    let net = Net { lost: HashSet::from(["lost.test".to_owned()]), ..Net::default() };
    let retry_delays = vec![Duration::from_secs(3600)];
    let running = start(folder.path(), net, Delivery { retry_delays, ..config() });
    for number in 1..=5 {
        running.accept(number, &["x@lost.test"]).await;
        let told = [told(EventKind::DeliveryDelayed, "x@lost.test")];
        running.until("a delay", async |this: &Running| this.events(number).await == told).await;
    }
    let (net, _store) = running.stop().await;
    assert_eq!(net.seen.lock().unwrap().lookups["lost.test"], 1);
}

#[tokio::test]
async fn dead_and_stuck_sites_do_not_hold_up_others() {
    let folder = folder();
    let held = HashMap::from([("stuck".to_owned(), Arc::new(Semaphore::new(0)))]);
    let dead_sites = HashSet::from(["dead".to_owned()]);
    let retry_delays = vec![Duration::from_secs(3600)];
    let running =
        start(folder.path(), Net { held, dead_sites, ..Net::default() }, Delivery { retry_delays, ..config() });
    for number in 1..=50 {
        running.accept(number, &["x@stuck.test", "x@dead.test", "x@good.test"]).await;
    }
    let good = async |this: &Running| {
        let seen = this.net.seen.lock().unwrap();
        seen.transactions.iter().filter(|(site, _)| site == "good").count() == 50
    };
    running.until("all mail for the good site", good).await;
    running
        .until("50 deferred", async |this: &Running| {
            let mut delayed = 0;
            for number in 1..=50 {
                delayed +=
                    usize::from(this.events(number).await.contains(&told(EventKind::DeliveryDelayed, "x@dead.test")));
            }
            delayed == 50
        })
        .await;
    let dead = running.net.seen.lock().unwrap().connects["dead"];
    assert!(dead <= 2, "{dead} connections to a dead site for 50 messages");
    running.net.held["stuck"].add_permits(100);
    running.until("50 left", async |this: &Running| this.store.queued().await.unwrap() == 50).await;
    running.stop().await;
}

#[tokio::test]
async fn stalling_sites_and_a_backlog_do_not_hold_up_others() {
    let folder = folder();
    let names = ["one", "two", "three", "four", "five", "six"];
    let held = names.iter().map(|name| ((*name).to_owned(), Arc::new(Semaphore::new(0)))).collect();
    let config = Delivery { connections: 100, ..config() };
    let running = start(folder.path(), Net { held, ..Net::default() }, config);
    // Each would fill the window by itself.
    for (number, name) in names.iter().enumerate() {
        let to: Vec<String> = (0..1000).map(|n| format!("r{n}@{name}.test")).collect();
        let to: Vec<&str> = to.iter().map(String::as_str).collect();
        for round in 0..18 {
            running.accept_of("bulk", (100 * round + number + 1) as u128, &to, Timestamp::now()).await;
        }
    }
    running.accept_of("bulk", 5000, &["x@good.test"], Timestamp::now()).await;
    running.accept_of("other", 5001, &["y@good.test"], Timestamp::now()).await;
    running.until("the others' mail", async |this: &Running| this.transactions() == 2).await;
    running.net.held["one"].add_permits(100_000);
    // More than was ever held in memory for it.
    let all_of_one = async |this: &Running| {
        let seen = this.net.seen.lock().unwrap();
        let of_one = seen.transactions.iter().filter(|(site, _)| site == "one");
        of_one.map(|(_, recipients)| recipients.len()).sum::<usize>() == 18_000
    };
    running.until("all of a site that recovered", all_of_one).await;
    running.shutdown.cancel();
    // What is under way may end.
    running.net.held.values().for_each(|gate| gate.add_permits(100));
    let (_net, store) = running.stop().await;
    assert!(store.queued().await.unwrap() >= 5 * 18_000 - 5 * 4 * 100, "the others' mail is there");
}

#[tokio::test]
async fn two_queues_on_one_store_deliver_each_message_once() {
    let folder = folder();
    let first = start(folder.path(), Net::default(), config());
    let courier = Arc::new(Courierly(first.net.clone()));
    let second = Queue::start(first.store.clone(), courier, config(), schedules(&config()), first.shutdown.clone());
    for number in 1..=300 {
        first.accept(number, &["x@a.test", "y@b.test"]).await;
    }
    first.until_empty().await;
    let (net, _store) = first.stop().await;
    second.stopped(DEADLINE).await;
    let seen = net.seen.lock().unwrap();
    let mut bodies: BTreeMap<(String, Bytes), usize> = BTreeMap::new();
    for ((site, _), body) in seen.transactions.iter().zip(&seen.bodies) {
        *bodies.entry((site.clone(), body.clone())).or_default() += 1;
    }
    assert_eq!(bodies.len(), 600);
    assert!(bodies.values().all(|times| *times == 1), "{bodies:?}");
}

#[tokio::test]
async fn a_connection_is_used_for_many_messages_up_to_its_limit() {
    let folder = folder();
    let config = Delivery { connections_per_site: 1, messages_per_connection: 10, ..config() };
    let held = HashMap::from([("a".to_owned(), Arc::new(Semaphore::new(0)))]);
    let running = start(folder.path(), Net { held, ..Net::default() }, config);
    for number in 1..=30 {
        running.accept(number, &["x@a.test"]).await;
    }
    running.net.held["a"].add_permits(100);
    running.until_empty().await;
    let (net, _store) = running.stop().await;
    let seen = net.seen.lock().unwrap();
    assert_eq!((seen.connects["a"], seen.most_open, seen.transactions.len()), (3, 1, 30));
}

#[tokio::test]
async fn a_peer_that_hangs_up_gets_a_new_connection() {
    let folder = folder();
    let running = start(folder.path(), Net { hangs_up: true, ..Net::default() }, config());
    for number in 1..=10 {
        running.accept(number, &["x@a.test"]).await;
    }
    running.until_empty().await;
    // A connection that finds its message taken by another is idle for a while.
    let connects = running.net.seen.lock().unwrap().connects["a"];
    assert!(connects >= 10, "{connects}");
    running.stop().await;
}

#[tokio::test]
async fn limits_of_connections_hold() {
    let folder = folder();
    let names = ["a", "b", "c", "d", "e", "f"];
    let held = names.iter().map(|name| ((*name).to_owned(), Arc::new(Semaphore::new(0)))).collect();
    let config = Delivery { connections_per_site: 2, connections: 3, ..config() };
    let running = start(folder.path(), Net { held, ..Net::default() }, config);
    for number in 0..30 {
        let to = format!("x@{}.test", names[number as usize % names.len()]);
        running.accept(number + 1, &[&to]).await;
    }
    running.until("three under way", async |this: &Running| this.net.seen.lock().unwrap().begun == 3).await;
    running.net.held.values().for_each(|gate| gate.add_permits(100));
    running.until_empty().await;
    let (net, _store) = running.stop().await;
    assert_eq!(net.seen.lock().unwrap().most_open, 3);
}

#[tokio::test]
async fn recipients_at_one_site_share_a_transaction() {
    let folder = folder();
    let running = start(folder.path(), Net::default(), Delivery { connections_per_site: 1, ..config() });
    let all = ["x@mx.a.test", "y@mx.b.test", "z@mx.c.test"];
    // Looks the domains up.
    running.accept(1, &all).await;
    running.until_empty().await;
    running.accept(2, &all).await;
    running.until_empty().await;
    let (net, _store) = running.stop().await;
    let transactions = &net.seen.lock().unwrap().transactions;
    assert_eq!(transactions.last().unwrap().1, all);
}

#[tokio::test]
async fn a_shutdown_ends_what_is_under_way_and_releases_the_rest() {
    let folder = folder();
    let held = HashMap::from([("a".to_owned(), Arc::new(Semaphore::new(0)))]);
    let running =
        start(folder.path(), Net { held, ..Net::default() }, Delivery { connections_per_site: 1, ..config() });
    for number in 1..=5 {
        running.accept(number, &["x@a.test"]).await;
    }
    running.until("the first", async |this: &Running| this.net.seen.lock().unwrap().begun == 1).await;
    running.shutdown.cancel();
    running.net.held["a"].add_permits(1);
    let (net, store) = running.stop().await;
    assert_eq!(net.seen.lock().unwrap().transactions.len(), 1);
    assert_eq!(store.queued().await.unwrap(), 4);
    let leased = store.lease(Timestamp::now(), 99).await.unwrap();
    assert_eq!(leased.len(), 4, "all leases were given back");
    assert!(leased.iter().all(|message| message.recipients[0].attempts == 0));
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_gives_up_what_takes_too_long() {
    let folder = folder();
    let held = HashMap::from([("a".to_owned(), Arc::new(Semaphore::new(0)))]);
    let running = start(folder.path(), Net { held, ..Net::default() }, config());
    running.accept(1, &["x@a.test"]).await;
    running.until("the first", async |this: &Running| this.net.seen.lock().unwrap().begun == 1).await;
    running.shutdown.cancel();
    // No deadline: the paused clock would run ahead of the store's own thread.
    running.queue.stopped(DEADLINE).await;
    assert_eq!(running.store.lease(Timestamp::now(), 99).await.unwrap().len(), 1);
}

#[test]
fn a_kill_loses_nothing() {
    let folder = folder();
    let runtime = || tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let held = HashMap::from([("stuck".to_owned(), Arc::new(Semaphore::new(0)))]);
    let first = runtime();
    first.block_on(async {
        let running = start(folder.path(), Net { held, ..Net::default() }, config());
        for number in 1..=20 {
            running.accept(number, &["x@stuck.test", "x@good.test"]).await;
        }
        running.until("some", async |this: &Running| this.transactions() >= 20).await;
    });
    // The tasks go as they are, transactions under way included.
    drop(first);
    let second = runtime();
    second.block_on(async {
        let running = start(folder.path(), Net::default(), config());
        running.until_empty().await;
        for number in 1..=20 {
            for recipient in ["x@stuck.test", "x@good.test"] {
                assert!(running.events(number).await.contains(&told(EventKind::Delivered, recipient)));
            }
        }
        running.stop().await;
    });
}

#[tokio::test]
async fn a_damaged_body_fails_and_harms_no_other() {
    let folder = folder();
    let held = HashMap::from([("a".to_owned(), Arc::new(Semaphore::new(0)))]);
    let running =
        start(folder.path(), Net { held, ..Net::default() }, Delivery { connections_per_site: 1, ..config() });
    running.accept(1, &["x@a.test"]).await;
    running.until("the first", async |this: &Running| this.net.seen.lock().unwrap().begun == 1).await;
    running.accept(2, &["x@a.test"]).await;
    running.accept(3, &["x@a.test"]).await;
    let segment = std::fs::read_dir(folder.path().join("spool")).unwrap().next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&segment).unwrap();
    let second = bytes.windows(10).position(|window| window == b"Subject: 2").unwrap();
    bytes[second] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    running.net.held["a"].add_permits(100);
    running.until_empty().await;
    assert_eq!(running.events(1).await, [told(EventKind::Delivered, "x@a.test")]);
    assert_eq!(running.events(2).await, [told(EventKind::Failed, "x@a.test")]);
    assert_eq!(running.events(3).await, [told(EventKind::Delivered, "x@a.test")]);
    let page = running.store.events("default", Uuid::from_u128(2), None, 9).await.unwrap();
    assert_eq!(page.items.last().unwrap().event.reason.as_deref(), Some(DAMAGED));
    assert_eq!(running.store.damaged(), 1);
    running.stop().await;
}
