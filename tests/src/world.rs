//! The outside world for a product that runs as a process: a name server and a mail host, usable from plain threads.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;

use crate::fake_dns::FakeDns;
use crate::fake_mx::FakeMx;
pub use crate::fake_mx::Received;

/// One name server, and one mail host behind every `.test` domain of the zone.
pub struct World {
    // Fields drop in this order: the doubles before what runs them.
    mx: FakeMx,
    dns: FakeDns,
    _runtime: Runtime,
}

/// `dst.test` is delivered to the mail host; `elsewhere.test` to nobody.
const ZONE: &str = "\
    dst.test MX 10 mx.dst.test\n\
    mx.dst.test A 127.0.0.1\n\
    elsewhere.test NXDOMAIN\n";

impl World {
    /// Starts both. The mail host takes everything and offers STARTTLS.
    pub fn start() -> World {
        let runtime = Runtime::new().expect("a runtime");
        let (mx, dns) = runtime.block_on(async {
            (FakeMx::build().name("mx.dst.test").starttls().start().await, FakeDns::start(ZONE).await)
        });
        World { mx, dns, _runtime: runtime }
    }

    /// The name server.
    pub fn dns(&self) -> SocketAddr {
        self.dns.address()
    }

    /// Adds lines to its zone.
    pub fn publish(&self, zone: &str) {
        self.dns.add(zone);
    }

    /// Where the mail host listens on 127.0.0.1.
    pub fn mx_port(&self) -> u16 {
        self.mx.port()
    }

    /// The mail host, to be told what to do.
    pub fn mx(&self) -> &FakeMx {
        &self.mx
    }

    /// Everything delivered so far.
    pub fn received(&self) -> Vec<Received> {
        self.mx.messages()
    }

    /// Waits until a check of what was delivered has nothing to say any more. Panics with its last words.
    pub fn wait_until(&self, limit: Duration, check: impl Fn(&[Received]) -> Result<(), String>) {
        let start = Instant::now();
        while let Err(words) = check(&self.mx.messages()) {
            assert!(start.elapsed() < limit, "after {limit:?}: {words}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}
