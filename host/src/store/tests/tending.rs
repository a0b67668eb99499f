//! What an operator sees of the queue and does to it.

use super::*;

fn to(tenant: &str, number: u128, second: i64, recipients: &[&str]) -> NewMessage {
    let recipients = recipients.iter().map(|text| address(text)).collect();
    NewMessage { tenant: tenant.to_owned(), recipients, ..message(number, second, 0) }
}

/// Does a change to all that fit, in as many steps as it takes.
async fn tend(store: &Embedded, filter: &QueueFilter, change: QueueChange, second: i64) -> Tended {
    let (mut all, mut cursor) = (Tended::default(), None);
    loop {
        let step = store.tend(filter, change, cursor.as_deref(), at(second)).await.unwrap();
        all.changed += step.changed;
        all.in_delivery += step.in_delivery;
        cursor = step.next;
        if cursor.is_none() {
            return all;
        }
    }
}

async fn listed(store: &Embedded, filter: &QueueFilter, limit: usize) -> Vec<QueuedRecipient> {
    let (mut all, mut cursor) = (Vec::new(), None);
    loop {
        let page = store.queue(filter, cursor.as_deref(), limit).await.unwrap();
        assert!(page.items.len() <= limit);
        all.extend(page.items);
        cursor = page.next;
        if cursor.is_none() {
            return all;
        }
    }
}

fn of(tenant: &str) -> QueueFilter {
    QueueFilter { tenant: Some(tenant.to_owned()), ..QueueFilter::default() }
}

fn changed(count: u64) -> Tended {
    Tended { changed: count, ..Tended::default() }
}

async fn filled() -> (TempDir, Arc<Embedded>) {
    let (folder, store) = fresh();
    accept(&store, to("one", 1, 0, &["x@a.test", "y@b.test"])).await.unwrap();
    accept(&store, to("one", 2, 10, &["x@a.test"])).await.unwrap();
    accept(&store, to("two", 3, 20, &["x@a.test"])).await.unwrap();
    (folder, store)
}

#[tokio::test]
async fn what_is_queued_is_listed_by_each_filter() {
    let (_folder, store) = filled().await;
    let a = mail::Domain::parse("a.test").unwrap();
    let any = QueueFilter::default();
    let numbers = |found: Vec<QueuedRecipient>| {
        let mut numbers: Vec<u128> = found.iter().map(|one| one.message.as_u128()).collect();
        numbers.sort_unstable();
        numbers
    };
    for limit in [1, 2, 100] {
        assert_eq!(numbers(listed(&store, &any, limit).await), [1, 1, 2, 3], "{limit}");
        assert_eq!(numbers(listed(&store, &of("one"), limit).await), [1, 1, 2]);
        let filter = QueueFilter { domain: Some(a.clone()), ..any.clone() };
        assert_eq!(numbers(listed(&store, &filter, limit).await), [1, 2, 3]);
        let filter = QueueFilter { domain: Some(a.clone()), ..of("two") };
        assert_eq!(numbers(listed(&store, &filter, limit).await), [3]);
        let filter = QueueFilter { accepted_before: Some(at(10)), ..any.clone() };
        assert_eq!(numbers(listed(&store, &filter, limit).await), [1, 1]);
        let filter = QueueFilter { message: Some(Uuid::from_u128(1)), ..any.clone() };
        assert_eq!(numbers(listed(&store, &filter, limit.max(2)).await), [1, 1]);
        assert!(listed(&store, &of("nobody"), limit).await.is_empty());
    }
    let one = &listed(&store, &of("two"), 9).await[0];
    assert_eq!((one.recipient.as_str(), one.sender.as_str(), one.attempts), ("x@a.test", "sender@example.com", 0));
    assert_eq!((one.accepted_at, one.due_at, one.is_scheduled), (at(20), Some(at(20)), false));
    let unknown = QueueFilter { message: Some(Uuid::from_u128(77)), ..any.clone() };
    assert!(matches!(store.queue(&unknown, None, 9).await, Err(StoreError::NotFound(_))));
    assert!(matches!(store.queue(&any, Some("nonsense"), 9).await, Err(StoreError::NotFound(_))));
}

