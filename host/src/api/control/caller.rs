//! Who calls the control API: an operator, or a tenant with a key of its own that may manage.

use std::net::IpAddr;

use http::{HeaderMap, StatusCode};

use super::Control;
use super::problem::Problem;
use crate::api::credential;
use crate::api_key::{self, OPERATOR_KEY};
use crate::store::{ApiKey, Scope};

/// The way a call came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Through the socket in the data folder, or from a command that opened the store itself: whoever may is an operator.
    Folder,
    /// Over the network: with a key.
    Network(Option<IpAddr>),
}

/// Who calls.
#[derive(Clone, Debug)]
pub enum Caller {
    /// With the id of its operator key; `None` without one, through the data folder.
    Operator(Option<String>),
    /// A tenant's key, for that tenant alone.
    Manager(ApiKey),
}

impl Caller {
    /// Whether it may do everything.
    pub fn is_operator(&self) -> bool {
        matches!(self, Caller::Operator(_))
    }

    /// The only tenant it may touch.
    pub fn tenant(&self) -> Option<&str> {
        match self {
            Caller::Operator(_) => None,
            Caller::Manager(key) => Some(&key.tenant),
        }
    }

    /// Whether a tenant is this caller's to touch.
    pub fn may_touch(&self, tenant: &str) -> bool {
        self.tenant().is_none_or(|own| own == tenant)
    }
}

impl Control {
    /// Who a request is from.
    pub(super) async fn caller(&self, entry: Entry, headers: &HeaderMap) -> Result<Caller, Problem> {
        match entry {
            Entry::Folder => Ok(Caller::Operator(None)),
            Entry::Network(peer) => {
                let caller = self.admit(headers).await?;
                if let Some(tenant) = caller.tenant()
                    && !self.tenancy.of(tenant).await?.is_from(peer)
                {
                    let text = "the API key is not good from here: its account allows other networks only";
                    return Err(Problem::new(StatusCode::FORBIDDEN, "invalid_access", text));
                }
                Ok(caller)
            }
        }
    }

    /// Who calls over the network, by the key alone. `unauthorized` without a key that is good here.
    pub async fn admit(&self, headers: &HeaderMap) -> Result<Caller, Problem> {
        let Some(key) = credential::bearer(headers) else {
            return Err(Problem::unknown_caller(
                "the key is missing: send `Authorization: Bearer KEY` with an operator key (`posthaste key create --operator`) \
                 or an API key",
            ));
        };
        let found = match key.starts_with(OPERATOR_KEY) {
            true if self.development_operator == Some(api_key::hash(key)) => Some(Caller::Operator(None)),
            true => {
                let found = self.operators.operator_key(api_key::hash(key)).await?;
                found.map(|key| Caller::Operator(Some(key.id)))
            }
            false => {
                let found = credential::find(&*self.directory, key).await?;
                if found.as_ref().is_some_and(|key| !key.scopes.has(Scope::Manage)) {
                    let text = "the API key lacks the scope `manage`: use one that has it";
                    return Err(Problem::new(StatusCode::FORBIDDEN, "restricted_api_key", text));
                }
                found.map(Caller::Manager)
            }
        };
        found.ok_or_else(|| Problem::unknown_caller("the key is not valid"))
    }
}
