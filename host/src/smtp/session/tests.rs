//! Whatever a client sends, in whatever pieces: the session answers the same, takes the same messages, and keeps little.

use std::sync::Arc;

use super::*;
use crate::scram::tests::{NONCE, pencil};

/// What clients, good and bad, send.
const TOKENS: &[&[u8]] = &[
    b"EHLO client.test\r\n",
    b"HELO client.test\r\n",
    b"MAIL FROM:<a@sender.test>",
    b"MAIL FROM:<> SIZE=10 BODY=8BITMIME\r\n",
    b"RCPT TO:<b@rcpt.test>\r\n",
    b"RCPT TO:<@x.test:\"c\\\">d\"@rcpt.test>\r\n",
    b"DATA\r\n",
    b"MAIL FROM:<a@sender.test>\r\nRCPT TO:<b@rcpt.test>\r\nDATA\r\nSubject: x\r\n",
    b"\r\nRSET\r\nMAIL FROM:<>\r\nRCPT TO:<b@rcpt.test>\r\nDATA\r\n..\r\n.\r\n",
    b"RSET\r\n",
    b"BDAT 5\r\nab\r\nc",
    b"BDAT 12 LAST\r\n.\r\n..\r\nx\r\n..",
    b"BDAT 9000\r\n",
    b"MAIL FROM:<\xc3\xbc@sender.test> SMTPUTF8\r\n",
    b"AUTH PLAIN\r\n",
    b"AUTH LOGIN dXNlcg==\r\n",
    b"AUTH SCRAM-SHA-256 biwsbj11c2VyLHI9ck9wck5HZndFYmVSV2diTkVrcU8=\r\n",
    b"Yz1iaXdzLHI9ck9wck5HZndFYmVSV2diTkVrcU8laHZZRHBXVWEyUmFUQ0FmdXhGSWxqKWhObEYkazAscD1kSHpiWmFwV0lrNGpVaE4rVXRlOXl0YWc5empmTUhnc3FtbWl6N0FuZFZRPQ==\r\n",
    b"AHVzZXIAcmlnaHQ=\r\n",
    b"*\r\n",
    b"NOOP x\r\n",
    b"\r\n.\r\n",
    b"\r\n.\r\n",
    b".\r\n",
    b"\r\n..\r\n",
    b"\r\n",
    b"\r",
    b"\n",
    b".",
    b"\n.\r\n",
    b"\0\xff\x16",
    b"From: a@sender.test\r\n\r\nhello\r\n",
    &[b'x'; 600],
    &[b'y'; 1100],
];

/// Numbers that look random and are the same on each run (SplitMix64).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % limit as u64).unwrap()
    }
}

fn session(trusted: bool) -> Session {
    let settings = Settings { hostname: Domain::parse("relay.test").unwrap(), message_bytes: 5_000, recipients: 3 };
    Session::new(Arc::new(settings), Link { secured: true, trusted, plain_auth: false })
}

/// All that the server says and all messages that it takes.
fn hold(trusted: bool, pieces: &[&[u8]]) -> (Vec<u8>, Vec<Vec<u8>>) {
    let (mut session, mut said, mut taken) = (session(trusted), Vec::new(), Vec::new());
    for piece in pieces {
        session.receive(piece);
        loop {
            let action = session.advance();
            said.extend(session.take_output());
            match action {
                Action::Read => break,
                Action::StartTls => panic!("TLS is active"),
                Action::Authenticate(_) => session.authenticated(Verdict::Right),
                Action::FindVerifier(_) => session.challenge(Some((pencil(), NONCE))),
                Action::Proved(_) => session.authenticated(Verdict::Wrong),
                Action::Room(_) | Action::Outlook(_) => session.room(true),
                Action::Deliver(arrived) => {
                    taken.push(arrived.message);
                    session.answer(&Reply::new(250, None, "Ok"));
                }
                Action::Close => return (said, taken),
            }
        }
        assert!(session.inbound.len() <= crate::smtp::line::AUTH_OCTETS, "{} octets wait", session.inbound.len());
    }
    (said, taken)
}

#[test]
fn pieces_do_not_matter() {
    let mut taken_in_all = 0;
    for seed in 0..3_000 {
        let mut numbers = Numbers(seed);
        let mut input = b"EHLO client.test\r\n".to_vec();
        for _ in 0..numbers.below(40) {
            input.extend_from_slice(TOKENS[numbers.below(TOKENS.len())]);
        }
        let mut pieces = Vec::new();
        let mut rest = input.as_slice();
        while !rest.is_empty() {
            let (piece, behind) = rest.split_at(1 + numbers.below(rest.len().min(50)));
            pieces.push(piece);
            rest = behind;
        }
        let trusted = seed % 2 == 0;
        let whole = hold(trusted, &[&input]);
        let shown = String::from_utf8_lossy(&input);
        assert!(whole == hold(trusted, &pieces), "seed {seed}: {shown:?}");
        for message in &whole.1 {
            let text = String::from_utf8_lossy(message).replace("\r\n", "");
            assert!(!text.contains(['\r', '\n']), "seed {seed}: a bare CR or LF came through: {shown:?}");
            assert!(message.len() <= 5_000, "seed {seed}");
        }
        taken_in_all += whole.1.len();
    }
    assert!(taken_in_all > 100, "only {taken_in_all} messages were taken: the tokens no longer make any");
}

#[test]
fn nobody_relays_who_is_not_allowed_to() {
    let sends = b"EHLO client.test\r\nMAIL FROM:<a@x.test>\r\nRCPT TO:<b@y.test>\r\nDATA\r\nhello\r\n.\r\nQUIT\r\n";
    let (said, taken) = hold(false, &[sends]);
    let said = String::from_utf8(said).unwrap();
    assert!(taken.is_empty() && said.contains("530 5.7.0"), "{said}");
    let (_, taken) = hold(true, &[sends]);
    assert_eq!(taken, [b"hello\r\n"]);
}

#[test]
fn an_idle_session_keeps_little() {
    let mut session = session(true);
    session.receive(&[b'x'; 64 * 1024]);
    assert!(matches!(session.advance(), Action::Read));
    session.receive(b"\r\n");
    assert!(matches!(session.advance(), Action::Read));
    session.receive(b"");
    assert!(session.inbound.is_empty() && session.inbound.capacity() <= 4096);
}
