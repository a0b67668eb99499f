//! API keys, operator keys and delivery tokens: `ph_`, `pho_` or `phd_` and 40 letters and digits from the system's randomness, which is more
//! than 238 bits.
//!
//! Each is shown once. What is stored is its SHA-256, which needs no salt at this length, its first characters, and of an
//! API key what SCRAM needs. They
//! lie in tables of their own: none is ever taken for another.

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::scram::{ITERATIONS, SALT_OCTETS, Verifier};

/// What every API key begins with, so that scanners for leaked secrets know it.
pub const API_KEY: &str = "ph_";

/// The same of delivery tokens.
pub const DELIVERY_TOKEN: &str = "phd_";

/// The same of operator keys.
pub const OPERATOR_KEY: &str = "pho_";

/// The key a development host takes where none is given: the same for everybody, because such a host is reached from its own
/// machine only and sends nothing.
pub const DEVELOPMENT_KEY: &str = "ph_dev";

/// Its delivery token for an edge on the same machine, for the same reason.
pub const DEVELOPMENT_TOKEN: &str = "phd_dev";

/// Characters behind the mark.
const LENGTH: usize = 40;

/// Characters of a key that are stored to know it by, the mark included.
const PREFIX: usize = 11;

const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// The system has no randomness to give.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the system's random number generator failed")]
pub struct NoRandomness;

/// A fresh key with this mark in front.
pub fn generate(mark: &str) -> Result<String, NoRandomness> {
    let mut key = String::with_capacity(mark.len() + LENGTH);
    key.push_str(mark);
    let mut octets = [0; 64];
    while key.len() < mark.len() + LENGTH {
        SystemRandom::new().fill(&mut octets).map_err(|_| NoRandomness)?;
        // Six bits each; the two values that have no letter are thrown away, so that all letters are as likely.
        let letters = octets.iter().filter_map(|octet| ALPHABET.get(usize::from(octet & 0x3f)));
        key.extend(letters.map(|&letter| char::from(letter)).take(mark.len() + LENGTH - key.len()));
    }
    Ok(key)
}

/// What is stored and looked up instead of a key.
pub fn hash(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}

/// What SCRAM looks up of a key, with a fresh salt. Made beside the reactor.
pub async fn verifier(key: &str) -> Result<Verifier, NoRandomness> {
    let key = key.to_owned();
    let made = tokio::task::spawn_blocking(move || {
        let mut salt = [0; SALT_OCTETS];
        SystemRandom::new().fill(&mut salt).map_err(|_| NoRandomness)?;
        Ok(Verifier::make(&key, salt, ITERATIONS))
    });
    made.await.unwrap_or(Err(NoRandomness))
}

/// The first characters of a key.
pub fn prefix(key: &str) -> String {
    key.chars().take(PREFIX).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_their_form_and_differ() {
        let (one, other) = (generate(API_KEY).unwrap(), generate(API_KEY).unwrap());
        for key in [&one, &other] {
            assert_eq!(key.len(), 43);
            assert!(key.starts_with("ph_") && key[3..].bytes().all(|byte| byte.is_ascii_alphanumeric()), "{key}");
        }
        assert_ne!(one, other);
        assert_eq!(prefix(&one), one[..11]);
    }

    #[test]
    fn every_letter_comes_up() {
        let letters: std::collections::BTreeSet<u8> =
            (0..200).flat_map(|_| generate(API_KEY).unwrap().into_bytes()).collect();
        assert_eq!(letters.len(), ALPHABET.len() + 1, "the alphabet and the underscore");
    }

    #[test]
    fn the_hash_is_sha256() {
        let hex: String = hash("abc").iter().map(|octet| format!("{octet:02x}")).collect();
        assert_eq!(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
