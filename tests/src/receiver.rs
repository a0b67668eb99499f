//! An application that is told of events: a scripted HTTP endpoint that keeps what it gets.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

/// Whatever is waited for comes within this.
const PATIENCE: Duration = Duration::from_secs(60);

/// One webhook as it came.
#[derive(Clone, Debug)]
pub struct Told {
    pub path: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Told {
    /// The value of a header field; empty where there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }

    /// The body, or null where it is not JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// Whether one of its signatures is this secret's (Standard Webhooks, `v1`).
    pub fn is_signed_with(&self, secret: &str) -> bool {
        let Ok(key) = STANDARD.decode(secret.trim_start_matches("whsec_")) else { return false };
        let head = format!("{}.{}.", self.header("webhook-id"), self.header("webhook-timestamp"));
        let signed = [head.as_bytes(), &self.body].concat();
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), &signed);
        let expect = format!("v1,{}", STANDARD.encode(tag));
        self.header("webhook-signature").split(' ').any(|signature| signature == expect)
    }
}

/// What the endpoint does with one webhook.
#[derive(Clone, Debug)]
pub enum Reply {
    /// This status, with these header lines.
    Status(u16, &'static str),
    /// 200 with these bytes.
    Body(&'static [u8]),
    /// Takes it and never answers.
    Silence,
}

#[derive(Default)]
struct State {
    told: Vec<Told>,
    script: VecDeque<Reply>,
}

/// The endpoint. What its script does not say is answered 200.
pub struct Receiver {
    address: SocketAddr,
    state: Arc<(Mutex<State>, Condvar)>,
}

impl Receiver {
    /// Listens on a free port of loopback.
    pub fn start() -> std::io::Result<Receiver> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let state: Arc<(Mutex<State>, Condvar)> = Arc::default();
        let shared = state.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                let shared = shared.clone();
                thread::spawn(move || converse(stream, &shared));
            }
        });
        Ok(Receiver { address, state })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The endpoint's URL.
    pub fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    /// What the next webhooks get, one after the other.
    pub fn script(&self, replies: &[Reply]) {
        self.state.0.lock().unwrap_or_else(PoisonError::into_inner).script.extend(replies.iter().cloned());
    }

    /// Waits until so many came, and answers all.
    pub fn wait_for(&self, count: usize) -> Vec<Told> {
        self.wait_until(|told| told.len() >= count)
    }

    /// Waits until what came fits, and answers all. Panics with what came where it never does.
    pub fn wait_until(&self, fits: impl Fn(&[Told]) -> bool) -> Vec<Told> {
        let (state, came) = &*self.state;
        let deadline = Instant::now() + PATIENCE;
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        while !fits(&state.told) {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "the endpoint was told no more than {:?}", state.told);
            state = came.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.told.clone()
    }

    /// Waits until so many came.
    pub fn wait_for_count(&self, count: usize) {
        let (state, came) = &*self.state;
        let deadline = Instant::now() + PATIENCE;
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        while state.told.len() < count {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "the endpoint was told {} of {count}", state.told.len());
            state = came.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// How many came, and forgets them.
    pub fn take_count(&self) -> usize {
        std::mem::take(&mut self.state.0.lock().unwrap_or_else(PoisonError::into_inner).told).len()
    }
}

fn converse(stream: TcpStream, state: &(Mutex<State>, Condvar)) {
    let Ok(mut answering) = stream.try_clone() else { return };
    let _ = answering.set_nodelay(true);
    let mut reader = BufReader::new(stream);
    while let Some(told) = read(&mut reader) {
        let reply = {
            let mut state = state.0.lock().unwrap_or_else(PoisonError::into_inner);
            state.told.push(told);
            state.script.pop_front().unwrap_or(Reply::Status(200, ""))
        };
        state.1.notify_all();
        let (status, headers, body) = match reply {
            Reply::Status(status, headers) => (status, headers, &b"noted\n"[..]),
            Reply::Body(body) => (200, "", body),
            // Until the other side gives up.
            Reply::Silence => continue,
        };
        let head = format!("HTTP/1.1 {status} X\r\n{headers}content-length: {}\r\n\r\n", body.len());
        if answering.write_all(&[head.as_bytes(), body].concat()).is_err() {
            return;
        }
    }
}

fn read(reader: &mut BufReader<TcpStream>) -> Option<Told> {
    let mut line = || -> Option<String> {
        let mut line = String::new();
        (reader.read_line(&mut line).ok()? > 0).then(|| line.trim_end().to_owned())
    };
    let path = line()?.split(' ').nth(1)?.to_owned();
    let mut headers = Vec::new();
    loop {
        let line = line()?;
        let Some((name, value)) = line.split_once(':') else { break };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let length = length.map_or(Some(0), |(_, length)| length.parse().ok())?;
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Told { path, headers, body })
}
