//! Reads a peer's replies out of its bytes (RFC 5321 s4.2, RFC 2034), however they are cut into reads.
//!
//! Bounded on a stranger's bytes: a line, the lines of a reply, the whole reply and what is kept of its text each have
//! a limit. A bare LF ends a line too, since some peers send it; everything else that is no reply is a `ReplyFault`.

use mail::{EnhancedCode, Reply};
use thiserror::Error;

/// RFC 5321 s4.5.3.1.5 says 512 octets with CRLF; real peers put links and whole paragraphs into theirs.
pub const LINE_MAX: usize = 4096;
/// Lines of one reply.
pub const LINES_MAX: usize = 100;
/// Octets of one reply, all lines together.
pub const REPLY_MAX: usize = 64 * 1024;
/// Octets of text kept of one reply; the rest is read and dropped.
pub const TEXT_KEPT: usize = 8 * 1024;

/// Why bytes are not a reply.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ReplyFault {
    #[error("a reply line longer than {LINE_MAX} octets")]
    LineTooLong,
    #[error("a reply of more than {LINES_MAX} lines")]
    TooManyLines,
    #[error("a reply longer than {REPLY_MAX} octets")]
    TooLong,
    #[error("a line that is not a reply: `{0}`")]
    Malformed(String),
}

/// Collects lines until a reply is whole.
#[derive(Debug, Default)]
pub struct ReplyReader {
    /// The beginning of a line whose end has not come yet.
    partial: Vec<u8>,
    lines: usize,
    octets: usize,
    enhanced: Option<EnhancedCode>,
    text: String,
}

impl ReplyReader {
    /// Reads up to the end of the first whole reply: how many bytes that took, and the reply if it is whole.
    pub fn read(&mut self, bytes: &[u8]) -> Result<(usize, Option<Reply>), ReplyFault> {
        let mut taken = 0;
        while let Some(end) = memchr::memchr(b'\n', &bytes[taken..]) {
            let piece = &bytes[taken..taken + end + 1];
            taken += piece.len();
            let reply = if self.partial.is_empty() {
                self.line(piece)?
            } else {
                self.hold(piece)?;
                let line = std::mem::take(&mut self.partial);
                self.line(&line)?
            };
            if reply.is_some() {
                return Ok((taken, reply));
            }
        }
        self.hold(&bytes[taken..])?;
        Ok((bytes.len(), None))
    }

    /// Whether it stands between two replies.
    pub fn is_idle(&self) -> bool {
        self.partial.is_empty() && self.lines == 0
    }

    fn hold(&mut self, piece: &[u8]) -> Result<(), ReplyFault> {
        if self.partial.len() + piece.len() > LINE_MAX {
            return Err(ReplyFault::LineTooLong);
        }
        self.partial.extend_from_slice(piece);
        Ok(())
    }

    /// Takes one line with its end; the reply if it was the last one.
    fn line(&mut self, line: &[u8]) -> Result<Option<Reply>, ReplyFault> {
        if line.len() > LINE_MAX {
            return Err(ReplyFault::LineTooLong);
        }
        self.lines += 1;
        self.octets += line.len();
        if self.lines > LINES_MAX {
            return Err(ReplyFault::TooManyLines);
        }
        if self.octets > REPLY_MAX {
            return Err(ReplyFault::TooLong);
        }
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let Some((code, last, text)) = split_line(line) else {
            return Err(ReplyFault::Malformed(printable(&line[..line.len().min(80)])));
        };
        self.keep(text);
        if !last {
            return Ok(None);
        }
        // The code of the last line counts (RFC 5321 s4.2.1 wants them all equal).
        let reply = Reply { code, enhanced: self.enhanced.take(), text: std::mem::take(&mut self.text) };
        self.lines = 0;
        self.octets = 0;
        Ok(Some(reply))
    }

    fn keep(&mut self, text: &[u8]) {
        let text = printable(text);
        let (enhanced, text) = match EnhancedCode::split(&text) {
            Some((code, rest)) => (Some(code), rest),
            None => (None, text.trim()),
        };
        self.enhanced = self.enhanced.or(enhanced);
        if self.text.len() + text.len() < TEXT_KEPT {
            if self.lines > 1 {
                self.text.push('\n');
            }
            self.text.push_str(text);
        }
    }
}

