//! What one delivery attempt came to, for one recipient: the one value that log, retry, events and webhooks read.

use crate::{EnhancedCode, Reply};

/// Where an attempt leaves its recipient.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The peer took responsibility.
    Delivered,
    /// It may pass later.
    Deferred,
    /// The recipient's side refused for good: 5xx, null MX, no such domain.
    Bounced,
    /// We gave up, or cannot send it at all.
    Failed,
}

/// Which part of an attempt decided it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Looking up where to deliver.
    Route,
    /// Connecting, TLS, greeting, EHLO, AUTH.
    Connect,
    /// MAIL FROM.
    Mail,
    /// RCPT TO.
    Recipient,
    /// DATA, the body and the final dot.
    Data,
    /// Ours: expiry, a missing body, a message the peer cannot take.
    Local,
}

/// The outcome of one attempt for one recipient. Never a bare error: whatever happened is told here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub verdict: Verdict,
    pub phase: Phase,
    /// The peer's, or ours where it gave none.
    pub status: EnhancedCode,
    /// `mx1.example.net (192.0.2.1)`, where a host was reached.
    pub remote_host: Option<String>,
    /// The peer's reply, where there was one.
    pub reply: Option<Reply>,
    /// One line for people: the peer's words or ours.
    pub text: String,
    /// `TLSv1.3 TLS13_AES_256_GCM_SHA384` where the session was encrypted.
    pub tls: Option<String>,
}
