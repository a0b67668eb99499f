//! What each tenant may send now: paused or not, its limits, its quotas. Asked at the commit point, from memory.
//!
//! Quotas count recipients in fixed windows of UTC. What was taken is written down each second, so that a crash forgets
//! at most the last second's worth. Nothing is held: what a quota has no room for is refused, with the time of its reset.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _};
use mail::Stream;
use serde_json::json;
use thiserror::Error;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::store::{
    Announcements, Directory, Pause, Quotas, StoreError, TenantEvent, TenantEventKind, TenantId, TenantTerms, Tenants,
    Used,
};

/// How often what was taken is written down.
const KEEP_EVERY: Duration = Duration::from_secs(1);

/// Every so many times the use of keys is written down too.
const KEEPS_A_KEY_USE: u32 = 60;

/// A tenant is warned when this part of a quota is taken, in hundredths.
const WARN_AT: u64 = 80;

/// A time that a quota is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    Second,
    Hour,
    Day,
    Month,
}

impl Span {
    const ALL: [Span; 4] = [Span::Second, Span::Hour, Span::Day, Span::Month];

    /// As people say it.
    pub fn name(self) -> &'static str {
        match self {
            Span::Second => "second",
            Span::Hour => "hour",
            Span::Day => "day",
            Span::Month => "month",
        }
    }

    fn limit(self, quotas: &Quotas) -> Option<u64> {
        match self {
            Span::Second => quotas.second,
            Span::Hour => quotas.hour,
            Span::Day => quotas.day,
            Span::Month => quotas.month,
        }
    }

    /// Begin and end of the window that a time lies in, from 1970.
    fn window(self, now_s: i64) -> (i64, i64) {
        let seconds = match self {
            Span::Second => 1,
            Span::Hour => 3600,
            Span::Day => 86_400,
            Span::Month => return month(now_s),
        };
        let start_s = now_s - now_s.rem_euclid(seconds);
        (start_s, start_s + seconds)
    }
}

fn month(now_s: i64) -> (i64, i64) {
    let at = Timestamp::from_second(now_s).unwrap_or(Timestamp::UNIX_EPOCH);
    let first = at.to_zoned(TimeZone::UTC).date().first_of_month();
    let second =
        |date: jiff::civil::Date| date.to_zoned(TimeZone::UTC).map_or(now_s, |zoned| zoned.timestamp().as_second());
    (second(first), second(first.checked_add(1.month()).unwrap_or(first)))
}

