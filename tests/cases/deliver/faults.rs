//! Faults of real peers, at every step of the dialogue: each becomes an outcome, none becomes a lie.

use std::time::Duration;

use mail::{Outcome, Verdict};
use tests::fake_mx::{Act, FakeMx, FakeMxBuilder, Step, reply, reply_and_close};

use super::{BODY, Post, brief};

/// Peers with and without PIPELINING, and with CHUNKING.
const OFFERS: [&[&str]; 4] =
    [&["PIPELINING", "SIZE"], &["8BITMIME"], &["PIPELINING", "CHUNKING", "SIZE"], &["CHUNKING"]];

fn peers() -> [FakeMxBuilder; 4] {
    OFFERS.map(|offers| FakeMx::build().offers(offers))
}

/// Those that are given DATA.
fn peers_without_chunking() -> [FakeMxBuilder; 2] {
    [OFFERS[0], OFFERS[1]].map(|offers| FakeMx::build().offers(offers))
}

async fn outcome(peer: FakeMxBuilder, settings: &str) -> Outcome {
    let mx = peer.start().await;
    let zone = "b.test MX 10 mx.b.test\nmx.b.test A 127.0.0.1";
    let outcome = Post::with(zone, mx.port(), settings).await.send_one().await;
    // A peer that breaks off may have taken it all the same; then that is said.
    let taken = mx.messages().len() == usize::from(outcome.verdict == Verdict::Delivered);
    assert!(taken || outcome.text.contains("may have taken the message"), "{}", outcome.text);
    outcome
}

#[track_caller]
fn check_outcome(outcome: &Outcome, expect: &str, words: &str, what: &str) {
    assert_eq!(brief(outcome), expect, "{what}: {}", outcome.text);
    assert!(outcome.text.contains(words), "{what}: {}", outcome.text);
    assert!(outcome.text.starts_with("mx.b.test (127.0.0.1) "), "{what}: {}", outcome.text);
    assert_eq!(outcome.remote_host.as_deref(), Some("mx.b.test (127.0.0.1)"), "{what}");
}

async fn check(step: Step, act: Act, expect: &str, words: &str) {
    let peers = if step == Step::Data { peers_without_chunking().to_vec() } else { peers().to_vec() };
    for peer in peers {
        let what = format!("{step:?} {act:?}");
        check_outcome(&outcome(peer.on(step, act.clone()), "").await, expect, words, &what);
    }
}

const MAIL: Step = Step::Mail("");
const RCPT: Step = Step::Rcpt("");

#[tokio::test]
async fn refusals() {
    check(Step::Greeting, reply("554 5.7.1 go away"), "Deferred Connect 4.7.1", "said: 554 5.7.1 go away").await;
    check(Step::Greeting, reply("450 later"), "Deferred Connect 4.0.0", "said: 450 later").await;
    check(Step::Ehlo, reply("450 4.3.0 later"), "Deferred Connect 4.3.0", "said: 450").await;
    check(MAIL, reply("451 4.7.1 greylisted"), "Deferred Mail 4.7.1", "said: 451 4.7.1 greylisted").await;
    check(MAIL, reply("550 5.7.1 blocked"), "Bounced Mail 5.7.1", "said: 550 5.7.1 blocked").await;
    check(RCPT, reply("450 4.2.0 busy"), "Deferred Recipient 4.2.0", "said: 450 4.2.0 busy").await;
    check(RCPT, reply("550 5.1.1 nobody"), "Bounced Recipient 5.1.1", "said: 550 5.1.1 nobody").await;
    check(RCPT, reply("552 5.2.2 full"), "Bounced Recipient 5.2.2", "said: 552").await;
    check(RCPT, reply("550 4.1.1 odd"), "Bounced Recipient 5.1.1", "said: 550 4.1.1 odd").await;
    check(RCPT, reply("550-5.1.1 no such\n550 5.1.1 user"), "Bounced Recipient 5.1.1", "550 5.1.1 no such user").await;
    check(Step::Data, reply("451 4.3.0 later"), "Deferred Data 4.3.0", "said: 451").await;
    check(Step::Data, reply("554 no"), "Bounced Data 5.0.0", "said: 554 no").await;
    check(Step::Dot, reply("451 4.3.0 later"), "Deferred Data 4.3.0", "said: 451").await;
    check(Step::Dot, reply("554 5.6.0 spam"), "Bounced Data 5.6.0", "said: 554 5.6.0 spam").await;
}

