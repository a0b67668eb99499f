//! What a caller is told: Resend's shapes for success and for every error.

use contract::FindingClass;
use delivery_client::DeliveryError;
use delivery_client::wire::ErrorAnswer;
use http::header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};
use pipeline::Refusal;

use crate::json::JsonError;

/// Names the fields that were accepted and not acted on.
pub const IGNORED: HeaderName = HeaderName::from_static("x-posthaste-ignored");
/// What the stages had to say about a message that was sent all the same.
pub const WARNINGS: HeaderName = HeaderName::from_static("x-posthaste-warnings");
/// Bytes of a header of ours.
const HEADER_BYTES: usize = 2048;
/// Seconds a caller is told to wait where nobody knows better.
const RETRY_AFTER_S: u32 = 5;

/// An error in Resend's shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    pub status: u16,
    pub name: String,
    pub message: String,
    pub retry_after_s: Option<u32>,
    /// For the log: what the caller is not told.
    pub cause: Option<String>,
}

impl Error {
    pub fn new(status: u16, name: &str, message: impl Into<String>) -> Error {
        Error { status, name: name.to_owned(), message: message.into(), retry_after_s: None, cause: None }
    }

    /// What the host said of one message, in its own words.
    pub fn refused(status: u16, name: &str, text: String, retry_after_s: Option<u32>) -> Error {
        let retry_after_s = retry_after_s.or((status == 503).then_some(RETRY_AFTER_S));
        Error { retry_after_s, ..Error::new(status, name, text) }
    }

    /// Nothing is stored and the same request may pass later.
    pub fn later(cause: impl Into<String>, retry_after_s: u32) -> Error {
        let message = "the service cannot take the message now and nothing was stored: send it again later";
        Error {
            retry_after_s: Some(retry_after_s),
            cause: Some(cause.into()),
            ..Error::new(503, "application_error", message)
        }
    }

    /// Perhaps it was done. No time to try again is told: whoever repeats the request unseen may send the mail twice.
    fn lost(cause: String) -> Error {
        let message = "no answer came from the service, so this may have been done: look before you send it again \
                       (mail with an `Idempotency-Key` can be sent again as it is)";
        Error { cause: Some(cause), ..Error::new(502, "application_error", message) }
    }

    /// The same error, about one message of a batch.
    pub fn of_item(self, index: usize) -> Error {
        let prefix = format!("[{index}]");
        // An error in the JSON names the whole path.
        let is_named = self.message.contains(&format!("`{prefix}"));
        let message = if is_named { self.message } else { format!("`{prefix}`: {}", self.message) };
        Error { message, ..self }
    }

    pub fn not_found() -> Error {
        Error::new(404, "not_found", "there is no such resource")
    }

    pub fn missing_key() -> Error {
        Error::new(401, "missing_api_key", "the API key is missing: send it as `Authorization: Bearer KEY`")
    }

    pub fn invalid_key() -> Error {
        Error::new(403, "invalid_api_key", "the API key is not valid")
    }

