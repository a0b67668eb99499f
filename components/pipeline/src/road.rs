//! The road itself.
//!
//! `run` is the whole of it, top to bottom. What a stage returns is checked against its interface's promises before it
//! is used: a stage that breaks them makes its message unavailable (try again), never a bad message.

use contract::{
    Attributes, Disposition, Envelope, FindingClass, Header, Part, RawHeader, Rendered, RendererInput, SignerInput,
    StageError, TransformerInput, ValidatorInput, Wants,
};
use mail::compose::{Draft, compose};
use mail::message::{self, Parsed};
use mail::{Domain, dkim, header};

use crate::raw::{self, Prepared};
use crate::{Content, Limits, Ready, Refusal, Stages, Submission, attributes, promises, refusal, signatures};

/// Warnings of one stage that are kept.
const WARNINGS: usize = 16;

/// Takes a submission through every stage in order: render, compose, validate, transform, sign.
pub async fn run(stages: &impl Stages, submission: Submission) -> Result<Ready, Refusal> {
    let Submission { envelope, content, attributes, limits, now_s } = submission;
    check_recipients(&envelope, limits)?;
    let mut notes = Notes { attributes, warnings: Vec::new() };
    let peers = Envelope {
        sender: envelope.sender.as_ref().map(|sender| sender.to_string()),
        recipients: envelope.recipients.iter().map(|recipient| recipient.to_string()).collect(),
    };

    let Prepared { message, signed_by_sender } = match content {
        Content::Draft { mut draft, template } => {
            if let Some(template) = template {
                render(stages, &mut draft, template, &mut notes).await?;
            }
            let message = compose(&draft);
            // Composing keeps to the format whatever the fields hold; should it ever not, nothing malformed gets out.
            header::check_format(&message)
                .map_err(|error| Refusal::new(FindingClass::Malformed, None, error.to_string()))?;
            Prepared { message, signed_by_sender: false }
        }
        Content::Raw { message, message_id, trace } => {
            check_size(&message, limits)?;
            raw::prepare(message, &message_id, trace, now_s)?
        }
    };
    check_size(&message, limits)?;

    let author = validate(stages, &peers, &message, &mut notes).await?;
    let (message, author) = match stages.transforms() && !signed_by_sender {
        true => transform(stages, &peers, message, author, limits, &mut notes).await?,
        false => (message, author),
    };
    let (message, signed) = put_signatures(stages, message, author, now_s, &mut notes).await?;
    Ok(Ready { envelope, message, attributes: notes.attributes, warnings: notes.warnings, signed })
}

/// Signs a message that went through all stages but this one: at an edge that has no keys. Gives it back with the
/// signatures in front, and the attributes with what the signer added.
pub async fn sign(
    stages: &impl Stages,
    message: Vec<u8>,
    attributes: Attributes,
    now_s: u64,
) -> Result<(Vec<u8>, Attributes), Refusal> {
    let (_, body) =
        header::split(&message).map_err(|error| Refusal::new(FindingClass::Malformed, None, error.to_string()))?;
    let author = author(&message::parse(message.get(..body).unwrap_or_default()));
    let mut notes = Notes { attributes, warnings: Vec::new() };
    let (message, _) = put_signatures(stages, message, author, now_s, &mut notes).await?;
    Ok((message, notes.attributes))
}

/// What the stages have said so far.
struct Notes {
    attributes: Attributes,
    warnings: Vec<String>,
}

impl Notes {
    fn add(&mut self, warnings: Vec<String>, returned: Attributes) {
        self.warnings.extend(warnings.iter().filter_map(|text| refusal::warning(text)).take(WARNINGS));
        attributes::merge(&mut self.attributes, returned);
    }
}

fn check_recipients(envelope: &mail::Envelope, limits: Limits) -> Result<(), Refusal> {
    match envelope.recipients.len() {
        0 => Err(Refusal::new(FindingClass::Address, None, "the message has no recipient")),
        count if count > limits.recipients => {
            let text = format!("the message has {count} recipients: at most {} are allowed", limits.recipients);
            // RFC 3463 s3.6: too many recipients.
            Err(Refusal::with_status(FindingClass::Address, "5.5.3", text))
        }
        _ => Ok(()),
    }
}

fn check_size(message: &[u8], limits: Limits) -> Result<(), Refusal> {
    if message.len() as u64 <= limits.message_bytes {
        return Ok(());
    }
    let text = format!("the message has {} bytes: at most {} are allowed", message.len(), limits.message_bytes);
    Err(Refusal::new(FindingClass::TooLarge, None, text))
}

/// Fills the draft from its template.
async fn render(
    stages: &impl Stages,
    draft: &mut Draft,
    template: RendererInput,
    notes: &mut Notes,
) -> Result<(), Refusal> {
    let had_subject = template.subject.is_some();
    let input = RendererInput { attributes: notes.attributes.clone(), ..template };
    let rendered = stages.render(input).await.map_err(|error| Refusal::from_stage("renderer", in_template(error)))?;
    if let Some(fault) = promises::rendered(had_subject, &rendered) {
        return Err(Refusal::nonsense("renderer", fault));
    }
    let Rendered { subject, html, text, warnings, attributes } = rendered;
    if let Some(subject) = subject {
        draft.subject = subject;
    }
    draft.html = html;
    draft.text = text;
    notes.add(warnings, attributes);
    Ok(())
}

