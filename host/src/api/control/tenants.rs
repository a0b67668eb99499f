//! Tenants: what each may, pausing and resuming.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::document::Schemas;
use super::route::{Content, TENANT, tenant_name};
use super::{Body, Call, Control, Listing, Made, Problem, Route};
use crate::DEFAULT_TENANT;
use crate::store::{Pause, Tenant, TenantTerms};

/// Longest reason of a pause, in characters.
const REASON_CHARS: usize = 200;

/// A tenant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TenantView {
    pub id: String,
    pub name: String,
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// Why it may not send now.
    pub pause: Option<Pause>,
    /// What it may, within what the host does for anybody.
    pub limits: TenantTerms,
}

impl From<Tenant> for TenantView {
    fn from(tenant: Tenant) -> TenantView {
        let Tenant { id, name, created_at, pause, terms } = tenant;
        TenantView { id, name, created_at, pause, limits: terms }
    }
}

/// A tenant to be.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewTenant {
    /// Lower-case letters, digits, `-` and `_`.
    pub name: String,
    #[serde(default)]
    pub limits: TenantTerms,
}

/// Why a tenant is to be paused.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewPause {
    /// Its senders are told.
    pub reason: String,
}

/// A tenant that is no more.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct RemovedTenant {
    pub name: String,
    pub removed: bool,
}

/// Limits that change: a field that is `null` is not limited any more, one that is absent stays.
pub struct ChangedLimits(Map<String, Value>);

impl Body for ChangedLimits {
    fn describe(schemas: &mut Schemas) -> Option<Content> {
        <TenantTerms as Body>::describe(schemas)
    }

    fn read(_: &HeaderMap, body: Bytes) -> Result<ChangedLimits, Problem> {
        let read = serde_json::from_slice(&body);
        read.map(ChangedLimits).map_err(|error| Problem::invalid(format!("write a JSON object of limits: {error}")))
    }
}

/// The routes of this family.
pub fn routes() -> Vec<Route> {
    let one = "tenants/{tenant}";
    vec![
        Route::new(Method::GET, "tenants", "All tenants; a tenant's own key is told its own", list).for_managers(),
        Route::new(Method::POST, "tenants", "Make a tenant", create),
        Route::new(Method::GET, one, "A tenant, by name or id", show).for_managers(),
        Route::new(Method::PATCH, one, "Change a tenant's limits", change),
        Route::new(Method::DELETE, one, "Remove a tenant with its keys, domains, webhooks and templates", remove)
            .asks("force", "`true`: although mail of it is queued, which goes on to its end."),
        Route::new(Method::POST, "tenants/{tenant}/pause", "Refuse what a tenant sends, with a reason", pause),
        Route::new(Method::POST, "tenants/{tenant}/resume", "Take what a tenant sends again", resume),
    ]
}

async fn list(control: Arc<Control>, call: Call) -> Result<Listing<TenantView>, Problem> {
    let all = control.tenants.tenants().await?.into_iter();
    let own = all.filter(|tenant| call.caller.may_touch(&tenant.name));
    Ok(Listing { data: own.map(TenantView::from).collect() })
}

async fn create(control: Arc<Control>, call: Call<NewTenant>) -> Result<Made<TenantView>, Problem> {
    let name = tenant_name(&call.body.name)?;
    control.tenants.add_tenant(&name, checked(call.body.limits)?, Timestamp::now()).await?;
    control.tenancy.forget(&name, false);
    Ok(Made(control.tenant_named(&name).await?.into()))
}

async fn show(control: Arc<Control>, call: Call) -> Result<TenantView, Problem> {
    Ok(control.tenant_named(call.tenant()).await?.into())
}

async fn change(control: Arc<Control>, call: Call<ChangedLimits>) -> Result<TenantView, Problem> {
    let before = control.tenant_named(call.tenant()).await?;
    let mut limits = serde_json::to_value(&before.terms).unwrap_or_default();
    merge(&mut limits, &Value::Object(call.body.0.clone()));
    let limits = serde_json::from_value(limits).map_err(|error| Problem::invalid(format!("the limits: {error}")))?;
    control.tenants.set_terms(&before.name, checked(limits)?).await?;
    control.tenancy.forget(&before.name, false);
    let name = before.name.clone();
    call.was(&TenantView::from(before));
    Ok(control.tenant_named(&name).await?.into())
}

