//! SMTP replies (RFC 5321 s4.2, RFC 2034).

use crate::EnhancedCode;

/// A reply: code, enhanced code where there is one, text of one or more lines (joined by `\n`), without either code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub code: u16,
    pub enhanced: Option<EnhancedCode>,
    pub text: String,
}

impl Reply {
    /// A reply of ours. The text holds no CR; `\n` separates lines.
    pub fn new(code: u16, enhanced: Option<EnhancedCode>, text: impl Into<String>) -> Reply {
        Reply { code, enhanced, text: text.into() }
    }

    /// Whether the code is 2xx.
    pub fn is_positive(&self) -> bool {
        self.code / 100 == 2
    }

    /// Whether the code is 4xx.
    pub fn is_transient(&self) -> bool {
        self.code / 100 == 4
    }

    /// Whether the code is 5xx.
    pub fn is_permanent(&self) -> bool {
        self.code / 100 == 5
    }

    /// The bytes on the wire, multi-line where the text is, each line at most 512 octets with its CRLF
    /// (RFC 5321 s4.5.3.1.5): longer ones are broken. Every line of a 2xx, 4xx or 5xx carries the enhanced code.
    pub fn to_wire(&self) -> Vec<u8> {
        todo!()
    }
}
