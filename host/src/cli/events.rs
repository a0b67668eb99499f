//! `events`: what happened to tenants and their messages, from the control API of the host.

use std::time::Duration;

use clap::{Args, Subcommand};
use http::Method;
use serde::Deserialize;

use super::directory::encode;
use super::link::Link;
use super::{Failure, Target, say};

/// How often the host is asked for more.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Most events of one page.
const PAGE: usize = 100;

#[derive(Debug, Args)]
pub(crate) struct Which {
    #[command(flatten)]
    target: Target,
    /// The tenant whose events are shown.
    #[arg(long, value_name = "NAME")]
    tenant: Option<String>,
    /// Only this kind of event, such as email.bounced.
    #[arg(long = "type", value_name = "EVENT")]
    kind: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Events {
    /// Show the newest events, oldest of them first.
    List {
        #[command(flatten)]
        which: Which,
        /// How many, at most 100.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u8).range(1..=100))]
        limit: u8,
    },
    /// Show the last events, and with --follow what happens from then on.
    Tail {
        #[command(flatten)]
        which: Which,
        /// Go on until Ctrl-C.
        #[arg(long, short)]
        follow: bool,
    },
}

#[derive(Deserialize)]
struct Listed {
    has_more: bool,
    data: Vec<Event>,
}

#[derive(Deserialize)]
struct Event {
    id: String,
    #[serde(rename = "type")]
    kind: String,
    created_at: String,
    email_id: Option<String>,
    recipient: Option<String>,
    reason: Option<String>,
    attempt: Option<Attempt>,
    /// Of an event that belongs to no message.
    data: Option<serde_json::Map<String, serde_json::Value>>,
}

#[derive(Deserialize)]
struct Attempt {
    number: u32,
    status: String,
    text: String,
}

impl Events {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let (which, limit, follow) = match self {
            Events::List { which, limit } => (which, usize::from(limit), false),
            Events::Tail { which, follow } => (which, 10, follow),
        };
        let link = Link::open(&which.target).await?;
        let mut newest = which.ask(&link, &format!("order=newest&limit={limit}")).await?.data;
        newest.reverse();
        newest.iter().try_for_each(print)?;
        let mut last = newest.pop().map(|event| event.id);
        if !follow {
            return Ok(());
        }
        loop {
            let after = last.as_ref().map_or(String::new(), |id| format!("&after={id}"));
            let page = which.ask(&link, &format!("order=oldest&limit={PAGE}{after}")).await?;
            page.data.iter().try_for_each(print)?;
            last = page.data.into_iter().next_back().map(|event| event.id).or(last);
            if !page.has_more {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
    }
}

impl Which {
    async fn ask(&self, link: &Link, query: &str) -> Result<Listed, Failure> {
        let mut path = format!("events?{query}");
        for (name, value) in [("tenant", &self.tenant), ("type", &self.kind)] {
            if let Some(value) = value {
                path.push_str(&format!("&{name}={}", encode(value)));
            }
        }
        link.call(Method::GET, &path, &()).await
    }
}

fn print(event: &Event) -> Result<(), Failure> {
    let mut line = format!("{}  {:<24}", event.created_at, event.kind);
    for part in [&event.email_id, &event.recipient].into_iter().flatten() {
        line.push_str(&format!("  {part}"));
    }
    if let Some(data) = &event.data {
        line.push_str(&format!("  {}", serde_json::Value::Object(data.clone())));
    }
    if let Some(attempt) = &event.attempt {
        line.push_str(&format!("  attempt {}: {} {}", attempt.number, attempt.status, attempt.text));
    }
    if let Some(reason) = &event.reason {
        line.push_str(&format!("  ({reason})"));
    }
    // The words of a peer stand in it: nothing of them may move the terminal's cursor.
    let line: String = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    say(line)
}
