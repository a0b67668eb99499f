//! Wires the host: store, keys, components, queue and listeners, in the order in which each needs the one before; and
//! ends it in the other order, so that what is under way finishes before what it stands on goes.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::DEFAULT_TENANT;
use crate::accept::Intake;
use crate::api::control::vitals::Live;
use crate::api::control::{self, Control, Problem};
use crate::api::credential;
use crate::api::delivery::{self, Delivery, Terms};
use crate::api::domains::DomainApi;
use crate::api::events::Events;
use crate::api::network::Network;
use crate::api::resources::Resources;
use crate::api::seam::Seam;
use crate::api::sending::Sending;
use crate::api::socket;
use crate::api::templates::TemplateApi;
use crate::api::webhooks::Webhooks;
use crate::api_key::{DEVELOPMENT_KEY, DEVELOPMENT_TOKEN};
use crate::config::Config;
use crate::deliver::switch::Switch;
use crate::deliver::{CourierError, SmtpCourier};
use crate::domains::Domains;
use crate::edge::{BuiltIn, Edge, EdgeError, Frame, Registry, Settings, Ways};
use crate::event::Telling;
use crate::inbox::{Capture, Inbox, curl_line};
use crate::keyring::{Keyring, MasterKeyError, MasterKeys};
use crate::queue::policy::Schedules;
use crate::queue::{Courier, Queue};
use crate::reload::Reloader;
use crate::server::http::{Admits, Budget, Deadlines, HttpServer, Routes, body_bytes};
use crate::server::pressure::Pressure;
use crate::server::smtp::{Options as SmtpOptions, SmtpServer};
use crate::server::submission::Submissions;
use crate::server::tls::{self, Tls, TlsError};
use crate::server::{BindError, bind};
use crate::sizes::Sizes;
use crate::store::{Directory as _, Edges as _, Embedded, OpenError, StoreError, Tenants as _, private};
use crate::tenancy::Tenancy;
use crate::web::{self, address::Reachable};

/// Of the requests at once: those that may wait for strangers' servers.
const ERRANDS_SHARE: usize = 4;
/// Never fewer than one message's files that are fetched at once.
const ERRANDS_LEAST: usize = 4;

