//! Telling the store what came of leases, in batches, and printing the events once they are durable.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use jiff::Timestamp;
use mail::report::Action;
use mail::{Event, EventKind, Outcome};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};
use uuid::Uuid;

use super::policy::{Attempt, Schedules, later};
use super::scheduler::WINDOW;
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
/// Recipients that may wait until there is room for their reports: of those leased at once, so that leasing goes on.
const LATE: usize = WINDOW / 2;
/// When those beyond them are attempted again.
const PUT_BACK: Duration = Duration::from_secs(15 * 60);
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
        let mut recorder = Recorder {
            store,
            schedules,
            completed,
            stopping,
            late: VecDeque::new(),
            waiting: 0,
            again: Instant::now(),
        };
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
            stopped = told.iter().any(|one| matches!(one, Told::Stop));
            for batch in Batch::of(told.drain(..)) {
                recorder.record(batch).await;
            }
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
    /// The messages that these are about, each with one report.
    reports: HashSet<Uuid>,
}

impl Batch {
    fn with_capacity(count: usize) -> Batch {
        let (completions, around) = (Vec::with_capacity(count), Vec::with_capacity(count));
        Batch { completions, around, ..Batch::default() }
    }

    /// Sorts what was told into batches, in its order. Recipients of one message that come far apart may be told of in two
    /// reports; each is told of once, in the batch of its completion.
    fn of(told: impl ExactSizeIterator<Item = Told>) -> Vec<Batch> {
        let (mut batches, mut batch) = (Vec::new(), Batch::with_capacity(told.len()));
        for one in told {
            let Told::Completion(completion, around, case) = one else { continue };
            if case.is_some() && batch.is_full_for(completion.message) {
                batches.push(std::mem::take(&mut batch));
            }
            batch.push(*completion, *around, case.map(|case| *case));
        }
        batches.push(batch);
        batches
    }

    /// Whether a report about this message belongs in the next batch.
    fn is_full_for(&self, message: Uuid) -> bool {
        self.reports.len() >= REPORTS && !self.reports.contains(&message)
    }

    fn push(&mut self, completion: Completion, around: Circumstances, case: Option<Case>) {
        self.reports.extend(case.as_ref().map(|case| case.message));
        self.cases.extend(case.map(|case| (self.completions.len(), case)));
        self.completions.push(completion);
        self.around.push(around);
    }

    /// Takes recipients in as if nothing had come of their attempts: they are attempted again later.
    fn put_back(&mut self, others: Batch) {
        for (mut completion, around) in others.completions.into_iter().zip(others.around) {
            completion.next = Next::Retry(later(completion.at, PUT_BACK));
            completion.events.clear();
            self.push(completion, around, None);
        }
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
    /// Without their reports. Their recipients are leased until then: at most `LATE`.
    late: VecDeque<Batch>,
    /// Recipients of these.
    waiting: usize,
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
                let (mut unreported, reported) = batch.split();
                reported.into_iter().for_each(|batch| self.wait(batch, &mut unreported));
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

    /// Lets a batch wait for room; where too much does, its recipients go to what is recorded without reports.
    fn wait(&mut self, batch: Batch, unreported: &mut Batch) {
        let count = batch.completions.len();
        if self.waiting + count > LATE {
            tracing::warn!(
                count,
                "there is no room for reports of failures: these recipients are attempted again later"
            );
            return unreported.put_back(batch);
        }
        self.waiting += count;
        self.late.push_back(batch);
        self.again = Instant::now() + AGAIN;
    }

    /// The next of those that were late; whether the store took it. One that it did not take waits behind the others.
    async fn record_late(&mut self) -> bool {
        let Some(mut batch) = self.late.pop_front() else { return false };
        let recorded = self.try_to_record(&mut batch).await;
        match recorded {
            true => {
                self.waiting = self.waiting.saturating_sub(batch.completions.len());
                self.ended(&batch, true);
            }
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeMap;

    use mail::{Address, Stream};

    use super::*;
    use crate::store::BodyRef;

    /// A failure that is to be told of.
    fn failed(number: u128, index: u32) -> Told {
        let (message, at) = (Uuid::from_u128(number), Timestamp::UNIX_EPOCH);
        let address = Address::parse("x@a.test").unwrap();
        let event = Event { kind: EventKind::Failed, recipient: address.clone(), attempt: None, reason: None };
        let request: Arc<mail::dsn::Request> = Arc::default();
        let case = Case {
            message,
            tenant: "default".to_owned(),
            sender: address,
            body: BodyRef(String::new()),
            size_bytes: 1,
            accepted_at: at,
            request: request.clone(),
            told: bounce::told(&request, index, &event, Action::Failed, at, at),
        };
        let events = vec![event];
        let completion = Completion { message, index, next: Next::Done, events, at, report: None, tells_delay: false };
        let around = Circumstances {
            tenant: "default".to_owned(),
            stream: Stream::Transactional,
            accepted_at: at,
            at,
            via: None,
        };
        Told::Completion(Box::new(completion), Box::new(around), Some(Box::new(case)))
    }

    /// Each may hold a whole message, so few are in memory at once, however what was told is mixed.
    #[test]
    fn reports_are_few_in_a_batch_and_stand_with_their_completions() {
        const MESSAGES: u128 = 100;
        let one_by_one: Vec<(u128, u32)> = (0..MESSAGES).flat_map(|number| [(number, 0), (number, 1)]).collect();
        let far_apart: Vec<(u128, u32)> = (0..2).flat_map(|index| (0..MESSAGES).map(move |it| (it, index))).collect();
        for (order, reports_each) in [(one_by_one, 1), (far_apart, 2)] {
            let told: Vec<Told> = order.iter().map(|(number, index)| failed(*number, *index)).collect();
            let batches = Batch::of(told.into_iter());
            let mut reports: BTreeMap<Uuid, usize> = BTreeMap::new();
            let mut ended = Vec::new();
            for batch in &batches {
                assert!(batch.reports.len() <= REPORTS, "{}", batch.reports.len());
                batch.reports.iter().for_each(|message| *reports.entry(*message).or_default() += 1);
                let places: Vec<usize> = batch.cases.iter().map(|(place, _)| *place).collect();
                assert_eq!(places, (0..batch.completions.len()).collect::<Vec<_>>());
                for (completion, (_, case)) in batch.completions.iter().zip(&batch.cases) {
                    assert_eq!(completion.message, case.message);
                    ended.push((completion.message.as_u128(), completion.index));
                }
            }
            assert_eq!(ended, order, "each once, in order");
            assert_eq!(batches.len(), (MESSAGES as usize * reports_each).div_ceil(REPORTS));
            assert!(reports.values().all(|count| *count == reports_each), "{reports:?}");
        }
    }
}
