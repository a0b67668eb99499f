//! Sessions that carry more than one message, and large ones.

use std::time::Duration;

use mail::Verdict;
use posthaste::queue::Session;
use tests::fake_mx::{Act, FakeMx, PATIENCE, Step, reply, reply_and_close};

use super::{BODY, Post, brief, transaction};

async fn send(session: &mut Box<dyn Session>, recipients: &[&str]) -> Vec<String> {
    session.send(&transaction(recipients, BODY.as_bytes())).await.iter().map(brief).collect()
}

#[tokio::test]
async fn many_messages_on_one_connection() {
    let mx = FakeMx::start().await;
    let post = Post::to(&mx).await;
    let mut session = post.open("b.test").await.unwrap();
    for _ in 0..50 {
        assert!(session.is_open());
        assert_eq!(send(&mut session, &["c@b.test"]).await, ["Delivered Data 2.0.0"]);
    }
    session.close().await;
    assert_eq!(mx.wait_for_messages(50).await.len(), 50);
    assert_eq!(mx.connections(), 1);
    mx.wait_for_command("QUIT").await;
    assert!(!mx.commands().contains(&"RSET".to_owned()));
}

#[tokio::test]
async fn many_messages_under_tls() {
    let mx = FakeMx::build().starttls().start().await;
    let post = Post::to(&mx).await;
    let mut session = post.open("b.test").await.unwrap();
    for _ in 0..20 {
        assert!(session.is_open());
        assert_eq!(send(&mut session, &["c@b.test"]).await, ["Delivered Data 2.0.0"]);
    }
    session.close().await;
    assert_eq!(mx.connections(), 1);
    assert!(mx.messages().iter().all(|message| message.tls));
}

#[tokio::test]
async fn a_chunk_that_was_lost_on_an_old_connection_goes_out_again_and_says_so() {
    let mx = FakeMx::build().offers(&["PIPELINING", "CHUNKING"]).start().await;
    let post = Post::to(&mx).await;
    let mut session = post.open("b.test").await.unwrap();
    assert_eq!(send(&mut session, &["c@b.test"]).await, ["Delivered Data 2.0.0"]);
    mx.once(Step::Mail(""), Act::Close);
    let outcomes = session.send(&transaction(&["c@b.test"], BODY.as_bytes())).await;
    assert_eq!(brief(&outcomes[0]), "Delivered Data 2.0.0");
    assert!(outcomes[0].text.contains("may arrive twice"), "{}", outcomes[0].text);
    assert_eq!((mx.connections(), mx.messages().len()), (2, 2));
    // Also where nobody answers there for the moment.
    mx.once(Step::Mail(""), Act::Close);
    mx.once(Step::Greeting, reply_and_close("421 4.3.2 later"));
    let outcomes = session.send(&transaction(&["c@b.test"], BODY.as_bytes())).await;
    assert_eq!(outcomes[0].verdict, Verdict::Deferred);
    assert!(outcomes[0].text.contains("may arrive twice"), "{}", outcomes[0].text);
}

#[tokio::test]
async fn the_host_whose_session_broke_is_tried_after_the_others() {
    let first = FakeMx::start().await;
    let second = first.beside(2).start().await;
    let zone = "b.test MX 20 mx2.b.test\nb.test MX 10 mx1.b.test\nmx1.b.test A 127.0.0.1\nmx2.b.test A 127.0.0.2";
    let post = Post::with(zone, first.port(), "").await;
    first.once(Step::Data, Act::Close);
    assert_eq!(brief(&post.send_one().await), "Deferred Data 4.4.2");
    for _ in 0..2 {
        assert_eq!(post.send_one().await.verdict, Verdict::Delivered);
    }
    assert_eq!((first.connections(), second.messages().len()), (1, 2));
}

#[tokio::test]
async fn a_session_goes_on_after_a_refusal() {
    // DATA may be answered 354 though nobody is left to deliver to (RFC 2920): then an empty message is refused.
    for data in [None, Some(reply("354 go"))] {
        for offers in [&["PIPELINING"][..], &[], &["PIPELINING", "CHUNKING"], &["CHUNKING"]] {
            let mx = FakeMx::build().offers(offers).on(Step::Rcpt("<gone@"), reply("550 5.1.1 nobody")).start().await;
            if let Some(act) = &data {
                mx.once(Step::Data, act.clone());
            }
            mx.on(Step::Mail("<>"), reply("550 5.7.1 no"));
            let post = Post::to(&mx).await;
            let mut session = post.open("b.test").await.unwrap();
            assert_eq!(send(&mut session, &["gone@b.test"]).await, ["Bounced Recipient 5.1.1"]);
            assert!(session.is_open());
            assert_eq!(send(&mut session, &["c@b.test"]).await, ["Delivered Data 2.0.0"]);
            let mut bounce = transaction(&["c@b.test"], BODY.as_bytes());
            bounce.sender = None;
            let outcomes = session.send(&bounce).await;
            assert_eq!(brief(&outcomes[0]), "Bounced Mail 5.7.1");
            assert_eq!(send(&mut session, &["c@b.test"]).await, ["Delivered Data 2.0.0"]);
            assert_eq!(mx.messages().len(), 2);
            assert_eq!(mx.connections(), 1);
        }
    }
}

