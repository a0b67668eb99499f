//! Wires the host: store, keys, components, queue and listeners, in the order in which each needs the one before; and
//! ends it in the other order, so that what is under way finishes before what it stands on goes.

use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
use thiserror::Error;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::DEFAULT_TENANT;
use crate::api::control::{self, Control};
use crate::api::socket;
use crate::config::Config;
use crate::keyring::{Keyring, MasterKey, MasterKeyError};
use crate::server::BindError;
use crate::server::tls::TlsError;
use crate::store::{Directory as _, Embedded, OpenError, StoreError};

/// Why the host does not start.
#[derive(Debug, Error)]
pub enum StartError {
    #[error("the data folder {path} cannot be made: {source}")]
    Folder { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Store(#[from] OpenError),
    #[error(transparent)]
    MasterKey(#[from] MasterKeyError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error("the control socket {path} cannot be opened: {source}")]
    Socket { path: PathBuf, source: std::io::Error },
    #[error("the development key cannot be stored: {0}")]
    Key(StoreError),
}

/// What a host is started for, besides its configuration.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Captures mail instead of sending it.
    pub development: Option<Development>,
}

/// What makes a host one for development.
#[derive(Clone, Debug)]
pub struct Development {
    /// Taken besides the keys of the store.
    pub api_key: String,
}

/// What commands and the running host open alike: the store, locked for this process, and the keys.
pub struct Opened {
    pub store: Arc<Embedded>,
    pub keyring: Arc<Keyring>,
}

impl Opened {
    /// Opens the data folder, which is made where it lacks. `make_missing`: a From domain without keys gets them on first use.
    pub fn new(config: &Config, make_missing: bool) -> Result<Opened, StartError> {
        make_folder(&config.data)?;
        let retention = if make_missing { None } else { crate::store::Options::default().retention };
        let options = crate::store::Options { retention, ..crate::store::Options::default() };
        let store = Embedded::open(&config.data, options)?;
        let master = MasterKey::load(config.master_key_file.as_deref(), &config.data)?;
        let keyring = Arc::new(Keyring::new(store.clone(), master, make_missing));
        Ok(Opened { store, keyring })
    }

    /// The control API over it; `started` and the addresses are those of a running host.
    fn control(
        &self,
        config: &Config,
        started: Option<Instant>,
        http: Vec<SocketAddr>,
        smtp: Vec<SocketAddr>,
    ) -> Control {
        Control {
            store: self.store.clone(),
            directory: self.store.clone(),
            keyring: self.keyring.clone(),
            hostname: config.hostname.clone(),
            tenants: config.tenants.keys().cloned().collect(),
            started,
            http,
            smtp,
        }
    }
}

/// For a command while no host runs: the control API over the store itself.
pub async fn open_control(config: &Config) -> Result<Control, StartError> {
    let config = config.clone();
    let opened = tokio::task::block_in_place(|| Opened::new(&config, false))?;
    Ok(opened.control(&config, None, Vec::new(), Vec::new()))
}

/// Only this user may look into the data folder: it holds mail and keys.
fn make_folder(path: &Path) -> Result<(), StartError> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|source| StartError::Folder { path: path.to_owned(), source })
}

/// A running host. Dropping it without `shutdown` leaves nothing half-done, but ends connections at once.
pub struct Host {
    opened: Opened,
    http: Vec<SocketAddr>,
    smtp: Vec<SocketAddr>,
    /// Ends listeners and the control socket.
    stop: CancellationToken,
    tasks: TaskTracker,
    socket: PathBuf,
}

impl Host {
    /// Starts everything; listeners answer when this returns.
    pub async fn start(config: Config, options: Options) -> Result<Host, StartError> {
        let started = Instant::now();
        let development = options.development.is_some();
        let opened = tokio::task::spawn_blocking({
            let config = config.clone();
            move || Opened::new(&config, development)
        });
        let opened = opened.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
        if let Some(development) = &options.development {
            learn_key(&opened, &development.api_key).await.map_err(StartError::Key)?;
        }
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let (http, smtp) = (Vec::new(), Vec::new());
        let socket = config.data.join(socket::SOCKET_FILE);
        let listener =
            socket::listen(&config.data).map_err(|source| StartError::Socket { path: socket.clone(), source })?;
        let control = Arc::new(opened.control(&config, Some(started), http.clone(), smtp.clone()));
        tasks.spawn(socket::serve(listener, control, stop.clone()));
        Ok(Host { opened, http, smtp, stop, tasks, socket })
    }

    /// Where `[http]` listens.
    pub fn http_addr(&self) -> Option<SocketAddr> {
        self.http.first().copied()
    }

    /// Where the sending API listens, with and without TLS.
    pub fn http_addrs(&self) -> Vec<SocketAddr> {
        self.http.clone()
    }

    /// Where SMTP listens: first `listen`, then `listen_tls`.
    pub fn smtp_addrs(&self) -> Vec<SocketAddr> {
        self.smtp.clone()
    }

    /// Takes nothing new, finishes what is under way, and ends.
    pub async fn shutdown(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        let _ = std::fs::remove_file(&self.socket);
        drop(self.opened);
    }
}

/// Makes the development key a key of the store, once.
async fn learn_key(opened: &Opened, key: &str) -> Result<(), StoreError> {
    if opened.store.key_by_hash(crate::api_key::hash(key)).await?.is_some() {
        return Ok(());
    }
    let name = "development".to_owned();
    control::add_key(opened.store.as_ref(), key, DEFAULT_TENANT.to_owned(), name, Timestamp::now()).await?;
    Ok(())
}
