//! Mail addresses (RFC 5321 s4.1.2 for the envelope, RFC 5322 s3.4 for header fields, RFC 6531 for non-ASCII).
//!
//! These types cannot hold a control character, a domain that is none, or a part that is too long: whatever prints
//! them into a command or a field cannot be made to print another. How mailboxes with names are read is in `mailbox`.

use std::borrow::Cow;
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use idna::uts46::{AsciiDenyList, DnsLength, Hyphens, Uts46};
use thiserror::Error;

/// The longest local part in octets, as it goes over the wire (RFC 5321 s4.5.3.1.1).
pub const MAX_LOCAL_OCTETS: usize = 64;
/// The longest domain in octets (RFC 5321 s4.5.3.1.2).
pub const MAX_DOMAIN_OCTETS: usize = 255;
/// The longest address in octets: a path is 256, its angle brackets included (RFC 5321 s4.5.3.1.3).
pub const MAX_ADDRESS_OCTETS: usize = 254;
/// How much of a faulty address an error repeats.
const MAX_SHOWN_CHARACTERS: usize = 100;
/// The longest label of a domain in octets (RFC 1035 s2.3.4).
const MAX_LABEL_OCTETS: usize = 63;

/// A domain name in lower case, internationalized labels as A-labels (`xn--…`); or an address literal in brackets.
///
/// At most 255 octets (RFC 5321 s4.5.3.1.2), labels of 1 to 63 letters, digits and inner hyphens (underscores
/// tolerated), no trailing dot.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Domain(String);

/// `local@domain`. The local part is kept as given, unquoted where quotes are not needed; at most 64 octets
/// (RFC 5321 s4.5.3.1.1). Equality is exact in the local part.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    local: String,
    domain: Domain,
}

/// An address with an optional display name, as in a From field.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Mailbox {
    pub name: Option<String>,
    pub address: Address,
}

/// What is wrong with an address, in words for whoever wrote it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AddressError {
    #[error("an address is missing")]
    Empty,
    #[error("`{0}` has no `@`: write local@domain")]
    NoAt(String),
    #[error("the part before the `@` of `{0}` is not valid")]
    Local(String),
    #[error("the part before the `@` is {0} octets long: at most 64 are allowed")]
    LocalTooLong(usize),
    #[error("`{0}` is not a domain name")]
    Domain(String),
    #[error("the domain is {0} octets long: at most 255 are allowed")]
    DomainTooLong(usize),
    #[error("the address is {0} octets long: at most 254 are allowed")]
    TooLong(usize),
    #[error("a control character (CR, LF or another) is not allowed in an address")]
    Control,
    #[error("`{0}` is not `address` or `Name <address>`")]
    Mailbox(String),
}

impl Domain {
    /// Reads a domain in any case, U-labels or A-labels, or an address literal (RFC 5321 s4.1.3).
    pub fn parse(text: &str) -> Result<Domain, AddressError> {
        if text.contains(char::is_control) {
            return Err(AddressError::Control);
        }
        if text.len() > 4 * MAX_DOMAIN_OCTETS {
            return Err(AddressError::DomainTooLong(text.len()));
        }
        if let Some(literal) = text.strip_prefix('[') {
            return address_literal(literal).map(Domain).ok_or_else(|| AddressError::Domain(shown(text)));
        }
        let ascii = a_labels(text).ok_or_else(|| AddressError::Domain(shown(text)))?;
        if ascii.len() > MAX_DOMAIN_OCTETS {
            return Err(AddressError::DomainTooLong(ascii.len()));
        }
        // An all-digit last label is an IP address without brackets, or no name at all.
        let is_name = ascii.split('.').all(is_label)
            && !ascii.rsplit('.').next().is_some_and(|last| last.bytes().all(|octet| octet.is_ascii_digit()));
        match is_name {
            true => Ok(Domain(ascii)),
            false => Err(AddressError::Domain(shown(text))),
        }
    }

    /// The name, lower case, A-labels.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is an address literal such as `[192.0.2.1]`.
    pub fn is_literal(&self) -> bool {
        self.0.starts_with('[')
    }
}

