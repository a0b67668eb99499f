//! What stands behind the SMTP dialogue: keys are looked up in the directory, messages go through `pipeline::run` with
//! the tenant's own components and on to `accept`, the one commit point. Only then is there a 250.

use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;
use contract::FindingClass;
use jiff::Timestamp;
use jiff::fmt::rfc2822;
use jiff::tz::TimeZone;
use mail::header;
use mail::message::{self, AuthorError, Parsed};
use mail::stream::{StreamDenied, UnknownStream};
use mail::{Address, Domain, EnhancedCode, Envelope, Reply, Stream};
use pipeline::{Content, Limits, Refusal, Stages, Submission};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tracing::Instrument as _;
use uuid::Uuid;

use super::smtp::{Authority, Incoming, Principal, Queued, SessionFacts, Submit, Unavailable};
use crate::accept::{Intake, IntakeFault};
use crate::api::credential;
use crate::api_key;
use crate::author::{self, AuthorFault};
use crate::keyring::Keyring;
use crate::scram::Verifier;
use crate::sizes::Sizes;
use crate::smtp::auth::Credentials;
use crate::store::{Accepted, ApiKey, Directory, NewMessage, Scope, StoreError, TenantId};
use crate::telemetry;
use crate::tenancy::Denial;

/// Owns what trusted peers send.
const TRUSTED_TENANT: &str = "default";

/// Received fields of a message that goes in circles (RFC 5321 s6.3).
const MAX_HOPS: usize = 100;

/// From this size on a message is worked on beside the reactor: parsing and hashing it would hold up everybody else.
const LARGE_OCTETS: usize = 256 * 1024;

/// Large messages worked on at once, at least; more where there are cores for it. The others wait.
const LARGE_AT_ONCE: usize = 2;

/// The road behind the dialogue. `F` gives the stages of a tenant.
pub struct Submissions<F> {
    road: Arc<Road<F>>,
    directory: Arc<dyn Directory>,
    intake: Arc<Intake>,
    /// Leave to work on a large message.
    large: Arc<Semaphore>,
    /// Leave to make a verifier.
    learning: Arc<Semaphore>,
}

/// Whose message it is, and what it may be.
#[derive(Clone)]
struct Sender {
    tenant: TenantId,
    /// Those open to it; the first is that of messages which name none.
    streams: Vec<Stream>,
}

/// Makes messages ready to be accepted.
struct Road<F> {
    stages: F,
    keyring: Arc<Keyring>,
    hostname: Domain,
    sizes: Arc<Sizes>,
}

impl<F, S> Submissions<F>
where
    F: Fn(&str) -> S + Send + Sync + 'static,
    S: Stages + Send + 'static,
{
    /// `stages` is `move |tenant: &str| edge.stages(tenant)`; `sizes` are those that clients are told.
    pub fn new(
        stages: F,
        directory: Arc<dyn Directory>,
        keyring: Arc<Keyring>,
        intake: Arc<Intake>,
        hostname: Domain,
        sizes: Arc<Sizes>,
    ) -> Submissions<F> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Submissions {
            road: Arc::new(Road { stages, keyring, hostname, sizes }),
            directory,
            intake,
            large: Arc::new(Semaphore::new(LARGE_AT_ONCE.max(cores - 1))),
            learning: Arc::new(Semaphore::new(1)),
        }
    }

    /// A live key that may send.
    async fn key(&self, hash: [u8; 32]) -> Result<Option<ApiKey>, Unavailable> {
        let found = credential::find_by_hash(&*self.directory, hash).await;
        let found = found.map_err(|error| Unavailable(error.to_string()))?;
        Ok(found.filter(|key| key.scopes.has(Scope::Send)))
    }

    /// Whether the tenant's keys are good from this address.
    async fn is_from(&self, principal: &Principal, peer: IpAddr) -> Result<bool, Unavailable> {
        let standing = self.intake.tenancy().of(&principal.tenant).await;
        let is_from = standing.map_err(|error| Unavailable(error.to_string()))?.is_from(Some(peer));
        if !is_from {
            let Principal { tenant, key_id, .. } = principal;
            tracing::info!(tenant, key = key_id, %peer, "a key was named from a network that is not allowed");
        }
        Ok(is_from)
    }

    /// Makes the verifier of a key that was stored before there were such: from then on SCRAM takes it. One at a time, and
    /// beside the reactor.
    fn learn(&self, id: &str, key: &str) {
        let Ok(place) = self.learning.clone().try_acquire_owned() else { return };
        let (directory, id, key) = (self.directory.clone(), id.to_owned(), key.to_owned());
        tokio::spawn(async move {
            let stored = match api_key::verifier(&key).await {
                Ok(verifier) => directory.set_verifier(&id, verifier).await,
                Err(_) => return,
            };
            if let Err(error) = stored {
                tracing::warn!(key = id, %error, "the verifier of a key could not be stored: SCRAM does not take it yet");
            }
            drop(place);
        });
    }

    /// `Road::prepare`, beside the reactor where the message is large. Broken off it goes on there to its end, which no
    /// one sees: nothing is accepted there.
    async fn prepare(&self, sender: Sender, incoming: Incoming, id: Uuid, now: Timestamp) -> Result<NewMessage, Reply> {
        if incoming.message.len() < LARGE_OCTETS {
            return self.road.prepare(&sender, incoming, id, now).await;
        }
        // Never closed, so there always is one in the end.
        let permit = self.large.clone().acquire_owned().await;
        let road = self.road.clone();
        let (runtime, span) = (Handle::current(), tracing::Span::current());
        let work = move || {
            let prepared = span.in_scope(|| runtime.block_on(road.prepare(&sender, incoming, id, now)));
            drop(permit);
            prepared
        };
        tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
            tracing::error!(%error, "the work on a message was broken off");
            Err(reply(451, (4, 3, 0), "The message could not be worked on: try again later"))
        })
    }
}

