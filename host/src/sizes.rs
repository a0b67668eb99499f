//! What one message may be, on every road: limits that a reload changes while all goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Octets by which trace fields, a date, a Message-ID and transfer encodings may take a message over its limit.
const ADDED_OCTETS: u64 = 64 * 1024;

/// Limits of one message, shared by all who ask for them.
#[derive(Debug)]
pub struct Sizes {
    message_bytes: AtomicU64,
    recipients: AtomicUsize,
}

impl Sizes {
    /// `message_bytes` with CRLF line ends.
    pub fn new(message_bytes: u64, recipients: usize) -> Arc<Sizes> {
        Arc::new(Sizes { message_bytes: AtomicU64::new(message_bytes), recipients: AtomicUsize::new(recipients) })
    }

    pub fn message_bytes(&self) -> u64 {
        self.message_bytes.load(Ordering::Relaxed)
    }

    /// Of a message that is stored: the host adds to what came in.
    pub fn stored_bytes(&self) -> u64 {
        self.message_bytes().saturating_add(ADDED_OCTETS)
    }

    pub fn recipients(&self) -> usize {
        self.recipients.load(Ordering::Relaxed)
    }

    /// Others, for messages that begin from now on.
    pub fn change(&self, message_bytes: u64, recipients: usize) {
        self.message_bytes.store(message_bytes, Ordering::Relaxed);
        self.recipients.store(recipients, Ordering::Relaxed);
    }
}
