//! Whether a captured mail's signatures verify, with the keys this host holds in the place of DNS (mail-auth).

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hickory_resolver::config::{ResolverConfig, ResolverOpts};
use mail_auth::common::parse::TxtRecordParser;
use mail_auth::common::verify::DomainKey;
use mail_auth::{AuthenticatedMessage, DkimResult, MessageAuthenticator, Parameters, ResolverCache, Txt};

use crate::store::SendingDomain;

/// What is known of one signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignatureVerdict {
    /// `d=` and `s=`; empty where the field cannot be read.
    pub domain: String,
    pub selector: String,
    pub algorithm: String,
    pub passed: bool,
    /// `pass`, or why not.
    pub text: String,
}

/// Verifies every DKIM-Signature field of a message against the published halves of these domains' keys.
pub async fn verify(message: &[u8], domains: &[SendingDomain]) -> Vec<SignatureVerdict> {
    let records = Records::new(domains);
    let Some(parsed) = AuthenticatedMessage::parse(message) else { return Vec::new() };
    let resolver = ResolverConfig::from_parts(None, Vec::new(), Vec::new());
    let Ok(authenticator) = MessageAuthenticator::new(resolver, ResolverOpts::default()) else { return Vec::new() };
    let parameters = Parameters::new(&parsed).with_txt_cache(&records);
    let outputs = authenticator.verify_dkim(parameters).await;
    let verdict = |output: &mail_auth::DkimOutput<'_>| {
        let signature = output.signature();
        SignatureVerdict {
            domain: signature.map(|signature| signature.d.clone()).unwrap_or_default(),
            selector: signature.map(|signature| signature.s.clone()).unwrap_or_default(),
            algorithm: signature.map(|signature| algorithm(signature.a)).unwrap_or_default().to_owned(),
            passed: *output.result() == DkimResult::Pass,
            text: match output.result() {
                DkimResult::Pass => "pass".to_owned(),
                DkimResult::None => "none".to_owned(),
                DkimResult::Neutral(error)
                | DkimResult::Fail(error)
                | DkimResult::PermError(error)
                | DkimResult::TempError(error) => error.to_string(),
            },
        }
    };
    outputs.iter().map(verdict).collect()
}

fn algorithm(algorithm: mail_auth::common::crypto::Algorithm) -> &'static str {
    match algorithm {
        mail_auth::common::crypto::Algorithm::RsaSha1 => "rsa-sha1",
        mail_auth::common::crypto::Algorithm::RsaSha256 => "rsa-sha256",
        mail_auth::common::crypto::Algorithm::Ed25519Sha256 => "ed25519-sha256",
    }
}

/// Our own records, asked instead of DNS: a name that is not here does not exist.
struct Records(HashMap<Box<str>, Txt>);

impl Records {
    fn new(domains: &[SendingDomain]) -> Records {
        let mut records = HashMap::new();
        for domain in domains {
            let own = domain.keys.iter().map(|key| (&key.selector, key.algorithm, &key.public));
            let edges = domain.edge_keys.iter().map(|key| (&key.selector, key.algorithm, &key.public));
            for (selector, algorithm, public) in own.chain(edges) {
                let name = format!("{selector}._domainkey.{}.", domain.domain).to_lowercase();
                records.extend(record(algorithm, public).map(|txt| (name.into_boxed_str(), txt)));
            }
        }
        Records(records)
    }
}

fn record(algorithm: mail::dkim::Algorithm, public: &[u8]) -> Option<Txt> {
    let kind = match algorithm {
        mail::dkim::Algorithm::RsaSha256 => "rsa",
        mail::dkim::Algorithm::Ed25519Sha256 => "ed25519",
    };
    let text = format!("v=DKIM1; k={kind}; p={}", STANDARD.encode(public));
    Some(Txt::DomainKey(DomainKey::parse(text.as_bytes()).ok()?.into()))
}

impl ResolverCache<Box<str>, Txt> for Records {
    fn get<Q>(&self, name: &Q) -> Option<Txt>
    where
        Box<str>: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let missing =
            || Txt::Error(mail_auth::Error::Dns(mail_auth::DnsError::Resolver("this host has no such key".to_owned())));
        Some(self.0.get(name).cloned().unwrap_or_else(missing))
    }

    fn remove<Q>(&self, _name: &Q) -> Option<Txt>
    where
        Box<str>: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        None
    }

    fn insert(&self, _name: Box<str>, _value: Txt, _valid_until: Instant) {}
}
