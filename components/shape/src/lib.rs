//! Makes webhook requests out of events: the body in the shape of Resend's (`body`), signed as Standard Webhooks wants
//! it (`signature`). Pure, natively too; this file is the component's shell.

mod body;
mod signature;

use contract::{Finding, FindingClass, HttpRequest, ShaperInput, StageError};

/// Bytes of a body; what is larger no receiver takes.
const BODY_BYTES: usize = 256 << 10;

const USER_AGENT: &str = concat!("Posthaste/", env!("CARGO_PKG_VERSION"));

/// Shapes and signs one request. The body and the id of an event are the same on every try; time and signature differ.
///
/// Refused: a secret that cannot be used, an event that has no form in JSON, a body of more than 256 KiB.
pub fn shape(input: &ShaperInput) -> Result<HttpRequest, StageError> {
    let body = body::write(&input.event).map_err(refused(FindingClass::Malformed))?;
    if body.len() > BODY_BYTES {
        let text = format!("the event has {} bytes as JSON: at most {BODY_BYTES} are allowed", body.len());
        return Err(refused(FindingClass::TooLarge)(text));
    }
    let id = &input.event.id;
    let signatures = signature::sign(&input.endpoint.secrets, id, input.timestamp_s, &body)
        .map_err(|fault| refused(FindingClass::Policy)(format!("endpoint {}: {fault}", input.endpoint.id)))?;
    let timestamp = input.timestamp_s.to_string();
    let mut headers = vec![
        ("content-type".to_owned(), "application/json".to_owned()),
        ("user-agent".to_owned(), USER_AGENT.to_owned()),
    ];
    // Under both names: verifiers look for one or the other.
    for prefix in ["webhook", "svix"] {
        headers.push((format!("{prefix}-id"), id.clone()));
        headers.push((format!("{prefix}-timestamp"), timestamp.clone()));
        headers.push((format!("{prefix}-signature"), signatures.clone()));
    }
    Ok(HttpRequest { method: "POST".to_owned(), headers, body })
}

fn refused(class: FindingClass) -> impl Fn(String) -> StageError {
    move |text| StageError::Refused(Finding { class, text, status: None, field: None, position: None })
}

#[cfg(target_family = "wasm")]
mod shell {
    use contract::{HttpRequest, ShaperInput, StageError};

    use bindings::exports::posthaste::shaper::shaper::Guest;

    /// Bindings to the contract, as generated.
    #[allow(unsafe_code)]
    mod bindings {
        wit_bindgen::generate!({
            path: "../../wit",
            world: "posthaste:worlds/shape-stage",
            generate_all,
            with: { "posthaste:types/types@0.1.0": contract },
        });

        use super::Shape;
        export!(Shape);
    }

    struct Shape;

    impl Guest for Shape {
        fn shape(input: ShaperInput) -> Result<HttpRequest, StageError> {
            super::shape(&input)
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use contract::{Endpoint, Event};

    use super::*;

    fn input() -> ShaperInput {
        ShaperInput {
            event: Event { id: "evt_1".to_owned(), name: "email.sent".to_owned(), ..Event::default() },
            endpoint: Endpoint {
                id: "ep_1".to_owned(),
                url: "https://app.test/hook".to_owned(),
                secrets: vec!["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".to_owned()],
            },
            timestamp_s: 1_614_265_330,
            attributes: vec![],
        }
    }

    fn header<'a>(request: &'a HttpRequest, name: &str) -> &'a str {
        let mut values = request.headers.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str());
        let value = values.next().unwrap_or_else(|| panic!("no {name}"));
        assert_eq!(values.next(), None, "{name} twice");
        value
    }

    #[test]
    fn a_request() {
        let request = shape(&input()).unwrap();
        assert_eq!(request.method, "POST");
        assert_eq!(header(&request, "content-type"), "application/json");
        assert!(header(&request, "user-agent").starts_with("Posthaste/"));
        assert_eq!(header(&request, "webhook-id"), "evt_1");
        assert_eq!(header(&request, "webhook-timestamp"), "1614265330");
        assert!(header(&request, "webhook-signature").starts_with("v1,"));
        for name in ["id", "timestamp", "signature"] {
            assert_eq!(header(&request, &format!("svix-{name}")), header(&request, &format!("webhook-{name}")));
        }
    }

    #[test]
    fn another_try_has_the_same_body_and_id() {
        let first = shape(&input()).unwrap();
        let second = shape(&ShaperInput { timestamp_s: 1_614_269_999, ..input() }).unwrap();
        assert_eq!(first.body, second.body);
        assert_eq!(header(&first, "webhook-id"), header(&second, "webhook-id"));
        assert_ne!(header(&first, "webhook-signature"), header(&second, "webhook-signature"));
    }

    fn check_refused(input: &ShaperInput, class: FindingClass, words: &str) {
        match shape(input) {
            Err(StageError::Refused(finding)) => {
                assert_eq!(finding.class, class);
                assert!(finding.text.contains(words), "{}", finding.text);
            }
            other => unreachable!("{other:?}"),
        }
    }

    #[test]
    fn what_cannot_be_shaped_is_refused() {
        let mut wrong = input();
        wrong.endpoint.secrets = vec!["hunter2".to_owned()];
        check_refused(&wrong, FindingClass::Policy, "endpoint ep_1: secret 1 must begin with `whsec_`");
        let mut large = input();
        large.event.subject = "x".repeat(BODY_BYTES);
        check_refused(&large, FindingClass::TooLarge, "at most 262144");
        let mut late = input();
        late.event.occurred_at_ms = u64::MAX;
        check_refused(&late, FindingClass::Malformed, "occurred-at-ms");
    }
}
