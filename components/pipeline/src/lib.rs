//! The order of the stages, once, for every road into the service.
//!
//! `run` takes a submission from "parsed" to "ready to be accepted": render, compose, validate, transform, sign.
//! The sending API runs it with its WIT imports for stages; the host's SMTP side runs it with calls into the tenant's
//! components. What each stage error becomes for the sender (HTTP status, SMTP reply) stands in `refusal` alone.

pub mod attributes;
pub mod promises;
mod raw;
pub mod refusal;
mod road;
mod signatures;

use std::future::Future;

use contract::{
    Acceptance, Attributes, Rendered, RendererInput, Signatures, SignerInput, StageError, Transformed,
    TransformerInput, ValidatorInput, Wants,
};
use mail::Envelope;
use mail::compose::Draft;

pub use refusal::Refusal;
pub use road::{run, sign};

/// The swappable stages, as the road calls them. One implementation per side: WIT imports at an edge, component
/// calls in the host. Each does what the WIT interface of the same name promises.
pub trait Stages: Sync {
    fn render(&self, input: RendererInput) -> impl Future<Output = Result<Rendered, StageError>> + Send;
    fn describe_validator(&self) -> impl Future<Output = Result<Wants, StageError>> + Send;
    fn validate(&self, input: ValidatorInput) -> impl Future<Output = Result<Acceptance, StageError>> + Send;
    /// Whether `transform` may do anything. Where it cannot, a message is not copied for it.
    fn transforms(&self) -> bool {
        true
    }
    fn transform(&self, input: TransformerInput) -> impl Future<Output = Result<Transformed, StageError>> + Send;
    fn sign(&self, input: SignerInput) -> impl Future<Output = Result<Signatures, StageError>> + Send;
}

/// A submission, parsed and checked by the road it came on.
#[derive(Clone, Debug)]
pub struct Submission {
    pub envelope: Envelope,
    pub content: Content,
    pub attributes: Attributes,
    pub limits: Limits,
    /// Seconds since 1970.
    pub now_s: u64,
}

/// What a message is made of.
#[derive(Clone, Debug)]
pub enum Content {
    /// Fields to compose a message of; a template fills subject, HTML and text first.
    Draft { draft: Box<Draft>, template: Option<RendererInput> },
    /// A whole message, CRLF line ends (SMTP). Date and Message-ID are added where they lack, Bcc is removed and
    /// 8-bit bodies are made 7-bit, unless its sender has signed it: then not a byte is changed.
    Raw {
        message: Vec<u8>,
        /// For the Message-ID where it lacks one, with angle brackets.
        message_id: String,
        /// Trace fields to put on top (`Received: …`), without CRLF at the end.
        trace: Vec<String>,
    },
}

/// What the tenant may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub message_bytes: u64,
    pub recipients: usize,
}

/// A message ready to be accepted.
#[derive(Clone, Debug)]
pub struct Ready {
    pub envelope: Envelope,
    /// RFC 5322, CRLF, signatures in front.
    pub message: Vec<u8>,
    pub attributes: Attributes,
    /// From validators and transformers, for the sender.
    pub warnings: Vec<String>,
    /// Whether a signature of ours was put in front.
    pub signed: bool,
}
