//! The body as it goes over the wire: dot-stuffed, ended by the line that holds a dot (RFC 5321 s4.5.2).
//!
//! Made piece by piece into one buffer that is used again, so that a large body never stands in memory twice.

use bytes::Bytes;

/// Octets of body in one piece. What is smaller goes out, final dot included, in a single write.
pub const PIECE: usize = 64 * 1024;

/// Walks over a body.
#[derive(Debug, Default)]
pub struct Stuffer {
    body: Bytes,
    position: usize,
}

impl Stuffer {
    pub fn new(body: Bytes) -> Stuffer {
        Stuffer { body, position: 0 }
    }

    /// Appends the next piece; `true` when that was the last one, with the final dot behind it.
    ///
    /// A dot is doubled behind every LF. Bodies hold no bare LF (they are refused at the door), so this is the same as
    /// behind CRLF; if one ever got in, a peer that takes it for the end of a line could still not be fooled.
    pub fn fill(&mut self, out: &mut Vec<u8>) -> bool {
        let end = self.body.len().min(self.position + PIECE);
        let piece = &self.body[self.position..end];
        out.reserve(piece.len() + piece.len() / 64 + 8);
        let mut copied = 0;
        for dot in memchr::memchr_iter(b'.', piece) {
            let at = self.position + dot;
            if at == 0 || self.body[at - 1] == b'\n' {
                out.extend_from_slice(&piece[copied..dot]);
                out.push(b'.');
                copied = dot;
            }
        }
        out.extend_from_slice(&piece[copied..]);
        self.position = end;
        if end < self.body.len() {
            return false;
        }
        if !self.body.is_empty() && !self.body.ends_with(b"\r\n") {
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b".\r\n");
        self.body = Bytes::new();
        self.position = 0;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stuffed(body: &[u8]) -> Vec<u8> {
        let mut stuffer = Stuffer::new(Bytes::copy_from_slice(body));
        let mut out = Vec::new();
        while !stuffer.fill(&mut out) {}
        out
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
