//! Domains read lately, by tenant and name, those that do not exist included: every message asks for its own.
//!
//! An entry is good as long as nobody has changed anything but mail and events since it was read (`Shared::changes`
//! counts that). Changes are rare, so nothing finer is needed, and no change can be forgotten here.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use super::SendingDomain;

/// Entries kept at once; at more, all go. A domain with two keys takes some 3 KB.
const ENTRIES: usize = 4096;

#[derive(Default)]
pub(super) struct DomainCache {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// Until which change the entries were read.
    changes: u64,
    entries: HashMap<String, Option<SendingDomain>>,
}

impl DomainCache {
    /// What was read since the last change; `changes` was counted just now.
    pub(super) fn get(&self, changes: u64, tenant: &str, domain: &str) -> Option<Option<SendingDomain>> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.changes != changes {
            return None;
        }
        inner.entries.get(&name(tenant, domain)).cloned()
    }

    /// Keeps what was read; `changes` was counted before that.
    pub(super) fn put(&self, changes: u64, tenant: &str, domain: &str, found: Option<SendingDomain>) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.changes > changes {
            return;
        }
        if inner.changes < changes || inner.entries.len() >= ENTRIES {
            inner.entries.clear();
            inner.changes = changes;
        }
        inner.entries.insert(name(tenant, domain), found);
    }
}

/// Neither a tenant's name nor a domain holds a slash.
fn name(tenant: &str, domain: &str) -> String {
    format!("{tenant}/{domain}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_makes_all_be_read_again() {
        let cache = DomainCache::default();
        assert_eq!(cache.get(0, "acme", "a.test"), None);
        cache.put(0, "acme", "a.test", None);
        assert_eq!(cache.get(0, "acme", "a.test"), Some(None));
        assert_eq!(cache.get(0, "other", "a.test"), None);
        assert_eq!(cache.get(1, "acme", "a.test"), None);
        cache.put(1, "acme", "b.test", None);
        // It was read before the change that the other entry knows of.
        cache.put(0, "acme", "a.test", None);
        assert_eq!((cache.get(1, "acme", "a.test"), cache.get(1, "acme", "b.test")), (None, Some(None)));
    }

    #[test]
    fn it_is_bounded() {
        let cache = DomainCache::default();
        (0..=ENTRIES).for_each(|number| cache.put(0, "acme", &number.to_string(), None));
        assert_eq!(cache.get(0, "acme", "0"), None);
        assert_eq!(cache.get(0, "acme", &ENTRIES.to_string()), Some(None));
    }
}
