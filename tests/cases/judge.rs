//! mail-auth as the judge of DKIM signatures: nobody on our side wrote it.

#![allow(clippy::unwrap_used)]

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Instant;

use mail_auth::common::parse::TxtRecordParser;
use mail_auth::common::verify::DomainKey;
use mail_auth::dkim::DkimError;
use mail_auth::{AuthenticatedMessage, DkimResult, Error, MessageAuthenticator, ResolverCache, Txt};

/// What became of one signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Pass,
    Body,
    Fail,
}

/// Public keys by DNS name, in the place of mail-auth's DNS: what is not here does not exist.
#[derive(Default)]
pub struct Keys(pub HashMap<String, String>);

impl Keys {
    /// `name` without a dot at its end: `s._domainkey.src.test`.
    pub fn publish(&mut self, name: &str, record: &str) {
        self.0.insert(format!("{name}."), record.to_owned());
    }
}

impl ResolverCache<Box<str>, Txt> for Keys {
    fn get<Q>(&self, name: &Q) -> Option<Txt>
    where
        Box<str>: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let found = self.0.iter().find(|(known, _)| Box::<str>::from(known.as_str()).borrow() == name);
        Some(match found.map(|(_, record)| DomainKey::parse(record.as_bytes())) {
            Some(Ok(key)) => Txt::DomainKey(Arc::new(key)),
            Some(Err(error)) => Txt::Error(error),
            None => Txt::Error(Error::Io("no such name".into())),
        })
    }

    fn remove<Q>(&self, _: &Q) -> Option<Txt>
    where
        Box<str>: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        None
    }

    fn insert(&self, _: Box<str>, _: Txt, _: Instant) {}
}

/// What mail-auth says of each signature, top to bottom.
pub async fn judged(message: &[u8], keys: &Keys) -> Vec<Fate> {
    let judge = MessageAuthenticator::new_cloudflare().unwrap();
    let parsed = AuthenticatedMessage::parse(message).unwrap();
    let parameters = mail_auth::Parameters::new(&parsed).with_txt_cache(keys);
    let outputs = judge.verify_dkim(parameters).await;
    let fate = |result: &DkimResult| match result {
        DkimResult::Pass => Fate::Pass,
        DkimResult::Neutral(Error::Dkim(DkimError::FailedBodyHashMatch)) => Fate::Body,
        DkimResult::Fail(_) => Fate::Fail,
        other => panic!("{other:?}: {}", String::from_utf8_lossy(message)),
    };
    outputs.iter().map(|output| fate(output.result())).collect()
}
