//! Components as their authors build them: `examples/` and new projects in JavaScript and Python, with the tools that
//! `cargo xtask` sets up in `target/authors/`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use crate::product::root;

/// Runs a command and gives what it printed.
///
/// # Errors
///
/// What it printed, where it failed.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("{command:?} cannot be started"))?;
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    if !output.status.success() {
        bail!("{command:?} failed ({}):\n{text}", output.status);
    }
    Ok(text)
}

/// Builds a JavaScript project with its plain command; the component.
///
/// # Errors
///
/// The tools are not set up, or the build failed.
pub fn build_javascript(folder: &Path) -> Result<PathBuf> {
    let modules = folder.join("node_modules");
    if !modules.exists() {
        std::os::unix::fs::symlink(tool("node/node_modules")?, &modules)?;
    }
    run(Command::new("npm").args(["run", "build"]).current_dir(folder))?;
    Ok(artifact(folder))
}

/// Builds a Python project with its plain command; the component.
///
/// # Errors
///
/// The tools are not set up, or the build failed.
pub fn build_python(folder: &Path) -> Result<PathBuf> {
    // As in a shell where the environment is active.
    let programs = tool("python/bin/componentize-py")?;
    let programs = programs.parent().unwrap_or(&programs);
    let path = std::env::join_paths([programs.to_owned()].into_iter().chain(std::env::split_paths(&paths())))?;
    run(Command::new("make").env("PATH", path).current_dir(folder))?;
    Ok(artifact(folder))
}

/// A copy of one of `examples/` to be built, so that nothing is left in the tree.
///
/// # Errors
///
/// It cannot be copied.
pub fn example(name: &str) -> Result<PathBuf> {
    workplace(&root().join("examples").join(name), name)
}

/// Copies a project's own files to a folder that stays for the next run: what did not change is not written, so that
/// nothing is built again without need.
///
/// # Errors
///
/// They cannot be copied.
pub fn workplace(from: &Path, name: &str) -> Result<PathBuf> {
    let to = root().join("target/authors/work").join(name);
    copy_changed(from, &to).with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    Ok(to)
}

fn tool(path: &str) -> Result<PathBuf> {
    let full = root().join("target/authors").join(path);
    let why = std::env::var("POSTHASTE_INTEROP_MISSING").unwrap_or_default();
    ensure!(full.exists(), "{} is not there: `cargo xtask test` sets it up. {why}", full.display());
    Ok(full)
}

fn paths() -> std::ffi::OsString {
    std::env::var_os("PATH").unwrap_or_default()
}

fn artifact(folder: &Path) -> PathBuf {
    folder.join(format!("{}.wasm", folder.file_name().unwrap_or_default().to_string_lossy()))
}

fn copy_changed(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let (path, name) = (entry.path(), entry.file_name());
        let copy = to.join(&name);
        if path.is_dir() {
            if ["src", "wit"].iter().any(|kept| name == *kept) {
                copy_changed(&path, &copy)?;
            }
        } else if std::fs::read(&copy).ok() != std::fs::read(&path).ok() {
            std::fs::copy(&path, &copy)?;
        }
    }
    Ok(())
}
