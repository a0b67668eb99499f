//! One try's way through the trigger: who asks, the event, its request, the endpoint's answer.

use contract::{HttpRequest, ShaperInput, StageError};
use delivery_client::Http;
use delivery_client::wire::{
    DELIVERY_TOKEN_HEADER, ErrorAnswer, INVALID_DELIVERY_TOKEN, NOTIFY_HEAD_BYTES, NOTIFY_PATH, NotifyAnswer,
    SEAM_HEADER, SEAM_VERSION, UNSUPPORTED_SEAM,
};
use http::header::{
    ALLOW, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HOST, HeaderName, HeaderValue, PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION, RETRY_AFTER, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use subtle::ConstantTimeEq;

/// Bytes of an event with its endpoint as JSON.
const INPUT_BYTES: usize = 512 << 10;

/// Bytes of a shaped body, as the contract has it.
const SHAPED_BYTES: usize = 256 << 10;

/// `posthaste:shaper`, as this trigger sees it.
pub trait Shaper {
    /// Shapes and signs one request.
    fn shape(&self, input: &ShaperInput) -> Result<HttpRequest, StageError>;
}

/// Why a body was not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BodyError {
    TooLarge,
    /// The caller went away or sent something that is not HTTP.
    Broken(String),
}

/// Everything that one try needs. Of the endpoint's answer `http` may leave all but the first `NOTIFY_HEAD_BYTES` of the
/// body away.
pub struct Service<'a, H, S> {
    pub http: H,
    pub shaper: &'a S,
    /// What callers must bring. Empty: nobody may call.
    pub token: &'a str,
}

impl<H: Http, S: Shaper> Service<'_, H, S> {
    /// Answers one request, whose `body` is read (at most so many bytes of it) once its caller is known. The second value
    /// is for the log, where something is wrong on this side.
    pub async fn answer(
        &self,
        head: &Parts,
        body: impl AsyncFnOnce(usize) -> Result<Vec<u8>, BodyError>,
    ) -> (Response<Vec<u8>>, Option<String>) {
        match self.route(head, body).await {
            Ok(answer) => (json(200, serde_json::to_vec(&answer)), None),
            Err(refusal) => (refusal.response(), refusal.cause),
        }
    }

    async fn route(
        &self,
        head: &Parts,
        body: impl AsyncFnOnce(usize) -> Result<Vec<u8>, BodyError>,
    ) -> Result<NotifyAnswer, Refusal> {
        if head.uri.path() != NOTIFY_PATH {
            return Err(Refusal::new(404, "not_found", "there is nothing here".to_owned()));
        }
        if head.method != Method::POST {
            return Err(Refusal::new(405, "method_not_allowed", "use POST".to_owned()));
        }
        self.check_caller(&head.headers)?;
        let body = body(INPUT_BYTES).await.map_err(|error| match error {
            BodyError::TooLarge => {
                Refusal::new(413, "validation_error", format!("the event has more than {INPUT_BYTES} bytes"))
            }
            BodyError::Broken(cause) => Refusal {
                cause: Some(cause),
                ..Refusal::new(400, "validation_error", "the request's body broke off".to_owned())
            },
        })?;
        let input: ShaperInput = serde_json::from_slice(&body)
            .map_err(|error| Refusal::new(400, "validation_error", format!("the event cannot be read: {error}")))?;
        Ok(self.deliver(&input).await)
    }

    /// The token first: a stranger learns nothing, and costs nothing.
    fn check_caller(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        if self.token.is_empty() {
            let cause = "the variable `delivery_token` is missing or empty: nobody may send events here";
            return Err(Refusal {
                cause: Some(cause.to_owned()),
                ..Refusal::new(503, "application_error", "this edge is not set up to take events".to_owned())
            });
        }
        let given = headers.get(DELIVERY_TOKEN_HEADER).map_or(&[][..], HeaderValue::as_bytes);
        if !bool::from(given.ct_eq(self.token.as_bytes())) {
            let text =
                "the delivery token is not this edge's: give the host's `[edge]` the edge's own `delivery_token`"
                    .to_owned();
            return Err(Refusal::new(403, INVALID_DELIVERY_TOKEN, text));
        }
        match headers.get(SEAM_HEADER).map(HeaderValue::as_bytes) {
            Some(version) if version == SEAM_VERSION.as_bytes() => Ok(()),
            Some(version) => {
                let version = String::from_utf8_lossy(version);
                let text = format!("this edge speaks version {SEAM_VERSION} of the seam, not `{version}`");
                Err(Refusal::new(400, UNSUPPORTED_SEAM, text))
            }
            None => Err(Refusal::new(400, UNSUPPORTED_SEAM, format!("the header `{SEAM_HEADER}` is missing"))),
        }
    }

    async fn deliver(&self, input: &ShaperInput) -> NotifyAnswer {
        let shaped = match self.shaper.shape(input) {
            Ok(shaped) => shaped,
            Err(StageError::Refused(finding)) => return NotifyAnswer::Refused { text: finding.text },
            Err(StageError::Unavailable(cause)) => return NotifyAnswer::Unavailable { cause },
        };
        let Some(uri) = target(&input.endpoint.url) else {
            let text = format!("endpoint {}: its URL must be http or https, with a host", input.endpoint.id);
            return NotifyAnswer::Refused { text };
        };
        let request = match outgoing(uri, shaped) {
            Ok(request) => request,
            // The fault of a shaper, which can be replaced: the event is not lost.
            Err(fault) => return NotifyAnswer::Unavailable { cause: format!("the shaper's request: {fault}") },
        };
        match self.http.send(request).await {
            Ok(response) => answered(&response),
            Err(error) => NotifyAnswer::Unreachable { cause: error.to_string() },
        }
    }
}

