//! The body as it goes over the wire: dot-stuffed and ended by the line that holds a dot (RFC 5321 s4.5.2), or as it is
//! behind BDAT, which says how long it is (RFC 3030 s2).
//!
//! Made piece by piece into one buffer that is used again, so that a large body never stands in memory twice.

use bytes::Bytes;

/// Octets of body in one piece. What is smaller goes out, its end included, in a single write.
pub const PIECE: usize = 64 * 1024;

/// How the peer knows where the body ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Framing {
    /// By the final dot, behind DATA.
    #[default]
    Dot,
    /// By the length in BDAT.
    Length,
}

/// Walks over a body.
#[derive(Debug, Default)]
pub struct BodyWriter {
    body: Bytes,
    position: usize,
    framing: Framing,
}

impl BodyWriter {
    pub fn new(body: Bytes, framing: Framing) -> BodyWriter {
        BodyWriter { body, position: 0, framing }
    }

    /// Octets that BDAT announces: a last line without its end gets one.
    pub fn length(&self) -> usize {
        self.body.len() + if self.lacks_line_end() { 2 } else { 0 }
    }

    /// Whether all of it goes out in one piece.
    pub fn is_small(&self) -> bool {
        self.body.len() <= PIECE
    }

    /// Appends the next piece; `true` when that was the last one, with the end of the body behind it.
    ///
    /// A dot is doubled behind every LF. Bodies hold no bare LF (they are refused at the door), so this is the same as
    /// behind CRLF; if one ever got in, a peer that takes it for the end of a line could still not be fooled.
    pub fn fill(&mut self, out: &mut Vec<u8>) -> bool {
        let end = self.body.len().min(self.position + PIECE);
        let piece = &self.body[self.position..end];
        out.reserve(piece.len() + piece.len() / 64 + 8);
        let mut copied = 0;
        if self.framing == Framing::Dot {
            for dot in memchr::memchr_iter(b'.', piece) {
                let at = self.position + dot;
                if at == 0 || self.body[at - 1] == b'\n' {
                    out.extend_from_slice(&piece[copied..dot]);
                    out.push(b'.');
                    copied = dot;
                }
            }
        }
        out.extend_from_slice(&piece[copied..]);
        self.position = end;
        if end < self.body.len() {
            return false;
        }
        if self.lacks_line_end() {
            out.extend_from_slice(b"\r\n");
        }
        if self.framing == Framing::Dot {
            out.extend_from_slice(b".\r\n");
        }
        self.body = Bytes::new();
        self.position = 0;
        true
    }

    fn lacks_line_end(&self) -> bool {
        !self.body.is_empty() && !self.body.ends_with(b"\r\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(body: &[u8], framing: Framing) -> Vec<u8> {
        let mut writer = BodyWriter::new(Bytes::copy_from_slice(body), framing);
        let length = writer.length();
        let mut out = Vec::new();
        while !writer.fill(&mut out) {}
        assert!(framing == Framing::Dot || out.len() == length, "announced {length}, wrote {}", out.len());
        out
    }

    fn stuffed(body: &[u8]) -> Vec<u8> {
        framed(body, Framing::Dot)
    }

    #[test]
    fn a_body_of_known_length_goes_as_it_is() {
        let check = |body: &[u8], expect: &[u8]| assert!(framed(body, Framing::Length) == expect);
        check(b"", b"");
        check(b".a\r\n..\r\n.\r\n", b".a\r\n..\r\n.\r\n");
        check(b"no end", b"no end\r\n");
        let large = b"0123456789abcde\n".repeat(PIECE / 8);
        check(&large, &[large.as_slice(), b"\r\n"].concat());
    }

    #[track_caller]
    fn check(body: &str, expect: &str) {
        assert_eq!(String::from_utf8_lossy(&stuffed(body.as_bytes())), expect);
    }

    #[test]
    fn stuffing() {
        check("", ".\r\n");
        check("a\r\n", "a\r\n.\r\n");
        check("a", "a\r\n.\r\n");
        check(".", "..\r\n.\r\n");
        check(".a\r\n..b\r\nc.d\r\n", "..a\r\n...b\r\nc.d\r\n.\r\n");
        check("a\r\n.\r\nb\r\n", "a\r\n..\r\nb\r\n.\r\n");
        check("a\n.\n", "a\n..\n\r\n.\r\n");
        check("a\r", "a\r\r\n.\r\n");
    }

    #[test]
    fn pieces_join_without_seams() {
        // A dot behind every possible cut: at the end of a piece, at the beginning of the next.
        for shift in 0..4 {
            let body = [vec![b'x'; PIECE - 4 + shift], b"\r\n.y\r\n".to_vec()].concat();
            let mut expect = body.clone();
            expect.insert(PIECE - 4 + shift + 2, b'.');
            expect.extend_from_slice(b".\r\n");
            assert!(stuffed(&body) == expect, "shifted by {shift}");
        }
    }
}
