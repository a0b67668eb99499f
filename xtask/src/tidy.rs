//! The house rules that a program can check. Each rule returns its faults in words; a test holds them all, and
//! `cargo xtask check-tidy` checks them without building the host.

mod dependencies;
mod documents;
mod sources;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::run;

/// A rule: its name and what finds its faults.
type Rule = (&'static str, fn() -> Result<Vec<String>>);

const RULES: &[Rule] = &[
    ("crates depend one way", dependencies::direction),
    ("licences are known", dependencies::licences),
    ("nothing brings a second TLS library", dependencies::banned),
    ("members are native or components", dependencies::members),
    ("files are small", sources::size),
    ("files say what they are for", sources::module_docs),
    ("nothing is left undone", sources::leftovers),
    ("names are nouns of the mail world", sources::names),
    ("the contract has one version", documents::contract_version),
    ("documents name commands that exist", documents::commands),
    ("documents link to files that exist", documents::links),
    ("texts hold no machine's paths", documents::machine_paths),
];

/// Checks all rules.
pub fn check() -> Result<()> {
    for warning in sources::large()? {
        println!("note: {warning}");
    }
    let mut faults = Vec::new();
    for (name, rule) in RULES {
        faults.extend(rule()?.into_iter().map(|fault| format!("{name}: {fault}")));
    }
    if !faults.is_empty() {
        bail!("{} faults\n  {}", faults.len(), faults.join("\n  "));
    }
    println!("{} rules hold", RULES.len());
    Ok(())
}

/// A text file of the repository, its path relative to the root.
struct Source {
    path: String,
    text: String,
}

/// The repository's text files whose names end in one of `endings`; all text files where there are none.
fn sources(endings: &[&str]) -> Result<Vec<Source>> {
    let mut found = Vec::new();
    walk(&run::root(), &mut |path| {
        let name = path.strip_prefix(run::root()).unwrap_or(path).to_string_lossy().into_owned();
        if !endings.is_empty() && !endings.iter().any(|ending| name.ends_with(ending)) {
            return Ok(());
        }
        let bytes = std::fs::read(path).with_context(|| format!("cannot read {name}"))?;
        if let Ok(text) = String::from_utf8(bytes) {
            found.push(Source { path: name, text });
        }
        Ok(())
    })?;
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

fn walk(folder: &Path, visit: &mut dyn FnMut(&Path) -> Result<()>) -> Result<()> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    for entry in entries {
        let entry = entry?;
        let path: PathBuf = entry.path();
        let kind = entry.file_type()?;
        // In a second checkout `.git` is a file that names the first.
        if kind.is_file() && entry.file_name() != ".git" {
            visit(&path)?;
        } else if kind.is_dir()
            && !["target", ".git", ".spin", "node_modules"].iter().any(|name| entry.file_name() == *name)
        {
            walk(&path, visit)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_rules_hold() {
        let mut faults = Vec::new();
        for (name, rule) in RULES {
            match rule() {
                Ok(found) => faults.extend(found.into_iter().map(|fault| format!("{name}: {fault}"))),
                Err(error) => faults.push(format!("{name}: cannot be checked: {error:#}")),
            }
        }
        assert!(faults.is_empty(), "{}", faults.join("\n"));
    }
}
