//! The stages as native calls, and a recorder of what the road calls them with.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use contract::{
    Acceptance, Rendered, RendererInput, Signatures, SignerInput, StageError, Transformed, TransformerInput,
    ValidatorInput, Wants,
};
use http::{Request, Response, StatusCode};
use pipeline::Stages;
use posthaste::edge::{Answer, Backend};

use super::Inputs;
use super::keys::NativeKeys;

/// The Rust of the built-in components, called directly.
pub struct Native {
    keys: Arc<NativeKeys>,
}

impl Native {
    pub fn new(keys: Arc<NativeKeys>) -> Native {
        Native { keys }
    }
}

impl Stages for Native {
    async fn render(&self, input: RendererInput) -> Result<Rendered, StageError> {
        render::render(input).map_err(StageError::Refused)
    }

    async fn describe_validator(&self) -> Result<Wants, StageError> {
        Ok(Wants::default())
    }

    async fn validate(&self, input: ValidatorInput) -> Result<Acceptance, StageError> {
        validate::validate(&input).map_err(StageError::Refused)
    }

    async fn transform(&self, _input: TransformerInput) -> Result<Transformed, StageError> {
        Ok(Transformed::default())
    }

    async fn sign(&self, input: SignerInput) -> Result<Signatures, StageError> {
        sign::sign(&*self.keys, &input)
    }
}

/// Passes calls on and remembers what they were given.
pub struct Recorder<'a> {
    inner: &'a Native,
    render: Mutex<Option<RendererInput>>,
    validate: Mutex<Option<ValidatorInput>>,
    sign: Mutex<Option<SignerInput>>,
}

impl<'a> Recorder<'a> {
    pub fn new(inner: &'a Native) -> Recorder<'a> {
        Recorder { inner, render: Mutex::default(), validate: Mutex::default(), sign: Mutex::default() }
    }

    /// One input of each, where each was called.
    pub fn inputs(self) -> Option<Inputs> {
        Some(Inputs { render: take(self.render)?, validate: take(self.validate)?, sign: take(self.sign)? })
    }
}

fn take<T>(slot: Mutex<Option<T>>) -> Option<T> {
    slot.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn put<T>(slot: &Mutex<Option<T>>, value: T) {
    *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
}

impl Stages for Recorder<'_> {
    async fn render(&self, input: RendererInput) -> Result<Rendered, StageError> {
        put(&self.render, input.clone());
        self.inner.render(input).await
    }

    async fn describe_validator(&self) -> Result<Wants, StageError> {
        self.inner.describe_validator().await
    }

    async fn validate(&self, input: ValidatorInput) -> Result<Acceptance, StageError> {
        put(&self.validate, input.clone());
        self.inner.validate(input).await
    }

    async fn transform(&self, input: TransformerInput) -> Result<Transformed, StageError> {
        self.inner.transform(input).await
    }

    async fn sign(&self, input: SignerInput) -> Result<Signatures, StageError> {
        put(&self.sign, input.clone());
        self.inner.sign(input).await
    }
}

/// Stages make no requests, so nobody asks it.
pub struct NoBackend;

#[async_trait]
impl Backend for NoBackend {
    async fn answer(&self, _request: Request<Bytes>) -> Answer {
        let mut response = Response::new(Bytes::new());
        *response.status_mut() = StatusCode::NOT_FOUND;
        Answer { response, tenant: None }
    }
}
