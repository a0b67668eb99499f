//! SIGKILL under load: what was acknowledged arrives, whole, whatever happened in between. A crash may deliver twice.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher as _, Hasher as _};
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::json;
use tests::fake_mx::{Step, reply};
use tests::http;
use tests::product::{Product, Setup};
use tests::smtp::Client;
use tests::world::World;

const KILLS: usize = 8;
const SMTP_SUBMITTERS: usize = 3;
const HTTP_SUBMITTERS: usize = 2;

/// A kill comes at any moment of this span after the restart.
const SHORTEST_LIFE: Duration = Duration::from_millis(100);
const LONGEST_LIFE: Duration = Duration::from_millis(1500);

/// Components are compiled and mail is taken after this.
const WARM_UP_LIMIT: Duration = Duration::from_secs(60);

/// The queue that the last kill left is gone after this.
const DRAIN_LIMIT: Duration = Duration::from_secs(90);

/// Recipients that are put off once.
const DEFERRED: [&str; 5] = ["<r2@", "<r5@", "<r20@", "<r50@", "<r100@"];

/// Bodies differ in size, so that a torn one shows.
const LINES: u64 = 200;

/// What the submitters share.
#[derive(Default)]
struct Load {
    /// Where the host answers, while it does.
    host: Mutex<Option<(SocketAddr, SocketAddr)>>,
    over: AtomicBool,
    next: AtomicU64,
    acknowledged: Mutex<BTreeSet<u64>>,
}

#[test]
fn nothing_acknowledged_is_lost() {
    let world = World::start();
    // Some have to wait for a second attempt, in the next life.
    for recipient in DEFERRED {
        world.mx().once(Step::Rcpt(recipient), reply("451 4.2.1 later"));
    }
    let setup = Setup::new()
        .unwrap()
        .dns(world.dns())
        .delivery(&format!("port = {}\nretry_delays = [\"1s\"]", world.mx_port()));
    setup.command(&["domain", "add", "src.test"]).unwrap();
    let key = setup.create_key().unwrap();
    let load = Load::default();

    let host = std::thread::scope(|scope| {
        for _ in 0..SMTP_SUBMITTERS {
            scope.spawn(|| load.submit_by_smtp());
        }
        for _ in 0..HTTP_SUBMITTERS {
            scope.spawn(|| load.submit_by_http(&key));
        }
        let host = live_and_die(&setup, &load);
        load.over.store(true, Ordering::SeqCst);
        host
    });

    let acknowledged = load.acknowledged.lock().unwrap().clone();
    eprintln!("{} messages were acknowledged", acknowledged.len());
    assert!(acknowledged.len() > 2 * KILLS, "only {} were acknowledged: no load", acknowledged.len());
    world.wait_until(DRAIN_LIMIT, |received| {
        let there: BTreeSet<u64> = received.iter().filter_map(|mail| number(&mail.body)).collect();
        let missing: Vec<&u64> = acknowledged.difference(&there).take(10).collect();
        if missing.is_empty() {
            Ok(())
        } else {
            Err(format!("of {} acknowledged, {missing:?} … are missing", acknowledged.len()))
        }
    });

    let mut ids: BTreeMap<u64, BTreeSet<String>> = BTreeMap::new();
    for mail in world.received() {
        let number = number(&mail.body).expect("a message that nobody sent");
        assert!(contains(&mail.body, body(number).as_bytes()), "message {number} is torn");
        assert_eq!(mail.recipients, [format!("r{number}@dst.test")], "message {number} went elsewhere");
        assert!(contains(&mail.body, b"DKIM-Signature:"), "message {number} is unsigned");
        ids.entry(number).or_default().insert(message_id(&mail.body));
    }
    // Delivered twice is the same message twice: a repeated request with an idempotency key made no second one.
    let twice: Vec<_> = ids.iter().filter(|(_, ids)| ids.len() > 1).collect();
    assert!(twice.is_empty(), "accepted twice: {twice:?}");
    drop(host);
}

