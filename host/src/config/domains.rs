//! `[domains]`: the DNS records of sending domains.

use std::time::Duration;

use mail::Domain;

use super::load::section;
use super::reader::{Context, Reader};

/// What is asked of the records of sending domains, and how often they are looked at.
#[derive(Clone, Debug)]
pub struct DomainRules {
    /// Between two looks at the records of a domain where all is well.
    pub check_every: Duration,
    /// The least time between two looks where something is awaited or wrong.
    pub check_pending_every: Duration,
    pub return_path_target: Option<Domain>,
    pub tracking_target: Option<Domain>,
}

/// More often would be a burden to the name servers of others.
const LEAST: Duration = Duration::from_secs(60);

pub(super) fn domains(context: &mut Context<'_, '_>, top: &Reader<'_, '_>) -> Option<DomainRules> {
    let section = section(context, top, "domains");
    let every: Option<Duration> = section.get(context, "check_every");
    let pending: Option<Duration> = section.get(context, "check_pending_every");
    for (name, value) in [("check_every", every), ("check_pending_every", pending)] {
        if let Some((span, _)) = section.raw(name).filter(|_| value.is_some_and(|value| value < LEAST)) {
            context.faults.add(span, format!("domains.{name} must be at least 1m"));
        }
    }
    if let (Some(every), Some(pending)) = (every, pending)
        && let Some((span, _)) = section.raw("check_every").or_else(|| section.raw("check_pending_every"))
        && pending > every
    {
        context.faults.add(span, "domains.check_every must be at least domains.check_pending_every");
    }
    let return_path_target = section.get(context, "return_path_target");
    let tracking_target = section.get(context, "tracking_target");
    Some(DomainRules { check_every: every?, check_pending_every: pending?, return_path_target, tracking_target })
}
