//! A name server on loopback, UDP and TCP, that knows one small zone text and can fail on demand.
//!
//! A line of the zone is `name TYPE data`, or `name FAULT` or `name TYPE FAULT` with one of the faults `NXDOMAIN`,
//! `SERVFAIL`, `REFUSED`, `DROP` (no answer at all). Names need no trailing dot; `#` starts a comment.
//!
//! ```text
//! a.test        MX 10 mx1.a.test
//! mx1.a.test    A 127.0.0.2
//! mx1.a.test    AAAA SERVFAIL
//! alias.a.test  CNAME mx1.a.test
//! null.test     MX 0 .
//! s._domainkey.a.test TXT "v=DKIM1; " "p=…"
//! gone.test     NXDOMAIN
//! ```
//! A name that stands in the zone has no records of other types; a name that does not is NXDOMAIN.

use std::net::{Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, MX, PTR, SOA, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::{JoinHandle, JoinSet};

/// Seconds; long enough that caches count in tests.
const TTL: u32 = 300;
/// Aliases followed in one answer.
const ALIASES_MAX: usize = 8;

/// The server; dropped, it is gone.
pub struct FakeDns {
    address: SocketAddr,
    state: Arc<State>,
    tasks: [JoinHandle<()>; 2],
}

#[derive(Default)]
struct State {
    zone: Mutex<Vec<Entry>>,
    questions: Mutex<Vec<String>>,
}

#[derive(Clone)]
struct Entry {
    name: Name,
    /// `None`: a fault for every type.
    kind: Option<RecordType>,
    answer: Answer,
}

#[derive(Clone)]
enum Answer {
    Data(RData),
    Code(ResponseCode),
    Drop,
}

impl FakeDns {
    /// Serves a zone text on a free port of 127.0.0.1. Panics where the text is wrong.
    pub async fn start(zone: &str) -> FakeDns {
        let (tcp, udp) = bind().await;
        let address = udp.local_addr().expect("a bound socket has an address");
        let state = Arc::new(State::default());
        let tasks =
            [tokio::spawn(serve_udp(udp, Arc::clone(&state))), tokio::spawn(serve_tcp(tcp, Arc::clone(&state)))];
        let dns = FakeDns { address, state, tasks };
        dns.add(zone);
        dns
    }

    /// For `[dns] servers`.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Adds lines to the zone.
    pub fn add(&self, zone: &str) {
        let entries = zone.lines().filter_map(read_line);
        self.state.zone.lock().unwrap_or_else(PoisonError::into_inner).extend(entries);
    }

    /// Puts another zone in the place of the one so far. What clients hold in their caches stays there.
    pub fn replace(&self, zone: &str) {
        self.state.zone.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.add(zone);
    }

    /// What it was asked so far, as `a.test MX`.
    pub fn questions(&self) -> Vec<String> {
        self.state.questions.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for FakeDns {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// The same port for both transports; another where somebody has the UDP one.
async fn bind() -> (TcpListener, UdpSocket) {
    loop {
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("loopback has a free port");
        let address = tcp.local_addr().expect("a bound socket has an address");
        if let Ok(udp) = UdpSocket::bind(address).await {
            return (tcp, udp);
        }
    }
}

async fn serve_udp(socket: UdpSocket, state: Arc<State>) {
    let mut buffer = [0; 4096];
    loop {
        let Ok((length, peer)) = socket.recv_from(&mut buffer).await else { continue };
        if let Some((answer, limit)) = state.answer(&buffer[..length]) {
            let bytes = wire(&answer);
            let bytes = if bytes.len() > limit { wire(&answer.truncate()) } else { bytes };
            let _ = socket.send_to(&bytes, peer).await;
        }
    }
}

async fn serve_tcp(listener: TcpListener, state: Arc<State>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(serve_connection(stream, Arc::clone(&state)));
    }
}

async fn serve_connection(mut stream: TcpStream, state: Arc<State>) {
    while let Ok(length) = stream.read_u16().await {
        let mut question = vec![0; usize::from(length)];
        if stream.read_exact(&mut question).await.is_err() {
            return;
        }
        let Some((answer, _)) = state.answer(&question) else { continue };
        let bytes = wire(&answer);
        let length = u16::try_from(bytes.len()).expect("zones of tests are small");
        if stream.write_u16(length).await.is_err() || stream.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

fn wire(message: &Message) -> Vec<u8> {
    message.to_vec().expect("an answer of ours can be encoded")
}

impl State {
    /// The answer to a question and how long it may be over UDP; `None`: silence.
    fn answer(&self, bytes: &[u8]) -> Option<(Message, usize)> {
        let question = Message::from_vec(bytes).ok()?;
        let query = question.queries.first()?.clone();
        let asked = query.name().to_lowercase();
        let shown = asked.to_ascii();
        self.questions.lock().unwrap_or_else(PoisonError::into_inner).push(format!(
            "{} {}",
            shown.trim_end_matches('.'),
            query.query_type()
        ));

        let mut answer = Message::response(question.metadata.id, question.metadata.op_code);
        answer.metadata.recursion_desired = question.metadata.recursion_desired;
        answer.metadata.recursion_available = true;
        // As it was asked, letter case included.
        answer.add_query(query.clone());
        let (code, records) = self.find(asked, query.query_type())?;
        answer.metadata.response_code = code;
        if records.is_empty() {
            // Without it nobody may keep a negative answer (RFC 2308 s5).
            answer.add_authority(authority(query.name()));
        }
        answer.add_answers(records);
        Some((answer, usize::from(question.max_payload())))
    }

    fn find(&self, mut name: Name, kind: RecordType) -> Option<(ResponseCode, Vec<Record>)> {
        let zone = self.zone.lock().unwrap_or_else(PoisonError::into_inner);
        let mut records = Vec::new();
        for _ in 0..ALIASES_MAX {
            let here: Vec<&Entry> = zone.iter().filter(|entry| entry.name == name).collect();
            for entry in &here {
                match &entry.answer {
                    Answer::Drop if entry.kind.is_none_or(|k| k == kind) => return None,
                    Answer::Code(code) if entry.kind.is_none_or(|k| k == kind) => return Some((*code, Vec::new())),
                    Answer::Data(data) if entry.kind == Some(kind) => {
                        records.push(Record::from_rdata(name.clone(), TTL, data.clone()));
                    }
                    Answer::Drop | Answer::Code(_) | Answer::Data(_) => {}
                }
            }
            let alias = here.iter().find_map(|entry| match &entry.answer {
                Answer::Data(RData::CNAME(target)) if kind != RecordType::CNAME => Some(target.clone()),
                _ => None,
            });
            let Some(target) = alias else {
                let known = !here.is_empty() || zone.iter().any(|entry| name.zone_of(&entry.name));
                let code = if known { ResponseCode::NoError } else { ResponseCode::NXDomain };
                return Some((code, records));
            };
            let next = target.0.to_lowercase();
            records.push(Record::from_rdata(name, TTL, RData::CNAME(target)));
            name = next;
        }
        Some((ResponseCode::ServFail, Vec::new()))
    }
}

fn authority(name: &Name) -> Record {
    let (zone, server) = (name.trim_to(1), rooted("ns.fake.test"));
    let ttl = i32::try_from(TTL).expect("a small number");
    Record::from_rdata(zone, TTL, RData::SOA(SOA::new(server.clone(), server, 1, ttl, ttl, ttl, TTL)))
}

fn read_line(line: &str) -> Option<Entry> {
    let line = line.split_once('#').map_or(line, |(line, _)| line).trim();
    let (name, rest) = line.split_once(char::is_whitespace)?;
    let rest = rest.trim();
    if let Some(answer) = fault(rest) {
        return Some(Entry { name: rooted(name), kind: None, answer });
    }
    let (kind, data) = rest.split_once(char::is_whitespace).unwrap_or_else(|| panic!("no data in zone line `{line}`"));
    let data = data.trim();
    let kind = RecordType::from_str(kind).unwrap_or_else(|_| panic!("unknown type in zone line `{line}`"));
    let answer = fault(data).unwrap_or_else(|| {
        Answer::Data(record_data(kind, data).unwrap_or_else(|| panic!("wrong data in zone line `{line}`")))
    });
    Some(Entry { name: rooted(name), kind: Some(kind), answer })
}

fn fault(word: &str) -> Option<Answer> {
    match word {
        "NXDOMAIN" => Some(Answer::Code(ResponseCode::NXDomain)),
        "SERVFAIL" => Some(Answer::Code(ResponseCode::ServFail)),
        "REFUSED" => Some(Answer::Code(ResponseCode::Refused)),
        "DROP" => Some(Answer::Drop),
        _ => None,
    }
}

fn record_data(kind: RecordType, data: &str) -> Option<RData> {
    match kind {
        RecordType::A => data.parse().ok().map(|ip| RData::A(A(ip))),
        RecordType::AAAA => data.parse().ok().map(|ip| RData::AAAA(AAAA(ip))),
        RecordType::CNAME => Some(RData::CNAME(CNAME(rooted(data)))),
        RecordType::PTR => Some(RData::PTR(PTR(rooted(data)))),
        RecordType::MX => {
            let (preference, exchange) = data.split_once(char::is_whitespace)?;
            Some(RData::MX(MX::new(preference.parse().ok()?, rooted(exchange.trim()))))
        }
        RecordType::TXT => Some(RData::TXT(TXT::new(strings(data)))),
        _ => None,
    }
}

/// `"one" "two"`, or the bare text; a string of more than 255 octets is cut, as in a zone file it must be.
fn strings(data: &str) -> Vec<String> {
    let whole: Vec<&str> =
        if data.starts_with('"') { data.split('"').skip(1).step_by(2).collect() } else { vec![data] };
    whole
        .iter()
        .flat_map(|text| text.as_bytes().chunks(255))
        .map(|piece| String::from_utf8_lossy(piece).into_owned())
        .collect()
}

fn rooted(name: &str) -> Name {
    let dotted = if name.ends_with('.') { name.to_owned() } else { format!("{name}.") };
    Name::from_ascii(&dotted).unwrap_or_else(|err| panic!("`{name}` is not a name: {err}")).to_lowercase()
}
