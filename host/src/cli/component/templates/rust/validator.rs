//! A validator: refuses recipients at one domain, and warns of mail without a subject.

wit_bindgen::generate!({ path: "wit", world: "validate-stage", generate_all });

use exports::posthaste::validator::validator::{Acceptance, Guest, StageError, ValidatorInput, Wants};
use posthaste::types::types::{Finding, FindingClass};

/// Where no mail may go.
const BLOCKED_DOMAIN: &str = "blocked.example";

struct Component;

impl Guest for Component {
    /// Header, parts and envelope are always there; text, HTML and the raw message cost time and are asked for here.
    fn describe() -> Result<Wants, StageError> {
        Ok(Wants { text: false, html: false, raw: false })
    }

    fn validate(input: ValidatorInput) -> Result<Acceptance, StageError> {
        let is_blocked = |address: &String| address.rsplit('@').next() == Some(BLOCKED_DOMAIN);
        if let Some(address) = input.envelope.recipients.iter().find(|address| is_blocked(address)) {
            return Err(StageError::Refused(Finding {
                class: FindingClass::Policy,
                text: format!("no mail goes to {BLOCKED_DOMAIN}: remove {address}"),
                status: None,
                field: Some("to".to_owned()),
                position: None,
            }));
        }
        let has_subject = input.headers.iter().any(|header| header.name.eq_ignore_ascii_case("subject"));
        let warnings = if has_subject { vec![] } else { vec!["the message has no subject".to_owned()] };
        Ok(Acceptance { warnings, attributes: vec![] })
    }
}

export!(Component);
