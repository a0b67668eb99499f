//! SMTP replies (RFC 5321 s4.2, RFC 2034).

use crate::EnhancedCode;

/// The longest reply line, its CRLF included (RFC 5321 s4.5.3.1.5).
const MAX_LINE_OCTETS: usize = 512;

/// A reply: code, enhanced code where there is one, text of one or more lines (joined by `\n`), without either code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub code: u16,
    pub enhanced: Option<EnhancedCode>,
    pub text: String,
}

impl Reply {
    /// A reply of ours. The text holds no CR; `\n` separates lines.
    pub fn new(code: u16, enhanced: Option<EnhancedCode>, text: impl Into<String>) -> Reply {
        Reply { code, enhanced, text: text.into() }
    }

    /// Whether the code is 2xx.
    pub fn is_positive(&self) -> bool {
        self.code / 100 == 2
    }

    /// Whether the code is 4xx.
    pub fn is_transient(&self) -> bool {
        self.code / 100 == 4
    }

    /// Whether the code is 5xx.
    pub fn is_permanent(&self) -> bool {
        self.code / 100 == 5
    }

    /// The bytes on the wire, multi-line where the text is, each line at most 512 octets with its CRLF
    /// (RFC 5321 s4.5.3.1.5): longer ones are broken. Every line of a 2xx, 4xx or 5xx carries the enhanced code.
    /// Other control characters than the line end become blanks, so that a text from elsewhere adds no line of its own.
    pub fn to_wire(&self) -> Vec<u8> {
        let enhanced = match self.enhanced {
            Some(code) if matches!(self.code / 100, 2 | 4 | 5) => format!("{code} "),
            Some(_) | None => String::new(),
        };
        let room = MAX_LINE_OCTETS - "250-\r\n".len() - enhanced.len();
        let lines =
            self.text.trim_end_matches('\n').split('\n').flat_map(|line| broken(line, room)).collect::<Vec<_>>();
        let mut wire = Vec::with_capacity(self.text.len() + lines.len() * (6 + enhanced.len()));
        for (at, line) in lines.iter().enumerate() {
            let separator = if at + 1 == lines.len() { ' ' } else { '-' };
            wire.extend_from_slice(format!("{:03}{separator}{enhanced}", self.code).as_bytes());
            wire.extend(line.bytes().map(|octet| if octet.is_ascii_control() { b' ' } else { octet }));
            wire.extend_from_slice(b"\r\n");
        }
        wire
    }
}

/// Breaks a line into pieces of at most `room` octets, at blanks where it can, never inside a character.
fn broken(line: &str, room: usize) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut rest = line;
    while rest.len() > room {
        let edge = rest.floor_char_boundary(room);
        let (end, next) = match rest[..edge].rfind(' ') {
            Some(blank) if blank > 0 => (blank, blank + 1),
            Some(_) | None => (edge, edge),
        };
        pieces.push(&rest[..end]);
        rest = &rest[next..];
    }
    pieces.push(rest);
    pieces
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn wire(code: u16, enhanced: Option<EnhancedCode>, text: &str) -> String {
        String::from_utf8(Reply::new(code, enhanced, text).to_wire()).unwrap()
    }

    #[test]
    fn prints_codes_on_every_line() {
        let ok = Some(EnhancedCode::new(2, 0, 0));
        assert_eq!(wire(250, ok, "queued"), "250 2.0.0 queued\r\n");
        assert_eq!(wire(250, ok, "one\ntwo\n"), "250-2.0.0 one\r\n250 2.0.0 two\r\n");
        assert_eq!(wire(354, ok, "go ahead"), "354 go ahead\r\n");
        assert_eq!(wire(220, None, "relay.test ESMTP"), "220 relay.test ESMTP\r\n");
        assert_eq!(wire(250, None, ""), "250 \r\n");
        assert_eq!(wire(550, None, "a\rb\0c"), "550 a b c\r\n");
    }

    #[test]
    fn breaks_long_lines() {
        let enhanced = Some(EnhancedCode::new(5, 7, 1));
        for text in ["word ".repeat(300), "x".repeat(3000), "\u{fc}".repeat(2000), " ".repeat(1200)] {
            let wire = wire(550, enhanced, &text);
            assert!(wire.split_inclusive("\r\n").all(|line| line.len() <= 512 && line.starts_with("550")), "{wire}");
            assert_eq!(wire.matches("550 5.7.1 ").count(), 1);
            let kept: String = wire.replace("550-5.7.1 ", "").replace("550 5.7.1 ", "").replace("\r\n", "");
            assert_eq!(kept.replace(' ', ""), text.replace(' ', ""));
        }
    }
}
