//! `[webhooks]`: how events are told.

use std::time::Duration;

use super::load::section;
use super::reader::{Context, Reader};
use super::value::Count;

/// How webhooks are told.
#[derive(Clone, Debug)]
pub struct WebhookRules {
    /// Whether endpoints may stand on this machine and in private networks.
    pub allow_private: bool,
    /// Attempts at once for one endpoint.
    pub concurrency: usize,
    /// From the connection to the end of the answer.
    pub timeout: Duration,
    /// How long the log keeps an attempt.
    pub keep_log: Duration,
}

/// More would let one endpoint take what all share.
const CONCURRENCY_MAX: usize = 64;

/// Longer ones are told to no endpoint: an instance waits that long.
const TIMEOUT_MAX: Duration = Duration::from_secs(50);

pub(super) fn webhooks(context: &mut Context<'_, '_>, top: &Reader<'_, '_>) -> Option<WebhookRules> {
    let section = section(context, top, "webhooks");
    let allow_private = section.get(context, "allow_private");
    let concurrency = section.get(context, "concurrency").map(|Count(number)| number);
    if let (Some(concurrency), Some((span, _))) = (concurrency, section.raw("concurrency"))
        && concurrency > CONCURRENCY_MAX
    {
        context.faults.add(span, format!("webhooks.concurrency must be at most {CONCURRENCY_MAX}"));
    }
    let timeout: Option<Duration> = section.get(context, "timeout");
    let keep_log = section.get(context, "keep_log");
    if let (Some(timeout), Some((span, _))) = (timeout, section.raw("timeout"))
        && (timeout.is_zero() || timeout > TIMEOUT_MAX)
    {
        context.faults.add(span, "webhooks.timeout must be more than nothing and at most 50s");
    }
    Some(WebhookRules {
        allow_private: allow_private?,
        concurrency: concurrency?,
        timeout: timeout?,
        keep_log: keep_log?,
    })
}
