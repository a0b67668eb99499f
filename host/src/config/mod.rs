//! The configuration: one TOML file, read at start. What stands here is the resolved form: durations, parsed
//! addresses, every default filled in. `load` reports all faults at once, each with its line and a hint.

mod domains;
mod edge;
mod events;
pub mod fault;
mod load;
mod reader;
pub mod schema;
mod sources;
mod store;
mod telemetry;
mod value;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mail::Domain;

use crate::edge::Stage;
pub use crate::store::OnFailure;

pub use domains::DomainRules;
pub use edge::NotifyEdge;
pub use events::WebhookRules;
pub use fault::{Fault, Faults, Place};
pub use load::{TENANT_NAME_BYTES, is_tenant_name, load, parse};
pub use sources::Source;
pub use store::StoreRules;
pub use telemetry::Telemetry;
pub use value::duration;

/// Everything the host needs to know at start.
#[derive(Clone, Debug)]
pub struct Config {
    /// The name in EHLO, Received and greetings.
    pub hostname: Domain,
    /// Folder of store, spool, keys, caches and the control socket; created where it lacks.
    pub data: PathBuf,
    /// Seals secrets at rest; `None`: made on first start in `data/master.key`.
    pub master_key_file: Option<PathBuf>,
    pub http: Option<HttpListener>,
    pub https: Option<HttpListener>,
    pub admin: Option<SocketAddr>,
    pub tls: Option<TlsFiles>,
    pub smtp: Smtp,
    pub dns: Dns,
    pub domains: DomainRules,
    pub delivery: Delivery,
    pub webhooks: WebhookRules,
    pub store: StoreRules,
    pub routes: Vec<Route>,
    /// For tenants that have none of their own.
    pub components: ComponentFiles,
    /// `[components.always]`: called first for every tenant, and never replaced. Validators and transformers only.
    pub always: ComponentFiles,
    pub tenants: BTreeMap<String, Tenant>,
    pub limits: Limits,
    /// How stages are bounded.
    pub stages: StageLimits,
    /// The edge that tells events; `None`: this host does.
    pub notify_edge: Option<NotifyEdge>,
    /// Where spans go; `None`: nowhere.
    pub telemetry: Option<Telemetry>,
}

#[derive(Clone, Debug)]
pub struct HttpListener {
    pub listen: SocketAddr,
}

/// PEM files; read again on a reload.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    pub cert: PathBuf,
    pub key: PathBuf,
}

#[derive(Clone, Debug)]
pub struct Smtp {
    /// Plain listeners that offer STARTTLS.
    pub listen: Vec<SocketAddr>,
    /// Listeners with TLS from the first byte (RFC 8314).
    pub listen_tls: Vec<SocketAddr>,
    /// Peers that may relay without AUTH and with any From.
    pub trusted: Vec<IpNet>,
    pub max_connections: usize,
    pub max_connections_per_ip: usize,
    /// Wait for a command or a piece of data (RFC 5321 s4.5.3.2: 5 min).
    pub idle_timeout: Duration,
    /// Whether AUTH is offered without TLS to loopback peers (a development host).
    pub plain_auth_on_loopback: bool,
}

/// An address block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpNet {
    pub address: IpAddr,
    pub prefix: u8,
}

impl IpNet {
    /// Whether an address is in the block; an IPv4-mapped IPv6 address counts as the IPv4 one.
    pub fn contains(&self, ip: IpAddr) -> bool {
        let bits = |ip: IpAddr| match ip.to_canonical() {
            IpAddr::V4(v4) => (u128::from(u32::from(v4)) << 96, true),
            IpAddr::V6(v6) => (u128::from(v6), false),
        };
        let ((ours, ours_v4), (theirs, theirs_v4)) = (bits(self.address), bits(ip));
        let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix)).unwrap_or(0);
        ours_v4 == theirs_v4 && (ours ^ theirs) & mask == 0
    }
}

#[derive(Clone, Debug, Default)]
pub struct Dns {
    /// Empty: the system's.
    pub servers: Vec<SocketAddr>,
}

#[derive(Clone, Debug)]
pub struct Delivery {
    /// Port of MX hosts: 25.
    pub port: u16,
    /// Whether MX hosts and address literals may stand on this machine or in private networks.
    pub allow_private: bool,
    /// From the acceptance: 5 days.
    pub expire_after: Duration,
    /// Waits before the 2nd, 3rd, … attempt; the last one repeats. Jittered by a fifth either way.
    pub retry_delays: Vec<Duration>,
    pub bounces: Bounces,
    /// From acceptance until a sender who asked for it is told of a delay: 4 hours.
    pub report_delay_after: Duration,
    /// Connections at once to one site, and in all.
    pub connections_per_site: usize,
    pub connections: usize,
    /// Octets of large bodies that are on their way at once, in all.
    pub large_bodies: u64,
    pub messages_per_connection: usize,
    /// How long an idle connection waits for another message.
    pub idle_connection: Duration,
    /// Where mail leaves from whose route names no sources; empty: the system chooses.
    pub sources: Vec<Arc<Source>>,
    pub timeouts: DeliveryTimeouts,
}

