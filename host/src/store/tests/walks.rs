//! Random walks: whatever is done to a store, in whatever order, with crashes, failing writes, a full disk and restarts in
//! between, a simple model of it says the same. Seeded, so that a walk that fails does so again.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Mutex;

use super::crashes::copy;
use super::*;

const WALKS: u64 = 6;
const STEPS: usize = 90;

const POINTS: [Point; 6] =
    [Point::Writing, Point::Appended, Point::Synced, Point::Committed, Point::Copied, Point::Deleting];

/// Numbers that look random and are the same each time (SplitMix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound.max(1)
    }
}

/// A recipient that is not done with, by message and place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Waiting {
    attempts: u32,
    /// Second from which it is due; `None`: held.
    due: Option<i64>,
}

type Model = BTreeMap<(u128, u32), Waiting>;

#[derive(Default)]
struct Played {
    /// A crash: when a group comes to the point, the folder is copied as it is.
    armed: Mutex<Option<(Point, PathBuf, PathBuf)>>,
    /// A write that fails.
    broken: Mutex<Option<(Point, ErrorKind)>>,
    /// Whether the one or the other came.
    met: Mutex<bool>,
    /// Whether the disk has less than its reserve.
    full: Mutex<bool>,
}

impl Played {
    fn met(&self) -> bool {
        *self.met.lock().unwrap()
    }
}

impl Faults for Played {
    fn at(&self, point: Point) -> std::io::Result<()> {
        if let Some((_, kind)) = self.broken.lock().unwrap().take_if(|(at, _)| *at == point) {
            *self.met.lock().unwrap() = true;
            return Err(kind.into());
        }
        let armed = self.armed.lock().unwrap().take_if(|(at, ..)| *at == point);
        let Some((_, from, to)) = armed else { return Ok(()) };
        *self.met.lock().unwrap() = true;
        copy(&from, &to)
    }

    fn free_bytes(&self, _folder: &Path) -> Option<u64> {
        Some(if *self.full.lock().unwrap() { 0 } else { u64::MAX })
    }
}

fn options() -> Options {
    let (retention, keep_messages) = (Some(Duration::from_secs(50)), Some(Duration::from_secs(200)));
    Options { segment_bytes: 1500, retention, keep_messages, reserve_bytes: 1, ..still() }
}

/// Of any size, and told from every other.
fn body(number: u128) -> Bytes {
    let filling = "x".repeat((number * 37 % 700) as usize);
    Bytes::from(format!("Subject: {number}\r\n\r\n{filling}\r\n"))
}

struct Walk {
    dice: Dice,
    home: TempDir,
    /// How many times the folder was changed for that of a crash.
    lives: u32,
    faults: Arc<Played>,
    store: Arc<Embedded>,
    model: Model,
    leased: Vec<Leased>,
    last: u128,
    now: i64,
}

impl Walk {
    fn begin(seed: u64) -> Walk {
        let home = tempfile::tempdir().unwrap();
        let faults = Arc::new(Played::default());
        let store = Embedded::open_with(&home.path().join("0"), options(), faults.clone()).unwrap();
        let (model, leased) = (Model::new(), Vec::new());
        Walk { dice: Dice(seed), home, lives: 0, faults, store, model, leased, last: 0, now: 0 }
    }

    fn folder(&self) -> PathBuf {
        self.home.path().join(self.lives.to_string())
    }

    fn is_leased(&self, number: u128) -> bool {
        self.leased.iter().any(|one| one.message.as_u128() == number)
    }

    async fn step(&mut self) -> String {
        match self.dice.below(12) {
            0..3 => self.accept().await,
            3..5 => self.lease().await,
            5..8 => self.complete().await,
            8 => self.tend().await,
            9 => {
                self.now += self.dice.below(60) as i64;
                self.store.sweep(at(self.now)).await;
                format!("sweep at {}", self.now)
            }
            10 => {
                self.store.move_events().await;
                "move events".to_owned()
            }
            _ => {
                let is_full = self.dice.below(4) == 0;
                *self.faults.full.lock().unwrap() = is_full;
                self.restart(self.folder()).await;
                format!("restart, full: {is_full}")
            }
        }
    }

    async fn accept(&mut self) -> String {
        let count = 1 + self.dice.below(4) as u128;
        let numbers = self.last + 1..=self.last + count;
        let batch = numbers
            .clone()
            .map(|number| NewMessage { body: body(number), ..message(number, self.now, 1 + (number % 2) as usize) });
        let answers = self.store.accept(batch.collect()).await;
        for (number, answer) in numbers.clone().zip(answers) {
            match answer {
                Ok(Accepted::Stored) => {
                    let waiting = Waiting { attempts: 0, due: Some(self.now) };
                    self.model.extend((0..=(number % 2) as u32).map(|place| ((number, place), waiting)));
                }
                Err(StoreError::Full) if self.store.is_full() => {}
                Err(StoreError::Full | StoreError::Io(_)) if self.faults.met() => {}
                other => panic!("{number}: {other:?}"),
            }
        }
        self.last += count;
        format!("accept {numbers:?}")
    }

