//! What a key and its tenant may by SMTP: scopes, ends, rotation, networks, a pause, quotas.

use super::*;
use crate::store::{Quotas, Scopes, TenantTerms, Tenants as _};
use crate::tenancy::Span;

const KEY: &str = "a-key-of-16-and-more";
const OTHER: &str = "another-key-of-acme's";
const INSIDE: &str = "192.0.2.1";

impl Desk {
    async fn add(&self, id: &str, key: &str, scopes: &[Scope], expires_at: Option<Timestamp>) {
        let stored = ApiKey {
            id: id.to_owned(),
            tenant: "acme".to_owned(),
            name: "test".to_owned(),
            prefix: api_key::prefix(key),
            created_at: Timestamp::now(),
            revoked_at: None,
            scopes: Scopes::of(scopes),
            stream: None,
            has_verifier: false,
            expires_at,
            used_at: None,
        };
        self.store.add_key(stored, api_key::hash(key)).await.unwrap();
        self.store.set_verifier(id, api_key::verifier(key).await.unwrap()).await.unwrap();
    }

    /// Whether a key is good by PLAIN and by SCRAM, which never differ.
    async fn takes(&self, id: &str, key: &str, from: &str) -> bool {
        let (credentials, peer) =
            (Credentials { username: "x".to_owned(), password: key.to_owned() }, from.parse().unwrap());
        let by_plain = self.submit.authenticate(&credentials, peer).await.unwrap().is_some();
        let by_scram = self.submit.verifier(id, peer).await.unwrap().1.is_some();
        assert_eq!(by_plain, by_scram, "{id} from {from}");
        by_plain
    }

    async fn terms(&self, terms: TenantTerms) {
        self.store.set_terms("acme", terms).await.unwrap();
        self.tenancy.forget("acme", false);
    }
}

fn hours(hours: i64) -> Timestamp {
    Timestamp::now().checked_add(jiff::SignedDuration::from_hours(hours)).unwrap()
}

#[tokio::test]
async fn a_key_sends_with_its_scope_and_until_its_end() {
    let desk = desk();
    for (number, (scopes, expires_at, expect)) in [
        (&[Scope::Send][..], None, true),
        (&[], Some(hours(1)), true),
        (&[Scope::Read, Scope::Manage], None, false),
        (&[Scope::Send], Some(hours(-1)), false),
    ]
    .into_iter()
    .enumerate()
    {
        let (id, key) = (format!("key_{number}"), format!("key-of-16-and-more-{number}"));
        desk.add(&id, &key, scopes, expires_at).await;
        assert_eq!(desk.takes(&id, &key, INSIDE).await, expect, "{scopes:?} {expires_at:?}");
    }
}

#[tokio::test]
async fn a_key_that_is_rotated_is_good_until_the_overlap_ends() {
    let desk = desk();
    desk.add("key_old", KEY, &[], None).await;
    let credentials = Credentials { username: String::new(), password: KEY.to_owned() };
    let session = desk.submit.authenticate(&credentials, INSIDE.parse().unwrap()).await.unwrap().unwrap();
    desk.add("key_new", OTHER, &[], None).await;
    desk.store.expire_key("key_old", hours(1)).await.unwrap();
    assert!(desk.takes("key_old", KEY, INSIDE).await && desk.takes("key_new", OTHER, INSIDE).await, "both");
    assert!(desk.submit.is_valid(&session).await.unwrap());
    desk.store.expire_key("key_old", hours(-1)).await.unwrap();
    assert!(!desk.takes("key_old", KEY, INSIDE).await && desk.takes("key_new", OTHER, INSIDE).await);
    assert!(!desk.submit.is_valid(&session).await.unwrap(), "nor in a session that was open before");
}

#[tokio::test]
async fn a_key_is_good_from_its_tenants_networks_alone() {
    let desk = desk();
    desk.add("key_1", KEY, &[], None).await;
    assert!(desk.takes("key_1", KEY, "198.51.100.1").await, "without a list from anywhere");
    let networks = vec!["192.0.2.0/24".parse().unwrap(), "2001:db8::/32".parse().unwrap()];
    desk.terms(TenantTerms { networks, ..TenantTerms::default() }).await;
    for (from, expect) in
        [(INSIDE, true), ("::ffff:192.0.2.9", true), ("2001:db8::1", true), ("198.51.100.1", false), ("::1", false)]
    {
        assert_eq!(desk.takes("key_1", KEY, from).await, expect, "{from}");
    }
}

#[tokio::test]
async fn a_pause_and_a_quota_are_told_and_nothing_is_held() {
    let desk = desk();
    desk.keyring.create_domain("acme", &domain("acme.test")).await.unwrap();
    let submit = async || match desk.submit.submit(incoming(Some("acme"), MESSAGE)).await {
        Ok(_) => (250, String::new()),
        Err(reply) => (reply.code, format!("{} {}", reply.enhanced.unwrap(), reply.text)),
    };
    assert_eq!(submit().await.0, 250);
    let pause = crate::store::Pause { reason: "unpaid".to_owned(), at: Timestamp::now() };
    desk.store.set_pause("acme", Some(pause)).await.unwrap();
    desk.tenancy.forget("acme", false);
    let (code, text) = submit().await;
    assert!(code == 451 && text.starts_with("4.7.1 ") && text.contains("unpaid"), "{code} {text}");
    desk.store.set_pause("acme", None).await.unwrap();
    // Two recipients a message.
    desk.terms(TenantTerms { quotas: Quotas { month: Some(3), ..Quotas::default() }, ..TenantTerms::default() }).await;
    assert_eq!(submit().await.0, 250);
    let (code, text) = submit().await;
    assert!(code == 452 && text.starts_with("4.7.1 ") && text.contains("resets at 20"), "{code} {text}");
    assert_eq!(desk.store.queued().await.unwrap(), 4, "what was refused is nowhere");
}

/// Whatever quota it is, the reply says that it is over for now, and until when.
#[test]
fn every_quota_has_its_reply() {
    for span in [Span::Second, Span::Hour, Span::Day, Span::Month] {
        let resets_at = "2026-12-01T00:00:00Z".parse().unwrap();
        let reply = denied(&Denial::Spent { span: span.name(), limit: 5, resets_at });
        let text = format!("The quota of 5 recipients a {} is used up: it resets at 2026-12-01T00:00:00Z", span.name());
        assert_eq!((reply.code, reply.enhanced.unwrap().to_string(), reply.text), (452, "4.7.1".to_owned(), text));
    }
}
