//! The keys of the variable: read, found by domain, used.
//!
//! No text made here ever holds a part of a value, for the value is secret: faults are named by place.

use contract::{Algorithm, Identity, KeyError};
use ed25519_dalek::pkcs8::DecodePrivateKey as _;
use ed25519_dalek::{Signer as _, SigningKey};
use rsa::pkcs8::DecodePrivateKey as _;
use rsa::sha2::{Digest as _, Sha256};
use rsa::traits::PublicKeyParts as _;
use rsa::{Pkcs1v15Sign, RsaPrivateKey};
use serde_json::{Map, Value};

use crate::blinding::Blinding;

/// RFC 8301 s3.2: signers use RSA keys of at least 1024 bits, and should use at least 2048.
const RSA_BITS: usize = 1024;

/// The fields of one key.
const FIELDS: [&str; 4] = ["domain", "selector", "algorithm", "private_key"];

/// All keys of an edge.
pub struct Ring {
    keys: Vec<Key>,
}

struct Key {
    identity: Identity,
    private: Private,
}

enum Private {
    Rsa {
        key: Box<RsaPrivateKey>,
        /// What blinding is derived from.
        secret: [u8; 32],
    },
    Ed25519(Box<SigningKey>),
}

impl Ring {
    /// Reads the variable: empty, or a JSON list of objects with `domain`, `selector`, `algorithm` (`rsa-sha256` or
    /// `ed25519-sha256`) and `private_key` (PKCS#8 as PEM).
    ///
    /// The error says where it is wrong and what is expected there.
    pub fn read(text: &str) -> Result<Ring, String> {
        if text.trim().is_empty() {
            return Ok(Ring { keys: Vec::new() });
        }
        let value: Value = serde_json::from_str(text)
            .map_err(|error| format!("`dkim_keys` is not JSON: line {}, column {}", error.line(), error.column()))?;
        let Value::Array(items) = value else {
            return Err("`dkim_keys` must be a JSON list of keys".to_owned());
        };
        let mut keys: Vec<Key> = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            let key = Key::read(item).map_err(|fault| format!("`dkim_keys[{index}]{fault}"))?;
            if keys.iter().any(|other| other.identity.key_id == key.identity.key_id) {
                return Err(format!("`dkim_keys[{index}]`: the key {} is there twice", key.identity.key_id));
            }
            keys.push(key);
        }
        Ok(Ring { keys })
    }

    /// The identities of the domain or, where it has none, of its nearest parent that has some.
    pub fn identities(&self, domain: &str) -> Vec<Identity> {
        let domain = domain.to_ascii_lowercase();
        let mut rest = domain.as_str();
        loop {
            let found: Vec<Identity> =
                self.keys.iter().map(|key| &key.identity).filter(|i| i.domain == rest).cloned().collect();
            if !found.is_empty() {
                return found;
            }
            let Some((_, parent)) = rest.split_once('.') else { return Vec::new() };
            rest = parent;
        }
    }

    /// Signs a SHA-256 digest with one of the keys.
    pub fn sign_digest(&self, key_id: &str, digest: &[u8]) -> Result<Vec<u8>, KeyError> {
        let key = self.keys.iter().find(|key| key.identity.key_id == key_id);
        let key = key.ok_or_else(|| KeyError::UnknownKey(key_id.to_owned()))?;
        if digest.len() != 32 {
            return Err(KeyError::Unavailable(format!("a SHA-256 digest has 32 bytes: {} were given", digest.len())));
        }
        match &key.private {
            Private::Rsa { key, secret } => key
                .sign_with_rng(&mut Blinding::new(secret, digest), Pkcs1v15Sign::new::<Sha256>(), digest)
                .map_err(|error| KeyError::Unavailable(format!("the key {key_id} could not sign: {error}"))),
            Private::Ed25519(key) => Ok(key.sign(digest).to_bytes().to_vec()),
        }
    }
}

impl Key {
    /// The error begins behind the key's place: with `.field` or a closing quote.
    fn read(item: &Value) -> Result<Key, String> {
        let Value::Object(fields) = item else {
            return Err(format!("` must be an object with {}", FIELDS.join(", ")));
        };
        if fields.keys().any(|name| !FIELDS.contains(&name.as_str())) {
            return Err(format!("` has a field that does not exist: there are {}", FIELDS.join(", ")));
        }
        let domain = name(fields, "domain")?;
        let selector = name(fields, "selector")?;
        let (algorithm, private) = match text(fields, "algorithm")? {
            "rsa-sha256" => (Algorithm::RsaSha256, rsa(text(fields, "private_key")?)?),
            "ed25519-sha256" => (Algorithm::Ed25519Sha256, ed25519(text(fields, "private_key")?)?),
            _ => return Err(".algorithm` must be `rsa-sha256` or `ed25519-sha256`".to_owned()),
        };
        let key_id = format!("{selector}._domainkey.{domain}");
        Ok(Key { identity: Identity { domain, selector, algorithm, key_id }, private })
    }
}

fn rsa(pem: &str) -> Result<Private, String> {
    let key = RsaPrivateKey::from_pkcs8_pem(pem).map_err(|_| not_pem("RSA"))?;
    if key.n().bits() < RSA_BITS {
        return Err(format!(".private_key` has {} bits: at least {RSA_BITS} are needed", key.n().bits()));
    }
    // The text holds the private key, so nobody else can compute this.
    let secret = Sha256::new().chain_update(b"dkim blinding").chain_update(pem).finalize().into();
    Ok(Private::Rsa { key: Box::new(key), secret })
}

fn ed25519(pem: &str) -> Result<Private, String> {
    SigningKey::from_pkcs8_pem(pem).map(|key| Private::Ed25519(Box::new(key))).map_err(|_| not_pem("Ed25519"))
}

fn not_pem(kind: &str) -> String {
    format!(
        ".private_key` is not an {kind} key in PKCS#8 PEM: it begins with `-----BEGIN PRIVATE KEY-----`, with its line \
         breaks as \\n in the JSON"
    )
}

fn text<'a>(fields: &'a Map<String, Value>, name: &str) -> Result<&'a str, String> {
    match fields.get(name) {
        Some(Value::String(text)) => Ok(text),
        Some(_) => Err(format!(".{name}` must be a string")),
        None => Err(format!(".{name}` is missing")),
    }
}

/// A DNS name as it stands in `d=` or `s=`: labels of letters, digits, `-` and `_`, in lower case (RFC 6376 s3.5).
fn name(fields: &Map<String, Value>, field: &str) -> Result<String, String> {
    let name = text(fields, field)?.to_ascii_lowercase();
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    if name.len() > 253 || !name.split('.').all(is_label) {
        return Err(format!(".{field}` must be a DNS name in ASCII, without a dot at its end"));
    }
    Ok(name)
}

#[cfg(test)]
#[path = "ring_tests.rs"]
mod tests;
