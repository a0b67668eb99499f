//! The state table on top of the store, row by row: each way from one state to the next is stopped at every point of its
//! group, by a crash and by a fault, and what a restart finds is the state before or the state behind, never another.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Mutex;

use super::crashes::copy;
use super::*;

/// A way from one state to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Accept,
    Schedule,
    Reschedule,
    CancelScheduled,
    SendScheduled,
    Deliver,
    Report,
    Defer,
    GiveBack,
    Hold,
    Release,
    Retry,
    End,
    Record,
    MoveEvents,
    MoveBody,
    Retire,
    Forget,
}

const WAYS: [Way; 18] = [
    Way::Accept,
    Way::Schedule,
    Way::Reschedule,
    Way::CancelScheduled,
    Way::SendScheduled,
    Way::Deliver,
    Way::Report,
    Way::Defer,
    Way::GiveBack,
    Way::Hold,
    Way::Release,
    Way::Retry,
    Way::End,
    Way::Record,
    Way::MoveEvents,
    Way::MoveBody,
    Way::Retire,
    Way::Forget,
];

const POINTS: [Point; 7] = [
    Point::Writing,
    Point::Appending,
    Point::Appended,
    Point::Synced,
    Point::Committed,
    Point::Copied,
    Point::Deleting,
];

impl Way {
    /// Points that the way passes: all bodies are written and synced, whatever has rows is committed.
    fn passes(self, point: Point) -> bool {
        let has_body = matches!(self, Way::Accept | Way::Schedule | Way::Report | Way::MoveBody);
        match point {
            Point::Writing => self != Way::SendScheduled,
            Point::Appending | Point::Appended => has_body,
            Point::Synced | Point::Committed => true,
            Point::Copied => self == Way::MoveEvents,
            Point::Deleting => self == Way::Retire,
            // Of no way by itself: `crashes.rs` stops there.
            Point::Following | Point::Moving => false,
        }
    }

    async fn go(self, store: &Embedded, leased: &[Leased]) {
        let all = QueueFilter { message: Some(Uuid::from_u128(1)), ..QueueFilter::default() };
        let (first, next) = (Uuid::from_u128(1), at(70));
        let complete = async |next, kind| drop(store.complete(vec![completion(&leased[0], 0, next, kind)]).await);
        match self {
            Way::Accept => drop(accept(store, with_key(message(9, 5, 2), "k", "d")).await),
            Way::Schedule => drop(accept(store, NewMessage { scheduled_at: Some(at(60)), ..message(9, 5, 2) }).await),
            Way::Reschedule => drop(store.reschedule("default", Uuid::from_u128(3), next).await),
            Way::CancelScheduled => drop(store.cancel("default", Uuid::from_u128(3), at(10)).await),
            Way::SendScheduled => drop(store.lease(at(60), 9).await),
            Way::Deliver => complete(Next::Done, Some(EventKind::Delivered)).await,
            Way::Report => {
                let done = completion(&leased[0], 0, Next::Done, Some(EventKind::Bounced));
                let report = Some(Box::new(NewMessage { sender: None, ..message(9, 5, 1) }));
                drop(store.complete(vec![Completion { report, ..done }]).await);
            }
            Way::Defer => complete(Next::Retry(next), Some(EventKind::DeliveryDelayed)).await,
            Way::GiveBack => complete(Next::Release, None).await,
            Way::Hold => drop(store.tend(&all, QueueChange::Hold, None, at(10)).await),
            Way::Release => drop(store.tend(&all, QueueChange::Release, None, at(10)).await),
            Way::Retry => drop(store.tend(&all, QueueChange::Retry, None, at(10)).await),
            Way::End => drop(store.tend(&all, QueueChange::Bounce, None, at(10)).await),
            Way::Record => {
                drop(
                    store.record(first, vec![event(EventKind::Complained, &address("r0@a.test"), None)], at(10)).await,
                );
            }
            Way::MoveEvents => store.move_events().await,
            // The first sweep moves what keeps a segment, the next gives the segment up.
            Way::MoveBody | Way::Retire => store.sweep(at(300)).await,
            Way::Forget => store.sweep(at(5000)).await,
        }
    }

    /// What the way begins from, and leases of it where it needs them.
    async fn prepare(self, store: &Embedded) -> Vec<Leased> {
        accept(store, message(1, 0, 2)).await.unwrap();
        for number in 20..40 {
            accept(store, message(number, 0, 1)).await.unwrap();
        }
        accept(store, NewMessage { scheduled_at: Some(at(60)), ..message(3, 0, 1) }).await.unwrap();
        let leased = store.lease(at(0), 99).await.unwrap();
        let others = leased.iter().filter(|one| one.message.as_u128() >= 20);
        let done = others.map(|one| completion(one, 0, Next::Done, Some(EventKind::Delivered)));
        store.complete(done.collect()).await.unwrap();
        let all = QueueFilter { message: Some(Uuid::from_u128(1)), ..QueueFilter::default() };
        match self {
            Way::Deliver | Way::Report | Way::Defer | Way::GiveBack => return leased,
            _ => {
                let back = (0..2).map(|place| completion(&leased[0], place, Next::Release, None)).collect();
                store.complete(back).await.unwrap();
            }
        }
        match self {
            Way::Release => drop(store.tend(&all, QueueChange::Hold, None, at(5)).await.unwrap()),
            Way::Retry => {
                let leased = store.lease(at(0), 99).await.unwrap();
                store.complete(vec![completion(&leased[0], 0, Next::Retry(at(70)), None)]).await.unwrap();
                store.complete(vec![completion(&leased[0], 1, Next::Release, None)]).await.unwrap();
            }
            Way::Retire => store.sweep(at(300)).await,
            Way::Forget => {
                store.move_events().await;
                store.sweep(at(300)).await;
                store.sweep(at(300)).await;
            }
            _ => {}
        }
        leased
    }
}

