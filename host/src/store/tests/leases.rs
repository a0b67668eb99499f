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

/// A message of a tenant to one recipient at a domain.
fn to(tenant: &str, number: u128, second: i64, domain: &str) -> NewMessage {
    let recipients = vec![address(&format!("x@{domain}"))];
    NewMessage { tenant: tenant.to_owned(), recipients, ..message(number, second, 0) }
}

fn numbers(leased: &[Leased]) -> Vec<u128> {
    leased.iter().map(|one| one.message.as_u128()).collect()
}

#[tokio::test]
async fn a_backlog_stands_in_front_of_nobody_elses_mail() {
    let (folder, store) = fresh();
    store.accept((1..=1000).map(|number| to("bulk", number, 0, "a.test")).collect()).await;
    store.accept((1001..=2000).map(|number| to("bulk", number, 0, "b.test")).collect()).await;
    accept(&store, to("other", 5000, 50, "a.test")).await.unwrap();
    accept(&store, to("bulk", 6000, 50, "c.test")).await.unwrap();
    drop(store);
    // The same from what is on disk.
    let store = open(folder.path());
    let leased = numbers(&store.lease(at(60), 500).await.unwrap());
    assert!(leased.contains(&5000), "another tenant's");
    assert!(leased.contains(&6000), "the same tenant's for another domain");
    assert_eq!(leased.len(), 500);
    assert!(leased.iter().filter(|number| **number <= 1000).is_sorted(), "oldest first within a domain");
}

#[tokio::test]
async fn what_rests_is_left_alone_until_its_time() {
    let (_folder, store) = fresh();
    let rest = |tenant: &str, second| Rest {
        tenant: tenant.to_owned(),
        domain: mail::Domain::parse("a.test").unwrap(),
        stream: mail::Stream::Transactional,
        until: at(second),
    };
    accept(&store, to("one", 1, 0, "a.test")).await.unwrap();
    accept(&store, to("one", 2, 0, "b.test")).await.unwrap();
    accept(&store, to("two", 3, 0, "a.test")).await.unwrap();
    let leased = store.lease(at(0), 9).await.unwrap();
    assert_eq!(numbers(&leased), [1, 3, 2]);
    store.rest(vec![rest("one", 60), rest("nobody", 60)], at(0)).await.unwrap();
    store.complete(leased.iter().map(|one| completion(one, 0, Next::Release, None)).collect()).await.unwrap();
    accept(&store, to("one", 4, 5, "a.test")).await.unwrap();
    assert_eq!(numbers(&store.lease(at(59), 9).await.unwrap()), [2, 3]);
    assert_eq!(numbers(&store.lease(at(60), 9).await.unwrap()), [1, 4]);
}

