//! The delivery API as edges reach it: over the network, with a delivery token and a version of the seam that both sides
//! speak. The token is looked at before a large body is read; nothing that comes this way passes for a trigger of our own.

use std::sync::Arc;

use bytes::Bytes;
use delivery_client::wire::{
    DELIVERY_TOKEN_HEADER, INVALID_DELIVERY_TOKEN, SEAM_HEADER, SEAM_VERSION, UNSUPPORTED_SEAM,
};
use http::{HeaderMap, Request, Response, StatusCode};

use super::delivery::{Caller, Delivery};
use super::fault::{fault, unavailable};
use crate::api_key;
use crate::edge::Edge;
use crate::store::{DeliveryToken, Edges};

/// Longer tokens are not looked up.
const TOKEN_BYTES: usize = 256;

/// Bytes of a version that are repeated in the answer.
const VERSION_SHOWN: usize = 20;

/// Answers edges.
pub struct Network {
    delivery: Arc<Delivery>,
    components: Arc<Edge>,
    edges: Arc<dyn Edges>,
}

impl Network {
    pub fn new(delivery: Arc<Delivery>, components: Arc<Edge>, edges: Arc<dyn Edges>) -> Network {
        Network { delivery, components, edges }
    }

    /// The live delivery token that a request comes with, or what it is answered.
    pub async fn admit(&self, headers: &HeaderMap) -> Result<DeliveryToken, Response<Bytes>> {
        let token = headers.get(DELIVERY_TOKEN_HEADER).and_then(|value| value.to_str().ok()).unwrap_or_default();
        // What does not look like one is not worth a look into the store.
        let found = match token.starts_with(api_key::DELIVERY_TOKEN) && token.len() <= TOKEN_BYTES {
            true => self.edges.delivery_token(api_key::hash(token)).await,
            false => Ok(None),
        };
        let found = found.map_err(|error| {
            tracing::error!(%error, "the store did not answer");
            unavailable("The delivery token cannot be checked now. Try again later.")
        })?;
        let Some(token) = found else {
            let text = "The delivery token is missing or not valid: make one with `posthaste key create --delivery`.";
            return Err(fault(StatusCode::FORBIDDEN, INVALID_DELIVERY_TOKEN, text));
        };
        match unsupported(headers) {
            Some(refused) => Err(refused),
            None => Ok(token),
        }
    }

    /// Answers one request below `/delivery/`.
    pub async fn answer(&self, request: Request<Bytes>) -> Response<Bytes> {
        match self.admit(request.headers()).await {
            Ok(token) => {
                let caller = Caller::Edge { token: &token, components: &self.components };
                self.delivery.answer(request, caller).await.response
            }
            Err(refused) => refused,
        }
    }
}

/// An edge that speaks another version is refused by name: it might mean something else than we read.
fn unsupported(headers: &HeaderMap) -> Option<Response<Bytes>> {
    let said = headers.get(SEAM_HEADER).map(|value| value.as_bytes());
    if said == Some(SEAM_VERSION.as_bytes()) {
        return None;
    }
    let said = match said {
        Some(said) => {
            let shown = String::from_utf8_lossy(said.get(..VERSION_SHOWN).unwrap_or(said));
            format!("version {}", shown.escape_debug())
        }
        None => "no version".to_owned(),
    };
    let text =
        format!("The edge speaks {said} of the seam, this host version {SEAM_VERSION}: update the older of the two.");
    Some(fault(StatusCode::BAD_REQUEST, UNSUPPORTED_SEAM, text))
}

#[cfg(test)]
#[path = "network_tests.rs"]
mod tests;
