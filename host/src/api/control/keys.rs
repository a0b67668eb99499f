//! API keys: what applications send with.

use std::sync::Arc;

use http::Method;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{Call, Control, Listing, Made, Problem, Revoked, Route};
use crate::api_key;
use crate::store::{ApiKey, Directory, StoreError};

/// Longest name of a key, in bytes.
const KEY_NAME_BYTES: usize = 100;

/// What a new API key or delivery token is to be.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewKey {
    #[serde(default)]
    pub tenant: Option<String>,
    #[serde(default)]
    pub name: Option<String>,
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

/// The routes of this family.
pub fn routes() -> Vec<Route> {
    vec![
        Route::new(Method::GET, "keys", "API keys", list).of_tenant().for_managers(),
        Route::new(Method::POST, "keys", "Make an API key", create).for_managers(),
        Route::new(Method::DELETE, "keys/{id}", "Revoke an API key", revoke).for_managers(),
    ]
}

async fn list(control: Arc<Control>, call: Call) -> Result<Listing<KeyView>, Problem> {
    let keys = control.directory.keys(call.only()).await?;
    Ok(Listing { data: keys.into_iter().map(KeyView::from).collect() })
}

async fn create(control: Arc<Control>, call: Call<NewKey>) -> Result<Made<CreatedKey>, Problem> {
    let tenant = call.tenant_or(call.body.tenant.as_deref())?;
    let name = key_name(call.body.name)?;
    let key = api_key::generate(api_key::API_KEY).map_err(Problem::random)?;
    let view = add_key(&*control.directory, &key, tenant, name, Timestamp::now()).await?;
    Ok(Made(CreatedKey { key, view: view.into() }))
}

async fn revoke(control: Arc<Control>, call: Call) -> Result<Revoked, Problem> {
    let id = call.place("id");
    let found = control.directory.keys(call.only()).await?.into_iter().any(|key| key.id == id);
    if !found {
        return Err(Problem::missing(format!("there is no live API key {}", id.escape_debug())));
    }
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
