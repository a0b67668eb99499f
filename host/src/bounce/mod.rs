//! Who is told by mail what became of its mail, and of what (RFC 3461 s5 and s6, RFC 5321 s6.1).
//!
//! On the road it stands between `queue`, which knows what an attempt came to, and `store`, which accepts a report in the
//! transaction that completes its recipients. Invariants: nobody is told by mail who came by HTTP, or who gave the null
//! sender; a report has the null sender, so that none is ever made about one.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use jiff::fmt::rfc2822;
use jiff::tz::TimeZone;
use mail::dsn::{Request, Return};
use mail::report::{Action, Report, Returned, Told};
use mail::{Address, Domain, Event, EventKind, Outcome, Reply};
use uuid::Uuid;

use crate::config::{Bounces, Config};
use crate::store::{BodyRef, Completion, NewMessage, Store, TenantId};

/// The tag of a report that names the message it is about.
pub const REPORT_OF: &str = "report_of";

/// Octets of a message that are looked at for its header.
const HEADER_OCTETS: u32 = 64 * 1024;

/// The largest message that is returned whole, in octets.
const WHOLE_OCTETS: u64 = 256 * 1024;

/// Whether senders are told by mail, by whom and when.
#[derive(Clone, Debug)]
pub struct Reporting {
    /// In whose name.
    pub hostname: Domain,
    /// What is done where a sender did not say.
    pub bounces: Bounces,
    /// How long mail must have waited before its sender is told that it does.
    pub delay_after: Duration,
}

impl From<&Config> for Reporting {
    fn from(config: &Config) -> Reporting {
        Reporting {
            hostname: config.hostname.clone(),
            bounces: config.delivery.bounces,
            delay_after: config.delivery.report_delay_after,
        }
    }
}

/// A recipient of whom its sender is to be told.
#[derive(Clone, Debug)]
pub struct Case {
    pub message: Uuid,
    pub tenant: TenantId,
    pub sender: Address,
    pub body: BodyRef,
    pub size_bytes: u64,
    pub accepted_at: Timestamp,
    pub request: Arc<Request>,
    pub told: Told,
}

/// What is known of an attempt when it is decided whether to tell.
#[derive(Clone, Copy, Debug)]
pub struct Fact {
    /// The recipient's place in the envelope.
    pub place: u32,
    pub kind: EventKind,
    /// From acceptance until now.
    pub age: Duration,
    /// Whether the peer took over the request for reports, and with it the duty to send them.
    pub handed_on: bool,
}

impl Reporting {
    /// What the sender is told of a recipient, if anything (RFC 3461 s5.2).
    pub fn action(&self, request: &Request, fact: Fact) -> Option<Action> {
        let asked = request.of(fact.place);
        let notify = asked.and_then(|asked| asked.notify);
        let (action, wanted) = match fact.kind {
            EventKind::Bounced | EventKind::Failed => {
                (Action::Failed, notify.map_or(self.bounces == Bounces::Report, |notify| notify.failure))
            }
            EventKind::DeliveryDelayed => {
                let is_told = asked.is_some_and(|asked| asked.delay_told);
                let is_due = fact.age >= self.delay_after && !is_told;
                (Action::Delayed, is_due && notify.is_some_and(|notify| notify.delay))
            }
            EventKind::Delivered => (Action::Relayed, !fact.handed_on && notify.is_some_and(|notify| notify.success)),
            EventKind::Sent
            | EventKind::Scheduled
            | EventKind::Canceled
            | EventKind::Suppressed
            | EventKind::Complained => return None,
        };
        wanted.then_some(action)
    }

    /// Writes a report for each message of these cases, and puts it beside the completion of its first recipient. Each
    /// case comes with the place of its completion in the batch.
    pub async fn attach(&self, store: &dyn Store, cases: &[(usize, Case)], batch: &mut [Completion]) {
        let mut messages: Vec<(usize, &Case, Vec<Told>)> = Vec::new();
        for (place, case) in cases {
            let told = case.told.clone();
            match messages.iter_mut().find(|(_, first, _)| first.message == case.message) {
                Some((_, _, all)) => all.push(told),
                None => messages.push((*place, case, vec![told])),
            }
        }
        for (place, case, told) in messages {
            let report = self.write(store, case, &told).await;
            if let Some(completion) = batch.get_mut(place) {
                completion.report = Some(Box::new(report));
            }
        }
    }

