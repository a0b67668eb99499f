//! What comes as text from applications and operators: requests of the sending API, templates, configuration.

use std::cell::Cell;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use contract::{
    Acceptance, Rendered, RendererInput, Signatures, SignerInput, StageError, Transformed, TransformerInput,
    ValidatorInput, Wants,
};
use delivery_client::wire::{AUTH_PATH, FETCH_PATH, FrameLimits, MESSAGES_PATH, decode_frames, encode_frame};
use delivery_client::{Client, Http, HttpError, Settings};
use http::{Request, Response, StatusCode};
use pipeline::Stages;
use submit::{AuthCache, Body, BodyError, Moment, Service};
use uuid::Uuid;

const ID: &str = "01890a5d-ac96-774b-bcce-b302099a8057";
const AUTH: &str = r#"{"tenant":"default","token":"t","message_bytes":100000,"recipients":3,"domains":[],"any_domain":true,"streams":["transactional","broadcast"],"run_stages":true,"component_revision":7}"#;

/// A host that takes everything, and looks at what it is given.
struct Host {
    taken: Cell<usize>,
}

impl Http for &Host {
    async fn send(&self, request: Request<Vec<u8>>) -> Result<Response<Vec<u8>>, HttpError> {
        let body = match request.uri().path() {
            AUTH_PATH => AUTH.to_owned(),
            MESSAGES_PATH => {
                let limits = FrameLimits { frames: 100, meta_bytes: 1 << 20, message_bytes: 1 << 20 };
                let Ok(frames) = decode_frames(request.body(), limits) else { panic!("frames that nobody can read") };
                for frame in &frames {
                    let fault = mail::header::check_format(frame.message);
                    assert!(fault.is_ok(), "{fault:?} in {}", frame.message.escape_ascii());
                }
                self.taken.set(self.taken.get() + frames.len());
                let answer = format!(r#"{{"result":"accepted","id":"{ID}","replayed":false}}"#);
                format!("[{}]", vec![answer; frames.len()].join(","))
            }
            FETCH_PATH => "a file".to_owned(),
            _ => {
                let body = r#"{"statusCode":404,"name":"not_found","message":"not there"}"#;
                let mut answer = Response::new(body.as_bytes().to_vec());
                *answer.status_mut() = StatusCode::NOT_FOUND;
                return Ok(answer);
            }
        };
        Ok(Response::new(body.into_bytes()))
    }
}

/// Renders as the built-in renderer does, and lets everything else pass.
struct Plain;

impl Stages for Plain {
    async fn render(&self, input: RendererInput) -> Result<Rendered, StageError> {
        render::render(input).map_err(StageError::Refused)
    }

    async fn describe_validator(&self) -> Result<Wants, StageError> {
        Ok(Wants::default())
    }

    async fn validate(&self, _input: ValidatorInput) -> Result<Acceptance, StageError> {
        Ok(Acceptance::default())
    }

    async fn transform(&self, _input: TransformerInput) -> Result<Transformed, StageError> {
        Ok(Transformed::default())
    }

    async fn sign(&self, _input: SignerInput) -> Result<Signatures, StageError> {
        Ok(Signatures::default())
    }
}

struct Bytes(Vec<u8>);

impl Body for Bytes {
    async fn read(self, limit: usize) -> Result<Vec<u8>, BodyError> {
        if self.0.len() > limit { Err(BodyError::TooLarge) } else { Ok(self.0) }
    }
}

/// A body of the sending API. The first byte chooses the route.
pub fn submission(input: &[u8]) {
    let Some((&how, body)) = input.split_first() else { return };
    let (method, path) =
        [("POST", "/emails"), ("POST", "/emails/batch"), ("POST", "/templates"), ("PATCH", "/emails/1")]
            [usize::from(how & 3)];
    let request = Request::builder()
        .method(method)
        .uri(format!("http://edge.test{path}"))
        .header("authorization", "Bearer re_1")
        .body(Bytes(body.to_vec()));
    let (Ok(request), Ok(settings), Ok(id)) = (request, Settings::new("http://host.test", "edge"), Uuid::parse_str(ID))
    else {
        panic!("the request cannot be made");
    };
    let host = Host { taken: Cell::new(0) };
    let client = Client::new(&host, settings, "req-1".to_owned());
    let cache = AuthCache::new();
    let service = Service { client, stages: &Plain, cache: &cache, moment: Moment { now_s: 1_795_294_952, id } };
    let mut answering = pin!(service.answer(request));
    let Poll::Ready((response, cause)) = answering.as_mut().poll(&mut Context::from_waker(Waker::noop())) else {
        panic!("nothing here waits");
    };
    let status = response.status().as_u16();
    assert!(status < 500, "{status}: {cause:?}: {}", response.body().escape_ascii());
    assert!(status == 200 || host.taken.get() == 0, "{status}, and yet something was taken");
}

/// What an edge hands over. Frames that are taken are written as they were read.
pub fn frames(input: &[u8]) {
    let limits = FrameLimits { frames: 4, meta_bytes: 4096, message_bytes: 1024 };
    let Ok(frames) = decode_frames(input, limits) else { return };
    assert!((1..=limits.frames).contains(&frames.len()));
    for frame in frames {
        assert!(frame.message.len() <= limits.message_bytes);
        let Ok(bytes) = encode_frame(&frame.meta, frame.message.to_vec()) else { panic!("no frame of it: {frame:?}") };
        // Escapes make it longer.
        let wide = FrameLimits { meta_bytes: 1 << 20, ..limits };
        assert_eq!(decode_frames(&bytes, wide).as_deref(), Ok([frame].as_slice()));
    }
}

/// A template: subject, HTML, text and variables, apart by NUL.
pub fn template(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let mut parts = text.split('\0').map(|part| Some(part.to_owned()));
    let mut next = || parts.next().flatten();
    let (html, variables, subject, text) = (next(), next(), next(), next());
    let variables = variables.unwrap_or_else(|| "{}".to_owned());
    let input = RendererInput { id: None, subject, html, text, variables, attributes: Vec::new() };
    if let Ok(rendered) = render::render(input) {
        assert!(!rendered.subject.unwrap_or_default().contains(['\r', '\n']));
    }
}

/// A configuration file.
pub fn config(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    // Files that it names are opened, which is the operator's own business: none without an end, here.
    if ["/dev", "/proc", "/sys"].iter().any(|folder| text.contains(folder)) {
        return;
    }
    if let Err(faults) = posthaste::config::parse(std::path::Path::new("nowhere/x.toml"), text, &|_| None) {
        assert!(!faults.to_string().is_empty());
    }
}
