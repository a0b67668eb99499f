//! The body of a webhook, in the shape of Resend's events. An event of a tenant brings its `data` along.
//!
//! Our own additions stand in `data` only, where Resend has nothing of that name: `recipient` (whom the event is about;
//! there is one event a recipient), `stream`, `attempt` and `reason`.

use std::collections::BTreeMap;

use contract::{Attempt, DATA_ATTRIBUTE, Event};
use jiff::Timestamp;
use serde::Serialize;

/// The attribute in which the host tells the message's Message-ID.
const MESSAGE_ID: &str = "posthaste.message-id";

/// The attribute that names the message's stream, where it is a broadcast.
const STREAM: &str = "posthaste.stream";

#[derive(Serialize)]
struct Body<'a, T> {
    r#type: &'a str,
    created_at: String,
    data: T,
}

#[derive(Serialize)]
struct Data<'a> {
    created_at: String,
    email_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    message_id: Option<&'a str>,
    from: &'a str,
    to: &'a [String],
    subject: &'a str,
    tags: BTreeMap<&'a str, &'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bounce: Option<Bounce>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failed: Option<Failed<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    suppressed: Option<Suppressed<'a>>,
    recipient: &'a str,
    stream: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempt: Option<Try<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Bounce {
    r#type: &'static str,
    sub_type: &'static str,
    message: String,
    diagnostic_code: Vec<String>,
}

#[derive(Serialize)]
struct Failed<'a> {
    reason: &'a str,
}

#[derive(Serialize)]
struct Suppressed<'a> {
    r#type: &'a str,
    message: &'a str,
}

#[derive(Serialize)]
struct Try<'a> {
    number: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    remote_host: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'a str>,
    text: &'a str,
}

/// Writes the JSON. The same event gives the same bytes. The error names the field that has no form in JSON.
pub fn write(event: &Event) -> Result<Vec<u8>, String> {
    let attribute = |name: &str| event.attributes.iter().rfind(|(known, _)| known == name).map(|(_, value)| &**value);
    if let Some(data) = attribute(DATA_ATTRIBUTE) {
        let data: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(data).map_err(|error| format!("the attribute `{DATA_ATTRIBUTE}`: {error}"))?;
        let body = Body { r#type: &event.name, created_at: time("occurred-at-ms", event.occurred_at_ms)?, data };
        return serde_json::to_vec(&body).map_err(|error| error.to_string());
    }
    let body = Body {
        r#type: &event.name,
        created_at: time("occurred-at-ms", event.occurred_at_ms)?,
        data: Data {
            created_at: time("message-created-at-ms", event.message_created_at_ms)?,
            email_id: &event.message_id,
            message_id: attribute(MESSAGE_ID),
            from: &event.sender,
            to: &event.to,
            subject: &event.subject,
            tags: event.tags.iter().map(|(name, value)| (&**name, &**value)).collect(),
            bounce: (event.name == "email.bounced").then(|| bounce(event)),
            failed: (event.name == "email.failed").then(|| Failed { reason: reason(event).unwrap_or("failed") }),
            suppressed: (event.name == "email.suppressed").then(|| suppressed(event)),
            recipient: &event.recipient,
            stream: attribute(STREAM).unwrap_or("transactional"),
            attempt: event.attempt.as_ref().map(attempt),
            reason: reason(event),
        },
    };
    serde_json::to_vec(&body).map_err(|error| error.to_string())
}

/// RFC 3339 in UTC with milliseconds, as JavaScript writes it.
fn time(field: &str, milliseconds: u64) -> Result<String, String> {
    let time = i64::try_from(milliseconds).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    let time = time.ok_or_else(|| format!("the event's {field} is no time: {milliseconds}"))?;
    Ok(format!("{time:.3}"))
}

fn reason(event: &Event) -> Option<&str> {
    event.reason.as_deref()
}

fn attempt(attempt: &Attempt) -> Try<'_> {
    Try {
        number: attempt.number,
        remote_host: attempt.remote_host.as_deref(),
        code: attempt.code,
        status: attempt.status.as_deref(),
        text: &attempt.text,
    }
}

