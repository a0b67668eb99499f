//! The outside world that the tests judge by: other people's clients, verifiers, servers and a browser.
//!
//! Python and Node packages go into `target/interop/` and `target/authors/` at the versions that `tests/interop/` and
//! `tests/authors/` name; Debian packages into
//! the system, where they lack and we may. Nothing is fetched when nothing changed.

use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::run;

/// How often a download is tried, and the wait before the second time (doubled for the third).
const TRIES: u32 = 3;
const FIRST_WAIT: Duration = Duration::from_secs(5);

/// A program that shows that a Debian package is there.
const DEBIAN: &[(&str, &str)] = &[
    ("postfix", "postfix"),
    ("smtp-source", "postfix"),
    ("chromium", "chromium"),
    ("node", "nodejs"),
    ("npm", "npm"),
    ("python3", "python3"),
    ("make", "make"),
];

/// Installs all and says what could not be, in words for people.
pub fn set_up() -> Vec<String> {
    let steps = [
        ("Debian packages", debian()),
        ("Python packages", python("interop")),
        ("Node packages", node("interop", &["ci", "--omit=optional"])),
        // What authors of components have.
        ("componentize-py", python("authors")),
        // Its programs are optional packages, one for each kind of machine; `ci` wants those of other kinds in the lock too.
        ("componentize-js", node("authors", &["install"])),
        ("crates of the examples", examples()),
    ];
    let mut missing = Vec::new();
    for (what, outcome) in steps {
        if let Err(error) = outcome {
            eprintln!("xtask: {what} cannot be set up: {error:#}");
            missing.push(format!("{what}: {error:#}"));
        }
    }
    missing
}

/// Installs what authors of components in JavaScript and Python have.
pub fn ensure_authors() -> Result<()> {
    install_packages(&DEBIAN[3..])?;
    python("authors")?;
    node("authors", &["install"])
}

/// Installs Postfix and its smtp-source and smtp-sink.
pub fn ensure_postfix() -> Result<()> {
    install_packages(&DEBIAN[..2])
}

fn debian() -> Result<()> {
    install_packages(DEBIAN)
}

fn install_packages(wanted: &[(&str, &str)]) -> Result<()> {
    let mut packages: Vec<&str> =
        wanted.iter().filter(|(program, _)| !run::exists(program)).map(|(_, package)| *package).collect();
    packages.dedup();
    if packages.is_empty() {
        return Ok(());
    }
    let list = packages.join(" ");
    if !run::exists("apt-get") {
        bail!("please install {list}: this system has no apt-get");
    }
    if run::quiet(&mut run::command("id", &["-u"]))?.trim() != "0" {
        bail!("please run `sudo apt-get install --no-install-recommends {list}`: only root can install packages");
    }
    eprintln!("xtask: installing {list}");
    // Another package manager at work is waited for; Postfix asks no question and is not started.
    let apt = ["-o", "DPkg::Lock::Timeout=300", "-o", "Acquire::Retries=3", "-y"];
    let environment = [("DEBIAN_FRONTEND", "noninteractive"), ("RUNLEVEL", "1")];
    retry(|| run::quiet(run::command("apt-get", &apt).arg("update").envs(environment)))?;
    let install = ["install", "--no-install-recommends"];
    retry(|| run::quiet(run::command("apt-get", &apt).args(install).args(&packages).envs(environment)))
}

/// Installs `tests/WHOSE/python/requirements.txt` into `target/WHOSE/python`.
fn python(whose: &str) -> Result<()> {
    let requirements = run::root().join("tests").join(whose).join("python/requirements.txt");
    let folder = run::target().join(whose).join("python");
    once(&folder, &[&requirements], || {
        let (venv, file) = (folder.to_string_lossy(), requirements.to_string_lossy());
        if run::quiet(&mut run::command("python3", &["-m", "venv", "--clear", &venv])).is_err() {
            // Debian ships Python's venv apart.
            install_packages(&[("python3-venv", "python3-venv")])?;
            run::quiet(&mut run::command("python3", &["-m", "venv", "--clear", &venv]))?;
        }
        let pip = folder.join("bin/pip");
        retry(|| {
            let arguments = ["install", "--quiet", "--disable-pip-version-check", "--requirement", &file];
            run::quiet(&mut run::command(&pip.to_string_lossy(), &arguments))
        })
    })
}

/// Installs `tests/WHOSE/node/package-lock.json` into `target/WHOSE/node`.
fn node(whose: &str, verb: &[&str]) -> Result<()> {
    let source = run::root().join("tests").join(whose).join("node");
    let folder = run::target().join(whose).join("node");
    let files = [source.join("package.json"), source.join("package-lock.json")];
    once(&folder, &[&files[0], &files[1]], || {
        std::fs::create_dir_all(&folder).context("cannot create the folder")?;
        for file in &files {
            std::fs::copy(file, folder.join(file.file_name().unwrap_or_default())).context("cannot copy")?;
        }
        let flags = ["--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"];
        retry(|| run::quiet(run::command("npm", verb).args(flags).current_dir(&folder)))
    })
}

/// Fetches the crates of the examples, so that their tests need no network.
fn examples() -> Result<()> {
    for entry in std::fs::read_dir(run::root().join("examples")).context("cannot list examples")? {
        let entry = entry?;
        let lock = entry.path().join("Cargo.lock");
        if lock.is_file() {
            let fetched = run::target().join("examples").join(entry.file_name());
            once(&fetched, &[&lock], || {
                std::fs::create_dir_all(&fetched).context("cannot create the folder")?;
                retry(|| run::quiet(run::cargo(&["fetch", "--locked"]).current_dir(entry.path())))
            })?;
        }
    }
    Ok(())
}

/// Runs `install` for a folder unless it ran there before with files of the same content.
pub fn once(folder: &Path, files: &[&Path], install: impl FnOnce() -> Result<()>) -> Result<()> {
    let mut content = String::new();
    for file in files {
        content.push_str(&std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?);
    }
    let stamp = folder.join("installed-from");
    if std::fs::read_to_string(&stamp).is_ok_and(|old| old == content) {
        return Ok(());
    }
    eprintln!("xtask: installing into {}", folder.display());
    install()?;
    std::fs::write(&stamp, content).with_context(|| format!("cannot write {}", stamp.display()))
}

/// Registries time out now and then: tries again before giving up.
pub fn retry(mut step: impl FnMut() -> Result<String>) -> Result<()> {
    let mut wait = FIRST_WAIT;
    for left in (0..TRIES).rev() {
        match step() {
            Ok(_) => return Ok(()),
            Err(error) if left == 0 => return Err(error),
            Err(error) => eprintln!("xtask: {error:#}\nxtask: trying again in {} s", wait.as_secs()),
        }
        sleep(wait);
        wait *= 2;
    }
    Ok(())
}
