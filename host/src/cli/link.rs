//! The way to a host's control API: its socket where it runs, the store itself where it does not. One code path:
//! either way `api::control` answers.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Failure, Target};
use crate::api::control::{Control, Entry, Problem};
use crate::api::socket;
use crate::config::{self, Config};
use crate::serve::{self, StartError};
use crate::store::OpenError;

/// How often, and how many times, a host is looked for while the data folder is locked.
const LOOK_EVERY: Duration = Duration::from_millis(100);
const LOOKS: usize = 50;

/// A way to call the control API.
pub(super) struct Link {
    config: Config,
    /// Absent while a host runs.
    own: Option<Arc<Control>>,
}

impl Link {
    /// Finds the host that is meant.
    pub(super) async fn open(target: &Target) -> Result<Link, Failure> {
        let config = configuration(target)?;
        let mut looks = 0;
        loop {
            looks += 1;
            if running(&config.data).await? {
                return Ok(Link { config, own: None });
            }
            if target.data.is_some() && !config.data.exists() {
                let text = format!(
                    "{} does not exist: start a development host with `posthaste dev --data DIR`",
                    config.data.display()
                );
                return Err(Failure::Refused(text));
            }
            match serve::open_control(&config).await {
                // A host that starts or ends, or another command: it is soon heard or gone.
                Err(StartError::Store(OpenError::Locked { .. })) if looks < LOOKS => {
                    tokio::time::sleep(LOOK_EVERY).await
                }
                own => return Ok(Link { config, own: Some(own?) }),
            }
        }
    }

    /// Whether a host runs.
    pub(super) fn is_live(&self) -> bool {
        self.own.is_none()
    }

    /// Of the host that is meant.
    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    /// Calls a route and reads its answer.
    pub(super) async fn call<A: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<A, Failure> {
        let body = match method {
            Method::GET | Method::DELETE => Bytes::new(),
            _ => serde_json::to_vec(body).map_err(|error| Failure::Refused(error.to_string()))?.into(),
        };
        self.exchange(socket::request(method, path, body)).await
    }

    /// Calls a route with a file instead of JSON.
    pub(super) async fn upload<A: DeserializeOwned>(&self, path: &str, file: Vec<u8>) -> Result<A, Failure> {
        let request = socket::request(Method::PUT, path, file.into()).map(|mut request| {
            let kind = http::HeaderValue::from_static("application/wasm");
            request.headers_mut().insert(http::header::CONTENT_TYPE, kind);
            request
        });
        self.exchange(request).await
    }

    async fn exchange<A: DeserializeOwned>(
        &self,
        request: Result<http::Request<Bytes>, http::Error>,
    ) -> Result<A, Failure> {
        let request = request.map_err(|error| Failure::Refused(error.to_string()))?;
        let answer = match &self.own {
            Some(control) => control.answer(request, Entry::Folder).await,
            None => self.over_socket(request).await?,
        };
        let text = answer.body();
        if answer.status().is_success() {
            return serde_json::from_slice(text).map_err(|error| {
                Failure::Refused(format!("the host's answer is not understood: {error}; is it another version?"))
            });
        }
        Err(Failure::Refused(match serde_json::from_slice::<Problem>(text) {
            Ok(problem) => problem.message,
            Err(_) => format!("the host answered {}", answer.status()),
        }))
    }

    async fn over_socket(&self, request: http::Request<Bytes>) -> Result<http::Response<Bytes>, Failure> {
        let what = || format!("cannot reach the host through {}", self.config.data.join(socket::SOCKET_FILE).display());
        let stream = socket::connect(&self.config.data).await.map_err(Failure::io(what()))?;
        let Some(stream) = stream else {
            return Err(Failure::Refused(format!("{}: it has just ended; try again", what())));
        };
        socket::call(stream, request).await.map_err(Failure::io(what()))
    }
}

/// The configuration of the host that is meant.
pub(super) fn configuration(target: &Target) -> Result<Config, Failure> {
    match (&target.config, &target.data) {
        (Some(file), _) => Ok(config::load(file)?),
        (None, Some(data)) => {
            let loopback = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
            let data = std::path::absolute(data).map_err(Failure::io("the data folder"))?;
            Ok(Config::development(data, loopback, loopback)?)
        }
        (None, None) => Err(Failure::Refused("say which host: --config FILE or --data DIR".to_owned())),
    }
}

/// Whether a host answers on the socket of a data folder.
async fn running(data: &Path) -> Result<bool, Failure> {
    let stream = socket::connect(data).await;
    let what = format!("cannot open {}", data.join(socket::SOCKET_FILE).display());
    Ok(stream.map_err(Failure::io(what))?.is_some())
}
