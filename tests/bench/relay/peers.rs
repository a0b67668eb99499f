//! The peers that need more than the system has: Haraka, and OpenDKIM for Postfix. `cargo xtask bench relay` installs them
//! into `target/bench/`; here they get a configuration, ports and folders of their own.

use std::fs::{self, File};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tests::product::{free_port, root};

use super::machine;

/// How long a peer may take to start.
const START_LIMIT: Duration = Duration::from_secs(60);

/// A process that is ended when dropped.
pub struct Peer {
    process: Child,
    log: PathBuf,
    pub port: u16,
}

impl Peer {
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    fn start(mut command: Command, folder: &Path, port: u16, what: &str) -> Result<Peer> {
        let log = folder.join("log");
        let output = File::create(&log)?;
        let process = command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("{what} cannot be started"))?;
        let mut peer = Peer { process, log, port };
        let asked = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if peer.process.try_wait()?.is_some() || asked.elapsed() > START_LIMIT {
                bail!("{what} does not answer on port {port}:\n{}", fs::read_to_string(&peer.log).unwrap_or_default());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(peer)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn installed(name: &str) -> PathBuf {
    root().join("target/bench").join(name)
}

/// Haraka with its own queue on disk: its 250 comes after the message is there. No plugin but a fixed route.
pub fn haraka(folder: &Path, sink: u16, connections: u32) -> Result<Peer> {
    let package = installed("haraka/node_modules/Haraka");
    if !package.is_dir() {
        bail!("Haraka is not installed: `cargo xtask bench relay --vs haraka` does it");
    }
    let port = free_port()?;
    for name in ["config", "plugins", "queue"] {
        fs::create_dir_all(folder.join(name))?;
    }
    let source = root().join("tests/bench/relay/haraka");
    fs::copy(source.join("loopback_relay.js"), folder.join("plugins/loopback_relay.js"))?;
    fs::write(folder.join("package.json"), "{\"name\":\"bench\",\"version\":\"1.0.0\"}")?;
    let config = |name: &str, text: &str| fs::write(folder.join("config").join(name), text);
    // Its defaults do not stand in its code. It takes no list of hosts that is empty, and wants a greeting.
    let defaults = fs::read_to_string(package.join("config/connection.ini")).context("Haraka has no connection.ini")?;
    let defaults: String =
        defaults.lines().filter(|line| !line.starts_with("hosts[]")).map(|line| format!("{line}\n")).collect();
    config("connection.ini", &format!("{defaults}\n[message]\ngreeting[]=bench relay\n"))?;
    config("smtp.ini", &format!("listen=127.0.0.1:{port}\ninactivity_timeout=60\n"))?;
    config("me", "relay.test\n")?;
    config("log.ini", "[main]\nlevel=ERROR\n")?;
    config("loglevel", "ERROR\n")?;
    config("plugins", "loopback_relay\n")?;
    config("sink.ini", &format!("port={sink}\n"))?;
    config(
        "outbound.ini",
        &format!("local_mx_ok=true\nenable_tls=false\ninet_prefer=v4\nconcurrency_max={connections}\n"),
    )?;
    // It asks for the name of each client; a name server that is not there answers at once.
    fs::write(folder.join("resolv.conf"), "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")?;
    let (program, home) = (package.join("bin/haraka"), folder.to_string_lossy());
    let start = format!("exec node {} -c {home}", program.display());
    let mut command = match machine::is_root() {
        true => {
            let mut command = Command::new("unshare");
            let start = format!("mount --bind {home}/resolv.conf /etc/resolv.conf && {start}");
            command.args(["--mount", "--propagation", "private", "sh", "-c", &start]);
            command
        }
        false => {
            let mut command = Command::new("sh");
            command.args(["-c", &start]);
            command
        }
    };
    command.current_dir(folder).env("NODE_ENV", "production");
    Peer::start(command, folder, port, "Haraka")
}

/// OpenDKIM as Postfix' milter, with an RSA-2048 key for a domain.
pub fn opendkim(folder: &Path, domain: &str) -> Result<Peer> {
    let system = PathBuf::from("/usr/sbin/opendkim");
    let own = installed("opendkim");
    let (program, libraries) = match system.is_file() {
        true => (system, None),
        false => (own.join("usr/sbin/opendkim"), Some(libraries(&own)?)),
    };
    if !program.is_file() {
        bail!("OpenDKIM is not installed: `cargo xtask bench relay --vs postfix` does it");
    }
    fs::create_dir_all(folder)?;
    let port = free_port()?;
    let key = folder.join("rsa.pem");
    let made = Command::new("openssl").args(["genrsa", "-out"]).arg(&key).arg("2048").stderr(Stdio::null()).status();
    if !made.context("openssl, which makes OpenDKIM's key, cannot be started")?.success() {
        bail!("openssl made no key");
    }
    let conf = folder.join("opendkim.conf");
    fs::write(
        &conf,
        format!(
            "Mode s\nDomain {domain}\nSelector bench\nKeyFile {}\nSocket inet:{port}@127.0.0.1\n\
             Canonicalization relaxed/relaxed\nSignatureAlgorithm rsa-sha256\nInternalHosts 127.0.0.1\n\
             RequireSafeKeys false\nSyslog no\n",
            key.display()
        ),
    )?;
    let mut command = Command::new(program);
    command.arg("-f").arg("-x").arg(conf);
    if let Some(libraries) = libraries {
        command.env("LD_LIBRARY_PATH", libraries);
    }
    Peer::start(command, folder, port, "OpenDKIM")
}

/// The folders with shared libraries of packages that were unpacked.
fn libraries(own: &Path) -> Result<String> {
    let mut folders = Vec::new();
    for lib in ["usr/lib", "lib"].map(|name| own.join(name)).into_iter().filter(|path| path.is_dir()) {
        let below = fs::read_dir(&lib)?.flatten().map(|entry| entry.path()).filter(|path| path.is_dir());
        folders.extend(below.map(|path| path.to_string_lossy().into_owned()));
        folders.push(lib.to_string_lossy().into_owned());
    }
    Ok(folders.join(":"))
}