/// The endpoint's address. Credentials in it would never be sent, so they are refused.
fn target(url: &str) -> Option<Uri> {
    let uri: Uri = url.parse().ok()?;
    let is_web = matches!(uri.scheme_str(), Some("http" | "https"));
    let authority = uri.authority()?;
    (is_web && !authority.host().is_empty() && !authority.as_str().contains('@')).then_some(uri)
}

/// The shaper's request as it goes out: with its own length, and nothing that belongs to the connection.
fn outgoing(uri: Uri, shaped: HttpRequest) -> Result<Request<Vec<u8>>, String> {
    if !["POST", "PUT"].contains(&shaped.method.as_str()) {
        return Err("its method must be POST or PUT".to_owned());
    }
    if shaped.body.len() > SHAPED_BYTES {
        return Err(format!("its body has {} bytes: at most {SHAPED_BYTES} are allowed", shaped.body.len()));
    }
    let mut request = Request::builder().method(shaped.method.as_str()).uri(uri);
    for (name, value) in &shaped.headers {
        let name: HeaderName = name.parse().map_err(|_| format!("`{name}` is not a header's name"))?;
        if name == HOST || name == CONTENT_LENGTH {
            continue;
        }
        if is_of_one_hop(&name) {
            return Err(format!("it must not set `{name}`"));
        }
        let value = HeaderValue::from_str(value).map_err(|_| format!("`{name}` has a value that cannot be sent"))?;
        request = request.header(name, value);
    }
    request.header(CONTENT_LENGTH, shaped.body.len()).body(shaped.body).map_err(|error| error.to_string())
}

/// RFC 9110 s7.6.1, and what asks for an answer before the body.
fn is_of_one_hop(name: &HeaderName) -> bool {
    [CONNECTION, EXPECT, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE]
        .contains(name)
        || matches!(name.as_str(), "keep-alive" | "proxy-connection")
}

/// A redirect is an answer like any other: it is never followed.
fn answered(response: &Response<Vec<u8>>) -> NotifyAnswer {
    let retry_after = response.headers().get(RETRY_AFTER);
    let head = &response.body()[..response.body().len().min(NOTIFY_HEAD_BYTES)];
    NotifyAnswer::Answered {
        status: response.status().as_u16(),
        retry_after: retry_after.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()),
        head: String::from_utf8_lossy(head).into_owned(),
    }
}

/// A request that was not taken.
struct Refusal {
    answer: ErrorAnswer,
    /// For the log.
    cause: Option<String>,
}

impl Refusal {
    fn new(status_code: u16, name: &str, message: String) -> Refusal {
        Refusal { answer: ErrorAnswer { status_code, name: name.to_owned(), message }, cause: None }
    }

    fn response(&self) -> Response<Vec<u8>> {
        let mut response = json(self.answer.status_code, serde_json::to_vec(&self.answer));
        match self.answer.status_code {
            405 => response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST")),
            503 => response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("60")),
            _ => None,
        };
        response
    }
}

fn json(status: u16, body: serde_json::Result<Vec<u8>>) -> Response<Vec<u8>> {
    let body = body.unwrap_or_default();
    let length = HeaderValue::from(body.len());
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(CONTENT_LENGTH, length);
    response
}

#[cfg(test)]
#[path = "service_tests.rs"]
mod tests;
