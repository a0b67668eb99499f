//! The harness: doubles of the outside world (DNS, MX) and the product as a process.
//!
//! A fake lives as long as its value: dropping it closes its sockets. All of them listen on loopback, on ports that the
//! system chose; whoever waits for one waits for what happened, with a deadline, never for a time to pass.
//!
//! ```no_run
//! # async fn example() {
//! use tests::fake_dns::FakeDns;
//! use tests::fake_mx::{FakeMx, Step, reply};
//!
//! let mx = FakeMx::build().name("mx.b.test").starttls().start().await;
//! mx.on(Step::Rcpt("gone@b.test"), reply("550 5.1.1 nobody here"));
//! let dns = FakeDns::start("b.test MX 10 mx.b.test\nmx.b.test A 127.0.0.1").await;
//! // [dns] servers = [dns.address()], [delivery] port = mx.port()
//! let messages = mx.wait_for_messages(1).await;
//! assert_eq!(messages[0].recipients, ["other@b.test"]);
//! # }
//! ```

pub mod authors;
pub mod edge;
pub mod edge_key;
pub mod fake_dns;
pub mod fake_mx;
pub mod http;
pub mod postfix;
pub mod product;
pub mod receiver;
pub mod smtp;
pub mod spin;
pub mod world;
