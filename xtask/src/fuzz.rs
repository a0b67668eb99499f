//! `cargo xtask fuzz`: looks for inputs that break a promise, guided by the code they reach. It ends by itself, when the
//! time is up for each target, or at the first input that breaks one.
//!
//! The engine is libFuzzer, built in a workspace of its own with the compiler's coverage passes, which the stable toolchain
//! has. What it learns stays in `target/fuzz/`; `tests/fuzz/corpus/` is where it begins, and what the tests play.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::run;

/// How long a target is tried where nobody says.
const SECONDS: u64 = 60;

/// The coverage passes of LLVM: counters at each edge, their addresses, and what is compared.
const COVERAGE: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares";

/// Largest input, in octets; seconds that one may take, on a machine that does much else (and below them none is kept for
/// being slow); memory, in MiB.
const LIMITS: [&str; 4] = ["-max_len=8192", "-timeout=60", "-report_slow_units=60", "-rss_limit_mb=2048"];

const USAGE: &str = "usage: cargo xtask fuzz [TARGET...] [--seconds N]
       cargo xtask fuzz TARGET --replay FILE

Looks for inputs that break a promise, N seconds for each target (60 without a number; all targets without a name), and
ends at the first that does: it is saved, and the last line says how to replay it.
";

/// What was asked for.
#[derive(Debug, PartialEq, Eq)]
enum Order {
    Help,
    Search { targets: Vec<String>, seconds: u64 },
    Replay { target: String, file: PathBuf },
}

/// Does what the arguments ask for.
pub fn run(arguments: &[String]) -> Result<()> {
    let corpus = run::root().join("tests/fuzz/corpus");
    let known = names(&corpus)?;
    match read(arguments, &known)? {
        Order::Help => println!("{USAGE}\nTargets: {}", known.join(", ")),
        Order::Search { targets, seconds } => {
            let engine = build()?;
            for target in targets {
                search(&engine, &target, &corpus.join(&target), seconds)?;
            }
        }
        Order::Replay { target, file } => {
            let file = fs::canonicalize(&file).with_context(|| format!("{} cannot be read", file.display()))?;
            let mut command = Command::new(build()?);
            command.env("FUZZ_TARGET", &target).args(LIMITS).arg(file);
            run::show(&mut command)?;
        }
    }
    Ok(())
}

fn read(arguments: &[String], known: &[String]) -> Result<Order> {
    let (mut targets, mut seconds, mut replay) = (Vec::new(), None, None);
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--help" | "-h" => return Ok(Order::Help),
            "--seconds" => {
                let number = words.next().and_then(|number| number.parse().ok()).filter(|number| *number > 0);
                seconds = Some(number.context("--seconds needs a number of seconds for each target, such as 60")?);
            }
            "--replay" => replay = Some(PathBuf::from(words.next().context("--replay needs a file")?)),
            word if known.iter().any(|name| name == word) => targets.push(word.to_owned()),
            word => bail!("there is no target `{word}`: {} exist", known.join(", ")),
        }
    }
    match (replay, targets.as_slice(), seconds) {
        (Some(file), [target], None) => Ok(Order::Replay { target: target.clone(), file }),
        (Some(_), ..) => bail!("--replay goes with one target and nothing else\n\n{USAGE}"),
        (None, [], _) => Ok(Order::Search { targets: known.to_vec(), seconds: seconds.unwrap_or(SECONDS) }),
        (None, ..) => Ok(Order::Search { targets, seconds: seconds.unwrap_or(SECONDS) }),
    }
}

/// Tries one target. The error names the input that broke it.
fn search(engine: &Path, target: &str, corpus: &Path, seconds: u64) -> Result<()> {
    let learned = run::target().join("fuzz/corpus").join(target);
    let broken = run::target().join("fuzz/broken").join(target);
    for folder in [&learned, &broken] {
        fs::create_dir_all(folder).with_context(|| format!("{} cannot be made", folder.display()))?;
    }
    let before = files(&broken)?;
    eprintln!("xtask: {target}, {seconds} s");
    let mut command = Command::new(engine);
    command.env("FUZZ_TARGET", target).args(LIMITS).arg(format!("-max_total_time={seconds}"));
    command.args(["-print_final_stats=1", "-verbosity=0"]).arg(format!("-artifact_prefix={}/", broken.display()));
    let status = tell(command.arg(&learned).arg(corpus))?;
    let found: Vec<_> = files(&broken)?.difference(&before).cloned().collect();
    match (status.success(), found.as_slice()) {
        (true, _) => Ok(()),
        (false, []) => bail!("`{target}` ended early ({status}), see above"),
        (false, [file, ..]) => bail!(
            "`{target}` broke ({status}). The input is saved; again: cargo xtask fuzz {target} --replay {}\nOnce it is \
             mended, put the file into tests/fuzz/corpus/{target}/ under a name that says what it broke: \
             `cargo test --test fuzz_corpus` plays it",
            file.display()
        ),
    }
}

