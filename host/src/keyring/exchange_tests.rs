//! Exchanging the master key over a real store, broken off behind each step.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use tempfile::TempDir;

use super::master_keys::{Step, next_to};
use super::*;
use crate::store::{Embedded, Options, Webhook, WebhookStatus, Webhooks as _};

const SECRET: &[u8] = b"whsec_c2VjcmV0";

/// A data folder with a domain, and with so many webhooks, of which one has an old secret besides.
async fn folder(webhooks: usize) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let (store, keyring) = open(folder.path());
    keyring.create_domain("acme", &Domain::parse("acme.test").unwrap()).await.unwrap();
    for number in 0..webhooks {
        let id = Uuid::from_u128(number as u128).to_string();
        let webhook = Webhook {
            sealed_secret: keyring.seal(&id, SECRET).unwrap(),
            id: id.clone(),
            tenant: "acme".to_owned(),
            url: "https://hook.test/".to_owned(),
            kinds: vec![mail::EventKind::Sent.into()],
            old_secret: None,
            status: WebhookStatus::Disabled,
            reason: None,
            created_at: Timestamp::UNIX_EPOCH,
        };
        store.add_webhook(webhook, 1000).await.unwrap();
        if number == 0 {
            let sealed = keyring.seal(&id, SECRET).unwrap();
            store.rotate_secret("acme", &id, sealed, Timestamp::MAX).await.unwrap();
        }
    }
    folder
}

/// What a host that starts holds.
fn open(folder: &Path) -> (Arc<Embedded>, Keyring) {
    let store = Embedded::open(folder, Options::default()).unwrap();
    let master = MasterKeys::load(None, folder).unwrap();
    let keyring = Keyring::new(store.clone(), master, false);
    (store, keyring)
}

/// Every secret opens; how many there are.
async fn secrets(store: &Embedded, keyring: &Keyring) -> usize {
    let all = store.secrets(None, 10_000).await.unwrap();
    all.iter().for_each(|secret| drop(keyring.unseal(secret.id(), &secret.sealed).unwrap()));
    let domain = store.domain("acme", &Domain::parse("acme.test").unwrap()).await.unwrap().unwrap();
    for key in domain.keys {
        keyring.sign_digest("acme", &key.id, &[0; 32]).await.unwrap();
    }
    all.len()
}

#[tokio::test]
async fn a_host_that_is_killed_behind_any_step_starts_and_goes_on() {
    // Pages of 200: two of webhooks, one of keys, and the passes that find nothing.
    const WEBHOOKS: usize = 250;
    let folder = folder(WEBHOOKS).await;
    let whole = WEBHOOKS + 1 + 2;
    let mut at = 0;
    loop {
        let copy = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(folder.path()).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_file() && entry.file_name() != "lock" {
                std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
            }
        }
        let key_file = copy.path().join(MASTER_KEY_FILE);
        let old = std::fs::read(&key_file).unwrap();
        let (store, keyring) = open(copy.path());
        let mut step = keyring.master.first_step().unwrap();
        let mut told = Resealed::default();
        for _ in 0..at {
            step = keyring.master.take(step, &*store, &mut told).await.unwrap();
        }
        let is_over = step == Step::Done;
        assert_eq!(secrets(&store, &keyring).await, whole, "while it goes on, behind {at} steps");
        // What is sealed now opens later.
        let id = Uuid::from_u128(0).to_string();
        let sealed = keyring.seal(&id, SECRET).unwrap();
        store.rotate_secret("acme", &id, sealed, Timestamp::MAX).await.unwrap();
        drop((store, keyring));

        let (store, keyring) = open(copy.path());
        assert_eq!(secrets(&store, &keyring).await, whole, "started behind {at} steps");
        let finished = keyring.finish_rotation(&*store).await.unwrap();
        assert_eq!(finished.is_some(), next_was_there(at, is_over), "behind {at} steps: {finished:?}");
        drop((store, keyring));
        let (store, keyring) = open(copy.path());
        assert_eq!(secrets(&store, &keyring).await, whole, "in the end, behind {at} steps");
        assert!(!next_to(&key_file).exists() && keyring.master.unfinished().is_none());
        assert_eq!(std::fs::read(&key_file).unwrap() == old, at == 0, "behind {at} steps");
        if is_over {
            break;
        }
        at += 1;
    }
    assert!(at > 8, "{at} steps");
}

