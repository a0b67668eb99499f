//! Large bodies share a room in memory.

use super::*;

const LARGE: usize = 80 << 10;

async fn submit_large(running: &Running, number: u128, recipient: &str) {
    let message = NewMessage { body: Bytes::from(vec![b'x'; LARGE]), ..message(number, &[recipient]) };
    running.store.accept(vec![message]).await.pop().unwrap().unwrap();
}

fn slow(site: &str) -> (Arc<Semaphore>, Net) {
    let gate = Arc::new(Semaphore::new(0));
    (gate.clone(), Net { held: HashMap::from([(site.to_owned(), gate)]), ..Net::default() })
}

fn begun(running: &Running) -> usize {
    running.net.seen.lock().unwrap().begun
}

async fn connected(running: &Running, site: &str) {
    running
        .until("a connection", async |this: &Running| this.net.seen.lock().unwrap().connects.contains_key(site))
        .await;
}

#[tokio::test]
async fn a_large_body_waits_for_another_and_a_small_one_does_not() {
    let folder = folder();
    let (gate, net) = slow("slow");
    let running = start(folder.path(), net, Delivery { large_bodies: 100 << 10, ..config() });
    submit_large(&running, 1, "x@slow.test").await;
    running.until("the first", async |this: &Running| begun(this) == 1).await;
    submit_large(&running, 2, "x@a.test").await;
    connected(&running, "a").await;
    // More of them than would pass by chance.
    for number in 3..20 {
        running.accept(number, &["x@b.test"]).await;
        running.until("a small one", async |this: &Running| begun(this) == number as usize - 1).await;
    }
    assert!(running.events(2).await.is_empty(), "it waits for room");
    gate.add_permits(1);
    running.until_empty().await;
    assert_eq!(running.events(2).await, [told(EventKind::Delivered, "x@a.test")]);
    running.stop().await;
}

#[tokio::test]
async fn a_body_that_is_larger_than_the_room_is_sent_alone() {
    let folder = folder();
    let running = start(folder.path(), Net::default(), Delivery { large_bodies: 1 << 10, ..config() });
    for number in 1..=3 {
        submit_large(&running, number, &format!("x@a{number}.test")).await;
    }
    running.until_empty().await;
    let (net, _store) = running.stop().await;
    assert!(net.seen.lock().unwrap().bodies.iter().all(|body| body.len() == LARGE));
}

#[tokio::test]
async fn more_room_lets_in_what_comes_and_the_end_gives_back_what_waits() {
    let folder = folder();
    let (gate, net) = slow("slow");
    let small = Delivery { large_bodies: 100 << 10, ..config() };
    let running = start(folder.path(), net, small.clone());
    submit_large(&running, 1, "x@slow.test").await;
    running.until("the first", async |this: &Running| begun(this) == 1).await;
    submit_large(&running, 2, "x@a.test").await;
    connected(&running, "a").await;
    let more = Delivery { large_bodies: 200 << 10, ..small };
    running.queue.tuning().change(&more, schedules(&more));
    submit_large(&running, 3, "x@b.test").await;
    running.until("one in the larger room", async |this: &Running| this.transactions() == 1).await;
    running.shutdown.cancel();
    gate.add_permits(1);
    let (_net, store) = running.stop().await;
    let left = store.lease(Timestamp::now(), 10).await.unwrap();
    assert_eq!(left.iter().map(|message| message.message).collect::<Vec<_>>(), [Uuid::from_u128(2)]);
    assert_eq!(left[0].recipients[0].attempts, 0, "nothing was tried");
}
