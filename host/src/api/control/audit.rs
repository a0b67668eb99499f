//! The audit log: who changed what, when and from where, with what was there before, and never a secret.
//!
//! Written by the table of routes for every change that was done, so that no route can leave it out; and for changes that
//! a tenant makes through the sending API.

use std::net::IpAddr;
use std::sync::Arc;

use http::Method;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::{Call, Caller, Control, Entry, Problem, Route};
use crate::store::{Audited, Tenants};

/// Entries on a page unless the caller says otherwise, and at most.
const PAGE: u64 = 50;
const MOST: u64 = 500;

/// Fields whose values are secrets wherever they stand.
const SECRETS: [&str; 6] = ["key", "token", "secret", "signing_secret", "private_key", "dkim_keys"];

/// Bytes of an entry: what changes is small, and a file is named by its size alone.
const ENTRY_BYTES: usize = 16 << 10;

/// One change.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct AuditEntry {
    /// Grows with every entry.
    #[serde(default)]
    pub seq: i64,
    #[serde(default)]
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    #[serde(default)]
    pub tenant: Option<String>,
    /// The id of the key; `operator` through the data folder.
    pub who: String,
    /// The address, or `data folder`.
    pub from: String,
    /// Method and path.
    pub what: String,
    /// What was there before, where something was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Value>,
    /// What was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<Value>,
    /// What it came to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Value>,
}

/// A page of the log, newest first.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct AuditPage {
    pub data: Vec<AuditEntry>,
    /// `before` of the next page.
    pub next: Option<i64>,
}

/// The routes of this family.
pub fn routes() -> Vec<Route> {
    vec![
        Route::new(Method::GET, "audit", "Who changed what, newest first", list)
            .of_tenant()
            .asks("before", "Only entries before this `seq`.")
            .asks("limit", "At most so many, up to 500.")
            .for_managers(),
    ]
}

async fn list(control: Arc<Control>, call: Call) -> Result<AuditPage, Problem> {
    let limit = call.asked_number("limit", 1, MOST)?.unwrap_or(PAGE) as usize;
    let before = call.asked_number("before", 0, i64::MAX as u64)?.map(u64::cast_signed);
    let mut found = control.tenants.audited(call.only(), before, limit + 1).await?;
    if let Some(tenant) = call.caller.tenant() {
        // Another tenant of that name, removed since, is none of its business. Newest first: only the tail goes.
        let since = control.tenant_named(tenant).await?.created_at;
        found.retain(|it| it.at >= since);
    }
    let has_more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| has_more).map(|last| last.seq);
    let shown = |audited: Audited| {
        let read = serde_json::from_str::<AuditEntry>(&audited.entry).ok()?;
        Some(AuditEntry { seq: audited.seq, at: audited.at, tenant: audited.tenant, ..read })
    };
    Ok(AuditPage { data: found.into_iter().filter_map(shown).collect(), next })
}

/// Where a call came from, in words.
pub(super) fn from(entry: Entry) -> String {
    match entry {
        Entry::Folder => "data folder".to_owned(),
        Entry::Network(Some(peer)) => peer.to_string(),
        Entry::Network(None) => "unknown".to_owned(),
    }
}

/// Who calls, in words.
pub(super) fn who(caller: &Caller) -> String {
    match caller {
        Caller::Operator(Some(id)) => id.clone(),
        Caller::Operator(None) => "operator".to_owned(),
        Caller::Manager(key) => key.id.clone(),
    }
}

/// Writes a change down. Where that fails the change stands, and the log of the host says so.
pub(super) async fn write(tenants: &dyn Tenants, tenant: Option<String>, mut entry: AuditEntry) {
    for value in [&mut entry.before, &mut entry.asked, &mut entry.after].into_iter().flatten() {
        redact(value);
    }
    let mut text = serde_json::to_string(&entry).unwrap_or_default();
    if text.len() > ENTRY_BYTES {
        (entry.before, entry.asked, entry.after) = (None, None, None);
        text = serde_json::to_string(&entry).unwrap_or_default();
    }
    let audited = Audited { seq: 0, at: Timestamp::now(), tenant, entry: text };
    if let Err(error) = tenants.audit(audited).await {
        tracing::error!(who = entry.who, what = entry.what, %error, "a change could not be written to the audit log");
    }
}

/// Writes down what a tenant's key changed through the sending API.
pub async fn write_change(tenants: &dyn Tenants, tenant: &str, key: &str, peer: Option<IpAddr>, what: String) {
    let entry = AuditEntry {
        seq: 0,
        at: Timestamp::UNIX_EPOCH,
        tenant: None,
        who: key.to_owned(),
        from: from(Entry::Network(peer)),
        what,
        before: None,
        asked: None,
        after: None,
    };
    write(tenants, Some(tenant.to_owned()), entry).await;
}

/// Takes secrets out, wherever they stand.
/// A URL without user, password and query, where credentials may be.
pub(super) fn without_credentials(url: &str) -> String {
    let bare = url.split(['?', '#']).next().unwrap_or_default();
    match bare.split_once("://") {
        Some((scheme, rest)) => {
            let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
            let host = authority.rsplit('@').next().unwrap_or_default();
            format!("{scheme}://{host}{path}")
        }
        None => bare.to_owned(),
    }
}

fn redact(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                match SECRETS.contains(&name.as_str()) && !field.is_null() {
                    true => *field = Value::from("(secret)"),
                    false => match (name.as_str(), field.as_str()) {
                        ("url", Some(url)) => *field = Value::from(without_credentials(url)),
                        _ => redact(field),
                    },
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(redact),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
