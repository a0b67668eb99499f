//! Those who are measured: a posthaste that signs, the same that does not, and Postfix.

use std::path::Path;
use std::rc::Rc;

use anyhow::{Context as _, Result};
use tests::postfix::{Postfix, Role};
use tests::product::{Product, Setup, root};

use super::load::SESSIONS;

/// Mail from this domain is signed: it has keys.
const SIGNED: &str = "signed.test";
const UNSIGNED: &str = "unsigned.test";

/// A relay that takes mail on a port of loopback and hands it to the sink.
pub struct Relay {
    pub name: &'static str,
    pub port: u16,
    pub pid: u32,
    pub sender_domain: &'static str,
    _running: Running,
}

/// What must live as long as the relay.
enum Running {
    Posthaste { _product: Rc<(Product, Setup)> },
    Postfix { _postfix: Postfix },
}

/// One host: it signs mail from one domain and passes that of another unsigned.
pub fn posthaste(folder: &Path, sink: u16) -> Result<Vec<Relay>> {
    let setup = Setup::within(folder)?
        .binary(root().join("target/release/posthaste"))
        .delivery(&format!("connections_per_site = {SESSIONS}"))
        .with(&format!("[[route]]\ndomain = \"*\"\nrelay = \"127.0.0.1:{sink}\""));
    setup.command(&["domain", "add", SIGNED]).context("cannot make DKIM keys")?;
    let product = setup.start()?;
    let (port, pid) = (product.smtp.port(), product.pid());
    let running = Rc::new((product, setup));
    let relay = |name, sender_domain| Relay {
        name,
        port,
        pid,
        sender_domain,
        _running: Running::Posthaste { _product: running.clone() },
    };
    Ok(vec![relay("posthaste", UNSIGNED), relay("posthaste, signing", SIGNED)])
}

/// The Postfix of this system, in a folder of its own.
pub fn postfix(folder: &Path, sink: u16) -> Result<Relay> {
    let postfix = Postfix::start(&folder.join("postfix"), &Role::Relay { sink, connections: SESSIONS })?;
    Ok(Relay {
        name: "postfix",
        port: postfix.port,
        pid: postfix.pid,
        sender_domain: UNSIGNED,
        _running: Running::Postfix { _postfix: postfix },
    })
}
