//! `POST /emails/batch`: many messages in one request, handed over in one request too.
//!
//! Each is made by itself. What is wrong with one refuses all of them (`strict`, as Resend's SDKs ask for unless told
//! otherwise) or is told beside the ids of the others (`permissive`). The whole batch has one idempotency key; each
//! message is known by its place in it, so that a repetition is answered with the same ids.

use delivery_client::frame::encode_frame;
use delivery_client::wire::{Idempotency, MessageAnswer, batch_bytes};
use delivery_client::{DeliveryError, Http};
use http::{HeaderMap, Response};
use pipeline::Stages;
use serde_json::json;

use crate::answer::{self, Error};
use crate::json::{self, JsonError, Value};
use crate::service::{Caller, Failure, Service, Supplies};

/// Messages in one batch.
const MESSAGES: usize = 100;

/// What becomes of the others where one is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// None is sent.
    Strict,
    /// They are sent.
    Permissive,
}

/// What is told of a message of a batch.
struct Told {
    index: usize,
    message: String,
    /// Seconds behind which it may pass.
    retry_after_s: Option<u32>,
}

impl Mode {
    /// The field `x-batch-validation`.
    pub fn read(headers: &HeaderMap) -> Result<Mode, Error> {
        match headers.get("x-batch-validation").map(|value| value.as_bytes()) {
            None | Some(b"strict") => Ok(Mode::Strict),
            Some(b"permissive") => Ok(Mode::Permissive),
            Some(_) => {
                let text = "`x-batch-validation` must be `strict` or `permissive`";
                Err(Error::new(422, "validation_error", text))
            }
        }
    }
}

impl<H: Http, S: Stages> Service<'_, H, S> {
    /// Makes all messages of a batch and hands them to the host.
    pub(crate) async fn submit_batch(
        &self,
        caller: &Caller,
        body: &[u8],
        mode: Mode,
        idempotency: Option<Idempotency>,
    ) -> Result<Response<Vec<u8>>, Failure> {
        let items = read(body).map_err(Error::from)?;
        let mut supplies = Supplies::default();
        let (most, mut bytes) = (batch_bytes(caller.message_bytes), 0);
        let (mut frames, mut places, mut errors) = (Vec::new(), Vec::new(), Vec::new());
        let (mut ignored, mut warnings) = (Vec::new(), Vec::new());
        for (index, item) in items.iter().enumerate() {
            let place = u32::try_from(index).unwrap_or(u32::MAX);
            let key = idempotency.clone().map(|key| Idempotency { item: place, ..key });
            let made = match self.item(caller, item, place, key, &mut supplies).await {
                Ok(made) => made,
                Err(Failure::Stale(cause)) => return Err(Failure::Stale(cause)),
                Err(Failure::Final(error)) if mode == Mode::Strict => return Err(error.of_item(index).into()),
                Err(Failure::Final(error)) => {
                    let retry_after_s = error.retry_after_s;
                    errors.push(Told { index, message: error.of_item(index).message, retry_after_s });
                    continue;
                }
            };
            bytes += made.message.len() as u64;
            if bytes > most {
                let text = format!(
                    "the messages of the batch have more than {most} bytes together, which is the limit: send them in \
                     several requests"
                );
                return Err(Error::new(413, "validation_error", text).into());
            }
            let mut meta = made.meta;
            meta.with_all = mode == Mode::Strict;
            frames.append(&mut encode_frame(&meta, made.message).map_err(DeliveryError::from).map_err(Error::from)?);
            places.push(index);
            ignored.extend(made.ignored);
            warnings.extend(made.warnings.into_iter().map(|warning| format!("[{index}]: {warning}")));
        }
        ignored.sort_unstable();
        ignored.dedup();
        let answers = match places.len() {
            0 => Vec::new(),
            count => self.client.send_frames(&caller.token, frames, count).await?,
        };
        let mut data = Vec::with_capacity(answers.len());
        let mut refused = None;
        for (index, answer) in places.into_iter().zip(answers) {
            match answer {
                MessageAnswer::Accepted { id, replayed: _ } => data.push(json!({ "id": id })),
                MessageAnswer::Refused { status, name, text, retry_after_s } => {
                    // A clash of keys or a full disk is a matter of the whole batch.
                    let error = Error::refused(status, &name, text, retry_after_s);
                    let error = if is_of_all(status) { error } else { error.of_item(index) };
                    errors.push(Told { index, message: error.message.clone(), retry_after_s });
                    // Of those that are refused because another is, that other is told.
                    refused = refused.filter(|first: &Error| first.status != FAILED_DEPENDENCY).or(Some(error));
                }
            }
        }
        if let (Mode::Strict, Some(error)) = (mode, refused.clone()) {
            return Err(error.into());
        }
        if let (true, Some(error)) = (data.is_empty(), refused.filter(|error| is_of_all(error.status))) {
            return Err(error.into());
        }
        errors.sort_by_key(|told| told.index);
        let mut body = json!({ "data": data });
        if mode == Mode::Permissive && !errors.is_empty() {
            let told = |told: Told| {
                let mut shown = json!({ "index": told.index, "message": told.message });
                if let Some(seconds) = told.retry_after_s {
                    shown["retry_after"] = seconds.into();
                }
                shown
            };
            body["errors"] = errors.into_iter().map(told).collect();
        }
        Ok(answer::accepted(&body, &ignored, &warnings))
    }
}

/// The status of a message that is good and not stored because another of the batch is not.
const FAILED_DEPENDENCY: u16 = 424;

fn is_of_all(status: u16) -> bool {
    status == 409 || status >= 500
}

fn read(body: &[u8]) -> Result<Vec<Value<'_>>, JsonError> {
    let items = json::list(body)?;
    match items.len() {
        0 => Err(JsonError::Missing("[0]".to_owned())),
        1..=MESSAGES => Ok(items),
        count => Err(JsonError::Wrong(
            format!("[{MESSAGES}]"),
            format!("the batch holds {count} messages: at most {MESSAGES} are allowed"),
        )),
    }
}

#[cfg(test)]
#[path = "batch_tests.rs"]
mod tests;
