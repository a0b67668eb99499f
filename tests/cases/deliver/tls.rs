//! TLS and AUTH: every policy against peers that have it, refuse it and break it.

use mail::Verdict;
use tests::fake_mx::{Act, FakeMx, FakeMxBuilder, Step, reply};

use super::{Post, brief};

const ZONE: &str = "b.test MX 10 mx.b.test\nmx.b.test A 127.0.0.1";

fn policy(tls: &str) -> String {
    format!("[[route]]\ndomain = \"*\"\ntls = \"{tls}\"")
}

#[derive(Clone, Copy)]
enum Peer {
    NoTls,
    Good,
    OtherName,
    Refuses,
    Breaks,
}

impl Peer {
    fn build(self) -> FakeMxBuilder {
        let mx = FakeMx::build().name("mx.b.test");
        match self {
            Peer::NoTls => mx,
            Peer::Good => mx.starttls(),
            Peer::OtherName => FakeMx::build().name("other.test").starttls(),
            Peer::Refuses => mx.starttls().on(Step::StartTls, reply("454 4.7.0 not now")),
            Peer::Breaks => mx.starttls().on(Step::StartTls, Act::BreakTls),
        }
    }
}

/// `expect`: whether the message came encrypted, or the outcome.
async fn check(tls: &str, peer: Peer, expect: Result<bool, &str>) {
    let mx = peer.build().start().await;
    let outcome = Post::trusting(&mx, ZONE, &policy(tls)).await.send_one().await;
    match expect {
        Ok(encrypted) => {
            assert_eq!(outcome.verdict, Verdict::Delivered, "{tls}: {}", outcome.text);
            assert_eq!(mx.messages()[0].tls, encrypted, "{tls}");
            assert_eq!(outcome.tls.is_some(), encrypted, "{tls}");
        }
        Err(expect) => {
            assert_eq!(brief(&outcome), expect, "{tls}: {}", outcome.text);
            assert!(mx.messages().is_empty(), "{tls}");
        }
    }
}

#[tokio::test]
async fn policies() {
    check("off", Peer::Good, Ok(false)).await;
    check("opportunistic", Peer::NoTls, Ok(false)).await;
    check("opportunistic", Peer::Good, Ok(true)).await;
    check("opportunistic", Peer::OtherName, Ok(true)).await;
    check("opportunistic", Peer::Refuses, Ok(false)).await;
    check("opportunistic", Peer::Breaks, Ok(false)).await;
    check("require", Peer::NoTls, Err("Deferred Connect 4.7.4")).await;
    check("require", Peer::Good, Ok(true)).await;
    check("require", Peer::OtherName, Ok(true)).await;
    check("require", Peer::Refuses, Err("Deferred Connect 4.7.4")).await;
    check("require", Peer::Breaks, Err("Deferred Connect 4.7.5")).await;
    check("verify", Peer::NoTls, Err("Deferred Connect 4.7.4")).await;
    check("verify", Peer::Good, Ok(true)).await;
    check("verify", Peer::OtherName, Err("Deferred Connect 4.7.5")).await;
    check("verify", Peer::Refuses, Err("Deferred Connect 4.7.4")).await;
    check("verify", Peer::Breaks, Err("Deferred Connect 4.7.5")).await;
}

#[tokio::test]
async fn a_certificate_nobody_vouches_for() {
    let mx = Peer::Good.build().start().await;
    let stranger = FakeMx::build().name("mx.b.test").start().await;
    // Trusts another certificate than the one it will see.
    let zone = "b.test MX 10 mx.b.test\nmx.b.test A 127.0.0.1";
    let settings = format!("[[route]]\ndomain = \"*\"\nport = {}\ntls = \"verify\"", mx.port());
    let outcome = Post::trusting(&stranger, zone, &settings).await.send_one().await;
    assert_eq!(brief(&outcome), "Deferred Connect 4.7.5", "{}", outcome.text);
}

#[tokio::test]
async fn what_an_encrypted_session_tells() {
    let mx = Peer::Good.build().start().await;
    let outcome = Post::with(ZONE, mx.port(), "").await.send_one().await;
    let tls = outcome.tls.unwrap();
    assert!(tls.starts_with("TLSv1.3 TLS13_"), "{tls}");
    let ehlos = mx.commands().iter().filter(|line| line.starts_with("EHLO")).count();
    assert_eq!(ehlos, 2, "EHLO once more after STARTTLS");
}

