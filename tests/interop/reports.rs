//! Reports on mail, with a real Postfix as the peer on either side and Python's email package as their reader.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tests::fake_mx::{Step, reply};
use tests::postfix::{Postfix, Role};
use tests::product::Setup;
use tests::smtp::Client;
use tests::world::World;

use crate::scripts;

const ARRIVAL_LIMIT: Duration = Duration::from_secs(40);

fn read(message: &[u8]) -> Value {
    let report = scripts::python("report", &json!({ "message": STANDARD.encode(message) })).unwrap();
    assert_eq!(report["type"], "multipart/report", "{report}");
    assert_eq!(report["report_type"], "delivery-status", "{report}");
    assert_eq!(report["defects"], json!([]), "{report}");
    report
}

/// Asks until there is an answer.
fn wait<T>(mut ask: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(start.elapsed() < ARRIVAL_LIMIT, "nothing after {ARRIVAL_LIMIT:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn send(client: &mut Client, mail: &str, recipients: &[&str]) {
    client.command(mail, 250).unwrap();
    for recipient in recipients {
        client.command(recipient, 250).unwrap();
    }
    client.command("DATA", 354).unwrap();
    client.write(b"From: ada@dst.test\r\nTo: x@dst.test\r\nSubject: Hi\r\n\r\nbody\r\n.\r\n").unwrap();
    client.expect(250).unwrap();
}

/// Postfix takes the request over: it reports the delivery, and we report the failure.
#[test]
fn postfix_takes_requests_for_reports() {
    let folder = tempfile::tempdir().unwrap();
    let role = Role::Receiver { domain: "dst.test", local_parts: &["ada", "bob"] };
    let postfix = Postfix::start(folder.path(), &role).unwrap();
    let world = World::start();
    let setup = Setup::new().unwrap().dns(world.dns()).delivery(&format!("port = {}", postfix.port));
    let product = setup.start().unwrap();
    let mut client = Client::greeted(product.smtp).unwrap();
    let recipients = [
        "RCPT TO:<bob@dst.test> NOTIFY=SUCCESS ORCPT=rfc822;Old+2Bbob@dst.test",
        "RCPT TO:<nobody@dst.test> NOTIFY=FAILURE ORCPT=rfc822;Old+2Bnobody@dst.test",
    ];
    send(&mut client, "MAIL FROM:<ada@dst.test> RET=HDRS ENVID=QQ+2B1", &recipients);

    let reports = wait(|| Some(postfix.mailbox("ada").unwrap()).filter(|mail| mail.len() >= 2));
    assert_eq!(reports.len(), 2);
    let reports: Vec<Value> = reports.iter().map(|message| read(message)).collect();
    let of = |action: &str| {
        let found = reports.iter().find(|report| report["recipients"][0]["Action"] == action);
        found.unwrap_or_else(|| panic!("no report says {action}: {reports:?}"))
    };
    let delivered = of("delivered");
    assert_eq!(delivered["message"]["Reporting-MTA"], "dns; postfix.relay.test");
    assert_eq!(delivered["message"]["Original-Envelope-Id"], "QQ+1");
    assert_eq!(delivered["recipients"][0]["Original-Recipient"], "rfc822;Old+bob@dst.test");

    let failed = of("failed");
    assert_eq!(failed["from"], "MAILER-DAEMON@relay.test", "{failed}");
    assert_eq!(failed["to"], "ada@dst.test");
    assert_eq!(failed["auto_submitted"], "auto-replied");
    assert_eq!(failed["parts"], json!(["text/plain", "message/delivery-status", "text/rfc822-headers"]));
    assert_eq!(failed["message"]["Original-Envelope-Id"], "QQ+1");
    assert_eq!(failed["recipients"].as_array().unwrap().len(), 1, "{failed}");
    let recipient = &failed["recipients"][0];
    assert_eq!(recipient["Original-Recipient"], "rfc822; Old+nobody@dst.test");
    assert_eq!(recipient["Final-Recipient"], "rfc822; nobody@dst.test");
    assert_eq!(recipient["Status"], "5.1.1");
    assert_eq!(recipient["Remote-MTA"], "dns; mx.dst.test");
    assert!(
        recipient["Diagnostic-Code"].as_str().unwrap().starts_with("smtp; 550 5.1.1 <nobody@dst.test>"),
        "{failed}"
    );
    assert!(failed["text"].as_str().unwrap().contains("<nobody@dst.test>"), "{failed}");
    assert!(failed["returned"].as_str().unwrap().contains("Subject: Hi"), "{failed}");
}

/// Postfix in front of us hands its clients' requests on and leaves the reports to us.
#[test]
fn postfix_hands_requests_for_reports_to_us() {
    let world = World::start();
    world.mx().on(Step::Rcpt("<gone@"), reply("550 5.1.1 nobody here"));
    let setup = Setup::new().unwrap().dns(world.dns()).delivery(&format!("port = {}", world.mx_port()));
    let product = setup.start().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let role = Role::Relay { sink: product.smtp.port(), connections: 1, milter: None };
    let postfix = Postfix::start(folder.path(), &role).unwrap();
    let mut client = Client::greeted(([127, 0, 0, 1], postfix.port).into()).unwrap();
    let recipients =
        ["RCPT TO:<gone@dst.test>", "RCPT TO:<fine@dst.test> NOTIFY=SUCCESS ORCPT=rfc822;Old+2Bfine@dst.test"];
    send(&mut client, "MAIL FROM:<ada@dst.test> RET=FULL ENVID=QQ+2B2", &recipients);

    // The mail host of the world offers no DSN: our report says that what was handed to it is out of reach.
    let is_report = |mail: &tests::world::Received| mail.sender.is_empty() && mail.recipients == ["ada@dst.test"];
    let found = wait(|| world.received().into_iter().find(is_report));
    let report = read(&found.body);
    assert_eq!(report["message"]["Reporting-MTA"], "dns; relay.test", "{report}");
    assert_eq!(report["message"]["Original-Envelope-Id"], "QQ+2");
    assert_eq!(report["parts"], json!(["text/plain", "message/delivery-status", "message/rfc822"]));
    // Postfix sorts recipients.
    let mut told: Vec<_> = report["recipients"].as_array().unwrap().iter().collect();
    told.sort_by_key(|recipient| recipient["Action"].as_str());
    let told: Vec<_> =
        told.iter().map(|it| json!([it["Action"], it["Final-Recipient"], it["Original-Recipient"]])).collect();
    // It names the original where its client did not (RFC 3461 s5.2.1).
    let expect = json!([
        ["failed", "rfc822; gone@dst.test", "rfc822; gone@dst.test"],
        ["relayed", "rfc822; fine@dst.test", "rfc822; Old+fine@dst.test"],
    ]);
    assert_eq!(json!(told), expect, "{report}");
    assert!(report["returned"].as_str().unwrap().contains("body"), "{report}");
}
