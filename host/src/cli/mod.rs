//! The commands people type. Each speaks to the running host through the socket in the data folder, or opens the store
//! itself when no host runs: `link` hides which. Exit codes: 0 done, 1 failed, 2 wrong usage.

mod check;
mod component;
mod dev;
mod directory;
mod edges;
mod events;
mod link;
mod send;
mod serve;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use thiserror::Error;

use crate::config::Faults;
use crate::serve::StartError;

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
    /// Show whether the host runs, for how long, and how much mail waits.
    Status(Target),
    /// Send a test mail by the sending API of a running host.
    Send(send::Send),
    /// API keys, what applications send with, and delivery tokens, what edges prove themselves with.
    #[command(subcommand)]
    Key(directory::Key),
    /// Sending domains and their DKIM keys.
    #[command(subcommand)]
    Domain(directory::Domain),
    /// Components: what takes the place of a stage.
    #[command(subcommand)]
    Component(component::Component),
    /// Mail that waits.
    #[command(subcommand)]
    Queue(directory::Queue),
    /// What happened to messages.
    #[command(subcommand)]
    Events(events::Events),
    /// Tenants.
    #[command(subcommand)]
    Tenant(directory::Tenant),
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
    start_log();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("posthaste: cannot start threads: {error}");
            return ExitCode::FAILURE;
        }
    };
    let done = runtime.block_on(async {
        match command.verb {
            Verb::Serve(serve) => serve.run().await,
            Verb::Dev(dev) => dev.run().await,
            Verb::Check(check) => check.run().await,
            Verb::Status(target) => directory::status(&target).await,
            Verb::Send(send) => send.run().await,
            Verb::Key(key) => key.run().await,
            Verb::Domain(domain) => domain.run().await,
            Verb::Component(component) => component.run().await,
            Verb::Queue(queue) => queue.run().await,
            Verb::Events(events) => events.run().await,
            Verb::Tenant(tenant) => tenant.run().await,
        }
    });
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

/// The log goes to stderr: stdout belongs to what a command prints.
fn start_log() {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(std::io::stderr);
    let started = log.try_init();
    if let Err(error) = started {
        eprintln!("posthaste: no log: {error}");
    }
}

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
        check("posthaste domain edge-key example.com --config a.toml --algorithm ed25519 --selector s1", true);
        check("posthaste domain edge-key example.com --config a.toml --algorithm dsa", false);
        check("posthaste domain edge-key example.com --config a.toml --remove s1", true);
        check("posthaste domain edge-key example.com --config a.toml --remove s1 --selector s2", false);
        check("posthaste domain add --config a.toml example.com", true);
        check("posthaste domain records example.com --config a.toml", true);
        check("posthaste check --config a.toml --probe-domain example.com", true);
        check("posthaste status --data d", true);
        check("posthaste queue list --config a.toml", true);
        check("posthaste events list --config a.toml --limit 5 --type email.sent", true);
        check("posthaste events tail --data d --tenant acme --follow", true);
        check("posthaste events tail", false);
        check("posthaste tenant list --config a.toml", true);
        check("posthaste component inspect a.wasm", true);
        check("posthaste component test a.wasm --stage validator --time-ms 500", true);
        check("posthaste component test a.wasm --stage sorter", false);
        check("posthaste component new --lang rust --stage signer dir", true);
        check("posthaste component new --lang cobol --stage signer dir", false);
        check("posthaste sned", false);
    }
}
