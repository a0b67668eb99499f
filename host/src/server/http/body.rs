//! Request bodies: read in whole, bounded, against one budget of bytes for all of them.
//!
//! A body takes room as it arrives, never for what it only promises. Small ones have a share of their own and wait for
//! no large one; what is longer than a stranger may send is read for a known key alone. Large bodies that arrive in
//! part cannot block each other for good: one of them at a time may go on to its end beyond the budget, and one that
//! gets no room in time is refused and frees what it held. While a request is worked on its body weighs what it costs.
//! One that is refused is told so at once; some of it is read and thrown away beside the answer, because a peer that is
//! still writing when the connection closes never sees it.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::CONTENT_LENGTH;
use http::request::Parts;
use http::{HeaderMap, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::api::control;
use crate::api::fault::{fault, unavailable};
use crate::metrics::{Road, Turned, metrics};
use crate::server::pressure::Pressure;

/// What a permit of the budget stands for.
const PERMIT_BYTES: usize = 1024;

/// Room is taken in pieces of this size.
const STEP_BYTES: usize = 64 << 10;

/// Bodies of at most so many bytes have a share of their own.
pub(super) const SMALL_BYTES: usize = 256 << 10;

/// Of the budget: the share of small bodies.
const SMALL_SHARE: usize = 8;

/// What is read without a key.
pub(super) const STRANGERS_BYTES: usize = 16 << 10;

/// What a large body costs while a component works on it, in its own size: itself, the copy in the instance, the
/// decoded parts, the composed message, its frame. `docs/configuration.md` tells this number.
const COPIES: usize = 8;

/// Every body may be read with at least this many bytes a second.
const SLOWEST_BYTES_A_SECOND: usize = 32 << 10;

/// What a body may take besides.
const GRACE: Duration = Duration::from_secs(20);

/// How long a body waits for the next piece of room, and then for its turn to be worked on.
const ROOM: Duration = Duration::from_secs(30);
const TURN: Duration = Duration::from_secs(60);

/// Of a body that is refused, read and thrown away, and for how long.
const DISCARDED_BYTES: usize = 256 << 20;
const DISCARDING: Duration = Duration::from_secs(30);

/// Says whether a request's key is known (or, of an edge, its delivery token), and if not, what it is answered.
pub type Admits = Box<dyn Fn(&Parts) -> Admitting + Send + Sync>;
pub type Admitting = Pin<Box<dyn Future<Output = Result<(), Response<Bytes>>> + Send>>;

/// The budget of all bodies, and the limit of each.
pub struct Budget {
    /// For large bodies as they arrive.
    room: Arc<Semaphore>,
    small: Arc<Semaphore>,
    /// One permit: its holder goes on to its end beyond the budget.
    beyond: Arc<Semaphore>,
    /// For large bodies while they are worked on.
    work: Arc<Semaphore>,
    permits: AtomicUsize,
    /// The most one body may have.
    limit: AtomicUsize,
    admits: Admits,
    pressure: Option<Arc<Pressure>>,
}

/// What a body holds of the budget, given back when dropped.
#[derive(Default)]
pub struct Held {
    small: Option<OwnedSemaphorePermit>,
    large: Option<OwnedSemaphorePermit>,
    beyond: Option<OwnedSemaphorePermit>,
    work: Option<OwnedSemaphorePermit>,
}

/// Why a body was not taken.
#[derive(Debug)]
pub enum Refused {
    /// Its key is missing or unknown.
    Stranger(Response<Bytes>),
    TooLarge {
        limit: usize,
    },
    TooSlow,
    /// The framing is wrong or the peer is gone.
    Broken,
    /// No room became free in time.
    Busy,
    /// Memory or disk is short.
    Pressed,
}

impl Refused {
    pub fn into_response(self) -> Response<Bytes> {
        match self {
            Refused::Stranger(response) => response,
            Refused::TooLarge { limit } => fault(
                StatusCode::PAYLOAD_TOO_LARGE,
                "validation_error",
                format!("The request body is too large: at most {limit} bytes are allowed."),
            ),
            Refused::TooSlow => {
                fault(StatusCode::REQUEST_TIMEOUT, "application_error", "The request body came too slowly.")
            }
            Refused::Broken => {
                fault(StatusCode::BAD_REQUEST, "validation_error", "The request body could not be read.")
            }
            Refused::Busy => unavailable("Too many large requests at once. Try again later."),
            Refused::Pressed => unavailable("The service takes no new mail for the moment. Try again later."),
        }
    }
}

impl Budget {
    /// `total` bytes for all bodies at once, at most `limit` for one; `admits` knows the keys.
    pub fn new(total: u64, limit: u64, admits: Admits) -> Budget {
        let (permits, small) = shares(total);
        let semaphore = |permits| Arc::new(Semaphore::new(permits));
        Budget {
            room: semaphore(permits.saturating_sub(small)),
            small: semaphore(small),
            beyond: semaphore(1),
            work: semaphore(permits),
            permits: AtomicUsize::new(permits),
            limit: AtomicUsize::new(usize::try_from(limit).unwrap_or(usize::MAX)),
            admits,
            pressure: None,
        }
    }

    /// Other limits for bodies that come. Where the budget shrinks, what bodies hold of it is taken off as they end.
    pub fn change(&self, total: u64, limit: u64) {
        let (permits, small) = shares(total);
        let before = self.permits.swap(permits, Ordering::Relaxed);
        let small_before = small_share(before);
        resize(&self.work, before, permits);
        resize(&self.small, small_before, small);
        resize(&self.room, before.saturating_sub(small_before), permits.saturating_sub(small));
        self.limit.store(usize::try_from(limit).unwrap_or(usize::MAX), Ordering::Relaxed);
    }

    /// The same, which takes nothing new where memory or disk is short.
    pub fn under(self, pressure: Arc<Pressure>) -> Budget {
        Budget { pressure: Some(pressure), ..self }
    }

    /// Whether a request with a body is to come later. The operator's are what may help.
    fn is_pressed(&self, parts: &Parts) -> bool {
        let is_high = self.pressure.as_ref().is_some_and(|pressure| pressure.is_high());
        is_high && !parts.uri.path().starts_with(control::PREFIX)
    }

    /// Reads a body. What it takes of the budget comes back with it, to be held until the answer is there.
    pub async fn read(&self, parts: &Parts, mut body: Incoming, piece: Duration) -> Result<(Bytes, Held), Refused> {
        use hyper::body::Body as _;
        let mut held = Held::default();
        if body.is_end_stream() {
            return Ok((Bytes::new(), held));
        }
        let refused = match self.collect(parts, &mut body, piece, &mut held).await {
            Ok(bytes) => return Ok((bytes, held)),
            Err(refused) => refused,
        };
        if !matches!(refused, Refused::TooSlow | Refused::Broken) {
            tokio::spawn(discard(body, piece));
        }
        Err(refused)
    }

    async fn collect(
        &self,
        parts: &Parts,
        body: &mut Incoming,
        piece: Duration,
        held: &mut Held,
    ) -> Result<Bytes, Refused> {
        if self.is_pressed(parts) {
            metrics().turned_away(Road::Http, Turned::Pressed);
            return Err(Refused::Pressed);
        }
        let (said, limit) = (length(&parts.headers).unwrap_or(0), self.limit.load(Ordering::Relaxed));
        let mut is_admitted = false;
        let mut bytes = BytesMut::new();
        let mut started = Instant::now();
        let mut length = said;
        loop {
            if length > limit {
                return Err(Refused::TooLarge { limit });
            }
            // Our own waits are not the peer's.
            let waiting = Instant::now();
            if length > STRANGERS_BYTES && !is_admitted {
                (self.admits)(parts).await.map_err(Refused::Stranger)?;
                is_admitted = true;
                bytes.reserve(said);
            }
            started += waiting.elapsed();

            let took = Duration::from_secs((bytes.len() / SLOWEST_BYTES_A_SECOND) as u64);
            let next = timeout_at(started + GRACE + took, timeout(piece, body.frame())).await;
            let frame = match next {
                Err(_) | Ok(Err(_)) => return Err(Refused::TooSlow),
                Ok(Ok(None)) => break,
                Ok(Ok(Some(Err(_)))) => return Err(Refused::Broken),
                Ok(Ok(Some(Ok(frame)))) => frame,
            };
            let Ok(data) = frame.into_data() else { continue };
            length = said.max(bytes.len() + data.len());
            if length > limit {
                continue;
            }
            let waiting = Instant::now();
            self.take(held, bytes.len() + data.len(), length > SMALL_BYTES).await?;
            started += waiting.elapsed();
            bytes.extend_from_slice(&data);
        }
        if bytes.len() > SMALL_BYTES {
            held.work = Some(self.turn(bytes.len()).await?);
        }
        Ok(bytes.freeze())
    }

    /// Sees to it that `held` covers so many bytes.
    pub(super) async fn take(&self, held: &mut Held, bytes: usize, is_large: bool) -> Result<(), Refused> {
        let (share, slot, step) = match is_large {
            true => (&self.room, &mut held.large, STEP_BYTES),
            false => (&self.small, &mut held.small, PERMIT_BYTES),
        };
        let has = slot.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        if held.beyond.is_some() || has >= permits(bytes) {
            return Ok(());
        }
        let wanted = permits(bytes.next_multiple_of(step)) - has;
        let more = share.clone().acquire_many_owned(u32::try_from(wanted).unwrap_or(u32::MAX));
        tokio::select! {
            biased;
            Ok(more) = more => {
                match slot {
                    Some(slot) => slot.merge(more),
                    None => *slot = Some(more),
                }
                // A body that turned out to be large moves over.
                if is_large {
                    held.small = None;
                }
                Ok(())
            }
            Ok(beyond) = self.beyond.clone().acquire_owned(), if is_large => {
                *held = Held { beyond: Some(beyond), ..Held::default() };
                Ok(())
            }
            () = sleep(ROOM) => Err(Refused::Busy),
        }
    }

    /// Waits until a body of this size may be worked on. The largest are alone then.
    pub(super) async fn turn(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Refused> {
        let wanted = permits(bytes.saturating_mul(COPIES)).min(self.permits.load(Ordering::Relaxed));
        let wanted = u32::try_from(wanted).unwrap_or(u32::MAX);
        match timeout(TURN, self.work.clone().acquire_many_owned(wanted)).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) | Err(_) => Err(Refused::Busy),
        }
    }
}

