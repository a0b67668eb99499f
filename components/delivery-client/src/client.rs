//! The calls an edge makes, over whatever sends HTTP for it.
//!
//! Every request carries the seam's version, the request's id and a `content-length` (Spin sends chunked bodies
//! otherwise). The delivery token goes to `/delivery/` only: a caller's own request travels with the caller's own
//! credentials and nothing of ours.

use std::future::Future;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode, Uri};
use thiserror::Error;

use crate::frame::{FrameError, encode_frame};
use crate::wire::{
    AUTH_PATH, AuthAnswer, AuthRequest, DELIVERY_TOKEN_HEADER, ErrorAnswer, FETCH_PATH, HAND_OVER_HEADER,
    INVALID_DELIVERY_TOKEN, MESSAGES_PATH, MESSAGES_TYPE, MessageAnswer, MessageMeta, OUR_HEADERS, REQUEST_ID_HEADER,
    SEAM_HEADER, SEAM_VERSION, UNSUPPORTED_SEAM,
};

/// Seconds a caller is told to wait where the host did not say how long.
const RETRY_AFTER_S: u32 = 5;

/// Sends one request and collects its answer.
pub trait Http {
    fn send(&self, request: Request<Vec<u8>>) -> impl Future<Output = Result<Response<Vec<u8>>, HttpError>>;
}

/// No answer came. The texts are for the log.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum HttpError {
    /// The request was never sent.
    #[error("{0}")]
    Unsent(String),
    /// It may have arrived: nobody knows whether it was done.
    #[error("{0}")]
    Unanswered(String),
}

/// Where the host is and how the edge proves itself.
#[derive(Clone, PartialEq, Eq)]
pub struct Settings {
    /// A bare origin, `https://mail.example.org:8443`, with no slash behind it.
    origin: String,
    /// May be empty, in-process.
    token: String,
}

/// Why the host did not do what it was asked, by what the caller does next.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DeliveryError {
    /// The setting is wrong; the operator corrects it.
    #[error("`delivery_url` must be a bare origin such as https://mail.example.org, without a path: it is `{0}`")]
    Origin(String),
    /// The host does not know this edge; the operator corrects `delivery_token`.
    #[error("the host does not accept this edge's delivery token")]
    DeliveryToken,
    /// The two sides speak different versions; the operator updates one. The text is the host's and names both.
    #[error("the host does not understand this edge: {0}")]
    Seam(String),
    /// What answers has no delivery API; the operator corrects `delivery_url`.
    #[error("what answers at `delivery_url` is no host of this service: {0}")]
    NoHost(String),
    /// The caller's credential is wrong; or the token that stood for it is no longer good.
    #[error("the credential is not good")]
    Credential,
    /// The tenant's components changed since `auth`: ask anew.
    #[error("the tenant's components have changed")]
    StaleRevision,
    /// The host said no, in words for the sender.
    #[error("the host answered {status}: {text}")]
    Refused { status: u16, name: String, text: String, retry_after_s: Option<u32> },
    /// Nothing was stored, and the host says to come again or is not there: the sender tries again after this time.
    #[error("the host is away or busy: {cause}")]
    Unreachable { cause: String, retry_after_s: u32 },
    /// The host may have done what it was asked and its answer got lost: the sender looks before trying again.
    #[error("the host's answer got lost: {cause}")]
    Unanswered { cause: String },
    /// An answer that is not in the wire form: the two sides are of different versions.
    #[error("the host's answer cannot be read: {0}")]
    Nonsense(String),
    /// The message does not fit into a frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
}

impl Settings {
    /// Checks that the address is a bare origin; a slash at its end is taken off.
    pub fn new(delivery_url: &str, delivery_token: &str) -> Result<Settings, DeliveryError> {
        let wrong = || DeliveryError::Origin(delivery_url.to_owned());
        let origin = delivery_url.trim().trim_end_matches('/');
        let uri: Uri = origin.parse().map_err(|_| wrong())?;
        let bare = matches!(uri.scheme_str(), Some("http" | "https"))
            && uri.authority().is_some_and(|authority| !authority.as_str().contains('@'))
            && uri.path() == "/"
            && uri.query().is_none();
        if !bare {
            return Err(wrong());
        }
        Ok(Settings { origin: origin.to_owned(), token: delivery_token.trim().to_owned() })
    }
}

