//! `cargo xtask bench soak [--minutes N]`: half of full rate, for long; memory and latency a line a minute. Both are to stay
//! where they are.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::relay::load::Sink;
use crate::relay::{folder, latency, machine, relays};

const MINUTE: Duration = Duration::from_secs(60);

/// How much more memory, and how much longer a latency (the median of p99s), the last third of the minutes may have than the one
/// before it.
const MEMORY: f64 = 1.05;
const LATENCY: f64 = 1.25;
const TAIL: f64 = 1.5;

/// A day of bodies at this rate is more than most disks hold; with this, segments are used again and again.
const KEEP: &str = "[store]\nkeep_bodies = \"1m\"";

/// Less than this is the machine's mood.
const MEMORY_SLACK_BYTES: f64 = 8e6;
const LATENCY_SLACK_MS: f64 = 1.0;
const TAIL_SLACK_MS: f64 = 2.0;

/// Runs it; fails where memory or latency grew.
pub fn run(arguments: &[String]) -> Result<()> {
    let minutes: usize = match arguments {
        [] => 30,
        [flag, number] if flag == "--minutes" => number.parse().context("--minutes takes a number")?,
        _ => bail!("usage: bench soak [--minutes N]"),
    };
    let folder = folder()?;
    let mut sink = Sink::start(folder.path())?;
    let setup = relays::set_up(folder.path(), sink.port, KEEP)?;
    let product = setup.start()?;
    product.settled()?;
    let contestants = relays::of_product(product, setup);
    let relay = contestants.first().context("there is no relay")?;
    let full = latency::measure(relay, None, Duration::from_secs(15))?;
    sink.settle(full.messages)?;
    println!(
        "{minutes} minutes at half of {:.0} messages/s; fsync {:.0}/s",
        full.per_second,
        machine::fsyncs_per_second(sink.folder())?
    );
    let (mut memory, mut latencies, mut tails) = (Vec::new(), Vec::new(), Vec::new());
    for minute in 1..=minutes {
        let before = machine::usage(&relay.pids)?;
        let seen = latency::measure(relay, Some(full.per_second / 2.0), MINUTE)?;
        sink.settle(seen.messages)?;
        let after = machine::usage(&relay.pids)?;
        println!(
            "minute {minute:>3}: {:>5.0}/s  RSS {:>4} MB  p50 {:>6.2} ms  p99 {:>7.2} ms  CPU {:.3} ms a message  load {:.1}",
            seen.per_second,
            after.resident_bytes / 1_000_000,
            seen.p50_ms,
            seen.p99_ms,
            (after.cpu_ms - before.cpu_ms) / seen.messages as f64,
            machine::load(),
        );
        memory.push(after.resident_bytes as f64);
        latencies.push(seen.p50_ms);
        tails.push(seen.p99_ms);
    }
    // The first minutes fill pools and caches.
    let third = minutes / 3;
    if third == 0 {
        return Ok(());
    }
    let (before, last) = (minutes - 2 * third, minutes - third);
    let mean = |values: &[f64], from: usize| values[from..from + third].iter().sum::<f64>() / third as f64;
    let (was, is) = (mean(&memory, before), mean(&memory, last));
    let (was_ms, is_ms) = (mean(&latencies, before), mean(&latencies, last));
    // One minute in which the disk stood still is not a tail that grows.
    let median = |from: usize| {
        let mut values = tails[from..from + third].to_vec();
        values.sort_by(f64::total_cmp);
        values[third / 2]
    };
    let (tail_was_ms, tail_ms) = (median(before), median(last));
    println!(
        "RSS {:.1} -> {:.1} MB, p50 {was_ms:.2} -> {is_ms:.2} ms, p99 {tail_was_ms:.2} -> {tail_ms:.2} ms, from the second third to the last",
        was / 1e6,
        is / 1e6
    );
    if is > was * MEMORY + MEMORY_SLACK_BYTES {
        bail!("memory grew");
    }
    if is_ms > was_ms * LATENCY + LATENCY_SLACK_MS || tail_ms > tail_was_ms * TAIL + TAIL_SLACK_MS {
        bail!("latency grew");
    }
    Ok(())
}
