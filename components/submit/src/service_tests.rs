//! Requests answered with a double for the host and stages that run natively.
#![allow(clippy::unwrap_used)]

use std::cell::RefCell;

use contract::{
    Acceptance, Finding, FindingClass, RawHeader, Rendered, RendererInput, Signatures, SignerInput, StageError,
    Transformed, TransformerInput, ValidatorInput, Wants,
};
use delivery_client::wire::{
    AUTH_PATH, DELIVERY_TOKEN_HEADER, ErrorAnswer, FrameLimits, MESSAGES_PATH, REQUEST_ID_HEADER, decode_frames,
};
use delivery_client::{HttpError, Settings};
use futures::executor::block_on;

use super::*;

const ID: &str = "01890a5d-ac96-774b-bcce-b302099a8057";
const LEAST: &str = r#"{"from":"Acme <a@src.test>","to":["b@dst.test"],"subject":"Hi","text":"x"}"#;

/// The host: answers `auth` and `messages` from two lists, each answer once and the last one for ever. With the status 0
/// an answer gets lost.
pub(crate) struct Host {
    pub(crate) auth: RefCell<Vec<(u16, String)>>,
    pub(crate) messages: RefCell<Vec<(u16, String)>>,
    /// Answers to templates and files, by path: status and body.
    pub(crate) resources: Vec<(&'static str, u16, String)>,
    pub(crate) seen: RefCell<Vec<Request<Vec<u8>>>>,
    pub(crate) gone: bool,
}

impl Http for &Host {
    async fn send(&self, request: Request<Vec<u8>>) -> Result<Response<Vec<u8>>, HttpError> {
        if self.gone {
            return Err(HttpError::Unsent("connection refused".to_owned()));
        }
        let path = request.uri().path().to_owned();
        self.seen.borrow_mut().push(request);
        let next = |answers: &RefCell<Vec<(u16, String)>>| {
            let mut answers = answers.borrow_mut();
            if answers.len() > 1 { answers.remove(0) } else { answers[0].clone() }
        };
        let (status, body) = match path.as_str() {
            AUTH_PATH => next(&self.auth),
            MESSAGES_PATH => next(&self.messages),
            path => match self.resources.iter().find(|(known, _, _)| *known == path) {
                Some((_, status, body)) => (*status, body.clone()),
                None => (200, format!("host: {path}")),
            },
        };
        match status {
            0 => Err(HttpError::Unanswered(body)),
            status => Ok(Response::builder().status(status).body(body.into_bytes()).unwrap()),
        }
    }
}

fn auth_answer(domains: &[&str], run_stages: bool, revision: u64) -> String {
    let answer = AuthAnswer {
        tenant: "default".to_owned(),
        token: format!("token-{revision}"),
        message_bytes: 100_000,
        recipients: 3,
        domains: domains.iter().map(|domain| (*domain).to_owned()).collect(),
        any_domain: domains.is_empty(),
        streams: vec!["transactional".to_owned(), "broadcast".to_owned()],
        run_stages,
        component_revision: revision,
    };
    serde_json::to_string(&answer).unwrap()
}

fn accepted() -> (u16, String) {
    (200, format!(r#"[{{"result":"accepted","id":"{ID}","replayed":false}}]"#))
}

pub(crate) fn error(status: u16, name: &str) -> (u16, String) {
    (status, format!(r#"{{"statusCode":{status},"name":"{name}","message":"the host says so"}}"#))
}

impl Default for Host {
    fn default() -> Host {
        Host {
            auth: RefCell::new(vec![(200, auth_answer(&[], true, 7))]),
            messages: RefCell::new(vec![accepted()]),
            resources: Vec::new(),
            seen: RefCell::default(),
            gone: false,
        }
    }
}

impl Host {
    /// Path, delivery token and Authorization of what was asked.
    pub(crate) fn calls(&self) -> Vec<String> {
        self.seen.borrow().iter().map(|request| request.uri().path().to_owned()).collect()
    }

    /// Metadata and message of the last frame.
    fn message(&self) -> (MessageMeta, String) {
        self.frames().remove(0)
    }

    /// Metadata and message of all frames of the last request.
    pub(crate) fn frames(&self) -> Vec<(MessageMeta, String)> {
        let seen = self.seen.borrow();
        let request = seen.iter().rev().find(|request| request.uri().path() == MESSAGES_PATH).unwrap();
        let limits = FrameLimits { frames: 100, meta_bytes: 1 << 20, message_bytes: 1 << 20 };
        let frames = decode_frames(request.body(), limits).unwrap();
        frames.into_iter().map(|it| (it.meta, String::from_utf8(it.message.to_vec()).unwrap())).collect()
    }
}

/// Stages that refuse on demand: a subject that begins with `refuse`, one that begins with `break`.
struct Doubles;

impl Stages for Doubles {
    async fn render(&self, input: RendererInput) -> Result<Rendered, StageError> {
        let fill = |source: Option<String>| source.map(|source| source.replace("{{vars}}", &input.variables));
        Ok(Rendered { subject: input.subject, html: fill(input.html), text: fill(input.text), ..Default::default() })
    }

    async fn describe_validator(&self) -> Result<Wants, StageError> {
        Ok(Wants::default())
    }

    async fn validate(&self, input: ValidatorInput) -> Result<Acceptance, StageError> {
        let subject = input.headers.iter().find(|field| field.name == "Subject").map(|field| field.value.as_str());
        match subject.unwrap_or_default() {
            "refuse" => Err(StageError::Refused(Finding {
                class: FindingClass::Policy,
                text: "not today".to_owned(),
                status: None,
                field: None,
                position: None,
            })),
            "break" => Err(StageError::Unavailable("trap".to_owned())),
            "warn" => Ok(Acceptance { warnings: vec!["careful".to_owned()], attributes: vec![] }),
            _ => Ok(Acceptance::default()),
        }
    }

    async fn transform(&self, _input: TransformerInput) -> Result<Transformed, StageError> {
        Ok(Transformed::default())
    }

    async fn sign(&self, input: SignerInput) -> Result<Signatures, StageError> {
        let value = format!(" d={}", input.domain).into_bytes();
        let headers = vec![RawHeader { name: "DKIM-Signature".to_owned(), value }];
        Ok(Signatures { headers, attributes: vec![] })
    }
}

pub(crate) struct Bytes(pub(crate) Vec<u8>);

impl Body for Bytes {
    async fn read(self, limit: usize) -> Result<Vec<u8>, BodyError> {
        if self.0.len() > limit { Err(BodyError::TooLarge) } else { Ok(self.0) }
    }
}

/// A body that nobody may read.
struct Untouchable;

impl Body for Untouchable {
    async fn read(self, _limit: usize) -> Result<Vec<u8>, BodyError> {
        unreachable!("the body was read before the key was checked")
    }
}

fn answer_with<B: Body>(host: &Host, cache: &AuthCache, request: Request<B>) -> Response<Vec<u8>> {
    let client = Client::new(host, Settings::new("http://host.test", "edge").unwrap(), "req-1".to_owned());
    let moment = Moment { now_s: 1_795_294_952, id: Uuid::parse_str(ID).unwrap() };
    block_on(Service { client, stages: &Doubles, cache, moment }.answer(request)).0
}

pub(crate) fn answer(host: &Host, request: Request<Bytes>) -> Response<Vec<u8>> {
    answer_with(host, &AuthCache::new(), request)
}

fn post(body: &str) -> Request<Bytes> {
    let body = Bytes(body.as_bytes().to_vec());
    Request::post("http://edge.test/emails").header("authorization", "Bearer re_1").body(body).unwrap()
}

pub(crate) fn check_error(response: Response<Vec<u8>>, status: u16, name: &str, words: &str) {
    let body: ErrorAnswer = serde_json::from_slice(response.body()).unwrap();
    assert_eq!((response.status().as_u16(), body.status_code), (status, status), "{}", body.message);
    assert_eq!(body.name, name, "{}", body.message);
    assert!(body.message.contains(words), "{}", body.message);
}

#[test]
fn a_message_is_sent() {
    let host = Host::default();
    let mut request = post(
        r#"{"from":"Acme <a@src.test>","to":["b@dst.test"],"bcc":"d@dst.test","subject":"warn","text":"x",
            "tags":[{"name":"cat","value":"w"}],"topic_id":"t"}"#,
    );
    request.headers_mut().insert("idempotency-key", "k-1".parse().unwrap());
    let response = answer(&host, request);
    assert_eq!(response.status(), 200);
    assert_eq!(response.body().as_slice(), format!(r#"{{"id":"{ID}"}}"#).as_bytes());
    assert_eq!(response.headers()["content-type"], "application/json");
    assert_eq!(response.headers()["x-posthaste-ignored"], "topic_id");
    assert_eq!(response.headers()["x-posthaste-warnings"], "careful");

    assert_eq!(host.calls(), [AUTH_PATH, MESSAGES_PATH]);
    for request in host.seen.borrow().iter() {
        assert_eq!(request.headers()[DELIVERY_TOKEN_HEADER], "edge");
        assert_eq!(request.headers()[REQUEST_ID_HEADER], "req-1");
    }
    let (meta, message) = host.message();
    assert_eq!(meta.id, ID);
    assert_eq!((meta.sender.as_deref(), meta.component_revision), (Some("a@src.test"), 7));
    assert_eq!(meta.recipients, ["b@dst.test", "d@dst.test"]);
    assert_eq!(meta.bcc, ["d@dst.test"]);
    assert_eq!(meta.tags, [("cat".to_owned(), "w".to_owned())]);
    let idempotency = meta.idempotency.unwrap();
    assert_eq!((idempotency.key.as_str(), idempotency.digest.len()), ("k-1", 64));
    assert!(message.starts_with("DKIM-Signature: d=src.test\r\n"), "{message}");
    assert!(message.contains(&format!("Message-ID: <{ID}@src.test>\r\n")), "{message}");
    assert!(message.contains("To: ") && !message.contains("d@dst.test"), "{message}");
}

#[test]
fn the_digest_is_the_bodys() {
    let digest = |body: &str| {
        let host = Host::default();
        let mut request = post(body);
        request.headers_mut().insert("idempotency-key", "k".parse().unwrap());
        answer(&host, request);
        host.message().0.idempotency.unwrap().digest
    };
    assert_eq!(digest(LEAST), digest(LEAST));
    assert_ne!(digest(LEAST), digest(&LEAST.replace("Hi", "Ho")));
    assert_eq!(digest(LEAST), hex(&Sha256::digest(LEAST)));
    let host = Host::default();
    answer(&host, post(LEAST));
    assert_eq!(host.message().0.idempotency, None);
}

#[test]
fn only_templates_are_rendered() {
    let host = Host::default();
    answer(&host, post(&LEAST.replace("\"x\"", "\"{{vars}}\"")));
    assert!(host.message().1.contains("{{vars}}"));
    let template =
        r#"{"from":"a@src.test","to":"b@dst.test","template":{"subject":"S","text":"{{vars}}","variables":{"a":1}}}"#;
    assert_eq!(answer(&host, post(template)).status(), 200);
    let (_, message) = host.message();
    assert!(message.contains(r#"{"a":1}"#) && message.contains("Subject: S\r\n"), "{message}");
}

#[test]
fn the_key_comes_before_the_body() {
    let host = Host { auth: RefCell::new(vec![error(401, "x")]), ..Default::default() };
    let request = |authorization: Option<&str>| {
        let mut request = Request::post("http://edge.test/emails");
        if let Some(value) = authorization {
            request = request.header("authorization", value);
        }
        request.body(Untouchable).unwrap()
    };
    let cache = AuthCache::new();
    check_error(answer_with(&host, &cache, request(None)), 401, "missing_api_key", "Authorization: Bearer");
    check_error(answer_with(&host, &cache, request(Some("Basic eDp5"))), 401, "missing_api_key", "Bearer");
    assert!(host.calls().is_empty());
    check_error(answer_with(&host, &cache, request(Some("Bearer re_2"))), 403, "invalid_api_key", "not valid");
    let mut request = request(Some("Bearer re_2"));
    request.headers_mut().insert("idempotency-key", "x".repeat(257).parse().unwrap());
    check_error(answer_with(&host, &cache, request), 400, "invalid_idempotency_key", "256");
}

#[test]
fn the_from_domain_must_be_registered() {
    let check = |domains: &[&str], from: &str| {
        let host = Host { auth: RefCell::new(vec![(200, auth_answer(domains, true, 1))]), ..Default::default() };
        answer(&host, post(&LEAST.replace("a@src.test", from)))
    };
    for from in ["a@src.test", "a@SRC.test", "a@mail.src.test"] {
        assert_eq!(check(&["other.test", "src.test"], from).status(), 200, "{from}");
    }
    for from in ["a@other.test", "a@notsrc.test", "a@test", "a@src.test.evil.test"] {
        let domain = from.split('@').next_back().unwrap();
        check_error(check(&["src.test"], from), 403, "invalid_from_address", &format!("`{domain}` is not registered"));
    }
}

/// What the edge remembers may be a minute old: a domain that was added since is not refused for it.
#[test]
fn a_domain_that_was_just_added_is_asked_for_once_more() {
    let (before, after) = (auth_answer(&["other.test"], true, 1), auth_answer(&["other.test", "src.test"], true, 1));
    let host = Host { auth: RefCell::new(vec![(200, before.clone()), (200, after)]), ..Default::default() };
    let cache = AuthCache::new();
    let from = |domain: &str| post(&LEAST.replace("src.test", domain));
    assert_eq!(answer_with(&host, &cache, from("other.test")).status(), 200);
    assert_eq!(answer_with(&host, &cache, from("src.test")).status(), 200);
    assert_eq!(host.calls(), [AUTH_PATH, MESSAGES_PATH, AUTH_PATH, MESSAGES_PATH]);
    // One that is not there is refused, whether the answer was remembered or not.
    let host = Host { auth: RefCell::new(vec![(200, before)]), ..Default::default() };
    let cache = AuthCache::new();
    for calls in [1, 2, 3] {
        check_error(answer_with(&host, &cache, from("src.test")), 403, "invalid_from_address", "is not registered");
        assert_eq!(host.calls().len(), calls);
    }
}

#[test]
fn bad_requests_change_nothing() {
    let table = [
        ("{", 400, "validation_error", "line 1 column 1"),
        ("[]", 400, "validation_error", "JSON object"),
        (r#"{"from":"a@src.test"}"#, 422, "missing_required_field", "`to` is missing"),
        (r#"{"from":"x@","to":"b@dst.test","subject":"","text":""}"#, 422, "invalid_from_address", "`from`"),
        (
            r#"{"from":"a@src.test","to":["b@dst.test","x@"],"subject":"","text":""}"#,
            422,
            "validation_error",
            "`to[1]`",
        ),
        (r#"{"from":"a@src.test","to":"b@dst.test","subject":"","text":"","zz":1}"#, 422, "validation_error", "`zz`"),
        (
            r#"{"from":"a@src.test","to":["1@d.test","2@d.test","3@d.test","4@d.test"],"subject":"","text":""}"#,
            422,
            "validation_error",
            "at most 3",
        ),
        (
            r#"{"from":"a@src.test","to":"b@dst.test","subject":"refuse","text":"x"}"#,
            403,
            "validation_error",
            "not today",
        ),
        (r#"{"from":"a@src.test","to":"b@dst.test","subject":"break","text":"x"}"#, 503, "application_error", "later"),
    ];
    for (body, status, name, words) in table {
        let host = Host::default();
        check_error(answer(&host, post(body)), status, name, words);
        assert_eq!(host.calls(), [AUTH_PATH], "{body}");
    }
}

#[test]
fn sizes_are_limited() {
    let host = Host::default();
    let text = |bytes: usize| LEAST.replace("\"x\"", &format!("\"{}\"", "x".repeat(bytes)));
    check_error(answer(&host, post(&text(100_001))), 413, "validation_error", "at most 100000 are allowed");
    check_error(answer(&host, post(&text(99_999))), 413, "validation_error", "at most 100000 are allowed");
    check_error(answer(&host, post(&text(1_300_000))), 413, "validation_error", "1248576 bytes");
    assert!(!host.calls().contains(&MESSAGES_PATH.to_owned()));
}

#[test]
fn the_hosts_refusals_are_the_callers() {
    let refused = r#"[{"result":"refused","status":409,"name":"invalid_idempotent_request","text":"used before"}]"#;
    let host = Host { messages: RefCell::new(vec![(200, refused.to_owned())]), ..Default::default() };
    check_error(answer(&host, post(LEAST)), 409, "invalid_idempotent_request", "used before");
    let host = Host { messages: RefCell::new(vec![error(507, "application_error")]), ..Default::default() };
    check_error(answer(&host, post(LEAST)), 507, "application_error", "the host says so");
    let host = Host { gone: true, ..Default::default() };
    let response = answer(&host, post(LEAST));
    assert_eq!(response.headers()["retry-after"], "5");
    check_error(response, 503, "application_error", "nothing was stored");
    let host = Host { messages: RefCell::new(vec![(0, "reset".to_owned())]), ..Default::default() };
    let response = answer(&host, post(LEAST));
    assert_eq!(response.headers().get("retry-after"), None);
    check_error(response, 502, "application_error", "may have been done");
}

#[test]
fn a_stale_answer_is_asked_anew_once() {
    let twice = || RefCell::new(vec![(200, auth_answer(&[], true, 7)), (200, auth_answer(&[], true, 8))]);
    for stale in [error(409, "x"), error(401, "x")] {
        let host =
            Host { auth: twice(), messages: RefCell::new(vec![stale.clone(), accepted()]), ..Default::default() };
        assert_eq!(answer(&host, post(LEAST)).status(), 200);
        assert_eq!(host.calls(), [AUTH_PATH, MESSAGES_PATH, AUTH_PATH, MESSAGES_PATH]);
        assert_eq!(host.message().0.component_revision, 8);
        let authorization = host.seen.borrow().last().unwrap().headers()["authorization"].clone();
        assert_eq!(authorization, "Bearer token-8");

        let host = Host { auth: twice(), messages: RefCell::new(vec![stale]), ..Default::default() };
        check_error(answer(&host, post(LEAST)), 503, "application_error", "again later");
        assert_eq!(host.calls().len(), 4);
    }
    // The tenant has components of its own now: the host runs them.
    let auth = vec![(200, auth_answer(&[], true, 7)), (200, auth_answer(&[], false, 8))];
    let host = Host { auth: RefCell::new(auth), messages: RefCell::new(vec![error(409, "x")]), ..Default::default() };
    assert_eq!(answer(&host, post(LEAST)).body().as_slice(), b"host: /emails");
}

#[test]
fn answers_about_keys_are_remembered() {
    let host = Host::default();
    let cache = AuthCache::new();
    answer_with(&host, &cache, post(LEAST));
    answer_with(&host, &cache, post(LEAST));
    assert_eq!(host.calls(), [AUTH_PATH, MESSAGES_PATH, MESSAGES_PATH]);
    host.messages.replace(vec![error(401, "x"), accepted()]);
    assert_eq!(answer_with(&host, &cache, post(LEAST)).status(), 200);
    assert_eq!(host.calls()[3..], [MESSAGES_PATH, AUTH_PATH, MESSAGES_PATH]);
}

#[test]
fn stages_of_the_tenant_run_in_the_host() {
    let host = Host { auth: RefCell::new(vec![(200, auth_answer(&[], false, 7))]), ..Default::default() };
    let mut request = post("not even JSON");
    request.headers_mut().insert("idempotency-key", "k".parse().unwrap());
    assert_eq!(answer(&host, request).body().as_slice(), b"host: /emails");
    let seen = host.seen.borrow();
    let handed = seen.last().unwrap();
    assert_eq!(handed.body().as_slice(), b"not even JSON");
    assert_eq!(
        (&handed.headers()["authorization"], &handed.headers()["idempotency-key"]),
        (&"Bearer re_1".parse().unwrap(), &"k".parse().unwrap())
    );
    assert!(handed.headers().contains_key(HAND_OVER_HEADER) && !handed.headers().contains_key(DELIVERY_TOKEN_HEADER));
    drop(seen);
    let mut request = post(LEAST);
    request.headers_mut().insert(HAND_OVER_HEADER, "1".parse().unwrap());
    check_error(answer(&host, request), 503, "application_error", "later");
}

#[test]
fn routes() {
    let host = Host::default();
    let ask = |method: &str, path: &str| {
        let request = Request::builder().method(method).uri(format!("http://edge.test{path}"));
        answer(&host, request.header("authorization", "Bearer re_1").body(Bytes(vec![])).unwrap())
    };
    for path in ["/emails", "/emails/1", "/emails/1/events?limit=5", "/", "/domains", "/deliveryx", "/inboxes"] {
        let response = ask("GET", path);
        assert_eq!(response.status(), 200, "{path}");
        let seen = host.seen.borrow();
        let asked = seen.last().unwrap();
        assert_eq!(asked.uri().path_and_query().unwrap(), path);
        assert!(
            asked.headers()["authorization"] == "Bearer re_1" && !asked.headers().contains_key(DELIVERY_TOKEN_HEADER)
        );
    }
    let passed = host.calls().len();
    for path in [
        "/delivery/v1/auth",
        "/delivery",
        "/control/v1/keys",
        "/notify",
        "/metrics",
        "/inbox",
        "/inbox/1",
        "/Inbox",
        "/%69nbox",
        "//inbox",
        "/x/../inbox",
        "/./inbox",
        "/emails/%2e%2e/inbox",
    ] {
        check_error(ask("GET", path), 404, "not_found", "no such resource");
    }
    for method in ["PUT", "DELETE", "PATCH", "OPTIONS"] {
        let response = ask(method, "/emails");
        assert_eq!(response.headers()["allow"], "GET, POST");
        check_error(response, 405, "method_not_allowed", "POST");
    }
    assert_eq!(host.calls().len(), passed);
}

#[test]
fn a_scheduled_message_says_when_it_goes_out() {
    let host = Host::default();
    let email = |at: &str| LEAST.replace("\"text\"", &format!("\"scheduled_at\":\"{at}\",\"text\""));
    assert_eq!(answer(&host, post(&email("in 1 hour"))).status(), 200);
    let (meta, message) = host.message();
    assert_eq!(meta.scheduled_ms, Some((1_795_294_952 + 3600) * 1000));
    assert!(message.contains("Date: Sat, 21 Nov 2026 22:02:32 +0000\r\n"), "{message}");
    check_error(answer(&host, post(&email("soon"))), 422, "validation_error", "`scheduled_at`");
    answer(&host, post(LEAST));
    assert_eq!(host.message().0.scheduled_ms, None);
}

#[test]
fn another_time_is_read_here_and_kept_there() {
    let host = Host::default();
    let patch = |body: &str, key: bool| {
        let mut request = Request::patch(format!("http://edge.test/emails/{ID}"));
        if key {
            request = request.header("authorization", "Bearer re_1");
        }
        answer(&host, request.body(Bytes(body.as_bytes().to_vec())).unwrap())
    };
    assert_eq!(patch(r#"{"scheduled_at":"in 1 min"}"#, true).status(), 200);
    let body = String::from_utf8(host.seen.borrow()[0].body().clone()).unwrap();
    assert_eq!(body, r#"{"scheduled_at":"2026-11-21T21:03:32.000Z"}"#);
    assert_eq!(patch(&format!(r#"{{"id":"{ID}","scheduled_at":"in 1 min"}}"#), true).status(), 200);
    host.seen.borrow_mut().pop();
    check_error(patch(r#"{"id":"5","scheduled_at":"in 1 min"}"#, true), 422, "validation_error", "`id`");
    check_error(patch("{}", true), 422, "missing_required_field", "`scheduled_at`");
    check_error(patch(r#"{"scheduled_at":"later"}"#, true), 422, "validation_error", "`scheduled_at`");
    check_error(patch(r#"{"scheduled_at":"in 1 min","to":"x"}"#, true), 422, "validation_error", "`to`");
    check_error(patch(r#"{"scheduled_at":"in 1 min"}"#, false), 401, "missing_api_key", "missing");
    assert_eq!(host.calls().len(), 1);
}

#[test]
fn a_stored_template_is_asked_of_the_host() {
    let template = r#"{"id":"0198","from":"T <t@src.test>","reply_to":[],"subject":"S","html":null,"text":"{{vars}}",
        "variables":[{"key":"A","type":"string","fallback_value":"b"}]}"#;
    let host = Host {
        resources: vec![
            ("/delivery/v1/templates/order", 200, template.to_owned()),
            ("/delivery/v1/templates/none", 404, error(404, "not_found").1),
        ],
        ..Default::default()
    };
    let email = r#"{"to":"b@dst.test","template":{"id":"order"}}"#;
    assert_eq!(answer(&host, post(email)).status(), 200);
    assert_eq!(host.calls(), [AUTH_PATH, "/delivery/v1/templates/order", MESSAGES_PATH]);
    assert_eq!(host.seen.borrow()[1].headers()["authorization"], "Bearer token-7");
    let (meta, message) = host.message();
    assert_eq!(meta.sender.as_deref(), Some("t@src.test"));
    assert!(message.contains("Subject: S\r\n") && message.contains(r#"{"A":"b"}"#), "{message}");
    let unknown = email.replace("order", "none");
    check_error(answer(&host, post(&unknown)), 422, "validation_error", "`template.id`: the host says so");
    check_error(
        answer(&host, post(r#"{"to":"b@dst.test","template":{"id":"a/b"}}"#)),
        422,
        "validation_error",
        "no id",
    );
}

#[test]
fn attachments_are_fetched_by_the_host() {
    let host = |status: u16, body: &str| Host {
        resources: vec![("/delivery/v1/fetch", status, body.to_owned())],
        ..Default::default()
    };
    let email =
        LEAST.replace("\"text\"", r#""attachments":[{"path":"https://x.test/a.pdf","filename":"a.pdf"}],"text""#);
    let good = host(200, "%PDF");
    assert_eq!(answer(&good, post(&email)).status(), 200);
    let request = String::from_utf8(good.seen.borrow()[1].body().clone()).unwrap();
    assert_eq!(request, r#"{"url":"https://x.test/a.pdf","max_bytes":99999}"#);
    assert!(good.message().1.contains("JVBERg=="), "{}", good.message().1);
    let (_, refusal) = error(422, "validation_error");
    check_error(
        answer(&host(422, &refusal), post(&email)),
        422,
        "invalid_attachment",
        "`attachments[0].path`: the host says so",
    );
    check_error(answer(&host(200, &"x".repeat(100_000)), post(&email)), 413, "validation_error", "100001 bytes");
    check_error(answer(&host(503, ""), post(&email)), 503, "application_error", "again later");
}

#[test]
fn a_stream_travels_as_an_attribute() {
    let host = Host::default();
    let body = LEAST.replacen('{', r#"{"stream":"broadcast","#, 1);
    assert_eq!(answer(&host, post(&body)).status(), 200);
    assert_eq!(host.message().0.attributes, [("posthaste.stream".to_owned(), "broadcast".to_owned())]);
    assert_eq!(answer(&host, post(LEAST)).status(), 200);
    assert!(host.message().0.attributes.is_empty());

    let only = auth_answer(&[], true, 7).replace(r#"["transactional","broadcast"]"#, r#"["broadcast"]"#);
    let host = Host { auth: RefCell::new(vec![(200, only)]), ..Host::default() };
    assert_eq!(answer(&host, post(LEAST)).status(), 200);
    assert_eq!(host.message().0.attributes.len(), 1, "the only one that the caller has");
    let body = LEAST.replacen('{', r#"{"stream":"transactional","#, 1);
    check_error(answer(&host, post(&body)), 403, "invalid_access", "use `broadcast`");
    let host = Host {
        auth: RefCell::new(vec![(200, auth_answer(&[], true, 7).replace(r#""streams""#, r#""x""#))]),
        ..Host::default()
    };
    assert_eq!(answer(&host, post(LEAST)).status(), 200, "a host that knows no streams");
}
