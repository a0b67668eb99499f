//! Clients: smtplib, nodemailer and the official Resend SDKs; and whether what they sent verifies where it arrives.

use std::time::Duration;

use serde_json::json;
use tests::product::{Product, Setup};
use tests::world::{Received, World};

use crate::{receivers, scripts};

pub const ARRIVAL_LIMIT: Duration = Duration::from_secs(30);

/// A host in front of a world, with a domain and an API key.
pub struct Stage {
    pub world: World,
    setup: Setup,
    product: Product,
    key: String,
    /// The domain's DKIM records.
    pub zone: serde_json::Value,
}

impl Stage {
    pub fn new() -> Stage {
        let world = World::start();
        // Loopback is a stranger here: AUTH and TLS are demanded.
        let setup = Setup::new().unwrap().smtp("").dns(world.dns()).delivery(&format!("port = {}", world.mx_port()));
        let zone = receivers::dkim_records(&setup.command(&["domain", "add", "src.test"]).unwrap());
        let key = setup.create_key().unwrap();
        let product = setup.start().unwrap();
        Stage { world, setup, product, key, zone }
    }

    fn smtp_job(&self) -> serde_json::Value {
        json!({
            "host": "127.0.0.1", "port": self.product.smtp.port(), "key": self.key, "key_id": self.key_id(),
            "from": "sender@src.test", "stranger": "sender@elsewhere.test", "to": "recipient@dst.test",
        })
    }

    fn key_id(&self) -> String {
        let list = self.setup.command(&["key", "list"]).unwrap();
        let line = list.lines().find(|line| line.contains(&self.key[..11])).unwrap();
        line.split(' ').next().unwrap().to_owned()
    }

    pub fn http_job(&self) -> serde_json::Value {
        json!({
            "base": format!("http://{}", self.product.http), "key": self.key,
            "from": "sender@src.test", "to": "recipient@dst.test",
        })
    }

    /// Waits for so many messages and has each one verified.
    fn all_verify(&self, count: usize) -> Vec<Received> {
        self.world.wait_until(ARRIVAL_LIMIT, |received| match received.len() {
            there if there >= count => Ok(()),
            there => Err(format!("{there} of {count} messages arrived")),
        });
        let mails = self.world.received();
        assert_eq!(mails.len(), count);
        for mail in &mails {
            receivers::verify(&mail.body, &self.zone);
        }
        mails
    }
}

#[test]
fn smtplib() {
    let stage = Stage::new();
    let said = scripts::python("submit", &stage.smtp_job()).unwrap();
    assert_eq!(said, json!({ "scram key": 535, "scram user": 535, "wrong_password": 535, "stranger": 550 }));
    let mails = stage.all_verify(4);
    // Dots at the start of lines survive both hops (RFC 5321 s4.5.2), in whatever encoding.
    assert!(mails.iter().all(|mail| mail.sender == "sender@src.test" && mail.recipients == ["recipient@dst.test"]));
}

#[test]
fn nodemailer() {
    let stage = Stage::new();
    let said = scripts::node("submit", &stage.smtp_job()).unwrap();
    assert_eq!(said, json!({ "sent": 4, "wrongPassword": 535 }));
    stage.all_verify(4);
}

#[test]
fn resend_python() {
    let stage = Stage::new();
    scripts::python("sdk", &stage.http_job()).unwrap();
    stage.all_verify(2);
}

#[test]
fn resend_node() {
    let stage = Stage::new();
    let said = scripts::node("sdk", &stage.http_job()).unwrap();
    // One of the two has a copy.
    stage.world.wait_until(ARRIVAL_LIMIT, |received| {
        let recipients: usize = received.iter().map(|mail| mail.recipients.len()).sum();
        if recipients == 3 { Ok(()) } else { Err(format!("{recipients} of 3 recipients were served")) }
    });
    for mail in stage.world.received() {
        receivers::verify(&mail.body, &stage.zone);
    }
    let status = stage.setup.command(&["status"]).unwrap();
    assert!(status.contains("running"), "{status}: {said}");
}
