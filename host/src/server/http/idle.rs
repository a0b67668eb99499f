//! How long an HTTP/2 connection may stay without a request: hyper asks the peer whether it lives, not what for.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

/// Counts the requests under way on one connection.
pub struct Activity(watch::Sender<usize>);

/// One request under way; ends when dropped.
pub struct UnderWay(watch::Sender<usize>);

impl Activity {
    pub fn new() -> Activity {
        Activity(watch::Sender::new(0))
    }

    /// A request begins.
    pub fn begin(&self) -> UnderWay {
        self.0.send_modify(|count| *count += 1);
        UnderWay(self.0.clone())
    }

    /// Resolves once nothing was under way for so long.
    pub async fn ceased(&self, patience: Duration) {
        let mut count = self.0.subscribe();
        loop {
            // The sender is in `self`, so neither wait fails.
            let _ = count.wait_for(|count| *count == 0).await;
            if timeout(patience, count.changed()).await.is_err() {
                return;
            }
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Arc;

    use futures::FutureExt as _;
    use tokio::time::advance;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn only_silence_counts() {
        let activity = Arc::new(Activity::new());
        let waiting = activity.clone();
        let mut ceased = Box::pin(async move { waiting.ceased(PATIENCE).await });
        let first = activity.begin();
        for _ in 0..3 {
            assert!((&mut ceased).now_or_never().is_none());
            advance(PATIENCE).await;
        }
        drop(first);
        assert!((&mut ceased).now_or_never().is_none());
        advance(PATIENCE / 2).await;
        // A short request begins the wait anew.
        drop(activity.begin());
        assert!((&mut ceased).now_or_never().is_none());
        advance(PATIENCE / 2).await;
        assert!((&mut ceased).now_or_never().is_none());
        advance(PATIENCE).await;
        ceased.now_or_never().unwrap();
    }
}
