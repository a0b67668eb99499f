//! An edge that is not the host: runs an HTTP trigger as Spin or another WASI host does, in an engine of its own.
//!
//! A request gets a fresh instance. Variables and environment are what the test says; requests that go out are answered
//! by a `Web`, for example by what listens on loopback.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow};
use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use wasmtime::component::{Component, ComponentType, Lift, Linker, Lower, ResourceTable};
use wasmtime::{Cache, CacheConfig, Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, Store};
use wasmtime_wasi::p2::pipe::MemoryOutputPipe;
use wasmtime_wasi::{WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_http::p3::Request as GuestRequest;
use wasmtime_wasi_http::p3::bindings::ServicePre;
use wasmtime_wasi_http::{
    Error as WebError, RequestOptions, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks, WasiHttpView,
};

/// Bytes of a guest's log that are kept.
const LOG_BYTES: usize = 64 << 10;

/// Answers what a component asks of the outside.
#[async_trait]
pub trait Web: Send + Sync + 'static {
    /// The answer, or why there is none.
    async fn answer(&self, request: Request<Bytes>) -> Result<Response<Bytes>, String>;
}

/// Real HTTP, to addresses on this machine only.
pub struct Loopback;

#[async_trait]
impl Web for Loopback {
    async fn answer(&self, request: Request<Bytes>) -> Result<Response<Bytes>, String> {
        let sent = tokio::task::spawn_blocking(move || send(&request)).await;
        sent.map_err(|error| error.to_string())?.map_err(|error| format!("{error:#}"))
    }
}

fn send(request: &Request<Bytes>) -> Result<Response<Bytes>> {
    let authority = request.uri().authority().context("a request to nowhere")?;
    let server: SocketAddr = authority.as_str().parse().with_context(|| format!("{authority} is no address"))?;
    anyhow::ensure!(server.ip().is_loopback(), "{server} is not on this machine");
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    let fields = request.headers().iter().filter(|(name, _)| *name != http::header::CONTENT_LENGTH);
    let fields: Vec<(&str, &str)> =
        fields.map(|(name, value)| Ok((name.as_str(), value.to_str()?))).collect::<Result<_>>()?;
    let answer = crate::http::request(server, request.method().as_str(), path, &fields, request.body())?;
    let mut response = Response::builder().status(answer.status);
    for line in answer.head.lines().skip(1) {
        let (name, value) = line.split_once(':').with_context(|| format!("a header field: {line}"))?;
        // The body is whole here.
        if !["transfer-encoding", "connection"].contains(&name.to_ascii_lowercase().as_str()) {
            response = response.header(name, value.trim());
        }
    }
    Ok(response.body(answer.body.into())?)
}

/// A component that is ready to serve.
pub struct Runner {
    engine: Engine,
    service: ServicePre<Guest>,
    imports: Vec<String>,
    web: Arc<dyn Web>,
    variables: Arc<BTreeMap<String, String>>,
    environment: Vec<(String, String)>,
}

/// What runs a component besides WASI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Platform {
    /// Spin's interfaces too.
    Spin,
    /// WASI alone.
    Wasi,
}

/// An answer, and what the component wrote to stderr.
#[derive(Debug)]
pub struct Served {
    pub response: Response<Bytes>,
    pub log: String,
}

