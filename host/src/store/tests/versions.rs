//! Data folders of every earlier schema: each opens, is brought up to date, and its mail goes on.
//!
//! `tests/vectors/schema/N/` is a folder of schema N: both databases as SQL, and a spool segment. A schema that is
//! released gets its own by `UPDATE_EXPECT=1 cargo test --lib versions`, with `RELEASED` raised; those that are there
//! are never written again.

use std::path::PathBuf;

use super::super::lanes::{Lane, domain_number};
use super::super::schema::{EVENTS, MAIN};
use super::super::segment::{Place, Spool, digest};
use super::*;

/// Schemas that have been released, each with that of `events.db` of its time.
const RELEASED: [(usize, usize); 12] =
    [(1, 1), (2, 1), (3, 2), (4, 2), (5, 2), (6, 2), (7, 3), (8, 3), (9, 3), (10, 3), (11, 3), (12, 3)];

/// The first schema in which a key has a stream, a message a request, and a DKIM key a state.
const WITH_STREAMS: usize = 9;
const WITH_REQUESTS: usize = 10;
const WITH_KEY_STATES: usize = 11;
/// The first schema that knows components, and the first that knows in which order they were active.
const WITH_COMPONENTS: usize = 8;
const WITH_ACTIVATIONS: usize = 12;

const SEGMENT: &str = "0000000001.seg";

fn vectors(version: usize) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../tests/vectors/schema/{version}"))
}

