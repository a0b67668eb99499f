//! Receives the text of a message behind DATA (RFC 5321 s4.1.1.4): undoes dot-stuffing, finds the one true end, and
//! notes what makes the message unfit. Or behind BDAT (RFC 3030), where it is as it is and somebody else knows its end.
//!
//! Only CRLF `.` CRLF ends a message, whatever else looks like it (a bare LF or CR beside the dot is how mail is
//! smuggled past servers that are less strict). A message with a fault is read to its end and thrown away, so that the
//! connection stays in step; its bytes are not kept. The bytes of a sound message stand in one vector.

use thiserror::Error;

/// Longest line with its CRLF, without the dot of transparency (RFC 5321 s4.5.3.1.6).
pub const LINE_OCTETS: usize = 1000;

/// Room asked for at first, and the least asked for later, in octets.
const ROOM_STEP_OCTETS: usize = 16 * 1024;

/// A client that sends so many octets in time is not idle.
const BLOCK_OCTETS: u64 = 4096;

/// How far over the size limit a refused message is read to its end, in octets: further, the connection is closed.
pub const DRAIN_OCTETS: u64 = 64 * 1024 * 1024;

/// Why a message is refused, found while it comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TextFault {
    #[error("line {0} of the message holds a CR or LF that is not part of a CRLF")]
    BareLineEnd(usize),
    #[error("line {0} of the message is longer than {LINE_OCTETS} octets with its CRLF")]
    LongLine(usize),
    #[error("the message is larger than the limit of {0} octets")]
    TooLarge(u64),
    #[error("too many large messages are coming in at once: try again in a minute")]
    NoRoom,
}

/// What the receiver wants next.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    /// More bytes.
    More,
    /// Leave to hold this many octets more: answer with `grant` or `deny`, then go on.
    Room(usize),
    /// The end was there: the message with CRLF line ends, or why it is refused.
    End(Result<Vec<u8>, TextFault>),
    /// So far over the limit that its end is not worth waiting for.
    Absurd(u64),
}

/// Where in the text the next octet stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    LineStart,
    /// Behind a dot that began the line.
    Dot,
    /// Behind that dot and a CR.
    DotCr,
    InLine,
    /// Behind a CR in a line.
    Cr,
    /// Behind the end of the message.
    End,
}

/// The receiver of one message.
#[derive(Debug)]
pub struct Receiver {
    limit: u64,
    /// Whether it is dot-stuffed and ended by a dot.
    dotted: bool,
    text: Vec<u8>,
    /// Octets it may hold.
    granted: usize,
    fault: Option<TextFault>,
    place: Place,
    /// Counts from 1.
    line: usize,
    line_octets: usize,
    /// Octets of the message so far, kept or not.
    octets: u64,
    /// Octets on the wire so far.
    received: u64,
    /// Whole blocks of them that were told of.
    blocks: u64,
}

impl Receiver {
    /// For a message of at most `limit` octets, dot-stuffing undone.
    pub fn new(limit: u64) -> Receiver {
        Receiver {
            limit,
            dotted: true,
            text: Vec::new(),
            granted: 0,
            fault: None,
            place: Place::LineStart,
            line: 1,
            line_octets: 0,
            octets: 0,
            received: 0,
            blocks: 0,
        }
    }

    /// For a message of at most `limit` octets that comes in chunks; `receive` never finds its end.
    pub fn of_chunks(limit: u64) -> Receiver {
        Receiver { dotted: false, ..Receiver::new(limit) }
    }

    /// The chunk before was the last: the message, whose last line is ended where it was not, or why it is refused.
    pub fn end_of_chunks(&mut self) -> Result<Vec<u8>, TextFault> {
        match self.place {
            Place::InLine => self.end_line(),
            Place::Cr => self.refuse(TextFault::BareLineEnd(self.line)),
            Place::LineStart | Place::Dot | Place::DotCr | Place::End => {}
        }
        self.finish()
    }

    /// Why the message will be refused, where that is known.
    pub fn fault(&self) -> Option<TextFault> {
        self.fault
    }

    /// Leave to hold so many octets more. Grows the vector by just that: the allocator moves large blocks without copying.
    pub fn grant(&mut self, octets: usize) {
        self.granted += octets;
        self.text.reserve_exact(self.granted - self.text.len());
    }

    /// No leave: the message is refused and what was held is given back.
    pub fn deny(&mut self) {
        self.refuse(TextFault::NoRoom);
    }

    /// Whether octets are held that room was granted for.
    pub fn holds_room(&self) -> bool {
        self.fault.is_none() && self.granted > 0
    }

    /// Whether another block came in since this was asked last.
    pub fn passed_block(&mut self) -> bool {
        let blocks = self.received / BLOCK_OCTETS;
        std::mem::replace(&mut self.blocks, blocks) < blocks
    }

