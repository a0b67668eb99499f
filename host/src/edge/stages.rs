//! Calls of one tenant's components, for one request: which component gets a call, what follows when it fails.
//!
//! A request has one `TenantStages` from begin to end, and with it one set of components and one draw that says whether
//! a canary answers it.

use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use contract::{
    Acceptance, Finding, FindingClass, HttpRequest, Rendered, RendererInput, ShaperInput, Signatures, SignerInput,
    StageError, Transformed, TransformerInput, ValidatorInput, Wants,
};
use pipeline::attributes;
use tokio::time::timeout;

use super::call::{self, Answer as _, Call, Describe};
use super::component::{Compiled, Stage};
use super::confine::{self, Bounds, Role};
use super::instance::{Instance, Key};
use super::meter::{Meter, OverBudget};
use super::outbound::Outbound;
use super::set::{Part, Plan, Seat, Set, Trial};
use super::trial::Shadow;
use super::{Inner, Notice};
use crate::metrics::{Called, metrics};
use crate::store::OnFailure;

/// How long a call waits for one of its tenant's instances to be free.
const TURN: Duration = Duration::from_secs(10);

/// Characters of a refusal that are logged when a shadow answers otherwise.
const VERDICT_SHOWN: usize = 200;

/// Calls one tenant's components.
#[derive(Clone)]
pub struct TenantStages {
    edge: Arc<Inner>,
    tenant: Arc<str>,
    set: Arc<Set>,
    /// By stage: whether a canary answers.
    is_tried: [bool; 5],
    /// What its validators were found to want of the message. Kept where a shadow stands beside them.
    wanted: Option<Arc<OnceLock<Wants>>>,
}

/// A call under way.
type Asked<'a, T> = Pin<Box<dyn Future<Output = Result<T, StageError>> + Send + 'a>>;

/// Why a call has no answer.
enum Failure {
    /// The component's own fault.
    Component(String),
    /// The tenant has no instance or no share left, or the component is not to be had: not a fault of this version.
    Ours(String),
}

impl TenantStages {
    /// The tenant's components as they are now.
    pub(super) fn new(edge: Arc<Inner>, tenant: Arc<str>) -> TenantStages {
        let set = edge.library.set(&tenant);
        let draw = rand::random_range(0..100);
        // Asked once: a canary that ends meanwhile answers this request to its end.
        let is_tried = set.plans.each_ref().map(|plan| plan.is_tried(draw));
        let wanted = set.plan(Stage::Validator).shadow.as_ref().map(|_| Arc::default());
        TenantStages { edge, tenant, set, is_tried, wanted }
    }

    /// The components that get this request's calls of a stage, in order.
    fn seats(&self, stage: Stage) -> Vec<&Seat> {
        let plan = self.set.plan(stage);
        let list = match plan.canary.as_ref().filter(|_| self.is_tried[stage as usize]) {
            Some(trial) => &trial.list,
            None => &plan.own,
        };
        plan.always.iter().chain(list).map(Arc::as_ref).collect()
    }

    /// The answer of the one component of a stage.
    async fn ask_one<C: Call>(&self, call: C) -> Result<C::Answer, StageError> {
        let plan = self.set.plan(C::STAGE);
        match self.seats(C::STAGE).last() {
            Some(seat) => self.ask(plan, seat, &call).await,
            None => Err(StageError::Unavailable(format!("there is no {}", C::STAGE))),
        }
    }

    /// One bounded call, and what the tenant wants to follow when it fails, told in the log with the component's digest.
    // On the heap: it stands deep inside the futures of a request, which the compiler must lay out as one.
    fn ask<'a, C: Call>(&'a self, plan: &'a Plan, seat: &'a Seat, call: &'a C) -> Asked<'a, C::Answer> {
        Box::pin(self.try_ask(plan, seat, call))
    }

