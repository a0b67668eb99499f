//! The tenants' DKIM keys: made, sealed at rest, unsealed in memory, used. Answers `posthaste:keys` natively (aws-lc-rs).
//!
//! Private keys leave this module sealed or not at all. Unsealed ones are cached, at most `CACHED_KEYS` of them. A
//! digest is signed as it is (RFC 8017 s8.2 without the hash; RFC 8463 s3 signs the digest with Ed25519 as a message).

mod cache;
mod dns;
mod edge_key;
mod fresh;
mod import;
mod master;
mod master_keys;
mod pair;

use std::sync::Arc;

use aws_lc_rs::error::Unspecified;
use contract::{Identity, KeyError};
use jiff::Timestamp;
use mail::Domain;
use mail::dkim::Algorithm;
use serde_json::{Value, json};
use tokio::sync::{MutexGuard, RwLock, RwLockReadGuard};
use uuid::Uuid;

pub use dns::{DnsRecord, Purpose, RecordType, Targets, dns_records, key_name};
pub use edge_key::{NewEdgeKey, SelectorError, make_edge_keys};
pub use fresh::Selectors;
pub use import::KeyFault;
pub use master::{MASTER_KEY_FILE, MASTER_KEY_VARIABLE, MasterKey, MasterKeyError, SealError};
pub use master_keys::{MasterKeys, NEXT_SUFFIX, PREVIOUS_KEY_VARIABLE, Resealed, RotationError, Source};
pub use pair::verifies;

use crate::store::{Audited, Directory, DkimKey, KeyState, SendingDomain, StoreError, Vault};
use cache::Cache;
use master_keys::Step;
use pair::KeyPair;

/// Unsealed keys held in memory: some 10 KiB each.
const CACHED_KEYS: usize = 2048;

/// Uses and makes keys. Unsealed keys are cached in memory.
pub struct Keyring {
    directory: Arc<dyn Directory>,
    master: MasterKeys,
    /// Shared from when a secret is sealed until it is stored; exclusive while another key begins to seal.
    sealing: RwLock<()>,
    /// One exchange of the master key at a time, and no backup meanwhile.
    exchanging: tokio::sync::Mutex<()>,
    /// Makes a domain's keys on first use (a development host).
    make_missing: bool,
    /// Held while keys are made on first use, so that they are made once.
    making: tokio::sync::Mutex<()>,
    cache: Cache,
}

impl Keyring {
    /// A keyring over the directory's domains. `make_missing`: a domain without keys gets them on first use.
    pub fn new(directory: Arc<dyn Directory>, master: impl Into<MasterKeys>, make_missing: bool) -> Keyring {
        Keyring {
            directory,
            master: master.into(),
            sealing: RwLock::default(),
            exchanging: tokio::sync::Mutex::default(),
            make_missing,
            making: tokio::sync::Mutex::default(),
            cache: Cache::new(CACHED_KEYS),
        }
    }

    /// `posthaste:keys` `identities`: those of the domain or of its nearest parent that has some.
    pub async fn identities(&self, tenant: &str, domain: &str) -> Result<Vec<Identity>, KeyError> {
        // Nothing can be registered for what is not a domain name, so nothing signs for it.
        let Ok(domain) = Domain::parse(domain) else { return Ok(Vec::new()) };
        let found = self.find(tenant, &domain).await.map_err(unavailable)?;
        let found = match found {
            None if self.makes(&domain) => Some(self.make(tenant, &domain).await.map_err(unavailable)?),
            found => found,
        };
        let Some(SendingDomain { domain, keys, .. }) = found else { return Ok(Vec::new()) };
        let signs = |key: &DkimKey| key.state == KeyState::Active;
        let identities = keys.iter().filter(|key| signs(key)).map(|key| identity(&domain, key)).collect();
        keys.into_iter().filter(signs).for_each(|key| self.cache.learn(tenant, key));
        Ok(identities)
    }

    /// `posthaste:keys` `sign-digest`, for a key of this tenant. RSA runs on the blocking pool where it would hold the reactor.
    pub async fn sign_digest(&self, tenant: &str, key_id: &str, digest: &[u8]) -> Result<Vec<u8>, KeyError> {
        let pair = self.pair(tenant, key_id).await?;
        let failed = |_: Unspecified| KeyError::Unavailable(format!("the DKIM key {key_id} could not sign"));
        let digest: [u8; 32] = digest
            .try_into()
            .map_err(|_| KeyError::Unavailable(format!("a SHA-256 digest has 32 octets, not {}", digest.len())))?;
        match pair.algorithm() {
            Algorithm::Ed25519Sha256 => pair.sign_digest(&digest).map_err(failed),
            Algorithm::RsaSha256 => {
                blocking(move || pair.sign_digest(&digest)).await.map_err(KeyError::Unavailable)?.map_err(failed)
            }
        }
    }

