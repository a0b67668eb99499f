//! What a stage promised of its answer, checked by whoever called it. A fault is in words for the component's author.

use contract::{Rendered, Signatures};
use mail::{header, seven_bit};

use crate::{raw, signatures};

/// Subject, HTML and text of one template together, in bytes.
const RENDERED_BYTES: usize = 5 << 20;

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
}