#[tokio::test]
async fn recipients_of_one_message_are_leased_together_whatever_their_domains() {
    let (_folder, store) = fresh();
    let domains = ["a.test", "b.test", "a.test", "c.test"];
    let recipients = domains.iter().map(|domain| address(&format!("x@{domain}"))).collect();
    accept(&store, NewMessage { recipients, ..message(1, 0, 0) }).await.unwrap();
    accept(&store, to("default", 2, 0, "b.test")).await.unwrap();
    assert_eq!(places(&store.lease(at(0), 9).await.unwrap()), [(1, vec![0, 1, 2, 3]), (2, vec![0])]);
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
async fn the_indexes_serve_the_lease() {
    let (folder, store) = fresh();
    drop(store);
    let connection = rusqlite::Connection::open(folder.path().join("store.db")).unwrap();
    let first = |sql: &str| {
        let plan: Vec<String> = connection
            .prepare(&format!("EXPLAIN QUERY PLAN {sql}"))
            .unwrap()
            .query_map(rusqlite::params_from_iter([0i64; 5].iter().take(sql.matches('?').count())), |row| row.get(3))
            .unwrap()
            .map(Result::unwrap)
            .collect();
        assert!(!plan.iter().any(|step| step.contains("TEMP B-TREE")), "{plan:?}");
        assert!(plan[1..].iter().all(|step| step.starts_with("SEARCH")), "{plan:?}");
        plan[0].clone()
    };
    for sql in [lease::DUE, lease::NEXT_KEY] {
        let plan = first(sql);
        assert!(
            plan.starts_with("SEARCH") && plan.contains("recipient_lane (lane=? AND (due_ms,message,place)>("),
            "{plan}"
        );
    }
    assert!(first(lease::LANES).contains("COVERING INDEX recipient_lane"));
    assert!(first(lease::HELD).contains("INDEX recipient_held"));
}

#[tokio::test]
async fn a_broadcast_stays_one_after_a_restart_and_goes_behind() {
    let (folder, store) = fresh();
    let broadcast = mail::Stream::Broadcast;
    let stream = |message: NewMessage| NewMessage { attributes: broadcast.attributes(), ..message };
    for number in 1..=300 {
        accept(&store, stream(to("one", number, 0, "a.test"))).await.unwrap();
    }
    accept(&store, to("one", 301, 5, "a.test")).await.unwrap();
    drop(store);
    let store = open(folder.path());
    let leased = store.lease(at(60), 10).await.unwrap();
    assert_eq!((numbers(&leased)[0], leased[0].stream, leased[1].stream), (301, Default::default(), broadcast));
    assert_eq!(store.message("one", Uuid::from_u128(7)).await.unwrap().stream, broadcast);
    let filter = QueueFilter { stream: Some(broadcast), ..QueueFilter::default() };
    let page = store.queue(&filter, None, 1000).await.unwrap();
    assert!(page.items.len() == 300 && page.items.iter().all(|row| row.stream == broadcast));
    // One stream rests, the other does not.
    let rest = Rest {
        tenant: "one".to_owned(),
        domain: mail::Domain::parse("a.test").unwrap(),
        stream: broadcast,
        until: at(90),
    };
    store.rest(vec![rest], at(60)).await.unwrap();
    accept(&store, to("one", 302, 60, "a.test")).await.unwrap();
    assert_eq!(numbers(&store.lease(at(60), 10).await.unwrap()), [302]);
}

#[tokio::test]
async fn a_scheduled_message_that_cannot_be_read_stops_no_other() {
    let (folder, store) = fresh();
    for number in 1..=3 {
        accept(&store, NewMessage { scheduled_at: Some(at(60)), ..message(number, 0, 1) }).await.unwrap();
    }
    let other = rusqlite::Connection::open(folder.path().join("store.db")).unwrap();
    assert_eq!(other.execute("UPDATE recipient SET address = CAST(x'ff40' AS TEXT) WHERE message = 2", []).unwrap(), 1);
    assert_eq!(numbers(&store.lease(at(60), 9).await.unwrap()), [1, 3]);
    assert_eq!(kinds(&store, 3).await, [EventKind::Scheduled, EventKind::Sent]);
    assert_ne!(store.damaged(), 0, "it is counted");
}

#[tokio::test]
async fn an_operator_reaches_what_is_behind_a_damaged_row() {
    let (folder, store) = fresh();
    for number in 1..=3 {
        accept(&store, message(number, 0, 1)).await.unwrap();
    }
    let other = rusqlite::Connection::open(folder.path().join("store.db")).unwrap();
    assert_eq!(other.execute("UPDATE recipient SET attempts = -1 WHERE message = 2", []).unwrap(), 1);
    let page = store.queue(&QueueFilter::default(), None, 9).await.unwrap();
    assert_eq!(page.items.iter().map(|item| item.message.as_u128()).collect::<Vec<_>>(), [1, 3]);
    let tended = store.tend(&QueueFilter::default(), QueueChange::Purge, None, at(1)).await.unwrap();
    assert_eq!((tended.changed, tended.next), (2, None));
    assert_eq!(store.queued().await.unwrap(), 1);
}
