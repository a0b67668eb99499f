//! Sending domains and the DNS records they need.

use std::sync::Arc;

use http::{Method, StatusCode};
use jiff::Timestamp;
use mail::Domain;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Call, Control, Listing, Made, Problem, Route};
use crate::keyring;
use crate::store::SendingDomain;

/// A domain to be added.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewDomain {
    pub domain: String,
    #[serde(default)]
    pub tenant: Option<String>,
}

/// A sending domain with the DNS records it needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DomainView {
    pub domain: String,
    pub tenant: String,
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// `sends`, or why it does not: `not verified`.
    pub state: String,
    pub records: Vec<DnsRecord>,
}

/// A DNS record to be published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
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

/// A domain that is no more.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct RemovedDomain {
    pub domain: String,
    pub removed: bool,
}

/// The routes of this family.
pub fn routes() -> Vec<Route> {
    vec![
        Route::new(Method::GET, "domains", "Sending domains", list).of_tenant().for_managers(),
        // The operator's word stands for the proof, so a tenant adds its own by `POST /domains`.
        Route::new(Method::POST, "domains", "Add a sending domain, which may send at once", create),
        Route::new(Method::GET, "domains/{domain}", "A sending domain and its DNS records", show)
            .of_tenant()
            .for_managers(),
        Route::new(Method::DELETE, "domains/{domain}", "Remove a sending domain and its keys", remove)
            .of_tenant()
            .for_managers(),
    ]
}

async fn list(control: Arc<Control>, call: Call) -> Result<Listing<DomainView>, Problem> {
    let domains = control.directory.domains(call.only()).await?;
    Ok(Listing { data: domains.iter().map(|domain| control.view(domain)).collect() })
}

async fn create(control: Arc<Control>, call: Call<NewDomain>) -> Result<Made<DomainView>, Problem> {
    let tenant = call.tenant_or(call.body.tenant.as_deref())?;
    let domain = parse_domain(&call.body.domain)?;
    if let Some(found) = control.directory.domain(&tenant, &domain).await? {
        if found.needs_proof {
            // Its tenant added it by API key: the operator's word stands for the proof, and its keys stay.
            control.directory.vouch_for(&tenant, &domain).await?;
            return Ok(Made(control.view(&SendingDomain { needs_proof: false, ..found })));
        }
        let message = format!(
            "{domain} is there already for tenant {tenant}: `posthaste domain records {domain}` shows its DNS records"
        );
        return Err(Problem::new(StatusCode::CONFLICT, "exists", message));
    }
    let made = control.keyring.create_domain(&tenant, &domain).await?;
    Ok(Made(control.view(&made)))
}

async fn show(control: Arc<Control>, call: Call) -> Result<DomainView, Problem> {
    let domain = control.domain(call.tenant(), call.place("domain")).await?;
    Ok(control.view(&domain))
}

async fn remove(control: Arc<Control>, call: Call) -> Result<RemovedDomain, Problem> {
    let domain = control.domain(call.tenant(), call.place("domain")).await?;
    control.directory.remove_domain(&domain.tenant, &domain.domain).await?;
    Ok(RemovedDomain { domain: domain.domain.to_string(), removed: true })
}

impl Control {
    /// A tenant's domain, by name.
    pub(super) async fn domain(&self, tenant: &str, name: &str) -> Result<SendingDomain, Problem> {
        let domain = parse_domain(name)?;
        self.directory.domain(tenant, &domain).await?.ok_or_else(|| {
            Problem::missing(format!("tenant {tenant} has no domain {domain}: `posthaste domain list` shows all"))
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

fn parse_domain(name: &str) -> Result<Domain, Problem> {
    match Domain::parse(name) {
        Ok(domain) if !domain.is_literal() && domain.as_str().contains('.') => Ok(domain),
        Ok(_) => {
            Err(Problem::invalid(format!("`{name}` is not a domain to send from: write a name such as example.com")))
        }
        Err(error) => Err(Problem::invalid(format!("{error}: write a name such as example.com"))),
    }
}
