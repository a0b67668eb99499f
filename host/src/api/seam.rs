//! What triggers reach: the delivery API, and the rest of the sending API with their callers' own credentials.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, StatusCode};

use super::delivery::{self, Caller, Delivery};
use super::events::{self, Events};
use super::fault::fault;
use super::resources::Resources;
use super::routes::{self, Found};
use super::sending::{self, Sending};
use super::webhooks::{self, Webhooks};
use crate::edge::{Answer, Backend};

/// Answers triggers in-process.
pub struct Seam {
    delivery: Arc<Delivery>,
    sending: Sending,
    resources: Option<Arc<Resources>>,
    told: Option<(Webhooks, Events)>,
}

impl Seam {
    pub fn new(delivery: Arc<Delivery>, sending: Sending) -> Seam {
        Seam { delivery, sending, resources: None, told: None }
    }

    /// The same with what there is besides mail.
    pub fn with(self, resources: Arc<Resources>) -> Seam {
        Seam { resources: Some(resources), ..self }
    }

    /// The same with what tells of events.
    pub fn telling(self, webhooks: Webhooks, events: Events) -> Seam {
        Seam { told: Some((webhooks, events)), ..self }
    }
}

#[async_trait]
impl Backend for Seam {
    async fn answer(&self, request: Request<Bytes>) -> Answer {
        let path = request.uri().path();
        if path.starts_with(delivery::PREFIX) {
            return self.delivery.answer(request, Caller::Inside).await;
        }
        match routes::find(request.method(), path) {
            Found::Route => {}
            Found::OtherMethod => {
                let text = "This method is not answered here.";
                return fault(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", text).into();
            }
            Found::Nothing => {
                return fault(StatusCode::NOT_FOUND, "not_found", "There is nothing at this path.").into();
            }
        }
        let change = match self.delivery.gate(&request).await {
            Ok(change) => change,
            Err(refused) => return refused.into(),
        };
        let answer = self.answer_beyond(request).await;
        if let Some(change) = change.filter(|_| answer.response.status().is_success()) {
            self.delivery.audit(change, answer.response.body()).await;
        }
        answer
    }
}

impl Seam {
    /// Answers what is not the delivery API's.
    async fn answer_beyond(&self, request: Request<Bytes>) -> Answer {
        let path = request.uri().path();
        let is_below = |prefix| path.strip_prefix(prefix).is_some_and(|it: &str| it.is_empty() || it.starts_with('/'));
        if is_below(sending::PREFIX) {
            return self.sending.answer(request).await.into();
        }
        match &self.told {
            Some((webhooks, _)) if is_below(webhooks::PREFIX) => return webhooks.answer(request).await.into(),
            Some((_, events)) if is_below(events::PREFIX) => return events.answer(request).await.into(),
            Some(_) | None => {}
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