    async fn try_ask<C: Call>(&self, plan: &Plan, seat: &Seat, call: &C) -> Result<C::Answer, StageError> {
        let (asked, took) = self.attempt(plan, seat, call).await;
        self.watch(plan, seat, &asked, took);
        let Seat { name: component, slot, part, place, .. } = seat;
        let called = match &asked {
            Ok(Ok(_)) => Called::Answered,
            Ok(Err(StageError::Refused(_))) => Called::Refused,
            Ok(Err(StageError::Unavailable(_))) | Err(_) => Called::Failed,
        };
        metrics().stages.called(C::STAGE.name(), &slot.digest, called, took);
        let (failure, is_ours) = match asked {
            Ok(answer) => {
                if let Some(shadow) = shadow_of(plan, seat, self.is_tried[C::STAGE as usize]) {
                    self.shadow(shadow, call, &answer);
                }
                return answer;
            }
            Err(Failure::Component(why)) => (why, false),
            Err(Failure::Ours(why)) => (why, true),
        };
        let digest = &slot.digest;
        tracing::warn!(tenant = &*self.tenant, stage = %place, component, digest, failure, "a stage failed");
        let deferred = StageError::Unavailable(format!("{component} ({digest}): {failure}"));
        let on_failure = match part {
            Part::Own | Part::Canary if !is_ours => plan.on_failure,
            Part::Own | Part::Canary | Part::Always | Part::BuiltIn => OnFailure::Defer,
        };
        match on_failure {
            OnFailure::Defer => return Err(deferred),
            OnFailure::Reject => return Err(StageError::Refused(rejection(C::STAGE))),
            OnFailure::Fallback => {}
        }
        let (tenant, digest) = (self.tenant.to_string(), digest.clone());
        self.edge.tell(Notice::FellBack { tenant, place: *place, digest, why: failure });
        match &plan.fallback {
            Some(built_in) => match self.attempt(plan, built_in, call).await.0 {
                Ok(answer) => answer,
                Err(Failure::Component(_) | Failure::Ours(_)) => Err(deferred),
            },
            // The transformer has no built-in one: messages pass unchanged.
            None => C::Answer::untouched().ok_or(deferred),
        }
    }

    /// Counts a call where a canary is on trial, and ends the trial where it is bad.
    fn watch<T>(&self, plan: &Plan, seat: &Seat, asked: &Result<Result<T, StageError>, Failure>, took: Duration) {
        let Some(Trial { canary, instead_of, .. }) = &plan.canary else { return };
        let of_canary = match seat.part {
            Part::Canary => true,
            Part::Own | Part::BuiltIn if instead_of.is(seat) => false,
            Part::Own | Part::BuiltIn | Part::Always => return,
        };
        let failed = match asked {
            Ok(Ok(_) | Err(StageError::Refused(_))) => false,
            Ok(Err(StageError::Unavailable(_))) | Err(Failure::Component(_)) => true,
            Err(Failure::Ours(_)) => return,
        };
        if let Some(why) = canary.count(of_canary, failed, took) {
            let (tenant, digest, version) = (self.tenant.to_string(), canary.slot.digest.clone(), canary.version);
            tracing::warn!(tenant, digest, version, why, "a canary is taken back");
            self.edge.tell(Notice::CanaryOver { tenant, place: canary.place, version, digest, why });
        }
    }

