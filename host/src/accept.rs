//! The commit point: before `accept` we own nothing, after it the message is never lost.

use std::sync::Arc;

use crate::store::{Accepted, NewMessage, Store, StoreError};

/// Makes ready messages durable. Both roads end here.
pub struct Intake {
    store: Arc<dyn Store>,
}

impl Intake {
    pub fn new(store: Arc<dyn Store>) -> Intake {
        Intake { store }
    }

    /// Stores one message; the group commit of the store joins it with others.
    pub async fn accept(&self, message: NewMessage) -> Result<Accepted, StoreError> {
        let mut answers = self.store.accept(vec![message]).await;
        answers.pop().unwrap_or_else(|| Err(StoreError::Io("the store gave no answer".to_owned())))
    }
}
