//! What edges need of the control API: delivery tokens (`delivery-tokens`), and DKIM pairs whose private halves only the
//! edge has (`domains/{domain}/edge-keys`).

use std::sync::Arc;

use http::Method;
use jiff::Timestamp;
use mail::dkim::Algorithm;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::domains::DnsRecord;
use super::keys::key_name;
use super::{Call, Control, Listing, Made, Problem, Revoked, Route};
use crate::api_key;
use crate::keyring::{self, SelectorError};
use crate::store::{DeliveryToken, Edges, StoreError};

/// What a new delivery token is to be.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewToken {
    /// The only tenant it serves; absent: all.
    #[serde(default)]
    pub tenant: Option<String>,
    #[serde(default)]
    pub name: Option<String>,
}

/// A delivery token that was made: the only time it is shown.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct CreatedToken {
    pub token: String,
    #[serde(flatten)]
    pub view: TokenView,
}

/// A delivery token in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenView {
    pub id: String,
    /// The only tenant it serves; absent: all.
    pub tenant: Option<String>,
    pub name: String,
    pub prefix: String,
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub revoked_at: Option<Timestamp>,
}

/// DKIM keys that an edge is to have.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewEdgeKeys {
    #[serde(default)]
    pub algorithm: EdgeAlgorithm,
    /// Left out, one is made up.
    #[serde(default)]
    pub selector: Option<String>,
}

/// What an edge signs with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum EdgeAlgorithm {
    Rsa,
    Ed25519,
    #[default]
    Both,
}

impl EdgeAlgorithm {
    fn algorithms(self) -> &'static [Algorithm] {
        match self {
            EdgeAlgorithm::Rsa => &[Algorithm::RsaSha256],
            EdgeAlgorithm::Ed25519 => &[Algorithm::Ed25519Sha256],
            EdgeAlgorithm::Both => &[Algorithm::RsaSha256, Algorithm::Ed25519Sha256],
        }
    }
}

/// Keys that were made for an edge: the only time the private halves are shown.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct CreatedEdgeKeys {
    /// The edge's variable `dkim_keys`.
    pub dkim_keys: Vec<EdgePair>,
    pub records: Vec<DnsRecord>,
}

/// One item of `dkim_keys`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct EdgePair {
    pub domain: String,
    pub selector: String,
    /// `rsa-sha256` or `ed25519-sha256`.
    pub algorithm: String,
    /// PKCS#8 in PEM.
    pub private_key: String,
}

impl From<DeliveryToken> for TokenView {
    fn from(token: DeliveryToken) -> TokenView {
        let DeliveryToken { id, tenant, name, prefix, created_at, revoked_at } = token;
        TokenView { id, tenant, name, prefix, created_at, revoked_at }
    }
}

/// The key of an edge that is no more.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct RemovedEdgeKey {
    pub selector: String,
    pub removed: bool,
}

/// The routes of this family. Tokens are the operator's: an edge stands between tenants and the host.
pub fn routes() -> Vec<Route> {
    let keys = "domains/{domain}/edge-keys";
    vec![
        Route::new(Method::GET, "delivery-tokens", "Delivery tokens, or those for one tenant alone", list).of_tenant(),
        Route::new(Method::POST, "delivery-tokens", "Make a delivery token for an edge", create),
        Route::new(Method::DELETE, "delivery-tokens/{id}", "Revoke a delivery token", revoke),
        Route::new(Method::POST, keys, "Make DKIM keys for an edge", create_edge_keys).of_tenant().for_managers(),
        Route::new(Method::DELETE, "domains/{domain}/edge-keys/{selector}", "Remove a key of an edge", remove_edge_key)
            .of_tenant()
            .for_managers(),
    ]
}

async fn list(control: Arc<Control>, call: Call) -> Result<Listing<TokenView>, Problem> {
    let tokens = control.edges.delivery_tokens(call.only()).await?;
    Ok(Listing { data: tokens.into_iter().map(TokenView::from).collect() })
}

