//! Paths, headers and records of `/delivery/v1/`.
//!
//! A request to `POST messages` is a row of frames, one a message (`frame`). The answer is a JSON array of
//! `MessageAnswer`, one a frame, in order. What is wrong with a request as a whole is answered with its status and an
//! `ErrorAnswer`: 401 where the credential (or the token that stands for it) is not good, 403 with
//! `INVALID_DELIVERY_TOKEN`, 400 with `UNSUPPORTED_SEAM`, 409 for a stale component revision, 429 and 503 with
//! `Retry-After`.

use serde::{Deserialize, Serialize};

pub use crate::frame::{Frame, FrameError, FrameLimits, decode_frames, encode_frame};

/// Version of the seam, sent by the edge in `SEAM_HEADER`.
pub const SEAM_VERSION: &str = "1";
pub const SEAM_HEADER: &str = "x-posthaste-seam";
/// The same at both ends; made by whoever serves the request first.
pub const REQUEST_ID_HEADER: &str = "x-posthaste-request-id";
/// Names the edge itself. Sent to `/delivery/` alone, never with a caller's own request; may be empty in-process.
pub const DELIVERY_TOKEN_HEADER: &str = "x-posthaste-delivery-token";
/// On a `POST /emails` that an edge hands over because it may not run the tenant's stages: the host runs them.
pub const HAND_OVER_HEADER: &str = "x-posthaste-hand-over";
/// Every header of ours begins so; those of a stranger's request are dropped.
pub const OUR_HEADERS: &str = "x-posthaste-";
pub const AUTH_PATH: &str = "/delivery/v1/auth";
pub const MESSAGES_PATH: &str = "/delivery/v1/messages";
pub const MESSAGES_TYPE: &str = "application/vnd.posthaste.messages";
/// The `name` of the 403 that an unknown delivery token gets.
pub const INVALID_DELIVERY_TOKEN: &str = "invalid_delivery_token";

/// The `name` of the 400 for a version of the seam that the host does not speak. Its text names both.
pub const UNSUPPORTED_SEAM: &str = "unsupported_seam";

/// The id that whoever served a request before gave it: a UUID with hyphens, in lower case. It is a label for logs and
/// proves nothing, so it is taken from anybody; what looks otherwise is not one of ours.
pub fn request_id(headers: &http::HeaderMap) -> Option<&str> {
    let id = headers.get(REQUEST_ID_HEADER)?.to_str().ok()?;
    let fits = |(place, byte): (usize, u8)| match place {
        8 | 13 | 18 | 23 => byte == b'-',
        _ => byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte),
    };
    (id.len() == 36 && id.bytes().enumerate().all(fits)).then_some(id)
}

/// Where an edge takes events, with the delivery token: `POST {edge}/notify`.
pub const NOTIFY_PATH: &str = "/notify";

/// What came of one try to deliver an event. The request's body is a `contract::ShaperInput` as JSON; the answer is 200
/// with this whatever the endpoint said, 403 with `INVALID_DELIVERY_TOKEN`, or 400 for a body that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "snake_case")]
pub enum NotifyAnswer {
    /// The endpoint answered. `retry_after` is its field as it stands; `head` the first `NOTIFY_HEAD_BYTES` of its body,
    /// bytes that are not UTF-8 replaced.
    Answered { status: u16, retry_after: Option<String>, head: String },
    /// No answer came: the address, the connection, TLS or the time. Tried again later.
    Unreachable { cause: String },
    /// The shaper will never make a request of this event for this endpoint.
    Refused { text: String },
    /// The shaper cannot tell now. Tried again later.
    Unavailable { cause: String },
}

/// Bytes of an endpoint's answer that are kept.
pub const NOTIFY_HEAD_BYTES: usize = 1024;

/// `POST auth`: the caller's credential, to be checked by the host.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "scheme", rename_all = "snake_case")]
pub enum AuthRequest {
    /// `Authorization: Bearer KEY`.
    Bearer { key: String },
}

/// Never prints the key.
impl std::fmt::Debug for AuthRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            AuthRequest::Bearer { .. } => f.write_str("Bearer"),
        }
    }
}

/// Who the caller is and what they may do. A wrong credential is 401 instead.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthAnswer {
    pub tenant: String,
    /// Stands for the credential in `POST messages`, as `Authorization: Bearer`. Short-lived.
    pub token: String,
    pub message_bytes: u64,
    pub recipients: usize,
    /// From domains that may be used; a subdomain of one may be used too.
    pub domains: Vec<String>,
    /// Any From domain may be used (a development host).
    pub any_domain: bool,
    /// Names of the streams that may be used; the first is that of a message which names none.
    #[serde(default)]
    pub streams: Vec<String>,
    /// Whether this edge may run the tenant's stages itself.
    pub run_stages: bool,
    /// To be repeated in every message; a stale one is 409.
    pub component_revision: u64,
}

