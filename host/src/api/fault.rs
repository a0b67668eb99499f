//! Errors in the shape of the sending API (Resend's): `{"statusCode", "name", "message"}`.

use bytes::Bytes;
use delivery_client::wire::ErrorAnswer;
use http::{HeaderValue, Response, StatusCode, header};
use serde::Serialize;

/// Seconds after which a caller should try again.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("5");

/// A JSON answer.
pub fn json(status: StatusCode, value: &impl Serialize) -> Response<Bytes> {
    // Only a map with keys that are not text could fail, and none of ours has one.
    let body = serde_json::to_vec(value).unwrap_or_default();
    let mut response = Response::new(Bytes::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// An error. `text` is one sentence or two for people.
pub fn fault(status: StatusCode, name: &str, text: impl Into<String>) -> Response<Bytes> {
    json(status, &ErrorAnswer { status_code: status.as_u16(), name: name.to_owned(), message: text.into() })
}

/// 503 with `Retry-After`.
pub fn unavailable(text: &str) -> Response<Bytes> {
    let mut response = fault(StatusCode::SERVICE_UNAVAILABLE, "application_error", text);
    response.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER);
    response
}
