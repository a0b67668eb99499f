//! A disk that does not keep up: whoever cannot be taken in time is told so, and nobody else notices.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Condvar, Mutex};
use std::task::Poll;
use std::time::Duration;

use tokio::task::JoinSet;

use super::*;

/// A disk that stands still until it is let go.
#[derive(Default)]
struct Stuck {
    /// The point it stands at (`Synced` where none is told), and fails at once it is let go.
    fails_at: Option<Point>,
    goes: Mutex<bool>,
    bell: Condvar,
    reached: Mutex<bool>,
    failed: Mutex<bool>,
    reaching: Condvar,
}

impl Faults for Stuck {
    fn at(&self, point: Point) -> std::io::Result<()> {
        if point == self.fails_at.unwrap_or(Point::Synced) {
            *self.reached.lock().unwrap() = true;
            self.reaching.notify_all();
            let goes = self.goes.lock().unwrap();
            drop(self.bell.wait_while(goes, |goes| !*goes).unwrap());
            if self.fails_at.is_some() && !std::mem::replace(&mut *self.failed.lock().unwrap(), true) {
                return Err(std::io::Error::other("the disk gave up"));
            }
        }
        Ok(())
    }
}

impl Stuck {
    /// Waits until the writer stands at it.
    fn wait(&self) {
        drop(self.reaching.wait_while(self.reached.lock().unwrap(), |reached| !*reached).unwrap());
    }

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

/// Hands a message in, and says whether it waits.
async fn is_waiting<T>(accepting: &mut Pin<Box<impl Future<Output = T>>>) -> bool {
    poll_fn(|context| Poll::Ready(accepting.as_mut().poll(context).is_pending())).await
}

#[tokio::test(start_paused = true)]
async fn behind_one_that_waits_for_too_long_no_more_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Arc::new(Stuck::default());
    let store = Embedded::open_with(folder.path(), still(), disk.clone()).unwrap();
    let mut first = Box::pin(accept(&store, message(1, 0, 1)));
    assert!(is_waiting(&mut first).await && store.obstacle().is_none());
    // Nothing else goes on: the clock moves.
    assert!(tokio::time::timeout(Duration::from_secs(11), &mut first).await.is_err());
    assert!(store.obstacle().unwrap().contains("too slow"));
    let before = tokio::time::Instant::now();
    let told = accept(&store, message(2, 0, 1)).await.unwrap_err().to_string();
    assert!(told.contains("the disk is too slow"), "{told}");
    assert!(before.elapsed().is_zero(), "at once");
    disk.let_go();
    first.await.unwrap();
    assert_eq!(store.obstacle(), None);
    accept(&store, message(3, 0, 1)).await.unwrap();
    assert_eq!(store.queued().await.unwrap(), 2);
}

#[tokio::test]
async fn what_nobody_waits_for_any_more_is_not_stored() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Arc::new(Stuck::default());
    let store = Embedded::open_with(folder.path(), still(), disk.clone()).unwrap();
    let mut first = Box::pin(accept(&store, message(1, 0, 1)));
    assert!(is_waiting(&mut first).await);
    disk.wait();
    let mut given_up = Box::pin(accept(&store, message(2, 0, 1)));
    assert!(is_waiting(&mut given_up).await);
    drop(given_up);
    disk.let_go();
    first.await.unwrap();
    accept(&store, message(3, 0, 1)).await.unwrap();
    assert_eq!(store.queued().await.unwrap(), 2);
    assert!(store.message("default", Uuid::from_u128(2)).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn mail_is_taken_again_where_the_group_that_took_too_long_fails() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Arc::new(Stuck { fails_at: Some(Point::Writing), ..Stuck::default() });
    let store = Embedded::open_with(folder.path(), still(), disk.clone()).unwrap();
    let mut first = Box::pin(accept(&store, message(1, 0, 1)));
    assert!(tokio::time::timeout(Duration::from_secs(11), &mut first).await.is_err());
    assert!(store.obstacle().is_some());
    disk.let_go();
    assert!(first.await.is_err());
    assert_eq!(store.obstacle(), None);
    accept(&store, message(2, 0, 1)).await.unwrap();
}
