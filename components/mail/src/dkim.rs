//! DKIM without keys (RFC 6376, RFC 8301, RFC 8463): canonical forms, what is signed, and the signature field.
//!
//! The private operation is elsewhere: a signer hashes with `digest`, has the 32 bytes signed behind `posthaste:keys`,
//! and finishes the field with `Unsigned::finish`.

use crate::header::Field;

/// Header fields that are signed when present, each once more than it occurs, so that none can be added.
pub const OVERSIGNED: &[&str] = &[
    "From",
    "Sender",
    "Reply-To",
    "To",
    "Cc",
    "Subject",
    "Date",
    "Message-ID",
    "In-Reply-To",
    "References",
    "MIME-Version",
    "Content-Type",
    "Content-Transfer-Encoding",
    "List-Unsubscribe",
    "List-Unsubscribe-Post",
];

/// The `a=` of a signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    RsaSha256,
    Ed25519Sha256,
}

/// SHA-256 of a body in relaxed canonical form (RFC 6376 s3.4.4). The body is what stands behind the empty line.
pub fn body_hash(body: &[u8]) -> [u8; 32] {
    let _ = body;
    todo!()
}

/// Appends the relaxed canonical form of a field (RFC 6376 s3.4.2) with its CRLF.
pub fn canonicalize_field(field: Field<'_>, into: &mut Vec<u8>) {
    let _ = (field, into);
    todo!()
}

/// What a signature says but for `b=`.
#[derive(Clone, Debug)]
pub struct Parameters<'a> {
    pub domain: &'a str,
    pub selector: &'a str,
    pub algorithm: Algorithm,
    pub timestamp_s: u64,
    pub body_hash: [u8; 32],
}

/// A signature field that lacks its `b=`.
#[derive(Clone, Debug)]
pub struct Unsigned {
    /// The folded value up to and including `b=`.
    value: String,
    digest: [u8; 32],
}

impl Unsigned {
    /// Chooses the fields (`OVERSIGNED` plus nothing else), canonicalizes and hashes them: relaxed/relaxed, no `l=`.
    /// `headers` are all fields of the message, top to bottom; `DKIM-Signature` among them is never signed.
    pub fn new(headers: &[Field<'_>], parameters: &Parameters<'_>) -> Unsigned {
        let _ = (headers, parameters);
        todo!()
    }

    /// The SHA-256 digest to have signed.
    pub fn digest(&self) -> [u8; 32] {
        self.digest
    }

    /// The value of the DKIM-Signature field, folded at 76 columns: it begins with a space and has no CRLF at its end.
    pub fn finish(self, signature: &[u8]) -> String {
        let _ = signature;
        self.value
    }
}

/// Whether a message carries a DKIM-Signature field already.
pub fn is_signed(headers: &[Field<'_>]) -> bool {
    headers.iter().any(|field| field.name.trim().eq_ignore_ascii_case("DKIM-Signature"))
}
