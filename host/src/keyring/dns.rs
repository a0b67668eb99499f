//! The DNS records a domain needs, as its owner has to publish them (RFC 6376 s3.6, RFC 7208, DMARC).

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mail::Domain;
use mail::dkim::Algorithm;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::store::{KeyState, SendingDomain};

/// Longest string within a TXT record (RFC 1035 s3.3).
const STRING_OCTETS: usize = 255;

/// The first labels of the aliases below a sending domain.
const RETURN_PATH: &str = "bounces";
const TRACKING: &str = "links";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordType {
    Txt,
    Cname,
}

impl fmt::Display for RecordType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RecordType::Txt => "TXT",
            RecordType::Cname => "CNAME",
        })
    }
}

/// What a record is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// The public key of signatures.
    Dkim,
    /// Who may send mail with the domain in its return path.
    Spf,
    /// What receivers do with mail that proves not to be the domain's.
    Dmarc,
    /// Where bounces go.
    ReturnPath,
    /// Where links that are followed lead through.
    Tracking,
}

/// What the records of sending domains lead to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Targets {
    /// This host's name.
    pub host: Domain,
    /// `None`: no such record is asked for.
    pub return_path: Option<Domain>,
    pub tracking: Option<Domain>,
}

/// A record to publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsRecord {
    /// Absolute, without a trailing dot.
    pub name: String,
    pub kind: RecordType,
    pub purpose: Purpose,
    /// The value in one piece, as web forms of DNS providers want it.
    pub value: String,
    /// Whether mail cannot be verified without it now. Of the others, keys are to be published beforehand or to be kept
    /// for a while, and the rest are suggestions, to be merged with what is there.
    pub required: bool,
    /// Of a key of this host: what the key does.
    pub state: Option<KeyState>,
}

impl DnsRecord {
    fn advice(name: String, purpose: Purpose, value: String) -> DnsRecord {
        let kind = match purpose {
            Purpose::ReturnPath | Purpose::Tracking => RecordType::Cname,
            Purpose::Dkim | Purpose::Spf | Purpose::Dmarc => RecordType::Txt,
        };
        DnsRecord { name, kind, purpose, value, required: false, state: None }
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
        match self.kind {
            RecordType::Cname => format!("{}. IN CNAME {}.", self.name, self.value),
            RecordType::Txt => {
                let strings: Vec<_> = self.strings().into_iter().map(|string| format!("\"{string}\"")).collect();
                format!("{}. IN TXT {}", self.name, strings.join(" "))
            }
        }
    }
}

/// What to publish so that mail of this domain verifies: the keys that sign, those that are to sign next, those whose
/// mail is on its way, those whose record may go, and the rest.
pub fn dns_records(sending: &SendingDomain, targets: &Targets) -> Vec<DnsRecord> {
    let domain = &sending.domain;
    let own = sending.keys.iter().map(|key| dkim(domain, &key.selector, key.algorithm, &key.public, Some(key.state)));
    let edges = sending.edge_keys.iter().map(|key| dkim(domain, &key.selector, key.algorithm, &key.public, None));
    let mut records: Vec<_> = own.chain(edges).collect();
    let place = |state: Option<KeyState>| match state {
        None | Some(KeyState::Active) => 0,
        Some(KeyState::Pending) => 1,
        Some(KeyState::Retiring { .. }) => 2,
        Some(KeyState::Retired) => 3,
    };
    // The store keeps keys in no order; people compare lists.
    records.sort_by(|one, other| place(one.state).cmp(&place(other.state)).then_with(|| one.name.cmp(&other.name)));
    let spf = format!("v=spf1 a:{} ~all", targets.host);
    records.push(DnsRecord::advice(domain.to_string(), Purpose::Spf, spf));
    records.push(DnsRecord::advice(format!("_dmarc.{domain}"), Purpose::Dmarc, "v=DMARC1; p=none".to_owned()));
    for (label, purpose, target) in
        [(RETURN_PATH, Purpose::ReturnPath, &targets.return_path), (TRACKING, Purpose::Tracking, &targets.tracking)]
    {
        let target = target.iter().map(ToString::to_string);
        records.extend(target.map(|target| DnsRecord::advice(format!("{label}.{domain}"), purpose, target)));
    }
    records
}

/// The name of a key's record.
pub fn key_name(selector: &str, domain: &Domain) -> String {
    format!("{selector}._domainkey.{domain}")
}

fn dkim(domain: &Domain, selector: &str, algorithm: Algorithm, public: &[u8], state: Option<KeyState>) -> DnsRecord {
    let kind = match algorithm {
        Algorithm::RsaSha256 => "rsa",
        Algorithm::Ed25519Sha256 => "ed25519",
    };
    DnsRecord {
        name: key_name(selector, domain),
        kind: RecordType::Txt,
        purpose: Purpose::Dkim,
        value: format!("v=DKIM1; k={kind}; p={}", STANDARD.encode(public)),
        required: state.is_none_or(|state| state == KeyState::Active),
        state,
    }
}