impl Runner {
    /// Compiles a component. Fails where it imports something that the platform does not have.
    pub fn new(component: &[u8], platform: Platform, web: Arc<dyn Web>) -> Result<Runner> {
        let engine = engine()?;
        let component = Component::new(&engine, component)?;
        let imports = component.component_type().imports(&engine).map(|(name, _)| name.to_owned()).collect();
        let mut linker = Linker::new(&engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
        wasmtime_wasi::p3::add_to_linker(&mut linker)?;
        wasmtime_wasi_http::p3::add_to_linker(&mut linker)?;
        if platform == Platform::Spin {
            add_variables(&mut linker)?;
        }
        let service = ServicePre::new(linker.instantiate_pre(&component)?)?;
        Ok(Runner { engine, service, imports, web, variables: Arc::default(), environment: Vec::new() })
    }

    /// The names of what the component imports.
    pub fn imports(&self) -> &[String] {
        &self.imports
    }

    /// The component's Spin variables.
    pub fn variables(mut self, variables: &[(&str, &str)]) -> Runner {
        self.variables = Arc::new(variables.iter().map(|(name, value)| owned(name, value)).collect());
        self
    }

    /// The component's environment.
    pub fn environment(mut self, environment: &[(&str, &str)]) -> Runner {
        self.environment = environment.iter().map(|(name, value)| owned(name, value)).collect();
        self
    }

    /// Serves one request with a fresh instance.
    pub async fn serve(&self, request: Request<Bytes>) -> Result<Served> {
        let log = MemoryOutputPipe::new(LOG_BYTES);
        let wasi = WasiCtxBuilder::new().stderr(log.clone()).envs(&self.environment).build();
        let guest = Guest {
            wasi,
            http: WasiHttpCtx::new(),
            outgoing: Outgoing(self.web.clone()),
            table: ResourceTable::new(),
            variables: self.variables.clone(),
        };
        let mut store = Store::new(&self.engine, guest);
        let served = exchange(&mut store, &self.service, request).await;
        let log = String::from_utf8_lossy(&log.contents()).into_owned();
        Ok(Served { response: served.with_context(|| format!("its log: {log}"))?, log })
    }
}

fn owned(name: &str, value: &str) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

/// With a pool, as servers have it.
fn engine() -> Result<Engine> {
    // Compiling takes seconds, and every test is a process of its own.
    let mut cache = CacheConfig::new();
    cache.with_directory(crate::product::root().join("target/edge-cache"));
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(64)
        .total_core_instances(512)
        .total_memories(128)
        .total_tables(256)
        .max_core_instances_per_component(128)
        .max_memories_per_component(32)
        .max_tables_per_component(64)
        .linear_memory_keep_resident(2 << 20)
        .table_keep_resident(64 << 10)
        .pagemap_scan(wasmtime::Enabled::Auto);
    let mut config = Config::new();
    config.wasm_component_model_async(true);
    config.cache(Some(Cache::new(cache)?));
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    Ok(Engine::new(&config)?)
}

async fn exchange(
    store: &mut Store<Guest>,
    service: &ServicePre<Guest>,
    request: Request<Bytes>,
) -> Result<Response<Bytes>> {
    let service = service.instantiate_async(&mut *store).await?;
    let answer = store
        .run_concurrent(async |accessor| {
            let request =
                accessor.with(|mut store| GuestRequest::from_http(store.data_mut().http().hooks, request.map(full)).0);
            let answer = service.handle(accessor, request).await?;
            let answer = answer.map_err(|code| wasmtime::Error::msg(format!("it answered {code:?}")))?;
            let answer = accessor.with(|store| answer.into_http(store, async { Ok(()) }))?;
            let (parts, body) = answer.into_parts();
            let body = body.collect().await.map_err(|error| wasmtime::Error::msg(error.to_string()))?;
            Ok::<_, wasmtime::Error>(Response::from_parts(parts, body.to_bytes()))
        })
        .await;
    answer.and_then(|answer| answer).map_err(|error| anyhow!("{error:?}"))
}

fn full(body: Bytes) -> impl http_body_util::BodyExt<Data = Bytes, Error = WebError> + Send + 'static {
    Full::new(body).map_err(|never| match never {})
}

/// The data of a store.
struct Guest {
    wasi: WasiCtx,
    http: WasiHttpCtx,
    outgoing: Outgoing,
    table: ResourceTable,
    variables: Arc<BTreeMap<String, String>>,
}

impl WasiView for Guest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for Guest {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { hooks: &mut self.outgoing, table: &mut self.table, ctx: &mut self.http }
    }
}

struct Outgoing(Arc<dyn Web>);

type Io = Box<dyn Future<Output = Result<(), WebError>> + Send>;
type Exchange = Box<dyn Future<Output = Result<(Response<WasiBody>, Io), WebError>> + Send>;

impl WasiHttpHooks for Outgoing {
    fn send_request(&mut self, request: Request<WasiBody>, _: Option<RequestOptions>, _: Io) -> Exchange {
        let web = self.0.clone();
        Box::new(async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await?.to_bytes();
            let response = web.answer(Request::from_parts(parts, body)).await;
            let response = response.map_err(|cause| WebError::InternalError(Some(cause)))?;
            let io: Io = Box::new(async { Ok(()) });
            Ok((response.map(|body| full(body).boxed_unsync()), io))
        })
    }
}

/// `error` of both interfaces.
#[derive(ComponentType, Lift, Lower)]
#[component(variant)]
enum VariableError {
    #[component(name = "invalid-name")]
    InvalidName(String),
    #[component(name = "undefined")]
    Undefined(String),
    #[component(name = "provider")]
    Provider(String),
    #[component(name = "other")]
    Other(String),
}

fn add_variables(linker: &mut Linker<Guest>) -> Result<()> {
    fn get(guest: &Guest, name: String) -> (Result<String, VariableError>,) {
        (guest.variables.get(&name).cloned().ok_or(VariableError::Undefined(name)),)
    }
    linker
        .instance("fermyon:spin/variables@2.0.0")?
        .func_wrap("get", |store, (name,): (String,)| Ok(get(store.data(), name)))?;
    linker.instance("spin:variables/variables@3.0.0")?.func_wrap_concurrent(
        "get",
        |accessor, (name,): (String,)| {
            let answer = accessor.with(|mut store| get(store.data_mut(), name));
            Box::pin(async move { Ok(answer) })
        },
    )?;
    Ok(())
}
