//! Where mail leaves from: the addresses and names of sources, and another one where a peer blames the first.

use mail::{Domain, Verdict};
use posthaste::queue::Courier;
use tests::fake_mx::{FakeMx, Step, reply, reply_and_close};

use super::{Post, brief, transaction};

const ZONE: &str = "b.test MX 10 mx.b.test\nmx.b.test A 127.0.0.1\nc.test MX 10 mx.c.test\nmx.c.test AAAA ::1";
const SOURCES: &str = "sources = [\"one\", \"two\"]\n\
    [[source]]\nname = \"one\"\naddresses = [\"127.0.0.11\"]\nhostname = \"one.relay.test\"\n\
    [[source]]\nname = \"two\"\naddresses = [\"127.0.0.12\"]\n\
    [[source]]\nname = \"gone\"\naddresses = [\"192.0.2.77\"]\n";

fn from(mx: &FakeMx) -> Vec<(String, String)> {
    mx.messages().iter().map(|message| (message.from.to_string(), message.hello.clone())).collect()
}

fn pair(address: &str, name: &str) -> (String, String) {
    (address.to_owned(), name.to_owned())
}

#[tokio::test]
async fn the_first_source_is_used_while_nobody_blames_it() {
    let mx = FakeMx::start().await;
    let post = Post::with(ZONE, mx.port(), SOURCES).await;
    for _ in 0..2 {
        assert_eq!(post.send_one().await.verdict, Verdict::Delivered);
    }
    mx.once(Step::Rcpt(""), reply("451 4.7.1 greylisted, your IP is new here"));
    assert_eq!(brief(&post.send_one().await), "Deferred Recipient 4.7.1");
    assert_eq!(post.send_one().await.verdict, Verdict::Delivered);
    assert_eq!(from(&mx), vec![pair("127.0.0.11", "one.relay.test"); 3]);
}

#[tokio::test]
async fn another_source_where_the_first_is_blamed() {
    let blamed = "5.7.1 Client host [127.0.0.11] blocked using a list";
    for (step, expect) in [
        (Step::Greeting, "Deferred Connect 4.7.1"),
        (Step::Mail(""), "Deferred Mail 4.7.1"),
        (Step::Rcpt(""), "Deferred Recipient 4.7.1"),
        (Step::Dot, "Deferred Data 4.7.1"),
    ] {
        let mx = FakeMx::start().await;
        mx.once(step, reply_and_close(&format!("554 {blamed}")));
        let post = Post::with(ZONE, mx.port(), SOURCES).await;
        let domain = Domain::parse("b.test").unwrap();
        let before = post.courier.route(&domain).await.unwrap();
        let outcome = post.send_one().await;
        assert_eq!(brief(&outcome), expect, "{}", outcome.text);
        assert!(before.plan.is_stale(), "{step:?}");
        let after = post.courier.route(&domain).await.unwrap();
        assert_ne!(before.key, after.key, "{step:?}");
        assert_eq!(post.send_one().await.verdict, Verdict::Delivered);
        assert_eq!(from(&mx), [pair("127.0.0.12", "relay.test")], "{step:?}");
        // Nobody is left now: a refusal for good is one.
        mx.on(Step::Rcpt(""), reply(&format!("554 {blamed}")));
        assert_eq!(brief(&post.send_one().await), "Bounced Recipient 5.7.1", "{step:?}");
    }
}

#[tokio::test]
async fn a_source_whose_address_is_not_of_this_machine() {
    let mx = FakeMx::start().await;
    let settings = SOURCES.replacen("\"one\", \"two\"", "\"gone\", \"two\"", 1);
    let post = Post::with(ZONE, mx.port(), &settings).await;
    let outcome = post.send_one().await;
    assert_eq!(brief(&outcome), "Deferred Connect 4.4.1", "{}", outcome.text);
    assert!(outcome.text.contains("192.0.2.77, the address of the source `gone`"), "{}", outcome.text);
    assert_eq!(post.send_one().await.verdict, Verdict::Delivered);
    assert_eq!(from(&mx), [pair("127.0.0.12", "relay.test")]);
}

#[tokio::test]
async fn a_source_without_an_address_of_the_hosts_kind() {
    let mx = FakeMx::start().await;
    let post = Post::with(ZONE, mx.port(), SOURCES).await;
    let outcome = post.send(&["x@c.test"]).await.remove(0);
    assert_eq!(brief(&outcome), "Deferred Connect 4.4.4", "{}", outcome.text);
    assert!(outcome.text.contains("of a kind that the source `one` has none of"), "{}", outcome.text);
}

#[tokio::test]
async fn sources_with_weights_share_a_site() {
    let mx = FakeMx::start().await;
    let settings = SOURCES
        .replacen("hostname = \"one.relay.test\"", "hostname = \"one.relay.test\"\nweight = 1", 1)
        .replacen("addresses = [\"127.0.0.12\"]", "addresses = [\"127.0.0.12\"]\nweight = 2", 1);
    let post = Post::with(ZONE, mx.port(), &settings).await;
    let site = post.courier.route(&Domain::parse("b.test").unwrap()).await.unwrap();
    let mut keys = Vec::new();
    for number in 0..6 {
        let site = site.clone().for_message(uuid::Uuid::from_u128(number));
        let mut session = post.courier.connect(&site).await.unwrap();
        session.send(&transaction(&["c@b.test"], b"Subject: x\r\n\r\n")).await;
        session.close().await;
        keys.push(site.key);
    }
    let from_one = pair("127.0.0.11", "one.relay.test");
    assert_eq!(from(&mx).iter().filter(|sent| **sent == from_one).count(), 2);
    assert_eq!(keys.iter().filter(|key| key.ends_with(" from one")).count(), 2, "{keys:?}");
    assert_eq!(keys.iter().filter(|key| key.ends_with(" from two")).count(), 4, "{keys:?}");
}

#[tokio::test]
async fn routes_choose_sources() {
    let mx = FakeMx::start().await;
    let settings = format!("{SOURCES}[[route]]\ndomain = \"b.test\"\nsources = \"two\"\n");
    let post = Post::with(&format!("{ZONE}\nd.test A 127.0.0.1"), mx.port(), &settings).await;
    assert_eq!(post.send_one().await.verdict, Verdict::Delivered);
    assert_eq!(post.send(&["x@d.test"]).await[0].verdict, Verdict::Delivered);
    assert_eq!(from(&mx), [pair("127.0.0.12", "relay.test"), pair("127.0.0.11", "one.relay.test")]);
}
