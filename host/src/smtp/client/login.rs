//! AUTH towards a relay (RFC 4954): PLAIN, or LOGIN where it offers nothing else.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use mail::Reply;

use super::{Client, Fault, State};

impl Client {
    pub(super) fn log_in(&mut self) {
        let Some(login) = &self.opening.login else {
            self.state = State::Ready;
            return;
        };
        if !self.encrypted && !self.opening.loopback {
            self.fail(Fault::AuthInClear);
        } else if self.capabilities.auth_plain {
            let response = BASE64.encode(format!("\0{}\0{}", login.username, login.password));
            self.say(&format!("AUTH PLAIN {response}"), State::ExpectAuth);
        } else if self.capabilities.auth_login {
            self.say("AUTH LOGIN", State::ExpectUserPrompt);
        } else {
            self.fail(Fault::NoAuth);
        }
    }

    pub(super) fn on_auth(&mut self, reply: Reply) {
        let login = self.opening.login.as_ref();
        match (reply.code / 100, self.state, login) {
            (3, State::ExpectUserPrompt, Some(login)) => {
                let user = BASE64.encode(&login.username);
                self.say(&user, State::ExpectPasswordPrompt);
            }
            (3, State::ExpectPasswordPrompt, Some(login)) => {
                let password = BASE64.encode(&login.password);
                self.say(&password, State::ExpectAuth);
            }
            (2, State::ExpectAuth, _) => self.state = State::Ready,
            (4 | 5, _, _) => self.fail(Fault::AuthRefused(reply)),
            _ => self.fail(Fault::Unexpected(reply)),
        }
    }
}
