//! The development host's inbox: mail is captured instead of sent, and shown on a live page.
//!
//! `Capture` stands where SMTP delivery stands in a serving host; everything before it (pipeline, signatures, store, queue, events) is the real
//! thing. The page is server-rendered, needs no login and no JavaScript, and answers loopback names only, so that no
//! web page elsewhere can read it by rebinding a name to 127.0.0.1. A mail's HTML never stands outside a sandboxed frame.

mod capture;
mod page;
pub(crate) mod verdict;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use uuid::Uuid;

use crate::store::{Directory, MessageView, Store, StoreError, Webhooks};

pub use capture::Capture;

/// Mails on the list page.
const LISTED: usize = 100;

/// A command line that sends a first mail to a development host.
pub fn curl_line(url: &str, key: &str) -> String {
    format!(
        "curl {url}/emails -H 'Authorization: Bearer {key}' -H 'Content-Type: application/json' \\\n    -d '{{\"from\": \"Me <me@example.com>\", \"to\": \"you@example.net\", \"subject\": \"Hello\", \"html\": \"<p>It <b>works</b>.</p>\"}}'"
    )
}

/// The page at `/inbox` and everything below it.
pub struct Inbox {
    store: Arc<dyn Store>,
    webhooks: Arc<dyn Webhooks>,
    directory: Arc<dyn Directory>,
    /// A command that sends a mail, shown while the inbox is empty.
    example: String,
    /// What the list shows of the mails on it, so that a page that looks every second does not read them every second.
    listed: Mutex<HashMap<Uuid, page::Summary>>,
}

impl Inbox {
    pub fn new(
        store: Arc<dyn Store>,
        webhooks: Arc<dyn Webhooks>,
        directory: Arc<dyn Directory>,
        example: String,
    ) -> Inbox {
        Inbox { store, webhooks, directory, example, listed: Mutex::default() }
    }

    /// Answers one request for `/inbox` or a path below it.
    pub async fn handle(&self, request: Request<Bytes>) -> Response<Bytes> {
        if !is_loopback_host(&request) {
            return plain(
                StatusCode::FORBIDDEN,
                "The inbox answers on loopback names only: use http://127.0.0.1 or http://localhost.",
            );
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return plain(StatusCode::METHOD_NOT_ALLOWED, "The inbox is for reading: GET only.");
        }
        let query = request.uri().query().unwrap_or_default();
        let path: Vec<&str> = request.uri().path().trim_matches('/').split('/').skip(1).collect();
        let answer = match path.as_slice() {
            [] => self.list(None).await,
            ["list"] => self.list(Some(&request)).await,
            [id] => self.message(id, query).await,
            [id, "events"] => self.events(id).await,
            [id, "html"] => self.html(id, query).await,
            [id, "source"] => self.source(id).await,
            [id, "parts", index] => self.part(id, index).await,
            _ => Err(StoreError::NotFound("this page".to_owned())),
        };
        answer.unwrap_or_else(|error| match error {
            StoreError::NotFound(what) => plain(StatusCode::NOT_FOUND, &format!("Not found: {what}.")),
            error => plain(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
        })
    }

    /// The list; with `poll`, only the fragment that the live page asks for, 304 while nothing has changed.
    async fn list(&self, poll: Option<&Request<Bytes>>) -> Result<Response<Bytes>, StoreError> {
        let mails = self.store.messages(crate::DEFAULT_TENANT, None, LISTED).await?.items;
        let mut rows = Vec::with_capacity(mails.len());
        for mail in &mails {
            rows.push(page::Row::new(mail, &self.summary(mail).await));
        }
        self.listed().retain(|id, _| mails.iter().any(|mail| mail.id == *id));
        let tag = page::etag(&rows);
        let Some(request) = poll else { return Ok(page::list(&rows, &tag, &self.example)) };
        let known = request.headers().get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok());
        if known == Some(tag.as_str()) {
            return Ok(Response::builder()
                .status(StatusCode::NOT_MODIFIED)
                .header(header::ETAG, tag)
                .body(Bytes::new())
                .unwrap_or_default());
        }
        Ok(page::fragment(&rows, &tag, &self.example))
    }

