//! `posthaste serve`: runs the host until it is told to end.

use std::path::PathBuf;
use std::sync::{Arc, Weak};

use clap::Args;
use tokio::runtime::Handle;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::Failure;
use crate::config;
use crate::reload::Reloader;
use crate::serve::{Host, Options};
use crate::telemetry::{Telemetry, TelemetryError};

#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// The configuration file; docs/configuration.md tells all keys.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

impl Serve {
    /// The collector that the configuration names. What is wrong with the file is told where it is read for the host.
    pub(super) fn telemetry(&self, runtime: &Handle) -> Result<Option<Telemetry>, TelemetryError> {
        match config::load(&self.config) {
            Ok(config) => Telemetry::new(&config, runtime.clone()),
            Err(_) => Ok(None),
        }
    }

    pub(super) async fn run(self) -> Result<(), Failure> {
        let config = config::load(&self.config)?;
        let signals = Signals::listen()?;
        let reloads = Reloads::listen()?;
        // As it was given: paths in it are taken from its folder, and must come out the same when it is read again.
        let options = Options { file: Some(self.config.clone()), ..Options::default() };
        let host = Host::start(config, options).await?;
        for address in host.http_addrs() {
            tracing::info!(%address, "sending API");
        }
        for address in host.smtp_addrs() {
            tracing::info!(%address, "SMTP submission");
        }
        let reloading = tokio::spawn(reloads.serve(Arc::downgrade(&host.reloader())));
        let ended = until_told(host, signals).await;
        reloading.abort();
        ended
    }
}

/// SIGHUP: the configuration is read again.
struct Reloads(Signal);

impl Reloads {
    /// Listened for before the host starts: until then it would end it.
    fn listen() -> Result<Reloads, Failure> {
        Ok(Reloads(signal(SignalKind::hangup()).map_err(Failure::io("cannot listen for SIGHUP"))?))
    }

    async fn serve(mut self, reloader: Weak<Reloader>) {
        while self.0.recv().await.is_some() {
            let Some(reloader) = reloader.upgrade() else { return };
            // What comes of it is in the log.
            let _ = reloader.reload().await;
        }
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
