//! What an operator sees of a running host, and changes in it: metrics, status, spans, reload.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::Command;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use tests::fake_mx::{Act, FakeMx, Step};
use tests::http;
use tests::product::{Product, Setup, binary, free_port};
use tests::smtp::Client;
use tokio::runtime::Runtime;

const LIMIT: Duration = Duration::from_secs(60);

const MESSAGE: &[u8] = b"From: a@src.test\r\nTo: b@dst.test\r\nSubject: seen\r\n\r\nhello\r\n";

fn submit(product: &Product) -> String {
    let mut client = Client::greeted(product.smtp).unwrap();
    let (code, text) = client.submit("a@src.test", "b@dst.test", MESSAGE).unwrap();
    assert_eq!(code, 250, "{text}");
    client.command("QUIT", 221).unwrap();
    text.rsplit(' ').next().unwrap().to_owned()
}

fn to_relay(port: u16) -> String {
    format!("[[route]]\ndomain = \"*\"\nrelay = \"127.0.0.1:{port}\"\ntls = \"off\"\n")
}

/// Asks until the answer fits: what is counted is counted beside what it tells of.
fn until<T>(what: &str, mut ask: impl FnMut() -> Result<T, String>) -> T {
    let asked = Instant::now();
    loop {
        match ask() {
            Ok(answer) => return answer,
            Err(last) if asked.elapsed() > LIMIT => panic!("{what}: {last}"),
            Err(_) => std::thread::yield_now(),
        }
    }
}

#[test]
fn metrics_and_status_tell_what_happened() {
    let runtime = Runtime::new().unwrap();
    let mx = runtime.block_on(FakeMx::start());
    let admin = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port().unwrap()));
    let setup = Setup::new().unwrap().with(&format!("[admin]\nlisten = \"{admin}\"\n{}", to_relay(mx.port())));
    setup.command(&["domain", "add", "src.test"]).unwrap();
    let key = format!("Bearer {}", setup.command(&["key", "create", "--operator"]).unwrap());
    let product = setup.start().unwrap();
    submit(&product);
    let page = until("a delivered message", || {
        let answer = http::get(admin, "/metrics", &[("authorization", &key)]).unwrap();
        let page = String::from_utf8(answer.body).unwrap();
        assert_eq!(answer.status, 200, "{page}");
        assert!(answer.head.to_lowercase().contains("content-type: text/plain; version=0.0.4"), "{}", answer.head);
        let is_delivered = page.contains("\nposthaste_attempts_total{result=\"delivered\"} 1\n");
        if is_delivered { Ok(page) } else { Err(page) }
    });
    for line in [
        "posthaste_messages_accepted_total 1",
        "posthaste_accept_seconds_count{road=\"smtp\"} 1",
        "posthaste_tenant_recipients_total{result=\"accepted\",tenant=\"default\"} 1",
        "posthaste_tenant_recipients_total{result=\"delivered\",tenant=\"default\"} 1",
        "posthaste_outbound_connections_total{result=\"refused\"} 0",
    ] {
        assert!(page.contains(&format!("\n{line}\n")), "{line} is not in\n{page}");
    }
    let signer = "posthaste_stage_call_seconds_count{component=\"";
    assert!(page.lines().any(|line| line.starts_with(signer) && line.contains("stage=\"signer\"")), "{page}");
    // Only operators see it.
    assert_ne!(http::get(product.http, "/metrics", &[]).unwrap().status, 200);
    assert_eq!(http::get(admin, "/metrics", &[]).unwrap().status, 401);
    let tenant = format!("Bearer {}", setup.create_key().unwrap());
    assert_eq!(http::get(admin, "/metrics", &[("authorization", &tenant)]).unwrap().status, 403);

    product.settled().unwrap();
    let status = setup.command(&["status"]).unwrap();
    for part in ["running ", "queue     ", "rates     accepted 0.", "memory    ", "disk      ", "site      "] {
        assert!(status.contains(part), "{part} is not in\n{status}");
    }
    assert!(!status.contains("TROUBLE"), "{status}");
    product.stop().unwrap();
}

/// Runs `posthaste reload`: success, stdout and stderr.
fn reload(setup: &Setup) -> (bool, String, String) {
    let config = setup.folder().join("posthaste.toml");
    let output = Command::new(binary().unwrap()).args(["reload", "--config"]).arg(config).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.success(), text(output.stdout), text(output.stderr))
}

