//! `cargo xtask bench pipeline [--components DIR]`: what the components cost. A message of 10 KB is rendered, validated and signed (RSA-2048
//! and Ed25519) by the components inside the host's edge, and by the same Rust natively; both sign with the same native
//! keys. The aim: at most 1.25 times. `--components` takes them from a folder rather than those that are embedded.
//!
//! Rounds are interleaved, so that the machine's mood hits both alike, and medians compared.

mod keys;
mod stages;

use std::collections::BTreeMap;
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use contract::{RendererInput, SignerInput, StageError, ValidatorInput};
use mail::compose::Draft;
use mail::{Envelope, Mailbox};
use pipeline::{Content, Limits, Stages, Submission};
use posthaste::config::Config;
use posthaste::edge::{BuiltIn, Edge, Settings, Ways};
use tokio::runtime::Runtime;

pub use self::keys::NativeKeys;
pub use self::stages::NoBackend;
use self::stages::{Native, Recorder};

/// The aim.
const AT_MOST: f64 = 1.25;

/// Octets of the finished message, about.
const MESSAGE_OCTETS: usize = 10 * 1024;

const ROUNDS: usize = 21;

/// Messages a round: some hundred milliseconds.
const MESSAGES: u32 = 100;

/// What the three stages are called with for one message.
struct Inputs {
    render: RendererInput,
    validate: ValidatorInput,
    sign: SignerInput,
}

/// Runs it with the words after its name.
pub fn run(arguments: &[String]) -> Result<()> {
    let built_in = match arguments {
        [] => BuiltIn::embedded(),
        [flag, folder] if flag == "--components" => from_folder(Path::new(folder))?,
        _ => bail!("usage: bench pipeline [--components DIR]"),
    };
    let runtime = Runtime::new()?;
    let folder = tempfile::tempdir()?;
    let keys = Arc::new(NativeKeys::new()?);
    let native = Native::new(keys.clone());
    let edge = Arc::new(edge(&runtime, folder.path(), keys, built_in)?);
    let components = edge.stages("bench");
    let submission = submission()?;
    let inputs = runtime.block_on(inputs(&native, &submission))?;

    // Components compile, instances and caches fill.
    runtime.block_on(stages_of(&components, &inputs)).map_err(told)?;
    let stages = compare(
        || runtime.block_on(repeat(|| stages_of(&components, &inputs))),
        || runtime.block_on(repeat(|| stages_of(&native, &inputs))),
    )?;
    let road = compare(
        || runtime.block_on(repeat(|| road(&components, &submission))),
        || runtime.block_on(repeat(|| road(&native, &submission))),
    )?;

    let parts = [
        ("render", parts(&runtime, &components, &native, &inputs, Part::Render)?),
        ("render, new template", parts(&runtime, &components, &native, &inputs, Part::RenderNew)?),
        ("validate", parts(&runtime, &components, &native, &inputs, Part::Validate)?),
        ("sign", parts(&runtime, &components, &native, &inputs, Part::Sign)?),
    ];

    println!("{ROUNDS} rounds of {MESSAGES} messages of {} KB, medians", MESSAGE_OCTETS / 1024);
    println!("render + validate + sign:  {stages}");
    println!("the whole pipeline:        {road}");
    for (name, comparison) in parts {
        println!("{:<27}{comparison}", format!("{name} alone:"));
    }
    if road.ratio() > AT_MOST {
        bail!("the pipeline costs {:.2} times the native code: at most {AT_MOST} is the aim", road.ratio());
    }
    Ok(())
}

/// An edge as the host has it, with the built-in components.
fn edge(runtime: &Runtime, cache: &Path, keys: Arc<NativeKeys>, built_in: BuiltIn) -> Result<Edge> {
    let _entered = runtime.enter();
    let loopback = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let config = Config::development(cache.to_owned(), loopback, loopback)?;
    let settings = Settings {
        cache,
        components: &config.components,
        always: &config.always,
        tenants: &BTreeMap::new(),
        limits: &posthaste::config::Limits {
            message_bytes: 25 << 20,
            recipients: 1000,
            http_body_bytes: 64 << 20,
            http_requests: 32,
            http_connections: 8,
            memory_bytes: None,
            drain: Duration::from_secs(1),
        },
        stages: &config.stages,
        sizes: &posthaste::sizes::Sizes::new(25 << 20, 1000),
        ways: &Ways::default(),
    };
    if built_in.signer.is_none() {
        bail!("the components are not embedded: run `cargo xtask bench pipeline`");
    }
    Ok(Edge::new(&settings, built_in, Arc::new(NoBackend), keys)?)
}

/// The embedded ones, but for what lies in a folder.
fn from_folder(folder: &Path) -> Result<BuiltIn> {
    let read = |name: &str| -> Result<Option<&'static [u8]>> {
        let path = folder.join(format!("{name}.wasm"));
        let bytes = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        // As long-lived as what is embedded.
        Ok(Some(bytes.leak()))
    };
    let (renderer, validator, signer) = (read("render")?, read("validate")?, read("sign")?);
    Ok(BuiltIn { renderer, validator, signer, ..BuiltIn::embedded() })
}

