//! Accepting and reading back.

use super::*;

#[tokio::test]
async fn mail_in_a_folder_that_was_open_is_closed_to_others() {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let store = open(folder.path());
    accept(&store, message(1, 1, 1)).await.unwrap();
    let entries = |folder: &Path| std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    let (mut paths, spool): (Vec<_>, Vec<_>) = (entries(folder.path()), entries(&folder.path().join("spool")));
    assert!(paths.len() > 4 && spool.len() == 1, "{paths:?} {spool:?}");
    paths.extend(spool);
    paths.push(folder.path().to_owned());
    for path in paths {
        let mode = std::fs::metadata(&path).unwrap().mode();
        assert_eq!(mode & 0o077, 0, "{} has {mode:o}", path.display());
    }
}

#[tokio::test]
async fn an_accepted_message_reads_back_whole() {
    let (folder, store) = fresh();
    let mut sent = message(1, 0, 2);
    sent.recipients.push(address("Bücher@müller.example"));
    sent.recipients.push(address("\"odd local\"@a.test"));
    sent.bcc = vec![address("r1@a.test")];
    sent.tags = vec![("campaign".to_owned(), "\"ü\n".to_owned())];
    sent.attributes = vec![("a".to_owned(), "b".to_owned())];
    assert_eq!(accept(&store, sent.clone()).await.unwrap(), Accepted::Stored);
    drop(store);
    let store = open(folder.path());
    let view = store.message("default", sent.id).await.unwrap();
    assert_eq!(view.sender, sent.sender);
    assert_eq!(view.recipients, sent.recipients);
    assert_eq!(view.bcc, sent.bcc);
    assert_eq!(view.tags, sent.tags);
    assert_eq!(view.accepted_at, sent.accepted_at);
    assert_eq!(view.size_bytes, sent.body.len() as u64);
    assert_eq!(view.last_event.as_deref(), Some("sent"));
    assert_eq!(store.body(&view.body).await.unwrap(), sent.body);
    assert_eq!(store.queued().await.unwrap(), 4);
}

#[tokio::test]
async fn the_null_sender_and_an_empty_body_are_kept() {
    let (_folder, store) = fresh();
    let mut sent = message(1, 0, 1);
    sent.sender = None;
    sent.body = Bytes::new();
    accept(&store, sent.clone()).await.unwrap();
    let view = store.message("default", sent.id).await.unwrap();
    assert_eq!(view.sender, None);
    assert_eq!(store.body(&view.body).await.unwrap(), Bytes::new());
    assert_eq!(store.lease(at(0), 10).await.unwrap()[0].sender, None);
}

#[tokio::test]
async fn tenants_do_not_see_each_other() {
    let (_folder, store) = fresh();
    let mut theirs = message(1, 0, 1);
    theirs.tenant = "other".to_owned();
    accept(&store, theirs.clone()).await.unwrap();
    for tenant in ["default", "nobody"] {
        assert!(matches!(store.message(tenant, theirs.id).await, Err(StoreError::NotFound(_))));
        assert!(matches!(store.events(tenant, theirs.id, None, 9).await, Err(StoreError::NotFound(_))));
        assert!(store.messages(tenant, None, 9).await.unwrap().items.is_empty());
    }
    assert_eq!(store.message("other", theirs.id).await.unwrap().tenant, "other");
    assert!(matches!(accept(&store, message(1, 0, 1)).await, Err(StoreError::DuplicateId)));
}

#[tokio::test]
async fn a_repeated_id_is_replayed_or_refused() {
    let (_folder, store) = fresh();
    let first = message(1, 0, 1);
    let mut other = first.clone();
    other.body = Bytes::from_static(b"Subject: other\r\n\r\n");
    let answers = store.accept(vec![first.clone(), first.clone(), other.clone(), message(2, 0, 1)]).await;
    assert!(matches!(answers[0], Ok(Accepted::Stored)));
    assert!(matches!(answers[1], Ok(Accepted::Replayed(id)) if id == first.id), "in one group");
    assert!(matches!(answers[2], Err(StoreError::DuplicateId)), "others in the group are not harmed");
    assert!(matches!(answers[3], Ok(Accepted::Stored)));
    assert_eq!(accept(&store, first.clone()).await.unwrap(), Accepted::Replayed(first.id), "in a later group");
    assert!(matches!(accept(&store, other).await, Err(StoreError::DuplicateId)));
    assert_eq!(store.queued().await.unwrap(), 2);
    assert_eq!(kinds(&store, 1).await, [EventKind::Sent]);
}

