//! Request bodies: read in whole, bounded, against one budget of bytes for all of them.
//!
//! A body waits for room before it is read: as much as it says it has, or the most there may be where it does not say.
//! One that is over the limit is told so with the limit; some of it is read and thrown away first, because a peer that
//! is still writing when the connection closes never sees the answer.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};

use crate::api::fault::{fault, unavailable};

/// What a permit of the budget stands for.
const PERMIT_BYTES: usize = 1024;

/// Every body may be read with at least this many bytes a second.
const SLOWEST_BYTES_A_SECOND: usize = 32 << 10;

/// What a body may take besides.
const GRACE: Duration = Duration::from_secs(30);

/// How long a body waits for room.
const ROOM: Duration = Duration::from_secs(60);

/// Of a body over the limit, read and thrown away.
const DISCARDED_BYTES: usize = 256 << 20;

/// The budget of all bodies, and the limit of each.
pub struct Budget {
    room: Arc<Semaphore>,
    permits: usize,
    /// The most one body may have.
    limit: usize,
}

/// Why a body was not taken.
#[derive(Debug, PartialEq, Eq)]
pub enum Refused {
    TooLarge {
        limit: usize,
    },
    TooSlow,
    /// The framing is wrong or the peer is gone.
    Broken,
    /// No room became free in time.
    Busy,
}

impl Refused {
    pub fn into_response(self) -> Response<Bytes> {
        match self {
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
        }
    }
}

impl Budget {
    /// `total` bytes for all bodies at once, at most `limit` for one.
    pub fn new(total: u64, limit: u64) -> Budget {
        let bytes = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        let permits = (bytes(total) / PERMIT_BYTES).clamp(1, u32::MAX as usize);
        Budget { room: Arc::new(Semaphore::new(permits)), permits, limit: bytes(limit) }
    }

    /// Reads a body. What it takes of the budget comes back with it, to be held as long as the bytes are.
    pub async fn read(
        &self,
        headers: &HeaderMap,
        mut body: Incoming,
        piece: Duration,
    ) -> Result<(Bytes, Option<OwnedSemaphorePermit>), Refused> {
        use hyper::body::Body as _;
        if body.is_end_stream() {
            return Ok((Bytes::new(), None));
        }
        let said = length(headers);
        if said.is_some_and(|said| said > self.limit) {
            discard(body, piece).await;
            return Err(Refused::TooLarge { limit: self.limit });
        }
        let expected = said.unwrap_or(self.limit);
        let mut held = self.room(expected).await?;
        let most = Duration::from_secs((expected / SLOWEST_BYTES_A_SECOND) as u64);
        let deadline = Instant::now() + GRACE + most;
        let mut bytes = BytesMut::with_capacity(said.unwrap_or(0));
        loop {
            let next = timeout_at(deadline, timeout(piece, body.frame())).await;
            let frame = match next {
                Err(_) | Ok(Err(_)) => return Err(Refused::TooSlow),
                Ok(Ok(None)) => break,
                Ok(Ok(Some(Err(_)))) => return Err(Refused::Broken),
                Ok(Ok(Some(Ok(frame)))) => frame,
            };
            let Ok(data) = frame.into_data() else { continue };
            if bytes.len() + data.len() > self.limit {
                drop(held);
                discard(body, piece).await;
                return Err(Refused::TooLarge { limit: self.limit });
            }
            bytes.extend_from_slice(&data);
        }
        // What was taken and not used goes back.
        let surplus = held.num_permits().saturating_sub(permits(bytes.len()).max(1));
        drop(held.split(surplus));
        Ok((bytes.freeze(), Some(held)))
    }

    pub(super) async fn room(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Refused> {
        let wanted = permits(bytes).clamp(1, self.permits);
        let wanted = u32::try_from(wanted).unwrap_or(u32::MAX);
        match timeout(ROOM, self.room.clone().acquire_many_owned(wanted)).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) | Err(_) => Err(Refused::Busy),
        }
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
    let deadline = Instant::now() + GRACE;
    let mut discarded = 0;
    while discarded < DISCARDED_BYTES {
        match timeout_at(deadline, timeout(piece, body.frame())).await {
            Ok(Ok(Some(Ok(frame)))) => discarded += frame.data_ref().map_or(0, Bytes::len),
            Ok(Ok(Some(Err(_)) | None) | Err(_)) | Err(_) => return,
        }
    }
}
