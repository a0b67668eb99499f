//! `cargo xtask bench edge`: what a submission costs an edge, by part. The same runner serves a component that only
//! answers 200, and `submit` as Spin composes it: without a key, with an Ed25519 key, with an RSA-2048 key, both used by
//! `keys` inside the sandbox. The host is a function call away, so that none of its work is measured.
//!
//! Spin uses an instance for many requests: so do the first figures; the others pay for a fresh instance each time, in
//! which the keys are read anew. Rounds are interleaved and medians compared.

mod host;

use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use http::Request;
use serde_json::json;
use tests::edge::{Platform, Runner};
use tests::edge_key::EdgeKey;
use tests::product::root;
use tests::spin::Manifest;
use tokio::runtime::{Builder, Runtime};

use self::host::Host;

const ROUNDS: usize = 15;

/// Requests of one instance, as Spin has it by default.
const REQUESTS: u32 = 128;

/// The system counts a thread's time in ticks of some milliseconds: less would be lost in them.
const LEAST_NS: u64 = 100_000_000;

/// Requests with a fresh instance each, a round.
const FRESH_REQUESTS: u32 = 32;

/// Octets of the HTML of a message.
const MESSAGE_OCTETS: usize = 10 * 1024;

/// Something that is measured.
struct Case {
    name: &'static str,
    runner: Runner,
    /// CPU a request in nanoseconds, a round.
    reused: Vec<u64>,
    fresh: Vec<u64>,
}

/// Runs it; takes no options.
pub fn run(arguments: &[String]) -> Result<()> {
    if let Some(word) = arguments.first() {
        bail!("`{word}` is not an option: this benchmark takes none");
    }
    // One thread does all the work, so its CPU time is all there is.
    let runtime = Builder::new_current_thread().build()?;
    let mut cases = cases()?;
    for case in &cases {
        case.measure(&runtime, true, 8)?;
    }
    for _ in 0..ROUNDS {
        for case in &mut cases {
            let (reused, fresh) =
                (case.measure(&runtime, false, REQUESTS)?, case.measure(&runtime, true, FRESH_REQUESTS)?);
            case.reused.push(reused);
            case.fresh.push(fresh);
        }
    }
    println!("CPU a request, a message of {} KB, medians of {ROUNDS} rounds", MESSAGE_OCTETS / 1024);
    println!("{:<28} {:>21} {:>21}", "", "re-used instance", "fresh instance");
    let bare = (median(&cases[0].reused), median(&cases[0].fresh));
    for case in &cases {
        let column = |own: u64, bare: u64| format!("{:.3} ms ({:.1} x)", own as f64 / 1e6, own as f64 / bare as f64);
        println!(
            "{:<28} {:>21} {:>21}",
            case.name,
            column(median(&case.reused), bare.0),
            column(median(&case.fresh), bare.1)
        );
    }
    Ok(())
}

fn cases() -> Result<Vec<Case>> {
    let host = Arc::new(Host);
    let bare = root().join("target/guests/bare.wasm");
    let bare = std::fs::read(&bare).with_context(|| format!("{}: run `cargo xtask bench edge`", bare.display()))?;
    let submit = Manifest::read()?.compose("submit")?;
    let case = |name, component: &[u8], keys: &[EdgeKey]| {
        let runner = Runner::new(component, Platform::Spin, host.clone())?;
        let runner = runner.variables(&[
            ("delivery_url", "http://host.test"),
            ("delivery_token", "token"),
            ("dkim_keys", &EdgeKey::variable(keys)),
        ]);
        Ok::<_, anyhow::Error>(Case { name, runner, reused: Vec::new(), fresh: Vec::new() })
    };
    Ok(vec![
        case("a component that answers 200", &bare, &[])?,
        case("submit, unsigned", &submit, &[])?,
        case("submit, Ed25519 in sandbox", &submit, &[EdgeKey::ed25519("src.test", "e")?])?,
        case("submit, RSA in sandbox", &submit, &[EdgeKey::rsa("src.test", "r")?])?,
    ])
}

impl Case {
    /// CPU a request in nanoseconds.
    fn measure(&self, runtime: &Runtime, fresh: bool, requests: u32) -> Result<u64> {
        let before = cpu_ns()?;
        let mut count = 0;
        loop {
            runtime.block_on(async {
                let mut instance = self.runner.instance().await?;
                for number in 0..requests {
                    if fresh && number > 0 {
                        instance = self.runner.instance().await?;
                    }
                    let served = instance.serve(request()?).await?;
                    ensure!(served.response.status() == 200, "{}: {served:?}", self.name);
                }
                Ok(())
            })?;
            count += u64::from(requests);
            let spent = cpu_ns()? - before;
            if spent >= LEAST_NS {
                return Ok(spent / count);
            }
        }
    }
}

fn request() -> Result<Request<Bytes>> {
    let line = "<p>Dear Ada, thank you for your order of 3 things & more. Käthe sends it today.</p>\n";
    let html = line.repeat(MESSAGE_OCTETS / line.len());
    let body = json!({"from": "orders@src.test", "to": "ada@dst.test", "subject": "Your order", "html": html});
    let request = Request::post("http://edge.test/emails")
        .header("authorization", "Bearer re_key")
        .header("content-type", "application/json");
    Ok(request.body(body.to_string().into())?)
}

/// What this thread has used so far.
fn cpu_ns() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    Ok(text.split(' ').next().context("an empty schedstat")?.parse()?)
}

fn median(values: &[u64]) -> u64 {
    let mut values = values.to_vec();
    values.sort_unstable();
    values[values.len() / 2]
}