    /// One call inside its limits, and the time it took once its turn had come.
    async fn attempt<C: Call>(
        &self,
        plan: &Plan,
        seat: &Seat,
        call: &C,
    ) -> (Result<Result<C::Answer, StageError>, Failure>, Duration) {
        let compiled = match seat.slot.ready(&self.edge.library.loader).await {
            Ok(compiled) => compiled,
            Err(why) => return (Err(Failure::Ours(why.to_string())), Duration::ZERO),
        };
        let turn = timeout(TURN, self.edge.shelf.turn(&self.tenant, C::STAGE, self.set.calls)).await;
        let Ok(Some(_turn)) = turn else {
            let why = format!("all its instances were busy for {} s", TURN.as_secs());
            return (Err(Failure::Ours(why)), Duration::ZERO);
        };
        let started = Instant::now();
        let key = Key { tenant: self.tenant.clone(), set: self.set.id, seat: seat.id };
        let is_of_tenant = seat.is_of_tenant;
        let meter = self.set.meter.as_deref().filter(|_| is_of_tenant);
        // What the operator chose for all runs under the limits for all.
        let bounds = if is_of_tenant { &self.set.bounds } else { &self.edge.stage_bounds };
        let idle = self.edge.shelf.take(&key);
        let outbound = || match plan.grants.as_ref().filter(|_| is_of_tenant) {
            Some(grants) => Outbound::granted(&self.tenant, grants),
            None => Outbound::none(&self.tenant),
        };
        // Others of this request may have asked for more.
        let narrowed = seat.wants.get().and_then(|wants| call.narrowed(wants));
        let call = narrowed.as_ref().unwrap_or(call);
        let asked = self.run(&compiled, idle, outbound, bounds, meter, call).await;
        let asked = asked.map(|(answer, instance)| {
            self.edge.shelf.put(key, instance);
            answer
        });
        (asked, started.elapsed())
    }

    /// A call to an instance, idle or new: the answer, and the instance where it may be used again.
    async fn run<C: Call>(
        &self,
        compiled: &Compiled,
        idle: Option<Instance>,
        outbound: impl FnOnce() -> Outbound,
        bounds: &Bounds,
        meter: Option<&Meter>,
        call: &C,
    ) -> Result<(Result<C::Answer, StageError>, Instance), Failure> {
        let asked = timeout(bounds.time, async {
            let mut instance = match idle {
                Some(mut instance) => {
                    confine::arm(&mut instance.store, bounds.time);
                    instance
                }
                None => {
                    let role = Role::Stage(self.edge.keys.clone());
                    let store = confine::store(&self.edge.engine, role, outbound(), bounds);
                    Instance::new(store, compiled, bounds).await?
                }
            };
            match call.ask(&mut instance).await {
                Ok(mut answer) => {
                    let fault = match &mut answer {
                        Ok(good) => call.fault(good, self.edge.sizes.stored_bytes(), meter).await,
                        Err(_) => None,
                    };
                    match fault {
                        None => Ok((answer, instance)),
                        Some(fault) => Err(fault),
                    }
                }
                Err(error) => Err(call::cause(&error, &instance, bounds)),
            }
        });
        let asked = match meter {
            Some(meter) => meter.run(asked).await.map_err(|OverBudget { percent }| {
                Failure::Ours(format!("its tenant's components used more than {percent} % of a core"))
            })?,
            None => asked.await,
        };
        let late = |_| Failure::Component(format!("it took longer than {} ms", bounds.time.as_millis()));
        let (answer, instance) = asked.map_err(late)?.map_err(Failure::Component)?;
        let said = instance.store.data().stderr.take();
        if !said.is_empty() {
            tracing::debug!(tenant = &*self.tenant, stage = C::STAGE.name(), said, "a stage wrote to stderr");
        }
        let excess = match &answer {
            Ok(good) => good.excess(),
            Err(error) => error.excess(),
        };
        match excess {
            None => Ok((answer, instance)),
            Some(excess) => Err(Failure::Component(excess)),
        }
    }

