//! Calls of stage components: how long, and what came of them.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use prometheus::{Histogram, HistogramVec};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::recent::Recent;

/// Components of one stage that have figures of their own.
const COMPONENTS: usize = 500;

/// What all others count as.
const OTHERS: &str = "(others)";

/// What a call came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Called {
    Answered,
    /// The stage refused the message.
    Refused,
    /// It trapped, took too long or went over a limit; or there is none.
    Failed,
}

/// The figures of one component in one stage.
#[derive(Debug)]
struct Tally {
    seconds: [Histogram; 3],
    calls: Recent,
    failed: Recent,
}

/// A component in trouble.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Failing {
    pub stage: String,
    /// First digits of its SHA-256.
    pub component: String,
    /// In the last minute or two.
    pub calls: u64,
    pub failed: u64,
}

/// All of them.
pub struct Stages {
    seconds: HistogramVec,
    /// By stage and component.
    known: RwLock<HashMap<&'static str, HashMap<String, Arc<Tally>>>>,
}

impl Stages {
    pub(super) fn new(seconds: HistogramVec) -> Stages {
        Stages { seconds, known: RwLock::default() }
    }

    /// A call of a stage by the component of this digest. Readers do not wait for each other.
    pub fn called(&self, stage: &'static str, digest: &str, result: Called, took: Duration) {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let tally = known.get(stage).and_then(|components| components.get(digest)).cloned();
        drop(known);
        tally.unwrap_or_else(|| self.add(stage, digest)).called(result, took);
    }

    fn add(&self, stage: &'static str, digest: &str) -> Arc<Tally> {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let components = known.entry(stage).or_default();
        let digest = if components.len() < COMPONENTS { digest } else { OTHERS };
        let tally = components.entry(digest.to_owned()).or_insert_with(|| {
            let seconds = |result| self.seconds.with_label_values(&[stage, digest, result]);
            Arc::new(Tally {
                seconds: ["answered", "refused", "failed"].map(seconds),
                calls: Recent::default(),
                failed: Recent::default(),
            })
        });
        tally.clone()
    }

    pub(super) fn rotate(&self) {
        for tally in self.known.read().unwrap_or_else(PoisonError::into_inner).values().flat_map(HashMap::values) {
            tally.calls.rotate();
            tally.failed.rotate();
        }
    }

    /// Components with calls that failed in the last minute or two, the worst first.
    pub fn failing(&self) -> Vec<Failing> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let all = known
            .iter()
            .flat_map(|(stage, components)| components.iter().map(move |(name, tally)| (stage, name, tally)));
        let shown = all.map(|(stage, component, tally)| Failing {
            stage: (*stage).to_owned(),
            component: component.clone(),
            calls: tally.calls.get(),
            failed: tally.failed.get(),
        });
        let mut failing: Vec<Failing> = shown.filter(|one| one.failed > 0).collect();
        failing.sort_by_key(|one| std::cmp::Reverse(one.failed));
        failing
    }
}

impl Tally {
    fn called(&self, result: Called, took: Duration) {
        let place = match result {
            Called::Answered => 0,
            Called::Refused => 1,
            Called::Failed => 2,
        };
        self.seconds[place].observe(took.as_secs_f64());
        self.calls.add(1);
        if result == Called::Failed {
            self.failed.add(1);
        }
    }
}
