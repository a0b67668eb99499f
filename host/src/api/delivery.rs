//! `/delivery/v1/`: where triggers ask who their caller is and hand over messages.
//!
//! Answered in-process for the triggers inside the host, and for edges over the network (`network`). Nothing an edge says
//! is believed: the tenant comes from the token, the authors' domains are looked up again, sizes and counts are checked
//! again, and a signature is verified. `POST messages` reaches the commit point; its answer says for each message whether
//! it is durable.

use std::sync::Arc;

use bytes::Bytes;
use delivery_client::wire::{
    AUTH_PATH, AuthAnswer, AuthRequest, FETCH_PATH, Frame, FrameError, FrameLimits, MESSAGES_PATH, MessageAnswer,
    MessageMeta, SCHEDULE_DAYS, TEMPLATES_PATH, batch_bytes, decode_frames,
};
use http::{Method, Request, Response, StatusCode};
use jiff::Timestamp;
use mail::{Address, Stream, header, message};
use pipeline::attributes::RESERVED;
use uuid::Uuid;

use super::control::audit::{self, Change};
use super::credential::{self, Tokens};
use super::fault::{fault, json, unavailable};
use super::refused::{Refused, check_stream, denied, left_out, refused, wrong};
use super::resources::Resources;
use crate::accept::{Intake, IntakeFault};
use crate::author::{self, AuthorFault};
use crate::edge::{Answer, Components, Edge};
use crate::keyring::Keyring;
use crate::signed::{self, SignedFault};
use crate::sizes::Sizes;
use crate::store::{Accepted, DeliveryToken, Directory, Idempotency, NewMessage, Scope, StoreError};
use crate::tenancy::Place;

/// Where all routes of this API begin.
pub const PREFIX: &str = "/delivery/";

/// Messages in one request.
const FRAMES: usize = 100;

/// Bytes of one message's JSON.
const META_BYTES: usize = delivery_client::frame::META_BYTES;

/// Characters of an `Idempotency-Key`.
const IDEMPOTENCY_CHARS: usize = 256;

/// Attributes and tags of one message: what a sender and all stages may add.
const PAIRS: usize = 256;

/// Characters of a reserved name that are told.
const NAME_CHARS: usize = 64;

/// What a trigger inside this host is told of the tenant's components: they are fixed while it runs, and it may run all.
const INSIDE: Components = Components { are_configured: false, revision: 0 };

/// From this size on a message is verified and signed beside the reactor: hashing it would hold up everybody else.
const LARGE_OCTETS: usize = 256 << 10;

/// What tenants may send.
#[derive(Clone, Debug)]
pub struct Terms {
    pub sizes: Arc<Sizes>,
    /// Any From domain may be used (a development host).
    pub any_domain: bool,
}

/// Who calls.
#[derive(Clone, Copy)]
pub enum Caller<'a> {
    /// A trigger inside this host: nobody outside can be one.
    Inside,
    /// An edge that has proved itself with this token. What it has not signed is signed by these components.
    Edge { token: &'a DeliveryToken, components: &'a Arc<Edge> },
}

impl Caller<'_> {
    /// Whom short-lived tokens are given to.
    fn bearer(&self) -> &str {
        match self {
            Caller::Inside => "",
            Caller::Edge { token, .. } => &token.id,
        }
    }

    /// Whether it may act for this tenant at all.
    fn serves(&self, tenant: &str) -> bool {
        match self {
            Caller::Inside => true,
            Caller::Edge { token, .. } => token.tenant.as_deref().is_none_or(|only| only == tenant),
        }
    }

    fn components(&self, tenant: &str) -> Components {
        match self {
            Caller::Inside => INSIDE,
            Caller::Edge { components, .. } => components.components(tenant),
        }
    }

    /// Whether it may run this tenant's stages: not where the operator configured some, unless the token was made for this
    /// very tenant, whose owner then saw to it.
    fn runs_stages(&self, tenant: &str) -> bool {
        match self {
            Caller::Inside => true,
            Caller::Edge { token, .. } => token.tenant.is_some() || !self.components(tenant).are_configured,
        }
    }
}

/// Answers `/delivery/v1/`.
pub struct Delivery {
    directory: Arc<dyn Directory>,
    keyring: Arc<Keyring>,
    intake: Arc<Intake>,
    terms: Terms,
    tokens: Tokens,
    resources: Option<Arc<Resources>>,
}

impl Delivery {
    pub fn new(directory: Arc<dyn Directory>, keyring: Arc<Keyring>, intake: Arc<Intake>, terms: Terms) -> Delivery {
        Delivery { directory, keyring, intake, terms, tokens: Tokens::new(), resources: None }
    }

