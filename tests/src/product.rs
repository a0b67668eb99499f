//! The product as its users run it: the binary `posthaste`, a configuration file, a data folder.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;

use crate::http;

/// How long the built-in components may take to compile, on a machine that does much else.
const COMPILED_WITHIN: Duration = Duration::from_secs(100);

/// How long a host may take from its start until it answers. The product promises 1 s; the tests of that promise measure
/// it themselves, all others wait for a busy machine.
const START_LIMIT: Duration = Duration::from_secs(30);

/// How long a host may take to drain.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// How often a start is tried anew because another process took a port we chose.
const PORT_TRIES: usize = 5;

/// A data folder and the configuration of the host that runs on it.
pub struct Setup {
    folder: TempDir,
    binary: PathBuf,
    /// More TOML, behind the sections that every setup has.
    extra: String,
    /// More lines for sections that every setup has.
    smtp: String,
    delivery: String,
    dns: Option<SocketAddr>,
}

/// A running host. Killed when dropped.
pub struct Product {
    process: Child,
    log: PathBuf,
    pub http: SocketAddr,
    pub smtp: SocketAddr,
    /// From the start of the process until both listeners answered.
    pub ready_after: Duration,
}

impl Setup {
    /// A fresh folder, the debug binary.
    pub fn new() -> Result<Setup> {
        Setup::within(&std::env::temp_dir())
    }

    /// The same on the disk of that folder.
    pub fn within(parent: &Path) -> Result<Setup> {
        let folder =
            tempfile::Builder::new().prefix("posthaste-").tempdir_in(parent).context("cannot make a folder")?;
        Ok(Setup {
            folder,
            binary: binary()?,
            extra: String::new(),
            smtp: "trusted = [\"127.0.0.1/32\"]\n".to_owned(),
            delivery: String::new(),
            dns: None,
        })
    }

    /// Another binary: a benchmark's release build.
    pub fn binary(mut self, binary: PathBuf) -> Setup {
        self.binary = binary;
        self
    }

    /// Adds sections to the configuration.
    pub fn with(mut self, toml: &str) -> Setup {
        self.extra.push_str(toml);
        self.extra.push('\n');
        self
    }

    /// Drops what `with` added.
    pub fn plain(mut self) -> Setup {
        self.extra.clear();
        self
    }

    /// What stands in `[smtp]` besides `listen`, instead of trust in loopback.
    pub fn smtp(mut self, toml: &str) -> Setup {
        self.smtp = format!("{toml}\n");
        self
    }

    /// Adds lines to `[delivery]`.
    pub fn delivery(mut self, toml: &str) -> Setup {
        self.delivery.push_str(toml);
        self.delivery.push('\n');
        self
    }

    /// Looks MX hosts up at this server.
    pub fn dns(mut self, server: SocketAddr) -> Setup {
        self.dns = Some(server);
        self
    }

    /// The folder: `posthaste.toml`, `data/` and logs.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Makes an API key, whether the host runs or not.
    pub fn create_key(&self) -> Result<String> {
        self.command(&["key", "create"])
    }

    /// Starts the host on ports of its own and waits until it answers.
    pub fn start(&self) -> Result<Product> {
        self.start_with(|http, smtp| {
            self.write(http, smtp)?;
            let mut command = Command::new(&self.binary);
            command.args(["serve", "--config"]).arg(self.config());
            Ok(command)
        })
    }

    /// Starts a development host that takes this API key.
    pub fn start_development(&self, key: &str) -> Result<Product> {
        self.start_with(|http, smtp| {
            let (http, smtp) = (format!("127.0.0.1:{http}"), format!("127.0.0.1:{smtp}"));
            let mut command = Command::new(&self.binary);
            command.args(["dev", "--http", &http, "--smtp", &smtp, "--api-key", key]);
            command.arg("--data").arg(self.folder.path().join("data"));
            Ok(command)
        })
    }

    fn start_with(&self, command: impl Fn(u16, u16) -> Result<Command>) -> Result<Product> {
        let attempt = || {
            let (http, smtp) = (free_port()?, free_port()?);
            self.spawn(command(http, smtp)?, http, smtp)
        };
        for _ in 1..PORT_TRIES {
            match attempt() {
                Err(error) if format!("{error:#}").contains("in use") => {}
                answer => return answer,
            }
        }
        attempt()
    }

