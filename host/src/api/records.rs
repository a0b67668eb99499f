//! The DNS records a sending domain needs: DKIM (RFC 6376 s3.6.1, RFC 8463 s4), SPF (RFC 7208) and DMARC (RFC 7489).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mail::Domain;
use mail::dkim::Algorithm;
use serde::{Deserialize, Serialize};

use crate::store::{DkimKey, SendingDomain};

/// One TXT record to be published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsRecord {
    /// Full name, no trailing dot.
    pub name: String,
    /// `TXT`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The text, in one piece; a zone file wants it in strings of at most 255 octets.
    pub value: String,
    /// What it is for.
    pub purpose: String,
    /// Whether mail is not as promised without it; the others are advice.
    pub required: bool,
}

/// Longest string inside a TXT record (RFC 1035 s3.3).
const STRING_OCTETS: usize = 255;

impl DnsRecord {
    fn txt(name: String, value: String, purpose: &str, required: bool) -> DnsRecord {
        DnsRecord { name, kind: "TXT".to_owned(), value, purpose: purpose.to_owned(), required }
    }

    /// The record as a line of a zone file.
    pub fn zone_line(&self) -> String {
        let mut line = format!("{}. IN {}", self.name, self.kind);
        let mut rest = self.value.as_str();
        while !rest.is_empty() {
            let (string, more) = rest.split_at(rest.len().min(STRING_OCTETS));
            line.push_str(&format!(" \"{string}\""));
            rest = more;
        }
        line
    }
}

/// Name and text of a key's record. The text is ASCII.
pub fn dkim_record(domain: &Domain, key: &DkimKey) -> (String, String) {
    let algorithm = match key.algorithm {
        Algorithm::RsaSha256 => "rsa",
        Algorithm::Ed25519Sha256 => "ed25519",
    };
    let name = format!("{}._domainkey.{domain}", key.selector);
    (name, format!("v=DKIM1; k={algorithm}; p={}", STANDARD.encode(&key.public)))
}

/// All records of a domain whose mail leaves from `hostname`: DKIM keys first, then advice.
pub fn records_of(domain: &SendingDomain, hostname: &Domain) -> Vec<DnsRecord> {
    let name = &domain.domain;
    let mut records: Vec<DnsRecord> = domain
        .keys
        .iter()
        .map(|key| {
            let (name, value) = dkim_record(&domain.domain, key);
            DnsRecord::txt(name, value, "DKIM: receivers check signatures with this key", true)
        })
        .collect();
    let spf = format!("v=spf1 a:{hostname} ~all");
    records.push(DnsRecord::txt(
        name.to_string(),
        spf,
        "SPF: this host may send for the domain (merge it with a record that is there)",
        false,
    ));
    let dmarc = "v=DMARC1; p=none".to_owned();
    records.push(DnsRecord::txt(
        format!("_dmarc.{name}"),
        dmarc,
        "DMARC: what receivers do with mail that fails both; tighten p= later",
        false,
    ));
    records
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn domain() -> SendingDomain {
        let key = |selector: &str, algorithm, public: Vec<u8>| DkimKey {
            id: format!("dkim_{selector}"),
            selector: selector.to_owned(),
            algorithm,
            public,
            sealed_private: Vec::new(),
        };
        SendingDomain {
            tenant: "default".to_owned(),
            domain: Domain::parse("example.com").unwrap(),
            created_at: jiff::Timestamp::UNIX_EPOCH,
            keys: vec![key("r1", Algorithm::RsaSha256, vec![7; 294]), key("e1", Algorithm::Ed25519Sha256, vec![1; 32])],
        }
    }

    #[test]
    fn records_name_every_key_and_the_host() {
        let records = records_of(&domain(), &Domain::parse("mail.example.net").unwrap());
        let names: Vec<&str> = records.iter().map(|record| record.name.as_str()).collect();
        assert_eq!(
            names,
            ["r1._domainkey.example.com", "e1._domainkey.example.com", "example.com", "_dmarc.example.com"]
        );
        assert!(records[0].value.starts_with("v=DKIM1; k=rsa; p=BwcH"));
        assert_eq!(records[1].value, "v=DKIM1; k=ed25519; p=AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=");
        assert_eq!(records[2].value, "v=spf1 a:mail.example.net ~all");
        assert_eq!(records.iter().filter(|record| record.required).count(), 2);
    }

    #[test]
    fn long_texts_are_split_for_zone_files() {
        let records = records_of(&domain(), &Domain::parse("mail.example.net").unwrap());
        let line = records[0].zone_line();
        assert!(line.starts_with("r1._domainkey.example.com. IN TXT \"v=DKIM1"));
        let strings: Vec<&str> = line.split('"').skip(1).step_by(2).collect();
        assert_eq!((strings.len(), strings[0].len()), (2, 255));
        assert_eq!(strings.concat(), records[0].value);
    }
}
