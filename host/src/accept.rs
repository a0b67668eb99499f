//! The commit point: before `accept` we own nothing, after it the message is never lost.

use std::sync::Arc;

use tracing::Span;

use crate::metrics::metrics;
use crate::store::{Accepted, NewMessage, Store, StoreError};
use crate::telemetry;

/// Makes ready messages durable. Both roads end here.
pub struct Intake {
    store: Arc<dyn Store>,
}

impl Intake {
    pub fn new(store: Arc<dyn Store>) -> Intake {
        Intake { store }
    }

    /// Stores one message; the group commit of the store joins it with others.
    ///
    /// `Full` and `Io` mean that nothing was stored and that the sender may try again later: 452 or 451, 503.
    pub async fn accept(&self, message: NewMessage) -> Result<Accepted, StoreError> {
        let mut answers = self.store(vec![message]).await;
        answers.pop().unwrap_or_else(|| Err(StoreError::Io("the store gave no answer".to_owned())))
    }

    /// Stores several messages, each on its own; the answers stand in order.
    pub async fn accept_all(&self, messages: Vec<NewMessage>) -> Vec<Result<Accepted, StoreError>> {
        let spans: Vec<Span> = messages.iter().map(|it| telemetry::message(it.id)).collect();
        // They begin where they are entered first.
        spans.iter().for_each(|span| drop(span.enter()));
        self.store(messages).await
    }

    async fn store(&self, messages: Vec<NewMessage>) -> Vec<Result<Accepted, StoreError>> {
        let facts: Vec<_> = messages.iter().map(|it| (metrics().tenants.of(&it.tenant), it.recipients.len())).collect();
        let answers = self.store.accept(messages).await;
        for ((tenant, recipients), answer) in facts.iter().zip(&answers) {
            if let Ok(Accepted::Stored) = answer {
                metrics().accepted(tenant, *recipients);
            }
        }
        answers
    }
}
