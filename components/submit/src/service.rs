//! A request's way through the trigger: route, key, body, message, hand-over.

use std::future::Future;

use contract::FindingClass;
use delivery_client::wire::{
    AuthAnswer, AuthRequest, HAND_OVER_HEADER, Idempotency, MessageAnswer, MessageMeta, SEAM_HEADER,
};
use delivery_client::{Client, DeliveryError, Http};
use http::{HeaderMap, Method, Request, Response, request};
use mail::{Domain, Envelope};
use pipeline::{Content, Limits, Ready, Refusal, Stages, Submission};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::answer::{self, Error};
use crate::auth::{self, AuthCache};
use crate::email::{Email, Recipients};

/// Bytes of a body that is passed through: none of the other routes takes a message.
const OTHER_BODY_BYTES: usize = 1 << 20;
/// Bytes of JSON around a message's content, and how much larger its text form may be: base64 is 4/3, a list of
/// numbers 4, escapes up to 6; what is above twice the message is not worth reading.
const JSON_BYTES: usize = 1 << 20;
/// A body up to this size is kept until the message is accepted, to be read again where the tenant's components change
/// in that moment; with a larger one the sender tries again.
const KEPT_BYTES: usize = 1 << 20;
/// Characters of an `Idempotency-Key`.
const IDEMPOTENCY_KEY_LENGTH: usize = 256;
/// Paths of the host that are not for callers: the seam, people's side, and what only the operator sees.
const HIDDEN: &[&str] = &["/delivery", "/control", "/notify", "/metrics", "/inbox"];

/// A body that has not been read yet: nobody's bytes are read before their key is known.
pub trait Body {
    /// All of it, at most `limit` bytes.
    fn read(self, limit: usize) -> impl Future<Output = Result<Vec<u8>, BodyError>>;
}

/// Why a body was not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BodyError {
    TooLarge,
    /// The caller went away or sent something that is not HTTP.
    Broken(String),
}

/// What comes from outside a pure program: the time, and a name for what is made in it.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// Seconds since 1970.
    pub now_s: u64,
    /// The id of the message, if one is made. Version 7, so that ids sort by time.
    pub id: Uuid,
}

/// Everything that one request needs.
pub struct Service<'a, H, S> {
    pub client: Client<H>,
    pub stages: &'a S,
    pub cache: &'a AuthCache,
    pub moment: Moment,
}

