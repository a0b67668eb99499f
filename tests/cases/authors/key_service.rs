//! An outside service that holds DKIM keys, as `examples/key-service` asks it.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

/// What it calls its only key.
const KEY: &str = "kms-7";

/// The selector that the key is published under.
pub const SELECTOR: &str = "kms";

/// The service; it serves until the test ends.
pub struct KeyService {
    address: SocketAddr,
    record: String,
}

impl KeyService {
    /// Listens on a free port of loopback, with a fresh Ed25519 key for this domain.
    pub fn start(domain: &str) -> KeyService {
        let pair = Arc::new(Ed25519KeyPair::generate().unwrap());
        let record = format!("v=DKIM1; k=ed25519; p={}", STANDARD.encode(pair.public_key()));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let keys = format!("/keys/{domain}");
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (pair, keys) = (pair.clone(), keys.clone());
                thread::spawn(move || serve(stream, &keys, &pair));
            }
        });
        KeyService { address, record }
    }

    /// `127.0.0.1:PORT`.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// What is published of the key, below `SELECTOR`.
    pub fn record(&self) -> &str {
        &self.record
    }
}

fn serve(mut stream: TcpStream, keys: &str, pair: &Ed25519KeyPair) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    while let Some((line, body)) = read(&mut reader) {
        let (status, answer) = match line.split(' ').take(2).collect::<Vec<_>>().as_slice() {
            ["GET", path] if *path == keys => {
                (200, json!([{ "selector": SELECTOR, "algorithm": "ed25519-sha256", "key": KEY }]).to_string())
            }
            ["POST", path] if *path == format!("/sign/{KEY}") => {
                // RFC 8463 s3: it is the SHA-256 digest that is signed.
                let digest = STANDARD.decode(&body).unwrap();
                (200, STANDARD.encode(pair.sign(&digest)))
            }
            _ => (404, String::new()),
        };
        let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n{answer}", answer.len());
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

/// The line of a request and its body; `None` at the end of the connection.
fn read(reader: &mut BufReader<TcpStream>) -> Option<(String, Vec<u8>)> {
    let mut line = || -> Option<String> {
        let mut line = String::new();
        (reader.read_line(&mut line).ok()? > 0).then(|| line.trim_end().to_owned())
    };
    let request = line()?;
    let (mut length, mut is_chunked) = (0, false);
    loop {
        let field = line()?.to_ascii_lowercase();
        match field.split_once(':') {
            Some(("content-length", value)) => length = value.trim().parse().ok()?,
            Some(("transfer-encoding", _)) => is_chunked = true,
            Some(_) => {}
            None => break,
        }
    }
    assert!(!is_chunked, "the host sends what it has whole");
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((request, body))
}
