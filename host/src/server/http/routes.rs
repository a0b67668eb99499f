//! Who answers what: health and readiness here, the inbox, the control API and the delivery API for edges where this host
//! has them, and everything else the sending API.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use delivery_client::wire::{self, OUR_HEADERS, REQUEST_ID_HEADER};
use http::header::{self, HeaderName};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};
use uuid::Uuid;

use crate::api::control::{self, Control, Entry};
use crate::api::delivery;
use crate::api::fault::fault;
use crate::api::network::Network;
use crate::edge::Edge;
use crate::inbox::Inbox;

/// Says why the host is not ready, a sentence each; nothing when it is.
pub type Obstacles = Box<dyn Fn() -> Vec<String> + Send + Sync>;

/// Fields that belong to one connection (RFC 9110 s7.6.1): never passed on, never taken from a trigger.
const OF_ONE_HOP: [HeaderName; 6] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Of a path, what the log shows.
const PATH_SHOWN: usize = 200;

/// Whom a request came from: an extension of it.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub IpAddr);

/// What stands behind the listeners.
pub struct Routes {
    pub edge: Arc<Edge>,
    /// For edges elsewhere.
    pub network: Option<Arc<Network>>,
    /// A development host's page.
    pub inbox: Option<Arc<Inbox>>,
    /// For an admin listener, or a development host's only one: on that it answers loopback names alone.
    pub control: Option<Arc<Control>>,
    /// What stands in the way besides the components: the store.
    pub obstacles: Obstacles,
}

impl Routes {
    /// Answers one request.
    pub async fn answer(&self, mut request: Request<Bytes>, scheme: &'static str) -> Response<Bytes> {
        let Some(uri) = absolute(&request, scheme) else {
            return fault(StatusCode::BAD_REQUEST, "validation_error", "The Host field is missing or wrong.");
        };
        *request.uri_mut() = uri;
        let path = request.uri().path();
        let is_below = |prefix: &str| path.strip_prefix(prefix).is_some_and(|it| it.is_empty() || it.starts_with('/'));
        match (&self.inbox, &self.control) {
            _ if path == "/healthz" => return plain(StatusCode::OK, "ok\n".to_owned()),
            _ if path == "/readyz" => return self.readiness(),
            (Some(inbox), _) if is_below("/inbox") => return inbox.handle(request).await,
            (Some(_), _) if path == "/" => return to_inbox(),
            (_, Some(control)) if path.starts_with(control::PREFIX) || path == control::METRICS_PATH => {
                // The key of a development host is known to everybody, and so to every web page.
                if self.inbox.is_some() && !is_local(&request) {
                    let text = "The control API answers on loopback names only, and no web page.";
                    return fault(StatusCode::FORBIDDEN, "invalid_access", text);
                }
                let peer = request.extensions().get::<Peer>().map(|peer| peer.0);
                return control.answer(request, Entry::Network(peer)).await;
            }
            (Some(_) | None, Some(_) | None) => {}
        }
        let served = Served::begin(&request);
        let mut response = match path.starts_with(delivery::PREFIX) {
            true => match &self.network {
                Some(network) => network.answer(request).await,
                None => fault(StatusCode::NOT_FOUND, "not_found", "There is nothing at this path."),
            },
            false => {
                prepare(request.headers_mut(), &served.id);
                self.edge.serve(request).await
            }
        };
        served.end(response.status());
        let headers = response.headers_mut();
        // The body is whole: its length is ours to say.
        headers.remove(header::CONTENT_LENGTH);
        OF_ONE_HOP.iter().for_each(|name| drop(headers.remove(name)));
        // A UUID is always a field value.
        let id = HeaderValue::from_str(&served.id).unwrap_or(HeaderValue::from_static("none"));
        headers.insert(REQUEST_ID_HEADER, id);
        response
    }

    fn readiness(&self) -> Response<Bytes> {
        let mut obstacles = self.edge.obstacles();
        obstacles.extend((self.obstacles)());
        if obstacles.is_empty() {
            return plain(StatusCode::OK, "ready\n".to_owned());
        }
        plain(StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", obstacles.join("\n")))
    }
}

/// A request as the log tells of it.
struct Served {
    /// The one that an edge gave it, so that the logs of both sides name the same request, or a new one. It is a label and
    /// nothing else, so it is taken from anybody.
    id: String,
    /// It came from an edge, or from somebody who wants to find it in the log.
    is_given: bool,
    method: Method,
    path: String,
    started: Instant,
}

impl Served {
    fn begin(request: &Request<Bytes>) -> Served {
        let given = wire::request_id(request.headers());
        Served {
            id: given.map_or_else(|| Uuid::new_v4().to_string(), str::to_owned),
            is_given: given.is_some(),
            method: request.method().clone(),
            path: request.uri().path().chars().take(PATH_SHOWN).collect(),
            started: Instant::now(),
        }
    }

