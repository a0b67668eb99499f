//! A session that the queue hands messages to.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use mail::{Address, EnhancedCode, Outcome, Verdict};
use tokio::time::Instant;

use super::dialer::{Dialed, Dialer};
use crate::queue::{Session, Transaction};
use crate::route::Plan;
use crate::route::egress::is_blamed;
use crate::smtp::client::Mail;

/// A connection that carried nothing for so long has idled.
const IDLE_MIN: Duration = Duration::from_millis(100);

/// An SMTP session. A message that an idle peer hung up on, before a word about it, is tried once on a fresh connection:
/// it must not wait for its retry because the connection was old.
pub(super) struct SmtpSession {
    dialed: Dialed,
    dialer: Arc<Dialer>,
    plan: Arc<Plan>,
    used: bool,
    opened: Instant,
    /// For each recipient of the last message: whether its peer takes requests for reports.
    handed_on: Vec<bool>,
}

impl SmtpSession {
    pub(super) fn new(dialed: Dialed, dialer: Arc<Dialer>, plan: Arc<Plan>) -> SmtpSession {
        SmtpSession { dialed, dialer, plan, used: false, opened: Instant::now(), handed_on: Vec::new() }
    }

    /// Sends on this connection, or on a fresh one where this one had grown old.
    async fn attempt(&mut self, mail: Mail<'_>) -> Vec<Outcome> {
        // Lost at once on a new connection says something of the peer; lost later, that it did not want to wait.
        let idled = std::mem::replace(&mut self.used, true) || self.opened.elapsed() >= IDLE_MIN;
        let outcomes = self.dialed.connection.send(mail).await;
        let stale = idled && self.dialed.connection.lost_unheard();
        if !stale {
            return outcomes;
        }
        let had_it_all = self.dialed.connection.had_it_all();
        let mut outcomes = match self.dialer.connect(&self.plan).await {
            Ok(dialed) => {
                self.dialed = dialed;
                self.dialed.connection.send(mail).await
            }
            Err(outcome) => vec![*outcome; mail.recipients.len()],
        };
        if had_it_all {
            let again = "; the connection before it was lost with all of the message sent, which may arrive twice";
            outcomes.iter_mut().for_each(|outcome| outcome.text.push_str(again));
        }
        outcomes
    }

    /// Recipients beyond ASCII go apart from the others, who must not suffer from a peer that does not take those (RFC
    /// 6531).
    async fn attempt_apart(&mut self, mail: Mail<'_>) -> Vec<Outcome> {
        let (beyond, plain): (Vec<Address>, Vec<Address>) =
            mail.recipients.iter().cloned().partition(Address::is_internationalized);
        let mut of_plain = self.attempt(Mail { recipients: &plain, ..mail }).await.into_iter();
        let plain_handed_on = self.dialed.connection.takes_requests();
        let mut of_beyond = self.attempt(Mail { recipients: &beyond, ..mail }).await.into_iter();
        // It may be another connection by now, and another host.
        let beyond_handed_on = self.dialed.connection.takes_requests();
        let handed_on = |recipient: &Address| match recipient.is_internationalized() {
            true => beyond_handed_on,
            false => plain_handed_on,
        };
        self.handed_on.clear();
        self.handed_on.extend(mail.recipients.iter().map(handed_on));
        let outcome = |recipient: &Address| {
            if recipient.is_internationalized() { of_beyond.next() } else { of_plain.next() }
        };
        mail.recipients.iter().filter_map(outcome).collect()
    }

    /// What follows for the next attempts: from where, and to whom first.
    fn learn(&self, outcomes: &mut [Outcome]) {
        if self.dialed.connection.is_broken() && self.plan.hosts.len() > 1 {
            self.dialer.trouble.note(&self.dialed.host);
        }
        let Some(egress) = &self.plan.egress else { return };
        for outcome in outcomes.iter_mut().filter(|outcome| is_blamed(outcome)) {
            let another_is_left = egress.blame(Instant::now());
            // It is not the message that was refused, and not its recipient.
            if another_is_left && outcome.verdict == Verdict::Bounced {
                outcome.verdict = Verdict::Deferred;
                outcome.status = EnhancedCode { class: 4, ..outcome.status };
                outcome.text.push_str("; this blames the address it came from, and another source is left to try");
            }
        }
    }
}

#[async_trait]
impl Session for SmtpSession {
    async fn send(&mut self, transaction: &Transaction) -> Vec<Outcome> {
        let Transaction { sender, recipients, body, request, .. } = transaction;
        let mail = Mail { sender, recipients, body, request: request.as_ref() };
        let beyond = mail.recipients.iter().filter(|recipient| recipient.is_internationalized()).count();
        let mut outcomes = if beyond == 0 || beyond == mail.recipients.len() {
            let outcomes = self.attempt(mail).await;
            self.handed_on.clear();
            self.handed_on.resize(outcomes.len(), self.dialed.connection.takes_requests());
            outcomes
        } else {
            self.attempt_apart(mail).await
        };
        if outcomes.iter().any(|outcome| outcome.verdict != Verdict::Delivered) {
            self.learn(&mut outcomes);
        }
        outcomes
    }

    fn handed_on(&self, place: usize) -> bool {
        self.handed_on.get(place).copied().unwrap_or(false)
    }

    fn is_open(&self) -> bool {
        self.dialed.connection.is_open()
    }

    async fn close(self: Box<Self>) {
        self.dialed.connection.close().await;
    }
}