#[tokio::test]
async fn what_is_held_is_not_leased_until_it_is_released_over_a_restart_too() {
    let (folder, store) = filled().await;
    assert_eq!(tend(&store, &of("one"), QueueChange::Hold, 30).await, changed(3));
    assert_eq!(tend(&store, &of("one"), QueueChange::Hold, 30).await, changed(0));
    assert_eq!(tend(&store, &of("one"), QueueChange::Retry, 30).await, changed(0), "held is held");
    drop(store);
    let store = open(folder.path());
    assert_eq!(store.queued().await.unwrap(), 4);
    assert_eq!(places(&store.lease(at(40), 9).await.unwrap()), [(3, vec![0])]);
    let held = QueueFilter { held: Some(true), ..QueueFilter::default() };
    assert_eq!(listed(&store, &held, 1).await.len(), 3);
    assert_eq!(listed(&store, &QueueFilter { held: Some(false), ..held.clone() }, 1).await.len(), 1);
    let b = QueueFilter { domain: Some(mail::Domain::parse("b.test").unwrap()), ..QueueFilter::default() };
    assert_eq!(tend(&store, &b, QueueChange::Release, 50).await, changed(1));
    assert_eq!(places(&store.lease(at(50), 9).await.unwrap()), [(1, vec![1])]);
    assert_eq!(tend(&store, &of("one"), QueueChange::Release, 60).await, changed(2));
    assert_eq!(places(&store.lease(at(60), 9).await.unwrap()), [(1, vec![0]), (2, vec![0])]);
}

#[tokio::test]
async fn a_hold_during_an_attempt_begins_behind_it() {
    let (_folder, store) = filled().await;
    let leased = store.lease(at(30), 9).await.unwrap();
    assert_eq!(tend(&store, &of("one"), QueueChange::Hold, 30).await.changed, 3);
    let one = leased.iter().find(|one| one.message.as_u128() == 1).unwrap();
    let two = leased.iter().find(|one| one.message.as_u128() == 2).unwrap();
    let batch = vec![
        completion(one, 0, Next::Done, Some(EventKind::Delivered)),
        completion(one, 1, Next::Retry(at(40)), Some(EventKind::DeliveryDelayed)),
        completion(two, 0, Next::Release, None),
    ];
    store.complete(batch).await.unwrap();
    assert_eq!(places(&store.lease(at(99), 9).await.unwrap()), []);
    let held = listed(&store, &QueueFilter { held: Some(true), ..QueueFilter::default() }, 9).await;
    let attempts: Vec<(&str, u32)> = held.iter().map(|one| (one.recipient.as_str(), one.attempts)).collect();
    assert_eq!(
        (attempts.len(), attempts.contains(&("y@b.test", 1)), attempts.contains(&("x@a.test", 0))),
        (2, true, true)
    );
}

#[tokio::test]
async fn a_retry_is_due_now() {
    let (_folder, store) = filled().await;
    let leased = store.lease(at(30), 9).await.unwrap();
    let all = QueueFilter::default();
    assert_eq!(tend(&store, &all, QueueChange::Retry, 30).await, Tended { in_delivery: 4, ..changed(0) });
    let later = |one: &Leased| {
        (0..one.recipients.len()).map(|place| completion(one, place, Next::Retry(at(999)), None)).collect::<Vec<_>>()
    };
    store.complete(leased.iter().flat_map(later).collect()).await.unwrap();
    assert_eq!(tend(&store, &of("one"), QueueChange::Retry, 40).await, changed(3));
    assert_eq!(tend(&store, &of("one"), QueueChange::Retry, 40).await, changed(0));
    let again = store.lease(at(40), 9).await.unwrap();
    assert_eq!(again.iter().map(|one| one.recipients.len()).sum::<usize>(), 3);
    assert_eq!(again[0].recipients[0].attempts, 1);
}

