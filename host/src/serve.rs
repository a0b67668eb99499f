//! Wires the host.

use std::net::SocketAddr;

use thiserror::Error;

use crate::api::control::Control;
use crate::config::Config;

#[derive(Debug, Error)]
pub enum StartError {
    #[error("not wired yet")]
    Unwired,
}

#[derive(Clone, Debug, Default)]
pub struct Options {
    pub development: Option<Development>,
}

#[derive(Clone, Debug)]
pub struct Development {
    pub api_key: String,
}

pub struct Host;

impl Host {
    pub async fn start(_config: Config, _options: Options) -> Result<Host, StartError> {
        Err(StartError::Unwired)
    }

    pub fn http_addr(&self) -> Option<SocketAddr> {
        None
    }

    pub fn http_addrs(&self) -> Vec<SocketAddr> {
        Vec::new()
    }

    pub fn smtp_addrs(&self) -> Vec<SocketAddr> {
        Vec::new()
    }

    pub async fn shutdown(self) {}
}

pub async fn open_control(_config: &Config) -> Result<Control, StartError> {
    Err(StartError::Unwired)
}