    /// The same with what messages may need besides.
    pub fn with(self, resources: Arc<Resources>) -> Delivery {
        Delivery { resources: Some(resources), ..self }
    }

    /// Answers one request of a trigger.
    pub async fn answer(&self, request: Request<Bytes>, caller: Caller<'_>) -> Answer {
        let now = Timestamp::now();
        match (request.method(), request.uri().path()) {
            (&Method::POST, AUTH_PATH) => self.auth(&request, caller, now).await,
            (&Method::POST, MESSAGES_PATH) => self.messages(&request, caller, now).await.into(),
            (_, AUTH_PATH | MESSAGES_PATH) => {
                fault(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "Use POST here.").into()
            }
            (_, path) if path.starts_with(TEMPLATES_PATH) || path == FETCH_PATH => {
                self.supply(&request, caller, now).await.into()
            }
            (_, path) => fault(StatusCode::NOT_FOUND, "not_found", format!("There is nothing at {path}.")).into(),
        }
    }

    /// Refuses a request of the sending API whose key is good, and not for this: by its scope, or from this network. What
    /// it changes is for the audit log, once it is done.
    pub async fn gate(&self, request: &Request<Bytes>) -> Result<Option<Change>, Response<Bytes>> {
        // A missing or wrong key is answered where the request is.
        let Some(key) = credential::bearer(request.headers()) else { return Ok(None) };
        let found = credential::find(&*self.directory, key).await.map_err(|error| self.store_failed(&error))?;
        let Some(found) = found else { return Ok(None) };
        let scope = scope_of(request.method(), request.uri().path());
        if !found.scopes.has(scope) {
            return Err(credential::out_of_scope(scope));
        }
        let peer = credential::peer(request.extensions());
        let standing = self.intake.tenancy().of(&found.tenant).await.map_err(|error| self.store_failed(&error))?;
        if !standing.is_from(peer) {
            return Err(credential::out_of_network(peer));
        }
        Ok((scope == Scope::Manage).then(|| Change::new(found, peer, request)))
    }

    /// Writes down a change and what was answered to it.
    pub async fn audit(&self, change: Change, answer: &Bytes) {
        audit::write_change(self.intake.tenancy().rows(), change, answer).await;
    }

    async fn auth(&self, request: &Request<Bytes>, caller: Caller<'_>, now: Timestamp) -> Answer {
        let AuthRequest::Bearer { key } = match serde_json::from_slice(request.body()) {
            Ok(credential) => credential,
            Err(error) => {
                let text = format!("The credential cannot be read: {error}.");
                return fault(StatusCode::BAD_REQUEST, "validation_error", text).into();
            }
        };
        let found = match credential::find(&*self.directory, &key).await {
            Ok(Some(found)) => found,
            Ok(None) => return fault(StatusCode::UNAUTHORIZED, "invalid_api_key", "The API key is not valid.").into(),
            Err(error) => return self.store_failed(&error).into(),
        };
        if !caller.serves(&found.tenant) {
            let text = "The API key is good, but this edge does not serve its account: use the edge that does.";
            return fault(StatusCode::FORBIDDEN, "invalid_access", text).into();
        }
        if !found.scopes.has(Scope::Send) {
            return credential::out_of_scope(Scope::Send).into();
        }
        let standing = match self.intake.tenancy().of(&found.tenant).await {
            Ok(standing) => standing,
            Err(error) => return self.store_failed(&error).into(),
        };
        let peer = credential::peer(request.extensions());
        if !standing.is_from(peer) {
            return credential::out_of_network(peer).into();
        }
        if let Err(denial) = standing.check_pause() {
            return denied(&denial).into_response().into();
        }
        // The stages that run from here on are the tenant's: so they are bounded with the submission.
        if let Some(Err(denial)) = request.extensions().get::<Place>().map(|place| place.take(&standing)) {
            return denied(&denial).into_response().into();
        }
        let domains = match self.directory.domains(Some(&found.tenant)).await {
            Ok(domains) => domains.into_iter().map(|domain| domain.domain.as_str().to_owned()).collect(),
            Err(error) => return self.store_failed(&error).into(),
        };
        let answer = AuthAnswer {
            token: self.tokens.issue(&found.tenant, found.stream, caller.bearer(), now.as_second()),
            streams: standing.streams(found.stream).iter().map(ToString::to_string).collect(),
            run_stages: caller.runs_stages(&found.tenant),
            component_revision: caller.components(&found.tenant).revision,
            tenant: found.tenant,
            message_bytes: standing
                .terms
                .message_bytes
                .map_or(self.terms.sizes.message_bytes(), |own| own.min(self.terms.sizes.message_bytes())),
            recipients: standing
                .terms
                .recipients
                .map_or(self.terms.sizes.recipients(), |own| own.min(self.terms.sizes.recipients())),
            domains,
            any_domain: self.terms.any_domain,
        };
        Answer { response: json(StatusCode::OK, &answer), tenant: Some(answer.tenant) }
    }

