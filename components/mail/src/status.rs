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

    /// Reads a code at the start of a text; the rest of the text, trimmed, comes back with it.
    pub fn split(text: &str) -> Option<(EnhancedCode, &str)> {
        let _ = text;
        todo!()
    }
}

impl fmt::Display for EnhancedCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.class, self.subject, self.detail)
    }
}
