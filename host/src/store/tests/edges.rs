//! Delivery tokens and the keys of edges.

use super::*;

fn token(number: u8, tenant: Option<&str>) -> (DeliveryToken, [u8; 32]) {
    let token = DeliveryToken {
        id: format!("dlv_{number}"),
        tenant: tenant.map(str::to_owned),
        name: "edge".to_owned(),
        prefix: "phd_1".to_owned(),
        created_at: at(i64::from(number)),
        revoked_at: None,
    };
    (token, [number; 32])
}

#[tokio::test]
async fn a_token_lives_until_it_is_revoked() {
    let (folder, store) = fresh();
    let (any, hash) = token(1, None);
    let (of_one, other_hash) = token(2, Some("acme"));
    store.add_delivery_token(any.clone(), hash).await.unwrap();
    store.add_delivery_token(of_one.clone(), other_hash).await.unwrap();
    assert!(matches!(store.add_delivery_token(any.clone(), hash).await, Err(StoreError::Exists(_))));
    assert_eq!(store.delivery_token(hash).await.unwrap(), Some(any.clone()));
    assert_eq!(store.delivery_token(hash).await.unwrap(), Some(any.clone()), "from the cache");
    assert_eq!(store.delivery_token(other_hash).await.unwrap(), Some(of_one.clone()));
    assert_eq!(store.delivery_token([9; 32]).await.unwrap(), None);
    assert_eq!(store.key_by_hash(hash).await.unwrap(), None, "it is no API key");
    assert_eq!(store.delivery_tokens(Some("acme")).await.unwrap(), std::slice::from_ref(&of_one));
    assert_eq!(store.delivery_tokens(None).await.unwrap(), [any, of_one]);
    store.revoke_delivery_token("dlv_1", at(9)).await.unwrap();
    assert_eq!(store.delivery_token(hash).await.unwrap(), None, "dead at once, cache or not");
    assert!(matches!(store.revoke_delivery_token("dlv_1", at(9)).await, Err(StoreError::NotFound(_))));
    assert!(matches!(store.revoke_delivery_token("key_1", at(9)).await, Err(StoreError::NotFound(_))));
    drop(store);
    let store = open(folder.path());
    assert_eq!(store.delivery_token(hash).await.unwrap(), None);
    assert!(store.delivery_token(other_hash).await.unwrap().is_some());
}

#[tokio::test]
async fn the_keys_of_edges_stand_beside_those_of_the_host() {
    let (_folder, store) = fresh();
    let domain = |name: &str| mail::Domain::parse(name).unwrap();
    let example = domain("example.com");
    let own = DkimKey {
        id: "a".to_owned(),
        selector: "s1".to_owned(),
        algorithm: mail::dkim::Algorithm::RsaSha256,
        public: vec![1],
        sealed_private: vec![2],
        state: crate::store::KeyState::Active,
        created_at: at(0),
    };
    let sending = SendingDomain {
        id: Uuid::now_v7(),
        needs_proof: false,
        verification: None,
        tenant: "acme".to_owned(),
        domain: example.clone(),
        created_at: at(0),
        keys: vec![own],
        edge_keys: Vec::new(),
    };
    store.add_domain(sending.clone()).await.unwrap();
    let key = |selector: &str| EdgeKey {
        selector: selector.to_owned(),
        algorithm: mail::dkim::Algorithm::Ed25519Sha256,
        public: vec![3],
    };
    store.add_edge_keys("acme", &example, vec![key("e1"), key("e2")]).await.unwrap();
    let found = store.domain("acme", &example).await.unwrap().unwrap();
    assert_eq!(found, SendingDomain { edge_keys: vec![key("e1"), key("e2")], ..sending.clone() });

    // One selector is one key, whoever holds it; of several keys all are taken or none.
    for taken in ["e1", "s1"] {
        let added = store.add_edge_keys("acme", &example, vec![key("e3"), key(taken)]).await;
        assert!(matches!(added, Err(StoreError::Exists(_))), "{taken}");
    }
    for (tenant, name) in [("acme", "other.com"), ("default", "example.com"), ("nobody", "example.com")] {
        let added = store.add_edge_keys(tenant, &domain(name), vec![key("e3")]).await;
        assert!(matches!(added, Err(StoreError::NotFound(_))), "{tenant} {name}");
    }
    assert_eq!(store.domain("acme", &example).await.unwrap().unwrap(), found);

    assert!(matches!(store.remove_edge_key("acme", &example, "s1").await, Err(StoreError::NotFound(_))));
    store.remove_edge_key("acme", &example, "e1").await.unwrap();
    store.remove_edge_key("acme", &example, "e2").await.unwrap();
    assert_eq!(store.domain("acme", &example).await.unwrap(), Some(sending));
}