async fn remove(control: Arc<Control>, call: Call) -> Result<RemovedTenant, Problem> {
    let name = call.tenant().to_owned();
    if name == DEFAULT_TENANT {
        return Err(Problem::invalid("the tenant `default` always exists: pause it instead"));
    }
    if control.configured.contains(&name) {
        let text = format!("the configuration names the tenant `{name}`: take [tenant.{name}] out of it first");
        return Err(Problem::new(StatusCode::CONFLICT, "configured", text));
    }
    let queued = control.tenants.queued_of(&name).await?;
    if queued > 0 && call.asked("force") != Some("true") {
        let text = format!("{queued} recipients of tenant `{name}` are still queued: wait, or force it");
        return Err(Problem::new(StatusCode::CONFLICT, "queued", text));
    }
    call.was(&TenantView::from(control.tenant_named(&name).await?));
    for webhook in control.webhooks.webhooks(&name).await? {
        control.webhooks.remove_webhook(&name, &webhook.id).await?;
    }
    control.tenants.remove_tenant(&name).await?;
    control.registry.forget(&name).await?;
    control.tenancy.forget(&name, true);
    Ok(RemovedTenant { name, removed: true })
}

async fn pause(control: Arc<Control>, call: Call<NewPause>) -> Result<TenantView, Problem> {
    let reason = call.body.reason.trim();
    if reason.is_empty() || reason.chars().count() > REASON_CHARS || reason.chars().any(char::is_control) {
        let text = format!("`reason`: say why, in at most {REASON_CHARS} characters on one line");
        return Err(Problem::invalid(text));
    }
    let pause = Pause { reason: reason.to_owned(), at: Timestamp::now() };
    control.set_pause(&call, Some(pause)).await
}

async fn resume(control: Arc<Control>, call: Call) -> Result<TenantView, Problem> {
    control.set_pause(&call, None).await
}

impl Control {
    /// A tenant by name or id.
    pub(super) async fn tenant_named(&self, named: &str) -> Result<Tenant, Problem> {
        let found = self.tenants.tenant(named).await?;
        found.ok_or_else(|| super::route::no_tenant(named))
    }

    async fn set_pause<B>(&self, call: &Call<B>, pause: Option<Pause>) -> Result<TenantView, Problem> {
        let before = self.tenant_named(call.tenant()).await?;
        self.tenants.set_pause(&before.name, pause).await?;
        self.tenancy.forget(&before.name, false);
        let name = before.name.clone();
        call.was(&TenantView::from(before));
        Ok(self.tenant_named(&name).await?.into())
    }
}

/// RFC 7396, as far as JSON objects go.
fn merge(into: &mut Value, from: &Value) {
    let (Value::Object(into), Value::Object(from)) = (&mut *into, from) else {
        *into = from.clone();
        return;
    };
    for (name, value) in from {
        match value {
            Value::Null => drop(into.remove(name)),
            Value::Object(_) => merge(into.entry(name.clone()).or_insert_with(|| Value::Object(Map::new())), value),
            _ => drop(into.insert(name.clone(), value.clone())),
        }
    }
}

/// Limits that let something through.
fn checked(limits: TenantTerms) -> Result<TenantTerms, Problem> {
    let quotas = &limits.quotas;
    let zero = [
        ("message_bytes", limits.message_bytes == Some(0)),
        ("recipients", limits.recipients == Some(0)),
        ("calls_at_once", limits.calls_at_once == Some(0)),
        ("quotas.second", quotas.second == Some(0)),
        ("quotas.hour", quotas.hour == Some(0)),
        ("quotas.day", quotas.day == Some(0)),
        ("quotas.month", quotas.month == Some(0)),
    ];
    match zero.iter().find(|(_, is_zero)| *is_zero) {
        Some((name, _)) => {
            let text = format!("`{name}` is 0, which lets nothing through: leave it out, or pause the {TENANT}");
            Err(Problem::invalid(text))
        }
        None => Ok(limits),
    }
}

#[cfg(test)]
#[path = "tenants_tests.rs"]
mod tests;
