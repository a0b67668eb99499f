//! Where mail goes: MX, addresses, aliases, rules, and what happens where DNS has no answer.

use std::time::Instant;

use mail::Verdict;
use posthaste::queue::Courier;
use tests::fake_mx::{FakeMx, Step, reply, reply_and_close};

use super::{Post, brief};

#[track_caller]
fn check_text(outcome: &mail::Outcome, expect: &str, words: &str) {
    assert_eq!(brief(outcome), expect, "{}", outcome.text);
    assert!(outcome.text.contains(words), "{}", outcome.text);
    assert!(outcome.reply.is_none());
}

/// The outcome for `c@<domain>` in a zone where nobody listens.
async fn unroutable(zone: &str, domain: &str) -> mail::Outcome {
    Post::with(zone, 9, "").await.send(&[&format!("c@{domain}")]).await.remove(0)
}

#[tokio::test]
async fn what_cannot_be_routed() {
    let gone = unroutable("a.test A 127.0.0.1", "b.test").await;
    check_text(&gone, "Bounced Route 5.1.2", "the name `b.test` does not exist");
    let null = unroutable("b.test MX 0 .", "b.test").await;
    check_text(&null, "Bounced Route 5.1.10", "null MX");
    let bare = unroutable("b.test TXT \"v=spf1 -all\"", "b.test").await;
    check_text(&bare, "Bounced Route 5.4.4", "neither mail hosts (MX) nor addresses");
    let broken = unroutable("b.test SERVFAIL", "b.test").await;
    check_text(&broken, "Deferred Route 4.4.3", "DNS did not answer for `b.test`");
    let refused = unroutable("b.test REFUSED", "b.test").await;
    check_text(&refused, "Deferred Route 4.4.3", "DNS did not answer for `b.test`");
    let half = unroutable("b.test A SERVFAIL\nb.test AAAA SERVFAIL\nb.test TXT x", "b.test").await;
    check_text(&half, "Deferred Route 4.4.3", "DNS did not answer for `b.test`");
    let own = unroutable("b.test MX 10 relay.test\nb.test MX 20 mx.b.test", "b.test").await;
    check_text(&own, "Failed Route 5.4.6", "would come back to us");
    let ours = unroutable("relay.test A 127.0.0.1", "relay.test").await;
    check_text(&ours, "Failed Route 5.4.6", "would come back to us");
    let dangling = unroutable("b.test MX 10 mx.b.test", "b.test").await;
    check_text(&dangling, "Deferred Connect 4.4.4", "the name `mx.b.test` does not exist");
    let empty = unroutable("b.test MX 10 mx.b.test\nmx.b.test TXT x", "b.test").await;
    check_text(&empty, "Deferred Connect 4.4.4", "the mail host `mx.b.test` has no address");
    let unanswered = unroutable("b.test MX 10 mx.b.test\nb.test MX 20 gone.b.test\nmx.b.test SERVFAIL", "b.test").await;
    check_text(&unanswered, "Deferred Connect 4.4.3", "DNS did not answer for `mx.b.test`");
}

#[tokio::test]
async fn a_name_server_that_says_nothing() {
    let post = Post::with("b.test DROP", 9, "").await;
    // The resolver's own time-outs are long; the question must have been asked, and nothing must come of it meanwhile.
    let domain = mail::Domain::parse("b.test").unwrap();
    let route = post.courier.route(&domain);
    let asked = async {
        while post.dns.questions().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        outcome = route => panic!("routed without an answer: {outcome:?}"),
        () = asked => {}
    }
}

