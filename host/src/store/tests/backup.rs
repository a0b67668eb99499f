//! Backups of a store at work, and what is started on them.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_backup_at_work_has_every_body_of_its_messages() {
    let folder = tempfile::tempdir().unwrap();
    let retention = Some(Duration::ZERO);
    let every = Duration::from_millis(1);
    let options = Options {
        segment_bytes: 4000,
        retention,
        keep_messages: None,
        events_every: every,
        sweep_every: every,
        ..still()
    };
    let store = Embedded::open(&folder.path().join("live"), options).unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let load = tokio::spawn({
        let (store, over) = (store.clone(), over.clone());
        async move {
            let mut number = 0;
            while !over.load(Ordering::Relaxed) {
                store.accept((0..20).map(|n| message(number + n + 1, 0, 1)).collect()).await;
                number += 20;
                // Most are done with at once, so that segments go and bodies move all the time.
                let leased = store.lease(at(0), 99).await.unwrap();
                let next = |one: &Leased| match one.message.as_u128() % 19 {
                    0 => Next::Retry(at(9999)),
                    _ => Next::Done,
                };
                let done = leased.iter().map(|one| completion(one, 0, next(one), Some(EventKind::Delivered)));
                store.complete(done.collect()).await.unwrap();
            }
        }
    });
    for round in 0..6 {
        let to = folder.path().join(format!("backup {round}"));
        let backup = store.backup(&to).await.unwrap();
        let copy = open(&to);
        assert!(backup.octets > 0 && !backup.has_master_key);
        let queued = copy.queued().await.unwrap();
        let leased = copy.lease(at(99_999), usize::MAX).await.unwrap();
        assert_eq!(leased.len() as u64, queued);
        for one in leased {
            let number = one.message.as_u128();
            assert_eq!(copy.body(&one.body).await.unwrap(), message(number, 0, 1).body, "{number}");
            assert_eq!(kinds(&copy, number).await[0], EventKind::Sent, "{number}");
        }
        for view in copy.messages("default", None, 1000).await.unwrap().items {
            let kinds = kinds(&copy, view.id.as_u128()).await;
            assert!((1..=2).contains(&kinds.len()), "{kinds:?}");
        }
        // The next key is not one that the copied events name.
        accept(&copy, message(1_000_000, 0, 1)).await.unwrap();
        assert_eq!(kinds(&copy, 1_000_000).await, [EventKind::Sent]);
    }
    over.store(true, Ordering::Relaxed);
    load.await.unwrap();
}

#[tokio::test]
async fn a_backup_takes_the_key_and_no_folder_that_is_there() {
    let (folder, store) = fresh();
    accept(&store, message(1, 0, 1)).await.unwrap();
    std::fs::write(folder.path().join("master.key"), "key").unwrap();
    let away = tempfile::tempdir().unwrap();
    assert!(matches!(store.backup(away.path()).await, Err(StoreError::Exists(_))));
    let to = away.path().join("copy");
    let backup = store.backup(&to).await.unwrap();
    assert_eq!((backup.messages, backup.segments, backup.has_master_key), (1, 1, true));
    assert_eq!(std::fs::read_to_string(to.join("master.key")).unwrap(), "key");
    assert!(matches!(store.backup(&to).await, Err(StoreError::Exists(_))));
    assert!(matches!(store.backup(Path::new("relative")).await, Err(StoreError::Io(_))));
    std::fs::write(away.path().join("file"), "").unwrap();
    assert!(store.backup(&away.path().join("file/below")).await.is_err());
    assert_eq!(std::fs::read_dir(away.path()).unwrap().count(), 2, "nothing is left behind");
}

/// A reader that stays keeps the WAL from beginning anew; what is in it alone is in the copy too.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_backup_under_a_long_wal_has_every_message_once() {
    const LONG: u64 = 64 << 20;
    let folder = tempfile::tempdir().unwrap();
    let (live, to) = (folder.path().join("live"), folder.path().join("copy"));
    let store = open(&live);
    let bulky = |number: u128| NewMessage {
        attributes: vec![("note".to_owned(), "x".repeat(60_000))],
        ..message(number, 0, 1)
    };
    accept(&store, bulky(1)).await.unwrap();
    let reader = rusqlite::Connection::open(live.join("store.db")).unwrap();
    reader.execute_batch("BEGIN").unwrap();
    reader.query_row("SELECT count(*) FROM message", [], |row| row.get::<_, i64>(0)).unwrap();
    let wal = || std::fs::metadata(live.join("store.db-wal")).unwrap().len();
    let mut accepted = 1;
    while wal() < LONG {
        let batch = (1..=50).map(|more| bulky(accepted + more)).collect();
        assert!(store.accept(batch).await.iter().all(Result::is_ok));
        accepted += 50;
    }
    let over = Arc::new(AtomicBool::new(false));
    let load = tokio::spawn({
        let (store, over) = (store.clone(), over.clone());
        async move {
            let mut last = accepted;
            while !over.load(Ordering::Relaxed) {
                last += 1;
                accept(&store, message(last, 0, 1)).await.unwrap();
            }
            last
        }
    });
    let backup = store.backup(&to).await.unwrap();
    over.store(true, Ordering::Relaxed);
    let last = load.await.unwrap();
    assert!(wal() >= LONG, "it was long all the time");
    drop(reader);

    let copy = open(&to);
    let leased = copy.lease(at(99_999), usize::MAX).await.unwrap();
    let numbers: BTreeSet<u128> = leased.iter().map(|one| one.message.as_u128()).collect();
    assert_eq!((numbers.len(), backup.messages), (leased.len(), leased.len() as u64), "each once");
    // Those before it all, and of those beside it no later one without those before.
    let found = numbers.len() as u128;
    assert!((accepted..=last).contains(&found), "{found} of {accepted} to {last}");
    assert_eq!(numbers.last(), Some(&found));
    for one in leased {
        let number = one.message.as_u128();
        assert_eq!(copy.body(&one.body).await.unwrap(), message(number, 0, 1).body, "{number}");
    }
}
