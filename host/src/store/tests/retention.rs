//! What the disk gets back: pinned segments, rows of messages and events, and bodies where it is full.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;

/// Messages beyond what the disk has room for.
const TOO_MANY: u128 = 10_000;

fn options(segment_bytes: u64) -> Options {
    let (retention, keep_messages) = (Some(Duration::from_secs(50)), Some(Duration::from_secs(1000)));
    Options { segment_bytes, retention, keep_messages, ..still() }
}

fn segments(folder: &Path) -> usize {
    let files = std::fs::read_dir(folder.join("spool")).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "seg")).count()
}

async fn finish(store: &Embedded, leased: &[Leased], but: u128) {
    let done = leased.iter().filter(|one| one.message.as_u128() != but);
    store.complete(done.map(|one| completion(one, 0, Next::Done, Some(EventKind::Delivered))).collect()).await.unwrap();
}

#[tokio::test]
async fn one_old_message_does_not_keep_its_segment() {
    let folder = tempfile::tempdir().unwrap();
    let store = Embedded::open(folder.path(), options(2000)).unwrap();
    for number in 1..=60 {
        accept(&store, message(number, 0, 1)).await.unwrap();
    }
    let leased = store.lease(at(0), 99).await.unwrap();
    finish(&store, &leased, 3).await;
    let before = segments(folder.path());
    assert!(before >= 3, "{before}");
    store.sweep(at(200)).await;
    store.sweep(at(200)).await;
    let pinned = segments(folder.path());
    assert!(pinned < before, "the others go");
    assert!(store.body(&leased[2].body).await.is_ok(), "what is leased stays where its holder looks for it");
    let held = leased.iter().find(|one| one.message.as_u128() == 3).unwrap();
    store.complete(vec![completion(held, 0, Next::Retry(at(300)), None)]).await.unwrap();
    store.sweep(at(200)).await;
    store.sweep(at(200)).await;
    assert!(store.body(&held.body).await.is_err(), "its old place is gone");
    let again = store.lease(at(300), 9).await.unwrap();
    assert_eq!(store.body(&again[0].body).await.unwrap(), message(3, 0, 1).body);
    let released = vec![completion(&again[0], 0, Next::Release, None)];
    store.complete(released).await.unwrap();
    // New mail goes behind it, also after a restart, and nothing writes over it.
    accept(&store, message(61, 0, 1)).await.unwrap();
    drop(store);
    for round in 0..30 {
        let store = Embedded::open(folder.path(), options(2000)).unwrap();
        accept(&store, message(62 + round, 0, 1)).await.unwrap();
    }
    let store = Embedded::open(folder.path(), options(2000)).unwrap();
    let leased = store.lease(at(300), 99).await.unwrap();
    assert_eq!(leased.len(), 32);
    for one in &leased {
        assert_eq!(store.body(&one.body).await.unwrap(), message(one.message.as_u128(), 0, 1).body);
    }
    finish(&store, &leased, 0).await;
    for _ in 0..3 {
        store.sweep(at(9999)).await;
    }
    assert_eq!(segments(folder.path()), 1, "all but the one that is written to");
}

#[tokio::test]
async fn rows_and_events_go_when_their_time_is_over_and_no_key_comes_again() {
    let folder = tempfile::tempdir().unwrap();
    let store = Embedded::open(folder.path(), options(1 << 20)).unwrap();
    store.accept((1..=700).map(|number| message(number, 0, 1)).collect()).await;
    let leased = store.lease(at(0), 999).await.unwrap();
    finish(&store, &leased, 2).await;
    let gone = async |number: u128| store.message("default", Uuid::from_u128(number)).await.is_err();
    // The outbox holds their events still: they are not forgotten before they moved.
    store.sweep(at(5000)).await;
    assert!(!gone(1).await);
    store.move_events().await;
    store.sweep(at(1099)).await;
    assert!(!gone(1).await, "its time is not over yet");
    store.sweep(at(1101)).await;
    assert!(gone(1).await && gone(699).await);
    assert!(!gone(2).await, "it is queued");
    assert!(!gone(700).await, "the newest stays");
    drop(store);
    let store = Embedded::open(folder.path(), options(1 << 20)).unwrap();
    accept(&store, message(701, 0, 1)).await.unwrap();
    assert_eq!(kinds(&store, 701).await, [EventKind::Sent]);
    assert_eq!(kinds(&store, 2).await, [EventKind::Sent]);
    let events = rusqlite::Connection::open(folder.path().join("events.db")).unwrap();
    let left: i64 = events.query_row("SELECT count(DISTINCT message) FROM event", [], |row| row.get(0)).unwrap();
    assert_eq!(left, 2, "those of 2 and of the newest");
    let page = store.messages("default", None, 9).await.unwrap();
    assert_eq!(page.items.iter().map(|view| view.id.as_u128()).collect::<Vec<_>>(), [701, 700, 2]);
}

