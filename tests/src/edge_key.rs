//! A DKIM key for an edge, as `dkim_keys` has it.

use anyhow::{Result, anyhow};
use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

/// A key and what is published of it.
pub struct EdgeKey {
    /// An item of the variable's list.
    pub item: Value,
    /// `selector._domainkey.domain`.
    pub name: String,
    pub record: String,
}

impl EdgeKey {
    /// RSA with 2048 bits.
    pub fn rsa(domain: &str, selector: &str) -> Result<EdgeKey> {
        let pair = KeyPair::generate(KeySize::Rsa2048).map_err(|_| anyhow!("no RSA key can be made"))?;
        let private = AsDer::<Pkcs8V1Der<'_>>::as_der(&pair)?;
        let public = AsDer::<PublicKeyX509Der<'_>>::as_der(pair.public_key())?;
        Ok(EdgeKey::new(domain, selector, "rsa", private.as_ref(), public.as_ref()))
    }

    /// Ed25519.
    pub fn ed25519(domain: &str, selector: &str) -> Result<EdgeKey> {
        let failed = |_| anyhow!("no Ed25519 key can be made");
        let private = Ed25519KeyPair::generate_pkcs8v1(&SystemRandom::new()).map_err(failed)?;
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(private.as_ref())?;
        Ok(EdgeKey::new(domain, selector, "ed25519", private.as_ref(), pair.public_key().as_ref()))
    }

    fn new(domain: &str, selector: &str, kind: &str, private: &[u8], public: &[u8]) -> EdgeKey {
        let base64 = STANDARD.encode(private);
        let lines: Vec<&str> = (0..base64.len()).step_by(64).map(|at| &base64[at..base64.len().min(at + 64)]).collect();
        let pem = format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", lines.join("\n"));
        EdgeKey {
            item: json!({"domain": domain, "selector": selector, "algorithm": format!("{kind}-sha256"), "private_key": pem}),
            name: format!("{selector}._domainkey.{domain}"),
            record: format!("v=DKIM1; k={kind}; p={}", STANDARD.encode(public)),
        }
    }

    /// The value of the variable `dkim_keys`.
    pub fn variable(keys: &[EdgeKey]) -> String {
        keys.iter().map(|key| key.item.clone()).collect::<Value>().to_string()
    }
}
