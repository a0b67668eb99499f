//! `key`: API keys, operator keys, delivery tokens.

use clap::{Args, Subcommand};
use http::Method;

use super::directory::{OfTenant, day, encode, table};
use super::link::Link;
use super::{Failure, Target, edges, say};
use crate::api::control::Listing;
use crate::api::control::keys::{CreatedKey, KeyView, NewKey};
use crate::api::control::operators::{CreatedOperatorKey, NewOperatorKey, OperatorKeyView};

/// Of which kind a key is: an API key where neither is said.
#[derive(Clone, Copy, Debug, Args)]
#[group(multiple = false)]
pub(crate) struct Kind {
    /// A delivery token, which edges prove themselves with, instead of an API key.
    #[arg(long)]
    delivery: bool,
    /// An operator key, which the control API takes over the network, instead of an API key.
    #[arg(long, conflicts_with = "tenant")]
    operator: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Key {
    /// Make a key and print it, alone, on stdout. It is shown this once and cannot be shown again.
    ///
    /// A delivery token serves all tenants, or with --tenant that one alone.
    Create {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        of: OfTenant,
        /// What the key is for, to know it by in lists.
        #[arg(long, default_value = "")]
        name: String,
        #[command(flatten)]
        kind: Kind,
    },
    /// List keys: id, first characters, tenant, name.
    List {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        of: OfTenant,
        #[command(flatten)]
        kind: Kind,
    },
    /// Revoke a key: what it is used for is refused from now on.
    Revoke {
        #[command(flatten)]
        target: Target,
        /// The key's id as `key list` shows it (`key_…`, `dlv_…`, `opk_…`).
        id: String,
        /// The id is that of a delivery token.
        #[arg(long)]
        delivery: bool,
        /// The id is that of an operator key.
        #[arg(long, conflicts_with = "delivery")]
        operator: bool,
    },
}

impl Key {
    pub(super) async fn run(self) -> Result<(), Failure> {
        match self {
            Key::Create { target, of, name, kind: Kind { delivery: true, .. } } => {
                edges::create_token(&target, of, name).await
            }
            Key::Create { target, name, kind: Kind { operator: true, .. }, .. } => {
                let new = NewOperatorKey { name: Some(name) };
                let link = Link::open(&target).await?;
                let created: CreatedOperatorKey = link.call(Method::POST, "operator-keys", &new).await?;
                show(&link, &created.key, &format!("operator-keys/{}", encode(&created.view.id))).await
            }
            Key::Create { target, of, name, .. } => {
                let new = NewKey { tenant: of.tenant, name: Some(name) };
                let link = Link::open(&target).await?;
                let created: CreatedKey = link.call(Method::POST, "keys", &new).await?;
                show(&link, &created.key, &format!("keys/{}", encode(&created.view.id))).await
            }
            Key::List { target, of, kind: Kind { delivery: true, .. } } => edges::list_tokens(&target, &of).await,
            Key::List { target, kind: Kind { operator: true, .. }, .. } => list_operator_keys(&target).await,
            Key::List { target, of, .. } => list(&target, &of).await,
            Key::Revoke { target, id, delivery, operator } => {
                let family = match (delivery, operator) {
                    (true, _) => "delivery-tokens",
                    (_, true) => "operator-keys",
                    (false, false) => "keys",
                };
                let path = format!("{family}/{}", encode(&id));
                let _: serde_json::Value = Link::open(&target).await?.call(Method::DELETE, &path, &()).await?;
                say(format_args!("{id} is revoked"))
            }
        }
    }
}

/// Prints a key that was just made. Where that fails nobody will ever know it: a live key that nobody holds is only a
/// riddle in the list, so it is revoked.
async fn show(link: &Link, key: &str, path: &str) -> Result<(), Failure> {
    let Err(unseen) = say(key) else { return Ok(()) };
    let _: serde_json::Value = link.call(Method::DELETE, path, &()).await?;
    Err(unseen)
}

async fn list(target: &Target, of: &OfTenant) -> Result<(), Failure> {
    let path = format!("keys{}", of.query());
    let keys: Listing<KeyView> = Link::open(target).await?.call(Method::GET, &path, &()).await?;
    let rows = keys.data.into_iter().map(|key| {
        let state = if key.revoked_at.is_some() { "revoked" } else { "live" };
        [key.id, format!("{}…", key.prefix), key.tenant, state.to_owned(), day(key.created_at), key.name]
    });
    table(["ID", "KEY", "TENANT", "STATE", "CREATED", "NAME"], rows)
}

async fn list_operator_keys(target: &Target) -> Result<(), Failure> {
    let link = Link::open(target).await?;
    let keys: Listing<OperatorKeyView> = link.call(Method::GET, "operator-keys", &()).await?;
    let rows = keys.data.into_iter().map(|key| {
        let state = if key.revoked_at.is_some() { "revoked" } else { "live" };
        [key.id, format!("{}…", key.prefix), state.to_owned(), day(key.created_at), key.name]
    });
    table(["ID", "KEY", "STATE", "CREATED", "NAME"], rows)
}
