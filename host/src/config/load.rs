//! From the text of the file to the resolved configuration. Each section is read whole before it can fail, so that
//! every fault of the file is told in one go.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::fault::{Collector, Faults};
use super::reader::{Context, Reader, hint};
use super::schema::{self, Section};
use super::value::{ByteSize, Count, GrantedHost, HostPort, Port, ReadableFile, Setting, Surroundings, io_text};
use super::{
    ComponentFiles, Config, Delivery, DeliveryTimeouts, Dns, Grants, HttpListener, Limits, NextHop, RelayAuth, Route,
    Smtp, Source, StageLimits, Tenant, TlsFiles, TlsPolicy, events, sources, store, telemetry,
};
use super::{domains, edge};
use crate::edge::{GRANTED_HOSTS, Stage};

/// Tables at the top of the file.
const TABLES: &[&str] = &[
    "http",
    "https",
    "admin",
    "tls",
    "smtp",
    "dns",
    "domains",
    "delivery",
    "webhooks",
    "store",
    "route",
    "source",
    "components",
    "tenant",
    "limits",
    "stages",
    "edge",
    "telemetry",
];

/// Reads and checks a configuration file. Files it names must be there; nothing is created.
pub fn load(path: &Path) -> Result<Config, Faults> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Faults::whole(path, format!("cannot read the configuration: {}", io_text(&error))))?;
    parse(path, &text, &|name| std::env::var(name).ok())
}

