//! API keys and the short-lived tokens that stand for them.
//!
//! A key is looked up by its SHA-256 and never stored. A token is the tenant and an expiry under a MAC whose key lives
//! and dies with the process: nothing is remembered, so nothing can be filled up.

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderMap, Response, StatusCode};
use sha2::{Digest, Sha256};

use super::fault::{fault, unavailable};
use crate::store::{ApiKey, Directory, StoreError};

/// How long a token is good.
const TOKEN_S: i64 = 60;

/// Longer ones are not looked up.
const KEY_BYTES: usize = 256;

const TAG_BYTES: usize = 32;
const EXPIRY_BYTES: usize = 8;

/// The credential of `Authorization: Bearer …`. The scheme's case does not matter (RFC 9110 s11.1).
pub fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, credential) = headers.get(AUTHORIZATION)?.to_str().ok()?.trim().split_once(' ')?;
    let credential = credential.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !credential.is_empty()).then_some(credential)
}

/// The live key with this text.
pub async fn find(directory: &dyn Directory, key: &str) -> Result<Option<ApiKey>, StoreError> {
    if key.len() > KEY_BYTES {
        return Ok(None);
    }
    let found = directory.key_by_hash(Sha256::digest(key.as_bytes()).into()).await?;
    Ok(found.filter(|key| key.revoked_at.is_none()))
}

/// The live key that a request to the sending API comes with, or what it is answered.
pub async fn caller(directory: &dyn Directory, headers: &HeaderMap) -> Result<ApiKey, Response<Bytes>> {
    let Some(key) = bearer(headers) else {
        let text = "The API key is missing: send it as `Authorization: Bearer KEY`.";
        return Err(fault(StatusCode::UNAUTHORIZED, "missing_api_key", text));
    };
    match find(directory, key).await {
        Ok(Some(key)) => Ok(key),
        Ok(None) => Err(fault(StatusCode::FORBIDDEN, "invalid_api_key", "The API key is not valid.")),
        Err(error) => {
            tracing::error!(%error, "the store did not answer");
            Err(unavailable("The API key cannot be checked now. Try again later."))
        }
    }
}

/// Makes tokens and reads them.
pub struct Tokens {
    key: hmac::Key,
}

impl Tokens {
    /// A fresh MAC key from the system's random number generator.
    pub fn new() -> Tokens {
        let secret: [u8; 32] = rand::random();
        Tokens { key: hmac::Key::new(hmac::HMAC_SHA256, &secret) }
    }

    /// A token for a tenant. `now_s` counts from 1970.
    pub fn issue(&self, tenant: &str, now_s: i64) -> String {
        let mut token = now_s.saturating_add(TOKEN_S).to_be_bytes().to_vec();
        token.extend_from_slice(tenant.as_bytes());
        let tag = hmac::sign(&self.key, &token);
        token.extend_from_slice(tag.as_ref());
        URL_SAFE_NO_PAD.encode(token)
    }

    /// The tenant of a good token.
    pub fn tenant(&self, token: &str, now_s: i64) -> Option<String> {
        let token = URL_SAFE_NO_PAD.decode(token).ok()?;
        let (said, tag) = token.split_at_checked(token.len().checked_sub(TAG_BYTES)?)?;
        hmac::verify(&self.key, said, tag).ok()?;
        let (expiry, tenant) = said.split_first_chunk::<EXPIRY_BYTES>()?;
        if i64::from_be_bytes(*expiry) < now_s {
            return None;
        }
        String::from_utf8(tenant.to_vec()).ok()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn tokens_are_good_for_a_minute_and_for_their_maker() {
        let tokens = Tokens::new();
        let token = tokens.issue("acme", 1000);
        assert_eq!(tokens.tenant(&token, 1000).as_deref(), Some("acme"));
        assert_eq!(tokens.tenant(&token, 1060).as_deref(), Some("acme"));
        assert_eq!(tokens.tenant(&token, 1061), None);
        assert_eq!(Tokens::new().tenant(&token, 1000), None);
        for wrong in ["", "x", "AAAA", &token[1..], &token[..token.len() - 2], &format!("{token}AA")] {
            assert_eq!(tokens.tenant(wrong, 1000), None, "{wrong}");
        }
        let mut changed = URL_SAFE_NO_PAD.decode(&token).unwrap();
        changed[EXPIRY_BYTES] ^= 1;
        assert_eq!(tokens.tenant(&URL_SAFE_NO_PAD.encode(changed), 1000), None);
    }

    #[test]
    fn bearer_credentials() {
        let check = |value: &str, expect: Option<&str>| {
            let headers = HeaderMap::from_iter([(AUTHORIZATION, value.parse().unwrap())]);
            assert_eq!(bearer(&headers), expect, "{value}");
        };
        check("Bearer abc", Some("abc"));
        check("bearer   abc ", Some("abc"));
        check("Bearer", None);
        check("Bearer ", None);
        check("Basic abc", None);
        assert_eq!(bearer(&HeaderMap::new()), None);
    }
}
