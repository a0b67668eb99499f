//! Who a message may say it is from: nobody but its tenant. One rule for every road into `accept`, asked of the bytes
//! that are stored, since a stage may have changed them.

use mail::Domain;
use mail::message::{self, AuthorError};
use thiserror::Error;

use crate::keyring::{Keyring, key_name};
use crate::published::RecordStatus;
use crate::store::{KeyState, SendingDomain, StoreError};

/// Why a tenant may not send a message as it stands.
#[derive(Debug, Error)]
pub enum AuthorFault {
    #[error("who the message is from cannot be told: {0}")]
    Unreadable(#[from] AuthorError),
    #[error("the {field} domain {domain} is not registered")]
    Unregistered { field: &'static str, domain: Domain },
    /// Added by its tenant, and not proved yet; `record` is the name of a TXT record that is still to be published.
    #[error("the {field} domain {domain} is not verified: publish the TXT record {record} and have it verified")]
    Unproved { field: &'static str, domain: Domain, record: String },
    #[error("the domains could not be looked up: {0}")]
    Store(#[from] StoreError),
}

/// Checks that the domain of every mailbox in From, and of the one in Sender where there is such a field, is registered
/// for the tenant or below one that is.
pub async fn check(keyring: &Keyring, tenant: &str, message: &[u8]) -> Result<(), AuthorFault> {
    for (field, domain) in message::author_domains(message)? {
        if keyring.covering(tenant, &domain).await?.is_none() {
            let Some(unproved) = keyring.unproved(tenant, &domain).await? else {
                return Err(AuthorFault::Unregistered { field, domain });
            };
            return Err(AuthorFault::Unproved { field, record: missing_record(&unproved), domain: unproved.domain });
        }
    }
    Ok(())
}

/// The first of a domain's DKIM records that nobody has seen as it should be.
fn missing_record(domain: &SendingDomain) -> String {
    let is_seen = |name: &String| {
        let found = domain.verification.iter().flat_map(|found| &found.records);
        found.filter(|verdict| verdict.status == RecordStatus::Verified).any(|verdict| verdict.name == *name)
    };
    let signs = domain.keys.iter().filter(|key| key.state == KeyState::Active);
    let mut names = signs.map(|key| key_name(&key.selector, &domain.domain));
    let first = names.clone().next().unwrap_or_default();
    names.find(|name| !is_seen(name)).unwrap_or(first)
}