/// One request's way to the host.
pub struct Client<H> {
    http: H,
    settings: Settings,
    request_id: String,
}

impl<H: Http> Client<H> {
    /// `request_id` goes with every call, so that the logs of both sides name the same request.
    pub fn new(http: H, settings: Settings, request_id: String) -> Client<H> {
        Client { http, settings, request_id }
    }

    /// Asks the host who the caller is. `Credential` where nobody.
    pub async fn auth(&self, credential: &AuthRequest) -> Result<AuthAnswer, DeliveryError> {
        let body = serde_json::to_vec(credential).map_err(|error| DeliveryError::Nonsense(error.to_string()))?;
        let response = self.call(Method::POST, AUTH_PATH, "application/json", None, body).await?;
        read(&expect_ok(response)?)
    }

    /// Hands over one message. `token` is the one of `auth`.
    pub async fn send(
        &self,
        token: &str,
        meta: &MessageMeta,
        message: Vec<u8>,
    ) -> Result<MessageAnswer, DeliveryError> {
        let mut answers = self.send_frames(token, encode_frame(meta, message)?, 1).await?;
        answers.pop().ok_or_else(|| DeliveryError::Nonsense("no message was answered".to_owned()))
    }

    /// Hands over messages as frames, one behind the other (`frame`); the answers stand in order, one for each.
    pub async fn send_frames(
        &self,
        token: &str,
        frames: Vec<u8>,
        count: usize,
    ) -> Result<Vec<MessageAnswer>, DeliveryError> {
        let response = self.call(Method::POST, MESSAGES_PATH, MESSAGES_TYPE, Some(token), frames).await?;
        if response.status() == StatusCode::CONFLICT {
            return Err(DeliveryError::StaleRevision);
        }
        if matches!(response.status(), StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT) {
            // A gateway between the two sides: what it handed on before, only the host knows.
            return Err(DeliveryError::Unanswered { cause: format!("status {}", response.status().as_u16()) });
        }
        // A 200 that cannot be read is one all the same.
        let lost = |cause: String| DeliveryError::Unanswered { cause };
        let answers: Vec<MessageAnswer> =
            serde_json::from_slice(&expect_ok(response)?).map_err(|error| lost(error.to_string()))?;
        match answers.len() {
            answered if answered == count => Ok(answers),
            answered => Err(lost(format!("{count} messages were sent, {answered} answered"))),
        }
    }

    /// Passes a request on with its caller's own credentials, and the answer back.
    pub async fn pass_through(&self, request: Request<Vec<u8>>) -> Result<Response<Vec<u8>>, DeliveryError> {
        self.forward(request, false).await
    }

    /// Hands a whole `POST /emails` to the host, which runs the tenant's stages itself.
    pub async fn hand_over(&self, request: Request<Vec<u8>>) -> Result<Response<Vec<u8>>, DeliveryError> {
        self.forward(request, true).await
    }

