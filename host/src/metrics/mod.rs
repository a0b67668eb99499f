//! What the host counts: the figures behind `/metrics` and `posthaste status`.
//!
//! One set for the process, because the process is what is watched. Counting is a few atomic additions; where counters
//! are found by name, readers do not wait for each other. Labels are bounded: strangers choose none of them, and tenants,
//! sites and components beyond a number share one.

mod process;
mod recent;
mod sites;
mod stages;
mod tenants;

use std::sync::LazyLock;
use std::time::Duration;

use mail::Verdict;
use prometheus::{Encoder as _, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge};
use prometheus::{IntGaugeVec, Opts, Registry, TextEncoder};

pub use process::resident_bytes;
pub use recent::{History, Rates};
pub use sites::{SiteFigures, SiteTally, Sites};
pub use stages::{Called, Failing, Stages};
pub use tenants::{TenantTally, Tenants, Unattempted};

/// The type of what `render` returns.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Bounds of accept latencies and stage calls, in seconds.
const SECONDS: &[f64] = &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// Bounds of what takes microseconds where all is well.
const SHORT_SECONDS: &[f64] =
    &[0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1.0, 5.0];

/// Bounds of the rows of a group.
const ROWS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0];

/// By which road a message came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Road {
    Smtp,
    Http,
}

/// Why a newcomer was turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turned {
    /// There are as many connections as there may be.
    Full,
    /// Its address has as many as it may have.
    Address,
    /// Memory or disk is short.
    Pressed,
}

/// Everything that is counted.
pub struct Metrics {
    registry: Registry,
    accept_smtp: Histogram,
    accept_http: Histogram,
    accepted: IntCounter,
    attempts: [IntCounter; 4],
    pub tenants: Tenants,
    pub sites: Sites,
    pub stages: Stages,
    pub history: History,
    connections_in: [IntGauge; 2],
    connections_in_total: [IntCounter; 2],
    turned_away: IntCounterVec,
    connections_out: IntGauge,
    connects: [IntCounter; 2],
    queue_recipients: IntGauge,
    queue_leased: IntGauge,
    store_rows: Histogram,
    store_sync: Histogram,
    store_commit: Histogram,
    store_failures: IntCounter,
    store_damaged: IntCounter,
    webhooks: IntCounterVec,
    disk_free: IntGauge,
    process: process::Process,
}

static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::new);

/// The figures of this process.
pub fn metrics() -> &'static Metrics {
    &METRICS
}

/// What is read when somebody looks, rather than counted on the way.
#[derive(Clone, Copy, Debug, Default)]
pub struct Depth {
    /// Recipients not done with.
    pub queued: u64,
    /// Free bytes of the disk that the spool is on, where they can be told.
    pub disk_free_bytes: Option<u64>,
}

