//! A disk without room: what came of attempts is recorded all the same, and reports of it follow.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use mail::dsn::{Notify, RecipientRequest, Request};

use super::*;
use crate::store::Point;

/// A disk that takes bodies or does not.
#[derive(Default)]
struct Disk {
    is_full: AtomicBool,
    refused: AtomicBool,
}

impl Faults for Disk {
    fn at(&self, point: Point) -> io::Result<()> {
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

/// More than one batch takes (see `completing`).
#[tokio::test]
async fn recipients_that_fail_together_are_told_of_in_one_report() {
    const FAILED: u128 = 200;
    let folder = folder();
    let net = Net { no_route: HashSet::from(["none.test".to_owned()]), ..Net::default() };
    let running = start(folder.path(), net, config());
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
}

/// Two domains fail one after the other, so that the recipients of a message come apart.
#[tokio::test]
async fn each_failure_is_told_of_once_however_they_are_mixed() {
    const FAILED: u128 = 70;
    let folder = folder();
    let net = Net { no_route: HashSet::from(["none.test".to_owned(), "gone.test".to_owned()]), ..Net::default() };
    let running = start(folder.path(), net, config());
    let sender = Some(Address::parse("sender@origin.test").unwrap());
    let recipients = |number: u128| [format!("x{number}@none.test"), format!("y{number}@gone.test")];
    let submitted = |number| {
        let message = message(number, &recipients(number).each_ref().map(String::as_str));
        NewMessage { sender: sender.clone(), request: Some(Arc::default()), ..message }
    };
    let accepted = running.store.accept((1..=FAILED).map(submitted).collect()).await;
    assert!(accepted.iter().all(Result::is_ok));
    running.until_empty().await;
    let (net, _store) = running.stop().await;
    let bodies: Vec<String> =
        net.seen.lock().unwrap().bodies.iter().map(|body| String::from_utf8_lossy(body).into_owned()).collect();
    for recipient in (1..=FAILED).flat_map(recipients) {
        let field = format!("Final-Recipient: rfc822; {recipient}\r\n");
        assert_eq!(bodies.iter().map(|body| body.matches(&field).count()).sum::<usize>(), 1, "{recipient}");
    }
}

/// More than are leased at once: what needs no report is delivered beside them.
#[tokio::test]
async fn failures_whose_reports_cannot_be_stored_stop_no_delivery() {
    const MESSAGES: u128 = 17;
    const OF_EACH: usize = 1000;
    let folder = folder();
    let disk = Arc::new(Disk::default());
    let (gate, other) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let held = HashMap::from([("a".to_owned(), gate.clone()), ("b".to_owned(), other.clone())]);
    let verdicts = HashMap::from([("y@b.test".to_owned(), vec![Verdict::Deferred, Verdict::Delivered])]);
    let net = Net { held, verdicts, bouncing: HashSet::from(["a".to_owned()]), ..Net::default() };
    let running = start_on(folder.path(), disk.clone(), net, config());
    submit(&running, 100, &["y@b.test"]).await;
    for number in 1..=MESSAGES {
        let all: Vec<String> = (0..OF_EACH).map(|place| format!("x{number}.{place}@a.test")).collect();
        submit(&running, number, &all.iter().map(String::as_str).collect::<Vec<_>>()).await;
    }
    disk.is_full.store(true, Ordering::SeqCst);
    gate.add_permits(1000);
    // All that a window has room for, and its last lease.
    let attempted = async |this: &Running| this.net.seen.lock().unwrap().attempts.len() >= 16 * 1024 - 256;
    running.until("failures", attempted).await;
    other.add_permits(2);
    let delivered =
        async |this: &Running| this.events(100).await.last() == Some(&told(EventKind::Delivered, "y@b.test"));
    running.until("the other's outcome", delivered).await;
    let failed = MESSAGES as u64 * OF_EACH as u64;
    assert_eq!(running.store.queued().await.unwrap(), failed, "what failed is told of or not at all");
    disk.is_full.store(false, Ordering::SeqCst);
    running.until("some are told of", async |this: &Running| this.store.queued().await.unwrap() <= failed - 7000).await;
    let (_net, store) = running.stop().await;
    let left = store.lease(Timestamp::now() + Duration::from_secs(3600), usize::MAX).await.unwrap();
    let left: Vec<_> = left.iter().flat_map(|message| &message.recipients).collect();
    assert!(left.iter().filter(|one| one.attempts == 1).count() > 7000, "the others are attempted again later");
}