#[tokio::test]
async fn goodbye_at_any_point() {
    let bye = || reply_and_close("421 4.3.2 shutting down");
    let words = "said: 421 4.3.2 shutting down";
    check(Step::Greeting, bye(), "Deferred Connect 4.3.2", words).await;
    check(Step::Ehlo, bye(), "Deferred Connect 4.3.2", words).await;
    check(MAIL, bye(), "Deferred Mail 4.3.2", words).await;
    check(RCPT, bye(), "Deferred Recipient 4.3.2", words).await;
    check(Step::Data, bye(), "Deferred Data 4.3.2", words).await;
    check(Step::Dot, bye(), "Deferred Data 4.3.2", words).await;
}

#[tokio::test]
async fn nonsense_at_any_point() {
    for act in [
        reply("what?"),
        reply("354 hm"),
        Act::Raw(b"25\r\n".to_vec()),
        Act::Raw(b"\r\n".to_vec()),
        Act::Raw(b"\xff\xfe\x00\r\n".to_vec()),
        Act::Raw([b"250 ".as_slice(), &[b'x'; 10_000], b"\r\n"].concat()),
        Act::Flood,
    ] {
        check(Step::Greeting, act.clone(), "Deferred Connect 4.5.0", "").await;
        check(Step::Ehlo, act.clone(), "Deferred Connect 4.5.0", "").await;
        check(MAIL, act.clone(), "Deferred Mail 4.5.0", "").await;
        check(RCPT, act.clone(), "Deferred Recipient 4.5.0", "").await;
    }
    check(Step::Data, reply("250 fine"), "Deferred Data 4.5.0", "does not fit: 250 fine").await;
    check(Step::Data, Act::Flood, "Deferred Data 4.5.0", "more than 100 lines").await;
}

#[tokio::test]
async fn nonsense_for_the_final_dot_may_mean_that_it_was_taken() {
    for act in [reply("what?"), Act::Flood, Act::Close] {
        for peer in peers() {
            let outcome = outcome(peer.on(Step::Dot, act.clone()), "").await;
            assert_eq!(outcome.verdict, Verdict::Deferred);
            assert!(outcome.text.contains("it may have taken the message"), "{}", outcome.text);
        }
    }
}

#[tokio::test]
async fn a_peer_that_never_answers() {
    let steps = [
        (Step::Greeting, "greeting", "Deferred Connect 4.4.2", "we waited for its greeting"),
        (Step::Ehlo, "command", "Deferred Connect 4.4.2", "we waited for the reply to EHLO"),
        (MAIL, "command", "Deferred Mail 4.4.2", "we waited for the reply to MAIL FROM"),
        (RCPT, "command", "Deferred Recipient 4.4.2", "we waited for the reply to RCPT TO"),
        (Step::Data, "data_start", "Deferred Data 4.4.2", "we waited for the reply to DATA"),
        (Step::Dot, "data_end", "Deferred Data 4.4.2", "; it may have taken the message"),
    ];
    let mut waits = tokio::task::JoinSet::new();
    for (step, timeout, expect, words) in steps {
        // A drip that is quick enough for each wait on a byte, and too slow for one on a reply.
        for act in [Act::Silence, Act::Drip("250 here I come".to_owned(), Duration::from_millis(400))] {
            let peers = if step == Step::Data { peers_without_chunking().to_vec() } else { peers().to_vec() };
            for peer in peers {
                let settings = format!("[delivery.timeouts]\n{timeout} = \"1s\"");
                let what = format!("{step:?} {act:?}");
                let peer = peer.on(step, act.clone());
                waits.spawn(async move {
                    let outcome = outcome(peer, &settings).await;
                    check_outcome(&outcome, expect, words, &what);
                    assert!(outcome.text.contains("did not answer in time"), "{what}: {}", outcome.text);
                });
            }
        }
    }
    while let Some(done) = waits.join_next().await {
        done.unwrap();
    }
}

#[tokio::test]
async fn a_peer_that_takes_nothing_of_a_large_body() {
    let mx = FakeMx::build().start().await;
    // It says 354 and never reads on: the body fills both windows.
    mx.on(Step::Data, Act::Drip("354 go\n250 ".to_owned() + &"x".repeat(100_000), Duration::from_millis(10)));
    let settings = "[delivery.timeouts]\ndata_block = \"1s\"";
    let post = Post::with("b.test A 127.0.0.1", mx.port(), settings).await;
    let body = b"0123456789abcdef\r\n".repeat(500_000);
    let outcome = post.send_body(&["c@b.test"], &body).await.remove(0);
    assert_eq!(outcome.verdict, Verdict::Deferred, "{}", outcome.text);
    assert!(!outcome.text.contains("may have taken"), "{}", outcome.text);
}