#[test]
fn routes_and_limits_change_without_a_restart() {
    let runtime = Runtime::new().unwrap();
    let (one, other) = runtime.block_on(async { (FakeMx::start().await, FakeMx::start().await) });
    let setup = Setup::new().unwrap().with(&to_relay(one.port()));
    setup.command(&["domain", "add", "src.test"]).unwrap();
    let product = setup.start().unwrap();
    let file = setup.folder().join("posthaste.toml");
    let first = std::fs::read_to_string(&file).unwrap();
    submit(&product);
    until("the first relay has it", || if one.messages().len() == 1 { Ok(()) } else { Err("none".to_owned()) });

    let (good, said, _) = reload(&setup);
    assert!(good && said == "nothing changed\n", "{said}");
    let second = first.replace(&one.port().to_string(), &other.port().to_string());
    let second = format!("{second}[limits]\nrecipients = 7\nhttp_connections = 9\nhttp_requests = 33\n");
    std::fs::write(&file, &second).unwrap();
    let (good, said, wrong) = reload(&setup);
    assert!(good, "{wrong}");
    assert_eq!(
        said,
        "changed: [limits] recipients, [limits] http_connections, [[route]]\nneeds a restart: [limits] http_requests\n"
    );
    submit(&product);
    until("the other relay has it", || if other.messages().len() == 1 { Ok(()) } else { Err("none".to_owned()) });
    assert_eq!(one.messages().len(), 1);

    // A file with a fault changes nothing, by command or by signal, and says why.
    std::fs::write(&file, second.replace("http_connections = 9", "http_conections = 9")).unwrap();
    let (good, _, wrong) = reload(&setup);
    assert!(!good && wrong.contains("unknown key `limits.http_conections`"), "{wrong}");
    assert!(Command::new("kill").args(["-HUP", &product.pid().to_string()]).status().unwrap().success());
    until("the log names the fault", || {
        let log = product.log();
        if log.contains("nothing has changed") && log.contains("http_conections") { Ok(()) } else { Err(log) }
    });
    submit(&product);
    until("the other relay still", || if other.messages().len() == 2 { Ok(()) } else { Err("none".to_owned()) });

    std::fs::write(&file, &first).unwrap();
    assert!(Command::new("kill").args(["-HUP", &product.pid().to_string()]).status().unwrap().success());
    until("the log tells of the reload", || {
        let log = product.log();
        if log.matches("the configuration was read again").count() == 3 { Ok(()) } else { Err(log) }
    });
    submit(&product);
    until("the first relay again", || if one.messages().len() == 2 { Ok(()) } else { Err("none".to_owned()) });
    product.stop().unwrap();
}

/// What takes longer than it may is given up at the end, and tried again at the next start.
#[test]
fn a_drain_has_a_deadline() {
    let runtime = Runtime::new().unwrap();
    let mx = runtime.block_on(FakeMx::start());
    mx.once(Step::Dot, Act::Silence);
    let setup = Setup::new().unwrap().with(&format!("[limits]\ndrain = \"1s\"\n{}", to_relay(mx.port())));
    setup.command(&["domain", "add", "src.test"]).unwrap();
    let product = setup.start().unwrap();
    submit(&product);
    runtime.block_on(mx.wait_for_command("DATA"));
    let asked = Instant::now();
    product.stop().unwrap();
    // A peer may take ten minutes for its answer to the final dot, and the default is half of one.
    assert!(asked.elapsed() < Duration::from_secs(20), "{:?}", asked.elapsed());
    let product = setup.start().unwrap();
    until("it is delivered", || if mx.messages().is_empty() { Err("not yet".to_owned()) } else { Ok(()) });
    product.stop().unwrap();
}

/// A collector that answers 200 to all: what each request's head and body were.
fn collector() -> (SocketAddr, mpsc::Receiver<(String, Vec<u8>)>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { return };
            let tell = tell.clone();
            std::thread::spawn(move || {
                let mut reader = BufReader::new(stream);
                loop {
                    let (mut head, mut length) = (String::new(), 0);
                    while !head.ends_with("\r\n\r\n") {
                        let start = head.len();
                        if reader.read_line(&mut head).unwrap_or(0) == 0 {
                            return;
                        }
                        if let Some(value) = head[start..].to_lowercase().strip_prefix("content-length:") {
                            length = value.trim().parse().unwrap();
                        }
                    }
                    let mut body = vec![0; length];
                    reader.read_exact(&mut body).unwrap();
                    reader.get_mut().write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").unwrap();
                    if tell.send((head, body)).is_err() {
                        return;
                    }
                }
            });
        }
    });
    (address, told)
}

