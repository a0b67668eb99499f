//! A signer: DKIM (RFC 6376) with keys that an outside service holds, which is asked by HTTP.
//!
//! `GET /keys/DOMAIN` answers with a list of `{"selector", "algorithm", "key"}`; `POST /sign/KEY` takes a SHA-256 digest in
//! base64 and answers with the signature in base64. The operator must grant the tenant's signer the service's host. Stage
//! functions are synchronous: requests block, bounded by the stage's time.

wit_bindgen::generate!({ path: "wit", world: "sign-stage", generate_all });

mod http;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use exports::posthaste::signer::signer::{Guest, Signatures, SignerInput, StageError};
use posthaste::types::types::RawHeader;

/// Where the keys are. A component has no settings: this is one at build time.
const SERVICE: &str = match option_env!("KEY_SERVICE") {
    Some(origin) => origin,
    None => "http://keys.example.com",
};

/// What is signed, where the message has it. A field that stands several times is signed as often.
const SIGNED: &[&str] = &[
    "from", "sender", "reply-to", "to", "cc", "subject", "date", "message-id", "mime-version", "content-type",
    "content-transfer-encoding",
];

#[derive(Deserialize)]
struct Key {
    selector: String,
    algorithm: String,
    key: String,
}

struct Component;

impl Guest for Component {
    fn sign(input: SignerInput) -> Result<Signatures, StageError> {
        let answer = http::get(&format!("{SERVICE}/keys/{}", input.domain)).map_err(StageError::Unavailable)?;
        let keys: Vec<Key> = serde_json::from_slice(&answer)
            .map_err(|error| StageError::Unavailable(format!("the key service's answer: {error}")))?;
        // All or nothing: a message signed with half of the keys is a fault that nobody sees.
        let headers = keys.iter().map(|key| signature(&input, key)).collect::<Result<_, _>>()?;
        Ok(Signatures { headers, attributes: vec![] })
    }
}

fn signature(input: &SignerInput, key: &Key) -> Result<RawHeader, StageError> {
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
    let value = format!(
        "v=1; a={}; c=relaxed/relaxed; d={}; s={}; t={};\r\n\th={};\r\n\tbh={};\r\n\tb=",
        key.algorithm,
        input.domain,
        key.selector,
        input.timestamp_s,
        names.join(":"),
        STANDARD.encode(&input.body_hash),
    );
    hash.update(canonical("dkim-signature", value.as_bytes()));
    let digest = STANDARD.encode(hash.finalize());
    let url = format!("{SERVICE}/sign/{}", key.key);
    let signed = http::post(&url, digest.as_bytes()).map_err(StageError::Unavailable)?;
    let signed = String::from_utf8(signed).ok().filter(|text| STANDARD.decode(text).is_ok());
    let signed =
        signed.ok_or_else(|| StageError::Unavailable("the key service's signature is no base64".to_owned()))?;
    Ok(RawHeader { name: "DKIM-Signature".to_owned(), value: format!(" {value}{signed}").into_bytes() })
}

/// A field in relaxed canonical form, without its CRLF (RFC 6376 s3.4.2).
fn canonical(name: &str, value: &[u8]) -> Vec<u8> {
    let words: Vec<&[u8]> = value.split(|byte| b" \t\r\n".contains(byte)).filter(|word| !word.is_empty()).collect();
    [format!("{name}:").as_bytes(), &words.join(&b' ')].concat()
}

export!(Component);