    /// Makes the same call to a shadow, in a task of its own, and compares. Not made where too many are under way.
    fn shadow<C: Call>(&self, shadow: &Arc<Shadow>, call: &C, answer: &Result<C::Answer, StageError>) {
        let Ok(permit) = self.edge.shadows.clone().try_acquire_owned() else {
            shadow.counts.skipped.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let (this, shadow, call, answer) = (self.clone(), shadow.clone(), call.clone(), answer.clone());
        tokio::spawn(async move {
            let _permit = permit;
            let asked = this.ask_shadow(&shadow, &call).await;
            let counts = &shadow.counts;
            let (tenant, stage) = (&*this.tenant, C::STAGE.name());
            let (digest, version) = (&shadow.slot.digest, shadow.version);
            match asked {
                Ok(found) if found == answer => {
                    counts.same.fetch_add(1, Ordering::Relaxed);
                }
                Ok(found) => {
                    counts.different.fetch_add(1, Ordering::Relaxed);
                    let (active, shadow) = (verdict(&answer), verdict(&found));
                    tracing::info!(tenant, stage, digest, version, active, shadow, "a shadow answers otherwise");
                }
                Err(Failure::Component(why)) => {
                    counts.failed.fetch_add(1, Ordering::Relaxed);
                    tracing::warn!(tenant, stage, digest, version, why, "a shadow failed");
                }
                Err(Failure::Ours(why)) => {
                    counts.skipped.fetch_add(1, Ordering::Relaxed);
                    tracing::debug!(tenant, stage, digest, version, why, "a shadow was not called");
                }
            }
        });
    }

    async fn ask_shadow<C: Call>(&self, shadow: &Shadow, call: &C) -> Result<Result<C::Answer, StageError>, Failure> {
        let compiled =
            shadow.slot.ready(&self.edge.library.loader).await.map_err(|why| Failure::Ours(why.to_string()))?;
        if !C::IS_DESCRIBED {
            return self.run_shadow(&compiled, call).await;
        }
        let wants = match shadow.wants.get() {
            Some(known) => known.clone(),
            None => match self.run_shadow(&compiled, &Describe).await? {
                Ok(wants) => shadow.wants.get_or_init(async || wants).await.clone(),
                Err(error) => return Ok(Err(error)),
            },
        };
        // It is not waited for where the message is read, so it has not seen the first as it wanted to.
        let wanted = self.wanted.as_ref().and_then(|wanted| wanted.get());
        if wanted.is_some_and(|wanted| union(wanted, &wants) != *wanted) {
            return Err(Failure::Ours("what it wants to see was not known yet".to_owned()));
        }
        self.run_shadow(&compiled, call.narrowed(&wants).as_ref().unwrap_or(call)).await
    }

    async fn run_shadow<C: Call>(
        &self,
        compiled: &Compiled,
        call: &C,
    ) -> Result<Result<C::Answer, StageError>, Failure> {
        // A shadow reaches nobody, whatever its stage may: what it does must not be seen.
        let outbound = || Outbound::none(&self.tenant);
        let meter = self.set.shadow_meter.as_deref();
        self.run(compiled, None, outbound, &self.set.bounds, meter, call).await.map(|(answer, _)| answer)
    }

    /// What a component of the validator's wants to see. Asked once for each; a failure is not remembered, nor is what
    /// another component answers in its place.
    async fn wants(&self, plan: &Plan, seat: &Seat) -> Result<Wants, StageError> {
        if let Some(known) = seat.wants.get() {
            return Ok(known.clone());
        }
        if let (Ok(Ok(wants)), _) = self.attempt(plan, seat, &Describe).await {
            let _ = seat.wants.set(wants.clone());
            return Ok(wants);
        }
        // Asked again: its failure is counted, and has the consequence that the tenant chose.
        self.ask(plan, seat, &Describe).await
    }

    /// Shapes and signs the request of an event.
    pub(super) async fn shape(&self, input: ShaperInput) -> Result<HttpRequest, StageError> {
        self.ask_one(input).await
    }
}

/// The shadow that the answer of this component is compared with, where there is one. `is_tried`: a canary gets the
/// request, and with it the shadow of its position.
fn shadow_of<'a>(plan: &'a Plan, seat: &Seat, is_tried: bool) -> Option<&'a Arc<Shadow>> {
    let (shadow, beside) = plan.shadow.as_ref()?;
    let is_of_canary = || plan.canary.as_ref().is_some_and(|trial| trial.canary.place == shadow.place);
    let is_beside = match seat.part {
        Part::Own | Part::BuiltIn => beside.is(seat) && !(is_tried && is_of_canary()),
        Part::Canary => is_of_canary(),
        Part::Always => false,
    };
    is_beside.then_some(shadow)
}