/// What a host of that schema left behind: 1 waits for its third attempt, 2 is delivered, 3 is on the schedule, where
/// there is one. What a schema adds to a key, a message or a domain is filled in from that schema on.
fn write(version: usize, events: usize, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    let spool = tempfile::tempdir().unwrap();
    let mut segment = Spool::open(&spool.path().join("spool"), 1 << 20, None, &[]).unwrap();
    let mut main = format!("{}PRAGMA user_version = {version};\n", MAIN[..version].join("\n"));
    let millisecond = at(0).as_millisecond();
    let last = if version >= 4 { 3 } else { 2 };
    for key in 1..=last {
        let message = message(key, 0, 1);
        let Place { segment, position, size } =
            segment.append(message.id, &message.body, digest(&message.body)).unwrap();
        let digest = digest(&message.body).cast_signed();
        main.push_str(&format!(
            "INSERT INTO message (key, id, tenant, sender, segment, position, size, digest, accepted_ms, extra)
             VALUES ({key}, x'{key:032x}', 1, 'sender@example.com', {segment}, {position}, {size}, {digest}, \
             {millisecond}, NULL);\n"
        ));
        let (attempts, due, done) = match key {
            1 => (2, (millisecond + 60_000).to_string(), "NULL".to_owned()),
            2 => (1, "NULL".to_owned(), (millisecond + 1000).to_string()),
            _ => (0, (millisecond + 60_000).to_string(), "NULL".to_owned()),
        };
        let (lane, number) = match version {
            5.. => {
                (", lane", format!(", {}", Lane::new(1, mail::Stream::Transactional, domain_number("a.test")).key()))
            }
            _ => ("", String::new()),
        };
        main.push_str(&format!(
            "INSERT INTO recipient (message, place, address, attempts, due_ms, done_ms{lane})
             VALUES ({key}, 0, 'r0@a.test', {attempts}, {due}, {done}{number});\n"
        ));
    }
    segment.write(true).unwrap();
    let event = |table, message, seq, kind| {
        format!(
            "INSERT INTO {table} (message, seq, id, kind, at_ms, recipient)
             VALUES ({message}, {seq}, x'{seq:032x}', {kind}, {millisecond}, 'r0@a.test');\n"
        )
    };
    main.push_str("INSERT INTO segment VALUES (1, 1);\n");
    main.push_str(&event("outbox", 1, 4, 3));
    let item = if version >= 4 { ", item" } else { "" };
    let zero = if version >= 4 { ", 0" } else { "" };
    main.push_str(&format!(
        "INSERT INTO idempotency (tenant, key, digest, message, at_ms{item})
         VALUES (1, 'k', 'd', x'{:032x}', {millisecond}{zero});\n",
        1
    ));
    main.push_str("INSERT INTO domain (key, tenant, name, created_ms) VALUES (1, 1, 'example.com', 1);\n");
    main.push_str("INSERT INTO dkim_key (id, domain, selector, algorithm, public, private) VALUES ('dkim_1', 1, 's', 2, x'01', x'02');\n");
    if version >= 4 {
        main.push_str("UPDATE domain SET id = x'00000000000000000000000000000001';\n");
        main.push_str(&format!("INSERT INTO schedule VALUES (3, {}, 1);\n", millisecond + 60_000));
        main.push_str(&event("outbox", 3, 5, 8));
    }
    if version >= WITH_STREAMS {
        main.push_str("INSERT INTO api_key (hash, id, tenant, name, prefix, created_ms, stream) VALUES (x'07', 'key_1', 1, 'k', 'ph_1', 1, 1);\n");
    }
    if version >= WITH_REQUESTS {
        main.push_str("UPDATE message SET request = '{\"envid\":\"QQ314159\"}' WHERE key = 3;\n");
    }
    if version >= WITH_KEY_STATES {
        main.push_str("UPDATE dkim_key SET state = 3, created_ms = 1, switched_ms = 2, retire_ms = 3;\n");
        main.push_str("UPDATE domain SET check_ms = 4;\n");
        main.push_str("INSERT INTO used_selector VALUES (1, 'example.com', 'old', x'03');\n");
    }
    if version >= WITH_ACTIVATIONS {
        for (number, state, activated) in [(1, 0, 3), (2, 0, 2), (3, 1, 4)] {
            main.push_str(&format!(
                "INSERT INTO component (tenant, stage, version, digest, size, source, pushed_ms, state, percent, activated)
                 VALUES (1, 'validator', {number}, 'd{number}', 1, 'a.wasm', 1, {state}, 0, {activated});\n"
            ));
        }
    }
    let mut moved = format!("{}PRAGMA user_version = {events};\n", EVENTS[..events].join("\n"));
    for (message, seq, kind) in [(1, 1, 1), (2, 2, 1), (2, 3, 2)] {
        moved.push_str(&event("event", message, seq, kind));
    }
    moved.push_str("UPDATE progress SET seq = 3;\n");
    std::fs::write(to.join("store.sql"), main).unwrap();
    std::fs::write(to.join("events.sql"), moved).unwrap();
    std::fs::copy(spool.path().join("spool").join(SEGMENT), to.join(SEGMENT)).unwrap();
}

/// The fixtures of their schemas have no components.
fn push_three(store: &Path) {
    let sql = "INSERT INTO component (tenant, stage, version, digest, size, source, pushed_ms, state, percent)
               VALUES (1, 'validator', ?1, 'd', 1, 'a.wasm', 1, ?2, 0)";
    let database = rusqlite::Connection::open(store).unwrap();
    for (number, state) in [(1, 0), (2, 1), (3, 0)] {
        database.execute(sql, (number, state)).unwrap();
    }
}

