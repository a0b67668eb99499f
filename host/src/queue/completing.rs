//! Telling the store what came of leases, in batches, and printing the events once they are durable.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use jiff::Timestamp;
use mail::report::Action;
use mail::{Event, EventKind, Outcome};
use tokio::sync::mpsc;

use super::policy::{Attempt, Schedules};
use super::sites::Item;
use crate::bounce::{self, Case, Fact};
use crate::event::mail_log::{self, Circumstances, Via};
use crate::metrics::{Unattempted, metrics};
use crate::store::{Completion, LeasedRecipient, Next, Store};

/// Completions told in one batch.
const BATCH: usize = 512;
/// How long completions are gathered: each batch costs the store a commit, and whoever submits mail waits behind it.
const GATHERING: Duration = Duration::from_millis(4);
/// Wait before a batch that the store could not take is told again.
const AGAIN: Duration = Duration::from_secs(1);
/// How often it is told again while stopping. What is not told then is due again at the next start.
const LAST_TRIES: u32 = 3;

/// The reason of the `email.failed` of a message whose stored bytes are damaged or gone.
pub const DAMAGED: &str = "damaged";

/// Where completions go. Never full: there is at most one for each leased recipient, and leases are bounded.
#[derive(Clone)]
pub(super) struct Completer {
    told: mpsc::UnboundedSender<Told>,
    schedules: Arc<RwLock<Arc<Schedules>>>,
}

enum Told {
    /// With whom its sender is to be told of.
    Completion(Box<Completion>, Box<Circumstances>, Option<Box<Case>>),
    /// Nothing will come behind it.
    Stop,
}

impl Completer {
    pub(super) fn new(schedules: Schedules) -> (Completer, Completions) {
        let (told, waiting) = mpsc::unbounded_channel();
        let schedules = Arc::new(RwLock::new(Arc::new(schedules)));
        (Completer { told, schedules: schedules.clone() }, Completions { waiting, schedules })
    }

    pub(super) fn schedules(&self) -> Arc<Schedules> {
        read(&self.schedules)
    }

    /// Other schedules for what is attempted from now on.
    pub(super) fn reschedule(&self, schedules: Schedules) {
        *self.schedules.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(schedules);
    }

    /// An attempt was made for a recipient of a message; `via`: where it came to a connection.
    pub(super) fn attempted(&self, item: &Item, recipient: &LeasedRecipient, outcome: Outcome, via: Option<Via>) {
        let now = Timestamp::now();
        metrics().attempted(&metrics().tenants.of(&item.tenant), outcome.verdict);
        let attempt = Attempt {
            recipient: &recipient.address,
            before: recipient.attempts,
            accepted_at: item.accepted_at,
            now,
            outcome,
        };
        let (next, event) = self.schedules().of(recipient.address.domain()).judge(attempt, rand::random());
        self.tell(item, recipient, next, vec![event], now, via);
    }

    /// The same outcome for all recipients of a message.
    pub(super) fn all_attempted(&self, item: &Item, outcome: &Outcome) {
        item.recipients.iter().for_each(|recipient| self.attempted(item, recipient, outcome.clone(), None));
    }

    /// The message cannot be read, and never will be: it is over for all its recipients.
    pub(super) fn set_aside(&self, item: &Item, outcome: &Outcome) {
        let now = Timestamp::now();
        metrics().tenants.of(&item.tenant).ended(Unattempted::SetAside, item.recipients.len() as u64);
        for recipient in &item.recipients {
            let attempt = Some((recipient.attempts.saturating_add(1), outcome.clone()));
            let reason = Some(DAMAGED.to_owned());
            let event = Event { kind: EventKind::Failed, recipient: recipient.address.clone(), attempt, reason };
            self.tell(item, recipient, Next::Done, vec![event], now, None);
        }
    }

    /// No attempt was made.
    pub(super) fn release(&self, item: &Item) {
        let now = Timestamp::now();
        item.recipients.iter().for_each(|recipient| self.tell(item, recipient, Next::Release, Vec::new(), now, None));
    }

