//! Thread CPU by span: a layer that reads the clock where a span is entered or left.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::time::{ClockId, Timespec, clock_gettime};
use tracing::{Id, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, filter_fn};
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

const SPANS: [&str; 3] = ["connection", "message", "attempt"];

static SPENT: [AtomicU64; 3] = [const { AtomicU64::new(0) }; 3];
static CLOCK: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// The spans this thread is in, innermost last, and its clock when that was last charged.
    static INSIDE: RefCell<(Vec<usize>, u64)> = const { RefCell::new((Vec::new(), 0)) };
}

/// CPU by span.
#[derive(Clone, Copy, Debug, Default)]
pub struct Nanoseconds {
    pub connection: u64,
    pub message: u64,
    pub attempt: u64,
    /// Of reading the clock, about.
    pub clock: u64,
}

impl Nanoseconds {
    pub fn since(&self, before: &Nanoseconds) -> Nanoseconds {
        Nanoseconds {
            connection: self.connection - before.connection,
            message: self.message - before.message,
            attempt: self.attempt - before.attempt,
            clock: self.clock - before.clock,
        }
    }
}

/// What all threads have spent in spans.
pub fn spent() -> Nanoseconds {
    let [connection, message, attempt] = [0, 1, 2].map(|place: usize| SPENT[place].load(Ordering::Relaxed));
    Nanoseconds { connection, message, attempt, clock: CLOCK.load(Ordering::Relaxed) }
}

/// CPU of the whole process.
pub fn process_ns() -> u64 {
    nanoseconds(clock_gettime(ClockId::ProcessCPUTime))
}

fn nanoseconds(time: Timespec) -> u64 {
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}

/// The layer.
pub struct Phases;

impl Phases {
    pub fn layer<S: Subscriber + for<'a> LookupSpan<'a>>() -> impl Layer<S> {
        let ours = filter_fn(|about| about.is_span() && SPANS.contains(&about.name()));
        Phases.with_filter(ours.with_max_level_hint(LevelFilter::DEBUG))
    }
}

/// Charges the innermost span with what this thread spent since, and changes where it is.
fn turn(change: impl FnOnce(&mut Vec<usize>)) {
    INSIDE.with_borrow_mut(|(inside, since)| {
        let now = nanoseconds(clock_gettime(ClockId::ThreadCPUTime));
        if let Some(place) = inside.last() {
            SPENT[*place].fetch_add(now.saturating_sub(*since), Ordering::Relaxed);
        }
        change(inside);
        // What the clock cost is nobody's.
        *since = nanoseconds(clock_gettime(ClockId::ThreadCPUTime));
        CLOCK.fetch_add(*since - now, Ordering::Relaxed);
    });
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Phases {
    fn on_enter(&self, id: &Id, context: Context<'_, S>) {
        let name = context.span(id).map_or("", |span| span.name());
        let Some(place) = SPANS.iter().position(|span| *span == name) else { return };
        turn(|inside| inside.push(place));
    }

    fn on_exit(&self, _: &Id, _: Context<'_, S>) {
        turn(|inside| {
            let _ = inside.pop();
        });
    }
}
