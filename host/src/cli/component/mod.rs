//! `posthaste component`: what takes the place of a stage, from the author's first file to the operator's switch.

mod deploy;
mod inspect;
mod new;
mod project;
mod test;

use std::io::Write as _;

use clap::Subcommand;

use super::Failure;
use crate::edge::Stage;

/// What can be done with components.
#[derive(Debug, Subcommand)]
pub(crate) enum Component {
    /// Start a project for a component: sources, contract, README; it builds as it is.
    New(new::New),
    /// Give a component file the cases that every component of its stage must stand. No host is asked.
    ///
    /// Prints a line a case with time and memory. Exit code 1 where one failed.
    Test(test::Test),
    /// Show what a component file is: exports, imports, size, digest, and what it would need. No host is asked.
    Inspect(inspect::Inspect),
    #[command(flatten)]
    Deploy(deploy::Deploy),
}

impl Component {
    pub async fn run(self) -> Result<(), Failure> {
        match self {
            Component::New(new) => new.run(),
            Component::Test(test) => test.run().await,
            Component::Inspect(inspect) => inspect.run(),
            Component::Deploy(deploy) => deploy.run().await,
        }
    }
}

/// Files larger than this have the engine of a language in them, and take seconds to compile.
const ENGINE_BYTES: usize = 4 << 20;

/// Says on stderr what is done to a file, because it may take a while. Whoever does not read it misses nothing.
fn tell(file: &str, bytes: usize, done: &str) {
    let long = if bytes > ENGINE_BYTES { ": that takes some ten seconds" } else { "" };
    let megabytes = bytes as f64 / 1e6;
    let _ = writeln!(std::io::stderr(), "{file}: {done} {megabytes:.1} MB{long}");
}

/// The stage of a file: the one that was named, or the only one that it exports.
fn stage_of(file: &std::path::Path, named: Option<Stage>) -> Result<Stage, Failure> {
    if let Some(stage) = named {
        return Ok(stage);
    }
    let survey = crate::edge::survey(file).map_err(|error| Failure::Refused(error.to_string()))?;
    match survey.stages.as_slice() {
        [stage] => Ok(*stage),
        [] => Err(Failure::Refused(format!(
            "{}: exports no stage of version 0.1; it exports {}",
            file.display(),
            if survey.exports.is_empty() { "nothing".to_owned() } else { survey.exports.join(", ") }
        ))),
        several => Err(Failure::Refused(format!(
            "{}: is {}: say which is meant with --stage",
            file.display(),
            several.iter().map(|stage| format!("a {stage}")).collect::<Vec<_>>().join(" and ")
        ))),
    }
}
