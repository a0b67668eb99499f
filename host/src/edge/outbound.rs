//! A guest's outgoing requests: a trigger's go to the backend in-process, everything else is refused.
//!
//! The one origin that exists is made up and never looked up; no guest reaches a socket.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

use super::Backend;

/// The bare origin that triggers get as `delivery_url`. `.internal` is never delegated, so it names nothing outside.
pub const ORIGIN: &str = "http://delivery.internal";
const AUTHORITY: &str = "delivery.internal";

type Io = Box<dyn Future<Output = Result<(), Error>> + Send>;
type Exchange = Box<dyn Future<Output = Result<(Response<WasiBody>, Io), Error>> + Send>;

/// Whom a guest may reach.
pub struct Outbound {
    /// `None`: nobody.
    backend: Option<Arc<dyn Backend>>,
    tenant: Arc<OnceLock<Arc<str>>>,
    /// Of one request's body.
    body_bytes: usize,
}

impl Outbound {
    /// Reaches the backend, and learns the tenant from its answers.
    pub fn to(backend: Arc<dyn Backend>, body_bytes: usize) -> Outbound {
        Outbound { backend: Some(backend), tenant: Arc::default(), body_bytes }
    }

    /// Reaches nobody: for a stage of a tenant.
    pub fn none(tenant: &Arc<str>) -> Outbound {
        Outbound { backend: None, tenant: Arc::new(OnceLock::from(tenant.clone())), body_bytes: 0 }
    }

    /// The cell that holds the tenant once it is known.
    pub fn tenant(&self) -> Arc<OnceLock<Arc<str>>> {
        self.tenant.clone()
    }
}

impl WasiHttpHooks for Outbound {
    fn send_request(&mut self, request: Request<WasiBody>, _: Option<RequestOptions>, _: Io) -> Exchange {
        let is_ours = request.uri().authority().is_some_and(|authority| authority.as_str() == AUTHORITY);
        let Some(backend) = self.backend.clone().filter(|_| is_ours) else {
            return Box::new(async { Err(Error::HttpRequestDenied) });
        };
        Box::new(exchange(backend, request, self.tenant.clone(), self.body_bytes))
    }
}

async fn exchange(
    backend: Arc<dyn Backend>,
    request: Request<WasiBody>,
    tenant: Arc<OnceLock<Arc<str>>>,
    body_bytes: usize,
) -> Result<(Response<WasiBody>, Io), Error> {
    let (parts, body) = request.into_parts();
    let limit = u64::try_from(body_bytes).ok();
    let body = Limited::new(body, body_bytes).collect().await.map_err(|_| Error::HttpRequestBodySize(limit))?;
    let answer = backend.answer(Request::from_parts(parts, body.to_bytes())).await;
    if let Some(name) = answer.tenant {
        // One instance serves one tenant for good.
        if **tenant.get_or_init(|| name.as_str().into()) != *name {
            return Err(Error::HttpRequestDenied);
        }
    }
    let response = answer.response.map(|body| full(body).boxed_unsync());
    Ok((response, Box::new(async { Ok(()) })))
}

/// A whole body as the engine wants it.
pub fn full(body: Bytes) -> impl http_body_util::BodyExt<Data = Bytes, Error = Error> + Send + 'static {
    Full::new(body).map_err(|never| match never {})
}
