//! A disk that takes no more bodies: what needs none goes on.

use std::io;
use std::sync::{Condvar, Mutex};

use super::*;

/// A disk that refuses bodies, and holds commits back while it is told to.
#[derive(Default)]
struct Full {
    held: Mutex<bool>,
    bell: Condvar,
}

impl Full {
    fn hold(&self, held: bool) {
        *self.held.lock().unwrap() = held;
        self.bell.notify_all();
    }
}

impl Faults for Full {
    fn at(&self, point: Point) -> io::Result<()> {
        match point {
            Point::Appending => Err(io::ErrorKind::StorageFull.into()),
            Point::Synced => {
                let held = self.held.lock().unwrap();
                drop(self.bell.wait_while(held, |held| *held).unwrap());
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

#[tokio::test]
async fn an_outcome_is_recorded_beside_mail_that_there_is_no_room_for() {
    let (folder, store) = fresh();
    accept(&store, message(1, 0, 1)).await.unwrap();
    drop(store);
    let disk = Arc::new(Full::default());
    let store = Embedded::open_with(folder.path(), still(), disk.clone()).unwrap();
    assert!(matches!(accept(&store, message(2, 0, 1)).await, Err(StoreError::Full)));
    let leased = store.lease(at(0), 9).await.unwrap();

    // While one group waits for the disk the next one gathers.
    disk.hold(true);
    let note = store.record(Uuid::from_u128(1), Vec::new(), at(1));
    let done = store.complete(vec![completion(&leased[0], 0, Next::Done, Some(EventKind::Delivered))]);
    let more = accept(&store, message(3, 0, 1));
    let let_go = async {
        tokio::task::yield_now().await;
        disk.hold(false);
    };
    let (noted, refused, done, ()) = tokio::join!(note, more, done, let_go);
    noted.unwrap();
    assert!(matches!(refused, Err(StoreError::Full)), "{refused:?}");
    done.unwrap();
    assert_eq!(kinds(&store, 1).await, [EventKind::Sent, EventKind::Delivered]);
    assert_eq!(store.failure(), None);
}