#[tokio::test]
async fn a_late_but_lively_peer_is_waited_for() {
    let slow = |lines: &str| Act::Drip(lines.to_owned(), Duration::from_millis(1));
    for peer in peers() {
        let peer = peer
            .on(Step::Greeting, slow("220-mx.b.test\n220 welcome"))
            .on(MAIL, slow("250 2.1.0 fine"))
            .on(RCPT, slow("250 2.1.5 fine"))
            .on(Step::Dot, slow("250 2.0.0 taken"));
        assert_eq!(outcome(peer, "").await.verdict, Verdict::Delivered);
    }
}

#[tokio::test]
async fn a_reply_cut_at_any_byte() {
    for offers in OFFERS {
        for cut in 0.. {
            let mx = FakeMx::build().close_after_writing(cut).offers(offers).start().await;
            let outcome = Post::to(&mx).await.send_one().await;
            if outcome.verdict == Verdict::Delivered {
                assert_eq!(mx.messages().len(), 1);
                assert!(cut > 100, "delivered after {cut} octets of replies");
                break;
            }
            assert_eq!(outcome.verdict, Verdict::Deferred, "cut at {cut}: {}", outcome.text);
            // Where the peer has it all the same, the outcome says that this may be.
            assert!(mx.messages().is_empty() || outcome.text.contains("may have taken"), "{cut}: {}", outcome.text);
            assert!(cut < 1000, "never delivered: {}", outcome.text);
        }
    }
}

#[tokio::test]
async fn a_command_or_body_cut_at_any_byte() {
    for offers in OFFERS {
        for cut in 0.. {
            let mx = FakeMx::build().close_after_reading(cut).offers(offers).start().await;
            let outcome = Post::to(&mx).await.send_one().await;
            assert_eq!(mx.messages().len(), usize::from(outcome.verdict == Verdict::Delivered), "{cut}");
            if outcome.verdict == Verdict::Delivered {
                assert!(cut > 80, "delivered after {cut} octets");
                break;
            }
            assert_eq!(outcome.verdict, Verdict::Deferred, "cut at {cut}: {}", outcome.text);
            assert!(cut < 1000, "never delivered: {}", outcome.text);
        }
    }
}

#[tokio::test]
async fn each_recipient_has_its_own_outcome() {
    for peer in peers() {
        let mx = peer
            .on(Step::Rcpt("<d@"), reply("550 5.1.1 nobody"))
            .on(Step::Rcpt("<e@"), reply("452 4.2.2 full for now"))
            .on(Step::Rcpt("<g@"), reply("552 too many recipients"))
            .start()
            .await;
        let post = Post::to(&mx).await;
        let outcomes = post.send(&["c@b.test", "d@b.test", "e@b.test", "f@b.test", "g@b.test"]).await;
        let brief: Vec<String> = outcomes.iter().map(brief).collect();
        assert_eq!(
            brief,
            [
                "Delivered Data 2.0.0",
                "Bounced Recipient 5.1.1",
                "Deferred Recipient 4.2.2",
                "Delivered Data 2.0.0",
                "Deferred Recipient 4.5.3"
            ]
        );
        assert_eq!(mx.messages()[0].recipients, ["c@b.test", "f@b.test"]);
    }
}

#[tokio::test]
async fn a_refused_recipient_keeps_its_outcome_whatever_comes_later() {
    for act in [Act::Close, reply("451 4.3.0 later"), reply_and_close("421 4.3.2 bye")] {
        for peer in peers() {
            let mx = peer.on(Step::Rcpt("<c@"), reply("550 5.1.1 nobody")).on(Step::Dot, act.clone()).start().await;
            let outcomes = Post::to(&mx).await.send(&["c@b.test", "d@b.test"]).await;
            assert_eq!(brief(&outcomes[0]), "Bounced Recipient 5.1.1");
            assert_eq!(outcomes[1].verdict, Verdict::Deferred);
        }
    }
}

#[tokio::test]
async fn replies_that_nobody_asked_for() {
    let twice = Act::Raw(b"250 fine\r\n250 and fine again\r\n".to_vec());
    let peer = FakeMx::build().offers(&[]).on(MAIL, twice);
    let outcome = outcome(peer, "").await;
    check_outcome(&outcome, "Deferred Recipient 4.5.0", "nobody had asked", "twice");
}

#[tokio::test]
async fn a_body_refused_before_its_end() {
    let early = reply_and_close("354 go\n552 5.3.4 too big for us");
    let mx = FakeMx::build().on(Step::Data, early).start().await;
    let body = b"0123456789abcdef\r\n".repeat(500_000);
    let outcome = Post::to(&mx).await.send_body(&["c@b.test"], &body).await.remove(0);
    assert_eq!(brief(&outcome), "Bounced Data 5.3.4", "{}", outcome.text);
}

