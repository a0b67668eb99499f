//! The WASM shell: spin-sdk's HTTP on both sides, the stages as WIT imports, the settings as Spin variables.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use contract::{
    Acceptance, Rendered, RendererInput, Signatures, SignerInput, StageError, Transformed, TransformerInput,
    ValidatorInput, Wants,
};
use delivery_client::wire::{REQUEST_ID_HEADER, request_id};
use delivery_client::{Client, Http, HttpError, Settings, below};
use http::header::{CONTENT_LENGTH, HeaderValue};
use http::{Request, Response};
use spin_sdk::http::{FullBody, box_body};
use spin_sdk::wasip3::http::types::{ErrorCode, RequestOptions};
use spin_sdk::wasip3::http_compat::RequestOptionsExtension;
use uuid::Uuid;

use crate::AuthCache;
use crate::answer::Error;
use crate::service::{Body, BodyError, Moment, Service};

use bindings::posthaste::renderer::renderer;
use bindings::posthaste::signer::signer;
use bindings::posthaste::transformer::transformer;
use bindings::posthaste::validator::validator;

/// Bindings to the contract, as generated.
#[allow(unsafe_code)]
mod bindings {
    spin_sdk::wit_bindgen::generate!({
        path: "../../wit",
        world: "posthaste:worlds/submit-imports",
        runtime_path: "::spin_sdk::wit_bindgen::rt",
        generate_all,
        with: { "posthaste:types/types@0.1.0": contract },
    });
}

/// How long the host may take to be reached: a machine that is off does not refuse, it says nothing.
const CONNECT: Duration = Duration::from_secs(10);

/// Bytes of an answer of the host.
const ANSWER_BYTES: usize = 64 << 20;

static CACHE: AuthCache = AuthCache::new();

#[allow(unsafe_code)]
#[spin_sdk::http_service]
async fn handle(mut request: spin_sdk::http::Request) -> Response<spin_sdk::http::BoxBody> {
    let request_id = request_id(request.headers()).map_or_else(|| Uuid::now_v7().to_string(), str::to_owned);
    let (mut response, cause) = match settings().await {
        Ok((settings, base)) => {
            let moment = Moment { now_s: now_s(), id: Uuid::now_v7() };
            let client = Client::new(Outgoing, settings, request_id.clone());
            let service = Service { client, stages: &Imports, cache: &CACHE, moment };
            match below(&base, request.uri()) {
                Some(uri) => {
                    *request.uri_mut() = uri;
                    service.answer(request.map(Incoming)).await
                }
                None => (Error::not_found().into_response(), None),
            }
        }
        Err(cause) => (Error::later("", 60).into_response(), Some(cause)),
    };
    if let Some(cause) = cause {
        eprintln!("submit: request {request_id}: {cause}");
    }
    if let Ok(value) = HeaderValue::from_str(&request_id) {
        response.headers_mut().insert(REQUEST_ID_HEADER, value);
    }
    let length = HeaderValue::from(response.body().len());
    response.headers_mut().insert(CONTENT_LENGTH, length);
    response.map(|body| box_body(FullBody::new(body.into())))
}

/// `delivery_url` with `delivery_token`, and `base_path`.
async fn settings() -> Result<(Settings, String), String> {
    let url = spin_sdk::variables::get("delivery_url")
        .await
        .map_err(|error| format!("the variable `delivery_url` cannot be read: {error:?}"))?;
    // Absent where the host serves this trigger itself.
    let token = variable("delivery_token").await;
    // Whoever needs no token stands below no path: there nothing is asked for.
    let base = if token.is_empty() { String::new() } else { variable("base_path").await };
    Ok((Settings::new(&url, &token).map_err(|error| error.to_string())?, base))
}

/// Empty where there is none.
async fn variable(name: &str) -> String {
    spin_sdk::variables::get(name).await.unwrap_or_default()
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// A caller's body.
struct Incoming<B>(B);

impl<B> Body for Incoming<B>
where
    B: http_body_util::BodyExt + Unpin,
    B::Data: AsRef<[u8]>,
    B::Error: std::fmt::Debug,
{
    async fn read(self, limit: usize) -> Result<Vec<u8>, BodyError> {
        collect(self.0, limit).await
    }
}

/// Reads a body into one buffer that is as large as it says it is, but no larger than the limit.
async fn collect<B>(mut body: B, limit: usize) -> Result<Vec<u8>, BodyError>
where
    B: http_body_util::BodyExt + Unpin,
    B::Data: AsRef<[u8]>,
    B::Error: std::fmt::Debug,
{
    let expected = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if expected > limit {
        return Err(BodyError::TooLarge);
    }
    let mut bytes = Vec::with_capacity(expected);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| BodyError::Broken(format!("{error:?}")))?;
        let Some(data) = frame.data_ref().map(AsRef::as_ref) else { continue };
        if bytes.len() + data.len() > limit {
            return Err(BodyError::TooLarge);
        }
        bytes.extend_from_slice(data);
    }
    Ok(bytes)
}

/// `wasi:http` as the delivery client wants it.
struct Outgoing;

impl Http for Outgoing {
    async fn send(&self, request: Request<Vec<u8>>) -> Result<Response<Vec<u8>>, HttpError> {
        let mut request = request.map(|body| FullBody::new(bytes::Bytes::from(body)));
        let options = RequestOptions::new();
        // A host that knows no such limit has its own.
        let _ = options.set_connect_timeout(u64::try_from(CONNECT.as_nanos()).ok());
        request.extensions_mut().insert(RequestOptionsExtension(options));
        let response = spin_sdk::http::send(request).await.map_err(|error| unanswered(&error))?;
        let (parts, body) = response.into_parts();
        match collect(body, ANSWER_BYTES).await {
            Ok(body) => Ok(Response::from_parts(parts, body)),
            Err(BodyError::TooLarge) => {
                Err(HttpError::Unanswered(format!("the answer has more than {ANSWER_BYTES} bytes")))
            }
            Err(BodyError::Broken(cause)) => Err(HttpError::Unanswered(cause)),
        }
    }
}

/// Tells what ends before a connection stands from what can end behind it.
fn unanswered(error: &ErrorCode) -> HttpError {
    let cause = format!("{error:?}");
    match error {
        ErrorCode::DnsTimeout
        | ErrorCode::DnsError(_)
        | ErrorCode::DestinationNotFound
        | ErrorCode::DestinationUnavailable
        | ErrorCode::DestinationIpProhibited
        | ErrorCode::DestinationIpUnroutable
        | ErrorCode::ConnectionRefused
        | ErrorCode::ConnectionTimeout
        | ErrorCode::ConnectionLimitReached
        | ErrorCode::TlsCertificateError
        | ErrorCode::HttpRequestDenied => HttpError::Unsent(cause),
        _ => HttpError::Unanswered(cause),
    }
}

/// The stages that this component was composed with, or that its host answers for.
struct Imports;

impl pipeline::Stages for Imports {
    async fn render(&self, input: RendererInput) -> Result<Rendered, StageError> {
        renderer::render(&input)
    }

    async fn describe_validator(&self) -> Result<Wants, StageError> {
        validator::describe()
    }

    async fn validate(&self, input: ValidatorInput) -> Result<Acceptance, StageError> {
        validator::validate(&input)
    }

    async fn transform(&self, input: TransformerInput) -> Result<Transformed, StageError> {
        transformer::transform(&input)
    }

    async fn sign(&self, input: SignerInput) -> Result<Signatures, StageError> {
        signer::sign(&input)
    }
}
