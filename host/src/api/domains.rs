//! `/domains` in the shape of Resend's: a tenant adds its own sending domains and has their DNS records looked at.
//!
//! A domain added here sends once its DKIM records are verified, for this tenant: another one may hold the same domain
//! with keys of its own. On a development host it sends at once.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use jiff::Timestamp;
use mail::Domain;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::credential;
use super::fault::{self, fault};
use crate::domains::{Domains, Look};
use crate::keyring::{DnsRecord, Keyring, Purpose};
use crate::published::RecordStatus;
use crate::store::{Directory, SendingDomain, StoreError};

/// Where all routes of this API begin.
pub const PREFIX: &str = "/domains";

/// Domains of one tenant that may be added by API key: each costs two keys.
const DOMAINS: usize = 100;

/// Entries on a page unless the caller says otherwise, and the most there may be.
const PAGE: usize = 20;
const PAGE_MOST: usize = 100;

/// Accepted without being acted on: what this host has one answer for, or none yet.
const IGNORED: &[&str] =
    &["region", "custom_return_path", "capabilities", "open_tracking", "click_tracking", "tls", "tracking_subdomain"];

/// A field, whether a value of it is what this host does, and what else it does.
type Setting = (&'static str, fn(&Value) -> bool, &'static str);

/// What may be said of a domain later on.
const SETTINGS: &[Setting] = &[
    ("open_tracking", is_off, "opens are not tracked by this host: leave it false"),
    ("click_tracking", is_off, "clicks are not tracked by this host: leave it false"),
    ("tracking_subdomain", Value::is_null, "links are not rewritten by this host: leave it out"),
    (
        "tls",
        |value| value.as_str() == Some("opportunistic"),
        "TLS towards receivers is demanded by the operator's routes, not by a domain: leave it \"opportunistic\"",
    ),
    (
        "capabilities",
        |value| {
            let fields = value.as_object();
            fields.is_some_and(|fields| {
                fields.iter().all(|(name, value)| match name.as_str() {
                    "sending" => value.as_str() == Some("enabled"),
                    "receiving" => value.as_str() == Some("disabled"),
                    _ => false,
                })
            })
        },
        "a domain of this host sends and does not receive: leave sending enabled and receiving disabled",
    ),
];

fn is_off(value: &Value) -> bool {
    value.as_bool() == Some(false)
}

/// What there is only one of here.
const REGION: &str = "self-hosted";

/// Answers `/domains`.
pub struct DomainApi {
    pub directory: Arc<dyn Directory>,
    pub domains: Arc<Domains>,
    pub keyring: Arc<Keyring>,
    /// Whether a domain sends only once it is verified; not on a development host.
    pub needs_proof: bool,
}

enum Failure {
    NotFound,
    Method,
    Wrong(String),
    Unavailable(String),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Failure {
        match error {
            StoreError::NotFound(_) => Failure::NotFound,
            StoreError::Exists(what) => Failure::Wrong(format!("`name`: there already is {what}.")),
            error => Failure::Unavailable(error.to_string()),
        }
    }
}

impl DomainApi {
    /// Answers one request for `/domains` or a path below it.
    pub async fn answer(&self, request: Request<Bytes>) -> Response<Bytes> {
        let tenant = match credential::caller(&*self.directory, request.headers()).await {
            Ok(key) => key.tenant,
            Err(response) => return response,
        };
        let path: Vec<&str> = request.uri().path().trim_matches('/').split('/').skip(1).collect();
        let answer = match (request.method(), path.as_slice()) {
            (&Method::GET, []) => self.list(&tenant, request.uri().query().unwrap_or_default()).await,
            (&Method::POST, []) => self.create(&tenant, request.body()).await,
            (&Method::GET, [id]) => self.find(&tenant, id).await.map(|domain| ok(&self.whole(&domain))),
            (&Method::PATCH, [id]) => self.change(&tenant, id, request.body()).await,
            (&Method::DELETE, [id]) => self.remove(&tenant, id).await,
            (&Method::POST, [id, "verify"]) => self.verify(&tenant, id).await,
            (_, [] | [_] | [_, "verify"]) => Err(Failure::Method),
            _ => Err(Failure::NotFound),
        };
        answer.unwrap_or_else(Failure::into_response)
    }

