//! Whether a message from an edge is signed, asked of the bytes that are stored: a signature by a domain of the tenant
//! must verify with the public key that is kept here, and what carries none for its author is signed by the host.
//!
//! Signatures by other domains are their owners' business and stay as they are. Only what came over the network is looked
//! at: what the pipeline of this process signed needs no second look.

use bytes::Bytes;
use contract::Attributes;
use jiff::Timestamp;
use mail::dkim::FIELD_NAME;
use mail::header::{self, Field};
use mail::signature::{self, Signature};
use mail::{Domain, message};
use pipeline::{Refusal, Stages};
use thiserror::Error;

use crate::keyring::{self, Keyring};
use crate::store::StoreError;

/// Signature fields of one message that are looked at; an edge makes two.
const SIGNATURES: usize = 16;

/// Why a message cannot be stored.
#[derive(Debug, Error)]
pub enum SignedFault {
    #[error("there is no key with selector {selector} for {domain}")]
    Unknown { domain: String, selector: String },
    #[error("the one of {domain} with selector {selector} does not verify: {why}")]
    Wrong { domain: String, selector: String, why: String },
    #[error("there are more than {0} of them")]
    TooMany(usize),
    #[error("the domains could not be looked up: {0}")]
    Store(#[from] StoreError),
    /// What the host's own signer said.
    #[error("it could not be signed: {}", .0.text())]
    Unsigned(Refusal),
}

/// Gives the message back as it is to be stored: unchanged where its signatures by the tenant's domains verify and one of
/// them speaks for its author, with signatures of the host in front otherwise.
pub async fn ensure(
    keyring: &Keyring,
    stages: &impl Stages,
    tenant: &str,
    message: Bytes,
    attributes: Attributes,
    now: Timestamp,
) -> Result<(Bytes, Attributes), SignedFault> {
    let now_s = u64::try_from(now.as_second()).unwrap_or(0);
    if verify(keyring, tenant, &message, now_s).await? {
        return Ok((message, attributes));
    }
    let signed = pipeline::sign(stages, message.to_vec(), attributes, now_s).await;
    signed.map(|(message, attributes)| (message.into(), attributes)).map_err(SignedFault::Unsigned)
}

/// Verifies all signatures by the tenant's domains. Whether one of them is by the domain of the first author or by one above
/// it, which is what receivers ask for (RFC 7489 s3.1.1).
async fn verify(keyring: &Keyring, tenant: &str, message: &[u8], now_s: u64) -> Result<bool, SignedFault> {
    // What cannot be read has been refused before; it carries nothing that could be verified.
    let Ok((fields, body)) = header::split(message) else { return Ok(false) };
    let mut speaks_for_author = false;
    let signatures: Vec<Field<'_>> = fields.iter().copied().filter(|field| field.is(FIELD_NAME)).collect();
    if signatures.len() > SIGNATURES {
        return Err(SignedFault::TooMany(SIGNATURES));
    }
    let authors = message::author_domains(message).unwrap_or_default();
    for field in signatures {
        let Some((name, selector)) = signature::claim(field) else { continue };
        let Ok(domain) = Domain::parse(&name) else { continue };
        let Some(sending) = keyring.find(tenant, &domain).await? else { continue };

        let own = sending.keys.iter().map(|key| (&key.selector, key.algorithm, &key.public));
        let of_edges = sending.edge_keys.iter().map(|key| (&key.selector, key.algorithm, &key.public));
        // A key is published for its domain alone, not for those below.
        let found = own.chain(of_edges).find(|(known, ..)| sending.domain == domain && **known == selector);
        let Some((_, algorithm, public)) = found else {
            return Err(SignedFault::Unknown { domain: name, selector });
        };
        let signature = Signature::parse(field).map_err(|error| error.to_string()).and_then(|signature| {
            let digest = signature.digest(&fields, field);
            if signature.algorithm != algorithm {
                Err(format!("the key is for {}", algorithm.name()))
            } else if signature.expires_s.is_some_and(|expires_s| expires_s < now_s) {
                Err("it has expired".to_owned())
            } else if !signature.covers_body(message.get(body..).unwrap_or_default()) {
                Err("the body is another one".to_owned())
            } else if !keyring::verifies(algorithm, public, &digest, &signature.signature) {
                Err("the header or the key is another one".to_owned())
            } else {
                Ok(())
            }
        });
        signature.map_err(|why| SignedFault::Wrong { domain: name, selector, why })?;
        let author = authors.first().map(|(_, author)| author.as_str());
        speaks_for_author |= author.is_some_and(|author| is_at_or_below(author, domain.as_str()));
    }
    Ok(speaks_for_author)
}

fn is_at_or_below(name: &str, domain: &str) -> bool {
    name.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}
