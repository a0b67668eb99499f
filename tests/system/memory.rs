//! Memory follows the configuration, not strangers.

use tests::product::Setup;
use tests::smtp::Client;

const LIMIT_BYTES: u64 = 300 * 1024 * 1024;

const IDLE_CONNECTIONS: usize = 500;

/// As large as a message may be, header included.
const MESSAGE_BYTES: usize = 25 * 1024 * 1024;

#[test]
fn five_hundred_idle_connections_and_a_large_message() {
    let setup = Setup::new().unwrap().with("[[route]]\ndomain = \"*\"\nrelay = \"127.0.0.1:1\"");
    setup.command(&["domain", "add", "src.test"]).unwrap();
    let product = setup.start().unwrap();

    let idle: Vec<Client> = (0..IDLE_CONNECTIONS).map(|_| Client::greeted(product.smtp).unwrap()).collect();
    let mut client = Client::greeted(product.smtp).unwrap();
    let (code, text) = client.submit("a@src.test", "b@dst.test", &large_message()).unwrap();
    assert_eq!(code, 250, "{text}");

    let peak = product.peak_resident_bytes().unwrap();
    assert!(peak < LIMIT_BYTES, "{} MB at the peak", peak / 1_000_000);

    // They were served all along, not merely queued by the kernel.
    for mut client in idle {
        client.command("NOOP", 250).unwrap();
    }
}

/// Most connections wait. What one costs is measured as a difference, so that the first ones' pools and threads count for
/// nothing.
#[test]
fn an_idle_connection_costs_little() {
    const CONNECTIONS: usize = 2000;
    const AT_MOST_BYTES: u64 = 10_000;
    let smtp = "trusted = [\"127.0.0.1/32\"]\nmax_connections = 5000";
    let setup = Setup::new().unwrap().smtp(smtp).with("[[route]]\ndomain = \"*\"\nrelay = \"127.0.0.1:1\"");
    let product = setup.start().unwrap();
    product.settled().unwrap();
    let first: Vec<Client> = (0..200).map(|_| Client::greeted(product.smtp).unwrap()).collect();
    let before = product.resident_bytes().unwrap();
    let idle: Vec<Client> = (0..CONNECTIONS).map(|_| Client::greeted(product.smtp).unwrap()).collect();
    let each = product.resident_bytes().unwrap().saturating_sub(before) / CONNECTIONS as u64;
    println!("an idle connection costs {each} bytes");
    assert!(each < AT_MOST_BYTES, "{each} bytes");
    for mut client in idle.into_iter().chain(first) {
        client.command("NOOP", 250).unwrap();
    }
}

/// Just below the limit: what the host adds to it still fits.
fn large_message() -> Vec<u8> {
    let mut message = b"From: a@src.test\r\nTo: b@dst.test\r\nSubject: large\r\n\r\n".to_vec();
    let line = [b"0123456789".repeat(7).as_slice(), b"\r\n"].concat();
    while message.len() + line.len() < MESSAGE_BYTES - 64 * 1024 {
        message.extend(&line);
    }
    message
}