impl<F, S> Road<F>
where
    F: Fn(&str) -> S + Send + Sync + 'static,
    S: Stages + Send + 'static,
{
    /// Who holds a key speaks for the domains of its tenant only.
    async fn check_author(&self, authority: &Authority, tenant: &str, message: &[u8]) -> Result<(), Reply> {
        match authority {
            Authority::Key(_) => {
                author::check(&self.keyring, tenant, message).await.map_err(|fault| author_reply(&fault, tenant))
            }
            Authority::Trusted => Ok(()),
        }
    }

    async fn prepare(
        &self,
        sender: &Sender,
        incoming: Incoming,
        id: Uuid,
        now: Timestamp,
    ) -> Result<NewMessage, Reply> {
        let tenant = sender.tenant.as_str();
        let Incoming { authority, envelope, request, message, facts } = incoming;
        let (headers, body) = header::split(&message).map_err(|error| malformed(error.to_string()))?;
        if headers.iter().filter(|field| field.is("Received")).count() > MAX_HOPS {
            return Err(reply(554, (5, 4, 6), "The message has come through too many servers: it goes in circles"));
        }
        let stream = stream(&headers, &sender.streams)?;
        drop(headers);
        // Refused here already, so that no stage runs for nothing.
        self.check_author(&authority, tenant, &message[..body]).await?;
        let parsed = message::parse(&message[..body]);
        let bcc = unnamed(&envelope, &parsed);
        let content = Content::Raw {
            message,
            message_id: format!("<{id}@{}>", self.hostname),
            trace: vec![received(&facts, &self.hostname, id, now)],
        };
        // What is added to a message that just fits must not make it too large.
        let limits = Limits { message_bytes: self.sizes.stored_bytes(), recipients: self.sizes.recipients() };
        let submission = Submission {
            envelope,
            content,
            attributes: stream.attributes(),
            limits,
            now_s: u64::try_from(now.as_second()).unwrap_or(0),
        };
        let ready = pipeline::run(&(self.stages)(tenant), submission).await.map_err(refused)?;
        self.check_author(&authority, tenant, &ready.message).await?;
        for warning in &ready.warnings {
            tracing::info!(%id, warning, "a stage warned");
        }
        // A report has nowhere to go without a sender, but the next host may be asked. Who has a key may have failures told
        // to the tenant's own domains: else reports were mail to strangers that nobody counts.
        let is_told = match (&authority, &ready.envelope.sender) {
            (Authority::Key(_), Some(sender)) => {
                let covering = self.keyring.covering(tenant, sender.domain()).await;
                covering.map_err(|error| store_reply(&error))?.is_some()
            }
            _ => true,
        };
        let has_request = is_told && (ready.envelope.sender.is_some() || !request.is_empty());
        Ok(NewMessage {
            id,
            tenant: tenant.to_owned(),
            sender: ready.envelope.sender,
            recipients: ready.envelope.recipients,
            bcc,
            body: ready.message.into(),
            attributes: ready.attributes,
            tags: Vec::new(),
            idempotency: None,
            accepted_at: now,
            scheduled_at: None,
            request: has_request.then(|| Arc::new(request)),
        })
    }
}

