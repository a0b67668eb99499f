//! `cargo xtask soak`: the host is killed again and again under load, and nothing that was acknowledged may be lost.

use anyhow::{Context as _, Result, bail};

use crate::components::{self, Profile};
use crate::run;

/// Kills, where no other number is asked for.
const ROUNDS: u64 = 200;

const USAGE: &str = "usage: cargo xtask soak [--rounds N] [--seed N]";

/// Builds the host and runs the test of survival with so many kills; it ends by itself, and prints what came of it.
pub fn run(arguments: &[String]) -> Result<()> {
    let (mut rounds, mut seed) = (ROUNDS, None);
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        let value = words.next().context(USAGE)?;
        let number: u64 = value.parse().with_context(|| format!("`{value}` is no number\n{USAGE}"))?;
        match word.as_str() {
            "--rounds" => rounds = number,
            "--seed" => seed = Some(number),
            _ => bail!("`{word}` is not known\n{USAGE}"),
        }
    }
    components::build_with_guests()?;
    let binary = components::build_host(Profile::Tests)?;
    let mut command = run::cargo(&["test", "--test", "system", "survival", "--", "--nocapture"]);
    command.env("POSTHASTE_BINARY", binary).env("SOAK_ROUNDS", rounds.to_string());
    if let Some(seed) = seed {
        command.env("SOAK_SEED", seed.to_string());
    }
    run::show(&mut command)
}
