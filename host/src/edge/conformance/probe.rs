//! One instance of a component on the road, with everything it answers written down.
//!
//! The stage under test is the component; the other stages let every message pass.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use contract::{
    Acceptance, Algorithm, HttpRequest, Identity, KeyError, Rendered, RendererInput, ShaperInput, Signatures,
    SignerInput, StageError, Transformed, TransformerInput, ValidatorInput, Wants,
};
use pipeline::Stages;
use tokio::time::timeout;
use wasmtime::Engine;

use super::rules;
use crate::edge::Keys;
use crate::edge::call::{self, Answer as _, Call, Describe};
use crate::edge::component::{Compiled, Stage};
use crate::edge::confine::{self, Bounds, Role};
use crate::edge::instance::Instance;
use crate::edge::outbound::Outbound;

/// What the component is told that it works for.
const TENANT: &str = "conformance";

/// The essence of no answer.
pub const NOT_ANSWERED: &[u8] = b"not answered";

/// What is expected of every answer.
pub const AS_PROMISED: &str = "an answer as the stage's interface promises it";

/// What is wrong with a component, in words for its author.
pub fn wrong(expected: &str, given: &str) -> String {
    format!("expected {expected}, but {given}")
}

fn within(what: &str, bounds: &Bounds) -> String {
    format!("{what} within {} ms and {} bytes of memory", bounds.time.as_millis(), bounds.memory_bytes)
}

/// What was said since it was asked for last.
#[derive(Default)]
pub struct Asked {
    /// What is wrong, where something is.
    pub fault: Option<String>,
    /// Whether it answered, and how. The last call counts.
    pub said: Option<Result<(), StageError>>,
    /// Of the answer, what must be the same every time.
    pub essence: Vec<u8>,
}

/// A live instance, asked by the road.
pub struct Probe {
    stage: Stage,
    bounds: Bounds,
    state: tokio::sync::Mutex<State>,
}

struct State {
    /// `None` after a failure: it is dead.
    instance: Option<Instance>,
    asked: Asked,
    spent: Duration,
    memory_bytes: usize,
}

impl Probe {
    /// Makes an instance, in time and within its memory.
    pub async fn start(
        engine: &Engine,
        compiled: &Compiled,
        stage: Stage,
        bounds: &Bounds,
        ring: Arc<Ring>,
    ) -> Result<Probe, String> {
        let store = confine::store(engine, Role::Stage(ring), Outbound::none(&TENANT.into()), bounds);
        let made = timeout(bounds.time, Instance::new(store, compiled, bounds)).await;
        let late = |_| format!("it took longer than {} ms to be instantiated", bounds.time.as_millis());
        let instance = made.map_err(late).flatten().map_err(|given| wrong(&within("an instance", bounds), &given))?;
        let memory_bytes = instance.store.data().usage.memory;
        let state = State { instance: Some(instance), asked: Asked::default(), spent: Duration::ZERO, memory_bytes };
        Ok(Probe { stage, bounds: *bounds, state: tokio::sync::Mutex::new(state) })
    }

    /// Takes what was said.
    pub async fn asked(&self) -> Asked {
        std::mem::take(&mut self.state.lock().await.asked)
    }

    /// Takes the time spent in calls.
    pub async fn spent(&self) -> Duration {
        std::mem::take(&mut self.state.lock().await.spent)
    }

    /// The most memory so far.
    pub async fn memory_bytes(&self) -> usize {
        self.state.lock().await.memory_bytes
    }

    /// Shapes an event.
    pub async fn shape(&self, input: ShaperInput) -> Result<HttpRequest, StageError> {
        self.ask(&input, rules::shaped, |request| request.body.clone()).await
    }

    /// One bounded call, written down. `rule` says what is wrong with an answer; `essence` is what must not change.
    async fn ask<C: Call>(
        &self,
        question: &C,
        rule: impl Fn(&C::Answer) -> Option<String>,
        essence: impl Fn(&C::Answer) -> Vec<u8>,
    ) -> Result<C::Answer, StageError> {
        let mut state = self.state.lock().await;
        let Some(mut instance) = state.instance.take() else {
            return Err(StageError::Unavailable("it failed before".to_owned()));
        };
        let time = self.bounds.time;
        let failed = |given: &str| wrong(&within("an answer", &self.bounds), given);
        confine::arm(&mut instance.store, time);
        let started = Instant::now();
        let answered = timeout(time, question.ask(&mut instance)).await;
        state.spent += started.elapsed();
        state.memory_bytes = state.memory_bytes.max(instance.store.data().usage.memory);
        let answer = match answered {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return state.fail(failed(&call::cause(&error, &instance, &self.bounds))),
            Err(_) => return state.fail(failed(&format!("it took longer than {} ms", time.as_millis()))),
        };
        let fault = match &answer {
            Ok(good) => good.excess().or_else(|| rule(good)),
            Err(error) => error.excess(),
        };
        if let Some(given) = fault {
            return state.fail(wrong(AS_PROMISED, &given));
        }
        state.instance = Some(instance);
        state.asked.essence = match &answer {
            Ok(good) => essence(good),
            Err(_) => NOT_ANSWERED.to_vec(),
        };
        state.asked.said = Some(answer.as_ref().map(|_| ()).map_err(Clone::clone));
        answer
    }
}

