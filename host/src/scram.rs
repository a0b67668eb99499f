//! SCRAM-SHA-256 (RFC 5802, RFC 7677), the server's side: what is stored of a password, and the exchange that shows that
//! a client knows it. Without I/O, clock and randomness.
//!
//! There is no channel binding: SCRAM-SHA-256-PLUS is not offered, so a client may say that it knows such (`y`), and one
//! that demands it (`p=`) is refused. Passwords are API keys, which are visible ASCII: SASLprep (RFC 4013) leaves them as
//! they are, so it is not done. Checking a proof costs four HMACs; only making a verifier iterates.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

use aws_lc_rs::{constant_time, digest, hmac, pbkdf2};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use thiserror::Error;

/// The least that RFC 7677 s4 asks for. Keys are random: more would cost clients time and guessers nothing.
pub const ITERATIONS: NonZeroU32 = NonZeroU32::MIN.saturating_add(4095);

/// Octets of a salt, and of everything SHA-256.
pub const SALT_OCTETS: usize = 16;
const HASH_OCTETS: usize = 32;

/// Characters of a client's nonce, and of a user name: longer ones are nobody's.
const NONCE_CHARS: usize = 256;
const USER_CHARS: usize = 256;

/// What is stored of a password (RFC 5802 s3). Nobody who reads it can log in with it.
#[derive(Clone, PartialEq, Eq)]
pub struct Verifier {
    pub iterations: NonZeroU32,
    pub salt: [u8; SALT_OCTETS],
    stored_key: [u8; HASH_OCTETS],
    server_key: [u8; HASH_OCTETS],
}

/// Why a client's message ends the exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ScramError {
    #[error("the SCRAM message is not what RFC 5802 asks for")]
    Malformed,
    #[error("channel binding is not offered here: use SCRAM-SHA-256 without it")]
    ChannelBinding,
    #[error("the SCRAM message has an extension that is not known here")]
    Extension,
    #[error("an authorization id other than the user name is not known here: leave it out")]
    Authorization,
}

/// The client's first message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientFirst {
    /// Whom the client says it is.
    pub username: String,
    /// `n,,` or `y,,`: it comes again in the last message.
    gs2: String,
    bare: String,
    nonce: String,
}

/// An exchange that awaits the client's proof.
#[derive(Clone, Debug)]
pub struct Challenged {
    verifier: Verifier,
    /// `base64(gs2)`, and both nonces.
    binding: String,
    nonce: String,
    /// Of the first two messages.
    said: String,
}

impl Verifier {
    /// That of a password. Iterates, which takes a millisecond or so.
    pub fn make(password: &str, salt: [u8; SALT_OCTETS], iterations: NonZeroU32) -> Verifier {
        let mut salted = [0; HASH_OCTETS];
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, &salt, password.as_bytes(), &mut salted);
        let client_key = mac(&salted, b"Client Key");
        Verifier { iterations, salt, stored_key: hash(&client_key), server_key: mac(&salted, b"Server Key") }
    }

    /// One that no password fits, for a user who is not there: with the same salt each time.
    pub fn of_nobody(salt: [u8; SALT_OCTETS]) -> Verifier {
        // No hash of anything that anybody knows.
        Verifier { iterations: ITERATIONS, salt, stored_key: [0; HASH_OCTETS], server_key: [0; HASH_OCTETS] }
    }
}

/// Never prints what is in it.
impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Verifier")
    }
}

/// As it is stored: `SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey`, which other servers know too (RFC 5803 s3 has
/// its parts).
impl fmt::Display for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [salt, stored, server] =
            [&self.salt[..], &self.stored_key, &self.server_key].map(|octets| STANDARD.encode(octets));
        write!(f, "SCRAM-SHA-256${}:{salt}${stored}:{server}", self.iterations)
    }
}

impl FromStr for Verifier {
    type Err = ScramError;

    fn from_str(text: &str) -> Result<Verifier, ScramError> {
        let read = || {
            let (salted, keys) = text.strip_prefix("SCRAM-SHA-256$")?.split_once('$')?;
            let ((iterations, salt), (stored, server)) = (salted.split_once(':')?, keys.split_once(':')?);
            Some(Verifier {
                iterations: iterations.parse().ok()?,
                salt: octets(salt)?,
                stored_key: octets(stored)?,
                server_key: octets(server)?,
            })
        };
        read().ok_or(ScramError::Malformed)
    }
}