/// A connection that is counted as open for as long as this lives.
pub struct Open(&'static IntGauge);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Metrics {
    fn new() -> Metrics {
        let make = Maker { registry: Registry::new() };
        let accept = make.seconds(
            "posthaste_accept_seconds",
            "From the end of a message to its answer, where it was accepted: from the final dot by SMTP, from the whole request by HTTP",
            &["road"],
            SECONDS,
        );
        let attempts = make.counters("posthaste_attempts_total", "Attempts to deliver to a recipient", &["result"]);
        let opened = make.counters("posthaste_connections_total", "Connections from clients, taken in", &["protocol"]);
        let open = make.gauges("posthaste_connections", "Connections from clients now", &["protocol"]);
        let connects =
            make.counters("posthaste_outbound_connections_total", "Connections to sites, tried", &["result"]);
        Metrics {
            accept_smtp: accept.with_label_values(&["smtp"]),
            accept_http: accept.with_label_values(&["http"]),
            accepted: make.counter("posthaste_messages_accepted_total", "Messages that were made durable"),
            attempts: ["delivered", "deferred", "bounced", "failed"]
                .map(|result| attempts.with_label_values(&[result])),
            tenants: Tenants::new(make.counters(
                "posthaste_tenant_recipients_total",
                "Recipients of accepted messages, what became of attempts for them, and how others ended, by tenant",
                &["tenant", "result"],
            )),
            sites: Sites::default(),
            stages: Stages::new(make.seconds(
                "posthaste_stage_call_seconds",
                "Calls of stage components, by stage, first digits of the component's SHA-256, and result",
                &["stage", "component", "result"],
                SHORT_SECONDS,
            )),
            history: History::default(),
            connections_in: ["smtp", "http"].map(|protocol| open.with_label_values(&[protocol])),
            connections_in_total: ["smtp", "http"].map(|protocol| opened.with_label_values(&[protocol])),
            turned_away: make.counters(
                "posthaste_turned_away_total",
                "Connections and messages that were told to come later, by reason",
                &["protocol", "reason"],
            ),
            connections_out: make.gauge("posthaste_outbound_connections", "Connections to sites now"),
            connects: ["opened", "refused"].map(|result| connects.with_label_values(&[result])),
            queue_recipients: make.gauge("posthaste_queue_recipients", "Recipients not done with"),
            queue_leased: make
                .gauge("posthaste_queue_leased_recipients", "Of them, those in memory: leased by the queue"),
            store_rows: make.histogram(
                "posthaste_store_group_rows",
                "Messages, outcomes and other rows that were committed together",
                ROWS,
            ),
            store_sync: make.histogram(
                "posthaste_store_sync_seconds",
                "Syncs of the spool segment, one for each group with bodies",
                SHORT_SECONDS,
            ),
            store_commit: make.histogram(
                "posthaste_store_commit_seconds",
                "Commits of the database, one for each group, its own sync included",
                SHORT_SECONDS,
            ),
            store_failures: make.counter("posthaste_store_group_failures_total", "Groups that were not committed"),
            store_damaged: make.counter(
                "posthaste_store_damaged_total",
                "Stored messages and recipients that could not be read and were set aside",
            ),
            webhooks: make.counters(
                "posthaste_webhook_attempts_total",
                "Attempts to tell an event to a webhook, by result",
                &["result"],
            ),
            disk_free: make.gauge("posthaste_disk_free_bytes", "Free space of the disk that holds the spool"),
            process: process::Process::new(&make),
            registry: make.registry,
        }
    }

    /// A message is durable.
    pub fn accepted(&self, tenant: &TenantTally, recipients: usize) {
        self.accepted.inc();
        tenant.accepted.inc_by(recipients as u64);
    }

    /// A message that was accepted is answered.
    pub fn answered(&self, road: Road, took: Duration) {
        match road {
            Road::Smtp => self.accept_smtp.observe(took.as_secs_f64()),
            Road::Http => self.accept_http.observe(took.as_secs_f64()),
        }
    }

    /// An attempt for one recipient came to something.
    pub fn attempted(&self, tenant: &TenantTally, verdict: Verdict) {
        let place = place(verdict);
        self.attempts[place].inc();
        tenant.attempts[place].inc();
    }

    /// A client is served until the answer is dropped.
    pub fn enter(&'static self, road: Road) -> Open {
        let place = match road {
            Road::Smtp => 0,
            Road::Http => 1,
        };
        self.connections_in_total[place].inc();
        self.connections_in[place].inc();
        Open(&self.connections_in[place])
    }

    /// A client or a message was turned away.
    pub fn turned_away(&self, road: Road, why: Turned) {
        let protocol = match road {
            Road::Smtp => "smtp",
            Road::Http => "http",
        };
        let reason = match why {
            Turned::Full => "full",
            Turned::Address => "address",
            Turned::Pressed => "pressed",
        };
        self.turned_away.with_label_values(&[protocol, reason]).inc();
    }

    /// A connection to a site: open or opening until the answer is dropped.
    pub fn leave(&'static self) -> Open {
        self.connections_out.inc();
        Open(&self.connections_out)
    }

    /// A connection to a site was opened, or was not.
    pub fn connected(&self, opened: bool) {
        self.connects[usize::from(!opened)].inc();
    }

    /// Recipients the queue holds.
    pub fn leased(&self, recipients: usize) {
        self.queue_leased.set(i64::try_from(recipients).unwrap_or(i64::MAX));
    }

    /// A group of writes: its rows, the sync of bodies where there were any, and the commit; `None`: it failed.
    pub fn committed(&self, rows: usize, took: Option<(Option<Duration>, Duration)>) {
        let Some((sync, commit)) = took else { return self.store_failures.inc() };
        self.store_rows.observe(rows as f64);
        self.store_commit.observe(commit.as_secs_f64());
        if let Some(sync) = sync {
            self.store_sync.observe(sync.as_secs_f64());
        }
    }

    /// So many stored messages and recipients could not be read and were set aside.
    pub fn damaged(&self, count: u64) {
        self.store_damaged.inc_by(count);
    }

    /// An attempt to tell a webhook: the class of what it answered (`2xx`), or `no answer`.
    pub fn told(&self, status: Option<u16>) {
        let result = match status.map(|status| status / 100) {
            Some(2) => "2xx",
            Some(3) => "3xx",
            Some(4) => "4xx",
            Some(5) => "5xx",
            Some(_) => "other",
            None => "no answer",
        };
        self.webhooks.with_label_values(&[result]).inc();
    }

    /// The totals that rates are made of.
    fn totals(&self) -> [u64; 5] {
        let [delivered, deferred, bounced, failed] = &self.attempts;
        [&self.accepted, delivered, deferred, bounced, failed].map(IntCounter::get)
    }

    /// Notes how far everything has come. Called every few seconds, at even intervals.
    pub fn note(&self) {
        if self.history.note(self.totals()) {
            self.sites.rotate();
            self.stages.rotate();
        }
    }

    /// Rates a second over the last minute, or since the start where that is shorter.
    pub fn rates(&self) -> Rates {
        self.history.rates(self.totals())
    }

    /// All figures in the text format of Prometheus.
    pub fn render(&self, depth: Depth) -> String {
        let bounded = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        self.queue_recipients.set(bounded(depth.queued));
        self.disk_free.set(depth.disk_free_bytes.map_or(0, bounded));
        self.process.look();
        let mut text = Vec::new();
        // Writing to memory fails never; figures without a name of ours do not exist.
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            tracing::error!(%error, "the metrics cannot be printed");
        }
        String::from_utf8(text).unwrap_or_default()
    }
}

