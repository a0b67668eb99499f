//! `cargo xtask bench relay [--vs postfix] [--messages N] [--rounds N]`: smtp-source to a relay to smtp-sink.
//!
//! Both relays store durably before their 250 and deliver to the same sink with the same number of connections. Rounds
//! are interleaved and medians printed, because a machine's mood changes within minutes. The rate of fsync is probed
//! before each round: figures of different runs compare only where it is alike.
//!
//! - accept: messages a second until smtp-source is done, that is until the last 250.
//! - end to end: messages a second until the sink has counted all.
//! - CPU: of the relay's whole process tree, a message.

mod load;
mod machine;
mod relays;
mod report;

use anyhow::{Context as _, Result, bail};

use self::load::{Load, Sessions, Sink};
use self::relays::Relay;
use self::report::Row;

/// What the command line asks for.
struct Options {
    messages: u32,
    rounds: usize,
    versus_postfix: bool,
}

/// Runs it with the words after its name.
pub fn run(arguments: &[String]) -> Result<()> {
    let options = options(arguments.iter().cloned())?;
    // On a disk (a temporary folder may be memory), and where Postfix' user can go.
    let folder = tempfile::Builder::new().prefix("posthaste-bench-").tempdir_in("/var/tmp")?;

    let mut sink = Sink::start(folder.path())?;
    let mut contestants = relays::posthaste(folder.path(), sink.port)?;
    if options.versus_postfix {
        contestants.push(relays::postfix(folder.path(), sink.port)?);
    }
    println!(
        "{} messages of {} octets in {} sessions, {} rounds, medians",
        options.messages,
        load::MESSAGE_OCTETS,
        load::SESSIONS,
        options.rounds
    );
    let rows = measure(&options, &contestants, &mut sink)?;
    for line in report::table(&rows) {
        println!("{line}");
    }
    let verdict = report::verdict(&rows);
    for line in &verdict.lines {
        println!("{line}");
    }
    if !verdict.met {
        bail!("posthaste is slower than Postfix");
    }
    Ok(())
}

fn measure(options: &Options, contestants: &[Relay], sink: &mut Sink) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for relay in contestants {
        // Processes start, caches fill, the DKIM key is unsealed.
        Load { messages: 200, sessions: Sessions::Kept }.run(relay, sink)?;
    }
    for round in 0..options.rounds {
        for sessions in [Sessions::Kept, Sessions::New] {
            // Each relay comes first as often as the others.
            for at in 0..contestants.len() {
                let relay = &contestants[(at + round) % contestants.len()];
                let fsyncs = machine::fsyncs_per_second(sink.folder())?;
                let result = Load { messages: options.messages, sessions }.run(relay, sink)?;
                eprintln!("round {}: {}", round + 1, report::line(relay.name, sessions, &result, fsyncs));
                rows.push(Row { relay: relay.name, sessions, result, fsyncs });
            }
        }
    }
    Ok(rows)
}

fn options(arguments: impl Iterator<Item = String>) -> Result<Options> {
    let mut options = Options { messages: 3000, rounds: 3, versus_postfix: false };
    let mut arguments = arguments;
    while let Some(word) = arguments.next() {
        let mut value = || arguments.next().with_context(|| format!("`{word}` needs a value"));
        match word.as_str() {
            "--messages" => options.messages = value()?.parse().context("--messages takes a number")?,
            "--rounds" => options.rounds = value()?.parse().context("--rounds takes a number")?,
            "--vs" => match value()?.as_str() {
                "postfix" => options.versus_postfix = true,
                other => bail!("`--vs {other}`: postfix is the one that can be compared with"),
            },
            _ => bail!("`{word}` is not an option: --vs postfix, --messages N, --rounds N"),
        }
    }
    if options.messages == 0 || options.rounds == 0 {
        bail!("--messages and --rounds must be at least 1");
    }
    Ok(options)
}
