//! The trigger without a host: the shaper and the endpoint are doubles.

#![allow(clippy::unwrap_used)]

use std::cell::RefCell;

use contract::{Endpoint, Finding, FindingClass};
use delivery_client::HttpError;
use futures::executor::block_on;
use serde_json::{Value, json};

use super::*;

/// Answers every request alike and remembers them.
struct Web {
    answer: Result<Response<Vec<u8>>, HttpError>,
    seen: RefCell<Vec<Request<Vec<u8>>>>,
}

impl Http for &Web {
    async fn send(&self, request: Request<Vec<u8>>) -> Result<Response<Vec<u8>>, HttpError> {
        self.seen.borrow_mut().push(request);
        self.answer.clone()
    }
}

fn web(status: u16, headers: &[(&str, &str)], body: &[u8]) -> Web {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    Web { answer: Ok(response.body(body.to_vec()).unwrap()), seen: RefCell::default() }
}

struct Double(Result<HttpRequest, StageError>);

impl Shaper for Double {
    fn shape(&self, _: &ShaperInput) -> Result<HttpRequest, StageError> {
        self.0.clone()
    }
}

fn shaped(headers: &[(&str, &str)]) -> HttpRequest {
    let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    HttpRequest { method: "POST".to_owned(), headers, body: b"{}".to_vec() }
}

const GOOD: &[(&str, &str)] = &[(DELIVERY_TOKEN_HEADER, "secret"), (SEAM_HEADER, SEAM_VERSION)];

