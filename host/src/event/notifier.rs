//! Who makes the request of an event and sends it: the built-in `notify`, or an edge's.

use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use contract::ShaperInput;
use delivery_client::wire::{DELIVERY_TOKEN_HEADER, NOTIFY_PATH, NotifyAnswer, SEAM_HEADER, SEAM_VERSION};
use http::{HeaderValue, Request, Uri, header};

use crate::edge::Edge;
use crate::web::{Limits, Web};

/// Of an edge's answer: its JSON, with the head of the endpoint's answer in it.
const ANSWER_BYTES: usize = 64 << 10;
/// An edge's `notify` has times of its own, 40 s at most: an answer that comes within them is worth the wait, because the
/// endpoint has the event then.
const EDGE_LEAST: Duration = Duration::from_secs(45);
/// How much longer an edge may take than the endpoint behind it.
const EDGE_TIME: Duration = Duration::from_secs(5);

/// Tells one event to one endpoint, once.
#[async_trait]
pub trait Notifier: Send + Sync + 'static {
    /// What came of it. Ends in time, whatever the endpoint does.
    async fn notify(&self, input: ShaperInput) -> NotifyAnswer;
}

/// Of an endpoint's answer. More than is kept, so that the connection of one that says a little more serves again.
const ENDPOINT_BYTES: usize = 16 << 10;

/// The built-in `notify`, in this process.
pub struct BuiltInNotifier {
    /// Not held: the edge's own backend sends tests of webhooks through this.
    edge: Weak<Edge>,
    web: Arc<Web>,
    limits: Limits,
}

impl BuiltInNotifier {
    /// `time` is what an endpoint may take.
    pub fn new(edge: &Arc<Edge>, web: Arc<Web>, time: Duration) -> BuiltInNotifier {
        BuiltInNotifier { edge: Arc::downgrade(edge), web, limits: Limits { time, body_bytes: ENDPOINT_BYTES } }
    }
}

#[async_trait]
impl Notifier for BuiltInNotifier {
    async fn notify(&self, input: ShaperInput) -> NotifyAnswer {
        let Some(edge) = self.edge.upgrade() else {
            return NotifyAnswer::Unavailable { cause: "the host is ending".to_owned() };
        };
        // In a task of its own: a test of a webhook is asked for from inside another instance, and the engine runs no
        // instance within one.
        let (web, limits) = (self.web.clone(), self.limits);
        let told = tokio::spawn(async move { edge.notify(&input, web, limits).await }).await;
        told.unwrap_or_else(|error| NotifyAnswer::Unavailable { cause: format!("notify was broken off: {error}") })
    }
}

/// The `notify` of an edge, at `[edge] notify_url`.
pub struct RemoteNotifier {
    web: Arc<Web>,
    url: Uri,
    token: HeaderValue,
    time: Duration,
}

impl RemoteNotifier {
    /// `base` is what `/notify` is put behind; `time` what an endpoint may take. `None` where the token fits no header field.
    pub fn new(web: Arc<Web>, base: &str, token: &str, time: Duration) -> Option<RemoteNotifier> {
        let url = format!("{}{NOTIFY_PATH}", base.trim_end_matches('/')).parse().ok()?;
        let mut token = HeaderValue::from_str(token).ok()?;
        token.set_sensitive(true);
        Some(RemoteNotifier { web, url, token, time: (time + EDGE_TIME).max(EDGE_LEAST) })
    }

    async fn ask(&self, input: &ShaperInput) -> Result<NotifyAnswer, String> {
        let body = serde_json::to_vec(input).map_err(|error| error.to_string())?;
        let request = Request::post(self.url.clone())
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::CONTENT_LENGTH, body.len())
            .header(SEAM_HEADER, SEAM_VERSION)
            .header(DELIVERY_TOKEN_HEADER, self.token.clone())
            .body(Bytes::from(body))
            .map_err(|error| error.to_string())?;
        let limits = Limits { time: self.time, body_bytes: ANSWER_BYTES };
        let response = self.web.send(request, limits).await.map_err(|error| error.to_string())?;
        read_answer(response.status(), response.body())
    }
}

/// The answer of a `notify`; the error says what else it said.
pub fn read_answer(status: http::StatusCode, body: &[u8]) -> Result<NotifyAnswer, String> {
    if status != http::StatusCode::OK {
        let text: String = String::from_utf8_lossy(body).chars().take(200).collect();
        return Err(format!("it answered {status}: {text}"));
    }
    serde_json::from_slice(body).map_err(|error| format!("its answer cannot be read: {error}"))
}

#[async_trait]
impl Notifier for RemoteNotifier {
    async fn notify(&self, input: ShaperInput) -> NotifyAnswer {
        match self.ask(&input).await {
            Ok(answer) => answer,
            Err(cause) => {
                tracing::warn!(edge = %self.url, cause, "the edge's notify did not tell an event");
                // The operator's network is nothing to tell a customer of.
                NotifyAnswer::Unavailable { cause: "the event could not be sent from here".to_owned() }
            }
        }
    }
}
