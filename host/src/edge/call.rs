//! One call of a stage, bounded: what may go wrong becomes `unavailable` with the reason for the log.

use std::time::Instant;

use contract::{
    Acceptance, Attributes, CHECK_ATTRIBUTE, HttpRequest, Rendered, RendererInput, ShaperInput, Signatures,
    SignerInput, StageError, Transformed, TransformerInput, ValidatorInput, Wants,
};
use pipeline::attributes::{COUNT, NAME_BYTES, VALUE_BYTES};
use pipeline::promises;
use wasmtime::Trap;

use super::component::Stage;
use super::confine::{Bounds, Guest};
use super::conformance::rules;
use super::instance::{Exports, Instance};
use super::meter::Meter;

/// Promised in `posthaste:signer`.
const SIGNATURE_BYTES: usize = 16 << 10;
/// Promised in `posthaste:renderer`.
const RENDERED_BYTES: usize = 5 << 20;
/// Promised in `posthaste:shaper`, and header fields as far as servers take them.
const SHAPED_BYTES: usize = 256 << 10;
const SHAPED_HEADER_BYTES: usize = 32 << 10;
/// All warnings of one answer; of them 16 are shown.
const WARNING_BYTES: usize = 64 << 10;
/// Of a refusal or an `unavailable`; 1 KiB of the text is shown.
const ERROR_BYTES: usize = 64 << 10;
/// Messages up to this size are read through on the reactor: that takes less time than to hand them to another thread and back.
const READ_HERE_BYTES: usize = 256 << 10;
/// How the engine's words begin where an answer, or what was handed to the host, is over `output_bytes`.
const TOO_MUCH: &str = "too much data is being copied";
/// What the log shows of a guest's stderr.
const STDERR_SHOWN: usize = 400;

type Called<T> = wasmtime::Result<Result<T, StageError>>;

/// A question to a stage, with the answer it gets.
pub trait Call: Clone + Send + Sync + 'static {
    const STAGE: Stage;
    type Answer: Answer + Clone + PartialEq + Send + Sync + 'static;

    /// Asks a live instance. `Err`: the instance is dead.
    fn ask(&self, instance: &mut Instance) -> impl Future<Output = Called<Self::Answer>> + Send;

    /// What is wrong with the answer to this question, in words for the component's author. `message_bytes`: the most that a
    /// message may have. `meter`: whose account it is on, as the answer's size is what the component chose.
    fn fault(
        &self,
        _answer: &mut Self::Answer,
        _message_bytes: u64,
        _meter: Option<&Meter>,
    ) -> impl Future<Output = Option<String>> + Send {
        std::future::ready(None)
    }

    /// Whether its component says what of it is to be shown.
    const IS_DESCRIBED: bool = false;

    /// The question for a component that asked to see this: without what it did not ask for. `None`: as it is.
    fn narrowed(&self, _wants: &Wants) -> Option<Self> {
        None
    }
}

/// An answer that has limits.
pub trait Answer {
    /// What is over a promised limit, in words for the component's author.
    fn excess(&self) -> Option<String>;

    /// The answer of a stage that does nothing, where that is one.
    fn untouched() -> Option<Self>
    where
        Self: Sized,
    {
        None
    }
}

/// What a validator wants to see.
#[derive(Clone, Copy)]
pub struct Describe;

fn mismatch<T>() -> Called<T> {
    Err(wasmtime::Error::msg("the instance is of another stage"))
}

impl Call for Describe {
    const STAGE: Stage = Stage::Validator;
    type Answer = Wants;

    async fn ask(&self, instance: &mut Instance) -> Called<Wants> {
        let Exports::Validator(stage) = &instance.exports else { return mismatch() };
        stage.posthaste_validator_validator().call_describe(&mut instance.store).await
    }
}

impl Call for ValidatorInput {
    const STAGE: Stage = Stage::Validator;
    type Answer = Acceptance;

    async fn ask(&self, instance: &mut Instance) -> Called<Acceptance> {
        let Exports::Validator(stage) = &instance.exports else { return mismatch() };
        stage.posthaste_validator_validator().call_validate(&mut instance.store, self).await
    }

    const IS_DESCRIBED: bool = true;

    fn narrowed(&self, wants: &Wants) -> Option<ValidatorInput> {
        let Wants { text, html, raw } = *wants;
        let fits = (text || self.text.is_none()) && (html || self.html.is_none()) && (raw || self.raw.is_none());
        // What is left out is not copied: it may be the whole message.
        (!fits).then(|| ValidatorInput {
            envelope: self.envelope.clone(),
            headers: self.headers.clone(),
            parts: self.parts.clone(),
            size_bytes: self.size_bytes,
            text: self.text.as_ref().filter(|_| text).cloned(),
            html: self.html.as_ref().filter(|_| html).cloned(),
            raw: self.raw.as_ref().filter(|_| raw).cloned(),
            sender_domain: self.sender_domain.clone(),
            recipient_domains: self.recipient_domains.clone(),
            attributes: self.attributes.clone(),
        })
    }
}

