//! A session that the queue hands messages to.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use mail::Outcome;
use tokio::time::Instant;

use super::connection::Connection;
use super::dialer::Dialer;
use crate::queue::{Session, Transaction};
use crate::route::Plan;
use crate::smtp::client::Mail;

/// A connection that carried nothing for so long has idled.
const IDLE_MIN: Duration = Duration::from_millis(100);

/// An SMTP session. A message that an idle peer hung up on, before a word about it, is tried once on a fresh connection:
/// it must not wait for its retry because the connection was old.
pub(super) struct SmtpSession {
    connection: Connection,
    dialer: Arc<Dialer>,
    plan: Arc<Plan>,
    used: bool,
    opened: Instant,
}

impl SmtpSession {
    pub(super) fn new(connection: Connection, dialer: Arc<Dialer>, plan: Arc<Plan>) -> SmtpSession {
        SmtpSession { connection, dialer, plan, used: false, opened: Instant::now() }
    }
}

#[async_trait]
impl Session for SmtpSession {
    async fn send(&mut self, transaction: &Transaction) -> Vec<Outcome> {
        let mail = Mail { sender: &transaction.sender, recipients: &transaction.recipients, body: &transaction.body };
        // Lost at once on a new connection says something of the peer; lost later, that it did not want to wait.
        let idled = std::mem::replace(&mut self.used, true) || self.opened.elapsed() >= IDLE_MIN;
        let outcomes = self.connection.send(mail).await;
        let stale = idled && self.connection.lost_unheard();
        if !stale {
            return outcomes;
        }
        match self.dialer.connect(&self.plan).await {
            Ok(connection) => {
                self.connection = connection;
                self.connection.send(mail).await
            }
            Err(outcome) => vec![*outcome; transaction.recipients.len()],
        }
    }

    fn is_open(&self) -> bool {
        self.connection.is_open()
    }

    async fn close(self: Box<Self>) {
        self.connection.close().await;
    }
}