/// The same for a text that is read already; `env` answers for environment variables.
pub fn parse(path: &Path, text: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Config, Faults> {
    let folder = path.parent().unwrap_or(Path::new(""));
    let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    let mut context = Context { faults: Collector::new(text), around: Surroundings { folder: &folder, env } };
    let (document, syntax) = DeTable::parse_recoverable(text);
    for error in &syntax {
        context.faults.add(error.span().unwrap_or(0..0), format!("this is not TOML: {}", error.message()));
    }
    if !syntax.is_empty() {
        // What was recovered from broken TOML would be blamed for the break.
        return Err(Faults { file: path.to_owned(), faults: context.faults.finish() });
    }
    let config = resolve(&mut context, document.get_ref());
    match (config, context.faults.finish()) {
        (Some(config), faults) if faults.is_empty() => Ok(config),
        (_, faults) if !faults.is_empty() => Err(Faults { file: path.to_owned(), faults }),
        _ => Err(Faults::whole(path, "the configuration cannot be resolved")),
    }
}

fn resolve(context: &mut Context<'_, '_>, document: &DeTable<'_>) -> Option<Config> {
    let top = Reader::new(schema::section_of("")?, String::new(), document, 0..0);
    top.refuse_unknown(context, TABLES);
    let hostname = top.demand(context, "hostname");
    let data = top.demand(context, "data");
    let master_key_file = top.get(context, "master_key_file").map(|ReadableFile(file)| file);

    let http = listener(context, &top, "http");
    let https = listener(context, &top, "https");
    let admin = admin(context, &top);
    let tls = tls(context, &top);
    let smtp = smtp(context, &top);
    let dns: Option<Vec<SocketAddr>> = section(context, &top, "dns").get(context, "servers");
    let domains = domains::domains(context, &top);
    let sources = sources(context, &top);
    let delivery = delivery(context, &top, dns.as_deref().unwrap_or_default(), &sources);
    let webhooks = events::webhooks(context, &top);
    let store = store::store(context, &top);
    let routes = routes(context, &top, &sources);
    let shared = section(context, &top, "components");
    let components = components(context, &shared);
    let always = always(context, &shared);
    let tenants = tenants(context, &top);
    let limits = limits(context, &top);
    let stages = stages(context, &top);
    let edge = section(context, &top, "edge");
    let notify_edge = edge::read(context, &edge);
    let telemetry_section = section(context, &top, "telemetry");
    let telemetry = telemetry::read(context, &telemetry_section);
    check_listeners(context, &top);

    Some(Config {
        hostname: hostname?,
        data: data?,
        master_key_file,
        http: http.map(|listen| HttpListener { listen }),
        https: https.map(|listen| HttpListener { listen }),
        admin,
        tls,
        smtp: smtp?,
        dns: Dns { servers: dns? },
        domains: domains?,
        delivery: delivery?,
        webhooks: webhooks?,
        store: store?,
        routes,
        components,
        always,
        tenants,
        limits: limits?,
        stages: stages?,
        notify_edge,
        telemetry,
    })
}

/// The section of that name, present or not.
pub(super) fn section<'d, 'i>(context: &mut Context<'_, '_>, parent: &Reader<'d, 'i>, name: &str) -> Reader<'d, 'i> {
    let path = parent.full(name);
    let schema = schema::section_of(&path).unwrap_or(&EMPTY);
    let reader = Reader::of(context, schema, path, parent.raw(name).map(|(_, value)| value));
    let below: &[&str] = match name {
        "delivery" => &["timeouts"],
        "components" => &["always"],
        _ => &[],
    };
    reader.refuse_unknown(context, below);
    reader
}

/// What stands for a section that is not in the schema; a test holds that there is none.
static EMPTY: Section = Section { path: "?", repeats: false, doc: "", keys: &[] };

fn listener(context: &mut Context<'_, '_>, top: &Reader<'_, '_>, name: &str) -> Option<SocketAddr> {
    let section = section(context, top, name);
    section.demand(context, "listen")
}

/// It asks for keys and speaks no TLS, so it is for this machine alone.
fn admin(context: &mut Context<'_, '_>, top: &Reader<'_, '_>) -> Option<SocketAddr> {
    let section = section(context, top, "admin");
    let address: SocketAddr = section.demand(context, "listen")?;
    if let Some((_, value)) = section.raw("listen").filter(|_| !address.ip().is_loopback()) {
        let text = format!(
            "admin.listen: {address} can be reached from elsewhere, where keys would cross the network unencrypted: write \"127.0.0.1:{}\"",
            address.port()
        );
        context.faults.add(value.span(), text);
    }
    Some(address)
}

fn tls(context: &mut Context<'_, '_>, top: &Reader<'_, '_>) -> Option<TlsFiles> {
    let section = section(context, top, "tls");
    let cert = section.demand(context, "cert").map(|ReadableFile(file)| file);
    let key = section.demand(context, "key").map(|ReadableFile(file)| file);
    Some(TlsFiles { cert: cert?, key: key? })
}

fn smtp(context: &mut Context<'_, '_>, top: &Reader<'_, '_>) -> Option<Smtp> {
    let section = section(context, top, "smtp");
    let listen = section.get(context, "listen");
    let listen_tls = section.get(context, "listen_tls");
    let trusted = section.get(context, "trusted");
    let max_connections = section.get(context, "max_connections");
    let max_connections_per_ip = section.get(context, "max_connections_per_ip");
    let idle_timeout = section.get(context, "idle_timeout");
    Some(Smtp {
        listen: listen?,
        listen_tls: listen_tls?,
        trusted: trusted?,
        max_connections: max_connections.map(|Count(number)| number)?,
        max_connections_per_ip: max_connections_per_ip.map(|Count(number)| number)?,
        idle_timeout: idle_timeout?,
        plain_auth_on_loopback: false,
    })
}

fn delivery(
    context: &mut Context<'_, '_>,
    top: &Reader<'_, '_>,
    servers: &[SocketAddr],
    sources: &[Arc<Source>],
) -> Option<Delivery> {
    let delivery = section(context, top, "delivery");
    let port = delivery.get(context, "port");
    let allow_private = delivery.get(context, "allow_private");
    // A name server on this machine answers for a closed network, whose hosts have private addresses.
    let closed = delivery.raw("allow_private").is_none() && servers.iter().any(|server| server.ip().is_loopback());
    let expire_after = delivery.get(context, "expire_after");
    let retry_delays = retry_delays(context, &delivery);
    let bounces = delivery.get(context, "bounces");
    let report_delay_after = delivery.get(context, "report_delay_after");
    let sources = sources::named(context, &delivery, sources);
    let [per_site, connections, messages] = ["connections_per_site", "connections", "messages_per_connection"]
        .map(|name| delivery.get(context, name).map(|Count(number)| number));
    let large_bodies = delivery.get(context, "large_bodies").map(|ByteSize(bytes)| bytes);
    let idle_connection = delivery.get(context, "idle_connection");
    let timeouts = timeouts(context, &delivery);
    Some(Delivery {
        port: port.map(|Port(port)| port)?,
        allow_private: closed || allow_private?,
        expire_after: expire_after?,
        retry_delays: retry_delays?,
        bounces: bounces?,
        report_delay_after: report_delay_after?,
        connections_per_site: per_site?,
        connections: connections?,
        large_bodies: large_bodies?,
        messages_per_connection: messages?,
        idle_connection: idle_connection?,
        sources,
        timeouts: timeouts?,
    })
}

fn retry_delays(context: &mut Context<'_, '_>, section: &Reader<'_, '_>) -> Option<Vec<Duration>> {
    let delays: Option<Vec<Duration>> = section.get(context, "retry_delays");
    if let (Some([]), Some((span, _))) = (delays.as_deref(), section.raw("retry_delays")) {
        let key = section.full("retry_delays");
        context.faults.add(span, format!("{key} is empty: write at least one wait, such as [\"5m\"]"));
    }
    delays
}

fn timeouts(context: &mut Context<'_, '_>, delivery: &Reader<'_, '_>) -> Option<DeliveryTimeouts> {
    let section = section(context, delivery, "timeouts");
    let [connect, greeting, command, data_start, data_block, data_end] =
        ["connect", "greeting", "command", "data_start", "data_block", "data_end"]
            .map(|name| section.get(context, name));
    Some(DeliveryTimeouts {
        connect: connect?,
        greeting: greeting?,
        command: command?,
        data_start: data_start?,
        data_block: data_block?,
        data_end: data_end?,
    })
}

fn sources(context: &mut Context<'_, '_>, top: &Reader<'_, '_>) -> Vec<Arc<Source>> {
    let mut read = Vec::new();
    for section in repeated(context, top, "source") {
        let source = sources::source(context, &section);
        read.push((section, source));
    }
    sources::check_names(context, &read);
    read.into_iter().filter_map(|(_, source)| source).collect()
}

fn routes(context: &mut Context<'_, '_>, top: &Reader<'_, '_>, sources: &[Arc<Source>]) -> Vec<Route> {
    let sections = repeated(context, top, "route");
    sections.iter().filter_map(|section| route(context, section, sources)).collect()
}

/// The tables of a section that may stand many times.
fn repeated<'d, 'i>(context: &mut Context<'_, '_>, top: &Reader<'d, 'i>, name: &'static str) -> Vec<Reader<'d, 'i>> {
    let (Some(schema), Some((_, value))) = (schema::section_of(name), top.raw(name)) else {
        return Vec::new();
    };
    let one = std::slice::from_ref(value);
    let items: Vec<&Spanned<DeValue<'_>>> = match value.get_ref() {
        DeValue::Array(items) => items.iter().collect(),
        DeValue::Table(_) => {
            context.faults.add(value.span(), format!("{name}s stand in a list: write [[{name}]] with two brackets"));
            Vec::new()
        }
        _ => one.iter().collect(),
    };
    items.into_iter().map(|item| Reader::of(context, schema, name.to_owned(), Some(item))).collect()
}