impl FromStr for ClientFirst {
    type Err = ScramError;

    /// `n,,n=user,r=nonce` (RFC 5802 s7).
    fn from_str(text: &str) -> Result<ClientFirst, ScramError> {
        let mut parts = text.splitn(3, ',');
        let (flag, authorization) = (parts.next().unwrap_or_default(), parts.next().ok_or(ScramError::Malformed)?);
        let bare = parts.next().ok_or(ScramError::Malformed)?;
        match flag {
            "n" | "y" => {}
            _ if flag.starts_with("p=") => return Err(ScramError::ChannelBinding),
            _ => return Err(ScramError::Malformed),
        }
        if bare.starts_with("m=") {
            return Err(ScramError::Extension);
        }
        let (user, rest) = bare.split_once(',').ok_or(ScramError::Malformed)?;
        // What stands behind the nonce are extensions, which may be left unread.
        let nonce = rest.split(',').next().and_then(|nonce| nonce.strip_prefix("r=")).ok_or(ScramError::Malformed)?;
        let username = user.strip_prefix("n=").and_then(saslname).ok_or(ScramError::Malformed)?;
        match authorization.strip_prefix("a=").map(saslname) {
            None if authorization.is_empty() => {}
            None | Some(None) => return Err(ScramError::Malformed),
            Some(Some(id)) if id == username => {}
            Some(Some(_)) => return Err(ScramError::Authorization),
        }
        let is_nonce = !nonce.is_empty() && nonce.len() <= NONCE_CHARS && nonce.bytes().all(|it| it.is_ascii_graphic());
        if !is_nonce || username.len() > USER_CHARS {
            return Err(ScramError::Malformed);
        }
        let gs2 = format!("{flag},{authorization},");
        Ok(ClientFirst { username, gs2, bare: bare.to_owned(), nonce: nonce.to_owned() })
    }
}

impl ClientFirst {
    /// The server's first message, and what awaits the proof. `nonce` is fresh, of visible characters but the comma.
    pub fn challenge(self, verifier: Verifier, nonce: &str) -> (String, Challenged) {
        let nonce = format!("{}{nonce}", self.nonce);
        let first = format!("r={nonce},s={},i={}", STANDARD.encode(verifier.salt), verifier.iterations);
        let (binding, said) = (STANDARD.encode(&self.gs2), format!("{},{first}", self.bare));
        (first, Challenged { verifier, binding, nonce, said })
    }
}

impl Challenged {
    /// The server's last message where the client's proves that it knows the password; `None` where it does not.
    pub fn prove(&self, last: &str) -> Result<Option<String>, ScramError> {
        let (unproved, proof) = last.rsplit_once(",p=").ok_or(ScramError::Malformed)?;
        let mut parts = unproved.split(',');
        let binding = parts.next().and_then(|part| part.strip_prefix("c=")).ok_or(ScramError::Malformed)?;
        let nonce = parts.next().and_then(|part| part.strip_prefix("r=")).ok_or(ScramError::Malformed)?;
        let proof: [u8; HASH_OCTETS] = octets(proof).ok_or(ScramError::Malformed)?;
        if binding != self.binding || nonce != self.nonce {
            return Err(ScramError::Malformed);
        }
        let said = format!("{},{unproved}", self.said);
        let signature = mac(&self.verifier.stored_key, said.as_bytes());
        let mut client_key = proof;
        client_key.iter_mut().zip(signature).for_each(|(octet, signed)| *octet ^= signed);
        let is_right = constant_time::verify_slices_are_equal(&hash(&client_key), &self.verifier.stored_key).is_ok();
        let signed = mac(&self.verifier.server_key, said.as_bytes());
        Ok(is_right.then(|| format!("v={}", STANDARD.encode(signed))))
    }
}

/// A name with `=2C` and `=3D` undone; `None` for any other `=` and for an empty one.
fn saslname(text: &str) -> Option<String> {
    let mut parts = text.split('=');
    let mut name = parts.next()?.to_owned();
    for part in parts {
        let (escaped, rest) = part.split_at_checked(2)?;
        name.push(match escaped {
            "2C" => ',',
            "3D" => '=',
            _ => return None,
        });
        name.push_str(rest);
    }
    (!name.is_empty() && !name.contains('\0')).then_some(name)
}

