//! Which `[[route]]` a domain falls under.

use mail::Domain;

use crate::config::{Route, RouteDomain};

/// The first rule that fits, with its number; `None`: MX with opportunistic TLS.
pub fn choose<'a>(routes: &'a [Route], domain: &Domain) -> Option<(usize, &'a Route)> {
    routes.iter().enumerate().find(|(_, route)| fits(&route.domain, domain))
}

/// Whether a rule is for a domain.
pub fn fits(rule: &RouteDomain, domain: &Domain) -> bool {
    match rule {
        RouteDomain::Any => true,
        RouteDomain::Exact(exact) => exact == domain,
        RouteDomain::Below(above) => {
            domain.as_str().strip_suffix(above.as_str()).is_some_and(|front| front.len() > 1 && front.ends_with('.'))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::config::{NextHop, TlsPolicy};

    fn rules(names: &[&str]) -> Vec<Route> {
        names
            .iter()
            .map(|name| Route {
                domain: match name.strip_prefix("*.") {
                    _ if *name == "*" => RouteDomain::Any,
                    Some(above) => RouteDomain::Below(Domain::parse(above).unwrap()),
                    None => RouteDomain::Exact(Domain::parse(name).unwrap()),
                },
                next_hop: NextHop::Mx { port: None },
                tls: TlsPolicy::Off,
                sources: Vec::new(),
                retry_delays: None,
                expire_after: None,
            })
            .collect()
    }

    #[track_caller]
    fn check(names: &[&str], domain: &str, expect: Option<usize>) {
        let domain = Domain::parse(domain).unwrap();
        assert_eq!(choose(&rules(names), &domain).map(|(number, _)| number), expect, "{domain} in {names:?}");
    }

    #[test]
    fn first_rule_that_fits() {
        check(&[], "a.test", None);
        check(&["b.test"], "a.test", None);
        check(&["a.test"], "a.test", Some(0));
        check(&["a.test"], "A.TEST", Some(0));
        check(&["a.test"], "x.a.test", None);
        check(&["*.a.test"], "x.a.test", Some(0));
        check(&["*.a.test"], "y.x.a.test", Some(0));
        check(&["*.a.test"], "a.test", None);
        check(&["*.a.test"], "ba.test", None);
        check(&["*"], "a.test", Some(0));
        check(&["*"], "[192.0.2.1]", Some(0));
        check(&["b.test", "*.a.test", "*"], "x.a.test", Some(1));
        check(&["*", "a.test"], "a.test", Some(0));
    }
}