fn route(context: &mut Context<'_, '_>, section: &Reader<'_, '_>, sources: &[Arc<Source>]) -> Option<Route> {
    section.refuse_unknown(context, &[]);
    let domain = section.demand(context, "domain");
    let relay: Option<HostPort> = section.get(context, "relay");
    let port = section.get(context, "port").map(|Port(port)| port);
    let tls = section.get(context, "tls");
    let auth = section.raw("auth").map(|(_, value)| relay_auth(context, value));
    let sources = sources::named(context, section, sources);
    let retry_delays = retry_delays(context, section);
    let expire_after = section.get(context, "expire_after");
    for (key, name) in [(section.raw("port"), "port"), (section.raw("auth"), "auth")] {
        let Some((span, _)) = key else { continue };
        match (name, section.raw("relay").is_some()) {
            ("port", true) => context
                .faults
                .add(span, "route.port is for MX hosts: write the relay's port in `relay = \"host:port\"`"),
            ("auth", false) => context.faults.add(span, "route.auth needs a relay: add `relay = \"host:port\"`"),
            _ => {}
        }
    }
    let tls = match (section.raw("tls"), &auth) {
        (None, Some(_)) => TlsPolicy::Verify,
        _ => tls?,
    };
    let next_hop = match relay {
        Some(HostPort(host, port)) => NextHop::Relay { host, port, auth: auth.flatten() },
        None => NextHop::Mx { port },
    };
    Some(Route { domain: domain?, next_hop, tls, sources, retry_delays, expire_after })
}

