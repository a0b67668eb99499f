//! One transaction on the wire: its commands, how far they are sent and answered, and each recipient's fate.
//!
//! The buffers live as long as the session and are used again, so that a small message costs few allocations.

use bytes::Bytes;
use mail::dsn::{HandedOn, RecipientRequest};
use mail::{Address, Outcome, ReversePath};

use super::body::{BodyWriter, Framing};
use super::capabilities::Capabilities;

/// Octets of commands in flight before their replies are read (RFC 2920 s3.1: neither side's window may fill up while
/// both write).
const GROUP_MAX: usize = 8 * 1024;

/// What a message needs of the machine.
#[derive(Clone, Copy, Debug)]
pub struct Mail<'a> {
    pub sender: &'a ReversePath,
    pub recipients: &'a [Address],
    pub body: &'a Bytes,
    /// What is asked of a peer that offers DSN (RFC 3461).
    pub request: Option<&'a HandedOn>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    Reset,
    Mail,
    Recipient(usize),
    /// DATA.
    Data,
    /// BDAT with the whole body behind it.
    Chunk,
}

#[derive(Debug)]
pub(super) enum Fate {
    Waiting,
    /// RCPT was answered 2xx.
    Accepted,
    Settled(Outcome),
}

#[derive(Debug, Default)]
pub(super) struct Exchange {
    /// All commands one behind the other, and where each ends.
    script: Vec<u8>,
    ends: Vec<usize>,
    reset: bool,
    sent: usize,
    answered: usize,
    pub(super) mail_answered: bool,
    pub(super) sender_refused: bool,
    pub(super) fates: Vec<Fate>,
    pub(super) body: BodyWriter,
    framing: Framing,
    /// Whether the end of a body behind BDAT went out together with the commands before it.
    pub(super) body_in_group: bool,
}

impl Exchange {
    /// Writes the script of a transaction; `reset` puts RSET in front.
    pub(super) fn begin(&mut self, mail: Mail<'_>, peer: &Capabilities, needs: Needs, reset: bool) {
        let framing = if peer.chunking { Framing::Length } else { Framing::Dot };
        *self = Exchange {
            script: std::mem::take(&mut self.script),
            ends: std::mem::take(&mut self.ends),
            reset,
            fates: mail.recipients.iter().map(|_| Fate::Waiting).collect(),
            body: BodyWriter::new(mail.body.clone(), framing),
            framing,
            ..Exchange::default()
        };
        self.script.clear();
        self.ends.clear();
        if reset {
            self.push(format_args!("RSET\r\n"));
        }
        let size = SizeParameter(peer.size.map(|_| mail.body.len()));
        let body = if needs.eight_bit { " BODY=8BITMIME" } else { "" };
        let utf8 = if needs.utf8 { " SMTPUTF8" } else { "" };
        let request = mail.request.filter(|_| peer.dsn);
        let asked = MailRequest(request);
        match mail.sender {
            Some(sender) => self.push(format_args!("MAIL FROM:<{sender}>{size}{body}{utf8}{asked}\r\n")),
            None => self.push(format_args!("MAIL FROM:<>{size}{body}{utf8}{asked}\r\n")),
        }
        for recipient in mail.recipients {
            let asked = RcptRequest(request.and_then(|request| request.recipients.get(recipient)));
            self.push(format_args!("RCPT TO:<{recipient}>{asked}\r\n"));
        }
        match framing {
            Framing::Dot => self.push(format_args!("DATA\r\n")),
            Framing::Length => self.push(format_args!("BDAT {} LAST\r\n", self.body.length())),
        }
    }

    fn push(&mut self, command: std::fmt::Arguments<'_>) {
        use std::io::Write;
        // Writing into memory cannot fail.
        let _ = self.script.write_fmt(command);
        self.ends.push(self.script.len());
    }

    /// The command that the next reply answers, or that is sent next when all are answered.
    pub(super) fn current(&self) -> Command {
        let at = self.answered;
        let first = usize::from(self.reset);
        if at < first {
            Command::Reset
        } else if at == first {
            Command::Mail
        } else if at - first <= self.fates.len() {
            Command::Recipient(at - first - 1)
        } else {
            match self.framing {
                Framing::Dot => Command::Data,
                Framing::Length => Command::Chunk,
            }
        }
    }