    async fn lease(&mut self) -> String {
        self.now += self.dice.below(10) as i64;
        let leased = self.store.lease(at(self.now), 1 + self.dice.below(9) as usize).await.unwrap();
        for one in &leased {
            let number = one.message.as_u128();
            assert_eq!(self.store.body(&one.body).await.unwrap(), body(number), "{number}");
            for recipient in &one.recipients {
                let known = self.model.get(&(number, recipient.index));
                let due = known.and_then(|waiting| waiting.due);
                assert!(due.is_some_and(|due| due <= self.now), "{number} {}: {known:?}", recipient.index);
                assert_eq!(known.map(|waiting| waiting.attempts), Some(recipient.attempts), "{number}");
                let again = self.leased.iter().filter(|held| held.message == one.message);
                let twice = again.flat_map(|held| &held.recipients).any(|held| held.index == recipient.index);
                assert!(!twice, "{number} {} is leased twice", recipient.index);
            }
        }
        let told = format!("lease {:?} at {}", places(&leased), self.now);
        self.leased.extend(leased);
        told
    }

    async fn complete(&mut self) -> String {
        if self.leased.is_empty() {
            return "nothing to complete".to_owned();
        }
        let which = self.dice.below(self.leased.len() as u64) as usize;
        let one = self.leased.swap_remove(which);
        let (before, mut batch) = (self.model.clone(), Vec::new());
        let mut told = format!("complete {}:", one.message.as_u128());
        for place in 0..one.recipients.len() {
            let id = (one.message.as_u128(), one.recipients[place].index);
            let later = self.now + self.dice.below(40) as i64;
            let (next, kind) = match self.dice.below(4) {
                0 => (Next::Release, None),
                1 => (Next::Retry(at(later)), Some(EventKind::DeliveryDelayed)),
                _ => (Next::Done, Some(EventKind::Delivered)),
            };
            told.push_str(&format!(" {next:?}"));
            let waiting = self.model.get_mut(&id).unwrap();
            match next {
                Next::Done => drop(self.model.remove(&id)),
                Next::Retry(_) => *waiting = Waiting { attempts: waiting.attempts + 1, due: Some(later) },
                Next::Release => {}
            }
            batch.push(Completion { at: at(self.now), ..completion(&one, place, next, kind) });
        }
        if let Err(error) = self.store.complete(batch).await {
            assert!(self.faults.met(), "{error}");
            // All of it is as before, the leases too.
            self.model = before;
            self.leased.push(one);
        }
        told
    }

    async fn tend(&mut self) -> String {
        let number = 1 + self.dice.below(self.last as u64) as u128;
        if self.is_leased(number) {
            return "nothing to tend".to_owned();
        }
        let filter = QueueFilter { message: Some(Uuid::from_u128(number)), ..QueueFilter::default() };
        let changes = [QueueChange::Hold, QueueChange::Release, QueueChange::Retry, QueueChange::Cancel];
        let change = changes[self.dice.below(4) as usize];
        match self.store.tend(&filter, change, None, at(self.now)).await {
            Ok(_) => {}
            // It was refused, or forgotten since.
            Err(StoreError::NotFound(_)) => assert!(self.model.keys().all(|(known, _)| *known != number)),
            Err(StoreError::Full | StoreError::Io(_)) if self.faults.met() => {
                return format!("{change:?} {number} failed");
            }
            Err(error) => panic!("{number}: {error}"),
        }
        let now = self.now;
        for (_, waiting) in self.model.iter_mut().filter(|((message, _), _)| *message == number) {
            waiting.due = match (change, waiting.due) {
                (QueueChange::Hold, _) => None,
                (QueueChange::Release, None) => Some(now),
                // Whatever is due goes on being so, as early as it was.
                (QueueChange::Retry, Some(due)) => Some(due.min(now)),
                (_, due) => due,
            };
        }
        if change == QueueChange::Cancel {
            self.model.retain(|(message, _), _| *message != number);
        }
        format!("{change:?} {number}")
    }

    /// Goes on with a folder, as after a kill: leases are over.
    async fn restart(&mut self, folder: PathBuf) {
        // The folder's lock is free only when the one before is gone.
        let nowhere = self.home.path().join("nowhere");
        self.store = Embedded::open(&nowhere, options()).unwrap();
        self.leased.clear();
        self.store = Embedded::open_with(&folder, options(), self.faults.clone()).unwrap();
    }