impl Address {
    /// Reads `local@domain` or `"quoted local"@domain`, without angle brackets, blanks or comments around it.
    pub fn parse(text: &str) -> Result<Address, AddressError> {
        if text.is_empty() {
            return Err(AddressError::Empty);
        }
        // U-labels and escapes shrink, but not to a fourth.
        if text.len() > 4 * MAX_ADDRESS_OCTETS {
            return Err(AddressError::TooLong(text.len()));
        }
        if text.contains(char::is_control) {
            return Err(AddressError::Control);
        }
        let (local, domain) = match text.strip_prefix('"') {
            Some(quoted) => {
                let (local, rest) = quoted_local(quoted).ok_or_else(|| AddressError::Local(shown(text)))?;
                (Cow::Owned(local), rest.strip_prefix('@').ok_or_else(|| AddressError::NoAt(shown(text)))?)
            }
            None => {
                let (local, domain) = text.split_once('@').ok_or_else(|| AddressError::NoAt(shown(text)))?;
                if !is_dot_string(local) {
                    return Err(AddressError::Local(shown(text)));
                }
                (Cow::Borrowed(local), domain)
            }
        };
        let on_wire = WireLocal(&local).to_string().len();
        if on_wire > MAX_LOCAL_OCTETS {
            return Err(AddressError::LocalTooLong(on_wire));
        }
        let domain = Domain::parse(domain)?;
        let whole = on_wire + 1 + domain.0.len();
        if whole > MAX_ADDRESS_OCTETS {
            return Err(AddressError::TooLong(whole));
        }
        Ok(Address { local: local.into_owned(), domain })
    }

    /// The local part without quotes.
    pub fn local(&self) -> &str {
        &self.local
    }

    pub fn domain(&self) -> &Domain {
        &self.domain
    }

    /// Whether its local part needs SMTPUTF8 (RFC 6531).
    pub fn is_internationalized(&self) -> bool {
        !self.local.is_ascii()
    }
}

/// Prints `local@domain`, the local part quoted where RFC 5321 wants it.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", WireLocal(&self.local), self.domain)
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Prints for people: `Name <local@domain>` or the bare address.
impl fmt::Display for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{name} <{}>", self.address),
            None => write!(f, "{}", self.address),
        }
    }
}

/// Prints a local part as RFC 5321 s4.1.2 wants it: bare where it is a dot-string, else quoted.
struct WireLocal<'a>(&'a str);

impl fmt::Display for WireLocal<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if is_dot_string(self.0) {
            return f.write_str(self.0);
        }
        f.write_str("\"")?;
        for c in self.0.chars() {
            match c {
                '"' | '\\' => write!(f, "\\{c}")?,
                _ => write!(f, "{c}")?,
            }
        }
        f.write_str("\"")
    }
}

/// Atoms with single dots between them (RFC 5321 s4.1.2, RFC 6531 s3.3).
fn is_dot_string(local: &str) -> bool {
    local.split('.').all(|atom| !atom.is_empty() && atom.chars().all(is_atom_character))
}

/// `atext` of RFC 5322 s3.2.3, and what RFC 6531 adds but for what cannot be seen.
pub(crate) fn is_atom_character(c: char) -> bool {
    match c {
        'a'..='z' | 'A'..='Z' | '0'..='9' => true,
        '!' | '#' | '$' | '%' | '&' | '\'' | '*' | '+' | '-' | '/' | '=' | '?' | '^' | '_' | '`' => true,
        '{' | '|' | '}' | '~' => true,
        _ => !c.is_ascii() && is_visible(c),
    }
}

/// Neither blank nor control nor one of those that only steer how others are shown. U+FFFD stands for octets that
/// could not be read.
fn is_visible(c: char) -> bool {
    !(c.is_control()
        || c.is_whitespace()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fffd}'))
}

/// Reads what stands behind an opening quote up to the closing one; the rest comes back with it. An empty local part
/// is legal and means nothing to anybody, so it is refused.
fn quoted_local(text: &str) -> Option<(String, &str)> {
    let mut local = String::new();
    let mut characters = text.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            '"' => return (!local.is_empty()).then(|| (local, &text[at + 1..])),
            '\\' => match characters.next() {
                Some((_, escaped)) if matches!(escaped, ' '..='~') => local.push(escaped),
                Some(_) | None => return None,
            },
            ' '..='~' => local.push(c),
            _ if !c.is_ascii() && is_visible(c) => local.push(c),
            _ => return None,
        }
    }
    None
}