    async fn forward(&self, request: Request<Vec<u8>>, hand_over: bool) -> Result<Response<Vec<u8>>, DeliveryError> {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        let mut forwarded = self.request(parts.method, path, body)?;
        for (name, value) in &parts.headers {
            if travels(name) {
                forwarded.headers_mut().append(name.clone(), value.clone());
            }
        }
        if hand_over {
            forwarded.headers_mut().insert(HAND_OVER_HEADER, HeaderValue::from_static("1"));
        }
        let mut response = self.exchange(forwarded).await?;
        strip(response.headers_mut());
        Ok(response)
    }

    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        content_type: &'static str,
        token: Option<&str>,
        body: Vec<u8>,
    ) -> Result<Response<Vec<u8>>, DeliveryError> {
        let mut request = self.request(method, path, body)?;
        let headers = request.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        if !self.settings.token.is_empty() {
            headers.insert(DELIVERY_TOKEN_HEADER, secret(&self.settings.token)?);
        }
        if let Some(token) = token {
            headers.insert(header::AUTHORIZATION, secret(&format!("Bearer {token}"))?);
        }
        self.exchange(request).await
    }

    fn request(&self, method: Method, path: &str, body: Vec<u8>) -> Result<Request<Vec<u8>>, DeliveryError> {
        Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.settings.origin))
            .header(SEAM_HEADER, SEAM_VERSION)
            .header(REQUEST_ID_HEADER, &self.request_id)
            .header(header::CONTENT_LENGTH, body.len())
            .body(body)
            .map_err(|error| DeliveryError::Nonsense(error.to_string()))
    }

    async fn exchange(&self, request: Request<Vec<u8>>) -> Result<Response<Vec<u8>>, DeliveryError> {
        let leaves_a_trace = leaves_a_trace(&request);
        self.http.send(request).await.map_err(|error| match error {
            HttpError::Unanswered(cause) if leaves_a_trace => DeliveryError::Unanswered { cause },
            HttpError::Unsent(cause) | HttpError::Unanswered(cause) => {
                DeliveryError::Unreachable { cause, retry_after_s: RETRY_AFTER_S }
            }
        })
    }
}

/// Whether a request may store something: not where it only asks.
fn leaves_a_trace(request: &Request<Vec<u8>>) -> bool {
    !request.method().is_safe() && ![AUTH_PATH, FETCH_PATH].contains(&request.uri().path())
}

/// The body of a 200; everything else becomes the error that its status says.
pub(crate) fn expect_ok(response: Response<Vec<u8>>) -> Result<Vec<u8>, DeliveryError> {
    let status = response.status();
    if status == StatusCode::OK {
        return Ok(response.into_body());
    }
    let retry_after_s = response
        .headers()
        .get(header::RETRY_AFTER)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.trim().parse().ok());
    let Ok(error) = serde_json::from_slice::<ErrorAnswer>(response.body()) else {
        // A gateway between the two sides answers in a form of its own.
        let cause = format!("status {} without an error of ours", status.as_u16());
        return Err(match status {
            StatusCode::UNAUTHORIZED => DeliveryError::Credential,
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => DeliveryError::NoHost(cause),
            status if status.is_redirection() => DeliveryError::NoHost(cause),
            status if status.is_server_error() => {
                DeliveryError::Unreachable { cause, retry_after_s: retry_after_s.unwrap_or(RETRY_AFTER_S) }
            }
            _ => DeliveryError::Nonsense(cause),
        });
    };
    Err(match status {
        StatusCode::FORBIDDEN if error.name == INVALID_DELIVERY_TOKEN => DeliveryError::DeliveryToken,
        StatusCode::UNAUTHORIZED => DeliveryError::Credential,
        StatusCode::BAD_REQUEST if error.name == UNSUPPORTED_SEAM => DeliveryError::Seam(error.message),
        // Nothing that a sender did: what we wrote is not what the host reads.
        StatusCode::BAD_REQUEST => DeliveryError::Nonsense(error.message),
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => DeliveryError::NoHost(error.message),
        StatusCode::SERVICE_UNAVAILABLE => {
            DeliveryError::Unreachable { cause: error.message, retry_after_s: retry_after_s.unwrap_or(RETRY_AFTER_S) }
        }
        _ => DeliveryError::Refused { status: status.as_u16(), name: error.name, text: error.message, retry_after_s },
    })
}

pub(crate) fn read<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, DeliveryError> {
    serde_json::from_slice(body).map_err(|error| DeliveryError::Nonsense(error.to_string()))
}

