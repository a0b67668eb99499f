//! Hosts with addresses of both kinds, one of which does not work (RFC 8305).

use std::net::{Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use mail::Verdict;
use tests::fake_mx::{FakeMx, FakeMxBuilder, Stalled, reply};

use super::Post;

const ZONE: &str = "b.test MX 10 mx.b.test\nmx.b.test A 127.0.0.1\nmx.b.test AAAA ::1";

/// Far below any time-out, and far above what a busy machine needs.
const PROMPT: Duration = Duration::from_secs(10);

fn on_v6(port: u16) -> FakeMxBuilder {
    FakeMx::build().at(SocketAddr::from((Ipv6Addr::LOCALHOST, port)))
}

async fn delivered_to(zone: &str, port: u16) -> String {
    let post = Post::with(zone, port, "").await;
    let begun = Instant::now();
    let outcome = post.send_one().await;
    assert_eq!(outcome.verdict, Verdict::Delivered, "{}", outcome.text);
    assert!(begun.elapsed() < PROMPT, "{:?}", begun.elapsed());
    outcome.remote_host.unwrap()
}

#[tokio::test]
async fn ipv4_stalls() {
    let stalled = Stalled::at("127.0.0.1:0".parse().unwrap()).await;
    let _mx = on_v6(stalled.address().port()).start().await;
    assert_eq!(delivered_to(ZONE, stalled.address().port()).await, "mx.b.test (::1)");
}

#[tokio::test]
async fn ipv6_stalls() {
    let stalled = Stalled::at("[::1]:0".parse().unwrap()).await;
    let _mx = FakeMx::build().at(SocketAddr::from(([127, 0, 0, 1], stalled.address().port()))).start().await;
    // The second address of IPv4 is the one that works, so that IPv6 is begun as well.
    let zone = ZONE.replace("A 127.0.0.1", "A 127.0.0.9\nmx.b.test A 127.0.0.1");
    assert_eq!(delivered_to(&zone, stalled.address().port()).await, "mx.b.test (127.0.0.1)");
}

#[tokio::test]
async fn ipv4_is_refused() {
    let mx = on_v6(0).start().await;
    assert_eq!(delivered_to(ZONE, mx.port()).await, "mx.b.test (::1)");
}

#[tokio::test]
async fn ipv6_is_left_alone_where_ipv4_answers() {
    let v4 = FakeMx::start().await;
    let v6 = on_v6(v4.port()).start().await;
    for _ in 0..3 {
        assert_eq!(delivered_to(ZONE, v4.port()).await, "mx.b.test (127.0.0.1)");
    }
    assert_eq!(v6.connections(), 0);
}

#[tokio::test]
async fn ipv4_does_not_want_to_talk() {
    let v4 = FakeMx::build().on(tests::fake_mx::Step::Greeting, reply("554 5.3.2 no")).start().await;
    let _v6 = on_v6(v4.port()).start().await;
    assert_eq!(delivered_to(ZONE, v4.port()).await, "mx.b.test (::1)");
}

#[tokio::test]
async fn dns_is_silent_about_one_kind() {
    let v4 = FakeMx::start().await;
    let zone = "b.test MX 10 mx.b.test\nmx.b.test A 127.0.0.1\nmx.b.test AAAA DROP";
    // The resolver alone would wait for 15 seconds.
    assert_eq!(delivered_to(zone, v4.port()).await, "mx.b.test (127.0.0.1)");
    let zone = "b.test MX 10 mx.b.test\nmx.b.test A DROP\nmx.b.test AAAA ::1";
    let v6 = on_v6(0).start().await;
    assert_eq!(delivered_to(zone, v6.port()).await, "mx.b.test (::1)");
}
