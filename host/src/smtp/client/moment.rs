//! Where a session stands: what is waited for, for how long, and what a loss at this point means.

use mail::Outcome;
use mail::outcome::Phase;

use super::exchange::Command;
use super::{Client, Fault, State, Wait};

const CHUNK_REPLY: &str = "the reply to BDAT";

impl Client {
    /// The outcome of losing the session now.
    pub(super) fn lost(&self, fault: &Fault) -> Outcome {
        let (phase, awaited) = self.moment();
        self.peer.lost(fault, phase, awaited, self.is_all_sent())
    }

    /// Whether the peer was sent a message to its end, and has not yet said what became of it. RFC 5321 s4.2.5 leaves it
    /// open whose it is then.
    pub(super) fn is_all_sent(&self) -> bool {
        let end_sent = match self.state {
            State::ExpectEnd => true,
            State::ExpectCommand => self.exchange.body_in_group,
            _ => false,
        };
        end_sent && self.out.is_empty()
    }

    /// Where the session stands, for outcomes: the phase, and what is waited for.
    fn moment(&self) -> (Phase, &'static str) {
        match self.state {
            State::ExpectGreeting => (Phase::Connect, "its greeting"),
            State::ExpectEhlo => (Phase::Connect, "the reply to EHLO"),
            State::ExpectHelo => (Phase::Connect, "the reply to HELO"),
            State::ExpectStartTls => (Phase::Connect, "the reply to STARTTLS"),
            State::ExpectHandshake => (Phase::Connect, "the TLS handshake"),
            State::ExpectUserPrompt | State::ExpectPasswordPrompt | State::ExpectAuth => {
                (Phase::Connect, "the reply to AUTH")
            }
            State::ExpectCommand => match self.exchange.current() {
                Command::Reset => (Phase::Mail, "the reply to RSET"),
                Command::Mail => (Phase::Mail, "the reply to MAIL FROM"),
                Command::Recipient(_) => (Phase::Recipient, "the reply to RCPT TO"),
                Command::Data => (Phase::Data, "the reply to DATA"),
                Command::Chunk => (Phase::Data, CHUNK_REPLY),
            },
            State::SendBody => (Phase::Data, "it to take the message"),
            State::ExpectEnd if self.exchange.ends_with_chunk() => (Phase::Data, CHUNK_REPLY),
            State::ExpectEnd | State::ExpectEmptyDot => (Phase::Data, "the reply to the final dot"),
            State::Ready | State::Over => (Phase::Mail, "another message"),
            State::ExpectQuit => (Phase::Connect, "the reply to QUIT"),
        }
    }

    pub(super) fn read_wait(&self) -> Wait {
        match self.state {
            State::ExpectGreeting => Wait::Greeting,
            State::ExpectCommand if self.exchange.current() == Command::Data => Wait::DataStart,
            State::ExpectCommand if self.exchange.current() == Command::Chunk => Wait::DataEnd,
            State::ExpectEnd | State::ExpectEmptyDot => Wait::DataEnd,
            State::ExpectEhlo
            | State::ExpectHelo
            | State::ExpectStartTls
            | State::ExpectHandshake
            | State::ExpectUserPrompt
            | State::ExpectPasswordPrompt
            | State::ExpectAuth
            | State::Ready
            | State::ExpectCommand
            | State::SendBody
            | State::ExpectQuit
            | State::Over => Wait::Command,
        }
    }

    pub(super) fn write_wait(&self) -> Wait {
        match self.state {
            State::SendBody | State::ExpectEnd => Wait::DataBlock,
            State::ExpectCommand if self.exchange.body_in_group => Wait::DataBlock,
            _ => Wait::Command,
        }
    }
}
