//! From an MX answer to the hosts to try (RFC 5321 s5.1, RFC 7505): pure, so that every case stands in a table.

use rand::Rng;
use rand::seq::SliceRandom;

use super::Host;

/// Hosts of one site that are tried; what a domain lists beyond them is not needed and costs a stranger's domain our time.
pub const HOSTS_MAX: usize = 10;

/// One MX record as the answer has it: any case, with or without the trailing dot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mx {
    pub preference: u16,
    pub exchange: String,
}

/// What an MX answer means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gathered {
    /// By preference, equal ones by name: the same answer always gives the same list. `arrange` adds the chance.
    Hosts(Vec<Host>),
    /// No MX record: the domain's own addresses count (RFC 5321 s5.1, "implicit MX").
    Implicit,
    /// The domain says that it takes no mail (RFC 7505).
    NullMx,
    /// We are the best host listed: sending on would be a loop.
    Loop,
}

/// Sorts an MX answer; `ourselves` is our own host name, lower case.
pub fn gather(records: &[Mx], ourselves: &str) -> Gathered {
    if records.is_empty() {
        return Gathered::Implicit;
    }
    let mut hosts: Vec<Host> = records
        .iter()
        .map(|mx| Host {
            name: mx.exchange.trim_end_matches('.').to_ascii_lowercase(),
            preference: mx.preference,
            addresses: Vec::new(),
            foreign: true,
        })
        // Beside real hosts a null MX is a mistake (RFC 7505 s3): the real ones count.
        .filter(|host| !host.name.is_empty())
        .collect();
    if hosts.is_empty() {
        return Gathered::NullMx;
    }
    // Hosts no better than us would only send it back (RFC 5321 s5.1).
    let ours = hosts.iter().filter(|host| host.name == ourselves).map(|host| host.preference).min();
    if let Some(ours) = ours {
        hosts.retain(|host| host.preference < ours);
        if hosts.is_empty() {
            return Gathered::Loop;
        }
    }
    hosts.sort_by(|a, b| (a.preference, &a.name).cmp(&(b.preference, &b.name)));
    let mut names = std::collections::HashSet::new();
    hosts.retain(|host| names.insert(host.name.clone()));
    hosts.truncate(HOSTS_MAX);
    Gathered::Hosts(hosts)
}

/// The order in which one connection tries the hosts: by preference, equal ones at random (RFC 5321 s5.1 demands that,
/// to spread the load).
pub fn arrange<'a>(hosts: &'a [Host], chance: &mut impl Rng) -> Vec<&'a Host> {
    let mut order: Vec<&Host> = hosts.iter().collect();
    order.shuffle(chance);
    order.sort_by_key(|host| host.preference);
    order
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    fn host(preference: u16, name: &str) -> Host {
        Host { name: name.to_owned(), preference, addresses: Vec::new(), foreign: true }
    }

    fn gathered(records: &[(u16, &str)]) -> Gathered {
        let records: Vec<Mx> =
            records.iter().map(|&(preference, name)| Mx { preference, exchange: name.to_owned() }).collect();
        gather(&records, "relay.test")
    }

    #[track_caller]
    fn check(records: &[(u16, &str)], expect: &[(u16, &str)]) {
        let expect = expect.iter().map(|&(preference, name)| host(preference, name)).collect();
        assert_eq!(gathered(records), Gathered::Hosts(expect));
    }

    #[test]
    fn hosts() {
        check(&[(20, "b.test."), (10, "a.test.")], &[(10, "a.test"), (20, "b.test")]);
        check(&[(10, "B.Test"), (10, "a.test.")], &[(10, "a.test"), (10, "b.test")]);
        check(&[(10, "a.test."), (5, "A.test.")], &[(5, "a.test")]);
        check(&[(0, "."), (10, "a.test.")], &[(10, "a.test")]);
        check(&[(10, "a.test."), (20, "relay.test."), (20, "b.test."), (30, "c.test.")], &[(10, "a.test")]);
    }

    #[test]
    fn no_hosts() {
        assert_eq!(gathered(&[]), Gathered::Implicit);
        assert_eq!(gathered(&[(0, ".")]), Gathered::NullMx);
        assert_eq!(gathered(&[(10, ".")]), Gathered::NullMx);
        assert_eq!(gathered(&[(10, "relay.test.")]), Gathered::Loop);
        assert_eq!(gathered(&[(10, "RELAY.test."), (10, "a.test."), (20, "b.test.")]), Gathered::Loop);
    }

    #[test]
    fn bounded() {
        let many: Vec<Mx> = (0..100).map(|n| Mx { preference: n, exchange: format!("mx{n}.test.") }).rev().collect();
        let Gathered::Hosts(hosts) = gather(&many, "relay.test") else { panic!("no hosts") };
        assert_eq!(hosts.len(), HOSTS_MAX);
        assert_eq!(hosts[0].name, "mx0.test");
    }

    #[test]
    fn equal_preference_is_random_and_others_keep_their_order() {
        let hosts = [host(10, "a"), host(10, "b"), host(10, "c"), host(20, "d")];
        let mut chance = StdRng::seed_from_u64(7);
        let mut firsts = BTreeSet::new();
        for _ in 0..100 {
            let order = arrange(&hosts, &mut chance);
            assert_eq!(order.len(), 4);
            assert_eq!(order[3].name, "d");
            firsts.insert(order[0].name.clone());
        }
        assert_eq!(firsts.len(), 3);
    }
}
