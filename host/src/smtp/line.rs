//! Finds command lines in what a client sent (RFC 5321 s2.3.8): CRLF ends a line, nothing else does.
//!
//! A line that holds a bare CR or LF, or is too long, is never handed out: it comes back as a fault, once, when its end is
//! there, so that every line gets exactly one reply. What waits here is bounded by the longest line allowed.

use thiserror::Error;

/// Longest command line with its CRLF (RFC 5321 s4.5.3.1.4).
pub const COMMAND_OCTETS: usize = 512;

/// Longest MAIL command: SIZE adds 26, BODY 17, AUTH 500, SMTPUTF8 10, RET 9 and ENVID 107 octets (RFC 1870 s3, RFC 6152
/// s2, RFC 4954 s5, RFC 6531 s3.1, RFC 3461 s4).
pub const MAIL_COMMAND_OCTETS: usize = COMMAND_OCTETS + 26 + 17 + 500 + 10 + 9 + 107;

/// Longest RCPT command: NOTIFY adds 29 octets and ORCPT 507 (RFC 3461 s4).
pub const RCPT_COMMAND_OCTETS: usize = COMMAND_OCTETS + 29 + 507;

/// Longest line of an AUTH exchange (RFC 4954 s4).
pub const AUTH_OCTETS: usize = 12_288;

/// How much of one line is thrown away before the client is taken for no SMTP client at all.
const ENDLESS_OCTETS: usize = 1 << 20;

/// Room kept while nothing waits.
const IDLE_OCTETS: usize = 4096;

/// Why a line is not executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum LineFault {
    #[error("a command line must end in CRLF: a bare LF is not accepted")]
    BareLf,
    #[error("a command line holds a bare CR: only CRLF ends a line")]
    BareCr,
    #[error("the line is longer than {0} octets")]
    TooLong(usize),
    #[error("the line does not end")]
    Endless,
}

/// Which lines are expected: decides how long they may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineKind {
    Command,
    /// A response within an AUTH exchange.
    AuthResponse,
}

/// Bytes received and not yet used.
#[derive(Debug, Default)]
pub struct Inbound {
    bytes: Vec<u8>,
    /// Where the unused bytes begin.
    start: usize,
    overlong: Option<Overlong>,
}

/// A line that is too long and whose end has not come yet.
#[derive(Clone, Copy, Debug)]
struct Overlong {
    limit: usize,
    dropped: usize,
}

impl Inbound {
    /// Adds what came from the client.
    pub fn push(&mut self, bytes: &[u8]) {
        self.compact();
        self.bytes.extend_from_slice(bytes);
    }

    /// The next line without its CRLF, or its fault; `None` where its end has not come yet.
    pub fn next_line(&mut self, kind: LineKind) -> Option<Result<Vec<u8>, LineFault>> {
        let waiting = &self.bytes[self.start..];
        let limit = self.overlong.map_or_else(|| limit(kind, waiting), |overlong| overlong.limit);
        let Some(end) = waiting.iter().position(|&byte| byte == b'\n') else {
            return self.drop_overlong(limit);
        };
        let line = &waiting[..=end];
        let result = if self.overlong.is_some() || line.len() > limit {
            Err(LineFault::TooLong(limit))
        } else {
            strip_crlf(line).map(<[u8]>::to_vec)
        };
        self.start += end + 1;
        self.overlong = None;
        Some(result)
    }

    /// Everything that waits, for the receiver of a message; `used` bytes of it are taken off.
    pub fn take(&mut self, receive: impl FnOnce(&[u8]) -> usize) {
        let used = receive(&self.bytes[self.start..]);
        self.start = (self.start + used).min(self.bytes.len());
    }

    /// The next byte.
    pub fn first(&self) -> Option<u8> {
        self.bytes.get(self.start).copied()
    }

    /// How many bytes wait.
    pub fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    /// Room held, used or not, in octets.
    pub fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets everything: what came before TLS must not be used behind it (RFC 3207 s4.2).
    pub fn clear(&mut self) {
        *self = Inbound::default();
    }

    fn drop_overlong(&mut self, limit: usize) -> Option<Result<Vec<u8>, LineFault>> {
        let waiting = self.len();
        if self.overlong.is_none() && waiting <= limit {
            return None;
        }
        let overlong = self.overlong.get_or_insert(Overlong { limit, dropped: 0 });
        overlong.dropped += waiting;
        self.start = self.bytes.len();
        (overlong.dropped > ENDLESS_OCTETS).then_some(Err(LineFault::Endless))
    }

    fn compact(&mut self) {
        self.bytes.drain(..self.start);
        self.start = 0;
        if self.bytes.is_empty() && self.bytes.capacity() > IDLE_OCTETS {
            self.bytes = Vec::new();
        }
    }
}

