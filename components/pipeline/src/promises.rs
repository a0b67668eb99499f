//! What a stage promised of its answer, checked by whoever called it. A fault is in words for the component's author.

use contract::{HttpRequest, Rendered, Signatures};
use mail::{header, seven_bit};

use crate::{raw, signatures};

/// Subject, HTML and text of one template together, in bytes.
const RENDERED_BYTES: usize = 5 << 20;
/// Header fields that belong to one connection (RFC 9110 s7.6.1), and what asks for an answer before the body.
const OF_ONE_HOP: [&str; 10] = [
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

/// What is wrong with the answer of a renderer.
pub fn rendered(had_subject: bool, answer: &Rendered) -> Option<&'static str> {
    let Rendered { subject, html, text, .. } = answer;
    let bytes: usize = [subject, html, text].into_iter().flatten().map(String::len).sum();
    if subject.is_some() != had_subject {
        Some("the subject is not there exactly when its source is")
    } else if subject.as_ref().is_some_and(|subject| subject.contains(['\r', '\n'])) {
        Some("the subject holds a line break")
    } else if html.is_none() && text.is_none() {
        Some("neither HTML nor text came out")
    } else if bytes > RENDERED_BYTES {
        Some("the result is too large")
    } else {
        None
    }
}

/// Where the body of a message that a transformer made begins; its size is for the caller to check.
///
/// Errors: what is wrong with it.
pub fn transformed(message: &[u8]) -> Result<usize, String> {
    if !seven_bit::is_seven_bit(message) {
        return Err("its message is not 7-bit".to_owned());
    }
    let format = header::check_format(message).and_then(|()| header::split(message));
    let (fields, body) = format.map_err(|error| error.to_string())?;
    raw::one_from(&fields).map_err(|refusal| refusal.text())?;
    Ok(body)
}

/// What is wrong with the answer of a signer.
pub fn signed(answer: &Signatures) -> Option<String> {
    signatures::check(&answer.headers).err()
}

/// What is wrong with the answer of a shaper; its size is for the caller to check.
pub fn shaped(answer: &HttpRequest) -> Option<String> {
    if !["POST", "PUT"].contains(&answer.method.as_str()) {
        return Some("its method must be POST or PUT".to_owned());
    }
    answer.headers.iter().find_map(|(name, value)| {
        if !is_token(name) {
            Some(format!("`{}` is not a header's name", name.escape_debug()))
        } else if OF_ONE_HOP.contains(&name.to_ascii_lowercase().as_str()) {
            Some(format!("it must not set `{name}`"))
        } else if value.bytes().any(|byte| byte != b'\t' && !matches!(byte, b' '..=b'~')) {
            Some(format!("`{name}` has a value that cannot be sent"))
        } else {
            None
        }
    })
}

/// RFC 9110 s5.6.2.
fn is_token(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

#[cfg(test)]
mod tests {
    use contract::RawHeader;

    use super::*;

    #[test]
    fn signers_answer_with_signatures() {
        let check = |name: &str, value: &str, expect: Option<&str>| {
            let headers = vec![RawHeader { name: name.to_owned(), value: value.as_bytes().to_vec() }];
            let fault = signed(&Signatures { headers, attributes: Vec::new() });
            assert_eq!(fault.as_deref(), expect, "{name:?} {value:?}");
        };
        check("DKIM-Signature", " v=1", None);
        check("From", " a@b.test", Some("`From` is not the name of a signature field"));
        check("ARC-Seal", "a\r\nBcc: x", Some("the value of `ARC-Seal` is not that of a header field"));
    }

    #[test]
    fn shapers_answer_with_requests_that_can_be_sent() {
        let check = |method: &str, name: &str, value: &str, expect: Option<&str>| {
            let headers = vec![(name.to_owned(), value.to_owned())];
            let fault = shaped(&HttpRequest { method: method.to_owned(), headers, body: Vec::new() });
            assert_eq!(fault.as_deref(), expect, "{method} {name:?} {value:?}");
        };
        check("POST", "Content-Type", "application/json; charset=utf-8", None);
        check("PUT", "host", "x.test", None);
        check("GET", "a", "b", Some("its method must be POST or PUT"));
        check("POST", "", "b", Some("`` is not a header's name"));
        check("POST", "a b", "b", Some("`a b` is not a header's name"));
        check("POST", "Transfer-Encoding", "chunked", Some("it must not set `Transfer-Encoding`"));
        check("POST", "a", "b\r\nc: d", Some("`a` has a value that cannot be sent"));
        check("POST", "a", "\u{e4}", Some("`a` has a value that cannot be sent"));
    }
}
