//! `[webhooks]` and `[edge]`: how and through whom events are told.

use std::time::Duration;

use super::load::section;
use super::reader::{Context, Reader};
use super::value::{Count, ReadableFile, io_text};

/// How webhooks are told.
#[derive(Clone, Debug)]
pub struct WebhookRules {
    /// Whether endpoints may stand on this machine and in private networks.
    pub allow_private: bool,
    /// Attempts at once for one endpoint.
    pub concurrency: usize,
    /// From the connection to the end of the answer.
    pub timeout: Duration,
    /// How long the log keeps an attempt.
    pub keep_log: Duration,
}

/// The edge whose `notify` tells events, in place of the built-in one.
#[derive(Clone)]
pub struct NotifyEdge {
    /// A bare origin.
    pub url: String,
    pub token: String,
}

impl std::fmt::Debug for NotifyEdge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NotifyEdge").field("url", &self.url).finish_non_exhaustive()
    }
}

/// Longer ones are told to no endpoint: an instance waits that long.
const TIMEOUT_MAX: Duration = Duration::from_secs(50);

/// Longest token file.
const TOKEN_BYTES: usize = 4096;

pub(super) fn webhooks(context: &mut Context<'_, '_>, top: &Reader<'_, '_>) -> Option<WebhookRules> {
    let section = section(context, top, "webhooks");
    let allow_private = section.get(context, "allow_private");
    let concurrency = section.get(context, "concurrency").map(|Count(number)| number);
    let timeout: Option<Duration> = section.get(context, "timeout");
    let keep_log = section.get(context, "keep_log");
    if let (Some(timeout), Some((span, _))) = (timeout, section.raw("timeout"))
        && (timeout.is_zero() || timeout > TIMEOUT_MAX)
    {
        context.faults.add(span, "webhooks.timeout must be more than nothing and at most 50s");
    }
    Some(WebhookRules {
        allow_private: allow_private?,
        concurrency: concurrency?,
        timeout: timeout?,
        keep_log: keep_log?,
    })
}

pub(super) fn edge(context: &mut Context<'_, '_>, top: &Reader<'_, '_>) -> Option<NotifyEdge> {
    let section = section(context, top, "edge");
    let url: Option<String> = section.get(context, "notify_url");
    let file: Option<ReadableFile> = section.get(context, "notify_token_file");
    let variable: Option<String> = section.get(context, "notify_token_env");
    let at = |name: &str| section.raw(name).map_or(0..0, |(span, _)| span);
    let url = match url {
        Some(url) => {
            let parsed: Option<http::Uri> = url.parse().ok();
            let is_origin = parsed.is_some_and(|uri| {
                matches!(uri.scheme_str(), Some("http" | "https"))
                    && uri.host().is_some_and(|host| !host.is_empty())
                    && uri.path() == "/"
                    && uri.query().is_none()
                    && !uri.authority().is_some_and(|authority| authority.as_str().contains('@'))
            });
            if !is_origin {
                let text = "edge.notify_url is the edge's bare origin: write it such as \"https://edge.example.com\"";
                context.faults.add(at("notify_url"), text);
            }
            url
        }
        None => {
            for name in ["notify_token_file", "notify_token_env"] {
                if let Some((span, _)) = section.raw(name) {
                    context.faults.add(span, format!("edge.{name} is for an edge: add edge.notify_url"));
                }
            }
            return None;
        }
    };
    let token = match (file, variable) {
        (Some(ReadableFile(path)), None) => {
            let read = std::fs::read_to_string(&path).map_err(|error| io_text(&error));
            match read.map(|text| text.trim().to_owned()) {
                Ok(token) if is_token(&token) => Some(token),
                Ok(_) => {
                    let text =
                        format!("edge.notify_token_file: {} must hold the token, and nothing else", path.display());
                    context.faults.add(at("notify_token_file"), text);
                    None
                }
                Err(error) => {
                    let text = format!("edge.notify_token_file: cannot read {}: {error}", path.display());
                    context.faults.add(at("notify_token_file"), text);
                    None
                }
            }
        }
        (None, Some(name)) => {
            let token = (context.around.env)(&name).filter(|token| is_token(token));
            if token.is_none() {
                let text =
                    format!("edge.notify_token_env: the environment variable `{name}` is not set or holds no token");
                context.faults.add(at("notify_token_env"), text);
            }
            token
        }
        (Some(_), Some(_)) => {
            let text = "edge has both notify_token_file and notify_token_env: keep one";
            context.faults.add(at("notify_token_env"), text);
            None
        }
        (None, None) => {
            if section.raw("notify_token_file").is_none() {
                let text = "edge lacks the edge's token: write notify_token_file = \"…\" or notify_token_env = \"…\"";
                context.faults.add(at("notify_url"), text);
            }
            None
        }
    };
    Some(NotifyEdge { url, token: token? })
}

fn is_token(token: &str) -> bool {
    (1..=TOKEN_BYTES).contains(&token.len()) && token.bytes().all(|byte| byte.is_ascii_graphic())
}
