//! How many connections each client address has.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bits of an IPv6 address that tell clients apart: one network has all the addresses below.
const IPV6_PREFIX_BITS: u32 = 64;

/// Counts connections by address; IPv6 ones by network.
pub struct Peers {
    limit: AtomicUsize,
    counts: Mutex<HashMap<IpAddr, usize>>,
}

/// A connection's place, given back when dropped.
pub struct Place {
    peers: Arc<Peers>,
    address: IpAddr,
}

impl Peers {
    pub fn new(limit: usize) -> Peers {
        Peers { limit: AtomicUsize::new(limit), counts: Mutex::default() }
    }

    /// Another limit for each. Connections that are open stay.
    pub fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// A place for one more connection; `None` where the address has all of its own.
    pub fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let address = network(address);
        let mut counts = self.lock();
        let count = counts.entry(address).or_default();
        if *count >= self.limit.load(Ordering::Relaxed) {
            return None;
        }
        *count += 1;
        Some(Place { peers: self.clone(), address })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.peers.lock();
        if let Some(count) = counts.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}

fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let host_bits = 128 - IPV6_PREFIX_BITS;
            Ipv6Addr::from_bits(v6.to_bits() >> host_bits << host_bits).into()
        }
        v4 => v4,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_and_given_back() {
        let peers = Arc::new(Peers::new(2));
        let enter = |address: &str| peers.enter(address.parse().unwrap());
        let (one, _two) = (enter("192.0.2.1").unwrap(), enter("192.0.2.1").unwrap());
        assert!(enter("192.0.2.1").is_none());
        assert!(enter("::ffff:192.0.2.1").is_none());
        let other = enter("192.0.2.2").unwrap();
        drop(one);
        assert!(enter("192.0.2.1").is_some());
        drop(other);
        assert_eq!(peers.lock().len(), 1, "who has no connection is forgotten");
    }

    #[test]
    fn an_ipv6_network_is_one_client() {
        let peers = Arc::new(Peers::new(1));
        let _one = peers.enter("2001:db8::1".parse().unwrap()).unwrap();
        assert!(peers.enter("2001:db8::ffff:2".parse().unwrap()).is_none());
        assert!(peers.enter("2001:db8:0:1::1".parse().unwrap()).is_some());
    }
}
