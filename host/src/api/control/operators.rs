//! Operator keys: what operators call this API with over the network.

use std::sync::Arc;

use http::Method;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::keys::key_name;
use super::{Call, Control, Listing, Made, Problem, Revoked, Route};
use crate::api_key;
use crate::store::{OperatorKey, Operators, StoreError};

/// What a new operator key is to be.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewOperatorKey {
    #[serde(default)]
    pub name: Option<String>,
}

/// An operator key that was made: the only time it is shown.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct CreatedOperatorKey {
    pub key: String,
    #[serde(flatten)]
    pub view: OperatorKeyView,
}

/// An operator key in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OperatorKeyView {
    pub id: String,
    pub name: String,
    /// Its first characters.
    pub prefix: String,
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub revoked_at: Option<Timestamp>,
}

impl From<OperatorKey> for OperatorKeyView {
    fn from(key: OperatorKey) -> OperatorKeyView {
        let OperatorKey { id, name, prefix, created_at, revoked_at } = key;
        OperatorKeyView { id, name, prefix, created_at, revoked_at }
    }
}

/// The routes of this family.
pub fn routes() -> Vec<Route> {
    vec![
        Route::new(Method::GET, "operator-keys", "Operator keys", list),
        Route::new(Method::POST, "operator-keys", "Make an operator key", create),
        Route::new(Method::DELETE, "operator-keys/{id}", "Revoke an operator key", revoke),
    ]
}

async fn list(control: Arc<Control>, _: Call) -> Result<Listing<OperatorKeyView>, Problem> {
    let keys = control.operators.operator_keys().await?;
    Ok(Listing { data: keys.into_iter().map(OperatorKeyView::from).collect() })
}

async fn create(control: Arc<Control>, call: Call<NewOperatorKey>) -> Result<Made<CreatedOperatorKey>, Problem> {
    let name = key_name(call.body.name)?;
    let key = api_key::generate(api_key::OPERATOR_KEY).map_err(Problem::random)?;
    let view = add_operator_key(&*control.operators, &key, name, Timestamp::now()).await?;
    Ok(Made(CreatedOperatorKey { key, view: view.into() }))
}

async fn revoke(control: Arc<Control>, call: Call) -> Result<Revoked, Problem> {
    let id = call.place("id");
    control.operators.revoke_operator_key(id, Timestamp::now()).await?;
    Ok(Revoked { id: id.to_owned(), revoked: true })
}

/// Stores an operator key under its hash.
pub async fn add_operator_key(
    operators: &dyn Operators,
    key: &str,
    name: String,
    now: Timestamp,
) -> Result<OperatorKey, StoreError> {
    let view = OperatorKey {
        id: format!("opk_{}", Uuid::now_v7().simple()),
        name,
        prefix: api_key::prefix(key),
        created_at: now,
        revoked_at: None,
    };
    operators.add_operator_key(view.clone(), api_key::hash(key)).await?;
    Ok(view)
}
