//! What is known of a domain's DNS records, and whether its tenant may send from it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::SendingDomain;
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
    /// Since when some record that mail cannot be verified without is missing or wrong, whichever it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost_since: Option<Timestamp>,
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

/// Reads the column; what cannot be read counts as never looked at.
pub(super) fn read(json: Option<String>) -> Option<Verification> {
    json.and_then(|json| serde_json::from_str(&json).ok())
}
