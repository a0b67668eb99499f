//! What can go wrong with a peer, and the outcome that every such fault becomes.

use mail::outcome::Phase;
use mail::{EnhancedCode, Outcome, Reply, Verdict};
use thiserror::Error;

use super::reply::ReplyFault;

/// Who we speak to, for the words of an outcome.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// `mx1.example.net (192.0.2.1)`.
    pub host: String,
    /// `TLSv1.3 TLS13_AES_256_GCM_SHA384`, once the session is encrypted.
    pub tls: Option<String>,
}

/// Why a session ended before its time. The words go behind the peer's name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Fault {
    #[error("closed the connection")]
    Closed,
    #[error("did not answer in time")]
    Silent,
    #[error("lost the connection: {0}")]
    Network(String),
    #[error("sent {0}")]
    Unreadable(ReplyFault),
    #[error("gave an answer that does not fit: {}", line(.0))]
    Unexpected(Reply),
    #[error("sent a reply that nobody had asked for")]
    Unsolicited,
    #[error("said: {}", line(.0))]
    Refused(Reply),
    #[error("offers no TLS, which this route demands")]
    NoTls,
    #[error("refused STARTTLS, which this route demands: {}", line(.0))]
    TlsRefused(Reply),
    #[error("sent bytes behind its reply to STARTTLS, before TLS began")]
    Injected,
    #[error("failed the TLS handshake: {0}")]
    Handshake(String),
    #[error("offers neither AUTH PLAIN nor AUTH LOGIN, but the route has a user name")]
    NoAuth,
    #[error("would get our password in the clear: AUTH needs TLS unless the relay is on loopback")]
    AuthInClear,
    #[error("refused our user name or password: {}", line(.0))]
    AuthRefused(Reply),
}

impl Fault {
    /// Our status where the peer gave none (RFC 3463). All faults pass with time or with the operator's help.
    fn status(&self) -> EnhancedCode {
        let (subject, detail) = match self {
            Fault::Closed | Fault::Silent | Fault::Network(_) => (4, 2),
            Fault::Unreadable(_) | Fault::Unexpected(_) | Fault::Unsolicited => (5, 0),
            Fault::Refused(reply) => return status_of(reply, 4),
            Fault::NoTls | Fault::TlsRefused(_) => (7, 4),
            Fault::Injected | Fault::Handshake(_) => (7, 5),
            Fault::NoAuth | Fault::AuthInClear => (7, 0),
            Fault::AuthRefused(_) => (7, 8),
        };
        EnhancedCode::new(4, subject, detail)
    }

    fn reply(&self) -> Option<&Reply> {
        match self {
            Fault::Unexpected(reply) | Fault::Refused(reply) | Fault::TlsRefused(reply) | Fault::AuthRefused(reply) => {
                Some(reply)
            }
            Fault::Closed
            | Fault::Silent
            | Fault::Network(_)
            | Fault::Unreadable(_)
            | Fault::Unsolicited
            | Fault::NoTls
            | Fault::Injected
            | Fault::Handshake(_)
            | Fault::NoAuth
            | Fault::AuthInClear => None,
        }
    }
}

impl Peer {
    /// The outcome of a session that ended while we waited for `awaited`; `all_sent`: the peer has the whole message.
    pub(super) fn lost(&self, fault: &Fault, phase: Phase, awaited: &str, all_sent: bool) -> Outcome {
        let mut text = match fault {
            Fault::Closed | Fault::Silent | Fault::Network(_) | Fault::Unreadable(_) => {
                format!("{} {fault}; we waited for {awaited}", self.host)
            }
            Fault::Unexpected(_)
            | Fault::Unsolicited
            | Fault::Refused(_)
            | Fault::NoTls
            | Fault::TlsRefused(_)
            | Fault::Injected
            | Fault::Handshake(_)
            | Fault::NoAuth
            | Fault::AuthInClear
            | Fault::AuthRefused(_) => format!("{} {fault}", self.host),
        };
        if all_sent && !matches!(fault, Fault::Refused(_)) {
            // A duplicate is better than a loss.
            text.push_str("; it may have taken the message, which would then arrive twice");
        }
        self.outcome(Verdict::Deferred, phase, fault.status(), fault.reply().cloned(), text)
    }

    /// The outcome that a reply to one of our commands is.
    pub(super) fn answered(&self, reply: &Reply, phase: Phase) -> Outcome {
        let (verdict, class) = if reply.is_positive() {
            (Verdict::Delivered, 2)
        } else if reply.is_permanent() {
            (Verdict::Bounced, 5)
        } else {
            (Verdict::Deferred, 4)
        };
        self.outcome(verdict, phase, status_of(reply, class), Some(reply.clone()), self.said(reply))
    }

    /// An outcome that we came to ourselves.
    pub(super) fn outcome(
        &self,
        verdict: Verdict,
        phase: Phase,
        status: EnhancedCode,
        reply: Option<Reply>,
        text: String,
    ) -> Outcome {
        Outcome { verdict, phase, status, remote_host: Some(self.host.clone()), reply, text, tls: self.tls.clone() }
    }

    fn said(&self, reply: &Reply) -> String {
        format!("{} said: {}", self.host, line(reply))
    }
}

/// The peer's enhanced code, its class made that of the verdict, since some peers send `550 4.7.1`.
fn status_of(reply: &Reply, class: u8) -> EnhancedCode {
    match reply.enhanced {
        Some(code) => EnhancedCode::new(class, code.subject, code.detail),
        None => EnhancedCode::new(class, 0, 0),
    }
}

/// A reply in one line, codes included.
fn line(reply: &Reply) -> String {
    let mut line = reply.code.to_string();
    if let Some(enhanced) = reply.enhanced {
        line.push_str(&format!(" {enhanced}"));
    }
    for piece in reply.text.lines().filter(|piece| !piece.is_empty()) {
        line.push(' ');
        line.push_str(piece);
    }
    line
}
