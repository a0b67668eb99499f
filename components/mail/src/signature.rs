//! DKIM signatures as they stand in a message, read back (RFC 6376 s3.5): for checking those that an edge made before
//! we store what it signed, and for showing whether a message verifies.
//!
//! Only what we make ourselves is understood: relaxed/relaxed, SHA-256, no `l=`. The public-key operation is elsewhere,
//! as the private one is: `digest` is what the signature must be one of.

use base64::Engine;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::dkim::{Algorithm, FIELD_NAME, body_hash, canonicalize_field};
use crate::header::Field;

/// Padding is there or not, as with everybody else who reads these.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);
/// How many names an `h=` may list.
const MAX_SIGNED_FIELDS: usize = 256;

/// A DKIM-Signature field, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    pub algorithm: Algorithm,
    /// Lower case, as is the selector.
    pub domain: String,
    pub selector: String,
    /// The names of `h=`, as written.
    pub signed: Vec<String>,
    pub body_hash: Vec<u8>,
    pub signature: Vec<u8>,
    pub timestamp_s: Option<u64>,
    pub expires_s: Option<u64>,
}

/// Why a signature is not one of ours.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SignatureError {
    #[error("the signature field is not a list of tags (RFC 6376 s3.2)")]
    Syntax,
    #[error("the signature field has no valid `{0}=`")]
    Tag(&'static str),
    #[error("the signature has `{0}`, which is not supported")]
    Unsupported(String),
    #[error("the signature does not cover From (RFC 6376 s5.4)")]
    FromUnsigned,
}

/// Who a signature says it is of, whatever else stands in it: `d=` and `s=`, in lower case. `None` where it does not say.
pub fn claim(field: Field<'_>) -> Option<(String, String)> {
    let text = std::str::from_utf8(field.value).ok()?;
    let tags = tags(text).ok()?;
    let tag = |name| tags.iter().find(|(other, _)| *other == name).map(|(_, value)| value.to_ascii_lowercase());
    Some((tag("d")?, tag("s")?))
}

impl Signature {
    /// Reads a DKIM-Signature field.
    pub fn parse(field: Field<'_>) -> Result<Signature, SignatureError> {
        let text = std::str::from_utf8(field.value).map_err(|_| SignatureError::Syntax)?;
        let tags = tags(text)?;
        let tag = |name| tags.iter().find(|(other, _)| *other == name).map(|(_, value)| *value);
        let required = |name| tag(name).ok_or(SignatureError::Tag(name));
        let unsupported = |name: &str, value: &str| SignatureError::Unsupported(format!("{name}={value}"));
        if required("v")? != "1" {
            return Err(SignatureError::Tag("v"));
        }
        let algorithm = match required("a")? {
            "rsa-sha256" => Algorithm::RsaSha256,
            "ed25519-sha256" => Algorithm::Ed25519Sha256,
            other => return Err(unsupported("a", other)),
        };
        match tag("c").unwrap_or("simple/simple") {
            "relaxed/relaxed" => {}
            other => return Err(unsupported("c", other)),
        }
        if let Some(length) = tag("l") {
            return Err(unsupported("l", length));
        }
        let signed = required("h")?.split(':').map(|name| name.trim().to_owned()).collect::<Vec<_>>();
        if signed.len() > MAX_SIGNED_FIELDS || signed.iter().any(String::is_empty) {
            return Err(SignatureError::Tag("h"));
        }
        if !signed.iter().any(|name| name.eq_ignore_ascii_case("From")) {
            return Err(SignatureError::FromUnsigned);
        }
        let domain = required("d")?.to_ascii_lowercase();
        // Who signs for a user signs for its own domain or one below it (RFC 6376 s3.5).
        let user_domain = tag("i").and_then(|user| user.rsplit('@').next()).map(str::to_ascii_lowercase);
        let is_below =
            |user: &str| user == domain || user.strip_suffix(&domain).is_some_and(|rest| rest.ends_with('.'));
        if user_domain.is_some_and(|user| !is_below(&user)) {
            return Err(SignatureError::Tag("i"));
        }
        let seconds = |name| tag(name).map(|value| value.parse().map_err(|_| SignatureError::Tag(name))).transpose();
        Ok(Signature {
            algorithm,
            domain,
            selector: required("s")?.to_ascii_lowercase(),
            signed,
            body_hash: octets(required("bh")?).ok_or(SignatureError::Tag("bh"))?,
            signature: octets(required("b")?).ok_or(SignatureError::Tag("b"))?,
            timestamp_s: seconds("t")?,
            expires_s: seconds("x")?,
        })
    }

