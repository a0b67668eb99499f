//! A message that comes by BDAT (RFC 3030): chunks of announced length instead of DATA and a dot.
//!
//! Whatever becomes of a BDAT, the octets that it announced are read: else they would be taken for commands.

use super::transaction::Transaction;
use super::{Action, FIRST_ROOM_OCTETS, Session, State};
use crate::smtp::text::{DRAIN_OCTETS, Progress, Receiver, TextFault};

/// What one BDAT announced and has not come yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chunk {
    left: u64,
    last: bool,
}

/// A chunk that nobody wants: how much of it is to come, what is said then, and how the dialogue goes on.
#[derive(Debug)]
pub(super) struct Skipped {
    left: u64,
    refusal: Refusal,
    then: State,
}

#[derive(Clone, Copy, Debug)]
enum Refusal {
    NoRoom,
    Told(u16, &'static str),
}

impl Session {
    pub(super) fn bdat(&mut self, octets: u64, last: bool) -> Option<Action> {
        let chunk = Chunk { left: octets, last };
        if octets > self.settings.message_bytes.saturating_add(DRAIN_OCTETS) {
            self.close(552, (5, 3, 4), "The chunk is far larger than any message may be, closing the connection");
            return None;
        }
        let (then, refusal) = match std::mem::replace(&mut self.state, State::ExpectMail) {
            State::ExpectBdat(transaction, receiver) => {
                self.state = State::ExpectChunk(transaction, receiver, chunk);
                return None;
            }
            State::ExpectRcpt(transaction) if !transaction.recipients.is_empty() => {
                self.state = State::ExpectFirstRoom(transaction, Some(chunk));
                return Some(Action::Room(FIRST_ROOM_OCTETS));
            }
            State::ExpectRcpt(transaction) => {
                let refusal = if transaction.refused {
                    Refusal::Told(554, "No recipient was accepted")
                } else {
                    Refusal::Told(503, "Send RCPT first")
                };
                (State::ExpectRcpt(transaction), refusal)
            }
            state => (state, Refusal::Told(503, "Send MAIL first")),
        };
        self.state = State::SkipChunk(Box::new(Skipped { left: octets, refusal, then }));
        None
    }

    /// There is room for the first octets of a message.
    pub(super) fn begin_chunks(&mut self, transaction: Box<Transaction>, chunk: Chunk) {
        let mut receiver = Box::new(Receiver::of_chunks(self.settings.message_bytes));
        receiver.grant(FIRST_ROOM_OCTETS);
        self.state = State::ExpectChunk(transaction, receiver, chunk);
    }

    pub(super) fn skip_for_lack_of_room(&mut self, chunk: Chunk) {
        let skipped = Skipped { left: chunk.left, refusal: Refusal::NoRoom, then: State::ExpectMail };
        self.state = State::SkipChunk(Box::new(skipped));
    }

    pub(super) fn read_chunk(&mut self) -> Option<Action> {
        let State::ExpectChunk(transaction, mut receiver, mut chunk) =
            std::mem::replace(&mut self.state, State::ExpectMail)
        else {
            return None;
        };
        let mut progress = Progress::More;
        if chunk.left > 0 && !self.inbound.is_empty() {
            self.inbound.take(|bytes| {
                let (used, wanted) = receiver.receive(first(bytes, chunk.left));
                chunk.left -= used as u64;
                progress = wanted;
                used
            });
        }
        match progress {
            Progress::Room(octets) => {
                self.state = State::ExpectRoom(transaction, receiver, octets, Some(chunk));
                Some(Action::Room(octets))
            }
            Progress::Absurd(limit) => {
                self.say_text_fault(TextFault::TooLarge(limit));
                self.state = State::Closed;
                None
            }
            // A receiver of chunks finds no end.
            Progress::More | Progress::End(_) if chunk.left > 0 => {
                self.milestones += u64::from(receiver.passed_block());
                self.state = State::ExpectChunk(transaction, receiver, chunk);
                Some(Action::Read)
            }
            Progress::More | Progress::End(_) => self.end_chunk(transaction, receiver, chunk.last),
        }
    }

    fn end_chunk(&mut self, transaction: Box<Transaction>, mut receiver: Box<Receiver>, last: bool) -> Option<Action> {
        let fault = match (last, receiver.fault()) {
            (false, None) => {
                self.say(250, Some((2, 0, 0)), "Ok, send the next chunk");
                self.state = State::ExpectBdat(transaction, receiver);
                return None;
            }
            (false, Some(fault)) => fault,
            (true, _) => match receiver.end_of_chunks() {
                Ok(message) => return Some(self.arrived(*transaction, message)),
                Err(fault) => fault,
            },
        };
        self.say_text_fault(fault);
        self.state = State::ExpectMail;
        None
    }

    pub(super) fn skip_chunk(&mut self) -> Option<Action> {
        let State::SkipChunk(mut skipped) = std::mem::replace(&mut self.state, State::ExpectMail) else {
            return None;
        };
        self.inbound.take(|bytes| {
            let used = first(bytes, skipped.left).len();
            skipped.left -= used as u64;
            used
        });
        if skipped.left > 0 {
            self.state = State::SkipChunk(skipped);
            return Some(Action::Read);
        }
        self.state = skipped.then;
        match skipped.refusal {
            Refusal::NoRoom => self.say_text_fault(TextFault::NoRoom),
            Refusal::Told(code, text) => self.say(code, Some((5, 5, 1)), text),
        }
        None
    }
}

/// The first so many octets, or all.
fn first(bytes: &[u8], octets: u64) -> &[u8] {
    &bytes[..bytes.len().min(usize::try_from(octets).unwrap_or(usize::MAX))]
}