impl Call for RendererInput {
    const STAGE: Stage = Stage::Renderer;
    type Answer = Rendered;

    async fn ask(&self, instance: &mut Instance) -> Called<Rendered> {
        let Exports::Renderer(stage) = &instance.exports else { return mismatch() };
        stage.posthaste_renderer_renderer().call_render(&mut instance.store, self).await
    }

    async fn fault(&self, answer: &mut Rendered, _message_bytes: u64, _meter: Option<&Meter>) -> Option<String> {
        // What is only checked makes no message.
        let is_check = self.attributes.iter().any(|(name, _)| name == CHECK_ATTRIBUTE);
        promises::rendered(self.subject.is_some(), answer).filter(|_| !is_check).map(str::to_owned)
    }
}

impl Call for TransformerInput {
    const STAGE: Stage = Stage::Transformer;
    type Answer = Transformed;

    async fn ask(&self, instance: &mut Instance) -> Called<Transformed> {
        let Exports::Transformer(stage) = &instance.exports else { return mismatch() };
        stage.posthaste_transformer_transformer().call_transform(&mut instance.store, self).await
    }

    /// Here and not at the end of the road alone: the next transformer must not pay for what this one made.
    async fn fault(&self, answer: &mut Transformed, message_bytes: u64, meter: Option<&Meter>) -> Option<String> {
        let message = answer.message.as_deref()?;
        // Before it is read through.
        let bytes = message.len();
        if bytes as u64 > message_bytes {
            return Some(format!("its message has {bytes} bytes: at most {message_bytes} are allowed"));
        }
        if bytes <= READ_HERE_BYTES {
            return promises::transformed(message).err();
        }
        let message = answer.message.take()?;
        let reading = tokio::task::spawn_blocking(move || {
            let started = Instant::now();
            let fault = promises::transformed(&message).err();
            (message, fault, started.elapsed())
        });
        match reading.await {
            Ok((message, fault, took)) => {
                answer.message = Some(message);
                if let Some(meter) = meter {
                    meter.spend(took);
                }
                fault
            }
            Err(error) => Some(format!("its message could not be read: {error}")),
        }
    }
}

impl Call for SignerInput {
    const STAGE: Stage = Stage::Signer;
    type Answer = Signatures;

    async fn ask(&self, instance: &mut Instance) -> Called<Signatures> {
        let Exports::Signer(stage) = &instance.exports else { return mismatch() };
        stage.posthaste_signer_signer().call_sign(&mut instance.store, self).await
    }

    async fn fault(&self, answer: &mut Signatures, _message_bytes: u64, _meter: Option<&Meter>) -> Option<String> {
        promises::signed(answer)
    }
}

impl Call for ShaperInput {
    const STAGE: Stage = Stage::Shaper;
    type Answer = HttpRequest;

    async fn ask(&self, instance: &mut Instance) -> Called<HttpRequest> {
        let Exports::Shaper(stage) = &instance.exports else { return mismatch() };
        stage.posthaste_shaper_shaper().call_shape(&mut instance.store, self).await
    }

    async fn fault(&self, answer: &mut HttpRequest, _message_bytes: u64, _meter: Option<&Meter>) -> Option<String> {
        rules::unsendable(answer)
    }
}

impl Answer for Wants {
    fn excess(&self) -> Option<String> {
        None
    }
}

impl Answer for Acceptance {
    fn excess(&self) -> Option<String> {
        warnings_excess(&self.warnings).or_else(|| attributes_excess(&self.attributes))
    }
}

impl Answer for Rendered {
    fn excess(&self) -> Option<String> {
        let bytes = [&self.subject, &self.html, &self.text].into_iter().flatten().map(String::len).sum();
        over("the rendered texts", bytes, RENDERED_BYTES)
            .or_else(|| warnings_excess(&self.warnings))
            .or_else(|| attributes_excess(&self.attributes))
    }
}

impl Answer for Transformed {
    /// The message itself is under the bound of every answer; the tenant's limit is checked by the road.
    fn excess(&self) -> Option<String> {
        warnings_excess(&self.warnings).or_else(|| attributes_excess(&self.attributes))
    }

    fn untouched() -> Option<Transformed> {
        Some(Transformed::default())
    }
}

impl Answer for Signatures {
    fn excess(&self) -> Option<String> {
        let bytes = self.headers.iter().map(|header| header.name.len() + header.value.len()).sum();
        over("the signature fields", bytes, SIGNATURE_BYTES).or_else(|| attributes_excess(&self.attributes))
    }
}