#[tokio::test]
async fn preference_order_and_the_next_host_where_one_cannot_be_reached() {
    let mx = FakeMx::start().await;
    // Nobody listens on 127.0.0.9, the name of the second does not exist, and the third has a dead address first.
    let zone = "b.test MX 30 mx3.b.test\nb.test MX 20 mx2.b.test\nb.test MX 10 mx1.b.test\n\
                mx1.b.test A 127.0.0.9\nmx3.b.test A 127.0.0.9\nmx3.b.test A 127.0.0.1";
    let outcome = Post::with(zone, mx.port(), "").await.send_one().await;
    assert_eq!(outcome.verdict, Verdict::Delivered);
    assert_eq!(outcome.remote_host.as_deref(), Some("mx3.b.test (127.0.0.1)"));
}

#[tokio::test]
async fn the_best_host_is_used_while_it_works() {
    let first = FakeMx::start().await;
    let second = first.beside(2).start().await;
    let zone = "b.test MX 20 mx2.b.test\nb.test MX 10 mx1.b.test\nmx1.b.test A 127.0.0.1\nmx2.b.test A 127.0.0.2";
    let post = Post::with(zone, first.port(), "").await;
    for _ in 0..5 {
        assert_eq!(post.send_one().await.verdict, Verdict::Delivered);
    }
    assert_eq!(first.messages().len(), 5);
    assert_eq!(second.connections(), 0);
}

#[tokio::test]
async fn hosts_of_equal_preference_share_the_load() {
    let first = FakeMx::start().await;
    let second = first.beside(2).start().await;
    let zone = "b.test MX 10 mx2.b.test\nb.test MX 10 mx1.b.test\nmx1.b.test A 127.0.0.1\nmx2.b.test A 127.0.0.2";
    let post = Post::with(zone, first.port(), "").await;
    // Each is chosen with one half: that one of them is never chosen happens once in 2^63.
    for _ in 0..64 {
        assert_eq!(post.send_one().await.verdict, Verdict::Delivered);
    }
    assert!(first.connections() > 0 && second.connections() > 0);
}

#[tokio::test]
async fn the_next_host_where_one_does_not_want_to_talk() {
    for greeting in
        [reply_and_close("421 4.3.2 busy"), reply("450 not now"), reply("554 no service"), reply("nonsense")]
    {
        let first = FakeMx::build().on(Step::Greeting, greeting.clone()).start().await;
        let second = first.beside(2).start().await;
        let zone = "b.test MX 20 mx2.b.test\nb.test MX 10 mx1.b.test\nmx1.b.test A 127.0.0.1\nmx2.b.test A 127.0.0.2";
        let outcome = Post::with(zone, first.port(), "").await.send_one().await;
        assert_eq!(outcome.verdict, Verdict::Delivered, "{greeting:?}");
        assert_eq!(first.connections(), 1, "{greeting:?}");
        assert_eq!(second.messages().len(), 1, "{greeting:?}");
    }
}

#[tokio::test]
async fn addresses_and_aliases() {
    let zones = [
        ("implicit MX", "b.test A 127.0.0.1"),
        ("the domain is an alias", "b.test CNAME c.test\nc.test MX 10 mx.c.test\nmx.c.test A 127.0.0.1"),
        ("the domain is an alias without MX", "b.test CNAME c.test\nc.test A 127.0.0.1"),
        ("the mail host is an alias", "b.test MX 10 mx.b.test\nmx.b.test CNAME x.test\nx.test A 127.0.0.1"),
        ("AAAA is broken", "b.test MX 10 mx.b.test\nmx.b.test A 127.0.0.1\nmx.b.test AAAA SERVFAIL"),
        ("null MX beside a real one", "b.test MX 0 .\nb.test MX 10 mx.b.test\nmx.b.test A 127.0.0.1"),
    ];
    for (what, zone) in zones {
        let mx = FakeMx::start().await;
        let outcome = Post::with(zone, mx.port(), "").await.send_one().await;
        assert_eq!(outcome.verdict, Verdict::Delivered, "{what}: {}", outcome.text);
    }
}