#[async_trait]
impl<F, S> Submit for Submissions<F>
where
    F: Fn(&str) -> S + Send + Sync + 'static,
    S: Stages + Send + 'static,
{
    /// The password is the key; the user name is not looked at.
    async fn authenticate(&self, credentials: &Credentials, peer: IpAddr) -> Result<Option<Principal>, Unavailable> {
        let key_hash = api_key::hash(&credentials.password);
        let Some(key) = self.key(key_hash).await? else { return Ok(None) };
        let has_verifier = key.has_verifier;
        let principal = Principal { tenant: key.tenant, key_id: key.id, key_hash, stream: key.stream };
        if !self.is_from(&principal, peer).await? {
            return Ok(None);
        }
        if !has_verifier {
            self.learn(&principal.key_id, &credentials.password);
        }
        Ok(Some(principal))
    }

    async fn verifier(&self, username: &str, peer: IpAddr) -> Result<(Verifier, Option<Principal>), Unavailable> {
        let unavailable = |error: StoreError| Unavailable(error.to_string());
        let found = self.directory.verifier(username).await.map_err(unavailable)?;
        let nobody = || Verifier::of_nobody(self.road.keyring.salt_of(username));
        let Some((key, key_hash, verifier)) = found else { return Ok((nobody(), None)) };
        if !(key.is_live(Timestamp::now()) && key.scopes.has(Scope::Send)) {
            return Ok((verifier, None));
        }
        let principal = Principal { tenant: key.tenant, key_id: key.id, key_hash, stream: key.stream };
        let is_from = self.is_from(&principal, peer).await?;
        Ok((verifier, is_from.then_some(principal)))
    }

    async fn is_valid(&self, principal: &Principal) -> Result<bool, Unavailable> {
        Ok(self.key(principal.key_hash).await?.is_some())
    }

    async fn submit(&self, incoming: Incoming) -> Result<Queued, Reply> {
        let (tenant, bound) = match &incoming.authority {
            Authority::Key(principal) => (principal.tenant.clone(), principal.stream),
            Authority::Trusted => (TRUSTED_TENANT.to_owned(), None),
        };
        let standing = self.intake.tenancy().of(&tenant).await.map_err(|error| store_reply(&error))?;
        // Told before any stage works for nothing.
        standing.check_pause().map_err(|denial| denied(&denial))?;
        let _place = standing.enter().map_err(|denial| denied(&denial))?;
        let (id, now) = (Uuid::now_v7(), Timestamp::now());
        let span = telemetry::message(id);
        let taken = async {
            let sender = Sender { tenant, streams: standing.streams(bound) };
            let message = self.prepare(sender, incoming, id, now).await?;
            Ok::<_, Reply>(self.intake.accept(message).await)
        };
        match taken.instrument(span).await? {
            Ok(Accepted::Stored) => Ok(Queued { id }),
            Ok(Accepted::Replayed(id)) => Ok(Queued { id }),
            Err(IntakeFault::Denied(denial)) => Err(denied(&denial)),
            Err(IntakeFault::Store(error)) => Err(store_reply(&error)),
        }
    }
}

fn reply(code: u16, (class, subject, detail): (u8, u16, u16), text: &str) -> Reply {
    Reply::new(code, Some(EnhancedCode::new(class, subject, detail)), text)
}

fn malformed(text: String) -> Reply {
    Refusal::new(FindingClass::Malformed, None, text).reply()
}

/// The reply of a refusal; what is only for the operator goes to the log.
fn refused(refusal: Refusal) -> Reply {
    match &refusal {
        Refusal::Refused(_) => {}
        Refusal::Unavailable { stage, text } => tracing::error!(stage, text, "a stage could not tell"),
    }
    refusal.reply()
}

