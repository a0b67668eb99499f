//! The keyring over a directory in memory; signatures judged by aws-lc-rs's verifier.

use std::sync::Mutex;

use async_trait::async_trait;
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{ED25519, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};

use super::*;
use crate::store::ApiKey;

/// A directory that knows domains alone.
#[derive(Default)]
struct Domains(Mutex<Vec<SendingDomain>>);

#[async_trait]
impl Directory for Domains {
    async fn key_by_hash(&self, _: [u8; 32]) -> Result<Option<ApiKey>, StoreError> {
        Ok(None)
    }

    async fn add_key(&self, _: ApiKey, _: [u8; 32]) -> Result<(), StoreError> {
        Ok(())
    }

    async fn verifier(&self, _: &str) -> Result<Option<(ApiKey, [u8; 32], crate::scram::Verifier)>, StoreError> {
        Ok(None)
    }

    async fn set_verifier(&self, _: &str, _: crate::scram::Verifier) -> Result<(), StoreError> {
        Ok(())
    }

    async fn keys(&self, _: Option<&str>) -> Result<Vec<ApiKey>, StoreError> {
        Ok(Vec::new())
    }

    async fn revoke_key(&self, id: &str, _: Timestamp) -> Result<(), StoreError> {
        Err(StoreError::NotFound(id.to_owned()))
    }

    async fn expire_key(&self, id: &str, _: Timestamp) -> Result<(), StoreError> {
        Err(StoreError::NotFound(id.to_owned()))
    }

    fn key_used(&self, _: &str, _: Timestamp) {}

    async fn keep_key_uses(&self) -> Result<(), StoreError> {
        Ok(())
    }

    async fn add_domain(&self, domain: SendingDomain) -> Result<(), StoreError> {
        if self.domain(&domain.tenant, &domain.domain).await?.is_some() {
            return Err(StoreError::Exists(domain.domain.to_string()));
        }
        self.0.lock().unwrap().push(domain);
        Ok(())
    }

    async fn domains(&self, tenant: Option<&str>) -> Result<Vec<SendingDomain>, StoreError> {
        let all = self.0.lock().unwrap().clone();
        Ok(all.into_iter().filter(|known| tenant.is_none_or(|tenant| known.tenant == tenant)).collect())
    }

    async fn domain(&self, tenant: &str, domain: &Domain) -> Result<Option<SendingDomain>, StoreError> {
        Ok(self.domains(Some(tenant)).await?.into_iter().find(|known| known.domain == *domain))
    }

    async fn vouch_for(&self, _: &str, _: &Domain) -> Result<(), StoreError> {
        unreachable!("keyrings do not vouch")
    }

    async fn remove_domain(&self, tenant: &str, domain: &Domain) -> Result<(), StoreError> {
        self.0.lock().unwrap().retain(|known| known.tenant != tenant || known.domain != *domain);
        Ok(())
    }
}

fn master(octet: u8) -> MasterKey {
    MasterKey::from_octets(&[octet; 32]).unwrap()
}

fn keyring(make_missing: bool) -> (Keyring, Arc<Domains>) {
    let directory = Arc::new(Domains::default());
    (Keyring::new(directory.clone(), master(1), make_missing), directory)
}

fn domain(name: &str) -> Domain {
    Domain::parse(name).unwrap()
}

#[tokio::test]
async fn signatures_verify_with_the_published_keys() {
    let (keyring, directory) = keyring(false);
    let created = keyring.create_domain("acme", &domain("acme.test")).await.unwrap();
    let message = b"what is signed";
    let hash = digest(&SHA256, message);
    // Once from what `identities` taught it, once from the directory alone.
    let fresh = Keyring::new(directory, master(1), false);
    assert_eq!(keyring.identities("acme", "acme.test").await.unwrap().len(), 2);
    for keyring in [&keyring, &fresh] {
        for key in &created.keys {
            let signature = keyring.sign_digest("acme", &key.id, hash.as_ref()).await.unwrap();
            match key.algorithm {
                Algorithm::RsaSha256 => {
                    UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, &key.public)
                        .verify(message, &signature)
                        .unwrap();
                }
                Algorithm::Ed25519Sha256 => {
                    assert_eq!(key.public.len(), 32);
                    UnparsedPublicKey::new(&ED25519, &key.public).verify(hash.as_ref(), &signature).unwrap();
                }
            }
        }
    }
}

#[tokio::test]
async fn keys_that_cannot_be_used_are_told() {
    let (keyring, directory) = keyring(false);
    let created = keyring.create_domain("acme", &domain("acme.test")).await.unwrap();
    let id = &created.keys[0].id;
    let unknown = keyring.sign_digest("acme", "dkim_none", &[0; 32]).await;
    assert_eq!(unknown, Err(KeyError::UnknownKey("dkim_none".to_owned())));
    let foreign = keyring.sign_digest("other", id, &[0; 32]).await;
    assert_eq!(foreign, Err(KeyError::UnknownKey(id.clone())));
    let short = keyring.sign_digest("acme", id, &[0; 20]).await;
    assert!(matches!(short, Err(KeyError::Unavailable(text)) if text.contains("32 octets")));
    let stranger = Keyring::new(directory, master(2), false);
    let sealed = stranger.sign_digest("acme", id, &[0; 32]).await;
    assert!(matches!(sealed, Err(KeyError::Unavailable(text)) if text.contains("another master key")));
}

