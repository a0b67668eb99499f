//! What a message may need that is not in its request: a stored template, a file from the web.

use http::header::CONTENT_TYPE;
use http::{HeaderMap, Method};

use crate::client::{Client, DeliveryError, Http, expect_ok, read};
use crate::wire::{FETCH_PATH, FILE_NAME_HEADER, FetchRequest, TEMPLATES_PATH, TemplateAnswer};

/// What the host fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    pub content: Vec<u8>,
    /// As the other server or the URL names it.
    pub file_name: Option<String>,
    /// As the other server gives it.
    pub content_type: Option<String>,
}

impl<H: Http> Client<H> {
    /// A published template of the tenant, by id or alias. `Refused` with 404 where there is none. `id` must need no
    /// escaping in a path.
    pub async fn template(&self, token: &str, id: &str) -> Result<TemplateAnswer, DeliveryError> {
        let path = format!("{TEMPLATES_PATH}/{id}");
        let response = self.call(Method::GET, &path, "application/json", Some(token), Vec::new()).await?;
        match expect_ok(response) {
            // The token is the host's: it is there, and the template is not.
            Err(DeliveryError::NoHost(text)) => {
                Err(DeliveryError::Refused { status: 404, name: "not_found".to_owned(), text, retry_after_s: None })
            }
            answer => read(&answer?),
        }
    }

    /// Has the host fetch a file from the web. `Refused` with 422 where it cannot be had, with the reason.
    pub async fn fetch(&self, token: &str, request: &FetchRequest) -> Result<Fetched, DeliveryError> {
        let body = serde_json::to_vec(request).map_err(|error| DeliveryError::Nonsense(error.to_string()))?;
        let response = self.call(Method::POST, FETCH_PATH, "application/json", Some(token), body).await?;
        let text = |headers: &HeaderMap, name: &str| {
            let value = headers.get(name).and_then(|value| value.to_str().ok());
            value.map(str::to_owned).filter(|text| !text.is_empty())
        };
        let content_type = text(response.headers(), CONTENT_TYPE.as_str());
        let file_name = text(response.headers(), FILE_NAME_HEADER).map(|name| unescape(&name));
        Ok(Fetched { content: expect_ok(response)?, file_name, content_type })
    }
}

/// Writes any text as the value of a header: UTF-8, what is not plain escaped as in URLs.
pub fn escape(text: &str) -> String {
    text.bytes().fold(String::new(), |mut escaped, byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b' ' => escaped.push(char::from(byte)),
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
        escaped
    })
}

/// Reads what `escape` wrote; anything else stays as it is.
pub fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        let digits = behind.get(..2).filter(|digits| *first == b'%' && digits.iter().all(u8::is_ascii_hexdigit));
        let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &behind[2..];
            }
            None => {
                bytes.push(*first);
                rest = behind;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_name_fits_into_a_header() {
        for name in ["a.pdf", "Rechnung für \"Bö\".pdf", "a\r\nb", "100%", "%41"] {
            let escaped = escape(name);
            assert!(escaped.is_ascii() && !escaped.chars().any(char::is_control), "{escaped}");
            assert_eq!(unescape(&escaped), name);
        }
        for odd in ["%", "%4", "%zz", "a%+1"] {
            assert_eq!(unescape(odd), odd);
        }
    }
}