    async fn write(&self, store: &dyn Store, case: &Case, told: &[Told]) -> NewMessage {
        let now = Timestamp::now();
        // Fresh and half of it random: the boundary cannot be guessed by whoever wrote the message.
        let id = Uuid::now_v7();
        let is_failure = told.iter().any(|told| told.action == Action::Failed);
        let whole = case.request.ret == Some(Return::Full) && is_failure && case.size_bytes <= WHOLE_OCTETS;
        let octets = if whole { u32::MAX } else { HEADER_OCTETS };
        let original = store.body_head(&case.body, octets).await;
        if let Err(error) = &original {
            tracing::warn!(id = %case.message, %error, "nothing of the message can be returned to its sender");
        }
        let returned = match &original {
            Ok(bytes) if whole => Returned::Message(bytes),
            Ok(bytes) => Returned::Header(bytes),
            Err(_) => Returned::Nothing,
        };
        let report = Report {
            hostname: &self.hostname,
            id: &id.to_string(),
            to: &case.sender,
            date: &date(now),
            arrival: &date(case.accepted_at),
            envelope_id: case.request.envelope_id.as_ref(),
            recipients: told,
            returned,
        };
        NewMessage {
            id,
            tenant: case.tenant.clone(),
            sender: None,
            recipients: vec![case.sender.clone()],
            bcc: Vec::new(),
            body: report.compose().into(),
            attributes: Vec::new(),
            tags: vec![(REPORT_OF.to_owned(), case.message.to_string())],
            idempotency: None,
            accepted_at: now,
            scheduled_at: None,
            request: None,
        }
    }
}

/// What is told of a recipient after an attempt.
pub fn told(request: &Request, place: u32, event: &Event, action: Action, at: Timestamp, until: Timestamp) -> Told {
    let outcome = event.attempt.as_ref().map(|(_, outcome)| outcome);
    let expired = event.reason.as_deref() == Some(crate::queue::policy::EXPIRED);
    let text = outcome.map_or("", |outcome| outcome.text.as_str());
    Told {
        address: event.recipient.clone(),
        original: request.of(place).and_then(|asked| asked.original.clone()),
        action,
        status: outcome.map_or(mail::EnhancedCode::new(5, 0, 0), |outcome| outcome.status),
        remote_host: outcome.and_then(|outcome: &Outcome| outcome.remote_host.clone()),
        reply: outcome.and_then(|outcome| outcome.reply.as_ref()).map(on_one_line),
        text: if expired { format!("It was tried for too long. The last attempt: {text}") } else { text.to_owned() },
        last_attempt: date(at),
        retry_until: (action == Action::Delayed).then(|| date(until)),
    }
}

fn on_one_line(reply: &Reply) -> String {
    let text = reply.text.replace('\n', " ");
    match reply.enhanced {
        Some(status) => format!("{} {status} {text}", reply.code),
        None => format!("{} {text}", reply.code),
    }
}

/// As in a header field (RFC 5322 s3.3). Never fails for a time in this era.
fn date(at: Timestamp) -> String {
    rfc2822::to_string(&at.to_zoned(TimeZone::UTC)).unwrap_or_default()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeMap;

    use mail::dsn::{Notify, RecipientRequest};

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn action(
        bounces: Bounces,
        notify: Option<&str>,
        kind: EventKind,
        age: Duration,
        handed_on: bool,
    ) -> Option<Action> {
        let hostname = Domain::parse("relay.test").unwrap();
        let reporting = Reporting { hostname, bounces, delay_after: 4 * HOUR };
        let notify = notify.map(|text| Notify::parse(text).unwrap());
        let asked = RecipientRequest { notify, ..RecipientRequest::default() };
        let request = Request { recipients: BTreeMap::from([(2, asked)]), ..Request::default() };
        reporting.action(&request, Fact { place: 2, kind, age, handed_on })
    }

    #[test]
    fn failures_are_told_to_who_asked_and_to_who_did_not_say() {
        for kind in [EventKind::Bounced, EventKind::Failed] {
            let told = |bounces, notify| action(bounces, notify, kind, HOUR, false);
            assert_eq!(told(Bounces::Report, None), Some(Action::Failed));
            assert_eq!(told(Bounces::Events, None), None);
            assert_eq!(told(Bounces::Events, Some("FAILURE")), Some(Action::Failed));
            assert_eq!(told(Bounces::Report, Some("NEVER")), None);
            assert_eq!(told(Bounces::Report, Some("SUCCESS,DELAY")), None);
        }
    }

    #[test]
    fn success_is_told_where_the_peer_does_not() {
        let told = |notify, handed_on| action(Bounces::Report, notify, EventKind::Delivered, HOUR, handed_on);
        assert_eq!(told(Some("SUCCESS"), false), Some(Action::Relayed));
        assert_eq!(told(Some("SUCCESS"), true), None);
        assert_eq!(told(Some("FAILURE"), false), None);
        assert_eq!(told(None, false), None);
    }

    #[test]
    fn a_delay_is_told_late_and_to_who_asked() {
        let told = |notify, age| action(Bounces::Report, notify, EventKind::DeliveryDelayed, age, false);
        assert_eq!(told(Some("DELAY"), 4 * HOUR), Some(Action::Delayed));
        assert_eq!(told(Some("DELAY"), 3 * HOUR), None);
        assert_eq!(told(Some("FAILURE"), 9 * HOUR), None);
        assert_eq!(told(None, 9 * HOUR), None);
    }

    #[test]
    fn nothing_else_is_told() {
        for kind in [EventKind::Sent, EventKind::Scheduled, EventKind::Canceled, EventKind::Suppressed] {
            assert_eq!(action(Bounces::Report, Some("SUCCESS,FAILURE,DELAY"), kind, 9 * HOUR, false), None);
        }
    }
}