    /// Whether the body is the one that was signed.
    pub fn covers_body(&self, body: &[u8]) -> bool {
        self.body_hash == body_hash(body)
    }

    /// The digest that the signature must be one of (RFC 6376 s3.7). `headers` are all fields of the message, top to
    /// bottom; `field` is the one that was parsed.
    pub fn digest(&self, headers: &[Field<'_>], field: Field<'_>) -> [u8; 32] {
        let mut canonical = Vec::with_capacity(2048);
        let mut is_taken = vec![false; headers.len()];
        for name in &self.signed {
            // From the bottom, each once; what is not there adds nothing (RFC 6376 s5.4.2).
            if let Some(at) = (0..headers.len()).rev().find(|at| !is_taken[*at] && headers[*at].is(name)) {
                is_taken[at] = true;
                canonicalize_field(headers[at], &mut canonical);
            }
        }
        let emptied = without_signature(field.value);
        canonicalize_field(Field { name: FIELD_NAME, value: &emptied }, &mut canonical);
        canonical.truncate(canonical.len() - 2);
        Sha256::digest(&canonical).into()
    }
}

/// Splits a tag list (RFC 6376 s3.2): names are unique, a semicolon may end it.
fn tags(text: &str) -> Result<Vec<(&str, &str)>, SignatureError> {
    let mut tags: Vec<(&str, &str)> = Vec::with_capacity(12);
    let list = text.trim();
    for tag in list.strip_suffix(';').unwrap_or(list).split(';') {
        let (name, value) = tag.split_once('=').ok_or(SignatureError::Syntax)?;
        let name = name.trim();
        let is_known = tags.iter().any(|(other, _)| *other == name);
        if name.is_empty() || is_known || tags.len() >= MAX_SIGNED_FIELDS {
            return Err(SignatureError::Syntax);
        }
        tags.push((name, value.trim()));
    }
    Ok(tags)
}

/// Base64 with blanks and folds in it.
fn octets(text: &str) -> Option<Vec<u8>> {
    BASE64.decode(text.bytes().filter(|octet| !octet.is_ascii_whitespace()).collect::<Vec<_>>()).ok()
}

/// The value with what stands in `b=` gone, blanks around it included.
fn without_signature(value: &[u8]) -> Vec<u8> {
    let mut emptied = Vec::with_capacity(value.len());
    for (at, tag) in value.split(|octet| *octet == b';').enumerate() {
        if at > 0 {
            emptied.push(b';');
        }
        match tag.iter().position(|octet| *octet == b'=') {
            Some(equals) if tag[..equals].trim_ascii() == b"b" => emptied.extend_from_slice(&tag[..=equals]),
            Some(_) | None => emptied.extend_from_slice(tag),
        }
    }
    emptied
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::dkim::{Parameters, Unsigned};
    use crate::header::split;

    fn field(value: &str) -> Field<'_> {
        Field { name: "DKIM-Signature", value: value.as_bytes() }
    }

    const GOOD: &str = " v=1; a=rsa-sha256; c=relaxed/relaxed;\r\n d=X.test ; s=s1; h=From : To:\r\n\tSubject; t=17;\r\n bh=AAAA; b=AQ\r\n ID;";

    #[test]
    fn reads_a_signature() {
        let signature = Signature::parse(field(GOOD)).unwrap();
        assert_eq!(signature.domain, "x.test");
        assert_eq!(signature.signed, ["From", "To", "Subject"]);
        assert_eq!((signature.body_hash, signature.signature), (vec![0, 0, 0], vec![1, 2, 3]));
        assert!(Signature::parse(field(&GOOD.replace("t=17", "i=a@Sub.X.test"))).is_ok());
        assert_eq!((signature.timestamp_s, signature.expires_s), (Some(17), None));
    }