/// Behind the first step the new key is written; behind the last one it is the only one.
fn next_was_there(at: usize, is_over: bool) -> bool {
    at > 0 && !is_over
}

#[tokio::test]
async fn the_old_key_opens_nothing_when_it_is_over() {
    let folder = folder(3).await;
    let path = folder.path().join(MASTER_KEY_FILE);
    let old = MasterKey::read(&path).unwrap();
    let (store, keyring) = open(folder.path());
    let done = keyring.rotate_master_key(&*store).await.unwrap();
    assert_eq!((done.secrets, done.resealed, done.unreadable.len()), (6, 6, 0));
    let new = MasterKey::read(&path).unwrap();
    for secret in store.secrets(None, 100).await.unwrap() {
        assert!(old.unseal(secret.id(), &secret.sealed).is_err() && new.unseal(secret.id(), &secret.sealed).is_ok());
    }
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 45, "base64 and an end of line");
    let again = keyring.rotate_master_key(&*store).await.unwrap();
    assert_eq!(again.resealed, 6, "and once more");
    assert_eq!(secrets(&store, &keyring).await, 6);
}

#[tokio::test]
async fn what_no_key_opens_is_named_and_stops_nothing() {
    let folder = folder(2).await;
    let (store, keyring) = open(folder.path());
    let id = Uuid::from_u128(1).to_string();
    let strange = MasterKey::from_octets(&[9; 32]).unwrap().seal(&id, SECRET).unwrap();
    store.rotate_secret("acme", &id, strange, Timestamp::MAX).await.unwrap();
    let done = keyring.rotate_master_key(&*store).await.unwrap();
    assert_eq!(done.unreadable, [format!("webhook {id}")]);
    assert_eq!((done.secrets, done.resealed), (6, 5));
}

#[tokio::test]
async fn a_key_of_the_operators_is_exchanged_by_two_keys_at_the_start() {
    let folder = folder(2).await;
    let (store, _) = open(folder.path());
    let key = |octet| MasterKey::from_octets(&[octet; 32]).unwrap();
    let old = MasterKey::read(&folder.path().join(MASTER_KEY_FILE)).unwrap();
    let both = Keyring::new(store.clone(), MasterKeys::of(Source::Variable, key(5), vec![old]), false);
    assert_eq!(secrets(&store, &both).await, 5);
    let done = both.finish_rotation(&*store).await.unwrap().unwrap();
    assert_eq!((done.secrets, done.resealed), (5, 5));
    let one = Keyring::new(store.clone(), MasterKeys::of(Source::Variable, key(5), Vec::new()), false);
    assert_eq!(secrets(&store, &one).await, 5);
    assert_eq!(one.finish_rotation(&*store).await.unwrap(), None);
    let refused = one.rotate_master_key(&*store).await.unwrap_err();
    assert!(matches!(refused, RotationError::FromVariable), "{refused}");
    assert!(refused.to_string().contains("POSTHASTE_MASTER_KEY_PREVIOUS"), "{refused}");
}

#[tokio::test]
async fn a_folder_that_cannot_be_written_leaves_all_as_it_was() {
    let folder = folder(2).await;
    let (store, _) = open(folder.path());
    let keys = tempfile::tempdir().unwrap();
    let file = keys.path().join("gone").join("key");
    std::fs::create_dir(file.parent().unwrap()).unwrap();
    std::fs::copy(folder.path().join(MASTER_KEY_FILE), &file).unwrap();
    let keyring = Keyring::new(store.clone(), MasterKeys::load(Some(&file), folder.path()).unwrap(), false);
    // A name that no file can have: a folder stands there.
    std::fs::create_dir(next_to(&file)).unwrap();
    let error = keyring.rotate_master_key(&*store).await.unwrap_err();
    assert!(error.to_string().contains("key.next"), "{error}");
    assert_eq!(secrets(&store, &keyring).await, 5);
}
