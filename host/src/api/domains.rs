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
use crate::keyring::{DnsRecord, Keyring, dns_records};
use crate::published::{self, Expected, RecordStatus, Records};
use crate::store::{Directory, DomainStatus, SendingDomain, StoreError, Verification, Verifications};

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

/// What there is only one of here.
const REGION: &str = "self-hosted";

/// Answers `/domains`.
pub struct DomainApi {
    pub directory: Arc<dyn Directory>,
    pub verifications: Arc<dyn Verifications>,
    pub keyring: Arc<Keyring>,
    /// Named in the SPF record.
    pub hostname: Domain,
    /// Who is asked for records.
    pub dns: Arc<dyn Records>,
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

    /// Looks all records up, keeps what was found and tells it. Where DNS does not answer for a needed record, the
    /// domain's status stays what it was.
    async fn verify(&self, tenant: &str, id: &str) -> Result<Response<Bytes>, Failure> {
        let mut domain = self.find(tenant, id).await?;
        let records = dns_records(&domain, &self.hostname);
        let expected = |record: &DnsRecord| Expected {
            name: record.name.clone(),
            value: record.value.clone(),
            required: record.required,
        };
        let expected: Vec<Expected> = records.iter().map(expected).collect();
        let verdicts = published::look(&self.dns, &expected).await;
        let needed: Vec<RecordStatus> = records
            .iter()
            .zip(&verdicts)
            // What an edge signs with is told as well, but mail that the host signs needs no edge's record.
            .filter(|(record, _)| record.required && !is_of_edge(&domain, record))
            .map(|(_, verdict)| verdict.status)
            .collect();
        let status = status_of(&needed).unwrap_or_else(|| domain.status());
        let found = Verification { status, checked_at: Timestamp::now(), records: verdicts };
        self.verifications.keep_verification(tenant, &domain.domain, found.clone()).await?;
        domain.verification = Some(found);
        Ok(ok(&self.whole(&domain)))
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
        let mut records = dns_records(domain, &self.hostname);
        // Keys come in no order; the advice stays behind them.
        records.sort_by(|one, other| {
            other.required.cmp(&one.required).then_with(|| match one.required {
                true => one.name.cmp(&other.name),
                false => std::cmp::Ordering::Equal,
            })
        });
        let records: Vec<Value> = records.iter().map(record).collect();
        shown.insert("object".to_owned(), json!("domain"));
        shown.insert("records".to_owned(), json!(records));
        shown.insert("checked_at".to_owned(), json!(found.map(|found| super::time(found.checked_at))));
        Value::Object(shown)
    }
}

fn is_of_edge(domain: &SendingDomain, record: &DnsRecord) -> bool {
    domain.edge_keys.iter().any(|key| record.name == format!("{}._domainkey.{}", key.selector, domain.domain))
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

/// The status of a domain with these needed records; `None` where it cannot be told now.
fn status_of(needed: &[RecordStatus]) -> Option<DomainStatus> {
    let has = |status| needed.contains(&status);
    match () {
        () if has(RecordStatus::Failed) => Some(DomainStatus::Failed),
        () if has(RecordStatus::Pending) || needed.is_empty() => Some(DomainStatus::Pending),
        () if has(RecordStatus::TemporaryFailure) => None,
        () => Some(DomainStatus::Verified),
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

fn kind(record: &DnsRecord) -> &'static str {
    match record.value.get(..6) {
        Some("v=spf1") => "SPF",
        Some("v=DMAR") => "DMARC",
        Some(_) | None => "DKIM",
    }
}

fn ok(value: &Value) -> Response<Bytes> {
    fault::json(StatusCode::OK, value)
}

#[cfg(test)]
#[path = "domains_tests.rs"]
mod tests;
