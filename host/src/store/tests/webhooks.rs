//! The outbox of webhooks: what a crash between two of its steps leaves, and the list of a tenant's events.

use super::crashes::At;
use super::*;

fn webhook(tenant: &str, id: &str, kinds: &[EventKind]) -> Webhook {
    Webhook {
        id: id.to_owned(),
        tenant: tenant.to_owned(),
        url: "https://example.com/hook".to_owned(),
        kinds: kinds.iter().copied().map(AnyKind::from).collect(),
        sealed_secret: vec![1, 2, 3],
        old_secret: Some((vec![4], at(500))),
        status: WebhookStatus::Enabled,
        reason: None,
        created_at: at(0),
    }
}

async fn waiting(store: &Embedded) -> Vec<(String, u32)> {
    let mut found = Vec::new();
    for key in store.waiting_webhooks().await.unwrap() {
        let waiting = Webhooks::waiting(store, key, Timestamp::MAX, 100).await.unwrap();
        found.extend(waiting.due.into_iter().map(|due| (due.event.id().to_owned(), due.attempts)));
    }
    found
}

async fn ids(store: &Embedded, number: u128) -> Vec<String> {
    let page = store.events("default", Uuid::from_u128(number), None, 100).await.unwrap();
    page.items.into_iter().map(|record| record.id).collect()
}

fn tried(store_key: WebhookKey, due: &Due, next: Option<Timestamp>) -> Attempted {
    Attempted {
        webhook: store_key,
        delivery: Some(Tried {
            subject: due.subject,
            seq: due.seq,
            due_at: due.due_at,
            next,
            head: None,
            failing: None,
        }),
        event: due.event.id().to_owned(),
        kind: due.event.kind(),
        number: due.attempts + 1,
        at: at(10),
        duration: Duration::from_millis(12),
        status: Some(500),
        error: None,
        head: "no".to_owned(),
    }
}

#[tokio::test]
async fn a_webhook_reads_back_whole() {
    let (_folder, store) = fresh();
    let mut one = webhook("acme", "a", &[EventKind::Sent, EventKind::Canceled]);
    store.add_webhook(one.clone(), 2).await.unwrap();
    store.add_webhook(webhook("acme", "b", &[EventKind::Sent]), 2).await.unwrap();
    assert!(matches!(store.add_webhook(webhook("acme", "c", &[EventKind::Sent]), 2).await, Err(StoreError::Exists(_))));
    assert_eq!(store.webhook("acme", "a").await.unwrap().1, one);
    assert!(matches!(store.webhook("default", "a").await, Err(StoreError::NotFound(_))));
    (one.status, one.reason) = (WebhookStatus::Disabled, None);
    one.kinds = vec![EventKind::Bounced.into(), TenantEventKind::WebhookPaused.into()];
    let (status, kinds) = (Some(one.status), Some(one.kinds.clone()));
    store.change_webhook("acme", "a", WebhookChange { status, kinds, url: None }).await.unwrap();
    assert_eq!(store.webhooks("acme").await.unwrap()[0], one);
    // Two changes at once lose nothing of each other, and of two rotations each has a secret that signs.
    let url = WebhookChange { url: Some("https://example.net".to_owned()), ..WebhookChange::default() };
    store.change_webhook("acme", "a", url).await.unwrap();
    store.rotate_secret("acme", "a", vec![7], at(600)).await.unwrap();
    store.rotate_secret("acme", "a", vec![8], at(601)).await.unwrap();
    one.url = "https://example.net".to_owned();
    (one.sealed_secret, one.old_secret) = (vec![8], Some((vec![7], at(601))));
    assert!(matches!(
        store.change_webhook("default", "a", WebhookChange::default()).await,
        Err(StoreError::NotFound(_))
    ));
    assert_eq!(store.webhooks("acme").await.unwrap()[0], one);
    store.remove_webhook("acme", "a").await.unwrap();
    assert_eq!(store.webhooks("acme").await.unwrap().len(), 1);
    assert!(matches!(store.remove_webhook("acme", "a").await, Err(StoreError::NotFound(_))));
    assert!(store.webhooks("default").await.unwrap().is_empty());
}

