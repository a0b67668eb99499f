//! The rows of the state table that a crash can meet, a failing disk, and the lock.

use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;

use super::*;

/// At one point, copies the data folder as a crash would leave it, or fails.
pub(super) struct At {
    point: Point,
    from: PathBuf,
    to: Option<PathBuf>,
    armed: Mutex<bool>,
}

impl At {
    pub(super) fn new(point: Point, from: PathBuf, to: Option<PathBuf>) -> At {
        At { point, from, to, armed: Mutex::new(false) }
    }

    pub(super) fn arm(&self) {
        *self.armed.lock().unwrap() = true;
    }
}

impl Faults for At {
    fn at(&self, point: Point) -> std::io::Result<()> {
        if point != self.point || !std::mem::take(&mut *self.armed.lock().unwrap()) {
            return Ok(());
        }
        match &self.to {
            Some(to) => copy(&self.from, to),
            None => Err(std::io::Error::other("the disk is on fire")),
        }
    }
}

pub(super) fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?
        } else {
            fs::copy(entry.path(), target).map(drop)?
        }
    }
    Ok(())
}

/// What is left of message 2 where the machine stops at a point of its group.
async fn crash_at(point: Point) -> (TempDir, Arc<Embedded>) {
    let folder = tempfile::tempdir().unwrap();
    let (live, crashed) = (folder.path().join("live"), folder.path().join("crashed"));
    let faults = Arc::new(At::new(point, live.clone(), Some(crashed.clone())));
    let store = Embedded::open_with(&live, still(), faults.clone()).unwrap();
    accept(&store, message(1, 0, 1)).await.unwrap();
    faults.arm();
    accept(&store, with_key(message(2, 0, 1), "k", "d")).await.unwrap();
    drop(store);
    (folder, open(&crashed))
}

#[tokio::test]
async fn a_crash_before_the_commit_leaves_nothing_and_one_behind_it_all() {
    for (point, kept) in [(Point::Appended, false), (Point::Synced, false), (Point::Committed, true)] {
        let (_folder, store) = crash_at(point).await;
        assert_eq!(store.queued().await.unwrap(), 1 + u64::from(kept), "{point:?}");
        assert_eq!(store.message("default", Uuid::from_u128(2)).await.is_ok(), kept, "{point:?}");
        let again = accept(&store, with_key(message(2, 1, 1), "k", "d")).await.unwrap();
        let expect = if kept { Accepted::Replayed(Uuid::from_u128(2)) } else { Accepted::Stored };
        assert_eq!(again, expect, "{point:?}");
        for leased in store.lease(at(1), 9).await.unwrap() {
            let body = store.body(&leased.body).await.unwrap();
            assert_eq!(body, message(leased.message.as_u128(), 0, 1).body, "{point:?}");
            assert_eq!(kinds(&store, leased.message.as_u128()).await, [EventKind::Sent]);
        }
    }
}

#[tokio::test]
async fn a_failed_sync_stops_all_writing_until_a_restart() {
    for point in [Point::Appended, Point::Synced] {
        let folder = tempfile::tempdir().unwrap();
        let faults = Arc::new(At::new(point, PathBuf::new(), None));
        let store = Embedded::open_with(folder.path(), still(), faults.clone()).unwrap();
        accept(&store, message(1, 0, 1)).await.unwrap();
        let leased = store.lease(at(0), 9).await.unwrap();
        faults.arm();
        for number in 2..4 {
            assert!(matches!(accept(&store, message(number, 0, 1)).await, Err(StoreError::Io(_))));
        }
        assert!(store.failure().unwrap().contains("on fire"));
        assert!(store.complete(vec![completion(&leased[0], 0, Next::Done, None)]).await.is_err());
        assert!(store.lease(at(0), 9).await.is_err());
        assert!(store.body(&leased[0].body).await.is_ok(), "reading goes on");
        drop(store);
        let store = open(folder.path());
        assert_eq!(places(&store.lease(at(0), 9).await.unwrap()), [(1, vec![0])]);
        accept(&store, message(2, 0, 1)).await.unwrap();
    }
}

#[tokio::test]
async fn a_torn_tail_and_garbage_behind_it_are_overwritten() {
    let (folder, store) = fresh();
    accept(&store, message(1, 0, 1)).await.unwrap();
    drop(store);
    let segment = fs::read_dir(folder.path().join("spool")).unwrap().next().unwrap().unwrap().path();
    let mut bytes = fs::read(&segment).unwrap();
    bytes.extend_from_slice(b"PHB1 half a frame");
    fs::write(&segment, bytes).unwrap();
    let store = open(folder.path());
    accept(&store, message(2, 0, 1)).await.unwrap();
    for leased in store.lease(at(0), 9).await.unwrap() {
        let number = leased.message.as_u128();
        assert_eq!(store.body(&leased.body).await.unwrap(), message(number, 0, 1).body);
    }
}

