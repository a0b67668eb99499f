//! The numbers that stand for enumerations in the databases. A number, once released, keeps its meaning for good.

use mail::dkim::Algorithm;
use mail::outcome::Phase;
use mail::{EnhancedCode, EventKind, Stream, Verdict};

use super::{AnyKind, TenantEventKind};

pub(super) fn kind_to(kind: EventKind) -> i64 {
    match kind {
        EventKind::Sent => 1,
        EventKind::Delivered => 2,
        EventKind::DeliveryDelayed => 3,
        EventKind::Bounced => 4,
        EventKind::Failed => 5,
        EventKind::Suppressed => 6,
        EventKind::Complained => 7,
        EventKind::Scheduled => 8,
        EventKind::Canceled => 9,
    }
}

pub(super) fn kind_from(code: i64) -> Option<EventKind> {
    match code {
        1 => Some(EventKind::Sent),
        2 => Some(EventKind::Delivered),
        3 => Some(EventKind::DeliveryDelayed),
        4 => Some(EventKind::Bounced),
        5 => Some(EventKind::Failed),
        6 => Some(EventKind::Suppressed),
        7 => Some(EventKind::Complained),
        8 => Some(EventKind::Scheduled),
        9 => Some(EventKind::Canceled),
        _ => None,
    }
}

/// Numbers of kinds are bits of a webhook's mask too: 1 to 31 are of messages, 32 to 62 of tenants.
pub(super) fn any_kind_to(kind: AnyKind) -> i64 {
    match kind {
        AnyKind::Message(kind) => kind_to(kind),
        AnyKind::Tenant(TenantEventKind::WebhookPaused) => 32,
        AnyKind::Tenant(TenantEventKind::WebhookDisabled) => 33,
        AnyKind::Tenant(TenantEventKind::QuotaWarning) => 34,
        AnyKind::Tenant(TenantEventKind::DomainUpdated) => 35,
        AnyKind::Tenant(TenantEventKind::ComponentRolledBack) => 36,
        AnyKind::Tenant(TenantEventKind::ComponentFallback) => 37,
    }
}

pub(super) fn any_kind_from(code: i64) -> Option<AnyKind> {
    let of_tenant = || TenantEventKind::ALL.into_iter().map(AnyKind::from).find(|kind| any_kind_to(*kind) == code);
    kind_from(code).map(AnyKind::from).or_else(of_tenant)
}

pub(super) fn verdict_to(verdict: Verdict) -> i64 {
    match verdict {
        Verdict::Delivered => 1,
        Verdict::Deferred => 2,
        Verdict::Bounced => 3,
        Verdict::Failed => 4,
    }
}

pub(super) fn verdict_from(code: i64) -> Option<Verdict> {
    match code {
        1 => Some(Verdict::Delivered),
        2 => Some(Verdict::Deferred),
        3 => Some(Verdict::Bounced),
        4 => Some(Verdict::Failed),
        _ => None,
    }
}

pub(super) fn phase_to(phase: Phase) -> i64 {
    match phase {
        Phase::Route => 1,
        Phase::Connect => 2,
        Phase::Mail => 3,
        Phase::Recipient => 4,
        Phase::Data => 5,
        Phase::Local => 6,
    }
}

pub(super) fn phase_from(code: i64) -> Option<Phase> {
    match code {
        1 => Some(Phase::Route),
        2 => Some(Phase::Connect),
        3 => Some(Phase::Mail),
        4 => Some(Phase::Recipient),
        5 => Some(Phase::Data),
        6 => Some(Phase::Local),
        _ => None,
    }
}

/// `class.subject.detail` in one number; subject and detail are at most 999 (RFC 3463 s2).
pub(super) fn status_to(status: EnhancedCode) -> i64 {
    i64::from(status.class) * 1_000_000 + i64::from(status.subject.min(999)) * 1000 + i64::from(status.detail.min(999))
}

pub(super) fn status_from(code: i64) -> Option<EnhancedCode> {
    let class = u8::try_from(code / 1_000_000).ok()?;
    let subject = u16::try_from(code / 1000 % 1000).ok()?;
    let detail = u16::try_from(code % 1000).ok()?;
    Some(EnhancedCode::new(class, subject, detail))
}

pub(super) fn algorithm_to(algorithm: Algorithm) -> i64 {
    match algorithm {
        Algorithm::RsaSha256 => 1,
        Algorithm::Ed25519Sha256 => 2,
    }
}

pub(super) fn algorithm_from(code: i64) -> Option<Algorithm> {
    match code {
        1 => Some(Algorithm::RsaSha256),
        2 => Some(Algorithm::Ed25519Sha256),
        _ => None,
    }
}

/// Streams as they stand in rows.
pub(super) fn stream_to(stream: Stream) -> i64 {
    match stream {
        Stream::Transactional => 0,
        Stream::Broadcast => 1,
    }
}

/// The stream of a code.
pub(super) fn stream_from(code: i64) -> Stream {
    if code == 1 { Stream::Broadcast } else { Stream::Transactional }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_reads_back() {
        let kinds = (0..20).filter_map(kind_from).inspect(|kind| assert_eq!(kind_from(kind_to(*kind)), Some(*kind)));
        assert_eq!(kinds.count(), 9);
        let of_tenants = (32..63).filter_map(any_kind_from);
        let of_tenants = of_tenants.inspect(|kind| assert_eq!(any_kind_from(any_kind_to(*kind)), Some(*kind)));
        assert_eq!(of_tenants.count(), TenantEventKind::ALL.len());
        let verdicts = (0..20).filter_map(verdict_from).inspect(|v| assert_eq!(verdict_from(verdict_to(*v)), Some(*v)));
        assert_eq!(verdicts.count(), 4);
        let phases = (0..20).filter_map(phase_from).inspect(|p| assert_eq!(phase_from(phase_to(*p)), Some(*p)));
        assert_eq!(phases.count(), 6);
        let algorithms =
            (0..20).filter_map(algorithm_from).inspect(|a| assert_eq!(algorithm_from(algorithm_to(*a)), Some(*a)));
        assert_eq!(algorithms.count(), 2);
    }

    #[test]
    fn a_status_fits_one_number() {
        for status in [EnhancedCode::new(2, 0, 0), EnhancedCode::new(5, 7, 509), EnhancedCode::new(4, 999, 999)] {
            assert_eq!(status_from(status_to(status)), Some(status));
        }
        assert_eq!(status_from(-1), None);
    }
}