    /// Makes a domain that may send at once: see `create`.
    pub async fn create_domain(&self, tenant: &str, domain: &Domain) -> Result<SendingDomain, StoreError> {
        self.create(tenant, domain, false).await
    }

    /// Makes a domain with a fresh RSA-2048 and a fresh Ed25519 key and stores it, sealed. With `needs_proof` it may
    /// send once its records are verified.
    pub async fn create(&self, tenant: &str, domain: &Domain, needs_proof: bool) -> Result<SendingDomain, StoreError> {
        let _sealing = self.sealing().await;
        let keys = self.make_keys(&Selectors::default(), KeyState::Active).await?;
        self.add(tenant, domain, needs_proof, keys).await
    }

    /// Stores a domain with these keys.
    pub async fn add(
        &self,
        tenant: &str,
        domain: &Domain,
        needs_proof: bool,
        keys: Vec<DkimKey>,
    ) -> Result<SendingDomain, StoreError> {
        let created = SendingDomain {
            id: Uuid::now_v7(),
            tenant: tenant.to_owned(),
            domain: domain.clone(),
            created_at: Timestamp::now(),
            keys,
            edge_keys: Vec::new(),
            needs_proof,
            verification: None,
        };
        self.directory.add_domain(created.clone()).await?;
        Ok(created)
    }

    /// The registered domain that covers a From domain: itself or its nearest registered parent. On a host that makes
    /// missing keys every domain covers itself.
    pub async fn covering(&self, tenant: &str, domain: &Domain) -> Result<Option<Domain>, StoreError> {
        match self.find(tenant, domain).await? {
            Some(found) => Ok(Some(found.domain)),
            None => Ok(self.makes(domain).then(|| domain.clone())),
        }
    }

    /// The nearest domain that covers a From domain and may not send yet, because its records are not verified.
    pub async fn unproved(&self, tenant: &str, domain: &Domain) -> Result<Option<SendingDomain>, StoreError> {
        self.nearest(tenant, domain, |found| !found.may_send()).await
    }

