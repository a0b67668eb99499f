//! What a guest may use: memory, time, WASI without capabilities, and whom it may reach.
//!
//! Everything here lives in a store's data, one `Guest` per store. Two clocks bound a call: an epoch budget (CPU; it
//! yields to the runtime on every tick, so that a busy guest never stalls the reactor) and, outside, a wall-clock
//! time-out, because epochs do not see a guest that sleeps.

use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::Uri;
use tokio::io::AsyncWrite;
use wasmtime::component::ResourceTable;
use wasmtime::{Engine, ResourceLimiter, Store, UpdateDeadline};
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};
use wasmtime_wasi::{WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use super::outbound::Outbound;
use super::{Inner, Keys, TenantStages, trigger};
use crate::config::StageLimits;
use crate::store::TenantLimits;

/// How often the engine's epoch moves on: the grain of CPU budgets, and how long a guest may hold a thread at once.
pub const TICK: Duration = Duration::from_millis(5);

/// Elements of any one table. Large language runtimes need some ten thousands.
pub const TABLE_ELEMENTS: usize = 100_000;

/// What the host keeps for a stage at once, outside its memory: resources (streams, requests, header fields), octets of
/// one set of header fields, and tasks. Together some 16 MiB.
const STAGE_RESOURCES: usize = 1024;
const STAGE_FIELDS_BYTES: usize = 16 << 10;
const STAGE_TASKS: usize = 4096;

/// What is kept of one call's stderr: a panic message and its surroundings.
const STDERR_BYTES: usize = 4096;

/// Bounds of one guest.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// CPU, and wall clock where the caller applies it.
    pub time: Duration,
    /// All linear memories together.
    pub memory_bytes: usize,
    /// What one call may hand to the host.
    pub output_bytes: usize,
}

/// Within what every tenant's own components run, and how far a tenant's limits may go.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    /// Of whoever has no limits of its own.
    pub bounds: Bounds,
    /// The most memory that any instance can be given, in bytes.
    pub memory_ceiling: usize,
}

impl Frame {
    /// Of these `[stages]`, on a host that takes messages of so many bytes: its pool has room for triggers too.
    pub fn new(stages: &StageLimits, message_bytes: u64) -> Frame {
        let StageLimits { time, memory_bytes, output_bytes, .. } = *stages;
        let bounds = Bounds { time, memory_bytes, output_bytes };
        Frame { bounds, memory_ceiling: memory_bytes.max(trigger::bounds(message_bytes).memory_bytes) }
    }

    /// The bounds of the components of a tenant with these limits.
    pub fn of_tenant(&self, limits: &TenantLimits) -> Bounds {
        let TenantLimits { time_ms, memory_bytes, output_bytes, .. } = *limits;
        Bounds {
            time: time_ms.map_or(self.bounds.time, Duration::from_millis),
            memory_bytes: memory_bytes.unwrap_or(self.bounds.memory_bytes).min(self.memory_ceiling),
            output_bytes: output_bytes.unwrap_or(self.bounds.output_bytes),
        }
    }
}

/// Whose instance it is.
pub enum Role {
    /// An HTTP trigger: calls stages once its tenant is known.
    Trigger(Arc<Inner>),
    /// The trigger that tells events: calls the tenant's shaper, and only the host asks it.
    Notifier(Arc<Inner>),
    /// A stage of a tenant: may use that tenant's keys where it is a signer.
    Stage(Arc<dyn Keys>),
}

/// The data of every store.
pub struct Guest {
    pub role: Role,
    /// Known from the start for a stage; for a trigger once the host has checked its caller's key.
    pub tenant: Arc<OnceLock<Arc<str>>>,
    /// Of a trigger: what its tenant's stages were when it called the first of them.
    pub stages: OnceLock<TenantStages>,
    pub usage: Usage,
    pub stderr: Captured,
    wasi: WasiCtx,
    http: WasiHttpCtx,
    outbound: Outbound,
    table: ResourceTable,
}

