//! `cargo xtask bench relay [--vs postfix,haraka] [--messages N] [--rounds N] [--sessions 20,100] [--latency S]
//! [--folder DIR]`: smtp-source to a relay to smtp-sink.
//!
//! All relays store durably before their 250 and deliver to the same sink with the same number of connections. Rounds
//! are interleaved and medians printed, because a machine's mood changes within minutes. The rate of fsync is probed
//! before each round: figures of different runs compare only where it is alike.
//!
//! - accept: messages a second until smtp-source is done, that is until the last 250.
//! - end to end: messages a second until the sink has counted all.
//! - CPU: of the relay's whole process trees, a message.
//! - latency: from the final dot to the 250, 64 sessions at half of the rate that each relay takes at most.
//!
//! Everybody's files are in a folder of `--folder`, `/var/tmp` unless told. Where that is memory, syncs cost nothing and
//! the programs are compared without the disk.

pub mod latency;
pub mod load;
pub mod machine;
mod peers;
pub mod relays;
mod report;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use self::latency::Latency;
use self::load::{Load, Sessions, Sink};
use self::relays::Relay;
use self::report::Row;

/// A folder that is on a disk nearly everywhere.
const ON_DISK: &str = "/var/tmp";

/// What the command line asks for.
struct Options {
    messages: u32,
    rounds: usize,
    /// Sessions at once, each number by itself.
    sessions: Vec<u32>,
    /// How long latencies are measured; zero: not at all.
    latency: Duration,
    postfix: bool,
    haraka: bool,
    /// In which a folder is made for all that is stored.
    folder: PathBuf,
}

/// Runs it with the words after its name.
pub fn run(arguments: &[String]) -> Result<()> {
    let options = options(arguments.iter().cloned())?;
    let folder = folder_in(&options.folder)?;
    let mut sink = Sink::start(folder.path())?;
    let mut contestants = relays::posthaste(folder.path(), sink.port)?;
    if options.postfix {
        contestants.extend(relays::postfix(folder.path(), sink.port)?);
    }
    if options.haraka {
        contestants.push(relays::haraka(folder.path(), sink.port)?);
    }
    println!(
        "{} messages of {} octets, {} rounds, medians; {} connections to the sink; fsync {:.0}/s",
        options.messages,
        load::MESSAGE_OCTETS,
        options.rounds,
        load::OUTBOUND,
        machine::fsyncs_per_second(sink.folder())?,
    );
    let rows = measure(&options, &contestants, &mut sink)?;
    for line in report::table(&rows) {
        println!("{line}");
    }
    let latencies = latencies(&options, &contestants, &mut sink)?;
    let verdict = report::verdict(&rows, &latencies);
    for line in &verdict.lines {
        println!("{line}");
    }
    if !verdict.met {
        bail!("a bar was not met");
    }
    Ok(())
}

/// On a disk (a temporary folder may be memory), and where Postfix' user can go.
pub fn folder() -> Result<tempfile::TempDir> {
    folder_in(Path::new(ON_DISK))
}

fn folder_in(parent: &Path) -> Result<tempfile::TempDir> {
    let made = tempfile::Builder::new().prefix("posthaste-bench-").tempdir_in(parent);
    made.with_context(|| format!("no folder can be made in {}", parent.display()))
}

fn measure(options: &Options, contestants: &[Relay], sink: &mut Sink) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for relay in contestants {
        // Processes start, caches fill, the DKIM key is unsealed.
        Load::usual(200, Sessions::Kept, 20).run(relay, sink)?;
    }
    for round in 0..options.rounds {
        for &count in &options.sessions {
            for sessions in [Sessions::Kept, Sessions::New] {
                // Each relay comes first as often as the others.
                for at in 0..contestants.len() {
                    let relay = &contestants[(at + round) % contestants.len()];
                    let fsyncs = machine::fsyncs_per_second(sink.folder())?;
                    let result = Load::usual(options.messages, sessions, count).run(relay, sink)?;
                    let row = Row { relay: relay.name, count, sessions, result, fsyncs };
                    eprintln!("round {}: {}", round + 1, report::line(&row));
                    rows.push(row);
                }
            }
        }
    }
    Ok(rows)
}

/// Each relay's at half of its own full rate; and ours at half of Postfix', where that one is there, which is not judged,
/// with what the disk alone takes at that pace.
fn latencies(options: &Options, contestants: &[Relay], sink: &mut Sink) -> Result<Vec<(&'static str, Latency)>> {
    let mut found = Vec::new();
    if options.latency.is_zero() {
        return Ok(found);
    }
    println!(
        "{}",
        report::sync_line("one sync of 10 KB, alone", machine::sync_times(sink.folder(), options.latency / 2)?)
    );
    for relay in contestants {
        let full = latency::measure(relay, None, options.latency / 2)?;
        sink.settle(full.messages)?;
        let half = latency::measure(relay, Some(full.per_second / 2.0), options.latency)?;
        sink.settle(half.messages)?;
        println!("{}", report::latency_line(relay.name, &half, &format!("takes {:.0}/s", full.per_second)));
        found.push((relay.name, half));
    }
    let postfix = found.iter().find(|(name, _)| *name == relays::POSTFIX).map(|(_, half)| half.per_second);
    if let (Some(rate), Some(ours)) = (postfix, contestants.iter().find(|relay| relay.name == relays::POSTHASTE)) {
        let same = latency::measure(ours, Some(rate), options.latency)?;
        sink.settle(same.messages)?;
        println!("{}", report::latency_line(ours.name, &same, "Postfix' load"));
        let what = format!("two syncs of 10 KB at {rate:.0}/s, alone");
        println!("{}", report::sync_line(&what, machine::paced_syncs(sink.folder(), rate, options.latency)?));
    }
    Ok(found)
}

fn options(arguments: impl Iterator<Item = String>) -> Result<Options> {
    let mut options = Options {
        messages: 3000,
        rounds: 3,
        sessions: vec![20, 100],
        latency: Duration::from_secs(10),
        postfix: false,
        haraka: false,
        folder: ON_DISK.into(),
    };
    let mut arguments = arguments;
    while let Some(word) = arguments.next() {
        let mut value = || arguments.next().with_context(|| format!("`{word}` needs a value"));
        match word.as_str() {
            "--messages" => options.messages = value()?.parse().context("--messages takes a number")?,
            "--rounds" => options.rounds = value()?.parse().context("--rounds takes a number")?,
            "--latency" => {
                options.latency = Duration::from_secs(value()?.parse().context("--latency takes seconds")?);
            }
            "--sessions" => {
                let numbers: Result<Vec<u32>, _> = value()?.split(',').map(str::parse).collect();
                options.sessions = numbers.context("--sessions takes numbers such as 20,100")?;
            }
            "--folder" => options.folder = value()?.into(),
            "--vs" => {
                for name in value()?.split(',') {
                    match name {
                        "postfix" => options.postfix = true,
                        "haraka" => options.haraka = true,
                        other => bail!("`--vs {other}`: postfix and haraka can be compared with"),
                    }
                }
            }
            _ => bail!(
                "`{word}` is not an option: --vs postfix,haraka, --messages N, --rounds N, --sessions N,N, --latency SECONDS, \
                 --folder DIR"
            ),
        }
    }
    if options.messages == 0 || options.rounds == 0 || options.sessions.is_empty() || options.sessions.contains(&0) {
        bail!("--messages, --rounds and --sessions must be at least 1");
    }
    Ok(options)
}
