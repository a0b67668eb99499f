//! Building the components for WASI and the host that embeds them.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::{compose, run};

/// What the components are built for.
const TARGET: &str = "wasm32-wasip2";

/// The components that are shipped: what the host embeds, and what only edges use (`track`, `keys`, `vars`).
pub const SHIPPED: &[&str] = &["validate", "render", "sign", "submit", "shape", "notify", "track", "keys", "vars"];

/// Components that only tests of the whole system and benchmarks use.
const GUESTS: &[&str] = &["misbehave", "bare"];

/// Components that the edge's own tests build where they lack. Built by the same command as there, so that the tests
/// find them done.
const EDGE_GUESTS: &[&str] = &[
    "guest-stage",
    "guest-signer",
    "guest-trigger",
    "guest-changer",
    "misbehave",
    "submit",
    "render",
    "validate",
    "sign",
    "shape",
    "notify",
    "track",
];

/// How the host is built. Dependencies are optimized in both.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    Dev,
    /// As `Dev`, together with all tests: their dependencies' features count too (tokio's clock can be paused), and what
    /// stands on tokio would be compiled twice otherwise.
    Tests,
    Release,
}

/// Builds the shipped components into `target/components/`, and what is composed of them.
pub fn build() -> Result<()> {
    compile(SHIPPED)?;
    install_shipped()
}

/// Builds the shipped components, and those of the tests into `target/guests/`.
pub fn build_with_guests() -> Result<()> {
    let all: Vec<&str> = SHIPPED.iter().chain(GUESTS).copied().collect();
    compile(&all)?;
    install_shipped()?;
    install(GUESTS, "guests")?;
    compile(EDGE_GUESTS)
}

/// Builds the binary `posthaste` and says where it lies.
pub fn build_host(profile: Profile) -> Result<PathBuf> {
    let mut arguments = vec!["build", "--bin", "posthaste"];
    match profile {
        Profile::Dev => {}
        Profile::Tests => arguments.push("--tests"),
        Profile::Release => arguments.push("--release"),
    }
    run::show(&mut run::cargo(&arguments))?;
    let folder = match profile {
        Profile::Dev | Profile::Tests => "debug",
        Profile::Release => "release",
    };
    Ok(run::target().join(folder).join("posthaste"))
}

fn compile(packages: &[&str]) -> Result<()> {
    ensure_target()?;
    // Components are always optimized: the host that runs them is judged by their speed.
    let mut arguments = vec!["build", "--release", "--target", TARGET];
    for package in packages {
        arguments.extend(["--package", package]);
    }
    run::show(&mut run::cargo(&arguments))
}

fn ensure_target() -> Result<()> {
    // A toolchain without rustup (a distribution's own) either has the target or fails with the compiler's own words.
    let Ok(installed) = run::quiet(&mut run::command("rustup", &["target", "list", "--installed"])) else {
        return Ok(());
    };
    if installed.lines().any(|target| target == TARGET) {
        return Ok(());
    }
    run::show(&mut run::command("rustup", &["target", "add", TARGET]))
}

fn install_shipped() -> Result<()> {
    compose::compose_all(&built())?;
    install(SHIPPED, "components")?;
    install(&compose::COMPOSITIONS.map(|composition| composition.name), "components")
}

/// Where cargo leaves the components.
fn built() -> PathBuf {
    run::target().join(TARGET).join("release")
}

/// Copies what has changed: an untouched file keeps its time, and the host is not built again.
fn install(packages: &[&str], folder: &str) -> Result<()> {
    let built = built();
    let folder = run::target().join(folder);
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    for package in packages {
        let (from, to) = (built.join(format!("{package}.wasm")), folder.join(format!("{package}.wasm")));
        let new = std::fs::read(&from).with_context(|| format!("cannot read {}", from.display()))?;
        if std::fs::read(&to).is_ok_and(|old| old == new) {
            continue;
        }
        // By rename: whoever reads the folder at the same moment sees a whole file.
        let part = folder.join(format!(".{package}.part"));
        std::fs::write(&part, &new)
            .and_then(|()| std::fs::rename(&part, &to))
            .with_context(|| format!("cannot write {}", to.display()))?;
    }
    Ok(())
}
