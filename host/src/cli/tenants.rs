//! `tenant` and `audit`: whose mail it is, and who changed what.

use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Map, Value, json};

use super::directory::{OfTenant, day, encode, table};
use super::link::Link;
use super::{Failure, Target, say};
use crate::api::control::Listing;
use crate::api::control::audit::AuditPage;
use crate::api::control::tenants::TenantView;

/// What a tenant may, within what the host does for anybody. `none` takes a limit away.
#[derive(Clone, Debug, Args)]
pub(crate) struct Limits {
    /// Bytes of one message.
    #[arg(long, value_name = "BYTES")]
    message_bytes: Option<String>,
    /// Recipients of one message.
    #[arg(long, value_name = "NUMBER")]
    recipients: Option<String>,
    /// The streams that it has, with commas between them; the first is that of messages which name none. `none`: both.
    #[arg(long, value_name = "STREAMS")]
    streams: Option<String>,
    /// Submissions that are being taken at once.
    #[arg(long, value_name = "NUMBER")]
    calls_at_once: Option<String>,
    /// Address blocks that its keys are good from, with commas between them; `none`: from anywhere.
    #[arg(long, value_name = "BLOCKS")]
    networks: Option<String>,
    /// Recipients in a second.
    #[arg(long, value_name = "NUMBER")]
    per_second: Option<String>,
    /// Recipients in an hour.
    #[arg(long, value_name = "NUMBER")]
    per_hour: Option<String>,
    /// Recipients in a day, from midnight to midnight, UTC.
    #[arg(long, value_name = "NUMBER")]
    per_day: Option<String>,
    /// Recipients in a calendar month, UTC.
    #[arg(long, value_name = "NUMBER")]
    per_month: Option<String>,
}

impl Limits {
    /// As the control API takes them: those that were given.
    fn json(&self) -> Result<Value, Failure> {
        let (mut limits, mut quotas) = (Map::new(), Map::new());
        for (name, text) in [
            ("message_bytes", &self.message_bytes),
            ("recipients", &self.recipients),
            ("calls_at_once", &self.calls_at_once),
        ] {
            put(&mut limits, name, text)?;
        }
        for (name, text) in
            [("second", &self.per_second), ("hour", &self.per_hour), ("day", &self.per_day), ("month", &self.per_month)]
        {
            put(&mut quotas, name, text)?;
        }
        for (name, list) in [("networks", &self.networks), ("streams", &self.streams)] {
            if let Some(list) = list {
                let items: Vec<&str> = list.split(',').map(str::trim).filter(|item| *item != "none").collect();
                limits.insert(name.to_owned(), json!(items));
            }
        }
        if !quotas.is_empty() {
            limits.insert("quotas".to_owned(), Value::Object(quotas));
        }
        Ok(Value::Object(limits))
    }
}

fn put(into: &mut Map<String, Value>, name: &str, text: &Option<String>) -> Result<(), Failure> {
    let value = match text.as_deref() {
        None => return Ok(()),
        Some("none") => Value::Null,
        Some(number) => match number.parse::<u64>() {
            Ok(number) => json!(number),
            Err(_) => return Err(Failure::Refused(format!("`{number}` is no number: write one, or `none`"))),
        },
    };
    into.insert(name.to_owned(), value);
    Ok(())
}

/// One tenant of a host.
#[derive(Clone, Debug, Args)]
pub(crate) struct One {
    #[command(flatten)]
    target: Target,
    /// The tenant's name or id.
    tenant: String,
}

