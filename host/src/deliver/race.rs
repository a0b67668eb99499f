//! The addresses of one host, tried so that a kind of address that does not work costs a quarter of a second and not a
//! time-out (RFC 8305): the first address, and where it takes long or fails the first of the other kind beside it.
//!
//! Of each kind one is tried at a time: more would be begun only to be broken off, which mail hosts count against us.

use std::collections::VecDeque;
use std::future::Future;
use std::net::IpAddr;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;

/// How long an attempt runs alone (RFC 8305 s8).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// The addresses that were not tried to the end.
pub(super) struct Race {
    waiting: VecDeque<IpAddr>,
    running: Vec<IpAddr>,
}

impl Race {
    /// Both kinds in turn, beginning with that of the first address (RFC 8305 s4).
    pub(super) fn new(addresses: Vec<IpAddr>) -> Race {
        let first_is_v4 = addresses.first().is_some_and(IpAddr::is_ipv4);
        let (first, second): (Vec<_>, Vec<_>) =
            addresses.into_iter().partition(|address| address.is_ipv4() == first_is_v4);
        let mut waiting = VecDeque::with_capacity(first.len() + second.len());
        let (mut first, mut second) = (first.into_iter(), second.into_iter());
        loop {
            let pair = [first.next(), second.next()];
            if pair == [None, None] {
                return Race { waiting, running: Vec::new() };
            }
            waiting.extend(pair.into_iter().flatten());
        }
    }

    /// The first that connects; whoever fails before is handed to `failed`. Those broken off may be tried another time.
    /// `None` when there is nobody left. At most `dials` attempts are begun; it is counted down.
    pub(super) async fn winner<T, E, F: Future<Output = (IpAddr, Result<T, E>)>>(
        &mut self,
        dials: &mut usize,
        connect: impl Fn(IpAddr) -> F,
        mut failed: impl FnMut(E),
    ) -> Option<(IpAddr, T)> {
        let mut attempts = FuturesUnordered::new();
        attempts.extend(self.start(dials).map(&connect));
        loop {
            let other_kind = !attempts.is_empty() && *dials > 0 && self.startable().is_some();
            tokio::select! {
                biased;
                done = attempts.next() => {
                    let (address, result) = done?;
                    self.running.retain(|running| *running != address);
                    match result {
                        Ok(connected) => {
                            self.waiting.extend(self.running.drain(..));
                            return Some((address, connected));
                        }
                        Err(error) => failed(error),
                    }
                    attempts.extend(self.start(dials).map(&connect));
                }
                () = tokio::time::sleep(ATTEMPT_DELAY), if other_kind => {
                    attempts.extend(self.start(dials).map(&connect));
                }
            }
        }
    }

    /// The place of the first address of a kind of which none is being tried.
    fn startable(&self) -> Option<usize> {
        let is_free = |address: &IpAddr| self.running.iter().all(|running| running.is_ipv4() != address.is_ipv4());
        self.waiting.iter().position(is_free)
    }

    fn start(&mut self, dials: &mut usize) -> Option<IpAddr> {
        let place = self.startable().filter(|_| *dials > 0)?;
        let address = self.waiting.remove(place)?;
        *dials -= 1;
        self.running.push(address);
        Some(address)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::cell::RefCell;

    use tokio::time::Instant;

    use super::*;

    fn race(addresses: &[&str]) -> Race {
        Race::new(addresses.iter().map(|text| text.parse().unwrap()).collect())
    }

    #[test]
    fn both_kinds_take_turns() {
        let order = |addresses: &[&str]| race(addresses).waiting.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(order(&["1.1.1.1", "1.1.1.2", "1.1.1.3", "::1"]), ["1.1.1.1", "::1", "1.1.1.2", "1.1.1.3"]);
        assert_eq!(order(&["::1", "1.1.1.1", "::2"]), ["::1", "1.1.1.1", "::2"]);
        assert!(order(&[]).is_empty());
    }

    /// Plays a race: what each address does after so many milliseconds; who won, and who was begun when.
    async fn play(race: &mut Race, dials: usize, script: &[(&str, u64, bool)]) -> (Option<String>, Vec<String>) {
        let begun = RefCell::new(Vec::new());
        let started = Instant::now();
        let mut dials = dials;
        let connect = |address: IpAddr| {
            begun.borrow_mut().push(format!("{address} at {}", started.elapsed().as_millis()));
            let found = script.iter().find(|(name, ..)| *name == address.to_string()).copied();
            async move {
                let (_, after, works) = found.unwrap();
                tokio::time::sleep(Duration::from_millis(after)).await;
                (address, if works { Ok(()) } else { Err(()) })
            }
        };
        let winner = race.winner(&mut dials, connect, |()| {}).await;
        (winner.map(|(address, ())| address.to_string()), begun.take())
    }

    #[tokio::test(start_paused = true)]
    async fn races() {
        let all = ["1.1.1.1", "1.1.1.2", "::1", "::2"];
        let quick = play(&mut race(&all), 9, &[("1.1.1.1", 200, true)]).await;
        assert_eq!(quick, (Some("1.1.1.1".into()), vec!["1.1.1.1 at 0".into()]), "the other kind is not bothered");

        let mut stalled = race(&all);
        let script = [("1.1.1.1", 30_000, false), ("::1", 40, true)];
        let played = play(&mut stalled, 9, &script).await;
        assert_eq!(played, (Some("::1".into()), vec!["1.1.1.1 at 0".into(), "::1 at 250".into()]));
        assert_eq!(stalled.waiting.len(), 3, "who was broken off can be tried again");

        let script = [("1.1.1.1", 10, false), ("::1", 10, false), ("1.1.1.2", 10, false), ("::2", 10, true)];
        let (winner, begun) = play(&mut race(&all), 9, &script).await;
        assert_eq!(winner.as_deref(), Some("::2"));
        assert_eq!(begun, ["1.1.1.1 at 0", "::1 at 10", "1.1.1.2 at 20", "::2 at 30"]);
        assert_eq!(play(&mut race(&all), 2, &script).await.0, None, "no more than so many attempts");
        assert_eq!(play(&mut race(&[]), 2, &script).await, (None, vec![]));
    }
}
