//! Sending domains and the DNS records they need.

use std::sync::Arc;

use http::{Method, StatusCode};
use jiff::Timestamp;
use mail::Domain;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Call, Control, Listing, Made, Problem, Route};
use crate::domains::{DomainFault, Look, Rotation};
use crate::keyring::{self, Purpose, Selectors};
use crate::published::{RecordStatus, Verdict};
use crate::store::{DkimKey, KeyState, SendingDomain};

/// A domain to be added.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewDomain {
    pub domain: String,
    #[serde(default)]
    pub tenant: Option<String>,
    /// The selector of the RSA key; the Ed25519 key's has `-ed25519` behind it. Left out, both are made up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// Another selector of the Ed25519 key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ed25519_selector: Option<String>,
}

/// How the keys of a domain are rotated.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NewRotation {
    /// The new keys sign at once, and all others are deleted: for a key that has leaked.
    pub now: bool,
    /// As when a domain is added.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ed25519_selector: Option<String>,
}

/// A key that is brought along.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewKey {
    pub selector: String,
    /// PEM: RSA of 2048 to 4096 bits as PKCS#8 or PKCS#1, or Ed25519 as PKCS#8. Never shown again.
    pub private_key: String,
    /// It signs at once, whether its record has been seen or not.
    #[serde(default)]
    pub now: bool,
}

/// A DKIM key of a domain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KeyView {
    pub selector: String,
    /// `rsa-sha256` or `ed25519-sha256`.
    pub algorithm: String,
    /// `pending`: signs once its record is seen; `active`: signs; `retiring`: signs no more, and its record must stay until
    /// `retire_at`; `retired`: deleted, and its record may be removed. `edge`: an edge signs with it.
    pub state: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub created_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub retire_at: Option<Timestamp>,
}

impl From<&DkimKey> for KeyView {
    fn from(key: &DkimKey) -> KeyView {
        KeyView {
            selector: key.selector.clone(),
            algorithm: key.algorithm.name().to_owned(),
            state: key.state.name().to_owned(),
            created_at: Some(key.created_at),
            retire_at: match key.state {
                KeyState::Retiring { until, .. } => Some(until),
                KeyState::Pending | KeyState::Active | KeyState::Retired => None,
            },
        }
    }
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
    /// When its records were looked at last.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub checked_at: Option<Timestamp>,
    pub keys: Vec<KeyView>,
    pub records: Vec<DnsRecord>,
}

/// A DNS record to be published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DnsRecord {
    /// Full name, no trailing dot.
    pub name: String,
    /// `TXT` or `CNAME`.
    #[serde(rename = "type")]
    pub kind: String,
    /// In one piece, as web forms want it.
    pub value: String,
    /// As a zone file wants it.
    pub zone_line: String,
    /// Whether mail cannot be verified without it now; the others are for later, or advice.
    pub required: bool,
    pub purpose: Purpose,
    /// Of a key: what it does, as in `keys`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// What to do with it, where it is not simply to be published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// What the last look found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<RecordStatus>,
    /// The same in words, which begin behind the record's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Since when it is so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub since: Option<Timestamp>,
}

impl DnsRecord {
    /// The record with what was found of it.
    fn found(self, verdict: Option<&Verdict>) -> DnsRecord {
        let Some(verdict) = verdict else { return self };
        DnsRecord { status: Some(verdict.status), message: Some(verdict.detail.clone()), since: verdict.since, ..self }
    }
}

impl From<&keyring::DnsRecord> for DnsRecord {
    fn from(record: &keyring::DnsRecord) -> DnsRecord {
        DnsRecord {
            name: record.name.clone(),
            kind: record.kind.to_string(),
            value: record.value.clone(),
            zone_line: record.zone_line(),
            required: record.required,
            purpose: record.purpose,
            state: record.state.map(|state| state.name().to_owned()),
            note: note(record),
            status: None,
            message: None,
            since: None,
        }
    }
}

