//! The commands people type. Each speaks to the running host through the socket in the data folder, or opens the store
//! itself when no host runs: `link` hides which. Exit codes: 0 done, 1 failed, 2 wrong usage.

mod check;
mod component;
mod dev;
mod directory;
mod domains;
mod edges;
mod events;
mod keys;
mod link;
mod master_key;
mod queue;
mod reload;
mod send;
mod serve;
mod spin;
mod status;
mod tenants;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use thiserror::Error;
use tracing_subscriber::fmt;
use tracing_subscriber::fmt::format::DefaultFields;
use tracing_subscriber::registry::LookupSpan;

use crate::config::Faults;
use crate::serve::StartError;
use crate::telemetry::Telemetry;

/// Email delivery that a team runs itself.
#[derive(Debug, Parser)]
#[command(name = "posthaste", version, propagate_version = true, max_term_width = 100)]
struct Command {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the host: take mail in by HTTP and SMTP, sign it, deliver it.
    ///
    /// Runs until SIGTERM or Ctrl-C, then finishes what is under way. A second signal ends it at once; accepted mail is
    /// safe either way. RUST_LOG sets what is logged (default: info).
    Serve(serve::Serve),
    /// Run a host for development: no configuration, loopback only, mail captured instead of sent.
    ///
    /// Shows every message at /inbox. Recipients called bounced@, deferred@ and complained@ (any domain) play those outcomes.
    Dev(dev::Dev),
    /// Check the set-up: configuration, disk, clock, DNS, names, port 25, TLS, components, DKIM records.
    ///
    /// Prints a line for each: ok, warn or FAIL, with what to do. Exit code 1 where anything is FAIL.
    Check(check::Check),
    /// Show whether the host runs, its rates of the last minute, how much mail waits, slow sites and what is in trouble.
    Status(Target),
    /// Have the running host read its configuration again: routes, limits and the TLS certificate change at once.
    ///
    /// SIGHUP does the same. What needs a restart is named; a file with a fault changes nothing.
    Reload(reload::Reload),
    /// Send a test mail by the sending API of a running host.
    Send(send::Send),
    /// API keys, what applications send with; delivery tokens, what edges prove themselves with; operator keys.
    #[command(subcommand)]
    Key(keys::Key),
    /// Sending domains and their DKIM keys.
    #[command(subcommand)]
    Domain(domains::Domain),
    /// The key that seals secrets at rest.
    #[command(subcommand)]
    MasterKey(master_key::MasterKey),
    /// Components: what takes the place of a stage.
    #[command(subcommand)]
    Component(component::Component),
    /// Write a manifest for Spin: a tenant's edge, with the components that answer for the tenant, below its own path.
    SpinManifest(spin::SpinManifest),
    /// Mail that waits: look at it, try it again, hold it, end it.
    #[command(subcommand)]
    Queue(queue::Queue),
    Backup(queue::BackUp),
    /// What happened to messages.
    #[command(subcommand)]
    Events(events::Events),
    /// Tenants.
    #[command(subcommand)]
    Tenant(tenants::Tenant),
    /// Print the OpenAPI document of the control API.
    #[command(name = "openapi")]
    OpenApi(Target),
    /// Who changed what.
    #[command(subcommand)]
    Audit(tenants::Audit),
}

/// Which host is meant.
#[derive(Clone, Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Target {
    /// The configuration file of the host.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The data folder of a development host (`posthaste dev --data DIR`).
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

