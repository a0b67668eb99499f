//! The audit log: who changed what, when and from where, with what was there before, and never a secret.
//!
//! Written by the table of routes for every change that was done, so that no route can leave it out; for changes that a
//! tenant makes through the sending API; and by the store for what the host changes by itself (`Audited::by_host`).

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{Method, Request, Uri};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::{Call, Caller, Control, Entry, Problem, Route};
use crate::store::{ApiKey, Audited, Tenants};

/// Entries on a page unless the caller says otherwise, and at most.
const PAGE: u64 = 50;
const MOST: u64 = 500;

/// Bytes of a text, and items of a list, that stay of an entry that would be too large otherwise; and bytes of a path
/// with its query.
const TEXT_BYTES: usize = 200;
const ITEMS: usize = 20;
const WHAT_BYTES: usize = 2 << 10;

/// Fields whose values are secrets wherever they stand.
const SECRETS: [&str; 6] = ["key", "token", "secret", "signing_secret", "private_key", "dkim_keys"];

/// Fields whose values are URLs, where credentials may be.
const URLS: [&str; 2] = ["url", "endpoint"];

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
    /// The id of the key; `operator` through the data folder; `posthaste` where the host did it by itself.
    pub who: String,
    /// The address, `data folder` or `host`.
    pub from: String,
    /// Method and path with its query; what the host did by itself in words.
    pub what: String,
    /// What was there before, where something was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Value>,
    /// What was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<Value>,
    /// What it came to; of a change that broke off, and may have been made, the error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Value>,
}

impl AuditEntry {
    /// What is asked of a route.
    pub(super) fn asked(who: String, entry: Entry, method: &Method, uri: &Uri, body: &Bytes) -> AuditEntry {
        let mut what = format!("{method} {}", uri.path_and_query().map_or(uri.path(), PathAndQuery::as_str));
        shorten(&mut what, WHAT_BYTES);
        AuditEntry {
            seq: 0,
            at: Timestamp::UNIX_EPOCH,
            tenant: None,
            who,
            from: from(entry),
            what,
            before: None,
            asked: shown(body),
            after: None,
        }
    }
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

/// A body as the log shows it: what is no JSON by its size alone.
pub(super) fn shown(body: &Bytes) -> Option<Value> {
    match body.is_empty() {
        true => None,
        false => Some(serde_json::from_slice(body).unwrap_or_else(|_| Value::from(format!("{} bytes", body.len())))),
    }
}

/// Where a call came from, in words.
fn from(entry: Entry) -> String {
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
        // What is long is no name of anything.
        [&mut entry.before, &mut entry.asked, &mut entry.after].into_iter().flatten().for_each(cut);
        text = serde_json::to_string(&entry).unwrap_or_default();
    }
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
pub async fn write_change(tenants: &dyn Tenants, change: Change, answer: &Bytes) {
    let Change { tenant, entry } = change;
    write(tenants, Some(tenant), AuditEntry { after: shown(answer), ..entry }).await;
}

/// What a tenant's key asks for through the sending API.
pub struct Change {
    tenant: String,
    entry: AuditEntry,
}

impl Change {
    /// What this key asks for from this address.
    pub fn new(key: ApiKey, peer: Option<IpAddr>, request: &Request<Bytes>) -> Change {
        let entry = AuditEntry::asked(key.id, Entry::Network(peer), request.method(), request.uri(), request.body());
        Change { tenant: key.tenant, entry }
    }
}

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

/// Takes secrets out, wherever they stand.
fn redact(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                match SECRETS.contains(&name.as_str()) && !field.is_null() {
                    true => *field = Value::from("(secret)"),
                    false => match field.as_str() {
                        Some(url) if URLS.contains(&name.as_str()) => *field = Value::from(without_credentials(url)),
                        _ => redact(field),
                    },
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(redact),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Shortens long texts and lists, so that the names of things stay.
fn cut(value: &mut Value) {
    match value {
        Value::Object(fields) => fields.values_mut().for_each(cut),
        Value::Array(items) => {
            items.truncate(ITEMS);
            items.iter_mut().for_each(cut);
        }
        Value::String(text) => shorten(text, TEXT_BYTES),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn shorten(text: &mut String, bytes: usize) {
    if text.len() > bytes {
        text.truncate(text.floor_char_boundary(bytes));
        text.push('…');
    }
}

#[cfg(test)]
#[path = "audit_tests.rs"]
mod tests;