/// At each step the machine stops, and starts again: every event is waiting, or was written down as told; none is lost,
/// and none has got another id.
#[tokio::test]
async fn a_crash_between_two_steps_loses_no_event() {
    for (point, crash_in_the_move) in [
        (Point::Appended, false),
        (Point::Committed, false),
        (Point::Copied, true),
        (Point::Committed, true), // the outbox has just forgotten them
    ] {
        let folder = tempfile::tempdir().unwrap();
        let (live, crashed) = (folder.path().join("live"), folder.path().join("crashed"));
        let faults = Arc::new(At::new(point, live.clone(), Some(crashed.clone())));
        let store = Embedded::open_with(&live, still(), faults.clone()).unwrap();
        store.add_webhook(webhook("default", "a", &[EventKind::Sent, EventKind::Delivered]), 9).await.unwrap();
        if !crash_in_the_move {
            faults.arm();
        }
        accept(&store, message(1, 0, 2)).await.unwrap();
        let told = ids(&store, 1).await;
        if crash_in_the_move {
            faults.arm();
        }
        store.move_events().await;
        drop(store);
        let store = open(&crashed);
        store.move_events().await;
        let expect: Vec<(String, u32)> = match (point, crash_in_the_move) {
            // Nothing was promised to anybody yet.
            (Point::Appended, false) => Vec::new(),
            _ => told.into_iter().map(|id| (id, 0)).collect(),
        };
        assert_eq!(waiting(&store).await, expect, "{point:?} {crash_in_the_move}");
    }
}

/// The same for what an attempt came to: before it is written down the event waits as it did, behind that it has moved on.
#[tokio::test]
async fn a_crash_around_an_attempt_repeats_it_at_most() {
    for (written, next, expect) in
        [(false, None, Some(0)), (true, None, None), (false, Some(at(99)), Some(0)), (true, Some(at(99)), Some(1))]
    {
        let folder = tempfile::tempdir().unwrap();
        let (live, crashed) = (folder.path().join("live"), folder.path().join("crashed"));
        let store = open(&live);
        store.add_webhook(webhook("default", "a", &[EventKind::Sent]), 9).await.unwrap();
        accept(&store, message(1, 0, 1)).await.unwrap();
        store.move_events().await;
        let id = ids(&store, 1).await.remove(0);
        let key = store.waiting_webhooks().await.unwrap()[0];
        let due = Webhooks::waiting(&*store, key, Timestamp::MAX, 9).await.unwrap().due.remove(0);
        assert_eq!((due.event.id(), due.message.head.as_deref()), (id.as_str(), Some(b"Subject: 1\r\n".as_slice())));
        if !written {
            crashes::copy(&live, &crashed).unwrap();
        }
        store.attempted(vec![tried(key, &due, next)]).await.unwrap();
        if written {
            crashes::copy(&live, &crashed).unwrap();
        }
        let store = open(&crashed);
        let expect: Vec<_> = expect.map(|attempts| (id.clone(), attempts)).into_iter().collect();
        assert_eq!(waiting(&store).await, expect, "{written} {next:?}");
        let log = store.attempts(key, None, 9).await.unwrap().items;
        assert_eq!(log.len(), usize::from(written));
        assert_eq!(store.attempts_for(Uuid::from_u128(1), 9).await.unwrap(), log);
        if let Some(logged) = log.first() {
            assert_eq!((&logged.event, logged.status, logged.number, logged.next_at), (&id, Some(500), 1, next));
            assert_eq!((logged.at, logged.duration, logged.webhook.as_str()), (at(10), Duration::from_millis(12), "a"));
        }
        store.forget_attempts(at(11)).await.unwrap();
        assert!(store.attempts(key, None, 9).await.unwrap().items.is_empty());
    }
}

