//! `cargo xtask test`: sets up what the tests need and runs them all. The test runner's summary comes last.

use std::os::unix::process::CommandExt as _;

use anyhow::{Result, anyhow};

use crate::components::{self, Profile};
use crate::{interop, run};

/// Builds, installs the tools of the interop tests and runs every test, or those that `arguments` choose.
pub fn run(arguments: &[String]) -> Result<()> {
    // What cannot be installed makes its tests fail, with the same text; the others still run.
    let missing = interop::set_up();
    components::build_with_guests()?;
    let binary = components::build_host(Profile::Tests)?;

    let mut command = if run::quiet(&mut run::cargo(&["nextest", "--version"])).is_ok() {
        run::cargo(&["nextest", "run", "--no-fail-fast"])
    } else {
        eprintln!("xtask: cargo-nextest is not installed: a test that hangs will not be ended");
        run::cargo(&["test", "--no-fail-fast"])
    };
    command.args(arguments).env("POSTHASTE_BINARY", binary);
    if !missing.is_empty() {
        command.env("POSTHASTE_INTEROP_MISSING", missing.join("; "));
    }
    // Becomes the runner: its summary is the last that is printed, whatever comes of it.
    Err(anyhow!("the test runner cannot be started: {}", command.exec()))
}
