//! `posthaste component`: what takes the place of a stage, from the author's first file to the operator's switch.

mod deploy;

use clap::Subcommand;

use super::Failure;

/// What can be done with components.
#[derive(Debug, Subcommand)]
pub(crate) enum Component {
    #[command(flatten)]
    Deploy(deploy::Deploy),
}

impl Component {
    pub async fn run(self) -> Result<(), Failure> {
        match self {
            Component::Deploy(deploy) => deploy.run().await,
        }
    }
}
