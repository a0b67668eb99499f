//! `[edge]`: which edge tells events, and what the host proves itself with there.

use delivery_client::wire::NOTIFY_PATH;

use super::load::secret_file;
use super::reader::{Context, Reader};

const WRITE: &str = "write notify_token_file = \"…\" or notify_token_env = \"…\"";

/// The edge whose `notify` tells events.
#[derive(Clone, PartialEq, Eq)]
pub struct NotifyEdge {
    /// What `/notify` is put behind: an origin, and the path that the edge stands below; no slash at its end.
    pub url: String,
    /// Visible ASCII.
    pub token: String,
}

/// Never prints the token.
impl std::fmt::Debug for NotifyEdge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NotifyEdge").field("url", &self.url).finish_non_exhaustive()
    }
}

/// Reads the section, where there is one.
pub(super) fn read(context: &mut Context<'_, '_>, section: &Reader<'_, '_>) -> Option<NotifyEdge> {
    let url: Option<String> = section.demand(context, "notify_url");
    let url = url.and_then(|text| match is_base(text.trim()) {
        true => Some(text.trim().trim_end_matches('/').to_owned()),
        false => {
            let text = "edge.notify_url: write an origin such as https://edge.example.com, with the path that the edge stands below and without `/notify`";
            if let Some((_, value)) = section.raw("notify_url") {
                context.faults.add(value.span(), text);
            }
            None
        }
    });
    let token = token(context, section);
    Some(NotifyEdge { url: url?, token: token? })
}

/// Whether it is an http URL without credentials and query, and not yet the path of `notify` itself.
fn is_base(text: &str) -> bool {
    let Ok(url) = text.parse::<http::Uri>() else { return false };
    let is_web = matches!(url.scheme_str(), Some("http" | "https"));
    let has_host = url.authority().is_some_and(|authority| !authority.as_str().contains('@'));
    is_web && has_host && url.query().is_none() && !url.path().trim_end_matches('/').ends_with(NOTIFY_PATH)
}

fn token(context: &mut Context<'_, '_>, section: &Reader<'_, '_>) -> Option<String> {
    if section.raw("notify_token").is_some() {
        return None;
    }
    let (at, token) = match (section.raw("notify_token_file"), section.raw("notify_token_env")) {
        (Some((_, at)), None) => (at, secret_file(context, at, "edge.notify_token_file", "token")?),
        (None, Some((_, at))) => {
            let name: String = section.get(context, "notify_token_env")?;
            let found = (context.around.env)(&name).filter(|token| !token.is_empty());
            if found.is_none() {
                let text = format!("edge.notify_token_env: the environment variable `{name}` is not set or is empty");
                context.faults.add(at.span(), text);
            }
            (at, found?)
        }
        (Some(_), Some((_, at))) => {
            context.faults.add(at.span(), "edge has both notify_token_file and notify_token_env: keep one");
            return None;
        }
        (None, None) => {
            if let Some((key, _)) = section.raw("notify_url") {
                context.faults.add(key, format!("edge lacks the token: {WRITE}"));
            }
            return None;
        }
    };
    // It goes into a header field.
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        context.faults.add(at.span(), "edge: the token holds something else than letters, digits and signs");
        return None;
    }
    Some(token)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::parse;

    #[test]
    fn an_edge_is_named_with_its_token() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("token"), "phd_1\n").unwrap();
        let env = |name: &str| (name == "TOKEN").then(|| "phd_2".to_owned());
        let read = |text: &str| {
            let text = format!("hostname = \"a.test\"\ndata = \"d\"\n[http]\nlisten = \"127.0.0.1:0\"\n{text}");
            parse(&folder.path().join("here.toml"), &text, &env)
        };
        assert_eq!(read("").unwrap().notify_edge, None);
        let good = |text: &str, expect: (&str, &str)| {
            let edge = read(text).unwrap().notify_edge.unwrap();
            assert_eq!((edge.url.as_str(), edge.token.as_str()), expect, "{text}");
            assert!(!format!("{edge:?}").contains("phd_"));
        };
        let url = "[edge]\nnotify_url = \"https://edge.test/\"\n";
        good(&format!("{url}notify_token_file = \"token\"\n"), ("https://edge.test", "phd_1"));
        good(&format!("{url}notify_token_env = \"TOKEN\"\n"), ("https://edge.test", "phd_2"));
        let below = "[edge]\nnotify_url = \"https://edge.test/acme\"\nnotify_token_env = \"TOKEN\"\n";
        good(below, ("https://edge.test/acme", "phd_2"));
        let bad = |text: &str, part: &str| {
            let faults = read(text).unwrap_err().to_string();
            assert!(faults.contains(part), "{faults}");
        };
        bad(url, "edge lacks the token");
        bad("[edge]\nnotify_token_env = \"TOKEN\"\n", "lacks `notify_url`");
        bad(&format!("{url}notify_token_env = \"NONE\"\n"), "`NONE` is not set");
        bad(&format!("{url}notify_token_env = \"TOKEN\"\nnotify_token_file = \"token\"\n"), "keep one");
        bad(&format!("{url}notify_token_file = \"missing\"\n"), "missing");
        bad("[edge]\nnotify_url = \"https://edge.test/notify\"\nnotify_token_env = \"TOKEN\"\n", "without `/notify`");
        bad("[edge]\nnotify_url = \"edge.test\"\nnotify_token_env = \"TOKEN\"\n", "write an origin");
        bad(&format!("{url}notify_token = \"phd_3\"\n"), "unknown key `edge.notify_token`");
        std::fs::write(folder.path().join("token"), "phd 1\n").unwrap();
        bad(&format!("{url}notify_token_file = \"token\"\n"), "letters, digits and signs");
    }
}