/// Longest file with a secret, which is one line.
const SECRET_BYTES: usize = 4096;

fn relay_auth(context: &mut Context<'_, '_>, value: &Spanned<DeValue<'_>>) -> Option<RelayAuth> {
    const WRITE: &str =
        "write auth = { username = \"…\", password_file = \"…\" } or { username = \"…\", password_env = \"…\" }";
    let DeValue::Table(table) = value.get_ref() else {
        context.faults.add(value.span(), format!("route.auth is a table: {WRITE}"));
        return None;
    };
    let mut fields: HashMap<&str, (&Spanned<DeValue<'_>>, String)> = HashMap::new();
    for (key, value) in table {
        let name = key.get_ref().as_ref();
        if name == "password" {
            context.faults.add(key.span(), "a password does not stand in the configuration: put it into a file or an environment variable and name that with `password_file` or `password_env`");
        } else if !schema::AUTH_KEYS.contains(&name) {
            let hint = hint(name, schema::AUTH_KEYS.iter().copied());
            context.faults.add(key.span(), format!("unknown key `route.auth.{name}`{hint}"));
        } else {
            match String::read(value, &context.around) {
                Ok(text) => drop(fields.insert(name, (value, text))),
                Err(wrong) => wrong
                    .into_iter()
                    .for_each(|(span, text)| context.faults.add(span, format!("route.auth.{name}: {text}"))),
            }
        }
    }
    let password = match (fields.get("password_file"), fields.get("password_env")) {
        (Some((at, _)), None) => secret_file(context, at, "route.auth.password_file", "password"),
        (None, Some((at, name))) => {
            let found = (context.around.env)(name).filter(|password| !password.is_empty());
            if found.is_none() {
                context.faults.add(
                    at.span(),
                    format!("route.auth.password_env: the environment variable `{name}` is not set or is empty"),
                );
            }
            found
        }
        (Some(_), Some((at, _))) => {
            context.faults.add(at.span(), "route.auth has both password_file and password_env: keep one");
            None
        }
        (None, None) => {
            context.faults.add(value.span(), format!("route.auth lacks the password: {WRITE}"));
            None
        }
    };
    if !fields.contains_key("username") {
        context.faults.add(value.span(), format!("route.auth lacks the user name: {WRITE}"));
    }
    Some(RelayAuth { username: fields.remove("username")?.1, password: password? })
}

/// The one line that a file holds: a secret of this kind, named by this key.
pub(super) fn secret_file(
    context: &mut Context<'_, '_>,
    at: &Spanned<DeValue<'_>>,
    key: &str,
    kind: &str,
) -> Option<String> {
    let read =
        ReadableFile::read(at, &context.around).map_err(|wrong| wrong.into_iter().map(|(_, text)| text).collect());
    let secret = read.and_then(|ReadableFile(file)| {
        let text = std::fs::read_to_string(&file)
            .map_err(|error| format!("cannot read {}: {}", file.display(), io_text(&error)))?;
        let line = text.trim_end_matches(['\r', '\n']);
        match line.len() {
            0 => Err(format!("{} is empty: write the {kind} into it", file.display())),
            1..=SECRET_BYTES if !line.contains(['\r', '\n', '\0']) => Ok(line.to_owned()),
            _ => Err(format!("{} holds more than one line: write nothing but the {kind} into it", file.display())),
        }
    });
    match secret {
        Ok(secret) => Some(secret),
        Err(text) => {
            let text: String = text;
            context.faults.add(at.span(), format!("{key}: {text}"));
            None
        }
    }
}

fn components(context: &mut Context<'_, '_>, section: &Reader<'_, '_>) -> ComponentFiles {
    let mut file = |name| section.get(context, name).map(|ReadableFile(file)| file).into_iter().collect();
    let (renderer, signer, shaper) = (file("renderer"), file("signer"), file("shaper"));
    let (validator, transformer) = (files(context, section, "validator"), files(context, section, "transformer"));
    ComponentFiles { validator, renderer, transformer, signer, shaper }
}

/// `[components.always]`.
fn always(context: &mut Context<'_, '_>, shared: &Reader<'_, '_>) -> ComponentFiles {
    let section = section(context, shared, "always");
    let (validator, transformer) = (files(context, &section, "validator"), files(context, &section, "transformer"));
    ComponentFiles { validator, transformer, ..ComponentFiles::default() }
}

fn files(context: &mut Context<'_, '_>, section: &Reader<'_, '_>, name: &'static str) -> Vec<PathBuf> {
    let files: Option<Vec<ReadableFile>> = section.get(context, name);
    files.unwrap_or_default().into_iter().map(|ReadableFile(file)| file).collect()
}

/// Longest name of a tenant.
pub const TENANT_NAME_BYTES: usize = 64;

/// What a tenant may be called: lower-case letters, digits, `-` and `_`, at most `TENANT_NAME_BYTES`.
pub fn is_tenant_name(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
    !name.is_empty() && name.len() <= TENANT_NAME_BYTES && name.chars().all(fits)
}

fn tenants(context: &mut Context<'_, '_>, top: &Reader<'_, '_>) -> BTreeMap<String, Tenant> {
    let mut tenants = BTreeMap::new();
    let (Some(schema), Some((_, value))) = (schema::section_of("tenant.*.components"), top.raw("tenant")) else {
        return tenants;
    };
    let of_grants = schema::section_of("tenant.*.grants").unwrap_or(&EMPTY);
    let DeValue::Table(named) = value.get_ref() else {
        context.faults.add(value.span(), "`tenant` is a table: write [tenant.NAME.components]");
        return tenants;
    };
    for (key, value) in named {
        let name = key.get_ref().as_ref();
        if !is_tenant_name(name) {
            context.faults.add(key.span(), format!("`{name}` is no name for a tenant: write lower-case letters, digits, `-` and `_`, at most {TENANT_NAME_BYTES}"));
        }
        let path = format!("tenant.{name}");
        let tenant = Reader::of(context, &EMPTY, path.clone(), Some(value));
        tenant.refuse_unknown(context, &["components", "grants"]);
        let below = tenant.raw("components").map(|(_, value)| value);
        let section = Reader::of(context, schema, format!("{path}.components"), below);
        section.refuse_unknown(context, &[]);
        let components = components(context, &section);
        let below = tenant.raw("grants").map(|(_, value)| value);
        let section = Reader::of(context, of_grants, format!("{path}.grants"), below);
        section.refuse_unknown(context, &[]);
        tenants.insert(name.to_owned(), Tenant { components, grants: grants(context, &section) });
    }
    tenants
}

fn grants(context: &mut Context<'_, '_>, section: &Reader<'_, '_>) -> Grants {
    let mut hosts = BTreeMap::new();
    for stage in Stage::ALL {
        let granted: Vec<GrantedHost> = section.get(context, stage.name()).unwrap_or_default();
        if granted.len() > GRANTED_HOSTS
            && let Some((span, _)) = section.raw(stage.name())
        {
            let text =
                format!("{}: {} hosts, at most {GRANTED_HOSTS} are granted", section.full(stage.name()), granted.len());
            context.faults.add(span, text);
        }
        if !granted.is_empty() {
            hosts.insert(stage, granted.into_iter().map(|GrantedHost(host)| host).collect());
        }
    }
    Grants { hosts, private: section.get(context, "private").unwrap_or(false) }
}

fn limits(context: &mut Context<'_, '_>, top: &Reader<'_, '_>) -> Option<Limits> {
    let section = section(context, top, "limits");
    let message = section.get(context, "message_bytes").map(|ByteSize(bytes)| bytes);
    let recipients = section.get(context, "recipients");
    let bodies = section.get(context, "http_body_bytes").map(|ByteSize(bytes)| bytes);
    let requests = section.get(context, "http_requests");
    let connections = section.get(context, "http_connections");
    let memory_bytes = section.get(context, "memory_bytes").map(|ByteSize(bytes)| bytes);
    let drain = section.get(context, "drain");
    // A message in a request is a third larger (base64) and has company: twice its size lets every message in.
    let (message_bytes, mut http_body_bytes) = (message?, bodies?);
    match section.raw("http_body_bytes") {
        None => http_body_bytes = http_body_bytes.max(message_bytes.saturating_mul(2)),
        Some((span, _)) if http_body_bytes < message_bytes.saturating_mul(2) => context.faults.add(
            span,
            format!("limits.http_body_bytes lets no message of limits.message_bytes through: write at least {} (twice as much)", message_bytes.saturating_mul(2)),
        ),
        Some(_) => {}
    }
    Some(Limits {
        message_bytes,
        recipients: recipients.map(|Count(number)| number)?,
        http_body_bytes,
        http_requests: requests.map(|Count(number)| number)?,
        http_connections: connections.map(|Count(number)| number)?,
        memory_bytes,
        drain: drain?,
    })
}

fn stages(context: &mut Context<'_, '_>, top: &Reader<'_, '_>) -> Option<StageLimits> {
    let section = section(context, top, "stages");
    let time = section.get(context, "time");
    let [memory, output, idle_bytes, loaded_bytes] = ["memory_bytes", "output_bytes", "idle_bytes", "loaded_bytes"]
        .map(|name| section.get(context, name).and_then(|ByteSize(bytes)| usize::try_from(bytes).ok()));
    let [instances, cpu_percent, idle_instances, loaded] = ["instances", "cpu_percent", "idle_instances", "loaded"]
        .map(|name| section.get(context, name).map(|Count(number)| number));
    let on_failure = section.get(context, "on_failure");
    Some(StageLimits {
        time: time?,
        memory_bytes: memory?,
        output_bytes: output?,
        instances: instances?,
        cpu_percent: cpu_percent?,
        on_failure: on_failure?,
        idle_instances: idle_instances?,
        idle_bytes: idle_bytes?,
        loaded: loaded?,
        loaded_bytes: loaded_bytes?,
    })
}

/// Two listeners on one address can never both start, and a host without any does nothing.
fn check_listeners(context: &mut Context<'_, '_>, top: &Reader<'_, '_>) {
    let mut seen: HashMap<SocketAddr, String> = HashMap::new();
    let mut any = false;
    for (table, key) in
        [("http", "listen"), ("https", "listen"), ("admin", "listen"), ("smtp", "listen"), ("smtp", "listen_tls")]
    {
        let Some((_, value)) = top.raw(table) else { continue };
        any |= table.starts_with("http"); // without its `listen` that is told already
        let DeValue::Table(below) = value.get_ref() else { continue };
        let Some((_, value)) = below.iter().find(|(name, _)| name.get_ref() == key) else { continue };
        let items: Vec<&Spanned<DeValue<'_>>> = match value.get_ref() {
            DeValue::Array(items) => items.iter().collect(),
            _ => vec![value],
        };
        any |= table == "smtp" && !items.is_empty();
        for item in items {
            let Ok(address) = SocketAddr::read(item, &context.around) else { continue };
            let earlier = seen.insert(address, format!("{table}.{key}")).filter(|_| address.port() != 0);
            if let Some(earlier) = earlier {
                context.faults.add(
                    item.span(),
                    format!("{table}.{key}: {address} is taken by {earlier} already: choose another port"),
                );
            }
        }
    }
    if !any {
        context.faults.add(
            0..0,
            "nothing to listen on: add [http] listen = \"127.0.0.1:8080\" or [smtp] listen = [\"127.0.0.1:2525\"]",
        );
    }
}

impl Config {
    /// What `posthaste dev` runs with: loopback only, nothing to be configured.
    pub fn development(data: PathBuf, http: SocketAddr, smtp: SocketAddr) -> Result<Config, Faults> {
        let name = Path::new("posthaste dev");
        let text = format!(
            "hostname = \"localhost\"\ndata = \"data\"\n[http]\nlisten = \"{http}\"\n[smtp]\nlisten = [\"{smtp}\"]\ntrusted = [\"127.0.0.0/8\", \"::1\"]\n"
        );
        let mut config = parse(name, &text, &|_| None)?;
        config.data = data;
        config.smtp.plain_auth_on_loopback = true;
        Ok(config)
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
