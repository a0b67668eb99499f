//! What is wrong with a configuration file: every fault with its place and what to write instead.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// One fault and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// From 1; absent where the fault is not in the text (a file that cannot be read).
    pub place: Option<Place>,
    /// What is wrong and what to write instead.
    pub text: String,
}

/// A place in a text: line and column count from 1, columns in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub line: usize,
    pub column: usize,
}

impl Place {
    /// The place of a byte offset.
    fn of(text: &str, offset: usize) -> Place {
        let before = text.get(..offset).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        Place { line: before.matches('\n').count() + 1, column: before[line_start..].chars().count() + 1 }
    }
}

/// All faults of one file, in the order of the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults {
    pub file: PathBuf,
    pub faults: Vec<Fault>,
}

impl Faults {
    /// A single fault that has no place in the text.
    pub fn whole(file: &Path, text: impl Into<String>) -> Faults {
        Faults { file: file.to_owned(), faults: vec![Fault { place: None, text: text.into() }] }
    }
}

/// One fault a line, `file:line:column: text`, as editors and terminals know to jump to.
impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, fault) in self.faults.iter().enumerate() {
            if n > 0 {
                writeln!(f)?;
            }
            match fault.place {
                Some(Place { line, column }) => {
                    write!(f, "{}:{line}:{column}: {}", self.file.display(), fault.text)?;
                }
                None => write!(f, "{}: {}", self.file.display(), fault.text)?,
            }
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}

/// Collects faults while a file is read, so that all of them are told at once.
pub(super) struct Collector<'t> {
    text: &'t str,
    found: Vec<Fault>,
}

impl<'t> Collector<'t> {
    pub(super) fn new(text: &'t str) -> Collector<'t> {
        Collector { text, found: Vec::new() }
    }

    pub(super) fn add(&mut self, span: Range<usize>, text: impl Into<String>) {
        self.found.push(Fault { place: Some(Place::of(self.text, span.start)), text: text.into() });
    }

    /// The faults in the order of the text; those without a place last.
    pub(super) fn finish(mut self) -> Vec<Fault> {
        self.found.sort_by_key(|fault| fault.place.unwrap_or(Place { line: usize::MAX, column: 0 }));
        self.found.dedup();
        self.found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_become_lines_and_columns() {
        let check = |offset, line, column| assert_eq!(Place::of("ab\nçd = 1\n", offset), Place { line, column });
        check(0, 1, 1);
        check(1, 1, 2);
        check(3, 2, 1);
        check(5, 2, 2); // behind the two octets of the cedilla
        check(99, 3, 1); // past the end: the last place there is
    }
}
