//! `posthaste component new`.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use super::project::{self, Project};
use crate::cli::{Failure, say};
use crate::edge::Stage;

#[derive(Debug, Args)]
pub(crate) struct New {
    /// What it is written in.
    #[arg(long, value_name = "LANGUAGE")]
    lang: Language,
    /// The stage: validator, renderer, transformer, signer or shaper.
    #[arg(long)]
    stage: Stage,
    /// The folder to make; one that is there must be empty. The project is named after it.
    dir: PathBuf,
}

/// Languages that there are projects in. Any other that compiles to a component will do, from the same `wit/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Language {
    Rust,
    #[value(name = "javascript", alias = "js")]
    JavaScript,
    Python,
}

impl New {
    pub fn run(&self) -> Result<(), Failure> {
        let name = project_name(&self.dir).ok_or_else(|| {
            let text = "name the folder in small letters, digits and hyphens, beginning with a letter: the project is named after it";
            Failure::Refused(format!("{}: {text}", self.dir.display()))
        })?;
        expect_empty(&self.dir)?;
        let Project { files, build, artifact } = project::of(self.lang, self.stage, &name);
        for (path, text) in files {
            let file = self.dir.join(&path);
            let folder = file.parent().unwrap_or(&self.dir);
            let write = || std::fs::create_dir_all(folder).and_then(|()| std::fs::write(&file, text));
            write().map_err(Failure::io(format!("cannot write {}", file.display())))?;
        }
        say(format_args!("{}: a {} named {name}. Build and test it:\n", self.dir.display(), self.stage))?;
        say(format_args!("cd {}\n{build}\nposthaste component test {artifact}", self.dir.display()))
    }
}

/// The last part of the path, where it can be the name of a crate and of a package.
fn project_name(dir: &Path) -> Option<String> {
    // `.` and the like have a name of their own.
    let dir = std::path::absolute(dir).ok()?;
    let name = dir.file_name()?.to_str()?;
    let fits = name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    fits.then(|| name.to_owned())
}

fn expect_empty(dir: &Path) -> Result<(), Failure> {
    let mut entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Failure::io(format!("cannot look into {}", dir.display()))(error)),
    };
    match entries.next() {
        None => Ok(()),
        Some(_) => Err(Failure::Refused(format!("{}: is not empty: name a folder that is", dir.display()))),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names() {
        let check = |dir: &str, expect: Option<&str>| {
            assert_eq!(project_name(Path::new(dir)).as_deref(), expect, "{dir}");
        };
        check("acme-rules", Some("acme-rules"));
        check("a/b/c2/", Some("c2"));
        check("2a", None);
        check("Acme", None);
        check("a b", None);
        check("/", None);
    }

    /// Everything is written, nothing is left to fill in, and what is there is never written over.
    #[test]
    fn projects_are_whole() {
        let folder = std::env::temp_dir().join(format!("posthaste-new-{}", uuid::Uuid::new_v4()));
        for lang in [Language::Rust, Language::JavaScript, Language::Python] {
            for stage in Stage::ALL {
                let dir = folder.join(format!("{lang:?}-{stage}").to_ascii_lowercase());
                let new = New { lang, stage, dir: dir.clone() };
                new.run().unwrap();
                let name = project_name(&dir).unwrap();
                for (path, _) in project::of(lang, stage, &name).files {
                    let text = std::fs::read_to_string(dir.join(&path)).unwrap();
                    let left = ["@NAME@", "@STAGE@", "@WORLD@", "@ARTIFACT@", "@DEPENDENCIES@"];
                    assert!(!left.iter().any(|place| text.contains(place)), "{lang:?} {stage}: {path}\n{text}");
                }
                assert!(new.run().unwrap_err().to_string().contains("is not empty"));
            }
        }
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
