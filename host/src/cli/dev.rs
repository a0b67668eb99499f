//! `posthaste dev`: a host without configuration that captures mail instead of sending it.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use super::Failure;
use super::serve::{Signals, until_told};
use crate::api_key::{DEVELOPMENT_KEY, DEVELOPMENT_TOKEN};
use crate::config::Config;
use crate::serve::{Development, Host, Options};

/// The key of the control API: the same for everybody, as the other keys of a development host.
const DEVELOPMENT_OPERATOR_KEY: &str = "pho_dev";

#[derive(Debug, Args)]
pub(crate) struct Dev {
    /// Where the sending API and /inbox listen; loopback only. Port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8080", value_parser = loopback)]
    http: SocketAddr,
    /// Where SMTP listens; loopback only. Neither AUTH nor TLS is needed; both work.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:2525", value_parser = loopback)]
    smtp: SocketAddr,
    /// Where mail and keys are kept. Default: $XDG_STATE_HOME/posthaste-dev, or ~/.local/state/posthaste-dev.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// The API key to take: letters, digits, `_`, `-` and `.`.
    #[arg(long, value_name = "KEY", default_value = DEVELOPMENT_KEY, value_parser = plain_key)]
    api_key: String,
}

/// Reads a key that fits a header field and, unquoted, a shell.
fn plain_key(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    match !text.is_empty() && text.chars().all(plain) {
        true => Ok(text.to_owned()),
        false => Err("write letters, digits, `_`, `-` and `.`, at least one".to_owned()),
    }
}

/// Reads an address that strangers cannot reach.
fn loopback(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text.parse().map_err(|_| "write address:port, such as 127.0.0.1:8080".to_owned())?;
    match address.ip().is_loopback() {
        true => Ok(address),
        false => Err("a development host takes any mail without a password, so it listens on loopback only: \
                      use 127.0.0.1 or [::1], or `posthaste serve` for a host that others reach"
            .to_owned()),
    }
}

impl Dev {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let data = self.data.clone().unwrap_or_else(default_data);
        let data = std::path::absolute(&data).map_err(Failure::io("the data folder"))?;
        let config = Config::development(data.clone(), self.http, self.smtp)?;
        let delivery_token = DEVELOPMENT_TOKEN.to_owned();
        let operator_key = DEVELOPMENT_OPERATOR_KEY.to_owned();
        let development = Development { api_key: self.api_key.clone(), delivery_token, operator_key };
        let options = Options { development: Some(development), file: None };
        let signals = Signals::listen()?;
        let host = Host::start(config, options).await?;
        print!("{}", greeting(&host, &data, &self.api_key));
        until_told(host, signals).await
    }
}

/// Where a development host keeps its mail: with the user's other state, so that it is found again from every folder.
fn default_data() -> PathBuf {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let state = set("XDG_STATE_HOME").filter(|path| path.is_absolute());
    let state = state.or_else(|| set("HOME").map(|home| home.join(".local/state")));
    state.map_or_else(|| PathBuf::from(".posthaste-dev"), |state| state.join("posthaste-dev"))
}

/// What the terminal shows: everything needed to send the first mail.
fn greeting(host: &Host, data: &std::path::Path, key: &str) -> String {
    let http = host.http_addr().map_or_else(String::new, |address| format!("http://{address}"));
    let (smtp_host, smtp_port) =
        host.smtp_addrs().first().map_or((String::new(), 0), |address| (address.ip().to_string(), address.port()));
    format!(
        "
Posthaste runs for development: mail is captured, nothing is sent.

  Inbox    {http}/inbox
  API      {http}
  API key  {key}
  SMTP     {smtp_host} port {smtp_port} (no user, no TLS needed; or any user with the API key as password)
  Data     {data}
  Control  {http}/control/v1/ (operator key {DEVELOPMENT_OPERATOR_KEY})

Send a mail:

  {curl}

Run the edge part on Spin, in front of this host:

  spin up -f spin.toml --variable delivery_url={http} --variable delivery_token={DEVELOPMENT_TOKEN}

Recipients bounced@, deferred@ and complained@ (any domain) play those outcomes. Ctrl-C ends.

",
        data = data.display(),
        curl = crate::inbox::curl_line(&http, key),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_is_listened_on() {
        for (text, fits) in [
            ("127.0.0.1:0", true),
            ("[::1]:8080", true),
            ("127.8.8.8:1", true),
            ("0.0.0.0:8080", false),
            ("192.0.2.1:80", false),
            ("8080", false),
        ] {
            assert_eq!(loopback(text).is_ok(), fits, "{text}");
        }
    }

    #[test]
    fn keys_can_be_pasted() {
        for (text, fits) in
            [("ph_dev", true), ("a.b-C_9", true), ("", false), ("a b", false), ("it's", false), ("é", false)]
        {
            assert_eq!(plain_key(text).is_ok(), fits, "{text}");
        }
    }
}
