//! The mail transaction of a session (RFC 5321 s3.3): MAIL, RCPT, DATA and the text, up to a message that came in whole.

use std::collections::HashSet;

use mail::{Address, Envelope, ReversePath, dsn};

use super::{Action, Arrived, FIRST_ROOM_OCTETS, Session, State};
use crate::smtp::command::{CommandError, MailParameters, RECIPIENT, sentence};
use crate::smtp::text::{Progress, TextFault};

/// MAIL and what followed.
#[derive(Debug)]
pub(super) struct Transaction {
    sender: ReversePath,
    eight_bit: bool,
    utf8: bool,
    request: dsn::Request,
    pub(super) recipients: Vec<Address>,
    seen: HashSet<Address>,
    /// Whether a recipient was refused: tells DATA without recipients from DATA too early.
    pub(super) refused: bool,
}

impl Session {
    pub(super) fn mail(&mut self, sender: ReversePath, parameters: MailParameters) -> Option<Action> {
        match self.state {
            State::ExpectHello => {
                self.fail(503, (5, 5, 1), "Send EHLO first");
                return None;
            }
            State::ExpectRcpt(_) | State::ExpectBdat(..) => {
                self.fail(503, (5, 5, 1), "A mail transaction is under way: end it with DATA or RSET");
                return None;
            }
            _ => {}
        }
        if !self.link.trusted && !self.authenticated {
            let text = if self.link.secured || self.link.plain_auth {
                "Authentication required: give AUTH with an API key as the password"
            } else {
                "Authentication required: give STARTTLS, then AUTH with an API key as the password"
            };
            self.fail(530, (5, 7, 0), text);
            return None;
        }
        let limit = self.settings.message_bytes;
        if let Some(size) = parameters.size.filter(|&size| size > limit) {
            let text = format!("A message of {size} octets is larger than the limit of {limit} octets");
            self.say(552, Some((5, 3, 4)), text);
            return None;
        }
        let transaction = Box::new(Transaction {
            sender,
            eight_bit: parameters.eight_bit,
            utf8: parameters.utf8,
            request: dsn::Request {
                ret: parameters.ret,
                envelope_id: parameters.envelope_id,
                ..dsn::Request::default()
            },
            recipients: Vec::new(),
            seen: HashSet::new(),
            refused: false,
        });
        // A client that is told now need not send it all in vain.
        match parameters.size.filter(|&size| size > FIRST_ROOM_OCTETS as u64) {
            Some(size) => {
                self.state = State::ExpectOutlook(transaction);
                Some(Action::Outlook(size))
            }
            None => {
                self.state = State::ExpectRcpt(transaction);
                self.say(250, Some((2, 1, 0)), "Ok");
                None
            }
        }
    }

    pub(super) fn rcpt(
        &mut self,
        recipient: Address,
        internationalized: bool,
        request: Option<Box<dsn::RecipientRequest>>,
    ) {
        let limit = self.settings.recipients;
        let State::ExpectRcpt(transaction) = &mut self.state else {
            // Not counted: it follows a refused MAIL in a pipelined group.
            return self.say(503, Some((5, 5, 1)), "Send MAIL first");
        };
        if internationalized && !transaction.utf8 {
            transaction.refused = true;
            return self.output.extend_from_slice(&CommandError::NotAscii(RECIPIENT).reply().to_wire());
        }
        if transaction.seen.contains(&recipient) {
            return self.say(250, Some((2, 1, 5)), "Ok, the recipient was named before");
        }
        if transaction.recipients.len() >= limit {
            transaction.refused = true;
            let text = format!("Too many recipients: one message may have {limit}, send the rest in another");
            return self.say(452, Some((4, 5, 3)), text);
        }
        if let (Some(request), Ok(place)) = (request, u32::try_from(transaction.recipients.len())) {
            transaction.request.recipients.insert(place, *request);
        }
        transaction.seen.insert(recipient.clone());
        transaction.recipients.push(recipient);
        self.say(250, Some((2, 1, 5)), "Ok");
    }

    pub(super) fn data(&mut self) -> Option<Action> {
        match std::mem::replace(&mut self.state, State::ExpectMail) {
            State::ExpectRcpt(transaction) if !transaction.recipients.is_empty() => {
                self.state = State::ExpectFirstRoom(transaction, None);
                return Some(Action::Room(FIRST_ROOM_OCTETS));
            }
            State::ExpectRcpt(transaction) => {
                let (code, text) =
                    if transaction.refused { (554, "No recipient was accepted") } else { (503, "Send RCPT first") };
                self.state = State::ExpectRcpt(transaction);
                self.say(code, Some((5, 5, 1)), text);
            }
            state => {
                self.state = state;
                self.say(503, Some((5, 5, 1)), "Send MAIL first");
            }
        }
        None
    }

    pub(super) fn read_text(&mut self) -> Option<Action> {
        let State::ExpectText(transaction, mut receiver) = std::mem::replace(&mut self.state, State::ExpectMail) else {
            return None;
        };
        let mut progress = Progress::More;
        if !self.inbound.is_empty() {
            self.inbound.take(|bytes| {
                let (used, wanted) = receiver.receive(bytes);
                progress = wanted;
                used
            });
        }
        match progress {
            Progress::More => {
                self.milestones += u64::from(receiver.passed_block());
                self.state = State::ExpectText(transaction, receiver);
                Some(Action::Read)
            }
            Progress::Room(octets) => {
                self.state = State::ExpectRoom(transaction, receiver, octets, None);
                Some(Action::Room(octets))
            }
            Progress::End(Ok(message)) => Some(self.arrived(*transaction, message)),
            Progress::End(Err(fault)) => {
                self.say_text_fault(fault);
                None
            }
            Progress::Absurd(limit) => {
                self.say_text_fault(TextFault::TooLarge(limit));
                self.state = State::Closed;
                None
            }
        }
    }

    /// A message is here in whole.
    pub(super) fn arrived(&mut self, transaction: Transaction, message: Vec<u8>) -> Action {
        self.state = State::ExpectAcceptance;
        let Transaction { sender, recipients, eight_bit, utf8, request, .. } = transaction;
        let envelope = Envelope { sender, recipients };
        Action::Deliver(Box::new(Arrived { envelope, request, message, eight_bit, utf8 }))
    }

    pub(super) fn say_text_fault(&mut self, fault: TextFault) {
        let (code, status) = match fault {
            TextFault::BareLineEnd(_) | TextFault::LongLine(_) => (550, (5, 6, 0)),
            TextFault::TooLarge(_) => (552, (5, 3, 4)),
            TextFault::NoRoom => (452, (4, 3, 1)),
        };
        self.say(code, Some(status), sentence(&fault.to_string()));
    }
}
