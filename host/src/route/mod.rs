//! Where mail for a domain goes: `[[route]]` rules, MX lookup, TLS policy.

use std::net::IpAddr;

use crate::config::{RelayAuth, TlsPolicy};

/// How to reach a site: hosts in the order to be tried, with the policy for all of them.
#[derive(Clone, Debug)]
pub struct Plan {
    pub hosts: Vec<Host>,
    pub port: u16,
    pub tls: TlsPolicy,
    pub auth: Option<RelayAuth>,
}

impl PartialEq for Plan {
    fn eq(&self, other: &Plan) -> bool {
        self.hosts == other.hosts && self.port == other.port && self.tls == other.tls
    }
}

impl Eq for Plan {}

/// One mail host. Equal preferences stand in random order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    pub name: String,
    pub preference: u16,
    /// Looked up already where the answer brought them; else looked up at connect.
    pub addresses: Vec<IpAddr>,
}
