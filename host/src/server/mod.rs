//! The host's listeners: TLS, connection tasks, and what stands behind the SMTP dialogue.
//!
//! `smtp` drives the sessions of `crate::smtp` over sockets, `submission` is what a finished message meets, `tls` makes
//! the rustls configurations of all listeners. Tasks are one per connection; every wait has a deadline; all of them
//! end by one shutdown token.

mod gate;
pub mod http;
mod peers;
pub mod pressure;
pub mod smtp;
pub mod submission;
pub mod tls;

use std::io;
use std::net::SocketAddr;

use thiserror::Error;
use tokio::net::TcpListener;

/// A listener that cannot be had.
#[derive(Debug, Error)]
#[error("cannot listen on {address}: {hint}")]
pub struct BindError {
    pub address: SocketAddr,
    hint: String,
    source: io::Error,
}

/// Listens on an address.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, BindError> {
    TcpListener::bind(address).await.map_err(|source| {
        let hint = match source.kind() {
            io::ErrorKind::AddrInUse => {
                "another program uses this port, maybe another posthaste: stop it, or change the port".to_owned()
            }
            io::ErrorKind::PermissionDenied => {
                "permission denied: ports below 1024 need root or the capability CAP_NET_BIND_SERVICE".to_owned()
            }
            io::ErrorKind::AddrNotAvailable => "this machine does not have that address".to_owned(),
            _ => source.to_string(),
        };
        BindError { address, hint, source }
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_in_use_is_named() {
        let first = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = first.local_addr().unwrap();
        let error = bind(address).await.unwrap_err().to_string();
        assert!(error.contains(&address.to_string()) && error.contains("another program"), "{error}");
    }
}
