//! DKIM keys (RFC 6376 s3.6): exactly ours, and alone.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{RecordStatus, failed, shown, tags};
use crate::route::lookup::Texts;

/// What is published at a key's name, against the value that should be.
pub(super) fn judge(value: &str, Texts { records, alias }: &Texts) -> (RecordStatus, String) {
    let wanted = tags(value);
    let keys: Vec<&String> = records.iter().filter(|text| is_key(text)).collect();
    let is_there = keys.iter().any(|text| is_ours(&tags(text), &wanted));
    match (is_there, keys.as_slice()) {
        (true, [one]) => return (RecordStatus::Verified, published(one)),
        (true, several) => {
            return failed(format!("holds {} keys, so that none counts: remove all but ours", several.len()));
        }
        (false, _) => {}
    }
    if let Some(alias) = alias {
        return failed(format!("is an alias (CNAME) of {}, which stands in the way: remove it", shown(alias)));
    }
    if let Some(fault) = quoting_fault(value, records) {
        return failed(fault);
    }
    if let [one] = keys.as_slice()
        && let Some(fault) = form_fault(&tags(one), &wanted)
    {
        return failed(fault);
    }
    if let Some(fault) = split_fault(value, records) {
        return failed(fault);
    }
    match keys.as_slice() {
        [] => (RecordStatus::Pending, "is not published: signatures cannot be verified".to_owned()),
        [one] => failed(other_key(&tags(one), &wanted)),
        several => failed(format!("holds {} keys, and none is ours", several.len())),
    }
}

fn published(text: &str) -> String {
    match tag(&tags(text), "t=").is_some_and(|flags| flags.split(':').any(|flag| flag.eq_ignore_ascii_case("y"))) {
        true => "is published, in test mode (t=y): take that away, or receivers may treat mail as unsigned".to_owned(),
        false => "is published".to_owned(),
    }
}

/// Whether a record is the key that is wanted. Tags that do no harm may stand beside: notes, a version, flags.
fn is_ours(found: &[String], wanted: &[String]) -> bool {
    let alike = |name: &str, default: &str| {
        let value = |tags: &[String]| tag(tags, name).unwrap_or(default).to_ascii_lowercase();
        value(found) == value(wanted)
    };
    tag(found, "p=") == tag(wanted, "p=")
        && alike("k=", "rsa")
        && tag(found, "v=").is_none_or(|version| version == "DKIM1")
        && tag(found, "h=").is_none_or(|hashes| hashes.split(':').any(|hash| hash.eq_ignore_ascii_case("sha256")))
        && tag(found, "s=").is_none_or(|services| services.split(':').any(|it| it == "*" || it == "email"))
}

/// What a record says that makes it no key at all, or one that is not for our signatures.
fn form_fault(found: &[String], wanted: &[String]) -> Option<String> {
    let key = tag(found, "p=");
    let Some(key) = key else { return Some("has no p=, where the key belongs".to_owned()) };
    if key.is_empty() {
        return Some(
            "is revoked (its p= is empty): every signature with it fails, so publish our value instead".to_owned(),
        );
    }
    if key != tag(wanted, "p=").unwrap_or_default() {
        return None;
    }
    let (kind, ours) = (tag(found, "k=").unwrap_or("rsa"), tag(wanted, "k=").unwrap_or("rsa"));
    if !kind.eq_ignore_ascii_case(ours) {
        return Some(format!("says k={} and must say k={ours}", shown(kind)));
    }
    if let Some(version) = tag(found, "v=").filter(|version| *version != "DKIM1") {
        return Some(format!("says v={} and must say v=DKIM1", shown(version)));
    }
    if let Some(hashes) = tag(found, "h=").filter(|it| !it.split(':').any(|hash| hash.eq_ignore_ascii_case("sha256"))) {
        return Some(format!("allows h={} alone, and we sign with sha256: leave h= out", shown(hashes)));
    }
    Some("is not for email: leave its s= out".to_owned())
}

fn other_key(found: &[String], wanted: &[String]) -> String {
    let key = tag(found, "p=").unwrap_or_default();
    match STANDARD.decode(key) {
        Err(_) => "holds a p= that is not base64: publish our value as it is".to_owned(),
        Ok(_) => {
            let (kind, ours) = (tag(found, "k=").unwrap_or("rsa"), tag(wanted, "k=").unwrap_or("rsa"));
            match kind.eq_ignore_ascii_case(ours) {
                true => "holds another key than ours".to_owned(),
                false => format!("holds another key than ours, of the kind {} and not {ours}", shown(kind)),
            }
        }
    }
}

/// A value without blanks, quotation marks and backslashes, which forms of DNS providers put in.
fn unquoted(text: &str) -> String {
    text.chars().filter(|c| !c.is_whitespace() && !matches!(c, '"' | '\\')).collect()
}