impl Answer for HttpRequest {
    fn excess(&self) -> Option<String> {
        let header =
            self.method.len() + self.headers.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
        over("the octets of the body", self.body.len(), SHAPED_BYTES)
            .or_else(|| over("the header fields", header, SHAPED_HEADER_BYTES))
    }
}

impl Answer for StageError {
    fn excess(&self) -> Option<String> {
        let bytes = match self {
            StageError::Refused(finding) => {
                finding.text.len()
                    + finding.status.as_ref().map_or(0, String::len)
                    + finding.field.as_ref().map_or(0, String::len)
            }
            StageError::Unavailable(text) => text.len(),
        };
        over("the text of the error", bytes, ERROR_BYTES)
    }
}

fn over(what: &str, bytes: usize, limit: usize) -> Option<String> {
    (bytes > limit).then(|| format!("{what} have {bytes} bytes: at most {limit} are allowed"))
}

fn warnings_excess(warnings: &[String]) -> Option<String> {
    over("the warnings", warnings.iter().map(String::len).sum(), WARNING_BYTES)
}

fn attributes_excess(attributes: &Attributes) -> Option<String> {
    if attributes.len() > COUNT {
        return Some(format!("it returned {} attributes: at most {COUNT} are allowed", attributes.len()));
    }
    attributes.iter().find_map(|(name, value)| {
        over("the name of an attribute", name.len(), NAME_BYTES)
            .or_else(|| over("the value of an attribute", value.len(), VALUE_BYTES))
    })
}

/// The limit that an instance which failed went over, with its size; `None` where it failed of something else.
pub fn over_limit(error: &wasmtime::Error, guest: &Guest, bounds: &Bounds) -> Option<String> {
    let Bounds { time, memory_bytes, output_bytes } = bounds;
    if guest.usage.refused {
        Some(format!("it asked for more than {memory_bytes} bytes of memory"))
    } else if error.downcast_ref::<Trap>() == Some(&Trap::Interrupt) {
        Some(format!("it used more than {} ms of CPU", time.as_millis()))
    } else if error.root_cause().to_string().starts_with(TOO_MUCH) {
        Some(format!("it gave too much data at once: more than {output_bytes} bytes"))
    } else {
        None
    }
}

/// Why a call that killed its instance failed, in words for the operator.
pub fn cause(error: &wasmtime::Error, instance: &Instance, bounds: &Bounds) -> String {
    let guest = instance.store.data();
    let trapped = || format!("it trapped: {}", error.root_cause());
    let mut text = over_limit(error, guest, bounds).unwrap_or_else(trapped);
    let said = guest.stderr.take();
    if !said.is_empty() {
        text.push_str("; it wrote: ");
        text.extend(said.chars().map(|c| if c.is_control() { ' ' } else { c }).take(STDERR_SHOWN));
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use contract::{Finding, FindingClass, RawHeader};

    use super::*;

    fn attribute(name_bytes: usize, value_bytes: usize) -> (String, String) {
        ("n".repeat(name_bytes), "v".repeat(value_bytes))
    }

    #[test]
    fn limits_of_answers() {
        let check = |answer: &dyn Answer, expect: Option<&str>| match (answer.excess(), expect) {
            (None, None) => {}
            (Some(found), Some(expect)) => assert!(found.contains(expect), "{found} does not say {expect}"),
            (found, expect) => assert_eq!(found.as_deref(), expect),
        };
        let with = |attributes| Acceptance { warnings: Vec::new(), attributes };
        check(&with(vec![attribute(256, 4096); 64]), None);
        check(&with(vec![attribute(1, 1); 65]), Some("65 attributes: at most 64"));
        check(&with(vec![attribute(257, 1)]), Some("257 bytes: at most 256"));
        check(&with(vec![attribute(1, 4097)]), Some("4097 bytes: at most 4096"));
        let signed = |bytes| Signatures {
            headers: vec![RawHeader { name: String::new(), value: vec![b'x'; bytes] }],
            attributes: Vec::new(),
        };
        check(&signed(SIGNATURE_BYTES), None);
        check(&signed(SIGNATURE_BYTES + 1), Some("the signature fields have 16385 bytes"));
        let html = |bytes| Rendered { html: Some("h".repeat(bytes)), ..Rendered::default() };
        check(&html(RENDERED_BYTES), None);
        check(&html(RENDERED_BYTES + 1), Some("the rendered texts"));
        let refused = |bytes| {
            StageError::Refused(Finding {
                class: FindingClass::Policy,
                text: "t".repeat(bytes),
                status: None,
                field: None,
                position: None,
            })
        };
        check(&refused(ERROR_BYTES), None);
        check(&refused(ERROR_BYTES + 1), Some("the text of the error"));
        check(&StageError::Unavailable("t".repeat(ERROR_BYTES + 1)), Some("the text of the error"));
    }
}
