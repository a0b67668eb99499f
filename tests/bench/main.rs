//! The benchmarks, started by `cargo xtask bench NAME`.
//!
//! A program rather than cargo's bench targets: those bring the tests' dependencies along, whose features would compile
//! the engine anew, and differently from the host that is shipped.

mod backlog;
mod edge;
mod events;
mod idle;
mod pipeline;
mod profile;
mod relay;
mod soak;

use std::process::ExitCode;

use anyhow::{Result, bail};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<()> {
    match arguments.split_first() {
        Some((name, rest)) if name == "edge" => edge::run(rest),
        Some((name, rest)) if name == "events" => events::run(rest),
        Some((name, rest)) if name == "pipeline" => pipeline::run(rest),
        Some((name, rest)) if name == "relay" => relay::run(rest),
        Some((name, rest)) if name == "backlog" => backlog::run(rest),
        Some((name, rest)) if name == "idle" => idle::run(rest),
        Some((name, rest)) if name == "profile" => profile::run(rest),
        Some((name, rest)) if name == "soak" => soak::run(rest),
        _ => bail!("usage: bench backlog|edge|events|idle|pipeline|profile|relay|soak [OPTIONS]"),
    }
}