fn store_reply(error: &StoreError) -> Reply {
    match error {
        StoreError::Full => reply(452, (4, 3, 1), "There is no space left to store mail: try again later"),
        StoreError::Io(_)
        | StoreError::IdempotencyMismatch
        | StoreError::DuplicateId
        | StoreError::Exists(_)
        | StoreError::NotFound(_)
        | StoreError::NotScheduled(_) => {
            tracing::error!(%error, "a message could not be accepted");
            reply(451, (4, 3, 0), "The message could not be stored: try again later")
        }
    }
}

/// The reply to a message that its tenant may not send (now).
fn denied(denial: &Denial) -> Reply {
    let text = sentence(denial);
    match denial {
        Denial::Paused(_) => reply(451, (4, 7, 1), &text),
        Denial::Spent { .. } => reply(452, (4, 7, 1), &text),
        Denial::Busy(_) | Denial::Together => reply(451, (4, 3, 2), &text),
        Denial::TooLarge(..) => reply(552, (5, 3, 4), &text),
        Denial::TooManyRecipients(..) | Denial::NeverFits { .. } => reply(550, (5, 5, 3), &text),
    }
}

fn author_reply(fault: &AuthorFault, tenant: &str) -> Reply {
    match fault {
        AuthorFault::Unreadable(AuthorError::Header(error)) => malformed(error.to_string()),
        AuthorFault::Unreadable(error @ (AuthorError::Repeated(_) | AuthorError::From | AuthorError::Sender)) => {
            reply(550, (5, 6, 0), &sentence(error))
        }
        AuthorFault::Unregistered { domain, .. } => {
            let option = if tenant == TRUSTED_TENANT { String::new() } else { format!(" --tenant {tenant}") };
            let text = format!("{}: add it with `posthaste domain add {domain}{option}`", sentence(fault));
            reply(550, (5, 7, 1), &text)
        }
        AuthorFault::Unproved { .. } => reply(550, (5, 7, 1), &sentence(fault)),
        AuthorFault::Store(error) => store_reply(error),
    }
}

/// The stream of a message with these fields. One that its sender has signed keeps the field that names it.
fn stream(fields: &[header::Field<'_>], may: &[Stream]) -> Result<Stream, Reply> {
    let mut named = None;
    for field in fields.iter().filter(|field| Stream::is_field(field.name)) {
        let told = |error: UnknownStream| reply(550, (5, 6, 0), &format!("{}: {error}", field.name.trim()));
        let stream = Stream::from_field(&String::from_utf8_lossy(field.value)).map_err(told)?;
        if named.replace(stream).is_some_and(|other| other != stream) {
            return Err(reply(550, (5, 6, 0), "Two header fields name two streams: name one only"));
        }
    }
    Stream::choose(named, may).map_err(|denied: StreamDenied| reply(550, (5, 7, 1), &sentence(&denied)))
}

/// What an error says, with a capital.
fn sentence(error: &impl ToString) -> String {
    let text = error.to_string();
    let rest = text.strip_prefix("the ").map(|rest| format!("The {rest}"));
    rest.unwrap_or(text)
}

/// Recipients that stand in no header field.
fn unnamed(envelope: &Envelope, parsed: &Parsed) -> Vec<Address> {
    let named = |recipient: &Address| parsed.to.iter().chain(&parsed.cc).any(|mailbox| mailbox.address == *recipient);
    envelope.recipients.iter().filter(|recipient| !named(recipient)).cloned().collect()
}

/// The trace field of this hop (RFC 5321 s4.4), folded.
fn received(facts: &SessionFacts, hostname: &Domain, id: Uuid, now: Timestamp) -> String {
    let peer = match facts.peer {
        IpAddr::V4(v4) => format!("[{v4}]"),
        IpAddr::V6(v6) => format!("[IPv6:{v6}]"),
    };
    let SessionFacts { hello, protocol, .. } = facts;
    // Never fails for a time in this era.
    let date = rfc2822::to_string(&now.to_zoned(TimeZone::UTC)).unwrap_or_default();
    format!("Received: from {hello} ({peer})\r\n\tby {hostname} with {protocol} id {id};\r\n\t{date}")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
