//! Starting and stopping.

use std::net::TcpListener;
use std::time::Duration;

use tests::http;
use tests::product::Setup;
use tests::smtp::Client;

/// Listeners answer within this of a start, the first one included. Holds for the debug binary too: its dependencies are
/// optimized, and components compile behind open listeners.
const PROMISE: Duration = Duration::from_secs(1);

/// A start is tried so often and the best counts: the machine may be busy with other things, but not each time.
const TRIES: usize = 5;

#[test]
fn listeners_answer_within_a_second_of_the_first_start() {
    let best = (0..TRIES).map(|_| Setup::new().unwrap().start().unwrap().ready_after).min().unwrap();
    assert!(best < PROMISE, "the best of {TRIES} first starts took {best:?}");
}

#[test]
fn listeners_answer_within_a_second_of_later_starts() {
    let setup = Setup::new().unwrap();
    setup.start().unwrap().stop().unwrap();
    let best = (0..TRIES).map(|_| setup.start().unwrap().ready_after).min().unwrap();
    assert!(best < PROMISE, "the best of {TRIES} starts took {best:?}");
}

#[test]
fn health_is_told_and_sigterm_ends_it() {
    let setup = Setup::new().unwrap();
    let product = setup.start().unwrap();
    assert_eq!(http::get(product.http, "/healthz", &[]).unwrap().status, 200);
    let mut client = Client::greeted(product.smtp).unwrap();
    let smtp = product.smtp;
    product.stop().unwrap();
    // Whoever was connected is not left hanging, and nobody else gets in.
    assert!(client.command("NOOP", 250).is_err());
    assert!(Client::connect(smtp).is_err());
}

#[test]
fn a_second_host_on_the_same_data_is_refused() {
    let setup = Setup::new().unwrap();
    let mut first = setup.start().unwrap();
    let error = format!("{:#}", setup.start().err().expect("two hosts must not share a data folder"));
    assert!(error.contains("data"), "the text must name the folder: {error}");
    assert!(first.is_running());
}

#[test]
fn a_port_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let setup = Setup::new().unwrap().with(&format!("[admin]\nlisten = \"{address}\""));
    let error = format!("{:#}", setup.start().err().expect("the port is taken"));
    assert!(error.contains(&address), "the text must name the address: {error}");
}

#[test]
fn all_faults_of_a_configuration_are_told_at_once() {
    let setup = Setup::new().unwrap().with("[stages]\ntiem = \"1s\"\nmemory_bytes = \"lots\"\n[colour]\nred = 1");
    let error = format!("{:#}", setup.start().err().expect("the configuration is wrong"));
    for word in ["tiem", "memory_bytes", "colour"] {
        assert!(error.contains(word), "`{word}` is missing: {error}");
    }
}

/// Everybody knows them.
#[test]
fn the_keys_of_a_development_host_are_good_for_nothing_elsewhere() {
    let setup = Setup::new().unwrap();
    let looks = |server| http::get(server, "/emails", &[("authorization", "Bearer ph_dev")]).unwrap().status;
    let product = setup.start_development("ph_dev").unwrap();
    assert_eq!(looks(product.http), 200);
    product.stop().unwrap();
    let product = setup.start().unwrap();
    assert_eq!(looks(product.http), 403);
    product.stop().unwrap();
    let product = setup.start_development("ph_dev").unwrap();
    assert_eq!(looks(product.http), 200, "and is again for development");
}
