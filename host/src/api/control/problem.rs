//! Why a call of the control API was not done.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::route::json;
use crate::store::StoreError;

/// Why a call was not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    #[serde(skip)]
    pub status: u16,
    /// One word for programs.
    pub name: String,
    /// A sentence for people: what is wrong and what to do.
    pub message: String,
}

impl Problem {
    /// A problem with this status; `name` is for programs, `message` for people.
    pub fn new(status: StatusCode, name: &str, message: impl Into<String>) -> Problem {
        Problem { status: status.as_u16(), name: name.to_owned(), message: message.into() }
    }

    /// 422: what was asked cannot be done as it was asked.
    pub fn invalid(message: impl Into<String>) -> Problem {
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", message)
    }

    /// 404.
    pub fn missing(message: impl Into<String>) -> Problem {
        Problem::new(StatusCode::NOT_FOUND, "not_found", message)
    }

    /// 409: what is there stands against it.
    pub fn conflict(message: impl Into<String>) -> Problem {
        Problem::new(StatusCode::CONFLICT, "exists", message)
    }

    /// 401: nobody is known to call.
    pub fn unknown_caller(message: impl Into<String>) -> Problem {
        Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", message)
    }

    /// 500: the system gave no randomness.
    pub(super) fn random(error: impl std::fmt::Display) -> Problem {
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "random", error.to_string())
    }

    /// The answer that tells it.
    pub fn into_response(self) -> Response<Bytes> {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = json(status, &self);
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Problem {
        let (status, name) = match &error {
            StoreError::NotFound(_) => (StatusCode::NOT_FOUND, "not_found"),
            StoreError::Exists(_)
            | StoreError::DuplicateId
            | StoreError::IdempotencyMismatch
            | StoreError::NotScheduled(_) => (StatusCode::CONFLICT, "exists"),
            StoreError::Full => (StatusCode::INSUFFICIENT_STORAGE, "full"),
            StoreError::Io(_) => (StatusCode::INTERNAL_SERVER_ERROR, "storage"),
        };
        Problem::new(status, name, error.to_string())
    }
}
