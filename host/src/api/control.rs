//! The control API for people: keys, domains, tenants, queue, status, under `/control/v1/`.
//!
//! One code path for three callers: the socket in the data folder, `[admin] listen`, and commands that open the store
//! themselves because no host runs. Who may call is decided by whoever serves it (the socket's file mode, the admin
//! listener's keys); everything here is for an operator. Answers are JSON; errors are `{"name", "message"}`.

pub mod components;
pub mod edges;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use jiff::Timestamp;
use mail::{Domain, EventKind};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::events;
use crate::DEFAULT_TENANT;
use crate::api_key;
use crate::config::{TENANT_NAME_BYTES, is_tenant_name};
use crate::edge::Registry;
use crate::keyring::{self, Keyring};
use crate::store::{ApiKey, Directory, Edges, SendingDomain, Store, StoreError, Webhooks};

/// Where all routes of this API begin.
pub const PREFIX: &str = "/control/v1/";

/// Longest name of a key, in bytes.
const KEY_NAME_BYTES: usize = 100;

/// Messages that `GET queue` looks through, newest first, and the most it shows.
const QUEUE_LOOK: usize = 1000;
const QUEUE_SHOW: usize = 100;

/// `GET status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    pub hostname: String,
    /// Absent where no host runs and a command reads the store itself.
    pub uptime_s: Option<u64>,
    /// Recipients not done with yet.
    pub queued: u64,
    pub http: Vec<SocketAddr>,
    pub smtp: Vec<SocketAddr>,
}

/// `POST keys` and `POST delivery-tokens`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewKey {
    #[serde(default)]
    pub tenant: Option<String>,
    #[serde(default)]
    pub name: Option<String>,
}

/// The answer to `POST keys`: the only time the key is shown.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CreatedKey {
    pub key: String,
    #[serde(flatten)]
    pub view: KeyView,
}

/// A key in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyView {
    pub id: String,
    pub tenant: String,
    pub name: String,
    pub prefix: String,
    pub created_at: Timestamp,
    pub revoked_at: Option<Timestamp>,
}

/// `POST domains`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewDomain {
    pub domain: String,
    #[serde(default)]
    pub tenant: Option<String>,
}

/// A sending domain with the DNS records it needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DomainView {
    pub domain: String,
    pub tenant: String,
    pub created_at: Timestamp,
    /// `sends`, or why it does not: `not verified`.
    pub state: String,
    pub records: Vec<DnsRecord>,
}

/// A DNS record to be published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsRecord {
    /// Full name, no trailing dot.
    pub name: String,
    /// `TXT`.
    #[serde(rename = "type")]
    pub kind: String,
    /// In one piece, as web forms want it.
    pub value: String,
    /// As a zone file wants it.
    pub zone_line: String,
    /// Whether mail cannot be verified without it; the others are advice.
    pub required: bool,
}

impl From<&keyring::DnsRecord> for DnsRecord {
    fn from(record: &keyring::DnsRecord) -> DnsRecord {
        DnsRecord {
            name: record.name.clone(),
            kind: record.kind.to_string(),
            value: record.value.clone(),
            zone_line: record.zone_line(),
            required: record.required,
        }
    }
}

/// `GET queue`: the depth, and the newest messages of a tenant that are not done with.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct QueueView {
    pub queued: u64,
    pub messages: Vec<QueuedMessage>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct QueuedMessage {
    pub id: String,
    pub sender: Option<String>,
    pub recipients: usize,
    pub size_bytes: u64,
    pub accepted_at: Timestamp,
    pub last_event: Option<String>,
}

/// What a list route answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Listing<T> {
    pub data: Vec<T>,
}

/// Why a call was not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    #[serde(skip)]
    pub status: u16,
    /// One word for programs.
    pub name: String,
    /// A sentence for people: what is wrong and what to do.
    pub message: String,
}

impl Problem {
    fn new(status: StatusCode, name: &str, message: impl Into<String>) -> Problem {
        Problem { status: status.as_u16(), name: name.to_owned(), message: message.into() }
    }

