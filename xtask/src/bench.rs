//! `cargo xtask bench NAME`: builds what is measured in release and runs `tests/bench/NAME`.

use anyhow::{Result, bail};

use crate::{components, interop, run};

/// Runs one benchmark; what follows its name goes to it.
pub fn run(arguments: &[String]) -> Result<()> {
    let Some((name, rest)) = arguments.split_first() else {
        bail!(
            "usage: cargo xtask bench components|edge|events|pipeline | cargo xtask bench relay [--vs postfix] [--messages N] [--rounds N]"
        );
    };
    match name.as_str() {
        "components" | "edge" => components::build_with_guests()?,
        _ => components::build()?,
    }
    match name.as_str() {
        "components" | "edge" | "events" | "pipeline" => {}
        // smtp-source and smtp-sink come with Postfix.
        "relay" => interop::ensure_postfix()?,
        _ => bail!("there is no benchmark `{name}`: components, edge, events, pipeline and relay exist"),
    }
    // With the host, in one call: the same dependencies, compiled once.
    run::show(&mut run::cargo(&["build", "--release", "--bin", "posthaste", "--bin", "bench"]))?;
    let program = run::target().join("release").join("bench");
    let mut command = run::command(&program.to_string_lossy(), &[name]);
    run::show(command.args(rest))
}