    async fn messages(&self, request: &Request<Bytes>, caller: Caller<'_>, now: Timestamp) -> Response<Bytes> {
        let Some((tenant, bound)) = self.holder(request, caller, now) else { return unknown_token() };
        let body = request.body();
        let limits = FrameLimits {
            frames: FRAMES,
            meta_bytes: META_BYTES,
            message_bytes: usize::try_from(self.terms.sizes.message_bytes()).unwrap_or(usize::MAX),
        };
        let frames = match decode_frames(body, limits) {
            Ok(frames) => frames,
            Err(error) => return fault(frame_status(&error), "validation_error", format!("The {error}.")),
        };
        let most = batch_bytes(self.terms.sizes.message_bytes());
        let bytes: u64 = frames.iter().map(|frame| frame.message.len() as u64).sum();
        if most < bytes {
            let text = format!("The messages have {bytes} bytes together: at most {most} are allowed in one request.");
            return fault(StatusCode::PAYLOAD_TOO_LARGE, "validation_error", text);
        }
        let revision = caller.components(&tenant).revision;
        let is_stale = frames.iter().any(|frame| frame.meta.component_revision != revision);
        if is_stale || !caller.runs_stages(&tenant) {
            return fault(StatusCode::CONFLICT, "stale_revision", "The tenant's components have changed: ask again.");
        }
        let standing = match self.intake.tenancy().of(&tenant).await {
            Ok(standing) => standing,
            Err(error) => return self.store_failed(&error),
        };
        // A request that is served here has had its place since its key was checked.
        let _place = match caller {
            Caller::Inside => None,
            Caller::Edge { .. } => match standing.enter() {
                Ok(place) => place,
                Err(denial) => return denied(&denial).into_response(),
            },
        };
        let streams = standing.streams(bound);
        let with_all = frames.iter().any(|frame| frame.meta.with_all);
        let mut messages = Vec::with_capacity(frames.len());
        for Frame { meta, message } in frames {
            let made = match check_stream(&meta.attributes, &streams) {
                Ok(()) => self.message(&tenant, caller, meta, body.slice_ref(message), now).await,
                Err(refused) => Err(refused),
            };
            messages.push(made);
        }
        if with_all && messages.iter().any(Result::is_err) {
            let answers = messages.into_iter().map(|message| message.map_or_else(Into::into, |_| left_out().into()));
            return json(StatusCode::OK, &answers.collect::<Vec<MessageAnswer>>());
        }
        let answers = self.accept(messages, with_all).await;
        // A message that came alone is told when to come again by the answer itself.
        if let [Err(refused)] = answers.as_slice()
            && refused.retry_after_s.is_some()
        {
            return refused.clone().into_response();
        }
        let answers = answers.into_iter().map(|answer| answer.unwrap_or_else(Into::into));
        json(StatusCode::OK, &answers.collect::<Vec<MessageAnswer>>())
    }

    /// The tenant whose token a request comes with, and the stream that it is bound to.
    fn holder(&self, request: &Request<Bytes>, caller: Caller<'_>, now: Timestamp) -> Option<(String, Option<Stream>)> {
        let token = credential::bearer(request.headers())?;
        self.tokens.holder(token, caller.bearer(), now.as_second())
    }

    /// What a message needs that is not in its request.
    async fn supply(&self, request: &Request<Bytes>, caller: Caller<'_>, now: Timestamp) -> Response<Bytes> {
        let Some((tenant, _)) = self.holder(request, caller, now) else { return unknown_token() };
        match &self.resources {
            Some(resources) => resources.supply(&tenant, request).await,
            None => fault(StatusCode::NOT_FOUND, "not_found", "There is no such resource."),
        }
    }

