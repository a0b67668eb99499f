//! The facts in a message's life. Log, metrics, API and webhooks are printed from these and from nothing else.

use crate::{Address, Outcome};

/// What happened. Names are those of the sending API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventKind {
    Sent,
    Delivered,
    DeliveryDelayed,
    Bounced,
    Failed,
    Suppressed,
    Complained,
    Scheduled,
    Canceled,
}

impl EventKind {
    /// `email.sent` and so on.
    pub fn name(self) -> &'static str {
        match self {
            EventKind::Sent => "email.sent",
            EventKind::Delivered => "email.delivered",
            EventKind::DeliveryDelayed => "email.delivery_delayed",
            EventKind::Bounced => "email.bounced",
            EventKind::Failed => "email.failed",
            EventKind::Suppressed => "email.suppressed",
            EventKind::Complained => "email.complained",
            EventKind::Scheduled => "email.scheduled",
            EventKind::Canceled => "email.canceled",
        }
    }

    /// The reverse of `name`.
    pub fn from_name(name: &str) -> Option<EventKind> {
        [
            EventKind::Sent,
            EventKind::Delivered,
            EventKind::DeliveryDelayed,
            EventKind::Bounced,
            EventKind::Failed,
            EventKind::Suppressed,
            EventKind::Complained,
            EventKind::Scheduled,
            EventKind::Canceled,
        ]
        .into_iter()
        .find(|kind| kind.name() == name)
    }
}

/// One fact, for one recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub kind: EventKind,
    pub recipient: Address,
    /// The attempt's number, from 1, and what it came to; absent where no attempt was made.
    pub attempt: Option<(u32, Outcome)>,
    /// One word where the kind alone does not tell: `expired`.
    pub reason: Option<String>,
}