/// Starts and kills the host; leaves it running at last.
fn live_and_die(setup: &Setup, load: &Load) -> Product {
    // The first start compiles the components, which takes longer than a life; from then on they come from the cache.
    let host = setup.start().unwrap();
    *load.host.lock().unwrap() = Some((host.http, host.smtp));
    let start = Instant::now();
    while load.acknowledged.lock().unwrap().len() < KILLS {
        assert!(start.elapsed() < WARM_UP_LIMIT, "nothing was acknowledged:\n{}", host.log());
        sleep(Duration::from_millis(10));
    }
    host.kill();
    *load.host.lock().unwrap() = None;
    for _ in 0..KILLS {
        let host = setup.start().unwrap();
        *load.host.lock().unwrap() = Some((host.http, host.smtp));
        let life = random_duration();
        eprintln!("the host lives for {life:?}");
        sleep(life);
        host.kill();
        *load.host.lock().unwrap() = None;
    }
    setup.start().unwrap()
}

impl Load {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    /// The host's addresses (HTTP, SMTP), once there is one; none when all is over.
    fn host(&self) -> Option<(SocketAddr, SocketAddr)> {
        while !self.is_over() {
            if let Some(host) = *self.host.lock().unwrap() {
                return Some(host);
            }
            sleep(Duration::from_millis(5));
        }
        None
    }

    fn submit_by_smtp(&self) {
        while let Some((_, smtp)) = self.host() {
            // One session until it breaks; what is not acknowledged is given up.
            let _ = Client::greeted(smtp).and_then(|mut client| {
                while !self.is_over() {
                    let number = self.next.fetch_add(1, Ordering::SeqCst);
                    let message = format!(
                        "From: a@src.test\r\nTo: r{number}@dst.test\r\nMessage-ID: <{number}@src.test>\r\n\
                         Subject: number {number}\r\n\r\n{}",
                        body(number)
                    );
                    let reply = client.submit("a@src.test", &format!("r{number}@dst.test"), message.as_bytes())?;
                    assert_eq!(reply.0, 250, "{}", reply.1);
                    self.acknowledged.lock().unwrap().insert(number);
                }
                Ok(())
            });
        }
    }

    fn submit_by_http(&self, key: &str) {
        while !self.is_over() {
            let number = self.next.fetch_add(1, Ordering::SeqCst);
            let json = json!({
                "from": "a@src.test", "to": format!("r{number}@dst.test"), "subject": format!("number {number}"),
                "text": body(number),
            });
            let (bearer, once) = (format!("Bearer {key}"), format!("number-{number}"));
            let headers =
                [("authorization", bearer.as_str()), ("content-type", "application/json"), ("idempotency-key", &once)];
            // Repeated with the same key until it is acknowledged.
            while let Some((http, _)) = self.host() {
                let Ok(answer) = http::request(http, "POST", "/emails", &headers, json.to_string().as_bytes()) else {
                    continue;
                };
                assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
                self.acknowledged.lock().unwrap().insert(number);
                break;
            }
        }
    }
}

/// The text of a message: its lines follow from its number.
fn body(number: u64) -> String {
    (0..=number % LINES).map(|line| format!("line {line} of message {number}\r\n")).collect()
}

fn number(message: &[u8]) -> Option<u64> {
    field(message, "subject")?.strip_prefix("number ")?.parse().ok()
}

fn message_id(message: &[u8]) -> String {
    field(message, "message-id").unwrap_or_default()
}

/// The value of a header field that is not folded.
fn field(message: &[u8], name: &str) -> Option<String> {
    let text = String::from_utf8_lossy(message);
    text.lines().take_while(|line| !line.is_empty()).find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
    })
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

/// Between the shortest and the longest life; different each time.
fn random_duration() -> Duration {
    let random = std::hash::RandomState::new().build_hasher().finish();
    let span = (LONGEST_LIFE - SHORTEST_LIFE).as_millis() as u64;
    SHORTEST_LIFE + Duration::from_millis(random % span)
}
