//! A request's way through the trigger: route, key, body, message, hand-over.

use std::future::Future;
use std::ops::Deref;

use contract::FindingClass;
use delivery_client::wire::{
    AuthAnswer, AuthRequest, FetchRequest, HAND_OVER_HEADER, Idempotency, MessageAnswer, MessageMeta, SEAM_HEADER,
};
use delivery_client::{Client, DeliveryError, Fetched, Http};
use futures::future::join_all;
use http::{HeaderMap, Method, Request, Response, request};
use mail::{Domain, Envelope, Stream};
use pipeline::{Content, Limits, Ready, Refusal, Stages, Submission};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::answer::{self, Error};
use crate::attachment::{self, AT_ONCE, REMOTE, Remote};
use crate::auth::{self, AuthCache};
use crate::batch::Mode;
use crate::email::{Email, Recipients};
use crate::json::{Fields, Value};
use crate::schedule;
use crate::template::{self, StoredTemplate};

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
            ("/emails", &Method::POST) => self.send(parts, body, Kind::One).await,
            ("/emails", &Method::GET | &Method::HEAD) => self.pass(parts, body).await,
            ("/emails", _) => Ok(answer::method_not_allowed("GET, POST")),
            ("/emails/batch", &Method::POST) => {
                let mode = Mode::read(&parts.headers)?;
                self.send(parts, body, Kind::Batch(mode)).await
            }
            ("/emails/batch", _) => Ok(answer::method_not_allowed("POST")),
            (path, &Method::PATCH) if path.starts_with("/emails/") => self.reschedule(parts, body).await,
            ("/templates", &Method::POST) => self.keep_template(parts, body).await,
            (path, &Method::PATCH) if path.starts_with("/templates/") => self.keep_template(parts, body).await,
            (_, _) => self.pass(parts, body).await,
        }
    }

    /// Every other path of the sending API: the host answers it.
    async fn pass<B: Body>(&self, parts: request::Parts, body: B) -> Result<Response<Vec<u8>>, Error> {
        let body = body.read(OTHER_BODY_BYTES).await.map_err(|error| unread(error, OTHER_BODY_BYTES))?;
        Ok(self.client.pass_through(Request::from_parts(parts, body)).await?)
    }

    /// `PATCH /emails/{id}`: the time is read here, so that it may be written as in `POST /emails`; the host gets it as
    /// a moment.
    async fn reschedule<B: Body>(&self, parts: request::Parts, body: B) -> Result<Response<Vec<u8>>, Error> {
        auth::credential(&parts.headers).ok_or_else(Error::missing_key)?;
        let body = body.read(OTHER_BODY_BYTES).await.map_err(|error| unread(error, OTHER_BODY_BYTES))?;
        let mut fields = Fields::read(&body)?;
        let value = fields.need("scheduled_at")?;
        // The Python SDK repeats the id of the path.
        if let Some(id) = fields.take("id")
            && !parts.uri.path().ends_with(&format!("/{}", id.string()?))
        {
            return Err(id.wrong("it is not the id of the path").into());
        }
        fields.finish(&["scheduled_at"])?;
        let now_ms = i64::try_from(self.moment.now_s).unwrap_or(i64::MAX / 1000).saturating_mul(1000);
        let at_ms = schedule::read(&value, self.moment.now_s)?.unwrap_or(now_ms);
        let body = serde_json::json!({ "scheduled_at": schedule::iso(at_ms) }).to_string();
        Ok(self.client.pass_through(Request::from_parts(parts, body.into_bytes())).await?)
    }

    /// `POST /emails` and `POST /emails/batch`.
    async fn send<B: Body>(&self, parts: request::Parts, body: B, kind: Kind) -> Result<Response<Vec<u8>>, Error> {
        let credential = auth::credential(&parts.headers).ok_or_else(Error::missing_key)?;
        let key = idempotency_key(&parts.headers)?;
        let mut caller = self.caller(&credential).await?;
        let limit =
            usize::try_from(caller.message_bytes).unwrap_or(usize::MAX).saturating_mul(2).saturating_add(JSON_BYTES);
        let mut body = body.read(limit).await.map_err(|error| unread(error, limit))?;

        let idempotency = key.map(|key| Idempotency { key, digest: hex(&Sha256::digest(&body)), item: 0 });
        let mut is_retry = false;
        loop {
            if !caller.run_stages {
                return self.hand_over(parts, body).await;
            }
            let sent = match kind {
                Kind::Batch(mode) => self.submit_batch(&caller, &body, mode, idempotency.clone()).await,
                Kind::One => match self.email(&caller, Fields::read(&body)?, &mut Supplies::default()).await {
                    Ok(email) => {
                        if body.len() > KEPT_BYTES {
                            body = Vec::new();
                        }
                        self.submit(&caller, email, idempotency.clone()).await
                    }
                    Err(failure) => Err(failure),
                },
            };
            match sent {
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

    pub(crate) async fn caller(&self, credential: &AuthRequest) -> Result<Caller, Error> {
        if let Some(answer) = self.cache.get(credential, self.moment.now_s) {
            return Ok(Caller { answer, is_fresh: false });
        }
        let answer = self.client.auth(credential).await?;
        self.cache.put(credential, &answer, self.moment.now_s);
        Ok(Caller { answer, is_fresh: true })
    }

    /// The tenant's stages run in the host: so does the whole request.
    pub(crate) async fn hand_over(&self, parts: request::Parts, body: Vec<u8>) -> Result<Response<Vec<u8>>, Error> {
        if parts.headers.contains_key(HAND_OVER_HEADER) {
            return Err(Error::later("the host handed the request back", 5));
        }
        Ok(self.client.hand_over(Request::from_parts(parts, body)).await?)
    }

    /// Reads the fields of one message, with the template that they name.
    async fn email(&self, caller: &Caller, fields: Fields<'_>, supplies: &mut Supplies) -> Result<Email, Failure> {
        let stored = match template::stored_id(&fields).map_err(Error::from)? {
            Some((id, path)) => Some(self.template(caller, &id, &path, supplies).await?),
            None => None,
        };
        let mut email = Email::read(fields, stored, self.moment.now_s).map_err(Error::from)?;
        let refused = |error: Error| match caller.is_fresh {
            true => Failure::Final(error),
            // The domain may have been added since, or the stream opened.
            false => Failure::Stale(error.message),
        };
        check_from(caller, email.from.address.domain()).map_err(refused)?;
        email.stream = Some(stream(caller, email.stream).map_err(refused)?);
        supplies.files += email.remotes.len();
        if supplies.files > REMOTE {
            let text = format!(
                "`attachments`: more than {REMOTE} files are given by `path` in one request, which is the limit"
            );
            return Err(Error::new(422, "validation_error", text).into());
        }
        Ok(email)
    }

    /// A template that the host keeps. `path` is the field that names it.
    async fn template(
        &self,
        caller: &AuthAnswer,
        id: &str,
        path: &str,
        supplies: &mut Supplies,
    ) -> Result<StoredTemplate, Failure> {
        if let Some((_, known)) = supplies.templates.iter().find(|(known, _)| known == id) {
            return Ok(known.clone());
        }
        match self.client.template(&caller.token, id).await {
            Ok(answer) => {
                let stored = StoredTemplate::new(answer);
                supplies.templates.push((id.to_owned(), stored.clone()));
                Ok(stored)
            }
            Err(DeliveryError::Refused { status: 404, text, .. }) => {
                Err(Error::new(422, "validation_error", format!("`{path}`: {text}")).into())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Makes one message of a batch, whose place in it is `place`.
    pub(crate) async fn item(
        &self,
        caller: &Caller,
        item: &Value<'_>,
        place: u32,
        idempotency: Option<Idempotency>,
        supplies: &mut Supplies,
    ) -> Result<Made, Failure> {
        let email = self.email(caller, item.fields().map_err(Error::from)?, supplies).await?;
        // Ids of version 7 end in 62 bits by chance: the next one is as good.
        let id = Uuid::from_u128(self.moment.id.as_u128().wrapping_add(u128::from(place)));
        self.make(caller, email, id, idempotency).await
    }

    /// Makes the message and hands it to the host.
    async fn submit(
        &self,
        caller: &AuthAnswer,
        email: Email,
        idempotency: Option<Idempotency>,
    ) -> Result<Response<Vec<u8>>, Failure> {
        let Made { meta, message, ignored, warnings } = self.make(caller, email, self.moment.id, idempotency).await?;
        match self.client.send(&caller.token, &meta, message).await? {
            MessageAnswer::Accepted { id, replayed: _ } => Ok(answer::sent(&id, &ignored, &warnings)),
            MessageAnswer::Refused { status, name, text, retry_after_s } => {
                Err(Error::refused(status, &name, text, retry_after_s).into())
            }
        }
    }

    /// Fetches what is to be attached and runs the stages.
    async fn make(
        &self,
        caller: &AuthAnswer,
        mut email: Email,
        id: Uuid,
        idempotency: Option<Idempotency>,
    ) -> Result<Made, Failure> {
        check_size(caller, &email)?;
        let remotes = std::mem::take(&mut email.remotes);
        for group in remotes.chunks(AT_ONCE) {
            let max_bytes = caller.message_bytes.saturating_sub(email.content_bytes());
            let fetched = join_all(group.iter().map(|remote| self.fetch(caller, remote, max_bytes))).await;
            for (remote, fetched) in group.iter().zip(fetched) {
                if let Some(attachment) = email.attachments.get_mut(remote.index) {
                    attachment::fill(attachment, fetched?);
                }
                check_size(caller, &email)?;
            }
        }
        let (ignored, tags, scheduled_ms) = (email.ignored.clone(), email.tags.clone(), email.scheduled_ms);
        let Recipients { all, hidden } = email.recipients();
        let envelope = Envelope { sender: Some(email.from.address.clone()), recipients: all };
        let ready =
            pipeline::run(self.stages, self.submission(caller, email, envelope, id)).await.map_err(Error::from)?;

        let Ready { envelope, message, attributes, warnings, signed: _ } = ready;
        let meta = MessageMeta {
            id: id.to_string(),
            sender: envelope.sender.map(|sender| sender.to_string()),
            recipients: envelope.recipients.iter().map(ToString::to_string).collect(),
            bcc: hidden.iter().map(ToString::to_string).collect(),
            attributes,
            tags,
            idempotency,
            component_revision: caller.component_revision,
            scheduled_ms,
            with_all: false,
        };
        Ok(Made { meta, message, ignored, warnings })
    }

    /// Fetches one attachment.
    async fn fetch(&self, caller: &AuthAnswer, remote: &Remote, max_bytes: u64) -> Result<Fetched, Failure> {
        let request = FetchRequest { url: remote.url.clone(), max_bytes };
        self.client.fetch(&caller.token, &request).await.map_err(|error| match error {
            DeliveryError::Refused { status: status @ (413 | 422), text, .. } => {
                Error::new(status, "invalid_attachment", format!("`{}`: {text}", remote.path)).into()
            }
            error => Failure::from(error),
        })
    }

    fn submission(&self, caller: &AuthAnswer, email: Email, envelope: Envelope, id: Uuid) -> Submission {
        let now_s = self.moment.now_s;
        let message_id = format!("<{id}@{}>", email.from.address.domain());
        // A message says when it goes out: by then, the time it was written at may be weeks ago. One that is moved later
        // keeps it, because it is signed.
        let date_s = email.scheduled_ms.map_or(i64::try_from(now_s).unwrap_or(i64::MAX), |ms| ms / 1000);
        let attributes = email.stream.unwrap_or_default().attributes();
        let (draft, template) = email.into_draft(message_id, date_s);
        Submission {
            envelope,
            content: Content::Draft { draft: Box::new(draft), template },
            attributes,
            limits: Limits { message_bytes: caller.message_bytes, recipients: caller.recipients },
            now_s,
        }
    }
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
enum Kind {
    One,
    Batch(Mode),
}

/// What one request has asked for besides its own content.
#[derive(Default)]
pub(crate) struct Supplies {
    /// Templates by what it called them.
    templates: Vec<(String, StoredTemplate)>,
    /// Files to fetch.
    files: usize,
}

/// Who calls, as the host said: just now, or within the last minute.
pub(crate) struct Caller {
    answer: AuthAnswer,
    is_fresh: bool,
}

impl Deref for Caller {
    type Target = AuthAnswer;

    fn deref(&self) -> &AuthAnswer {
        &self.answer
    }
}

/// A message, ready to be handed over.
pub(crate) struct Made {
    pub(crate) meta: MessageMeta,
    pub(crate) message: Vec<u8>,
    pub(crate) ignored: Vec<&'static str>,
    pub(crate) warnings: Vec<String>,
}

/// Why a message was not handed over.
pub(crate) enum Failure {
    /// What `auth` said is out of date: ask anew, once.
    Stale(String),
    Final(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Final(error)
    }
}

impl From<DeliveryError> for Failure {
    fn from(error: DeliveryError) -> Failure {
        match error {
            error @ (DeliveryError::StaleRevision | DeliveryError::Credential) => Failure::Stale(error.to_string()),
            error => Failure::Final(error.into()),
        }
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

/// The stream of a message that names this one, or none.
fn stream(caller: &AuthAnswer, named: Option<Stream>) -> Result<Stream, Error> {
    // A host that says nothing of streams knows one of them only.
    let may: Vec<Stream> = caller.streams.iter().filter_map(|name| name.parse().ok()).collect();
    let may = if caller.streams.is_empty() { &[Stream::Transactional] } else { may.as_slice() };
    Stream::choose(named, may).map_err(|denied| Error::new(403, "invalid_access", format!("`stream`: {denied}")))
}

/// What a message is made of must not be larger than the message may be.
fn check_size(caller: &AuthAnswer, email: &Email) -> Result<(), Error> {
    let bytes = email.content_bytes();
    if bytes <= caller.message_bytes {
        return Ok(());
    }
    let text = format!(
        "the message has more than {bytes} bytes before it is encoded: at most {} are allowed",
        caller.message_bytes
    );
    Err(Refusal::new(FindingClass::TooLarge, None, text).into())
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

pub(crate) fn unread(error: BodyError, limit: usize) -> Error {
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
pub(crate) mod tests;