    fn invalid(message: impl Into<String>) -> Problem {
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", message)
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Problem {
        let (status, name) = match &error {
            StoreError::NotFound(_) => (StatusCode::NOT_FOUND, "not_found"),
            StoreError::Exists(_)
            | StoreError::DuplicateId
            | StoreError::IdempotencyMismatch
            | StoreError::NotScheduled(_) => (StatusCode::CONFLICT, "exists"),
            StoreError::Full => (StatusCode::INSUFFICIENT_STORAGE, "full"),
            StoreError::Io(_) => (StatusCode::INTERNAL_SERVER_ERROR, "storage"),
        };
        Problem::new(status, name, error.to_string())
    }
}

/// The handler of the control API.
pub struct Control {
    pub store: Arc<dyn Store>,
    pub directory: Arc<dyn Directory>,
    pub edges: Arc<dyn Edges>,
    pub webhooks: Arc<dyn Webhooks>,
    pub keyring: Arc<Keyring>,
    pub registry: Arc<Registry>,
    pub hostname: Domain,
    /// Tenants named in the configuration.
    pub tenants: Vec<String>,
    /// When the host started; `None` in a command that opened the store itself.
    pub started: Option<Instant>,
    pub http: Vec<SocketAddr>,
    pub smtp: Vec<SocketAddr>,
}

impl Control {
    /// Answers one request. Never fails: what goes wrong is an answer too.
    pub async fn answer(&self, request: Request<Bytes>) -> Response<Bytes> {
        let rest = request.uri().path().strip_prefix(PREFIX).unwrap_or_default().to_owned();
        let path: Vec<&str> = rest.split('/').filter(|part| !part.is_empty()).collect();
        let answer = match self.route(&path, &request).await {
            Ok(answer) => answer,
            Err(problem) => {
                let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                json(status, &problem)
            }
        };
        answer.unwrap_or_else(|| {
            let mut failed = Response::new(Bytes::new());
            *failed.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            failed
        })
    }

    async fn route(&self, path: &[&str], request: &Request<Bytes>) -> Result<Option<Response<Bytes>>, Problem> {
        if let (&Method::GET, ["events"]) = (request.method(), path) {
            return Ok(Some(self.events(request.uri().query().unwrap_or_default()).await?));
        }
        if let ["tenants", rest @ ..] = path
            && !rest.is_empty()
        {
            return self.component_route(rest, request).await;
        }
        let tenant = query_tenant(request)?;
        let tenant = tenant.as_deref();
        let ok = StatusCode::OK;
        match (request.method(), path) {
            (_, ["delivery-tokens", ..] | ["domains", _, "edge-keys", ..]) => {
                self.edge_route(path, request, tenant).await
            }
            (&Method::GET, ["status"]) => Ok(json(ok, &self.status().await?)),
            (&Method::GET, ["tenants"]) => Ok(json(ok, &Listing { data: self.tenants().await? })),
            (&Method::GET, ["queue"]) => Ok(json(ok, &self.queue(tenant.unwrap_or(DEFAULT_TENANT)).await?)),
            (&Method::GET, ["keys"]) => {
                let keys = self.directory.keys(tenant).await?;
                Ok(json(ok, &Listing { data: keys.into_iter().map(KeyView::from).collect() }))
            }
            (&Method::POST, ["keys"]) => {
                Ok(json(StatusCode::CREATED, &self.create_key(body(request)?, Timestamp::now()).await?))
            }
            (&Method::DELETE, ["keys", id]) => {
                self.directory.revoke_key(id, Timestamp::now()).await?;
                Ok(json(ok, &serde_json::json!({ "id": id, "revoked": true })))
            }
            (&Method::GET, ["domains"]) => {
                let domains = self.directory.domains(tenant).await?;
                Ok(json(ok, &Listing { data: domains.iter().map(|domain| self.view(domain)).collect() }))
            }
            (&Method::POST, ["domains"]) => Ok(json(StatusCode::CREATED, &self.create_domain(body(request)?).await?)),
            (&Method::GET, ["domains", domain]) => {
                let domain = self.domain(tenant.unwrap_or(DEFAULT_TENANT), domain).await?;
                Ok(json(ok, &self.view(&domain)))
            }
            (&Method::DELETE, ["domains", domain]) => {
                let tenant = tenant.unwrap_or(DEFAULT_TENANT);
                let domain = self.domain(tenant, domain).await?;
                self.directory.remove_domain(tenant, &domain.domain).await?;
                Ok(json(ok, &serde_json::json!({ "domain": domain.domain.as_str(), "removed": true })))
            }
            (method, path) => {
                let known = ["status", "tenants", "queue", "keys", "delivery-tokens", "domains", "events"];
                match path.first().filter(|first| known.contains(first)) {
                    Some(_) => Err(Problem::new(
                        StatusCode::METHOD_NOT_ALLOWED,
                        "method_not_allowed",
                        format!("{method} is not for {PREFIX}{}", path.join("/")),
                    )),
                    None => Err(Problem::new(
                        StatusCode::NOT_FOUND,
                        "not_found",
                        format!("there is no {PREFIX}{}: there are {}", path.join("/"), known.join(", ")),
                    )),
                }
            }
        }
    }

