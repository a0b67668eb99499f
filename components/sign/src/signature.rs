//! One DKIM-Signature field for every identity of the From domain; all of them or none.

use contract::{Algorithm, Identity, KeyError, RawHeader, Signatures, SignerInput, StageError};
use mail::dkim::{self, Parameters, Unsigned};
use mail::header::Field;

/// `posthaste:keys`, as the signer sees it.
pub trait Keys {
    /// The identities to sign with for a From domain.
    fn identities(&self, domain: &str) -> Result<Vec<Identity>, KeyError>;
    /// Signs a SHA-256 digest.
    fn sign_digest(&self, key_id: &str, digest: &[u8]) -> Result<Vec<u8>, KeyError>;
}

/// Signs a message that is given by its header and its body's hash.
///
/// No identities give no signatures. A key that fails, between the two calls too, fails the whole: a message signed
/// with half of its keys would be judged by the half that is missing.
pub fn sign(keys: &impl Keys, input: &SignerInput) -> Result<Signatures, StageError> {
    let identities = keys.identities(&input.domain).map_err(unavailable)?;
    if identities.is_empty() {
        return Ok(Signatures::default());
    }
    let body_hash = input.body_hash.as_slice().try_into().map_err(|_| {
        StageError::Unavailable(format!("the body hash has {} bytes instead of 32", input.body_hash.len()))
    })?;
    let fields: Vec<Field<'_>> =
        input.headers.iter().map(|header| Field { name: &header.name, value: &header.value }).collect();
    let headers = identities
        .iter()
        .map(|identity| {
            let unsigned = Unsigned::new(
                &fields,
                &Parameters {
                    domain: &identity.domain,
                    selector: &identity.selector,
                    algorithm: algorithm(identity.algorithm),
                    timestamp_s: input.timestamp_s,
                    body_hash,
                },
            );
            let signature = keys.sign_digest(&identity.key_id, &unsigned.digest()).map_err(unavailable)?;
            if signature.is_empty() {
                return Err(StageError::Unavailable(format!("key `{}` gave an empty signature", identity.key_id)));
            }
            let value = unsigned.finish(&signature).into_bytes();
            Ok(RawHeader { name: "DKIM-Signature".to_owned(), value })
        })
        .collect::<Result<_, _>>()?;
    Ok(Signatures { headers, attributes: Vec::new() })
}

fn algorithm(algorithm: Algorithm) -> dkim::Algorithm {
    match algorithm {
        Algorithm::RsaSha256 => dkim::Algorithm::RsaSha256,
        Algorithm::Ed25519Sha256 => dkim::Algorithm::Ed25519Sha256,
    }
}

fn unavailable(error: KeyError) -> StageError {
    StageError::Unavailable(match error {
        KeyError::UnknownKey(key) => format!("the key `{key}` is gone"),
        KeyError::Unavailable(text) => format!("the keys cannot be used: {text}"),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::cell::RefCell;

    use super::*;

    /// Signs by repeating the digest, and remembers what it was asked.
    #[derive(Default)]
    struct Double {
        identities: Vec<Identity>,
        broken: Option<&'static str>,
        empty: bool,
        asked: RefCell<Vec<(String, Vec<u8>)>>,
    }

    impl Keys for Double {
        fn identities(&self, domain: &str) -> Result<Vec<Identity>, KeyError> {
            match domain {
                "down.test" => Err(KeyError::Unavailable("no variable".to_owned())),
                "src.test" => Ok(self.identities.clone()),
                _ => Ok(vec![]),
            }
        }

        fn sign_digest(&self, key_id: &str, digest: &[u8]) -> Result<Vec<u8>, KeyError> {
            if self.broken == Some(key_id) {
                return Err(KeyError::UnknownKey(key_id.to_owned()));
            }
            self.asked.borrow_mut().push((key_id.to_owned(), digest.to_vec()));
            Ok(if self.empty { vec![] } else { digest.to_vec() })
        }
    }

    fn both() -> Vec<Identity> {
        [("r1", Algorithm::RsaSha256), ("e1", Algorithm::Ed25519Sha256)]
            .map(|(selector, algorithm)| Identity {
                domain: "src.test".to_owned(),
                selector: selector.to_owned(),
                algorithm,
                key_id: format!("dkim_{selector}"),
            })
            .to_vec()
    }

    fn input(domain: &str) -> SignerInput {
        let header = |name: &str, value: &[u8]| RawHeader { name: name.to_owned(), value: value.to_vec() };
        SignerInput {
            headers: vec![header("From", b" a@src.test"), header("Subject", b" Hi\r\n there"), header("X-A", b" 1")],
            body_hash: dkim::body_hash(b"Hi\r\n").to_vec(),
            domain: domain.to_owned(),
            timestamp_s: 1_700_000_000,
            attributes: vec![],
        }
    }

    fn check_unavailable(keys: &Double, input: &SignerInput, words: &str) {
        match sign(keys, input) {
            Err(StageError::Unavailable(text)) => assert!(text.contains(words), "{text}"),
            other => unreachable!("{other:?}"),
        }
    }

    #[test]
    fn every_identity_signs() {
        let keys = Double { identities: both(), ..Default::default() };
        let signatures = sign(&keys, &input("src.test")).unwrap();
        let values: Vec<String> =
            signatures.headers.iter().map(|header| String::from_utf8(header.value.clone()).unwrap()).collect();
        assert!(signatures.headers.iter().all(|header| header.name == "DKIM-Signature"));
        assert_eq!(values.len(), 2);
        for (value, tags) in values.iter().zip([["a=rsa-sha256", "s=r1"], ["a=ed25519-sha256", "s=e1"]]) {
            for tag in tags.iter().chain(&["d=src.test", "t=1700000000", "c=relaxed/relaxed"]) {
                assert!(value.contains(tag), "{tag} in {value}");
            }
            assert!(!value.contains("l="), "{value}");
        }
        let asked = keys.asked.borrow();
        assert_eq!(asked.iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>(), ["dkim_r1", "dkim_e1"]);
        assert!(asked.iter().all(|(_, digest)| digest.len() == 32));
    }

    #[test]
    fn no_identity_is_no_error() {
        assert_eq!(sign(&Double::default(), &input("src.test")), Ok(Signatures::default()));
        assert_eq!(
            sign(&Double { identities: both(), ..Default::default() }, &input("other.test")),
            Ok(Signatures::default())
        );
    }

    #[test]
    fn half_of_the_keys_is_none() {
        let broken = Double { identities: both(), broken: Some("dkim_e1"), ..Default::default() };
        check_unavailable(&broken, &input("src.test"), "`dkim_e1` is gone");
        check_unavailable(&Double::default(), &input("down.test"), "no variable");
        check_unavailable(
            &Double { identities: both(), empty: true, ..Default::default() },
            &input("src.test"),
            "empty",
        );
        let mut short = input("src.test");
        short.body_hash.pop();
        check_unavailable(&Double { identities: both(), ..Default::default() }, &short, "31 bytes");
    }
}