/// Runs the engine, its output shown but for the words that it recommends for the next time, which are many.
fn tell(command: &mut Command) -> Result<ExitStatus> {
    let context = format!("{} cannot be started", command.get_program().to_string_lossy());
    let mut engine = command.stderr(Stdio::piped()).spawn().context(context)?;
    let mut is_shown = true;
    for line in BufReader::new(engine.stderr.take().context("the engine says nothing")?).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        is_shown &= !line.starts_with("###### Recommended dictionary");
        if is_shown {
            eprintln!("{line}");
        }
        is_shown |= line.starts_with("###### End of recommended dictionary");
    }
    Ok(engine.wait()?)
}

/// Targets, by their folders in the corpus.
fn names(corpus: &Path) -> Result<Vec<String>> {
    let folders = files(corpus)?;
    Ok(folders.iter().filter_map(|path| path.file_name()).map(|name| name.to_string_lossy().into_owned()).collect())
}

fn files(folder: &Path) -> Result<BTreeSet<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("{} cannot be read", folder.display()))?;
    entries.map(|entry| Ok(entry?.path())).collect()
}

/// Builds the engine; the machine is named, so that build scripts are not instrumented.
fn build() -> Result<PathBuf> {
    let about = run::quiet(&mut run::command("rustc", &["-vV"]))?;
    let machine = about.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc names no host")?;
    lock()?;
    let folder = run::target().join("fuzz");
    let mut command = run::cargo(&["build", "--release", "--manifest-path", "tests/fuzz/engine/Cargo.toml"]);
    command.args(["--target", machine]).env("CARGO_TARGET_DIR", &folder).env("RUSTFLAGS", COVERAGE);
    run::show(&mut command)?;
    Ok(folder.join(machine).join("release/fuzz"))
}

/// Gives the engine the product's versions: cargo keeps those it needs and adds the engine's own.
fn lock() -> Result<()> {
    let (product, engine) = (run::root().join("Cargo.lock"), run::root().join("tests/fuzz/engine/Cargo.lock"));
    let changed = |path: &Path| fs::metadata(path).and_then(|it| it.modified());
    let is_current = match (changed(&product), changed(&engine)) {
        (Ok(product), Ok(engine)) => product < engine,
        _ => false,
    };
    if !is_current {
        fs::copy(&product, &engine).with_context(|| format!("{} cannot be written", engine.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn order(line: &str) -> Result<Order> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        read(&words, &["address".to_owned(), "server".to_owned()])
    }

    #[test]
    fn words_become_an_order() {
        let search = |targets: &[&str], seconds| Order::Search {
            targets: targets.iter().map(|target| (*target).to_owned()).collect(),
            seconds,
        };
        assert_eq!(order("").unwrap(), search(&["address", "server"], SECONDS));
        assert_eq!(order("server --seconds 5").unwrap(), search(&["server"], 5));
        assert_eq!(order("server --help").unwrap(), Order::Help);
        let replay = Order::Replay { target: "server".to_owned(), file: PathBuf::from("x") };
        assert_eq!(order("server --replay x").unwrap(), replay);
    }

    #[test]
    fn what_is_no_order_is_told() {
        let check = |line: &str, expect: &str| {
            let told = order(line).unwrap_err().to_string();
            assert!(told.contains(expect), "{line}: {told}");
        };
        check("sever", "there is no target `sever`: address, server exist");
        check("--seconds", "--seconds needs a number");
        check("--seconds 0", "--seconds needs a number");
        check("--replay", "--replay needs a file");
        check("--replay x", "--replay goes with one target");
        check("server address --replay x", "--replay goes with one target");
    }
}
