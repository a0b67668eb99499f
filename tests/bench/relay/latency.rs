//! How long a relay takes from the final dot to its 250, at a pace that is set: 64 sessions that each send at their times,
//! whether the one before was fast or slow.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::load::MESSAGE_OCTETS;
use super::relays::Relay;

pub const SESSIONS: u32 = 64;

/// For one reply.
const LIMIT: Duration = Duration::from_secs(60);

/// What was seen, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Latency {
    pub messages: usize,
    pub per_second: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub most_ms: f64,
}

/// Sends for a time, at so many messages a second in all; `None`: as fast as the relay answers.
pub fn measure(relay: &Relay, per_second: Option<f64>, time: Duration) -> Result<Latency> {
    let message = message(relay.sender_domain);
    let start = Instant::now() + Duration::from_millis(200);
    let places = AtomicU64::new(0);
    let session = || -> Result<Vec<f64>> {
        let mut client = Session::open(relay.port)?;
        let mut taken_ms = Vec::new();
        std::thread::sleep(start.saturating_duration_since(Instant::now()));
        loop {
            // The times are shared out among whoever is free.
            let at = match per_second {
                Some(rate) => start + Duration::from_secs_f64(places.fetch_add(1, Ordering::Relaxed) as f64 / rate),
                None => Instant::now(),
            };
            if at.duration_since(start) >= time {
                return Ok(taken_ms);
            }
            std::thread::sleep(at.saturating_duration_since(Instant::now()));
            taken_ms.push(client.send(relay.sender_domain, &message)?.as_secs_f64() * 1000.0);
        }
    };
    let mut taken_ms = Vec::new();
    std::thread::scope(|scope| {
        let sessions: Vec<_> = (0..SESSIONS).map(|_| scope.spawn(session)).collect();
        for session in sessions {
            match session.join() {
                Ok(one) => taken_ms.extend(one?),
                Err(_) => bail!("a session panicked"),
            }
        }
        Ok(())
    })?;
    let took = start.elapsed().as_secs_f64();
    taken_ms.sort_by(f64::total_cmp);
    let at = |share: f64| taken_ms.get(((taken_ms.len() as f64 * share) as usize).min(taken_ms.len() - 1)).copied();
    let none = || format!("{} took no message", relay.name);
    Ok(Latency {
        messages: taken_ms.len(),
        per_second: taken_ms.len() as f64 / took,
        p50_ms: at(0.5).with_context(none)?,
        p99_ms: at(0.99).with_context(none)?,
        most_ms: at(1.0).with_context(none)?,
    })
}

fn message(domain: &str) -> Vec<u8> {
    let mut message =
        format!("From: sender@{domain}\r\nTo: recipient@sink.test\r\nSubject: bench\r\n\r\n").into_bytes();
    while message.len() < MESSAGE_OCTETS as usize {
        message.extend_from_slice(b"0123456789012345678901234567890123456789012345678901234567890123456789\r\n");
    }
    message.extend_from_slice(b".\r\n");
    message
}

struct Session(BufReader<TcpStream>);

impl Session {
    fn open(port: u16) -> Result<Session> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.set_nodelay(true)?;
        let mut session = Session(BufReader::new(stream));
        session.expect(b'2')?;
        session.say("EHLO bench.test", b'2')?;
        Ok(session)
    }

    /// Sends one message: the time from its last octet to the reply.
    fn send(&mut self, domain: &str, message: &[u8]) -> Result<Duration> {
        self.say(&format!("MAIL FROM:<sender@{domain}>"), b'2')?;
        self.say("RCPT TO:<recipient@sink.test>", b'2')?;
        self.say("DATA", b'3')?;
        self.0.get_mut().write_all(message)?;
        let dot = Instant::now();
        self.expect(b'2')?;
        Ok(dot.elapsed())
    }

    fn say(&mut self, line: &str, class: u8) -> Result<()> {
        self.0.get_mut().write_all(format!("{line}\r\n").as_bytes())?;
        self.expect(class).with_context(|| format!("after {line}"))
    }

    fn expect(&mut self, class: u8) -> Result<()> {
        loop {
            let mut line = String::new();
            if self.0.read_line(&mut line)? == 0 {
                bail!("the relay hung up");
            }
            if line.as_bytes().get(3) != Some(&b'-') {
                return if line.as_bytes().first() == Some(&class) { Ok(()) } else { bail!("it said {line}") };
            }
        }
    }
}