/// Why a command failed: printed on stderr, exit code 1.
#[derive(Debug, Error)]
pub(crate) enum Failure {
    #[error("{0}")]
    Config(#[from] Faults),
    #[error("{0}")]
    Start(#[from] StartError),
    /// The host's answer.
    #[error("{0}")]
    Refused(String),
    #[error("{what}: {source}")]
    Io { what: String, source: std::io::Error },
    /// What the command found could not be printed. A reader that left (`| head`) is no fault worth a word.
    #[error("cannot print: {0}")]
    Output(std::io::Error),
    /// Everything was said on the way.
    #[error("")]
    Told,
}

impl Failure {
    fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Failure {
        let what = what.into();
        move |source| Failure::Io { what, source }
    }
}

/// Prints one line of what a command found, on stdout.
fn say(line: impl std::fmt::Display) -> Result<(), Failure> {
    use std::io::Write as _;
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{line}").and_then(|()| stdout.flush()).map_err(Failure::Output)
}

/// Parses the command line and runs the command.
pub fn run() -> ExitCode {
    let command = match Command::try_parse() {
        Ok(command) => command,
        Err(error) => {
            // Help and version are no errors; wrong usage is 2.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("posthaste: cannot start threads: {error}");
            return ExitCode::FAILURE;
        }
    };
    let telemetry = match &command.verb {
        Verb::Serve(serve) => serve.telemetry(runtime.handle()),
        _ => Ok(None),
    };
    let telemetry = match telemetry {
        Ok(telemetry) => telemetry,
        Err(error) => {
            eprintln!("posthaste: {error}");
            return ExitCode::FAILURE;
        }
    };
    start_log(telemetry.as_ref());
    let done = runtime.block_on(async {
        match command.verb {
            Verb::Serve(serve) => serve.run().await,
            Verb::Dev(dev) => dev.run().await,
            Verb::Check(check) => check.run().await,
            Verb::Status(target) => status::run(&target).await,
            Verb::Reload(reload) => reload.run().await,
            Verb::Send(send) => send.run().await,
            Verb::Key(key) => key.run().await,
            Verb::Domain(domain) => domain.run().await,
            Verb::MasterKey(master_key) => master_key.run().await,
            Verb::Component(component) => component.run().await,
            Verb::SpinManifest(manifest) => manifest.run().await,
            Verb::Queue(queue) => queue.run().await,
            Verb::Backup(backup) => backup.run().await,
            Verb::Events(events) => events.run().await,
            Verb::Tenant(tenant) => tenant.run().await,
            Verb::OpenApi(target) => status::openapi(&target).await,
            Verb::Audit(audit) => audit.run().await,
        }
    });
    if let Some(telemetry) = telemetry {
        telemetry.end();
    }
    // Threads that wait on a peer are not worth waiting for: what had to be durable is.
    runtime.shutdown_background();
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Told) => ExitCode::FAILURE,
        Err(Failure::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
        Err(failure) => {
            eprintln!("posthaste: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// The lines of the log.
fn lines<S>() -> fmt::Layer<S, DefaultFields, fmt::format::Format, fn() -> std::io::Stderr>
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
{
    let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
    fmt::layer().with_ansi(colours).with_writer(std::io::stderr as fn() -> std::io::Stderr)
}

/// The log goes to stderr: stdout belongs to what a command prints. Spans go to a collector where there is one.
fn start_log(telemetry: Option<&Telemetry>) {
    use tracing_subscriber::layer::SubscriberExt as _;
    use tracing_subscriber::util::SubscriberInitExt as _;
    use tracing_subscriber::{EnvFilter, Layer as _};
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let started = match telemetry {
        // One filter for all is the fastest.
        None => tracing_subscriber::registry().with(filter).with(lines()).try_init(),
        Some(telemetry) => {
            tracing_subscriber::registry().with(telemetry.layer()).with(lines().with_filter(filter)).try_init()
        }
    };
    if let Err(error) = started {
        eprintln!("posthaste: no log: {error}");
    }
}

#[cfg(test)]
mod coverage_tests;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Command::command().debug_assert();
    }

    #[test]
    fn usage() {
        let check = |line: &str, fits: bool| {
            let parsed = Command::try_parse_from(line.split(' '));
            assert_eq!(parsed.is_ok(), fits, "{line}");
        };
        check("posthaste serve --config a.toml", true);
        check("posthaste serve", false);
        check("posthaste dev", true);
        check("posthaste dev --http 127.0.0.1:0 --smtp 127.0.0.1:0 --data d --api-key ph_k", true);
        check("posthaste dev --http 0.0.0.0:80", false);
        check("posthaste key create --config a.toml --tenant acme", true);
        check("posthaste key create", false);
        check("posthaste key list --data d", true);
        check("posthaste key list --data d --config a.toml", false);
        check("posthaste key revoke --config a.toml key_1", true);
        check("posthaste key create --config a.toml --delivery --tenant acme", true);
        check("posthaste key list --data d --delivery", true);
        check("posthaste key revoke --delivery --config a.toml dlv_1", true);
        check("posthaste key create --config a.toml --operator --name ci", true);
        check("posthaste key create --config a.toml --operator --tenant acme", false);
        check("posthaste key create --config a.toml --operator --delivery", false);
        check("posthaste key list --data d --operator", true);
        check("posthaste key revoke --operator --config a.toml opk_1", true);
        check("posthaste domain edge-key example.com --config a.toml --algorithm ed25519 --selector s1", true);
        check("posthaste domain edge-key example.com --config a.toml --algorithm dsa", false);
        check("posthaste domain add example.com --config a.toml --selector s1 --ed25519-selector e1", true);
        check("posthaste domain rotate example.com --config a.toml --now", true);
        check("posthaste domain import-key example.com key.pem --config a.toml --selector s1", true);
        check("posthaste domain import-key example.com key.pem --config a.toml", false);
        check("posthaste domain remove-key example.com s1 --config a.toml --tenant acme", true);
        check("posthaste master-key rotate --config a.toml", true);
        check("posthaste master-key rotate", false);
        check("posthaste domain edge-key example.com --config a.toml --remove s1", true);
        check("posthaste domain edge-key example.com --config a.toml --remove s1 --selector s2", false);
        check("posthaste domain add --config a.toml example.com", true);
        check("posthaste domain records example.com --config a.toml", true);
        check("posthaste check --config a.toml --probe-domain example.com", true);
        check("posthaste status --data d", true);
        check("posthaste reload --config a.toml", true);
        check("posthaste reload --data d", false);
        check("posthaste queue list --config a.toml", true);
        check("posthaste queue list --data d --tenant acme --domain a.test --older-than 2h --held --limit 5", true);
        check("posthaste queue list --data d --older-than soon", false);
        check("posthaste queue show --config a.toml 01", true);
        check("posthaste queue show --config a.toml", false);
        check("posthaste queue purge --config a.toml --all", true);
        check("posthaste queue retry --config a.toml 01", true);
        check("posthaste backup --config a.toml dir", true);
        check("posthaste backup --config a.toml", false);
        check("posthaste events list --config a.toml --limit 5 --type email.sent", true);
        check("posthaste events tail --data d --tenant acme --follow", true);
        check("posthaste events tail", false);
        check("posthaste tenant list --config a.toml", true);
        check("posthaste tenant create acme --config a.toml --per-day 1000 --networks 10.0.0.0/8,::1", true);
        check("posthaste tenant update acme --config a.toml --per-day none", true);
        check("posthaste tenant pause acme --config a.toml --reason unpaid", true);
        check("posthaste tenant pause acme --config a.toml", false);
        check("posthaste tenant delete acme --config a.toml --force", true);
        check("posthaste audit list --config a.toml --tenant acme --limit 5", true);
        check("posthaste key create --config a.toml --scope send --scope read --expires-in 90d", true);
        check("posthaste key create --config a.toml --scope mange", false);
        check("posthaste key rotate key_1 --config a.toml --overlap 24h", true);
        check("posthaste key import --config a.toml --name old --file key.txt", true);
        check("posthaste component push --data d --tenant acme --stage validator a.wasm", true);
        check("posthaste component push --data d --stage validator a.wasm --canary 5", true);
        check("posthaste component push --data d --stage validator a.wasm --canary 5 --shadow", false);
        check("posthaste component push --data d --stage sorter a.wasm", false);
        check("posthaste component list --data d", true);
        check("posthaste component rollback --data d --stage signer", true);
        check("posthaste component canary --data d --stage signer --percent 5", true);
        check("posthaste component canary --data d --stage signer", false);
        check("posthaste component canary --data d --stage signer --off", true);
        check("posthaste component shadow --data d --stage signer --number 3", true);
        check("posthaste component grant --data d --stage signer --http keys.example.com --http b.test:8443", true);
        check("posthaste component limit --data d --tenant acme --cpu-percent 50 --time-ms none", true);
        check("posthaste component limit --data d --cpu-percent half", false);
        check("posthaste component inspect a.wasm", true);
        check("posthaste component test a.wasm --stage validator --time-ms 500", true);
        check("posthaste component test a.wasm --stage sorter", false);
        check("posthaste component new --lang rust --stage signer dir", true);
        check("posthaste component new --lang cobol --stage signer dir", false);
        check("posthaste sned", false);
    }
}
