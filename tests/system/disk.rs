//! A disk that is full: nothing new is taken, by either road, and what was taken goes out.

use std::path::Path;
use std::time::Duration;

use serde_json::json;
use tests::fake_mx::{Step, reply};
use tests::http;
use tests::product::Setup;
use tests::smtp::Client;
use tests::world::World;

const ARRIVAL_LIMIT: Duration = Duration::from_secs(30);

const MESSAGE: &[u8] = b"From: ops@dst.test\r\nSubject: Hi\r\n\r\nbody\r\n";

/// A folder whose disk has less than the largest reserve there is.
fn small_disk() -> &'static Path {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { memory } else { Path::new("/tmp") }
}

#[test]
fn a_full_disk_refuses_new_mail_and_delivers_the_old() {
    let world = World::start();
    // Deferred for as long as the first host runs.
    world.mx().on(Step::Rcpt("<old@"), reply("451 4.2.1 later"));
    let delivery = format!("port = {}\nretry_delays = [\"1s\"]", world.mx_port());
    let setup = Setup::within(small_disk()).unwrap().dns(world.dns()).delivery(&delivery);
    setup.command(&["domain", "add", "dst.test"]).unwrap();
    let key = setup.create_key().unwrap();
    let product = setup.start().unwrap();
    let mut client = Client::greeted(product.smtp).unwrap();
    assert_eq!(client.submit("ops@dst.test", "old@dst.test", MESSAGE).unwrap().0, 250);
    drop(client);
    product.stop().unwrap();

    // More is kept free than there is.
    let setup = setup.with("[store]\nreserve = \"1024GiB\"");
    let product = setup.start().unwrap();
    world.wait_until(ARRIVAL_LIMIT, |_| {
        let answer = http::get(product.http, "/readyz", &[]).unwrap();
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        if answer.status == 503 && text.contains("the disk is full") { Ok(()) } else { Err(text) }
    });
    let mut client = Client::greeted(product.smtp).unwrap();
    client.command("MAIL FROM:<ops@dst.test>", 250).unwrap();
    client.command("RCPT TO:<new@dst.test>", 250).unwrap();
    let told = client.command("DATA", 452).unwrap();
    assert!(told.starts_with("4.3.1 "), "{told}");
    // One that says its size is told before it sends.
    let told = client.command("MAIL FROM:<ops@dst.test> SIZE=100000", 452).unwrap();
    assert!(told.starts_with("4.3.1 "), "{told}");
    let mail = json!({ "from": "ops@dst.test", "to": "new@dst.test", "subject": "Hi", "text": "x" });
    let answer = http::post(product.http, "/emails", &key, &mail).unwrap();
    assert_eq!(answer.status, 503, "{}", String::from_utf8_lossy(&answer.body));
    assert!(answer.head.to_ascii_lowercase().contains("\r\nretry-after: "), "{}", answer.head);

    // What was taken before goes out.
    world.mx().forget_rules();
    world.wait_until(ARRIVAL_LIMIT, |received| match received {
        [mail] if mail.recipients == ["old@dst.test"] => Ok(()),
        others => Err(format!("{others:?}\n{}", product.log())),
    });
    assert_eq!(world.received().len(), 1, "nothing else was taken");
    product.stop().unwrap();

    // And where there is room again, mail is taken again.
    let setup = setup.plain();
    let product = setup.start().unwrap();
    let mut client = Client::greeted(product.smtp).unwrap();
    assert_eq!(client.submit("ops@dst.test", "new@dst.test", MESSAGE).unwrap().0, 250);
}
