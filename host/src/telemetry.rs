//! Traces: three spans, connection, message and attempt, handed to an OpenTelemetry collector where one is configured.
//!
//! What happens to one message stands in one trace, from its acceptance to the last attempt days later: the trace's id
//! follows from the message's. Spans wait in a bounded queue and are dropped where it is full; a thread of its own sends
//! them in batches, so that no mail ever waits for a collector. Without one the spans of messages and attempts cost a
//! look at a flag.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use opentelemetry::trace::{
    SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState, TracerProvider as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracerProvider};
use thiserror::Error;
use tokio::runtime::Handle;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, filter_fn};
use tracing_subscriber::registry::LookupSpan;
use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_128;

use crate::config::Config;
use crate::web::address::Reachable;
use crate::web::{Limits, SetupError, Web};

/// Spans that wait to be sent, those sent at once, and how often.
const WAITING: usize = 4096;
const BATCH: usize = 512;
const EVERY: Duration = Duration::from_secs(2);

/// What a collector may take for a batch, and how much of its answer is read.
const COLLECTOR: Limits = Limits { time: Duration::from_secs(5), body_bytes: 64 << 10 };

/// How long the last spans may take at the end.
const FLUSH: Duration = Duration::from_secs(5);

/// The spans there are.
const SPANS: [&str; 3] = ["connection", "message", "attempt"];

/// Why no spans are sent.
#[derive(Debug, Error)]
pub enum TelemetryError {
    #[error(transparent)]
    Web(#[from] SetupError),
    #[error("[telemetry] otlp_endpoint cannot be used: {0}")]
    Exporter(String),
}

/// The way to a collector.
pub struct Telemetry {
    provider: SdkTracerProvider,
}

impl Telemetry {
    /// For a configuration that names a collector; `None` where it names none.
    pub fn new(config: &Config, runtime: Handle) -> Result<Option<Telemetry>, TelemetryError> {
        let Some(telemetry) = &config.telemetry else { return Ok(None) };
        // The operator's own, wherever it stands.
        let web = Arc::new(Web::new(&config.dns, Reachable::All)?);
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(Collector { web, runtime, is_failing: AtomicBool::new(false) })
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(&telemetry.endpoint)
            .with_headers(telemetry.headers.iter().cloned().collect::<HashMap<_, _>>())
            .with_timeout(COLLECTOR.time)
            .build()
            .map_err(|error| TelemetryError::Exporter(error.to_string()))?;
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(WAITING)
            .with_max_export_batch_size(BATCH)
            .with_scheduled_delay(EVERY)
            .build();
        let resource = Resource::builder_empty()
            .with_service_name("posthaste")
            .with_attributes([
                KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
                KeyValue::new("host.name", config.hostname.to_string()),
            ])
            .build();
        let provider = SdkTracerProvider::builder()
            .with_span_processor(BatchSpanProcessor::builder(exporter).with_batch_config(batches).build())
            .with_sampler(Sampler::TraceIdRatioBased(telemetry.sample_ratio))
            .with_resource(resource)
            .build();
        Ok(Some(Telemetry { provider }))
    }

    /// What collects our spans, for the log's subscriber.
    pub fn layer<S>(&self) -> impl Layer<S> + Send + Sync + use<S>
    where
        S: tracing::Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
    {
        let ours = filter_fn(|about| about.is_span() && SPANS.contains(&about.name()));
        tracing_opentelemetry::layer()
            .with_tracer(self.provider.tracer("posthaste"))
            .with_location(false)
            .with_threads(false)
            .with_filter(ours.with_max_level_hint(LevelFilter::DEBUG))
    }

    /// Sends what waits, within seconds. To be called outside of the runtime, which must run still.
    pub fn end(self) {
        if let Err(error) = self.provider.shutdown_with_timeout(FLUSH) {
            tracing::debug!(%error, "the last spans may be lost");
        }
    }
}

/// The span of a message that comes in.
pub fn message(id: Uuid) -> Span {
    of_message(tracing::debug_span!("message", %id), id)
}

/// The span of an attempt to deliver a message; `verdict`, `status` and `mx` are recorded when they are known.
pub fn attempt(id: Uuid, site: &str, recipients: usize) -> Span {
    let span = tracing::debug_span!(
        "attempt",
        %id,
        site,
        recipients,
        mx = tracing::field::Empty,
        code = tracing::field::Empty,
        status = tracing::field::Empty,
        verdict = tracing::field::Empty,
    );
    of_message(span, id)
}

/// Puts a span into its message's trace.
fn of_message(span: Span, id: Uuid) -> Span {
    if !span.is_disabled() {
        let trace = TraceId::from_bytes(xxh3_128(id.as_bytes()).max(1).to_be_bytes());
        // The root of the trace, which no span of ours is: it was before there was one.
        let root = SpanId::from_bytes(id.as_u64_pair().1.max(1).to_be_bytes());
        let root = SpanContext::new(trace, root, TraceFlags::SAMPLED, true, TraceState::NONE);
        // Fails where no collector is configured and somebody logs at this level.
        let _ = span.set_parent(Context::new().with_remote_span_context(root));
    }
    span
}

/// Sends batches with the host's own client, on the host's runtime.
struct Collector {
    web: Arc<Web>,
    runtime: Handle,
    is_failing: AtomicBool,
}

impl fmt::Debug for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Collector")
    }
}

#[async_trait]
impl HttpClient for Collector {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let web = self.web.clone();
        // The caller's thread has no reactor.
        let sent = self.runtime.spawn(async move { web.send(request, COLLECTOR).await });
        let answer: Result<Response<Bytes>, HttpError> = match sent.await {
            Ok(answer) => answer.map_err(HttpError::from),
            Err(error) => Err(error.into()),
        };
        let trouble = match &answer {
            Ok(response) if response.status().is_success() => None,
            Ok(response) => Some(response.status().to_string()),
            Err(error) => Some(error.to_string()),
        };
        // Once, and not for each batch that is lost.
        match (trouble, self.is_failing.load(Ordering::Relaxed)) {
            (Some(why), false) => tracing::warn!(why, "spans do not reach the collector, and are dropped"),
            (None, true) => tracing::info!("spans reach the collector again"),
            (Some(_), true) | (None, false) => {}
        }
        let is_good = answer.as_ref().is_ok_and(|response| response.status().is_success());
        self.is_failing.store(!is_good, Ordering::Relaxed);
        answer
    }
}
