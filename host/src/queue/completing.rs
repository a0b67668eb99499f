//! Telling the store what came of leases, in batches, and printing the events once they are durable.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use jiff::Timestamp;
use mail::report::Action;
use mail::{Event, EventKind, Outcome};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};
use uuid::Uuid;

use super::policy::{Attempt, Schedules};
use super::sites::Item;
use crate::bounce::{self, Case, Fact};
use crate::event::mail_log::{self, Circumstances, Via};
use crate::metrics::{Unattempted, metrics};
use crate::store::{Completion, LeasedRecipient, Next, Store};

/// Completions told in one batch.
const BATCH: usize = 512;
/// Reports in one batch: each may hold a whole message.
const REPORTS: usize = 32;
/// How long completions are gathered: each batch costs the store a commit, and whoever submits mail waits behind it.
const GATHERING: Duration = Duration::from_millis(4);
/// Wait before what the store could not take is told again.
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
        let schedules = self.schedules.clone();
        let mut recorder =
            Recorder { store, schedules, completed, stopping, late: VecDeque::new(), again: Instant::now() };
        let mut stopped = false;
        let mut told = Vec::with_capacity(BATCH);
        while !stopped {
            let count = tokio::select! {
                count = self.waiting.recv_many(&mut told, BATCH) => count,
                () = sleep_until(recorder.again), if !recorder.late.is_empty() => {
                    recorder.record_late().await;
                    continue;
                }
            };
            if count == 0 {
                break;
            }
            if told.len() < BATCH && !matches!(told.last(), Some(Told::Stop)) {
                tokio::time::sleep(GATHERING).await;
                while told.len() < BATCH
                    && let Ok(more) = self.waiting.try_recv()
                {
                    told.push(more);
                }
            }
            let mut batch = Batch::with_capacity(told.len());
            for one in told.drain(..) {
                match one {
                    Told::Completion(completion, around, case) => {
                        if batch.is_full_for(&completion) {
                            recorder.record(std::mem::take(&mut batch)).await;
                        }
                        batch.push(*completion, *around, case.map(|case| *case));
                    }
                    Told::Stop => stopped = true,
                }
            }
            recorder.record(batch).await;
        }
        recorder.finish().await;
    }
}

/// Completions that the store takes together.
#[derive(Default)]
struct Batch {
    completions: Vec<Completion>,
    around: Vec<Circumstances>,
    /// Of whom a sender is to be told, with the places of their completions.
    cases: Vec<(usize, Case)>,
    /// What that comes to, where all of a message stand together.
    reports: usize,
}

impl Batch {
    fn with_capacity(count: usize) -> Batch {
        let (completions, around) = (Vec::with_capacity(count), Vec::with_capacity(count));
        Batch { completions, around, ..Batch::default() }
    }

    /// Whether this completion belongs in the next batch.
    fn is_full_for(&self, completion: &Completion) -> bool {
        self.reports >= REPORTS && !self.tells_of(completion.message)
    }

    /// Whether the last report is about this message.
    fn tells_of(&self, message: Uuid) -> bool {
        self.cases.last().is_some_and(|(_, case)| case.message == message)
    }

    fn push(&mut self, completion: Completion, around: Circumstances, case: Option<Case>) {
        self.reports += usize::from(case.as_ref().is_some_and(|case| !self.tells_of(case.message)));
        self.cases.extend(case.map(|case| (self.completions.len(), case)));
        self.completions.push(completion);
        self.around.push(around);
    }

    fn is_empty(&self) -> bool {
        self.completions.is_empty()
    }

