//! Who is calling: the credential in a request, and the edge's short memory of what the host said about it.

use std::sync::Mutex;

use delivery_client::wire::{AuthAnswer, AuthRequest};
use http::HeaderMap;
use http::header::AUTHORIZATION;
use sha2::{Digest, Sha256};

/// Seconds for which an answer is good: a revoked key works no longer than this at an edge.
const MEMORY_S: u64 = 60;
/// Answers that are kept.
const ANSWERS: usize = 256;

/// What the host said about credentials, by their SHA-256.
///
/// The one thing that outlives a request at an edge; inside the host every request has an instance of its own, and so
/// an empty memory.
#[derive(Default)]
pub struct AuthCache {
    entries: Mutex<Vec<Entry>>,
}

struct Entry {
    hash: [u8; 32],
    until_s: u64,
    answer: AuthAnswer,
}

impl AuthCache {
    pub const fn new() -> AuthCache {
        AuthCache { entries: Mutex::new(Vec::new()) }
    }

    /// The answer that is still good.
    pub fn get(&self, credential: &AuthRequest, now_s: u64) -> Option<AuthAnswer> {
        let hash = hash(credential);
        let entries = self.entries.lock().ok()?;
        // One from the future was put in before the clock was set back.
        let good = |entry: &&Entry| entry.hash == hash && (now_s..=now_s + MEMORY_S).contains(&entry.until_s);
        entries.iter().find(good).map(|entry| entry.answer.clone())
    }

    /// Remembers an answer; the oldest gives way.
    pub fn put(&self, credential: &AuthRequest, answer: &AuthAnswer, now_s: u64) {
        let hash = hash(credential);
        let Ok(mut entries) = self.entries.lock() else { return };
        entries.retain(|entry| entry.hash != hash && entry.until_s >= now_s);
        if entries.len() >= ANSWERS {
            entries.remove(0);
        }
        entries.push(Entry { hash, until_s: now_s + MEMORY_S, answer: answer.clone() });
    }

    /// Forgets an answer that turned out to be stale.
    pub fn forget(&self, credential: &AuthRequest) {
        let hash = hash(credential);
        if let Ok(mut entries) = self.entries.lock() {
            entries.retain(|entry| entry.hash != hash);
        }
    }
}

/// The key of `Authorization: Bearer KEY` (RFC 6750 s2.1), where there is one.
pub fn credential(headers: &HeaderMap) -> Option<AuthRequest> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, key) = value.trim().split_once(' ')?;
    let key = key.trim();
    let is_bearer = scheme.eq_ignore_ascii_case("Bearer") && !key.is_empty();
    is_bearer.then(|| AuthRequest::Bearer { key: key.to_owned() })
}

fn hash(credential: &AuthRequest) -> [u8; 32] {
    match credential {
        AuthRequest::Bearer { key } => Sha256::digest(key.as_bytes()).into(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn key(key: &str) -> AuthRequest {
        AuthRequest::Bearer { key: key.to_owned() }
    }

    fn answer(tenant: &str) -> AuthAnswer {
        AuthAnswer {
            tenant: tenant.to_owned(),
            token: String::new(),
            message_bytes: 1,
            recipients: 1,
            domains: vec![],
            any_domain: true,
            streams: Vec::new(),
            run_stages: true,
            component_revision: 1,
        }
    }

    #[test]
    fn bearer_keys() {
        let check = |value: &str, expect: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, value.parse().unwrap());
            assert_eq!(credential(&headers), expect.map(key), "{value}");
        };
        check("Bearer re_1", Some("re_1"));
        check("bearer  re_1 ", Some("re_1"));
        check("Bearer", None);
        check("Bearer ", None);
        check("Basic re_1", None);
        check("re_1", None);
        assert_eq!(credential(&HeaderMap::new()), None);
    }

    #[test]
    fn answers_are_good_for_a_minute() {
        let cache = AuthCache::new();
        cache.put(&key("a"), &answer("one"), 1000);
        assert_eq!(cache.get(&key("a"), 1060).map(|answer| answer.tenant).as_deref(), Some("one"));
        assert_eq!(cache.get(&key("a"), 1061), None);
        assert_eq!(cache.get(&key("a"), 900), None);
        assert_eq!(cache.get(&key("b"), 1000), None);
        cache.put(&key("a"), &answer("two"), 1010);
        assert_eq!(cache.get(&key("a"), 1010).map(|answer| answer.tenant).as_deref(), Some("two"));
        cache.forget(&key("a"));
        assert_eq!(cache.get(&key("a"), 1010), None);
    }

    #[test]
    fn memory_is_bounded() {
        let cache = AuthCache::new();
        for n in 0..ANSWERS + 10 {
            cache.put(&key(&n.to_string()), &answer(""), 1000);
        }
        assert_eq!(cache.entries.lock().unwrap().len(), ANSWERS);
        assert!(cache.get(&key("9"), 1000).is_none() && cache.get(&key("10"), 1000).is_some());
        cache.put(&key("new"), &answer(""), 2000);
        assert_eq!(cache.entries.lock().unwrap().len(), 1);
    }
}