impl<H: Http, S: Stages> Service<'_, H, S> {
    /// Answers one request. The second value is for the log, where something is wrong on our side.
    pub async fn answer<B: Body>(&self, request: Request<B>) -> (Response<Vec<u8>>, Option<String>) {
        let (parts, body) = request.into_parts();
        match self.route(parts, body).await {
            Ok(response) => (response, None),
            Err(mut error) => {
                let cause = error.cause.take();
                (error.into_response(), cause)
            }
        }
    }

    async fn route<B: Body>(&self, parts: request::Parts, body: B) -> Result<Response<Vec<u8>>, Error> {
        let path = parts.uri.path();
        if is_hidden(path) {
            return Err(Error::not_found());
        }
        if parts.headers.contains_key(SEAM_HEADER) {
            // A host takes this off: here it would go round in circles.
            return Err(Error::later("`delivery_url` leads to an edge: give the host's own address", 60));
        }
        match (path, &parts.method) {
            ("/emails", &Method::POST) => self.send(parts, body).await,
            ("/emails", &Method::GET | &Method::HEAD) => self.pass(parts, body).await,
            ("/emails", _) => Ok(answer::method_not_allowed("GET, POST")),
            ("/emails/batch", &Method::POST) => Err(Error::not_yet("sending a batch: send its mails one by one")),
            (path, &Method::POST) if path.starts_with("/emails/") && path.ends_with("/cancel") => {
                Err(Error::not_yet("canceling: a mail goes out as soon as it is accepted"))
            }
            (path, &Method::PATCH) if path.starts_with("/emails/") => Err(Error::not_yet("rescheduling")),
            (_, _) => self.pass(parts, body).await,
        }
    }

    /// Every other path of the sending API: the host answers it.
    async fn pass<B: Body>(&self, parts: request::Parts, body: B) -> Result<Response<Vec<u8>>, Error> {
        let body = body.read(OTHER_BODY_BYTES).await.map_err(|error| unread(error, OTHER_BODY_BYTES))?;
        Ok(self.client.pass_through(Request::from_parts(parts, body)).await?)
    }

    /// `POST /emails`.
    async fn send<B: Body>(&self, parts: request::Parts, body: B) -> Result<Response<Vec<u8>>, Error> {
        let credential = auth::credential(&parts.headers).ok_or_else(Error::missing_key)?;
        let key = idempotency_key(&parts.headers)?;
        let mut caller = self.caller(&credential).await?;
        let limit =
            usize::try_from(caller.message_bytes).unwrap_or(usize::MAX).saturating_mul(2).saturating_add(JSON_BYTES);
        let mut body = body.read(limit).await.map_err(|error| unread(error, limit))?;

        let idempotency = key.map(|key| Idempotency { key, digest: hex(&Sha256::digest(&body)) });
        let mut is_retry = false;
        loop {
            if !caller.run_stages {
                return self.hand_over(parts, body).await;
            }
            let email = Email::read(&body)?;
            if body.len() > KEPT_BYTES {
                body = Vec::new();
            }
            match self.submit(&caller, email, idempotency.clone()).await {
                Ok(response) => return Ok(response),
                Err(Failure::Stale(cause)) => {
                    // The next request asks anew too, where this one cannot be made again.
                    self.cache.forget(&credential);
                    if is_retry || body.is_empty() {
                        return Err(Error::later(cause, 1));
                    }
                    caller = self.caller(&credential).await?;
                    is_retry = true;
                }
                Err(Failure::Final(error)) => return Err(error),
            }
        }
    }

    async fn caller(&self, credential: &AuthRequest) -> Result<AuthAnswer, Error> {
        if let Some(answer) = self.cache.get(credential, self.moment.now_s) {
            return Ok(answer);
        }
        let answer = self.client.auth(credential).await?;
        self.cache.put(credential, &answer, self.moment.now_s);
        Ok(answer)
    }

    /// The tenant's stages run in the host: so does the whole request.
    async fn hand_over(&self, parts: request::Parts, body: Vec<u8>) -> Result<Response<Vec<u8>>, Error> {
        if parts.headers.contains_key(HAND_OVER_HEADER) {
            return Err(Error::later("the host handed the request back", 5));
        }
        Ok(self.client.hand_over(Request::from_parts(parts, body)).await?)
    }

    /// Makes the message and hands it to the host.
    async fn submit(
        &self,
        caller: &AuthAnswer,
        email: Email,
        idempotency: Option<Idempotency>,
    ) -> Result<Response<Vec<u8>>, Failure> {
        check_from(caller, email.from.address.domain())?;
        if email.content_bytes() > caller.message_bytes {
            let text = format!(
                "the message has more than {} bytes before it is encoded: at most {} are allowed",
                email.content_bytes(),
                caller.message_bytes
            );
            return Err(Error::from(Refusal::new(FindingClass::TooLarge, None, text)).into());
        }
        let ignored = email.ignored.clone();
        let tags = email.tags.clone();
        let Recipients { all, hidden } = email.recipients();
        let envelope = Envelope { sender: Some(email.from.address.clone()), recipients: all };
        let ready = pipeline::run(self.stages, self.submission(caller, email, envelope)).await.map_err(Error::from)?;

        let Ready { envelope, message, attributes, warnings, signed: _ } = ready;
        let meta = MessageMeta {
            id: self.moment.id.to_string(),
            sender: envelope.sender.map(|sender| sender.to_string()),
            recipients: envelope.recipients.iter().map(ToString::to_string).collect(),
            bcc: hidden.iter().map(ToString::to_string).collect(),
            attributes,
            tags,
            idempotency,
            component_revision: caller.component_revision,
        };
        match self.client.send(&caller.token, &meta, message).await {
            Ok(MessageAnswer::Accepted { id, replayed: _ }) => Ok(answer::sent(&id, &ignored, &warnings)),
            Ok(MessageAnswer::Refused { status, name, text }) => Err(Error::new(status, &name, text).into()),
            Err(error @ (DeliveryError::StaleRevision | DeliveryError::Credential)) => {
                Err(Failure::Stale(error.to_string()))
            }
            Err(error) => Err(Error::from(error).into()),
        }
    }

    fn submission(&self, caller: &AuthAnswer, email: Email, envelope: Envelope) -> Submission {
        let now_s = self.moment.now_s;
        let message_id = format!("<{}@{}>", self.moment.id, email.from.address.domain());
        let (draft, template) = email.into_draft(message_id, i64::try_from(now_s).unwrap_or(i64::MAX));
        Submission {
            envelope,
            content: Content::Draft { draft: Box::new(draft), template },
            attributes: Vec::new(),
            limits: Limits { message_bytes: caller.message_bytes, recipients: caller.recipients },
            now_s,
        }
    }
}

/// Why a message was not handed over.
enum Failure {
    /// What `auth` said is out of date: ask anew, once.
    Stale(String),
    Final(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Final(error)
    }
}

/// Whether a path is kept from callers: the host's own, and any spelling that another parser could take for one.
fn is_hidden(path: &str) -> bool {
    let is_odd = path.contains(['%', '\\']) || path.contains("//") || path.split('/').any(|part| part.starts_with('.'));
    let lower = path.to_ascii_lowercase();
    is_odd
        || HIDDEN
            .iter()
            .any(|hidden| lower.strip_prefix(hidden).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
}

/// The tenant whose name nobody needs to write.
const DEFAULT_TENANT: &str = "default";

/// From must be of a registered domain or below one.
fn check_from(caller: &AuthAnswer, domain: &Domain) -> Result<(), Error> {
    let covers = |registered: &String| {
        let rest = domain.as_str().strip_suffix(registered.as_str());
        rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    if caller.any_domain || caller.domains.iter().any(covers) {
        return Ok(());
    }
    let tenant = if caller.tenant == DEFAULT_TENANT { String::new() } else { format!(" --tenant {}", caller.tenant) };
    let text =
        format!("`from`: the domain `{domain}` is not registered: add it with `posthaste domain add{tenant} {domain}`");
    Err(Error::new(403, "invalid_from_address", text))
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Error> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    let key = std::str::from_utf8(value.as_bytes()).unwrap_or_default();
    if key.is_empty() || key.chars().count() > IDEMPOTENCY_KEY_LENGTH {
        let text = format!("`Idempotency-Key` must have 1 to {IDEMPOTENCY_KEY_LENGTH} characters");
        return Err(Error::new(400, "invalid_idempotency_key", text));
    }
    Ok(Some(key.to_owned()))
}

fn unread(error: BodyError, limit: usize) -> Error {
    match error {
        BodyError::TooLarge => {
            Error::new(413, "validation_error", format!("the request has more than {limit} bytes, which is the limit"))
        }
        BodyError::Broken(cause) => {
            Error { cause: Some(cause), ..Error::new(400, "validation_error", "the request's body broke off") }
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
#[path = "service_tests.rs"]
mod tests;