    /// The answer to the caller.
    pub fn into_response(self) -> Response<Vec<u8>> {
        let Error { status, name, message, retry_after_s, cause: _ } = self;
        let body = serde_json::to_vec(&ErrorAnswer { status_code: status, name, message }).unwrap_or_default();
        let mut response = json(status, body);
        if let Some(seconds) = retry_after_s {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

impl From<JsonError> for Error {
    fn from(error: JsonError) -> Error {
        match error {
            JsonError::Syntax(text) => Error::new(400, "validation_error", text),
            JsonError::Missing(path) => {
                Error::new(422, "missing_required_field", format!("the field `{path}` is missing"))
            }
            JsonError::Wrong(path, text) => {
                // In a batch, the place of the message stands before its field.
                let field = match path.strip_prefix('[') {
                    Some(rest) => rest.split_once("].").map_or("", |(_, field)| field),
                    None => path.as_str(),
                };
                let name = match field.split(['.', '[']).next() {
                    Some("from") => "invalid_from_address",
                    Some("attachments") => "invalid_attachment",
                    Some(_) | None => "validation_error",
                };
                Error::new(422, name, format!("`{path}`: {text}"))
            }
        }
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Error {
        let (status, name) = refusal.http();
        match &refusal {
            Refusal::Refused(finding) => {
                let retry_after_s = (finding.class == FindingClass::Throttled).then_some(RETRY_AFTER_S);
                Error { retry_after_s, ..Error::new(status, name, refusal.text()) }
            }
            Refusal::Unavailable { stage, text } => Error {
                retry_after_s: Some(RETRY_AFTER_S),
                cause: Some(format!("{stage}: {text}")),
                ..Error::new(status, name, refusal.text())
            },
        }
    }
}

impl From<DeliveryError> for Error {
    fn from(error: DeliveryError) -> Error {
        match error {
            DeliveryError::Credential => Error::invalid_key(),
            DeliveryError::Refused { status, name, text, retry_after_s } => {
                Error { retry_after_s, ..Error::new(status, &name, text) }
            }
            DeliveryError::Unreachable { retry_after_s, .. } => Error::later(error.to_string(), retry_after_s),
            DeliveryError::Unanswered { .. } => Error::lost(error.to_string()),
            DeliveryError::Origin(_)
            | DeliveryError::DeliveryToken
            | DeliveryError::Seam(_)
            | DeliveryError::NoHost(_)
            | DeliveryError::StaleRevision
            | DeliveryError::Nonsense(_)
            | DeliveryError::Frame(_) => Error::later(error.to_string(), RETRY_AFTER_S),
        }
    }
}

/// A message was accepted.
pub fn sent(id: &str, ignored: &[&'static str], warnings: &[String]) -> Response<Vec<u8>> {
    accepted(&serde_json::json!({ "id": id }), ignored, warnings)
}

/// What was accepted, with what there is to say about it.
pub fn accepted(body: &serde_json::Value, ignored: &[&'static str], warnings: &[String]) -> Response<Vec<u8>> {
    let mut response = json(200, body.to_string().into_bytes());
    if !ignored.is_empty() {
        response.headers_mut().insert(IGNORED, header_text(&ignored.join(", ")));
    }
    if !warnings.is_empty() {
        response.headers_mut().insert(WARNINGS, header_text(&warnings.join("; ")));
    }
    response
}

/// There is such a resource, but not with this method.
pub fn method_not_allowed(allow: &'static str) -> Response<Vec<u8>> {
    let text = format!("use one of these methods: {allow}");
    let mut response = Error::new(405, "method_not_allowed", text).into_response();
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
    response
}

fn json(status: u16, body: Vec<u8>) -> Response<Vec<u8>> {
    let length = HeaderValue::from(body.len());
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(CONTENT_LENGTH, length);
    response
}

/// A text as the value of a header: printable ASCII, of a bounded length.
fn header_text(text: &str) -> HeaderValue {
    let clean: String = text.chars().take(HEADER_BYTES).map(|c| if matches!(c, ' '..='~') { c } else { '?' }).collect();
    HeaderValue::from_str(&clean).unwrap_or(HeaderValue::from_static("?"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn check(error: impl Into<Error>, status: u16, name: &str, message: &str) {
        let response = error.into().into_response();
        assert_eq!(response.status().as_u16(), status);
        assert_eq!(response.headers()[CONTENT_TYPE], "application/json");
        let body: ErrorAnswer = serde_json::from_slice(response.body()).unwrap();
        assert_eq!((body.status_code, body.name.as_str()), (status, name));
        assert!(body.message.contains(message), "{}", body.message);
    }

    #[test]
    fn errors_in_resends_shape() {
        let wrong = |path: &str| JsonError::Wrong(path.to_owned(), "why".to_owned());
        check(JsonError::Syntax("line 1".to_owned()), 400, "validation_error", "line 1");
        check(JsonError::Missing("to".to_owned()), 422, "missing_required_field", "`to` is missing");
        check(wrong("to[1]"), 422, "validation_error", "`to[1]`: why");
        check(wrong("from"), 422, "invalid_from_address", "`from`: why");
        check(wrong("attachments[0].content"), 422, "invalid_attachment", "`attachments[0].content`: why");
        check(wrong("[2].attachments[0].content"), 422, "invalid_attachment", "`[2].attachments[0].content`: why");
        check(wrong("[2].from"), 422, "invalid_from_address", "`[2].from`: why");
        check(wrong("[2]"), 422, "validation_error", "`[2]`: why");
        check(Error::from(wrong("[2].to")).of_item(2), 422, "validation_error", "`[2].to`: why");
        check(Error::new(403, "x", "no").of_item(2), 403, "x", "`[2]`: no");
        check(Refusal::new(FindingClass::TooLarge, None, "9 bytes"), 413, "validation_error", "9 bytes");
        check(DeliveryError::Credential, 403, "invalid_api_key", "not valid");
        let refused = |status, name: &str| DeliveryError::Refused {
            status,
            name: name.to_owned(),
            text: "used".to_owned(),
            retry_after_s: None,
        };
        check(refused(409, "invalid_idempotent_request"), 409, "invalid_idempotent_request", "used");
        for ours in [
            DeliveryError::DeliveryToken,
            DeliveryError::StaleRevision,
            DeliveryError::Seam("secret".to_owned()),
            DeliveryError::NoHost("secret".to_owned()),
            DeliveryError::Nonsense("secret".to_owned()),
            DeliveryError::Origin("secret".to_owned()),
        ] {
            check(ours, 503, "application_error", "again later");
        }
        assert!(!Error::later("secret", 1).message.contains("secret"));
    }

    #[test]
    fn waits_are_told() {
        let wait =
            |error: Error| error.into_response().headers().get(RETRY_AFTER).map(|v| v.to_str().unwrap().to_owned());
        assert_eq!(wait(Error::later("", 7)).as_deref(), Some("7"));
        assert_eq!(wait(Refusal::new(FindingClass::Throttled, None, "x").into()).as_deref(), Some("5"));
        assert_eq!(wait(Refusal::new(FindingClass::Policy, None, "x").into()), None);
    }

    #[test]
    fn success() {
        let response = sent("1-2", &[], &[]);
        assert_eq!(response.body().as_slice(), br#"{"id":"1-2"}"#);
        assert!(!response.headers().contains_key(IGNORED) && !response.headers().contains_key(WARNINGS));
        let response = sent("1", &["topic_id"], &["a\r\nb ü".to_owned(), "c".to_owned()]);
        assert_eq!(response.headers()[IGNORED], "topic_id");
        assert_eq!(response.headers()[WARNINGS], "a??b ?; c");
        assert_eq!(sent("1", &[], &["x".repeat(9999)]).headers()[WARNINGS].len(), HEADER_BYTES);
    }
}