impl One {
    fn path(&self, rest: &str) -> String {
        format!("tenants/{}{rest}", encode(&self.tenant))
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Tenant {
    /// List tenants. `default` is the one of keys made without --tenant.
    List {
        #[command(flatten)]
        target: Target,
    },
    /// Make a tenant.
    Create {
        #[command(flatten)]
        target: Target,
        /// Lower-case letters, digits, `-` and `_`.
        name: String,
        #[command(flatten)]
        limits: Limits,
    },
    /// Show a tenant as JSON.
    Show {
        #[command(flatten)]
        one: One,
    },
    /// Change a tenant's limits: those that are given.
    Update {
        #[command(flatten)]
        one: One,
        #[command(flatten)]
        limits: Limits,
    },
    /// Refuse what a tenant sends from now on. Mail that is queued is still delivered.
    Pause {
        #[command(flatten)]
        one: One,
        /// Why: its senders are told.
        #[arg(long)]
        reason: String,
    },
    /// Take what a tenant sends again.
    Resume {
        #[command(flatten)]
        one: One,
    },
    /// Remove a tenant with its keys, domains, webhooks and templates.
    Delete {
        #[command(flatten)]
        one: One,
        /// Although mail of it is queued, which goes on to its end.
        #[arg(long)]
        force: bool,
    },
}

impl Tenant {
    pub(super) async fn run(self) -> Result<(), Failure> {
        match self {
            Tenant::List { target } => {
                let link = Link::open(&target).await?;
                let tenants: Listing<TenantView> = link.call(Method::GET, "tenants", &()).await?;
                let rows = tenants.data.into_iter().map(|tenant| {
                    let state =
                        tenant.pause.map_or_else(|| "sends".to_owned(), |pause| format!("paused: {}", pause.reason));
                    [tenant.name, tenant.id, day(tenant.created_at), state]
                });
                table(["NAME", "ID", "CREATED", "STATE"], rows)
            }
            Tenant::Create { target, name, limits } => {
                let new = json!({ "name": name, "limits": without_nulls(limits.json()?) });
                let made: TenantView = Link::open(&target).await?.call(Method::POST, "tenants", &new).await?;
                show(&made)
            }
            Tenant::Show { one } => show(&one.call(Method::GET, "", &()).await?),
            Tenant::Update { one, limits } => show(&one.call(Method::PATCH, "", &limits.json()?).await?),
            Tenant::Pause { one, reason } => {
                show(&one.call(Method::POST, "/pause", &json!({ "reason": reason })).await?)
            }
            Tenant::Resume { one } => show(&one.call(Method::POST, "/resume", &()).await?),
            Tenant::Delete { one, force } => {
                let path = one.path(if force { "?force=true" } else { "" });
                let _: Value = Link::open(&one.target).await?.call(Method::DELETE, &path, &()).await?;
                say(format_args!("{} is removed", one.tenant))
            }
        }
    }
}

impl One {
    async fn call(&self, method: Method, rest: &str, body: &impl serde::Serialize) -> Result<TenantView, Failure> {
        Link::open(&self.target).await?.call(method, &self.path(rest), body).await
    }
}

/// A limit that is taken away of a tenant that has none yet is none.
fn without_nulls(mut value: Value) -> Value {
    if let Value::Object(fields) = &mut value {
        fields.retain(|_, field| !field.is_null());
        fields.values_mut().for_each(|field| *field = without_nulls(field.take()));
    }
    value
}

fn show(tenant: &TenantView) -> Result<(), Failure> {
    say(serde_json::to_string_pretty(tenant).map_err(|error| Failure::Refused(error.to_string()))?)
}

#[derive(Debug, Subcommand)]
pub(crate) enum Audit {
    /// List who changed what, newest first.
    List {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        of: OfTenant,
        /// At most so many.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=500))]
        limit: u16,
        /// With what was there before, what was asked and what came of it: a line of JSON each.
        #[arg(long)]
        json: bool,
    },
}

impl Audit {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let Audit::List { target, of, limit, json } = self;
        let tenant = of.tenant.as_ref().map_or(String::new(), |tenant| format!("&tenant={}", encode(tenant)));
        let path = format!("audit?limit={limit}{tenant}");
        let page: AuditPage = Link::open(&target).await?.call(Method::GET, &path, &()).await?;
        if json {
            return page.data.iter().try_for_each(|entry| say(serde_json::to_string(entry).unwrap_or_default()));
        }
        let rows = page.data.into_iter().map(|entry| {
            let tenant = entry.tenant.unwrap_or_else(|| "-".to_owned());
            // A path holds what its caller wrote.
            let what = entry.what.chars().filter(|c| !c.is_control()).collect();
            [entry.at.to_string(), entry.who, entry.from, tenant, what]
        });
        table(["AT", "WHO", "FROM", "TENANT", "WHAT"], rows)
    }
}
