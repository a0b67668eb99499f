//! `posthaste component test`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::{stage_of, tell};
use crate::cli::{Failure, say};
use crate::edge::conformance::{self, CaseReport, Verdict};
use crate::edge::{Bounds, Stage};

/// What one call may answer. As in `[stages]`.
const OUTPUT_BYTES: usize = 64 << 20;

/// What is shown of a text.
const SHOWN: usize = 60;

#[derive(Debug, Args)]
pub(crate) struct Test {
    /// The component file (.wasm).
    file: PathBuf,
    /// The stage that it is tested as: validator, renderer, transformer, signer or shaper. Default: the one that it exports.
    #[arg(long)]
    stage: Option<Stage>,
    /// Milliseconds that a call may take, as `time` in `[stages]`.
    #[arg(long, value_name = "MS", default_value_t = 5000, value_parser = clap::value_parser!(u64).range(1..=600_000))]
    time_ms: u64,
    /// MiB of memory that an instance may have, as `memory_bytes` in `[stages]`.
    #[arg(long, value_name = "MIB", default_value_t = 128, value_parser = clap::value_parser!(u64).range(1..=4096))]
    memory_mib: u64,
}

impl Test {
    pub async fn run(&self) -> Result<(), Failure> {
        let stage = stage_of(&self.file, self.stage)?;
        let bounds = Bounds {
            time: Duration::from_millis(self.time_ms),
            memory_bytes: usize::try_from(self.memory_mib << 20).unwrap_or(usize::MAX),
            output_bytes: OUTPUT_BYTES,
        };
        let bytes = std::fs::metadata(&self.file).map_or(0, |file| usize::try_from(file.len()).unwrap_or(usize::MAX));
        tell(&self.file.display().to_string(), bytes, "compiling");
        let (report, compiling) =
            conformance::test(&self.file, stage, &bounds).await.map_err(|error| Failure::Refused(error.to_string()))?;
        say(format_args!("{}: {stage}, compiled in {} ms", self.file.display(), compiling.as_millis()))?;
        say(format_args!("{:<46} {:>10} {:>10} {:>8}  answer", "case", "fresh", "re-used", "memory"))?;
        for case in &report.cases {
            print(case)?;
        }
        let faults = report.faults().len();
        if faults > 0 {
            return Err(Failure::Refused(format!("{faults} of {} cases failed", report.cases.len())));
        }
        let unavailable = |case: &&CaseReport| matches!(case.outcome, Ok(Verdict::Unavailable(_)));
        if report.cases.iter().filter(unavailable).count() == report.cases.len() {
            say(
                "note: it was unavailable every time. Does it need a grant, such as a host to reach by HTTP? Tests grant none.",
            )?;
        }
        say(format_args!("all {} cases passed", report.cases.len()))
    }
}

fn print(case: &CaseReport) -> Result<(), Failure> {
    let CaseReport { name, outcome, fresh, reused, memory_bytes } = case;
    let answer = match outcome {
        Ok(Verdict::Answered) => "ok".to_owned(),
        Ok(Verdict::Refused(text)) => format!("ok, refused: {}", short(text)),
        Ok(Verdict::Unavailable(text)) => format!("ok, unavailable: {}", short(text)),
        // In full: it is what the author has to mend.
        Err(fault) => format!("FAIL: {}", line(fault)),
    };
    let mebibytes = *memory_bytes as f64 / f64::from(1 << 20);
    say(format_args!("{name:<46} {:>10} {:>10} {mebibytes:>4.1} MiB  {answer}", time(*fresh), time(*reused)))
}

fn time(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1000.0)
}

/// A stranger's text on one line.
fn line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn short(text: &str) -> String {
    let line = line(text);
    match line.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}
