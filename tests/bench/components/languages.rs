//! What a call costs where the component is written in JavaScript or Python: two of `examples/`, beside the same stages in
//! Rust.

use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use contract::{Envelope, RendererInput, ValidatorInput};
use pipeline::Stages as _;
use posthaste::edge::Stage;
use tests::authors::{build_javascript, build_python, example};

use super::field::{Field, Options};
use super::{ROUNDS, median, micros, subject};

/// Calls a round where the instance is re-used; a fresh one of these languages takes milliseconds.
const CALLS: u32 = 500;
const FRESH_CALLS: u32 = 50;

/// Tenants that have the components.
const JAVASCRIPT: &str = "javascript";
const PYTHON: &str = "python";

/// Prints the calls of a JavaScript validator and a Python renderer: re-used, fresh, and loaded from the cache.
pub async fn calls() -> Result<()> {
    let javascript = std::fs::read(build_javascript(&example("company-addresses")?)?)?;
    let python = std::fs::read(build_python(&example("string-renderer")?)?)?;
    let files = [(JAVASCRIPT, Stage::Validator, javascript), (PYTHON, Stage::Renderer, python)];
    let kept = Field::new(Options::default()).await?;
    let fresh = Field::new(Options { idle_instances: 0, ..Options::default() }).await?;
    for (tenant, stage, file) in &files {
        for field in [&kept, &fresh] {
            field.push_file(tenant, *stage, file.clone(), 0).await?;
        }
    }
    println!(
        "{:<34}{:>10.1} µs",
        "built-in renderer, re-used",
        micros(timed(&kept, Stage::Renderer, "nobody", CALLS).await?)
    );
    for (tenant, stage, _) in &files {
        let name = format!("{tenant} {}", stage.name());
        println!("{:<34}{:>10.1} µs", format!("{name}, re-used"), micros(timed(&kept, *stage, tenant, CALLS).await?));
        let time = timed(&fresh, *stage, tenant, FRESH_CALLS).await?;
        println!("{:<34}{:>10.1} µs", format!("{name}, fresh"), micros(time));
    }
    // Two tenants, room for one component and for no instance: each call loads.
    for (tenant, stage, file) in files {
        let cold = Field::new(Options { loaded: 1, idle_instances: 0, ..Options::default() }).await?;
        let others = [format!("{tenant}-1"), format!("{tenant}-2")];
        for (number, other) in others.iter().enumerate() {
            cold.push_file(other, stage, file.clone(), number + 1).await?;
        }
        let mut loads = Vec::new();
        for other in others.iter().cycle().take(20) {
            let started = Instant::now();
            call(&cold, stage, other).await?;
            loads.push(started.elapsed());
        }
        let name = format!("{tenant} {}, fresh, from cache", stage.name());
        println!("{name:<34}{:>10.1} µs", micros(median(loads)));
    }
    Ok(())
}

/// The median time of a call.
async fn timed(field: &Field, stage: Stage, tenant: &str, calls: u32) -> Result<Duration> {
    // The first loads what is compiled.
    call(field, stage, tenant).await?;
    let mut rounds = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        let started = Instant::now();
        for _ in 0..calls {
            call(field, stage, tenant).await?;
        }
        rounds.push(started.elapsed() / calls);
    }
    Ok(median(rounds))
}

async fn call(field: &Field, stage: Stage, tenant: &str) -> Result<()> {
    let stages = field.edge.stages(tenant);
    let done = match stage {
        Stage::Renderer => stages.render(template()).await.map(drop),
        _ => stages.validate(message()).await.map(drop),
    };
    done.map_err(|error| anyhow!("{tenant}: {error:?}"))
}

fn message() -> ValidatorInput {
    let envelope =
        Envelope { sender: Some("ann@example.com".to_owned()), recipients: vec!["bob@example.net".to_owned()] };
    ValidatorInput { envelope, ..subject("fine") }
}

fn template() -> RendererInput {
    RendererInput {
        subject: Some("Hi $name".to_owned()),
        html: Some("<p>Hello ${name}</p>".to_owned()),
        variables: r#"{"name": "Ada"}"#.to_owned(),
        ..RendererInput::default()
    }
}
