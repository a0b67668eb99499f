//! `key … --delivery` and `domain edge-key`: what an edge is given.

use clap::Args;
use http::Method;

use super::directory::{OfTenant, day, encode, table};
use super::link::Link;
use super::{Failure, Target, say};
use crate::api::control::Listing;
use crate::api::control::edges::{CreatedEdgeKeys, CreatedToken, EdgeAlgorithm, NewEdgeKeys, TokenView};
use crate::api::control::keys::NewKey;

#[derive(Debug, Args)]
pub(crate) struct EdgeKey {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    of: OfTenant,
    /// The domain as `domain list` shows it.
    domain: String,
    /// What the edge signs with. RSA is understood by every receiver, and slow at an edge; Ed25519 is the other way round.
    #[arg(long, value_enum, default_value = "both")]
    algorithm: EdgeAlgorithm,
    /// The selector; with two keys `-rsa` and `-ed25519` are put behind it. Left out, one is made up.
    #[arg(long)]
    selector: Option<String>,
    /// Remove the key with this selector instead: mail that an edge signs with it is refused from now on.
    #[arg(long, value_name = "SELECTOR", conflicts_with_all = ["algorithm", "selector"])]
    remove: Option<String>,
}

impl EdgeKey {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let EdgeKey { target, of, domain, algorithm, selector, remove } = self;
        let link = Link::open(&target).await?;
        let path = |selector: &str| format!("domains/{}/edge-keys{selector}{}", encode(&domain), of.query());
        let forget = async |selector: &str| -> Result<serde_json::Value, Failure> {
            link.call(Method::DELETE, &path(&format!("/{}", encode(selector))), &()).await
        };
        if let Some(selector) = remove {
            forget(&selector).await?;
            return say(format_args!(
                "{selector} is removed. Leave its DNS record until all mail signed with it has arrived (5 days)."
            ));
        }
        let made: CreatedEdgeKeys = link.call(Method::POST, &path(""), &NewEdgeKeys { algorithm, selector }).await?;
        let json = serde_json::to_string(&made.dkim_keys).map_err(|error| Failure::Refused(error.to_string()))?;
        if let Err(unseen) = say(json) {
            // Nobody will ever have the private keys: mail signed with them cannot come.
            for key in &made.dkim_keys {
                forget(&key.selector).await?;
            }
            return Err(unseen);
        }
        // Stdout is the variable's value alone: `edge-key … > dkim_keys.json`, `--variable dkim_keys=@dkim_keys.json`.
        eprintln!("; publish: receivers verify what the edge signs with these");
        made.records.iter().for_each(|record| eprintln!("{}", record.zone_line));
        Ok(())
    }
}

/// `key create --delivery`.
pub(super) async fn create_token(target: &Target, of: OfTenant, name: String) -> Result<(), Failure> {
    let link = Link::open(target).await?;
    let new = NewKey { tenant: of.tenant, name: Some(name) };
    let created: CreatedToken = link.call(Method::POST, "delivery-tokens", &new).await?;
    if let Err(unseen) = say(&created.token) {
        // Nobody will ever know it.
        let path = format!("delivery-tokens/{}", encode(&created.view.id));
        let _: serde_json::Value = link.call(Method::DELETE, &path, &()).await?;
        return Err(unseen);
    }
    Ok(())
}

/// `key list --delivery`.
pub(super) async fn list_tokens(target: &Target, of: &OfTenant) -> Result<(), Failure> {
    let path = format!("delivery-tokens{}", of.query());
    let tokens: Listing<TokenView> = Link::open(target).await?.call(Method::GET, &path, &()).await?;
    let rows = tokens.data.into_iter().map(|token| {
        let state = if token.revoked_at.is_some() { "revoked" } else { "live" };
        let tenant = token.tenant.unwrap_or_else(|| "(all)".to_owned());
        [token.id, format!("{}…", token.prefix), tenant, state.to_owned(), day(token.created_at), token.name]
    });
    table(["ID", "TOKEN", "TENANT", "STATE", "CREATED", "NAME"], rows)
}