#[tokio::test]
async fn data_folders_of_earlier_versions_open_and_go_on() {
    for (version, events) in RELEASED {
        let kept = vectors(version);
        if !kept.exists() {
            assert!(std::env::var_os("UPDATE_EXPECT").is_some(), "{} lacks: see the top of this file", kept.display());
            write(version, events, &kept);
        }
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("spool")).unwrap();
        std::fs::copy(kept.join(SEGMENT), folder.path().join("spool").join(SEGMENT)).unwrap();
        for name in ["store", "events"] {
            let database = rusqlite::Connection::open(folder.path().join(format!("{name}.db"))).unwrap();
            database.execute_batch(&std::fs::read_to_string(kept.join(format!("{name}.sql"))).unwrap()).unwrap();
        }
        if (WITH_COMPONENTS..WITH_ACTIVATIONS).contains(&version) {
            push_three(&folder.path().join("store.db"));
        }
        let store = open(folder.path());
        let has_schedule = version >= 4;
        assert_eq!(store.queued().await.unwrap(), 1 + u64::from(has_schedule), "{version}");
        assert_eq!(kinds(&store, 2).await, [EventKind::Sent, EventKind::Delivered], "{version}");
        assert_eq!(kinds(&store, 1).await, [EventKind::Sent, EventKind::DeliveryDelayed], "{version}");
        assert!(store.lease(at(59), 9).await.unwrap().is_empty(), "{version}");
        let again = accept(&store, with_key(message(1, 1, 1), "k", "d")).await.unwrap();
        assert_eq!(again, Accepted::Replayed(Uuid::from_u128(1)), "{version}");
        accept(&store, message(9, 60, 1)).await.unwrap();
        let leased = store.lease(at(60), 9).await.unwrap();
        assert_eq!(leased.len(), 2 + usize::from(has_schedule), "{version}");
        for one in &leased {
            let number = one.message.as_u128();
            assert_eq!(store.body(&one.body).await.unwrap(), message(number, 0, 1).body, "{version}: {number}");
            assert_eq!(one.recipients[0].attempts, if number == 1 { 2 } else { 0 }, "{version}");
            let asked = one.request.as_ref().and_then(|request| request.envelope_id.as_ref());
            let expect = (number == 3 && version >= WITH_REQUESTS).then_some("QQ314159");
            assert_eq!(asked.map(|id| id.as_str()), expect, "{version}: {number}");
        }
        let done = leased.iter().map(|one| completion(one, 0, Next::Done, Some(EventKind::Delivered)));
        store.complete(done.collect()).await.unwrap();
        store.move_events().await;
        assert_eq!(kinds(&store, 1).await.last(), Some(&EventKind::Delivered), "{version}");
        assert_eq!(store.queued().await.unwrap(), 0, "{version}");
        let domains = store.domains(None).await.unwrap();
        assert_eq!((domains.len(), domains[0].domain.as_str()), (1, "example.com"), "{version}");
        let (since, until) = (Timestamp::from_millisecond(2).unwrap(), Timestamp::from_millisecond(3).unwrap());
        // A key of a schema without states signs.
        let state = if version >= WITH_KEY_STATES { KeyState::Retiring { since, until } } else { KeyState::Active };
        assert_eq!(domains[0].keys[0].state, state, "{version}");
        if version >= WITH_COMPONENTS {
            if version < WITH_ACTIVATIONS {
                let (tenant, stage) = ("default".to_owned(), "validator".to_owned());
                let (digest, source) = ("new".to_owned(), "new.wasm".to_owned());
                let state = VersionState::Active;
                let new = NewVersion { tenant, stage, digest, source, pushed_at: at(1), state };
                store.add_component(new, Bytes::from_static(b"new")).await.unwrap();
            }
            store.roll_back_component("default", "validator", None).await.unwrap();
            let versions = store.component_versions(None).await.unwrap();
            let active = versions.iter().find(|one| one.state == VersionState::Active).map(|one| one.version);
            // A schema without the order has the numbers alone, and knows which one is active.
            assert_eq!(active, Some(if version >= WITH_ACTIVATIONS { 1 } else { 2 }), "{version}");
        }
        let streams: Vec<_> = store.keys(None).await.unwrap().into_iter().map(|key| key.stream).collect();
        let expect = (version >= WITH_STREAMS).then_some(Some(mail::Stream::Broadcast));
        assert_eq!(streams, Vec::from_iter(expect), "{version}");
    }
}

#[test]
fn every_schema_that_was_released_is_kept() {
    // The newest is the host's own, until another one follows it.
    assert!(RELEASED.len() + 1 >= MAIN.len(), "give schema {} a folder: see the top of this file", MAIN.len() - 1);
    assert_eq!(RELEASED.map(|(version, _)| version), std::array::from_fn(|at| at + 1));
}