#[tokio::test]
async fn long_answers_come_over_tcp() {
    let mx = FakeMx::start().await;
    let mut zone = "b.test MX 1 mx.b.test\nmx.b.test A 127.0.0.1\n".to_owned();
    for number in 0..200 {
        zone.push_str(&format!("b.test MX 10 a-rather-long-name-of-a-mail-host-{number}.b.test\n"));
    }
    let outcome = Post::with(&zone, mx.port(), "").await.send_one().await;
    assert_eq!(outcome.verdict, Verdict::Delivered, "{}", outcome.text);
}

#[tokio::test]
async fn an_address_literal_needs_no_dns() {
    let mx = FakeMx::start().await;
    let post = Post::with("", mx.port(), "").await;
    let outcome = post.send(&["c@[127.0.0.1]"]).await.remove(0);
    assert_eq!(outcome.verdict, Verdict::Delivered, "{}", outcome.text);
    assert_eq!(outcome.remote_host.as_deref(), Some("127.0.0.1"));
    assert_eq!(mx.messages()[0].recipients, ["c@[127.0.0.1]"]);
    assert!(post.dns.questions().is_empty());
}

#[tokio::test]
async fn strangers_do_not_aim_us_at_private_hosts() {
    let mx = FakeMx::start().await;
    let settings = format!(
        "allow_private = false\n[[route]]\ndomain = \"r.test\"\nrelay = \"mx.r.test:{0}\"\n\
         [[route]]\ndomain = \"s.test\"\nrelay = \"127.0.0.1:{0}\"",
        mx.port()
    );
    let zone = "b.test MX 10 mx.b.test\nmx.b.test A 127.0.0.1\nmx.b.test A 10.0.0.1\nmx.b.test AAAA ::1\nc.test A 192.168.0.1\n\
                d.test MX 10 mx.b.test\nd.test MX 20 gone.b.test\ngone.b.test SERVFAIL\nmx.r.test A 127.0.0.1\n\
                e.test MX 10 mx.r.test";
    let post = Post::with(zone, mx.port(), &settings).await;
    for domain in ["b.test", "c.test", "e.test", "[127.0.0.1]", "[0.0.0.0]", "[IPv6:::1]", "[IPv6:::ffff:127.0.0.1]"] {
        let outcome = post.send(&[&format!("x@{domain}")]).await.remove(0);
        check_text(&outcome, "Bounced Connect 5.4.4", "private network");
    }
    check_text(&post.send(&["x@d.test"]).await.remove(0), "Deferred Connect 4.4.3", "gone.b.test");
    assert_eq!(mx.connections(), 0);
    for domain in ["r.test", "s.test"] {
        let outcome = post.send(&[&format!("x@{domain}")]).await.remove(0);
        assert_eq!(outcome.verdict, Verdict::Delivered, "{domain}: {}", outcome.text);
    }
}

#[tokio::test]
async fn mail_never_goes_to_our_own_listeners() {
    let mx = FakeMx::start().await;
    for listener in ["127.0.0.1", "0.0.0.0", "[::]"] {
        let settings = format!("allow_private = true\n[smtp]\nlisten = [\"{listener}:{}\"]", mx.port());
        let post = Post::with("b.test MX 10 mx.b.test\nmx.b.test A 127.0.0.1", mx.port(), &settings).await;
        for recipient in ["x@b.test", "x@[127.0.0.1]"] {
            check_text(&post.send(&[recipient]).await.remove(0), "Failed Connect 5.4.6", "come back to us");
        }
    }
    assert_eq!(mx.connections(), 0);
}