#[tokio::test]
async fn broken_tls_is_remembered() {
    let mx = Peer::Breaks.build().start().await;
    let post = Post::with(ZONE, mx.port(), "").await;
    assert_eq!(post.send_one().await.verdict, Verdict::Delivered);
    assert_eq!(mx.connections(), 2);
    assert_eq!(post.send_one().await.verdict, Verdict::Delivered);
    assert_eq!(mx.connections(), 3, "the second message goes out in the clear at once");
}

#[tokio::test]
async fn a_handshake_that_was_cut_off_once_is_not_broken_tls() {
    let mx = Peer::Good.build().start().await;
    let cut = || Act::ReplyAndClose("220 2.0.0 go ahead".to_owned());
    mx.once(Step::StartTls, cut());
    let post = Post::with(ZONE, mx.port(), "").await;
    let mut encrypted = Vec::new();
    for again in [false, false, true, true, false] {
        if again {
            mx.once(Step::StartTls, cut());
        }
        assert_eq!(post.send_one().await.verdict, Verdict::Delivered);
        encrypted.push(mx.messages().last().unwrap().tls);
    }
    assert_eq!(encrypted, [false, true, false, false, false]);
}

#[tokio::test]
async fn bytes_behind_the_starttls_reply_are_not_taken_into_the_session() {
    let injected = Act::Raw(b"220 go ahead\r\n250 injected\r\n".to_vec());
    let mx = FakeMx::build().starttls().on(Step::StartTls, injected).start().await;
    let outcome = Post::with(ZONE, mx.port(), "").await.send_one().await;
    assert_eq!(brief(&outcome), "Deferred Connect 4.7.5", "{}", outcome.text);
    assert!(outcome.text.contains("before TLS began"), "{}", outcome.text);
}

#[tokio::test]
async fn sessions_are_resumed() {
    for tls in ["opportunistic", "verify"] {
        let mx = Peer::Good.build().start().await;
        let post = Post::trusting(&mx, ZONE, &policy(tls)).await;
        for _ in 0..3 {
            assert_eq!(post.send_one().await.verdict, Verdict::Delivered, "{tls}");
        }
        let resumed: Vec<bool> = mx.messages().iter().map(|message| message.resumed).collect();
        assert_eq!(resumed, [false, true, true], "{tls}");
    }
}

fn relay(mx: &FakeMx, host: &str, tls: &str) -> String {
    format!(
        "[[route]]\ndomain = \"*\"\nrelay = \"{host}:{}\"\ntls = \"{tls}\"\nauth = {{ username = \"joe\", password_env = \"P\" }}",
        mx.port()
    )
}

#[tokio::test]
async fn relays_with_auth() {
    for offers in [&["AUTH PLAIN LOGIN"][..], &["PIPELINING", "AUTH LOGIN"], &["AUTH=PLAIN"]] {
        for tls in ["require", "verify"] {
            let mx = FakeMx::build().name("out.test").starttls().offers(offers).login("joe", "secret").start().await;
            let post = Post::trusting(&mx, "out.test A 127.0.0.1", &relay(&mx, "out.test", tls)).await;
            let outcome = post.send_one().await;
            assert_eq!(outcome.verdict, Verdict::Delivered, "{offers:?}: {}", outcome.text);
            let message = &mx.messages()[0];
            assert_eq!(message.login, Some(("joe".to_owned(), "secret".to_owned())));
            assert!(message.tls);
        }
    }
}

#[tokio::test]
async fn a_relay_by_address_is_verified_by_address() {
    let mx = FakeMx::build().starttls().login("joe", "secret").start().await;
    let post = Post::trusting(&mx, "", &relay(&mx, "127.0.0.1", "verify")).await;
    let outcome = post.send_one().await;
    assert_eq!(outcome.verdict, Verdict::Delivered, "{}", outcome.text);
    assert!(mx.messages()[0].tls);
}

#[tokio::test]
async fn auth_that_fails() {
    let mx = FakeMx::build().starttls().login("joe", "another").start().await;
    let post = Post::trusting(&mx, "", &relay(&mx, "127.0.0.1", "verify")).await;
    let outcome = post.send_one().await;
    assert_eq!(brief(&outcome), "Deferred Connect 4.7.8", "{}", outcome.text);
    assert!(outcome.text.contains("refused our user name or password: 535 5.7.8 wrong"), "{}", outcome.text);
    assert!(!outcome.text.contains("secret"));

    let mx = FakeMx::build().starttls().start().await;
    let post = Post::trusting(&mx, "", &relay(&mx, "127.0.0.1", "verify")).await;
    let outcome = post.send_one().await;
    assert_eq!(brief(&outcome), "Deferred Connect 4.7.0", "{}", outcome.text);
    assert!(outcome.text.contains("offers neither AUTH PLAIN nor AUTH LOGIN"), "{}", outcome.text);
}
