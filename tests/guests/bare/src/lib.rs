//! An HTTP trigger that only answers 200: what any trigger costs, for `bench edge`.

use bytes::Bytes;
use http_body_util::Full;
use spin_sdk::http::{Request, Response};

#[allow(unsafe_code)]
#[spin_sdk::http_service]
async fn handle(_request: Request) -> Response<Full<Bytes>> {
    Response::new(Full::new(Bytes::new()))
}
