//! The keys that both sides sign with: in memory, used by aws-lc-rs, as the host's keyring does.

use anyhow::{Result, anyhow};
use async_trait::async_trait;
use aws_lc_rs::digest::{Digest, SHA256};
use aws_lc_rs::rsa::{self, KeySize};
use aws_lc_rs::signature::{Ed25519KeyPair, RSA_PKCS1_SHA256};
use contract::{Algorithm, Identity, KeyError};

const RSA: &str = "rsa";
const ED25519: &str = "ed25519";

/// An RSA-2048 and an Ed25519 key for any domain.
pub struct NativeKeys {
    rsa: rsa::KeyPair,
    ed25519: Ed25519KeyPair,
}

impl NativeKeys {
    pub fn new() -> Result<NativeKeys> {
        let rsa = rsa::KeyPair::generate(KeySize::Rsa2048).map_err(|_| anyhow!("no RSA key can be made"))?;
        let ed25519 = Ed25519KeyPair::generate().map_err(|_| anyhow!("no Ed25519 key can be made"))?;
        Ok(NativeKeys { rsa, ed25519 })
    }

    fn use_key(&self, key_id: &str, digest: &[u8]) -> Result<Vec<u8>, KeyError> {
        let failed = |_| KeyError::Unavailable("it could not sign".to_owned());
        match key_id {
            RSA => {
                let digest = Digest::import_less_safe(digest, &SHA256).map_err(failed)?;
                let mut signature = vec![0; self.rsa.public_modulus_len()];
                self.rsa.sign_digest(&RSA_PKCS1_SHA256, &digest, &mut signature).map_err(failed)?;
                Ok(signature)
            }
            ED25519 => Ok(self.ed25519.sign(digest).as_ref().to_vec()),
            other => Err(KeyError::UnknownKey(other.to_owned())),
        }
    }

    fn both(domain: &str) -> Vec<Identity> {
        let identity = |key_id: &str, algorithm| Identity {
            domain: domain.to_owned(),
            selector: key_id.to_owned(),
            algorithm,
            key_id: key_id.to_owned(),
        };
        vec![identity(RSA, Algorithm::RsaSha256), identity(ED25519, Algorithm::Ed25519Sha256)]
    }
}

/// For the native signer.
impl sign::Keys for NativeKeys {
    fn identities(&self, domain: &str) -> Result<Vec<Identity>, KeyError> {
        Ok(NativeKeys::both(domain))
    }

    fn sign_digest(&self, key_id: &str, digest: &[u8]) -> Result<Vec<u8>, KeyError> {
        self.use_key(key_id, digest)
    }
}

/// For the signer component.
#[async_trait]
impl posthaste::edge::Keys for NativeKeys {
    async fn identities(&self, _tenant: &str, domain: &str) -> Result<Vec<Identity>, KeyError> {
        Ok(NativeKeys::both(domain))
    }

    async fn sign_digest(&self, _tenant: &str, key_id: &str, digest: &[u8]) -> Result<Vec<u8>, KeyError> {
        self.use_key(key_id, digest)
    }
}