/// What one of two wants to see.
fn union(one: &Wants, other: &Wants) -> Wants {
    Wants { text: one.text | other.text, html: one.html | other.html, raw: one.raw | other.raw }
}

/// The refusal of a message whose stage failed, where the tenant wants that.
fn rejection(stage: Stage) -> Finding {
    Finding {
        class: FindingClass::Policy,
        text: format!("the account's {stage} could not be run, and its messages are not sent without it"),
        // RFC 3463 s3.8: security or policy status.
        status: Some("5.7.0".to_owned()),
        field: None,
        position: None,
    }
}

/// An answer in short, for the log.
fn verdict<T>(answer: &Result<T, StageError>) -> String {
    match answer {
        Ok(_) => "a good answer".to_owned(),
        Err(StageError::Refused(finding)) => {
            let text: String = finding.text.chars().take(VERDICT_SHOWN).collect();
            format!("refused: {}", text.escape_debug())
        }
        Err(StageError::Unavailable(_)) => "unavailable".to_owned(),
    }
}

impl pipeline::Stages for TenantStages {
    async fn render(&self, input: RendererInput) -> Result<Rendered, StageError> {
        self.ask_one(input).await
    }

    /// What any of its validators wants to see; each is shown what it asked for.
    async fn describe_validator(&self) -> Result<Wants, StageError> {
        let plan = self.set.plan(Stage::Validator);
        let mut all = Wants::default();
        for seat in self.seats(Stage::Validator) {
            all = union(&all, &self.wants(plan, seat).await?);
        }
        if let (Some(wanted), Some((shadow, _))) = (&self.wanted, &plan.shadow) {
            all = union(&all, shadow.wants.get().unwrap_or(&Wants::default()));
            let _ = wanted.set(all.clone());
        }
        Ok(all)
    }

    /// Each of its validators in order, until one refuses.
    async fn validate(&self, mut input: ValidatorInput) -> Result<Acceptance, StageError> {
        let plan = self.set.plan(Stage::Validator);
        let seats = self.seats(Stage::Validator);
        if let [one] = seats.as_slice() {
            return self.ask(plan, one, &input).await;
        }
        let mut all = Acceptance::default();
        for seat in seats {
            let Acceptance { warnings, attributes } = self.ask(plan, seat, &input).await?;
            attributes::merge(&mut input.attributes, attributes.clone());
            attributes::merge(&mut all.attributes, attributes);
            all.warnings.extend(warnings);
        }
        Ok(all)
    }

    fn transforms(&self) -> bool {
        !self.seats(Stage::Transformer).is_empty()
    }

    /// Each of its transformers in order: what one made is given to the next.
    async fn transform(&self, mut input: TransformerInput) -> Result<Transformed, StageError> {
        let plan = self.set.plan(Stage::Transformer);
        let seats = self.seats(Stage::Transformer);
        if let [one] = seats.as_slice() {
            return self.ask(plan, one, &input).await;
        }
        let mut all = Transformed::default();
        for seat in seats {
            let Transformed { message, warnings, attributes } = self.ask(plan, seat, &input).await?;
            if let Some(message) = message {
                input.message.clone_from(&message);
                all.message = Some(message);
            }
            attributes::merge(&mut input.attributes, attributes.clone());
            attributes::merge(&mut all.attributes, attributes);
            all.warnings.extend(warnings);
        }
        Ok(all)
    }

    async fn sign(&self, input: SignerInput) -> Result<Signatures, StageError> {
        self.ask_one(input).await
    }
}
