//! Steps of keys: those that the host takes by itself, and those that somebody asks for out of turn.

use super::*;
use crate::store::AuditLog as _;

/// What nobody asked for is in the audit log: each step of each key of a rotation to `s2`, once.
pub(super) async fn are_audited(desk: &Desk, before: &[String]) {
    let log = desk.world.store.audited(Some("acme"), None, 50).await.unwrap();
    let log: Vec<Value> = log.iter().map(|it| serde_json::from_str(&it.entry).unwrap()).collect();
    let stepped: Vec<&Value> = log.iter().flat_map(|entry| entry["after"].as_array().unwrap()).collect();
    for (selector, state) in [
        ("s2", "active"),
        ("s2-ed25519", "active"),
        (before[0].as_str(), "retiring"),
        (before[1].as_str(), "retiring"),
        (before[0].as_str(), "retired"),
        (before[1].as_str(), "removed"),
    ] {
        let steps = stepped.iter().filter(|key| key["selector"] == json!(selector) && key["state"] == json!(state));
        assert_eq!(steps.count(), 1, "{selector} {state}: {log:?}");
    }
    for entry in &log {
        assert_eq!((&entry["who"], &entry["from"]), (&json!("posthaste"), &json!("host")), "{entry}");
        assert!(entry["what"].as_str().unwrap().starts_with("domains/own.test: "), "{entry}");
    }
}

#[tokio::test]
async fn a_key_that_waits_signs_at_once_where_it_is_imported_again_so() {
    let desk = Desk::new().await;
    desk.own(false).await;
    let before = desk.signing().await;
    let import = async |selector: &str, at_once| {
        desk.domains.import_key(&desk.stored().await, selector, pem("pkcs1"), at_once, desk.begun).await
    };
    assert_eq!(selectors(&import("old1", false).await.unwrap(), "pending"), ["old1"]);
    assert_eq!(desk.signing().await, before);
    let other = import("old2", true).await.unwrap_err().to_string();
    assert!(other.contains("with the selector old1, and it is pending"), "{other}");
    let now_active = import("old1", true).await.unwrap();
    assert_eq!(states(&now_active), ["active", "active", "retiring"]);
    let signing = desk.signing().await;
    assert!(signing.contains(&"old1".to_owned()) && signing.len() == 2, "{signing:?}");
    assert_eq!(import("old1", true).await.unwrap(), now_active, "a call may be repeated");
    // One that has had its time does not come back.
    desk.domains.rotate(&now_active, Rotation { at_once: true, ..Rotation::default() }, desk.begun).await.unwrap();
    let over = import("old1", true).await.unwrap_err().to_string();
    assert!(over.contains("and it is retired"), "{over}");
}
