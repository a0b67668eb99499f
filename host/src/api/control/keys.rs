//! API keys: what applications send with.

use std::ops::RangeInclusive;
use std::sync::Arc;

use http::Method;
use jiff::Timestamp;
use mail::stream::UnknownStream;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{Call, Control, Listing, Made, Problem, Revoked, Route};
use crate::api_key;
use crate::store::{ApiKey, Directory, Scope, Scopes, StoreError};

/// Longest name of a key, in bytes.
const KEY_NAME_BYTES: usize = 100;

/// Length of a key that is imported.
const IMPORT_BYTES: RangeInclusive<usize> = 16..=256;

/// Characters of an imported key that are stored to know it by.
const IMPORTED_PREFIX: usize = 4;

/// What a new API key is to be.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewKey {
    #[serde(default)]
    pub tenant: Option<String>,
    #[serde(default)]
    pub name: Option<String>,
    /// What it may be used for; none: everything.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<Scope>,
    /// `transactional` or `broadcast`: the only stream that it may be used for; none: those of its tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<String>,
    /// When it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Timestamp>,
    /// An existing secret of 16 to 256 visible characters that becomes the key. Left out, one is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

/// How a key is rotated.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Rotation {
    /// Seconds for which the old key stays good; 0: not at all.
    #[serde(default)]
    pub overlap_s: u32,
}

/// A key that was made: the only time it is shown.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct CreatedKey {
    pub key: String,
    #[serde(flatten)]
    pub view: KeyView,
}

/// A key in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KeyView {
    pub id: String,
    pub tenant: String,
    pub name: String,
    /// Its first characters.
    pub prefix: String,
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub revoked_at: Option<Timestamp>,
    pub scopes: Vec<Scope>,
    /// The only stream that it may be used for.
    pub stream: Option<String>,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Timestamp>,
    /// Late by up to a minute or so.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub used_at: Option<Timestamp>,
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
            scopes: key.scopes.list(),
            stream: key.stream.map(|stream| stream.to_string()),
            expires_at: key.expires_at,
            used_at: key.used_at,
        }
    }
}

/// The routes of this family.
pub fn routes() -> Vec<Route> {
    vec![
        Route::new(Method::GET, "keys", "API keys", list).of_tenant().for_managers(),
        Route::new(Method::POST, "keys", "Make an API key", create).for_managers(),
        Route::new(Method::DELETE, "keys/{id}", "Revoke an API key", revoke).for_managers(),
        Route::new(Method::POST, "keys/{id}/rotate", "Make a key in the place of another, which ends soon", rotate)
            .for_managers(),
    ]
}

async fn list(control: Arc<Control>, call: Call) -> Result<Listing<KeyView>, Problem> {
    let keys = control.directory.keys(call.only()).await?;
    Ok(Listing { data: keys.into_iter().map(KeyView::from).collect() })
}

async fn create(control: Arc<Control>, call: Call<NewKey>) -> Result<Made<CreatedKey>, Problem> {
    let tenant = call.tenant_or(call.body.tenant.as_deref())?;
    let NewKey { name, scopes, stream, expires_at, key, .. } = call.body;
    let (name, now) = (key_name(name)?, Timestamp::now());
    if expires_at.is_some_and(|end| end <= now) {
        return Err(Problem::invalid("`expires_at` is over already"));
    }
    let stream = stream.map(|name| name.parse()).transpose();
    let stream = stream.map_err(|error: UnknownStream| Problem::invalid(format!("`stream`: {error}")))?;
    let is_imported = key.is_some();
    let key = match key {
        Some(key) => checked_import(key)?,
        None => api_key::generate(api_key::API_KEY).map_err(Problem::random)?,
    };
    let mut view = fresh(&key, tenant, name, now);
    (view.scopes, view.stream, view.expires_at) = (Scopes::of(&scopes), stream, expires_at);
    if is_imported {
        // Of a short one less is shown: what is left must not be guessed.
        view.prefix = key.chars().take(IMPORTED_PREFIX).collect();
    }
    store(&*control.directory, &view, &key).await?;
    Ok(Made(CreatedKey { key, view: view.into() }))
}