    /// A page of a tenant's events, as the sending API shows it.
    async fn events(&self, query: &str) -> Result<Response<Bytes>, Problem> {
        let (tenant, rest): (Vec<&str>, Vec<&str>) = query.split('&').partition(|pair| pair.starts_with("tenant="));
        let tenant = tenant.first().and_then(|pair| pair.strip_prefix("tenant=")).map(str::to_owned);
        Ok(events::list(&*self.webhooks, &named_tenant(tenant)?, &rest.join("&")).await)
    }

    async fn status(&self) -> Result<Status, Problem> {
        Ok(Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            hostname: self.hostname.to_string(),
            uptime_s: self.started.map(|started| started.elapsed().as_secs()),
            queued: self.store.queued().await?,
            http: self.http.clone(),
            smtp: self.smtp.clone(),
        })
    }

    /// All tenants there is a trace of; `default` always is one.
    async fn tenants(&self) -> Result<Vec<String>, Problem> {
        let mut names: BTreeSet<String> = self.tenants.iter().cloned().collect();
        names.insert(DEFAULT_TENANT.to_owned());
        names.extend(self.directory.keys(None).await?.into_iter().map(|key| key.tenant));
        names.extend(self.edges.delivery_tokens(None).await?.into_iter().filter_map(|token| token.tenant));
        names.extend(self.directory.domains(None).await?.into_iter().map(|domain| domain.tenant));
        Ok(names.into_iter().collect())
    }

    async fn queue(&self, tenant: &str) -> Result<QueueView, Problem> {
        let queued = self.store.queued().await?;
        let page = self.store.messages(tenant, None, QUEUE_LOOK).await?;
        let waiting = page.items.into_iter().filter(|message| message.last_event.as_deref().is_none_or(is_under_way));
        let messages = waiting.take(QUEUE_SHOW).map(|message| QueuedMessage {
            id: message.id.to_string(),
            sender: message.sender.map(|sender| sender.to_string()),
            recipients: message.recipients.len(),
            size_bytes: message.size_bytes,
            accepted_at: message.accepted_at,
            last_event: message.last_event,
        });
        Ok(QueueView { queued, messages: messages.collect() })
    }

    async fn create_key(&self, new: NewKey, now: Timestamp) -> Result<CreatedKey, Problem> {
        let tenant = named_tenant(new.tenant)?;
        let name = key_name(new.name)?;
        let key = api_key::generate(api_key::API_KEY)
            .map_err(|error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "random", error.to_string()))?;
        let view = add_key(self.directory.as_ref(), &key, tenant, name, now).await?;
        Ok(CreatedKey { key, view: view.into() })
    }

    async fn create_domain(&self, new: NewDomain) -> Result<DomainView, Problem> {
        let tenant = named_tenant(new.tenant)?;
        let domain = parse_domain(&new.domain)?;
        if let Some(found) = self.directory.domain(&tenant, &domain).await? {
            if found.needs_proof {
                // Its tenant added it by API key: the operator's word stands for the proof, and its keys stay.
                self.directory.vouch_for(&tenant, &domain).await?;
                return Ok(self.view(&SendingDomain { needs_proof: false, ..found }));
            }
            let message = format!(
                "{domain} is there already for tenant {tenant}: `posthaste domain records {domain}` shows its DNS records"
            );
            return Err(Problem::new(StatusCode::CONFLICT, "exists", message));
        }
        let made = self.keyring.create_domain(&tenant, &domain).await?;
        Ok(self.view(&made))
    }

    async fn domain(&self, tenant: &str, name: &str) -> Result<SendingDomain, Problem> {
        let domain = parse_domain(name)?;
        self.directory.domain(tenant, &domain).await?.ok_or_else(|| {
            let message = format!("tenant {tenant} has no domain {domain}: `posthaste domain list` shows all");
            Problem::new(StatusCode::NOT_FOUND, "not_found", message)
        })
    }

    fn view(&self, domain: &SendingDomain) -> DomainView {
        let mut records: Vec<DnsRecord> =
            keyring::dns_records(domain, &self.hostname).iter().map(DnsRecord::from).collect();
        // The store keeps keys in no order; people compare lists. The advice stays behind, as it comes.
        let keys = records.iter().filter(|record| record.required).count();
        if let Some(keys) = records.get_mut(..keys) {
            keys.sort_by(|one, other| one.name.cmp(&other.name));
        }
        DomainView {
            domain: domain.domain.to_string(),
            tenant: domain.tenant.clone(),
            created_at: domain.created_at,
            state: if domain.may_send() { "sends" } else { "not verified" }.to_owned(),
            records,
        }
    }
}