/// The fields of a message in the form of Protocol Buffers: number, and the octets of those that have a length.
fn fields(mut bytes: &[u8]) -> Vec<(u64, &[u8])> {
    fn varint(bytes: &mut &[u8]) -> u64 {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let (first, rest) = bytes.split_first().expect("a whole number");
            *bytes = rest;
            number |= u64::from(first & 0x7f) << shift;
            if first & 0x80 == 0 {
                break;
            }
        }
        number
    }
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes);
        let length = match key & 7 {
            0 => {
                varint(&mut bytes);
                0
            }
            1 => 8,
            2 => usize::try_from(varint(&mut bytes)).unwrap(),
            5 => 4,
            kind => panic!("fields of kind {kind} do not exist"),
        };
        let (value, rest) = bytes.split_at(length);
        found.push((key >> 3, value));
        bytes = rest;
    }
    found
}

/// What stands under a path of field numbers.
fn under<'a>(bytes: &'a [u8], path: &[u64]) -> Vec<&'a [u8]> {
    path.iter().fold(vec![bytes], |level, number| {
        let all = level.into_iter().flat_map(fields);
        all.filter(|(found, _)| found == number).map(|(_, value)| value).collect()
    })
}

#[test]
fn spans_reach_the_collector() {
    let runtime = Runtime::new().unwrap();
    let mx = runtime.block_on(FakeMx::start());
    let (address, told) = collector();
    let telemetry = format!(
        "[telemetry]\notlp_endpoint = \"http://{address}\"\notlp_headers_file = \"headers\"\n{}",
        to_relay(mx.port())
    );
    let setup = Setup::new().unwrap().with(&telemetry);
    std::fs::write(setup.folder().join("headers"), "x-team: blue\n").unwrap();
    setup.command(&["domain", "add", "src.test"]).unwrap();
    let product = setup.start().unwrap();
    let id = submit(&product);
    assert_eq!(http::get(product.http, "/healthz", &[]).unwrap().status, 200);
    until("it is delivered", || if mx.messages().len() == 1 { Ok(()) } else { Err("none".to_owned()) });
    // What waits is sent at the end.
    product.stop().unwrap();
    let mut spans: Vec<(String, Vec<u8>, String)> = Vec::new();
    while let Ok((head, body)) = told.try_recv() {
        assert!(head.starts_with("POST /v1/traces HTTP/1.1\r\n"), "{head}");
        let head = head.to_lowercase();
        assert!(head.contains("\r\nx-team: blue\r\n") && head.contains("application/x-protobuf"), "{head}");
        // ExportTraceServiceRequest: resource_spans, of them resource.attributes.value.string and scope_spans.spans.
        let resource = under(&body, &[1, 1, 1, 2, 1]).concat();
        assert!(String::from_utf8_lossy(&resource).contains("posthaste"));
        for span in under(&body, &[1, 2, 2]) {
            let name = String::from_utf8(under(span, &[5]).concat()).unwrap();
            let values = String::from_utf8_lossy(&under(span, &[9, 2, 1]).concat()).into_owned();
            spans.push((name, under(span, &[1]).concat(), values));
        }
    }
    let named = |name: &str| spans.iter().find(|(found, ..)| found == name).unwrap_or_else(|| panic!("{spans:?}"));
    let (_, connection, values) = named("connection");
    assert!(values.contains("127.0.0.1"), "{values}");
    let connections = spans.iter().filter(|(name, ..)| name == "connection").count();
    assert!(connections >= 2, "one by SMTP and one by HTTP: {spans:?}");
    let ((_, message, about), (_, attempt, result)) = (named("message"), named("attempt"));
    assert!(about.contains(&id) && result.contains(&id) && result.contains("Delivered"), "{about} {result}");
    assert!(message.len() == 16 && message == attempt && message != connection, "one trace for one message");
}

/// A collector that is away costs its spans, and no mail.
#[test]
fn mail_does_not_wait_for_a_collector() {
    let runtime = Runtime::new().unwrap();
    let mx = runtime.block_on(FakeMx::start());
    // Takes connections and says nothing.
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let endpoint = format!("[telemetry]\notlp_endpoint = \"http://{}\"\n", silent.local_addr().unwrap());
    let setup = Setup::new().unwrap().with(&format!("{endpoint}{}", to_relay(mx.port())));
    setup.command(&["domain", "add", "src.test"]).unwrap();
    let product = setup.start().unwrap();
    for _ in 0..20 {
        submit(&product);
    }
    until("all are delivered", || {
        let count = mx.messages().len();
        if count == 20 { Ok(()) } else { Err(format!("{count} of 20")) }
    });
    product.stop().unwrap();
}
