//! What the components of one tenant compute, and whether it is more than their share.
//!
//! Measured around each poll of a call: a poll ends at the latest with a tick of the engine's clock, so a share that is
//! spent ends a call within a tick. The clock is the wall's; a poll counts for some ticks at most, so that a thread that
//! the system set aside does not use up a tenant's share.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Mutex, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use super::confine::TICK;

/// What a tenant has not used is saved up for so long, and no longer.
const WINDOW: Duration = Duration::from_secs(10);

/// The most that one poll counts for.
const POLL: Duration = TICK.saturating_mul(4);

/// The share of a tenant is spent.
#[derive(Debug)]
pub struct OverBudget {
    pub percent: usize,
}

/// The account of one tenant: filled by time at its share of a core, drained by what its components compute.
#[derive(Debug)]
pub struct Meter {
    percent: usize,
    account: Mutex<Account>,
}

#[derive(Debug)]
struct Account {
    /// Seconds of computing that are left; below zero where the last poll took more.
    left_s: f64,
    at: Instant,
}

impl Meter {
    /// A full account. `percent` is of one core.
    pub fn new(percent: usize) -> Meter {
        let account = Account { left_s: full(percent), at: Instant::now() };
        Meter { percent, account: Mutex::new(account) }
    }

    pub fn percent(&self) -> usize {
        self.percent
    }

    /// Uses up all that is left, and more than comes back while a test runs.
    #[cfg(test)]
    pub fn exhaust(&self) {
        self.account.lock().unwrap_or_else(PoisonError::into_inner).left_s = -1e6;
    }

    /// Runs a call on the account: refused at once where it is empty, and broken off when it becomes so.
    pub async fn run<F: Future>(&self, call: F) -> Result<F::Output, OverBudget> {
        let over = || OverBudget { percent: self.percent };
        if self.charge(Duration::ZERO) {
            return Err(over());
        }
        let mut call = pin!(call);
        poll_fn(|context| {
            let started = Instant::now();
            let polled = call.as_mut().poll(context);
            let is_spent = self.charge(started.elapsed());
            match polled {
                Poll::Ready(done) => Poll::Ready(Ok(done)),
                Poll::Pending if is_spent => Poll::Ready(Err(over())),
                Poll::Pending => Poll::Pending,
            }
        })
        .await
    }

    /// Takes from the account what was computed for the tenant on another thread.
    pub fn spend(&self, spent: Duration) {
        self.charge(spent);
    }

    /// Takes what was computed from the account; whether nothing is left.
    fn charge(&self, spent: Duration) -> bool {
        self.charge_at(Instant::now(), spent)
    }

    fn charge_at(&self, now: Instant, spent: Duration) -> bool {
        let mut account = self.account.lock().unwrap_or_else(PoisonError::into_inner);
        let share = self.percent as f64 / 100.0;
        let earned = now.saturating_duration_since(account.at).as_secs_f64() * share;
        account.left_s = (account.left_s + earned).min(full(self.percent)) - spent.min(POLL).as_secs_f64();
        account.at = now;
        account.left_s <= 0.0
    }
}

fn full(percent: usize) -> f64 {
    WINDOW.as_secs_f64() * percent as f64 / 100.0
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Computes for so long without a pause, as a guest does between two ticks.
    async fn compute(ticks: u32) {
        for _ in 0..ticks {
            let started = Instant::now();
            while started.elapsed() < TICK {
                std::hint::spin_loop();
            }
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_share_is_spent_and_comes_back() {
        let meter = Meter::new(1); // 100 ms saved up
        // Four polls, of which a thread that is set aside makes 20 ms each at most.
        meter.run(compute(3)).await.unwrap();
        assert!(meter.run(compute(1000)).await.is_err(), "broken off long before five seconds");
        assert!(meter.run(async {}).await.is_err(), "nothing is left");
        meter.account.lock().unwrap().at -= Duration::from_secs(8);
        meter.run(compute(1)).await.unwrap();
    }

    /// A quarter of a core: what was saved up, and from then on one turn of four.
    #[test]
    fn a_quarter_is_a_quarter() {
        let meter = Meter::new(25);
        let start = meter.account.lock().unwrap().at;
        let turn = Duration::from_millis(10);
        // One that computes whenever it may.
        let (mut turns, mut spent, mut after_first) = (0, 0, None);
        while turns < 10_000 {
            turns += 1;
            let now = start + turn * turns;
            let is_over = meter.charge_at(now, Duration::ZERO);
            if is_over {
                after_first.get_or_insert(turns);
                continue;
            }
            meter.charge_at(now, turn);
            spent += 1;
        }
        // 2.5 s are saved up, and three quarters of what is computed are not earned: a third of 10 s.
        let first = after_first.unwrap();
        assert!((330..=336).contains(&first), "over its share after {first} turns of 10 ms");
        // 100 s: a quarter of them, and what was saved up.
        assert!((2740..=2760).contains(&spent), "{spent} turns of {turns}");
        // What is saved up has an end: an hour of rest is worth no more than ten seconds.
        let rested = start + turn * turns + Duration::from_secs(3600);
        let burst = (1..).take_while(|_| !meter.charge_at(rested, turn)).count();
        assert!((248..=251).contains(&burst), "{burst} turns at once");
    }

    #[tokio::test]
    async fn waiting_costs_nothing() {
        let meter = Meter::new(1);
        // More than two polls can count for, and less than the time that is waited.
        meter.account.lock().unwrap().left_s = 0.05;
        let (tell, told) = tokio::sync::oneshot::channel();
        let waiting = meter.run(told);
        let telling = async {
            compute(20).await;
            tell.send(()).unwrap();
        };
        let (waited, ()) = tokio::join!(waiting, telling);
        waited.unwrap().unwrap();
    }
}
