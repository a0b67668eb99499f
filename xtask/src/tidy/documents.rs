//! Rules over the contract and the documents: what they say must be so.

use anyhow::{Context, Result};

use super::{Source, sources};
use crate::{VERBS, run};

/// Every package of the contract is at its one version.
pub fn contract_version() -> Result<Vec<String>> {
    let mut faults = Vec::new();
    for source in sources(&[".wit"])? {
        for line in source.text.lines().filter(|line| line.trim_start().starts_with("package posthaste:")) {
            // A copy of the contract in one file has its packages as blocks.
            if !line.trim_end_matches([' ', ';', '{']).ends_with("@0.1.0") {
                faults.push(format!("{}: {line}", source.path));
            }
        }
    }
    Ok(faults)
}

/// Every `cargo xtask VERB` in a document exists, and there is a changelog.
pub fn commands() -> Result<Vec<String>> {
    let mut faults = Vec::new();
    for Source { path, text } in sources(&[".md"])? {
        for rest in text.split("cargo xtask ").skip(1) {
            let verb: String = rest.chars().take_while(|c| c.is_ascii_lowercase() || *c == '-').collect();
            // A line of prose may end at the command's name.
            if !verb.is_empty() && !VERBS.iter().any(|(known, ..)| *known == verb) {
                faults.push(format!("{path} names `cargo xtask {verb}`"));
            }
        }
    }
    let changelog = std::fs::read_to_string(run::root().join("CHANGELOG.md")).unwrap_or_default();
    if !changelog.contains("## Unreleased") {
        faults.push("CHANGELOG.md lacks `## Unreleased`".to_owned());
    }
    Ok(faults)
}

/// Every relative link leads to a file or folder.
pub fn links() -> Result<Vec<String>> {
    let mut faults = Vec::new();
    for Source { path, text } in sources(&[".md"])? {
        for rest in text.split("](").skip(1) {
            let target = rest.split(')').next().context("a link without end")?;
            let file = target.split('#').next().unwrap_or("");
            if file.is_empty() || target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let folder = run::root().join(&path).parent().map(std::path::Path::to_owned).unwrap_or_default();
            if !folder.join(file).exists() {
                faults.push(format!("{path} links to {target}"));
            }
        }
    }
    Ok(faults)
}

/// No path of the machine it was written on.
pub fn machine_paths() -> Result<Vec<String>> {
    // Put together here, or this file would be its own first fault.
    let patterns = ["work", "root", "home"].map(|folder| format!("/{folder}/"));
    let mut faults = Vec::new();
    for Source { path, text } in sources(&[])? {
        for (number, line) in text.lines().enumerate() {
            // A path begins where no other part of a path or URL stands before it.
            let hit = patterns.iter().any(|pattern| {
                line.match_indices(pattern.as_str()).any(|(at, _)| {
                    line[..at].chars().next_back().is_none_or(|c| c.is_whitespace() || "\"'`(=:".contains(c))
                })
            });
            if hit {
                faults.push(format!("{path}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    Ok(faults)
}
