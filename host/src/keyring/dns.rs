//! The DNS records a domain needs, as its owner has to publish them (RFC 6376 s3.6, RFC 7208, DMARC).

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mail::Domain;
use mail::dkim::Algorithm;

use crate::store::SendingDomain;

/// Longest string within a TXT record (RFC 1035 s3.3).
const STRING_OCTETS: usize = 255;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordType {
    Txt,
}

impl fmt::Display for RecordType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecordType::Txt => f.write_str("TXT"),
        }
    }
}

/// A record to publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsRecord {
    /// Absolute, without a trailing dot.
    pub name: String,
    pub kind: RecordType,
    /// The value in one piece, as web forms of DNS providers want it.
    pub value: String,
    /// Whether mail cannot be verified without it; the others are suggestions, to be merged with what is there.
    pub required: bool,
}

impl DnsRecord {
    fn txt(name: String, value: String, required: bool) -> DnsRecord {
        DnsRecord { name, kind: RecordType::Txt, value, required }
    }

    /// The strings of the record, each at most 255 octets: receivers join them without a space.
    pub fn strings(&self) -> Vec<&str> {
        let mut rest = self.value.as_str();
        let mut strings = Vec::new();
        // The values are ASCII, so every place is a border between characters.
        while let Some((string, behind)) = rest.split_at_checked(STRING_OCTETS) {
            strings.push(string);
            rest = behind;
        }
        strings.push(rest);
        strings.retain(|string| !string.is_empty());
        strings
    }

    /// The record as a line of a zone file.
    pub fn zone_line(&self) -> String {
        let strings: Vec<_> = self.strings().into_iter().map(|string| format!("\"{string}\"")).collect();
        format!("{}. IN {} {}", self.name, self.kind, strings.join(" "))
    }
}

/// What to publish so that mail of this domain, sent by the host of this name, verifies.
pub fn dns_records(sending: &SendingDomain, hostname: &Domain) -> Vec<DnsRecord> {
    let domain = &sending.domain;
    let own = sending.keys.iter().map(|key| dkim(domain, &key.selector, key.algorithm, &key.public));
    let edges = sending.edge_keys.iter().map(|key| dkim(domain, &key.selector, key.algorithm, &key.public));
    let mut records: Vec<_> = own.chain(edges).collect();
    records.push(DnsRecord::txt(domain.to_string(), format!("v=spf1 a:{hostname} ~all"), false));
    records.push(DnsRecord::txt(format!("_dmarc.{domain}"), "v=DMARC1; p=none".to_owned(), false));
    records
}

fn dkim(domain: &Domain, selector: &str, algorithm: Algorithm, public: &[u8]) -> DnsRecord {
    let kind = match algorithm {
        Algorithm::RsaSha256 => "rsa",
        Algorithm::Ed25519Sha256 => "ed25519",
    };
    let value = format!("v=DKIM1; k={kind}; p={}", STANDARD.encode(public));
    DnsRecord::txt(format!("{selector}._domainkey.{domain}"), value, true)
}