#[tokio::test]
async fn a_message_for_a_connection_that_grew_old_goes_out_on_a_fresh_one() {
    for act in [reply_and_close("421 4.4.2 idle for too long"), Act::Close] {
        let mx = FakeMx::start().await;
        let post = Post::to(&mx).await;
        let mut session = post.open("b.test").await.unwrap();
        assert_eq!(send(&mut session, &["c@b.test"]).await, ["Delivered Data 2.0.0"]);
        mx.once(Step::Mail(""), act);
        assert_eq!(send(&mut session, &["c@b.test", "d@b.test"]).await, ["Delivered Data 2.0.0"; 2]);
        assert!(session.is_open());
        assert_eq!(mx.connections(), 2);
        assert_eq!(mx.messages().len(), 2);
    }
}

#[tokio::test]
async fn a_first_message_for_a_connection_that_idled_goes_out_on_a_fresh_one() {
    let mx = FakeMx::start().await;
    let post = Post::to(&mx).await;
    let mut session = post.open("b.test").await.unwrap();
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(4)).await;
    tokio::time::resume();
    mx.once(Step::Mail(""), reply_and_close("421 4.4.2 idle for too long"));
    assert_eq!(send(&mut session, &["c@b.test"]).await, ["Delivered Data 2.0.0"]);
    assert_eq!(mx.connections(), 2);
}

#[tokio::test]
async fn a_fresh_connection_is_not_tried_twice() {
    let mx = FakeMx::build().on(Step::Mail(""), Act::Close).start().await;
    let post = Post::to(&mx).await;
    let mut session = post.open("b.test").await.unwrap();
    assert_eq!(send(&mut session, &["c@b.test"]).await, ["Deferred Mail 4.4.2"]);
    assert!(!session.is_open());
    assert_eq!(mx.connections(), 1);
}

#[tokio::test]
async fn a_session_whose_peer_is_gone_for_good() {
    let mx = FakeMx::start().await;
    let post = Post::to(&mx).await;
    let mut session = post.open("b.test").await.unwrap();
    assert_eq!(send(&mut session, &["c@b.test"]).await, ["Delivered Data 2.0.0"]);
    drop(mx);
    let closed = async {
        while session.is_open() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, closed).await.unwrap();
    assert_eq!(send(&mut session, &["c@b.test", "d@b.test"]).await, ["Deferred Connect 4.4.1"; 2]);
    assert!(!session.is_open());
    assert_eq!(send(&mut session, &["c@b.test"]).await, ["Deferred Connect 4.4.1"]);
    session.close().await;
}

#[tokio::test]
async fn large_bodies_arrive_whole() {
    for (starttls, chunking) in [(false, false), (true, false), (false, true), (true, true)] {
        let mx = if starttls { FakeMx::build().starttls() } else { FakeMx::build() };
        let mx = if chunking { mx.offers(&["PIPELINING", "CHUNKING"]) } else { mx }.start().await;
        let post = Post::to(&mx).await;
        // Lines of every length, many with a dot in front, so that dots fall on every edge of every piece.
        let body: Vec<u8> = (0..40_000_usize)
            .flat_map(|n| [&b"................................"[n % 32..], b"x\r\n"].concat())
            .collect();
        let outcome = post.send_body(&["c@b.test"], &body).await.remove(0);
        assert_eq!(outcome.verdict, Verdict::Delivered, "{}", outcome.text);
        assert!(mx.messages()[0].body == body);
    }
}

#[tokio::test]
async fn many_recipients_in_one_transaction() {
    for offers in [&["PIPELINING"][..], &[]] {
        let mx = FakeMx::build().offers(offers).on(Step::Rcpt("<r7@"), reply("550 5.1.1 nobody")).start().await;
        let post = Post::to(&mx).await;
        let recipients: Vec<String> = (0..1000).map(|number| format!("r{number}@b.test")).collect();
        let recipients: Vec<&str> = recipients.iter().map(String::as_str).collect();
        let outcomes = post.send(&recipients).await;
        assert_eq!(outcomes.len(), 1000);
        for (outcome, recipient) in outcomes.iter().zip(&recipients) {
            let expect = if *recipient == "r7@b.test" { Verdict::Bounced } else { Verdict::Delivered };
            assert_eq!(outcome.verdict, expect, "{recipient}: {}", outcome.text);
        }
        assert_eq!(mx.messages()[0].recipients.len(), 999);
    }
}
