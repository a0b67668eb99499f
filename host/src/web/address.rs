//! Which addresses are the world's. Whoever names a host that we connect to may point it at this machine or into a
//! private network, which is not theirs to reach: so every address is looked at after the name is resolved.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Whose addresses may be connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reachable {
    /// Those of the world.
    Public,
    /// These, and this machine's loopback: a development host's own applications.
    PublicAndLoopback,
    /// All: the operator says so.
    All,
}

impl Reachable {
    /// Whether an address may be connected to.
    pub fn allows(self, ip: IpAddr) -> bool {
        match self {
            Reachable::All => true,
            Reachable::PublicAndLoopback => ip.to_canonical().is_loopback() || is_public(ip),
            Reachable::Public => is_public(ip),
        }
    }
}

/// Whether an address is one of the world's: neither this machine's, nor a private network's (metadata services of
/// clouds among them), nor a group's, nor one that leads to such a one through a translator.
pub fn is_public(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => is_public_v6(v6),
    }
}

fn is_public_v4(v4: Ipv4Addr) -> bool {
    let [first, second, third, _] = v4.octets();
    // "This network" (RFC 791), the space behind carriers' NAT (RFC 6598), protocol assignments (RFC 6890), benchmarks
    // (RFC 2544) and what is reserved (RFC 1112) have no predicate.
    let special = first == 0
        || (first == 100 && second & 0xc0 == 64)
        || (first, second, third) == (192, 0, 0)
        || (first == 198 && second & 0xfe == 18)
        || first >= 240
        || v4.is_private()
        || v4.is_loopback()
        || v4.is_link_local()
        || v4.is_multicast();
    !special
}

fn is_public_v6(v6: Ipv6Addr) -> bool {
    let [first, second, third, fourth, fifth, sixth, seventh, eighth] = v6.segments();
    let v4 = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        is_public_v4(Ipv4Addr::new(a, b, c, d))
    };
    match (first, second) {
        // Compatible addresses (RFC 4291 s2.5.5.1), the unspecified one and loopback among them.
        (0, 0) if (third, fourth, fifth, sixth) == (0, 0, 0, 0) => false,
        // NAT64: the well-known prefix (RFC 6052), and the one for local use (RFC 8215), whose form nobody knows.
        (0x64, 0xff9b) if third == 0 => v4(seventh, eighth),
        (0x64, 0xff9b) if third == 1 => false,
        // 6to4 (RFC 3056) and Teredo (RFC 4380), which carries the address with its bits turned.
        (0x2002, _) => v4(second, third),
        (0x2001, 0) => v4(!seventh, !eighth),
        // Site-local addresses (RFC 3879) are gone, and routed inside where they are not.
        (first, _) if first & 0xffc0 == 0xfec0 => false,
        _ => !(v6.is_unique_local() || v6.is_unicast_link_local() || v6.is_multicast()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const PRIVATE: &[&str] = &[
        "0.0.0.0",
        "0.1.2.3",
        "10.1.2.3",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.0.1",
        "192.0.0.8",
        "169.254.169.254",
        "100.64.0.1",
        "100.127.255.255",
        "198.18.0.1",
        "198.19.255.255",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::10.0.0.1",
        "fd00::1",
        "fd00:ec2::254",
        "fe80::1",
        "fec0::1",
        "ff02::1",
        "::ffff:10.0.0.1",
        "::ffff:169.254.169.254",
        "64:ff9b::10.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b:1::1",
        "2002:7f00:1::1",
        "2002:a9fe:a9fe::",
        "2001:0:4136:e378:8000:63bf:f5ff:fffe",
    ];
    const LOOPBACK: &[&str] = &["127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1"];
    const PUBLIC: &[&str] = &[
        "192.0.2.1",
        "8.8.8.8",
        "172.32.0.1",
        "100.63.0.1",
        "100.128.0.1",
        "198.20.0.1",
        "2001:db8::1",
        "2606:4700::1111",
        "::ffff:192.0.2.1",
        "64:ff9b::8.8.8.8",
        "2002:808:808::1",
    ];

    #[test]
    fn who_may_be_reached() {
        let check = |texts: &[&str], expect: [bool; 3]| {
            for text in texts {
                let ip: IpAddr = text.parse().unwrap();
                let found =
                    [Reachable::Public, Reachable::PublicAndLoopback, Reachable::All].map(|whose| whose.allows(ip));
                assert_eq!(found, expect, "{text}");
            }
        };
        check(PRIVATE, [false, false, true]);
        check(LOOPBACK, [false, true, true]);
        check(PUBLIC, [true, true, true]);
    }
}
