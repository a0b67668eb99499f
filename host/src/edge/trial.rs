//! New versions on trial: a canary answers a share of the requests and is watched, a shadow only runs beside.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use contract::Wants;
use tokio::sync::OnceCell;

use super::place::Place;
use super::slot::Slot;

/// Calls of a canary before it is judged.
const LEAST_CALLS: u64 = 100;

/// Up to this share of failures, in percent, a canary is good however well the active component does.
const FAILURES_PERCENT: u64 = 2;

/// How many times worse than the active component is too bad: share of failures, and 95th percentile of times.
const TIMES_WORSE: u64 = 2;

/// Up to this 95th percentile a canary is never too slow: below it the machine's own noise is larger.
const NEVER_SLOW: Duration = Duration::from_millis(10);

/// Times of calls are counted in steps of a quarter of an octave, from a microsecond to a minute.
const STEPS: usize = 104;

/// What was counted of one component's calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Calls {
    pub made: u64,
    pub failed: u64,
    steps: [u64; STEPS],
}

impl Default for Calls {
    fn default() -> Calls {
        Calls { made: 0, failed: 0, steps: [0; STEPS] }
    }
}

impl Calls {
    fn count(&mut self, failed: bool, took: Duration) {
        self.made += 1;
        self.failed += u64::from(failed);
        if let Some(step) = self.steps.get_mut(step_of(took)) {
            *step += 1;
        }
    }

    /// The 95th percentile of the times, to a quarter of an octave.
    pub fn p95(&self) -> Duration {
        let mut left = self.made - (self.made * 95).div_ceil(100) + 1;
        for (step, count) in self.steps.iter().enumerate().rev() {
            if left <= *count {
                return Duration::from_secs_f64(1e-6 * (step as f64 / 4.0).exp2());
            }
            left -= count;
        }
        Duration::ZERO
    }
}

fn step_of(took: Duration) -> usize {
    let octaves = (took.as_secs_f64() * 1e6).max(1.0).log2();
    // A share of a minute in microseconds: a small number above zero.
    ((octaves * 4.0).round() as usize).min(STEPS - 1)
}

/// A version that answers a share of the requests.
pub struct Canary {
    pub place: Place,
    pub version: u32,
    pub slot: Arc<Slot>,
    /// It was found to be bad: from then on it is not called any more.
    is_over: AtomicBool,
    watch: Mutex<Watch>,
}

#[derive(Default)]
struct Watch {
    canary: Calls,
    active: Calls,
}

impl Canary {
    pub fn new(place: Place, version: u32, slot: Arc<Slot>) -> Canary {
        Canary { place, version, slot, is_over: AtomicBool::new(false), watch: Mutex::default() }
    }

    pub fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Acquire)
    }

    /// Counts a call of the canary or of the active component. `Some`, once: the canary is bad, and why.
    pub fn count(&self, of_canary: bool, failed: bool, took: Duration) -> Option<String> {
        let mut watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        if !of_canary {
            watch.active.count(failed, took);
            return None;
        }
        watch.canary.count(failed, took);
        let why = watch.verdict()?;
        (!self.is_over.swap(true, Ordering::AcqRel)).then_some(why)
    }

    /// What was counted of the canary, and of the active component beside it.
    pub fn counted(&self) -> (Calls, Calls) {
        let watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        (watch.canary.clone(), watch.active.clone())
    }
}

impl Watch {
    /// Why the canary is bad.
    fn verdict(&self) -> Option<String> {
        let Watch { canary, active } = self;
        if canary.made < LEAST_CALLS {
            return None;
        }
        let too_many = canary.failed * 100 > canary.made * FAILURES_PERCENT;
        // Shares compared without dividing: there may be no call of the active one.
        if too_many && canary.failed * active.made.max(1) > TIMES_WORSE * active.failed * canary.made {
            let (failed, made) = (canary.failed, canary.made);
            return Some(format!(
                "{failed} of {made} calls failed, against {} of {} of the active one",
                active.failed, active.made
            ));
        }
        let (slow, usual) = (canary.p95(), active.p95());
        if active.made >= LEAST_CALLS && slow > NEVER_SLOW && slow > usual * TIMES_WORSE as u32 {
            let ms = |time: Duration| time.as_secs_f64() * 1e3;
            return Some(format!(
                "95 % of calls took up to {:.1} ms, against {:.1} ms of the active one",
                ms(slow),
                ms(usual)
            ));
        }
        None
    }
}