#[tokio::test]
async fn an_idempotency_key_works_for_a_day_and_per_tenant() {
    let (folder, store) = fresh();
    let day = 24 * 60 * 60;
    let first = Uuid::from_u128(1);
    assert_eq!(accept(&store, with_key(message(1, 0, 1), "k", "d")).await.unwrap(), Accepted::Stored);
    assert_eq!(accept(&store, with_key(message(2, 1, 1), "k", "d")).await.unwrap(), Accepted::Replayed(first));
    assert!(matches!(accept(&store, with_key(message(3, 1, 1), "k", "x")).await, Err(StoreError::IdempotencyMismatch)));
    let mut theirs = with_key(message(4, 1, 1), "k", "x");
    theirs.tenant = "other".to_owned();
    assert_eq!(accept(&store, theirs).await.unwrap(), Accepted::Stored);
    drop(store);
    let store = open(folder.path());
    store.sweep(at(day)).await;
    assert_eq!(accept(&store, with_key(message(5, day, 1), "k", "d")).await.unwrap(), Accepted::Replayed(first));
    assert_eq!(accept(&store, with_key(message(6, day + 1, 1), "k", "x")).await.unwrap(), Accepted::Stored, "over");
    assert_eq!(
        accept(&store, with_key(message(7, day + 2, 1), "k", "x")).await.unwrap(),
        Accepted::Replayed(Uuid::from_u128(6))
    );
    assert!(matches!(store.message("default", Uuid::from_u128(2)).await, Err(StoreError::NotFound(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_racing_requests_with_one_key_one_is_stored() {
    let (_folder, store) = fresh();
    let racers = (1..=64).map(|number| {
        let store = store.clone();
        tokio::spawn(async move { accept(&store, with_key(message(number, 0, 1), "k", "d")).await.unwrap() })
    });
    let answers: Vec<Accepted> = futures::future::try_join_all(racers.collect::<Vec<_>>()).await.unwrap();
    let stored = answers.iter().filter(|answer| **answer == Accepted::Stored).count();
    assert_eq!(stored, 1);
    assert_eq!(store.queued().await.unwrap(), 1);
    let id = store.lease(at(0), 9).await.unwrap()[0].message;
    assert_eq!(answers.iter().filter(|answer| **answer == Accepted::Replayed(id)).count(), 63);
}

#[tokio::test]
async fn messages_page_newest_first() {
    let (_folder, store) = fresh();
    store.accept((1..=7).map(|number| message(number, 0, 1)).collect()).await;
    let mut cursor = None;
    let mut seen = Vec::new();
    loop {
        let page = store.messages("default", cursor.as_deref(), 3).await.unwrap();
        seen.push(page.items.iter().map(|view| view.id.as_u128()).collect::<Vec<_>>());
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(seen, [vec![7, 6, 5], vec![4, 3, 2], vec![1]]);
    assert!(matches!(store.messages("default", Some("x"), 3).await, Err(StoreError::NotFound(_))));
}

#[tokio::test]
async fn bodies_go_when_done_with_and_over_their_retention() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options { segment_bytes: 1, retention: Some(Duration::from_secs(50)), ..still() };
    let store = Embedded::open(folder.path(), options).unwrap();
    for number in 1..=3 {
        accept(&store, message(number, 0, 2)).await.unwrap();
    }
    let leased = store.lease(at(0), 9).await.unwrap();
    store
        .complete(vec![completion(&leased[0], 0, Next::Done, None), completion(&leased[0], 1, Next::Done, None)])
        .await
        .unwrap();
    store.complete(vec![completion(&leased[1], 0, Next::Done, None)]).await.unwrap();
    let gone = async |place: usize| store.body(&leased[place].body).await.is_err();
    store.sweep(at(100 + 50)).await;
    assert!(!gone(0).await, "its retention is not over yet");
    store.sweep(at(100 + 51)).await;
    assert!(gone(0).await);
    assert!(!gone(1).await, "one recipient is queued still");
    assert!(!gone(2).await);
    assert_eq!(store.message("default", Uuid::from_u128(1)).await.unwrap().recipients.len(), 2, "rows stay");
    accept(&store, message(4, 0, 1)).await.unwrap();
    drop(store);
    let store = open(folder.path());
    assert!(store.body(&leased[0].body).await.is_err());
    assert!(store.body(&leased[1].body).await.is_ok());
}

#[tokio::test]
async fn a_disk_below_its_reserve_refuses_mail_and_finishes_what_it_has() {
    let (folder, store) = fresh();
    accept(&store, message(1, 0, 1)).await.unwrap();
    drop(store);
    let store = Embedded::open(folder.path(), Options { reserve_bytes: u64::MAX, ..still() }).unwrap();
    assert!(matches!(accept(&store, message(2, 0, 1)).await, Err(StoreError::Full)));
    let leased = store.lease(at(0), 9).await.unwrap();
    store.complete(vec![completion(&leased[0], 0, Next::Done, None)]).await.unwrap();
    assert_eq!(store.queued().await.unwrap(), 0);
}