fn secret(text: &str) -> Result<HeaderValue, DeliveryError> {
    let mut value = HeaderValue::from_str(text).map_err(|error| DeliveryError::Nonsense(error.to_string()))?;
    value.set_sensitive(true);
    Ok(value)
}

/// Whether a field of a stranger's request goes on to the host: not what belongs to one connection (RFC 9110 s7.6.1),
/// not what is written anew, and nothing that only we may say.
fn travels(name: &HeaderName) -> bool {
    !is_of_one_hop(name) && *name != header::EXPECT && !name.as_str().starts_with(OUR_HEADERS)
}

fn is_of_one_hop(name: &HeaderName) -> bool {
    [
        header::CONNECTION,
        header::CONTENT_LENGTH,
        header::HOST,
        header::PROXY_AUTHENTICATE,
        header::PROXY_AUTHORIZATION,
        header::TE,
        header::TRAILER,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
    ]
    .contains(name)
        || matches!(name.as_str(), "keep-alive" | "proxy-connection")
}

/// Takes what belongs to the connection to the host out of its answer.
fn strip(headers: &mut HeaderMap) {
    let names: Vec<HeaderName> = headers.keys().filter(|name| is_of_one_hop(name)).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::cell::RefCell;

    use futures::executor::block_on;

    use super::*;
    use crate::frame::{FrameLimits, decode_frames};
    use crate::wire::FetchRequest;

    /// Answers every request alike and remembers them.
    struct Host {
        answer: Result<(u16, &'static str, &'static str), HttpError>,
        seen: RefCell<Vec<Request<Vec<u8>>>>,
    }

    impl Http for &Host {
        async fn send(&self, request: Request<Vec<u8>>) -> Result<Response<Vec<u8>>, HttpError> {
            self.seen.borrow_mut().push(request);
            let (status, retry_after, body) = self.answer.clone()?;
            let mut response = Response::builder().status(status).header("transfer-encoding", "chunked");
            if !retry_after.is_empty() {
                response = response.header("retry-after", retry_after);
            }
            Ok(response.body(body.as_bytes().to_vec()).unwrap())
        }
    }

    fn host(status: u16, retry_after: &'static str, body: &'static str) -> Host {
        Host { answer: Ok((status, retry_after, body)), seen: RefCell::default() }
    }

    fn client(host: &Host) -> Client<&Host> {
        Client::new(host, Settings::new("http://host.test:8080/", "edge").unwrap(), "req-1".to_owned())
    }

    fn header<'a>(request: &'a Request<Vec<u8>>, name: &str) -> Option<&'a str> {
        request.headers().get(name).map(|value| value.to_str().unwrap())
    }

    const KEY: fn() -> AuthRequest = || AuthRequest::Bearer { key: "re_1".to_owned() };
    const ANSWER: &str = r#"{"tenant":"default","token":"t","message_bytes":1,"recipients":2,"domains":["src.test"],
        "any_domain":false,"run_stages":true,"component_revision":7}"#;

    fn meta() -> MessageMeta {
        MessageMeta {
            id: "1".to_owned(),
            sender: None,
            recipients: vec!["b@dst.test".to_owned()],
            bcc: vec![],
            attributes: vec![],
            tags: vec![],
            idempotency: None,
            component_revision: 7,
            scheduled_ms: None,
            with_all: false,
        }
    }

    #[test]
    fn origins() {
        for good in ["http://127.0.0.1:1", "https://mail.test", "https://mail.test/", " https://[::1]:8 "] {
            assert!(Settings::new(good, "").is_ok(), "{good}");
        }
        for bad in ["", "mail.test", "ftp://mail.test", "https://mail.test/x", "https://m.test?x", "https://u:p@m.test"]
        {
            assert_eq!(Settings::new(bad, "").err(), Some(DeliveryError::Origin(bad.to_owned())), "{bad}");
        }
    }

    #[test]
    fn auth_carries_what_the_seam_wants() {
        let host = host(200, "", ANSWER);
        let answer = block_on(client(&host).auth(&KEY())).unwrap();
        assert_eq!((answer.tenant.as_str(), answer.component_revision), ("default", 7));
        let seen = host.seen.borrow();
        assert_eq!(seen[0].uri(), "http://host.test:8080/delivery/v1/auth");
        assert_eq!(seen[0].body().as_slice(), br#"{"scheme":"bearer","key":"re_1"}"#);
        assert_eq!(header(&seen[0], SEAM_HEADER), Some("1"));
        assert_eq!(header(&seen[0], REQUEST_ID_HEADER), Some("req-1"));
        assert_eq!(header(&seen[0], DELIVERY_TOKEN_HEADER), Some("edge"));
        assert_eq!(header(&seen[0], "content-length"), Some("32"));
        assert!(!format!("{:?} {:?}", KEY(), seen[0].headers()).contains("re_1"));
    }

    #[test]
    fn a_message_travels_in_a_frame() {
        let host = host(200, "", r#"[{"result":"accepted","id":"1","replayed":false}]"#);
        let answer = block_on(client(&host).send("t", &meta(), b"A: b\r\n\r\nc".to_vec())).unwrap();
        assert_eq!(answer, MessageAnswer::Accepted { id: "1".to_owned(), replayed: false });
        let seen = host.seen.borrow();
        assert_eq!(header(&seen[0], "authorization"), Some("Bearer t"));
        assert_eq!(header(&seen[0], "content-type"), Some(MESSAGES_TYPE));
        assert_eq!(header(&seen[0], "content-length"), Some(seen[0].body().len().to_string().as_str()));
        let limits = FrameLimits { frames: 1, meta_bytes: 1024, message_bytes: 1024 };
        let frames = decode_frames(seen[0].body(), limits).unwrap();
        assert_eq!((&frames[0].meta, frames[0].message), (&meta(), b"A: b\r\n\r\nc".as_slice()));
    }

    fn send(host: &Host) -> DeliveryError {
        block_on(client(host).send("t", &meta(), vec![])).unwrap_err()
    }

    #[test]
    fn errors_by_what_follows() {
        let refused = |status, name: &str, text: &str, retry_after_s| DeliveryError::Refused {
            status,
            name: name.to_owned(),
            text: text.to_owned(),
            retry_after_s,
        };
        let table: [(Host, DeliveryError); 14] = [
            (host(401, "", ""), DeliveryError::Credential),
            (host(401, "", r#"{"statusCode":401,"name":"x","message":"y"}"#), DeliveryError::Credential),
            (
                host(403, "", r#"{"statusCode":403,"name":"invalid_delivery_token","message":"y"}"#),
                DeliveryError::DeliveryToken,
            ),
            (host(403, "", r#"{"statusCode":403,"name":"x","message":"y"}"#), refused(403, "x", "y", None)),
            (
                host(400, "", r#"{"statusCode":400,"name":"unsupported_seam","message":"2, not 1"}"#),
                DeliveryError::Seam("2, not 1".to_owned()),
            ),
            (
                host(400, "", r#"{"statusCode":400,"name":"validation_error","message":"cut short"}"#),
                DeliveryError::Nonsense("cut short".to_owned()),
            ),
            (
                host(404, "", r#"{"statusCode":404,"name":"not_found","message":"nothing"}"#),
                DeliveryError::NoHost("nothing".to_owned()),
            ),
            (host(301, "", ""), DeliveryError::NoHost("status 301 without an error of ours".to_owned())),
            (host(409, "", "whatever"), DeliveryError::StaleRevision),
            (host(429, "3", r#"{"statusCode":429,"name":"x","message":"y"}"#), refused(429, "x", "y", Some(3))),
            (
                host(503, "9", r#"{"statusCode":503,"name":"x","message":"full"}"#),
                DeliveryError::Unreachable { cause: "full".to_owned(), retry_after_s: 9 },
            ),
            (
                host(500, "", "<html>"),
                DeliveryError::Unreachable {
                    cause: "status 500 without an error of ours".to_owned(),
                    retry_after_s: 5,
                },
            ),
            (host(502, "", "<html>"), DeliveryError::Unanswered { cause: "status 502".to_owned() }),
            (host(504, "", ""), DeliveryError::Unanswered { cause: "status 504".to_owned() }),
        ];
        for (host, expect) in table {
            assert_eq!(send(&host), expect);
        }
        let gone = Host { answer: Err(HttpError::Unsent("refused".to_owned())), seen: RefCell::default() };
        assert_eq!(send(&gone), DeliveryError::Unreachable { cause: "refused".to_owned(), retry_after_s: 5 });
        for body in ["", "[]", "{}", r#"[{"result":"x"}]"#] {
            assert!(matches!(send(&host(200, "", body)), DeliveryError::Unanswered { .. }), "{body}");
        }
        let two =
            r#"[{"result":"accepted","id":"1","replayed":false},{"result":"accepted","id":"2","replayed":false}]"#;
        assert!(matches!(send(&host(200, "", two)), DeliveryError::Unanswered { .. }));
    }

    /// Whether the sender may simply try again depends on what was asked.
    #[test]
    fn a_lost_answer_leaves_open_what_was_stored() {
        let lost = Host { answer: Err(HttpError::Unanswered("reset".to_owned())), seen: RefCell::default() };
        let unanswered = DeliveryError::Unanswered { cause: "reset".to_owned() };
        let unreachable = DeliveryError::Unreachable { cause: "reset".to_owned(), retry_after_s: 5 };
        assert_eq!(send(&lost), unanswered);
        assert_eq!(block_on(client(&lost).auth(&KEY())).unwrap_err(), unreachable);
        assert_eq!(block_on(client(&lost).template("t", "order")).unwrap_err(), unreachable);
        let file = FetchRequest { url: "https://files.test/a".to_owned(), max_bytes: 1 };
        assert_eq!(block_on(client(&lost).fetch("t", &file)).unwrap_err(), unreachable);
        for (method, expect) in
            [(Method::GET, &unreachable), (Method::POST, &unanswered), (Method::DELETE, &unanswered)]
        {
            let request = Request::builder().method(method).uri("/webhooks").body(vec![]).unwrap();
            assert_eq!(block_on(client(&lost).pass_through(request)).unwrap_err(), *expect);
        }
    }

    #[test]
    fn a_callers_request_travels_with_its_own_credentials_only() {
        let host = host(404, "", "gone");
        let request = || {
            Request::get("https://edge.test/emails/1/events?limit=2")
                .header("authorization", "Bearer re_1")
                .header("host", "edge.test")
                .header("connection", "keep-alive")
                .header("x-posthaste-delivery-token", "stolen")
                .header("x-posthaste-hand-over", "1")
                .header("x-posthaste-request-id", "forged")
                .header("accept", "a")
                .header("accept", "b")
                .body(vec![])
                .unwrap()
        };
        let response = block_on(client(&host).pass_through(request())).unwrap();
        assert_eq!((response.status().as_u16(), response.body().as_slice()), (404, b"gone".as_slice()));
        assert!(response.headers().is_empty());
        block_on(client(&host).hand_over(request())).unwrap();
        let seen = host.seen.borrow();
        assert_eq!(seen[0].uri(), "http://host.test:8080/emails/1/events?limit=2");
        assert_eq!(header(&seen[0], "authorization"), Some("Bearer re_1"));
        assert_eq!(header(&seen[0], REQUEST_ID_HEADER), Some("req-1"));
        assert_eq!(seen[0].headers().get_all("accept").iter().count(), 2);
        for absent in [DELIVERY_TOKEN_HEADER, HAND_OVER_HEADER, "host", "connection"] {
            assert_eq!(header(&seen[0], absent), None, "{absent}");
        }
        assert_eq!(header(&seen[1], HAND_OVER_HEADER), Some("1"));
        assert_eq!(header(&seen[1], DELIVERY_TOKEN_HEADER), None);
    }
}
