//! Lanes, shares and connections of sites.
#![allow(clippy::unwrap_used)]
use std::time::Duration;

use super::*;
use crate::config::TlsPolicy;
use crate::queue::turns::TURNS_BEFORE_BROADCAST;
use crate::route::Plan;
use mail::outcome::Phase;
use mail::{Address, EnhancedCode, Verdict};

fn site(key: &str) -> Site {
    let plan = Plan { hosts: Vec::new(), port: 25, tls: TlsPolicy::Off, auth: None, egress: None };
    Site { key: key.into(), plan: Arc::new(plan) }
}

fn item(message: u128, tenant: &str, recipients: &[&str]) -> Item {
    let recipient = |(index, text): (usize, &&str)| LeasedRecipient {
        index: index as u32,
        address: Address::parse(text).unwrap(),
        attempts: 0,
    };
    Item {
        size_bytes: 1,
        request: None,
        message: Uuid::from_u128(message),
        tenant: tenant.to_owned(),
        stream: Stream::Transactional,
        sender: None,
        body: BodyRef(String::new()),
        accepted_at: at(0),
        recipients: recipients.iter().enumerate().map(recipient).collect(),
    }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn domain(name: &str) -> Domain {
    Domain::parse(name).unwrap()
}

fn sites(per_site: usize, in_all: usize) -> Sites {
    Sites::new(Limits { per_site, in_all, waiting: 1000 })
}

fn add(sites: &mut Sites, key: &str, message: u128, tenant: &str, recipient: &str) {
    let item = item(message, tenant, &[recipient]);
    let domain = item.recipients[0].address.domain().clone();
    assert!(matches!(sites.add(&site(key), &domain, item, at(0)), Added::Waiting));
}

fn take_at(sites: &mut Sites, key: &str, now: Timestamp) -> Option<Item> {
    match sites.take(key, &mut Stage::Used, false, now) {
        Taken::Item(item) => Some(item),
        Taken::Nothing | Taken::Leave => None,
    }
}

fn taken(sites: &mut Sites, key: &str) -> Vec<u128> {
    std::iter::from_fn(|| take_at(sites, key, at(0))).map(|item| item.message.as_u128()).collect()
}

fn refusal() -> Outcome {
    Outcome {
        verdict: Verdict::Deferred,
        phase: Phase::Connect,
        status: EnhancedCode::new(4, 4, 1),
        remote_host: None,
        reply: None,
        text: "refused".to_owned(),
        tls: None,
    }
}

#[test]
fn a_source_has_a_limit_of_its_own() {
    let source = |name: &str| crate::config::Source {
        name: name.to_owned(),
        addresses: Vec::new(),
        hostname: None,
        connections: 2,
        weight: 0,
    };
    let from = |key: &str, name: &str| {
        let sources: Arc<[Arc<crate::config::Source>]> = [Arc::new(source(name))].into();
        let egress = crate::route::egress::Egress::choose(key, &sources, &Arc::default(), tokio::time::Instant::now());
        Site { key: key.into(), plan: Arc::new(Plan { egress, ..(*site(key).plan).clone() }) }
    };
    let mut sites = sites(5, 100);
    for (message, (key, name)) in [("x", "a"), ("y", "a"), ("z", "b")].into_iter().enumerate() {
        for number in 0..5 {
            let item = item((message * 10 + number) as u128, "t", &["x@a.test"]);
            assert!(matches!(sites.add(&from(key, name), &domain("a.test"), item, at(0)), Added::Waiting));
        }
    }
    let grown = |sites: &mut Sites, key: &str| {
        let opened = sites.grow(&key.into(), at(0)).map_or(0, |(_, count)| count);
        (0..opened).for_each(|_| sites.connected(key));
        (0..opened).for_each(|_| drop(sites.take(key, &mut Stage::Fresh, false, at(0))));
        opened + sites.grow(&key.into(), at(0)).map_or(0, |(_, count)| count)
    };
    assert_eq!(grown(&mut sites, "x"), 2, "of its source's two, one of them once the first is proven");
    assert_eq!(grown(&mut sites, "y"), 0, "the same source");
    assert_eq!(grown(&mut sites, "z"), 2, "another one");
    assert_eq!(sites.closed(&"z".into(), Stage::Used), ["z".into()], "room at b is none at a");
    assert_eq!(sites.closed(&"x".into(), Stage::Used), [Arc::from("y"), "x".into()]);
    assert_eq!(grown(&mut sites, "y"), 1);
}

#[test]
fn lanes_take_turns() {
    let mut sites = sites(1, 1);
    for message in 1..=4 {
        add(&mut sites, "s", message, "bulk", "x@a.test");
    }
    add(&mut sites, "s", 5, "other", "x@a.test");
    add(&mut sites, "s", 6, "bulk", "x@b.test");
    add(&mut sites, "s", 7, "other", "y@a.test");
    assert_eq!(taken(&mut sites, "s"), [1, 5, 6, 2, 7, 3, 4]);
}

#[test]
fn recipients_of_one_message_at_one_site_go_together() {
    let mut sites = sites(1, 1);
    add(&mut sites, "s", 1, "t", "x@a.test");
    add(&mut sites, "s", 2, "t", "x@a.test");
    add(&mut sites, "s", 1, "t", "y@b.test");
    add(&mut sites, "elsewhere", 1, "t", "z@c.test");
    assert_eq!(take_at(&mut sites, "s", at(0)).unwrap().recipients.len(), 2);
    assert_eq!(taken(&mut sites, "s"), [2]);
    assert_eq!(taken(&mut sites, "elsewhere"), [1]);
}

#[test]
fn a_message_with_many_recipients_goes_in_several_transactions() {
    let mut sites = sites(1, 1);
    let addresses: Vec<String> = (0..250).map(|n| format!("r{n}@a.test")).collect();
    let all = item(1, "t", &addresses.iter().map(String::as_str).collect::<Vec<_>>());
    sites.add(&site("s"), &domain("a.test"), all, at(0));
    let sizes: Vec<usize> =
        std::iter::from_fn(|| take_at(&mut sites, "s", at(0))).map(|item| item.recipients.len()).collect();
    assert_eq!(sizes, [100, 100, 50]);
}

#[test]
fn a_site_holds_its_share_and_the_rest_comes_at_its_pace() {
    let mut sites = Sites::new(Limits { per_site: 1, in_all: 1, waiting: 200 });
    let mut put =
        |message, second| sites.add(&site("s"), &domain("a.test"), item(message, "t", &["x@a.test"]), at(second));
    let waiting = (1..=200).filter(|message| matches!(put(*message, 0), Added::Waiting)).count();
    assert_eq!(waiting, 100);
    assert!(matches!(put(900, 0), Added::Postponed(_, until) if until == at(1) + Duration::from_secs(50)));
    assert!(matches!(
        sites.add(&site("other"), &domain("b.test"), item(900, "t", &["x@b.test"]), at(0)),
        Added::Waiting
    ));
    for second in 0..4 {
        (0..20).for_each(|_| drop(take_at(&mut sites, "s", at(second))));
    }
    // 20 a second, and so 40 a second come; those before are spread up to 50.5 seconds.
    let mut slots = Vec::new();
    for message in 1000..1101 {
        if let Added::Postponed(_, until) =
            sites.add(&site("s"), &domain("a.test"), item(message, "t", &["x@a.test"]), at(60))
        {
            slots.push(until);
        }
    }
    assert_eq!((slots.len(), slots[0], slots[20]), (21, at(61), at(61) + Duration::from_millis(500)));
}

#[test]
fn many_slow_sites_leave_room_for_one_more() {
    let mut sites = Sites::new(Limits { per_site: 1, in_all: 1, waiting: 1000 });
    let mut held = Vec::new();
    for name in ["a.test", "b.test", "c.test", "d.test", "e.test"] {
        let mut put = |message| sites.add(&site(name), &domain(name), item(message, "t", &["x@a.test"]), at(0));
        held.push((1..=1000).filter(|message| matches!(put(*message), Added::Waiting)).count());
    }
    assert_eq!(held, [500, 250, 125, 63, 31]);
    assert_eq!(sites.recipients, 969);
    (0..600).for_each(|_| drop(take_at(&mut sites, "a.test", at(0))));
    assert_eq!(sites.recipients, 469);
    assert!(matches!(sites.add(&site("f"), &domain("f"), item(1, "t", &["x@f"]), at(0)), Added::Waiting));
    sites.take_all();
    assert_eq!(sites.recipients, 0);
}

#[test]
fn a_site_that_took_half_of_what_waits_is_given_more() {
    let mut sites = Sites::new(Limits { per_site: 1, in_all: 1, waiting: 200 });
    for message in 1..=101 {
        drop(sites.add(&site("s"), &domain("a.test"), item(message, "t", &["x@a.test"]), at(0)));
    }
    (0..49).for_each(|_| drop(take_at(&mut sites, "s", at(0))));
    assert!(sites.roused.is_empty());
    take_at(&mut sites, "s", at(0));
    assert_eq!(sites.roused, [("t".to_owned(), domain("a.test"), Stream::Transactional)]);
}

#[test]
fn nobody_is_postponed_for_long() {
    let mut pace = Pace::default();
    let latest = (0..10_000).map(|_| pace.slot(1, at(0))).max();
    assert_eq!(latest, Some(at(60)));
}

#[test]
fn one_connection_tries_before_many_open() {
    let mut sites = sites(3, 10);
    for message in 1..=9 {
        add(&mut sites, "s", message, "t", "x@a.test");
    }
    let opened = |sites: &mut Sites| sites.grow(&"s".into(), at(0)).map_or(0, |(_, count)| count);
    assert_eq!(opened(&mut sites), 1);
    assert_eq!(opened(&mut sites), 0);
    sites.connected("s");
    assert_eq!(opened(&mut sites), 2, "up to the limit of the site");
    assert_eq!(opened(&mut sites), 0);
}

#[test]
fn idle_connections_are_used_before_new_ones() {
    let mut sites = sites(3, 10);
    add(&mut sites, "s", 1, "t", "x@a.test");
    sites.grow(&"s".into(), at(0));
    assert!(sites.grow(&"s".into(), at(0)).is_none(), "the one that opens takes it");
    sites.connected("s");
    assert!(sites.grow(&"s".into(), at(0)).is_none(), "the one that was greeted takes it");
    let mut stage = Stage::Fresh;
    let mut ask = |sites: &mut Sites| match sites.take("s", &mut stage, false, at(0)) {
        Taken::Item(item) => Some(item.message.as_u128()),
        Taken::Nothing => None,
        Taken::Leave => panic!("nobody else waits"),
    };
    assert_eq!((ask(&mut sites), ask(&mut sites)), (Some(1), None));
    add(&mut sites, "s", 2, "t", "x@a.test");
    assert!(sites.grow(&"s".into(), at(0)).is_none(), "the idle one takes it");
    assert_eq!(ask(&mut sites), Some(2));
    add(&mut sites, "s", 3, "t", "x@a.test");
    assert!(sites.grow(&"s".into(), at(0)).is_some(), "the only one is busy");
    assert_eq!(sites.sites["s"].idle, 0);
}

#[test]
fn a_connection_makes_room_for_a_site_that_has_none() {
    let mut sites = sites(2, 1);
    for message in 1..=9 {
        add(&mut sites, "busy", message, "t", "x@a.test");
    }
    assert!(sites.grow(&"busy".into(), at(0)).is_some());
    sites.connected("busy");
    let mut stage = Stage::Fresh;
    let mut ask = |sites: &mut Sites, had_turn| match sites.take("busy", &mut stage, had_turn, at(0)) {
        Taken::Item(_) => "item",
        Taken::Nothing => "nothing",
        Taken::Leave => "leave",
    };
    assert_eq!(ask(&mut sites, true), "item", "nobody waits");
    add(&mut sites, "starved", 10, "t", "x@b.test");
    assert!(sites.grow(&"starved".into(), at(0)).is_none());
    assert_eq!(ask(&mut sites, false), "item", "its turn is not over");
    assert_eq!(ask(&mut sites, true), "leave");
    assert!(!sites.stands_in_the_way("busy"), "one is leaving already");
    assert_eq!(sites.closed(&"busy".into(), Stage::Leaving), ["starved".into(), "busy".into()]);
    assert!(sites.grow(&"starved".into(), at(0)).is_some());
    assert!(sites.grow(&"busy".into(), at(0)).is_none(), "now it waits itself");
    // Who has nothing to do leaves at once.
    sites.connected("starved");
    let mut stage = Stage::Fresh;
    assert!(matches!(sites.take("starved", &mut stage, false, at(0)), Taken::Item(_)));
    assert!(matches!(sites.take("starved", &mut stage, false, at(0)), Taken::Leave));
}

#[test]
fn more_connections_allowed_are_used_by_who_had_none() {
    let mut sites = sites(2, 1);
    add(&mut sites, "one", 1, "t", "x@a.test");
    add(&mut sites, "two", 2, "t", "x@b.test");
    sites.grow(&"one".into(), at(0));
    assert!(sites.grow(&"two".into(), at(0)).is_none());
    assert_eq!(sites.limit(2, 2), [Arc::from("two")]);
    assert!(sites.grow(&"two".into(), at(0)).is_some());
}

/// Eight sites of one tenant whose peers are silent, and as many that wait; then come as many of another tenant's.
#[test]
fn a_tenant_that_has_most_connections_gives_up_those_that_are_being_opened() {
    let mut sites = sites(1, 8);
    let keys = |tenant: &str| -> Vec<Arc<str>> { (0..16).map(|number| format!("{tenant}{number}").into()).collect() };
    let mut message = 0;
    let mut ask = |sites: &mut Sites, tenant: &str| {
        for key in keys(tenant) {
            message += 1;
            add(sites, &key, message, tenant, "x@a.test");
            sites.grow(&key, at(0));
        }
    };
    ask(&mut sites, "silent");
    assert_eq!(sites.by_tenant.of("silent"), 8);
    assert!(keys("silent").iter().all(|key| sites.sites[key].unwanted == 0), "nobody else waits");
    ask(&mut sites, "other");
    let unwanted: Vec<Arc<str>> = keys("silent").into_iter().filter(|key| sites.sites[key].unwanted > 0).collect();
    assert_eq!(unwanted.len(), 4, "half of them");
    for key in unwanted {
        let mut stage = Stage::Connecting;
        assert!(sites.is_unwanted(&key, &mut stage));
        assert!(!sites.is_unwanted(&key, &mut Stage::Connecting), "once");
        sites.closed(&key, stage).iter().for_each(|key| drop(sites.grow(key, at(0))));
    }
    assert_eq!((sites.by_tenant.of("silent"), sites.by_tenant.of("other"), sites.leaving), (4, 4, 0));
    // Whoever ends, its tenant goes on with its share.
    let ends = keys("other").into_iter().find(|key| sites.sites[key].connections > 0).unwrap();
    sites.connected(&ends);
    assert!(take_at(&mut sites, &ends, at(0)).is_some());
    assert!(sites.closed(&ends, Stage::Used)[0].starts_with("other"));
    assert_eq!(sites.by_tenant.of("other"), 3);
}

#[test]
fn a_starved_site_gets_the_next_free_connection() {
    let mut sites = sites(2, 1);
    add(&mut sites, "one", 1, "t", "x@a.test");
    add(&mut sites, "two", 2, "t", "x@b.test");
    assert!(sites.grow(&"one".into(), at(0)).is_some());
    assert!(sites.grow(&"two".into(), at(0)).is_none());
    assert!(sites.grow(&"two".into(), at(0)).is_none());
    assert_eq!(sites.closed(&"one".into(), Stage::Connecting), ["two".into(), "one".into()]);
    assert!(sites.grow(&"two".into(), at(0)).is_some());
    assert_eq!(sites.closed(&"two".into(), Stage::Connecting), ["two".into()]);
}

#[test]
fn a_refusal_is_told_to_all_who_wait_and_who_come_before_it_ends() {
    let mut sites = sites(2, 2);
    add(&mut sites, "s", 1, "t", "x@a.test");
    add(&mut sites, "s", 2, "t", "x@a.test");
    sites.grow(&"s".into(), at(0));
    let mut counts = Vec::new();
    assert_eq!(
        sites
            .refused("s", &refusal(), |count| {
                counts.push(count);
                at(10)
            })
            .len(),
        2
    );
    sites.closed(&"s".into(), Stage::Connecting);
    sites.forget_quiet(at(5));
    let late = sites.add(&site("s"), &domain("a.test"), item(3, "t", &["x@a.test"]), at(9));
    assert!(matches!(late, Added::Refused(_, outcome) if *outcome == refusal()));
    let later = sites.add(&site("s"), &domain("a.test"), item(3, "t", &["x@a.test"]), at(10));
    assert!(matches!(later, Added::Waiting));
    sites.grow(&"s".into(), at(0));
    assert_eq!(
        sites
            .refused("s", &refusal(), |count| {
                counts.push(count);
                at(20)
            })
            .len(),
        1
    );
    sites.closed(&"s".into(), Stage::Connecting);
    assert_eq!(counts, [1, 2]);
    sites.forget_quiet(at(21));
    assert!(sites.sites.is_empty());
}

#[test]
fn one_lost_connection_among_good_ones_is_no_refusal() {
    let mut sites = sites(2, 2);
    add(&mut sites, "s", 1, "t", "x@a.test");
    add(&mut sites, "s", 2, "t", "x@a.test");
    sites.grow(&"s".into(), at(0));
    sites.connected("s");
    sites.grow(&"s".into(), at(0));
    assert!(sites.refused("s", &refusal(), |_| at(10)).is_empty());
    sites.closed(&"s".into(), Stage::Connecting);
    assert!(sites.grow(&"s".into(), at(9)).is_none(), "one was too many");
    assert!(sites.grow(&"s".into(), at(10)).is_some());
    assert_eq!(taken(&mut sites, "s"), [1, 2]);
}

#[test]
fn a_broadcast_that_fills_its_share_delays_no_transactional_mail() {
    let mut sites = Sites::new(Limits { per_site: 1, in_all: 1, waiting: 40 });
    let broadcast = |message| Item { stream: Stream::Broadcast, ..item(message, "acme", &["x@a.test"]) };
    let mut waiting = 0;
    loop {
        match sites.add(&site("mx"), &domain("a.test"), broadcast(waiting), at(0)) {
            Added::Waiting => waiting += 1,
            Added::Postponed(..) => break,
            other => panic!("{other:?}"),
        }
    }
    add(&mut sites, "mx", 1000, "acme", "y@a.test");
    add(&mut sites, "mx", 1001, "acme", "z@a.test");
    let order = taken(&mut sites, "mx");
    assert_eq!((order[..2].to_vec(), order.len()), (vec![1000, 1001], waiting as usize + 2));
    assert!(sites.roused.iter().all(|lane| lane.2 == Stream::Broadcast) && !sites.roused.is_empty());
}

#[test]
fn a_broadcast_is_not_starved() {
    let mut sites = sites(1, 1);
    let bulk = Item { stream: Stream::Broadcast, ..item(1, "acme", &["x@a.test"]) };
    assert!(matches!(sites.add(&site("mx"), &domain("a.test"), bulk, at(0)), Added::Waiting));
    (10..30).for_each(|message| add(&mut sites, "mx", message, "acme", "y@a.test"));
    let place = taken(&mut sites, "mx").iter().position(|message| *message == 1);
    assert_eq!(place, Some(TURNS_BEFORE_BROADCAST as usize));
}

#[test]
fn postponed_broadcasts_put_no_transactional_mail_off() {
    let mut sites = Sites::new(Limits { per_site: 1, in_all: 1, waiting: 60 });
    let put = |sites: &mut Sites, message, stream| {
        let item = Item { stream, ..item(message, "acme", &["x@a.test"]) };
        match sites.add(&site("mx"), &domain("a.test"), item, at(0)) {
            Added::Waiting => None,
            Added::Postponed(_, until) => Some(until),
            other => panic!("{other:?}"),
        }
    };
    let broadcasts: Vec<_> = (0..500).filter_map(|message| put(&mut sites, message, Stream::Broadcast)).collect();
    assert_eq!(broadcasts.last(), Some(&at(60)), "as late as any");
    let first = (1000..1100).find_map(|message| put(&mut sites, message, Stream::Transactional));
    assert_eq!(first, Some(at(1)), "behind what is transactional alone");
    // Half of the transactional mail, and one broadcast between.
    for _ in 0..LEAST / 2 + 1 {
        assert!(take_at(&mut sites, "mx", at(0)).is_some());
    }
    assert_eq!(sites.roused, [("acme".to_owned(), domain("a.test"), Stream::Transactional)]);
}

/// Ten thousand sites of a hundred tenants wait for the places of a few: who is next is found without a look at all of
/// them, and the tenants have their turns.
#[test]
fn many_sites_that_wait_are_not_looked_at_one_by_one() {
    const SITES: usize = 10_000;
    const PLACES: usize = 50;
    const TENANTS: usize = 100;
    let mut sites = Sites::new(Limits { per_site: 1, in_all: PLACES, waiting: 1_000_000 });
    let key = |number: usize| -> Arc<str> { format!("mx{number}").into() };
    let looks = |sites: &Sites| sites.starved.looks.take();
    // One tenant's sites have all places; its peers are silent, so that some of its connections are stopped for others.
    for number in 0..SITES + PLACES {
        let tenant = number.checked_sub(PLACES).map_or("first".to_owned(), |number| format!("t{}", number % TENANTS));
        add(&mut sites, &key(number), number as u128, &tenant, "x@a.test");
        sites.grow(&key(number), at(0));
    }
    assert_eq!((sites.starved.len(), sites.connections), (SITES, PLACES));
    assert!(looks(&sites) <= 2 * (SITES + PLACES), "a few a site");
    let mut open: VecDeque<Arc<str>> = (0..PLACES).map(key).collect();
    let mut served: HashMap<String, usize> = HashMap::new();
    for turn in 0..SITES {
        let ends = open.pop_front().unwrap();
        let stage = if sites.is_unwanted(&ends, &mut Stage::Connecting) { Stage::Leaving } else { Stage::Connecting };
        let next = sites.closed(&ends, stage);
        let (site, opened) = sites.grow(&next[0], at(0)).unwrap();
        assert_eq!(opened, 1);
        *served.entry(sites.sites[&site.key].tenants[0].clone()).or_default() += 1;
        let (least, most) = (served.values().min().unwrap(), served.values().max().unwrap());
        assert!(turn < TENANTS || served.len() == TENANTS && most - least <= 1, "turn {turn}: {least} to {most}");
        open.push_back(site.key);
        let looked = looks(&sites);
        assert!(looked <= 8, "turn {turn}: {looked} looks at {} that wait", sites.starved.len());
    }
    assert!(sites.starved.is_empty());
    assert_eq!(sites.unwanted + sites.leaving, 0);
}

/// What a site waits for is its first mail's tenant's turn, and a site whose mail is gone waits for nothing.
#[test]
fn a_site_that_waits_is_in_the_turn_of_its_first_mail() {
    let mut sites = sites(1, 2);
    for (number, key) in ["one", "two"].iter().enumerate() {
        add(&mut sites, key, number as u128, "rich", "x@a.test");
        sites.grow(&(*key).into(), at(0));
    }
    let bulk = Item { stream: Stream::Broadcast, ..item(10, "rich", &["x@b.test"]) };
    assert!(matches!(sites.add(&site("three"), &domain("b.test"), bulk, at(0)), Added::Waiting));
    sites.grow(&"three".into(), at(0));
    add(&mut sites, "four", 11, "rich", "x@c.test");
    sites.grow(&"four".into(), at(0));
    add(&mut sites, "five", 12, "poor", "x@d.test");
    sites.grow(&"five".into(), at(0));
    // Another tenant's transactional mail comes before the broadcast, at a site that has waited longest.
    add(&mut sites, "three", 13, "poor", "y@b.test");
    sites.refused("five", &refusal(), |_| at(10));
    assert_eq!(sites.closed(&"one".into(), Stage::Connecting)[0], "three".into());
    sites.grow(&"three".into(), at(0));
    assert_eq!(sites.closed(&"two".into(), Stage::Connecting)[0], "four".into(), "nothing waits for the fifth");
}