#[tokio::test]
async fn what_goes_with_a_webhook_and_what_is_replayed() {
    let (_folder, store) = fresh();
    store.add_webhook(webhook("default", "a", &[EventKind::Sent]), 9).await.unwrap();
    store.add_webhook(webhook("acme", "b", &[EventKind::Sent]), 9).await.unwrap();
    accept(&store, message(1, 0, 2)).await.unwrap();
    store.move_events().await;
    let (key, _) = store.webhook("default", "a").await.unwrap();
    let (theirs, _) = store.webhook("acme", "b").await.unwrap();
    let due = Webhooks::waiting(&*store, key, Timestamp::MAX, 9).await.unwrap().due;
    // Asked for anew while an attempt is under way: what that comes to does not take it away.
    let id = due[0].event.id().to_owned();
    assert_eq!(store.replay(key, Replay::Event(id.clone()), at(1_000_000_000), 1).await.unwrap(), 1);
    store.attempted(due.iter().map(|due| tried(key, due, None)).collect()).await.unwrap();
    assert_eq!(waiting(&store).await, [(id.clone(), 0)]);
    assert!(matches!(store.replay(theirs, Replay::Event(id.clone()), at(0), 1).await, Err(StoreError::NotFound(_))));
    assert!(matches!(
        store.replay(key, Replay::Event("evt_x".to_owned()), at(0), 1).await,
        Err(StoreError::NotFound(_))
    ));
    assert_eq!(store.replay(theirs, Replay::Range(at(0), at(9)), at(0), 9).await.unwrap(), 0);
    assert_eq!(store.replay(key, Replay::Range(at(1), at(9)), at(0), 9).await.unwrap(), 0);
    assert_eq!(store.replay(key, Replay::Range(at(0), at(0)), at(0), 9).await.unwrap(), 2);
    store.remove_webhook("default", "a").await.unwrap();
    assert_eq!(Webhooks::waiting(&*store, key, Timestamp::MAX, 9).await.unwrap().due.len(), 0);
    store.add_webhook(webhook("default", "c", &[EventKind::Sent]), 9).await.unwrap();
    assert_ne!(store.webhook("default", "c").await.unwrap().0, key, "its deliveries would be another's");
}

#[tokio::test]
async fn a_tenants_events_across_both_databases() {
    let (_folder, store) = fresh();
    accept(&store, message(1, 0, 2)).await.unwrap();
    let mut others = message(2, 0, 1);
    others.tenant = "acme".to_owned();
    accept(&store, others).await.unwrap();
    store.move_events().await;
    accept(&store, message(3, 5, 1)).await.unwrap();
    store
        .record(Uuid::from_u128(1), vec![event(EventKind::Delivered, &address("r0@a.test"), None)], at(7))
        .await
        .unwrap();
    let of = |event: &AnyEvent| match event {
        AnyEvent::Message(record) => record.clone(),
        AnyEvent::Tenant(record) => panic!("{record:?}"),
    };
    let all = EventFilter { tenant: "default".to_owned(), oldest_first: true, ..EventFilter::default() };
    let (events, more) = store.tenant_events(all.clone(), 9).await.unwrap();
    let seen: Vec<_> = events.iter().map(|it| (of(it).message.as_u128(), of(it).event.kind, it.at())).collect();
    let sent = EventKind::Sent;
    assert_eq!(seen, [(1, sent, at(0)), (1, sent, at(0)), (3, sent, at(5)), (1, EventKind::Delivered, at(7))]);
    assert!(!more);
    // Page by page, in both directions.
    for oldest_first in [true, false] {
        let mut filter = EventFilter { oldest_first, ..all.clone() };
        let mut paged = Vec::new();
        loop {
            let (page, more) = store.tenant_events(filter.clone(), 1).await.unwrap();
            paged.extend(page.iter().map(|it| it.id().to_owned()));
            filter.after = paged.last().cloned();
            if !more {
                break;
            }
        }
        let mut expect: Vec<_> = events.iter().map(|it| it.id().to_owned()).collect();
        if !oldest_first {
            expect.reverse();
        }
        assert_eq!(paged, expect);
    }
    let count = async |filter: EventFilter| store.tenant_events(filter, 9).await.unwrap().0.len();
    assert_eq!(count(EventFilter { kinds: Some(vec![EventKind::Delivered.into()]), ..all.clone() }).await, 1);
    assert_eq!(count(EventFilter { from: Some(at(5)), ..all.clone() }).await, 2);
    assert_eq!(count(EventFilter { to: Some(at(5)), ..all.clone() }).await, 3);
    assert_eq!(count(EventFilter { tenant: "nobody".to_owned(), ..all.clone() }).await, 0);
    let theirs = store.tenant_events(EventFilter { tenant: "acme".to_owned(), ..all.clone() }, 9).await.unwrap().0;
    assert_eq!(theirs.len(), 1);
    let after = EventFilter { after: Some(theirs[0].id().to_owned()), ..all };
    assert!(matches!(store.tenant_events(after, 9).await, Err(StoreError::NotFound(_))));
    assert_eq!(Webhooks::event(&*store, "default", events[3].id()).await.unwrap().at(), at(7));
    assert_eq!(Webhooks::event(&*store, "default", events[0].id()).await.unwrap().id(), events[0].id());
    assert!(matches!(Webhooks::event(&*store, "acme", events[0].id()).await, Err(StoreError::NotFound(_))));
}

