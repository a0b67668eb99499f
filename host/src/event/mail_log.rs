//! The mail log: a line for each fact in a message's life, printed here and nowhere else. `docs/mail-log.md` names the
//! fields, which are stable: tools read them.
//!
//! Never a body, and never more than the one recipient that the line is about.

use jiff::Timestamp;
use mail::{Event, Stream};
use uuid::Uuid;

/// What is known around an event besides what it says itself.
#[derive(Clone, Debug)]
pub struct Circumstances {
    pub tenant: String,
    pub stream: Stream,
    /// Since when delivery is owed.
    pub accepted_at: Timestamp,
    /// When the event happened.
    pub at: Timestamp,
    pub via: Option<Via>,
}

/// How an attempt that reached a connection was made.
#[derive(Clone, Debug)]
pub struct Via {
    /// The source it was sent from; `None`: the system chose the address.
    pub source: Option<String>,
    /// When the message was handed to the connection.
    pub begun_at: Timestamp,
    /// Whether the peer was handed the sender's requests for reports.
    pub handed_on: bool,
}

/// Prints one event of a message. Called once the event is durable.
pub fn log(message: Uuid, event: &Event, around: &Circumstances) {
    let (attempt, outcome) = match &event.attempt {
        Some((number, outcome)) => (Some(*number), Some(outcome)),
        None => (None, None),
    };
    let remote = outcome.and_then(|outcome| outcome.remote_host.as_deref()).map(host_and_ip);
    let begun_at = around.via.as_ref().map_or(around.at, |via| via.begun_at);
    tracing::info!(
        target: "mail",
        id = %message,
        event = event.kind.name(),
        tenant = around.tenant.as_str(),
        stream = around.stream.name(),
        rcpt = %event.recipient,
        rcpt_domain = event.recipient.domain().as_str(),
        attempt,
        source = around.via.as_ref().and_then(|via| via.source.as_deref()),
        mx = remote.map(|(host, _)| host),
        ip = remote.and_then(|(_, ip)| ip),
        tls = outcome.and_then(|outcome| outcome.tls.as_deref()),
        code = outcome.and_then(|outcome| outcome.reply.as_ref()).map(|reply| reply.code),
        status = outcome.map(|outcome| tracing::field::display(outcome.status)),
        queue_ms = attempt.map(|_| milliseconds(around.accepted_at, begun_at)),
        delay_ms = attempt.map(|_| milliseconds(around.accepted_at, around.at)),
        reason = event.reason.as_deref(),
        text = outcome.map(|outcome| outcome.text.as_str()),
    );
}

/// Between two times; 0 where a clock went back.
fn milliseconds(from: Timestamp, to: Timestamp) -> i64 {
    to.as_millisecond().saturating_sub(from.as_millisecond()).max(0)
}

/// `mx.example.net (192.0.2.1)` in its parts; a bare address is both.
fn host_and_ip(remote: &str) -> (&str, Option<&str>) {
    match remote.split_once(" (").map(|(host, rest)| (host, rest.strip_suffix(')'))) {
        Some((host, Some(ip))) => (host, Some(ip)),
        _ => (remote, remote.parse::<std::net::IpAddr>().is_ok().then_some(remote)),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use mail::outcome::Phase;
    use mail::{Address, EnhancedCode, EventKind, Outcome, Reply, Verdict};

    use super::*;

    #[test]
    fn hosts_and_their_addresses() {
        let check = |remote, expect| assert_eq!(host_and_ip(remote), expect);
        check("mx.b.test (192.0.2.1)", ("mx.b.test", Some("192.0.2.1")));
        check("out.test:587 (::1)", ("out.test:587", Some("::1")));
        check("192.0.2.1", ("192.0.2.1", Some("192.0.2.1")));
        check("192.0.2.1:2525", ("192.0.2.1:2525", None));
        check("inbox (captured)", ("inbox", Some("captured")));
    }

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn line(event: &Event, via: Option<Via>) -> String {
        let written = Written::default();
        let writer = written.clone();
        let subscriber =
            tracing_subscriber::fmt().with_ansi(false).without_time().with_writer(move || writer.clone()).finish();
        let at = |second| Timestamp::from_second(second).unwrap();
        // A way to a peer is told of the broadcast among the test's events.
        let stream = if via.is_some() { Stream::Broadcast } else { Stream::Transactional };
        let around = Circumstances { tenant: "default".to_owned(), stream, accepted_at: at(10), at: at(15), via };
        tracing::subscriber::with_default(subscriber, || log(Uuid::nil(), event, &around));
        let bytes = written.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn one_line_says_it_all() {
        let outcome = Outcome {
            verdict: Verdict::Deferred,
            phase: Phase::Recipient,
            status: EnhancedCode::new(4, 2, 0),
            remote_host: Some("mx.b.test (192.0.2.1)".to_owned()),
            reply: Some(Reply::new(450, None, "busy")),
            text: "mx.b.test (192.0.2.1) said: 450 busy".to_owned(),
            tls: Some("TLSv1.3 X".to_owned()),
        };
        let recipient = Address::parse("a@b.test").unwrap();
        let event = Event {
            kind: EventKind::DeliveryDelayed,
            recipient: recipient.clone(),
            attempt: Some((2, outcome)),
            reason: None,
        };
        let via = Via {
            source: Some("main".to_owned()),
            begun_at: Timestamp::from_millisecond(12_500).unwrap(),
            handed_on: false,
        };
        let expect = " INFO mail: id=00000000-0000-0000-0000-000000000000 event=\"email.delivery_delayed\" \
                      tenant=\"default\" stream=\"broadcast\" rcpt=a@b.test rcpt_domain=\"b.test\" attempt=2 source=\"main\" mx=\"mx.b.test\" \
                      ip=\"192.0.2.1\" tls=\"TLSv1.3 X\" code=450 status=4.2.0 queue_ms=2500 delay_ms=5000 \
                      text=\"mx.b.test (192.0.2.1) said: 450 busy\"\n";
        assert_eq!(line(&event, Some(via)), expect);
        let event = Event { kind: EventKind::Canceled, recipient, attempt: None, reason: None };
        let expect = " INFO mail: id=00000000-0000-0000-0000-000000000000 event=\"email.canceled\" \
                      tenant=\"default\" stream=\"transactional\" rcpt=a@b.test rcpt_domain=\"b.test\"\n";
        assert_eq!(line(&event, None), expect);
    }
}
