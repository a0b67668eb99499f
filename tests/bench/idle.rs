//! `cargo xtask bench idle [--connections N]`: what an SMTP connection that says nothing costs the host. The clients are
//! in this process, the host in another.

use anyhow::{Context as _, Result, bail};
use tests::product::{Setup, root};
use tests::smtp::Client;

/// The bar, a connection.
const AT_MOST_BYTES: f64 = 10_000.0;

/// Runs it; fails where a connection costs more than the bar.
pub fn run(arguments: &[String]) -> Result<()> {
    let wanted: usize = match arguments {
        [] => 10_000,
        [flag, number] if flag == "--connections" => number.parse().context("--connections takes a number")?,
        _ => bail!("usage: bench idle [--connections N]"),
    };
    // Each side has a descriptor for each, and some besides.
    let limit = open_files()?;
    let connections = wanted.min(limit.saturating_sub(200));
    if connections < wanted {
        println!("only {connections} of {wanted} connections: `ulimit -n` is {limit}");
    }
    let setup = Setup::new()?
        .binary(root().join("target/release/posthaste"))
        .smtp("trusted = [\"127.0.0.1/32\"]\nmax_connections = 1000000\nidle_timeout = \"1h\"")
        .with("[[route]]\ndomain = \"*\"\nrelay = \"127.0.0.1:1\"");
    let host = setup.start()?;
    host.settled()?;
    // The first ones pay for threads and pools.
    let first: Vec<Client> = (0..100).map(|_| Client::greeted(host.smtp)).collect::<Result<_>>()?;
    let before = host.resident_bytes()?;
    let mut idle: Vec<Client> = (0..connections).map(|_| Client::greeted(host.smtp)).collect::<Result<_>>()?;
    let after = host.resident_bytes()?;
    // They are served, and not merely waiting to be.
    for client in idle.iter_mut().step_by((connections / 100).max(1)) {
        client.command("NOOP", 250)?;
    }
    drop(first);
    let each = after.saturating_sub(before) as f64 / connections.max(1) as f64;
    println!(
        "{connections} idle connections after EHLO: {:.1} KB each ({} MB before, {} MB with them); at most {:.0} KB",
        each / 1000.0,
        before / 1_000_000,
        after / 1_000_000,
        AT_MOST_BYTES / 1000.0,
    );
    if each > AT_MOST_BYTES {
        bail!("an idle connection costs too much");
    }
    Ok(())
}

fn open_files() -> Result<usize> {
    let limits = std::fs::read_to_string("/proc/self/limits")?;
    let line = limits.lines().find(|line| line.starts_with("Max open files")).context("no limit of open files")?;
    line.split_whitespace().nth(3).and_then(|word| word.parse().ok()).context("no number of open files")
}