/// A bounce is final: what may pass later is `email.delivery_delayed`.
fn bounce(event: &Event) -> Bounce {
    let attempt = event.attempt.as_ref();
    let status = attempt.and_then(|attempt| attempt.status.as_deref());
    let text = attempt.map_or("", |attempt| attempt.text.as_str());
    let message = if text.is_empty() { "The recipient's mail server refused the message for good." } else { text };
    Bounce {
        r#type: "Permanent",
        sub_type: sub_type(status.unwrap_or("")),
        message: message.to_owned(),
        diagnostic_code: attempt.and_then(diagnostic).into_iter().collect(),
    }
}

/// What the enhanced status code (RFC 3463) comes to in Resend's words.
fn sub_type(status: &str) -> &'static str {
    // The first digit tells permanent from transient only.
    match status.split_once('.').map_or("", |(_, rest)| rest) {
        "1.0" | "1.1" | "1.2" | "1.3" | "1.6" | "1.10" | "2.1" => "NoEmail",
        "2.2" => "MailboxFull",
        "2.3" | "3.4" => "MessageTooLarge",
        rest if rest.starts_with("6.") => "ContentRejected",
        _ => "General",
    }
}

/// The reply as in a delivery report (RFC 3464 s2.3.6), where there was one.
fn diagnostic(attempt: &Attempt) -> Option<String> {
    let code = attempt.code?;
    let status = attempt.status.as_deref().filter(|status| !attempt.text.starts_with(*status));
    let words = [Some(code.to_string()), status.map(str::to_owned), Some(attempt.text.clone())];
    let words: Vec<String> = words.into_iter().flatten().filter(|word| !word.is_empty()).collect();
    Some(format!("smtp; {}", words.join(" ")))
}

