//! A DKIM key pair in memory (aws-lc-rs).

use aws_lc_rs::digest::{Digest, SHA256};
use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::error::{KeyRejected, Unspecified};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{self, KeySize};
use aws_lc_rs::signature::{
    ED25519, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, UnparsedPublicKey,
};
use mail::dkim::Algorithm;

/// Whether a signature is one of this SHA-256 digest by the private half of a public key, as `KeyPair::public` gives it.
pub fn verifies(algorithm: Algorithm, public: &[u8], digest: &[u8; 32], signature: &[u8]) -> bool {
    match algorithm {
        Algorithm::RsaSha256 => Digest::import_less_safe(digest, &SHA256).is_ok_and(|digest| {
            UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, public).verify_digest(&digest, signature).is_ok()
        }),
        Algorithm::Ed25519Sha256 => UnparsedPublicKey::new(&ED25519, public).verify(digest, signature).is_ok(),
    }
}

/// Made once, used by many calls at a time.
pub enum KeyPair {
    Rsa(rsa::KeyPair),
    Ed25519(Ed25519KeyPair),
}

impl KeyPair {
    /// A fresh pair (RSA has 2048 bits, RFC 8301 s3.2) and its private half as PKCS#8 DER.
    pub fn generate(algorithm: Algorithm) -> Result<(KeyPair, Vec<u8>), Unspecified> {
        match algorithm {
            Algorithm::RsaSha256 => {
                let pair = rsa::KeyPair::generate(KeySize::Rsa2048)?;
                let private = AsDer::<Pkcs8V1Der<'_>>::as_der(&pair)?.as_ref().to_vec();
                Ok((KeyPair::Rsa(pair), private))
            }
            Algorithm::Ed25519Sha256 => {
                // The first version of PKCS#8 is the one every other tool reads.
                let private = Ed25519KeyPair::generate_pkcs8v1(&SystemRandom::new())?;
                let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(private.as_ref()).map_err(|_| Unspecified)?;
                Ok((KeyPair::Ed25519(pair), private.as_ref().to_vec()))
            }
        }
    }

    /// Reads a private half that `generate` gave out.
    pub fn from_pkcs8(algorithm: Algorithm, private: &[u8]) -> Result<KeyPair, KeyRejected> {
        match algorithm {
            Algorithm::RsaSha256 => rsa::KeyPair::from_pkcs8(private).map(KeyPair::Rsa),
            Algorithm::Ed25519Sha256 => Ed25519KeyPair::from_pkcs8_maybe_unchecked(private).map(KeyPair::Ed25519),
        }
    }

    pub fn algorithm(&self) -> Algorithm {
        match self {
            KeyPair::Rsa(_) => Algorithm::RsaSha256,
            KeyPair::Ed25519(_) => Algorithm::Ed25519Sha256,
        }
    }

    /// What `p=` holds before base64: SubjectPublicKeyInfo for RSA, 32 octets for Ed25519 (RFC 8463 s4.2).
    pub fn public(&self) -> Result<Vec<u8>, Unspecified> {
        match self {
            KeyPair::Rsa(pair) => Ok(AsDer::<PublicKeyX509Der<'_>>::as_der(pair.public_key())?.as_ref().to_vec()),
            KeyPair::Ed25519(pair) => Ok(pair.public_key().as_ref().to_vec()),
        }
    }

    /// Signs a SHA-256 digest: PKCS#1 v1.5, or Ed25519 over the digest (RFC 8463 s3).
    pub fn sign_digest(&self, digest: &[u8; 32]) -> Result<Vec<u8>, Unspecified> {
        match self {
            KeyPair::Rsa(pair) => {
                let digest = Digest::import_less_safe(digest, &SHA256)?;
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign_digest(&RSA_PKCS1_SHA256, &digest, &mut signature)?;
                Ok(signature)
            }
            KeyPair::Ed25519(pair) => Ok(pair.try_sign(digest)?.as_ref().to_vec()),
        }
    }
}