fn head(method: &str, path: &str, headers: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

fn input(url: &str) -> Vec<u8> {
    let endpoint = Endpoint { id: "ep_1".to_owned(), url: url.to_owned(), secrets: vec![] };
    serde_json::to_vec(&ShaperInput { endpoint, ..ShaperInput::default() }).unwrap()
}

fn ask(
    web: &Web,
    shaper: &Double,
    token: &str,
    head: &Parts,
    body: Result<Vec<u8>, BodyError>,
) -> (u16, Value, Option<String>) {
    let service = Service { http: web, shaper, token };
    let (response, cause) = block_on(service.answer(head, async |_| body));
    let value = serde_json::from_slice(response.body()).unwrap();
    assert_eq!(response.headers()[CONTENT_LENGTH], response.body().len().to_string());
    (response.status().as_u16(), value, cause)
}

fn deliver(web: &Web, shaper: Result<HttpRequest, StageError>, url: &str) -> Value {
    let (status, value, cause) = ask(web, &Double(shaper), "secret", &head("POST", NOTIFY_PATH, GOOD), Ok(input(url)));
    assert_eq!((status, cause), (200, None));
    value
}

#[test]
fn an_event_goes_out() {
    let web = web(200, &[], b"thanks");
    let headers =
        [("content-type", "application/json"), ("webhook-id", "1"), ("host", "evil.test"), ("content-length", "9")];
    let answer = deliver(&web, Ok(shaped(&headers)), "https://app.test:8443/hook?a=b");
    assert_eq!(answer, json!({"result": "answered", "status": 200, "retry_after": null, "head": "thanks"}));
    let seen = web.seen.borrow();
    assert_eq!(
        (seen[0].method().as_str(), seen[0].uri().to_string().as_str()),
        ("POST", "https://app.test:8443/hook?a=b")
    );
    let fields: Vec<_> =
        seen[0].headers().iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
    assert_eq!(fields, [("content-type", "application/json"), ("webhook-id", "1"), ("content-length", "2")]);
    assert_eq!(seen[0].body(), b"{}");
}

#[test]
fn answers_are_told_as_they_are() {
    let long = [b'x'; 2000];
    let answer = deliver(&web(503, &[("retry-after", "120")], &long), Ok(shaped(&[])), "http://app.test");
    let head = "x".repeat(NOTIFY_HEAD_BYTES);
    assert_eq!(answer, json!({"result": "answered", "status": 503, "retry_after": "120", "head": head}));
    let redirect = web(301, &[("location", "http://127.0.0.1/")], b"\xff");
    let answer = deliver(&redirect, Ok(shaped(&[])), "http://app.test");
    assert_eq!(answer, json!({"result": "answered", "status": 301, "retry_after": null, "head": "\u{fffd}"}));
    assert_eq!(redirect.seen.borrow().len(), 1, "a redirect is not followed");
    let gone = Web { answer: Err(HttpError::Unsent("ConnectionRefused".to_owned())), seen: RefCell::default() };
    let answer = deliver(&gone, Ok(shaped(&[])), "http://app.test");
    assert_eq!(answer, json!({"result": "unreachable", "cause": "ConnectionRefused"}));
}

#[test]
fn what_a_shaper_says() {
    let web = web(200, &[], b"");
    let finding = Finding {
        class: FindingClass::Policy,
        text: "bad secret".to_owned(),
        status: None,
        field: None,
        position: None,
    };
    let answer = deliver(&web, Err(StageError::Refused(finding)), "http://app.test");
    assert_eq!(answer, json!({"result": "refused", "text": "bad secret"}));
    let answer = deliver(&web, Err(StageError::Unavailable("trap".to_owned())), "http://app.test");
    assert_eq!(answer, json!({"result": "unavailable", "cause": "trap"}));
    assert!(web.seen.borrow().is_empty());
}

#[test]
fn requests_that_a_shaper_must_not_make() {
    let web = web(200, &[], b"");
    let check = |shaped: HttpRequest, expect: &str| {
        let answer = deliver(&web, Ok(shaped), "http://app.test");
        assert_eq!(answer, json!({"result": "unavailable", "cause": format!("the shaper's request: {expect}")}));
    };
    for name in ["connection", "transfer-encoding", "te", "upgrade", "keep-alive", "proxy-authorization", "expect"] {
        check(shaped(&[(name, "x")]), &format!("it must not set `{name}`"));
    }
    check(shaped(&[("a b", "x")]), "`a b` is not a header's name");
    check(shaped(&[("a", "x\r\ny: z")]), "`a` has a value that cannot be sent");
    check(HttpRequest { method: "GET".to_owned(), ..shaped(&[]) }, "its method must be POST or PUT");
    let large = HttpRequest { body: vec![0; SHAPED_BYTES + 1], ..shaped(&[]) };
    check(large, "its body has 262145 bytes: at most 262144 are allowed");
    assert!(web.seen.borrow().is_empty());
}

#[test]
fn addresses_that_are_no_endpoint() {
    let web = web(200, &[], b"");
    for url in ["", "app.test", "ftp://app.test/", "https://", "https://u:p@app.test/", "file:///etc/passwd", "/hook"] {
        let answer = deliver(&web, Ok(shaped(&[])), url);
        assert_eq!(answer["result"], "refused", "{url}");
    }
    assert!(web.seen.borrow().is_empty());
}

/// A request that is not taken: its status, its error's name, and whether it is logged. Its body is not read.
#[track_caller]
fn check_refused(token: &str, head: &Parts, status: u16, name: &str, is_logged: bool) {
    let web = web(200, &[], b"");
    let service = Service { http: &web, shaper: &Double(Ok(shaped(&[]))), token };
    let (response, cause) = block_on(service.answer(head, async |_| panic!("a stranger's body is read")));
    let error: ErrorAnswer = serde_json::from_slice(response.body()).unwrap();
    assert_eq!((response.status().as_u16(), error.status_code, error.name.as_str()), (status, status, name));
    assert_eq!(cause.is_some(), is_logged);
    assert!(web.seen.borrow().is_empty());
}

#[test]
fn strangers_are_refused() {
    let with = |token: &str| head("POST", NOTIFY_PATH, &[(DELIVERY_TOKEN_HEADER, token), (SEAM_HEADER, "1")]);
    check_refused("secret", &with("secre"), 403, INVALID_DELIVERY_TOKEN, false);
    check_refused("secret", &with("secret2"), 403, INVALID_DELIVERY_TOKEN, false);
    check_refused("secret", &with(""), 403, INVALID_DELIVERY_TOKEN, false);
    check_refused("secret", &head("POST", NOTIFY_PATH, &[]), 403, INVALID_DELIVERY_TOKEN, false);
    check_refused("", &with(""), 503, "application_error", true);
    check_refused("", &with("secret"), 503, "application_error", true);
}

#[test]
fn other_requests() {
    check_refused("secret", &head("GET", NOTIFY_PATH, GOOD), 405, "method_not_allowed", false);
    for path in ["/", "/notify/", "/notify/x", "/emails"] {
        check_refused("secret", &head("POST", path, GOOD), 404, "not_found", false);
    }
}

#[test]
fn versions_are_refused_by_name() {
    let token = (DELIVERY_TOKEN_HEADER, "secret");
    let name = UNSUPPORTED_SEAM;
    check_refused("secret", &head("POST", NOTIFY_PATH, &[token]), 400, name, false);
    let newer = head("POST", NOTIFY_PATH, &[token, (SEAM_HEADER, "2")]);
    check_refused("secret", &newer, 400, name, false);
    let (_, error, _) = ask(&web(200, &[], b""), &Double(Ok(shaped(&[]))), "secret", &newer, Ok(vec![]));
    assert_eq!(error["message"], "this edge speaks version 1 of the seam, not `2`");
}

#[test]
fn bodies_that_cannot_be_read() {
    let check = |body, status: u16, is_logged: bool| {
        let web = web(200, &[], b"");
        let head = head("POST", NOTIFY_PATH, GOOD);
        let (answered, error, cause) = ask(&web, &Double(Ok(shaped(&[]))), "secret", &head, body);
        assert_eq!((answered, &error["name"]), (status, &json!("validation_error")));
        assert_eq!(cause.is_some(), is_logged);
    };
    check(Err(BodyError::TooLarge), 413, false);
    check(Err(BodyError::Broken("gone".to_owned())), 400, true);
    for body in ["", "{}", "[]", "\u{0}"] {
        check(Ok(body.as_bytes().to_vec()), 400, false);
    }
}
