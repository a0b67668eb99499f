//! Events before, while and after they move.

use super::*;

#[tokio::test]
async fn an_event_reads_back_whole_before_and_after_it_moves() {
    let (_folder, store) = fresh();
    accept(&store, message(1, 0, 1)).await.unwrap();
    let to = address("r0@a.test");
    let mut bare = outcome(Verdict::Bounced);
    (bare.reply, bare.tls, bare.remote_host) = (None, None, None);
    let mut late = event(EventKind::Failed, &to, None);
    late.reason = Some("expired".to_owned());
    let told = vec![
        event(EventKind::DeliveryDelayed, &to, Some((1, outcome(Verdict::Deferred)))),
        event(EventKind::Bounced, &to, Some((2, bare))),
        late,
    ];
    store.record(Uuid::from_u128(1), told.clone(), at(7)).await.unwrap();
    let before = store.events("default", Uuid::from_u128(1), None, 9).await.unwrap().items;
    store.move_events().await;
    let after = store.events("default", Uuid::from_u128(1), None, 9).await.unwrap().items;
    for records in [&before, &after] {
        assert_eq!(records.iter().skip(1).map(|record| record.event.clone()).collect::<Vec<_>>(), told);
        assert!(records.iter().skip(1).all(|record| record.at == at(7)));
        assert_eq!((records[0].event.kind, records[0].at), (EventKind::Sent, at(0)));
    }
    let ids = |records: &[EventRecord]| records.iter().map(|record| record.id.clone()).collect::<Vec<_>>();
    assert_eq!(ids(&before), ids(&after), "ids are stable");
    assert!(ids(&before).iter().all(|id| id.starts_with("evt_") && id.len() == 40));
    assert!(matches!(store.record(Uuid::from_u128(9), told, at(7)).await, Err(StoreError::NotFound(_))));
}

#[tokio::test]
async fn the_last_event_is_the_latest_wherever_it_is() {
    let (folder, store) = fresh();
    accept(&store, message(1, 0, 2)).await.unwrap();
    let last = async |store: &Embedded| store.message("default", Uuid::from_u128(1)).await.unwrap().last_event.unwrap();
    let record = async |store: &Embedded, kind| {
        store.record(Uuid::from_u128(1), vec![event(kind, &address("r0@a.test"), None)], at(1)).await.unwrap()
    };
    record(&store, EventKind::DeliveryDelayed).await;
    assert_eq!(last(&store).await, "delivery_delayed");
    store.move_events().await;
    assert_eq!(last(&store).await, "delivery_delayed");
    record(&store, EventKind::Delivered).await;
    assert_eq!(last(&store).await, "delivered");
    store.move_events().await;
    drop(store);
    let store = open(folder.path());
    record(&store, EventKind::Complained).await;
    assert_eq!(last(&store).await, "complained", "numbers go on after a restart with an empty outbox");
    assert_eq!(kinds(&store, 1).await[4], EventKind::Complained);
}

#[tokio::test]
async fn pages_of_events_go_across_both_databases() {
    let (_folder, store) = fresh();
    accept(&store, message(1, 0, 5)).await.unwrap();
    store.move_events().await;
    let more = (0..4).map(|_| event(EventKind::Complained, &address("r0@a.test"), None)).collect();
    store.record(Uuid::from_u128(1), more, at(1)).await.unwrap();
    let mut cursor = None;
    let mut sizes = Vec::new();
    let mut ids = std::collections::HashSet::new();
    loop {
        let page = store.events("default", Uuid::from_u128(1), cursor.as_deref(), 4).await.unwrap();
        sizes.push(page.items.len());
        ids.extend(page.items.into_iter().map(|record| record.id));
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!((sizes, ids.len()), (vec![4, 4, 1], 9));
}

#[tokio::test]
async fn a_crash_between_copy_and_delete_shows_no_event_twice() {
    let (folder, store) = fresh();
    accept(&store, message(1, 0, 3)).await.unwrap();
    let mut events = rusqlite::Connection::open(folder.path().join("events.db")).unwrap();
    events.execute("ATTACH DATABASE ?1 AS store", [folder.path().join("store.db").to_string_lossy()]).unwrap();
    let stretches = history::copy_out(&mut events, 2, 0).unwrap().stretches;
    assert_eq!(stretches.iter().map(|stretch| stretch.count).sum::<usize>(), 2);
    drop(events);
    assert_eq!(kinds(&store, 1).await.len(), 3, "in both");
    drop(store);
    let store = open(folder.path());
    assert_eq!(kinds(&store, 1).await.len(), 3, "in both, after a restart");
    store.move_events().await;
    assert_eq!(kinds(&store, 1).await.len(), 3);
    let outbox = rusqlite::Connection::open(folder.path().join("store.db")).unwrap();
    let left: i64 = outbox.query_row("SELECT count(*) FROM outbox", [], |row| row.get(0)).unwrap();
    assert_eq!(left, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn readers_beside_the_move_miss_nothing() {
    let (_folder, store) = fresh();
    let ids: Vec<u128> = (1..=40).collect();
    store.accept(ids.iter().map(|number| message(*number, 0, 50)).collect()).await;
    let moving = tokio::spawn({
        let store = store.clone();
        async move { store.move_events().await }
    });
    for number in ids {
        let page = store.events("default", Uuid::from_u128(number), None, 1000).await.unwrap();
        assert_eq!(page.items.len(), 50);
        let unique: std::collections::HashSet<_> = page.items.iter().map(|record| &record.id).collect();
        assert_eq!(unique.len(), 50);
    }
    moving.await.unwrap();
}

#[tokio::test]
async fn what_is_recorded_between_copy_and_delete_stays() {
    let (folder, store) = fresh();
    accept(&store, message(1, 0, 2)).await.unwrap();
    accept(&store, message(2, 0, 2)).await.unwrap();
    let mut events = rusqlite::Connection::open(folder.path().join("events.db")).unwrap();
    events.execute("ATTACH DATABASE ?1 AS store", [folder.path().join("store.db").to_string_lossy()]).unwrap();
    let stretches = history::copy_out(&mut events, 10, 0).unwrap().stretches;
    drop(events);
    // Its place is between those that were copied.
    let late = vec![event(EventKind::DeliveryDelayed, &address("r0@a.test"), None)];
    store.record(Uuid::from_u128(1), late, at(1)).await.unwrap();
    drop(store);
    let outbox = rusqlite::Connection::open(folder.path().join("store.db")).unwrap();
    stretches.into_iter().for_each(|stretch| history::forget(&outbox, stretch).unwrap());
    let left: i64 = outbox.query_row("SELECT count(*) FROM outbox", [], |row| row.get(0)).unwrap();
    drop(outbox);
    assert_eq!(left, 1);
    assert_eq!(kinds(&open(folder.path()), 1).await.len(), 3);
}
