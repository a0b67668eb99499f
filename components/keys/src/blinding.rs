//! Numbers to blind RSA with, so that the time it takes tells nothing about the key.
//!
//! They need to be unknown to whoever measures, not fresh: they are derived from the private key and the digest, so the
//! component needs no source of randomness and signs the same digest alike.

use rsa::rand_core::{CryptoRng, Error, RngCore, impls};
use rsa::sha2::{Digest, Sha256};

/// SHA-256 of a secret, the digest and a counter, one block after the other.
pub struct Blinding {
    start: Sha256,
    counter: u64,
    block: [u8; 32],
    used: usize,
}

impl Blinding {
    /// `secret` is known only to the key's keeper.
    pub fn new(secret: &[u8; 32], digest: &[u8]) -> Blinding {
        let start = Sha256::new().chain_update(secret).chain_update(digest);
        Blinding { start, counter: 0, block: [0; 32], used: 32 }
    }
}

impl RngCore for Blinding {
    fn next_u32(&mut self) -> u32 {
        impls::next_u32_via_fill(self)
    }

    fn next_u64(&mut self) -> u64 {
        impls::next_u64_via_fill(self)
    }

    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            if self.used == self.block.len() {
                self.block = self.start.clone().chain_update(self.counter.to_be_bytes()).finalize().into();
                self.counter += 1;
                self.used = 0;
            }
            *byte = self.block[self.used];
            self.used += 1;
        }
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Error> {
        self.fill_bytes(bytes);
        Ok(())
    }
}

impl CryptoRng for Blinding {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_follow_one_another() {
        let mut one = Blinding::new(&[1; 32], b"digest");
        let (mut first, mut second) = ([0; 48], [0; 48]);
        one.fill_bytes(&mut first);
        one.fill_bytes(&mut second);
        let mut whole = [0; 96];
        Blinding::new(&[1; 32], b"digest").fill_bytes(&mut whole);
        assert_eq!(whole, [first, second].concat()[..]);
        assert_ne!(whole[..32], whole[32..64]);

        let mut other = [0; 48];
        Blinding::new(&[2; 32], b"digest").fill_bytes(&mut other);
        assert_ne!(first, other, "the secret counts");
        Blinding::new(&[1; 32], b"other digest").fill_bytes(&mut other);
        assert_ne!(first, other, "the digest counts");
    }
}
