//! The development host's inbox.

/// A command line that sends a first mail to a development host.
pub fn curl_line(url: &str, key: &str) -> String {
    format!(
        "curl {url}/emails -H 'Authorization: Bearer {key}' -H 'Content-Type: application/json' \\\n    -d '{{\"from\": \"Me <me@example.com>\", \"to\": \"you@example.net\", \"subject\": \"Hello\", \"html\": \"<p>It <b>works</b>.</p>\"}}'"
    )
}
