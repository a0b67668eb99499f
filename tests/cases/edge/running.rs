//! Mail through the composed edge into a running host, and out to a mail server: who signed it is asked of mail-auth.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tests::edge::{Instance, Loopback, Platform, Runner};
use tests::product::{Product, Setup};
use tests::spin::Manifest;
use tests::world::World;
use tokio::runtime::Runtime;

use crate::judge::{Fate, Keys, judged};
use crate::sending::request;

/// A message is delivered after this at the latest, on a busy machine too.
const DELIVERED: Duration = Duration::from_secs(60);

/// A host with a domain, its outside world, and an edge before it.
struct Together {
    world: World,
    setup: Setup,
    host: Product,
    edge: Runner,
    /// An application's key.
    key: String,
    /// Of the edge.
    token: String,
    runtime: Runtime,
}

impl Together {
    fn start() -> Together {
        let world = World::start();
        let setup = Setup::new().unwrap().dns(world.dns()).delivery(&format!("port = {}", world.mx_port()));
        setup.command(&["domain", "add", "src.test"]).unwrap();
        let key = setup.create_key().unwrap();
        let token = setup.command(&["key", "create", "--delivery"]).unwrap();
        let host = setup.start().unwrap();
        let composed = Manifest::read().unwrap().compose("submit").unwrap();
        let edge = Runner::new(&composed, Platform::Spin, Arc::new(Loopback)).unwrap();
        Together { world, setup, host, edge, key, token, runtime: Runtime::new().unwrap() }
    }

    /// A new instance of the edge, with these keys.
    fn edge(&mut self, dkim_keys: &str) -> Instance {
        let url = format!("http://{}", self.host.http);
        let variables = [("delivery_url", url.as_str()), ("delivery_token", &self.token), ("dkim_keys", dkim_keys)];
        self.edge.set_variables(&variables);
        self.runtime.block_on(self.edge.instance()).unwrap()
    }

    /// Sends one mail: the status, the answer, and the edge's log.
    fn send(&self, edge: &mut Instance) -> (u16, Value, String) {
        let served = self.runtime.block_on(edge.serve(request(&self.key, "you@src.test"))).unwrap();
        (served.response.status().as_u16(), serde_json::from_slice(served.response.body()).unwrap(), served.log)
    }

    /// Sends one mail and gives the message that was delivered as the so many-th.
    fn deliver(&self, edge: &mut Instance, number: usize) -> Vec<u8> {
        let (status, body, log) = self.send(edge);
        assert_eq!((status, log.as_str()), (200, ""), "{body}");
        self.world.wait_until(DELIVERED, |received| {
            if received.len() == number { Ok(()) } else { Err(format!("{} are delivered", received.len())) }
        });
        self.world.received().remove(number - 1).body
    }

    /// What receivers say of each signature, with what the operator was told to publish.
    fn judged(&self, message: &[u8]) -> Vec<Fate> {
        self.runtime.block_on(judged(message, &self.published()))
    }

    /// What the operator publishes for the domain.
    fn published(&self) -> Keys {
        let mut keys = Keys::default();
        let zone = self.setup.command(&["domain", "records", "src.test"]).unwrap();
        for line in zone.lines().filter(|line| line.contains("._domainkey.")) {
            let (name, rest) = line.split_once(' ').unwrap();
            let strings: Vec<&str> = rest.split('"').skip(1).step_by(2).collect();
            keys.publish(name.trim_end_matches('.'), &strings.concat());
        }
        keys
    }
}

/// Selectors of the signatures, top to bottom.
fn selectors(message: &[u8]) -> Vec<String> {
    let (fields, _) = mail::header::split(message).unwrap();
    let signatures = fields.iter().filter(|field| field.is(mail::dkim::FIELD_NAME));
    signatures.map(|field| mail::signature::Signature::parse(*field).unwrap().selector).collect()
}

#[test]
fn who_has_the_key_signs() {
    let mut both = Together::start();

    // No key at the edge: the host signs with its own.
    let mut unsigned = both.edge("");
    let message = both.deliver(&mut unsigned, 1);
    let hosts = selectors(&message);
    assert_eq!(both.judged(&message), [Fate::Pass, Fate::Pass]);

    // Keys at the edge: the host verifies them and leaves it at that.
    let keys = both.setup.command(&["domain", "edge-key", "src.test", "--selector", "edge1"]).unwrap();
    let mut signing = both.edge(&keys);
    let message = both.deliver(&mut signing, 2);
    assert_eq!(selectors(&message), ["edge1-rsa", "edge1-ed25519"]);
    assert_eq!(both.judged(&message), [Fate::Pass, Fate::Pass]);
    assert!(hosts.iter().all(|selector| !selector.starts_with("edge1")), "{hosts:?}");

    // A key that the host does not know any more: refused by name, and nothing is stored.
    both.setup.command(&["domain", "edge-key", "src.test", "--remove", "edge1-rsa"]).unwrap();
    let (status, body, _) = both.send(&mut signing);
    assert_eq!(status, 422, "{body}");
    assert!(body["message"].as_str().unwrap().contains("edge1-rsa"), "{body}");

    // And an edge that nobody knows is told so.
    both.token = "phd_unknown".to_owned();
    let mut stranger = both.edge("");
    let (status, body, log) = both.send(&mut stranger);
    assert_eq!(status, 503, "{body}");
    assert!(log.contains("delivery token"), "{log}");
    assert_eq!(both.world.received().len(), 2);
}
