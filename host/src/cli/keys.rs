//! `key`: API keys, operator keys, delivery tokens.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use http::Method;
use jiff::Timestamp;
use mail::Stream;

use super::directory::{OfTenant, day, encode, table};
use super::link::Link;
use super::{Failure, Target, edges, say};
use crate::api::control::Listing;
use crate::api::control::keys::{CreatedKey, KeyView, NewKey, Rotation};
use crate::api::control::operators::{CreatedOperatorKey, NewOperatorKey, OperatorKeyView};
use crate::config::duration;
use crate::store::Scope;

/// Bytes of a secret that are read at most.
const SECRET_BYTES: u64 = 4096;

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

/// What an API key may, and for how long.
#[derive(Clone, Debug, Args)]
pub(crate) struct Power {
    /// What the API key may be used for, once for each; left out: everything.
    #[arg(long = "scope", value_enum)]
    scopes: Vec<Scope>,
    /// The only stream that the API key may be used for: transactional or broadcast. Left out: those of its tenant.
    #[arg(long)]
    stream: Option<Stream>,
    /// When the API key ends, from now: `12h`, `90d`. Left out: never.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    expires_in: Option<Duration>,
}

impl Power {
    fn key(self, of: OfTenant, name: String, key: Option<String>) -> NewKey {
        let end = self.expires_in.map(|time| Timestamp::now().checked_add(time).unwrap_or(Timestamp::MAX));
        let stream = self.stream.map(|stream| stream.to_string());
        NewKey { tenant: of.tenant, name: Some(name), scopes: self.scopes, stream, expires_at: end, key }
    }
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
        #[command(flatten)]
        power: Power,
    },
    /// Make an API key of a secret that exists: it is read from a file or stdin, never from the command line.
    Import {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        of: OfTenant,
        /// What the key is for, to know it by in lists.
        #[arg(long, default_value = "")]
        name: String,
        /// The file with the secret, 16 characters or more; its end of line is not part of it. Left out: stdin.
        #[arg(long)]
        file: Option<PathBuf>,
        #[command(flatten)]
        power: Power,
    },
    /// Make an API key in the place of another and print it. The other ends.
    Rotate {
        #[command(flatten)]
        target: Target,
        /// The id of the key to be replaced.
        id: String,
        /// How long the old key stays good.
        #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = duration)]
        overlap: Duration,
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
            Key::Create { target, of, name, kind: Kind { delivery: true, .. }, .. } => {
                edges::create_token(&target, of, name).await
            }
            Key::Create { target, name, kind: Kind { operator: true, .. }, .. } => {
                let new = NewOperatorKey { name: Some(name) };
                let link = Link::open(&target).await?;
                let created: CreatedOperatorKey = link.call(Method::POST, "operator-keys", &new).await?;
                show(&link, &created.key, &format!("operator-keys/{}", encode(&created.view.id))).await
            }
            Key::Create { target, of, name, power, .. } => {
                let new = power.key(of, name, None);
                let link = Link::open(&target).await?;
                let created: CreatedKey = link.call(Method::POST, "keys", &new).await?;
                show(&link, &created.key, &format!("keys/{}", encode(&created.view.id))).await
            }
            Key::Import { target, of, name, file, power } => {
                let secret = read_secret(file.as_deref())?;
                let link = Link::open(&target).await?;
                let created: CreatedKey = link.call(Method::POST, "keys", &power.key(of, name, Some(secret))).await?;
                say(created.view.id)
            }
            Key::Rotate { target, id, overlap } => {
                let rotation = Rotation { overlap_s: u32::try_from(overlap.as_secs()).unwrap_or(u32::MAX) };
                let link = Link::open(&target).await?;
                let path = format!("keys/{}/rotate", encode(&id));
                let created: CreatedKey = link.call(Method::POST, &path, &rotation).await?;
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

/// A secret from a file or stdin, without its end of line.
fn read_secret(file: Option<&Path>) -> Result<String, Failure> {
    let mut text = String::new();
    match file {
        Some(file) => text = std::fs::read_to_string(file).map_err(Failure::io(file.display().to_string()))?,
        None => {
            std::io::stdin().take(SECRET_BYTES).read_to_string(&mut text).map_err(Failure::io("stdin"))?;
        }
    }
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

async fn list(target: &Target, of: &OfTenant) -> Result<(), Failure> {
    let path = format!("keys{}", of.query());
    let keys: Listing<KeyView> = Link::open(target).await?.call(Method::GET, &path, &()).await?;
    let rows = keys.data.into_iter().map(|key| {
        let state = match (key.revoked_at, key.expires_at) {
            (Some(_), _) => "revoked".to_owned(),
            (None, Some(end)) if end <= Timestamp::now() => "expired".to_owned(),
            (None, Some(end)) => format!("until {}", day(end)),
            (None, None) => "live".to_owned(),
        };
        let scopes: Vec<&str> = key.scopes.iter().map(|scope| scope.name()).collect();
        let used = key.used_at.map_or_else(|| "never".to_owned(), day);
        let prefix = format!("{}…", key.prefix);
        let stream = key.stream.unwrap_or_else(|| "any".to_owned());
        [key.id, prefix, key.tenant, scopes.join(","), stream, state, day(key.created_at), used, key.name]
    });
    table(["ID", "KEY", "TENANT", "SCOPES", "STREAM", "STATE", "CREATED", "USED", "NAME"], rows)
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
