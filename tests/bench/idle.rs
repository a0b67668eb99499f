//! `cargo xtask bench idle [--tls] [--connections N]`: what an SMTP connection that says nothing costs the host, and with
//! `--tls` one that says nothing behind STARTTLS too. The clients are in this process, the host in another.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tests::product::{Product, Setup, root};
use tests::smtp::Client;

const USAGE: &str = "usage: bench idle [--tls] [--connections N]";

/// The bar, a connection in the clear.
const AT_MOST_BYTES: f64 = 10_000.0;

/// Connections that pay for threads and pools before anything is measured.
const FIRST: usize = 100;

/// Of the host under measurement, where another than the release build is wanted.
const BINARY: &str = "POSTHASTE_BINARY";

/// Runs it; fails where a connection in the clear costs more than the bar.
pub fn run(arguments: &[String]) -> Result<()> {
    let (mut wanted, mut with_tls) = (10_000, false);
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--tls" => with_tls = true,
            "--connections" => {
                let number = words.next().and_then(|number| number.parse().ok());
                wanted = number.context("--connections takes a number")?;
            }
            _ => bail!(USAGE),
        }
    }
    // Each side has a descriptor for each, and some besides.
    let limit = open_files()?;
    let connections = wanted.min(limit.saturating_sub(200));
    if connections < wanted {
        println!("only {connections} of {wanted} connections: `ulimit -n` is {limit}");
    }
    let each = measure("after EHLO", connections, |host, _| Client::greeted(host.smtp))?;
    println!("in the clear: at most {:.0} KB", AT_MOST_BYTES / 1000.0);
    if with_tls {
        measure("after STARTTLS and EHLO", connections, Encrypted::greeted)?;
    }
    if each > AT_MOST_BYTES {
        bail!("an idle connection costs too much");
    }
    Ok(())
}

/// Opens so many connections to a fresh host and lets them be; what each costs it, in bytes.
fn measure<C: Speaks>(
    what: &str,
    connections: usize,
    connect: impl Fn(&Product, &Arc<ClientConfig>) -> Result<C>,
) -> Result<f64> {
    let binary = std::env::var_os(BINARY).map_or_else(|| root().join("target/release/posthaste"), Into::into);
    let setup = Setup::new()?
        .binary(binary)
        .smtp("trusted = [\"127.0.0.1/32\"]\nmax_connections = 1000000\nidle_timeout = \"1h\"")
        .with("[[route]]\ndomain = \"*\"\nrelay = \"127.0.0.1:1\"");
    let host = setup.start()?;
    host.settled()?;
    let config = tls(&setup)?;
    let open = |count: usize| (0..count).map(|_| connect(&host, &config)).collect::<Result<Vec<C>>>();
    let first = open(FIRST)?;
    let before = host.resident_bytes()?;
    let mut idle = open(connections)?;
    let after = host.resident_bytes()?;
    // They are served, and not merely waiting to be.
    for client in idle.iter_mut().step_by((connections / 100).max(1)) {
        client.noop()?;
    }
    drop(first);
    let each = after.saturating_sub(before) as f64 / connections.max(1) as f64;
    println!(
        "{connections} idle connections {what}: {:.1} KB each ({} MB before, {} MB with them)",
        each / 1000.0,
        before / 1_000_000,
        after / 1_000_000,
    );
    Ok(each)
}

/// An open connection.
trait Speaks {
    /// Says something and reads the answer.
    fn noop(&mut self) -> Result<()>;
}

impl Speaks for Client {
    fn noop(&mut self) -> Result<()> {
        self.command("NOOP", 250).map(drop)
    }
}

/// A connection behind STARTTLS.
struct Encrypted(BufReader<StreamOwned<ClientConnection, TcpStream>>);

impl Encrypted {
    fn greeted(host: &Product, config: &Arc<ClientConfig>) -> Result<Encrypted> {
        let mut client = Client::greeted(host.smtp)?;
        client.command("STARTTLS", 220)?;
        let session = ClientConnection::new(config.clone(), ServerName::try_from("relay.test")?)?;
        let mut client = Encrypted(BufReader::new(StreamOwned::new(session, client.into_stream())));
        client.command("EHLO client.test")?;
        Ok(client)
    }

    fn command(&mut self, line: &str) -> Result<()> {
        self.0.get_mut().write_all(format!("{line}\r\n").as_bytes())?;
        loop {
            let mut reply = String::new();
            self.0.read_line(&mut reply)?;
            if !reply.starts_with("250") {
                bail!("after {line}: {reply:?}");
            }
            if reply.as_bytes().get(3) != Some(&b'-') {
                return Ok(());
            }
        }
    }
}

impl Speaks for Encrypted {
    fn noop(&mut self) -> Result<()> {
        self.command("NOOP")
    }
}

/// Trusts the certificate that the host made for itself.
fn tls(setup: &Setup) -> Result<Arc<ClientConfig>> {
    let certificate = setup.folder().join("data/tls/relay.test.self-signed.crt");
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&certificate).with_context(|| certificate.display().to_string())?)?;
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

fn open_files() -> Result<usize> {
    let limits = std::fs::read_to_string("/proc/self/limits")?;
    let line = limits.lines().find(|line| line.starts_with("Max open files")).context("no limit of open files")?;
    line.split_whitespace().nth(3).and_then(|word| word.parse().ok()).context("no number of open files")
}
