//! What is known of a domain's DNS records, and whether its tenant may send from it.

use async_trait::async_trait;
use jiff::Timestamp;
use mail::Domain;
use rusqlite::{Connection, params};
use serde::{Deserialize, Serialize};

use super::embedded::Embedded;
use super::reading::tenant_key;
use super::writer::Job;
use super::{SendingDomain, StoreError};
use crate::published;

/// How the records of a domain are that mail cannot be verified without.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DomainStatus {
    /// Nobody has looked yet.
    NotStarted,
    /// Some are not there.
    Pending,
    Verified,
    /// Some are there and wrong.
    Failed,
}

/// What the last look at a domain's records found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verification {
    pub status: DomainStatus,
    pub checked_at: Timestamp,
    pub records: Vec<published::Verdict>,
}

impl SendingDomain {
    pub fn status(&self) -> DomainStatus {
        self.verification.as_ref().map_or(DomainStatus::NotStarted, |found| found.status)
    }

    /// Whether its tenant may send from it: what the operator added, and what was proved.
    pub fn may_send(&self) -> bool {
        !self.needs_proof || self.status() == DomainStatus::Verified
    }
}

/// Keeps what was found.
#[async_trait]
pub trait Verifications: Send + Sync + 'static {
    /// `NotFound` where the tenant does not have the domain (any more).
    async fn keep_verification(&self, tenant: &str, domain: &Domain, found: Verification) -> Result<(), StoreError>;
}

#[async_trait]
impl Verifications for Embedded {
    async fn keep_verification(&self, tenant: &str, domain: &Domain, found: Verification) -> Result<(), StoreError> {
        let (tenant, domain) = (tenant.to_owned(), domain.clone());
        let json = serde_json::to_string(&found)
            .map_err(|error| StoreError::Io(format!("a verification cannot be stored: {error}")))?;
        let change = Box::new(move |connection: &Connection, _: &mut _| {
            let changed = match tenant_key(connection, &tenant)? {
                Some(owner) => connection
                    .prepare_cached("UPDATE domain SET verification = ?3 WHERE tenant = ?1 AND name = ?2")?
                    .execute(params![owner, domain.as_str(), json])?,
                None => 0,
            };
            if changed == 0 { Err(StoreError::NotFound(format!("domain {domain}"))) } else { Ok(()) }
        });
        self.ask(|answer| Job::Change { change, answer }).await?
    }
}

/// Reads the column; what cannot be read counts as never looked at.
pub(super) fn read(json: Option<String>) -> Option<Verification> {
    json.and_then(|json| serde_json::from_str(&json).ok())
}
