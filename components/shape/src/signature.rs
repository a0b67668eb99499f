//! Standard Webhooks signatures, scheme `v1`: HMAC-SHA256 over `id.timestamp.body`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

const PREFIX: &str = "whsec_";

/// Bytes of a secret, as the specification has them.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// The signatures of all secrets in their order, with a space between them: `v1,… v1,…`.
///
/// The error tells what is wrong with which secret (counted from 1) and never what it is.
pub fn sign(secrets: &[String], id: &str, timestamp_s: u64, body: &[u8]) -> Result<String, String> {
    if id.is_empty() || !id.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("the event's id cannot stand in a header".to_owned());
    }
    if secrets.is_empty() {
        return Err("it has no secret to sign with".to_owned());
    }
    let signatures = secrets.iter().enumerate().map(|(index, secret)| {
        let key = key(secret).map_err(|fault| format!("secret {} {fault}", index + 1))?;
        let mut mac = Hmac::<Sha256>::new_from_slice(&key).map_err(|error| error.to_string())?;
        for part in [id.as_bytes(), b".", timestamp_s.to_string().as_bytes(), b".", body] {
            mac.update(part);
        }
        Ok(format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes())))
    });
    Ok(signatures.collect::<Result<Vec<_>, String>>()?.join(" "))
}

fn key(secret: &str) -> Result<Vec<u8>, String> {
    let base64 = secret.strip_prefix(PREFIX).ok_or(format!("must begin with `{PREFIX}`"))?;
    let key = STANDARD.decode(base64).map_err(|_| format!("is not base64 behind `{PREFIX}`"))?;
    if !SECRET_BYTES.contains(&key.len()) {
        let (least, most) = (SECRET_BYTES.start(), SECRET_BYTES.end());
        return Err(format!("has {} bytes: {least} to {most} are needed", key.len()));
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const OTHER: &str = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    const BODY: &[u8] = br#"{"test": 2432232314}"#;

    #[track_caller]
    fn check(secrets: &[&str], expect: Result<&str, &str>) {
        let secrets: Vec<String> = secrets.iter().map(|secret| (*secret).to_owned()).collect();
        let signed = sign(&secrets, ID, 1_614_265_330, BODY);
        assert_eq!(signed.as_deref().map_err(String::as_str), expect);
    }

    #[test]
    fn known_answers() {
        // What the reference libraries expect of these inputs.
        check(&[SECRET], Ok("v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="));
        check(&[OTHER], Ok("v1,O4Gjv1HqPqsMrjmczoggs/sWA8gZD0VyHG+fLh4+ktI="));
        check(
            &[OTHER, SECRET],
            Ok("v1,O4Gjv1HqPqsMrjmczoggs/sWA8gZD0VyHG+fLh4+ktI= v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="),
        );
    }

    #[test]
    fn secrets_that_cannot_be_used() {
        check(&[], Err("it has no secret to sign with"));
        check(&["MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"], Err("secret 1 must begin with `whsec_`"));
        check(&[SECRET, "whsec_%%"], Err("secret 2 is not base64 behind `whsec_`"));
        check(&["whsec_AAEC"], Err("secret 1 has 3 bytes: 24 to 64 are needed"));
    }

    #[test]
    fn ids_that_cannot_be_sent() {
        for id in ["", "a b", "a\r\nb", "ä"] {
            assert!(sign(&[SECRET.to_owned()], id, 0, b"").is_err(), "{id}");
        }
    }
}
