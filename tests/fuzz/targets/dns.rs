//! What strangers publish: the TXT records of a domain that is to send.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use posthaste::keyring::Purpose;
use posthaste::published::{Expected, RecordStatus, Records, look};
use posthaste::route::lookup::Texts;

/// Questions that one record may cause: RFC 7208 s4.6.4 allows ten to SPF, and each name has addresses too.
const QUESTIONS: usize = 40;
/// Characters of a verdict: it is shown to people.
const DETAIL_CHARS: usize = 4000;

const KEY: &str = "v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";

/// The same records at every name.
struct Everywhere {
    texts: Texts,
    asked: AtomicUsize,
}

#[async_trait]
impl Records for Everywhere {
    async fn texts(&self, _name: &str) -> Result<Texts, String> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        Ok(self.texts.clone())
    }

    async fn addresses(&self, name: &str) -> Result<Vec<IpAddr>, String> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        Ok(if name.len().is_multiple_of(2) { vec![IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1))] } else { Vec::new() })
    }
}

/// The records of a name, one a line. The first byte chooses what they are read as, and whether the name is an alias.
pub fn record(input: &[u8]) {
    let Some((&how, input)) = input.split_first() else { return };
    let purposes = [Purpose::Dkim, Purpose::Spf, Purpose::Dmarc, Purpose::ReturnPath, Purpose::Tracking];
    let purpose = purposes[usize::from(how & 7) % purposes.len()];
    let text = String::from_utf8_lossy(input);
    let records: Vec<String> = text.split('\n').map(str::to_owned).collect();
    let alias = (how & 8 != 0).then(|| text.trim().to_owned());
    let value = match purpose {
        Purpose::Dkim => KEY,
        Purpose::Spf => "v=spf1 a:relay.test ~all",
        Purpose::Dmarc => "v=DMARC1; p=none",
        Purpose::ReturnPath | Purpose::Tracking => "relay.test",
    };
    let expected = Expected { name: "x.test".to_owned(), purpose, value: value.to_owned() };
    let dns = Arc::new(Everywhere { texts: Texts { records: records.clone(), alias }, asked: AtomicUsize::new(0) });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let Ok(runtime) = runtime else { panic!("there is no runtime") };
    let asked: Arc<dyn Records> = dns.clone();
    let verdicts = runtime.block_on(look(&asked, &[expected]));
    let [verdict] = verdicts.as_slice() else { panic!("{} verdicts", verdicts.len()) };
    let count = dns.asked.load(Ordering::Relaxed);
    assert!(count <= QUESTIONS, "{count} questions");
    assert!(verdict.status != RecordStatus::TemporaryFailure, "DNS answered, and: {}", verdict.detail);
    assert!(verdict.detail.chars().count() <= DETAIL_CHARS, "{} characters", verdict.detail.len());
    assert!(!verdict.detail.contains(char::is_control), "{:?}", verdict.detail);
    if purpose == Purpose::Dkim && verdict.status == RecordStatus::Verified {
        let key = KEY.rsplit('=').nth(1).unwrap_or_default();
        assert!(records.iter().any(|record| record.replace([' ', '\t'], "").contains(key)), "somebody else's key");
    }
}
