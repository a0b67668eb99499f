//! A shaper: a webhook as JSON, with the endpoint's newest secret as a bearer token.

wit_bindgen::generate!({ path: "wit", world: "shape-stage", generate_all });

use exports::posthaste::shaper::shaper::{Guest, HttpRequest, ShaperInput, StageError};
use posthaste::types::types::{Finding, FindingClass};
use serde_json::json;

/// What the contract allows.
const BODY_BYTES: usize = 256 << 10;

struct Component;

impl Guest for Component {
    /// The same event and endpoint give the same body on every try.
    fn shape(input: ShaperInput) -> Result<HttpRequest, StageError> {
        let event = &input.event;
        let body = json!({
            "id": event.id,
            "type": event.name,
            "message": event.message_id,
            "recipient": event.recipient,
            "subject": event.subject,
            "at": event.occurred_at_ms,
        });
        let body = body.to_string().into_bytes();
        if body.len() > BODY_BYTES {
            return Err(refuse(FindingClass::TooLarge, format!("the event has {} bytes as JSON", body.len())));
        }
        let mut headers = vec![("content-type".to_owned(), "application/json".to_owned())];
        if let Some(secret) = input.endpoint.secrets.first() {
            if !secret.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(refuse(FindingClass::Policy, "the endpoint's secret is no token".to_owned()));
            }
            headers.push(("authorization".to_owned(), format!("Bearer {secret}")));
        }
        Ok(HttpRequest { method: "POST".to_owned(), headers, body })
    }
}

fn refuse(class: FindingClass, text: String) -> StageError {
    StageError::Refused(Finding { class, text, status: None, field: None, position: None })
}

export!(Component);