#[tokio::test]
async fn what_is_ended_has_its_event_and_is_over_for_good() {
    for (change, kind, reason) in [
        (QueueChange::Cancel, EventKind::Canceled, None),
        (QueueChange::Bounce, EventKind::Bounced, Some(BOUNCED)),
        (QueueChange::Purge, EventKind::Failed, Some(PURGED)),
    ] {
        let (folder, store) = filled().await;
        tend(&store, &of("two"), QueueChange::Hold, 30).await;
        let b = QueueFilter { domain: Some(mail::Domain::parse("b.test").unwrap()), ..of("one") };
        assert_eq!(tend(&store, &b, change, 30).await, changed(1));
        assert_eq!(tend(&store, &of("two"), change, 30).await, changed(1), "held ones too");
        let page = store.events("one", Uuid::from_u128(1), None, 9).await.unwrap();
        let last = &page.items[2].event;
        assert_eq!(
            (last.kind, last.reason.as_deref(), last.recipient.to_string().as_str()),
            (kind, reason, "y@b.test")
        );
        assert_eq!(store.queued().await.unwrap(), 2);
        drop(store);
        let store = open(folder.path());
        assert_eq!(store.queued().await.unwrap(), 2);
        let leased = store.lease(at(40), 9).await.unwrap();
        assert_eq!(places(&leased), [(1, vec![0]), (2, vec![0])]);
        let left = tend(&store, &QueueFilter::default(), change, 50).await;
        assert_eq!(left, Tended { in_delivery: 2, ..changed(0) }, "nobody knows what the peer has by now");
        store.complete(vec![completion(&leased[0], 0, Next::Done, Some(EventKind::Delivered))]).await.unwrap();
    }
}

#[tokio::test]
async fn scheduled_mail_is_ended_and_otherwise_left_to_its_owner() {
    let (_folder, store) = fresh();
    accept(&store, NewMessage { scheduled_at: Some(at(500)), ..message(1, 0, 2) }).await.unwrap();
    let all = QueueFilter::default();
    assert!(listed(&store, &all, 9).await[0].is_scheduled);
    for change in [QueueChange::Hold, QueueChange::Retry, QueueChange::Release] {
        assert_eq!(tend(&store, &all, change, 30).await, changed(0));
    }
    assert_eq!(tend(&store, &all, QueueChange::Purge, 30).await, changed(2));
    assert!(matches!(store.cancel("default", Uuid::from_u128(1), at(40)).await, Err(StoreError::NotScheduled(_))));
    assert!(store.lease(at(600), 9).await.unwrap().is_empty());
    assert_eq!(kinds(&store, 1).await[2..], [EventKind::Failed, EventKind::Failed]);
}

/// One recipient's end leaves the others where they are: on the schedule, and their owner's to move and to cancel.
#[tokio::test]
async fn scheduled_mail_loses_one_recipient_alone() {
    let (_folder, store) = fresh();
    let scheduled = to("default", 1, 0, &["x@a.test", "y@b.test"]);
    accept(&store, NewMessage { scheduled_at: Some(at(500)), ..scheduled }).await.unwrap();
    let at_a = QueueFilter { domain: Some(mail::Domain::parse("a.test").unwrap()), ..QueueFilter::default() };
    assert_eq!(tend(&store, &at_a, QueueChange::Cancel, 30).await, changed(1));
    assert_eq!(tend(&store, &QueueFilter::default(), QueueChange::Retry, 31).await, changed(0), "it is not its time");
    store.reschedule("default", Uuid::from_u128(1), at(700)).await.unwrap();
    assert!(store.lease(at(600), 9).await.unwrap().is_empty());
    store.cancel("default", Uuid::from_u128(1), at(650)).await.unwrap();
    assert!(store.lease(at(800), 9).await.unwrap().is_empty());
    let expect = [EventKind::Scheduled, EventKind::Scheduled, EventKind::Canceled, EventKind::Canceled];
    assert_eq!(kinds(&store, 1).await, expect);
}

#[tokio::test]
async fn a_large_purge_goes_in_steps() {
    let (_folder, store) = fresh();
    for batch in 0..4 {
        store.accept((0..500).map(|number| message(1 + batch * 500 + number, 0, 1)).collect()).await;
    }
    let first = store.tend(&QueueFilter::default(), QueueChange::Purge, None, at(1)).await.unwrap();
    assert!(first.changed < 2000 && first.next.is_some(), "{first:?}");
    assert_eq!(tend(&store, &QueueFilter::default(), QueueChange::Purge, 1).await.changed + first.changed, 2000);
    assert_eq!(store.queued().await.unwrap(), 0);
}
