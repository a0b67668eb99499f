//! A shaper: events as messages of a Slack incoming webhook, whose URL is the secret.

wit_bindgen::generate!({ path: "wit", world: "shape-stage", generate_all });

use exports::posthaste::shaper::shaper::{Guest, HttpRequest, ShaperInput, StageError};
use posthaste::types::types::{Event, Finding, FindingClass};
use serde_json::json;

/// Characters of a subject and of a server's words that are shown.
const SHOWN: usize = 300;

struct Component;

impl Guest for Component {
    fn shape(input: ShaperInput) -> Result<HttpRequest, StageError> {
        let event = &input.event;
        // Good news is no news: the event is dropped for this endpoint, and its log says so.
        let Some(headline) = headline(event) else {
            return Err(StageError::Refused(Finding {
                class: FindingClass::Policy,
                text: format!("{} is not told to the channel", event.name),
                status: None,
                field: None,
                position: None,
            }));
        };
        let mut lines = vec![format!("*{headline}*"), format!("Subject: {}", plain(&event.subject))];
        if let Some(attempt) = &event.attempt {
            lines.push(format!("The server said: {}", plain(&attempt.text)));
        }
        let body = json!({ "text": lines.join("\n"), "unfurl_links": false });
        Ok(HttpRequest {
            method: "POST".to_owned(),
            headers: vec![("content-type".to_owned(), "application/json".to_owned())],
            body: body.to_string().into_bytes(),
        })
    }
}

/// What people want to be told of.
fn headline(event: &Event) -> Option<String> {
    let recipient = plain(&event.recipient);
    Some(match event.name.as_str() {
        "email.bounced" => format!(":warning: Mail to {recipient} bounced"),
        "email.failed" => format!(":warning: Mail to {recipient} failed"),
        "email.complained" => format!(":no_entry: {recipient} complained of spam"),
        "email.suppressed" => format!("Mail to {recipient} was not sent: the address is suppressed"),
        _ => return None,
    })
}

/// Strangers' text on one line, without Slack's markup.
fn plain(text: &str) -> String {
    let line = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(SHOWN).collect::<String>();
    line.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

export!(Component);
