//! The tenants' DKIM keys: made, sealed at rest, unsealed in memory, used. Answers `posthaste:keys` natively (aws-lc-rs).

use std::sync::Arc;

use contract::{Identity, KeyError};
use mail::Domain;

use crate::store::{Directory, SendingDomain, StoreError};

/// Uses and makes keys. Unsealed keys are cached in memory.
pub struct Keyring {
    directory: Arc<dyn Directory>,
    /// Makes a domain's keys on first use (a development host).
    make_missing: bool,
}

impl Keyring {
    /// `posthaste:keys` `identities`: those of the domain or of its nearest parent that has some.
    pub async fn identities(&self, tenant: &str, domain: &str) -> Result<Vec<Identity>, KeyError> {
        let _ = (tenant, domain, &self.directory, self.make_missing);
        todo!()
    }

    /// `posthaste:keys` `sign-digest`, for a key of this tenant. RSA runs on the blocking pool where it would hold the reactor.
    pub async fn sign_digest(&self, tenant: &str, key_id: &str, digest: &[u8]) -> Result<Vec<u8>, KeyError> {
        let _ = (tenant, key_id, digest);
        todo!()
    }

    /// Makes a domain with a fresh RSA-2048 and a fresh Ed25519 key and stores it, sealed.
    pub async fn create_domain(&self, tenant: &str, domain: &Domain) -> Result<SendingDomain, StoreError> {
        let _ = (tenant, domain);
        todo!()
    }

    /// The registered domain that covers a From domain: itself or its nearest registered parent.
    pub async fn covering(&self, tenant: &str, domain: &Domain) -> Result<Option<Domain>, StoreError> {
        let _ = (tenant, domain);
        todo!()
    }
}