    /// Held by whoever seals a secret, from before until it is stored: while it is, the key that sealed it is not given up.
    /// Never taken twice by one.
    pub async fn sealing(&self) -> RwLockReadGuard<'_, ()> {
        self.sealing.read().await
    }

    /// Where the master key comes from.
    pub fn master_key_source(&self) -> &Source {
        self.master.source()
    }

    /// Held while a copy is made of what is sealed and of the key: no exchange of the key begins meanwhile.
    pub async fn keep_master_key(&self) -> MutexGuard<'_, ()> {
        self.exchanging.lock().await
    }

    /// Exchanges the master key and seals every secret anew; or finishes an exchange that was broken off.
    pub async fn rotate_master_key(&self, vault: &dyn Vault) -> Result<Resealed, RotationError> {
        let _exchanging = self.exchanging.lock().await;
        self.exchange(self.master.first_step()?, vault).await
    }

    /// Finishes an exchange of the master key that was broken off, or that the operator began; `None`: there is none.
    pub async fn finish_rotation(&self, vault: &dyn Vault) -> Result<Option<Resealed>, RotationError> {
        let _exchanging = self.exchanging.lock().await;
        match self.master.unfinished() {
            Some(step) => Ok(Some(self.exchange(step, vault).await?)),
            None => Ok(None),
        }
    }

    /// `finish_rotation` at a start. Where it cannot be finished, all keys are held, and nothing is lost.
    pub async fn resume_rotation(&self, vault: &dyn Vault) {
        match self.finish_rotation(vault).await {
            Ok(None) => {}
            Ok(Some(done)) => {
                tracing::info!(
                    secrets = done.secrets,
                    resealed = done.resealed,
                    unreadable = ?done.unreadable,
                    "every secret that can be opened is sealed with the present master key: {PREVIOUS_KEY_VARIABLE} is needed no more"
                );
                // With the variable set and nothing left to seal nothing has changed.
                if done.resealed == 0 && !matches!(self.master.source(), Source::File(_)) {
                    return;
                }
                let after = json!({ "secrets": done.secrets, "resealed": done.resealed });
                let what = "master-key: an exchange was finished";
                let entry = Audited::by_host(None, what, Value::Null, after, Timestamp::now());
                if let Err(error) = vault.audit(entry).await {
                    tracing::error!(%error, "the exchange of the master key could not be written to the audit log");
                }
            }
            Err(error) => {
                tracing::error!(%error, "the exchange of the master key is not finished: the old key is still needed");
            }
        }
    }

    async fn exchange(&self, mut step: Step, vault: &dyn Vault) -> Result<Resealed, RotationError> {
        let mut told = Resealed::default();
        while step != Step::Done {
            // What the old key has sealed is stored when the new one begins to.
            let _none_seals = if step == Step::Switch { Some(self.sealing.write().await) } else { None };
            step = self.master.take(step, vault, &mut told).await?;
        }
        Ok(told)
    }

    /// Forgets unsealed keys that sign no more.
    pub fn forget(&self, key_id: &str) {
        self.cache.forget(key_id);
    }

    /// Seals a secret that is not a DKIM key, bound to an id.
    pub fn seal(&self, id: &str, secret: &[u8]) -> Result<Vec<u8>, SealError> {
        self.master.seal(id, secret)
    }

    /// Opens what `seal` made for this id.
    pub fn unseal(&self, id: &str, sealed: &[u8]) -> Result<Vec<u8>, SealError> {
        self.master.unseal(id, sealed)
    }

    /// The salt of a user who is not there: the same each time, and as good as by chance to whom has not the master key.
    pub fn salt_of(&self, username: &str) -> [u8; crate::scram::SALT_OCTETS] {
        self.master.salt_of(username)
    }

    fn makes(&self, domain: &Domain) -> bool {
        self.make_missing && !domain.is_literal()
    }

    /// The nearest of a domain and its parents that is registered and may send.
    pub async fn find(&self, tenant: &str, domain: &Domain) -> Result<Option<SendingDomain>, StoreError> {
        self.nearest(tenant, domain, SendingDomain::may_send).await
    }

    /// The nearest registered one of a domain and its parents of which this is so. A top-level domain covers nothing but
    /// itself.
    async fn nearest(
        &self,
        tenant: &str,
        domain: &Domain,
        is_so: impl Fn(&SendingDomain) -> bool,
    ) -> Result<Option<SendingDomain>, StoreError> {
        if domain.is_literal() {
            return Ok(None);
        }
        let mut candidate = domain.clone();
        loop {
            if let Some(found) = self.directory.domain(tenant, &candidate).await?.filter(&is_so) {
                return Ok(Some(found));
            }
            match parent(&candidate) {
                Some(parent) => candidate = parent,
                None => return Ok(None),
            }
        }
    }

    /// Makes a domain that lacks; where somebody else was faster, theirs is taken.
    async fn make(&self, tenant: &str, domain: &Domain) -> Result<SendingDomain, StoreError> {
        let _making = self.making.lock().await;
        if let Some(found) = self.find(tenant, domain).await? {
            return Ok(found);
        }
        match self.create_domain(tenant, domain).await {
            Err(StoreError::Exists(name)) => {
                self.directory.domain(tenant, domain).await?.ok_or(StoreError::NotFound(name))
            }
            made => made,
        }
    }

    async fn pair(&self, tenant: &str, key_id: &str) -> Result<Arc<KeyPair>, KeyError> {
        if let Some(pair) = self.cache.get(tenant, key_id, |key| self.unseal_pair(key)) {
            return pair;
        }
        let domains = self.directory.domains(Some(tenant)).await.map_err(unavailable)?;
        let usable = |key: &DkimKey| key.id == key_id && key.state != KeyState::Retired;
        let key = domains.into_iter().flat_map(|domain| domain.keys).find(usable);
        self.cache.learn(tenant, key.ok_or_else(|| KeyError::UnknownKey(key_id.to_owned()))?);
        // Between the two lines others may have filled the cache: then this call fails and the next one finds it.
        self.cache
            .get(tenant, key_id, |key| self.unseal_pair(key))
            .unwrap_or_else(|| Err(KeyError::Unavailable("the cache of DKIM keys is too small".to_owned())))
    }

    fn unseal_pair(&self, key: &DkimKey) -> Result<KeyPair, KeyError> {
        let private = self
            .master
            .unseal(&key.id, &key.sealed_private)
            .map_err(|error| KeyError::Unavailable(format!("the DKIM key {}: {error}", key.id)))?;
        KeyPair::from_pkcs8(key.algorithm, &private)
            .map_err(|why| KeyError::Unavailable(format!("the DKIM key {} is not usable: {why}", key.id)))
    }
}

/// Runs what takes long on the blocking pool.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.map_err(|error| format!("the work was broken off: {error}"))
}

fn unavailable(error: StoreError) -> KeyError {
    KeyError::Unavailable(error.to_string())
}

fn identity(domain: &Domain, key: &DkimKey) -> Identity {
    Identity {
        domain: domain.as_str().to_owned(),
        selector: key.selector.clone(),
        algorithm: match key.algorithm {
            Algorithm::RsaSha256 => contract::Algorithm::RsaSha256,
            Algorithm::Ed25519Sha256 => contract::Algorithm::Ed25519Sha256,
        },
        key_id: key.id.clone(),
    }
}

/// The domain without its first label, unless that leaves a single label.
fn parent(domain: &Domain) -> Option<Domain> {
    let (_, parent) = domain.as_str().split_once('.')?;
    if parent.contains('.') { Domain::parse(parent).ok() } else { None }
}

#[cfg(test)]
mod exchange_tests;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
