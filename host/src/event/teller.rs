//! Tells one event to one webhook: unseals the secrets, has the notifier do it, and notes what came of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use contract::{Attempt, DATA_ATTRIBUTE, Endpoint, Event, ShaperInput};
use delivery_client::wire::{NOTIFY_HEAD_BYTES, NotifyAnswer};
use jiff::Timestamp;
use mail::{EventKind, message};

use super::notifier::Notifier;
use crate::keyring::Keyring;
use crate::metrics::metrics;
use crate::store::{AnyEvent, AnyKind, Due, EventRecord, MessageFacts, TenantEvent, TenantEventRecord, Webhook};

/// Of what went wrong, in the log.
const ERROR_CHARS: usize = 500;

/// The time, as the waits of retries see it.
#[async_trait]
pub trait Clock: Send + Sync + 'static {
    fn now(&self) -> Timestamp;
    /// Resolves at that time, or earlier.
    async fn until(&self, at: Timestamp);
}

/// The system's clock.
pub struct SystemClock;

/// The longest sleep: a clock that is set meanwhile is seen after it.
const SLEEP: Duration = Duration::from_secs(60);

#[async_trait]
impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    async fn until(&self, at: Timestamp) {
        let wait = at.duration_since(Timestamp::now()).try_into().unwrap_or(Duration::ZERO);
        tokio::time::sleep(wait.min(SLEEP)).await;
    }
}

/// What one attempt came to.
#[derive(Clone, Debug)]
pub struct Told {
    pub at: Timestamp,
    pub duration: Duration,
    pub answer: NotifyAnswer,
}

impl Told {
    /// The status, why there is none, and the head of the answer: as the log has them.
    pub fn summary(&self) -> (Option<u16>, Option<String>, String) {
        let error = |text: &str| Some(text.chars().take(ERROR_CHARS).collect());
        match &self.answer {
            NotifyAnswer::Answered { status, head, .. } => {
                let mut head = head.clone();
                head.truncate(head.floor_char_boundary(NOTIFY_HEAD_BYTES));
                (Some(*status), None, head)
            }
            NotifyAnswer::Unreachable { cause } => (None, error(cause), String::new()),
            NotifyAnswer::Refused { text } => (None, error(&format!("the shaper refuses it: {text}")), String::new()),
            NotifyAnswer::Unavailable { cause } => (None, error(cause), String::new()),
        }
    }
}

/// Makes attempts.
pub struct Teller {
    pub notifier: Arc<dyn Notifier>,
    pub keyring: Arc<Keyring>,
    pub clock: Arc<dyn Clock>,
}

impl Teller {
    /// Tells an event to a webhook, once.
    pub async fn tell(&self, webhook: &Webhook, event: Event) -> Told {
        let (at, started) = (self.clock.now(), Instant::now());
        let answer = match self.secrets(webhook, at) {
            Ok(secrets) => {
                let endpoint = Endpoint { id: webhook.id.clone(), url: webhook.url.clone(), secrets };
                let timestamp_s = at.as_second().max(0).unsigned_abs();
                self.notifier.notify(ShaperInput { event, endpoint, timestamp_s, attributes: Vec::new() }).await
            }
            Err(cause) => NotifyAnswer::Unavailable { cause },
        };
        metrics().told(match &answer {
            NotifyAnswer::Answered { status, .. } => Some(*status),
            NotifyAnswer::Unreachable { .. } | NotifyAnswer::Refused { .. } | NotifyAnswer::Unavailable { .. } => None,
        });
        Told { at, duration: started.elapsed(), answer }
    }

    /// The signing secrets that are good at a time, newest first.
    fn secrets(&self, webhook: &Webhook, now: Timestamp) -> Result<Vec<String>, String> {
        let old = webhook.old_secret.iter().filter(|(_, until)| *until > now).map(|(sealed, _)| sealed);
        [&webhook.sealed_secret]
            .into_iter()
            .chain(old)
            .map(|sealed| {
                let secret = self.keyring.unseal(&webhook.id, sealed);
                let secret = secret.map_err(|error| format!("the signing secret cannot be used: {error}"))?;
                String::from_utf8(secret).map_err(|_| "the signing secret cannot be read".to_owned())
            })
            .collect()
    }
}

/// The attribute that tells shapers the Message-ID field of a message.
const MESSAGE_ID: &str = "posthaste.message-id";

/// An event as shapers want it.
pub fn event_of(due: &Due) -> Event {
    match &due.event {
        AnyEvent::Message(record) => event_of_message(record, &due.message),
        AnyEvent::Tenant(record) => event_of_tenant(record),
    }
}