/// Permits of a budget, and of its share for small bodies.
fn shares(total: u64) -> (usize, usize) {
    let permits = (usize::try_from(total).unwrap_or(usize::MAX) / PERMIT_BYTES).clamp(1, u32::MAX as usize);
    (permits, small_share(permits))
}

fn small_share(permits: usize) -> usize {
    (permits / SMALL_SHARE).max(SMALL_BYTES / PERMIT_BYTES)
}

fn resize(semaphore: &Arc<Semaphore>, before: usize, after: usize) {
    semaphore.add_permits(after.saturating_sub(before));
    let mut less = before.saturating_sub(after);
    if less > 0 {
        let semaphore = semaphore.clone();
        tokio::spawn(async move {
            // Piece by piece: whoever asks for room meanwhile has a turn between two, and does not wait for all of them.
            while less > 0 {
                let piece = less.min(STEP_BYTES / PERMIT_BYTES);
                let Ok(taken) = semaphore.clone().acquire_many_owned(piece as u32).await else { return };
                taken.forget();
                less -= piece;
            }
        });
    }
}

fn permits(bytes: usize) -> usize {
    bytes.div_ceil(PERMIT_BYTES)
}

/// hyper has checked it; absent for a chunked body.
fn length(headers: &HeaderMap) -> Option<usize> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

async fn discard(mut body: Incoming, piece: Duration) {
    let deadline = Instant::now() + DISCARDING;
    let mut discarded = 0;
    while discarded < DISCARDED_BYTES {
        match timeout_at(deadline, timeout(piece, body.frame())).await {
            Ok(Ok(Some(Ok(frame)))) => discarded += frame.data_ref().map_or(0, Bytes::len),
            Ok(Ok(Some(Err(_)) | None) | Err(_)) | Err(_) => return,
        }
    }
}
