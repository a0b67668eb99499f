//! What happened, told: by the `mail_log`, and to webhooks by the `dispatcher`.

pub mod dispatcher;
pub mod mail_log;
pub mod notifier;
pub mod policy;
pub mod teller;

use std::sync::{Arc, OnceLock};

use jiff::SignedDuration;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::dispatcher::Pace;
use self::notifier::{BuiltInNotifier, Notifier, RemoteNotifier};
use self::teller::{SystemClock, Teller};
use crate::config::Config;
use crate::edge::{self, Edge};
use crate::keyring::Keyring;
use crate::store::Embedded;
use crate::web::address::Reachable;
use crate::web::{SetupError, Web};

/// What tells webhooks, made before the WASM side that it works through.
pub struct Telling {
    /// For URLs that tenants give.
    web: Arc<Web>,
    /// The edge's `notify`, where one is configured: the operator's own, wherever it stands.
    edge: Option<RemoteNotifier>,
    teller: Arc<OnceLock<Teller>>,
}

impl Telling {
    /// `is_development`: endpoints may stand on loopback.
    pub fn new(config: &Config, is_development: bool) -> Result<Telling, SetupError> {
        let reachable = match (config.webhooks.allow_private, is_development) {
            (true, _) => Reachable::All,
            (false, true) => Reachable::PublicAndLoopback,
            (false, false) => Reachable::Public,
        };
        let web = Arc::new(Web::new(&config.dns, reachable)?);
        let edge = match &config.notify_edge {
            Some(edge) => {
                let to_edge = Arc::new(Web::new(&config.dns, Reachable::All)?);
                // The configuration has checked the token.
                RemoteNotifier::new(to_edge, &edge.url, &edge.token, config.webhooks.timeout)
            }
            None => None,
        };
        Ok(Telling { web, edge, teller: Arc::default() })
    }

    /// Whose addresses endpoints may have.
    pub fn reachable(&self) -> Reachable {
        self.web.reachable()
    }

    /// The guarded way out.
    pub fn web(&self) -> Arc<Web> {
        self.web.clone()
    }

    /// Whoever makes single attempts; there once this has started.
    pub fn teller(&self) -> Arc<OnceLock<Teller>> {
        self.teller.clone()
    }

    /// Begins to tell webhooks of what happens.
    pub fn start(
        self,
        config: &Config,
        store: &Arc<Embedded>,
        keyring: &Arc<Keyring>,
        edge: &Arc<Edge>,
        stop: &CancellationToken,
        tasks: &TaskTracker,
    ) {
        let notifier: Arc<dyn Notifier> = match self.edge {
            Some(remote) => Arc::new(remote),
            None => Arc::new(BuiltInNotifier::new(edge, self.web, config.webhooks.timeout)),
        };
        let teller = || Teller { notifier: notifier.clone(), keyring: keyring.clone(), clock: Arc::new(SystemClock) };
        // Set here alone.
        let _ = self.teller.set(teller());
        let keep_log = SignedDuration::try_from(config.webhooks.keep_log).unwrap_or(SignedDuration::MAX);
        let pace = Pace { concurrency: config.webhooks.concurrency, in_all: edge::NOTIFIES, keep_log };
        dispatcher::start(store.clone(), teller(), pace, stop.clone(), tasks);
    }
}
