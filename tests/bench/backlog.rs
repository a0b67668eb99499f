//! `cargo xtask bench backlog [--queued N] [--messages N]`: mail that flows beside a long queue against mail that flows
//! alone, and the first delivery after a restart with that queue.
//!
//! The queued messages are of 1 KB and for a site that refuses every connection; the queue tries them now and then, as it
//! does with a dead site. What is measured meanwhile goes to the sink.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tests::http;
use tests::product::free_port;

use crate::relay::load::{Load, Sessions, Sink};
use crate::relay::relays::{self, UNSIGNED};
use crate::relay::{folder, machine};

/// The bars: the part of the rate, memory, and from the start to the first delivery.
const RATE: f64 = 0.8;
const MEMORY_BYTES: u64 = 1 << 30;
const FIRST: Duration = Duration::from_secs(10);

const QUEUED_OCTETS: u32 = 1024;
const QUEUED_DOMAIN: &str = "queued.test";
const ROUNDS: usize = 3;

/// How long the queue may take to be filled.
const FILLED: Duration = Duration::from_secs(30 * 60);

/// Runs it; fails where a bar is missed.
pub fn run(arguments: &[String]) -> Result<()> {
    let (mut queued, mut messages) = (1_000_000, 5000);
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        let number = words.next().with_context(|| format!("`{word}` needs a number"))?;
        let number: u32 = number.parse().with_context(|| format!("`{word}` takes a number"))?;
        match word.as_str() {
            "--queued" => queued = number,
            "--messages" => messages = number,
            _ => bail!("usage: bench backlog [--queued N] [--messages N]"),
        }
    }
    let folder = folder()?;
    let mut sink = Sink::start(folder.path())?;
    let admin = SocketAddr::from(([127, 0, 0, 1], free_port()?));
    let refusing = free_port()?;
    let more = format!(
        "[admin]\nlisten = \"{admin}\"\n[[route]]\ndomain = \"{QUEUED_DOMAIN}\"\nrelay = \"127.0.0.1:{refusing}\""
    );
    let setup = relays::set_up(folder.path(), sink.port, &more)?.delivery("retry_delays = [\"12h\"]");
    let key = format!("Bearer {}", setup.command(&["key", "create", "--operator"])?);
    let figure = |name: &str| figure(admin, &key, name);
    let product = setup.start()?;
    product.settled()?;
    let (pid, port) = (product.pid(), product.smtp.port());
    let contestants = relays::of_product(product, setup);
    let relay = contestants.first().context("there is no relay")?;
    let load = Load::usual(messages, Sessions::Kept, 20);
    load.run(relay, &mut sink)?;
    let mut rate = || -> Result<f64> {
        let mut rates = (0..ROUNDS).map(|_| Ok(load.run(relay, &mut sink)?.delivered_per_second));
        let mut rates: Vec<f64> = rates.by_ref().collect::<Result<_>>()?;
        rates.sort_by(f64::total_cmp);
        rates.get(ROUNDS / 2).copied().context("no round")
    };
    let empty = rate()?;
    println!("empty: {empty:.0} messages/s end to end");

    let filling = Instant::now();
    let fill = Load { messages: queued, octets: QUEUED_OCTETS, sessions: Sessions::Kept, count: 50, to: QUEUED_DOMAIN };
    if !fill.source(port, UNSIGNED)?.wait()?.success() {
        bail!("smtp-source failed");
    }
    let wanted = f64::from(queued);
    while figure("posthaste_queue_recipients")? < wanted {
        if filling.elapsed() > FILLED {
            bail!("the queue was not full after {FILLED:?}");
        }
        std::thread::sleep(Duration::from_secs(1));
    }
    println!("{queued} queued after {:.0} s", filling.elapsed().as_secs_f64());
    let full = rate()?;
    let memory = machine::peak_bytes(pid)?;
    println!(
        "with them: {full:.0} messages/s end to end, {:.2} of empty (at least {RATE}), {} MB of memory at most",
        full / empty,
        memory / 1_000_000
    );
    if full / empty < RATE {
        bail!("the queue slows down what flows beside it");
    }
    if memory > MEMORY_BYTES {
        bail!("the queue takes more than 1 GiB of memory");
    }
    let (first, memory) = restarted(contestants, &mut sink)?;
    println!(
        "first delivery {:.2} s after a start with the queue (at most {} s), {} MB of memory at most until then",
        first.as_secs_f64(),
        FIRST.as_secs(),
        memory / 1_000_000
    );
    if memory > MEMORY_BYTES {
        bail!("a start takes more than 1 GiB of memory");
    }
    if first > FIRST {
        bail!("the first delivery after a start takes too long");
    }
    Ok(())
}

/// Starts the host again; the time until a message that is sent at once is delivered, and the most memory until then.
fn restarted(contestants: Vec<relays::Relay>, sink: &mut Sink) -> Result<(Duration, u64)> {
    let (product, setup) = relays::into_product(contestants).context("the host is still held")?;
    product.stop()?;
    let started = Instant::now();
    let product = setup.start()?;
    let pid = product.pid();
    let contestants = relays::of_product(product, setup);
    let relay = contestants.first().context("there is no relay")?;
    Load::usual(1, Sessions::New, 1).run(relay, sink)?;
    Ok((started.elapsed(), machine::peak_bytes(pid)?))
}

/// One figure of `/metrics`.
fn figure(admin: SocketAddr, key: &str, name: &str) -> Result<f64> {
    let page = String::from_utf8(http::get(admin, "/metrics", &[("authorization", key)])?.body)?;
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|value| value.parse().ok()).with_context(|| format!("/metrics has no {name}"))
}
