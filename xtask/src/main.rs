//! `cargo xtask`: everything a developer does with this repository, set-up included.
//!
//! Invariant: all native cargo calls select the workspace's default members (never `-p`) and the dev or the release
//! profile, so that check, build, test and bench share one set of compiled dependencies; the WASM engine is large.

mod bench;
mod components;
mod compose;
mod dev;
mod fuzz;
mod interop;
mod peers;
mod run;
mod soak;
mod suite;
mod tidy;

use std::process::ExitCode;

use anyhow::{Result, bail};

/// A verb, what may follow it, and its line in the help.
const VERBS: &[(&str, &str, &str)] = &[
    ("dev", "[-- ARGS]", "build all and start a development host on loopback; ARGS go to `posthaste dev`"),
    ("build", "[--release|--components]", "build the components and the host with the components embedded"),
    ("test", "[ARGS]", "set up what the tests need and run them all; ARGS (a test's name) go to the test runner"),
    (
        "bench",
        "NAME [ARGS]",
        "measure: relay --vs postfix,haraka; profile, backlog, idle, soak, pipeline, edge, events",
    ),
    ("check-tidy", "", "check the house rules: who depends on whom, file sizes, documents that drift"),
    (
        "fuzz",
        "[TARGET...] [--seconds N]",
        "look for inputs that break a promise, 60 s for each target without a number",
    ),
    ("soak", "[--rounds N] [--seed N]", "kill the host under load, 200 times without a number, and count what is lost"),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match dispatch(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(arguments: &[String]) -> Result<()> {
    let Some((verb, rest)) = arguments.split_first() else {
        println!("{}", help());
        return Ok(());
    };
    match verb.as_str() {
        "help" | "--help" | "-h" => println!("{}", help()),
        "dev" => dev::start(rest)?,
        "build" => build(rest)?,
        "test" => suite::run(rest)?,
        "bench" => bench::run(rest)?,
        "check-tidy" => tidy::check()?,
        "soak" => soak::run(rest)?,
        "fuzz" => fuzz::run(rest)?,
        _ => bail!("`{verb}` is not a command\n\n{}", help()),
    }
    Ok(())
}

fn build(arguments: &[String]) -> Result<()> {
    let profile = match arguments {
        [] => components::Profile::Dev,
        [flag] if flag == "--release" => components::Profile::Release,
        // All that an edge needs: `spin build` runs it.
        [flag] if flag == "--components" => return components::build(),
        _ => bail!("usage: cargo xtask build [--release|--components]"),
    };
    components::build()?;
    let binary = components::build_host(profile)?;
    println!("{}", binary.display());
    Ok(())
}

fn help() -> String {
    let mut text = String::from("usage: cargo xtask COMMAND\n\n");
    for (verb, arguments, line) in VERBS {
        text.push_str(&format!("  {:<32} {line}\n", format!("{verb} {arguments}")));
    }
    text
}
