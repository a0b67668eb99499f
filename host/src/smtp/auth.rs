//! SASL PLAIN (RFC 4616), LOGIN and SCRAM-SHA-256 (RFC 7677), as the AUTH command carries them (RFC 4954): an exchange is
//! fed the client's responses and ends in credentials, or in a proof.

use std::borrow::Cow;
use std::fmt;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use thiserror::Error;

use crate::scram::{Challenged, ClientFirst, ScramError, Verifier};

/// Clients differ on padding; it carries nothing.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What a client says who it is.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    pub username: String,
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}

/// A mechanism we offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mechanism {
    Plain,
    Login,
    ScramSha256,
}

impl Mechanism {
    /// By its name in upper case.
    pub fn named(name: &str) -> Option<Mechanism> {
        match name {
            "PLAIN" => Some(Mechanism::Plain),
            "LOGIN" => Some(Mechanism::Login),
            "SCRAM-SHA-256" => Some(Mechanism::ScramSha256),
            _ => None,
        }
    }
}

/// Why an exchange ended without credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AuthError {
    #[error("the client called the authentication off")]
    Cancelled,
    #[error("the response is not base64")]
    NotBase64,
    #[error("the response is not what the mechanism expects")]
    Malformed,
    #[error(transparent)]
    Scram(#[from] ScramError),
}

/// What an exchange wants next.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Send this challenge (base64, may be empty) and feed the response.
    Challenge(Cow<'static, str>),
    Done(Credentials),
    /// Find what is stored of this user's key and go on with `challenge`.
    Find(ClientFirst),
    /// The client has shown that it knows the key, or that it does not.
    Proved(bool),
}

/// An exchange, named for what it awaits.
#[derive(Debug)]
pub enum Exchange {
    ExpectPlain,
    ExpectUsername,
    ExpectPassword {
        username: String,
    },
    ExpectScramFirst,
    ExpectProof(Box<Challenged>),
    /// The empty response to the server's last message (RFC 4954 s4).
    ExpectEnd,
}

/// `Username:` and `Password:`.
const USERNAME: &str = "VXNlcm5hbWU6";
const PASSWORD: &str = "UGFzc3dvcmQ6";

impl Exchange {
    /// Begins an exchange; what it wants first.
    pub fn begin(mechanism: Mechanism) -> (Exchange, Step) {
        match mechanism {
            Mechanism::Plain => (Exchange::ExpectPlain, Step::Challenge("".into())),
            Mechanism::Login => (Exchange::ExpectUsername, Step::Challenge(USERNAME.into())),
            Mechanism::ScramSha256 => (Exchange::ExpectScramFirst, Step::Challenge("".into())),
        }
    }

    /// Goes on from the client's first SCRAM message. `nonce` is fresh, of visible characters but the comma.
    pub fn challenge(first: ClientFirst, verifier: Verifier, nonce: &str) -> (Exchange, Step) {
        let (challenge, challenged) = first.challenge(verifier, nonce);
        (Exchange::ExpectProof(Box::new(challenged)), Step::Challenge(BASE64.encode(challenge).into()))
    }

    /// Feeds an initial response, where `=` stands for an empty one (RFC 4954 s4).
    pub fn initial(&mut self, response: &str) -> Result<Step, AuthError> {
        self.feed(if response == "=" { "" } else { response })
    }