    /// One message, checked, as it is to be stored.
    async fn message(
        &self,
        tenant: &str,
        caller: Caller<'_>,
        meta: MessageMeta,
        message: Bytes,
        now: Timestamp,
    ) -> Result<NewMessage, Refused> {
        if let Caller::Edge { .. } = caller {
            // The pipeline of this process has looked; an edge's may be anybody's, and what goes out later knows no bare
            // line ends.
            header::check_format(&message).map_err(|error| wrong(format!("The message is malformed: {error}.")))?;
        }
        self.check_author(tenant, &message).await?;
        let new = self.new_message(tenant, meta, message, now)?;
        match caller {
            // Signed on the way here, by the pipeline of this process.
            Caller::Inside => Ok(new),
            Caller::Edge { components, .. } => self.signed(components, new).await,
        }
    }

    /// Takes the messages that are good to the commit point, all in one transaction.
    async fn accept(
        &self,
        messages: Vec<Result<NewMessage, Refused>>,
        together: bool,
    ) -> Vec<Result<MessageAnswer, Refused>> {
        let mut good = Vec::new();
        let mut answers: Vec<Result<String, Refused>> = Vec::with_capacity(messages.len());
        for message in messages {
            answers.push(message.map(|message| {
                let id = message.id.to_string();
                good.push(message);
                id
            }));
        }
        let mut accepted = self.intake.accept_all(good, together).await.into_iter();
        let answer = |answer: Result<String, Refused>| match answer {
            Err(refused) => Err(refused),
            Ok(id) => match accepted.next() {
                Some(Ok(Accepted::Stored)) => Ok(MessageAnswer::Accepted { id, replayed: false }),
                Some(Ok(Accepted::Replayed(first))) => {
                    Ok(MessageAnswer::Accepted { id: first.to_string(), replayed: true })
                }
                Some(Err(IntakeFault::Denied(denial))) => Err(denied(&denial)),
                Some(Err(IntakeFault::Store(error))) => Err(refused(&error)),
                None => Err(refused(&StoreError::Io("the store gave no answer".to_owned()))),
            },
        };
        answers.into_iter().map(answer).collect()
    }

    /// The message with a signature of ours that verifies: the edge's own, or one made here.
    async fn signed(&self, components: &Arc<Edge>, mut new: NewMessage) -> Result<NewMessage, Refused> {
        let (keyring, stages) = (self.keyring.clone(), components.stages(&new.tenant));
        let (tenant, attributes, octets) = (new.tenant.clone(), std::mem::take(&mut new.attributes), new.body.len());
        let (body, now) = (new.body.clone(), new.accepted_at);
        let work = async move { signed::ensure(&keyring, &stages, &tenant, body, attributes, now).await };
        let done = match octets < LARGE_OCTETS {
            true => work.await,
            false => {
                let runtime = tokio::runtime::Handle::current();
                let done = tokio::task::spawn_blocking(move || runtime.block_on(work)).await;
                done.map_err(|error| refused(&StoreError::Io(format!("the work was broken off: {error}"))))?
            }
        };
        (new.body, new.attributes) = done.map_err(|fault| match &fault {
            SignedFault::Unknown { .. } | SignedFault::Wrong { .. } | SignedFault::TooMany(_) => {
                wrong(format!("The DKIM signature is not good: {fault}."))
            }
            SignedFault::Store(error) => refused(error),
            SignedFault::Unsigned(refusal) => {
                if let pipeline::Refusal::Unavailable { stage, text } = refusal {
                    tracing::error!(stage, text, "a stage could not tell");
                }
                let (status, name) = refusal.http();
                let status = StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
                Refused { status, name, text: refusal.text(), retry_after_s: None }
            }
        })?;
        Ok(new)
    }

    /// The authors' domains must be the tenant's: the edge that checked them may be anybody's.
    async fn check_author(&self, tenant: &str, message: &[u8]) -> Result<(), Refused> {
        let checked = match self.terms.any_domain {
            true => message::author_domains(message).map(|_| ()).map_err(AuthorFault::from),
            false => author::check(&self.keyring, tenant, message).await,
        };
        checked.map_err(|fault| match &fault {
            AuthorFault::Unreadable(error) => wrong(format!("Who the message is from cannot be told: {error}.")),
            AuthorFault::Unregistered { field, domain } => Refused::new(StatusCode::FORBIDDEN, "validation_error", format!("The {field} domain {domain} is not registered for this account: add it first.")),
            AuthorFault::Unproved { field, domain, record } => Refused::new(StatusCode::FORBIDDEN, "validation_error", format!(
                    "The {field} domain {domain} is not verified yet: publish the TXT record {record} (GET /domains/{{id}} \
                     shows its value), then POST /domains/{{id}}/verify."
                )),
            AuthorFault::Store(error) => refused(error),
        })
    }

