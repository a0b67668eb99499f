//! A disk that does not keep up: whoever cannot be taken in time is told so, and nobody else notices.

use std::sync::{Condvar, Mutex};

use tokio::task::JoinSet;

use super::*;

/// A disk that stands still until it is let go.
#[derive(Default)]
struct Stuck {
    goes: Mutex<bool>,
    bell: Condvar,
}

impl Faults for Stuck {
    fn at(&self, point: Point) -> std::io::Result<()> {
        if point == Point::Synced {
            let goes = self.goes.lock().unwrap();
            drop(self.bell.wait_while(goes, |goes| !*goes).unwrap());
        }
        Ok(())
    }
}

impl Stuck {
    fn let_go(&self) {
        *self.goes.lock().unwrap() = true;
        self.bell.notify_all();
    }
}

/// The clock stands still but for waits that nothing else ends.
#[tokio::test(start_paused = true)]
async fn who_waits_too_long_for_a_slow_disk_is_refused_before_anything_is_stored() {
    // More than one group and the line behind it take.
    const SUBMITTED: u128 = 2200;
    let folder = tempfile::tempdir().unwrap();
    let disk = Arc::new(Stuck::default());
    let store = Embedded::open_with(folder.path(), still(), disk.clone()).unwrap();
    let mut submitting = JoinSet::new();
    for number in 1..=SUBMITTED {
        let store = store.clone();
        submitting.spawn(async move { (number, accept(&store, message(number, 0, 1)).await) });
    }
    let (_, first) = submitting.join_next().await.unwrap().unwrap();
    let told = first.unwrap_err().to_string();
    assert!(told.contains("the disk is too slow"), "{told}");
    disk.let_go();
    let mut stored = 0;
    while let Some(answer) = submitting.join_next().await {
        let (number, answer) = answer.unwrap();
        let is_there = store.message("default", Uuid::from_u128(number)).await.is_ok();
        assert_eq!(answer.is_ok(), is_there, "{number}: {answer:?}");
        stored += u64::from(is_there);
    }
    assert_eq!(store.queued().await.unwrap(), stored);
    assert!((1024..SUBMITTED as u64).contains(&stored), "{stored}");
    assert_eq!(store.failure(), None, "slow is not broken");
    accept(&store, message(SUBMITTED + 1, 0, 1)).await.unwrap();
}