/// What to do with the record of a key that does not sign, or with an alias.
fn note(record: &keyring::DnsRecord) -> Option<String> {
    let text = match (record.state, record.purpose) {
        (Some(KeyState::Pending), _) => "publish it: the key signs once it is seen".to_owned(),
        (Some(KeyState::Retiring { until, .. }), _) => {
            format!("keep it until {}: mail that its key signed is on its way", until.strftime("%Y-%m-%d %H:%M UTC"))
        }
        (Some(KeyState::Retired), _) => "remove it: its key is deleted".to_owned(),
        (None | Some(KeyState::Active), Purpose::Spf) => {
            "merge it with an SPF record that is there: two count for nothing".to_owned()
        }
        (None | Some(KeyState::Active), Purpose::Dmarc) => {
            "p=none changes nothing yet; with rua=mailto:… receivers report, and p=quarantine or p=reject then has them act on mail that is not yours".to_owned()
        }
        (None | Some(KeyState::Active), Purpose::ReturnPath) => "bounces come back by it".to_owned(),
        (None | Some(KeyState::Active), Purpose::Tracking) => "links in mail lead through it".to_owned(),
        (None | Some(KeyState::Active), Purpose::Dkim) => return None,
    };
    Some(text)
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
        Route::new(Method::POST, "domains/{domain}/check", "Look at the DNS records of a domain now", check)
            .of_tenant()
            .for_managers(),
        Route::new(Method::POST, "domains/{domain}/rotate", "Give a domain fresh DKIM keys", rotate)
            .of_tenant()
            .for_managers(),
        Route::new(Method::POST, "domains/{domain}/keys", "Import a DKIM key", import_key).of_tenant().for_managers(),
        Route::new(Method::DELETE, "domains/{domain}/keys/{selector}", "Take a DKIM key away", remove_key)
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
    let selectors = selectors(call.body.selector.as_deref(), call.body.ed25519_selector.as_deref())?;
    control.domains.check_selectors(&domain, &selectors)?;
    let _sealing = control.keyring.sealing().await;
    let keys = control.keyring.make_keys(&selectors, KeyState::Active).await?;
    let made = control.keyring.add(&tenant, &domain, false, keys).await?;
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

async fn check(control: Arc<Control>, call: Call) -> Result<DomainView, Problem> {
    let domain = control.domain(call.tenant(), call.place("domain")).await?;
    Ok(control.view(&control.domains.check(domain, Look::Asked, Timestamp::now()).await?))
}

async fn rotate(control: Arc<Control>, call: Call<NewRotation>) -> Result<DomainView, Problem> {
    let domain = control.domain(call.tenant(), call.place("domain")).await?;
    call.was(&control.view(&domain).keys);
    let NewRotation { now, selector, ed25519_selector } = &call.body;
    let selectors = selectors(selector.as_deref(), ed25519_selector.as_deref())?;
    let rotation = Rotation { at_once: *now, selectors };
    Ok(control.view(&control.domains.rotate(&domain, rotation, Timestamp::now()).await?))
}

/// A key whose record is there already signs from now on.
async fn import_key(control: Arc<Control>, call: Call<NewKey>) -> Result<Made<DomainView>, Problem> {
    let domain = control.domain(call.tenant(), call.place("domain")).await?;
    call.was(&control.view(&domain).keys);
    let now = Timestamp::now();
    let NewKey { selector, private_key, now: at_once } = &call.body;
    let imported = control.domains.import_key(&domain, selector, private_key, *at_once, now).await?;
    Ok(Made(control.view(&control.domains.look_for_added(imported, now).await?)))
}

async fn remove_key(control: Arc<Control>, call: Call) -> Result<DomainView, Problem> {
    let domain = control.domain(call.tenant(), call.place("domain")).await?;
    call.was(&control.view(&domain).keys);
    let changed = control.domains.remove_key(&domain, call.place("selector"), Timestamp::now()).await?;
    Ok(control.view(&changed))
}

fn selectors(name: Option<&str>, ed25519: Option<&str>) -> Result<Selectors, Problem> {
    Ok(Selectors::asked(name, ed25519).map_err(DomainFault::from)?)
}

impl From<DomainFault> for Problem {
    fn from(fault: DomainFault) -> Problem {
        let status = fault.status();
        match fault {
            DomainFault::Store(error) => error.into(),
            fault => {
                let name = match status {
                    StatusCode::CONFLICT => "exists",
                    StatusCode::NOT_FOUND => "not_found",
                    _ => "invalid",
                };
                Problem::new(status, name, fault.to_string())
            }
        }
    }
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
        let found = domain.verification.as_ref();
        let verdict = |name: &str| found.and_then(|found| found.records.iter().find(|verdict| verdict.name == name));
        let record = |record: &keyring::DnsRecord| DnsRecord::from(record).found(verdict(&record.name));
        let mut keys: Vec<KeyView> = domain.keys.iter().map(KeyView::from).collect();
        keys.sort_by(|one, other| one.selector.cmp(&other.selector));
        keys.extend(domain.edge_keys.iter().map(|key| KeyView {
            selector: key.selector.clone(),
            algorithm: key.algorithm.name().to_owned(),
            state: "edge".to_owned(),
            created_at: None,
            retire_at: None,
        }));
        DomainView {
            domain: domain.domain.to_string(),
            tenant: domain.tenant.clone(),
            created_at: domain.created_at,
            state: if domain.may_send() { "sends" } else { "not verified" }.to_owned(),
            checked_at: found.map(|found| found.checked_at),
            keys,
            records: self.domains.records(domain).iter().map(record).collect(),
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
