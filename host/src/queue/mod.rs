//! The queue: leases what is due, sorts it by site, hands it to connections, and completes it with outcomes.
//!
//! Bodies stay on disk; memory holds only what is due, bounded. A task per connection, never per message. The network
//! is behind `Courier`, with two implementations: SMTP (`deliver`) and the development host's capture (`inbox`).
//!
//! The road: `scheduler` leases what is due; `lookups` keeps what waits until its domain's site is found; `sites` keeps what waits for each and says
//! how many connections to open; `connection` takes from there and sends; `policy` says what follows from an outcome, and
//! `advice` what the peer's words add to that;
//! `turns` says whose mail is next at a site, `starved` which site gets the next connection; `bodies` bounds what is in
//! memory of what is sent;
//! `completing` tells the store, in batches, and then the log. Whatever ends a task early, its recipients go back to
//! the store as released: each leased recipient is completed exactly once.

pub mod advice;
mod bodies;
mod completing;
mod connection;
mod lookups;
mod pace;
pub mod policy;
mod scheduler;
mod sites;
mod starved;
mod turns;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use mail::dsn::HandedOn;
use mail::{Address, Domain, Outcome, ReversePath};

/// Where mail for a domain goes. All domains with the same key share connections and limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// The same for the same set of MX hosts, port, policy and credentials.
    pub key: Arc<str>,
    pub plan: Arc<crate::route::Plan>,
}

impl Site {
    /// Whether a message for this site leaves from the source of this name, as things are.
    pub fn leaves_from(&self, source: &str, message: uuid::Uuid) -> bool {
        let own = self.plan.egress.as_ref();
        own.is_some_and(|own| own.source_of(message, tokio::time::Instant::now()).name == source)
    }

    /// The same site from the source that a message falls to, where sources share the mail.
    pub fn for_message(self, message: uuid::Uuid) -> Site {
        let Some(own) = &self.plan.egress else { return self };
        let Some(chosen) = own.share_of(message, tokio::time::Instant::now()) else { return self };
        if chosen.source == own.source {
            return self;
        }
        let key = self.key.strip_suffix(own.source.name.as_str()).unwrap_or(&self.key);
        let key = format!("{key}{}", chosen.source.name);
        let plan = crate::route::Plan { egress: Some(chosen), ..(*self.plan).clone() };
        Site { key: key.into(), plan: Arc::new(plan) }
    }
}

/// One transaction on a connection: one message for one or more recipients.
#[derive(Clone, Debug)]
pub struct Transaction {
    pub message: uuid::Uuid,
    pub sender: ReversePath,
    pub recipients: Vec<Address>,
    pub body: Bytes,
    /// What is asked of the peer besides, where it takes that (RFC 3461); `None`: nothing.
    pub request: Option<HandedOn>,
}

/// The seam between queue and network.
#[async_trait]
pub trait Courier: Send + Sync + 'static {
    /// Where mail for a domain goes; the outcome for every recipient there where that cannot be found.
    async fn route(&self, domain: &Domain) -> Result<Site, Box<Outcome>>;

    /// The same where it is known without asking anybody; such mail never waits for a lookup.
    fn known_route(&self, _domain: &Domain) -> Option<Site> {
        None
    }

    /// Opens a session: tries the site's hosts in order until one greets. The outcome is for every message waiting for the site.
    async fn connect(&self, site: &Site) -> Result<Box<dyn Session>, Box<Outcome>>;
}

/// An open session with a peer.
#[async_trait]
pub trait Session: Send {
    /// Sends one message; the outcomes stand in the order of the recipients, one each. Never fails otherwise.
    async fn send(&mut self, transaction: &Transaction) -> Vec<Outcome>;

    /// Whether the peer that the last message went to for its recipient at this place takes requests for reports, and so
    /// the duty to send them (RFC 3461 s5.2). Not the same for all where it took more than one connection.
    fn handed_on(&self, _place: usize) -> bool {
        false
    }

    /// Whether it can take another message.
    fn is_open(&self) -> bool;

    /// Says QUIT and closes.
    async fn close(self: Box<Self>);
}

pub use completing::DAMAGED;
pub use scheduler::{Finder, Queue, Tuning};
