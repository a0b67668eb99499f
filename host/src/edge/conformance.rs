//! What every component of a stage must stand before mail depends on it.
//!
//! A component is given the cases of its stage (`conformance/*.json`: ordinary, empty, large, 8-bit and odd input) under
//! the confinement that it runs in later, with no grant, each twice in an instance of its own. It may refuse any of them
//! and may be unavailable; what it must not do is to trap, to take too long, to answer too much or what its interface
//! forbids, or to answer the same question in two ways. Messages and templates go through the pipeline itself, so that its
//! own checks judge the answers.

mod cases;
mod probe;
pub(super) mod rules;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use contract::StageError;
use wasmtime::Engine;

use super::component::{self, Compiled, InspectError, Linkers, Stage};
use super::confine::Bounds;
use super::engine;
use cases::{Case, Question};
use probe::{AS_PROMISED, Asked, NOT_ANSWERED, Probe, Ring, wrong};

/// Bytes that are shown of two answers which should be one, and how many of those stand before the first difference.
const ANSWER_SHOWN: usize = 60;
const BEFORE_SHOWN: usize = 20;

/// How a component stood the cases of its stage.
#[derive(Clone, Debug)]
pub struct Report {
    pub stage: Stage,
    pub cases: Vec<CaseReport>,
}

/// One case of a report.
#[derive(Clone, Debug)]
pub struct CaseReport {
    pub name: String,
    /// What it answered; or what was expected and what it did instead, in words for the component's author.
    pub outcome: Result<Verdict, String>,
    /// Making an instance and asking it.
    pub fresh: Duration,
    /// Asking the same instance again.
    pub reused: Duration,
    /// The most memory that the instance had.
    pub memory_bytes: usize,
}

/// An answer that keeps to the contract.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Answered,
    /// With the text for the sender.
    Refused(String),
    /// With the text for the operator.
    Unavailable(String),
}

impl Report {
    /// Whether the component may be used.
    pub fn passed(&self) -> bool {
        self.cases.iter().all(|case| case.outcome.is_ok())
    }

    /// What is wrong, a line a case; empty where nothing is.
    pub fn faults(&self) -> Vec<String> {
        let fault = |case: &CaseReport| case.outcome.as_ref().err().map(|fault| format!("{}: {fault}", case.name));
        self.cases.iter().filter_map(fault).collect()
    }
}

/// Compiles a file in an engine of its own and gives it the cases of its stage. For one who has no host at hand.
///
/// The second value is how long compiling took. Errors: a file that is no component of the stage.
pub async fn test(path: &Path, stage: Stage, bounds: &Bounds) -> Result<(Report, Duration), InspectError> {
    test_bytes(path, &component::read(path, stage)?, stage, bounds).await
}

/// The same with the file's content; `path` is what errors call it.
pub(super) async fn test_bytes(
    path: &Path,
    bytes: &[u8],
    stage: Stage,
    bounds: &Bounds,
) -> Result<(Report, Duration), InspectError> {
    let failed =
        |error: wasmtime::Error| InspectError::Compile { path: path.to_owned(), stage, what: format!("{error:#}") };
    let size = engine::PoolSize::of_one(bounds.memory_bytes);
    let engine = engine::start(size, None).map_err(failed)?;
    let linkers = Linkers::new(&engine).map_err(failed)?;
    let started = Instant::now();
    let compiled = Compiled::stage(&engine, &linkers, stage, bytes).map_err(failed)?;
    let compiling = started.elapsed();
    Ok((check(&engine, &compiled, stage, bounds).await, compiling))
}

/// Gives a component the cases of its stage, one after the other. At most two instances' worth of the pool, and so many
/// times the bound of a call as there are calls.
pub(super) async fn check(engine: &Engine, compiled: &Compiled, stage: Stage, bounds: &Bounds) -> Report {
    let mut reports = Vec::new();
    for case in cases::of(stage) {
        reports.push(judge(engine, compiled, stage, bounds, case).await);
    }
    Report { stage, cases: reports }
}

