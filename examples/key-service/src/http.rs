//! Requests that block, over `wasi:http` 0.2. Errors are in words for the operator's log.

use wasip2::http::outgoing_handler;
use wasip2::http::types::{Fields, IncomingBody, IncomingResponse, Method, OutgoingBody, OutgoingRequest, Scheme};
use wasip2::io::streams::StreamError;

/// Bytes of an answer.
const ANSWER_BYTES: usize = 64 << 10;

/// What a GET of the URL answers, where that is a 200.
pub fn get(url: &str) -> Result<Vec<u8>, String> {
    ask(Method::Get, url, &[])
}

/// What a POST to the URL answers, where that is a 200.
pub fn post(url: &str, body: &[u8]) -> Result<Vec<u8>, String> {
    ask(Method::Post, url, body)
}

fn ask(method: Method, url: &str, body: &[u8]) -> Result<Vec<u8>, String> {
    let (scheme, rest) = url.split_once("://").ok_or("the key service's URL has no scheme")?;
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let scheme = if scheme == "https" { Scheme::Https } else { Scheme::Http };
    let wrong = |()| format!("{url} cannot be asked");

    let request = OutgoingRequest::new(Fields::new());
    request.set_method(&method).map_err(wrong)?;
    request.set_scheme(Some(&scheme)).map_err(wrong)?;
    request.set_authority(Some(authority)).map_err(wrong)?;
    request.set_path_with_query(Some(&format!("/{path}"))).map_err(wrong)?;
    let outgoing = request.body().map_err(wrong)?;
    let waiting = outgoing_handler::handle(request, None).map_err(|error| format!("{url}: {error:?}"))?;
    if !body.is_empty() {
        let stream = outgoing.write().map_err(wrong)?;
        stream.blocking_write_and_flush(body).map_err(|error| format!("{url}: {error:?}"))?;
    }
    OutgoingBody::finish(outgoing, None).map_err(|error| format!("{url}: {error:?}"))?;

    waiting.subscribe().block();
    let answer = waiting.get().and_then(Result::ok).ok_or("the answer was taken twice")?;
    read(url, &answer.map_err(|error| format!("{url}: {error:?}"))?)
}

fn read(url: &str, response: &IncomingResponse) -> Result<Vec<u8>, String> {
    if response.status() != 200 {
        return Err(format!("{url} answered {}", response.status()));
    }
    let body: IncomingBody = response.consume().map_err(|()| format!("{url}: no body"))?;
    let stream = body.stream().map_err(|()| format!("{url}: no body"))?;
    let mut bytes = Vec::new();
    loop {
        match stream.blocking_read(8192) {
            Ok(more) => bytes.extend(more),
            Err(StreamError::Closed) => return Ok(bytes),
            Err(error) => return Err(format!("{url}: {error:?}")),
        }
        if bytes.len() > ANSWER_BYTES {
            return Err(format!("{url}: the answer is larger than {ANSWER_BYTES} bytes"));
        }
    }
}