async fn create(control: Arc<Control>, call: Call<NewToken>) -> Result<Made<CreatedToken>, Problem> {
    let tenant = call.body.tenant.as_deref().map(|tenant| call.tenant_or(Some(tenant))).transpose()?;
    let name = key_name(call.body.name)?;
    let token = api_key::generate(api_key::DELIVERY_TOKEN).map_err(Problem::random)?;
    let view = add_token(&*control.edges, &token, tenant, name, Timestamp::now()).await?;
    Ok(Made(CreatedToken { token, view: view.into() }))
}

async fn revoke(control: Arc<Control>, call: Call) -> Result<Revoked, Problem> {
    let id = call.place("id");
    control.edges.revoke_delivery_token(id, Timestamp::now()).await?;
    Ok(Revoked { id: id.to_owned(), revoked: true })
}

async fn remove_edge_key(control: Arc<Control>, call: Call) -> Result<RemovedEdgeKey, Problem> {
    let domain = control.domain(call.tenant(), call.place("domain")).await?;
    let selector = call.place("selector").to_owned();
    control.edges.remove_edge_key(&domain.tenant, &domain.domain, &selector).await?;
    Ok(RemovedEdgeKey { selector, removed: true })
}

async fn create_edge_keys(control: Arc<Control>, call: Call<NewEdgeKeys>) -> Result<Made<CreatedEdgeKeys>, Problem> {
    let mut sending = control.domain(call.tenant(), call.place("domain")).await?;
    let new = call.body;
    let (algorithms, selector) = (new.algorithm.algorithms(), new.selector.as_deref());
    let made = keyring::make_edge_keys(algorithms, selector, Timestamp::now()).await.map_err(|error| match &error {
        SelectorError::Form(_) | SelectorError::Twice(_) => Problem::invalid(error.to_string()),
        SelectorError::Failed(_) => Problem::random(error),
    })?;
    let (keys, private): (Vec<_>, Vec<_>) = made.into_iter().map(|key| (key.public, key.private_pem)).unzip();
    control.edges.add_edge_keys(&sending.tenant, &sending.domain, keys.clone()).await?;

    let pair = |(key, private_key): (&crate::store::EdgeKey, String)| EdgePair {
        domain: sending.domain.to_string(),
        selector: key.selector.clone(),
        algorithm: key.algorithm.name().to_owned(),
        private_key,
    };
    let dkim_keys = keys.iter().zip(private).map(pair).collect();
    // Of the records only those of these keys are new.
    (sending.keys, sending.edge_keys) = (Vec::new(), keys);
    let records = control.domains.records(&sending);
    let records = records.iter().filter(|record| record.required).map(DnsRecord::from).collect();
    Ok(Made(CreatedEdgeKeys { dkim_keys, records }))
}

