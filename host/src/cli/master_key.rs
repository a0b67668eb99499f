//! `master-key`: the key that seals secrets at rest.

use clap::Subcommand;
use http::Method;

use super::link::Link;
use super::{Failure, Target, say};
use crate::api::control::master_key::MasterKeyView;

#[derive(Debug, Subcommand)]
pub(crate) enum MasterKey {
    /// Exchange the master key: a new one is made, every secret is sealed with it, and its file takes the place of the old
    /// one. The host may run meanwhile, and may be killed at any time: its next start goes on.
    ///
    /// A key in POSTHASTE_MASTER_KEY is exchanged by hand: put the old one into POSTHASTE_MASTER_KEY_PREVIOUS and a new one
    /// into POSTHASTE_MASTER_KEY, and start the host again. Backups made before are opened with the old key alone.
    Rotate(Target),
}

impl MasterKey {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let MasterKey::Rotate(target) = self;
        let done: MasterKeyView = Link::open(&target).await?.call(Method::POST, "master-key/rotate", &()).await?;
        say(format_args!(
            "{} of {} secrets were sealed anew; the master key is in {}",
            done.resealed, done.secrets, done.source
        ))?;
        for name in &done.unreadable {
            say(format_args!("not readable, now as before: {name}"))?;
        }
        Ok(())
    }
}
