//! `cargo xtask bench components`: what a tenant's own component costs, and what its neighbours feel of it.
//!
//! Calls go to the host's components themselves, without HTTP, SMTP and the store's accept, so that what is compared is the
//! calls. Every tenant has a file of its own (one component with another section behind it), as a thousand customers would.

mod field;
mod languages;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use mail::Envelope;
use pipeline::{Content, Limits, Stages as _, Submission};
use posthaste::edge::Edge;
use tokio::runtime::Runtime;

use self::field::{Field, Options, subject};

/// Calls a round of one caller.
const CALLS: u32 = 2000;

const ROUNDS: usize = 7;

const MESSAGE_OCTETS: usize = 10 * 1024;

/// What 100 tenants in turn must reach of one tenant's throughput.
const AT_LEAST: f64 = 0.8;

/// What a neighbour's 99th percentile may rise to.
const NEIGHBOUR_AT_MOST: f64 = 1.2;

/// How long a neighbour is watched beside each misdeed.
const WATCHED: Duration = Duration::from_secs(10);

/// Runs it; takes no options.
pub fn run(arguments: &[String]) -> Result<()> {
    if let Some(word) = arguments.first() {
        bail!("`{word}` is not an option: this benchmark takes none");
    }
    let runtime = Runtime::new()?;
    runtime.block_on(async {
        calls().await?;
        languages::calls().await?;
        tenants().await?;
        neighbours().await
    })
}

/// What one call costs.
async fn calls() -> Result<()> {
    let kept = Field::new(Options::default()).await?;
    let fresh = Field::new(Options { idle_instances: 0, ..Options::default() }).await?;
    for field in [&kept, &fresh] {
        field.push("own", 0).await?;
    }
    println!("one validator call, median of {ROUNDS} rounds of {CALLS}");
    let mut last = Duration::ZERO;
    for (name, field, tenant) in [
        ("built-in, re-used instance", &kept, "nobody"),
        ("built-in, fresh instance", &fresh, "nobody"),
        ("tenant's Rust, re-used instance", &kept, "own"),
        ("tenant's Rust, fresh instance", &fresh, "own"),
    ] {
        let mut rounds = Vec::with_capacity(ROUNDS);
        for _ in 0..ROUNDS {
            let started = Instant::now();
            for _ in 0..CALLS {
                call(&field.edge, tenant).await?;
            }
            rounds.push(started.elapsed() / CALLS);
        }
        last = median(rounds);
        println!("{name:<34}{:>10.1} µs", micros(last));
    }
    // Two tenants, room for one component and for no instance: each call loads.
    let cold = Field::new(Options { loaded: 1, idle_instances: 0, ..Options::default() }).await?;
    cold.push("one", 1).await?;
    cold.push("two", 2).await?;
    let mut loads = Vec::new();
    for _ in 0..20 {
        for tenant in ["one", "two"] {
            let started = Instant::now();
            call(&cold.edge, tenant).await?;
            loads.push(started.elapsed());
        }
    }
    let load = median(loads);
    println!("{:<34}{:>10.1} µs", "tenant's Rust, fresh, from cache", micros(load));
    // The file is read, its digest is made and its machine code is mapped: many times a call.
    ensure!(load > 4 * last, "nothing was loaded in {:.1} µs", micros(load));
    Ok(())
}

/// Throughput and memory with many tenants.
async fn tenants() -> Result<()> {
    let field = Field::new(Options { idle_instances: 1024, ..Options::default() }).await?;
    let empty = resident()?;
    let names: Vec<String> = (0..1000).map(|number| format!("tenant-{number}")).collect();
    let started = Instant::now();
    for (number, name) in names.iter().enumerate() {
        field.push(name, number).await?;
    }
    println!("\n1000 components pushed in {:.1} s", started.elapsed().as_secs_f64());
    let loaded = resident()?;
    // Each has its validator called, and what the whole pipeline takes is what a sender notices.
    let (mut calls, mut messages) = (Vec::new(), Vec::new());
    for count in [1, 100, 1000] {
        calls.push(in_turn(&names[..count], 20 * CALLS, |tenant| call(&field.edge, tenant)).await?);
        messages.push(in_turn(&names[..count], 2 * CALLS, |tenant| message(&field.edge, tenant)).await?);
        let last = |all: &[f64]| (all[all.len() - 1], all[all.len() - 1] / all[0]);
        let ((calls, of_calls), (messages, of_messages)) = (last(&calls), last(&messages));
        println!(
            "{count:>5} tenants in turn: {messages:>9.0} messages a second, {of_messages:.2} of one tenant's; \
             {calls:>9.0} calls alone, {of_calls:.2}"
        );
    }
    let reached = messages[1] / messages[0];
    let active = resident()?;
    let idle = Field::reopened(&field).await?;
    let mb = |bytes: f64| bytes / 1e6 / names.len() as f64;
    println!("memory of a tenant with its component loaded: {:.3} MB", mb(loaded - empty));
    println!("memory of a tenant with an instance kept:      {:.3} MB", mb(active - empty));
    let before = resident()?;
    let again = Field::reopened(&idle).await?;
    println!("memory of a tenant that was not called yet:    {:.3} MB", mb((resident()? - before).max(0.0)));
    drop(again);
    ensure!(reached >= AT_LEAST, "100 tenants reach {reached:.2} of one tenant's messages: {AT_LEAST} is the aim");
    Ok(())
}

