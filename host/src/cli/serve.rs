//! `posthaste serve`: runs the host until it is told to end.

use std::path::PathBuf;

use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::Failure;
use crate::config;
use crate::serve::{Host, Options};

#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// The configuration file; docs/configuration.md tells all keys.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

impl Serve {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let config = config::load(&self.config)?;
        let signals = Signals::listen()?;
        let host = Host::start(config, Options::default()).await?;
        for address in host.http_addrs() {
            tracing::info!(%address, "sending API");
        }
        for address in host.smtp_addrs() {
            tracing::info!(%address, "SMTP submission");
        }
        until_told(host, signals).await
    }
}

/// What ends a host. Listened for before it starts: one that answers is asked to end and not torn down.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub(super) fn listen() -> Result<Signals, Failure> {
        let terminate = signal(SignalKind::terminate()).map_err(Failure::io("cannot listen for SIGTERM"))?;
        let interrupt = signal(SignalKind::interrupt()).map_err(Failure::io("cannot listen for SIGINT"))?;
        Ok(Signals { terminate, interrupt })
    }
}

/// Signals that come this soon after the first are the same wish: a wrapper signals the child and then its group.
const SAME_SIGNAL: std::time::Duration = std::time::Duration::from_secs(1);

/// Serves until SIGTERM or SIGINT, then drains; a second signal ends the drain.
pub(super) async fn until_told(host: Host, signals: Signals) -> Result<(), Failure> {
    let Signals { mut terminate, mut interrupt } = signals;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("ending: finishing what is under way");
    let first = std::time::Instant::now();
    let shutdown = host.shutdown();
    tokio::pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break tracing::info!("ended"),
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        if first.elapsed() >= SAME_SIGNAL {
            break tracing::warn!("ended at once by a second signal");
        }
    }
    Ok(())
}
