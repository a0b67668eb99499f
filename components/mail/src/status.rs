//! Enhanced mail system status codes (RFC 3463, RFC 5248).

use std::fmt;

/// `class.subject.detail`: class 2, 4 or 5; the others at most 999.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EnhancedCode {
    pub class: u8,
    pub subject: u16,
    pub detail: u16,
}

impl EnhancedCode {
    pub const fn new(class: u8, subject: u16, detail: u16) -> EnhancedCode {
        EnhancedCode { class, subject, detail }
    }

    /// Reads a code at the start of a text; the rest of the text, trimmed, comes back with it. `None` where the text
    /// begins with anything else, such as an IP address.
    pub fn split(text: &str) -> Option<(EnhancedCode, &str)> {
        let text = text.trim_start();
        let (code, rest) = match text.split_once([' ', '\t', '\n']) {
            Some((code, rest)) => (code, rest.trim()),
            None => (text.trim_end(), ""),
        };
        let mut numbers = code.split('.');
        let class = number(numbers.next()?).filter(|class| matches!(class, 2 | 4 | 5))?;
        let subject = number(numbers.next()?)?;
        let detail = number(numbers.next()?)?;
        match numbers.next() {
            Some(_) => None,
            None => Some((EnhancedCode::new(class as u8, subject, detail), rest)),
        }
    }
}

/// One to three digits (RFC 3463 s2).
fn number(text: &str) -> Option<u16> {
    let is_number = matches!(text.len(), 1..=3) && text.bytes().all(|octet| octet.is_ascii_digit());
    is_number.then(|| text.parse().ok())?
}

impl fmt::Display for EnhancedCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.class, self.subject, self.detail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_code_at_the_start() {
        let check = |text: &str, expected: Option<(&str, &str)>| {
            let found = EnhancedCode::split(text).map(|(code, rest)| (code.to_string(), rest));
            assert_eq!(found, expected.map(|(code, rest)| (code.to_owned(), rest)), "{text:?}");
        };
        check("5.1.1 no such user", Some(("5.1.1", "no such user")));
        check("2.0.0", Some(("2.0.0", "")));
        check("  4.7.28  slow down ", Some(("4.7.28", "slow down")));
        check("5.7.515 Access denied", Some(("5.7.515", "Access denied")));
        check("4.2.1\nfull", Some(("4.2.1", "full")));
        check("3.0.0 class", None);
        check("5.1 two", None);
        check("5.1.1.1 address", None);
        check("5.1.1000 large", None);
        check("5.-1.0 sign", None);
        check("5.1.1, comma", None);
        check("550 5.1.1 code first", None);
        check("", None);
        check("5.\u{661}.1 arabic digit", None);
    }
}
