//! Whom a tenant's stage may reach by HTTP: the hosts that the operator named, through the guarded client, nobody else.

use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use http::uri::Authority;

use crate::store::StageSettings;
use crate::web::{Limits, Web};

/// Of one request of a stage; its call ends earlier where its own time does.
pub const REQUEST_LIMITS: Limits = Limits { time: Duration::from_secs(30), body_bytes: 1 << 20 };

/// Hosts of one stage.
pub const HOSTS: usize = 32;

/// The ways out that grants are given of.
#[derive(Clone, Default)]
pub struct Ways {
    /// Reaches what anybody may reach.
    pub public: Option<Arc<Web>>,
    /// Reaches this machine and private networks too.
    pub private: Option<Arc<Web>>,
}

impl std::fmt::Debug for Ways {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ways").finish_non_exhaustive()
    }
}

/// What one stage of a tenant may reach.
pub struct Grants {
    hosts: Vec<Authority>,
    pub web: Arc<Web>,
}

impl Grants {
    /// `None` where nothing is granted. What is no host is left out: settings are checked before they are stored.
    pub fn new(settings: &StageSettings, ways: &Ways) -> Option<Grants> {
        let hosts: Vec<Authority> = settings.http_hosts.iter().filter_map(|text| host(text).ok()).collect();
        let web = if settings.private_hosts { &ways.private } else { &ways.public };
        match hosts.is_empty() {
            true => None,
            false => Some(Grants { hosts, web: web.clone()? }),
        }
    }

    /// Whether a request may go there. A grant without a port is for 443 by https and 80 by http.
    pub fn allow(&self, target: &Uri) -> bool {
        let usual = match target.scheme_str() {
            Some("https") => 443,
            Some("http") => 80,
            _ => return false,
        };
        let Some(name) = target.host() else { return false };
        let port = target.port_u16().unwrap_or(usual);
        self.hosts.iter().any(|host| host.host().eq_ignore_ascii_case(name) && port == host.port_u16().unwrap_or(usual))
    }
}

/// Reads a granted host: `keys.example.com`, `keys.example.com:8443`, `[2001:db8::1]:8443`.
///
/// The error says what to write instead.
pub fn host(text: &str) -> Result<Authority, String> {
    let wrong = || format!("`{}` is no host: write a name such as keys.example.com, or name:port", text.escape_debug());
    let authority: Authority = text.parse().map_err(|_| wrong())?;
    let is_host = !authority.host().is_empty() && !text.contains(['@', '*']);
    let port_is_good = authority.port().is_none() == (authority.host().len() == text.len())
        && authority.port_u16().is_none_or(|port| port > 0);
    if is_host && port_is_good { Ok(authority) } else { Err(wrong()) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        let check = |text: &str, expect: bool| assert_eq!(host(text).is_ok(), expect, "{text}");
        check("keys.example.com", true);
        check("keys.example.com:8443", true);
        check("127.0.0.1:80", true);
        check("[::1]:80", true);
        check("*.example.com", false);
        check("user@example.com", false);
        check("https://example.com", false);
        check("example.com/path", false);
        check("example.com:", false);
        check("example.com:0", false);
        check("example.com:99999", false);
        check("", false);
        check("exa mple.com", false);
    }

    #[test]
    fn only_named_hosts_and_ports() {
        let web = Arc::new(Web::new(&crate::config::Dns::default(), crate::web::address::Reachable::Public).unwrap());
        let http_hosts = vec!["Keys.example.com".to_owned(), "other.test:8443".to_owned()];
        let settings = StageSettings { http_hosts, ..StageSettings::default() };
        let ways = Ways { public: Some(web), private: None };
        let grants = Grants::new(&settings, &ways).unwrap();
        let check = |target: &str, expect: bool| assert_eq!(grants.allow(&target.parse().unwrap()), expect, "{target}");
        check("https://keys.example.com/sign", true);
        check("http://keys.example.com/sign", true);
        check("https://KEYS.example.com:443/", true);
        check("https://keys.example.com:8443/", false);
        check("https://evil.keys.example.com/", false);
        check("https://keys.example.com.evil.test/", false);
        check("https://other.test:8443/", true);
        check("https://other.test/", false);
        check("ftp://keys.example.com/", false);
        check("/sign", false);
        assert!(Grants::new(&StageSettings::default(), &ways).is_none());
        let private = StageSettings { private_hosts: true, ..settings };
        assert!(Grants::new(&private, &ways).is_none(), "there is no such way here");
    }
}