/// How a sender who came by SMTP and did not say it (NOTIFY, RFC 3461) is told of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Bounces {
    /// By a report to the return path (RFC 5321 s6.1).
    Report,
    /// By events alone.
    Events,
}

/// RFC 5321 s4.5.3.2.
#[derive(Clone, Debug)]
pub struct DeliveryTimeouts {
    pub connect: Duration,
    pub greeting: Duration,
    /// EHLO, MAIL, RCPT, AUTH, STARTTLS.
    pub command: Duration,
    pub data_start: Duration,
    pub data_block: Duration,
    pub data_end: Duration,
}

/// `[[route]]`: the first whose domain fits is used; none: MX with opportunistic TLS.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    pub domain: RouteDomain,
    pub next_hop: NextHop,
    pub tls: TlsPolicy,
    /// The first that the peer does not blame is used; empty: those of `[delivery]`.
    pub sources: Vec<Arc<Source>>,
    /// `None`: that of `[delivery]`.
    pub retry_delays: Option<Vec<Duration>>,
    pub expire_after: Option<Duration>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteDomain {
    /// `*`
    Any,
    /// `example.com`
    Exact(Domain),
    /// `*.example.com`
    Below(Domain),
}

#[derive(Clone, Debug, PartialEq)]
pub enum NextHop {
    /// MX lookup, to this port instead of `[delivery] port` where given.
    Mx {
        port: Option<u16>,
    },
    Relay {
        host: RelayHost,
        port: u16,
        auth: Option<RelayAuth>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RelayHost {
    Ip(IpAddr),
    Name(Domain),
}

#[derive(Clone, PartialEq)]
pub struct RelayAuth {
    pub username: String,
    pub password: String,
}

impl std::fmt::Debug for RelayAuth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RelayAuth").field("username", &self.username).finish_non_exhaustive()
    }
}

/// What TLS a delivery must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TlsPolicy {
    Off,
    /// Encrypts where offered, unverified; falls back to plain.
    Opportunistic,
    /// Encrypts or defers; unverified.
    Require,
    /// Encrypts with a certificate that fits the host's name, or defers.
    Verify,
}

/// Files of stage components, by stage. More than one only for validators and transformers: each is called, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ComponentFiles {
    pub validator: Vec<PathBuf>,
    pub renderer: Vec<PathBuf>,
    pub transformer: Vec<PathBuf>,
    pub signer: Vec<PathBuf>,
    pub shaper: Vec<PathBuf>,
}

/// `[tenant.NAME]`.
#[derive(Clone, Debug, Default)]
pub struct Tenant {
    pub components: ComponentFiles,
    pub grants: Grants,
}

/// `[tenant.NAME.grants]`: hosts that stages may reach by HTTP, as `name` or `name:port`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grants {
    pub hosts: BTreeMap<Stage, Vec<String>>,
    /// Whether they may stand on this machine or in private networks.
    pub private: bool,
}

#[derive(Clone, Debug)]
pub struct Limits {
    /// 25 MiB.
    pub message_bytes: u64,
    /// Of one message: 1000 by SMTP.
    pub recipients: usize,
    /// HTTP bodies held at once, all requests together; more wait. What components make of them counts against the same number.
    pub http_body_bytes: u64,
    /// HTTP requests inside components at once; more wait.
    pub http_requests: usize,
    /// HTTP connections at once; more are answered 503.
    pub http_connections: usize,
    /// Resident memory of the process above which no new mail is taken; `None`: most of what the machine has.
    pub memory_bytes: Option<u64>,
    /// How long what is under way may take to finish when the host ends.
    pub drain: Duration,
}

#[derive(Clone, Debug)]
pub struct StageLimits {
    /// CPU and wall clock of one call.
    pub time: Duration,
    pub memory_bytes: usize,
    pub output_bytes: usize,
    /// Instances kept and calls at once, a tenant and stage.
    pub instances: usize,
    /// Of one core: what the components of one tenant may compute on average.
    pub cpu_percent: usize,
    pub on_failure: OnFailure,
    /// Instances kept idle, all tenants together, and their memory.
    pub idle_instances: usize,
    pub idle_bytes: usize,
    /// Pushed components kept compiled in memory, and their size.
    pub loaded: usize,
    pub loaded_bytes: usize,
}
