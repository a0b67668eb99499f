//! Hosts whose sessions broke a moment ago: the next message tries the others first.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a host is tried after the others.
const TROUBLED_FOR: Duration = Duration::from_secs(10 * 60);
/// Hosts remembered; at more, those whose time is over are forgotten, or else all.
const TROUBLED_MAX: usize = 1024;

/// Hosts that broke off in the middle.
#[derive(Default)]
pub(super) struct Trouble(Mutex<HashMap<String, Instant>>);

impl Trouble {
    /// Whether a host broke off within the last ten minutes.
    pub(super) fn has(&self, host: &str) -> bool {
        self.hosts().get(host).is_some_and(|since| since.elapsed() < TROUBLED_FOR)
    }

    /// A session with a host broke off.
    pub(super) fn note(&self, host: &str) {
        let mut hosts = self.hosts();
        if hosts.len() >= TROUBLED_MAX {
            hosts.retain(|_, since| since.elapsed() < TROUBLED_FOR);
        }
        if hosts.len() >= TROUBLED_MAX {
            hosts.clear();
        }
        hosts.insert(host.to_owned(), Instant::now());
    }

    fn hosts(&self) -> MutexGuard<'_, HashMap<String, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
