//! The peers of `cargo xtask bench relay`, in `target/bench/`: Haraka from npm, OpenDKIM from Debian, unpacked and not
//! installed, so that the system stays as it is.

use std::fs;

use anyhow::{Context, Result, bail};

use crate::interop::{once, retry};
use crate::run;

/// Newer packages of its dependencies were taken back; none of that day or before was.
const HARAKA_BEFORE: &str = "2026-09-10";

/// Installs the peers that a command line names.
pub fn ensure(arguments: &[String]) -> Result<()> {
    let named = |name: &str| arguments.iter().any(|word| word.split(',').any(|part| part == name));
    if named("haraka") {
        haraka()?;
    }
    if named("postfix") {
        opendkim()?;
    }
    Ok(())
}

fn haraka() -> Result<()> {
    let manifest = run::root().join("tests/bench/relay/haraka/package.json");
    let folder = run::target().join("bench/haraka");
    once(&folder, &[&manifest], || {
        fs::create_dir_all(&folder).context("cannot create the folder")?;
        fs::copy(&manifest, folder.join("package.json")).context("cannot copy")?;
        let before = format!("--before={HARAKA_BEFORE}");
        let arguments =
            ["install", "--omit=optional", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error", &before];
        retry(|| run::quiet(run::command("npm", &arguments).current_dir(&folder)))
    })
}

fn opendkim() -> Result<()> {
    let folder = run::target().join("bench/opendkim");
    if run::exists("opendkim") || folder.join("usr/sbin/opendkim").is_file() {
        return Ok(());
    }
    if !run::exists("apt-get") {
        bail!("please install opendkim: this system has no apt-get");
    }
    eprintln!("xtask: unpacking opendkim into {}", folder.display());
    let packages = folder.join("packages");
    fs::create_dir_all(packages.join("partial")).context("cannot create the folder")?;
    // With what it needs and the system lacks; only fetched.
    let archives = format!("Dir::Cache::archives={}", packages.display());
    let options = ["-y", "--no-install-recommends", "--download-only", "-o", "Debug::NoLocking=1", "-o", &archives];
    let fetch = || run::quiet(run::command("apt-get", &options).args(["install", "opendkim"]));
    if fetch().is_err() {
        retry(|| run::quiet(&mut run::command("apt-get", &["update"])))?;
        retry(fetch)?;
    }
    for entry in fs::read_dir(&packages)?.flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|ending| ending == "deb") {
            run::quiet(run::command("dpkg-deb", &["-x"]).arg(&path).arg(&folder))?;
        }
    }
    Ok(())
}