/// `GET TEMPLATES_PATH/{id or alias}`: a published template of the tenant whose token stands in `Authorization`.
pub const TEMPLATES_PATH: &str = "/delivery/v1/templates";
/// `POST`: the host fetches a file from the web for the tenant whose token stands in `Authorization`. The answer is its
/// content, with its `Content-Type` and `FILE_NAME_HEADER` where they are known; 422 with an `ErrorAnswer` where not.
pub const FETCH_PATH: &str = "/delivery/v1/fetch";
/// The name of a fetched file, escaped as in a URL.
pub const FILE_NAME_HEADER: &str = "x-posthaste-file-name";

/// What is to be fetched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FetchRequest {
    /// `https:` or `http:`.
    pub url: String,
    /// A larger file is refused. The host's own limit counts besides.
    pub max_bytes: u64,
}

/// A stored template, as it was published.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TemplateAnswer {
    pub id: String,
    /// The mailbox in From, where the request has none.
    pub from: Option<String>,
    #[serde(default)]
    pub reply_to: Vec<String>,
    pub subject: Option<String>,
    pub html: Option<String>,
    pub text: Option<String>,
    #[serde(default)]
    pub variables: Vec<TemplateVariable>,
}

/// A template that is to be kept, or what changes in one: what a trigger has checked, in the body of `POST /templates`
/// and `PATCH /templates/{id}`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TemplateEdit {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alias: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub html: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variables: Option<Vec<TemplateVariable>>,
}

/// A variable that a template declares.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TemplateVariable {
    pub key: String,
    #[serde(rename = "type")]
    pub kind: VariableType,
    /// Taken where the request gives none; without it the request must.
    #[serde(rename = "fallback_value", default)]
    pub fallback: Option<serde_json::Value>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VariableType {
    String,
    Number,
}

/// Bytes of all messages of one request together, where one may have so many.
pub fn batch_bytes(message_bytes: u64) -> u64 {
    message_bytes.saturating_mul(2)
}

/// How far ahead a message may be scheduled.
pub const SCHEDULE_DAYS: i64 = 30;

/// What goes with the bytes of a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessageMeta {
    /// UUID, made by the edge, so that a request whose answer was lost can be repeated.
    pub id: String,
    /// The reverse path; absent for `<>`.
    pub sender: Option<String>,
    pub recipients: Vec<String>,
    /// Which of the recipients are in no header field.
    #[serde(default)]
    pub bcc: Vec<String>,
    #[serde(default)]
    pub attributes: Vec<(String, String)>,
    #[serde(default)]
    pub tags: Vec<(String, String)>,
    pub idempotency: Option<Idempotency>,
    pub component_revision: u64,
    /// When it is to be sent, in milliseconds since 1970; absent for at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduled_ms: Option<i64>,
    /// It is stored only if every message of the request is.
    #[serde(default)]
    pub with_all: bool,
}

/// An `Idempotency-Key` and what it was used for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Idempotency {
    /// At most 256 characters.
    pub key: String,
    /// Lower-case hexadecimal SHA-256 of the request body.
    pub digest: String,
    /// The message's place in that request, from 0.
    #[serde(default)]
    pub item: u32,
}

/// What became of one message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "snake_case")]
pub enum MessageAnswer {
    /// Durable. `id` is the message's, or that of the message the idempotency key was used for before.
    Accepted { id: String, replayed: bool },
    /// Not stored: the same HTTP status, name and text that the sending API shows.
    /// `retry_after_s`: the same message may pass then.
    Refused {
        status: u16,
        name: String,
        text: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_after_s: Option<u32>,
    },
}

/// An error in the shape of the sending API, for a request as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorAnswer {
    #[serde(rename = "statusCode")]
    pub status_code: u16,
    pub name: String,
    pub message: String,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn request_ids_are_uuids() {
        let check = |id: &str, fits: bool| {
            let headers = http::HeaderMap::from_iter([(REQUEST_ID_HEADER.parse().unwrap(), id.parse().unwrap())]);
            assert_eq!(request_id(&headers), fits.then_some(id), "{id}");
        };
        check("01890a5d-ac96-774b-bcce-b302099a8057", true);
        check("01890A5D-ac96-774b-bcce-b302099a8057", false);
        check("01890a5d-ac96-774b-bcce-b302099a805", false);
        check("01890a5d-ac96-774b-bcce-b302099a80577", false);
        check("01890a5dxac96-774b-bcce-b302099a8057", false);
        check("0189-0a5dac96-774b-bcce-b302099a8057", false);
        check("", false);
        assert_eq!(request_id(&http::HeaderMap::new()), None);
    }
}
