//! What a signer returned, checked before it is put in front of a message: a component must not be able to write
//! anything there but signatures.

use contract::RawHeader;

use crate::Refusal;

/// Bytes of all signature fields together.
const BYTES: usize = 16 << 10;
/// Octets of a line (RFC 5322 s2.1.1).
const LINE_OCTETS: usize = 998;
const STAGE: &str = "signer";

/// The fields as they are put in front: `Name:value`, folds included, without the last CRLF.
pub(crate) fn fields(headers: Vec<RawHeader>) -> Result<Vec<String>, Refusal> {
    check(&headers).map_err(|text| Refusal::nonsense(STAGE, text))?;
    let field = |RawHeader { name, value }| format!("{name}:{}", String::from_utf8_lossy(&value));
    Ok(headers.into_iter().map(field).collect())
}

/// Whether all are signatures. Errors: which is not, and why.
pub(crate) fn check(headers: &[RawHeader]) -> Result<(), String> {
    let bytes: usize = headers.iter().map(|header| header.name.len() + header.value.len() + 3).sum();
    if bytes > BYTES {
        return Err(format!("the signatures have {bytes} bytes: at most {BYTES} are allowed"));
    }
    headers.iter().try_for_each(|RawHeader { name, value }| {
        if !is_signature_name(name) {
            return Err(format!("`{}` is not the name of a signature field", name.escape_debug()));
        }
        match is_value(name, value) {
            true => Ok(()),
            false => Err(format!("the value of `{name}` is not that of a header field")),
        }
    })
}

/// `DKIM-Signature`, those of ARC (RFC 8617) and private ones: never one that says who sends what to whom.
fn is_signature_name(name: &str) -> bool {
    let is_token = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    let lower = name.to_ascii_lowercase();
    is_token && (lower.ends_with("-signature") || lower.starts_with("arc-") || lower.starts_with("x-"))
}

/// Printable ASCII and white space, lines of at most 998 octets, every line after the first a fold that holds more
/// than white space.
fn is_value(name: &str, value: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(value) else { return false };
    text.split("\r\n").enumerate().all(|(index, line)| {
        let before = if index == 0 { name.len() + 1 } else { 0 };
        let is_fold = index == 0 || line.starts_with([' ', '\t']);
        let is_clean = line.bytes().all(|byte| matches!(byte, b'\t' | b' '..=b'~'));
        is_fold && is_clean && !line.trim().is_empty() && before + line.len() <= LINE_OCTETS
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, value: &str, expect: Option<&str>) {
        let header = RawHeader { name: name.to_owned(), value: value.as_bytes().to_vec() };
        let answer = fields(vec![header]).ok().map(|fields| fields.concat());
        assert_eq!(answer.as_deref(), expect, "{name:?} {value:?}");
    }

    #[test]
    fn signatures_pass() {
        check("DKIM-Signature", " v=1;\r\n\tb=abc", Some("DKIM-Signature: v=1;\r\n\tb=abc"));
        check("ARC-Seal", "x", Some("ARC-Seal:x"));
        check("X-Seen-By", " us", Some("X-Seen-By: us"));
    }

    #[test]
    fn nothing_else_can_be_injected() {
        for name in ["From", "Bcc", "", "DKIM-Signature:", "X-A\r\nBcc", "X-Ä", "X A-Signature", "Received"] {
            check(name, " x", None);
        }
        for value in [
            "",
            " ",
            "a\r\nBcc: x@y.test",
            "a\r\n\r\nbody",
            "a\r\n \r\n b",
            "a\r\n",
            "a\nb",
            "a\rb",
            "a\u{0}",
            "ä",
            "a\u{7f}",
        ] {
            check("DKIM-Signature", value, None);
        }
        check("DKIM-Signature", &"x".repeat(983), Some(&format!("DKIM-Signature:{}", "x".repeat(983))));
        check("DKIM-Signature", &"x".repeat(984), None);
        check("DKIM-Signature", &"x\r\n ".repeat(4096), None);
    }
}
