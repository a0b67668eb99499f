//! What the sending API has besides mail, and what messages may need that is not in their requests: templates, domains,
//! files from the web.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use delivery_client::wire::{FETCH_PATH, FILE_NAME_HEADER, FetchRequest, TEMPLATES_PATH};
use http::header::{ACCEPT_ENCODING, CONTENT_DISPOSITION, CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::domains::{self, DomainApi};
use super::fault::{fault, json, unavailable};
use super::templates::{self, TemplateApi};
use crate::sizes::Sizes;
use crate::web::{Limits, Web};

/// How long a file may take: a trigger has a minute for all it does.
const FETCH_TIME: Duration = Duration::from_secs(15);

/// How long a file or a verification waits for its turn: whoever asks holds the place of a request meanwhile.
const TURN: Duration = Duration::from_millis(500);

/// Characters of a file's name.
const NAME_CHARS: usize = 100;

/// Shared by the two APIs that triggers reach.
pub struct Resources {
    pub templates: TemplateApi,
    pub domains: DomainApi,
    pub web: Arc<Web>,
    /// No file that is fetched is larger than a message.
    pub sizes: Arc<Sizes>,
    /// Files being fetched and domains being verified at once. Both wait for strangers' servers, and the requests that
    /// wait for them are a part only of all that may be answered at once.
    pub errands: Arc<Semaphore>,
}

/// A fetched file, and its place as long as its bytes are there.
struct Held {
    bytes: Bytes,
    _place: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Resources {
    /// Answers a request with its caller's own credentials; `None` where the path is somebody else's.
    pub async fn answer(&self, request: Request<Bytes>) -> Result<Response<Bytes>, Request<Bytes>> {
        let path = request.uri().path();
        let is_below = |prefix: &str| path.strip_prefix(prefix).is_some_and(|it| it.is_empty() || it.starts_with('/'));
        match (is_below(templates::PREFIX), is_below(domains::PREFIX)) {
            (true, _) => Ok(self.templates.answer(request).await),
            (_, true) if path.ends_with("/verify") => match self.turn().await {
                Some(_place) => Ok(self.domains.answer(request).await),
                None => Ok(busy()),
            },
            (_, true) => Ok(self.domains.answer(request).await),
            (false, false) => Err(request),
        }
    }

    /// The next errand's place, where one is free in time.
    async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        timeout(TURN, self.errands.clone().acquire_owned()).await.ok()?.ok()
    }

    /// Answers what a trigger asks while it makes a message of this tenant.
    pub async fn supply(&self, tenant: &str, request: &Request<Bytes>) -> Response<Bytes> {
        let path = request.uri().path();
        let name = path.strip_prefix(TEMPLATES_PATH).and_then(|rest| rest.strip_prefix('/'));
        match (request.method(), name) {
            (&Method::GET, Some(name)) => match self.templates.published(tenant, name).await {
                Ok(Some(template)) => json(StatusCode::OK, &template),
                Ok(None) => fault(StatusCode::NOT_FOUND, "not_found", format!("there is no template {name}")),
                Err(response) => response,
            },
            (&Method::POST, None) if path == FETCH_PATH => self.fetch(request.body()).await,
            (method, _) => {
                let text = format!("{method} is not answered at {path}.");
                fault(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", text)
            }
        }
    }

    /// Fetches a file for a message. Where it cannot be had, its sender is told why: nothing is tried again.
    async fn fetch(&self, body: &[u8]) -> Response<Bytes> {
        let wrong = |text: String| fault(StatusCode::UNPROCESSABLE_ENTITY, "invalid_attachment", text);
        let FetchRequest { url, max_bytes } = match serde_json::from_slice(body) {
            Ok(request) => request,
            Err(error) => {
                return fault(StatusCode::BAD_REQUEST, "validation_error", format!("it cannot be read: {error}"));
            }
        };
        let Ok(uri) = url.parse::<Uri>() else { return wrong("it is not a URL".to_owned()) };
        let name = name_in(&uri);
        let most = usize::try_from(max_bytes.min(self.sizes.message_bytes())).unwrap_or(usize::MAX);
        let request = Request::get(uri)
            .header(USER_AGENT, concat!("posthaste/", env!("CARGO_PKG_VERSION")))
            .header(ACCEPT_ENCODING, "identity")
            .body(Bytes::new());
        let Ok(request) = request else { return wrong("it is not a URL".to_owned()) };
        let Some(place) = self.turn().await else { return busy() };
        let limits = Limits { time: FETCH_TIME, body_bytes: most.saturating_add(1) };
        let answer = match self.web.send(request, limits).await {
            Ok(answer) => answer,
            Err(error) => return wrong(format!("the file cannot be fetched: {error}")),
        };
        let status = answer.status();
        if status != StatusCode::OK {
            let hint =
                if status.is_redirection() { ": redirects are not followed, give the address it leads to" } else { "" };
            return wrong(format!("the file cannot be fetched: its server answered {}{hint}", status.as_u16()));
        }
        let (parts, content) = answer.into_parts();
        if content.len() > most {
            let text = format!("the file has more than {most} bytes, which is all that is left of the message");
            return fault(StatusCode::PAYLOAD_TOO_LARGE, "invalid_attachment", text);
        }
        let name = name_said(&parts.headers).or(name);
        let mut response = Response::new(Bytes::from_owner(Held { bytes: content, _place: place }));
        if let Some(content_type) = parts.headers.get(CONTENT_TYPE) {
            response.headers_mut().insert(CONTENT_TYPE, content_type.clone());
        }
        if let Some(Ok(name)) = name.map(|name| HeaderValue::from_str(&delivery_client::escape(&name))) {
            response.headers_mut().insert(FILE_NAME_HEADER, name);
        }
        response
    }
}

fn busy() -> Response<Bytes> {
    unavailable("Too many files are being fetched or domains looked up at once. Try again later.")
}

/// The name that a server gives its file (RFC 6266), its folders left out.
fn name_said(headers: &HeaderMap) -> Option<String> {
    let disposition = String::from_utf8_lossy(headers.get(CONTENT_DISPOSITION)?.as_bytes()).into_owned();
    let parameter = |name: &str| {
        let mut parameters = disposition.split(';').skip(1).filter_map(|part| part.split_once('='));
        parameters.find(|(key, _)| key.trim().eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_owned())
    };
    let extended = parameter("filename*").and_then(|value| {
        let (charset, rest) = value.split_once('\'')?;
        let (_, name) = rest.split_once('\'')?;
        charset.eq_ignore_ascii_case("utf-8").then(|| delivery_client::unescape(name))
    });
    clean(&extended.or_else(|| parameter("filename").map(|value| value.trim_matches('"').to_owned()))?)
}

/// The last part of a URL's path.
fn name_in(uri: &Uri) -> Option<String> {
    clean(&delivery_client::unescape(uri.path().rsplit('/').next()?))
}

fn clean(name: &str) -> Option<String> {
    let last = name.rsplit(['/', '\\']).next().unwrap_or_default();
    let name: String = last.chars().filter(|c| !c.is_control()).take(NAME_CHARS).collect();
    let name = name.trim().to_owned();
    (!name.is_empty() && name != "." && name != "..").then_some(name)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_of_files() {
        let said = |value: &str| {
            let headers =
                HeaderMap::from_iter([(CONTENT_DISPOSITION, HeaderValue::from_bytes(value.as_bytes()).unwrap())]);
            name_said(&headers)
        };
        let name = |name: &str| Some(name.to_owned());
        assert_eq!(said("attachment; filename=\"a b.pdf\""), name("a b.pdf"));
        assert_eq!(said("attachment; filename=a.pdf; filename*=UTF-8''%C3%BC.pdf"), name("ü.pdf"));
        assert_eq!(said("inline; FILENAME=\"..\\..\\x/evil.exe\""), name("evil.exe"));
        assert_eq!(said("attachment"), None);
        assert_eq!(said("attachment; filename=\"\""), None);
        let of = |url: &str| name_in(&url.parse().unwrap());
        assert_eq!(of("https://x.test/a/r%C3%BCck%20.pdf?x=1"), name("rück .pdf"));
        assert_eq!(of("https://x.test/%2e%2e"), None);
        assert_eq!(of("https://x.test/a%2Fb%0D%0A"), name("b"));
        assert_eq!(of("https://x.test"), None);
    }
}
