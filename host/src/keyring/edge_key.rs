//! DKIM pairs for edges: made here, handed out once with their private halves, and kept as public halves alone.

use aws_lc_rs::error::Unspecified;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use mail::dkim::Algorithm;
use thiserror::Error;

use super::blocking;
use super::fresh::{selector, selector_of};
use super::pair::KeyPair;
use crate::store::EdgeKey;

/// Characters of a selector: with `._domainkey.` and a domain it must fit into a name in DNS (RFC 1035 s2.3.4).
const SELECTOR_CHARS: usize = 63;

/// Characters of a line of PEM (RFC 7468 s2).
const PEM_COLUMNS: usize = 64;

/// A pair that was just made.
pub struct NewEdgeKey {
    /// What is kept.
    pub public: EdgeKey,
    /// PKCS#8 in PEM: what only the edge has from now on.
    pub private_pem: String,
}

/// Why no pair was made.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SelectorError {
    #[error(
        "`{0}` is no selector: write labels of letters, digits and inner hyphens with dots between, at most 63 characters"
    )]
    Form(String),
    #[error("`{0}` is to be the selector of both keys: a name in DNS is for one key")]
    Twice(String),
    #[error("the pair could not be made: {0}")]
    Failed(String),
}

/// A pair for each algorithm. Where `name` is given it is the selector of a single pair, and with `-rsa` and `-ed25519`
/// behind it that of each of two: a name in DNS is for one key.
pub async fn make_edge_keys(
    algorithms: &[Algorithm],
    name: Option<&str>,
    now: Timestamp,
) -> Result<Vec<NewEdgeKey>, SelectorError> {
    let mut made = Vec::with_capacity(algorithms.len());
    for algorithm in algorithms.iter().copied() {
        let selector = match (name, algorithms.len()) {
            (None, _) => selector(algorithm, now, rand::random()),
            (Some(name), 1) => selector_of(name)?,
            (Some(name), _) => selector_of(&format!("{name}-{}", algorithm.name().trim_end_matches("-sha256")))?,
        };
        let failed = |_: Unspecified| SelectorError::Failed("the system's random number generator failed".to_owned());
        let (pair, private) =
            blocking(move || KeyPair::generate(algorithm)).await.map_err(SelectorError::Failed)?.map_err(failed)?;
        let public = pair.public().map_err(failed)?;
        made.push(NewEdgeKey { public: EdgeKey { selector, algorithm, public }, private_pem: pem(&private) });
    }
    Ok(made)
}

/// RFC 6376 s3.1: labels with dots between.
pub(super) fn is_selector(text: &str) -> bool {
    let is_label = |label: &str| {
        let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        !label.is_empty() && label.bytes().all(inner) && !label.starts_with('-') && !label.ends_with('-')
    };
    text.len() <= SELECTOR_CHARS && text.split('.').all(is_label)
}

/// RFC 7468 s10.
fn pem(pkcs8: &[u8]) -> String {
    let base64 = STANDARD.encode(pkcs8);
    let mut text = String::from("-----BEGIN PRIVATE KEY-----\n");
    let mut rest = base64.as_str();
    while !rest.is_empty() {
        // Base64 is ASCII, so every place is a border between characters.
        let (line, behind) = rest.split_at(rest.len().min(PEM_COLUMNS));
        text.push_str(line);
        text.push('\n');
        rest = behind;
    }
    text.push_str("-----END PRIVATE KEY-----\n");
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use rustls_pki_types::PrivatePkcs8KeyDer;
    use rustls_pki_types::pem::PemObject as _;

    use super::super::verifies;
    use super::*;

    const BOTH: &[Algorithm] = &[Algorithm::RsaSha256, Algorithm::Ed25519Sha256];

    #[tokio::test]
    async fn what_the_edge_signs_verifies_with_what_is_kept() {
        let made = make_edge_keys(BOTH, Some("Edge1"), Timestamp::UNIX_EPOCH).await.unwrap();
        let selectors: Vec<&str> = made.iter().map(|key| key.public.selector.as_str()).collect();
        assert_eq!(selectors, ["edge1-rsa", "edge1-ed25519"]);
        for NewEdgeKey { public, private_pem } in &made {
            let der = PrivatePkcs8KeyDer::from_pem_slice(private_pem.as_bytes()).unwrap();
            let pair = KeyPair::from_pkcs8(public.algorithm, der.secret_pkcs8_der()).unwrap();
            let signature = pair.sign_digest(&[7; 32]).unwrap();
            assert!(verifies(public.algorithm, &public.public, &[7; 32], &signature));
            assert!(!verifies(public.algorithm, &public.public, &[8; 32], &signature));
            assert!(!verifies(public.algorithm, &public.public, &[7; 32], &signature[1..]));
            assert!(!verifies(public.algorithm, b"", &[7; 32], &signature));
        }
        let one = make_edge_keys(&BOTH[1..], Some("s1.eu"), Timestamp::UNIX_EPOCH).await.unwrap();
        assert_eq!(one[0].public.selector, "s1.eu");
        let named = make_edge_keys(&BOTH[1..], None, Timestamp::UNIX_EPOCH).await.unwrap();
        assert!(named[0].public.selector.starts_with("ph197001"), "{}", named[0].public.selector);
    }

    #[tokio::test]
    async fn selectors_are_names() {
        for wrong in ["", ".", "a..b", "-a", "a-", "a_b", "a b", "ü", "a\r\nb", &"x".repeat(64)] {
            let made = make_edge_keys(&BOTH[1..], Some(wrong), Timestamp::UNIX_EPOCH).await;
            assert!(matches!(made, Err(SelectorError::Form(_))), "{wrong:?}");
        }
    }
}
