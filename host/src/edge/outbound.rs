//! A guest's outgoing requests: the sending API's go to the backend in-process, those that tell events through the
//! guarded client, those of a stage too where its tenant was granted the host, everything else is refused.
//!
//! The one origin that the sending API knows is made up and never looked up; no stage reaches a socket.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use http::{Request, Response, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

use super::Backend;
use super::grants::{Grants, REQUEST_LIMITS};
use crate::api::credential::Peer;
use crate::tenancy::Place;
use crate::web::{Limits, Web, WebError};

/// The bare origin that triggers get as `delivery_url`. `.internal` is never delegated, so it names nothing outside.
pub const ORIGIN: &str = "http://delivery.internal";
const AUTHORITY: &str = "delivery.internal";

type Io = Box<dyn Future<Output = Result<(), Error>> + Send>;
type Exchange = Box<dyn Future<Output = Result<(Response<WasiBody>, Io), Error>> + Send>;

enum Whom {
    Nobody,
    Backend(Arc<dyn Backend>),
    World(Arc<Web>, Limits, Trouble),
    Granted(Arc<Grants>),
}

/// What went wrong on the way to the world, in our words: a guest has but a code.
pub type Trouble = Arc<Mutex<Option<String>>>;

/// Whom a guest may reach.
pub struct Outbound {
    whom: Whom,
    tenant: Arc<OnceLock<Arc<str>>>,
    /// Of one request's body.
    body_bytes: usize,
    /// Where the request came from that the guest serves.
    peer: Option<Peer>,
    /// What the request has of its tenant's calls at once, as long as the guest works for it.
    place: Place,
}

impl Outbound {
    /// Reaches the backend, and learns the tenant from its answers.
    pub fn to(backend: Arc<dyn Backend>, body_bytes: usize) -> Outbound {
        Outbound {
            whom: Whom::Backend(backend),
            tenant: Arc::default(),
            body_bytes,
            peer: None,
            place: Place::default(),
        }
    }

    /// The same on behalf of whoever the guest serves: the backend is told where they are.
    pub fn of(self, peer: Option<Peer>) -> Outbound {
        Outbound { peer, ..self }
    }

    /// Reaches nobody: for a stage of a tenant.
    pub fn none(tenant: &Arc<str>) -> Outbound {
        let tenant = Arc::new(OnceLock::from(tenant.clone()));
        Outbound { whom: Whom::Nobody, tenant, body_bytes: 0, peer: None, place: Place::default() }
    }

    /// Reaches the hosts that were granted to a stage of a tenant.
    pub fn granted(tenant: &Arc<str>, grants: &Arc<Grants>) -> Outbound {
        let body_bytes = REQUEST_LIMITS.body_bytes;
        Outbound { whom: Whom::Granted(grants.clone()), body_bytes, ..Outbound::none(tenant) }
    }

    /// Reaches the world through the guarded client, for a trigger that works for a tenant.
    pub fn world(tenant: &str, web: Arc<Web>, limits: Limits, trouble: Trouble, body_bytes: usize) -> Outbound {
        let tenant = Arc::new(OnceLock::from(Arc::from(tenant)));
        Outbound { whom: Whom::World(web, limits, trouble), tenant, body_bytes, peer: None, place: Place::default() }
    }

    /// Whether a stage was granted this target.
    pub fn grants(&self, target: &Uri) -> bool {
        matches!(&self.whom, Whom::Granted(grants) if grants.allow(target))
    }

    /// The cell that holds the tenant once it is known.
    pub fn tenant(&self) -> Arc<OnceLock<Arc<str>>> {
        self.tenant.clone()
    }
}

impl WasiHttpHooks for Outbound {
    fn send_request(&mut self, mut request: Request<WasiBody>, _: Option<RequestOptions>, _: Io) -> Exchange {
        if let Some(peer) = self.peer {
            request.extensions_mut().insert(peer);
        }
        let is_ours = request.uri().authority().is_some_and(|authority| authority.as_str() == AUTHORITY);
        match &self.whom {
            Whom::Backend(backend) if is_ours => {
                request.extensions_mut().insert(self.place.clone());
                Box::new(exchange(backend.clone(), request, self.tenant.clone(), self.body_bytes))
            }
            Whom::World(web, limits, trouble) => {
                Box::new(reach(web.clone(), *limits, trouble.clone(), request, self.body_bytes))
            }
            Whom::Granted(grants) if grants.allow(request.uri()) => {
                Box::new(reach(grants.web.clone(), REQUEST_LIMITS, Trouble::default(), request, self.body_bytes))
            }
            Whom::Nobody | Whom::Backend(_) | Whom::Granted(_) => Box::new(async { Err(Error::HttpRequestDenied) }),
        }
    }
}

/// Sends a request into the world.
async fn reach(
    web: Arc<Web>,
    limits: Limits,
    trouble: Trouble,
    request: Request<WasiBody>,
    body_bytes: usize,
) -> Result<(Response<WasiBody>, Io), Error> {
    let (parts, body) = request.into_parts();
    let limit = u64::try_from(body_bytes).ok();
    let body = Limited::new(body, body_bytes).collect().await.map_err(|_| Error::HttpRequestBodySize(limit))?;
    let answer = web.send(Request::from_parts(parts, body.to_bytes()), limits).await;
    let mut response = answer.map_err(|error| {
        let code = match &error {
            WebError::Target(_) => Error::HttpRequestUriInvalid,
            WebError::Barred { .. } => Error::DestinationIpProhibited,
            WebError::TimedOut(_) => Error::HttpResponseTimeout,
            WebError::Failed(_) => Error::DestinationUnavailable,
        };
        *trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.to_string());
        code
    })?;
    // They belong to the connection, or tell the length of a body that was cut off.
    for name in [header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::CONNECTION, header::TRAILER] {
        response.headers_mut().remove(name);
    }
    let response = response.map(|body| full(body).boxed_unsync());
    Ok((response, Box::new(async { Ok(()) })))
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