/// Asks one question twice.
async fn judge(engine: &Engine, compiled: &Compiled, stage: Stage, bounds: &Bounds, case: Case) -> CaseReport {
    let ring = Arc::new(Ring::new(case.keys));
    let started = Instant::now();
    let probe = Probe::start(engine, compiled, stage, bounds, ring.clone()).await;
    let mut report = CaseReport {
        name: case.name.clone(),
        outcome: Ok(Verdict::Answered),
        fresh: started.elapsed(),
        reused: Duration::ZERO,
        memory_bytes: 0,
    };
    let probe = match probe {
        Ok(probe) => probe,
        Err(fault) => return CaseReport { outcome: Err(fault), ..report },
    };
    let first = answer(&probe, &case, &ring).await;
    report.fresh += probe.spent().await;
    let Ok((verdict, essence)) = first else {
        report.memory_bytes = probe.memory_bytes().await;
        return CaseReport { outcome: first.map(|(verdict, _)| verdict), ..report };
    };
    let second = answer(&probe, &case, &ring).await;
    report.reused = probe.spent().await;
    report.memory_bytes = probe.memory_bytes().await;
    report.outcome = match second {
        Err(fault) => Err(format!("asked again: {fault}")),
        // Not now is an answer for now.
        Ok((Verdict::Unavailable(_), _)) => Ok(verdict),
        Ok(_) if matches!(verdict, Verdict::Unavailable(_)) => Ok(verdict),
        Ok((_, again)) if again != essence => Err(wrong("the same answer when asked again", &differ(&essence, &again))),
        Ok(_) => Ok(verdict),
    };
    report
}

/// One answer, judged: the verdict and what must be the same every time.
async fn answer(probe: &Probe, case: &Case, ring: &Ring) -> Result<(Verdict, Vec<u8>), String> {
    let road = match &case.question {
        Question::Submission(submission) => pipeline::run(probe, (**submission).clone()).await.map(|_| ()),
        Question::Event(input) => {
            // What is wrong with the answer is told below, as for all stages.
            let _ = probe.shape((**input).clone()).await;
            Ok(())
        }
    };
    let Asked { fault, said, essence } = probe.asked().await;
    let key_failed = ring.has_failed();
    if let Some(fault) = fault.or_else(|| ring.misuse()) {
        return Err(fault);
    }
    if key_failed && matches!(said, Some(Ok(()))) {
        return Err(wrong("`unavailable`, because a key failed", "it answered all the same"));
    }
    let verdict = match said {
        None => return Err("the case did not reach the stage: this is a fault of Posthaste".to_owned()),
        Some(Err(StageError::Unavailable(text))) => Verdict::Unavailable(text),
        Some(Err(StageError::Refused(finding))) if finding.text.trim().is_empty() => {
            let given = "it refuses without a text";
            return Err(wrong("a refusal that says in one sentence what is wrong and what to do", given));
        }
        Some(Err(StageError::Refused(finding))) => Verdict::Refused(finding.text),
        Some(Ok(())) => Verdict::Answered,
    };
    match road {
        // The stage answered and the road would not have it: nonsense.
        Err(pipeline::Refusal::Unavailable { text, .. }) if verdict == Verdict::Answered && case.is_result_used => {
            Err(wrong(AS_PROMISED, &text))
        }
        _ => Ok((verdict, essence)),
    }
}

/// How the second of two answers differs from the first: both from shortly before where they part.
fn differ(first: &[u8], second: &[u8]) -> String {
    if first == NOT_ANSWERED || second == NOT_ANSWERED {
        let said = |essence: &[u8]| if essence == NOT_ANSWERED { "refused" } else { "answered" };
        return format!("it {} first and then {}", said(first), said(second));
    }
    let parted = first.iter().zip(second).take_while(|(one, other)| one == other).count();
    let shown = |essence: &[u8]| {
        let part: Vec<u8> =
            essence.iter().skip(parted.saturating_sub(BEFORE_SHOWN)).take(ANSWER_SHOWN).copied().collect();
        String::from_utf8_lossy(&part).escape_debug().to_string()
    };
    format!("it answered `{}` first and then `{}`", shown(first), shown(second))
}

#[cfg(test)]
#[path = "conformance/tests.rs"]
mod tests;
