//! Where a peer may stand. Never where we listen ourselves: the message would come back. And where a stranger named the
//! host (an MX record, an address literal) neither on this machine nor in a private network, which is not his to reach.

use std::net::{IpAddr, SocketAddr};

use mail::{EnhancedCode, Verdict};

use crate::config::Config;
use crate::web::address::is_public;

/// What a destination is held against.
pub(super) struct Reach {
    listeners: Vec<SocketAddr>,
    allow_private: bool,
}

/// Why no mail is sent to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Barred {
    Ourselves,
    Private,
}

impl Reach {
    pub(super) fn new(config: &Config) -> Reach {
        let web = [&config.http, &config.https].into_iter().flatten().map(|listener| listener.listen);
        let smtp = config.smtp.listen.iter().chain(&config.smtp.listen_tls).copied();
        let listeners = web.chain(config.admin).chain(smtp).collect();
        Reach { listeners, allow_private: config.delivery.allow_private }
    }

    /// Whether an address is barred, before it is connected to; `foreign`: a stranger named the host.
    pub(super) fn barred(&self, peer: SocketAddr, foreign: bool) -> Option<Barred> {
        let ip = peer.ip().to_canonical();
        // Connecting to the unspecified address reaches this machine.
        let here = ip.is_loopback() || ip.is_unspecified();
        let listens = |listener: &SocketAddr| listener.ip().to_canonical() == ip || here && covers(*listener, ip);
        if self.listeners.iter().any(|listener| listener.port() == peer.port() && listens(listener)) {
            return Some(Barred::Ourselves);
        }
        (foreign && !self.allow_private && !is_public(ip)).then_some(Barred::Private)
    }

    /// Whether a connection that stands came out at a listener of ours that takes all addresses of this machine. Only
    /// the system knows these; it connects to each of them from that same address.
    pub(super) fn came_home(&self, local: SocketAddr, peer: SocketAddr) -> bool {
        let ip = peer.ip().to_canonical();
        local.ip().to_canonical() == ip
            && self.listeners.iter().any(|listener| listener.port() == peer.port() && covers(*listener, ip))
    }
}

/// Whether a listener takes every address of this machine, those of that kind among them.
fn covers(listener: SocketAddr, ip: IpAddr) -> bool {
    listener.ip().is_unspecified() && (listener.is_ipv6() || ip.is_ipv4())
}

impl Barred {
    /// What becomes of the message.
    pub(super) fn verdict(self) -> (Verdict, EnhancedCode) {
        match self {
            Barred::Ourselves => (Verdict::Failed, EnhancedCode::new(5, 4, 6)),
            Barred::Private => (Verdict::Bounced, EnhancedCode::new(5, 4, 4)),
        }
    }

    /// In words, behind the name of the host.
    pub(super) fn words(self) -> &'static str {
        match self {
            Barred::Ourselves => "is this host itself: the mail would come back to us",
            Barred::Private => "is on this machine or in a private network, where no mail is sent to by MX or address",
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn reach(listeners: &[&str], allow_private: bool) -> Reach {
        Reach { listeners: listeners.iter().map(|text| text.parse().unwrap()).collect(), allow_private }
    }

    #[test]
    fn private_addresses_are_barred_for_strangers() {
        let barred = [
            "127.0.0.1",
            "127.8.9.1",
            "0.0.0.0",
            "0.1.2.3",
            "10.1.2.3",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.0.1",
            "169.254.169.254",
            "100.64.0.1",
            "100.127.255.255",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fd00::1",
            "fe80::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
        ];
        let open = ["192.0.2.1", "172.32.0.1", "100.63.0.1", "100.128.0.1", "2001:db8::1", "::ffff:192.0.2.1"];
        for (texts, expect) in [(&barred[..], Some(Barred::Private)), (&open[..], None)] {
            for text in texts {
                let peer = SocketAddr::new(text.parse().unwrap(), 25);
                assert_eq!(reach(&[], false).barred(peer, true), expect, "{text}");
                assert_eq!(reach(&[], false).barred(peer, false), None, "{text}, by the operator");
                assert_eq!(reach(&[], true).barred(peer, true), None, "{text}, allowed");
            }
        }
    }

    #[test]
    fn our_own_listeners_are_barred_for_everybody() {
        let check = |listener: &str, peer: &str, expect: bool| {
            for (allow_private, foreign) in [(false, false), (false, true), (true, false), (true, true)] {
                let barred = reach(&[listener], allow_private).barred(peer.parse().unwrap(), foreign);
                assert_eq!(barred == Some(Barred::Ourselves), expect, "{listener} {peer}");
            }
        };
        check("127.0.0.1:25", "127.0.0.1:25", true);
        check("127.0.0.1:25", "[::ffff:127.0.0.1]:25", true);
        check("127.0.0.1:25", "127.0.0.1:26", false);
        check("127.0.0.1:25", "127.0.0.2:25", false);
        check("192.0.2.1:25", "192.0.2.1:25", true);
        check("0.0.0.0:25", "127.0.0.2:25", true);
        check("0.0.0.0:25", "0.0.0.0:25", true);
        check("0.0.0.0:25", "192.0.2.1:25", false);
        check("0.0.0.0:25", "[::1]:25", false);
        check("[::]:25", "127.0.0.1:25", true);
        check("[::]:25", "[::1]:25", true);
    }

    #[test]
    fn connections_that_came_home() {
        let check = |listener: &str, local: &str, peer: &str, expect: bool| {
            let home = reach(&[listener], true).came_home(local.parse().unwrap(), peer.parse().unwrap());
            assert_eq!(home, expect, "{listener} {local} {peer}");
        };
        check("0.0.0.0:25", "192.0.2.1:40000", "192.0.2.1:25", true);
        check("0.0.0.0:25", "192.0.2.1:40000", "192.0.2.2:25", false);
        check("0.0.0.0:2525", "192.0.2.1:40000", "192.0.2.1:25", false);
        check("127.0.0.1:25", "192.0.2.1:40000", "192.0.2.1:25", false);
        check("[::]:25", "[2001:db8::1]:40000", "[2001:db8::1]:25", true);
    }
}
