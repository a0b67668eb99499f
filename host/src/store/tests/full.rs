//! A disk that takes no more bodies: what needs none goes on.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex};

use super::*;

/// A disk that refuses bodies, and holds commits back while it is told to.
struct Full {
    refuses: io::ErrorKind,
    held: Mutex<bool>,
    bell: Condvar,
    /// Groups so far.
    groups: AtomicUsize,
}

impl Full {
    fn new(refuses: io::ErrorKind) -> Arc<Full> {
        Arc::new(Full { refuses, held: Mutex::default(), bell: Condvar::new(), groups: AtomicUsize::default() })
    }

    fn hold(&self, held: bool) {
        *self.held.lock().unwrap() = held;
        self.bell.notify_all();
    }
}

impl Faults for Full {
    fn at(&self, point: Point) -> io::Result<()> {
        match point {
            Point::Writing => {
                self.groups.fetch_add(1, Ordering::SeqCst);
                Ok(())
            }
            Point::Appending => Err(self.refuses.into()),
            Point::Synced => {
                let held = self.held.lock().unwrap();
                drop(self.bell.wait_while(held, |held| *held).unwrap());
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// A message is leased, and the disk refused a second one; then an outcome and a third message are one group's jobs. What
/// they were answered, and how many groups it took.
async fn outcome_beside_mail(folder: &Path, disk: Arc<Full>) -> ([Result<(), StoreError>; 2], Arc<Embedded>, usize) {
    let store = Embedded::open(folder, still()).unwrap();
    accept(&store, message(1, 0, 1)).await.unwrap();
    drop(store);
    let store = Embedded::open_with(folder, still(), disk.clone()).unwrap();
    accept(&store, message(2, 0, 1)).await.unwrap_err();
    let leased = store.lease(at(0), 9).await.unwrap();

    // While one group waits for the disk the next one gathers.
    disk.hold(true);
    let before = disk.groups.load(Ordering::SeqCst);
    let note = tokio::spawn({
        let store = store.clone();
        async move { store.record(Uuid::from_u128(1), Vec::new(), at(1)).await }
    });
    while disk.groups.load(Ordering::SeqCst) == before {
        tokio::task::yield_now().await;
    }
    let done = store.complete(vec![completion(&leased[0], 0, Next::Done, Some(EventKind::Delivered))]);
    let more = accept(&store, message(3, 0, 1));
    let let_go = async {
        tokio::task::yield_now().await;
        disk.hold(false);
    };
    let (refused, done, ()) = tokio::join!(more, done, let_go);
    note.await.unwrap().unwrap();
    assert_eq!(store.failure(), None);
    ([done, refused.map(drop)], store, disk.groups.load(Ordering::SeqCst) - before)
}

#[tokio::test]
async fn an_outcome_is_recorded_beside_mail_that_there_is_no_room_for() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Full::new(io::ErrorKind::StorageFull);
    let ([done, refused], store, groups) = outcome_beside_mail(folder.path(), disk).await;
    assert!(matches!(refused, Err(StoreError::Full)), "{refused:?}");
    done.unwrap();
    assert_eq!(groups, 3, "the note, the outcome, the mail");
    assert_eq!(kinds(&store, 1).await, [EventKind::Sent, EventKind::Delivered]);
}

/// No file can be opened, or the disk may be read alone: that may last as long as a lack of room.
#[tokio::test]
async fn an_outcome_is_recorded_beside_mail_that_cannot_be_written() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Full::new(io::ErrorKind::ReadOnlyFilesystem);
    let ([done, refused], _store, groups) = outcome_beside_mail(folder.path(), disk).await;
    assert!(matches!(refused, Err(StoreError::Io(_))), "{refused:?}");
    done.unwrap();
    assert_eq!(groups, 3, "the note, the outcome, the mail");
}
