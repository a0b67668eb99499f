//! Those who are measured: a posthaste that signs, the same that does not, Postfix without and with OpenDKIM, Haraka.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use tests::postfix::{Postfix, Role};
use tests::product::{Product, Setup, root};

use super::load::OUTBOUND;
use super::peers::{self, Peer};

/// Mail from this domain is signed: it has keys.
pub const SIGNED: &str = "signed.test";
pub const UNSIGNED: &str = "unsigned.test";

/// Names that the report compares.
pub const POSTHASTE: &str = "posthaste";
pub const POSTHASTE_SIGNING: &str = "posthaste, signing";
pub const POSTFIX: &str = "postfix";
pub const POSTFIX_SIGNING: &str = "postfix + opendkim";
pub const HARAKA: &str = "haraka";

/// A relay that takes mail on a port of loopback and hands it to the sink.
pub struct Relay {
    pub name: &'static str,
    pub port: u16,
    /// Roots of its process trees.
    pub pids: Vec<u32>,
    pub sender_domain: &'static str,
    running: Running,
}

/// What must live as long as the relay.
enum Running {
    Posthaste { product: Arc<(Product, Setup)> },
    Postfix { _postfix: Postfix, _opendkim: Option<Peer> },
    Haraka { _haraka: Peer },
}

/// A set-up of the release build whose mail goes to the sink with the connections that all have; `more` stands before
/// that route.
pub fn set_up(folder: &Path, sink: u16, more: &str) -> Result<Setup> {
    let setup = Setup::within(folder)?
        .binary(root().join("target/release/posthaste"))
        .delivery(&format!("connections_per_site = {OUTBOUND}"))
        .with(more)
        .with(&format!("[[route]]\ndomain = \"*\"\nrelay = \"127.0.0.1:{sink}\""));
    // RSA-2048 and Ed25519: every message carries both signatures, where OpenDKIM makes the one.
    setup.command(&["domain", "add", SIGNED]).context("cannot make DKIM keys")?;
    Ok(setup)
}

/// One host: it signs mail from one domain and passes that of another unsigned.
pub fn posthaste(folder: &Path, sink: u16) -> Result<Vec<Relay>> {
    let setup = set_up(folder, sink, "")?;
    let product = setup.start()?;
    product.settled()?;
    Ok(of_product(product, setup))
}

/// A running host as relays.
pub fn of_product(product: Product, setup: Setup) -> Vec<Relay> {
    let (port, pid) = (product.smtp.port(), product.pid());
    let running = Arc::new((product, setup));
    let relay = |name, sender_domain| Relay {
        name,
        port,
        pids: vec![pid],
        sender_domain,
        running: Running::Posthaste { product: running.clone() },
    };
    vec![relay(POSTHASTE, UNSIGNED), relay(POSTHASTE_SIGNING, SIGNED)]
}

/// What `of_product` took, where nobody else holds it.
pub fn into_product(relays: Vec<Relay>) -> Option<(Product, Setup)> {
    let mut held = None;
    for relay in relays {
        if let Running::Posthaste { product } = relay.running {
            held = Some(product);
        }
    }
    Arc::try_unwrap(held?).ok()
}

/// The Postfix of this system in folders of their own: one that passes mail on, and one that signs it before.
pub fn postfix(folder: &Path, sink: u16) -> Result<Vec<Relay>> {
    let role = Role::Relay { sink, connections: OUTBOUND, milter: None };
    let plain = Postfix::start(&folder.join("postfix"), &role)?;
    let opendkim = peers::opendkim(&folder.join("opendkim"), SIGNED)?;
    let role = Role::Relay { sink, connections: OUTBOUND, milter: Some(opendkim.port) };
    let signing = Postfix::start(&folder.join("postfix-signing"), &role)?;
    let relay = |name, sender_domain, postfix: Postfix, opendkim: Option<Peer>| Relay {
        name,
        port: postfix.port,
        pids: [postfix.pid].into_iter().chain(opendkim.as_ref().map(Peer::pid)).collect(),
        sender_domain,
        running: Running::Postfix { _postfix: postfix, _opendkim: opendkim },
    };
    Ok(vec![relay(POSTFIX, UNSIGNED, plain, None), relay(POSTFIX_SIGNING, SIGNED, signing, Some(opendkim))])
}

/// Haraka, store and forward.
pub fn haraka(folder: &Path, sink: u16) -> Result<Relay> {
    let haraka = peers::haraka(&folder.join("haraka"), sink, OUTBOUND)?;
    Ok(Relay {
        name: HARAKA,
        port: haraka.port,
        pids: vec![haraka.pid()],
        sender_domain: UNSIGNED,
        running: Running::Haraka { _haraka: haraka },
    })
}
