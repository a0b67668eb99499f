//! What triggers reach: the delivery API, and the rest of the sending API with their callers' own credentials.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, StatusCode};

use super::delivery::{self, Caller, Delivery};
use super::fault::fault;
use super::resources::Resources;
use super::sending::{self, Sending};
use crate::edge::{Answer, Backend};

/// Answers triggers in-process.
pub struct Seam {
    delivery: Arc<Delivery>,
    sending: Sending,
    resources: Option<Arc<Resources>>,
}

impl Seam {
    pub fn new(delivery: Arc<Delivery>, sending: Sending) -> Seam {
        Seam { delivery, sending, resources: None }
    }

    /// The same with what there is besides mail.
    pub fn with(self, resources: Arc<Resources>) -> Seam {
        Seam { resources: Some(resources), ..self }
    }
}

#[async_trait]
impl Backend for Seam {
    async fn answer(&self, request: Request<Bytes>) -> Answer {
        let path = request.uri().path();
        if path.starts_with(delivery::PREFIX) {
            return self.delivery.answer(request, Caller::Inside).await;
        }
        let below = path.strip_prefix(sending::PREFIX);
        if below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) {
            return self.sending.answer(request).await.into();
        }
        if let Some(resources) = &self.resources
            && let Ok(response) = resources.answer(request).await
        {
            return response.into();
        }
        fault(StatusCode::NOT_FOUND, "not_found", "There is nothing at this path.").into()
    }
}

#[cfg(test)]
#[path = "seam_tests.rs"]
mod tests;