impl From<ApiKey> for KeyView {
    fn from(key: ApiKey) -> KeyView {
        KeyView {
            id: key.id,
            tenant: key.tenant,
            name: key.name,
            prefix: key.prefix,
            created_at: key.created_at,
            revoked_at: key.revoked_at,
        }
    }
}

/// Whether the last event of a message, as the store names it, leaves something to be done.
fn is_under_way(event: &str) -> bool {
    match EventKind::from_name(&format!("email.{event}")) {
        None | Some(EventKind::Sent | EventKind::DeliveryDelayed | EventKind::Scheduled) => true,
        Some(
            EventKind::Delivered
            | EventKind::Bounced
            | EventKind::Failed
            | EventKind::Suppressed
            | EventKind::Complained
            | EventKind::Canceled,
        ) => false,
    }
}

/// Stores a key under its hash.
pub async fn add_key(
    directory: &dyn Directory,
    key: &str,
    tenant: String,
    name: String,
    now: Timestamp,
) -> Result<ApiKey, StoreError> {
    let view = ApiKey {
        id: format!("key_{}", Uuid::now_v7().simple()),
        tenant,
        name,
        prefix: api_key::prefix(key),
        created_at: now,
        revoked_at: None,
    };
    directory.add_key(view.clone(), api_key::hash(key)).await?;
    Ok(view)
}

fn key_name(name: Option<String>) -> Result<String, Problem> {
    let name = name.unwrap_or_default();
    match name.len() > KEY_NAME_BYTES || name.chars().any(char::is_control) {
        true => Err(Problem::invalid(format!(
            "the key's name is at most {KEY_NAME_BYTES} bytes without control characters"
        ))),
        false => Ok(name),
    }
}

fn named_tenant(tenant: Option<String>) -> Result<String, Problem> {
    let tenant = tenant.unwrap_or_else(|| DEFAULT_TENANT.to_owned());
    match is_tenant_name(&tenant) {
        true => Ok(tenant),
        false => Err(Problem::invalid(format!(
            "`{}` is no name for a tenant: use lower-case letters, digits, `-` and `_`, at most {TENANT_NAME_BYTES}",
            tenant.escape_debug()
        ))),
    }
}

/// The tenant in `?tenant=`.
fn query_tenant(request: &Request<Bytes>) -> Result<Option<String>, Problem> {
    let Some(query) = request.uri().query() else { return Ok(None) };
    let mut tenant = None;
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("tenant", name)) => tenant = Some(named_tenant(Some(name.to_owned()))?),
            _ => return Err(Problem::invalid(format!("unknown parameter `{pair}`: there is `tenant`"))),
        }
    }
    Ok(tenant)
}

fn parse_domain(name: &str) -> Result<Domain, Problem> {
    match Domain::parse(name) {
        Ok(domain) if !domain.is_literal() && domain.as_str().contains('.') => Ok(domain),
        Ok(_) => {
            Err(Problem::invalid(format!("`{name}` is not a domain to send from: write a name such as example.com")))
        }
        Err(error) => Err(Problem::invalid(format!("{error}: write a name such as example.com"))),
    }
}

fn body<T: DeserializeOwned>(request: &Request<Bytes>) -> Result<T, Problem> {
    let bytes = if request.body().is_empty() { b"{}" } else { request.body().as_ref() };
    serde_json::from_slice(bytes)
        .map_err(|error| Problem::invalid(format!("the request is not what this route takes: {error}")))
}

fn json<T: Serialize>(status: StatusCode, value: &T) -> Option<Response<Bytes>> {
    let body = serde_json::to_vec(value).ok()?;
    Response::builder().status(status).header("content-type", "application/json").body(body.into()).ok()
}

#[cfg(test)]
#[path = "control_tests.rs"]
mod tests;
