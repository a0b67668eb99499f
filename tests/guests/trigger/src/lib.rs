//! An HTTP trigger that does what the path of the request says: for tests of how the host serves triggers.

use bytes::Bytes;
use contract::{SignerInput, ValidatorInput};
use http_body_util::Full;
use spin_sdk::http::body::IncomingBodyExt;
use spin_sdk::http::{IntoResponse, Request, Response};

/// Bindings to the contract, as generated.
#[allow(unsafe_code)]
mod bindings {
    spin_sdk::wit_bindgen::generate!({
        path: "../../../wit",
        world: "posthaste:worlds/submit-imports",
        runtime_path: "::spin_sdk::wit_bindgen::rt",
        generate_all,
        with: { "posthaste:types/types@0.1.0": contract },
    });
}

use bindings::posthaste::{signer::signer, validator::validator};

#[allow(unsafe_code)]
#[spin_sdk::http_service]
async fn handle(request: Request) -> anyhow::Result<impl IntoResponse> {
    let path = request.uri().path().to_owned();
    let body = request.into_body().bytes().await?;
    let text = match path.as_str() {
        "/echo" => return Ok(answer(body)),
        "/panic" => panic!("told to panic"),
        "/allocate" => allocate(),
        // A stage before the key is checked.
        "/early" => validate("accept"),
        // The tenant whose name is the body, then its stages.
        "/road" => format!("{} {} {}", ask("auth", body).await, validate("accept"), sign()),
        // A stage that does as the body says.
        "/stage" => {
            ask("auth", Bytes::from_static(b"acme")).await;
            validate(&String::from_utf8_lossy(&body))
        }
        // Two tenants in one instance.
        "/twice" => {
            let first = ask("auth", Bytes::from_static(b"acme")).await;
            format!("{first} {}", ask("auth", Bytes::from_static(b"other")).await)
        }
        "/outside" => send("http://example.org/", body).await,
        "/variables" => {
            let url = spin_sdk::variables::get("delivery_url").await?;
            format!("{url} {:?}", spin_sdk::variables::get("dkim_keys").await.is_err())
        }
        other => format!("cannot {other}"),
    };
    Ok(answer(text.into()))
}

fn answer(body: Bytes) -> Response<Full<Bytes>> {
    Response::new(Full::new(body))
}

async fn ask(what: &str, body: Bytes) -> String {
    send(&format!("http://delivery.internal/{what}"), body).await
}

async fn send(url: &str, body: Bytes) -> String {
    let mut request = spin_sdk::http::Request::new(Full::new(body));
    match url.parse() {
        Ok(uri) => *request.uri_mut() = uri,
        Err(error) => return format!("{error}"),
    }
    match spin_sdk::http::send(request).await {
        Ok(response) => match response.into_body().bytes().await {
            Ok(body) => String::from_utf8_lossy(&body).into_owned(),
            Err(error) => format!("{error:?}"),
        },
        Err(error) => format!("{error:?}"),
    }
}

fn validate(told: &str) -> String {
    let attributes = vec![("do".to_owned(), told.to_owned())];
    format!("{:?}", validator::validate(&ValidatorInput { attributes, ..ValidatorInput::default() }))
}

fn sign() -> String {
    format!("{:?}", signer::sign(&SignerInput { domain: "acme.test".to_owned(), ..SignerInput::default() }))
}

fn allocate() -> String {
    let mut held = Vec::new();
    loop {
        held.push(std::hint::black_box(vec![1_u8; 1 << 20]));
    }
}