    /// Whom to tell of what became of a recipient: most often nobody.
    fn case(
        &self,
        item: &Item,
        recipient: &LeasedRecipient,
        event: &Event,
        at: Timestamp,
        via: Option<&Via>,
    ) -> Option<Box<Case>> {
        let (Some(sender), Some(request)) = (&item.sender, &item.request) else { return None };
        let schedules = self.schedules();
        let age = Duration::try_from(at.duration_since(item.accepted_at)).unwrap_or_default();
        let handed_on = via.is_some_and(|via| via.handed_on);
        let fact = Fact { place: recipient.index, kind: event.kind, age, handed_on };
        let action = schedules.reporting.action(request, fact)?;
        let until = schedules.of(recipient.address.domain()).expiry(item.accepted_at);
        Some(Box::new(Case {
            message: item.message,
            tenant: item.tenant.clone(),
            sender: sender.clone(),
            body: item.body.clone(),
            size_bytes: item.size_bytes,
            accepted_at: item.accepted_at,
            request: request.clone(),
            told: bounce::told(request, recipient.index, event, action, at, until),
        }))
    }

    /// All have told what they had to.
    pub(super) fn stop(&self) {
        let _ = self.told.send(Told::Stop);
    }

    fn tell(
        &self,
        item: &Item,
        recipient: &LeasedRecipient,
        next: Next,
        events: Vec<Event>,
        at: Timestamp,
        via: Option<Via>,
    ) {
        let case = events.first().and_then(|event| self.case(item, recipient, event, at, via.as_ref()));
        let tells_delay = case.as_ref().is_some_and(|case| case.told.action == Action::Delayed);
        let Item { stream, accepted_at, .. } = *item;
        let around = Circumstances { tenant: item.tenant.clone(), stream, accepted_at, at, via };
        let (message, index) = (item.message, recipient.index);
        let completion = Completion { message, index, next, events, at, report: None, tells_delay };
        // Fails only when the runtime goes down; the store's leases end with the process.
        let _ = self.told.send(Told::Completion(Box::new(completion), Box::new(around), case));
    }
}

/// Those in force.
fn read(schedules: &RwLock<Arc<Schedules>>) -> Arc<Schedules> {
    schedules.read().unwrap_or_else(PoisonError::into_inner).clone()
}

/// The receiving end.
pub(super) struct Completions {
    waiting: mpsc::UnboundedReceiver<Told>,
    schedules: Arc<RwLock<Arc<Schedules>>>,
}

impl Completions {
    /// Tells the store until it is stopped. `completed` is called with the number of recipients no longer leased;
    /// `stopping` says whether the host is about to end.
    pub(super) async fn run(mut self, store: Arc<dyn Store>, completed: impl Fn(usize), stopping: impl Fn() -> bool) {
        let mut stopped = false;
        let mut told = Vec::with_capacity(BATCH);
        while !stopped && self.waiting.recv_many(&mut told, BATCH).await > 0 {
            if told.len() < BATCH && !matches!(told.last(), Some(Told::Stop)) {
                tokio::time::sleep(GATHERING).await;
                while told.len() < BATCH
                    && let Ok(more) = self.waiting.try_recv()
                {
                    told.push(more);
                }
            }
            let mut batch = Vec::with_capacity(told.len());
            let mut around = Vec::with_capacity(told.len());
            let mut cases = Vec::new();
            for one in told.drain(..) {
                match one {
                    Told::Completion(completion, circumstances, case) => {
                        cases.extend(case.map(|case| (batch.len(), *case)));
                        batch.push(*completion);
                        around.push(circumstances);
                    }
                    Told::Stop => stopped = true,
                }
            }
            if !cases.is_empty() {
                read(&self.schedules).reporting.attach(&*store, cases, &mut batch).await;
            }
            if !batch.is_empty() && tell_store(&*store, &batch, &stopping).await {
                for (completion, around) in batch.iter().zip(&around) {
                    completion.events.iter().for_each(|event| mail_log::log(completion.message, event, around));
                }
            }
            completed(batch.len());
        }
    }
}

/// Whether the store took it. While it does not, nobody gets further: there would be no one to tell.
async fn tell_store(store: &dyn Store, batch: &[Completion], stopping: &impl Fn() -> bool) -> bool {
    let mut last_tries = 0;
    loop {
        match store.complete(batch.to_vec()).await {
            Ok(()) => return true,
            Err(error) => tracing::error!(%error, count = batch.len(), "outcomes could not be stored; trying again"),
        }
        if stopping() {
            last_tries += 1;
            if last_tries >= LAST_TRIES {
                return false;
            }
        }
        tokio::time::sleep(AGAIN).await;
    }
}