    async fn list(&self, tenant: &str, query: &str) -> Result<Response<Bytes>, Failure> {
        let limit = super::parameter(query, "limit").map_or(Some(PAGE), |text| text.parse().ok());
        let limit = limit.filter(|limit| (1..=PAGE_MOST).contains(limit));
        let limit = limit.ok_or_else(|| Failure::Wrong("`limit` must be a number from 1 to 100.".to_owned()))?;
        let mut all = self.directory.domains(Some(tenant)).await?;
        all.sort_by(|one, other| other.created_at.cmp(&one.created_at).then_with(|| one.domain.cmp(&other.domain)));
        let place = |name: &str| match super::parameter(query, name) {
            None => Ok(None),
            Some(id) => {
                let place = all.iter().position(|domain| domain.id.to_string() == id);
                place.map(Some).ok_or_else(|| Failure::Wrong(format!("`{name}` must be the id of a domain.")))
            }
        };
        let (after, before) = (place("after")?, place("before")?);
        let end = before.unwrap_or(all.len());
        let start = match (after, before) {
            (Some(after), _) => after + 1,
            (None, Some(before)) => before.saturating_sub(limit),
            (None, None) => 0,
        };
        let page = all.get(start..end).unwrap_or_default();
        let data: Vec<Value> = page.iter().take(limit).map(|domain| Value::Object(head(domain))).collect();
        let has_more = if before.is_some() { start > 0 } else { page.len() > limit };
        Ok(ok(&json!({ "object": "list", "has_more": has_more, "data": data })))
    }

    async fn create(&self, tenant: &str, body: &[u8]) -> Result<Response<Bytes>, Failure> {
        let mut fields: Map<String, Value> = serde_json::from_slice(body)
            .map_err(|error| Failure::Wrong(format!("The request is not a JSON object: {error}.")))?;
        let name = match fields.remove("name") {
            Some(Value::String(name)) => name,
            Some(_) => return Err(Failure::Wrong("`name`: it must be a string.".to_owned())),
            None => return Err(Failure::Wrong("`name`: the field is missing.".to_owned())),
        };
        let ignored: Vec<&str> = IGNORED.iter().copied().filter(|name| fields.remove(*name).is_some()).collect();
        if let Some(unknown) = fields.keys().next() {
            let unknown: String = unknown.chars().take(64).collect();
            return Err(Failure::Wrong(format!("`{unknown}`: there is no such field.")));
        }
        let domain = Domain::parse(&name).map_err(|error| Failure::Wrong(format!("`name`: {error}.")))?;
        if domain.is_literal() || !domain.as_str().contains('.') {
            return Err(Failure::Wrong("`name`: it must be a domain such as example.com.".to_owned()));
        }
        let count = self.directory.domains(Some(tenant)).await?.len();
        if count >= DOMAINS {
            return Err(Failure::Wrong(format!("There are {count} domains already, which is the limit.")));
        }
        // Asked before keys are made for nothing; the store is asked again.
        if self.directory.domain(tenant, &domain).await?.is_some() {
            return Err(Failure::Wrong(format!("`name`: there already is domain {domain}.")));
        }
        let made = self.keyring.create(tenant, &domain, self.needs_proof).await?;
        let mut response = fault::json(StatusCode::CREATED, &self.whole(&made));
        if let (false, Ok(ignored)) = (ignored.is_empty(), HeaderValue::from_str(&ignored.join(", "))) {
            response.headers_mut().insert("x-posthaste-ignored", ignored);
        }
        Ok(response)
    }

    async fn remove(&self, tenant: &str, id: &str) -> Result<Response<Bytes>, Failure> {
        let domain = self.find(tenant, id).await?;
        self.directory.remove_domain(tenant, &domain.domain).await?;
        Ok(ok(&json!({ "object": "domain", "id": domain.id.to_string(), "deleted": true })))
    }