#[tokio::test]
async fn a_disk_below_its_reserve_gives_up_bodies_that_nobody_waits_for() {
    let folder = tempfile::tempdir().unwrap();
    let store = Embedded::open(folder.path(), options(200)).unwrap();
    for number in 1..=4 {
        accept(&store, message(number, 0, 1)).await.unwrap();
    }
    let leased = store.lease(at(0), 9).await.unwrap();
    finish(&store, &leased, 4).await;
    store.sweep(at(110)).await;
    assert!(store.body(&leased[0].body).await.is_ok(), "its retention is not over");
    drop(store);
    let store = Embedded::open(folder.path(), Options { reserve_bytes: u64::MAX, ..options(200) }).unwrap();
    assert!(matches!(accept(&store, message(5, 0, 1)).await, Err(StoreError::Full)));
    store.sweep(at(110)).await;
    assert!(store.body(&leased[0].body).await.is_err());
    let left = store.lease(at(110), 9).await.unwrap();
    assert_eq!(store.body(&left[0].body).await.unwrap(), message(4, 0, 1).body, "what is queued stays");
}

/// A disk on which the spool has so much room.
struct SmallDisk {
    spool: PathBuf,
    capacity_bytes: AtomicU64,
}

impl SmallDisk {
    fn new(folder: &Path, capacity_bytes: u64) -> Arc<SmallDisk> {
        Arc::new(SmallDisk { spool: folder.join("spool"), capacity_bytes: AtomicU64::new(capacity_bytes) })
    }

    /// Files of segments that are kept to be used again.
    fn kept(&self) -> usize {
        let files = std::fs::read_dir(&self.spool).unwrap().map(|entry| entry.unwrap().path());
        files.filter(|path| path.extension().is_some_and(|extension| extension == "free")).count()
    }

    fn used_bytes(&self) -> u64 {
        let files = std::fs::read_dir(&self.spool).unwrap().map(|entry| entry.unwrap().path());
        // A file may go while it is looked at.
        files.filter_map(|path| path.metadata().ok()).map(|it| it.len()).sum()
    }
}

impl Faults for SmallDisk {
    fn at(&self, _point: Point) -> std::io::Result<()> {
        Ok(())
    }

    fn free_bytes(&self, _folder: &Path) -> Option<u64> {
        Some(self.capacity_bytes.load(Ordering::SeqCst).saturating_sub(self.used_bytes()))
    }
}

/// Hands messages in from a number on until one is answered as `is_over` wants; the number of that one.
async fn accept_until(store: &Embedded, from: u128, is_over: impl Fn(&Result<Accepted, StoreError>) -> bool) -> u128 {
    let mut number = from;
    loop {
        let answer = accept(store, message(number, 0, 1)).await;
        if is_over(&answer) {
            return number;
        }
        assert!(number < from + TOO_MANY, "{number}: {answer:?}");
        number += 1;
    }
}

#[tokio::test]
async fn a_full_disk_gets_bodies_back_and_mail_is_taken_again() {
    // One segment has room for more than the disk, or there are many.
    for segment_bytes in [2000, 100_000] {
        fill_and_free(segment_bytes).await;
    }
}

async fn fill_and_free(segment_bytes: u64) {
    const KEPT: u128 = 3;
    let folder = tempfile::tempdir().unwrap();
    let disk = SmallDisk::new(folder.path(), 40_000);
    let store =
        Embedded::open_with(folder.path(), Options { reserve_bytes: 10_000, ..options(segment_bytes) }, disk.clone())
            .unwrap();
    let mut next = 1;
    for _ in 0..2 {
        let full = accept_until(&store, next, |answer| matches!(answer, Err(StoreError::Full))).await;
        assert!(store.is_full() && disk.used_bytes() > 30_000, "{}", disk.used_bytes());
        assert!(store.message("default", Uuid::from_u128(full)).await.is_err(), "what is refused is not there");
        // Deliveries go on, all but one. Their retention has only begun.
        let leased = store.lease(at(0), usize::MAX).await.unwrap();
        finish(&store, &leased, KEPT).await;
        let held = leased.iter().find(|one| one.message.as_u128() == KEPT).unwrap();
        store.complete(vec![completion(held, 0, Next::Release, None)]).await.unwrap();
        assert!(matches!(accept(&store, message(full, 0, 1)).await, Err(StoreError::Full)));
        // What is queued moves off its segment first, which then goes too.
        for _ in 0..3 {
            store.sweep(at(1)).await;
        }
        assert!(disk.used_bytes() < 10_000, "{} octets in {} segments", disk.used_bytes(), segments(folder.path()));
        accept(&store, message(full, 0, 1)).await.unwrap();
        let taken = full;
        assert!(!store.is_full());
        let left = store.lease(at(0), usize::MAX).await.unwrap();
        let mut numbers: Vec<u128> = left.iter().map(|one| one.message.as_u128()).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, [KEPT, taken]);
        for one in &left {
            assert_eq!(store.body(&one.body).await.unwrap(), message(one.message.as_u128(), 0, 1).body);
        }
        // For the next round: one is delivered, the other goes back.
        finish(&store, &left, KEPT).await;
        let held = left.iter().find(|one| one.message.as_u128() == KEPT).unwrap();
        store.complete(vec![completion(held, 0, Next::Release, None)]).await.unwrap();
        next = taken + 1;
    }
}