fn options() -> Options {
    let (retention, keep_messages) = (Some(Duration::from_secs(50)), Some(Duration::from_secs(1000)));
    Options { segment_bytes: 1500, retention, keep_messages, ..still() }
}

/// All that can be seen of the store.
async fn picture(store: &Embedded) -> String {
    let mut picture = format!("{} queued\n", store.queued().await.unwrap());
    for view in store.messages("default", None, 99).await.unwrap().items {
        let number = view.id.as_u128();
        writeln!(picture, "{number}: {:?}", kinds(store, number).await).unwrap();
    }
    for one in store.queue(&QueueFilter::default(), None, 99).await.unwrap().items {
        writeln!(picture, "{} {} {} {:?}", one.message.as_u128(), one.recipient, one.attempts, one.due_at).unwrap();
        let view = store.message("default", one.message).await.unwrap();
        assert_eq!(store.body(&view.body).await.unwrap(), message(one.message.as_u128(), 0, 0).body);
    }
    for leased in store.lease(at(59), 99).await.unwrap() {
        writeln!(picture, "leases {} {:?}", leased.message.as_u128(), places(&[leased])).unwrap();
    }
    picture
}

/// Stops a way at a point: copies the folder, as a crash leaves it, or fails there.
struct Stop {
    at: Point,
    from: PathBuf,
    to: Option<PathBuf>,
    armed: Mutex<bool>,
    met: Mutex<bool>,
}

impl Faults for Stop {
    fn at(&self, point: Point) -> std::io::Result<()> {
        if point != self.at || !std::mem::take(&mut *self.armed.lock().unwrap()) {
            return Ok(());
        }
        *self.met.lock().unwrap() = true;
        match &self.to {
            Some(to) => copy(&self.from, to),
            None => Err(std::io::Error::other("the disk is on fire")),
        }
    }
}

#[tokio::test]
async fn every_way_stops_before_or_behind_its_commit() {
    for way in WAYS {
        let folder = tempfile::tempdir().unwrap();
        let mut expect = Vec::new();
        for goes in [false, true] {
            let path = folder.path().join(format!("{goes}"));
            let store = Embedded::open(&path, options()).unwrap();
            let leased = way.prepare(&store).await;
            if goes {
                way.go(&store, &leased).await;
            }
            drop(store);
            expect.push(picture(&Embedded::open(&path, options()).unwrap()).await);
        }
        let is_seen = !matches!(way, Way::GiveBack | Way::MoveEvents | Way::MoveBody | Way::Retire);
        assert_eq!(expect[0] != expect[1], is_seen, "{way:?}: {}", expect[1]);
        for point in POINTS {
            for is_crash in [true, false] {
                let what = format!("{way:?} {point:?} crash: {is_crash}");
                let (live, left) = (folder.path().join(format!("{what} live")), folder.path().join(&what));
                let to = is_crash.then(|| left.clone());
                let (armed, met) = (Mutex::new(false), Mutex::new(false));
                let stop = Arc::new(Stop { at: point, from: live.clone(), to, armed, met });
                let store = Embedded::open_with(&live, options(), stop.clone()).unwrap();
                let leased = way.prepare(&store).await;
                *stop.armed.lock().unwrap() = true;
                way.go(&store, &leased).await;
                assert_eq!(*stop.met.lock().unwrap(), way.passes(point), "{what}");
                if !way.passes(point) {
                    continue;
                }
                let poisons = matches!(point, Point::Appended | Point::Synced | Point::Committed);
                assert_eq!(store.failure().is_some(), !is_crash && poisons, "{what}");
                if !is_crash {
                    copy(&live, &left).unwrap();
                    let again = accept(&store, message(50, 5, 1)).await;
                    assert_eq!(again.is_err(), poisons, "{what}: a failed sync stops accepting");
                }
                drop(store);
                if !is_crash && !poisons {
                    let store = Embedded::open(&live, options()).unwrap();
                    let filter = QueueFilter { message: Some(Uuid::from_u128(50)), ..QueueFilter::default() };
                    assert_eq!(store.tend(&filter, QueueChange::Purge, None, at(5)).await.unwrap().changed, 1);
                }
                let store = Embedded::open(&left, options()).unwrap();
                let is_behind = matches!(point, Point::Committed | Point::Copied | Point::Deleting);
                let mut expected = expect[usize::from(is_behind)].clone();
                if way == Way::Forget && !is_behind {
                    // Events go first.
                    expected = expected.replace("[Sent, Delivered]", "[]");
                }
                let seen = picture(&store).await;
                assert_eq!(seen, expected, "{what}");
                // And it goes on from there.
                let accepted = accept(&store, with_key(message(60, 5, 1), "k60", "d")).await.unwrap();
                assert_eq!(accepted, Accepted::Stored, "{what}");
                let view = store.message("default", Uuid::from_u128(60)).await.unwrap();
                assert_eq!(store.body(&view.body).await.unwrap(), message(60, 0, 0).body, "{what}");
            }
        }
    }
}
