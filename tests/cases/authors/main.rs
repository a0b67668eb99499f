//! What a component's author does: a new project, or one of `examples/`, built with its language's plain command, tested,
//! and put to work for a tenant of a running host.

#![allow(clippy::unwrap_used)]

mod examples;
#[path = "../judge.rs"]
mod judge;
mod key_service;
mod projects;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use tests::product::{binary, root};

/// Runs a command and gives what it printed.
fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("{command:?} cannot be started"))?;
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    if !output.status.success() {
        bail!("{command:?} failed ({}):\n{text}", output.status);
    }
    Ok(text)
}

fn posthaste(words: &[&str]) -> Result<String> {
    run(Command::new(binary()?).args(words))
}

/// A tool that `cargo xtask test` sets up in `target/authors/`.
fn tool(path: &str) -> PathBuf {
    let full = root().join("target/authors").join(path);
    let why = std::env::var("POSTHASTE_INTEROP_MISSING").unwrap_or_default();
    assert!(full.exists(), "{} is not there: `cargo xtask test` sets it up. {why}", full.display());
    full
}

/// The cases of its stage, as its author runs them.
fn conforms(file: &Path, stage: &str) -> String {
    let said = posthaste(&["component", "test", &file.display().to_string()]).unwrap();
    assert!(said.contains(&format!(": {stage}, compiled in ")), "{said}");
    assert!(said.contains(" cases passed") && !said.contains("FAIL"), "{said}");
    said
}

/// Nothing comes from the network: what the projects use was fetched with the workspace, or by `cargo xtask test`.
fn build_rust(folder: &Path) -> PathBuf {
    build_rust_with(folder, &[])
}

fn build_rust_with(folder: &Path, environment: &[(&str, &str)]) -> PathBuf {
    // One for all, so that what they have in common is compiled once.
    let target = root().join("target/examples");
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    run(Command::new(cargo)
        .args(["build", "--release", "--target", "wasm32-wasip2", "--offline", "--target-dir"])
        .arg(&target)
        .envs(environment.iter().copied())
        .current_dir(folder))
    .unwrap();
    let name = folder.file_name().unwrap().to_string_lossy().replace('-', "_");
    target.join("wasm32-wasip2/release").join(format!("{name}.wasm"))
}

fn build_javascript(folder: &Path) -> PathBuf {
    let modules = folder.join("node_modules");
    if !modules.exists() {
        std::os::unix::fs::symlink(tool("node/node_modules"), &modules).unwrap();
    }
    run(Command::new("npm").args(["run", "build"]).current_dir(folder)).unwrap();
    artifact(folder)
}

fn build_python(folder: &Path) -> PathBuf {
    let program = format!("COMPONENTIZE={}", tool("python/bin/componentize-py").display());
    run(Command::new("make").arg(program).current_dir(folder)).unwrap();
    artifact(folder)
}

fn artifact(folder: &Path) -> PathBuf {
    folder.join(format!("{}.wasm", folder.file_name().unwrap().to_string_lossy()))
}

/// A copy of an example to be built, so that nothing is left in the tree.
fn example(name: &str) -> PathBuf {
    workplace(&root().join("examples").join(name), name)
}

/// Copies a project's own files to a folder that stays for the next run: what did not change is not written, so that
/// nothing is built again without need.
fn workplace(from: &Path, name: &str) -> PathBuf {
    let to = root().join("target/authors/work").join(name);
    copy_changed(from, &to);
    to
}

fn copy_changed(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let (path, name) = (entry.path(), entry.file_name());
        let copy = to.join(&name);
        if path.is_dir() {
            if ["src", "wit"].iter().any(|kept| name == *kept) {
                copy_changed(&path, &copy);
            }
        } else if std::fs::read(&copy).ok() != std::fs::read(&path).ok() {
            std::fs::copy(&path, &copy).unwrap();
        }
    }
}
