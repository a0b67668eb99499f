//! A host that takes every message at once and keeps none.

use async_trait::async_trait;
use bytes::Bytes;
use delivery_client::wire::{AUTH_PATH, AuthAnswer, MESSAGES_PATH, MessageAnswer};
use http::{Request, Response};
use tests::edge::Web;

pub struct Host;

#[async_trait]
impl Web for Host {
    async fn answer(&self, request: Request<Bytes>) -> Result<Response<Bytes>, String> {
        let body = match request.uri().path() {
            AUTH_PATH => serde_json::to_vec(&caller()),
            MESSAGES_PATH => {
                serde_json::to_vec(&[MessageAnswer::Accepted { id: "00000000".to_owned(), replayed: false }])
            }
            other => return Err(format!("nobody asks for {other}")),
        };
        Ok(Response::new(body.map_err(|error| error.to_string())?.into()))
    }
}

fn caller() -> AuthAnswer {
    AuthAnswer {
        tenant: "default".to_owned(),
        token: "token".to_owned(),
        message_bytes: 25 << 20,
        recipients: 50,
        domains: vec!["src.test".to_owned()],
        any_domain: false,
        streams: Vec::new(),
        run_stages: true,
        component_revision: 1,
    }
}
