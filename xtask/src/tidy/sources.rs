//! Rules over the Rust files: size, purpose, names, leftovers.

use anyhow::Result;

use super::sources;

/// A file is uneasy from here and split from there, the tests at its end not counted.
const UNEASY_LINES: usize = 400;
const SPLIT_LINES: usize = 600;

/// Names that say nothing about mail.
const EMPTY_NAMES: &[&str] = &["utils", "util", "common", "helpers", "helper", "manager", "misc"];

/// No file is longer than `SPLIT_LINES`.
pub fn size() -> Result<Vec<String>> {
    longer_than(SPLIT_LINES)
}

/// Files that should be looked at, as notes.
pub fn large() -> Result<Vec<String>> {
    longer_than(UNEASY_LINES)
}

fn longer_than(limit: usize) -> Result<Vec<String>> {
    let files = sources(&[".rs", ".wit"])?.into_iter().filter(|source| !source.path.contains("spin-variables"));
    let counted = files.map(|source| {
        let code = source.text.lines().take_while(|line| *line != "#[cfg(test)]");
        (code.count(), source.path)
    });
    Ok(counted.filter(|(lines, _)| *lines > limit).map(|(lines, path)| format!("{path} has {lines} lines")).collect())
}

/// Every Rust file opens with its module documentation; tests apart from their module need none.
pub fn module_docs() -> Result<Vec<String>> {
    let files = sources(&[".rs"])?.into_iter().filter(|source| !source.path.ends_with("tests.rs"));
    Ok(files.filter(|source| !source.text.starts_with("//!")).map(|source| source.path).collect())
}

/// Nothing is unfinished, switched off or left from debugging.
pub fn leftovers() -> Result<Vec<String>> {
    // Put together here, or this file would be its own first fault.
    let patterns: Vec<String> = ["todo!", "unimplemented!", "dbg!"].iter().map(|name| format!("{name}(")).collect();
    let ignored = format!("#[{}", "ignore");
    let mut faults = Vec::new();
    for source in sources(&[".rs"])? {
        for (number, line) in source.text.lines().enumerate() {
            if patterns.iter().any(|pattern| line.contains(pattern.as_str())) || line.contains(&ignored) {
                faults.push(format!("{}:{}: {}", source.path, number + 1, line.trim()));
            }
        }
    }
    Ok(faults)
}

/// No file or folder is named for nothing in particular.
pub fn names() -> Result<Vec<String>> {
    let files = sources(&[".rs"])?.into_iter().map(|source| source.path);
    Ok(files.filter(|path| path.trim_end_matches(".rs").split('/').any(|part| EMPTY_NAMES.contains(&part))).collect())
}
