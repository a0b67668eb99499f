//! The two ends of the road: smtp-source, which submits, and smtp-sink, which takes and counts.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::machine;
use super::relays::Relay;

pub const MESSAGE_OCTETS: u32 = 10 * 1024;

/// Connections of each relay to the sink.
pub const OUTBOUND: u32 = 20;

/// How often the sink's counter is read.
const TICK: Duration = Duration::from_millis(10);

/// A relay that delivers nothing for so long is stuck.
const STUCK: Duration = Duration::from_secs(60);

/// How a submitter uses its sessions.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Sessions {
    /// Many messages in one.
    Kept,
    /// One message in one.
    New,
}

impl Sessions {
    pub fn name(self) -> &'static str {
        match self {
            Sessions::Kept => "kept",
            Sessions::New => "new",
        }
    }
}

/// What is thrown at a relay.
pub struct Load {
    pub messages: u32,
    pub octets: u32,
    pub sessions: Sessions,
    /// Sessions at once.
    pub count: u32,
    /// The recipient's domain: a route may lead it elsewhere.
    pub to: &'static str,
}

/// What came of it.
#[derive(Clone, Copy)]
pub struct Measured {
    pub accepted_per_second: f64,
    pub delivered_per_second: f64,
    pub cpu_ms_per_message: f64,
    pub resident_bytes: u64,
}

impl Load {
    /// The load that all figures of the table are of.
    pub fn usual(messages: u32, sessions: Sessions, count: u32) -> Load {
        Load { messages, octets: MESSAGE_OCTETS, sessions, count, to: "sink.test" }
    }

    /// Runs smtp-source against the relay and waits until the sink has everything.
    pub fn run(&self, relay: &Relay, sink: &mut Sink) -> Result<Measured> {
        let before = sink.counted()?;
        let cpu_before = machine::usage(&relay.pids)?;
        let start = Instant::now();
        let mut source = self.source(relay.port, relay.sender_domain)?;
        let mut accepted = None;
        let (mut seen, mut moved) = (0, Instant::now());
        loop {
            if accepted.is_none()
                && let Some(status) = source.try_wait()?
            {
                if !status.success() {
                    bail!("smtp-source failed against {}: {status}", relay.name);
                }
                accepted = Some(start.elapsed());
            }
            let count = sink.counted()? - before;
            if count != seen {
                (seen, moved) = (count, Instant::now());
            }
            if accepted.is_some() && count >= u64::from(self.messages) {
                sink.settled = before + count;
                break;
            }
            if moved.elapsed() > STUCK {
                let _ = source.kill();
                bail!("{}: {count} of {} messages arrived, then none for {STUCK:?}", relay.name, self.messages);
            }
            std::thread::sleep(TICK);
        }
        let delivered = start.elapsed();
        let cpu_after = machine::usage(&relay.pids)?;
        let messages = f64::from(self.messages);
        Ok(Measured {
            accepted_per_second: messages / accepted.unwrap_or(delivered).as_secs_f64(),
            delivered_per_second: messages / delivered.as_secs_f64(),
            cpu_ms_per_message: (cpu_after.cpu_ms - cpu_before.cpu_ms) / messages,
            resident_bytes: cpu_after.resident_bytes,
        })
    }

    /// smtp-source, begun.
    pub fn source(&self, port: u16, sender_domain: &str) -> Result<Child> {
        let mut command = Command::new("smtp-source");
        if self.sessions == Sessions::Kept {
            command.arg("-d");
        }
        let numbers = [("-s", self.count.min(self.messages)), ("-m", self.messages), ("-l", self.octets)];
        for (flag, number) in numbers {
            command.args([flag, &number.to_string()]);
        }
        let (sender, to) = (format!("sender@{sender_domain}"), format!("recipient@{}", self.to));
        command.args(["-f", &sender, "-t", &to, "-S", "bench", &format!("127.0.0.1:{port}")]);
        command.stdin(Stdio::null()).spawn().context("smtp-source cannot be started (it comes with Postfix)")
    }
}

/// A running smtp-sink. Ended when dropped.
pub struct Sink {
    process: Child,
    folder: PathBuf,
    counter: File,
    last: u64,
    /// Up to where all were waited for.
    settled: u64,
    pub port: u16,
}

impl Sink {
    pub fn start(folder: &Path) -> Result<Sink> {
        let port = tests::product::free_port()?;
        let path = folder.join("sink.out");
        let output = File::create(&path)?;
        let mut command = Command::new("smtp-sink");
        command.arg("-c");
        if machine::is_root() {
            command.args(["-u", "nobody"]);
        }
        command.args([&format!("127.0.0.1:{port}"), "1024"]).stdin(Stdio::null());
        let process = command
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .context("smtp-sink cannot be started (it comes with Postfix)")?;
        let mut sink =
            Sink { process, folder: folder.to_owned(), counter: File::open(&path)?, last: 0, settled: 0, port };
        for _ in 0..500 {
            if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return Ok(sink);
            }
            if sink.process.try_wait()?.is_some() {
                break;
            }
            std::thread::sleep(TICK);
        }
        bail!("smtp-sink did not start: {}", std::fs::read_to_string(path).unwrap_or_default())
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Waits until so many more messages are there than when this was called last, or since the start.
    pub fn settle(&mut self, messages: usize) -> Result<()> {
        self.settled += messages as u64;
        let (mut seen, mut moved) = (0, Instant::now());
        loop {
            let count = self.counted()?;
            if count >= self.settled {
                self.settled = count;
                return Ok(());
            }
            if count != seen {
                (seen, moved) = (count, Instant::now());
            }
            if moved.elapsed() > STUCK {
                bail!("{count} of {} messages arrived, then none for {STUCK:?}", self.settled);
            }
            std::thread::sleep(TICK);
        }
    }

    /// Messages taken since the start: the last `mesg=N` of what the sink prints over and over.
    pub fn counted(&mut self) -> Result<u64> {
        let length = self.counter.seek(SeekFrom::End(0))?;
        self.counter.seek(SeekFrom::Start(length.saturating_sub(400)))?;
        let mut tail = Vec::new();
        self.counter.read_to_end(&mut tail)?;
        let tail = String::from_utf8_lossy(&tail);
        let last = tail.rmatch_indices("mesg=").find_map(|(at, name)| {
            let digits: String = tail[at + name.len()..].chars().take_while(char::is_ascii_digit).collect();
            // The newest line may be half written; a count never falls.
            digits.parse::<u64>().ok().filter(|count| *count >= self.last)
        });
        self.last = last.unwrap_or(self.last);
        Ok(self.last)
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