/// How long a line that begins like this may be, with its CRLF.
fn limit(kind: LineKind, line: &[u8]) -> usize {
    let begins = |verb: &[u8]| line.get(..verb.len()).is_some_and(|start| start.eq_ignore_ascii_case(verb));
    match kind {
        LineKind::AuthResponse => AUTH_OCTETS,
        LineKind::Command if begins(b"AUTH ") => AUTH_OCTETS,
        LineKind::Command if begins(b"MAIL ") => MAIL_COMMAND_OCTETS,
        LineKind::Command if begins(b"RCPT ") => RCPT_COMMAND_OCTETS,
        LineKind::Command => COMMAND_OCTETS,
    }
}

fn strip_crlf(line: &[u8]) -> Result<&[u8], LineFault> {
    let line = line.strip_suffix(b"\r\n").ok_or(LineFault::BareLf)?;
    if line.contains(&b'\r') { Err(LineFault::BareCr) } else { Ok(line) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn lines(input: &[u8], piece: usize) -> Vec<Result<String, LineFault>> {
        let mut inbound = Inbound::default();
        let mut lines = Vec::new();
        for bytes in input.chunks(piece) {
            inbound.push(bytes);
            while let Some(line) = inbound.next_line(LineKind::Command) {
                lines.push(line.map(|line| String::from_utf8(line).unwrap()));
            }
        }
        lines
    }

    fn check(input: &[u8], expect: &[Result<&str, LineFault>]) {
        for piece in [1, 2, 3, 7, input.len().max(1)] {
            let got = lines(input, piece);
            let got: Vec<_> = got.iter().map(|line| line.as_deref().map_err(|fault| *fault)).collect();
            assert_eq!(got, expect, "{:?} in pieces of {piece}", String::from_utf8_lossy(input));
        }
    }

    #[test]
    fn only_crlf_ends_a_line() {
        check(b"NOOP\r\nQUIT\r\n", &[Ok("NOOP"), Ok("QUIT")]);
        check(b"\r\n", &[Ok("")]);
        check(b"NOOP", &[]);
        check(b"NOOP\r", &[]);
        check(b"NOOP\nQUIT\r\n", &[Err(LineFault::BareLf), Ok("QUIT")]);
        check(b"NOOP\rQUIT\r\nRSET\r\n", &[Err(LineFault::BareCr), Ok("RSET")]);
        check(b"NOOP\r\r\nRSET\r\n", &[Err(LineFault::BareCr), Ok("RSET")]);
    }

    #[test]
    fn long_lines_are_refused_once_and_the_next_one_is_read() {
        let fits = format!("NOOP {}\r\n", "x".repeat(COMMAND_OCTETS - 7));
        check(fits.as_bytes(), &[Ok(fits.trim_end())]);
        let over = format!("NOOP {}\r\nRSET\r\n", "x".repeat(COMMAND_OCTETS - 6));
        check(over.as_bytes(), &[Err(LineFault::TooLong(COMMAND_OCTETS)), Ok("RSET")]);
        let far_over = format!("NOOP {}\r\nRSET\r\n", "x".repeat(10 * COMMAND_OCTETS));
        check(far_over.as_bytes(), &[Err(LineFault::TooLong(COMMAND_OCTETS)), Ok("RSET")]);
    }

    #[test]
    fn auth_and_mail_lines_may_be_longer() {
        let auth = format!("auth PLAIN {}\r\n", "A".repeat(8000));
        check(auth.as_bytes(), &[Ok(auth.trim_end())]);
        let over = format!("AUTH PLAIN {}\r\n", "A".repeat(AUTH_OCTETS));
        check(over.as_bytes(), &[Err(LineFault::TooLong(AUTH_OCTETS))]);
        let mail = format!("MAIL FROM:<a@b.test> AUTH={}\r\n", "x".repeat(500));
        check(mail.as_bytes(), &[Ok(mail.trim_end())]);
        let rcpt = format!("RCPT TO:<a@b.test> ORCPT=rfc822;{}\r\n", "x".repeat(493));
        check(rcpt.as_bytes(), &[Ok(rcpt.trim_end())]);
        let over = format!("RCPT TO:<a@b.test> ORCPT=rfc822;{}\r\n", "x".repeat(RCPT_COMMAND_OCTETS));
        check(over.as_bytes(), &[Err(LineFault::TooLong(RCPT_COMMAND_OCTETS))]);
    }

    #[test]
    fn an_endless_line_is_given_up_and_never_held() {
        let mut inbound = Inbound::default();
        let fault = (0..2 * ENDLESS_OCTETS / 4096).find_map(|_| {
            inbound.push(&[b'x'; 4096]);
            assert!(inbound.len() <= 4096 + COMMAND_OCTETS);
            inbound.next_line(LineKind::Command)
        });
        assert_eq!(fault, Some(Err(LineFault::Endless)));
    }
}
