//! Tenants.

use std::collections::BTreeSet;
use std::sync::Arc;

use http::Method;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Call, Control, Problem, Route};
use crate::DEFAULT_TENANT;

/// The routes of this family.
pub fn routes() -> Vec<Route> {
    vec![
        Route::new(Method::GET, "tenants", "Names of all tenants; a tenant's own key is told its own", list)
            .for_managers(),
    ]
}

/// Names of tenants.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct TenantNames {
    pub data: Vec<String>,
}

async fn list(control: Arc<Control>, call: Call) -> Result<TenantNames, Problem> {
    let names = control.tenant_names().await?;
    Ok(TenantNames { data: names.into_iter().filter(|name| call.caller.may_touch(name)).collect() })
}

impl Control {
    /// All tenants there is a trace of; `default` always is one.
    pub(super) async fn tenant_names(&self) -> Result<BTreeSet<String>, Problem> {
        let mut names: BTreeSet<String> = self.tenants.iter().cloned().collect();
        names.insert(DEFAULT_TENANT.to_owned());
        names.extend(self.directory.keys(None).await?.into_iter().map(|key| key.tenant));
        names.extend(self.edges.delivery_tokens(None).await?.into_iter().filter_map(|token| token.tenant));
        names.extend(self.directory.domains(None).await?.into_iter().map(|domain| domain.tenant));
        Ok(names)
    }
}
