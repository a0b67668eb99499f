//! The WASM shell: spin-sdk's HTTP on both sides, the shaper as a WIT import, the token as a Spin variable.

use std::time::{Duration, Instant};

use contract::{HttpRequest, ShaperInput, StageError};
use delivery_client::wire::{self, NOTIFY_HEAD_BYTES, NOTIFY_PATH};
use delivery_client::{Http, HttpError, below};
use http::{Request, Response};
use spin_sdk::http::{FullBody, box_body};
use spin_sdk::wasip3::http::types::RequestOptions;
use spin_sdk::wasip3::http_compat::RequestOptionsExtension;

use crate::{BodyError, Service, Shaper};

use bindings::posthaste::shaper::shaper;

/// Bindings to the contract, as generated.
#[allow(unsafe_code)]
mod bindings {
    spin_sdk::wit_bindgen::generate!({
        path: "../../wit",
        world: "posthaste:worlds/notify-imports",
        runtime_path: "::spin_sdk::wit_bindgen::rt",
        generate_all,
        with: { "posthaste:types/types@0.1.0": contract },
    });
}

/// How long an endpoint may take to be reached, to begin its answer, and between two pieces of it. Whoever runs this
/// component may have shorter limits.
const CONNECT: Duration = Duration::from_secs(10);
const FIRST_BYTE: Duration = Duration::from_secs(15);
const BETWEEN_BYTES: Duration = Duration::from_secs(5);

/// How long an endpoint's answer is read; what came until then is its head.
const READING: Duration = Duration::from_secs(15);

#[allow(unsafe_code)]
#[spin_sdk::http_service]
async fn handle(request: spin_sdk::http::Request) -> Response<spin_sdk::http::BoxBody> {
    // Missing is as good as empty: nobody may call.
    let token = spin_sdk::variables::get("delivery_token").await.unwrap_or_default();
    let service = Service { http: Outgoing, shaper: &Import, token: token.trim() };
    let (mut head, body) = request.into_parts();
    if head.uri.path() != NOTIFY_PATH {
        // Only where this stands below a path is another one asked for.
        let base = spin_sdk::variables::get("base_path").await.unwrap_or_default();
        head.uri = below(&base, &head.uri).unwrap_or(head.uri);
    }
    let (response, cause) = service.answer(&head, async |limit| collect(body, limit).await).await;
    if let Some(cause) = cause {
        let request_id = wire::request_id(&head.headers).unwrap_or("-");
        eprintln!("notify: request {request_id}: {cause}");
    }
    response.map(|body| box_body(FullBody::new(body.into())))
}

/// Reads a body of at most `limit` bytes.
async fn collect<B>(mut body: B, limit: usize) -> Result<Vec<u8>, BodyError>
where
    B: http_body_util::BodyExt + Unpin,
    B::Data: AsRef<[u8]>,
    B::Error: std::fmt::Debug,
{
    let mut bytes = Vec::new();
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

/// `wasi:http`, which follows no redirect. Of an answer's body only the head is read.
struct Outgoing;

impl Http for Outgoing {
    async fn send(&self, request: Request<Vec<u8>>) -> Result<Response<Vec<u8>>, HttpError> {
        let mut request = request.map(|body| FullBody::new(bytes::Bytes::from(body)));
        request.extensions_mut().insert(RequestOptionsExtension(limits()));
        let response =
            spin_sdk::http::send(request).await.map_err(|error| HttpError::Unanswered(format!("{error:?}")))?;
        let (parts, mut body) = response.into_parts();
        let started = Instant::now();
        let mut head = Vec::new();
        while head.len() < NOTIFY_HEAD_BYTES && started.elapsed() < READING {
            // The status has come: an answer that breaks off behind it is still an answer.
            let Some(Ok(frame)) = http_body_util::BodyExt::frame(&mut body).await else { break };
            let Some(data) = frame.data_ref() else { continue };
            head.extend_from_slice(&data[..data.len().min(NOTIFY_HEAD_BYTES - head.len())]);
        }
        Ok(Response::from_parts(parts, head))
    }
}

/// A host that knows no such limits has its own.
fn limits() -> RequestOptions {
    let options = RequestOptions::new();
    let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).ok();
    let _ = options.set_connect_timeout(nanoseconds(CONNECT));
    let _ = options.set_first_byte_timeout(nanoseconds(FIRST_BYTE));
    let _ = options.set_between_bytes_timeout(nanoseconds(BETWEEN_BYTES));
    options
}

/// The shaper that this component was composed with, or that its host answers for.
struct Import;

impl Shaper for Import {
    fn shape(&self, input: &ShaperInput) -> Result<HttpRequest, StageError> {
        shaper::shape(input)
    }
}