async fn rotate(control: Arc<Control>, call: Call<Rotation>) -> Result<Made<CreatedKey>, Problem> {
    let (id, now) = (call.place("id"), Timestamp::now());
    let found = control.directory.keys(call.only()).await?.into_iter().find(|key| key.id == id && key.is_live(now));
    let old = found.ok_or_else(|| no_key(id))?;
    call.was(&KeyView::from(old.clone()));
    let key = api_key::generate(api_key::API_KEY).map_err(Problem::random)?;
    let mut view = fresh(&key, old.tenant, old.name, now);
    (view.scopes, view.stream, view.expires_at) = (old.scopes, old.stream, old.expires_at);
    store(&*control.directory, &view, &key).await?;
    match call.body.overlap_s {
        0 => control.directory.revoke_key(id, now).await?,
        overlap_s => {
            let end = now.checked_add(jiff::SignedDuration::from_secs(i64::from(overlap_s)));
            control.directory.expire_key(id, end.unwrap_or(Timestamp::MAX)).await?;
        }
    }
    Ok(Made(CreatedKey { key, view: view.into() }))
}

async fn revoke(control: Arc<Control>, call: Call) -> Result<Revoked, Problem> {
    let id = call.place("id");
    let found = control.directory.keys(call.only()).await?.into_iter().find(|key| key.id == id);
    call.was(&KeyView::from(found.ok_or_else(|| no_key(id))?));
    control.directory.revoke_key(id, Timestamp::now()).await?;
    Ok(Revoked { id: id.to_owned(), revoked: true })
}

/// Stores a key under its hash.
pub async fn add_key(
    directory: &dyn Directory,
    key: &str,
    tenant: String,
    name: String,
    now: Timestamp,
) -> Result<ApiKey, StoreError> {
    let view = fresh(key, tenant, name, now);
    store(directory, &view, key).await?;
    Ok(view)
}

/// Stores a key under its hash, with what SCRAM needs of it. Without the latter the key is good all the same, and gets it
/// when it is first used.
async fn store(directory: &dyn Directory, view: &ApiKey, key: &str) -> Result<(), StoreError> {
    let verifier = api_key::verifier(key).await;
    directory.add_key(view.clone(), api_key::hash(key)).await?;
    match verifier {
        Ok(verifier) => directory.set_verifier(&view.id, verifier).await,
        Err(_) => Ok(()),
    }
}

/// A key that may do everything, for ever.
fn fresh(key: &str, tenant: String, name: String, now: Timestamp) -> ApiKey {
    ApiKey {
        id: format!("key_{}", Uuid::now_v7().simple()),
        tenant,
        name,
        prefix: api_key::prefix(key),
        created_at: now,
        revoked_at: None,
        scopes: Scopes::ALL,
        stream: None,
        has_verifier: false,
        expires_at: None,
        used_at: None,
    }
}

fn no_key(id: &str) -> Problem {
    Problem::missing(format!("there is no live API key {}", id.escape_debug()))
}

/// A secret that somebody brings.
fn checked_import(key: String) -> Result<String, Problem> {
    let is_visible = key.bytes().all(|byte| byte.is_ascii_graphic());
    if !(IMPORT_BYTES.contains(&key.len()) && is_visible) {
        let text = format!(
            "`key`: a key to be imported has {} to {} visible ASCII characters without blanks",
            IMPORT_BYTES.start(),
            IMPORT_BYTES.end()
        );
        return Err(Problem::invalid(text));
    }
    match key.starts_with(api_key::OPERATOR_KEY) || key.starts_with(api_key::DELIVERY_TOKEN) {
        true => Err(Problem::invalid("`key`: operator keys and delivery tokens look like this: take another")),
        false => Ok(key),
    }
}

/// A name that a key may have.
pub(super) fn key_name(name: Option<String>) -> Result<String, Problem> {
    let name = name.unwrap_or_default();
    match name.len() > KEY_NAME_BYTES || name.chars().any(char::is_control) {
        true => Err(Problem::invalid(format!(
            "the key's name is at most {KEY_NAME_BYTES} bytes without control characters"
        ))),
        false => Ok(name),
    }
}
