//! `posthaste send`: a test mail through the sending API, the road that applications take.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use http::{Method, Request};
use tokio::net::TcpStream;

use super::link::Link;
use super::{Failure, Target, say};
use crate::api::control::status::Status;
use crate::api::socket;
use crate::api_key::DEVELOPMENT_KEY;

/// How long the host may take to take the connection.
const CONNECT_TIME: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
pub(crate) struct Send {
    #[command(flatten)]
    target: Target,
    /// The sender: an address, or "Name <address>". Its domain must be one of the tenant's.
    #[arg(long)]
    from: String,
    /// A recipient; may be repeated.
    #[arg(long, required = true)]
    to: Vec<String>,
    #[arg(long, default_value = "A test mail from Posthaste")]
    subject: String,
    #[arg(long, default_value = "It works.")]
    text: String,
    /// HTML beside the text.
    #[arg(long)]
    html: Option<String>,
    /// The API key. Default: the environment variable POSTHASTE_API_KEY; with --data also a development host's key. Other users of this
    /// machine can see a command line: the variable is safer.
    #[arg(long, value_name = "KEY")]
    api_key: Option<String>,
}

impl Send {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let link = Link::open(&self.target).await?;
        if !link.is_live() {
            let text = "no host runs on this data folder: start one with `posthaste serve` or `posthaste dev`";
            return Err(Failure::Refused(text.to_owned()));
        }
        let key = self.key()?;
        let status: Status = link.call(Method::GET, "status", &()).await?;
        let Some(address) = status.http.first().copied().map(reachable) else {
            return Err(Failure::Refused("the host has no [http] listener: send by SMTP instead".to_owned()));
        };
        let what = format!("cannot reach the sending API at {address}");
        let connect = tokio::time::timeout(CONNECT_TIME, TcpStream::connect(address)).await;
        let stream =
            connect.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into())).map_err(Failure::io(&what))?;
        let answer = socket::call(stream, self.request(address, &key)?).await.map_err(Failure::io(&what))?;
        let body: serde_json::Value = serde_json::from_slice(answer.body()).unwrap_or_default();
        match (answer.status().is_success(), body["id"].as_str()) {
            (true, Some(id)) => say(id),
            _ => {
                let text = body["message"].as_str().unwrap_or("no reason is given");
                Err(Failure::Refused(format!("the host answered {}: {text}", answer.status())))
            }
        }
    }

    fn key(&self) -> Result<String, Failure> {
        let set = std::env::var("POSTHASTE_API_KEY").ok().filter(|key| !key.is_empty());
        let development = self.target.data.is_some().then(|| DEVELOPMENT_KEY.to_owned());
        self.api_key.clone().or(set).or(development).ok_or_else(|| {
            let text = "an API key is needed: make one with `posthaste key create` and set POSTHASTE_API_KEY to it";
            Failure::Refused(text.to_owned())
        })
    }

    fn request(&self, address: SocketAddr, key: &str) -> Result<Request<Bytes>, Failure> {
        let mut mail = serde_json::json!({
            "from": self.from, "to": self.to, "subject": self.subject, "text": self.text,
        });
        if let Some(html) = &self.html {
            mail["html"] = html.as_str().into();
        }
        Request::builder()
            .method(Method::POST)
            .uri("/emails")
            .header("host", address.to_string())
            .header("authorization", format!("Bearer {key}"))
            .header("content-type", "application/json")
            .body(mail.to_string().into())
            .map_err(|error| Failure::Refused(format!("the key cannot be sent: {error}")))
    }
}

/// Where a listener on all interfaces is reached from its own machine.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}
