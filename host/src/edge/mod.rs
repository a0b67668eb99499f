//! The WASM side: serves HTTP triggers, answers their imports, runs the tenants' stages inside limits.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use contract::{
    Acceptance, Rendered, RendererInput, Signatures, SignerInput, StageError, Transformed, TransformerInput,
    ValidatorInput, Wants,
};
use http::{Request, Response};

/// Answers a trigger's outgoing requests in-process: the delivery API and the rest of the sending API.
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    /// Answers one request of the trigger that serves `tenant` (known once the key is checked).
    async fn answer(&self, request: Request<Bytes>) -> Answer;
}

/// An answer, and what it says about the instance that asked.
pub struct Answer {
    pub response: Response<Bytes>,
    /// The tenant whose key was just checked (`POST auth`).
    pub tenant: Option<String>,
}

/// The engine and everything compiled.
pub struct Edge;

impl Edge {
    /// Serves a request with a fresh instance of `submit`.
    pub async fn serve(&self, request: Request<Bytes>) -> Response<Bytes> {
        let _ = request;
        todo!()
    }

    /// The stages of a tenant, to be called by the host itself (SMTP).
    pub fn stages(self: &Arc<Self>, tenant: &str) -> TenantStages {
        TenantStages { edge: self.clone(), tenant: tenant.to_owned() }
    }
}

/// Calls one tenant's components.
pub struct TenantStages {
    edge: Arc<Edge>,
    tenant: String,
}

impl pipeline::Stages for TenantStages {
    async fn render(&self, _input: RendererInput) -> Result<Rendered, StageError> {
        let _ = (&self.edge, &self.tenant);
        todo!()
    }

    async fn describe_validator(&self) -> Result<Wants, StageError> {
        todo!()
    }

    async fn validate(&self, _input: ValidatorInput) -> Result<Acceptance, StageError> {
        todo!()
    }

    async fn transform(&self, _input: TransformerInput) -> Result<Transformed, StageError> {
        todo!()
    }

    async fn sign(&self, _input: SignerInput) -> Result<Signatures, StageError> {
        todo!()
    }
}
