//! `queue` and `backup`: what waits, what an operator does to it, and a copy of all of it.

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use http::Method;
use jiff::Timestamp;
use mail::Stream;
use serde::Deserialize;

use super::directory::{encode, table};
use super::link::Link;
use super::{Failure, Target, say};
use crate::api::control::queue::{BackupView, NewBackup, QueueChanged, Queued, QueuedView};
use crate::config::duration;

/// Recipients asked for at once.
const PAGE: usize = 1000;

/// Which recipients are meant: those that fit all that is given.
#[derive(Debug, Args)]
pub(crate) struct Which {
    #[command(flatten)]
    target: Target,
    /// The id of a message.
    #[arg(value_name = "ID")]
    id: Option<String>,
    /// Only this tenant's mail.
    #[arg(long, value_name = "NAME")]
    tenant: Option<String>,
    /// Only recipients at this domain.
    #[arg(long, value_name = "DOMAIN")]
    domain: Option<String>,
    /// Only recipients at domains with this mail host, as far as a running host has looked them up.
    #[arg(long, value_name = "HOST")]
    site: Option<String>,
    /// Only mail that leaves from this source, as far as its domains were looked up.
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// Only mail of this stream: transactional or broadcast.
    #[arg(long, value_name = "STREAM")]
    stream: Option<Stream>,
    /// Only mail accepted longer ago than this, such as 2h or 3d.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    older_than: Option<Duration>,
    /// Only what is held.
    #[arg(long)]
    held: bool,
}

