//! `posthaste reload`: has the running host read its configuration again.

use std::path::PathBuf;

use clap::Args;
use http::Method;

use super::link::Link;
use super::{Failure, Target, say};
use crate::reload::Reloaded;

#[derive(Debug, Args)]
pub(crate) struct Reload {
    /// The configuration file of the host.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

impl Reload {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let target = Target { config: Some(self.config), data: None };
        // Reads the file too: its faults are told here, each with its place.
        let link = Link::open(&target).await?;
        let Reloaded { changed, needs_restart } = link.call(Method::POST, "reload", &()).await?;
        match changed.is_empty() {
            true => say("nothing changed")?,
            false => say(format_args!("changed: {}", changed.join(", ")))?,
        }
        match needs_restart.is_empty() {
            true => Ok(()),
            false => say(format_args!("needs a restart: {}", needs_restart.join(", "))),
        }
    }
}
