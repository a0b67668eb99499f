//! Messages with a time of sending of their own.

use super::*;

fn scheduled(number: u128, second: i64, recipients: usize) -> NewMessage {
    NewMessage { scheduled_at: Some(at(second)), ..message(number, 0, recipients) }
}

async fn last_event(store: &Embedded, number: u128) -> Option<String> {
    store.message("default", Uuid::from_u128(number)).await.unwrap().last_event
}

fn reason(result: Result<(), StoreError>) -> &'static str {
    match result {
        Err(StoreError::NotScheduled(reason)) => reason,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_is_scheduled_is_sent_once_when_its_time_comes() {
    let (folder, store) = fresh();
    accept(&store, scheduled(1, 60, 2)).await.unwrap();
    assert_eq!(kinds(&store, 1).await, [EventKind::Scheduled; 2]);
    let view = store.message("default", Uuid::from_u128(1)).await.unwrap();
    assert_eq!((view.scheduled_at, view.last_event.as_deref()), (Some(at(60)), Some("scheduled")));
    assert_eq!((view.accepted_at, store.queued().await.unwrap()), (at(0), 2));
    assert!(store.lease(at(59), 9).await.unwrap().is_empty());
    drop(store);
    let store = open(folder.path());
    assert_eq!(store.queued().await.unwrap(), 2);
    assert!(store.lease(at(59), 9).await.unwrap().is_empty(), "a restart changes nothing");
    let leased = store.lease(at(60), 9).await.unwrap();
    assert_eq!(places(&leased), [(1, vec![0, 1])]);
    assert_eq!(leased[0].accepted_at, at(60), "retries are counted from then");
    let all = [EventKind::Scheduled, EventKind::Scheduled, EventKind::Sent, EventKind::Sent];
    assert_eq!(kinds(&store, 1).await, all);
    drop(store);
    let store = open(folder.path());
    assert_eq!(places(&store.lease(at(61), 9).await.unwrap()), [(1, vec![0, 1])], "a restart ends the leases");
    assert_eq!(kinds(&store, 1).await, all, "and tells nothing twice");
    assert_eq!(store.message("default", Uuid::from_u128(1)).await.unwrap().scheduled_at, Some(at(60)));
}

#[tokio::test]
async fn a_time_that_is_past_is_no_schedule() {
    let (_folder, store) = fresh();
    accept(&store, scheduled(1, 0, 1)).await.unwrap();
    assert_eq!(kinds(&store, 1).await, [EventKind::Sent]);
    assert_eq!(places(&store.lease(at(0), 9).await.unwrap()), [(1, vec![0])]);
    let id = Uuid::from_u128(1);
    assert!(reason(store.cancel("default", id, at(1)).await).contains("at once"));
    assert!(reason(store.reschedule("default", id, at(1)).await).contains("at once"));
}

#[tokio::test]
async fn another_time_replaces_the_first() {
    let (_folder, store) = fresh();
    for number in 1..=3 {
        accept(&store, scheduled(number, 60, 1)).await.unwrap();
    }
    accept(&store, message(4, 70, 1)).await.unwrap();
    assert_eq!(places(&store.lease(at(50), 9).await.unwrap()), []);
    store.reschedule("default", Uuid::from_u128(1), at(80)).await.unwrap();
    store.reschedule("default", Uuid::from_u128(2), at(40)).await.unwrap();
    assert_eq!(places(&store.lease(at(50), 9).await.unwrap()), [(2, vec![0])], "earlier than what was looked at");
    assert_eq!(places(&store.lease(at(75), 9).await.unwrap()), [(3, vec![0]), (4, vec![0])]);
    assert_eq!(places(&store.lease(at(80), 9).await.unwrap()), [(1, vec![0])]);
    assert_eq!(store.message("default", Uuid::from_u128(1)).await.unwrap().scheduled_at, Some(at(80)));
    assert_eq!(kinds(&store, 1).await, [EventKind::Scheduled, EventKind::Sent]);
    let late = store.reschedule("default", Uuid::from_u128(1), at(90)).await;
    assert!(reason(late).contains("sent when its time came"));
}

#[tokio::test]
async fn what_is_canceled_never_goes_out() {
    let (folder, store) = fresh();
    accept(&store, scheduled(1, 60, 2)).await.unwrap();
    let id = Uuid::from_u128(1);
    for (tenant, id) in [("other", id), ("default", Uuid::from_u128(9))] {
        assert!(matches!(store.cancel(tenant, id, at(5)).await, Err(StoreError::NotFound(_))));
        assert!(matches!(store.reschedule(tenant, id, at(5)).await, Err(StoreError::NotFound(_))));
    }
    store.cancel("default", id, at(5)).await.unwrap();
    assert_eq!((store.queued().await.unwrap(), last_event(&store, 1).await.as_deref()), (0, Some("canceled")));
    assert_eq!(kinds(&store, 1).await[2..], [EventKind::Canceled; 2]);
    assert!(reason(store.cancel("default", id, at(6)).await).contains("canceled"));
    assert!(reason(store.reschedule("default", id, at(99)).await).contains("canceled"));
    assert!(store.lease(at(100), 9).await.unwrap().is_empty());
    let view = store.message("default", id).await.unwrap();
    assert!(store.body(&view.body).await.is_ok(), "the body stays for the retention");
    drop(store);
    let store = open(folder.path());
    assert_eq!((store.queued().await.unwrap(), kinds(&store, 1).await.len()), (0, 4));
    assert!(store.lease(at(100), 9).await.unwrap().is_empty());
}

#[tokio::test]
async fn sending_and_canceling_exclude_each_other() {
    let (_folder, store) = fresh();
    for number in 1..=40 {
        accept(&store, scheduled(number, 60, 1)).await.unwrap();
    }
    let cancels = (1..=40).map(|number| {
        let store = store.clone();
        tokio::spawn(async move { (number, store.cancel("default", Uuid::from_u128(number), at(60)).await.is_ok()) })
    });
    let (leased, canceled) =
        tokio::join!(store.lease(at(60), 99), futures::future::join_all(cancels.collect::<Vec<_>>()));
    let mut leased: Vec<u128> = leased.unwrap().iter().map(|one| one.message.as_u128()).collect();
    leased.extend(store.lease(at(60), 99).await.unwrap().iter().map(|one| one.message.as_u128()));
    for answer in canceled {
        let (number, was_canceled) = answer.unwrap();
        assert_ne!(leased.contains(&number), was_canceled, "{number}");
        let last = if was_canceled { EventKind::Canceled } else { EventKind::Sent };
        assert_eq!(kinds(&store, number).await, [EventKind::Scheduled, last]);
    }
}

#[tokio::test]
async fn a_crowd_of_one_moment_is_sent_in_turns() {
    let (_folder, store) = fresh();
    let crowd = crate::store::scheduling::AT_ONCE + 5;
    store.accept((1..=crowd as u128).map(|number| scheduled(number, 60, 1)).collect()).await;
    accept(&store, message(9999, 10, 1)).await.unwrap();
    let mut leased = Vec::new();
    while leased.len() <= crowd {
        leased.extend(places(&store.lease(at(60), 400).await.unwrap()));
    }
    assert_eq!((leased[0].0, leased.len()), (9999, crowd + 1), "what was due before is not held back");
    assert_eq!(kinds(&store, 1).await, [EventKind::Scheduled, EventKind::Sent]);
}

#[tokio::test(start_paused = true)]
async fn the_queue_is_woken_when_the_time_comes() {
    let (_folder, store) = fresh();
    accept(&store, scheduled(1, 3600, 1)).await.unwrap();
    assert!(store.lease(at(0), 9).await.unwrap().is_empty());
    // The news of the accept may be waiting still; behind it, only time passes.
    store.wait_due(at(0)).await;
    let before = tokio::time::Instant::now();
    store.wait_due(at(0)).await;
    assert_eq!(before.elapsed().as_secs(), 3600);
}

#[tokio::test]
async fn a_batch_is_replayed_whole_and_never_mixed() {
    let (_folder, store) = fresh();
    let item = |number: u128, item: u32, digest: &str| {
        let mut message = with_key(message(number, 0, 1), "k", digest);
        message.idempotency.as_mut().unwrap().item = item;
        message
    };
    let stored = |answers: Vec<Result<Accepted, StoreError>>| -> Vec<Option<Accepted>> {
        answers.into_iter().map(Result::ok).collect()
    };
    let replayed = |number| Some(Accepted::Replayed(Uuid::from_u128(number)));
    // The one in the middle was refused before it came here.
    let first = store.accept(vec![item(1, 0, "d"), item(3, 2, "d")]).await;
    assert_eq!(stored(first), [Some(Accepted::Stored), Some(Accepted::Stored)]);
    let again = store.accept(vec![item(11, 0, "d"), item(12, 1, "d"), item(13, 2, "d")]).await;
    assert_eq!(stored(again), [replayed(1), Some(Accepted::Stored), replayed(3)]);
    let other = store.accept((0..5).map(|place| item(20 + u128::from(place), place, "e")).collect()).await;
    assert!(other.iter().all(|answer| matches!(answer, Err(StoreError::IdempotencyMismatch))), "{other:?}");
    assert_eq!(store.queued().await.unwrap(), 3);
}
