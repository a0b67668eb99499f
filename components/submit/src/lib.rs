use spin_sdk::http::{IntoResponse, Request, Response};
#[allow(unsafe_code)]
mod bindings {
    spin_sdk::wit_bindgen::generate!({
        path: "../../wit",
        world: "posthaste:worlds/submit-imports",
        runtime_path: "::spin_sdk::wit_bindgen::rt",
        generate_all,
        with: { "posthaste:types/types@0.1.0": contract },
    });
}
use bindings::*;
#[allow(unsafe_code)]
#[spin_sdk::http_service]
async fn handle(_req: Request) -> anyhow::Result<impl IntoResponse> {
    let r = posthaste::validator::validator::validate(&contract::ValidatorInput::default());
    let r2 = posthaste::signer::signer::sign(&contract::SignerInput::default());
    let v = spin_sdk::variables::get("delivery_url").await?;
    Ok(Response::builder().status(200).body(format!("{r:?} {r2:?} {v}"))?)
}