/// `250-text`, `250 text` or a bare `250`: the code, whether it ends the reply, the text.
fn split_line(line: &[u8]) -> Option<(u16, bool, &[u8])> {
    let (digits, rest) = line.split_at_checked(3)?;
    if !digits.iter().all(u8::is_ascii_digit) || !(b'2'..=b'5').contains(&digits[0]) {
        return None;
    }
    let code = digits.iter().fold(0, |code, digit| code * 10 + u16::from(digit - b'0'));
    match rest.split_first() {
        None => Some((code, true, &[])),
        Some((b' ', text)) => Some((code, true, text)),
        Some((b'-', text)) => Some((code, false, text)),
        Some(_) => None,
    }
}

/// A stranger's bytes as text that cannot break a log line or a terminal.
fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    if text.chars().any(char::is_control) {
        text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
    } else {
        text.into_owned()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn all(bytes: &[u8], step: usize) -> Result<Vec<Reply>, ReplyFault> {
        let mut reader = ReplyReader::default();
        let mut replies = Vec::new();
        for mut piece in bytes.chunks(step) {
            while !piece.is_empty() {
                let (taken, reply) = reader.read(piece)?;
                replies.extend(reply);
                piece = &piece[taken..];
            }
        }
        Ok(replies)
    }

    /// Code, enhanced code, text.
    type Expect<'a> = (u16, Option<(u8, u16, u16)>, &'a str);

    #[track_caller]
    fn check(bytes: &[u8], expect: &[Expect<'_>]) {
        let expect: Vec<Reply> = expect
            .iter()
            .map(|&(code, enhanced, text)| Reply {
                code,
                enhanced: enhanced.map(|(class, subject, detail)| EnhancedCode::new(class, subject, detail)),
                text: text.to_owned(),
            })
            .collect();
        for step in [1, 2, 3, 7, bytes.len()] {
            assert_eq!(all(bytes, step).as_ref(), Ok(&expect), "in steps of {step}");
        }
    }

    #[test]
    fn replies() {
        check(b"220 mx ESMTP\r\n", &[(220, None, "mx ESMTP")]);
        check(b"250\r\n", &[(250, None, "")]);
        check(b"250 \r\n354 go\r\n", &[(250, None, ""), (354, None, "go")]);
        check(b"250 2.1.5 ok\n", &[(250, Some((2, 1, 5)), "ok")]);
        check(b"250-mx\r\n250-SIZE 100\r\n250 PIPELINING\r\n", &[(250, None, "mx\nSIZE 100\nPIPELINING")]);
        check(b"550-5.1.1 no such\r\n550 5.1.1 user\r\n", &[(550, Some((5, 1, 1)), "no such\nuser")]);
        check(b"250-first\r\n451 last\r\n", &[(451, None, "first\nlast")]);
        check(b"550 a\tb\x1b[2Jc\xff\r\n", &[(550, None, "a b [2Jc\u{fffd}")]);
    }

    #[track_caller]
    fn check_fault(bytes: &[u8], expect: &ReplyFault) {
        for step in [1, 5, 4096, bytes.len()] {
            assert_eq!(all(bytes, step).as_ref(), Err(expect), "in steps of {step}");
        }
    }

    #[test]
    fn faults() {
        check_fault(b"hello\r\n", &ReplyFault::Malformed("hello".to_owned()));
        check_fault(b"\r\n", &ReplyFault::Malformed(String::new()));
        check_fault(b"25\r\n", &ReplyFault::Malformed("25".to_owned()));
        check_fault(b"250ok\r\n", &ReplyFault::Malformed("250ok".to_owned()));
        check_fault(b"100 hm\r\n", &ReplyFault::Malformed("100 hm".to_owned()));
        check_fault(b"650 hm\r\n", &ReplyFault::Malformed("650 hm".to_owned()));
        check_fault(&[b"250 ".as_slice(), &[b'x'; LINE_MAX], b"\r\n"].concat(), &ReplyFault::LineTooLong);
        check_fault(&b"250-x\r\n".repeat(LINES_MAX + 1), &ReplyFault::TooManyLines);
        check_fault(&[b"250-".as_slice(), &[b'x'; 4000], b"\r\n"].concat().repeat(20), &ReplyFault::TooLong);
        check_fault(&[b'2'; LINE_MAX + 1], &ReplyFault::LineTooLong);
    }

    #[test]
    fn text_is_bounded() {
        let long = [b"250-".as_slice(), &[b'x'; 4000], b"\r\n"].concat().repeat(10);
        let reply = all(&[long.as_slice(), b"250 end\r\n"].concat(), 4096).unwrap();
        assert_eq!(reply.len(), 1);
        assert!(reply[0].text.len() <= TEXT_KEPT);
    }
}
