//! The wider sending API through the official Resend SDKs.

use serde_json::{Value, json};

use crate::clients::{ARRIVAL_LIMIT, Stage};
use crate::{receivers, scripts};

/// Runs a script against a fresh host, waits for what it says is to arrive, and has all of it verified.
fn check(script: impl FnOnce(&Value) -> anyhow::Result<Value>) {
    let stage = Stage::new();
    let said = script(&stage.http_job()).unwrap();
    let count = said["sent"].as_u64().unwrap() as usize;
    let recipients = || stage.world.received().iter().map(|mail| mail.recipients.len()).sum::<usize>();
    stage.world.wait_until(ARRIVAL_LIMIT, |_| match recipients() {
        there if there >= count => Ok(()),
        there => Err(format!("{there} of {count} messages arrived")),
    });
    for mail in stage.world.received() {
        receivers::verify(&mail.body, &stage.zone);
        let text = String::from_utf8_lossy(&mail.body).into_owned();
        assert!(!text.contains("Subject: never") && !text.contains("own-"), "{text}");
    }
    assert_eq!((recipients(), said), (count, json!({ "sent": count })));
}

#[test]
fn resend_node_schedules_batches_and_keeps_templates_and_domains() {
    check(|job| scripts::node("sending", job));
}

#[test]
fn resend_python_schedules_batches_and_keeps_templates_and_domains() {
    check(|job| scripts::python("sending", job));
}
