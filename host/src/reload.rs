//! Taking in a changed configuration while the host runs: routes, limits and the TLS certificate.
//!
//! All or nothing: everything that may fail is made before anything is exchanged. What needs a restart is named and
//! stays as it was; open connections and sessions go on with what they began with.

use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::sync::{Mutex, MutexGuard};
use utoipa::ToSchema;

use crate::config::{self, Config, Faults};
use crate::deliver::switch::Switch;
use crate::deliver::{CourierError, SmtpCourier};
use crate::domains::Domains;
use crate::queue::Tuning;
use crate::queue::policy::Schedules;
use crate::server::http::HttpServer;
use crate::server::pressure::Pressure;
use crate::server::smtp::{Options as SmtpOptions, SmtpServer};
use crate::server::tls::{self, Certificate, TlsError};
use crate::sizes::Sizes;

/// Why nothing was changed.
#[derive(Debug, Error)]
pub enum ReloadError {
    #[error("a development host has no configuration file to read again")]
    NoFile,
    #[error("{0}")]
    Config(#[from] Faults),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Courier(#[from] CourierError),
    #[error("the configuration could not be read: {0}")]
    Broken(String),
}

/// What a reload did: sections and keys of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Reloaded {
    /// In force now.
    pub changed: Vec<String>,
    /// Other than in the running host, and in force at its next start.
    pub needs_restart: Vec<String>,
}

/// What can be exchanged in a running host.
pub struct Reloader {
    /// `None`: a development host.
    pub file: Option<PathBuf>,
    pub pressure: Arc<Pressure>,
    pub certificate: Option<Arc<Certificate>>,
    /// `None`: mail is captured.
    pub courier: Option<Arc<Switch>>,
    pub queue: Tuning,
    /// Rotated DKIM keys outlast the mail that they signed.
    pub domains: Arc<Domains>,
    pub smtp: Option<Arc<SmtpServer>>,
    pub http: Vec<Arc<HttpServer>>,
    /// Of messages, on all roads.
    pub sizes: Arc<Sizes>,
    /// What the memory of components was laid out for at the start: no message may be larger.
    pub most_message_bytes: u64,
    /// What is in force. One reload at a time.
    pub present: Mutex<Config>,
}

impl Reloader {
    /// Reads the file again and takes in what can be. An error means that nothing was changed.
    pub async fn reload(&self) -> Result<Reloaded, ReloadError> {
        let mut present = self.present.lock().await;
        let reloaded = self.exchange(&mut present).await;
        match &reloaded {
            Ok(Reloaded { changed, needs_restart }) => {
                tracing::info!(?changed, "the configuration was read again");
                if !needs_restart.is_empty() {
                    tracing::warn!(?needs_restart, "some of what changed needs a restart of the host");
                }
            }
            Err(error) => tracing::error!(%error, "the configuration was not taken in: nothing has changed"),
        }
        reloaded
    }

    async fn exchange(&self, present: &mut MutexGuard<'_, Config>) -> Result<Reloaded, ReloadError> {
        let file = self.file.clone().ok_or(ReloadError::NoFile)?;
        let most_message_bytes = self.most_message_bytes;
        let (old, has_tls, delivers) = (Config::clone(present), self.certificate.is_some(), self.courier.is_some());
        let read = tokio::task::spawn_blocking(move || {
            let (next, mut reloaded) = merge(&old, config::load(&file)?, most_message_bytes);
            let certificate = has_tls.then(|| tls::read(next.tls.as_ref(), &next.data, &next.hostname)).transpose()?;
            let courier = delivers.then(|| SmtpCourier::new(&next)).transpose()?;
            reloaded.changed.retain(|name| name != "[tls]");
            Ok::<_, ReloadError>((next, reloaded, certificate, courier))
        });
        let (next, mut reloaded, certificate, courier) =
            read.await.map_err(|error| ReloadError::Broken(error.to_string()))??;
        // From here on nothing fails.
        if let (Some(slot), Some(certificate)) = (&self.certificate, certificate)
            && slot.exchange(certificate)
        {
            reloaded.changed.push("[tls]".to_owned());
        }
        if let (Some(switch), Some(courier)) = (&self.courier, courier) {
            switch.exchange(courier);
        }
        self.queue.change(&next.delivery, Schedules::from(&next));
        self.domains.set_overlap(&next);
        if let Some(smtp) = &self.smtp {
            smtp.change(SmtpOptions::new(&next));
        }
        let limits = &next.limits;
        self.sizes.change(limits.message_bytes, limits.recipients);
        for server in &self.http {
            server.limit_connections(limits.http_connections);
            server.limit_bodies(limits.http_body_bytes, limits.message_bytes);
        }
        self.pressure.limit_memory(next.limits.memory_bytes);
        **present = next;
        Ok(reloaded)
    }

    /// What is in force.
    pub async fn present(&self) -> Config {
        self.present.lock().await.clone()
    }
}