/// How often a second something is done for one tenant after the other.
async fn in_turn<'a, F>(names: &'a [String], times: u32, each: impl Fn(&'a str) -> F) -> Result<f64>
where
    F: Future<Output = Result<()>>,
{
    let mut rounds = Vec::new();
    for _ in 0..3 {
        let started = Instant::now();
        for name in names.iter().cycle().take(times as usize) {
            each(name).await?;
        }
        rounds.push(started.elapsed() / times);
    }
    Ok(1.0 / median(rounds).as_secs_f64())
}

/// A message of 10 KB goes through the pipeline of a tenant who does not sign.
async fn message(edge: &Arc<Edge>, tenant: &str) -> Result<()> {
    let address = |text: &str| mail::Address::parse(text).map_err(|error| anyhow!("{text}: {error}"));
    let mut message =
        b"From: a@one.test\r\nTo: b@two.test\r\nSubject: fine\r\nDate: Sun, 22 Nov 2026 08:00:00 +0000\r\n\
                        Message-ID: <1@one.test>\r\n\r\n"
            .to_vec();
    while message.len() < MESSAGE_OCTETS {
        message.extend_from_slice(b"0123456789012345678901234567890123456789012345678901234567890123456789\r\n");
    }
    let submission = Submission {
        envelope: Envelope { sender: Some(address("a@one.test")?), recipients: vec![address("b@two.test")?] },
        content: Content::Raw { message, message_id: "<1@one.test>".to_owned(), trace: Vec::new() },
        attributes: Vec::new(),
        limits: Limits { message_bytes: 25 << 20, recipients: 1000 },
        now_s: 1_790_000_000,
    };
    match pipeline::run(&edge.stages(tenant), submission).await {
        Ok(_) => Ok(()),
        Err(refusal) => bail!("the message was refused: {refusal:?}"),
    }
}

/// A neighbour's times beside each misdeed.
async fn neighbours() -> Result<()> {
    let field = Arc::new(Field::new(Options { cpu_percent: 25, ..Options::default() }).await?);
    field.push("bad", 0).await?;
    field.push("good", 1).await?;
    call(&field.edge, "good").await?;
    // A tenth of what one caller reaches alone.
    let started = Instant::now();
    for _ in 0..CALLS {
        call(&field.edge, "good").await?;
    }
    let pace = 10 * started.elapsed() / CALLS;
    println!("\na neighbour's call every {:.0} µs, beside another tenant's misdeeds, 4 at once", micros(pace));
    let mut alone = watch(&field.edge, pace).await?;
    println!("{:<14}p99 {:>9.1} µs", "alone", micros(p99(&mut alone)));
    let limit = p99(&mut alone).mul_f64(NEIGHBOUR_AT_MOST);
    for deed in ["loop", "sleep", "grow", "headers", "trap", "nonsense", "unavailable"] {
        let callers: Vec<_> = (0..4)
            .map(|_| {
                let edge = field.edge.clone();
                tokio::spawn(async move {
                    loop {
                        // It fails: that is what it is for.
                        let _ = edge.stages("bad").validate(subject(deed)).await;
                        tokio::task::yield_now().await;
                    }
                })
            })
            .collect();
        let watched = watch(&field.edge, pace).await;
        callers.iter().for_each(tokio::task::JoinHandle::abort);
        let mut watched = watched?;
        let p99 = p99(&mut watched);
        let verdict = if p99 > limit { "  (over the aim)" } else { "" };
        println!("{deed:<14}p99 {:>9.1} µs, {} calls{verdict}", micros(p99), watched.len());
    }
    Ok(())
}

/// Times of a tenant's calls at a pace.
async fn watch(edge: &Arc<Edge>, pace: Duration) -> Result<Vec<Duration>> {
    let started = Instant::now();
    let mut times = Vec::new();
    while started.elapsed() < WATCHED {
        let begun = Instant::now();
        call(edge, "good").await?;
        let took = begun.elapsed();
        times.push(took);
        tokio::time::sleep(pace.saturating_sub(took)).await;
    }
    Ok(times)
}

async fn call(edge: &Arc<Edge>, tenant: &str) -> Result<()> {
    edge.stages(tenant).validate(subject("fine")).await.map(drop).map_err(|error| anyhow::anyhow!("{error:?}"))
}

fn p99(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times.get(times.len() * 99 / 100).copied().unwrap_or_default()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// Resident memory of this process in bytes.
fn resident() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup")?;
    let line = text.lines().find(|line| line.starts_with("Rss:")).context("no Rss")?;
    let kib: f64 = line.split_whitespace().nth(1).context("an empty Rss")?.parse()?;
    Ok(kib * 1024.0)
}
