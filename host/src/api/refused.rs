//! What the sender of a message is told where it is not stored: one mapping from each cause to a status, a name and words.

use bytes::Bytes;
use delivery_client::wire::MessageAnswer;
use http::{HeaderValue, Response, StatusCode, header as http_header};
use jiff::Timestamp;
use mail::Stream;

use super::fault::fault;
use crate::store::StoreError;
use crate::tenancy::Denial;

const BUSY: &str = "The message cannot be stored now. Nothing was stored; try again later.";

/// Why one message is not stored: as the sending API says it.
#[derive(Clone)]
pub(super) struct Refused {
    pub(super) status: StatusCode,
    pub(super) name: &'static str,
    pub(super) text: String,
    /// Seconds behind which it may pass.
    pub(super) retry_after_s: Option<u64>,
}

impl Refused {
    pub(super) fn new(status: StatusCode, name: &'static str, text: impl Into<String>) -> Refused {
        Refused { status, name, text: text.into(), retry_after_s: None }
    }

    pub(super) fn into_response(self) -> Response<Bytes> {
        let mut response = fault(self.status, self.name, self.text);
        if let Some(seconds) = self.retry_after_s {
            response.headers_mut().insert(http_header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// A message goes by a stream that is open to its sender: what an edge says of it may be anything.
pub(super) fn check_stream(attributes: &[(String, String)], may: &[Stream]) -> Result<(), Refused> {
    let named = attributes.iter().find(|(name, _)| name == Stream::ATTRIBUTE);
    let named = named.map(|(_, value)| value.parse::<Stream>()).transpose();
    let stream = named.map_err(|error| wrong(format!("The attribute `{}`: {error}.", Stream::ATTRIBUTE)))?;
    let chosen = Stream::choose(Some(stream.unwrap_or_default()), may);
    chosen
        .map(drop)
        .map_err(|denied| Refused::new(StatusCode::FORBIDDEN, "invalid_access", format!("`stream`: {denied}")))
}

/// The answer for a good message of a request that is stored as a whole or not at all.
pub(super) fn left_out() -> Refused {
    Refused::new(
        StatusCode::FAILED_DEPENDENCY,
        "validation_error",
        "Another message of the request was refused, so none was stored.".to_owned(),
    )
}

pub(super) fn wrong(text: impl Into<String>) -> Refused {
    Refused::new(StatusCode::UNPROCESSABLE_ENTITY, "validation_error", text.into())
}

/// What the sender is told of a message that its tenant may not send.
pub(super) fn denied(denial: &Denial) -> Refused {
    let mut text = format!("{denial}.");
    if let Some(first) = text.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    let (status, name, retry_after_s) = match denial {
        Denial::Paused(_) => (StatusCode::FORBIDDEN, "account_paused", None),
        Denial::TooLarge(..) => (StatusCode::PAYLOAD_TOO_LARGE, "validation_error", None),
        Denial::TooManyRecipients(..) | Denial::NeverFits { .. } => {
            (StatusCode::UNPROCESSABLE_ENTITY, "validation_error", None)
        }
        Denial::Spent { span, resets_at, .. } => {
            let name = match *span {
                "day" => "daily_quota_exceeded",
                "month" => "monthly_quota_exceeded",
                _ => "rate_limit_exceeded",
            };
            let left_s = resets_at.as_second() - Timestamp::now().as_second();
            (StatusCode::TOO_MANY_REQUESTS, name, Some(u64::try_from(left_s).unwrap_or(0).max(1)))
        }
        Denial::Busy(_) => (StatusCode::TOO_MANY_REQUESTS, "rate_limit_exceeded", Some(1)),
        Denial::Together => return left_out(),
    };
    Refused { status, name, text, retry_after_s }
}

/// What the sender is told of a failed accept. What failed inside is for the log.
pub(super) fn refused(error: &StoreError) -> Refused {
    match error {
        StoreError::IdempotencyMismatch => Refused::new(
            StatusCode::CONFLICT,
            "invalid_idempotent_request",
            "The idempotency key was used before for a different request.".to_owned(),
        ),
        // Another id will do: the sender's next try makes one.
        StoreError::DuplicateId
        | StoreError::Exists(_)
        | StoreError::NotFound(_)
        | StoreError::NotScheduled(_)
        | StoreError::Full
        | StoreError::Io(_) => {
            tracing::error!(%error, "a message was not accepted");
            Refused::new(StatusCode::SERVICE_UNAVAILABLE, "application_error", BUSY.to_owned())
        }
    }
}

impl From<Refused> for MessageAnswer {
    fn from(refused: Refused) -> MessageAnswer {
        let Refused { status, name, text, retry_after_s } = refused;
        let retry_after_s = retry_after_s.and_then(|seconds| u32::try_from(seconds).ok());
        MessageAnswer::Refused { status: status.as_u16(), name: name.to_owned(), text, retry_after_s }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever quota it is, the answer says that it is over for now, and until when.
    #[test]
    fn every_quota_has_its_answer() {
        let now = Timestamp::now();
        for (span, name) in [
            ("second", "rate_limit_exceeded"),
            ("hour", "rate_limit_exceeded"),
            ("day", "daily_quota_exceeded"),
            ("month", "monthly_quota_exceeded"),
        ] {
            let resets_at = now + jiff::SignedDuration::from_secs(500);
            let refused = denied(&Denial::Spent { span, limit: 5, resets_at });
            assert_eq!((refused.status.as_u16(), refused.name), (429, name));
            assert!(refused.text.contains(&format!("it resets at {resets_at}")), "{}", refused.text);
            let response = refused.into_response();
            let seconds = response.headers().get(http_header::RETRY_AFTER).and_then(|it| it.to_str().ok());
            let seconds: Option<u64> = seconds.and_then(|it| it.parse().ok());
            assert!(seconds.is_some_and(|seconds| (400..=500).contains(&seconds)), "{span}: {seconds:?}");
        }
    }

    /// Nobody is told to come at once, whatever the time is.
    #[test]
    fn a_window_that_has_just_ended_is_waited_for_a_second() {
        let refused = denied(&Denial::Spent { span: "second", limit: 5, resets_at: Timestamp::now() });
        assert_eq!(refused.retry_after_s, Some(1));
    }
}
