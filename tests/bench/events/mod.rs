//! `cargo xtask bench events`: webhooks told in a second, and what an event costs the host.
//!
//! A development host (mail captured, nothing else under way) has told events of many messages; a replay makes them all
//! due at once, for one endpoint on this machine that answers 200. What is measured is the whole way: the outbox, notify
//! and the shaper in WASM, the signature, HTTP, the log.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::json;
use tests::http;
use tests::product::{Product, Setup, root};
use tests::receiver::Receiver;

const KEY: &str = "ph_bench";
/// Messages, recipients of each, and events of each recipient: sent and delivered.
const MESSAGES: usize = 1250;
const RECIPIENTS: usize = 4;
const EVENTS: usize = MESSAGES * RECIPIENTS * 2;
const ROUNDS: usize = 3;
/// What the product promises on two cores, endpoint included.
const PROMISED: f64 = 2000.0;

/// Runs it and prints a line for each round. Fails where the best is below the promise.
pub fn run(_: &[String]) -> Result<()> {
    let setup = Setup::new()?.binary(root().join("target/release/posthaste"));
    let host = setup.start_development(KEY)?;
    let receiver = Receiver::start()?;
    send_all(&host)?;
    println!("{EVENTS} events of {MESSAGES} messages, one endpoint on this machine, 8 at once");
    let mut best: f64 = 0.0;
    for round in 1..=ROUNDS {
        let hook = json!({"endpoint": receiver.url(), "events": ["email.sent", "email.delivered"]});
        let made = http::post(host.http, "/webhooks", KEY, &hook)?.json()?;
        let path = format!("/webhooks/{}", made["id"].as_str().context("no id")?);
        let (cpu, started) = (cpu_of(host.pid())?, Instant::now());
        let replay = http::post(host.http, &format!("{path}/replay"), KEY, &json!({"from": "1970-01-01T00:00:00Z"}))?;
        if replay.json()?["replayed"] != json!(EVENTS) {
            bail!("not all events were replayed: {}", replay.json()?);
        }
        receiver.wait_for_count(EVENTS);
        let taken = started.elapsed();
        let cost = cpu_of(host.pid())?.saturating_sub(cpu);
        let rate = EVENTS as f64 / taken.as_secs_f64();
        let each = cost.as_secs_f64() * 1e6 / EVENTS as f64;
        println!("round {round}: {rate:.0} webhooks/s, {each:.0} µs of CPU an event in the host");
        best = best.max(rate);
        let headers = [("authorization", format!("Bearer {KEY}"))];
        http::request(host.http, "DELETE", &path, &[(headers[0].0, &headers[0].1)], b"")?;
        receiver.take_count();
    }
    if best < PROMISED {
        bail!("{best:.0} webhooks/s are fewer than the {PROMISED:.0} promised");
    }
    Ok(())
}

/// Sends all mail and waits until all of it is captured and its events are told.
fn send_all(host: &Product) -> Result<()> {
    let to: Vec<String> = (0..RECIPIENTS).map(|number| format!("r{number}@dst.test")).collect();
    let mail = json!({"from": "a@src.test", "to": to, "subject": "Hello", "text": "x"});
    let mut last = String::new();
    for _ in 0..MESSAGES {
        let answer = http::post(host.http, "/emails", KEY, &mail)?;
        if answer.status != 200 {
            bail!("a mail was not taken: {}", answer.json()?);
        }
        last = answer.json()?["id"].as_str().unwrap_or_default().to_owned();
    }
    let bearer = format!("Bearer {KEY}");
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let path = format!("/events?email_id={last}&type=email.delivered");
        let events = http::get(host.http, &path, &[("authorization", &bearer)])?.json()?;
        if events["data"].as_array().is_some_and(|data| data.len() == RECIPIENTS) {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("the mail was not captured");
        }
    }
}

/// CPU a process has used (proc(5): `stat`, fields 14 and 15, in ticks of 10 ms).
fn cpu_of(pid: u32) -> Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = stat.rsplit_once(')').context("no name")?;
    let ticks = |place: usize| fields.split_whitespace().nth(place).and_then(|field| field.parse::<u64>().ok());
    let (user, system) = ticks(11).zip(ticks(12)).context("no times")?;
    Ok(Duration::from_millis((user + system) * 10))
}