fn suppressed(event: &Event) -> Suppressed<'_> {
    let text = event.attempt.as_ref().map_or("", |attempt| attempt.text.as_str());
    Suppressed {
        r#type: reason(event).unwrap_or("OnAccountSuppressionList"),
        message: if text.is_empty() { "The address is on the suppression list: nothing was sent to it." } else { text },
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::{Value, json};

    use super::*;

    fn event(name: &str) -> Event {
        Event {
            id: "evt_1".to_owned(),
            name: name.to_owned(),
            occurred_at_ms: 1_732_318_872_126,
            tenant: "default".to_owned(),
            message_id: "56761188-7520-42d8-8898-ff6fc54ce618".to_owned(),
            message_created_at_ms: 1_732_318_871_000,
            sender: "Acme <onboarding@src.test>".to_owned(),
            to: vec!["a@dst.test".to_owned(), "b@dst.test".to_owned()],
            subject: "Sending this \"example\"".to_owned(),
            tags: vec![("category".to_owned(), "confirm_email".to_owned())],
            recipient: "b@dst.test".to_owned(),
            ..Event::default()
        }
    }

    fn attempted(name: &str, code: Option<u16>, status: Option<&str>, text: &str) -> Event {
        let attempt = Attempt {
            number: 2,
            remote_host: Some("mx.dst.test (192.0.2.1)".to_owned()),
            code,
            status: status.map(str::to_owned),
            text: text.to_owned(),
        };
        Event { attempt: Some(attempt), ..event(name) }
    }

    fn body(event: &Event) -> Value {
        serde_json::from_slice(&write(event).unwrap()).unwrap()
    }

    /// What every event has, and `more` in `data`.
    #[track_caller]
    fn check(event: &Event, more: Value) {
        let mut data = json!({
            "created_at": "2024-11-22T23:41:11.000Z",
            "email_id": "56761188-7520-42d8-8898-ff6fc54ce618",
            "from": "Acme <onboarding@src.test>",
            "to": ["a@dst.test", "b@dst.test"],
            "subject": "Sending this \"example\"",
            "tags": {"category": "confirm_email"},
            "recipient": "b@dst.test",
            "stream": "transactional",
        });
        data.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        assert_eq!(body(event), json!({"type": event.name, "created_at": "2024-11-22T23:41:12.126Z", "data": data}));
    }

    #[test]
    fn events_with_nothing_of_their_own() {
        for name in ["email.sent", "email.complained", "email.scheduled", "email.canceled", "email.invented"] {
            check(&event(name), json!({}));
        }
    }

    #[test]
    fn a_broadcast_is_told_as_one() {
        let broadcast = (STREAM.to_owned(), "broadcast".to_owned());
        check(&Event { attributes: vec![broadcast], ..event("email.sent") }, json!({"stream": "broadcast"}));
    }

    #[test]
    fn attempts() {
        let attempt = json!({"number": 2, "remote_host": "mx.dst.test (192.0.2.1)", "code": 250, "text": "ok"});
        check(&attempted("email.delivered", Some(250), None, "ok"), json!({"attempt": attempt}));
        let attempt = json!({"number": 2, "remote_host": "mx.dst.test (192.0.2.1)", "text": "no connection"});
        check(&attempted("email.delivery_delayed", None, None, "no connection"), json!({"attempt": attempt}));
    }

    #[test]
    fn bounces() {
        let refused = attempted("email.bounced", Some(550), Some("5.1.1"), "nobody here");
        let attempt = json!({"number": 2, "remote_host": "mx.dst.test (192.0.2.1)", "code": 550, "status": "5.1.1",
            "text": "nobody here"});
        let bounce = json!({"type": "Permanent", "subType": "NoEmail", "message": "nobody here",
            "diagnosticCode": ["smtp; 550 5.1.1 nobody here"]});
        check(&refused, json!({"attempt": attempt, "bounce": bounce}));
        // Nobody was asked: the domain does not exist.
        let silent = Event { reason: Some("hard".to_owned()), ..event("email.bounced") };
        let bounce = json!({"type": "Permanent", "subType": "General", "diagnosticCode": [],
            "message": "The recipient's mail server refused the message for good."});
        check(&silent, json!({"bounce": bounce, "reason": "hard"}));
    }

    #[test]
    fn a_status_in_the_text_is_told_once() {
        let told = attempted("email.bounced", Some(550), Some("5.7.1"), "5.7.1 go away");
        assert_eq!(body(&told)["data"]["bounce"]["diagnosticCode"], json!(["smtp; 550 5.7.1 go away"]));
    }

    #[test]
    fn sub_types() {
        for (status, expect) in [
            ("5.1.1", "NoEmail"),
            ("5.1.10", "NoEmail"),
            ("5.2.1", "NoEmail"),
            ("5.2.2", "MailboxFull"),
            ("5.3.4", "MessageTooLarge"),
            ("5.2.3", "MessageTooLarge"),
            ("5.6.1", "ContentRejected"),
            ("5.7.1", "General"),
            ("5.0.0", "General"),
            ("", "General"),
            ("nonsense", "General"),
        ] {
            assert_eq!(sub_type(status), expect, "{status}");
        }
    }

    #[test]
    fn failures_and_suppressions() {
        check(&event("email.failed"), json!({"failed": {"reason": "failed"}}));
        let expired = Event { reason: Some("expired".to_owned()), ..event("email.failed") };
        check(&expired, json!({"failed": {"reason": "expired"}, "reason": "expired"}));
        let suppressed = json!({"type": "OnAccountSuppressionList",
            "message": "The address is on the suppression list: nothing was sent to it."});
        check(&event("email.suppressed"), json!({"suppressed": suppressed}));
    }

    #[test]
    fn the_message_id_where_the_host_tells_it() {
        let attributes = vec![("posthaste.message-id".to_owned(), "<1@src.test>".to_owned())];
        check(&Event { attributes, ..event("email.sent") }, json!({"message_id": "<1@src.test>"}));
    }

    #[test]
    fn an_event_of_a_tenant_is_its_data() {
        let attributes = vec![("posthaste.data".to_owned(), r#"{"webhook_id": "1", "left": 2}"#.to_owned())];
        let paused = Event { attributes, occurred_at_ms: 1_732_318_872_126, ..Event::default() };
        let paused = Event { name: "webhook.paused".to_owned(), ..paused };
        let expect = json!({"type": "webhook.paused", "created_at": "2024-11-22T23:41:12.126Z",
            "data": {"webhook_id": "1", "left": 2}});
        assert_eq!(body(&paused), expect);
        let wrong = Event { attributes: vec![("posthaste.data".to_owned(), "[]".to_owned())], ..paused };
        assert!(write(&wrong).unwrap_err().contains("posthaste.data"));
    }

    #[test]
    fn times_that_are_none() {
        let late = Event { message_created_at_ms: u64::MAX, ..event("email.sent") };
        assert!(write(&late).unwrap_err().contains("message-created-at-ms"));
    }
}