/// A value that was taken from a zone file as it stands there.
fn quoting_fault(value: &str, records: &[String]) -> Option<String> {
    let is_quoted = |text: &String| text.contains(['"', '\\']) && unquoted(text) == unquoted(value);
    let advice = "has quotation marks or backslashes in its value: remove them";
    records.iter().any(is_quoted).then(|| advice.to_owned())
}

/// How a value that is longer than one string of 255 octets got broken.
fn split_fault(value: &str, records: &[String]) -> Option<String> {
    let wanted = unquoted(value);
    let pieces: Vec<String> =
        records.iter().map(|text| unquoted(text)).filter(|text| wanted.contains(text.as_str())).collect();
    let octets: usize = pieces.iter().map(String::len).sum();
    let begins = pieces.iter().any(|piece| !piece.is_empty() && wanted.starts_with(piece.as_str()));
    match pieces.len() {
        1 if begins && octets < wanted.len() => Some(format!(
            "is cut off after {octets} characters: publish all of it, split into strings of at most 255 characters"
        )),
        2.. if begins && octets >= wanted.len() => {
            Some(format!("is split into {} records: it must be one record of several strings", pieces.len()))
        }
        _ => None,
    }
}

fn is_key(text: &str) -> bool {
    tags(text).iter().any(|tag| tag.starts_with("p=") || tag.starts_with("v=DKIM1"))
}

fn tag<'a>(tags: &'a [String], name: &str) -> Option<&'a str> {
    tags.iter().find_map(|tag| tag.strip_prefix(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(value: &str, records: &[&str], alias: Option<&str>, status: RecordStatus, words: &str) {
        let records = records.iter().map(|text| (*text).to_owned()).collect();
        let (found, detail) = judge(value, &Texts { records, alias: alias.map(str::to_owned) });
        assert_eq!(found, status, "{detail}");
        assert!(detail.contains(words), "{detail}");
    }

    #[test]
    fn keys_must_be_ours_and_alone() {
        use RecordStatus::{Failed, Pending, Verified};
        let value = "v=DKIM1; k=rsa; p=AAAABBBBCCCC";
        let key = |records: &[&str], status, words: &str| check(value, records, None, status, words);
        key(&["v=DKIM1; k=rsa; p=AAAABBBBCCCC"], Verified, "is published");
        key(&["v=DKIM1;k=rsa;p=AAAA BBBBCCCC;"], Verified, "is published");
        key(&["p=AAAABBBBCCCC"], Verified, "is published");
        key(&["v=DKIM1; n=ours; s=email; h=sha1:sha256; t=s; p=AAAABBBBCCCC"], Verified, "is published");
        key(&["v=DKIM1; t=y:s; p=AAAABBBBCCCC"], Verified, "test mode");
        key(&["google-verification=1", value], Verified, "is published");
        key(&[value, value], Failed, "holds 2 keys");
        key(&[value, "v=DKIM1; k=rsa; p=DDDD"], Failed, "holds 2 keys");
        key(&["v=DKIM1; k=rsa; p=DDDD"], Failed, "another key");
        key(&["v=DKIM1; k=ed25519; p=DDDD"], Failed, "of the kind ed25519");
        key(&["v=DKIM1; k=rsa; p=X!"], Failed, "not base64");
        key(&["v=DKIM1; k=rsa; p="], Failed, "revoked");
        key(&["v=DKIM1; k=rsa"], Failed, "has no p=");
        key(&["v=DKIM1; k=ed25519; p=AAAABBBBCCCC"], Failed, "must say k=rsa");
        key(&["v=DKIM2; p=AAAABBBBCCCC"], Failed, "must say v=DKIM1");
        key(&["v=DKIM1; h=sha1; p=AAAABBBBCCCC"], Failed, "h=sha1");
        key(&["v=DKIM1; s=tlsrpt; p=AAAABBBBCCCC"], Failed, "not for email");
        key(&["v=DKIM1; k=rsa; p=AAAABB"], Failed, "cut off after 22 characters");
        key(&["\"v=DKIM1; k=rsa; \" \"p=AAAABBBBCCCC\""], Failed, "quotation marks");
        key(&["v=DKIM1\\; k=rsa\\; p=AAAABBBBCCCC"], Failed, "backslashes");
        key(&["v=DKIM1; k=rsa; p=AAAA", "BBBBCCCC"], Failed, "split into 2 records");
        key(&["BBBBCCCC", "v=DKIM1; k=rsa; p=AAAA"], Failed, "split into 2 records");
        key(&["v=DKIM1; p=DDDD", "v=DKIM1; p=EEEE"], Failed, "none is ours");
        key(&["google-verification=1"], Pending, "not published");
        key(&[], Pending, "not published");
        check(value, &[], Some("keys.other.test"), Failed, "alias (CNAME) of keys.other.test");
        check(value, &["v=DKIM1; p=DDDD"], Some("keys.other.test"), Failed, "stands in the way");
        check(value, &[value], Some("keys.other.test"), Verified, "is published");
    }
}