    fn new_message(
        &self,
        tenant: &str,
        meta: MessageMeta,
        body: Bytes,
        accepted_at: Timestamp,
    ) -> Result<NewMessage, Refused> {
        let id = Uuid::parse_str(&meta.id).map_err(|_| wrong("The id of a message must be a UUID."))?;
        let sender = meta.sender.as_deref().map(address).transpose()?;
        let recipients = meta.recipients.iter().map(|text| address(text)).collect::<Result<Vec<_>, _>>()?;
        let bcc = meta.bcc.iter().map(|text| address(text)).collect::<Result<Vec<_>, _>>()?;
        if recipients.is_empty() {
            return Err(wrong("The message has no recipient."));
        }
        if recipients.len() > self.terms.sizes.recipients() {
            let limit = self.terms.sizes.recipients();
            return Err(wrong(format!(
                "The message has {} recipients: at most {limit} are allowed.",
                recipients.len()
            )));
        }
        if !bcc.iter().all(|address| recipients.contains(address)) {
            return Err(wrong("Every Bcc address must be among the recipients."));
        }
        if meta.attributes.len() > PAIRS || meta.tags.len() > PAIRS {
            return Err(wrong(format!("The message has more than {PAIRS} attributes or tags.")));
        }
        // Only attributes say such things; a tag of that name would be taken for one by who reads events.
        if let Some((name, _)) = meta.tags.iter().find(|(name, _)| name.starts_with(RESERVED)) {
            let name = name.chars().take(NAME_CHARS).collect::<String>();
            return Err(wrong(format!(
                "The tag `{}` is reserved: the name of a tag must not begin with `{RESERVED}`.",
                name.escape_debug()
            )));
        }
        let idempotency = meta.idempotency.map(|it| Idempotency { key: it.key, digest: it.digest, item: it.item });
        if idempotency.as_ref().is_some_and(|it| it.key.is_empty() || it.key.chars().count() > IDEMPOTENCY_CHARS) {
            return Err(Refused::new(
                StatusCode::BAD_REQUEST,
                "invalid_idempotency_key",
                format!("The idempotency key must have 1 to {IDEMPOTENCY_CHARS} characters."),
            ));
        }
        Ok(NewMessage {
            id,
            tenant: tenant.to_owned(),
            sender,
            recipients,
            bcc,
            body,
            attributes: meta.attributes,
            tags: meta.tags,
            idempotency,
            accepted_at,
            scheduled_at: meta.scheduled_ms.map(|ms| scheduled_at(ms, accepted_at)).transpose()?,
            request: None,
        })
    }

    fn store_failed(&self, error: &StoreError) -> Response<Bytes> {
        tracing::error!(%error, "the directory did not answer");
        unavailable("The key cannot be checked now. Try again later.")
    }
}

fn unknown_token() -> Response<Bytes> {
    fault(StatusCode::UNAUTHORIZED, "invalid_token", "The token is not good (any more): ask again.")
}

fn address(text: &str) -> Result<Address, Refused> {
    Address::parse(text).map_err(|error| wrong(format!("An address of the envelope is wrong: {error}.")))
}

/// The time of sending that an edge names: its clock may differ from ours, by less than a day.
fn scheduled_at(ms: i64, now: Timestamp) -> Result<Timestamp, Refused> {
    let latest = now.as_second().saturating_add((SCHEDULE_DAYS + 1) * 86_400);
    let at = Timestamp::from_millisecond(ms).ok().filter(|at| at.as_second() <= latest);
    at.ok_or_else(|| wrong(format!("A message can be scheduled at most {SCHEDULE_DAYS} days ahead.")))
}

fn frame_status(error: &FrameError) -> StatusCode {
    match error {
        FrameError::MetaTooLong(..) | FrameError::MessageTooLong(..) | FrameError::TooMany(_) => {
            StatusCode::PAYLOAD_TOO_LARGE
        }
        FrameError::Empty | FrameError::Truncated(..) | FrameError::Meta(..) => StatusCode::BAD_REQUEST,
    }
}

/// The scope that a request of the sending API asks of its key.
fn scope_of(method: &Method, path: &str) -> Scope {
    let is_mail = path == "/emails" || path.starts_with("/emails/");
    match *method {
        Method::GET | Method::HEAD => Scope::Read,
        _ if is_mail => Scope::Send,
        _ => Scope::Manage,
    }
}

impl From<Response<Bytes>> for Answer {
    fn from(response: Response<Bytes>) -> Answer {
        Answer { response, tenant: None }
    }
}

#[cfg(test)]
#[path = "delivery_tests.rs"]
pub(crate) mod tests;
