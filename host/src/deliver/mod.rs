//! Delivery over SMTP: the courier that connects along a plan and hands messages over.
//!
//! On the road it stands behind `queue` and `route`, at the very end. It owns sockets, deadlines and TLS; what is said
//! is decided in `smtp::client`. Invariants: every wait has a deadline; a session that lost step is dropped; whatever
//! happens is an `Outcome`. RFC 5321 s5.1 (order of hosts), RFC 3207 and RFC 7435 (opportunistic TLS), RFC 8305
//! (both kinds of addresses).

mod connection;
mod dialer;
mod race;
mod reach;
mod session;
pub mod switch;
mod tls;
mod trouble;

use std::sync::Arc;

use async_trait::async_trait;
use mail::{Domain, Outcome};
use rustls::RootCertStore;
use thiserror::Error;

use self::dialer::Dialer;
use self::session::SmtpSession;
use crate::config::{Config, TlsPolicy};
use crate::queue::{Courier, Session, Site};
use crate::route::Router;
use crate::route::resolver::{DnsResolver, Resolver, ResolverError};

/// The courier could not be set up.
#[derive(Debug, Error)]
pub enum CourierError {
    #[error(transparent)]
    Resolver(#[from] ResolverError),
    #[error("TLS for deliveries cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
    #[error("a route has `tls = \"verify\"`, but the system has no root certificates; install them (ca-certificates)")]
    NoRoots,
}

/// Delivers over SMTP.
pub struct SmtpCourier {
    router: Router,
    dialer: Arc<Dialer>,
}

impl SmtpCourier {
    /// With the name servers of the configuration or the system, and the system's root certificates.
    pub fn new(config: &Config) -> Result<SmtpCourier, CourierError> {
        let resolver = Arc::new(DnsResolver::new(&config.dns)?);
        let mut roots = RootCertStore::empty();
        if config.routes.iter().any(|route| route.tls == TlsPolicy::Verify) {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                return Err(CourierError::NoRoots);
            }
        }
        SmtpCourier::with(config, resolver, roots)
    }

    /// With a resolver and root certificates of the caller's choice.
    pub fn with(
        config: &Config,
        resolver: Arc<dyn Resolver>,
        roots: RootCertStore,
    ) -> Result<SmtpCourier, CourierError> {
        let dialer = Dialer::new(config, Arc::clone(&resolver), roots)?;
        Ok(SmtpCourier { router: Router::new(config, resolver), dialer: Arc::new(dialer) })
    }
}

#[async_trait]
impl Courier for SmtpCourier {
    async fn route(&self, domain: &Domain) -> Result<Site, Box<Outcome>> {
        self.router.route(domain).await
    }

    fn known_route(&self, domain: &Domain) -> Option<Site> {
        self.router.known_route(domain)
    }

    async fn connect(&self, site: &Site) -> Result<Box<dyn Session>, Box<Outcome>> {
        let dialed = self.dialer.connect(&site.plan).await?;
        Ok(Box::new(SmtpSession::new(dialed, Arc::clone(&self.dialer), Arc::clone(&site.plan))))
    }
}
