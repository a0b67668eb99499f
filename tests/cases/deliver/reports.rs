//! Requests for reports, handed on to peers that take them (RFC 3461 s5.2).

use std::collections::BTreeMap;

use mail::Verdict;
use mail::dsn::{EnvelopeId, Notify, OriginalRecipient, RecipientRequest, Request, Return};
use posthaste::queue::Transaction;
use tests::fake_mx::{Act, FakeMx, Step, reply};

use super::{BODY, Post, transaction};

fn asked() -> Transaction {
    let recipient = RecipientRequest {
        notify: Some(Notify::parse("SUCCESS,DELAY").unwrap()),
        original: Some(OriginalRecipient::parse("rfc822;Old+2Btag@b.test", false).unwrap()),
        delay_told: false,
    };
    let never = RecipientRequest { notify: Some(Notify::NEVER), ..RecipientRequest::default() };
    let request = Request {
        ret: Some(Return::Headers),
        envelope_id: Some(EnvelopeId::parse("QQ+2B1").unwrap()),
        recipients: BTreeMap::from([(4, recipient), (7, never)]),
    };
    let mut transaction = transaction(&["c@b.test", "d@b.test", "e@b.test"], BODY.as_bytes());
    transaction.request = request.handed_on([4, 5, 7].into_iter().zip(&transaction.recipients));
    transaction
}

#[tokio::test]
async fn what_was_asked_is_handed_on_as_it_was_given() {
    let mx = FakeMx::build().offers(&["PIPELINING", "SIZE", "DSN"]).start().await;
    let post = Post::to(&mx).await;
    let mut session = post.open("b.test").await.unwrap();
    session.send(&asked()).await;
    assert_eq!([0, 1, 2, 3].map(|place| session.handed_on(place)), [true, true, true, false]);
    session.send(&transaction(&["c@b.test"], BODY.as_bytes())).await;
    session.close().await;
    let size = BODY.len();
    let expect = [
        "EHLO relay.test".to_owned(),
        format!("MAIL FROM:<a@a.test> SIZE={size} RET=HDRS ENVID=QQ+2B1"),
        "RCPT TO:<c@b.test> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;Old+2Btag@b.test".to_owned(),
        "RCPT TO:<d@b.test>".to_owned(),
        "RCPT TO:<e@b.test> NOTIFY=NEVER".to_owned(),
        "DATA".to_owned(),
        format!("MAIL FROM:<a@a.test> SIZE={size}"),
        "RCPT TO:<c@b.test>".to_owned(),
        "DATA".to_owned(),
    ];
    assert_eq!(mx.commands()[..expect.len()], expect);
}

#[tokio::test]
async fn nothing_is_asked_of_a_peer_that_does_not_offer_it() {
    let mx = FakeMx::build().offers(&["PIPELINING"]).start().await;
    let post = Post::to(&mx).await;
    let mut session = post.open("b.test").await.unwrap();
    session.send(&asked()).await;
    assert!((0..3).all(|place| !session.handed_on(place)));
    session.close().await;
    let expect = ["MAIL FROM:<a@a.test>", "RCPT TO:<c@b.test>", "RCPT TO:<d@b.test>", "RCPT TO:<e@b.test>", "DATA"];
    assert_eq!(mx.commands()[1..=expect.len()], expect);
}

#[tokio::test]
async fn each_recipient_has_the_answer_of_its_own_peer() {
    let mx = FakeMx::build().offers(&["PIPELINING", "SMTPUTF8"]).start().await;
    mx.once(Step::Ehlo, reply("250-mx.test\n250-PIPELINING\n250-SMTPUTF8\n250 DSN"));
    let post = Post::to(&mx).await;
    let mut session = post.open("b.test").await.unwrap();
    // Addresses beyond ASCII go by themselves, and find the connection closed.
    mx.once(Step::Mail("SMTPUTF8"), Act::Close);
    let transaction = transaction(&["ü@b.test", "c@b.test", "ö@b.test"], BODY.as_bytes());
    let outcomes = session.send(&transaction).await;
    assert!(outcomes.iter().all(|outcome| outcome.verdict == Verdict::Delivered), "{outcomes:?}");
    assert_eq!(mx.connections(), 2);
    assert_eq!([0, 1, 2].map(|place| session.handed_on(place)), [false, true, false]);
}