    fn end(&self, status: StatusCode) {
        let Served { id, method, path, .. } = self;
        let (status, ms) = (status.as_u16(), self.started.elapsed().as_millis() as u64);
        match self.is_given {
            true => tracing::info!(request = id, %method, path, status, ms, "served"),
            false => tracing::debug!(request = id, %method, path, status, ms, "served"),
        }
    }
}

/// Takes off what only we may say and what belongs to the connection, and gives the request its id.
fn prepare(headers: &mut HeaderMap, id: &str) {
    let ours: Vec<HeaderName> = headers.keys().filter(|name| name.as_str().starts_with(OUR_HEADERS)).cloned().collect();
    ours.iter().chain(&OF_ONE_HOP).for_each(|name| drop(headers.remove(name)));
    if let Ok(id) = HeaderValue::from_str(id) {
        headers.insert(REQUEST_ID_HEADER, id);
    }
}

/// The request's target with scheme and authority, as a trigger wants it.
fn absolute<T>(request: &Request<T>, scheme: &'static str) -> Option<Uri> {
    let uri = request.uri();
    let authority = match uri.authority() {
        Some(authority) => authority.clone(),
        None => request.headers().get(header::HOST)?.to_str().ok()?.parse::<Authority>().ok()?,
    };
    let path = uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
    if !path.as_str().starts_with('/') {
        return None;
    }
    let scheme = if scheme == "https" { Scheme::HTTPS } else { Scheme::HTTP };
    Uri::builder().scheme(scheme).authority(authority).path_and_query(path).build().ok()
}

/// Whether a request is for this machine by name, and from no web page: a page elsewhere can rebind a name to
/// 127.0.0.1, and can post to any address, but neither without telling.
fn is_local<T>(request: &Request<T>) -> bool {
    let host = request.uri().host().unwrap_or_default().trim_matches(['[', ']']);
    let is_loopback = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
    is_loopback && !request.headers().contains_key(header::ORIGIN)
}

fn plain(status: StatusCode, text: String) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(text));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

fn to_inbox() -> Response<Bytes> {
    let mut response = plain(StatusCode::SEE_OTHER, "The inbox is at /inbox.\n".to_owned());
    response.headers_mut().insert(header::LOCATION, HeaderValue::from_static("/inbox"));
    response
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn request(target: &str, fields: &[(&str, &str)]) -> Request<Bytes> {
        let mut request = Request::builder().uri(target);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(Bytes::new()).unwrap()
    }

    #[test]
    fn targets_become_absolute() {
        let check = |target: &str, host: &str, expect: Option<&str>| {
            let uri = absolute(&request(target, &[("host", host)]), "http").map(|uri| uri.to_string());
            assert_eq!(uri.as_deref(), expect, "{target} {host}");
        };
        check("/emails?x=1", "localhost:8080", Some("http://localhost:8080/emails?x=1"));
        check("http://other/emails", "localhost", Some("http://other/emails"));
        check("*", "localhost", None);
        check("/emails", "not a host", None);
        assert_eq!(absolute(&request("/emails", &[]), "https"), None);
    }

    #[test]
    fn control_is_for_this_machine() {
        let check = |target: &str, fields: &[(&str, &str)], expect: bool| {
            assert_eq!(is_local(&request(target, fields)), expect, "{target} {fields:?}");
        };
        check("http://127.0.0.1:8080/control/v1/keys", &[], true);
        check("http://localhost/control/v1/keys", &[], true);
        check("http://[::1]:80/control/v1/keys", &[], true);
        check("http://evil.example/control/v1/keys", &[], false);
        check("http://localhost/control/v1/keys", &[("origin", "http://evil.example")], false);
    }

    #[test]
    fn strangers_cannot_speak_for_us() {
        let fields =
            [("x-posthaste-hand-over", "1"), ("x-posthaste-request-id", "theirs"), ("te", "x"), ("accept", "*")];
        let request = request("/", &fields);
        let id = Served::begin(&request).id;
        let mut headers = request.into_parts().0.headers;
        prepare(&mut headers, &id);
        let names: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        assert_eq!(names.len(), 2, "{names:?}");
        assert_eq!(headers.get(REQUEST_ID_HEADER).unwrap(), id.as_str());
        assert!(id != "theirs" && headers.contains_key("accept"));
    }

    #[test]
    fn an_id_that_came_along_is_kept() {
        let given = "01890a5d-ac96-774b-bcce-b302099a8057";
        let served = Served::begin(&request("/emails/1?x=y", &[("x-posthaste-request-id", given)]));
        assert_eq!((served.id.as_str(), served.is_given, served.path.as_str()), (given, true, "/emails/1"));
        let fresh = Served::begin(&request("/", &[("x-posthaste-request-id", "1")]));
        assert!(!fresh.is_given && Uuid::parse_str(&fresh.id).is_ok());
    }
}
