//! The control API for people: keys, domains, tenants, queue, status, under `/control/v1/`.
//!
//! One code path for three callers: the socket in the data folder, `[admin] listen`, and commands that open the store
//! themselves because no host runs. Over the network a call needs an operator key, or a tenant's API key, which reaches
//! its own tenant alone. Answers are JSON; errors are `{"name", "message"}`; the OpenAPI document is `GET openapi.json`.
//!
//! A family of routes is a file below, with a function `routes` whose entries (`Route::new`) name method, path, summary
//! and the work, an `async fn(Arc<Control>, Call<Body>) -> Result<Answer, Problem>`; and a line in `FAMILIES`. What the work
//! takes and answers (`Deserialize`, `Serialize`, `ToSchema`) is read, written and described by `route`; so are
//! permission, parameters and the tenant. A place `{tenant}` and a parameter `tenant` reach the work as `Call::tenant`,
//! known to be the caller's to touch; what is found by another name is asked of `Call::check`.

pub mod audit;
mod caller;
pub mod components;
mod document;
pub mod domains;
pub mod edges;
pub mod keys;
pub mod master_key;
pub mod operators;
mod problem;
pub mod queue;
mod route;
pub mod status;
pub mod tenants;
pub mod vitals;

use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use mail::Domain;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use caller::{Caller, Entry};
pub use problem::Problem;
pub use route::{Body, Call, File, Made, Nothing, Passed, Route};

use crate::domains::Domains;
use crate::edge::Registry;
use crate::keyring::Keyring;
use crate::store::{Directory, Edges, Operators, Store, TenantId, Tenants, Vault, Webhooks};
use crate::tenancy::Tenancy;
use route::Places;
use vitals::Live;

/// Where all routes of this API begin.
pub const PREFIX: &str = "/control/v1/";

/// Where Prometheus looks. With an operator key, as the rest.
pub const METRICS_PATH: &str = "/metrics";

/// All routes, a family a line.
const FAMILIES: &[fn() -> Vec<Route>] = &[
    status::routes,
    queue::routes,
    tenants::routes,
    keys::routes,
    operators::routes,
    domains::routes,
    edges::routes,
    vitals::routes,
    audit::routes,
    components::routes,
    master_key::routes,
];

/// What the table has: matching, permission and the document come from it.
pub(crate) static ROUTES: LazyLock<Vec<Route>> =
    LazyLock::new(|| FAMILIES.iter().flat_map(|family| family()).collect());

/// What a list route answers.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Listing<T> {
    pub data: Vec<T>,
}

/// Something with an id that is no more.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Revoked {
    pub id: String,
    pub revoked: bool,
}

/// The handler of the control API.
pub struct Control {
    pub store: Arc<dyn Store>,
    pub directory: Arc<dyn Directory>,
    pub operators: Arc<dyn Operators>,
    pub edges: Arc<dyn Edges>,
    pub webhooks: Arc<dyn Webhooks>,
    pub keyring: Arc<Keyring>,
    /// What is sealed.
    pub vault: Arc<dyn Vault>,
    pub registry: Arc<Registry>,
    pub domains: Arc<Domains>,
    pub hostname: Domain,
    pub tenants: Arc<dyn Tenants>,
    /// What tenants may: told of every change.
    pub tenancy: Arc<Tenancy>,
    /// Tenants named in the configuration.
    pub configured: Vec<String>,
    /// Hash of the operator key of a development host.
    pub development_operator: Option<[u8; 32]>,
    /// When the host started; `None` in a command that opened the store itself.
    pub started: Option<Instant>,
    pub http: Vec<SocketAddr>,
    pub smtp: Vec<SocketAddr>,
    /// A running host, from inside.
    pub live: Option<Arc<Live>>,
}

impl Control {
    /// Answers one request. Never fails: what goes wrong is an answer too.
    pub async fn answer(self: &Arc<Self>, request: Request<Bytes>, entry: Entry) -> Response<Bytes> {
        self.route(request, entry).await.unwrap_or_else(Problem::into_response)
    }

    async fn route(self: &Arc<Self>, request: Request<Bytes>, entry: Entry) -> Result<Response<Bytes>, Problem> {
        // Asked first: a stranger is not told what there is.
        let caller = self.caller(entry, request.headers()).await?;
        if request.uri().path() == METRICS_PATH {
            return self.metrics(&caller).await;
        }
        let (route, places) = find(request.method(), request.uri().path())?;
        route.call(self.clone(), (caller, entry), places, request).await
    }

    /// The tenant that a path names, by name or id.
    async fn tenant_at(&self, named: &str) -> Result<TenantId, Problem> {
        Ok(self.tenant_named(named).await?.name)
    }
}

/// The route of a request, and its places.
fn find(method: &Method, path: &str) -> Result<(&'static Route, Places), Problem> {
    let rest = path.strip_prefix(PREFIX).unwrap_or_default();
    let parts: Vec<String> = rest.split('/').filter(|part| !part.is_empty()).map(delivery_client::unescape).collect();
    let mut is_known = false;
    for route in ROUTES.iter() {
        let Some(places) = route.matches(&parts) else { continue };
        if route.method == *method {
            return Ok((route, places));
        }
        is_known = true;
    }
    match is_known {
        true => {
            let text = format!("{method} is not for {PREFIX}{rest}");
            Err(Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", text))
        }
        false => Err(nothing_at(rest)),
    }
}

fn nothing_at(rest: &str) -> Problem {
    let mut known: Vec<&str> = ROUTES.iter().filter_map(|route| route.template.split('/').next()).collect();
    known.dedup();
    Problem::missing(format!("there is no {PREFIX}{rest}: there are {}", known.join(", ")))
}

#[cfg(test)]
#[path = "control_tests.rs"]
mod tests;