/// What shapers have no field for stands in an attribute.
fn event_of_tenant(record: &TenantEventRecord) -> Event {
    let data = serde_json::Value::Object(record.event.data.clone()).to_string();
    Event {
        id: record.id.clone(),
        name: record.event.kind.name().to_owned(),
        occurred_at_ms: ms(record.at),
        message_created_at_ms: ms(record.at),
        tenant: record.tenant.clone(),
        attributes: vec![(DATA_ATTRIBUTE.to_owned(), data)],
        ..Event::default()
    }
}

fn event_of_message(record: &EventRecord, facts: &MessageFacts) -> Event {
    let parsed = facts.head.as_deref().map(message::parse).unwrap_or_default();
    let from = parsed.from.first().map(ToString::to_string);
    let to: Vec<String> = parsed.to.iter().map(ToString::to_string).collect();
    let recipient = record.event.recipient.to_string();
    // Beside the id that the sending API answered, which receivers know too.
    let message_id = parsed.message_id.map(|id| (MESSAGE_ID.to_owned(), id));
    Event {
        message_created_at_ms: ms(facts.accepted_at),
        sender: from.or_else(|| facts.sender.as_ref().map(ToString::to_string)).unwrap_or_default(),
        // A message without To, or one whose body is gone, was still sent to somebody.
        to: if to.is_empty() { vec![recipient] } else { to },
        subject: parsed.subject.unwrap_or_default(),
        tags: facts.tags.clone(),
        attributes: facts.attributes.iter().cloned().chain(message_id).collect(),
        ..bare(record)
    }
}

/// What an event's own record says.
fn bare(record: &EventRecord) -> Event {
    let attempt = record.event.attempt.as_ref().map(|(number, outcome)| Attempt {
        number: *number,
        remote_host: outcome.remote_host.clone(),
        code: outcome.reply.as_ref().map(|reply| reply.code),
        status: Some(outcome.status.to_string()),
        text: outcome.reply.as_ref().map_or(&outcome.text, |reply| &reply.text).clone(),
    });
    Event {
        id: record.id.clone(),
        name: record.event.kind.name().to_owned(),
        occurred_at_ms: ms(record.at),
        tenant: record.tenant.clone(),
        message_id: record.message.to_string(),
        message_created_at_ms: ms(record.at),
        recipient: record.event.recipient.to_string(),
        attempt,
        reason: record.event.reason.clone(),
        ..Event::default()
    }
}

/// An event that never happened, to try an endpoint with.
pub fn sample(kind: AnyKind, tenant: &str, id: &str, now: Timestamp) -> Event {
    match kind {
        AnyKind::Message(kind) => sample_of_message(kind, tenant, id, now),
        AnyKind::Tenant(kind) => event_of_tenant(&TenantEventRecord {
            id: id.to_owned(),
            tenant: tenant.to_owned(),
            at: now,
            event: TenantEvent::new(kind, [("test", true.into())]),
        }),
    }
}

fn sample_of_message(kind: EventKind, tenant: &str, id: &str, now: Timestamp) -> Event {
    let recipient = "recipient@example.com".to_owned();
    let answered = |code, status: &str, text: &str| {
        let remote_host = Some("mx.example.com (192.0.2.1)".to_owned());
        Some(Attempt {
            number: 1,
            remote_host,
            code: Some(code),
            status: Some(status.to_owned()),
            text: text.to_owned(),
        })
    };
    let attempt = match kind {
        EventKind::Delivered => answered(250, "2.0.0", "OK"),
        EventKind::DeliveryDelayed => answered(451, "4.7.1", "try again later"),
        EventKind::Bounced => answered(550, "5.1.1", "no such user"),
        EventKind::Sent
        | EventKind::Failed
        | EventKind::Suppressed
        | EventKind::Complained
        | EventKind::Scheduled
        | EventKind::Canceled => None,
    };
    Event {
        id: id.to_owned(),
        name: kind.name().to_owned(),
        occurred_at_ms: ms(now),
        tenant: tenant.to_owned(),
        message_id: uuid::Uuid::nil().to_string(),
        message_created_at_ms: ms(now),
        sender: "Posthaste <test@example.com>".to_owned(),
        to: vec![recipient.clone()],
        subject: "A test of this webhook".to_owned(),
        tags: vec![("test".to_owned(), "true".to_owned())],
        recipient,
        attempt,
        reason: (kind == EventKind::Failed).then(|| "expired".to_owned()),
        attributes: Vec::new(),
    }
}

fn ms(at: Timestamp) -> u64 {
    at.as_millisecond().max(0).unsigned_abs()
}
