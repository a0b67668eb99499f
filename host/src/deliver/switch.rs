//! The courier that can be exchanged while mail goes out: another set of routes, the same queue.

use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;
use mail::{Domain, Outcome};

use super::SmtpCourier;
use crate::queue::{Courier, Session, Site};

/// Sends by whichever courier is the present one. Sessions that are open go on with theirs.
pub struct Switch {
    present: RwLock<Arc<SmtpCourier>>,
}

impl Switch {
    pub fn new(courier: SmtpCourier) -> Switch {
        Switch { present: RwLock::new(Arc::new(courier)) }
    }

    /// From now on this one routes and connects.
    pub fn exchange(&self, courier: SmtpCourier) {
        *self.present.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(courier);
    }

    fn present(&self) -> Arc<SmtpCourier> {
        self.present.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[async_trait]
impl Courier for Switch {
    async fn route(&self, domain: &Domain) -> Result<Site, Box<Outcome>> {
        self.present().route(domain).await
    }

    fn known_route(&self, domain: &Domain) -> Option<Site> {
        self.present().known_route(domain)
    }

    async fn connect(&self, site: &Site) -> Result<Box<dyn Session>, Box<Outcome>> {
        self.present().connect(site).await
    }
}