    /// Takes bytes in; says how many it used and what it wants next. Bytes behind the end are not used.
    pub fn receive(&mut self, bytes: &[u8]) -> (usize, Progress) {
        // What is added is at most what came in, with a CR withheld from the last call; never more than the limit.
        let limit = usize::try_from(self.limit).unwrap_or(usize::MAX);
        let need = (self.text.len() + bytes.len() + 1).min(limit);
        if self.fault.is_none() && need > self.granted {
            let step = (need - self.granted).max(ROOM_STEP_OCTETS).max(self.granted / 4);
            return (0, Progress::Room(step));
        }
        let mut used = 0;
        while let (Some(&first), true) = (bytes.get(used), self.place != Place::End) {
            used += self.step(first, &bytes[used..]);
        }
        self.received += used as u64;
        if self.place == Place::End {
            return (used, Progress::End(self.finish()));
        }
        if self.received > self.limit.saturating_add(DRAIN_OCTETS) {
            return (used, Progress::Absurd(self.limit));
        }
        (used, Progress::More)
    }

    /// Takes one octet, or a run of plain ones; says how many.
    fn step(&mut self, first: u8, bytes: &[u8]) -> usize {
        match (self.place, first) {
            (Place::LineStart, b'.') if self.dotted => self.go(Place::Dot, 1),
            (Place::Dot, b'\r') => self.go(Place::DotCr, 1),
            (Place::DotCr, b'\n') => self.go(Place::End, 1),
            (Place::DotCr, _) => {
                self.refuse(TextFault::BareLineEnd(self.line));
                self.go(Place::InLine, 0)
            }
            (Place::LineStart | Place::Dot, _) => self.go(Place::InLine, 0),
            (Place::Cr, b'\n') => {
                self.end_line();
                self.go(Place::LineStart, 1)
            }
            (Place::Cr, _) => {
                self.refuse(TextFault::BareLineEnd(self.line));
                self.go(Place::InLine, 0)
            }
            (Place::InLine, b'\r') => self.go(Place::Cr, 1),
            (Place::InLine, b'\n') => {
                self.refuse(TextFault::BareLineEnd(self.line));
                1
            }
            (Place::InLine, _) => self.run(bytes),
            (Place::End, _) => 0,
        }
    }

    fn go(&mut self, place: Place, used: usize) -> usize {
        self.place = place;
        used
    }

    /// Takes everything up to the next CR or LF.
    fn run(&mut self, bytes: &[u8]) -> usize {
        let length = bytes.iter().position(|&byte| byte == b'\r' || byte == b'\n').unwrap_or(bytes.len());
        self.line_octets += length;
        self.keep(&bytes[..length]);
        length
    }

    fn end_line(&mut self) {
        if self.line_octets + 2 > LINE_OCTETS {
            self.refuse(TextFault::LongLine(self.line));
        }
        self.keep(b"\r\n");
        self.line += 1;
        self.line_octets = 0;
    }

    fn keep(&mut self, bytes: &[u8]) {
        self.octets += bytes.len() as u64;
        if self.octets > self.limit {
            self.refuse(TextFault::TooLarge(self.limit));
        } else if self.fault.is_none() {
            self.text.extend_from_slice(bytes);
        }
    }

    /// The first fault is the one that is told.
    fn refuse(&mut self, fault: TextFault) {
        self.fault.get_or_insert(fault);
        self.text = Vec::new();
        self.granted = 0;
    }

