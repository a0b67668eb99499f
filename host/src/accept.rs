//! The commit point: before `accept` we own nothing, after it the message is never lost. Both roads end here, so here the
//! tenant's limits and quotas are asked.

use std::sync::Arc;

use jiff::Timestamp;
use thiserror::Error;
use tracing::Span;

use crate::metrics::metrics;

use crate::store::{Accepted, NewMessage, Store, StoreError};
use crate::telemetry;
use crate::tenancy::{Denial, Tenancy};

/// Makes ready messages durable.
pub struct Intake {
    store: Arc<dyn Store>,
    tenancy: Arc<Tenancy>,
}

/// Why a message was not stored.
#[derive(Debug, Error)]
pub enum IntakeFault {
    /// The tenant may not send it (now).
    #[error(transparent)]
    Denied(#[from] Denial),
    /// `Full` and `Io` mean that the sender may try again later: 452 or 451, 503.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Intake {
    pub fn new(store: Arc<dyn Store>, tenancy: Arc<Tenancy>) -> Intake {
        Intake { store, tenancy }
    }

    /// What tenants may.
    pub fn tenancy(&self) -> &Arc<Tenancy> {
        &self.tenancy
    }

    /// Stores one message; the group commit of the store joins it with others.
    pub async fn accept(&self, message: NewMessage) -> Result<Accepted, IntakeFault> {
        let mut answers = self.admit_all(vec![message], false).await;
        answers.pop().unwrap_or_else(|| Err(StoreError::Io("the store gave no answer".to_owned()).into()))
    }

    /// Stores several messages, each on its own, or `together`: then one that is denied denies all. The answers stand in
    /// order.
    pub async fn accept_all(&self, messages: Vec<NewMessage>, together: bool) -> Vec<Result<Accepted, IntakeFault>> {
        let spans: Vec<Span> = messages.iter().map(|it| telemetry::message(it.id)).collect();
        // They begin where they are entered first.
        spans.iter().for_each(|span| drop(span.enter()));
        self.admit_all(messages, together).await
    }

    async fn admit_all(&self, messages: Vec<NewMessage>, together: bool) -> Vec<Result<Accepted, IntakeFault>> {
        let now = Timestamp::now();
        let mut admitted = Vec::with_capacity(messages.len());
        for message in &messages {
            admitted.push(self.admit(message, now).await);
        }
        let recipients: Vec<(String, usize)> =
            messages.iter().map(|message| (message.tenant.clone(), message.recipients.len())).collect();
        if together && admitted.iter().any(Result::is_err) {
            let mut answers = Vec::with_capacity(admitted.len());
            for (admitted, (tenant, count)) in admitted.into_iter().zip(&recipients) {
                answers.push(Err(match admitted {
                    Ok(is_counted) => {
                        if is_counted {
                            self.give_back(tenant, *count).await;
                        }
                        Denial::Together.into()
                    }
                    Err(fault) => fault,
                }));
            }
            return answers;
        }
        let good = messages.into_iter().zip(&admitted).filter(|(_, admitted)| admitted.is_ok());
        let mut stored = self.store(good.map(|(message, _)| message).collect()).await.into_iter();
        let mut answers = Vec::with_capacity(admitted.len());
        for (admitted, (tenant, count)) in admitted.into_iter().zip(&recipients) {
            let (answer, is_counted) = match admitted {
                Ok(is_counted) => {
                    let answer =
                        stored.next().unwrap_or_else(|| Err(StoreError::Io("the store gave no answer".to_owned())));
                    (answer.map_err(IntakeFault::from), is_counted)
                }
                Err(fault) => {
                    answers.push(Err(fault));
                    continue;
                }
            };
            if is_counted && !matches!(answer, Ok(Accepted::Stored)) {
                self.give_back(tenant, *count).await;
            }
            answers.push(answer);
        }
        answers
    }

    /// Whether its recipients were counted: what is there already needs no room in a quota, and must be told so even
    /// where there is none.
    async fn admit(&self, message: &NewMessage, now: Timestamp) -> Result<bool, IntakeFault> {
        let standing = self.tenancy.of(&message.tenant).await?;
        let (octets, recipients) = (message.body.len(), message.recipients.len());
        match self.tenancy.admit(&message.tenant, &standing, octets, recipients, now).await {
            Ok(()) => Ok(true),
            Err(denial) => match &message.idempotency {
                Some(it) if self.store.is_replay(&message.tenant, it, now).await? => Ok(false),
                _ => Err(denial.into()),
            },
        }
    }

    async fn give_back(&self, tenant: &str, recipients: usize) {
        if let Ok(standing) = self.tenancy.of(tenant).await {
            self.tenancy.give_back(&standing, recipients);
        }
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
