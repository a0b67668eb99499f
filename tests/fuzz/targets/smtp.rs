//! Both sides of the SMTP dialogue.

use std::num::NonZeroU32;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use mail::{Address, Domain, EnhancedCode, Reply, Verdict};
use posthaste::scram::{SALT_OCTETS, Verifier};
use posthaste::smtp::client::{Client, Fault, Login, Mail, Next, Opening, TlsUse};
use posthaste::smtp::session::{Action, Arrived, Link, Session, Settings, Verdict as Word};

const MESSAGE_OCTETS: u64 = 2000;
const RECIPIENTS: usize = 3;
/// Messages that a client has for its peer.
const MESSAGES: usize = 20;
const SALT: [u8; SALT_OCTETS] = [0; SALT_OCTETS];

/// Of the key `k`, iterated once: nobody is kept from guessing here.
static VERIFIER: LazyLock<Verifier> = LazyLock::new(|| Verifier::make("k", SALT, NonZeroU32::MIN));

/// What a client says. The first byte chooses the session and how the rest is cut.
pub fn server(input: &[u8]) {
    let Some((&how, input)) = input.split_first() else { return };
    let link = Link { secured: how & 1 != 0, trusted: how & 2 != 0, plain_auth: how & 4 != 0 };
    let Ok(hostname) = Domain::parse("relay.test") else { return };
    let settings = Settings { hostname, message_bytes: MESSAGE_OCTETS, recipients: RECIPIENTS };
    let mut session = Session::new(Arc::new(settings), link);
    let mut may_send = link.trusted;
    check_replies(&session.take_output());
    for piece in pieces(input, how >> 3) {
        session.receive(piece);
        loop {
            let action = session.advance();
            check_replies(&session.take_output());
            match action {
                Action::Read => break,
                Action::StartTls => {
                    session.tls_started();
                    may_send = link.trusted;
                }
                Action::Authenticate(credentials) => {
                    let is_right = credentials.password == "k";
                    may_send |= is_right;
                    session.authenticated(if is_right { Word::Right } else { Word::Wrong });
                }
                Action::FindVerifier(user) => {
                    let verifier = if user == "u" { VERIFIER.clone() } else { Verifier::of_nobody(SALT) };
                    session.challenge((user != "away").then_some((verifier, "nonce")));
                }
                Action::Proved(is_right) => {
                    may_send |= is_right;
                    session.authenticated(if is_right { Word::Right } else { Word::Wrong });
                }
                Action::Room(_) | Action::Outlook(_) => session.room(how & 32 == 0),
                Action::Deliver(arrived) => {
                    assert!(may_send, "a message was taken from a stranger");
                    check_arrived(&arrived);
                    session.answer(&Reply::new(250, Some(EnhancedCode::new(2, 0, 0)), "Ok"));
                }
                Action::Close => return,
            }
        }
    }
}

fn check_arrived(arrived: &Arrived) {
    let count = arrived.envelope.recipients.len();
    assert!((1..=RECIPIENTS).contains(&count), "{count} recipients");
    assert!(arrived.message.len() as u64 <= MESSAGE_OCTETS, "{} octets", arrived.message.len());
    let bare = arrived.message.iter().enumerate().any(|(at, byte)| match byte {
        b'\n' => at == 0 || arrived.message[at - 1] != b'\r',
        b'\r' => arrived.message.get(at + 1) != Some(&b'\n'),
        _ => false,
    });
    assert!(!bare, "a bare line end was taken");
    for (place, asked) in &arrived.request.recipients {
        assert!((*place as usize) < count, "a request for nobody");
        assert!(asked.original.as_ref().is_none_or(|original| original.as_str().is_ascii()));
    }
}

/// Lines of at most 512 octets, each a code and what separates it.
fn check_replies(output: &[u8]) {
    for line in output.split_inclusive(|byte| *byte == b'\n') {
        let shape = line.len() <= 512
            && line.ends_with(b"\r\n")
            && line.iter().take(3).all(u8::is_ascii_digit)
            && matches!(line.get(3), Some(b' ' | b'-'));
        assert!(shape, "no reply line: {}", line.escape_ascii());
    }
}

/// What a peer says to a client that sends one message after another.
pub fn client(input: &[u8]) {
    let Some((&how, input)) = input.split_first() else { return };
    let opening = Opening {
        hostname: "relay.test".into(),
        tls: [TlsUse::Never, TlsUse::IfOffered, TlsUse::Always, TlsUse::Never][usize::from(how & 3)],
        login: (how & 4 != 0).then(|| Login { username: "u".to_owned(), password: "p".to_owned() }),
        loopback: how & 32 != 0,
    };
    let mut client = Client::new(opening, "mx.test".to_owned());
    let recipients: Vec<Address> =
        ["a@b.test", "c@b.test"].iter().filter_map(|text| Address::parse(text).ok()).collect();
    let body = Bytes::from_static(b"Subject: x\r\n\r\n.x\r\n");
    let mut begun = 0;
    let mut step = |client: &mut Client| {
        // Bounded: each turn writes something or ends.
        for _ in 0..1000 {
            match client.what_next() {
                Next::Write(_) => client.written(),
                Next::Handshake => client.encrypted("TLS".to_owned()),
                Next::Ready => {
                    if begun > 0 {
                        check_outcomes(client, recipients.len());
                    }
                    begun += 1;
                    if begun > MESSAGES {
                        client.quit();
                        continue;
                    }
                    client.begin(Mail { sender: &None, recipients: &recipients, body: &body, request: None });
                }
                Next::Read(_) | Next::Over => return,
            }
        }
        panic!("the client goes in circles");
    };
    step(&mut client);
    for piece in pieces(input, how >> 3) {
        client.receive(piece);
        step(&mut client);
    }
    client.fail(Fault::Closed);
    step(&mut client);
    if (1..=MESSAGES).contains(&begun) {
        check_outcomes(&mut client, recipients.len());
    }
}

fn check_outcomes(client: &mut Client, count: usize) {
    let outcomes = client.take_outcomes();
    assert_eq!(outcomes.len(), count, "one outcome for each recipient");
    for outcome in outcomes {
        let class = match outcome.verdict {
            Verdict::Delivered => 2,
            Verdict::Deferred => 4,
            Verdict::Bounced | Verdict::Failed => 5,
        };
        assert_eq!(outcome.status.class, class, "{outcome:?}");
        assert!(!outcome.text.contains(['\r', '\n']), "{outcome:?}");
    }
}

/// The input in one piece, or in small ones.
fn pieces(input: &[u8], how: u8) -> impl Iterator<Item = &[u8]> {
    input.chunks([1, 5, 64, usize::MAX][usize::from(how & 3)])
}