/// Events that belong to no message take the same road, before and after they move.
#[tokio::test]
async fn events_of_a_tenant_are_listed_and_told() {
    let (folder, store) = fresh();
    let kind = TenantEventKind::QuotaWarning;
    store.add_webhook(Webhook { kinds: vec![kind.into()], ..webhook("default", "a", &[]) }, 9).await.unwrap();
    store.add_webhook(webhook("default", "b", &[EventKind::Sent]), 9).await.unwrap();
    store.add_webhook(Webhook { kinds: vec![kind.into()], ..webhook("acme", "c", &[]) }, 9).await.unwrap();
    accept(&store, message(1, 0, 1)).await.unwrap();
    let event = TenantEvent::new(kind, [("used", 90.into()), ("why", "x".repeat(9000).into())]);
    store.announce("default", event, at(5)).await.unwrap();
    let all = EventFilter { tenant: "default".to_owned(), oldest_first: true, ..EventFilter::default() };
    let found = async |filter: &EventFilter| -> Vec<(AnyKind, String)> {
        let (events, more) = store.tenant_events(filter.clone(), 9).await.unwrap();
        assert!(!more);
        events.iter().map(|it| (it.kind(), it.id().to_owned())).collect()
    };
    let before = found(&all).await;
    store.move_events().await;
    let after = found(&all).await;
    assert_eq!(before, after);
    assert_eq!(after.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(), [EventKind::Sent.into(), kind.into()]);
    let id = after[1].1.clone();
    let narrow = |kinds: Vec<AnyKind>| EventFilter { kinds: Some(kinds), ..all.clone() };
    assert_eq!(found(&narrow(vec![kind.into(), EventKind::Bounced.into()])).await, after[1..]);
    assert_eq!(found(&narrow(vec![kind.into(), EventKind::Sent.into()])).await, after);
    assert_eq!(found(&EventFilter { message: Some(Uuid::from_u128(1)), ..all.clone() }).await, after[..1]);
    assert!(found(&EventFilter { message: Some(Uuid::from_u128(9)), ..all.clone() }).await.is_empty());
    assert!(found(&EventFilter { tenant: "acme".to_owned(), ..all.clone() }).await.is_empty());
    let AnyEvent::Tenant(record) = Webhooks::event(&*store, "default", &id).await.unwrap() else { panic!("{id}") };
    assert_eq!((record.at, &record.event.data["used"]), (at(5), &90.into()));
    assert_eq!(record.event.data["why"].as_str().unwrap().len(), 256, "its texts are cut where all is too long");
    assert!(matches!(Webhooks::event(&*store, "acme", &id).await, Err(StoreError::NotFound(_))));
    // Told to the tenant's webhook that wants it, and to none besides; and again when it is asked for.
    let (key, _) = store.webhook("default", "a").await.unwrap();
    let due = Webhooks::waiting(&*store, key, Timestamp::MAX, 9).await.unwrap().due;
    assert_eq!(due.iter().map(|due| due.event.id()).collect::<Vec<_>>(), [&id]);
    assert_eq!(store.waiting_webhooks().await.unwrap().len(), 2);
    store.attempted(vec![tried(key, &due[0], None)]).await.unwrap();
    assert_eq!(store.attempts(key, None, 9).await.unwrap().items[0].kind, kind.into());
    assert_eq!(store.replay(key, Replay::Range(at(0), at(9)), at(0), 9).await.unwrap(), 1);
    // Numbers go on behind it after a restart.
    drop(store);
    let store = open(folder.path());
    store.announce("default", TenantEvent::new(kind, []), at(6)).await.unwrap();
    let (events, _) = store.tenant_events(all, 9).await.unwrap();
    assert_eq!(events.iter().map(AnyEvent::at).collect::<Vec<_>>(), [at(0), at(5), at(6)]);
}