/// What a guest has used of its bounds.
#[derive(Debug)]
pub struct Usage {
    memory_limit: usize,
    /// Bytes of all memories, current.
    pub memory: usize,
    /// Whether it asked for more than it may have.
    pub refused: bool,
    ticks_left: u64,
}

impl Usage {
    /// Whether its CPU budget is spent.
    pub fn is_exhausted(&self) -> bool {
        self.ticks_left == 0
    }
}

impl Guest {
    /// Whether it was granted this target.
    pub fn may_ask(&self, target: &Uri) -> bool {
        self.outbound.grants(target)
    }
}

/// Makes a store for a guest.
pub fn store(engine: &Engine, role: Role, outbound: Outbound, bounds: &Bounds) -> Store<Guest> {
    let stderr = Captured::default();
    // No preopens, no environment, no arguments, no addresses: clocks and randomness are all there is.
    let wasi = WasiCtxBuilder::new()
        .allow_tcp(false)
        .allow_udp(false)
        .allow_ip_name_lookup(false)
        .stderr(stderr.clone())
        .build();
    let (mut table, mut http) = (ResourceTable::new(), WasiHttpCtx::new());
    let is_stage = matches!(role, Role::Stage(_));
    if is_stage {
        table.set_max_capacity(STAGE_RESOURCES);
        http.set_field_size_limit(STAGE_FIELDS_BYTES);
    }
    let guest = Guest {
        role,
        tenant: outbound.tenant(),
        stages: OnceLock::new(),
        usage: Usage { memory_limit: bounds.memory_bytes, memory: 0, refused: false, ticks_left: 0 },
        stderr,
        wasi,
        http,
        outbound,
        table,
    };
    let mut store = Store::new(engine, guest);
    if is_stage && let Some(table) = store.concurrent_resource_table() {
        table.set_max_capacity(STAGE_TASKS);
    }
    store.limiter(|guest| &mut guest.usage);
    store.set_hostcall_fuel(bounds.output_bytes);
    store.epoch_deadline_callback(|mut context| {
        let usage = &mut context.data_mut().usage;
        match usage.ticks_left.checked_sub(1) {
            None => Ok(UpdateDeadline::Interrupt),
            Some(left) => {
                usage.ticks_left = left;
                // A plain `Yield` comes back before timers and sockets have had their turn.
                Ok(UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now())))
            }
        }
    });
    arm(&mut store, bounds.time);
    store
}

/// Gives a store a fresh CPU budget for one call.
pub fn arm(store: &mut Store<Guest>, time: Duration) {
    let usage = &mut store.data_mut().usage;
    usage.ticks_left = u64::try_from(time.as_millis() / TICK.as_millis()).unwrap_or(u64::MAX).max(1);
    usage.refused = false;
    store.set_epoch_deadline(1);
}

impl ResourceLimiter for Usage {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let all = self.memory.saturating_add(desired.saturating_sub(current));
        if all > self.memory_limit {
            self.refused = true;
            return Ok(false);
        }
        self.memory = all;
        Ok(true)
    }

    fn table_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let fits = desired <= TABLE_ELEMENTS;
        self.refused |= !fits;
        Ok(fits)
    }
}

impl WasiView for Guest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for Guest {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { hooks: &mut self.outbound, table: &mut self.table, ctx: &mut self.http }
    }
}

/// A guest's stderr: the first bytes of it, the rest is dropped.
#[derive(Clone, Default)]
pub struct Captured(Arc<Mutex<Vec<u8>>>);

impl Captured {
    /// What was written since the last call of this.
    pub fn take(&self) -> String {
        let bytes = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        String::from_utf8_lossy(&bytes).trim().to_owned()
    }

    fn keep(&self, bytes: &[u8]) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let room = STDERR_BYTES.saturating_sub(kept.len()).min(bytes.len());
        kept.extend_from_slice(&bytes[..room]);
    }
}

impl IsTerminal for Captured {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Captured {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[async_trait]
impl Pollable for Captured {
    async fn ready(&mut self) {}
}

/// Takes everything at once, so that a guest never waits for its own log.
impl OutputStream for Captured {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.keep(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(STDERR_BYTES)
    }
}

impl AsyncWrite for Captured {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        self.keep(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
