//! Fresh DKIM keys, and the names they get in DNS.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use mail::dkim::Algorithm;
use uuid::Uuid;

use super::edge_key::is_selector;
use super::pair::KeyPair;
use super::{Keyring, SelectorError, blocking};
use crate::store::{DkimKey, KeyState, StoreError};

/// RFC 4648 s6, in lower case.
const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// The selectors of a pair of fresh keys, one for each algorithm; those that are not said are made up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selectors {
    pub rsa: Option<String>,
    pub ed25519: Option<String>,
}

impl Selectors {
    /// The names that somebody asked for. `name` is the RSA key's, which every receiver understands; the Ed25519 key is
    /// called the same with `-ed25519` behind it unless it is given a name too.
    pub fn asked(name: Option<&str>, ed25519: Option<&str>) -> Result<Selectors, SelectorError> {
        let ed25519 = ed25519.map(str::to_owned).or_else(|| name.map(|name| format!("{name}-ed25519")));
        let selectors = Selectors {
            rsa: name.map(selector_of).transpose()?,
            ed25519: ed25519.as_deref().map(selector_of).transpose()?,
        };
        match &selectors.rsa {
            Some(rsa) if selectors.ed25519.as_ref() == Some(rsa) => Err(SelectorError::Twice(rsa.clone())),
            _ => Ok(selectors),
        }
    }
}

/// A selector as it is stored: in lower case, since names in DNS have none.
pub(super) fn selector_of(name: &str) -> Result<String, SelectorError> {
    let name = name.to_ascii_lowercase();
    match is_selector(&name) {
        true => Ok(name),
        false => Err(SelectorError::Form(name.chars().take(80).collect::<String>().escape_debug().to_string())),
    }
}

impl Keyring {
    /// A fresh RSA-2048 and a fresh Ed25519 key, sealed and not stored.
    pub async fn make_keys(&self, selectors: &Selectors, state: KeyState) -> Result<Vec<DkimKey>, StoreError> {
        let now = Timestamp::now();
        let mut keys = Vec::with_capacity(2);
        for (algorithm, name) in
            [(Algorithm::RsaSha256, &selectors.rsa), (Algorithm::Ed25519Sha256, &selectors.ed25519)]
        {
            let failed = |what: String| StoreError::Io(format!("cannot make a DKIM key: {what}"));
            let (pair, private) = blocking(move || KeyPair::generate(algorithm))
                .await
                .map_err(failed)?
                .map_err(|_| failed("the system's random number generator failed".to_owned()))?;
            let selector = name.clone().unwrap_or_else(|| selector(algorithm, now, rand::random()));
            keys.push(self.seal_key(&pair, &private, selector, state, now).map_err(failed)?);
        }
        Ok(keys)
    }

    /// A key as it is stored, of its pair and the pair's private half as PKCS#8 DER. The error is in words.
    pub(super) fn seal_key(
        &self,
        pair: &KeyPair,
        private: &[u8],
        selector: String,
        state: KeyState,
        now: Timestamp,
    ) -> Result<DkimKey, String> {
        let id = format!("dkim_{}", Uuid::new_v4());
        let sealed_private = self.master.seal(&id, private).map_err(|error| error.to_string())?;
        let public = pair.public().map_err(|_| "its public half cannot be written".to_owned())?;
        Ok(DkimKey { id, selector, algorithm: pair.algorithm(), public, sealed_private, state, created_at: now })
    }
}

/// `ph`, year and month, four characters by chance, `r` or `e`: tells at a glance how old a key is. The chance keeps
/// keys apart that two tenants, or one tenant twice, make for one domain in one month: a name in DNS is for one key.
pub(super) fn selector(algorithm: Algorithm, now: Timestamp, chance: u32) -> String {
    let date = now.to_zoned(TimeZone::UTC).date();
    let kind = match algorithm {
        Algorithm::RsaSha256 => 'r',
        Algorithm::Ed25519Sha256 => 'e',
    };
    let suffix: String = (0..4).map(|place| char::from(BASE32[(chance >> (5 * place)) as usize % 32])).collect();
    format!("ph{:04}{:02}{suffix}{kind}", date.year(), date.month())
}
