//! API keys and the short-lived tokens that stand for them.
//!
//! A key is looked up by its SHA-256 and never stored. A token is an expiry, a stream and the tenant under a MAC whose key lives
//! and dies with the process: nothing is remembered, so nothing can be filled up. The MAC covers its bearer too: what one
//! edge was given is good for no other edge and for no trigger in this process.

use std::net::IpAddr;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{Extensions, HeaderMap, Response, StatusCode};
use jiff::Timestamp;
use mail::Stream;
use sha2::{Digest, Sha256};

use super::fault::{fault, unavailable};
use crate::store::{ApiKey, Directory, Scope, StoreError};

/// How long a token is good: for the minute that an edge keeps it, and for a minute of work on what was begun at its end.
const TOKEN_S: i64 = 120;

/// Longer ones are not looked up.
const KEY_BYTES: usize = 256;

const TAG_BYTES: usize = 32;
const EXPIRY_BYTES: usize = 8;

/// Stands where the token of a key that is bound to no stream would name one.
const ANY_STREAM: u8 = b'-';

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
    find_by_hash(directory, Sha256::digest(key.as_bytes()).into()).await
}

/// The live key with this SHA-256, which counts as used.
pub async fn find_by_hash(directory: &dyn Directory, hash: [u8; 32]) -> Result<Option<ApiKey>, StoreError> {
    let now = Timestamp::now();
    let found = directory.key_by_hash(hash).await?.filter(|key| key.is_live(now));
    if let Some(key) = &found {
        directory.key_used(&key.id, now);
    }
    Ok(found)
}

/// Whom a request came from: an extension of it.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub IpAddr);

/// The address that a request came from, where it is known.
pub fn peer(extensions: &Extensions) -> Option<IpAddr> {
    extensions.get::<Peer>().map(|peer| peer.0)
}

/// What a key without this scope is answered.
pub fn out_of_scope(scope: Scope) -> Response<Bytes> {
    let text = format!("The API key lacks the scope `{}`: use one that has it.", scope.name());
    fault(StatusCode::FORBIDDEN, "restricted_api_key", text)
}

/// What a key is answered outside of its tenant's networks.
pub fn out_of_network(peer: Option<IpAddr>) -> Response<Bytes> {
    let from = peer.map_or_else(String::new, |peer| format!(" from {peer}"));
    let text = format!("The API key is not good{from}: its account allows other networks only.");
    fault(StatusCode::FORBIDDEN, "invalid_access", text)
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

    /// A token for a tenant, in the hands of `bearer`, by a key that may be bound to a stream. `now_s` counts from 1970.
    pub fn issue(&self, tenant: &str, bound: Option<Stream>, bearer: &str, now_s: i64) -> String {
        let mut token = now_s.saturating_add(TOKEN_S).to_be_bytes().to_vec();
        token.push(match bound {
            None => ANY_STREAM,
            Some(Stream::Transactional) => b't',
            Some(Stream::Broadcast) => b'b',
        });
        token.extend_from_slice(tenant.as_bytes());
        let tag = hmac::sign(&self.key, &covered(&token, bearer));
        token.extend_from_slice(tag.as_ref());
        URL_SAFE_NO_PAD.encode(token)
    }

    /// The tenant of a good token that `bearer` was given, and the stream that it is bound to.
    pub fn holder(&self, token: &str, bearer: &str, now_s: i64) -> Option<(String, Option<Stream>)> {
        let token = URL_SAFE_NO_PAD.decode(token).ok()?;
        let (said, tag) = token.split_at_checked(token.len().checked_sub(TAG_BYTES)?)?;
        hmac::verify(&self.key, &covered(said, bearer), tag).ok()?;
        let (expiry, rest) = said.split_first_chunk::<EXPIRY_BYTES>()?;
        if i64::from_be_bytes(*expiry) < now_s {
            return None;
        }
        let (stream, tenant) = rest.split_first()?;
        let bound = match stream {
            b't' => Some(Stream::Transactional),
            b'b' => Some(Stream::Broadcast),
            _ => None,
        };
        Some((String::from_utf8(tenant.to_vec()).ok()?, bound))
    }
}

/// What the MAC covers: what the token says, and its bearer. No tenant's name holds a NUL, so neither runs into the other.
fn covered(said: &[u8], bearer: &str) -> Vec<u8> {
    [said, b"\0", bearer.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn tokens_are_good_for_two_minutes_and_for_their_bearer() {
        let tokens = Tokens::new();
        let acme = Some(("acme".to_owned(), Some(Stream::Broadcast)));
        let token = tokens.issue("acme", Some(Stream::Broadcast), "dlv_1", 1000);
        assert_eq!(tokens.holder(&token, "dlv_1", 1000), acme.clone());
        assert_eq!(tokens.holder(&token, "dlv_1", 1120), acme.clone());
        assert_eq!(tokens.holder(&token, "dlv_1", 1121), None);
        assert_eq!(tokens.holder(&token, "dlv_2", 1000), None);
        assert_eq!(tokens.holder(&token, "", 1000), None);
        assert_eq!(Tokens::new().holder(&token, "dlv_1", 1000), None);
        for wrong in ["", "x", "AAAA", &token[1..], &token[..token.len() - 2], &format!("{token}AA")] {
            assert_eq!(tokens.holder(wrong, "dlv_1", 1000), None, "{wrong}");
        }
        let mut changed = URL_SAFE_NO_PAD.decode(&token).unwrap();
        changed[EXPIRY_BYTES] ^= 1;
        assert_eq!(tokens.holder(&URL_SAFE_NO_PAD.encode(changed), "dlv_1", 1000), None);
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
