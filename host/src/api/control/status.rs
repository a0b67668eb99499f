//! What the host says of itself and of its mail: `status`, `events`, and the document of this API.

use std::net::SocketAddr;
use std::sync::Arc;

use http::Method;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::vitals::Vitals;
use super::{Call, Control, Passed, Problem, ROUTES, Route, document};
use crate::api::events;

/// What the host says of itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Status {
    pub version: String,
    pub hostname: String,
    /// Absent where no host runs and a command reads the store itself.
    pub uptime_s: Option<u64>,
    /// Recipients not done with yet.
    pub queued: u64,
    #[schema(value_type = Vec<String>)]
    pub http: Vec<SocketAddr>,
    #[schema(value_type = Vec<String>)]
    pub smtp: Vec<SocketAddr>,
    /// How a running host does.
    #[serde(default)]
    pub vitals: Option<Vitals>,
}

/// The routes of this family.
pub fn routes() -> Vec<Route> {
    vec![
        Route::new(Method::GET, "status", "What the host says of itself", status),
        Route::new(Method::GET, "events", "What happened to a tenant's messages, as the sending API shows it", list)
            .of_tenant()
            .asks("type", "Only events of this kind; may stand several times.")
            .asks("email_id", "Only events of this message.")
            .asks("from", "Not before this time.")
            .asks("to", "Before this time.")
            .asks("order", "`newest` (as it is without) or `oldest` first.")
            .asks("after", "Goes on behind the event with this id.")
            .asks("limit", "At most so many, up to 100.")
            .for_managers(),
        Route::new(Method::GET, "openapi.json", "This document", openapi).for_managers(),
    ]
}

async fn status(control: Arc<Control>, _: Call) -> Result<Status, Problem> {
    Ok(Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        hostname: control.hostname.to_string(),
        uptime_s: control.started.map(|started| started.elapsed().as_secs()),
        queued: control.store.queued().await?,
        http: control.http.clone(),
        smtp: control.smtp.clone(),
        vitals: control.live.as_ref().map(|live| live.vitals()),
    })
}

async fn list(control: Arc<Control>, call: Call) -> Result<Passed, Problem> {
    Ok(Passed(events::list(&*control.webhooks, call.tenant(), &call.query).await))
}

async fn openapi(_: Arc<Control>, _: Call) -> Result<Value, Problem> {
    serde_json::to_value(document::document(&ROUTES))
        .map_err(|error| Problem::invalid(format!("the document cannot be written: {error}")))
}