    /// Feeds a response: base64, or `*` to call it off.
    pub fn feed(&mut self, response: &str) -> Result<Step, AuthError> {
        if response == "*" {
            return Err(AuthError::Cancelled);
        }
        let response = BASE64.decode(response).map_err(|_| AuthError::NotBase64)?;
        let response = String::from_utf8(response).map_err(|_| AuthError::Malformed)?;
        match std::mem::replace(self, Exchange::ExpectUsername) {
            Exchange::ExpectPlain => plain(&response).map(Step::Done).ok_or(AuthError::Malformed),
            Exchange::ExpectUsername => {
                *self = Exchange::ExpectPassword { username: response };
                Ok(Step::Challenge(PASSWORD.into()))
            }
            Exchange::ExpectPassword { username } => Ok(Step::Done(Credentials { username, password: response })),
            Exchange::ExpectScramFirst => Ok(Step::Find(response.parse()?)),
            Exchange::ExpectProof(challenged) => match challenged.prove(&response)? {
                Some(last) => {
                    *self = Exchange::ExpectEnd;
                    Ok(Step::Challenge(BASE64.encode(last).into()))
                }
                None => Ok(Step::Proved(false)),
            },
            Exchange::ExpectEnd if response.is_empty() => Ok(Step::Proved(true)),
            Exchange::ExpectEnd => Err(AuthError::Malformed),
        }
    }
}

/// `authorization-id NUL user NUL password`; the first is not used: a key is its own authority.
fn plain(response: &str) -> Option<Credentials> {
    let mut parts = response.split('\0');
    let (_, username, password) = (parts.next()?, parts.next()?, parts.next()?);
    let complete = parts.next().is_none();
    complete.then(|| Credentials { username: username.to_owned(), password: password.to_owned() })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn run(mechanism: Mechanism, responses: &[&str]) -> Result<Step, AuthError> {
        let (mut exchange, mut step) = Exchange::begin(mechanism);
        for response in responses {
            step = exchange.feed(response)?;
        }
        Ok(step)
    }

    fn credentials(username: &str, password: &str) -> Result<Step, AuthError> {
        Ok(Step::Done(Credentials { username: username.to_owned(), password: password.to_owned() }))
    }

    #[test]
    fn plain_in_one_response() {
        assert_eq!(run(Mechanism::Plain, &[]), Ok(Step::Challenge("".into())));
        // NUL user NUL key; then with an authorization id; then without padding.
        assert_eq!(run(Mechanism::Plain, &["AHVzZXIAa2V5"]), credentials("user", "key"));
        assert_eq!(run(Mechanism::Plain, &["aWQAdXNlcgBrZXk="]), credentials("user", "key"));
        assert_eq!(run(Mechanism::Plain, &["aWQAdXNlcgBrZXk"]), credentials("user", "key"));
        assert_eq!(run(Mechanism::Plain, &["AABrZXk="]), credentials("", "key"));
    }

    #[test]
    fn login_in_two_responses() {
        assert_eq!(run(Mechanism::Login, &[]), Ok(Step::Challenge("VXNlcm5hbWU6".into())));
        assert_eq!(run(Mechanism::Login, &["dXNlcg=="]), Ok(Step::Challenge("UGFzc3dvcmQ6".into())));
        assert_eq!(run(Mechanism::Login, &["dXNlcg==", "a2V5"]), credentials("user", "key"));
        let (mut exchange, _) = Exchange::begin(Mechanism::Login);
        assert_eq!(exchange.initial("="), Ok(Step::Challenge("UGFzc3dvcmQ6".into())));
        assert_eq!(exchange.feed("a2V5"), credentials("", "key"));
    }

    #[test]
    fn what_is_wrong_is_told() {
        assert_eq!(run(Mechanism::Plain, &["*"]), Err(AuthError::Cancelled));
        assert_eq!(run(Mechanism::Login, &["dXNlcg==", "*"]), Err(AuthError::Cancelled));
        assert_eq!(run(Mechanism::Plain, &["!"]), Err(AuthError::NotBase64));
        assert_eq!(run(Mechanism::Plain, &["dXNlcg=="]), Err(AuthError::Malformed));
        assert_eq!(run(Mechanism::Plain, &["AGEAYgBj"]), Err(AuthError::Malformed));
        assert_eq!(run(Mechanism::Plain, &["/w=="]), Err(AuthError::Malformed));
    }

    #[test]
    fn a_password_is_never_printed() {
        let shown = format!("{:?}", Credentials { username: "u".to_owned(), password: "hidden".to_owned() });
        assert!(!shown.contains("hidden"), "{shown}");
    }
}
