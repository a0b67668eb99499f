//! Seeded nonsense against the machine: whatever a peer says and wherever it breaks off, every recipient gets one
//! outcome, nobody is "delivered" without a 2xx to the final dot, and the machine comes to an end.

use bytes::Bytes;
use mail::Address;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

use super::*;

const LINES: &[&str] = &[
    "220 mx.test",
    "250 fine",
    "250 fine",
    "250 2.1.5 fine",
    "250-PIPELINING\r\n250-SIZE 1000\r\n250 STARTTLS",
    "250-mx.test\r\n250-PIPELINING\r\n250 AUTH PLAIN LOGIN",
    "250-mx.test\r\n250-PIPELINING\r\n250 CHUNKING",
    "354 go",
    "354 go",
    "334 VXNlcm5hbWU6",
    "235 welcome",
    "421 4.3.2 bye",
    "450 4.2.0 busy",
    "452 4.5.3 too many",
    "500 what?",
    "550 5.1.1 nobody",
    "552 too many",
    "nonsense",
    "25",
    "",
    "250-never ending",
];

/// One peer's whole life.
fn play(seed: u64) {
    let mut chance = StdRng::seed_from_u64(seed);
    let opening = Opening {
        hostname: "relay.test".into(),
        tls: *[TlsUse::Never, TlsUse::IfOffered, TlsUse::Always].choose(&mut chance).unwrap(),
        login: chance.random_bool(0.2).then(|| Login { username: "joe".to_owned(), password: "secret".to_owned() }),
        loopback: chance.random_bool(0.5),
    };
    let mut client = Client::new(opening, "mx.test".to_owned());
    let recipients: Vec<Address> =
        (0..chance.random_range(1..5)).map(|number| Address::parse(&format!("r{number}@b.test")).unwrap()).collect();
    // Polite peers get further: what they say fits more often.
    let polite = chance.random_bool(0.8);
    for message in 0..3 {
        let mut said = Vec::new();
        if message > 0 {
            client.begin(Mail {
                sender: &None,
                recipients: &recipients,
                body: &Bytes::from_static(b"x\r\n"),
                request: None,
            });
        }
        let last = converse(&mut client, &mut chance, polite, &mut said);
        if message == 0 {
            continue;
        }
        let outcomes = client.take_outcomes();
        assert_eq!(outcomes.len(), recipients.len(), "seed {seed}");
        if outcomes.iter().any(|outcome| outcome.verdict == Verdict::Delivered) {
            assert!(
                said.ends_with(b"x\r\n.\r\n") || said.ends_with(b" LAST\r\nx\r\n"),
                "seed {seed}: {}",
                said.escape_ascii()
            );
            assert!(last.starts_with('2'), "seed {seed}: {last}");
        }
        for outcome in &outcomes {
            let class = match outcome.verdict {
                Verdict::Delivered => 2,
                Verdict::Deferred => 4,
                Verdict::Bounced | Verdict::Failed => 5,
            };
            assert_eq!(outcome.status.class, class, "seed {seed}: {outcome:?}");
            assert!(!outcome.text.is_empty() && !outcome.text.contains(['\r', '\n']), "seed {seed}: {outcome:?}");
        }
    }
}

/// Until the machine is ready or over; the last reply the peer gave.
fn converse(client: &mut Client, chance: &mut StdRng, polite: bool, said: &mut Vec<u8>) -> String {
    let mut last = String::new();
    for _ in 0..10_000 {
        match client.what_next() {
            Next::Write(_) => {
                said.extend_from_slice(client.output());
                client.written();
            }
            Next::Handshake => client.encrypted("TLSv1.3 TEST".to_owned()),
            Next::Ready | Next::Over => return last,
            Next::Read(_) if chance.random_bool(0.01) => client.fail(Fault::Closed),
            Next::Read(wait) => {
                let line = if polite && chance.random_bool(0.9) {
                    match wait {
                        Wait::Greeting => "220 mx.test",
                        Wait::DataStart => "354 go",
                        Wait::Command if chance.random_bool(0.2) => [
                            "250-mx.test\r\n250-PIPELINING\r\n250 SIZE",
                            "250-mx.test\r\n250-PIPELINING\r\n250 CHUNKING",
                        ][usize::from(chance.random_bool(0.5))],
                        Wait::Command | Wait::DataBlock | Wait::DataEnd => "250 2.0.0 fine",
                    }
                } else {
                    LINES.choose(chance).unwrap()
                };
                last = line.to_owned();
                let bytes = format!("{line}\r\n").into_bytes();
                let step = chance.random_range(1..=bytes.len());
                for piece in bytes.chunks(step) {
                    client.receive(piece);
                }
            }
        }
    }
    panic!("no end to it")
}

#[test]
fn whatever_a_peer_says() {
    for seed in 0..20_000 {
        play(seed);
    }
}

#[test]
fn bytes_that_are_no_smtp_at_all() {
    let mut chance = StdRng::seed_from_u64(1);
    for _ in 0..2_000 {
        let opening = Opening { hostname: "relay.test".into(), tls: TlsUse::IfOffered, login: None, loopback: false };
        let mut client = Client::new(opening, "mx.test".to_owned());
        let alphabet: &[u8] = [b"220-45 \r\n.".as_slice(), b"25\r\n\xff\x00-3 4 "][chance.random_range(0..2)];
        for _ in 0..200 {
            let bytes: Vec<u8> = (0..50).map(|_| *alphabet.choose(&mut chance).unwrap()).collect();
            client.receive(&bytes);
            while let Next::Write(_) = client.what_next() {
                client.written();
            }
        }
        client.fail(Fault::Closed);
        assert!(client.failure().is_some());
    }
}