/// A version that runs beside the active one and is compared.
pub struct Shadow {
    pub place: Place,
    pub version: u32,
    pub slot: Arc<Slot>,
    pub counts: ShadowCounts,
    /// What a validator wants to see; asked when it is first called.
    pub wants: OnceCell<Wants>,
}

/// What came of the calls of a shadow.
#[derive(Debug, Default)]
pub struct ShadowCounts {
    pub same: AtomicU64,
    pub different: AtomicU64,
    pub failed: AtomicU64,
    /// Not made: as many as may be were under way, or what it wants to see was not known yet.
    pub skipped: AtomicU64,
}

impl Shadow {
    pub fn new(place: Place, version: u32, slot: Arc<Slot>) -> Shadow {
        Shadow { place, version, slot, counts: ShadowCounts::default(), wants: OnceCell::new() }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn canary() -> Canary {
        Canary::new(super::super::component::Stage::Validator.into(), 2, Slot::missing("none", "for a test"))
    }

    #[test]
    fn percentiles() {
        let mut calls = Calls::default();
        (0..95).for_each(|_| calls.count(false, MS));
        (0..5).for_each(|_| calls.count(false, 100 * MS));
        let p95 = calls.p95().as_secs_f64();
        assert!((0.0008..0.0012).contains(&p95), "{p95}");
        calls.count(false, 100 * MS);
        let p95 = calls.p95().as_secs_f64();
        assert!((0.08..0.12).contains(&p95), "{p95}");
        assert_eq!(Calls::default().p95(), Duration::ZERO);
        calls.count(false, Duration::from_secs(3600));
        assert!(step_of(Duration::ZERO) == 0);
    }

    #[test]
    fn a_canary_that_fails_is_taken_back_once() {
        let bad = canary();
        (0..200).for_each(|_| assert_eq!(bad.count(false, false, MS), None));
        (0..97).for_each(|_| assert_eq!(bad.count(true, false, MS), None));
        (0..2).for_each(|_| assert_eq!(bad.count(true, true, MS), None, "too early to tell"));
        assert!(!bad.is_over());
        let why = bad.count(true, true, MS).unwrap();
        assert_eq!(why, "3 of 100 calls failed, against 0 of 200 of the active one");
        assert!(bad.is_over());
        assert_eq!(bad.count(true, true, MS), None, "told once");
    }

    #[test]
    fn a_canary_no_worse_than_the_active_one_stays() {
        let as_bad = canary();
        (0..100).for_each(|number| assert_eq!(as_bad.count(false, number % 20 == 0, MS), None));
        (0..200).for_each(|number| assert_eq!(as_bad.count(true, number % 20 == 0, MS), None, "{number}"));
        let rarely = canary();
        (0..100).for_each(|_| assert_eq!(rarely.count(false, false, MS), None));
        (0..200).for_each(|number| assert_eq!(rarely.count(true, number % 50 == 49, MS), None, "2 % is not above 2 %"));
    }

    #[test]
    fn a_slow_canary_is_taken_back() {
        let slow = canary();
        (0..100).for_each(|_| assert_eq!(slow.count(false, false, 20 * MS), None));
        (0..94).for_each(|_| assert_eq!(slow.count(true, false, 20 * MS), None));
        let told = (0..12).filter_map(|_| slow.count(true, false, 100 * MS)).collect::<Vec<_>>();
        assert!(told.len() == 1 && told[0].starts_with("95 % of calls took up to "), "{told:?}");
        // Microseconds are noise.
        let fast = canary();
        (0..100).for_each(|_| assert_eq!(fast.count(false, false, MS / 100), None));
        (0..200).for_each(|_| assert_eq!(fast.count(true, false, MS / 10), None));
    }
}