    /// A step during which the machine stops at some point, where it comes to one.
    async fn crash(&mut self) -> String {
        let point = POINTS[self.dice.below(6) as usize];
        let to = self.home.path().join((self.lives + 1).to_string());
        *self.faults.met.lock().unwrap() = false;
        *self.faults.armed.lock().unwrap() = Some((point, self.folder(), to.clone()));
        let before = self.model.clone();
        let told = self.step().await;
        *self.faults.armed.lock().unwrap() = None;
        if !*self.faults.met.lock().unwrap() {
            return told;
        }
        self.lives += 1;
        self.restart(to).await;
        // Either nobody was answered, or all of it was done.
        let found = self.found().await;
        self.model = match point {
            Point::Writing | Point::Appended | Point::Synced if found == view(&before) => before,
            Point::Committed | Point::Copied | Point::Deleting if found == view(&self.model) => self.model.clone(),
            // A step of several groups met the point in a later one, or in one that changes nothing here.
            _ if found == view(&self.model) => self.model.clone(),
            _ if found == view(&before) => before,
            _ => panic!("{told}, crash at {point:?}: {found:?}\nbefore {before:?}\nbehind {:?}", self.model),
        };
        format!("{told}, crash at {point:?}")
    }

    /// A step during which a write fails, where it comes to one.
    async fn fail(&mut self) -> String {
        let point = [Point::Writing, Point::Appending][self.dice.below(2) as usize];
        let kind = [ErrorKind::Interrupted, ErrorKind::StorageFull][self.dice.below(2) as usize];
        *self.faults.met.lock().unwrap() = false;
        *self.faults.broken.lock().unwrap() = Some((point, kind));
        let told = self.step().await;
        *self.faults.broken.lock().unwrap() = None;
        format!("{told}, {kind} at {point:?}: {}", self.faults.met())
    }

    /// The disk is full for a while, or is not any more.
    fn fill(&mut self) -> String {
        let mut full = self.faults.full.lock().unwrap();
        *full = !*full;
        format!("full: {full}")
    }

    /// What the store says is queued.
    async fn found(&self) -> Vec<(u128, String, u32, bool)> {
        let mut found = Vec::new();
        let mut cursor = None;
        loop {
            let page = self.store.queue(&QueueFilter::default(), cursor.as_deref(), 7).await.unwrap();
            found.extend(
                page.items
                    .into_iter()
                    .map(|one| (one.message.as_u128(), one.recipient, one.attempts, one.due_at.is_none())),
            );
            cursor = page.next;
            if cursor.is_none() {
                found.sort();
                return found;
            }
        }
    }

    async fn check(&self) {
        assert_eq!(self.found().await, view(&self.model));
        assert_eq!(self.store.queued().await.unwrap(), self.model.len() as u64);
        assert_eq!(self.store.damaged(), 0);
        assert_eq!(self.store.failure(), None);
        for (number, _) in self.model.keys() {
            let view = self.store.message("default", Uuid::from_u128(*number)).await.unwrap();
            assert_eq!(self.store.body(&view.body).await.unwrap(), body(*number), "{number}");
            let kinds = kinds(&self.store, *number).await;
            assert_eq!(kinds.first(), Some(&EventKind::Sent), "{number}: {kinds:?}");
        }
    }
}

fn view(model: &Model) -> Vec<(u128, String, u32, bool)> {
    let row = |((number, place), waiting): (&(u128, u32), &Waiting)| {
        (*number, format!("r{place}@a.test"), waiting.attempts, waiting.due.is_none())
    };
    model.iter().map(row).collect()
}

/// A walk and what is left of it where it ends.
async fn walk(seed: u64, trace: &Mutex<Vec<String>>) {
    let mut walk = Walk::begin(seed);
    for _ in 0..STEPS {
        *walk.faults.met.lock().unwrap() = false;
        let told = match walk.dice.below(12) {
            0..3 => walk.crash().await,
            3..6 => walk.fail().await,
            6 => walk.fill(),
            _ => walk.step().await,
        };
        trace.lock().unwrap().push(told);
        walk.check().await;
    }
    // Everything that waits is delivered, and nothing else.
    *walk.faults.full.lock().unwrap() = false;
    walk.restart(walk.folder()).await;
    let filter = QueueFilter { held: Some(true), ..QueueFilter::default() };
    walk.store.tend(&filter, QueueChange::Release, None, at(walk.now)).await.unwrap();
    let leased = walk.store.lease(at(walk.now + 1000), usize::MAX).await.unwrap();
    let mut places: Vec<(u128, u32)> = Vec::new();
    for one in &leased {
        assert_eq!(walk.store.body(&one.body).await.unwrap(), body(one.message.as_u128()));
        places.extend(one.recipients.iter().map(|recipient| (one.message.as_u128(), recipient.index)));
    }
    places.sort_unstable();
    assert_eq!(places, walk.model.keys().copied().collect::<Vec<_>>());
}

#[tokio::test]
async fn whatever_happens_in_whatever_order_the_store_keeps_its_word() {
    for seed in 1..=WALKS {
        let trace = Arc::new(Mutex::new(Vec::new()));
        let told = trace.clone();
        let done = tokio::spawn(async move { walk(seed, &told).await }).await;
        assert!(done.is_ok(), "walk {seed}:\n{}", trace.lock().unwrap_or_else(|bad| bad.into_inner()).join("\n"));
    }
}