fn octets<const N: usize>(text: &str) -> Option<[u8; N]> {
    STANDARD.decode(text).ok()?.try_into().ok()
}

fn mac(key: &[u8], said: &[u8]) -> [u8; HASH_OCTETS] {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), said);
    let mut octets = [0; HASH_OCTETS];
    octets.copy_from_slice(tag.as_ref());
    octets
}

fn hash(octets: &[u8]) -> [u8; HASH_OCTETS] {
    let mut hashed = [0; HASH_OCTETS];
    hashed.copy_from_slice(digest::digest(&digest::SHA256, octets).as_ref());
    hashed
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use super::*;

    /// RFC 7677 s3.
    pub(crate) const NONCE: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    const FIRST: &str = "n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
    const LAST: &str =
        "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";

    pub(crate) fn pencil() -> Verifier {
        Verifier::make("pencil", octets("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap(), ITERATIONS)
    }

    #[test]
    fn the_example_of_rfc_7677() {
        let first: ClientFirst = FIRST.parse().unwrap();
        assert_eq!(first.username, "user");
        let (challenge, challenged) = first.challenge(pencil(), NONCE);
        let expect = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        assert_eq!(challenge, expect);
        let last = challenged.prove(LAST).unwrap();
        assert_eq!(last.as_deref(), Some("v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="));
    }

    #[test]
    fn a_wrong_proof_proves_nothing() {
        let challenged = |verifier| FIRST.parse::<ClientFirst>().unwrap().challenge(verifier, NONCE).1;
        let wrong = LAST.replace("p=dHzb", "p=eHzb");
        assert_eq!(challenged(pencil()).prove(&wrong), Ok(None));
        assert_eq!(challenged(Verifier::of_nobody([1; SALT_OCTETS])).prove(LAST), Ok(None));
        for malformed in [
            "",
            "c=biws",
            &LAST.replace("c=biws", "c=eSws"),
            &LAST.replace("$k0", "$k1"),
            &LAST.replace("p=dHzb", "p=dHz"),
        ] {
            assert_eq!(challenged(pencil()).prove(malformed), Err(ScramError::Malformed), "{malformed}");
        }
    }

    #[test]
    fn first_messages() {
        let check = |text: &str, expect: Result<&str, ScramError>| {
            let read = text.parse::<ClientFirst>().map(|first| first.username);
            assert_eq!(read, expect.map(str::to_owned), "{text}");
        };
        check("y,,n=u,r=abc", Ok("u"));
        check("n,a=u,n=u,r=abc,x=1", Ok("u"));
        check("n,,n=a=2Cb=3Dc,r=abc", Ok("a,b=c"));
        check("p=tls-exporter,,n=u,r=abc", Err(ScramError::ChannelBinding));
        check("n,a=v,n=u,r=abc", Err(ScramError::Authorization));
        check("n,,m=x,n=u,r=abc", Err(ScramError::Extension));
        let long = format!("n,,n=u,r={}", "x".repeat(257));
        for text in [
            "",
            "n",
            "n,",
            "n,,",
            "n,,n=u",
            "n,,n=,r=a",
            "n,,n=u,r=",
            "n,,n=a=b,r=x",
            "n,,n=a=2,r=x",
            "x,,n=u,r=a",
            &long,
        ] {
            check(text, Err(ScramError::Malformed));
        }
        check("n,b,n=u,r=abc", Err(ScramError::Malformed));
    }

    #[test]
    fn a_verifier_is_stored_as_text_and_never_printed() {
        let stored = pencil().to_string();
        assert!(stored.starts_with("SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$"), "{stored}");
        assert_eq!(stored.parse(), Ok(pencil()));
        assert_eq!(format!("{:?}", pencil()), "Verifier");
        for at in 0..stored.len() {
            assert!(stored[..at].parse::<Verifier>().is_err(), "{at}");
        }
    }

    #[test]
    fn no_bytes_panic() {
        for text in [FIRST, LAST] {
            for at in 0..text.len() {
                for byte in [",", "=", "\u{e9}", "\0", "p="] {
                    let changed = format!("{}{byte}{}", &text[..at], &text[at + 1..]);
                    let _ = changed.parse::<ClientFirst>();
                    let _ = FIRST.parse::<ClientFirst>().unwrap().challenge(pencil(), NONCE).1.prove(&changed);
                }
            }
        }
    }
}
