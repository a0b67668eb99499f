//! `cargo xtask dev`: build all and become a development host.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Result, anyhow};

use crate::components::{self, Profile};

/// Builds and replaces this process by `posthaste dev`; returns only when that fails.
pub fn start(arguments: &[String]) -> Result<()> {
    components::build()?;
    // The dev profile: dependencies, and so compilation and execution of components, are optimized in it too.
    let binary = components::build_host(Profile::Dev)?;
    let arguments = arguments.strip_prefix(&["--".to_owned()]).unwrap_or(arguments);
    let error = Command::new(&binary).arg("dev").args(arguments).exec();
    Err(anyhow!("{} cannot be started: {error}", binary.display()))
}
