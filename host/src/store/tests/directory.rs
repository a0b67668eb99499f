//! Keys and domains.

use super::*;

fn key(number: u8, tenant: &str) -> (ApiKey, [u8; 32]) {
    let key = ApiKey {
        id: format!("key_{number}"),
        tenant: tenant.to_owned(),
        name: "ci".to_owned(),
        prefix: "ph_1".to_owned(),
        created_at: at(i64::from(number)),
        revoked_at: None,
        scopes: crate::store::Scopes::ALL,
        stream: None,
        has_verifier: false,
        expires_at: None,
        used_at: None,
    };
    (key, [number; 32])
}

fn domain(tenant: &str, name: &str, ids: &[&str]) -> SendingDomain {
    let keys = ids.iter().map(|id| DkimKey {
        id: (*id).to_owned(),
        selector: format!("s-{id}"),
        algorithm: mail::dkim::Algorithm::Ed25519Sha256,
        public: vec![1, 2],
        sealed_private: vec![3],
        state: crate::store::KeyState::Active,
        created_at: at(0),
    });
    SendingDomain {
        id: Uuid::new_v4(),
        tenant: tenant.to_owned(),
        domain: mail::Domain::parse(name).unwrap(),
        created_at: at(0),
        keys: keys.collect(),
        edge_keys: Vec::new(),
        needs_proof: false,
        verification: None,
    }
}

#[tokio::test]
async fn a_key_lives_until_it_is_revoked() {
    let (folder, store) = fresh();
    let (one, hash) = key(1, "default");
    let (two, other_hash) = key(2, "other");
    store.add_key(one.clone(), hash).await.unwrap();
    store.add_key(two.clone(), other_hash).await.unwrap();
    assert!(matches!(store.add_key(one.clone(), hash).await, Err(StoreError::Exists(_))));
    assert_eq!(store.key_by_hash(hash).await.unwrap(), Some(one.clone()));
    assert_eq!(store.key_by_hash(hash).await.unwrap(), Some(one.clone()), "from the cache");
    assert_eq!(store.key_by_hash([9; 32]).await.unwrap(), None);
    assert_eq!(store.keys(Some("other")).await.unwrap(), [two]);
    store.revoke_key("key_1", at(9)).await.unwrap();
    assert_eq!(store.key_by_hash(hash).await.unwrap(), None, "dead at once, cache or not");
    assert!(matches!(store.revoke_key("key_1", at(9)).await, Err(StoreError::NotFound(_))));
    assert!(matches!(store.revoke_key("key_7", at(9)).await, Err(StoreError::NotFound(_))));
    drop(store);
    let store = open(folder.path());
    assert_eq!(store.key_by_hash(hash).await.unwrap(), None);
    let revoked: Vec<_> = store.keys(None).await.unwrap().into_iter().map(|key| key.revoked_at).collect();
    assert_eq!(revoked, [Some(at(9)), None]);
}

#[tokio::test]
async fn a_domain_comes_and_goes_with_its_keys() {
    let (_folder, store) = fresh();
    let ours = domain("default", "example.com", &["a", "b"]);
    store.add_domain(ours.clone()).await.unwrap();
    store.add_domain(domain("other", "example.com", &["c"])).await.unwrap();
    assert!(matches!(store.add_domain(domain("default", "example.com", &[])).await, Err(StoreError::Exists(_))));
    assert_eq!(store.domain("default", &ours.domain).await.unwrap(), Some(ours.clone()));
    assert_eq!(store.domains(None).await.unwrap().len(), 2);
    assert_eq!(store.domains(Some("default")).await.unwrap(), std::slice::from_ref(&ours));
    store.remove_domain("default", &ours.domain).await.unwrap();
    assert_eq!(store.domain("default", &ours.domain).await.unwrap(), None);
    assert!(matches!(store.remove_domain("default", &ours.domain).await, Err(StoreError::NotFound(_))));
    store.add_domain(ours).await.unwrap();
}

#[tokio::test]
async fn a_domain_that_cannot_be_added_whole_is_not_added() {
    let (_folder, store) = fresh();
    store.add_domain(domain("default", "one.test", &["a"])).await.unwrap();
    let clash = domain("new", "two.test", &["b", "a"]);
    assert!(matches!(store.add_domain(clash).await, Err(StoreError::Exists(_))));
    assert_eq!(store.domains(None).await.unwrap().len(), 1);
    store.add_domain(domain("new", "two.test", &["b"])).await.unwrap();
    assert_eq!(store.domains(Some("new")).await.unwrap()[0].keys.len(), 1);
}