#[tokio::test]
async fn routes_overrule_mx() {
    let mx = FakeMx::start().await;
    let relay = FakeMx::start().await;
    let settings = format!(
        "[[route]]\ndomain = \"*.b.test\"\nrelay = \"127.0.0.1:{0}\"\n[[route]]\ndomain = \"c.test\"\nrelay = \"out.test:{0}\"\n\
         [[route]]\ndomain = \"d.test\"\nport = {0}",
        relay.port()
    );
    let zone = "b.test A 127.0.0.1\nout.test A 127.0.0.1\nd.test A 127.0.0.1";
    let post = Post::with(zone, mx.port(), &settings).await;
    for (recipient, to_relay, host) in [
        ("x@b.test", false, "b.test (127.0.0.1)".to_owned()),
        ("x@y.b.test", true, format!("127.0.0.1:{}", relay.port())),
        ("x@c.test", true, format!("out.test:{} (127.0.0.1)", relay.port())),
        ("x@d.test", true, "d.test (127.0.0.1)".to_owned()),
    ] {
        let before = relay.messages().len();
        let outcome = post.send(&[recipient]).await.remove(0);
        assert_eq!(outcome.verdict, Verdict::Delivered, "{recipient}: {}", outcome.text);
        assert_eq!(relay.messages().len() > before, to_relay, "{recipient}");
        assert_eq!(outcome.remote_host.as_deref(), Some(host.as_str()), "{recipient}");
    }
}

#[tokio::test]
async fn a_relay_that_cannot_be_found_defers() {
    let post = Post::with("", 9, "[[route]]\ndomain = \"*\"\nrelay = \"out.test:25\"").await;
    check_text(&post.send_one().await, "Deferred Connect 4.4.4", "out.test");
}

#[tokio::test]
async fn domains_at_one_provider_are_one_site() {
    let zone = "a.test MX 10 mx1.x.test\na.test MX 20 mx2.x.test\nb.test MX 5 MX2.x.test\nb.test MX 5 mx1.x.test\n\
                c.test MX 10 mx1.x.test";
    let settings = "[[route]]\ndomain = \"d.test\"\nrelay = \"mx1.x.test:25\"\ntls = \"off\"\n\
                    [[route]]\ndomain = \"e.test\"\nrelay = \"mx1.x.test:25\"\ntls = \"require\"\n\
                    [[route]]\ndomain = \"f.test\"\nrelay = \"mx1.x.test:25\"\ntls = \"require\"\nauth = { username = \"u\", password_env = \"P\" }\n\
                    [[route]]\ndomain = \"g.test\"\nrelay = \"mx1.x.test:25\"\ntls = \"require\"\nauth = { username = \"u\", password_env = \"P\" }\n\
                    [[route]]\ndomain = \"h.test\"\nrelay = \"mx1.x.test:25\"\ntls = \"require\"\nauth = { username = \"v\", password_env = \"P\" }";
    let post = Post::with(zone, 25, settings).await;
    let mut keys = Vec::new();
    for domain in ["a", "b", "c", "d", "e", "f", "g", "h"] {
        let domain = mail::Domain::parse(&format!("{domain}.test")).unwrap();
        keys.push(post.courier.route(&domain).await.unwrap().key);
    }
    assert_eq!(keys[0], keys[1], "the same hosts in another order");
    assert_eq!(keys[5], keys[6], "the same credentials in another rule");
    let different: std::collections::BTreeSet<_> = keys.iter().collect();
    assert_eq!(different.len(), 6, "{keys:#?}");
    assert!(keys.iter().all(|key| !key.contains("secret")));
}

#[tokio::test]
async fn answers_are_kept() {
    let mx = FakeMx::start().await;
    let post = Post::to(&mx).await;
    post.send_one().await;
    let asked = post.dns.questions().len();
    let begun = Instant::now();
    post.send_one().await;
    assert_eq!(post.dns.questions().len(), asked, "asked again after {:?}", begun.elapsed());
}

#[tokio::test]
async fn nobody_listens() {
    let mx = FakeMx::start().await;
    let zone = "b.test MX 10 mx.b.test\nmx.b.test A 127.0.0.9";
    let outcome = Post::with(zone, mx.port(), "").await.send_one().await;
    check_text(&outcome, "Deferred Connect 4.4.1", "mx.b.test (127.0.0.9), port");
    assert!(outcome.text.contains("refused"), "{}", outcome.text);
}
