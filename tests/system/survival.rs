//! SIGKILL under load: what was acknowledged arrives, whole, whatever happened in between. A crash may deliver twice, what
//! was in flight when it came; nothing else may.
//!
//! `cargo xtask soak` runs the same with more kills, told by `SOAK_ROUNDS`, and with lives that follow from `SOAK_SEED`.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher as _, Hasher as _};
use std::net::SocketAddr;
use std::ops::Range;
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

/// Messages after which a life's submitters wait for its end, so that a long run holds no more than it must.
const MESSAGES_PER_LIFE: u64 = 200;

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
    /// Messages that may be begun so far.
    allowed: AtomicU64,
    acknowledged: Mutex<BTreeSet<u64>>,
}

/// Ends the load when it goes, also in a panic: the submitters are waited for.
struct Over<'a>(&'a Load);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::SeqCst);
    }
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
    let load = Load { allowed: AtomicU64::new(MESSAGES_PER_LIFE), ..Load::default() };
    let kills = number_of("SOAK_ROUNDS").map_or(KILLS, |rounds| rounds as usize);
    let mut lives = Lives::new();
    let mut killed = Vec::new();

    let host = std::thread::scope(|scope| {
        let _over = Over(&load);
        for _ in 0..SMTP_SUBMITTERS {
            scope.spawn(|| load.submit_by_smtp());
        }
        for _ in 0..HTTP_SUBMITTERS {
            scope.spawn(|| load.submit_by_http(&key));
        }
        live_and_die(&setup, &load, &world, (kills, &mut lives), &mut killed)
    });

    let acknowledged = load.acknowledged.lock().unwrap().clone();
    eprintln!("{} messages were acknowledged", acknowledged.len());
    assert!(acknowledged.len() > 2 * kills, "only {} were acknowledged: no load", acknowledged.len());
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
    let mut arrivals: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
    for (index, mail) in world.received().into_iter().enumerate() {
        let number = number(&mail.body).expect("a message that nobody sent");
        assert!(contains(&mail.body, body(number).as_bytes()), "message {number} is torn");
        assert_eq!(mail.recipients, [format!("r{number}@dst.test")], "message {number} went elsewhere");
        assert!(contains(&mail.body, b"DKIM-Signature:"), "message {number} is unsigned");
        ids.entry(number).or_default().insert(message_id(&mail.body));
        arrivals.entry(number).or_default().push(index);
    }
    // Delivered twice is the same message twice: a repeated request with an idempotency key made no second one.
    let twice: Vec<_> = ids.iter().filter(|(_, ids)| ids.len() > 1).collect();
    assert!(twice.is_empty(), "accepted twice: {twice:?}");
    let pairs = arrivals.iter().flat_map(|(number, at)| at.windows(2).map(move |pair| (number, pair[0], pair[1])));
    let duplicates: Vec<_> = pairs.collect();
    let log = host.log();
    for (number, first, again) in &duplicates {
        // A line follows what is recorded: what has one before a kill is over, and has no second one.
        let recorded = delivered(&log, **number);
        assert!(recorded < 2, "message {number} was recorded as delivered, and went again:\n{log}");
        // The first was under way when the host was killed, and the next one tried again.
        let kill = killed.iter().position(|received| *first < received.end && *again >= received.start);
        let Some(kill) = kill else {
            panic!("message {number} came twice, as {first} and {again}, and no kill explains it")
        };
        eprintln!("message {number} came twice: kill {} came before the first was recorded", kill + 1);
    }
    let told = acknowledged.iter().filter(|number| delivered(&log, **number) > 0).count();
    assert!(told * 2 > acknowledged.len(), "the log tells of {told} deliveries only");
    eprintln!(
        "{kills} kills: {} acknowledged, 0 lost, {} delivered twice, each with a kill between (seed {})",
        acknowledged.len(),
        duplicates.len(),
        lives.seed
    );
    drop(host);
}

/// How often the mail log says that a message was delivered.
fn delivered(log: &str, number: u64) -> usize {
    let recipient = format!(" rcpt=r{number}@dst.test ");
    log.lines().filter(|line| line.contains("event=\"email.delivered\"") && line.contains(&recipient)).count()
}

/// Starts and kills the host; leaves it running at last. For each kill, what had been received when it came, and when the
/// next host was there.
fn live_and_die(
    setup: &Setup,
    load: &Load,
    world: &World,
    (kills, lives): (usize, &mut Lives),
    killed: &mut Vec<Range<usize>>,
) -> Product {
    // The first start compiles the components, which takes longer than a life; from then on they come from the cache.
    let host = setup.start().unwrap();
    *load.host.lock().unwrap() = Some((host.http, host.smtp));
    let start = Instant::now();
    while load.acknowledged.lock().unwrap().len() < KILLS {
        assert!(start.elapsed() < WARM_UP_LIMIT, "nothing was acknowledged:\n{}", host.log());
        sleep(Duration::from_millis(10));
    }
    let mut host = host;
    for round in 1..=kills + 1 {
        let received = world.received().len();
        host.kill();
        *load.host.lock().unwrap() = None;
        host = setup.start().unwrap();
        killed.push(received..world.received().len());
        load.allowed.store(load.next.load(Ordering::SeqCst) + MESSAGES_PER_LIFE, Ordering::SeqCst);
        *load.host.lock().unwrap() = Some((host.http, host.smtp));
        if round <= kills {
            let life = lives.next();
            eprintln!("{round} of {kills}: the host lives for {life:?}");
            sleep(life);
        }
    }
    host
}

impl Load {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    /// The host's addresses (HTTP, SMTP), once there is one that may be sent to; none when all is over.
    fn host(&self) -> Option<(SocketAddr, SocketAddr)> {
        while !self.is_over() {
            if let Some(host) = *self.host.lock().unwrap()
                && self.may_begin()
            {
                return Some(host);
            }
            sleep(Duration::from_millis(5));
        }
        None
    }

    fn may_begin(&self) -> bool {
        self.next.load(Ordering::SeqCst) < self.allowed.load(Ordering::SeqCst)
    }

    fn submit_by_smtp(&self) {
        while let Some((_, smtp)) = self.host() {
            // One session until it breaks; what is not acknowledged is given up.
            let _ = Client::greeted(smtp).and_then(|mut client| {
                while !self.is_over() && self.may_begin() {
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
        while self.host().is_some() {
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

/// How long each host lives: between the shortest and the longest, following from a seed.
struct Lives {
    seed: u64,
    state: u64,
}

impl Lives {
    fn new() -> Lives {
        let random = || std::hash::RandomState::new().build_hasher().finish();
        let seed = number_of("SOAK_SEED").unwrap_or_else(random);
        Lives { seed, state: seed }
    }

    fn next(&mut self) -> Duration {
        // SplitMix64, whose every state is a good one.
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let span = (LONGEST_LIFE - SHORTEST_LIFE).as_millis() as u64;
        SHORTEST_LIFE + Duration::from_millis((mixed ^ (mixed >> 31)) % span)
    }
}

/// A number in the environment.
fn number_of(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} must be a number, not `{text}`")))
}
