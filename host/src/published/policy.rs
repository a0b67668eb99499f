//! DMARC records (RFC 7489 s6.3): their owner's to word, but well-formed and alone.

use super::{RecordStatus, failed, of_kind, shown, tags};

/// What is published at `_dmarc`.
pub(super) fn judge(records: &[String]) -> (RecordStatus, String) {
    match of_kind("v=DMARC1", records).as_slice() {
        [] => (RecordStatus::Pending, "has no v=DMARC1 record".to_owned()),
        [text] => match fault(text) {
            Some(fault) => failed(format!("has {}, which {fault}", shown(text))),
            None => (RecordStatus::Verified, format!("has {}", shown(text))),
        },
        several => failed(format!("has {} v=DMARC1 records, so that none counts: merge them into one", several.len())),
    }
}

/// What makes receivers ignore a record, or a part of it.
fn fault(text: &str) -> Option<String> {
    let mut names: Vec<String> = Vec::new();
    for (place, tag) in tags(text).iter().enumerate() {
        let Some((name, value)) = tag.split_once('=') else {
            return Some(format!("has `{}` where a tag such as p=none belongs", shown(tag)));
        };
        if place == 0 && tag != "v=DMARC1" {
            return Some("must begin with v=DMARC1, in these very letters".to_owned());
        }
        let name = name.to_ascii_lowercase();
        if names.contains(&name) {
            return Some(format!("has {}= twice", shown(&name)));
        }
        let value = value.to_ascii_lowercase();
        let of = |words: &[&str]| words.contains(&value.as_str());
        let number = |most: u64| value.parse::<u64>().is_ok_and(|number| number <= most);
        let (is_good, wanted) = match name.as_str() {
            "p" | "sp" | "np" => (of(&["none", "quarantine", "reject"]), "none, quarantine or reject"),
            "adkim" | "aspf" => (of(&["r", "s"]), "r or s"),
            "pct" => (number(100), "a number from 0 to 100"),
            "ri" => (number(u64::from(u32::MAX)), "a number of seconds"),
            "fo" => (value.split(':').all(|it| ["0", "1", "d", "s"].contains(&it)), "0, 1, d or s"),
            "rua" | "ruf" => (
                value
                    .split(',')
                    .all(|uri| uri.split_once(':').is_some_and(|(scheme, to)| !scheme.is_empty() && !to.is_empty())),
                "URIs such as mailto:dmarc@example.com",
            ),
            _ => (true, ""),
        };
        if !is_good {
            return Some(format!("says {}={} where {wanted} belongs", shown(&name), shown(&value)));
        }
        names.push(name);
    }
    let has = |name: &str| names.iter().any(|known| known == name);
    (!has("p")).then(|| "lacks p=: write p=none to begin with".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_their_owners_to_word() {
        use RecordStatus::{Failed, Pending, Verified};
        let check = |records: &[&str], status, words: &str| {
            let records: Vec<String> = records.iter().map(|text| (*text).to_owned()).collect();
            let (found, detail) = judge(&records);
            assert_eq!(found, status, "{detail}");
            assert!(detail.contains(words), "{detail}");
        };
        check(&["v=DMARC1; p=reject"], Verified, "p=reject");
        check(
            &["v=DMARC1;p=none;sp=quarantine; pct=50; fo=1:d; rua=mailto:a@b.test,mailto:c@d.test;"],
            Verified,
            "has",
        );
        check(&["ü"], Pending, "no v=DMARC1 record");
        check(&["v=DMARC12; p=none"], Pending, "no v=DMARC1 record");
        check(&["v=DMARC1; p=none", "v=DMARC1; p=reject"], Failed, "2 v=DMARC1 records");
        check(&["v=dmarc1; p=none"], Failed, "these very letters");
        check(&["v=DMARC1; p=nothing"], Failed, "p=nothing where none, quarantine or reject");
        check(&["v=DMARC1; rua=mailto:a@b.test"], Failed, "lacks p=");
        check(&["v=DMARC1; p=none; p=reject"], Failed, "p= twice");
        check(&["v=DMARC1; p=none; pct=200"], Failed, "pct=200");
        check(&["v=DMARC1; p=none; rua=a@b.test"], Failed, "mailto:");
        check(&["v=DMARC1; p=none; nonsense"], Failed, "`nonsense`");
    }
}
