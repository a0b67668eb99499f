//! Keys seen lately: sealed as they came from the directory, unsealed from their first use on. The one used longest
//! ago goes when it is full.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use contract::KeyError;

use super::pair::KeyPair;
use crate::store::DkimKey;

/// Keys by id, each with its owner: a key is never found for another tenant.
pub struct Cache {
    capacity: usize,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    entries: HashMap<String, Entry>,
    /// Grows with every use.
    clock: u64,
}

struct Entry {
    tenant: String,
    key: Arc<DkimKey>,
    pair: Option<Arc<KeyPair>>,
    used: u64,
}

impl Cache {
    pub fn new(capacity: usize) -> Cache {
        Cache { capacity, inner: Mutex::default() }
    }

    /// Remembers a key of a tenant. One that is known and unchanged keeps its unsealed form.
    pub fn learn(&self, tenant: &str, key: DkimKey) {
        let mut inner = self.lock();
        let used = inner.tick();
        match inner.entries.get_mut(&key.id) {
            Some(entry) if *entry.key == key && entry.tenant == tenant => entry.used = used,
            _ => {
                if inner.entries.len() >= self.capacity {
                    inner.drop_oldest();
                }
                let id = key.id.clone();
                let entry = Entry { tenant: tenant.to_owned(), key: Arc::new(key), pair: None, used };
                inner.entries.insert(id, entry);
            }
        }
    }

    /// The pair of a key of this tenant, unsealed now where it was not before; `None` where it is not known here.
    pub fn get(
        &self,
        tenant: &str,
        id: &str,
        unseal: impl FnOnce(&DkimKey) -> Result<KeyPair, KeyError>,
    ) -> Option<Result<Arc<KeyPair>, KeyError>> {
        let key = {
            let mut inner = self.lock();
            let used = inner.tick();
            let entry = inner.entries.get_mut(id).filter(|entry| entry.tenant == tenant)?;
            entry.used = used;
            if let Some(pair) = &entry.pair {
                return Some(Ok(pair.clone()));
            }
            entry.key.clone()
        };
        // Not under the lock: it takes a while. Two at once do it twice, to no harm.
        let pair = match unseal(&key) {
            Ok(pair) => Arc::new(pair),
            Err(error) => return Some(Err(error)),
        };
        if let Some(entry) = self.lock().entries.get_mut(id).filter(|entry| Arc::ptr_eq(&entry.key, &key)) {
            entry.pair = Some(pair.clone());
        }
        Some(Ok(pair))
    }

    /// Forgets a key.
    pub fn forget(&self, id: &str) {
        self.lock().entries.remove(id);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every state between two lines is a good one, so a panic elsewhere does no harm here.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    fn drop_oldest(&mut self) {
        let oldest = self.entries.iter().min_by_key(|(_, entry)| entry.used).map(|(id, _)| id.clone());
        oldest.and_then(|id| self.entries.remove(&id));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use mail::dkim::Algorithm;

    use super::*;

    fn key(id: &str) -> DkimKey {
        let (pair, sealed_private) = KeyPair::generate(Algorithm::Ed25519Sha256).unwrap();
        let public = pair.public().unwrap();
        DkimKey {
            id: id.to_owned(),
            selector: "s".to_owned(),
            algorithm: Algorithm::Ed25519Sha256,
            public,
            sealed_private,
            state: crate::store::KeyState::Active,
            created_at: jiff::Timestamp::UNIX_EPOCH,
        }
    }

    fn open(key: &DkimKey) -> Result<KeyPair, KeyError> {
        Ok(KeyPair::from_pkcs8(key.algorithm, &key.sealed_private).unwrap())
    }

    #[test]
    fn a_key_is_unsealed_once_and_for_its_owner_only() {
        let cache = Cache::new(2);
        cache.learn("one", key("a"));
        assert!(cache.get("one", "a", open).unwrap().is_ok());
        assert!(cache.get("one", "a", |_| panic!("unsealed twice")).unwrap().is_ok());
        assert!(cache.get("other", "a", open).is_none());
        assert!(cache.get("one", "b", open).is_none());
    }

    #[test]
    fn the_one_used_longest_ago_goes() {
        let cache = Cache::new(2);
        ["a", "b"].into_iter().for_each(|id| cache.learn("one", key(id)));
        assert!(cache.get("one", "a", open).is_some());
        cache.learn("one", key("c"));
        assert!(cache.get("one", "b", open).is_none());
        assert!(cache.get("one", "a", open).is_some() && cache.get("one", "c", open).is_some());
    }

    #[test]
    fn a_changed_key_is_unsealed_anew() {
        let cache = Cache::new(2);
        cache.learn("one", key("a"));
        let first = cache.get("one", "a", open).unwrap().unwrap();
        let changed = key("a");
        let public = changed.public.clone();
        cache.learn("one", changed);
        let second = cache.get("one", "a", open).unwrap().unwrap();
        assert_ne!(first.public().unwrap(), second.public().unwrap());
        assert_eq!(second.public().unwrap(), public);
    }
}