/// The name in lower case, U-labels turned into A-labels by UTS 46; `None` where they cannot be.
fn a_labels(text: &str) -> Option<String> {
    let is_plain = text.is_ascii() && !text.split('.').any(|label| label.get(..4).is_some_and(is_ace_prefix));
    if is_plain {
        return Some(text.to_ascii_lowercase());
    }
    let ascii = Uts46::new().to_ascii(text.as_bytes(), AsciiDenyList::EMPTY, Hyphens::Allow, DnsLength::Ignore);
    ascii.ok().map(Cow::into_owned)
}

fn is_ace_prefix(text: &str) -> bool {
    text.eq_ignore_ascii_case("xn--")
}

/// A stranger's text as an error repeats it.
pub(crate) fn shown(text: &str) -> String {
    match text.char_indices().nth(MAX_SHOWN_CHARACTERS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Letters, digits, inner hyphens (RFC 5321 s4.1.2) and underscores, which real hosts have.
fn is_label(label: &str) -> bool {
    matches!(label.len(), 1..=MAX_LABEL_OCTETS)
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label.bytes().all(|octet| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_'))
}

/// Reads an address literal behind its opening bracket and prints it in one way.
fn address_literal(text: &str) -> Option<String> {
    let inner = text.strip_suffix(']')?;
    match inner.get(..5) {
        Some(tag) if tag.eq_ignore_ascii_case("IPv6:") => {
            inner[5..].parse::<Ipv6Addr>().ok().map(|address| format!("[IPv6:{address}]"))
        }
        Some(_) | None => inner.parse::<Ipv4Addr>().ok().map(|address| format!("[{address}]")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn reads_domains() {
        let check = |text: &str, expected: &str| {
            assert_eq!(Domain::parse(text).as_ref().map(Domain::as_str), Ok(expected), "{text:?}");
        };
        check("Example.COM", "example.com");
        check("localhost", "localhost");
        check("r3---sn-x.example", "r3---sn-x.example");
        check("_dmarc.example.com", "_dmarc.example.com");
        check("xn--mnchen-3ya.example", "xn--mnchen-3ya.example");
        check("M\u{dc}NCHEN.example", "xn--mnchen-3ya.example");
        check("\u{4f8b}\u{3048}.\u{30c6}\u{30b9}\u{30c8}", "xn--r8jz45g.xn--zckzah");
        check("\u{ff45}xample.com", "example.com");
        check("a\u{3002}test", "a.test");
        check("1.example", "1.example");
        check("[192.0.2.1]", "[192.0.2.1]");
        check("[ipv6:2001:DB8:0::1]", "[IPv6:2001:db8::1]");
        assert!(Domain::parse("[192.0.2.1]").unwrap().is_literal());
        assert!(!Domain::parse("a.test").unwrap().is_literal());
        let label = "a".repeat(63);
        check(&format!("{label}.{label}.{label}.{label}"), &format!("{label}.{label}.{label}.{label}"));
    }

    #[test]
    fn refuses_what_is_no_domain() {
        for text in [
            "",
            ".",
            "a.",
            ".a",
            "a..b",
            "-a.test",
            "a-.test",
            "a b.test",
            "a@b.test",
            "192.0.2.1",
            "a.123",
            "[]",
            "[192.0.2.256]",
            "[192.0.2.1",
            "[2001:db8::1]",
            "[IPv6:zz]",
            "[tag:x]",
            "xn--\u{fc}.test",
            "xn--a.test",
            "a,b.test",
            "a\u{fffd}.test",
            "a\\.test",
            "\u{5b9}.test",
            "\u{ff20}.test",
            "a:25",
        ] {
            assert_eq!(Domain::parse(text), Err(AddressError::Domain(text.to_owned())), "{text:?}");
        }
        let label = "a".repeat(64);
        assert!(Domain::parse(&format!("{label}.test")).is_err());
        let long = format!("{0}.{0}.{0}.{0}.a", &label[1..]);
        assert_eq!(Domain::parse(&long), Err(AddressError::DomainTooLong(257)));
        assert_eq!(Domain::parse(&"\u{fc}.".repeat(400)), Err(AddressError::DomainTooLong(1200)));
        for text in ["a\r\n.test", "a\0.test", "a.test\n", "[192.0.2.1]\r", "a\u{85}b"] {
            assert_eq!(Domain::parse(text), Err(AddressError::Control), "{text:?}");
        }
    }

    #[test]
    fn reads_addresses() {
        let check = |text: &str, local: &str, printed: &str| {
            let address = Address::parse(text).unwrap();
            assert_eq!((address.local(), address.to_string().as_str()), (local, printed), "{text:?}");
            assert_eq!(Address::parse(printed), Ok(address), "{text:?}");
        };
        check("Alice@Example.COM", "Alice", "Alice@example.com");
        check("a.b+tag@x.test", "a.b+tag", "a.b+tag@x.test");
        check("!#$%&'*+-/=?^_`{|}~@x.test", "!#$%&'*+-/=?^_`{|}~", "!#$%&'*+-/=?^_`{|}~@x.test");
        check("\"plain\"@x.test", "plain", "plain@x.test");
        check("\"a b\"@x.test", "a b", "\"a b\"@x.test");
        check("\"a@b\"@x.test", "a@b", "\"a@b\"@x.test");
        check("\"a..b\"@x.test", "a..b", "\"a..b\"@x.test");
        check(r#""q\"b\\s\x"@x.test"#, r#"q"b\sx"#, r#""q\"b\\sx"@x.test"#);
        check("\"<>(),:;\"@x.test", "<>(),:;", "\"<>(),:;\"@x.test");
        check("j\u{fc}rgen@x.test", "j\u{fc}rgen", "j\u{fc}rgen@x.test");
        check("\u{4f8b}@\u{4f8b}.test", "\u{4f8b}", "\u{4f8b}@xn--fsq.test");
        check("a@[192.0.2.1]", "a", "a@[192.0.2.1]");
        check(&format!("{}@x.test", "a".repeat(64)), &"a".repeat(64), &format!("{}@x.test", "a".repeat(64)));
        assert!(Address::parse("j\u{fc}rgen@x.test").unwrap().is_internationalized());
        assert!(!Address::parse("j@m\u{fc}nchen.test").unwrap().is_internationalized());
    }

    #[test]
    fn refuses_what_is_no_address() {
        let local = |text: &str| AddressError::Local(text.to_owned());
        let check = |text: &str, expected: AddressError| assert_eq!(Address::parse(text), Err(expected), "{text:?}");
        check("", AddressError::Empty);
        check("alice", AddressError::NoAt("alice".into()));
        check("\"alice\"", AddressError::NoAt("\"alice\"".into()));
        for text in [
            "@x.test",
            ".a@x.test",
            "a.@x.test",
            "a..b@x.test",
            "a b@x.test",
            " a@x.test",
            "a,b@x.test",
            "<a@x.test>",
            "\"\"@x.test",
            "\"a@x.test",
            "\"a\\",
            "\"a\\\u{fc}\"@x.test",
            "a\u{a0}b@x.test",
            "a\u{202e}b@x.test",
            "a\u{fffd}@x.test",
            "a\"b@x.test",
            "a(c)@x.test",
            "mailto:a@x.test",
            "@a,@b:c@x.test",
        ] {
            check(text, local(text));
        }
        check("a@", AddressError::Domain(String::new()));
        check("a@b@x.test", AddressError::Domain("b@x.test".into()));
        check("a@x.test ", AddressError::Domain("x.test ".into()));
        check("\"a\"b@x.test", AddressError::NoAt("\"a\"b@x.test".into()));
        check(&format!("{}@x.test", "a".repeat(65)), AddressError::LocalTooLong(65));
        check(&format!("\"{} \"@x.test", "a".repeat(62)), AddressError::LocalTooLong(65));
        check(&format!("{}@x.test", "\u{fc}".repeat(33)), AddressError::LocalTooLong(66));
        let label = "a".repeat(63);
        check(&format!("abcdefgh@{label}.{label}.{label}.{}", &label[..55]), AddressError::TooLong(256));
        for text in ["a\r\nRCPT TO:<b@x.test>@x.test", "a@x.test\n", "a\0@x.test", "\"a\r\"@x.test", "a\tb@x.test"] {
            check(text, AddressError::Control);
        }
    }
}