/// Whatever was asked of the endpoint before says nothing about the one there is now.
#[tokio::test]
async fn a_webhook_is_stopped_only_where_it_was_tried() {
    let (_folder, store) = fresh();
    store.add_webhook(webhook("default", "a", &[EventKind::Sent]), 9).await.unwrap();
    let (key, found) = store.webhook("default", "a").await.unwrap();
    let stop = async |url: &str| store.stop_webhook(key, url, WebhookStatus::Paused, "why", at(3)).await.unwrap();
    let paused = async || {
        let filter = EventFilter { tenant: "default".to_owned(), ..EventFilter::default() };
        store.tenant_events(filter, 9).await.unwrap().0.len()
    };
    assert!(!stop("https://example.com/before").await);
    assert_eq!((store.webhook("default", "a").await.unwrap().1.status, paused().await), (WebhookStatus::Enabled, 0));
    assert!(stop(&found.url).await);
    assert_eq!((store.webhook("default", "a").await.unwrap().1.status, paused().await), (WebhookStatus::Paused, 1));
    assert!(stop(&found.url).await, "it is stopped already, and that is told once");
    assert_eq!(paused().await, 1);
}

/// A try that comes after the body is gone still knows what the message said.
#[tokio::test]
async fn a_retry_keeps_the_header() {
    let (folder, store) = fresh();
    store.add_webhook(webhook("default", "a", &[EventKind::Sent]), 9).await.unwrap();
    accept(&store, message(1, 0, 1)).await.unwrap();
    store.move_events().await;
    let (key, _) = store.webhook("default", "a").await.unwrap();
    let due = async || Webhooks::waiting(&*store, key, Timestamp::MAX, 9).await.unwrap().due.remove(0);
    let first = due().await;
    let mut failed = tried(key, &first, Some(at(60)));
    failed.delivery.as_mut().unwrap().head = Some(Bytes::from_static(b"Subject: 1\r\n"));
    store.attempted(vec![failed]).await.unwrap();
    let again = due().await;
    store.attempted(vec![tried(key, &again, Some(at(70)))]).await.unwrap();
    std::fs::remove_dir_all(folder.path().join("spool")).unwrap();
    assert_eq!(due().await.message.head.as_deref(), Some(b"Subject: 1\r\n".as_slice()));
    assert_eq!(store.attempt_for(key, first.event.id()).await.unwrap().number, 2);
}

#[tokio::test]
async fn of_a_message_those_that_wait_are_counted() {
    let (_folder, store) = fresh();
    accept(&store, message(1, 0, 3)).await.unwrap();
    let waiting = async || store.message("default", Uuid::from_u128(1)).await.unwrap().waiting;
    let leased = store.lease(at(1), 9).await.unwrap();
    assert_eq!(waiting().await, 3);
    let done = completion(&leased[0], 1, Next::Done, Some(EventKind::Delivered));
    store.complete(vec![done]).await.unwrap();
    assert_eq!(waiting().await, 2);
}

#[tokio::test]
async fn a_first_telling_has_the_header_although_the_body_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options { segment_bytes: 2000, retention: Some(Duration::from_secs(50)), ..still() };
    let store = Embedded::open(folder.path(), options).unwrap();
    store.add_webhook(webhook("default", "a", &[EventKind::Delivered]), 9).await.unwrap();
    for number in 1..=60 {
        accept(&store, message(number, 0, 1)).await.unwrap();
    }
    let leased = store.lease(at(0), 99).await.unwrap();
    // From then on it is on the disk alone.
    store.body(&leased[0].body).await.unwrap();
    let done = leased.iter().map(|one| completion(one, 0, Next::Done, Some(EventKind::Delivered)));
    store.complete(done.collect()).await.unwrap();
    store.move_events().await;
    store.sweep(at(200)).await;
    assert!(store.body(&leased[0].body).await.is_err(), "its body is gone");
    let key = store.waiting_webhooks().await.unwrap()[0];
    let waiting = Webhooks::waiting(&*store, key, Timestamp::MAX, 100).await.unwrap();
    assert_eq!(waiting.due.len(), 60);
    let head = waiting.due[0].message.head.clone();
    assert!(head.is_some_and(|head| head.starts_with(b"Subject: ")), "{:?}", waiting.due[0].message);
}
