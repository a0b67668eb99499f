//! Senders are told by mail what became of their mail, once, and nobody is told about that.

use std::time::Duration;

use serde_json::json;
use tests::fake_mx::{Received, Step, reply};
use tests::http;
use tests::product::{Product, Setup};
use tests::smtp::Client;
use tests::world::World;

const ARRIVAL_LIMIT: Duration = Duration::from_secs(30);

const MESSAGE: &str = "From: ops@dst.test\r\nTo: x@dst.test\r\nMessage-ID: <7@dst.test>\r\nSubject: Hi\r\n\r\nbody\r\n";

fn start(world: &World, delivery: &str) -> (Setup, Product) {
    let port = world.mx_port();
    let setup = Setup::new().unwrap().dns(world.dns()).delivery(&format!("port = {port}\n{delivery}"));
    let product = setup.start().unwrap();
    (setup, product)
}

/// Sends a message; `recipients` with what stands behind TO.
fn send(product: &Product, from: &str, recipients: &[&str]) {
    let mut client = Client::greeted(product.smtp).unwrap();
    client.command(&format!("MAIL FROM:{from}"), 250).unwrap();
    for recipient in recipients {
        client.command(&format!("RCPT TO:{recipient}"), 250).unwrap();
    }
    client.command("DATA", 354).unwrap();
    client.write(format!("{MESSAGE}.\r\n").as_bytes()).unwrap();
    client.expect(250).unwrap();
}

/// Waits for mail with the null sender: so many, and no more once the queue is empty.
fn reports(world: &World, setup: &Setup, count: usize) -> Vec<Received> {
    let of = |received: &[Received]| -> Vec<Received> {
        received.iter().filter(|mail| mail.sender.is_empty()).cloned().collect()
    };
    world.wait_until(ARRIVAL_LIMIT, |received| match of(received).len() {
        there if there >= count => Ok(()),
        there => Err(format!("{there} of {count} reports arrived")),
    });
    empty(world, setup);
    let reports = of(&world.received());
    assert_eq!(reports.len(), count, "{reports:?}");
    reports
}

/// Waits until nothing is queued.
fn empty(world: &World, setup: &Setup) {
    world.wait_until(ARRIVAL_LIMIT, |_| {
        let list = setup.command(&["queue", "list"]).unwrap();
        if list.contains("dst.test") { Err(list) } else { Ok(()) }
    });
}

#[test]
fn a_failure_comes_back_to_the_return_path() {
    let world = World::start();
    world.mx().on(Step::Rcpt("<gone@"), reply("550-5.1.1 nobody\n550 5.1.1 here"));
    let (setup, product) = start(&world, "");
    send(
        &product,
        "<ops@dst.test> RET=FULL ENVID=QQ+2B1",
        &["<gone@dst.test> ORCPT=rfc822;Old+2Bgone@dst.test", "<fine@dst.test>", "<told@dst.test> NOTIFY=SUCCESS"],
    );
    let reports = reports(&world, &setup, 1);
    assert_eq!(reports[0].recipients, ["ops@dst.test"]);
    let text = reports[0].text();
    for part in [
        "Content-Type: multipart/report; report-type=delivery-status;",
        "Auto-Submitted: auto-replied\r\n",
        "In-Reply-To: <7@dst.test>\r\n",
        "Original-Envelope-Id: QQ+1\r\n",
        "Original-Recipient: rfc822; Old+gone@dst.test\r\nFinal-Recipient: rfc822; gone@dst.test\r\nAction: failed\r\nStatus: 5.1.1\r\n",
        "Diagnostic-Code: smtp; 550 5.1.1 nobody here\r\n",
        "Final-Recipient: rfc822; told@dst.test\r\nAction: relayed\r\nStatus: 2.0.0\r\n",
        "Content-Type: message/rfc822\r\n",
        "Subject: Hi\r\n\r\nbody\r\n",
    ] {
        assert!(text.contains(part), "{part}\nlacks in\n{text}");
    }
    assert!(!text.contains("fine@dst.test"), "{text}");
    // It is a message of its own, which says what it is about.
    let log = product.log();
    assert!(log.contains("the sender is told by mail"), "{log}");
}

#[test]
fn a_report_that_fails_is_over() {
    let world = World::start();
    world.mx().on(Step::Rcpt("@dst.test"), reply("550 5.1.1 nobody here"));
    let (setup, product) = start(&world, "");
    send(&product, "<ops@dst.test>", &["<gone@dst.test>"]);
    world.wait_until(ARRIVAL_LIMIT, |_| match product.log().matches("event=\"email.bounced\"").count() {
        2 => Ok(()),
        there => Err(format!("{there} of 2 bounced")),
    });
    empty(&world, &setup);
    // Nor is anybody told whose sender was null to begin with.
    send(&product, "<>", &["<gone@dst.test> NOTIFY=FAILURE"]);
    world.wait_until(ARRIVAL_LIMIT, |_| match product.log().matches("event=\"email.bounced\"").count() {
        3 => Ok(()),
        there => Err(format!("{there} of 3 bounced")),
    });
    empty(&world, &setup);
    assert_eq!(product.log().matches("the sender is told by mail").count(), 1);
}

#[test]
fn who_wants_no_report_gets_none() {
    let world = World::start();
    world.mx().on(Step::Rcpt("<gone@"), reply("550 5.1.1 nobody here"));
    let (setup, product) = start(&world, "bounces = \"events\"");
    setup.command(&["domain", "add", "dst.test"]).unwrap();
    let key = setup.create_key().unwrap();
    send(&product, "<ops@dst.test>", &["<gone@dst.test>", "<fine@dst.test> NOTIFY=FAILURE"]);
    let mail = json!({ "from": "ops@dst.test", "to": "gone@dst.test", "subject": "Hi", "text": "x" });
    assert_eq!(http::post(product.http, "/emails", &key, &mail).unwrap().status, 200);
    world.wait_until(ARRIVAL_LIMIT, |_| match product.log().matches("event=\"email.bounced\"").count() {
        2 => Ok(()),
        there => Err(format!("{there} of 2 bounced")),
    });
    empty(&world, &setup);
    send(&product, "<ops@dst.test>", &["<gone@dst.test> NOTIFY=FAILURE"]);
    assert_eq!(reports(&world, &setup, 1).len(), 1);
}

#[test]
fn a_delay_is_told_once() {
    let world = World::start();
    for _ in 0..3 {
        world.mx().once(Step::Rcpt("<slow@"), reply("450 4.2.0 busy"));
    }
    let (setup, product) = start(&world, "retry_delays = [\"100ms\"]\nreport_delay_after = \"1ms\"");
    send(&product, "<ops@dst.test>", &["<slow@dst.test> NOTIFY=DELAY", "<fine@dst.test> NOTIFY=DELAY"]);
    let reports = reports(&world, &setup, 1);
    let text = reports[0].text();
    assert!(text.contains("Action: delayed\r\nStatus: 4.2.0\r\n") && text.contains("\r\nWill-Retry-Until: "), "{text}");
    assert!(text.contains("Subject: Your mail is delayed\r\n") && !text.contains("fine@dst.test"), "{text}");
    let attempts = world.mx().commands().iter().filter(|line| line.starts_with("RCPT TO:<slow@")).count();
    assert_eq!(attempts, 4);
}
