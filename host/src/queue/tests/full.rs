//! A disk without room: what came of attempts is recorded all the same, and reports of it follow.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use mail::dsn::{Notify, RecipientRequest, Request};

use super::*;
use crate::store::Point;

/// A disk that takes bodies or does not.
#[derive(Default)]
struct Disk {
    is_full: AtomicBool,
    refused: AtomicBool,
    /// Writes of bodies so far.
    writes: AtomicUsize,
}

impl Faults for Disk {
    fn at(&self, point: Point) -> io::Result<()> {
        if point == Point::Appending {
            self.writes.fetch_add(1, Ordering::SeqCst);
        }
        if point == Point::Appending && self.is_full.load(Ordering::SeqCst) {
            self.refused.store(true, Ordering::SeqCst);
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }
}

/// A message whose sender is told by mail of failures.
async fn submit(running: &Running, number: u128, recipients: &[&str]) {
    let sender = Some(Address::parse("sender@origin.test").unwrap());
    let message = NewMessage { sender, request: Some(Arc::default()), ..message(number, recipients) };
    running.store.accept(vec![message]).await.pop().unwrap().unwrap();
}

fn refusing() -> (Arc<Disk>, Net) {
    let verdicts = HashMap::from([("gone@a.test".to_owned(), vec![Verdict::Bounced])]);
    let held = HashMap::from([("a".to_owned(), Arc::new(Semaphore::new(0)))]);
    (Arc::default(), Net { verdicts, held, ..Net::default() })
}

#[tokio::test]
async fn a_report_that_cannot_be_stored_holds_up_no_other_outcome() {
    let folder = folder();
    let (disk, net) = refusing();
    let running = start_on(folder.path(), disk.clone(), net, Delivery { connections_per_site: 1, ..config() });
    submit(&running, 1, &["gone@a.test", "ok@a.test"]).await;
    submit(&running, 2, &["ok@a.test"]).await;
    running.until("the first", async |this: &Running| this.net.seen.lock().unwrap().begun == 1).await;
    disk.is_full.store(true, Ordering::SeqCst);
    running.net.held["a"].add_permits(100);
    let delivered = told(EventKind::Delivered, "ok@a.test");
    for number in [1, 2] {
        let is_told = async |this: &Running| this.events(number).await == [delivered.clone()];
        running.until("the outcome of what was delivered", is_told).await;
    }
    assert!(disk.refused.load(Ordering::SeqCst), "a report was to be written");
    assert_eq!(running.store.queued().await.unwrap(), 1, "what failed is told of or not at all");
    disk.is_full.store(false, Ordering::SeqCst);
    running.until_empty().await;
    assert_eq!(running.events(1).await, [delivered, told(EventKind::Bounced, "gone@a.test")]);
    let (net, _store) = running.stop().await;
    let reports = |(site, to): &&(String, Vec<String>)| site == "origin" && to == &["sender@origin.test"];
    assert_eq!(net.seen.lock().unwrap().transactions.iter().filter(reports).count(), 1);
}

#[tokio::test]
async fn what_was_delivered_waits_for_no_report() {
    let folder = folder();
    let (disk, net) = refusing();
    let running = start_on(folder.path(), disk.clone(), net, config());
    let notify = Some(Notify { success: true, ..Notify::NEVER });
    let asked = RecipientRequest { notify, original: None, delay_told: false };
    let request = Request { recipients: BTreeMap::from([(0, asked)]), ..Request::default() };
    let sender = Some(Address::parse("sender@origin.test").unwrap());
    let message = NewMessage { sender, request: Some(Arc::new(request)), ..message(1, &["ok@a.test"]) };
    running.store.accept(vec![message]).await.pop().unwrap().unwrap();
    running.until("the first", async |this: &Running| this.net.seen.lock().unwrap().begun == 1).await;
    disk.is_full.store(true, Ordering::SeqCst);
    running.net.held["a"].add_permits(100);
    running.until_empty().await;
    assert!(disk.refused.load(Ordering::SeqCst), "a report was to be written");
    assert_eq!(running.events(1).await, [told(EventKind::Delivered, "ok@a.test")]);
}

#[tokio::test]
async fn a_report_that_was_never_stored_leaves_its_recipient_to_the_next_start() {
    let folder = folder();
    let (disk, net) = refusing();
    let running = start_on(folder.path(), disk.clone(), net, config());
    submit(&running, 1, &["gone@a.test", "ok@a.test"]).await;
    running.until("the first", async |this: &Running| this.net.seen.lock().unwrap().begun == 1).await;
    disk.is_full.store(true, Ordering::SeqCst);
    running.net.held["a"].add_permits(100);
    running.until("one left", async |this: &Running| this.store.queued().await.unwrap() == 1).await;
    let (_net, store) = running.stop().await;
    drop(store);

    let running = start(folder.path(), refusing().1, config());
    running.net.held["a"].add_permits(100);
    running.until_empty().await;
    let (net, _store) = running.stop().await;
    let mut seen: Vec<String> = net.seen.lock().unwrap().transactions.iter().flat_map(|(_, to)| to.clone()).collect();
    seen.sort();
    assert_eq!(seen, ["gone@a.test", "sender@origin.test"], "what was delivered is not delivered again");
}

/// A batch of outcomes may hold hundreds of messages that are returned whole: they are never in memory all at once.
#[tokio::test]
async fn reports_are_stored_a_few_at_a_time() {
    const FAILED: u128 = 200;
    let folder = folder();
    let disk = Arc::new(Disk::default());
    let net = Net { no_route: HashSet::from(["none.test".to_owned()]), ..Net::default() };
    let running = start_on(folder.path(), disk.clone(), net, config());
    let sender = Some(Address::parse("sender@origin.test").unwrap());
    let submitted = |number| {
        let message = message(number, &["x@none.test", "y@none.test"]);
        NewMessage { sender: sender.clone(), request: Some(Arc::default()), ..message }
    };
    let accepted = running.store.accept((1..=FAILED).map(submitted).collect()).await;
    assert!(accepted.iter().all(Result::is_ok));
    running.until_empty().await;
    let (net, _store) = running.stop().await;
    let seen = net.seen.lock().unwrap();
    let reports = seen.transactions.iter().filter(|(site, _)| site == "origin").count();
    assert_eq!(reports, FAILED as usize, "one for both recipients of a message");
    let writes = disk.writes.load(Ordering::SeqCst);
    assert!(writes > reports / 32, "{writes}");
}