/// A message from a template, as the sending API takes it.
fn submission() -> Result<Submission> {
    let paragraph =
        "<p>Dear {{name}}, thank you for your order of {{count}} things & more. Käthe sends it today.</p>\n";
    let html = paragraph.repeat(MESSAGE_OCTETS / 2 / paragraph.len());
    let mailbox = |address: &str| -> Result<Mailbox> {
        Ok(Mailbox { name: Some("Käthe".to_owned()), address: mail::Address::parse(address)? })
    };
    let (from, to) = (mailbox("orders@shop.test")?, mailbox("ada@dst.test")?);
    Ok(Submission {
        envelope: Envelope { sender: Some(from.address.clone()), recipients: vec![to.address.clone()] },
        content: Content::Draft {
            draft: Box::new(Draft {
                from,
                to: vec![to],
                cc: Vec::new(),
                reply_to: Vec::new(),
                subject: String::new(),
                html: None,
                text: None,
                attachments: Vec::new(),
                headers: Vec::new(),
                message_id: "<1@shop.test>".to_owned(),
                date_s: 1_790_000_000,
            }),
            template: Some(RendererInput {
                subject: Some("Your order, {{name}}".to_owned()),
                html: Some(html),
                variables: r#"{"name": "Ada", "count": 3}"#.to_owned(),
                ..RendererInput::default()
            }),
        },
        attributes: Vec::new(),
        limits: Limits { message_bytes: 25 << 20, recipients: 1000 },
        now_s: 1_790_000_000,
    })
}

/// What the road really calls the stages with.
async fn inputs(native: &Native, submission: &Submission) -> Result<Inputs> {
    let recorder = Recorder::new(native);
    let ready = pipeline::run(&recorder, submission.clone()).await.map_err(|refusal| anyhow!("{refusal:?}"))?;
    println!("the message has {} octets", ready.message.len());
    recorder.inputs().context("a stage was not called")
}

/// One of the three.
#[derive(Clone, Copy)]
enum Part {
    Render,
    /// With a template that was never seen: components keep what they compiled.
    RenderNew,
    Validate,
    Sign,
}

fn parts(
    runtime: &Runtime,
    components: &impl Stages,
    native: &impl Stages,
    inputs: &Inputs,
    part: Part,
) -> Result<Comparison> {
    compare(
        || runtime.block_on(repeat(|| stage_of(components, inputs, part))),
        || runtime.block_on(repeat(|| stage_of(native, inputs, part))),
    )
}

async fn stage_of(stages: &impl Stages, inputs: &Inputs, part: Part) -> Result<(), StageError> {
    match part {
        Part::Render => stages.render(inputs.render.clone()).await.map(drop),
        Part::RenderNew => {
            static COUNT: AtomicU64 = AtomicU64::new(0);
            let mut input = inputs.render.clone();
            let number = COUNT.fetch_add(1, Ordering::Relaxed);
            input.html = input.html.map(|html| format!("{html}{{{{! {number} }}}}"));
            stages.render(input).await.map(drop)
        }
        Part::Validate => stages.validate(inputs.validate.clone()).await.map(drop),
        Part::Sign => stages.sign(inputs.sign.clone()).await.map(drop),
    }
}

async fn stages_of(stages: &impl Stages, inputs: &Inputs) -> Result<(), StageError> {
    for part in [Part::Render, Part::Validate, Part::Sign] {
        stage_of(stages, inputs, part).await?;
    }
    Ok(())
}

async fn road(stages: &impl Stages, submission: &Submission) -> Result<(), StageError> {
    let ready = pipeline::run(stages, submission.clone()).await;
    ready.map(drop).map_err(|refusal| StageError::Unavailable(format!("{refusal:?}")))
}

/// The time of one call, out of many.
async fn repeat<F: Future<Output = Result<(), StageError>>>(call: impl Fn() -> F) -> Result<Duration> {
    let start = Instant::now();
    for _ in 0..MESSAGES {
        call().await.map_err(told)?;
    }
    Ok(start.elapsed() / MESSAGES)
}

fn told(error: StageError) -> anyhow::Error {
    anyhow!("a stage failed: {error:?}")
}

/// Medians of both sides, a message.
struct Comparison {
    components: Duration,
    native: Duration,
}

fn compare(components: impl Fn() -> Result<Duration>, native: impl Fn() -> Result<Duration>) -> Result<Comparison> {
    let (mut theirs, mut ours) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        theirs.push(components()?);
        ours.push(native()?);
    }
    theirs.sort_unstable();
    ours.sort_unstable();
    Ok(Comparison { components: theirs[ROUNDS / 2], native: ours[ROUNDS / 2] })
}

impl Comparison {
    fn ratio(&self) -> f64 {
        self.components.as_secs_f64() / self.native.as_secs_f64()
    }
}

impl std::fmt::Display for Comparison {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
        write!(
            f,
            "components {:.3} ms, native {:.3} ms: {:.2} times",
            milliseconds(self.components),
            milliseconds(self.native),
            self.ratio()
        )
    }
}
