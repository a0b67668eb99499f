//! Running the scripts in `tests/interop/`: a job in as JSON, an answer out as JSON. A script that asserts in vain fails
//! the test with its own words.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use tests::product::root;

/// A script that takes longer hangs.
const LIMIT: Duration = Duration::from_secs(90);

/// Runs `tests/interop/python/NAME.py`.
pub fn python(name: &str, job: &Value) -> Result<Value> {
    let interpreter = tool("python/bin/python")?;
    let script = root().join("tests/interop/python").join(format!("{name}.py"));
    run(Command::new(interpreter).arg(script), job)
}

/// Runs `tests/interop/node/NAME.mjs`.
pub fn node(name: &str, job: &Value) -> Result<Value> {
    tool("node/node_modules")?;
    // Node looks for packages from where a script lies: beside the installed ones.
    let folder = root().join("target/interop/node");
    let script = folder.join(format!("{name}.mjs"));
    std::fs::copy(root().join("tests/interop/node").join(format!("{name}.mjs")), &script)?;
    run(Command::new("node").arg(script).current_dir(folder), job)
}

/// A file that the set-up leaves in `target/interop/`.
fn tool(path: &str) -> Result<PathBuf> {
    let path = Path::new("target/interop").join(path);
    let full = root().join(&path);
    if !full.exists() {
        let why = std::env::var("POSTHASTE_INTEROP_MISSING").unwrap_or_default();
        bail!("{} is not there: `cargo xtask test` sets it up. {why}", path.display());
    }
    Ok(full)
}

fn run(command: &mut Command, job: &Value) -> Result<Value> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("{command:?} cannot be started"))?;
    // Dropping the pipe ends the script's input.
    child.stdin.take().context("no stdin")?.write_all(job.to_string().as_bytes())?;
    let pid = child.id();
    let (done, waiting) = std::sync::mpsc::channel();
    std::thread::spawn(move || done.send(child.wait_with_output()));
    let asked = Instant::now();
    let Ok(output) = waiting.recv_timeout(LIMIT) else {
        let _ = Command::new("kill").args(["-KILL", &pid.to_string()]).status();
        bail!("{command:?} was not done after {:?}", asked.elapsed());
    };
    let output = output?;
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if !output.status.success() {
        bail!("{command:?} failed ({}):\n{out}{err}", output.status);
    }
    serde_json::from_str(out.trim()).with_context(|| format!("{command:?} printed no JSON:\n{out}{err}"))
}
