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

use anyhow::Result;
use tests::authors::{self, run, workplace};
use tests::product::{binary, root};

/// How wide the names of cases are.
const CASE_COLUMN: usize = 46;

fn posthaste(words: &[&str]) -> Result<String> {
    run(Command::new(binary()?).args(words))
}

/// The cases of its stage, as its author runs them.
fn conforms(file: &Path, stage: &str) -> String {
    let said = posthaste(&["component", "test", &file.display().to_string()]).unwrap();
    assert!(said.contains(&format!(": {stage}, compiled in ")), "{said}");
    assert!(said.contains(" cases passed") && !said.contains("FAIL"), "{said}");
    assert!(said.contains(": compiling "), "{said}");
    columns(&said);
    said
}

/// What stands in the columns of `component test`, behind the name of each case: two times, and memory.
fn columns(said: &str) {
    let rows: Vec<&str> = said.lines().filter(|line| line.contains(" MiB  ")).collect();
    assert!(rows.len() >= 10, "{said}");
    for row in &rows {
        let columns: String = row.chars().skip(CASE_COLUMN).collect();
        let words: Vec<&str> = columns.split_whitespace().collect();
        let [fresh, "ms", used, "ms", memory, "MiB", ..] = words.as_slice() else { panic!("{row}") };
        let number = |text: &str| text.parse::<f64>().unwrap();
        // Nobody makes an instance in a hundredth of a microsecond, nor works without a page of 64 KiB.
        assert!(number(fresh) > 0.0 && number(used) >= 0.0 && number(memory) >= 0.1, "{row}");
    }
    assert!(rows.iter().any(|row| row.contains("  ok")), "{said}");
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
    authors::build_javascript(folder).unwrap()
}

fn build_python(folder: &Path) -> PathBuf {
    authors::build_python(folder).unwrap()
}

fn example(name: &str) -> PathBuf {
    authors::example(name).unwrap()
}