/// Why a tenant may not send a message. The words are for its sender.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Denial {
    #[error("sending is paused for this account: {0}")]
    Paused(String),
    #[error("the message has {0} bytes: at most {1} are allowed for this account")]
    TooLarge(u64, u64),
    #[error("the message has {0} recipients: at most {1} are allowed for this account")]
    TooManyRecipients(usize, usize),
    /// It fits no window, however empty.
    #[error("the message has {recipients} recipients, which is more than this account may have in a {span}: {limit}")]
    NeverFits { recipients: u64, span: &'static str, limit: u64 },
    #[error("the quota of {limit} recipients a {span} is used up: it resets at {resets_at}")]
    Spent { span: &'static str, limit: u64, resets_at: Timestamp },
    #[error("this account has {0} submissions under way, which is all it may have at once")]
    Busy(usize),
    /// Another message of the request was denied, and they go together.
    #[error("another message of the request was refused, so none was stored")]
    Together,
}

/// What is known of a tenant.
pub struct Standing {
    pause: Option<Pause>,
    pub terms: TenantTerms,
    calls: Option<Arc<Semaphore>>,
    usage: Arc<Mutex<Usage>>,
}

/// A place among the submissions of a tenant that are under way: of a request whose tenant is told only once its key was
/// checked. It is free again when the last clone is dropped.
#[derive(Clone, Debug, Default)]
pub struct Place(Arc<Mutex<Option<OwnedSemaphorePermit>>>);

impl Place {
    /// Takes the place, where this request has none yet.
    pub fn take(&self, standing: &Standing) -> Result<(), Denial> {
        let mut place = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if place.is_none() {
            *place = standing.enter()?;
        }
        Ok(())
    }
}

/// What was taken in the window of each span.
#[derive(Debug, Default)]
struct Usage {
    windows: [Window; 4],
    is_dirty: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Window {
    start_s: i64,
    used: u64,
    is_warned: bool,
}

/// A quota that runs out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Warning {
    span: Span,
    limit: u64,
    used: u64,
    resets_s: i64,
}

impl Usage {
    /// Takes recipients from every quota, or from none.
    fn take(&mut self, quotas: &Quotas, recipients: u64, now_s: i64) -> Result<Vec<Warning>, Denial> {
        let mut spent = None;
        for (span, window) in Span::ALL.into_iter().zip(&mut self.windows) {
            let Some(limit) = span.limit(quotas) else { continue };
            let (start_s, end_s) = span.window(now_s);
            // A clock that goes back opens no window anew; one that was far ahead binds nobody.
            if window.start_s < start_s || window.start_s > end_s {
                *window = Window { start_s, ..Window::default() };
            }
            if recipients > limit {
                return Err(Denial::NeverFits { recipients, span: span.name(), limit });
            }
            if window.used.saturating_add(recipients) > limit {
                let resets_at = Timestamp::from_second(end_s).unwrap_or(Timestamp::MAX);
                spent = Some(Denial::Spent { span: span.name(), limit, resets_at });
            }
        }
        // Of several that are used up, the one that resets last.
        if let Some(spent) = spent {
            return Err(spent);
        }
        let mut warnings = Vec::new();
        for (span, window) in Span::ALL.into_iter().zip(&mut self.windows) {
            let Some(limit) = span.limit(quotas) else { continue };
            window.used += recipients;
            self.is_dirty = true;
            let is_near = window.used.saturating_mul(100) >= limit.saturating_mul(WARN_AT);
            // A second is over before anybody reads of it.
            if is_near && !window.is_warned && span != Span::Second {
                window.is_warned = true;
                warnings.push(Warning { span, limit, used: window.used, resets_s: span.window(now_s).1 });
            }
        }
        Ok(warnings)
    }

    fn give_back(&mut self, quotas: &Quotas, recipients: u64) {
        for (span, window) in Span::ALL.into_iter().zip(&mut self.windows) {
            if span.limit(quotas).is_some() {
                window.used = window.used.saturating_sub(recipients);
                self.is_dirty = true;
            }
        }
    }
}

impl Standing {
    /// Whether the tenant may send at all.
    pub fn check_pause(&self) -> Result<(), Denial> {
        match &self.pause {
            Some(pause) => Err(Denial::Paused(pause.reason.clone())),
            None => Ok(()),
        }
    }

    /// The streams that it may use by a key that is bound to this one, or to none; the first is that of messages which
    /// name none.
    pub fn streams(&self, bound: Option<Stream>) -> Vec<Stream> {
        let own = if self.terms.streams.0.is_empty() { &Stream::ALL } else { self.terms.streams.0.as_slice() };
        own.iter().copied().filter(|stream| bound.is_none_or(|bound| bound == *stream)).collect()
    }

    /// Whether its keys are good from this address; one that is not known is nobody's to refuse.
    pub fn is_from(&self, peer: Option<IpAddr>) -> bool {
        let networks = &self.terms.networks;
        networks.is_empty() || peer.is_none_or(|peer| networks.iter().any(|block| block.contains(&peer.to_canonical())))
    }

    /// A place among the submissions at once, held until it is dropped.
    pub fn enter(&self) -> Result<Option<OwnedSemaphorePermit>, Denial> {
        let Some(calls) = &self.calls else { return Ok(None) };
        let most = self.terms.calls_at_once.unwrap_or_default();
        calls.clone().try_acquire_owned().map(Some).map_err(|_| Denial::Busy(most))
    }

    fn usage(&self) -> MutexGuard<'_, Usage> {
        self.usage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What tenants may, for everybody who asks.
pub struct Tenancy {
    rows: Arc<dyn Tenants>,
    directory: Arc<dyn Directory>,
    announcements: Arc<dyn Announcements>,
    known: RwLock<Known>,
}

#[derive(Default)]
struct Known {
    standings: HashMap<TenantId, Arc<Standing>>,
    /// What was taken outlives a change of the terms.
    usages: HashMap<TenantId, Arc<Mutex<Usage>>>,
    /// Counts changes, so that a read that began before one does not bring back what it changed.
    changes: u64,
}

impl Tenancy {
    /// What the store says of tenants, remembered.
    pub fn new<S: Tenants + Directory + Announcements>(store: Arc<S>) -> Tenancy {
        Tenancy { rows: store.clone(), directory: store.clone(), announcements: store, known: RwLock::default() }
    }

    /// What is known of a tenant. Names come from keys and configuration, so memory is bounded by them.
    pub async fn of(&self, tenant: &str) -> Result<Arc<Standing>, StoreError> {
        let (changes, usage) = {
            let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(standing) = known.standings.get(tenant) {
                return Ok(standing.clone());
            }
            (known.changes, known.usages.get(tenant).cloned())
        };
        let row = self.rows.tenant(tenant).await?;
        let (pause, terms) = row.map_or_else(Default::default, |row| (row.pause, row.terms));
        let usage = match usage {
            Some(usage) => usage,
            None => Arc::new(Mutex::new(read_usage(&self.rows.usage(tenant).await?, &terms.quotas))),
        };
        let calls = terms.calls_at_once.map(|most| Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS))));
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        // Two may have read at once: what the first took, and its places, must count for the second.
        let usage = known.usages.entry(tenant.to_owned()).or_insert(usage).clone();
        let standing = Arc::new(Standing { pause, terms, calls, usage });
        if known.changes != changes {
            return Ok(standing);
        }
        Ok(known.standings.entry(tenant.to_owned()).or_insert(standing).clone())
    }

    /// Where tenants are kept.
    pub fn rows(&self) -> &dyn Tenants {
        &*self.rows
    }

    /// After a tenant was changed: it is read again. `is_removed`: what it took is forgotten too.
    pub fn forget(&self, tenant: &str, is_removed: bool) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.changes += 1;
        known.standings.remove(tenant);
        if is_removed {
            known.usages.remove(tenant);
        }
    }

    /// Whether a tenant may send a message of these bytes to so many; takes them from its quotas.
    pub async fn admit(
        &self,
        tenant: &str,
        standing: &Standing,
        bytes: usize,
        recipients: usize,
        now: Timestamp,
    ) -> Result<(), Denial> {
        standing.check_pause()?;
        let (bytes, terms) = (bytes as u64, &standing.terms);
        if let Some(most) = terms.message_bytes.filter(|most| bytes > *most) {
            return Err(Denial::TooLarge(bytes, most));
        }
        if let Some(most) = terms.recipients.filter(|most| recipients > *most) {
            return Err(Denial::TooManyRecipients(recipients, most));
        }
        if terms.quotas == Quotas::default() {
            return Ok(());
        }
        let warnings = standing.usage().take(&terms.quotas, recipients as u64, now.as_second())?;
        for warning in warnings {
            self.warn(tenant, warning, now).await;
        }
        Ok(())
    }

    /// Undoes what `admit` took: the message was not stored.
    pub fn give_back(&self, standing: &Standing, recipients: usize) {
        if standing.terms.quotas != Quotas::default() {
            standing.usage().give_back(&standing.terms.quotas, recipients as u64);
        }
    }

    async fn warn(&self, tenant: &str, warning: Warning, now: Timestamp) {
        let Warning { span, limit, used, resets_s } = warning;
        let resets_at = Timestamp::from_second(resets_s).unwrap_or(Timestamp::MAX);
        let data = [("period", json!(span.name())), ("limit", json!(limit)), ("used", json!(used))];
        let mut event = TenantEvent::new(TenantEventKind::QuotaWarning, data);
        event.data.insert("resets_at".to_owned(), json!(resets_at.to_string()));
        if let Err(error) = self.announcements.announce(tenant, event, now).await {
            tracing::warn!(tenant, %error, "a quota runs out, which could not be told");
        }
    }

    /// Writes down what was taken since the last time.
    pub async fn keep(&self) -> Result<(), StoreError> {
        let mut used = Vec::new();
        {
            let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
            for (tenant, usage) in &known.usages {
                let mut usage = usage.lock().unwrap_or_else(PoisonError::into_inner);
                if std::mem::take(&mut usage.is_dirty) {
                    let spans = (0_u8..).zip(&usage.windows).filter(|(_, window)| window.start_s != 0);
                    used.extend(spans.map(|(span, window)| {
                        (tenant.clone(), Used { span, start_s: window.start_s, recipients: window.used })
                    }));
                }
            }
        }
        if used.is_empty() { Ok(()) } else { self.rows.keep_usage(used).await }
    }

    /// Writes down what was taken, and which keys were used, until it is told to stop, and once more then.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut turn = 0_u32;
        while !stop.is_cancelled() {
            tokio::select! {
                () = tokio::time::sleep(KEEP_EVERY) => {}
                () = stop.cancelled() => {}
            }
            turn = turn.wrapping_add(1);
            if let Err(error) = self.keep().await {
                tracing::warn!(%error, "what tenants used of their quotas could not be written down");
            }
            let is_turn = turn.is_multiple_of(KEEPS_A_KEY_USE) || stop.is_cancelled();
            if is_turn && let Err(error) = self.directory.keep_key_uses().await {
                tracing::warn!(%error, "the use of keys could not be written down");
            }
        }
    }
}

