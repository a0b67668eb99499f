//! Answers on their way to peers that may read slowly: what is large counts against a budget until it is written.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Response};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::api::fault::unavailable;

/// What a permit stands for.
const PERMIT_BYTES: usize = 1024;

/// Answers of at most so many bytes are not counted: the connections bound how many there are.
const SMALL_BYTES: usize = 64 << 10;

/// How long an answer waits for room.
const ROOM: Duration = Duration::from_secs(30);

/// The room for large answers.
pub struct Outgoing {
    room: Arc<Semaphore>,
    permits: usize,
}

/// An answer, and its room as long as its bytes are there.
struct Roomy {
    bytes: Bytes,
    _room: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Roomy {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Outgoing {
    /// So many bytes for all answers at once; one that is larger takes them all.
    pub fn new(total: u64) -> Outgoing {
        let permits = (usize::try_from(total).unwrap_or(usize::MAX) / PERMIT_BYTES).clamp(1, u32::MAX as usize);
        Outgoing { room: Arc::new(Semaphore::new(permits)), permits }
    }

    /// Waits until the answer has room; a 503 in its stead where it gets none in time.
    pub async fn admit(&self, response: Response<Bytes>) -> Response<Bytes> {
        let length = response.body().len();
        if length <= SMALL_BYTES {
            return response;
        }
        let wanted = u32::try_from(length.div_ceil(PERMIT_BYTES).min(self.permits)).unwrap_or(u32::MAX);
        match timeout(ROOM, self.room.clone().acquire_many_owned(wanted)).await {
            Ok(Ok(room)) => response.map(|bytes| Bytes::from_owner(Roomy { bytes, _room: room })),
            Ok(Err(_)) | Err(_) => {
                let mut busy = unavailable("Too many large answers at once. Try again later.");
                let id = |headers: &HeaderMap| headers.get(delivery_client::wire::REQUEST_ID_HEADER).cloned();
                if let Some(id) = id(response.headers()) {
                    busy.headers_mut().insert(delivery_client::wire::REQUEST_ID_HEADER, id);
                }
                busy
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use futures::FutureExt as _;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn large_answers_wait_for_those_that_are_being_read() {
        let outgoing = Outgoing::new(1 << 20);
        let large = || Response::new(Bytes::from(vec![b'x'; 600 << 10]));
        let first = outgoing.admit(large()).now_or_never().unwrap();
        assert_eq!(first.body().len(), 600 << 10);
        // What is small goes on; what is large waits, and not for good.
        let small = outgoing.admit(Response::new(Bytes::from_static(b"ok"))).now_or_never().unwrap();
        assert_eq!(small.body(), "ok");
        assert_eq!(outgoing.admit(large()).await.status(), 503);
        // A piece that is still to be written holds it too.
        let mut first = first.into_body();
        let rest = first.split_off(599 << 10);
        drop(first);
        assert!(outgoing.admit(large()).now_or_never().is_none());
        drop(rest);
        assert_eq!(outgoing.admit(large()).now_or_never().unwrap().status(), 200);
        // Larger than all there is: alone, not never.
        let huge = Response::new(Bytes::from(vec![b'x'; 2 << 20]));
        assert_eq!(outgoing.admit(huge).now_or_never().unwrap().status(), 200);
    }
}