/// The same, where something is done to them: all of the queue must be said.
#[derive(Debug, Args)]
pub(crate) struct Meant {
    #[command(flatten)]
    which: Which,
    /// All that waits.
    #[arg(long)]
    all: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Queue {
    /// List what waits, by destination.
    List {
        #[command(flatten)]
        which: Which,
        /// How many recipients.
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
    /// Show one message that waits, with what happened to it.
    Show {
        #[command(flatten)]
        target: Target,
        /// The id of the message.
        #[arg(value_name = "ID")]
        id: String,
    },
    /// Try again now, whenever the next attempt was to be.
    Retry(Meant),
    /// Make no attempt until it is released. An attempt under way ends first.
    Hold(Meant),
    /// Deliver what was held.
    Release(Meant),
    /// End it, with the event email.canceled.
    Cancel(Meant),
    /// End it, with the event email.bounced.
    Bounce(Meant),
    /// End it, with the event email.failed and the reason `purged`.
    Purge(Meant),
}

/// Copy the data folder of a host, while it runs or not, to a folder that a host can be started on.
///
/// The folder is made on the host's machine and must not be there yet. A host started on the copy delivers again what was
/// delivered since it was made.
#[derive(Debug, Args)]
pub(crate) struct BackUp {
    #[command(flatten)]
    target: Target,
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

impl Queue {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let (verb, meant) = match self {
            Queue::List { which, limit } => return list(&which, limit).await,
            Queue::Show { target, id } => return show(&target, &id).await,
            Queue::Retry(meant) => ("retry", meant),
            Queue::Hold(meant) => ("hold", meant),
            Queue::Release(meant) => ("release", meant),
            Queue::Cancel(meant) => ("cancel", meant),
            Queue::Bounce(meant) => ("bounce", meant),
            Queue::Purge(meant) => ("purge", meant),
        };
        change(verb, &meant).await
    }
}

impl Which {
    /// The parameters of a query. The age is that of now: what becomes old meanwhile is not meant.
    fn query(&self) -> String {
        let before = self.older_than.and_then(|age| Timestamp::now().checked_sub(age).ok()).map(|at| at.to_string());
        let held = self.held.then(|| "true".to_owned());
        let stream = self.stream.map(|stream| stream.to_string());
        let given = [
            ("id", &self.id),
            ("tenant", &self.tenant),
            ("domain", &self.domain),
            ("site", &self.site),
            ("source", &self.source),
            ("stream", &stream),
            ("accepted_before", &before),
            ("held", &held),
        ];
        given
            .iter()
            .filter_map(|(name, value)| value.as_ref().map(|value| format!("{name}={}&", encode(value))))
            .collect()
    }
}

fn with_cursor(path: &str, cursor: Option<&String>) -> String {
    cursor.map_or_else(|| path.to_owned(), |cursor| format!("{path}cursor={}", encode(cursor)))
}

async fn list(which: &Which, limit: usize) -> Result<(), Failure> {
    let link = Link::open(&which.target).await?;
    let path = format!("queue?limit={}&{}", limit.clamp(1, PAGE), which.query());
    // The number of all that waits says nothing of what was asked for.
    let is_all = which.query().is_empty();
    let (mut left, mut cursor, mut is_first) = (limit, None, true);
    while left > 0 {
        let page: Queued = link.call(Method::GET, &with_cursor(&path, cursor.as_ref()), &()).await?;
        if is_first
            && is_all
            && let Some(queued) = page.queued
        {
            say(format_args!("{queued} recipients wait, in all tenants"))?;
        }
        is_first = false;
        let shown = &page.data[..page.data.len().min(left)];
        shown.iter().try_for_each(print)?;
        left -= shown.len();
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    match (is_all, cursor) {
        (true, _) => Ok(()),
        (false, None) => say(format_args!("{} recipients fit", limit - left)),
        (false, Some(_)) => say(format_args!("{} recipients are shown, and more may fit: see --limit", limit - left)),
    }
}

fn print(queued: &QueuedView) -> Result<(), Failure> {
    let sender = queued.sender.as_deref().unwrap_or("<>");
    let due = queued.due_at.map_or_else(|| "-".to_owned(), |at| at.to_string());
    let line = format!(
        "{}  {:<9}  due {due}  attempts {}  {}  {}  {sender} -> {}",
        queued.id, queued.state, queued.attempts, queued.tenant, queued.stream, queued.recipient
    );
    say(line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>())
}

#[derive(Deserialize)]
struct Told {
    data: Vec<Event>,
}

#[derive(Deserialize)]
struct Event {
    #[serde(rename = "type")]
    kind: String,
    created_at: String,
    recipient: Option<String>,
    attempt: Option<Attempt>,
}

#[derive(Deserialize)]
struct Attempt {
    number: u32,
    status: String,
    text: String,
}

async fn show(target: &Target, id: &str) -> Result<(), Failure> {
    let link = Link::open(target).await?;
    let page: Queued = link.call(Method::GET, &format!("queue?id={}", encode(id)), &()).await?;
    let Some(first) = page.data.first() else {
        return Err(Failure::Refused(format!("nobody of message {id} waits any more: `posthaste events list` tells")));
    };
    let rows = [
        ["id".to_owned(), first.id.clone()],
        ["tenant".to_owned(), first.tenant.clone()],
        ["accepted".to_owned(), first.accepted_at.to_string()],
        ["size".to_owned(), format!("{} octets", first.size_bytes)],
    ];
    table(["MESSAGE", ""], rows.into_iter())?;
    page.data.iter().try_for_each(print)?;
    let tenant = encode(&first.tenant);
    let path = format!("events?tenant={tenant}&email_id={}&order=oldest&limit=100", encode(id));
    let told: Told = link.call(Method::GET, &path, &()).await?;
    for event in told.data {
        let attempt = event.attempt.map_or_else(String::new, |attempt| {
            format!("  attempt {}: {} {}", attempt.number, attempt.status, attempt.text)
        });
        let line = format!("{}  {}  {}{attempt}", event.created_at, event.kind, event.recipient.unwrap_or_default());
        say(line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>())?;
    }
    Ok(())
}

/// Goes through all that fits, a step at a time, and tells how far it is.
async fn change(verb: &str, Meant { which, all }: &Meant) -> Result<(), Failure> {
    let link = Link::open(&which.target).await?;
    let everything = if *all { "all=true&" } else { "" };
    let path = format!("queue/{verb}?{}{everything}", which.query());
    let (mut changed, mut in_delivery, mut cursor) = (0, 0, None);
    let mut progress = Progress { shown: false };
    loop {
        let step: QueueChanged = link.call(Method::POST, &with_cursor(&path, cursor.as_ref()), &()).await?;
        changed += step.changed;
        in_delivery += step.in_delivery;
        cursor = step.next;
        if cursor.is_none() {
            break;
        }
        progress.show(changed);
    }
    progress.end();
    say(format_args!("{verb}: {changed} recipients"))?;
    match in_delivery {
        0 => Ok(()),
        _ => say(format_args!("{in_delivery} are in delivery now and were left alone: repeat the command for these")),
    }
}

/// A line that is written over, where somebody looks.
struct Progress {
    shown: bool,
}

impl Progress {
    fn show(&mut self, changed: u64) {
        let mut stderr = std::io::stderr();
        if stderr.is_terminal() {
            self.shown = write!(stderr, "\r{changed} recipients").is_ok();
        }
    }

    fn end(&self) {
        if self.shown {
            eprintln!();
        }
    }
}

impl BackUp {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let folder = std::path::absolute(&self.folder).map_err(Failure::io("the backup's folder"))?;
        let link = Link::open(&self.target).await?;
        let made: BackupView = link.call(Method::POST, "backup", &NewBackup { folder: folder.clone() }).await?;
        say(format_args!("{}: {} messages, {} octets", folder.display(), made.messages, made.bytes))?;
        match made.has_master_key {
            true => say("the master key is in it: keep it as safe as the host itself"),
            false => say("the master key is not in it: keep a copy of the file that the configuration names"),
        }
    }
}
