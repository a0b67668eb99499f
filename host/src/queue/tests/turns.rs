//! Who goes before whom.

use mail::Stream;

use super::*;

impl Running {
    async fn broadcast(&self, number: u128, recipients: &[String]) {
        let recipients: Vec<&str> = recipients.iter().map(String::as_str).collect();
        let attributes = Stream::Broadcast.attributes();
        let message = NewMessage { attributes, ..message(number, &recipients) };
        self.store.accept(vec![message]).await.pop().unwrap().unwrap();
    }
}

#[tokio::test]
async fn domains_whose_lookup_never_ends_hold_up_nobody_else() {
    let folder = folder();
    let running = start(folder.path(), Net::default(), config());
    running.accept_of("other", 100, &["x@before.test"], Timestamp::now()).await;
    running.until("one", async |this: &Running| this.transactions() == 1).await;
    for number in 1..=9 {
        let silent: Vec<String> = (0..1000).map(|n| format!("x@d{n}.m{number}.silent.test")).collect();
        running.accept(number, &silent.iter().map(String::as_str).collect::<Vec<_>>()).await;
    }
    running.accept(10, &["x@relayed.test"]).await;
    running.accept_of("other", 11, &["x@good.test"], Timestamp::now()).await;
    running.until("the others' mail", async |this: &Running| this.transactions() == 3).await;
    let (_net, store) = running.stop().await;
    assert_eq!(store.queued().await.unwrap(), 9000);
    let later = Timestamp::now() + Duration::from_secs(400);
    let leased = store.lease(later, 10_000).await.unwrap();
    assert_eq!(leased.iter().map(|message| message.recipients.len()).sum::<usize>(), 9000, "all were given back");
    assert!(leased.iter().flat_map(|message| &message.recipients).all(|recipient| recipient.attempts == 0));
}

/// More than may wait for one site, of the same tenant and for the same domain; the peer takes one transaction at a time.
#[tokio::test]
async fn a_broadcast_backlog_does_not_delay_a_transactional_message() {
    let folder = folder();
    let gate = Arc::new(Semaphore::new(0));
    let held = HashMap::from([("slow".to_owned(), gate.clone())]);
    let running =
        start(folder.path(), Net { held, ..Net::default() }, Delivery { connections_per_site: 1, ..config() });
    for number in 1..=12 {
        let all: Vec<String> = (0..1000).map(|n| format!("x{number}.{n}@slow.test")).collect();
        running.broadcast(number, &all).await;
    }
    running.until("the first", async |this: &Running| this.net.seen.lock().unwrap().begun == 1).await;
    running.accept(100, &["y@slow.test"]).await;
    let is_sent = |this: &Running| {
        let seen = this.net.seen.lock().unwrap();
        seen.transactions.iter().any(|(_, to)| to.iter().any(|recipient| recipient == "y@slow.test"))
    };
    let mut before = 0;
    while !is_sent(&running) {
        before += 1;
        gate.add_permits(1);
        running.until("one more", async |this: &Running| this.transactions() == before).await;
    }
    assert!(before <= 30, "{before} of 121 transactions went before it");
    gate.add_permits(1000);
    running.stop().await;
}

#[tokio::test]
async fn broadcasts_that_wait_for_lookups_hold_up_no_transactional_mail_of_their_tenant() {
    let folder = folder();
    let running = start(folder.path(), Net::default(), config());
    for number in 1..=9 {
        let silent: Vec<String> = (0..1000).map(|n| format!("x@d{n}.m{number}.silent.test")).collect();
        running.broadcast(number, &silent).await;
    }
    running.accept(10, &["x@good.test"]).await;
    running.until("the transactional one", async |this: &Running| this.transactions() == 1).await;
    running.stop().await;
}

#[tokio::test]
async fn a_message_that_breaks_its_session_waits_for_its_turn() {
    let folder = folder();
    let net = Net { breaks_at: HashSet::from(["x@a.test".to_owned()]), ..Net::default() };
    let retry_delays = vec![Duration::from_secs(3600)];
    let running = start(folder.path(), net, Delivery { retry_delays, connections_per_site: 1, ..config() });
    running.accept(1, &["x@a.test"]).await;
    running.accept(2, &["y@a.test"]).await;
    let delayed = [told(EventKind::DeliveryDelayed, "x@a.test")];
    running.until("a delay", async |this: &Running| this.events(1).await == delayed).await;
    let delivered = [told(EventKind::Delivered, "y@a.test")];
    running.until("the other", async |this: &Running| this.events(2).await == delivered).await;
    let (net, _store) = running.stop().await;
    assert_eq!(net.seen.lock().unwrap().transactions.len(), 2, "each once");
}

#[tokio::test]
async fn a_tenant_whose_peers_are_silent_leaves_connections_to_others() {
    let folder = folder();
    let silent_sites: HashSet<String> = (0..50).map(|number| format!("s{number}")).collect();
    let peers: Vec<String> = silent_sites.iter().map(|site| format!("x@{site}.test")).collect();
    let running = start(folder.path(), Net { silent_sites, ..Net::default() }, config());
    running.accept(1, &peers.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let connects = |this: &Running| this.net.seen.lock().unwrap().connects.values().sum::<usize>();
    running.until("all connections to be taken", async |this: &Running| connects(this) == config().connections).await;
    for number in 0..20 {
        running.accept_of("other", 100 + number, &[&format!("x@good{number}.test")], Timestamp::now()).await;
    }
    running.until("the other's mail", async |this: &Running| this.transactions() == 20).await;
    running.stop().await;
}