impl State {
    fn fail<T>(&mut self, fault: String) -> Result<T, StageError> {
        self.asked.fault.get_or_insert(fault);
        Err(StageError::Unavailable("it failed".to_owned()))
    }
}

impl Stages for Probe {
    async fn render(&self, input: RendererInput) -> Result<Rendered, StageError> {
        let rule = |rendered: &Rendered| rules::rendered(&input, rendered);
        let essence = |rendered: &Rendered| format!("{rendered:?}").into_bytes();
        self.ask(&input, rule, essence).await
    }

    async fn describe_validator(&self) -> Result<Wants, StageError> {
        match self.stage {
            Stage::Validator => self.ask(&Describe, |_| None, |wants| format!("{wants:?}").into_bytes()).await,
            _ => Ok(Wants::default()),
        }
    }

    async fn validate(&self, input: ValidatorInput) -> Result<Acceptance, StageError> {
        match self.stage {
            Stage::Validator => self.ask(&input, |_| None, |_| Vec::new()).await,
            _ => Ok(Acceptance::default()),
        }
    }

    async fn transform(&self, input: TransformerInput) -> Result<Transformed, StageError> {
        match self.stage {
            Stage::Transformer => self.ask(&input, |_| None, |_| Vec::new()).await,
            _ => Ok(Transformed::default()),
        }
    }

    async fn sign(&self, input: SignerInput) -> Result<Signatures, StageError> {
        match self.stage {
            Stage::Signer => self.ask(&input, |_| None, |_| Vec::new()).await,
            _ => Ok(Signatures::default()),
        }
    }
}

/// What the keeper of the keys does in a case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyState {
    /// An RSA and an Ed25519 key for every domain.
    #[default]
    Ready,
    /// No key for any domain.
    Missing,
    /// Identities of keys that are gone when they are used.
    Withdrawn,
    /// No answer.
    Unavailable,
}

/// A keeper of keys that are none: its signatures have the right length and verify nowhere.
pub struct Ring {
    keys: KeyState,
    has_failed: AtomicBool,
    misuse: Mutex<Option<String>>,
}

/// Bytes of a SHA-256 digest.
const DIGEST_BYTES: usize = 32;

impl Ring {
    pub fn new(keys: KeyState) -> Ring {
        Ring { keys, has_failed: AtomicBool::new(false), misuse: Mutex::default() }
    }

    /// What the signer did wrong with the keys.
    pub fn misuse(&self) -> Option<String> {
        self.misuse.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn fail<T>(&self, error: KeyError) -> Result<T, KeyError> {
        self.has_failed.store(true, Ordering::Relaxed);
        Err(error)
    }

    /// Whether a key that was asked for failed since this was asked last.
    pub fn has_failed(&self) -> bool {
        self.has_failed.swap(false, Ordering::Relaxed)
    }
}

#[async_trait]
impl Keys for Ring {
    async fn identities(&self, _: &str, domain: &str) -> Result<Vec<Identity>, KeyError> {
        let identity = |algorithm, name: &str| Identity {
            domain: domain.to_owned(),
            selector: format!("conformance-{name}"),
            algorithm,
            key_id: name.to_owned(),
        };
        match self.keys {
            KeyState::Missing => Ok(Vec::new()),
            KeyState::Unavailable => self.fail(KeyError::Unavailable("the keys are locked".to_owned())),
            KeyState::Ready | KeyState::Withdrawn => {
                Ok(vec![identity(Algorithm::RsaSha256, "rsa"), identity(Algorithm::Ed25519Sha256, "ed25519")])
            }
        }
    }

    async fn sign_digest(&self, _: &str, key_id: &str, digest: &[u8]) -> Result<Vec<u8>, KeyError> {
        if digest.len() != DIGEST_BYTES {
            let text = format!("it gave `sign-digest` {} bytes: a SHA-256 digest has 32", digest.len());
            self.misuse.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(text.clone());
            return self.fail(KeyError::Unavailable(text));
        }
        if self.keys != KeyState::Ready {
            return self.fail(KeyError::UnknownKey(key_id.to_owned()));
        }
        match key_id {
            "rsa" => Ok(digest.repeat(8)),
            "ed25519" => Ok(digest.repeat(2)),
            _ => self.fail(KeyError::UnknownKey(key_id.to_owned())),
        }
    }
}
