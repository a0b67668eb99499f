//! Mail addresses (RFC 5321 s4.1.2 for the envelope, RFC 5322 s3.4 for header fields, RFC 6531 for non-ASCII).

use std::fmt;

use thiserror::Error;

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
    #[error("a control character (CR, LF or another) is not allowed in an address")]
    Control,
    #[error("`{0}` is not `address` or `Name <address>`")]
    Mailbox(String),
}

impl Domain {
    /// Reads a domain in any case, U-labels or A-labels.
    pub fn parse(text: &str) -> Result<Domain, AddressError> {
        let _ = text;
        todo!()
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
    /// Reads `local@domain` or `"quoted local"@domain`, without angle brackets.
    pub fn parse(text: &str) -> Result<Address, AddressError> {
        let _ = text;
        todo!()
    }

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

impl Mailbox {
    /// Reads `address`, `<address>` or `Name <address>`; the name may be quoted and may hold any character but control ones.
    pub fn parse(text: &str) -> Result<Mailbox, AddressError> {
        let _ = text;
        todo!()
    }
}

/// Prints `local@domain`, the local part quoted where RFC 5321 wants it.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.local, self.domain)
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