#[tokio::test]
async fn the_nearest_parent_signs_and_covers() {
    let (keyring, _) = keyring(false);
    for name in ["acme.test", "mail.eu.acme.test"] {
        keyring.create_domain("acme", &domain(name)).await.unwrap();
    }
    let check = async |name: &str, expect: Option<&str>| {
        let covering = keyring.covering("acme", &domain(name)).await.unwrap();
        assert_eq!(covering, expect.map(domain), "{name}");
        let identities = keyring.identities("acme", name).await.unwrap();
        let mut names: Vec<_> = identities.iter().map(|identity| identity.domain.as_str()).collect();
        names.dedup();
        assert_eq!(names, expect.into_iter().collect::<Vec<_>>(), "{name}");
    };
    check("acme.test", Some("acme.test")).await;
    check("news.acme.test", Some("acme.test")).await;
    check("eu.acme.test", Some("acme.test")).await;
    check("a.mail.eu.acme.test", Some("mail.eu.acme.test")).await;
    check("notacme.test", None).await;
    check("test", None).await;
    check("[192.0.2.1]", None).await;
    assert_eq!(keyring.covering("other", &domain("acme.test")).await.unwrap(), None);
    assert!(keyring.identities("acme", "no domain").await.unwrap().is_empty());
}

#[tokio::test]
async fn selectors_tell_month_and_kind() {
    let at: Timestamp = "2026-03-09T00:00:00Z".parse().unwrap();
    use super::fresh::selector;
    assert_eq!(selector(Algorithm::RsaSha256, at, 0), "ph202603aaaar");
    assert_eq!(selector(Algorithm::Ed25519Sha256, at, u32::MAX), "ph2026037777e");
    assert_eq!(selector(Algorithm::RsaSha256, at, 1 | 26 << 5), "ph202603b2aar");
}

#[tokio::test]
async fn keys_of_one_domain_are_told_apart_by_selector() {
    let (keyring, _) = keyring(false);
    let mut selectors = std::collections::HashSet::new();
    for tenant in ["acme", "other"] {
        let made = keyring.create_domain(tenant, &domain("acme.test")).await.unwrap();
        selectors.extend(made.keys.into_iter().map(|key| key.selector));
    }
    assert_eq!(selectors.len(), 4, "{selectors:?}");
}

#[tokio::test]
async fn missing_keys_are_made_once_whoever_asks() {
    let (keyring, directory) = keyring(true);
    assert_eq!(keyring.covering("default", &domain("new.test")).await.unwrap(), Some(domain("new.test")));
    let (one, other) =
        tokio::join!(keyring.identities("default", "new.test"), keyring.identities("default", "new.test"));
    assert_eq!(one.as_ref().unwrap().len(), 2);
    assert_eq!(one, other);
    assert_eq!(directory.domains(None).await.unwrap().len(), 1);
    // A subdomain is covered by then.
    assert_eq!(keyring.identities("default", "sub.new.test").await.unwrap(), one.unwrap());
    assert!(keyring.identities("default", "[192.0.2.1]").await.unwrap().is_empty());
}

#[tokio::test]
async fn two_hosts_that_make_a_domain_at_once_use_the_same_keys() {
    let directory = Arc::new(Domains::default());
    let one = Keyring::new(directory.clone(), master(1), true);
    let other = Keyring::new(directory.clone(), master(1), true);
    let (one, other) = tokio::join!(one.identities("default", "new.test"), other.identities("default", "new.test"));
    assert_eq!(one.unwrap(), other.unwrap());
    assert_eq!(directory.domains(None).await.unwrap().len(), 1);
}

#[tokio::test]
async fn records_are_ready_to_publish() {
    let (keyring, _) = keyring(false);
    let created = keyring.create_domain("acme", &domain("acme.test")).await.unwrap();
    let target = |name: &str| Some(domain(name));
    let targets = Targets { host: domain("relay.test"), return_path: target("rp.relay.test"), tracking: None };
    let records = dns_records(&created, &targets);
    let names: Vec<_> = records.iter().map(|record| record.name.as_str()).collect();
    let mut selectors: Vec<_> =
        created.keys.iter().map(|key| format!("{}._domainkey.acme.test", key.selector)).collect();
    selectors.sort();
    assert_eq!(names, [&selectors[0], &selectors[1], "acme.test", "_dmarc.acme.test", "bounces.acme.test"]);
    let (rsa, ed25519) =
        if records[0].value.contains("k=rsa") { (&records[0], &records[1]) } else { (&records[1], &records[0]) };
    assert!(
        rsa.required && rsa.value.starts_with("v=DKIM1; k=rsa; p=MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8A"),
        "{}",
        rsa.value
    );
    assert!(rsa.strings().len() == 2 && rsa.strings().iter().all(|string| string.len() <= 255));
    assert_eq!(rsa.strings().concat(), rsa.value);
    assert!(ed25519.value.starts_with("v=DKIM1; k=ed25519; p=") && ed25519.value.len() == 66);
    assert_eq!(records[4].zone_line(), "bounces.acme.test. IN CNAME rp.relay.test.");
    assert_eq!(records[2].zone_line(), "acme.test. IN TXT \"v=spf1 a:relay.test ~all\"");
    assert_eq!(records[3].value, "v=DMARC1; p=none");
}
