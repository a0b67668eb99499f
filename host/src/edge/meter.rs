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

    /// Takes what was computed from the account; whether nothing is left.
    fn charge(&self, spent: Duration) -> bool {
        let mut account = self.account.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let share = self.percent as f64 / 100.0;
        let earned = now.duration_since(account.at).as_secs_f64() * share;
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
        meter.run(compute(5)).await.unwrap();
        assert!(meter.run(compute(1000)).await.is_err(), "broken off long before five seconds");
        assert!(meter.run(async {}).await.is_err(), "nothing is left");
        meter.account.lock().unwrap().at -= Duration::from_secs(2);
        meter.run(compute(1)).await.unwrap();
    }

    #[tokio::test]
    async fn waiting_costs_nothing() {
        let meter = Meter::new(1);
        meter.account.lock().unwrap().left_s = 0.001;
        let (tell, told) = tokio::sync::oneshot::channel();
        let waiting = meter.run(told);
        let telling = async {
            compute(4).await;
            tell.send(()).unwrap();
        };
        let (waited, ()) = tokio::join!(waiting, telling);
        waited.unwrap().unwrap();
    }
}