    /// Takes settings that say what is so anyway. All others are refused by name, so that nobody believes in what is not.
    async fn change(&self, tenant: &str, id: &str, body: &[u8]) -> Result<Response<Bytes>, Failure> {
        let domain = self.find(tenant, id).await?;
        let fields: Map<String, Value> = serde_json::from_slice(body)
            .map_err(|error| Failure::Wrong(format!("The request is not a JSON object: {error}.")))?;
        for (name, value) in &fields {
            let Some((_, is_so, why)) = SETTINGS.iter().find(|(known, ..)| known == name) else {
                let unknown: String = name.chars().take(64).collect();
                return Err(Failure::Wrong(format!("`{unknown}`: there is no such field that can be changed.")));
            };
            if !is_so(value) {
                return Err(Failure::Wrong(format!("`{name}`: {why}.")));
            }
        }
        Ok(ok(&json!({ "object": "domain", "id": domain.id.to_string() })))
    }

    /// Looks all records up, keeps what was found and tells it.
    async fn verify(&self, tenant: &str, id: &str) -> Result<Response<Bytes>, Failure> {
        let domain = self.find(tenant, id).await?;
        Ok(ok(&self.whole(&self.domains.check(domain, Look::Asked, Timestamp::now()).await?)))
    }

    async fn find(&self, tenant: &str, id: &str) -> Result<SendingDomain, Failure> {
        let id = Uuid::parse_str(id).map_err(|_| Failure::NotFound)?;
        let all = self.directory.domains(Some(tenant)).await?;
        all.into_iter().find(|domain| domain.id == id).ok_or(Failure::NotFound)
    }

    /// A domain with its records.
    fn whole(&self, domain: &SendingDomain) -> Value {
        let mut shown = head(domain);
        let found = domain.verification.as_ref();
        let record = |record: &DnsRecord| {
            let verdict = found.and_then(|found| found.records.iter().find(|verdict| verdict.name == record.name));
            json!({
                "record": kind(record), "name": record.name, "type": record.kind.to_string(), "ttl": "Auto",
                "status": verdict.map_or(RecordStatus::NotStarted, |verdict| verdict.status), "value": record.value,
                "required": record.required, "message": verdict.map(|verdict| &verdict.detail),
            })
        };
        let records: Vec<Value> = self.domains.records(domain).iter().map(record).collect();
        shown.insert("object".to_owned(), json!("domain"));
        shown.insert("records".to_owned(), json!(records));
        shown.insert("open_tracking".to_owned(), json!(false));
        shown.insert("click_tracking".to_owned(), json!(false));
        shown.insert("tls".to_owned(), json!("opportunistic"));
        shown.insert("checked_at".to_owned(), json!(found.map(|found| super::time(found.checked_at))));
        Value::Object(shown)
    }
}

impl Failure {
    fn into_response(self) -> Response<Bytes> {
        match self {
            Failure::NotFound => fault(StatusCode::NOT_FOUND, "not_found", "Domain not found."),
            Failure::Method => {
                fault(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "This method is not answered here.")
            }
            Failure::Wrong(text) => fault(StatusCode::UNPROCESSABLE_ENTITY, "validation_error", text),
            Failure::Unavailable(cause) => {
                tracing::error!(cause, "a request about domains was not answered");
                fault::unavailable("The domains cannot be reached now. Try again later.")
            }
        }
    }
}

/// A domain in a list.
fn head(domain: &SendingDomain) -> Map<String, Value> {
    let shown = json!({
        "id": domain.id.to_string(), "name": domain.domain.as_str(), "status": domain.status(),
        "created_at": super::time(domain.created_at), "region": REGION,
        "capabilities": { "sending": "enabled", "receiving": "disabled" },
        "can_send": domain.may_send(),
    });
    shown.as_object().cloned().unwrap_or_default()
}

/// As the vendor names it.
fn kind(record: &DnsRecord) -> &'static str {
    match record.purpose {
        Purpose::Dkim => "DKIM",
        Purpose::Spf => "SPF",
        Purpose::Dmarc => "DMARC",
        Purpose::ReturnPath => "ReturnPath",
        Purpose::Tracking => "Tracking",
    }
}

fn ok(value: &Value) -> Response<Bytes> {
    fault::json(StatusCode::OK, value)
}

#[cfg(test)]
#[path = "domains_tests.rs"]
mod tests;
