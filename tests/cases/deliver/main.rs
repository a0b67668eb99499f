//! Delivery to peers that behave and peers that do not: the real courier, fake name server, fake mail hosts.

#![allow(clippy::unwrap_used)]

mod addresses;
mod faults;
mod reports;
mod routing;
mod sessions;
mod sources;
mod tls;

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use mail::{Address, Outcome, Verdict};
use posthaste::config::{self, Config};
use posthaste::deliver::SmtpCourier;
use posthaste::queue::{Courier, Session, Transaction};
use posthaste::route::resolver::DnsResolver;
use tests::fake_dns::FakeDns;
use tests::fake_mx::FakeMx;

const BODY: &str = "Subject: hello\r\n\r\n.dot\r\nworld\r\n";

/// A courier in a small world of its own.
pub struct Post {
    pub dns: FakeDns,
    pub courier: SmtpCourier,
}

impl Post {
    /// `b.test` has the mail host `mx.b.test`, which is `mx`.
    pub async fn to(mx: &FakeMx) -> Post {
        Post::with("b.test MX 10 mx.b.test\nmx.b.test A 127.0.0.1", mx.port(), "").await
    }

    /// A zone of the caller's, and more configuration.
    pub async fn with(zone: &str, port: u16, settings: &str) -> Post {
        let dns = FakeDns::start(zone).await;
        let courier = SmtpCourier::new(&configuration(&dns, port, settings)).unwrap();
        Post { dns, courier }
    }

    /// The same, trusting the certificate of a mail host.
    pub async fn trusting(mx: &FakeMx, zone: &str, settings: &str) -> Post {
        let dns = FakeDns::start(zone).await;
        let config = configuration(&dns, mx.port(), settings);
        let mut roots = rustls::RootCertStore::empty();
        roots.add(mx.certificate()).unwrap();
        let resolver = Arc::new(DnsResolver::new(&config.dns).unwrap());
        let courier = SmtpCourier::with(&config, resolver, roots).unwrap();
        Post { dns, courier }
    }

    pub async fn open(&self, domain: &str) -> Result<Box<dyn Session>, Outcome> {
        let domain = mail::Domain::parse(domain).unwrap();
        let site = self.courier.route(&domain).await.map_err(|outcome| *outcome)?;
        self.courier.connect(&site).await.map_err(|outcome| *outcome)
    }

    /// One message on a connection of its own; an outcome per recipient.
    pub async fn send(&self, recipients: &[&str]) -> Vec<Outcome> {
        self.send_body(recipients, BODY.as_bytes()).await
    }

    pub async fn send_body(&self, recipients: &[&str], body: &[u8]) -> Vec<Outcome> {
        let transaction = transaction(recipients, body);
        match self.open(transaction.recipients[0].domain().as_str()).await {
            Ok(mut session) => {
                let outcomes = session.send(&transaction).await;
                session.close().await;
                outcomes
            }
            Err(outcome) => vec![outcome; recipients.len()],
        }
    }

    /// The same for one recipient.
    pub async fn send_one(&self) -> Outcome {
        self.send(&["c@b.test"]).await.remove(0)
    }
}

pub fn configuration(dns: &FakeDns, port: u16, settings: &str) -> Config {
    // `settings` may open tables of its own, so it stands last.
    let text = format!(
        "hostname = \"relay.test\"\ndata = \"unused\"\n[http]\nlisten = \"127.0.0.1:1\"\n\
         [dns]\nservers = [\"{}\"]\n[delivery]\nport = {port}\n{settings}",
        dns.address()
    );
    config::parse(Path::new("test.toml"), &text, &|_| Some("secret".to_owned())).unwrap()
}

pub fn transaction(recipients: &[&str], body: &[u8]) -> Transaction {
    Transaction {
        request: None,
        message: uuid::Uuid::nil(),
        sender: Some(Address::parse("a@a.test").unwrap()),
        recipients: recipients.iter().map(|text| Address::parse(text).unwrap()).collect(),
        body: Bytes::copy_from_slice(body),
    }
}

/// What an outcome came to, in one line: `Deferred Connect 4.4.2`.
pub fn brief(outcome: &Outcome) -> String {
    format!("{:?} {:?} {}", outcome.verdict, outcome.phase, outcome.status)
}

#[tokio::test]
async fn delivers() {
    let mx = FakeMx::start().await;
    let post = Post::to(&mx).await;
    let outcomes = post.send(&["c@b.test", "d@b.test"]).await;
    assert_eq!(outcomes.len(), 2);
    for outcome in &outcomes {
        assert_eq!(outcome.verdict, Verdict::Delivered);
        assert_eq!(brief(outcome), "Delivered Data 2.0.0");
        assert_eq!(outcome.remote_host.as_deref(), Some("mx.b.test (127.0.0.1)"));
        assert_eq!(outcome.text, "mx.b.test (127.0.0.1) said: 250 2.0.0 taken");
        assert_eq!(outcome.tls, None);
    }
    let messages = mx.wait_for_messages(1).await;
    assert_eq!(messages.len(), 1);
    assert_eq!(messages[0].sender, "a@a.test");
    assert_eq!(messages[0].recipients, ["c@b.test", "d@b.test"]);
    assert_eq!(messages[0].text(), BODY);
    assert_eq!(messages[0].parameters, format!("SIZE={}", BODY.len()));
    assert_eq!(messages[0].hello, "relay.test");
    let expect =
        ["EHLO relay.test", "MAIL FROM:<a@a.test>", "RCPT TO:<c@b.test>", "RCPT TO:<d@b.test>", "DATA", "QUIT"];
    let commands = mx.commands();
    assert_eq!(commands.len(), expect.len());
    for (command, expect) in commands.iter().zip(expect) {
        assert!(command.starts_with(expect), "{command} is not {expect}");
    }
}