    async fn summary(&self, mail: &MessageView) -> page::Summary {
        let known = self.listed().get(&mail.id).cloned();
        if let Some(summary) = known {
            return summary;
        }
        // A body that is gone leaves the list as it is without it, and is asked for again.
        let Ok(body) = self.store.body(&mail.body).await else { return page::Summary::default() };
        let summary = page::Summary::new(&body);
        self.listed().insert(mail.id, summary.clone());
        summary
    }

    fn listed(&self) -> std::sync::MutexGuard<'_, HashMap<Uuid, page::Summary>> {
        self.listed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn message(&self, id: &str, query: &str) -> Result<Response<Bytes>, StoreError> {
        let (mail, body) = self.read(id).await?;
        let events = self.store.events(&mail.tenant, mail.id, None, 1000).await?.items;
        let attempts = self.webhooks.attempts_for(mail.id, 1000).await?;
        let domains = self.directory.domains(None).await?;
        let verdicts = verdict::verify(&body, &domains).await;
        Ok(page::message(&mail, &body, (&events, &attempts), &verdicts, query))
    }

    /// The fragment that the live view of a mail's events asks for.
    async fn events(&self, id: &str) -> Result<Response<Bytes>, StoreError> {
        let id = Uuid::parse_str(id).map_err(|_| StoreError::NotFound(format!("the mail {id}")))?;
        let events = self.store.events(crate::DEFAULT_TENANT, id, None, 1000).await?.items;
        let attempts = self.webhooks.attempts_for(id, 1000).await?;
        Ok(page::events(&events, &attempts))
    }

    async fn html(&self, id: &str, query: &str) -> Result<Response<Bytes>, StoreError> {
        let (_, body) = self.read(id).await?;
        Ok(page::frame(&body, page::wants_remote(query)))
    }

    async fn source(&self, id: &str) -> Result<Response<Bytes>, StoreError> {
        let (mail, body) = self.read(id).await?;
        Ok(page::download("text/plain; charset=utf-8", &format!("{}.eml", mail.id), body, true))
    }

    async fn part(&self, id: &str, index: &str) -> Result<Response<Bytes>, StoreError> {
        let (_, body) = self.read(id).await?;
        let missing = || StoreError::NotFound(format!("part {index}"));
        let number: usize = index.parse().map_err(|_| missing())?;
        let (content_type, content) = mail::message::part_content(&body, number).ok_or_else(missing)?;
        let name = mail::message::parse(&body).parts.get(number).and_then(|part| part.file_name.clone());
        let name = name.unwrap_or_else(|| format!("part-{number}"));
        Ok(page::download(&content_type, &name, Bytes::from(content), false))
    }

    async fn read(&self, id: &str) -> Result<(MessageView, Bytes), StoreError> {
        let id = Uuid::parse_str(id).map_err(|_| StoreError::NotFound(format!("the mail {id}")))?;
        let mail = self.store.message(crate::DEFAULT_TENANT, id).await?;
        let body = self.store.body(&mail.body).await?;
        Ok((mail, body))
    }
}

/// Whether the Host field (or the URI's authority) names loopback.
fn is_loopback_host(request: &Request<Bytes>) -> bool {
    let field = request.headers().get(header::HOST).and_then(|value| value.to_str().ok());
    let Some(host) = field.or_else(|| request.uri().authority().map(http::uri::Authority::as_str)) else {
        return false;
    };
    let Ok(authority) = host.parse::<http::uri::Authority>() else { return false };
    let name = authority.host().trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

fn plain(status: StatusCode, text: &str) -> Response<Bytes> {
    Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, "text/plain; charset=utf-8")
        .header(header::X_CONTENT_TYPE_OPTIONS, "nosniff")
        .body(Bytes::from(format!("{text}\n")))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(host: &str, expect: bool) {
        let request = Request::builder().uri("/inbox").header("host", host).body(Bytes::new()).expect("a request");
        assert_eq!(is_loopback_host(&request), expect, "{host}");
    }

    #[test]
    fn answers_loopback_names_only() {
        check("127.0.0.1:8080", true);
        check("localhost", true);
        check("LOCALHOST:1", true);
        check("[::1]:8080", true);
        check("127.9.9.9", true);
        check("evil.example", false);
        check("localhost.evil.example", false);
        check("192.0.2.1:8080", false);
        check("", false);
    }
}
