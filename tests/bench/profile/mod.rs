//! `cargo xtask bench profile [--messages N]`: where the CPU of one message goes.
//!
//! The host runs in this process, source and sink in others. The spans of connections, messages and attempts are watched:
//! each time a thread enters or leaves one, its own CPU clock is read, and what it spent goes to the innermost span. The
//! store's threads are told apart by name, and what is left of the reactor's is the queue, routes, accepting and polling.
//! Reading the clock costs some 0.3 µs; the sum of it is printed as `clock`.

mod phases;

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use posthaste::config;
use posthaste::metrics::{Depth, metrics};
use posthaste::serve::{Host, Options};
use tokio::runtime::Runtime;
use tracing_subscriber::layer::SubscriberExt as _;

use self::phases::Phases;
use crate::relay::load::{Load, Sessions, Sink};
use crate::relay::relays::{self, SIGNED, UNSIGNED};
use crate::relay::{folder, machine};

/// Between two looks at the sink.
const TICK: Duration = Duration::from_millis(20);

/// Sessions of the source.
const SESSIONS: u32 = 20;

/// Runs it and prints a table for unsigned and one for signed mail.
pub fn run(arguments: &[String]) -> Result<()> {
    let messages: u32 = match arguments {
        [] => 10_000,
        [flag, number] if flag == "--messages" => number.parse().context("--messages takes a number")?,
        _ => bail!("usage: bench profile [--messages N]"),
    };
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(Phases::layer()))?;
    let folder = folder()?;
    let mut sink = Sink::start(folder.path())?;
    let setup = relays::set_up(folder.path(), sink.port, "")?;
    let config = config::load(&setup.folder().join("posthaste.toml"))?;
    let runtime = Runtime::new()?;
    let host = runtime.block_on(Host::start(config, Options::default()))?;
    let http = host.http_addr().context("no HTTP listener")?;
    while tests::http::get(http, "/readyz", &[])?.status != 200 {
        // Components are compiled; nothing tells that but asking.
        std::thread::sleep(TICK);
    }
    let port = host.smtp_addrs().first().context("no SMTP listener")?.port();
    println!(
        "{messages} messages in {SESSIONS} kept sessions; fsync {:.0}/s",
        machine::fsyncs_per_second(sink.folder())?
    );
    for (name, domain) in [("unsigned", UNSIGNED), ("signed", SIGNED)] {
        send(&Load::usual(500, Sessions::Kept, SESSIONS), port, domain, &mut sink)?;
        let before = Spent::now()?;
        send(&Load::usual(messages, Sessions::Kept, SESSIONS), port, domain, &mut sink)?;
        print(name, &Spent::now()?.since(&before), f64::from(messages));
    }
    runtime.block_on(host.shutdown());
    Ok(())
}

fn send(load: &Load, port: u16, domain: &str, sink: &mut Sink) -> Result<()> {
    let before = sink.counted()?;
    if !load.source(port, domain)?.wait()?.success() {
        bail!("smtp-source failed");
    }
    while sink.counted()? - before < u64::from(load.messages) {
        std::thread::sleep(TICK);
    }
    Ok(())
}

/// CPU in nanoseconds until now, and wall time inside stages.
struct Spent {
    process: u64,
    phases: phases::Nanoseconds,
    writer: u64,
    keeper: u64,
    workers: u64,
    stages: Vec<(&'static str, f64)>,
}

impl Spent {
    fn now() -> Result<Spent> {
        let mut spent = Spent {
            process: phases::process_ns(),
            phases: phases::spent(),
            writer: 0,
            keeper: 0,
            workers: 0,
            stages: Vec::new(),
        };
        for task in fs::read_dir("/proc/self/task")?.flatten() {
            let read = |name: &str| fs::read_to_string(task.path().join(name)).unwrap_or_default();
            let on_cpu = read("schedstat").split(' ').next().and_then(|word| word.parse().ok()).unwrap_or(0);
            match read("comm").trim() {
                "store-writer" => spent.writer += on_cpu,
                "store-keeper" => spent.keeper += on_cpu,
                name if name.starts_with("tokio") => spent.workers += on_cpu,
                _ => {}
            }
        }
        let page = metrics().render(Depth::default());
        for stage in ["validator", "transformer", "signer"] {
            let of_stage = |line: &&str| {
                line.starts_with("posthaste_stage_call_seconds_sum") && line.contains(&format!("stage=\"{stage}\""))
            };
            let seconds = page.lines().filter(of_stage).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
            spent.stages.push((stage, seconds.sum()));
        }
        Ok(spent)
    }

    fn since(&self, before: &Spent) -> Spent {
        Spent {
            process: self.process - before.process,
            phases: self.phases.since(&before.phases),
            writer: self.writer - before.writer,
            keeper: self.keeper - before.keeper,
            workers: self.workers - before.workers,
            stages: self.stages.iter().zip(&before.stages).map(|(now, then)| (now.0, now.1 - then.1)).collect(),
        }
    }
}

fn print(name: &str, spent: &Spent, messages: f64) {
    let line = |what: &str, ns: u64| {
        let (each_us, share) = (ns as f64 / messages / 1000.0, 100.0 * ns as f64 / spent.process.max(1) as f64);
        println!("  {what:<46} {each_us:>8.1} µs  {share:>5.1} %");
    };
    let phases = &spent.phases;
    let in_spans = phases.connection + phases.message + phases.attempt;
    println!("{name}, CPU a message:");
    line("SMTP in: dialogue, reading, replies", phases.connection);
    line("message: parsing, pipeline, keys, handing over", phases.message);
    line("store: rows, segment, sync, commit", spent.writer);
    line("store: events, housekeeping", spent.keeper);
    line("SMTP out: dialogue, body", phases.attempt);
    line("queue, routes and DNS, accepting, polling", spent.workers.saturating_sub(in_spans + phases.clock));
    line("clock: what measuring costs", phases.clock);
    line("other threads", spent.process.saturating_sub(spent.workers + spent.writer + spent.keeper));
    line("all", spent.process);
    for (stage, seconds) in &spent.stages {
        println!("  of the message, in the {stage:<28} {:>8.1} µs of wall time", seconds * 1e6 / messages);
    }
}
