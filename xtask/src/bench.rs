//! `cargo xtask bench NAME`: builds what is measured in release, installs its peers and runs `tests/bench/NAME`.

use anyhow::{Result, bail};

use crate::{components, interop, peers, run};

/// Runs one benchmark; what follows its name goes to it.
pub fn run(arguments: &[String]) -> Result<()> {
    let Some((name, rest)) = arguments.split_first() else {
        bail!(
            "usage: cargo xtask bench components|edge|events\n\
             cargo xtask bench relay [--vs postfix,haraka] [--messages N] [--rounds N] [--sessions N,N] [--latency SECONDS] [--folder DIR]\n\
             cargo xtask bench backlog [--queued N] [--messages N]\n\
             cargo xtask bench idle [--tls] [--connections N]\n\
             cargo xtask bench pipeline [--components DIR]\n\
             cargo xtask bench profile [--messages N]\n\
             cargo xtask bench soak [--minutes N]"
        );
    };
    match name.as_str() {
        "components" | "edge" => components::build_with_guests()?,
        _ => components::build()?,
    }
    match name.as_str() {
        "edge" | "events" | "idle" | "pipeline" => {}
        "components" => interop::ensure_authors()?,
        // smtp-source and smtp-sink come with Postfix.
        "backlog" | "profile" | "soak" => interop::ensure_postfix()?,
        "relay" => {
            interop::ensure_postfix()?;
            peers::ensure(rest)?;
        }
        _ => bail!(
            "there is no benchmark `{name}`: backlog, components, edge, events, idle, pipeline, profile, relay and soak exist"
        ),
    }
    // With the host, in one call: the same dependencies, compiled once.
    run::show(&mut run::cargo(&["build", "--release", "--bin", "posthaste", "--bin", "bench"]))?;
    let program = run::target().join("release").join("bench");
    let mut command = run::command(&program.to_string_lossy(), &[name]);
    run::show(command.args(rest))
}