    #[test]
    fn says_whose_it_is_even_where_it_is_not_understood() {
        let check = |value: &str, expect: Option<(&str, &str)>| {
            let found = claim(field(value));
            let found = found.as_ref().map(|(domain, selector)| (domain.as_str(), selector.as_str()));
            assert_eq!(found, expect, "{value:?}");
        };
        check(GOOD, Some(("x.test", "s1")));
        check("a=rsa-sha1; s=S1;\r\n d=X.test; l=0", Some(("x.test", "s1")));
        check("d=x.test", None);
        check("d=x.test; s=1; d=y.test", None);
        check("", None);
    }

    #[test]
    fn refuses_other_signatures() {
        let check = |from: &str, to: &str, expected: SignatureError| {
            let value = GOOD.replace(from, to);
            assert_ne!(value, GOOD, "{from:?} is not there");
            assert_eq!(Signature::parse(field(&value)), Err(expected), "{value:?}");
        };
        let unsupported = |tag: &str| SignatureError::Unsupported(tag.to_owned());
        check("v=1", "v=2", SignatureError::Tag("v"));
        check("v=1;", "", SignatureError::Tag("v"));
        check("a=rsa-sha256", "a=rsa-sha1", unsupported("a=rsa-sha1"));
        check("relaxed/relaxed", "relaxed", unsupported("c=relaxed"));
        check("c=relaxed/relaxed;", "", unsupported("c=simple/simple"));
        check("t=17", "l=0", unsupported("l=0"));
        check("t=17", "t=-1", SignatureError::Tag("t"));
        check("t=17", "i=@y.test", SignatureError::Tag("i"));
        check("t=17", "i=a@xx.test", SignatureError::Tag("i"));
        check("t=17", "t", SignatureError::Syntax);
        check("t=17", "s=2", SignatureError::Syntax);
        check("From :", "To :", SignatureError::FromUnsigned);
        check("From :", "From ::", SignatureError::Tag("h"));
        check("bh=AAAA", "bh=A*", SignatureError::Tag("bh"));
        check("b=AQ", "x=AQ", SignatureError::Tag("b"));
        assert_eq!(Signature::parse(field("")), Err(SignatureError::Syntax));
        assert_eq!(Signature::parse(Field { name: "X", value: b"\xff" }), Err(SignatureError::Syntax));
    }

    #[test]
    fn empties_only_its_own_tag() {
        let check = |value: &str, expected: &str| {
            assert_eq!(String::from_utf8(without_signature(value.as_bytes())).unwrap(), expected);
        };
        check(" bh=x; b=abc\r\n def", " bh=x; b=");
        check(" b = abc ; bh=b=", " b =; bh=b=");
        check(" x=b; b=;", " x=b; b=;");
    }

    #[test]
    fn gives_the_digest_that_was_signed() {
        let message = b"From: a@x.test\r\nTo: 1\r\nTo: 2\r\nSubject:  s\r\n t\r\n\r\nbody\r\n";
        let (fields, body) = split(message).unwrap();
        let parameters = Parameters {
            domain: "x.test",
            selector: "s1",
            algorithm: Algorithm::Ed25519Sha256,
            timestamp_s: 17,
            body_hash: body_hash(&message[body..]),
        };
        let unsigned = Unsigned::new(&fields, &parameters);
        let digest = unsigned.digest();
        let value = unsigned.finish(&[9; 64]);
        let signature = Signature::parse(field(&value)).unwrap();
        assert_eq!(signature.digest(&fields, field(&value)), digest);
        assert!(signature.covers_body(&message[body..]));
        assert!(!signature.covers_body(b"other"));
        assert_eq!(signature.signature, [9; 64]);

        let mut more = fields.clone();
        more.insert(0, Field { name: "Subject", value: b"added" });
        assert_ne!(signature.digest(&more, field(&value)), digest);
        let mut other = fields.clone();
        other.push(Field { name: "X-Other", value: b"unsigned" });
        assert_eq!(signature.digest(&other, field(&value)), digest);
    }
}
