//! A signer: DKIM (RFC 6376), relaxed/relaxed, with every key that the keeper of the keys has for the domain.

wit_bindgen::generate!({ path: "wit", world: "sign-stage", generate_all });

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

use exports::posthaste::signer::signer::{Guest, Signatures, SignerInput, StageError};
use posthaste::keys::keys;
use posthaste::types::types::{Algorithm, Identity, KeyError, RawHeader};

/// What is signed, where the message has it. A field that stands several times is signed as often.
const SIGNED: &[&str] = &[
    "from", "sender", "reply-to", "to", "cc", "subject", "date", "message-id", "mime-version", "content-type",
    "content-transfer-encoding",
];

struct Component;

impl Guest for Component {
    fn sign(input: SignerInput) -> Result<Signatures, StageError> {
        let identities = keys::identities(&input.domain).map_err(unavailable)?;
        let headers = identities.iter().map(|identity| signature(&input, identity)).collect::<Result<_, _>>()?;
        Ok(Signatures { headers, attributes: vec![] })
    }
}

/// One signature field. The digest goes to the keeper of the keys, who signs it; the key itself never comes here.
fn signature(input: &SignerInput, identity: &Identity) -> Result<RawHeader, StageError> {
    let mut names = Vec::new();
    let mut hash = Sha256::new();
    for name in SIGNED {
        // From the bottom up (RFC 6376 s5.4.2).
        for header in input.headers.iter().rev().filter(|header| header.name.trim().eq_ignore_ascii_case(name)) {
            names.push(*name);
            hash.update(canonical(name, &header.value));
            hash.update(b"\r\n");
        }
    }
    let algorithm = match identity.algorithm {
        Algorithm::RsaSha256 => "rsa-sha256",
        Algorithm::Ed25519Sha256 => "ed25519-sha256",
    };
    let value = format!(
        "v=1; a={algorithm}; c=relaxed/relaxed; d={}; s={}; t={};\r\n\th={};\r\n\tbh={};\r\n\tb=",
        identity.domain,
        identity.selector,
        input.timestamp_s,
        names.join(":"),
        STANDARD.encode(&input.body_hash),
    );
    hash.update(canonical("dkim-signature", value.as_bytes()));
    let signed = keys::sign_digest(&identity.key_id, &hash.finalize()).map_err(unavailable)?;
    let value = format!(" {value}{}", STANDARD.encode(signed));
    Ok(RawHeader { name: "DKIM-Signature".to_owned(), value: value.into_bytes() })
}

/// A field in relaxed canonical form, without its CRLF (RFC 6376 s3.4.2).
fn canonical(name: &str, value: &[u8]) -> Vec<u8> {
    let mut field = format!("{name}:").into_bytes();
    let words = value.split(|byte| b" \t\r\n".contains(byte)).filter(|word| !word.is_empty());
    for (number, word) in words.enumerate() {
        if number > 0 {
            field.push(b' ');
        }
        field.extend_from_slice(word);
    }
    field
}

fn unavailable(error: KeyError) -> StageError {
    StageError::Unavailable(match error {
        KeyError::UnknownKey(key) => format!("the key {key} is gone"),
        KeyError::Unavailable(text) => text,
    })
}

export!(Component);
