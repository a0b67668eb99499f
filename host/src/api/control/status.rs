//! What the host says of itself and of its mail: `status`, `queue`, `events`, and the document of this API.

use std::net::SocketAddr;
use std::sync::Arc;

use http::Method;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::{Call, Control, Passed, Problem, ROUTES, Route, document};
use crate::api::events;

/// Messages that `GET queue` looks through, newest first, and the most it shows.
const QUEUE_LOOK: usize = 1000;
const QUEUE_SHOW: usize = 100;

/// What the host says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
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
}

/// The depth of the queue, and the newest messages of a tenant that are not done with.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct QueueView {
    /// Recipients of all tenants; absent for whom only one is shown.
    pub queued: Option<u64>,
    pub messages: Vec<QueuedMessage>,
}

/// A message that is not done with.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct QueuedMessage {
    pub id: String,
    pub sender: Option<String>,
    /// Those not done with.
    pub recipients: usize,
    pub size_bytes: u64,
    #[schema(value_type = String, format = DateTime)]
    pub accepted_at: Timestamp,
    pub last_event: Option<String>,
}

/// The routes of this family.
pub fn routes() -> Vec<Route> {
    vec![
        Route::new(Method::GET, "status", "What the host says of itself", status),
        Route::new(Method::GET, "queue", "The newest messages of a tenant that are not done with", queue)
            .of_tenant()
            .for_managers(),
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
    })
}

async fn queue(control: Arc<Control>, call: Call) -> Result<QueueView, Problem> {
    let queued = match call.caller.is_operator() {
        true => Some(control.store.queued().await?),
        false => None,
    };
    let page = control.store.messages(call.tenant(), None, QUEUE_LOOK).await?;
    let waiting = page.items.into_iter().filter(|message| message.waiting > 0);
    let messages = waiting.take(QUEUE_SHOW).map(|message| QueuedMessage {
        id: message.id.to_string(),
        sender: message.sender.map(|sender| sender.to_string()),
        recipients: message.waiting,
        size_bytes: message.size_bytes,
        accepted_at: message.accepted_at,
        last_event: message.last_event,
    });
    Ok(QueueView { queued, messages: messages.collect() })
}

async fn list(control: Arc<Control>, call: Call) -> Result<Passed, Problem> {
    Ok(Passed(events::list(&*control.webhooks, call.tenant(), &call.query).await))
}

async fn openapi(_: Arc<Control>, _: Call) -> Result<Value, Problem> {
    serde_json::to_value(document::document(&ROUTES))
        .map_err(|error| Problem::invalid(format!("the document cannot be written: {error}")))
}