    fn finish(&mut self) -> Result<Vec<u8>, TextFault> {
        match self.fault {
            Some(fault) => Err(fault),
            None => Ok(std::mem::take(&mut self.text)),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// A message, and what stood behind its end.
    type Ended<B> = (Result<B, TextFault>, B);

    /// Feeds the input in pieces; `None` where no end was found.
    fn receive(input: &[u8], piece: usize, limit: u64) -> Option<Ended<Vec<u8>>> {
        let mut receiver = Receiver::new(limit);
        let mut waiting = Vec::new();
        for bytes in input.chunks(piece) {
            waiting.extend_from_slice(bytes);
            loop {
                let (used, progress) = receiver.receive(&waiting);
                waiting.drain(..used);
                match progress {
                    Progress::More => break,
                    Progress::Room(octets) => receiver.grant(octets),
                    Progress::End(result) => {
                        let sent = input.len();
                        let fed = (bytes.as_ptr() as usize - input.as_ptr() as usize) + bytes.len();
                        waiting.extend_from_slice(&input[fed..sent]);
                        return Some((result, waiting));
                    }
                    Progress::Absurd(limit) => panic!("absurd at {limit}"),
                }
            }
        }
        None
    }

    fn check(input: &[u8], expect: Option<Ended<&[u8]>>) {
        for piece in [1, 2, 3, 5, 64, input.len().max(1)] {
            let got = receive(input, piece, 10_000);
            let got = got.as_ref().map(|(text, rest)| (text.as_deref().map_err(|fault| *fault), rest.as_slice()));
            assert_eq!(got, expect, "{:?} in pieces of {piece}", String::from_utf8_lossy(input));
        }
    }

    #[test]
    fn dots_are_unstuffed_and_the_end_is_found() {
        check(b".\r\n", Some((Ok(b""), b"")));
        check(b"a\r\n.\r\nQUIT\r\n", Some((Ok(b"a\r\n"), b"QUIT\r\n")));
        check(b"..\r\n.a\r\n..b\r\n.\r\n", Some((Ok(b".\r\na\r\n.b\r\n"), b"")));
        check(b"a.\r\n.\r\n", Some((Ok(b"a.\r\n"), b"")));
        check(b"\r\n\r\n.\r\n", Some((Ok(b"\r\n\r\n"), b"")));
        check(b"a\0b\xff\r\n.\r\n", Some((Ok(b"a\0b\xff\r\n"), b"")));
        check(b"a\r\n.", None);
        check(b"a\r\n.\r", None);
        check(b"a", None);
    }

    #[test]
    fn nothing_but_crlf_dot_crlf_ends_a_message() {
        let ends: &[&[u8]] = &[
            b"\n.\n",
            b"\n.\r\n",
            b"\n.\r",
            b"\r.\r",
            b"\r.\n",
            b"\r.\r\n",
            b"\r\n.\n",
            b"\r\n.\r\r\n",
            b"\r\n.\r.\r\n",
            b"\r\r\n.\r\n\r",
            b"\n\r\n.\n",
            b"\r\n\n.\r\n",
            b"\r\n.\0\n",
        ];
        for end in ends {
            // With the smuggled transaction behind it, all of it is one message, and it is refused at its true end.
            let smuggled = [b"a".as_slice(), end, b"MAIL FROM:<x@x.test>\r\nRCPT TO:<y@y.test>\r\nDATA\r\n"].concat();
            let input = [&smuggled, b"b\r\n.\r\nQUIT\r\n".as_slice()].concat();
            // `\r\r\n.\r\n` does hold a true end, behind a line with a bare CR.
            let rest = if end.starts_with(b"\r\r\n.\r\n") { None } else { Some(b"QUIT\r\n".as_slice()) };
            for piece in [1, 2, 3, input.len()] {
                let (result, behind) = receive(&input, piece, 10_000).unwrap();
                assert!(matches!(result, Err(TextFault::BareLineEnd(1..=3))), "{end:?}: {result:?}");
                if let Some(rest) = rest {
                    assert_eq!(behind, rest, "{end:?} in pieces of {piece}");
                }
            }
        }
    }

    #[test]
    fn long_lines_are_refused_at_the_true_end() {
        let fits = [vec![b'x'; 998], b"\r\n.\r\n".to_vec()].concat();
        check(&fits, Some((Ok(&fits[..1000]), b"")));
        let stuffed = [vec![b'.'; 999], b"\r\n.\r\n".to_vec()].concat();
        check(&stuffed, Some((Ok(&[vec![b'.'; 998], b"\r\n".to_vec()].concat()), b"")));
        let over = [b"a\r\n".to_vec(), vec![b'x'; 999], b"\r\n.\r\nNOOP\r\n".to_vec()].concat();
        check(&over, Some((Err(TextFault::LongLine(2)), b"NOOP\r\n")));
    }

    #[test]
    fn size_counts_octets_with_crlf_before_stuffing() {
        let check = |input: &[u8], limit, expect: Result<usize, TextFault>| {
            let (result, _) = receive(input, 4, limit).unwrap();
            assert_eq!(result.map(|text| text.len()), expect);
        };
        check(b"..\r\n.\r\n", 3, Ok(3));
        check(b"..\r\n.\r\n", 2, Err(TextFault::TooLarge(2)));
        check(b"aaaaaaaaaaaa\r\nb\r\n.\r\n", 5, Err(TextFault::TooLarge(5)));
    }

    #[test]
    fn a_refused_message_is_not_held() {
        let mut receiver = Receiver::new(1 << 20);
        let chunk = [b'a'; 4096];
        let mut asked = 0;
        for _ in 0..10 {
            while let (0, Progress::Room(octets)) = receiver.receive(&chunk) {
                receiver.grant(octets);
                asked += octets;
            }
        }
        assert!(asked >= 10 * chunk.len() && receiver.holds_room());
        receiver.deny();
        assert!(!receiver.holds_room() && receiver.text.capacity() == 0);
        assert_eq!(receiver.receive(b"\r\n.\r\n"), (5, Progress::End(Err(TextFault::NoRoom))));
    }

    #[test]
    fn reading_ends_when_a_message_is_absurdly_large() {
        let mut receiver = Receiver::new(10);
        receiver.grant(1 << 20);
        let chunk = vec![b'a'; 1 << 20];
        let last = (0..70).map(|_| receiver.receive(&chunk).1).find(|progress| *progress != Progress::More);
        assert_eq!(last, Some(Progress::Absurd(10)));
    }
}