    /// The reply to `current` has come.
    pub(super) fn advance(&mut self) {
        self.answered += 1;
    }

    /// Whether replies to commands already sent are still due.
    pub(super) fn is_due(&self) -> bool {
        self.answered < self.sent
    }

    /// Puts the next group on the wire: one command, or as many as may be pipelined. A small body goes with its BDAT; a
    /// large one waits until it is known that somebody is to get it. `true`: BDAT went alone, and the body is to follow.
    pub(super) fn send(&mut self, out: &mut Vec<u8>, pipelining: bool) -> bool {
        let start = self.sent.checked_sub(1).map_or(0, |last| self.ends[last]);
        let first = self.sent;
        let mut end = start;
        while let Some(&next) = self.ends.get(self.sent) {
            let is_chunk = self.framing == Framing::Length && self.sent + 1 == self.ends.len();
            let must_wait = !pipelining || next - start > GROUP_MAX || is_chunk && !self.body.is_small();
            if end > start && must_wait {
                break;
            }
            end = next;
            self.sent += 1;
        }
        out.extend_from_slice(&self.script[start..end]);
        let chunk_sent = self.framing == Framing::Length && self.sent == self.ends.len();
        let alone = chunk_sent && self.sent == first + 1;
        if chunk_sent && !alone {
            self.body_in_group = self.body.fill(out);
        }
        alone
    }

    /// Whether the body goes behind BDAT.
    pub(super) fn ends_with_chunk(&self) -> bool {
        self.framing == Framing::Length
    }

    pub(super) fn has_accepted(&self) -> bool {
        self.fates.iter().any(|fate| matches!(fate, Fate::Accepted))
    }

    /// Settles everybody whose fate is open.
    pub(super) fn settle(&mut self, outcome: &Outcome) {
        for fate in &mut self.fates {
            if !matches!(fate, Fate::Settled(_)) {
                *fate = Fate::Settled(outcome.clone());
            }
        }
    }
}

/// What a message demands of the peer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Needs {
    /// RFC 6152.
    pub(super) eight_bit: bool,
    /// RFC 6531.
    pub(super) utf8: bool,
}

impl Needs {
    pub(super) fn of(mail: Mail<'_>) -> Needs {
        let eight_bit = !mail::seven_bit::is_seven_bit(mail.body);
        let in_envelope = mail.sender.iter().chain(mail.recipients).any(Address::is_internationalized);
        Needs { eight_bit, utf8: in_envelope || eight_bit && has_utf8_header(mail.body) }
    }
}

/// Whether the header holds UTF-8 beyond ASCII. Octets that are no UTF-8 are what senders of before RFC 6532 made.
fn has_utf8_header(message: &[u8]) -> bool {
    let end = memchr::memmem::find(message, b"\r\n\r\n").unwrap_or(message.len());
    let header = &message[..end];
    !header.is_ascii() && std::str::from_utf8(header).is_ok()
}

/// ` RET=…` and ` ENVID=…`, where they were given (RFC 3461 s5.2.1: as they were given).
struct MailRequest<'a>(Option<&'a HandedOn>);

impl std::fmt::Display for MailRequest<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Some(HandedOn { ret, envelope_id, .. }) = self.0 else { return Ok(()) };
        if let Some(ret) = ret {
            write!(f, " RET={ret}")?;
        }
        match envelope_id {
            Some(id) => write!(f, " ENVID={}", id.as_str()),
            None => Ok(()),
        }
    }
}

/// ` NOTIFY=…` and ` ORCPT=…`, where they were given.
struct RcptRequest<'a>(Option<&'a RecipientRequest>);

impl std::fmt::Display for RcptRequest<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Some(RecipientRequest { notify, original, .. }) = self.0 else { return Ok(()) };
        if let Some(notify) = notify {
            write!(f, " NOTIFY={notify}")?;
        }
        match original {
            Some(original) => write!(f, " ORCPT={}", original.as_str()),
            None => Ok(()),
        }
    }
}

/// ` SIZE=n`, or nothing where the peer does not know it (RFC 1870 s5: octets before dot-stuffing).
struct SizeParameter(Option<usize>);

impl std::fmt::Display for SizeParameter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(size) => write!(f, " SIZE={size}"),
            None => Ok(()),
        }
    }
}
