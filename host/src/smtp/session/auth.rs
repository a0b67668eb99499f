//! AUTH within a session (RFC 4954): who may give it when, and the exchange up to the credentials.

use super::{Action, Session, State, Verdict};
use crate::scram::Verifier;
use crate::smtp::auth::{AuthError, Exchange, Mechanism, Step};
use crate::smtp::command::sentence;

impl Session {
    /// Answers `Deliver` where the key that the session was opened with is not one any more: nothing is taken, and the
    /// connection ends.
    pub fn key_revoked(&mut self) {
        self.authenticated = false;
        self.close(535, (5, 7, 8), "The key was revoked: nothing more is taken with it");
    }

    /// Answers `FindVerifier`, with a fresh nonce of visible characters but the comma; `None`: it cannot be found now.
    pub fn challenge(&mut self, found: Option<(Verifier, &str)>) {
        let State::ExpectVerifier(first) = std::mem::replace(&mut self.state, State::ExpectMail) else { return };
        match found {
            Some((verifier, nonce)) => {
                let (exchange, step) = Exchange::challenge(*first, verifier, nonce);
                // A challenge asks the driver for nothing.
                self.auth_step(exchange, Ok(step));
            }
            None => self.authenticated(Verdict::Unknown),
        }
    }

    pub(super) fn auth(&mut self, mechanism: &str, initial: Option<&str>) -> Option<Action> {
        match self.state {
            State::ExpectHello => self.fail(503, (5, 5, 1), "Send EHLO first"),
            State::ExpectRcpt(_) | State::ExpectBdat(..) => {
                self.fail(503, (5, 5, 1), "AUTH is not possible within a mail transaction")
            }
            _ if self.authenticated => self.fail(503, (5, 5, 1), "Authenticated already"),
            _ if !self.link.secured && !self.link.plain_auth => {
                self.fail(538, (5, 7, 11), "A key may only be sent encrypted: give STARTTLS first");
            }
            _ => {
                let Some(mechanism) = Mechanism::named(mechanism) else {
                    self.fail(504, (5, 5, 4), "The mechanism is not known here: use PLAIN, LOGIN or SCRAM-SHA-256");
                    return None;
                };
                let (mut exchange, first) = Exchange::begin(mechanism);
                let step = initial.map_or(Ok(first), |response| exchange.initial(response));
                return self.auth_step(exchange, step);
            }
        }
        None
    }

    pub(super) fn auth_response(&mut self, line: &[u8]) -> Option<Action> {
        let State::ExpectAuthResponse(mut exchange) = std::mem::replace(&mut self.state, State::ExpectMail) else {
            return None;
        };
        // Octets above 127 are not base64, nor is a question mark.
        let step = exchange.feed(std::str::from_utf8(line).unwrap_or("?"));
        self.auth_step(exchange, step)
    }

    fn auth_step(&mut self, exchange: Exchange, step: Result<Step, AuthError>) -> Option<Action> {
        match step {
            Ok(Step::Challenge(challenge)) => {
                // Written by hand: the space must be there even where the challenge is empty (RFC 4954 s4).
                self.output.extend_from_slice(format!("334 {challenge}\r\n").as_bytes());
                self.state = State::ExpectAuthResponse(exchange);
                None
            }
            Ok(Step::Done(credentials)) => {
                self.state = State::ExpectVerdict;
                Some(Action::Authenticate(credentials))
            }
            Ok(Step::Find(first)) => {
                let username = first.username.clone();
                self.state = State::ExpectVerifier(Box::new(first));
                Some(Action::FindVerifier(username))
            }
            Ok(Step::Proved(is_right)) => {
                self.state = State::ExpectVerdict;
                Some(Action::Proved(is_right))
            }
            Err(error) => {
                let status = match error {
                    AuthError::Cancelled => (5, 7, 0),
                    AuthError::NotBase64 | AuthError::Malformed | AuthError::Scram(_) => (5, 5, 2),
                };
                self.fail(501, status, sentence(&error.to_string()));
                None
            }
        }
    }
}