/// The old configuration with all of the new one that a running host takes, and what differs. Messages may become no
/// larger than `most_message_bytes`.
fn merge(old: &Config, new: Config, most_message_bytes: u64) -> (Config, Reloaded) {
    let mut next = old.clone();
    next.tls.clone_from(&new.tls);
    next.routes.clone_from(&new.routes);
    next.delivery = new.delivery.clone();
    next.smtp.trusted.clone_from(&new.smtp.trusted);
    next.smtp.max_connections = new.smtp.max_connections;
    next.smtp.max_connections_per_ip = new.smtp.max_connections_per_ip;
    next.smtp.idle_timeout = new.smtp.idle_timeout;
    if new.limits.message_bytes <= most_message_bytes {
        next.limits.message_bytes = new.limits.message_bytes;
    }
    next.limits.recipients = new.limits.recipients;
    next.limits.http_body_bytes = new.limits.http_body_bytes;
    next.limits.http_connections = new.limits.http_connections;
    next.limits.memory_bytes = new.limits.memory_bytes;
    next.limits.drain = new.limits.drain;
    let changed = differences(old, &next);
    let needs_restart = differences(&next, &new);
    (next, Reloaded { changed, needs_restart })
}

/// The parts in which two configurations differ.
fn differences(one: &Config, other: &Config) -> Vec<String> {
    let mut names = Vec::new();
    let mut part = |name: &str, differs: bool| {
        if differs {
            names.push(name.to_owned());
        }
    };
    // What prints alike is alike: a secret that is not printed is in none of these, or compared by itself.
    macro_rules! parts {
        ($($name:literal: $($field:ident).+),* $(,)?) => {
            $(part($name, format!("{:?}", one.$($field).+) != format!("{:?}", other.$($field).+));)*
        };
    }
    parts!(
        "hostname": hostname, "data": data, "master_key_file": master_key_file, "[http]": http, "[https]": https,
        "[admin]": admin, "[tls]": tls, "[smtp] listen": smtp.listen, "[smtp] listen_tls": smtp.listen_tls,
        "[smtp] trusted": smtp.trusted, "[smtp] max_connections": smtp.max_connections,
        "[smtp] max_connections_per_ip": smtp.max_connections_per_ip, "[smtp] idle_timeout": smtp.idle_timeout,
        "[dns]": dns, "[domains]": domains, "[store]": store, "[delivery]": delivery, "[webhooks]": webhooks, "[components]": components,
        "[tenant]": tenants, "[limits] message_bytes": limits.message_bytes, "[limits] recipients": limits.recipients,
        "[limits] http_body_bytes": limits.http_body_bytes, "[limits] http_requests": limits.http_requests,
        "[limits] http_connections": limits.http_connections, "[limits] memory_bytes": limits.memory_bytes,
        "[limits] drain": limits.drain, "[stages]": stages,
    );
    part("[[route]]", one.routes != other.routes);
    part("[edge]", one.notify_edge != other.notify_edge);
    part("[telemetry]", one.telemetry != other.telemetry);
    if names.is_empty() && format!("{one:?}") != format!("{other:?}") {
        names.push("other settings".to_owned());
    }
    names
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use super::*;

    fn parse(text: &str) -> Config {
        let text = format!("hostname = \"a.test\"\ndata = \"d\"\n[http]\nlisten = \"127.0.0.1:0\"\n{text}");
        let env = |name: &str| Some(format!("secret {name}"));
        config::parse(Path::new("a.toml"), &text, &env).unwrap()
    }

    #[test]
    fn what_changed_and_what_needs_a_restart_are_told_apart() {
        let check = |before: &str, after: &str, changed: &[&str], needs_restart: &[&str]| {
            let old = parse(before);
            let most = old.limits.message_bytes;
            let (next, reloaded) = merge(&old, parse(after), most);
            assert_eq!(reloaded.changed, changed, "{after}");
            assert_eq!(reloaded.needs_restart, needs_restart, "{after}");
            next
        };
        check("", "", &[], &[]);
        let next = check(
            "",
            "[smtp]\nlisten = \"127.0.0.1:0\"\nmax_connections = 7\n",
            &["[smtp] max_connections"],
            &["[smtp] listen"],
        );
        assert!(next.smtp.max_connections == 7 && next.smtp.listen.is_empty());
        check("", "[delivery]\nconnections = 3\n", &["[delivery]"], &[]);
        check(
            "",
            "[limits]\nmessage_bytes = \"1MiB\"\ndrain = \"1s\"\n",
            &["[limits] message_bytes", "[limits] drain"],
            &[],
        );
        let larger = "[limits]\nmessage_bytes = \"900MiB\"\nhttp_body_bytes = \"2GiB\"\nrecipients = 7\n";
        let changed = ["[limits] recipients", "[limits] http_body_bytes"];
        check("", larger, &changed, &["[limits] message_bytes"]);
        let relay = |variable: &str| {
            format!(
                "[[route]]\ndomain = \"*\"\nrelay = \"r.test:587\"\nauth = {{ username = \"u\", password_env = \"{variable}\" }}\n"
            )
        };
        check(&relay("ONE"), &relay("TWO"), &["[[route]]"], &[]);
        check("", "[telemetry]\notlp_endpoint = \"http://c.test\"\n", &[], &["[telemetry]"]);
    }
}
