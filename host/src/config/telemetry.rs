//! `[telemetry]`: where spans go.

use http::{HeaderName, HeaderValue, Uri};
use toml::Spanned;
use toml::de::DeValue;

use super::reader::{Context, Reader};
use super::value::{ReadableFile, Setting, Surroundings, Wrong, io_text};

/// Where OTLP over HTTP has its traces, where the endpoint says no more than the origin.
const TRACES_PATH: &str = "/v1/traces";

/// A collector that takes OTLP over HTTP.
#[derive(Clone, PartialEq)]
pub struct Telemetry {
    /// An absolute URL.
    pub endpoint: String,
    /// Sent with each batch.
    pub headers: Vec<(String, String)>,
    /// The part of all traces that is sent: from 0 to 1.
    pub sample_ratio: f64,
}

/// Never prints the headers: a key may be among them.
impl std::fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Telemetry").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

/// A number from 0 to 1.
struct Ratio(f64);

impl Setting for Ratio {
    fn read(value: &Spanned<DeValue<'_>>, _: &Surroundings<'_>) -> Result<Self, Wrong> {
        let number: Option<f64> = match value.get_ref() {
            DeValue::Integer(number) => number.as_str().parse().ok(),
            DeValue::Float(number) => number.as_str().parse().ok(),
            _ => None,
        };
        match number.filter(|number| (0.0..=1.0).contains(number)) {
            Some(number) => Ok(Ratio(number)),
            None => Err(vec![(value.span(), "write a number from 0 to 1, such as 0.1".to_owned())]),
        }
    }
}

/// Reads the section, where there is one.
pub(super) fn read(context: &mut Context<'_, '_>, section: &Reader<'_, '_>) -> Option<Telemetry> {
    let endpoint: Option<String> = section.demand(context, "otlp_endpoint");
    let endpoint = endpoint.and_then(|text| match traces_url(&text) {
        Some(url) => Some(url),
        None => {
            if let Some((_, value)) = section.raw("otlp_endpoint") {
                let text = "telemetry.otlp_endpoint: write a URL such as http://127.0.0.1:4318; `/v1/traces` is added where it has no path";
                context.faults.add(value.span(), text);
            }
            None
        }
    });
    let headers = headers(context, section);
    let ratio = section.get(context, "sample_ratio").map(|Ratio(number)| number);
    Some(Telemetry { endpoint: endpoint?, headers: headers?, sample_ratio: ratio? })
}

fn traces_url(text: &str) -> Option<String> {
    let uri: Uri = text.trim().parse().ok()?;
    let is_web = matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some_and(|host| !host.is_empty());
    let text = uri.to_string();
    match uri.path() {
        _ if !is_web => None,
        "" | "/" => Some(format!("{}{TRACES_PATH}", text.trim_end_matches('/'))),
        _ => Some(text),
    }
}

/// From a file or a variable, one `Name: value` a line.
fn headers(context: &mut Context<'_, '_>, section: &Reader<'_, '_>) -> Option<Vec<(String, String)>> {
    let (at, text) = match (section.raw("otlp_headers_file"), section.raw("otlp_headers_env")) {
        (None, None) => return Some(Vec::new()),
        (Some(_), Some((_, at))) => {
            context.faults.add(at.span(), "telemetry has both otlp_headers_file and otlp_headers_env: keep one");
            return None;
        }
        (Some((_, at)), None) => {
            let ReadableFile(file) = section.get(context, "otlp_headers_file")?;
            match std::fs::read_to_string(&file) {
                Ok(text) => (at, text),
                Err(error) => {
                    let text =
                        format!("telemetry.otlp_headers_file: cannot read {}: {}", file.display(), io_text(&error));
                    context.faults.add(at.span(), text);
                    return None;
                }
            }
        }
        (None, Some((_, at))) => {
            let name: String = section.get(context, "otlp_headers_env")?;
            match (context.around.env)(&name) {
                Some(text) => (at, text),
                None => {
                    let text = format!("telemetry.otlp_headers_env: the environment variable `{name}` is not set");
                    context.faults.add(at.span(), text);
                    return None;
                }
            }
        }
    };
    let mut headers = Vec::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        match field(line) {
            Some(field) => headers.push(field),
            None => {
                let text = format!("telemetry: line {} of the headers is not `Name: value`", number + 1);
                context.faults.add(at.span(), text);
                return None;
            }
        }
    }
    Some(headers)
}

fn field(line: &str) -> Option<(String, String)> {
    let (name, value) = line.split_once(':')?;
    let (name, value) = (name.trim(), value.trim());
    let fits = HeaderName::from_bytes(name.as_bytes()).is_ok() && HeaderValue::from_str(value).is_ok();
    fits.then(|| (name.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::parse;

    #[test]
    fn a_collector_is_named() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("headers"), "Authorization: Bearer t:1\n\nx-team: mail\n").unwrap();
        let env = |name: &str| (name == "HEADERS").then(|| "x-team: blue".to_owned());
        let read = |text: &str| {
            let text = format!("hostname = \"a.test\"\ndata = \"d\"\n[http]\nlisten = \"127.0.0.1:0\"\n{text}");
            parse(&folder.path().join("here.toml"), &text, &env)
        };
        assert_eq!(read("").unwrap().telemetry, None);
        let good = |text: &str| read(&format!("[telemetry]\n{text}")).unwrap().telemetry.unwrap();
        let plain = good("otlp_endpoint = \"http://127.0.0.1:4318\"");
        assert_eq!(
            (plain.endpoint.as_str(), plain.headers.len(), plain.sample_ratio),
            ("http://127.0.0.1:4318/v1/traces", 0, 1.0)
        );
        let full =
            good("otlp_endpoint = \"https://c.test/otlp/t\"\notlp_headers_file = \"headers\"\nsample_ratio = 0.25");
        assert_eq!((full.endpoint.as_str(), full.sample_ratio), ("https://c.test/otlp/t", 0.25));
        assert_eq!(full.headers[0], ("Authorization".to_owned(), "Bearer t:1".to_owned()));
        assert_eq!(full.headers.len(), 2);
        assert!(!format!("{full:?}").contains("Bearer"));
        let from_env = good("otlp_endpoint = \"http://c.test/\"\notlp_headers_env = \"HEADERS\"\nsample_ratio = 1");
        assert_eq!(from_env.headers, [("x-team".to_owned(), "blue".to_owned())]);
        let bad = |text: &str, part: &str| {
            let faults = read(&format!("[telemetry]\n{text}")).unwrap_err().to_string();
            assert!(faults.contains(part), "{faults}");
        };
        bad("", "lacks `otlp_endpoint`");
        bad("otlp_endpoint = \"c.test:4318\"", "write a URL such as");
        bad("otlp_endpoint = \"ftp://c.test\"", "write a URL such as");
        let url = "otlp_endpoint = \"http://c.test\"\n";
        bad(&format!("{url}sample_ratio = 1.5"), "telemetry.sample_ratio: write a number from 0 to 1");
        bad(&format!("{url}sample_ratio = \"all\""), "write a number from 0 to 1");
        bad(&format!("{url}otlp_headers_env = \"NONE\""), "`NONE` is not set");
        bad(&format!("{url}otlp_headers_env = \"HEADERS\"\notlp_headers_file = \"headers\""), "keep one");
        std::fs::write(folder.path().join("headers"), "no header\n").unwrap();
        bad(&format!("{url}otlp_headers_file = \"headers\""), "line 1 of the headers");
        bad(&format!("{url}endpoint = \"x\""), "unknown key `telemetry.endpoint`");
    }
}