fn read_usage(used: &[Used], quotas: &Quotas) -> Usage {
    let mut usage = Usage::default();
    for Used { span, start_s, recipients } in used {
        let Some((window, span)) = usage.windows.get_mut(usize::from(*span)).zip(Span::ALL.get(usize::from(*span)))
        else {
            continue;
        };
        let near = |limit: u64| recipients.saturating_mul(100) >= limit.saturating_mul(WARN_AT);
        let is_warned = span.limit(quotas).is_some_and(near);
        *window = Window { start_s: *start_s, used: *recipients, is_warned };
    }
    usage
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::store::{Embedded, Options};

    /// 2026-11-22T10:00:00Z.
    const NOW_S: i64 = 1_795_341_600;

    #[test]
    fn windows_are_of_utc() {
        let check = |span: Span, start: &str, end: &str| {
            let second = |text: &str| text.parse::<Timestamp>().unwrap().as_second();
            assert_eq!(span.window(NOW_S + 61), (second(start), second(end)), "{span:?}");
        };
        check(Span::Second, "2026-11-22T10:01:01Z", "2026-11-22T10:01:02Z");
        check(Span::Hour, "2026-11-22T10:00:00Z", "2026-11-22T11:00:00Z");
        check(Span::Day, "2026-11-22T00:00:00Z", "2026-11-23T00:00:00Z");
        check(Span::Month, "2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z");
    }

    #[test]
    fn a_quota_is_taken_in_whole_and_comes_back_with_its_window() {
        let quotas = Quotas { hour: Some(10), day: Some(15), ..Quotas::default() };
        let mut usage = Usage::default();
        assert_eq!(usage.take(&quotas, 7, NOW_S).unwrap(), []);
        let warnings = usage.take(&quotas, 1, NOW_S).unwrap();
        assert_eq!(warnings, [Warning { span: Span::Hour, limit: 10, used: 8, resets_s: NOW_S + 3600 }]);
        assert_eq!(usage.take(&quotas, 1, NOW_S).unwrap(), [], "warned once");
        let resets_at = Timestamp::from_second(NOW_S + 3600).unwrap();
        assert_eq!(usage.take(&quotas, 2, NOW_S), Err(Denial::Spent { span: "hour", limit: 10, resets_at }));
        assert_eq!(usage.windows[2].used, 9, "of the other quota nothing was taken");
        assert_eq!(usage.take(&quotas, 11, NOW_S), Err(Denial::NeverFits { recipients: 11, span: "hour", limit: 10 }));
        usage.give_back(&quotas, 1);
        usage.take(&quotas, 2, NOW_S).unwrap();
        assert!(matches!(usage.take(&quotas, 6, NOW_S + 3600), Err(Denial::Spent { span: "day", .. })));
        usage.take(&quotas, 5, NOW_S + 3600).unwrap();
        assert!(matches!(usage.take(&quotas, 1, NOW_S - 3600), Err(Denial::Spent { .. })), "no window opens anew");
        usage.take(&quotas, 10, NOW_S + 86_400).unwrap();
        usage.take(&quotas, 10, NOW_S + 365 * 86_400).unwrap();
        usage.take(&quotas, 10, NOW_S + 86_400).expect("a clock that was a year ahead binds nobody");
    }

    /// By the test's clock: each quota refuses what it has no room for until its window ends, and all but that of a second
    /// are told of before.
    #[tokio::test]
    async fn each_quota_warns_refuses_and_comes_back() {
        let five = Some(5);
        for (span, quotas, end) in [
            (Span::Second, Quotas { second: five, ..Quotas::default() }, "2026-11-22T10:00:01Z"),
            (Span::Hour, Quotas { hour: five, ..Quotas::default() }, "2026-11-22T11:00:00Z"),
            (Span::Day, Quotas { day: five, ..Quotas::default() }, "2026-11-23T00:00:00Z"),
            (Span::Month, Quotas { month: five, ..Quotas::default() }, "2026-12-01T00:00:00Z"),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let store = Embedded::open(folder.path(), Options { reserve_bytes: 0, ..Options::default() }).unwrap();
            let now = Timestamp::from_second(NOW_S).unwrap();
            store.add_tenant("acme", TenantTerms { quotas, ..TenantTerms::default() }, now).await.unwrap();
            let tenancy = Tenancy::new(store.clone());
            let acme = tenancy.of("acme").await.unwrap();
            let admit = async |recipients, at| tenancy.admit("acme", &acme, 1, recipients, at).await;
            let warnings = async || {
                store.move_events().await;
                let filter = crate::store::EventFilter {
                    tenant: "acme".to_owned(),
                    kinds: Some(vec![TenantEventKind::QuotaWarning.into()]),
                    message: None,
                    stream: None,
                    from: None,
                    to: None,
                    after: None,
                    oldest_first: true,
                };
                crate::store::Webhooks::tenant_events(&*store, filter, 9).await.unwrap().0
            };
            let end: Timestamp = end.parse().unwrap();
            let last = end - jiff::SignedDuration::from_secs(1);
            admit(3, now).await.unwrap();
            assert_eq!(warnings().await.len(), 0, "{span:?}: three of five");
            admit(1, now).await.unwrap();
            let told = warnings().await;
            assert_eq!(told.len(), usize::from(span != Span::Second), "{span:?}: four of five, before it is over");
            for event in told {
                let crate::store::AnyEvent::Tenant(event) = event else { panic!("a tenant's") };
                let said = |name: &str| event.event.data[name].clone();
                let expect = (json!(span.name()), json!(5), json!(4), json!(end.to_string()));
                assert_eq!((said("period"), said("limit"), said("used"), said("resets_at")), expect);
            }
            admit(1, now).await.unwrap();
            for at in [now, last] {
                let spent = Denial::Spent { span: span.name(), limit: 5, resets_at: end };
                assert_eq!(admit(1, at).await, Err(spent), "{span:?} at {at}");
            }
            admit(5, end).await.unwrap();
            assert!(admit(1, end).await.is_err());
        }
    }

    #[tokio::test]
    async fn what_was_taken_survives_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let open = || Embedded::open(folder.path(), Options { reserve_bytes: 0, ..Options::default() }).unwrap();
        let now = Timestamp::from_second(NOW_S).unwrap();
        let store = open();
        let terms = TenantTerms {
            quotas: Quotas { day: Some(10), ..Quotas::default() },
            message_bytes: Some(100),
            networks: vec!["192.0.2.0/24".parse().unwrap()],
            calls_at_once: Some(1),
            ..TenantTerms::default()
        };
        store.add_tenant("acme", terms, now).await.unwrap();
        let tenancy = Tenancy::new(store.clone());
        let acme = tenancy.of("acme").await.unwrap();
        tenancy.admit("acme", &acme, 100, 8, now).await.unwrap();
        assert_eq!(tenancy.admit("acme", &acme, 101, 1, now).await, Err(Denial::TooLarge(101, 100)));
        assert!(acme.is_from(Some("192.0.2.1".parse().unwrap())) && !acme.is_from(Some("::1".parse().unwrap())));
        let place = acme.enter().unwrap();
        assert_eq!(acme.enter().err(), Some(Denial::Busy(1)));
        drop(place);
        assert!(acme.enter().is_ok());
        tenancy.keep().await.unwrap();
        drop((tenancy, acme, store));

        let store = open();
        let tenancy = Tenancy::new(store.clone());
        let acme = tenancy.of("acme").await.unwrap();
        assert!(matches!(tenancy.admit("acme", &acme, 1, 3, now).await, Err(Denial::Spent { span: "day", .. })));
        tenancy.admit("acme", &acme, 1, 2, now).await.unwrap();
        tenancy.give_back(&acme, 2);

        let pause = Pause { reason: "unpaid".to_owned(), at: now };
        store.set_pause("acme", Some(pause)).await.unwrap();
        assert!(tenancy.of("acme").await.unwrap().check_pause().is_ok(), "not told yet");
        tenancy.forget("acme", false);
        let acme = tenancy.of("acme").await.unwrap();
        assert_eq!(tenancy.admit("acme", &acme, 1, 1, now).await, Err(Denial::Paused("unpaid".to_owned())));
        store.set_pause("acme", None).await.unwrap();
        tenancy.forget("acme", false);
        let acme = tenancy.of("acme").await.unwrap();
        assert!(matches!(tenancy.admit("acme", &acme, 1, 3, now).await, Err(Denial::Spent { .. })), "usage stays");
        let nobody = tenancy.of("nobody").await.unwrap();
        tenancy.admit("nobody", &nobody, 1 << 30, 1 << 20, now).await.unwrap();
    }
}