/// A renderer names its fields; the sender knows them as fields of `template`.
fn in_template(error: StageError) -> StageError {
    match error {
        StageError::Refused(mut finding) => {
            finding.field = finding.field.map(|field| format!("template.{field}"));
            StageError::Refused(finding)
        }
        StageError::Unavailable(text) => StageError::Unavailable(text),
    }
}

/// Who the message says it is from, where that can be read.
type Author = Option<Domain>;

/// The domain of the first From address.
fn author(parsed: &Parsed) -> Author {
    parsed.from.first().map(|mailbox| mailbox.address.domain().clone())
}

async fn validate(
    stages: &impl Stages,
    envelope: &Envelope,
    message: &[u8],
    notes: &mut Notes,
) -> Result<Author, Refusal> {
    let failed = |error| Refusal::from_stage("validator", error);
    let wants = stages.describe_validator().await.map_err(failed)?;
    let parsed = message::parse(message);
    let author = author(&parsed);
    let input = validator_input(envelope, message, parsed, &wants, notes.attributes.clone());
    let acceptance = stages.validate(input).await.map_err(failed)?;
    notes.add(acceptance.warnings, acceptance.attributes);
    Ok(author)
}

fn validator_input(
    envelope: &Envelope,
    message: &[u8],
    parsed: Parsed,
    wants: &Wants,
    attributes: Attributes,
) -> ValidatorInput {
    let Parsed { headers, parts, text, html, .. } = parsed;
    ValidatorInput {
        envelope: envelope.clone(),
        headers: headers.into_iter().map(|(name, value)| Header { name, value }).collect(),
        parts: parts.into_iter().map(part).collect(),
        size_bytes: message.len() as u64,
        text: text.filter(|_| wants.text),
        html: html.filter(|_| wants.html),
        raw: wants.raw.then(|| message.to_vec()),
        sender_domain: None,
        recipient_domains: Vec::new(),
        attributes,
    }
}

fn part(part: message::Part) -> Part {
    let disposition = match part.disposition {
        message::Disposition::Inline => Disposition::Inline,
        message::Disposition::Attachment => Disposition::Attachment,
    };
    let message::Part { content_type, file_name, size_bytes, content_id, .. } = part;
    Part { content_type, file_name, size_bytes, disposition, content_id }
}

async fn transform(
    stages: &impl Stages,
    envelope: &Envelope,
    message: Vec<u8>,
    before: Author,
    limits: Limits,
    notes: &mut Notes,
) -> Result<(Vec<u8>, Author), Refusal> {
    let input =
        TransformerInput { envelope: envelope.clone(), message: message.clone(), attributes: notes.attributes.clone() };
    let transformed = stages.transform(input).await.map_err(|error| Refusal::from_stage("transformer", error))?;
    notes.add(transformed.warnings, transformed.attributes);
    let Some(message) = transformed.message else { return Ok((message, before)) };
    let nonsense = |fault| Refusal::nonsense("transformer", fault);
    if message.len() as u64 > limits.message_bytes {
        let text = format!("its message has {} bytes: at most {} are allowed", message.len(), limits.message_bytes);
        return Err(nonsense(text));
    }
    let body = promises::transformed(&message).map_err(nonsense)?;
    let after = author(&message::parse(message.get(..body).unwrap_or_default()));
    Ok((message, after))
}

/// Puts signatures in front. The second value says whether there are any.
async fn put_signatures(
    stages: &impl Stages,
    message: Vec<u8>,
    author: Author,
    now_s: u64,
    notes: &mut Notes,
) -> Result<(Vec<u8>, bool), Refusal> {
    let author = author.ok_or_else(|| {
        Refusal::new(FindingClass::Malformed, None, "the From field holds no address that can be used")
    })?;
    let input = {
        let (fields, body) =
            header::split(&message).map_err(|error| Refusal::new(FindingClass::Malformed, None, error.to_string()))?;
        let body = message.get(body..).unwrap_or_default();
        SignerInput {
            headers: fields
                .iter()
                .map(|field| RawHeader { name: field.name.to_owned(), value: field.value.to_vec() })
                .collect(),
            body_hash: dkim::body_hash(body).to_vec(),
            domain: author.as_str().to_owned(),
            timestamp_s: now_s,
            attributes: notes.attributes.clone(),
        }
    };
    let signed = stages.sign(input).await.map_err(|error| Refusal::from_stage("signer", error))?;
    notes.add(Vec::new(), signed.attributes);
    let fields = signatures::fields(signed.headers)?;
    let is_signed = !fields.is_empty();
    Ok((raw::on_top(message, &fields), is_signed))
}

#[cfg(test)]
#[path = "road_tests.rs"]
mod tests;