/// Stores a delivery token under its hash.
pub async fn add_token(
    edges: &dyn Edges,
    token: &str,
    tenant: Option<String>,
    name: String,
    now: Timestamp,
) -> Result<DeliveryToken, StoreError> {
    let view = DeliveryToken {
        id: format!("dlv_{}", Uuid::now_v7().simple()),
        tenant,
        name,
        prefix: api_key::prefix(token),
        created_at: now,
        revoked_at: None,
    };
    edges.add_delivery_token(view.clone(), api_key::hash(token)).await?;
    Ok(view)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::{Value, json};

    use super::super::tests::{ask, config, tenant_names};
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn delivery_tokens_are_made_listed_and_revoked() {
        let folder = tempfile::tempdir().unwrap();
        let control = crate::serve::open_control(&config(folder.path())).await.unwrap();
        let new = json!({ "tenant": "acme", "name": "spin" });
        let (status, made) = ask(&control, Method::POST, "delivery-tokens", new).await;
        assert_eq!((status, &made["tenant"]), (201, &json!("acme")), "{made}");
        let token = made["token"].as_str().unwrap();
        assert!(token.starts_with("phd_") && token.len() == 44, "{token}");
        let (_, any) = ask(&control, Method::POST, "delivery-tokens", json!({})).await;
        assert_eq!(any["tenant"], Value::Null);
        let (_, listed) = ask(&control, Method::GET, "delivery-tokens", Value::Null).await;
        assert_eq!(listed["data"].as_array().unwrap().len(), 2);
        assert!(!listed.to_string().contains(token), "the token is shown once");
        let (_, of_one) = ask(&control, Method::GET, "delivery-tokens?tenant=acme", Value::Null).await;
        assert_eq!(of_one["data"], json!([listed["data"][0]]));
        assert_eq!(ask(&control, Method::GET, "keys", Value::Null).await.1["data"], json!([]), "no API key");
        let (_, tenants) = ask(&control, Method::GET, "tenants", Value::Null).await;
        assert_eq!(tenant_names(&tenants), ["acme", "default"]);

        let id = made["id"].as_str().unwrap();
        assert_eq!(ask(&control, Method::DELETE, &format!("keys/{id}"), Value::Null).await.0, 404);
        let path = format!("delivery-tokens/{id}");
        assert_eq!(ask(&control, Method::DELETE, &path, Value::Null).await.0, 200);
        assert_eq!(ask(&control, Method::DELETE, &path, Value::Null).await.0, 404, "revoked already");
        let wrong = json!({ "tenant": "Acme Inc" });
        assert_eq!(ask(&control, Method::POST, "delivery-tokens", wrong).await.0, 422);
        assert_eq!(ask(&control, Method::PUT, "delivery-tokens", Value::Null).await.0, 405);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_edge_key_is_shown_once_and_its_record_stays() {
        let folder = tempfile::tempdir().unwrap();
        let control = crate::serve::open_control(&config(folder.path())).await.unwrap();
        let path = "domains/example.com/edge-keys";
        assert_eq!(ask(&control, Method::POST, path, json!({})).await.0, 404, "the domain must exist");
        ask(&control, Method::POST, "domains", json!({ "domain": "example.com" })).await;
        let (status, made) = ask(&control, Method::POST, path, json!({ "selector": "spin" })).await;
        assert_eq!(status, 201, "{made}");
        let keys = made["dkim_keys"].as_array().unwrap();
        let said: Vec<_> = keys.iter().map(|key| (&key["selector"], &key["algorithm"], &key["domain"])).collect();
        let expect = |selector: &str, algorithm: &str| (json!(selector), json!(algorithm), json!("example.com"));
        let (rsa, ed25519) = (expect("spin-rsa", "rsa-sha256"), expect("spin-ed25519", "ed25519-sha256"));
        assert_eq!(said, [(&rsa.0, &rsa.1, &rsa.2), (&ed25519.0, &ed25519.1, &ed25519.2)]);
        for key in keys {
            assert!(key["private_key"].as_str().unwrap().starts_with("-----BEGIN PRIVATE KEY-----\n"), "{key}");
            assert_eq!(key.as_object().unwrap().len(), 4);
        }
        let names: Vec<&str> =
            made["records"].as_array().unwrap().iter().map(|record| record["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["spin-ed25519._domainkey.example.com", "spin-rsa._domainkey.example.com"]);

        let (_, view) = ask(&control, Method::GET, "domains/example.com", Value::Null).await;
        let records = view["records"].as_array().unwrap();
        assert_eq!(records.iter().filter(|record| record["required"] == json!(true)).count(), 4, "{view}");
        assert!(names.iter().all(|name| records.iter().any(|record| record["name"] == json!(name))), "{view}");
        assert!(!view.to_string().contains("PRIVATE"), "{view}");
        // The host signs with its own keys alone.
        let identities = control.keyring.identities("default", "example.com").await.unwrap();
        assert_eq!(identities.len(), 2);
        assert!(identities.iter().all(|identity| !identity.selector.starts_with("spin")), "{identities:?}");

        assert_eq!(ask(&control, Method::POST, path, json!({ "selector": "spin" })).await.0, 409);
        let (status, wrong) = ask(&control, Method::POST, path, json!({ "selector": "a_b" })).await;
        assert!(status == 422 && wrong["message"].as_str().unwrap().contains("`a_b-rsa` is no selector"), "{wrong}");
        assert_eq!(ask(&control, Method::POST, path, json!({ "algorithm": "dsa" })).await.0, 422);
        let gone = format!("{path}/spin-rsa");
        assert_eq!(ask(&control, Method::DELETE, &gone, Value::Null).await.0, 200);
        assert_eq!(ask(&control, Method::DELETE, &gone, Value::Null).await.0, 404);
    }
}