    fn spawn(&self, mut command: Command, http: u16, smtp: u16) -> Result<Product> {
        let log = self.folder.path().join("host.log");
        let file = File::options().create(true).append(true).open(&log)?;
        let started = Instant::now();
        let process = command
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("{} cannot be started", self.binary.display()))?;
        let mut product = Product {
            process,
            log,
            http: SocketAddr::from((Ipv4Addr::LOCALHOST, http)),
            smtp: SocketAddr::from((Ipv4Addr::LOCALHOST, smtp)),
            ready_after: Duration::ZERO,
        };
        product.wait_until_ready(started)?;
        Ok(product)
    }

    /// Runs a command such as `key create` and gives what it printed on stdout, trimmed.
    pub fn command(&self, words: &[&str]) -> Result<String> {
        if !self.config().exists() {
            self.write(free_port()?, free_port()?)?;
        }
        // The configuration follows the command's own words: `key create --config FILE`.
        let output = Command::new(&self.binary).args(words).arg("--config").arg(self.config()).output()?;
        if !output.status.success() {
            bail!("posthaste {}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }

    /// Starts a command that goes on until it is killed; the configuration must have been written. Its stdout is piped.
    pub fn follow(&self, words: &[&str]) -> Result<Child> {
        let mut command = Command::new(&self.binary);
        command.args(words).arg("--config").arg(self.config()).stdin(Stdio::null()).stdout(Stdio::piped());
        command.spawn().with_context(|| format!("posthaste {} cannot be started", words.join(" ")))
    }

    fn config(&self) -> PathBuf {
        self.folder.path().join("posthaste.toml")
    }

    fn write(&self, http: u16, smtp: u16) -> Result<()> {
        let mut text = format!(
            "hostname = \"relay.test\"\ndata = \"data\"\n[http]\nlisten = \"127.0.0.1:{http}\"\n\
             [smtp]\nlisten = [\"127.0.0.1:{smtp}\"]\n{}[delivery]\n{}",
            self.smtp, self.delivery
        );
        if let Some(server) = self.dns {
            text.push_str(&format!("[dns]\nservers = [\"{server}\"]\n"));
        }
        text.push_str(&self.extra);
        std::fs::write(self.config(), text).context("cannot write the configuration")
    }
}

impl Product {
    fn wait_until_ready(&mut self, started: Instant) -> Result<()> {
        loop {
            if let Some(status) = self.process.try_wait()? {
                bail!("posthaste ended at its start ({status}):\n{}", self.log());
            }
            let answered = http::get(self.http, "/healthz", &[]).is_ok_and(|answer| answer.status == 200);
            if answered && std::net::TcpStream::connect(self.smtp).is_ok() {
                self.ready_after = started.elapsed();
                return Ok(());
            }
            if started.elapsed() > START_LIMIT {
                bail!("posthaste was not ready after {START_LIMIT:?}:\n{}", self.log());
            }
            // Nothing tells an outsider that a port is open but trying.
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until every component is compiled: before that, memory and trouble tell of that work.
    pub fn settled(&self) -> Result<()> {
        let asked = Instant::now();
        loop {
            let answer = crate::http::get(self.http, "/readyz", &[])?;
            if answer.status == 200 {
                return Ok(());
            }
            if asked.elapsed() > COMPILED_WITHIN {
                bail!("not ready: {}", String::from_utf8_lossy(&answer.body));
            }
            // Nothing tells an outsider that a component is compiled but asking again.
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// What the host has printed, this start and those before.
    pub fn log(&self) -> String {
        let mut text = String::new();
        let _ = File::open(&self.log).and_then(|mut file| file.read_to_string(&mut text));
        text
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.process.try_wait(), Ok(None))
    }

    /// Resident memory in bytes.
    pub fn resident_bytes(&self) -> Result<u64> {
        status_bytes(self.pid(), "VmRSS:")
    }

    /// The most it ever had, in bytes.
    pub fn peak_resident_bytes(&self) -> Result<u64> {
        status_bytes(self.pid(), "VmHWM:")
    }

    /// SIGKILL: what is not on disk is gone.
    pub fn kill(mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    /// SIGTERM: it drains and exits by itself with success.
    pub fn stop(mut self) -> Result<()> {
        let signalled = Command::new("kill").args(["-TERM", &self.pid().to_string()]).status()?;
        if !signalled.success() {
            bail!("the host could not be signalled:\n{}", self.log());
        }
        let asked = Instant::now();
        while asked.elapsed() < STOP_LIMIT {
            if let Some(status) = self.process.try_wait()? {
                if !status.success() {
                    bail!("the host exited with {status}:\n{}", self.log());
                }
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        bail!("the host was still there {STOP_LIMIT:?} after SIGTERM:\n{}", self.log())
    }
}

impl Drop for Product {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            eprintln!("--- the host's log:\n{}", self.log());
        }
    }
}

/// The binary under test: `cargo xtask test` says which, and a plain `cargo test` takes the one built last.
pub fn binary() -> Result<PathBuf> {
    let path = match std::env::var_os("POSTHASTE_BINARY") {
        Some(path) => PathBuf::from(path),
        None => root().join("target/debug/posthaste"),
    };
    if !path.is_file() {
        bail!("{} is not there: build it with `cargo xtask build`", path.display());
    }
    Ok(path)
}

/// The repository.
pub fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap_or(tests).to_owned()
}

/// A port that was free a moment ago.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port")?.local_addr()?.port())
}

/// A line of `/proc/PID/status` that counts kilobytes.
fn status_bytes(pid: u32, name: &str) -> Result<u64> {
    let file = File::open(format!("/proc/{pid}/status")).context("the host is gone")?;
    for line in BufReader::new(file).lines() {
        let line = line?;
        if let Some(rest) = line.strip_prefix(name) {
            let kilobytes: u64 = rest.trim().trim_end_matches(" kB").parse().context("not a number of kB")?;
            return Ok(kilobytes * 1024);
        }
    }
    bail!("/proc/{pid}/status has no {name}")
}
