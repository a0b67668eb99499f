//! What happened, told: the mail log here, webhooks by the `dispatcher`.
//!
//! The mail log: every fact in a message's life, printed here and nowhere else.
//! Target `mail`, level info, fixed fields: `id`, `event`, `rcpt_domain`, and of an attempt `attempt`, `mx`, `code`,
//! `status`, `text`. Never bodies, never whole recipient lists.

pub mod dispatcher;
pub mod notifier;
pub mod policy;
pub mod teller;

use mail::Event;
use uuid::Uuid;

/// Prints one event of a message. Called once the event is durable.
pub fn log(message: Uuid, event: &Event) {
    let (attempt, outcome) = match &event.attempt {
        Some((number, outcome)) => (Some(*number), Some(outcome)),
        None => (None, None),
    };
    tracing::info!(
        target: "mail",
        id = %message,
        event = event.kind.name(),
        rcpt_domain = event.recipient.domain().as_str(),
        attempt,
        mx = outcome.and_then(|outcome| outcome.remote_host.as_deref()),
        code = outcome.and_then(|outcome| outcome.reply.as_ref()).map(|reply| reply.code),
        status = outcome.map(|outcome| tracing::field::display(outcome.status)),
        tls = outcome.and_then(|outcome| outcome.tls.as_deref()),
        reason = event.reason.as_deref(),
        text = outcome.map(|outcome| outcome.text.as_str()),
    );
}
