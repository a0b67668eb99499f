//! DKIM keys that somebody brings along, so that a domain that moves here keeps its published records.

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rsa;
use aws_lc_rs::signature::Ed25519KeyPair;
use jiff::Timestamp;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::{self, PemObject as _, SectionKind};
use thiserror::Error;

use super::fresh::selector_of;
use super::pair::KeyPair;
use super::{Keyring, SelectorError, blocking};
use crate::store::{DkimKey, KeyState};

/// Longest PEM text; an RSA key of 4096 bits has some 3,300 octets.
const PEM_OCTETS: usize = 16 << 10;

/// Bits of an RSA key that every receiver verifies (RFC 8301 s3.2). Fewer than 2048 are refused: signers should use 2048
/// or more there, and the library that signs here does not do less.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=4096;

/// Why a key cannot be imported.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum KeyFault {
    #[error(transparent)]
    Selector(#[from] SelectorError),
    #[error("the key file has {0} bytes: give one private key in PEM, at most 16 KiB")]
    TooLong(usize),
    #[error(
        "it holds no private key in PEM: give what begins with `-----BEGIN PRIVATE KEY-----` (PKCS#8) or `-----BEGIN RSA PRIVATE KEY-----` (PKCS#1)"
    )]
    NoKey,
    #[error("it is not well-formed PEM: {0}")]
    Pem(String),
    #[error("the key is encrypted: decrypt it first (openssl pkey -in key.pem -out plain.pem)")]
    Encrypted,
    #[error("it holds {0}, which is public: give the private key that belongs to it")]
    Public(&'static str),
    #[error("it holds more than one private key: give one")]
    Several,
    #[error("it is neither an RSA nor an Ed25519 key, which are all that DKIM knows (RFC 6376, RFC 8463)")]
    OtherKind,
    #[error(
        "it is an RSA key of fewer than 2048 bits, which this host does not sign with (RFC 8301 s3.2): make a fresh pair with `posthaste domain rotate`"
    )]
    TooSmall,
    #[error(
        "it is an RSA key of more than 4096 bits, which receivers need not verify (RFC 8301 s3.2): bring one of 2048 to 4096"
    )]
    TooLarge,
    #[error("the private key cannot be used: {0}")]
    Unusable(String),
}

impl Keyring {
    /// A key of that PEM text under this selector, sealed and not stored.
    pub async fn import(&self, text: &str, selector: &str, state: KeyState) -> Result<DkimKey, KeyFault> {
        let selector = selector_of(selector)?;
        let text = text.to_owned();
        let read = blocking(move || read(&text)).await.map_err(KeyFault::Unusable)?;
        let (pair, private) = read?;
        self.seal_key(&pair, &private, selector, state, Timestamp::now()).map_err(KeyFault::Unusable)
    }
}

/// The pair of a PEM text, and its private half as PKCS#8 DER.
fn read(text: &str) -> Result<(KeyPair, Vec<u8>), KeyFault> {
    if text.len() > PEM_OCTETS {
        return Err(KeyFault::TooLong(text.len()));
    }
    match only_key(text)? {
        PrivateKeyDer::Pkcs1(key) => rsa_pair(rsa::KeyPair::from_der(key.secret_pkcs1_der()), None),
        PrivateKeyDer::Pkcs8(key) => {
            let der = key.secret_pkcs8_der();
            match Ed25519KeyPair::from_pkcs8_maybe_unchecked(der) {
                Ok(pair) => Ok((KeyPair::Ed25519(pair), der.to_vec())),
                Err(_) => rsa_pair(rsa::KeyPair::from_pkcs8(der), Some(der)),
            }
        }
        _ => Err(KeyFault::OtherKind),
    }
}

/// The one private key of a text.
fn only_key(text: &str) -> Result<PrivateKeyDer<'static>, KeyFault> {
    let mut found = None;
    let mut other = None;
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(text.as_bytes()) {
        let (kind, der) = section.map_err(|error| match error {
            pem::Error::NoItemsFound => KeyFault::NoKey,
            pem::Error::Base64Decode(_) => KeyFault::Pem("its base64 cannot be read".to_owned()),
            pem::Error::MissingSectionEnd { .. } => KeyFault::Pem("its END line is missing".to_owned()),
            _ => KeyFault::Pem("its BEGIN line cannot be read".to_owned()),
        })?;
        let key = match kind {
            SectionKind::PrivateKey => PrivateKeyDer::Pkcs8(der.into()),
            SectionKind::RsaPrivateKey => PrivateKeyDer::Pkcs1(der.into()),
            SectionKind::EcPrivateKey => PrivateKeyDer::Sec1(der.into()),
            SectionKind::PublicKey => {
                other = Some("a public key");
                continue;
            }
            SectionKind::Certificate => {
                other = Some("a certificate");
                continue;
            }
            _ => continue,
        };
        if found.replace(key).is_some() {
            return Err(KeyFault::Several);
        }
    }
    // Sections of this name are not read at all.
    let is_encrypted = text.contains("BEGIN ENCRYPTED PRIVATE KEY") || text.contains("Proc-Type: 4,ENCRYPTED");
    match (found, other) {
        _ if is_encrypted => Err(KeyFault::Encrypted),
        (Some(key), _) => Ok(key),
        (None, Some(what)) => Err(KeyFault::Public(what)),
        (None, None) => Err(KeyFault::NoKey),
    }
}

fn rsa_pair(
    read: Result<rsa::KeyPair, aws_lc_rs::error::KeyRejected>,
    pkcs8: Option<&[u8]>,
) -> Result<(KeyPair, Vec<u8>), KeyFault> {
    let pair = read.map_err(|why| match (why.to_string().as_str(), pkcs8) {
        ("TooSmall", _) => KeyFault::TooSmall,
        ("TooLarge", _) => KeyFault::TooLarge,
        // An elliptic curve, or no key at all.
        (_, Some(_)) => KeyFault::OtherKind,
        (why, None) => KeyFault::Unusable(why.to_owned()),
    })?;
    let bits = pair.public_modulus_len() * 8;
    if !RSA_BITS.contains(&bits) {
        return Err(if bits < *RSA_BITS.start() { KeyFault::TooSmall } else { KeyFault::TooLarge });
    }
    let failed = |_| KeyFault::Unusable("it cannot be written as PKCS#8".to_owned());
    let private = AsDer::<Pkcs8V1Der<'_>>::as_der(&pair).map_err(failed)?.as_ref().to_vec();
    Ok((KeyPair::Rsa(pair), private))
}