#[tokio::test]
async fn what_the_peer_cannot_take_is_not_tried() {
    let eight_bit = "Subject: x\r\n\r\ngr\u{fc}n\r\n".as_bytes();
    let mx = FakeMx::build().offers(&["SIZE 20"]).start().await;
    let post = Post::to(&mx).await;
    let outcome = post.send_body(&["c@b.test"], eight_bit).await.remove(0);
    check_outcome(&outcome, "Failed Local 5.6.3", "takes no 8-bit bodies", "8-bit");
    let outcome = post.send_body(&["c@b.test"], BODY.as_bytes()).await.remove(0);
    check_outcome(&outcome, "Bounced Mail 5.3.4", "at most 20 octets", "size");
    let outcome = post.send_body(&["j\u{f6}rg@b.test"], b"a\r\n").await.remove(0);
    check_outcome(&outcome, "Failed Local 5.6.7", "SMTPUTF8", "address");
    assert!(!mx.commands().iter().any(|line| line.starts_with("MAIL")), "{:?}", mx.commands());

    let mx = FakeMx::build().offers(&["8BITMIME", "SMTPUTF8"]).start().await;
    let outcome = Post::to(&mx).await.send_body(&["j\u{f6}rg@b.test"], eight_bit).await.remove(0);
    assert_eq!(outcome.verdict, Verdict::Delivered, "{}", outcome.text);
    assert_eq!(mx.messages()[0].parameters, "BODY=8BITMIME SMTPUTF8");
    assert_eq!(mx.messages()[0].body, eight_bit);
}

#[tokio::test]
async fn a_peer_from_before_esmtp() {
    let mx = FakeMx::build().on(Step::Ehlo, reply("500 what is EHLO?")).start().await;
    let outcome = Post::to(&mx).await.send_one().await;
    assert_eq!(outcome.verdict, Verdict::Delivered, "{}", outcome.text);
    assert!(mx.commands().contains(&"HELO relay.test".to_owned()));
    assert_eq!(mx.messages()[0].parameters, "");
}

#[tokio::test]
async fn a_large_chunk_waits_for_a_recipient() {
    let mx = FakeMx::build().offers(&["PIPELINING", "CHUNKING"]).on(RCPT, reply("550 5.1.1 nobody")).start().await;
    let body = b"0123456789abcdef\r\n".repeat(100_000);
    let outcome = Post::to(&mx).await.send_body(&["c@b.test"], &body).await.remove(0);
    assert_eq!(brief(&outcome), "Bounced Recipient 5.1.1");
    assert!(!mx.commands().iter().any(|line| line.starts_with("BDAT")), "{:?}", mx.commands());
    mx.forget_rules();
    let outcome = Post::to(&mx).await.send_body(&["c@b.test"], &body).await.remove(0);
    assert_eq!(outcome.verdict, Verdict::Delivered, "{}", outcome.text);
    assert!(mx.messages()[0].body == body);
}

#[tokio::test]
async fn a_late_banner_and_replies_of_many_lines() {
    for peer in peers() {
        let lines: String = (0..99).map(|line| format!("250-2.1.0 line {line}\n")).collect();
        let peer = peer
            .on(
                Step::Greeting,
                Act::Drip("220-mx.b.test\n220-is late\n220 welcome".to_owned(), Duration::from_millis(20)),
            )
            .on(MAIL, reply(&format!("{lines}250 2.1.0 fine")))
            .on(RCPT, reply(&format!("250 2.1.5 {}", "x".repeat(4000))));
        assert_eq!(outcome(peer, "").await.verdict, Verdict::Delivered);
    }
}

#[tokio::test]
async fn a_recipient_beyond_ascii_does_not_keep_others_from_their_mail() {
    let recipients = ["c@b.test", "j\u{f6}rg@b.test", "d@b.test"];
    let mx = FakeMx::start().await;
    let outcomes = Post::to(&mx).await.send(&recipients).await;
    let outcomes: Vec<String> = outcomes.iter().map(brief).collect();
    assert_eq!(outcomes, ["Delivered Data 2.0.0", "Failed Local 5.6.7", "Delivered Data 2.0.0"]);
    assert_eq!(mx.messages()[0].recipients, ["c@b.test", "d@b.test"]);
    let mx = FakeMx::build().offers(&["SMTPUTF8", "8BITMIME"]).start().await;
    let outcomes = Post::to(&mx).await.send(&recipients).await;
    assert!(outcomes.iter().all(|outcome| outcome.verdict == Verdict::Delivered), "{outcomes:?}");
}
