//! The HTTP client of WASI 0.3 as a stage gets it: it answers every request at once, with an error.
//!
//! A stage's function is synchronous, and the component model traps whatever would wait in one. So what is denied is
//! denied without waiting, as by WASI 0.2; and where the host is granted, the error says how a stage can wait.

use wasmtime::AsContextMut as _;
use wasmtime::component::{Accessor, HasData, Linker, Resource};
use wasmtime_wasi::TrappableError;
use wasmtime_wasi_http::p3::bindings::http::client;
use wasmtime_wasi_http::p3::bindings::http::types::ErrorCode;
use wasmtime_wasi_http::p3::{Request, Response};
use wasmtime_wasi_http::{WasiHttpCtxView, WasiHttpView as _};

use super::confine::Guest;

/// What the author of a stage reads who asks a granted host.
const INSTEAD: &str = "a stage is synchronous and cannot wait for WASI 0.3: use wasi:http/outgoing-handler@0.2";

/// Gives stages their `wasi:http/client@0.3.0`.
pub fn add_client(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    client::add_to_linker::<_, Unwaiting>(linker, Guest::http)
}

struct Unwaiting;

impl HasData for Unwaiting {
    type Data<'a> = WasiHttpCtxView<'a>;
}

impl client::HostWithStore<Guest> for Unwaiting {
    async fn send(
        store: &Accessor<Guest, Self>,
        request: Resource<Request>,
    ) -> Result<Resource<Response>, TrappableError<ErrorCode>> {
        store.with(|mut store| {
            let request = store.get().table.delete(request).map_err(TrappableError::trap)?;
            // Read and dropped: then its body and its trailers have an end, and whoever still writes them need not wait.
            let (request, _) = request.into_http(&mut store, async { Ok(()) })?;
            let code = match store.as_context_mut().data().may_ask(request.uri()) {
                true => ErrorCode::InternalError(Some(INSTEAD.to_owned())),
                false => ErrorCode::HttpRequestDenied,
            };
            Err(code.into())
        })
    }
}
