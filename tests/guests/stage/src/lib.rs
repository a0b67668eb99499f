//! A validator that misbehaves as it is told, by the attribute `do` of its input: for tests of containment.

use std::cell::Cell;
use std::time::Duration;

use contract::{Acceptance, Finding, FindingClass, StageError, ValidatorInput, Wants};

/// Bindings to the contract, as generated.
#[allow(unsafe_code)]
mod bindings {
    wit_bindgen::generate!({
        path: "../../../wit",
        world: "posthaste:worlds/validate-stage",
        generate_all,
        with: { "posthaste:types/types@0.1.0": contract },
    });

    use super::Stage;
    export!(Stage);
}

use bindings::exports::posthaste::validator::validator::Guest;

struct Stage;

thread_local! {
    /// Calls of `validate` that this instance has seen, and of `describe`.
    static CALLS: Cell<u32> = const { Cell::new(0) };
}

impl Guest for Stage {
    fn describe() -> Result<Wants, StageError> {
        Ok(Wants { text: true, html: false, raw: false })
    }

    fn validate(input: ValidatorInput) -> Result<Acceptance, StageError> {
        CALLS.set(CALLS.get() + 1);
        let told = |name: &str| input.attributes.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        match told("do").unwrap_or("accept") {
            "accept" => {}
            "panic" => panic!("told to panic"),
            "loop" => endless(),
            "recurse" => {
                std::hint::black_box(recurse(0));
            }
            "allocate" => allocate(),
            "sleep" => std::thread::sleep(Duration::from_secs(3600)),
            "expect text" if input.text.is_none() => return Err(StageError::Unavailable("it saw no text".to_owned())),
            "expect text" => return answer(Vec::new()),
            "write" => (0..10_000).for_each(|line| eprintln!("line {line} of a talkative component")),
            "grow" => drop(std::hint::black_box(vec![1_u8; 16 << 20])),
            "refuse" => return Err(StageError::Refused(finding("told to refuse"))),
            "attributes" => return answer(vec![("x".to_owned(), "y".to_owned()); 65]),
            "flood" => {
                let value = "v".repeat(1 << 20);
                return answer((0..16).map(|_| ("x".to_owned(), value.clone())).collect());
            }
            "connect" => {
                let found = std::net::TcpStream::connect("127.0.0.1:25").err().map(|error| error.kind().to_string());
                return answer(vec![("connect".to_owned(), found.unwrap_or_else(|| "connected".to_owned()))]);
            }
            "http" => return answer(vec![("http".to_owned(), get(told("authority").unwrap_or_default()))]),
            "http3" => {
                return answer(vec![("http".to_owned(), get_async(told("authority").unwrap_or_default().to_owned()))]);
            }
            "sockets3" => return answer(sockets_async()),
            "files3" => {
                let found = wasip3::filesystem::preopens::get_directories().len();
                return answer(vec![("directories".to_owned(), found.to_string())]);
            }
            "wait3" => wasip3::wit_bindgen::block_on(wasip3::clocks::monotonic_clock::wait_for(1_000_000)),
            "files" => {
                let found = std::fs::read_dir("/").err().map(|error| error.kind().to_string());
                return answer(vec![("files".to_owned(), found.unwrap_or_else(|| "read".to_owned()))]);
            }
            "environment" => return answer(vec![("variables".to_owned(), std::env::vars().count().to_string())]),
            other => return Err(StageError::Unavailable(format!("cannot `{other}`"))),
        }
        answer(vec![("calls".to_owned(), CALLS.get().to_string())])
    }
}

fn answer(attributes: Vec<(String, String)>) -> Result<Acceptance, StageError> {
    Ok(Acceptance { warnings: Vec::new(), attributes })
}

/// `GET http://authority/` by WASI 0.2, waiting for the answer: its status, or the error.
fn get(authority: &str) -> String {
    use wasip2::http::outgoing_handler;
    use wasip2::http::types::{Fields, OutgoingRequest, Scheme};
    let request = OutgoingRequest::new(Fields::new());
    let set = request.set_scheme(Some(&Scheme::Http)).and_then(|()| request.set_authority(Some(authority)));
    if set.and_then(|()| request.set_path_with_query(Some("/"))).is_err() {
        return "no such target".to_owned();
    }
    let coming = match outgoing_handler::handle(request, None) {
        Ok(coming) => coming,
        Err(error) => return format!("{error:?}"),
    };
    coming.subscribe().block();
    match coming.get() {
        Some(Ok(Ok(response))) => response.status().to_string(),
        Some(Ok(Err(error))) => format!("{error:?}"),
        Some(Err(())) | None => "no answer".to_owned(),
    }
}

/// The same by WASI 0.3, with a body that nobody reads. A stage's function is synchronous: it may not wait for what does
/// not end at once.
fn get_async(authority: String) -> String {
    use wasip3::http::client;
    use wasip3::http::types::{Fields, Request, Scheme};
    wasip3::wit_bindgen::block_on(async move {
        // Written, by being dropped, only after the request: until it is read a write would wait.
        let (_written_later, trailers) = wasip3::wit_future::new(|| Ok(None));
        let (_body, contents) = wasip3::wit_stream::new();
        let (request, _sent) = Request::new(Fields::new(), Some(contents), trailers, None);
        let set = request.set_scheme(Some(&Scheme::Http)).and_then(|()| request.set_authority(Some(&authority)));
        if set.and_then(|()| request.set_path_with_query(Some("/"))).is_err() {
            return "no such target".to_owned();
        }
        match client::send(request).await {
            Ok(response) => response.get_status_code().to_string(),
            Err(error) => format!("{error:?}"),
        }
    })
}

/// What sockets and look-ups of names come to by WASI 0.3.
fn sockets_async() -> Vec<(String, String)> {
    use wasip3::sockets::ip_name_lookup::resolve_addresses;
    use wasip3::sockets::types::{IpAddressFamily, IpSocketAddress, Ipv4SocketAddress, TcpSocket, UdpSocket};
    wasip3::wit_bindgen::block_on(async {
        let here = || IpSocketAddress::Ipv4(Ipv4SocketAddress { port: 25, address: (127, 0, 0, 1) });
        let tcp = match TcpSocket::create(IpAddressFamily::Ipv4) {
            Ok(socket) => socket.connect(here()).await,
            Err(error) => Err(error),
        };
        let udp = match UdpSocket::create(IpAddressFamily::Ipv4) {
            Ok(socket) => socket.send(vec![0], Some(here())).await,
            Err(error) => Err(error),
        };
        let name = resolve_addresses("localhost".to_owned()).await;
        vec![
            ("tcp".to_owned(), format!("{tcp:?}")),
            ("udp".to_owned(), format!("{udp:?}")),
            ("name".to_owned(), format!("{name:?}")),
        ]
    })
}

fn finding(text: &str) -> Finding {
    Finding { class: FindingClass::Policy, text: text.to_owned(), status: None, field: None, position: None }
}

fn endless() {
    let mut count = 0_u64;
    loop {
        count = std::hint::black_box(count.wrapping_add(1));
    }
}

#[expect(unconditional_recursion, reason = "to exhaust the stack")]
fn recurse(depth: u64) -> u64 {
    let frame = std::hint::black_box([depth; 64]);
    recurse(depth + 1) + frame[0]
}

fn allocate() {
    let mut held = Vec::new();
    loop {
        held.push(std::hint::black_box(vec![1_u8; 1 << 20]));
    }
}