/// Why the host does not start.
#[derive(Debug, Error)]
pub enum StartError {
    #[error("the data folder {path} cannot be used: {source}")]
    Folder { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Store(#[from] OpenError),
    #[error(transparent)]
    MasterKey(#[from] MasterKeyError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error(transparent)]
    Edge(#[from] EdgeError),
    #[error(transparent)]
    Courier(#[from] CourierError),
    #[error(transparent)]
    Web(#[from] web::SetupError),
    #[error("the control socket {path} cannot be opened: {source}")]
    Socket { path: PathBuf, source: std::io::Error },
    #[error("what the configuration brings cannot be stored: {0}")]
    Key(StoreError),
    #[error("the tenants' components cannot be read: {0}")]
    Components(StoreError),
}

/// What a host is started for, besides its configuration.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Captures mail instead of sending it.
    pub development: Option<Development>,
    /// Where the configuration was read, to be read again.
    pub file: Option<PathBuf>,
}

/// What makes a host one for development.
#[derive(Clone, Debug)]
pub struct Development {
    /// Taken besides the keys of the store.
    pub api_key: String,
    /// Taken besides the delivery tokens of the store, for an edge on this machine.
    pub delivery_token: String,
    /// Taken besides the operator keys of the store, for the control API.
    pub operator_key: String,
}

/// What commands and the running host open alike: the store, locked for this process, and the keys.
pub struct Opened {
    pub store: Arc<Embedded>,
    pub keyring: Arc<Keyring>,
    pub tenancy: Arc<Tenancy>,
    pub domains: Arc<Domains>,
    /// Hash of the operator key of a development host.
    development_operator: Option<[u8; 32]>,
}

/// What a data folder is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Serve,
    /// Mail is kept, and a From domain without keys gets them on first use.
    Develop,
    /// One call of the control API: nothing is swept.
    Command,
}

impl Opened {
    /// Opens the data folder, which is made where it lacks.
    fn new(config: &Config, purpose: Purpose) -> Result<Opened, StartError> {
        make_folder(&config.data)?;
        let (retention, keep_messages) = match purpose {
            Purpose::Serve => (Some(config.store.keep_bodies), Some(config.store.keep_messages)),
            Purpose::Develop | Purpose::Command => (None, None),
        };
        let reserve_bytes = config.store.reserve_bytes;
        let store_options =
            crate::store::Options { retention, keep_messages, reserve_bytes, ..crate::store::Options::default() };
        let store = Embedded::open(&config.data, store_options)?;
        let master = MasterKeys::load(config.master_key_file.as_deref(), &config.data)?;
        let keyring = Arc::new(Keyring::new(store.clone(), master, purpose == Purpose::Develop));
        let tenancy = Arc::new(Tenancy::new(store.clone()));
        let dns = Arc::new(config.dns.clone());
        let domains = Domains::new(store.clone(), store.clone(), keyring.clone(), dns, config.into());
        Ok(Opened { store, keyring, tenancy, domains: Arc::new(domains), development_operator: None })
    }

    /// The control API over it; `started` and the addresses are those of a running host.
    fn control(
        &self,
        config: &Config,
        registry: Arc<Registry>,
        started: Option<Instant>,
        http: Vec<SocketAddr>,
        smtp: Vec<SocketAddr>,
        live: Option<Arc<Live>>,
    ) -> Arc<Control> {
        Arc::new(Control {
            store: self.store.clone(),
            directory: self.store.clone(),
            operators: self.store.clone(),
            tenants: self.store.clone(),
            tenancy: self.tenancy.clone(),
            edges: self.store.clone(),
            webhooks: self.store.clone(),
            keyring: self.keyring.clone(),
            vault: self.store.clone(),
            registry,
            development_operator: self.development_operator,
            domains: self.domains.clone(),
            hostname: config.hostname.clone(),
            configured: config.tenants.keys().cloned().collect(),
            started,
            http,
            smtp,
            live,
        })
    }
}

/// For a command while no host runs: the control API over the store itself.
pub async fn open_control(config: &Config) -> Result<Arc<Control>, StartError> {
    let opened = blocking(config, |config| Opened::new(config, Purpose::Command)).await?;
    opened.keyring.resume_rotation(&*opened.store).await;
    learn_tenants(config, &opened).await.map_err(StartError::Key)?;
    let frame = Frame::new(&config.stages, config.limits.message_bytes);
    let registry = Arc::new(Registry::of_store(opened.store.clone(), frame));
    Ok(opened.control(config, registry, None, Vec::new(), Vec::new(), None))
}

/// Only this user may look into the data folder: it holds mail and keys.
fn make_folder(path: &Path) -> Result<(), StartError> {
    private::folder(path).map_err(|source| StartError::Folder { path: path.to_owned(), source })
}

/// The listeners, bound and not served yet, with the addresses they have.
struct Listeners {
    http: Option<TcpListener>,
    https: Option<TcpListener>,
    admin: Option<TcpListener>,
    /// With whether TLS stands from the first byte.
    smtp: Vec<(TcpListener, bool)>,
    http_addrs: Vec<SocketAddr>,
    smtp_addrs: Vec<SocketAddr>,
}

impl Listeners {
    /// Takes all addresses, so that one that cannot be had ends the start before anything is served.
    async fn bind(config: &Config) -> Result<Listeners, StartError> {
        let one = async |address: Option<SocketAddr>| match address {
            Some(address) => bind(address).await.map(Some),
            None => Ok(None),
        };
        let http = one(config.http.as_ref().map(|http| http.listen)).await?;
        let https = one(config.https.as_ref().map(|https| https.listen)).await?;
        let admin = one(config.admin).await?;
        let mut smtp = Vec::new();
        for (addresses, secured) in [(&config.smtp.listen, false), (&config.smtp.listen_tls, true)] {
            for address in addresses {
                smtp.push((bind(*address).await?, secured));
            }
        }
        let http_addrs = [&http, &https].into_iter().flatten().filter_map(|it| it.local_addr().ok()).collect();
        let smtp_addrs = smtp.iter().filter_map(|(it, _)| it.local_addr().ok()).collect();
        Ok(Listeners { http, https, admin, smtp, http_addrs, smtp_addrs })
    }
}

/// A running host. Dropping it without `shutdown` loses nothing that was accepted, but ends connections at once.
pub struct Host {
    opened: Opened,
    http: Vec<SocketAddr>,
    smtp: Vec<SocketAddr>,
    queue: Queue,
    /// Ends listeners, connections, the queue and the control socket.
    stop: CancellationToken,
    tasks: TaskTracker,
    socket: PathBuf,
    reloader: Arc<Reloader>,
}

impl Host {
    /// Starts everything; listeners answer when this returns, while components may still be compiled.
    pub async fn start(config: Config, options: Options) -> Result<Host, StartError> {
        let started = Instant::now();
        let development = options.development.as_ref();
        let purpose = if development.is_some() { Purpose::Develop } else { Purpose::Serve };
        let mut opened = blocking(&config, move |config| Opened::new(config, purpose)).await?;
        opened.keyring.resume_rotation(&*opened.store).await;
        learn_tenants(&config, &opened).await.map_err(StartError::Key)?;
        if let Some(development) = development {
            learn_key(&opened, &development.api_key).await.map_err(StartError::Key)?;
            learn_token(&opened, &development.delivery_token).await.map_err(StartError::Key)?;
            // Never stored: everybody knows it, and `serve` may run on the same folder one day.
            opened.development_operator = Some(crate::api_key::hash(&development.operator_key));
        } else {
            forget_known(&opened).await.map_err(StartError::Key)?;
        }
        let listeners = Listeners::bind(&config).await?;
        let telling = blocking(&config, {
            let is_development = development.is_some();
            move |config| Ok(Telling::new(config, is_development)?)
        })
        .await?;
        let sizes = Sizes::new(config.limits.message_bytes, config.limits.recipients);
        let (edge, network, registry) = edge(&config, &opened, &telling, development.is_some(), &sizes).await?;
        let tls = match config.https.is_some() || !listeners.smtp.is_empty() {
            true => Some(
                blocking(&config, |config| Ok(tls::load(config.tls.as_ref(), &config.data, &config.hostname)?)).await?,
            ),
            false => None,
        };
        let switch = match development {
            Some(_) => None,
            None => Some(Arc::new(Switch::new(SmtpCourier::new(&config)?))),
        };
        let courier: Arc<dyn Courier> = match &switch {
            Some(switch) => switch.clone(),
            None => Arc::new(Capture::new(&(opened.store.clone() as Arc<dyn crate::store::Store>))),
        };
        let socket = config.data.join(socket::SOCKET_FILE);
        let control_listener =
            socket::listen(&config.data).map_err(|source| StartError::Socket { path: socket.clone(), source })?;

        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let (http, smtp) = (listeners.http_addrs.clone(), listeners.smtp_addrs.clone());
        let pressure = Arc::new(Pressure::new(&config.data, config.store.reserve_bytes, config.limits.memory_bytes));
        let live = Arc::new(Live::new(pressure.clone()));
        let watched = edge.clone();
        // Set here alone.
        let _ = live.obstacles.set(Box::new(move || watched.obstacles()));
        tasks.spawn(pressure.clone().watch(stop.clone()));
        let control =
            opened.control(&config, registry.clone(), Some(started), http.clone(), smtp.clone(), Some(live.clone()));
        tasks.spawn(registry.clone().try_configured(stop.clone()));
        tasks.spawn(registry.watch(stop.clone()));
        telling.start(&config, &opened.store, &opened.keyring, &edge, &stop, &tasks);
        tasks.spawn(opened.tenancy.clone().run(stop.clone()));
        if development.is_none() {
            tasks.spawn(opened.domains.clone().run(stop.clone()));
        }
        let queue = Queue::start(
            opened.store.clone(),
            courier,
            config.delivery.clone(),
            Schedules::from(&config),
            stop.clone(),
        );
        // Set here alone.
        let _ = live.finder.set(queue.finder());
        let inbox = development.map(|development| {
            let url = http.first().map_or_else(String::new, |address| format!("http://{address}"));
            let example = curl_line(&url, &development.api_key);
            Arc::new(Inbox::new(opened.store.clone(), opened.store.clone(), opened.store.clone(), example))
        });
        let web = Web {
            config: &config,
            store: &opened.store,
            edge: &edge,
            network: &network,
            pressure: &pressure,
            sizes: &sizes,
            stop: &stop,
            tasks: &tasks,
        };
        let smtp_server = web.smtp(&opened, &tls, listeners.smtp);
        let on_main = development.map(|_| control.clone());
        let main = web.server(inbox, on_main);
        listeners.http.into_iter().for_each(|listener| main.serve(listener, None));
        if let Some(listener) = listeners.https {
            main.serve(listener, tls.as_ref().map(|tls| tls.https.clone()));
        }
        let mut http_servers = vec![main];
        if let Some(listener) = listeners.admin {
            let admin = web.server(None, Some(control.clone()));
            admin.serve(listener, None);
            http_servers.push(admin);
        }
        let reloader = Arc::new(Reloader {
            file: options.file,
            pressure,
            certificate: tls.map(|tls| tls.certificate),
            courier: switch,
            queue: queue.tuning(),
            domains: opened.domains.clone(),
            smtp: smtp_server,
            http: http_servers,
            sizes,
            most_message_bytes: config.limits.message_bytes,
            present: Mutex::new(config),
        });
        // Set here alone.
        let _ = live.reloader.set(Arc::downgrade(&reloader));
        tasks.spawn(socket::serve(control_listener, control, stop.clone()));
        Ok(Host { opened, http, smtp, queue, stop, tasks, socket, reloader })
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

    /// What takes in a changed configuration.
    pub fn reloader(&self) -> Arc<Reloader> {
        self.reloader.clone()
    }

    /// Takes nothing new, finishes what is under way, and ends.
    pub async fn shutdown(self) {
        let Host { opened, queue, stop, tasks, socket, reloader, .. } = self;
        let drain = reloader.present().await.limits.drain;
        drop(reloader);
        stop.cancel();
        tasks.close();
        let connections = async {
            if tokio::time::timeout(drain, tasks.wait()).await.is_err() {
                tracing::warn!("{} connections did not finish in {} s", tasks.len(), drain.as_secs());
            }
        };
        tokio::join!(connections, queue.stopped(drain));
        let _ = std::fs::remove_file(&socket);
        // The store waits for its threads.
        let _ = tokio::task::spawn_blocking(move || drop(opened)).await;
    }
}

/// The WASM side, which answers its own requests through the delivery API, and the same API for edges elsewhere.
async fn edge(
    config: &Config,
    opened: &Opened,
    telling: &Telling,
    any_domain: bool,
    sizes: &Arc<Sizes>,
) -> Result<(Arc<Edge>, Arc<Network>, Arc<Registry>), StartError> {
    let terms = Terms { sizes: sizes.clone(), any_domain };
    let intake = Arc::new(Intake::new(opened.store.clone(), opened.tenancy.clone()));
    let delivery = Delivery::new(opened.store.clone(), opened.keyring.clone(), intake, terms);
    let sending = Sending::new(opened.store.clone(), opened.store.clone());
    let resources = Arc::new(resources(config, opened, any_domain, sizes)?);
    let private = Some(Arc::new(web::Web::new(&config.dns, Reachable::All)?));
    let ways = Ways { public: Some(resources.web.clone()), private };
    let delivery = Arc::new(delivery.with(resources.clone()));
    let webhooks = Webhooks::new(
        opened.store.clone(),
        opened.store.clone(),
        opened.keyring.clone(),
        telling.reachable(),
        telling.teller(),
    );
    let events = Events::new(opened.store.clone(), opened.store.clone());
    let backend = Arc::new(Seam::new(delivery.clone(), sending).with(resources).telling(webhooks, events));
    let (keys, sizes) = (opened.keyring.clone(), sizes.clone());
    if BuiltIn::embedded().submit.is_none() {
        tracing::error!(
            "no components are built into this binary: it takes no mail; build it with `cargo xtask build`"
        );
    }
    let edge = blocking(config, move |config| {
        let settings = Settings {
            cache: &config.data.join("cache"),
            components: &config.components,
            always: &config.always,
            tenants: &config.tenants,
            limits: &config.limits,
            stages: &config.stages,
            sizes: &sizes,
            ways: &ways,
        };
        Ok(Arc::new(Edge::new(&settings, BuiltIn::embedded(), backend, keys)?))
    })
    .await?;
    let registry = Arc::new(Registry::open(opened.store.clone(), edge.clone()).await.map_err(StartError::Components)?);
    let network = Arc::new(Network::new(delivery, edge.clone(), opened.store.clone()));
    Ok((edge, network, registry))
}

/// What the sending API has besides mail. On a development host a tenant's domains send at once, and files may come from
/// this machine.
fn resources(
    config: &Config,
    opened: &Opened,
    is_development: bool,
    sizes: &Arc<Sizes>,
) -> Result<Resources, StartError> {
    let store = &opened.store;
    let reachable = if is_development { Reachable::PublicAndLoopback } else { Reachable::Public };
    Ok(Resources {
        templates: TemplateApi::new(store.clone(), store.clone()),
        domains: DomainApi {
            directory: store.clone(),
            domains: opened.domains.clone(),
            keyring: opened.keyring.clone(),
            needs_proof: !is_development,
        },
        web: Arc::new(web::Web::new(&config.dns, reachable)?),
        sizes: sizes.clone(),
        errands: Arc::new(Semaphore::new((config.limits.http_requests / ERRANDS_SHARE).max(ERRANDS_LEAST))),
    })
}

/// What all listeners share.
struct Web<'a> {
    config: &'a Config,
    store: &'a Arc<Embedded>,
    edge: &'a Arc<Edge>,
    network: &'a Arc<Network>,
    pressure: &'a Arc<Pressure>,
    sizes: &'a Arc<Sizes>,
    stop: &'a CancellationToken,
    tasks: &'a TaskTracker,
}

impl Web<'_> {
    /// Serves the SMTP listeners; nothing where there are none.
    fn smtp(&self, opened: &Opened, tls: &Option<Tls>, listeners: Vec<(TcpListener, bool)>) -> Option<Arc<SmtpServer>> {
        let tls = tls.as_ref().filter(|_| !listeners.is_empty())?;
        let (config, store, keyring) = (self.config, &opened.store, &opened.keyring);
        let stages = {
            let edge = self.edge.clone();
            move |tenant: &str| edge.stages(tenant)
        };
        let intake = Arc::new(Intake::new(store.clone(), opened.tenancy.clone()));
        let submit = Submissions::new(
            stages,
            store.clone(),
            keyring.clone(),
            intake,
            config.hostname.clone(),
            self.sizes.clone(),
        );
        let server = SmtpServer::new(
            SmtpOptions::new(config),
            tls.smtp.clone(),
            Arc::new(submit),
            self.pressure.clone(),
            self.stop.clone(),
            self.tasks.clone(),
        );
        listeners.into_iter().for_each(|(listener, secured)| server.serve(listener, secured));
        Some(server)
    }

    fn server(&self, inbox: Option<Arc<Inbox>>, control: Option<Arc<Control>>) -> Arc<HttpServer> {
        let (store, pressure) = (self.store.clone(), self.pressure.clone());
        let obstacles = move || {
            let failure = store.obstacle();
            // New mail is told to come later then: a balancer may as well send it elsewhere.
            failure.into_iter().chain(pressure.reason()).collect()
        };
        let network = Some(self.network.clone());
        let control_admits = control.clone();
        let routes = Routes { edge: self.edge.clone(), network, inbox, control, obstacles: Box::new(obstacles) };
        let limits = &self.config.limits;
        let directory = self.store.clone();
        let network = self.network.clone();
        let admits: Admits = Box::new(move |parts| {
            let (directory, network, headers) = (directory.clone(), network.clone(), parts.headers.clone());
            let is_of_an_edge = parts.uri.path().starts_with(delivery::PREFIX);
            let control = control_admits.clone().filter(|_| parts.uri.path().starts_with(control::PREFIX));
            Box::pin(async move {
                match control {
                    Some(control) => control.admit(&headers).await.map(drop).map_err(Problem::into_response),
                    None if is_of_an_edge => network.admit(&headers).await.map(drop),
                    None => credential::caller(&*directory, &headers).await.map(drop),
                }
            })
        });
        let budget =
            Budget::new(limits.http_body_bytes, body_bytes(limits.message_bytes), admits).under(self.pressure.clone());
        HttpServer::new(
            routes,
            budget,
            limits.http_connections,
            Deadlines::default(),
            self.stop.clone(),
            self.tasks.clone(),
        )
    }
}

/// Runs what waits for disk or processor off the reactor.
async fn blocking<T: Send + 'static>(
    config: &Config,
    work: impl FnOnce(&Config) -> Result<T, StartError> + Send + 'static,
) -> Result<T, StartError> {
    let config = config.clone();
    let done = tokio::task::spawn_blocking(move || work(&config)).await;
    done.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
}

/// Makes the development key a key of the store, once.
async fn learn_key(opened: &Opened, key: &str) -> Result<(), StoreError> {
    if opened.store.key_by_hash(crate::api_key::hash(key)).await?.is_some() {
        return Ok(());
    }
    let name = "development".to_owned();
    match control::keys::add_key(opened.store.as_ref(), key, DEFAULT_TENANT.to_owned(), name, Timestamp::now()).await {
        // It was revoked.
        Ok(_) | Err(StoreError::Exists(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Makes the development token a delivery token of the store, once.
async fn learn_token(opened: &Opened, token: &str) -> Result<(), StoreError> {
    if opened.store.delivery_token(crate::api_key::hash(token)).await?.is_some() {
        return Ok(());
    }
    let name = "development".to_owned();
    match control::edges::add_token(opened.store.as_ref(), token, None, name, Timestamp::now()).await {
        // It was revoked.
        Ok(_) | Err(StoreError::Exists(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

/// What a development host left in the data folder, and everybody knows, is good for nothing here.
async fn forget_known(opened: &Opened) -> Result<(), StoreError> {
    let (key, token) = (crate::api_key::hash(DEVELOPMENT_KEY), crate::api_key::hash(DEVELOPMENT_TOKEN));
    if opened.store.forget_known(key, token).await? {
        tracing::warn!("a development host ran on this data folder: its API key and delivery token were taken away");
    }
    Ok(())
}

/// Tenants that the configuration names are tenants.
async fn learn_tenants(config: &Config, opened: &Opened) -> Result<(), StoreError> {
    for name in config.tenants.keys() {
        opened.store.ensure_tenant(name).await?;
    }
    Ok(())
}