#[tokio::test]
async fn a_damaged_body_harms_no_other() {
    let (folder, store) = fresh();
    store.accept(vec![message(1, 0, 1), message(2, 0, 1)]).await;
    drop(store);
    let segment = fs::read_dir(folder.path().join("spool")).unwrap().next().unwrap().unwrap().path();
    let mut bytes = fs::read(&segment).unwrap();
    bytes[60] ^= 1;
    fs::write(&segment, bytes).unwrap();
    let store = open(folder.path());
    let leased = store.lease(at(0), 9).await.unwrap();
    match store.body(&leased[0].body).await {
        Err(StoreError::NotFound(text)) => assert!(text.contains("damaged"), "{text}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(store.body(&leased[1].body).await.unwrap(), message(2, 0, 1).body);
    fs::remove_file(segment).unwrap();
    assert!(matches!(store.body(&leased[1].body).await, Err(StoreError::NotFound(_))));
}

#[tokio::test]
async fn a_message_moves_across_segments_and_restarts() {
    let folder = tempfile::tempdir().unwrap();
    for round in 0..4u128 {
        let store = Embedded::open(folder.path(), Options { segment_bytes: 150, ..still() }).unwrap();
        for number in 1..=5 {
            accept(&store, message(round * 5 + number, 0, 1)).await.unwrap();
        }
    }
    let store = open(folder.path());
    let leased = store.lease(at(0), 99).await.unwrap();
    assert_eq!(leased.len(), 20);
    for leased in leased {
        let number = leased.message.as_u128();
        assert_eq!(store.body(&leased.body).await.unwrap(), message(number, 0, 1).body);
    }
}

#[tokio::test]
async fn a_second_host_is_told_who_has_the_folder() {
    let (folder, store) = fresh();
    match Embedded::open(folder.path(), still()) {
        Err(OpenError::Locked { pid, .. }) => assert_eq!(pid, std::process::id().to_string()),
        other => panic!("{:?}", other.map(drop)),
    }
    drop(store);
    assert!(Embedded::open(folder.path(), still()).is_ok());
}

#[tokio::test]
async fn a_newer_data_folder_is_refused() {
    let (folder, store) = fresh();
    drop(store);
    let main = rusqlite::Connection::open(folder.path().join("store.db")).unwrap();
    main.pragma_update(None, "user_version", 99).unwrap();
    drop(main);
    assert!(matches!(Embedded::open(folder.path(), still()), Err(OpenError::NewerSchema { found: 99, .. })));
}

#[tokio::test]
async fn a_crash_while_scheduled_mail_is_sent_tells_it_once() {
    for is_copied in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let (live, crashed) = (folder.path().join("live"), folder.path().join("crashed"));
        let to = is_copied.then(|| crashed.clone());
        let faults = Arc::new(At { point: Point::Committed, from: live.clone(), to, armed: Mutex::new(false) });
        let store = Embedded::open_with(&live, still(), faults.clone()).unwrap();
        accept(&store, NewMessage { scheduled_at: Some(at(60)), ..message(1, 0, 2) }).await.unwrap();
        faults.arm();
        // Committed, and then the machine stops, or storage fails: nobody has been handed anything.
        assert_eq!(store.lease(at(60), 9).await.is_ok(), is_copied);
        drop(store);
        let store = open(if is_copied { &crashed } else { &live });
        let all = [EventKind::Scheduled, EventKind::Scheduled, EventKind::Sent, EventKind::Sent];
        assert_eq!(kinds(&store, 1).await, all);
        assert_eq!(places(&store.lease(at(60), 9).await.unwrap()), [(1, vec![0, 1])]);
        assert_eq!(kinds(&store, 1).await, all);
    }
}

#[tokio::test]
async fn an_outcome_is_synced_soon_and_where_that_fails_nothing_is_accepted() {
    let folder = tempfile::tempdir().unwrap();
    let faults = Arc::new(At::new(Point::Following, folder.path().to_owned(), None));
    let store = Embedded::open_with(folder.path(), still(), faults.clone()).unwrap();
    accept(&store, message(1, 0, 1)).await.unwrap();
    let leased = store.lease(at(0), 9).await.unwrap();
    faults.arm();
    store.complete(vec![completion(&leased[0], 0, Next::Done, Some(EventKind::Delivered))]).await.unwrap();
    // A group that would sync and has nothing to write takes nothing off that.
    assert!(matches!(accept(&store, message(1, 0, 1)).await, Ok(Accepted::Replayed(_)) | Err(StoreError::Io(_))));
    // Nothing tells that the thread has looked but asking again.
    let began = std::time::Instant::now();
    while store.failure().is_none() {
        assert!(began.elapsed() < Duration::from_secs(30), "the outcome was never synced");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(store.failure().unwrap().contains("the disk is on fire"), "{:?}", store.failure());
    assert!(accept(&store, message(2, 0, 1)).await.is_err());
    drop(store);
    let store = Embedded::open(folder.path(), still()).unwrap();
    assert_eq!(kinds(&store, 1).await, [EventKind::Sent, EventKind::Delivered]);
}

/// What was written behind a sync that failed may be gone from memory, so it is not moved to its place: not by whoever
/// closes the database last, either.
#[tokio::test]
async fn a_store_whose_sync_failed_moves_nothing_when_it_is_closed() {
    for point in [Point::Synced, Point::Following] {
        let folder = tempfile::tempdir().unwrap();
        let faults = Arc::new(At::new(point, folder.path().to_owned(), None));
        let store = Embedded::open_with(folder.path(), still(), faults.clone()).unwrap();
        accept(&store, message(1, 0, 1)).await.unwrap();
        let leased = store.lease(at(0), 9).await.unwrap();
        // Readers are open too.
        assert_eq!(store.queued().await.unwrap(), 1);
        faults.arm();
        // Of the two, the first fails with its group, the second behind it.
        let _ = store.complete(vec![completion(&leased[0], 0, Next::Done, Some(EventKind::Delivered))]).await;
        let began = std::time::Instant::now();
        while store.failure().is_none() {
            assert!(began.elapsed() < Duration::from_secs(30), "{point:?}: the sync did not fail");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let file = |name: &str| fs::read(folder.path().join(name)).unwrap();
        let before = (file("store.db"), file("store.db-wal"));
        assert!(!before.1.is_empty());
        drop(store);
        assert!(before == (file("store.db"), file("store.db-wal")), "{point:?}: pages were moved");
        let store = open(folder.path());
        assert_eq!(kinds(&store, 1).await[0], EventKind::Sent);
    }
}

/// One that ends well leaves a small WAL behind.
#[tokio::test]
async fn a_store_that_ends_well_empties_its_wals() {
    let (folder, store) = fresh();
    accept(&store, message(1, 0, 1)).await.unwrap();
    store.move_events().await;
    let octets = |name: &str| fs::metadata(folder.path().join(name)).map_or(0, |file| file.len());
    assert!(octets("store.db-wal") > 0 && octets("events.db-wal") > 0);
    drop(store);
    assert_eq!((octets("store.db-wal"), octets("events.db-wal")), (0, 0));
    assert_eq!(kinds(&open(folder.path()), 1).await, [EventKind::Sent]);
}

/// The system lets go of all locks of a process on a file when one of its handles is closed: another program would find the
/// database free.
#[tokio::test]
async fn whoever_looks_after_the_wal_lets_go_of_no_lock() {
    use std::os::unix::fs::MetadataExt as _;
    let folder = tempfile::tempdir().unwrap();
    let faults = Arc::new(At::new(Point::Following, folder.path().to_owned(), None));
    let store = Embedded::open_with(folder.path(), still(), faults.clone()).unwrap();
    accept(&store, message(1, 0, 1)).await.unwrap();
    let leased = store.lease(at(0), 9).await.unwrap();
    faults.arm();
    store.complete(vec![completion(&leased[0], 0, Next::Done, None)]).await.unwrap();
    // It reads ahead, and then it syncs; nothing tells but asking again.
    let began = std::time::Instant::now();
    while store.failure().is_none() {
        assert!(began.elapsed() < Duration::from_secs(30), "the outcome was never synced");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let locks = fs::read_to_string("/proc/locks").unwrap();
    for name in ["store.db", "store.db-shm"] {
        let inode = fs::metadata(folder.path().join(name)).unwrap().ino();
        assert!(locks.contains(&format!(":{inode} ")), "nothing of {name} is locked:\n{locks}");
    }
}

/// The system tells of a page that it could not write once: whoever syncs next would hear that all is well.
#[tokio::test]
async fn where_the_wal_cannot_be_synced_before_its_pages_move_nothing_is_accepted() {
    let folder = tempfile::tempdir().unwrap();
    let store = Embedded::open_with(folder.path(), still(), Arc::new(NoFaults)).unwrap();
    accept(&store, message(1, 0, 1)).await.unwrap();
    let faults = At::new(Point::Moving, folder.path().to_owned(), None);
    let connection = schema::open_again(&store.shared.layout.main).unwrap();
    assert!(checkpointing::checkpoint(&connection, &store.shared, &faults).is_some());
    faults.arm();
    assert_eq!(checkpointing::checkpoint(&connection, &store.shared, &faults), None);
    let why = store.failure().unwrap();
    assert!(why.contains("moving pages out of the WAL"), "{why}");
    assert!(accept(&store, message(2, 0, 1)).await.is_err());
    drop((connection, store));
    assert_eq!(places(&open(folder.path()).lease(at(0), 9).await.unwrap()), [(1, vec![0])]);
}
