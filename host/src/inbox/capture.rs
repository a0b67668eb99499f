//! Stands in for delivery: every mail "arrives" in the store, where it already is, and a few local parts play outcomes.

use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use mail::outcome::Phase;
use mail::{Address, Domain, EnhancedCode, Event, EventKind, Outcome, Reply, Verdict};
use uuid::Uuid;

use crate::config::TlsPolicy;
use crate::queue::{Courier, Session, Site, Transaction};
use crate::route::Plan;
use crate::store::Store;

/// What `remote_host` says of a captured mail.
const HERE: &str = "inbox (captured)";
/// How often, and how many times, a played complaint looks whether the delivery it follows is recorded.
const COMPLAINT_LOOKS: (Duration, u32) = (Duration::from_millis(20), 500);

/// The courier of a development host.
pub struct Capture {
    /// Weak: the queue that holds this courier belongs to whoever owns the store.
    store: Weak<dyn Store>,
}

impl Capture {
    pub fn new(store: &Arc<dyn Store>) -> Capture {
        Capture { store: Arc::downgrade(store) }
    }
}

#[async_trait]
impl Courier for Capture {
    async fn route(&self, _domain: &Domain) -> Result<Site, Box<Outcome>> {
        Ok(here())
    }

    fn known_route(&self, _domain: &Domain) -> Option<Site> {
        Some(here())
    }

    async fn connect(&self, _site: &Site) -> Result<Box<dyn Session>, Box<Outcome>> {
        Ok(Box::new(CaptureSession { store: self.store.clone() }))
    }
}

fn here() -> Site {
    let plan = Plan { hosts: Vec::new(), port: 0, tls: TlsPolicy::Off, auth: None, egress: None };
    Site { key: Arc::from("inbox"), plan: Arc::new(plan) }
}

struct CaptureSession {
    store: Weak<dyn Store>,
}

#[async_trait]
impl Session for CaptureSession {
    async fn send(&mut self, transaction: &Transaction) -> Vec<Outcome> {
        for recipient in transaction.recipients.iter().filter(|recipient| recipient.local() == "complained") {
            if let Some(store) = self.store.upgrade() {
                tokio::spawn(complain(store, transaction.message, recipient.clone()));
            }
        }
        transaction.recipients.iter().map(play).collect()
    }

    fn is_open(&self) -> bool {
        true
    }

    async fn close(self: Box<Self>) {}
}

/// The outcome that a recipient's local part asks for.
fn play(recipient: &Address) -> Outcome {
    let reply = match recipient.local() {
        "bounced" => {
            Reply::new(550, Some(EnhancedCode::new(5, 1, 1)), format!("<{recipient}>: no such user here (played)"))
        }
        "deferred" => {
            Reply::new(451, Some(EnhancedCode::new(4, 2, 1)), format!("<{recipient}>: try again later (played)"))
        }
        _ => Reply::new(250, Some(EnhancedCode::new(2, 0, 0)), "captured"),
    };
    let (verdict, phase) = match reply.code / 100 {
        2 => (Verdict::Delivered, Phase::Data),
        4 => (Verdict::Deferred, Phase::Recipient),
        _ => (Verdict::Bounced, Phase::Recipient),
    };
    Outcome {
        verdict,
        phase,
        status: reply.enhanced.unwrap_or(EnhancedCode::new(2, 0, 0)),
        remote_host: Some(HERE.to_owned()),
        text: reply.text.clone(),
        reply: Some(reply),
        tls: None,
    }
}

/// Records a complaint once the delivery it follows is recorded, as a real one would come: later.
async fn complain(store: Arc<dyn Store>, message: Uuid, recipient: Address) {
    let (pause, looks) = COMPLAINT_LOOKS;
    for _ in 0..looks {
        let delivered = store.events(crate::DEFAULT_TENANT, message, None, 1000).await.is_ok_and(|page| {
            page.items
                .iter()
                .any(|record| record.event.kind == EventKind::Delivered && record.event.recipient == recipient)
        });
        if delivered {
            break;
        }
        tokio::time::sleep(pause).await;
    }
    let event = Event { kind: EventKind::Complained, recipient, attempt: None, reason: Some("abuse".to_owned()) };
    if let Err(error) = store.record(message, vec![event], Timestamp::now()).await {
        tracing::warn!(id = %message, %error, "a played complaint was not recorded");
    }
}