#[tokio::test]
async fn a_disk_that_becomes_full_gives_up_its_oldest_bodies_before_it_refuses_mail() {
    let folder = tempfile::tempdir().unwrap();
    let disk = SmallDisk::new(folder.path(), 40_000);
    let options = Options { reserve_bytes: 10_000, ..options(2000) };
    let store = Embedded::open_with(folder.path(), options, disk.clone()).unwrap();
    let mut number = 0;
    while disk.used_bytes() < 25_000 {
        number += 1;
        accept(&store, message(number, 0, 1)).await.unwrap();
    }
    let leased = store.lease(at(0), usize::MAX).await.unwrap();
    finish(&store, &leased, 0).await;
    for _ in 0..3 {
        store.sweep(at(1)).await;
    }
    assert!(disk.used_bytes() < 20_000, "{} octets", disk.used_bytes());
    assert!(!store.is_full());
    accept(&store, message(number + 1, 0, 1)).await.unwrap();
    let body = async |number: u128| {
        let one = leased.iter().find(|one| one.message.as_u128() == number).unwrap();
        store.body(&one.body).await
    };
    assert!(body(1).await.is_err(), "the oldest is gone");
    assert!(body(number).await.is_ok(), "the newest is kept, for as long as its retention");
}

#[tokio::test]
async fn where_space_is_scarce_no_file_is_kept_to_be_used_again() {
    let folder = tempfile::tempdir().unwrap();
    let disk = SmallDisk::new(folder.path(), 1_000_000);
    let options = Options { reserve_bytes: 100_000, ..options(2000) };
    let store = Embedded::open_with(folder.path(), options.clone(), disk.clone()).unwrap();
    let deliver = async |numbers: std::ops::Range<u128>| {
        for number in numbers {
            accept(&store, message(number, 0, 1)).await.unwrap();
        }
        let leased = store.lease(at(0), usize::MAX).await.unwrap();
        finish(&store, &leased, 0).await;
        assert!(segments(folder.path()) > 3);
        store.sweep(at(200)).await;
        assert_eq!(segments(folder.path()), 1, "but for the one that is written to");
    };
    deliver(1..150).await;
    assert_eq!(disk.kept(), 2, "there is room");
    disk.capacity_bytes.store(disk.used_bytes() + 150_000, Ordering::SeqCst);
    deliver(150..300).await;
    assert_eq!(disk.kept(), 0);
    assert!(!store.is_full());
    disk.capacity_bytes.store(1_000_000, Ordering::SeqCst);
    deliver(300..450).await;
    drop(store);
    assert_eq!(disk.kept(), 2);
    // Those that were kept before go as well.
    disk.capacity_bytes.store(disk.used_bytes() + 150_000, Ordering::SeqCst);
    let store = Embedded::open_with(folder.path(), options, disk.clone()).unwrap();
    accept(&store, message(450, 0, 1)).await.unwrap();
    assert_eq!(disk.kept(), 0);
}

#[tokio::test]
async fn a_webhook_that_is_behind_keeps_what_it_is_to_be_told() {
    let folder = tempfile::tempdir().unwrap();
    let store = Embedded::open(folder.path(), options(1 << 20)).unwrap();
    store.accept((1..=3).map(|number| message(number, 0, 1)).collect()).await;
    let leased = store.lease(at(0), 9).await.unwrap();
    finish(&store, &leased, 0).await;
    store.move_events().await;
    let events = rusqlite::Connection::open(folder.path().join("events.db")).unwrap();
    events
        .execute("INSERT INTO delivery (webhook, seq, message, due_ms, attempts) VALUES (1, 1, 1, 0, 0)", [])
        .unwrap();
    store.sweep(at(9999)).await;
    assert!(store.message("default", Uuid::from_u128(1)).await.is_ok());
    assert!(store.message("default", Uuid::from_u128(2)).await.is_err());
    events.execute("DELETE FROM delivery", []).unwrap();
    store.sweep(at(9999)).await;
    assert!(store.message("default", Uuid::from_u128(1)).await.is_err());
}

#[tokio::test]
async fn events_of_tenants_go_with_their_time() {
    let folder = tempfile::tempdir().unwrap();
    let store = Embedded::open(folder.path(), options(2000)).unwrap();
    for second in [10, 5000] {
        let event = TenantEvent::new(TenantEventKind::QuotaWarning, [("limit", 1.into())]);
        store.announce("default", event, at(second)).await.unwrap();
    }
    store.move_events().await;
    let count = async || {
        let filter = EventFilter { tenant: "default".to_owned(), ..EventFilter::default() };
        store.tenant_events(filter, 9).await.unwrap().0.len()
    };
    store.sweep(at(900)).await;
    assert_eq!(count().await, 2);
    store.sweep(at(1500)).await;
    assert_eq!(count().await, 1, "a thousand seconds are over for the first");
}