    /// What no report tells of, and what each report of a failure does: that and the report are recorded together or not at
    /// all. Other reports are left out: nothing is lost without them.
    fn split(self) -> (Batch, Vec<Batch>) {
        let mut cases: HashMap<usize, Case> = self.cases.into_iter().collect();
        let (mut unreported, mut reported) = (Batch::default(), Vec::<Batch>::new());
        let mut places: HashMap<Uuid, usize> = HashMap::new();
        for (place, (mut completion, around)) in self.completions.into_iter().zip(self.around).enumerate() {
            // It is written anew: nobody knows how long it would have to be kept.
            completion.report = None;
            let case = cases.remove(&place).filter(|case| {
                let is_owed = case.told.action == Action::Failed;
                // A delay is told of later; what was delivered is not delivered again for want of a notice.
                completion.tells_delay &= is_owed;
                is_owed
            });
            let of = case.as_ref().map(|case| *places.entry(case.message).or_insert(reported.len()));
            if of == Some(reported.len()) {
                reported.push(Batch::default());
            }
            let batch = of.and_then(|of| reported.get_mut(of)).unwrap_or(&mut unreported);
            batch.push(completion, around, case);
        }
        (unreported, reported)
    }
}

/// Records completions, in their order but for those whose report cannot be stored: a report is a body, for which there
/// may be no room, and nothing else must wait for it.
struct Recorder<C, S> {
    store: Arc<dyn Store>,
    schedules: Arc<RwLock<Arc<Schedules>>>,
    completed: C,
    stopping: S,
    /// Without their reports. Bounded: their recipients are leased until then.
    late: VecDeque<Batch>,
    /// When the first of them is tried again.
    again: Instant,
}

impl<C: Fn(usize), S: Fn() -> bool> Recorder<C, S> {
    /// Tries until the store takes it, all but what comes with a report: while it does not, nobody gets further, for there
    /// would be no one to tell.
    async fn record(&mut self, mut batch: Batch) {
        let mut last_tries = 0;
        while !batch.is_empty() {
            if self.try_to_record(&mut batch).await {
                return self.ended(&batch, true);
            }
            if !batch.cases.is_empty() {
                let (unreported, reported) = batch.split();
                self.late.extend(reported);
                self.again = Instant::now() + AGAIN;
                batch = unreported;
                continue;
            }
            if (self.stopping)() {
                last_tries += 1;
                if last_tries >= LAST_TRIES {
                    return self.ended(&batch, false);
                }
            }
            sleep(AGAIN).await;
        }
    }

    /// The next of those that were late; whether the store took it. One that it did not take waits behind the others.
    async fn record_late(&mut self) -> bool {
        let Some(mut batch) = self.late.pop_front() else { return false };
        let recorded = self.try_to_record(&mut batch).await;
        match recorded {
            true => self.ended(&batch, true),
            false => {
                batch.completions.iter_mut().for_each(|completion| completion.report = None);
                self.late.push_back(batch);
                self.again = Instant::now() + AGAIN;
            }
        }
        recorded
    }

    /// The last tries for those that are late.
    async fn finish(mut self) {
        for left in (0..LAST_TRIES).rev() {
            while self.record_late().await {}
            if self.late.is_empty() {
                return;
            }
            if left > 0 {
                sleep(AGAIN).await;
            }
        }
        std::mem::take(&mut self.late).iter().for_each(|batch| self.ended(batch, false));
    }

    async fn try_to_record(&self, batch: &mut Batch) -> bool {
        if !batch.cases.is_empty() {
            let reporting = read(&self.schedules).reporting.clone();
            reporting.attach(&*self.store, &batch.cases, &mut batch.completions).await;
        }
        let told = self.store.complete(batch.completions.clone()).await;
        if let Err(error) = &told {
            tracing::error!(%error, count = batch.completions.len(), "outcomes could not be stored; trying again");
        }
        told.is_ok()
    }

    /// These are no longer leased; `recorded`: and the store knows what came of them.
    fn ended(&self, batch: &Batch, recorded: bool) {
        let told = if recorded { batch.completions.as_slice() } else { &[] };
        for (completion, around) in told.iter().zip(&batch.around) {
            completion.events.iter().for_each(|event| mail_log::log(completion.message, event, around));
            if let Some(report) = &completion.report {
                let of_message = batch.cases.iter().filter(|(_, case)| case.message == completion.message);
                let recipients = of_message.count();
                tracing::info!(id = %completion.message, report = %report.id, recipients, "the sender is told by mail");
            }
        }
        (self.completed)(batch.completions.len());
    }
}
