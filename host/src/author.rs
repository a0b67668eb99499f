//! Who a message may say it is from: nobody but its tenant. One rule for every road into `accept`, asked of the bytes
//! that are stored, since a stage may have changed them.

use mail::Domain;
use mail::message::{self, AuthorError};
use thiserror::Error;

use crate::keyring::Keyring;
use crate::store::StoreError;

/// Why a tenant may not send a message as it stands.
#[derive(Debug, Error)]
pub enum AuthorFault {
    #[error("who the message is from cannot be told: {0}")]
    Unreadable(#[from] AuthorError),
    #[error("the {field} domain {domain} is not registered")]
    Unregistered { field: &'static str, domain: Domain },
    #[error("the domains could not be looked up: {0}")]
    Store(#[from] StoreError),
}

/// Checks that the domain of every mailbox in From, and of the one in Sender where there is such a field, is registered
/// for the tenant or below one that is.
pub async fn check(keyring: &Keyring, tenant: &str, message: &[u8]) -> Result<(), AuthorFault> {
    for (field, domain) in message::author_domains(message)? {
        if keyring.covering(tenant, &domain).await?.is_none() {
            return Err(AuthorFault::Unregistered { field, domain });
        }
    }
    Ok(())
}