fn place(verdict: Verdict) -> usize {
    match verdict {
        Verdict::Delivered => 0,
        Verdict::Deferred => 1,
        Verdict::Bounced => 2,
        Verdict::Failed => 3,
    }
}

/// Makes figures and enters them into the registry. Names and labels are written here in full, and a test makes them
/// all: a name that is wrong or stands twice never leaves the workshop.
struct Maker {
    registry: Registry,
}

impl Maker {
    fn enter<T: prometheus::core::Collector + Clone + 'static>(&self, made: prometheus::Result<T>) -> T {
        let made = made.expect("the names of figures are well-formed");
        self.registry.register(Box::new(made.clone())).expect("no figure stands twice");
        made
    }

    fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.enter(IntCounter::new(name, help))
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.enter(IntCounterVec::new(Opts::new(name, help), labels))
    }

    fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.enter(IntGauge::new(name, help))
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.enter(IntGaugeVec::new(Opts::new(name, help), labels))
    }

    fn histogram(&self, name: &str, help: &str, bounds: &[f64]) -> Histogram {
        self.enter(Histogram::with_opts(HistogramOpts::new(name, help).buckets(bounds.to_vec())))
    }

    fn seconds(&self, name: &str, help: &str, labels: &[&str], bounds: &[f64]) -> HistogramVec {
        self.enter(HistogramVec::new(HistogramOpts::new(name, help).buckets(bounds.to_vec()), labels))
    }
}

#[cfg(test)]
mod tests;
