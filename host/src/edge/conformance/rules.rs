//! Promises of the contract beyond those of `pipeline::promises`: what is wrong with an answer, in words for the component's
//! author.

use contract::{CHECK_ATTRIBUTE, HttpRequest, Rendered, RendererInput};
use http::header::{HeaderName, HeaderValue};

/// Header fields that belong to a connection and not to a request (RFC 9110 s7.6.1), or ask for an answer before the body.
const OF_ONE_HOP: &[&str] = &[
    "connection",
    "expect",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// A renderer drops no part and makes up none but the text.
pub fn rendered(input: &RendererInput, answer: &Rendered) -> Option<String> {
    if input.attributes.iter().any(|(name, _)| name == CHECK_ATTRIBUTE) {
        return None;
    }
    if answer.html.is_some() != input.html.is_some() {
        return Some("`html` must be there exactly when its source is".to_owned());
    }
    if input.text.is_some() && answer.text.is_none() {
        return Some("`text` must be there when its source is".to_owned());
    }
    None
}

/// A shaper's request can be sent, and is written as the contract has it.
pub fn shaped(request: &HttpRequest) -> Option<String> {
    unsendable(request).or_else(|| {
        let name =
            request.headers.iter().map(|(name, _)| name).find(|name| name.bytes().any(|it| it.is_ascii_uppercase()));
        name.map(|name| format!("`{name}`: write names of header fields in lower case"))
    })
}

/// Why a shaper's request cannot be sent.
pub fn unsendable(request: &HttpRequest) -> Option<String> {
    if !["POST", "PUT"].contains(&request.method.as_str()) {
        return Some(format!("`{}` is not a method for it: write POST or PUT", request.method.escape_debug()));
    }
    request.headers.iter().find_map(|(name, value)| {
        let shown = name.escape_debug();
        let Ok(name) = HeaderName::from_bytes(name.as_bytes()) else {
            return Some(format!("`{shown}` is not the name of a header field"));
        };
        if OF_ONE_HOP.contains(&name.as_str()) {
            Some(format!("it must not set `{shown}`, which belongs to the connection"))
        } else if HeaderValue::from_str(value).is_err() {
            Some(format!("`{shown}` has a value that cannot be sent: only printable ASCII can"))
        } else {
            None
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests() {
        let check = |method: &str, name: &str, value: &str, expect: Option<&str>| {
            let headers = vec![(name.to_owned(), value.to_owned())];
            let fault = shaped(&HttpRequest { method: method.to_owned(), headers, body: vec![] });
            match (&fault, expect) {
                (None, None) => {}
                (Some(fault), Some(expect)) => assert!(fault.contains(expect), "{fault} does not say {expect}"),
                _ => assert_eq!(fault.as_deref(), expect),
            }
        };
        check("POST", "content-type", "application/json", None);
        check("PUT", "x-empty", "", None);
        check("GET", "x", "y", Some("write POST or PUT"));
        check("POST", "Content-Type", "x", Some("lower case"));
        check("POST", "x y", "x", Some("not the name"));
        check("POST", "", "x", Some("not the name"));
        check("POST", "connection", "close", Some("belongs to the connection"));
        check("POST", "Connection", "close", Some("belongs to the connection"));
        check("POST", "x", "a\r\nb: c", Some("cannot be sent"));
    }

    /// Sent all the same, once it is at work.
    #[test]
    fn capitals_stop_no_request() {
        let headers = vec![("Content-Type".to_owned(), "text/plain".to_owned())];
        let request = HttpRequest { method: "POST".to_owned(), headers, body: vec![] };
        assert_eq!(unsendable(&request), None);
        assert!(shaped(&request).is_some());
    }

    #[test]
    fn parts() {
        let check = |html: Option<&str>, text: Option<&str>, answer: (Option<&str>, Option<&str>), fits: bool| {
            let own = |text: Option<&str>| text.map(str::to_owned);
            let input = RendererInput { html: own(html), text: own(text), ..RendererInput::default() };
            let answer = Rendered { html: own(answer.0), text: own(answer.1), ..Rendered::default() };
            assert_eq!(rendered(&input, &answer).is_none(), fits, "{input:?} {answer:?}");
        };
        check(Some("h"), None, (Some("h"), None), true);
        check(Some("h"), None, (Some("h"), Some("t")), true);
        check(Some("h"), Some("t"), (Some("h"), None), false);
        check(Some("h"), Some("t"), (None, Some("t")), false);
        check(None, Some("t"), (Some("h"), Some("t")), false);
    }
}
