//! Leasing and completing.

use super::*;

#[tokio::test]
async fn what_is_due_is_leased_once_oldest_first() {
    let (_folder, store) = fresh();
    accept(&store, message(2, 5, 2)).await.unwrap();
    accept(&store, message(1, 3, 3)).await.unwrap();
    accept(&store, message(3, 9, 1)).await.unwrap();
    assert_eq!(places(&store.lease(at(4), 2).await.unwrap()), [(1, vec![0, 1])]);
    assert_eq!(places(&store.lease(at(6), 9).await.unwrap()), [(1, vec![2]), (2, vec![0, 1])]);
    assert_eq!(places(&store.lease(at(6), 9).await.unwrap()), []);
    assert_eq!(places(&store.lease(at(9), 9).await.unwrap()), [(3, vec![0])]);
}

#[tokio::test]
async fn an_accept_behind_the_cursor_is_not_overlooked() {
    let (_folder, store) = fresh();
    accept(&store, message(1, 9, 1)).await.unwrap();
    store.lease(at(9), 9).await.unwrap();
    accept(&store, message(2, 5, 2)).await.unwrap();
    assert_eq!(places(&store.lease(at(9), 1).await.unwrap()), [(2, vec![0])]);
    assert_eq!(places(&store.lease(at(9), 9).await.unwrap()), [(2, vec![1])]);
}

#[tokio::test]
async fn completions_decide_what_comes_back() {
    let (folder, store) = fresh();
    accept(&store, message(1, 0, 4)).await.unwrap();
    let leased = store.lease(at(0), 9).await.unwrap();
    let batch = vec![
        completion(&leased[0], 0, Next::Done, Some(EventKind::Delivered)),
        completion(&leased[0], 1, Next::Retry(at(60)), Some(EventKind::DeliveryDelayed)),
        completion(&leased[0], 2, Next::Release, None),
    ];
    store.complete(batch).await.unwrap();
    let again = store.lease(at(0), 9).await.unwrap();
    assert_eq!(places(&again), [(1, vec![2])], "released at once; 3 is leased still");
    assert_eq!(again[0].recipients[0].attempts, 0, "a release does not count");
    let later = store.lease(at(60), 9).await.unwrap();
    assert_eq!(places(&later), [(1, vec![1])]);
    assert_eq!(later[0].recipients[0].attempts, 1);
    assert_eq!(store.queued().await.unwrap(), 3);
    drop(store);

    let store = open(folder.path());
    assert_eq!(store.queued().await.unwrap(), 3);
    let owed = store.lease(at(59), 9).await.unwrap();
    assert_eq!(places(&owed), [(1, vec![2, 3])], "a restart ends all leases");
    assert_eq!(places(&store.lease(at(60), 9).await.unwrap()), [(1, vec![1])]);
    assert_eq!(kinds(&store, 1).await[4..], [EventKind::Delivered, EventKind::DeliveryDelayed]);
}

#[tokio::test]
async fn a_postponed_recipient_waits_and_is_not_counted() {
    let (_folder, store) = fresh();
    accept(&store, message(1, 0, 1)).await.unwrap();
    let leased = store.lease(at(0), 9).await.unwrap();
    store.complete(vec![completion(&leased[0], 0, Next::Postpone(at(5)), None)]).await.unwrap();
    assert!(store.lease(at(4), 9).await.unwrap().is_empty());
    assert_eq!(store.lease(at(5), 9).await.unwrap()[0].recipients[0].attempts, 0);
    assert_eq!(kinds(&store, 1).await, [EventKind::Sent]);
}

#[tokio::test]
async fn a_damaged_row_is_set_aside_and_stops_no_other() {
    for damage in
        ["UPDATE message SET id = x'02' WHERE key = 2", "UPDATE recipient SET attempts = -1 WHERE message = 2"]
    {
        let (folder, store) = fresh();
        for number in 1..=3 {
            accept(&store, message(number, 0, 2)).await.unwrap();
        }
        let other = rusqlite::Connection::open(folder.path().join("store.db")).unwrap();
        assert_ne!(other.execute(damage, []).unwrap(), 0);
        assert_eq!(places(&store.lease(at(0), 9).await.unwrap()), [(1, vec![0, 1]), (3, vec![0, 1])], "{damage}");
        assert_eq!(places(&store.lease(at(0), 9).await.unwrap()), []);
    }
}

#[tokio::test]
async fn a_completion_without_a_lease_changes_nothing() {
    let (_folder, store) = fresh();
    accept(&store, message(1, 0, 1)).await.unwrap();
    let leased = store.lease(at(0), 9).await.unwrap();
    let done = completion(&leased[0], 0, Next::Done, Some(EventKind::Delivered));
    store.complete(vec![done.clone(), done.clone()]).await.unwrap();
    store.complete(vec![done]).await.unwrap();
    assert_eq!(kinds(&store, 1).await, [EventKind::Sent, EventKind::Delivered]);
    assert_eq!(store.queued().await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn waiting_ends_with_an_accept_or_when_a_retry_is_due() {
    let (_folder, store) = fresh();
    assert!(store.lease(at(0), 9).await.unwrap().is_empty());
    let waiting = tokio::spawn({
        let store = store.clone();
        async move { store.wait_due(at(0)).await }
    });
    accept(&store, message(1, 0, 1)).await.unwrap();
    waiting.await.unwrap();
    let leased = store.lease(at(0), 9).await.unwrap();
    store.complete(vec![completion(&leased[0], 0, Next::Retry(at(60)), None)]).await.unwrap();
    assert!(store.lease(at(0), 9).await.unwrap().is_empty());
    // The completion's own news may be waiting still; behind it, only time passes.
    store.wait_due(at(0)).await;
    let before = tokio::time::Instant::now();
    store.wait_due(at(0)).await;
    assert_eq!(before.elapsed().as_secs(), 60);
    store.wait_due(at(60)).await;
    assert_eq!(places(&store.lease(at(60), 9).await.unwrap()), [(1, vec![0])]);
}

#[tokio::test]
async fn the_due_index_serves_the_lease() {
    let (folder, store) = fresh();
    drop(store);
    let connection = rusqlite::Connection::open(folder.path().join("store.db")).unwrap();
    for sql in [lease::DUE, lease::NEXT_DUE] {
        let plan: Vec<String> = connection
            .prepare(&format!("EXPLAIN QUERY PLAN {sql}"))
            .unwrap()
            .query_map(rusqlite::params_from_iter([0i64, 0, 0, 0].iter().take(sql.matches('?').count())), |row| {
                row.get(3)
            })
            .unwrap()
            .map(Result::unwrap)
            .collect();
        assert!(plan[0].contains("USING") && plan[0].contains("recipient_due"), "{plan:?}");
        assert!(plan.iter().all(|step| step.starts_with("SEARCH")), "{plan:?}");
    }
}
