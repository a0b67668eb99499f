//! DKIM held to the RFCs' examples and, in both directions, to mail-auth as the judge: what we sign it must verify, what
//! it signs we must verify, and whatever is changed on the way neither may.

#![allow(clippy::unwrap_used)]

mod judge;

use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{Digest, SHA256};
use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ED25519, Ed25519KeyPair, KeyPair, RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY, RSA_PKCS1_SHA256, RsaKeyPair,
    UnparsedPublicKey,
};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use mail::dkim::{self, Algorithm, Parameters, Unsigned};
use mail::header;
use mail::signature::Signature;
use mail_auth::common::crypto::{Ed25519Key, RsaKey, Sha256};
use mail_auth::common::headers::HeaderWriter;
use mail_auth::dkim::DkimSigner;
use rustls_pki_types::PrivatePkcs8KeyDer;

use judge::{Fate, Keys, judged};

fn fate(name: &str) -> Fate {
    match name {
        "pass" => Fate::Pass,
        "body" => Fate::Body,
        "fail" => Fate::Fail,
        other => panic!("{other:?} is no fate"),
    }
}

/// Reads `name record` lines.
fn keys(path: &Path) -> Keys {
    let lines = std::fs::read_to_string(path).unwrap_or_default();
    let mut keys = Keys::default();
    lines.lines().filter_map(|line| line.split_once(' ')).for_each(|(name, record)| keys.publish(name, record));
    keys
}

/// What we say of each signature, top to bottom, with its selector.
fn verified(message: &[u8], keys: &Keys) -> Vec<(String, Fate)> {
    let (fields, body) = header::split(message).unwrap();
    let mut fates = Vec::new();
    for field in fields.iter().filter(|field| field.is(dkim::FIELD_NAME)) {
        let signature = Signature::parse(*field).unwrap();
        let record = &keys.0[&format!("{}._domainkey.{}.", signature.selector, signature.domain)];
        let key = STANDARD.decode(record.split("p=").nth(1).unwrap()).unwrap();
        let digest = signature.digest(&fields, *field);
        let is_good = match signature.algorithm {
            Algorithm::RsaSha256 => {
                let digest = Digest::import_less_safe(&digest, &SHA256).unwrap();
                let key = UnparsedPublicKey::new(&RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY, key);
                key.verify_digest(&digest, &signature.signature).is_ok()
            }
            Algorithm::Ed25519Sha256 => {
                UnparsedPublicKey::new(&ED25519, key).verify(&digest, &signature.signature).is_ok()
            }
        };
        let fate = match (signature.covers_body(&message[body..]), is_good) {
            (false, _) => Fate::Body,
            (true, true) => Fate::Pass,
            (true, false) => Fate::Fail,
        };
        fates.push((signature.selector, fate));
    }
    fates
}

#[tokio::test]
async fn vectors() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors/dkim");
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut messages =
        entries.filter(|path| path.extension().is_some_and(|end| end == "eml")).collect::<Vec<PathBuf>>();
    messages.sort();
    assert!(messages.len() >= 10, "the vectors are missing");
    for path in messages {
        check_vector(&path).await;
    }
}

/// Checks what each line of the `.expect` beside a message says.
async fn check_vector(path: &Path) {
    let message = std::fs::read(path).unwrap();
    let expect = std::fs::read_to_string(path.with_extension("expect")).unwrap();
    let keys = keys(&path.with_extension("dns"));
    let (fields, body) = header::split(&message).unwrap();
    let body = &message[body..];
    let mut fates = Vec::new();
    let mut judge = None;
    for line in expect.lines() {
        let (what, expected) = line.split_once(": ").unwrap_or_else(|| panic!("{line:?} in {path:?}"));
        match what {
            "header" => {
                let mut canonical = Vec::new();
                fields.iter().for_each(|field| dkim::canonicalize_field(*field, &mut canonical));
                assert_eq!(String::from_utf8(canonical).unwrap(), unescaped(expected), "{path:?}");
            }
            "body" => assert_eq!(dkim::body_hash(body), dkim_hash(&unescaped(expected)), "{path:?}"),
            "body-hash" => assert_eq!(STANDARD.encode(dkim::body_hash(body)), expected, "{path:?}"),
            "signature" => {
                let (selector, fate) = expected.split_once(' ').unwrap();
                fates.push((selector.to_owned(), self::fate(fate)));
            }
            // Where the judge is known to be wrong.
            "judge" => judge = Some(expected.split(' ').map(fate).collect::<Vec<_>>()),
            other => panic!("{other:?} in {path:?}"),
        }
    }
    assert_eq!(verified(&message, &keys), fates, "{path:?}");
    if !fates.is_empty() {
        let expected = judge.unwrap_or_else(|| fates.iter().map(|(_, fate)| *fate).collect());
        assert_eq!(judged(&message, &keys).await, expected, "the judge on {path:?}");
    }
}

fn unescaped(text: &str) -> String {
    text.replace("\\r", "\r").replace("\\n", "\n").replace("\\t", "\t")
}

fn dkim_hash(canonical: &str) -> [u8; 32] {
    aws_lc_rs::digest::digest(&SHA256, canonical.as_bytes()).as_ref().try_into().unwrap()
}

/// One key of each algorithm, and their records.
struct Signer {
    rsa: RsaKeyPair,
    ed25519: Ed25519KeyPair,
    keys: Keys,
}

impl Signer {
    fn new() -> Signer {
        let rsa = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        let ed25519 = Ed25519KeyPair::generate().unwrap();
        let public: PublicKeyX509Der<'_> = rsa.public_key().as_der().unwrap();
        let mut keys = Keys::default();
        keys.publish("rsa._domainkey.x.test", &format!("v=DKIM1; k=rsa; p={}", STANDARD.encode(public.as_ref())));
        let public = ed25519.public_key().as_ref();
        keys.publish("ed._domainkey.x.test", &format!("v=DKIM1; k=ed25519; p={}", STANDARD.encode(public)));
        Signer { rsa, ed25519, keys }
    }

    /// Signs with both keys, as the product does: the body hashed once, both fields put in front.
    fn sign(&self, message: &[u8]) -> Vec<u8> {
        let (fields, body) = header::split(message).unwrap();
        let body_hash = dkim::body_hash(&message[body..]);
        let field = |algorithm, selector| {
            let parameters =
                Parameters { domain: "x.test", selector, algorithm, timestamp_s: 1_700_000_000, body_hash };
            let unsigned = Unsigned::new(&fields, &parameters);
            let signature = self.private(algorithm, &unsigned.digest());
            format!("{}:{}", dkim::FIELD_NAME, unsigned.finish(&signature))
        };
        header::prepend(message, &[field(Algorithm::RsaSha256, "rsa"), field(Algorithm::Ed25519Sha256, "ed")])
    }

    fn private(&self, algorithm: Algorithm, digest: &[u8; 32]) -> Vec<u8> {
        match algorithm {
            Algorithm::RsaSha256 => {
                let digest = Digest::import_less_safe(digest, &SHA256).unwrap();
                let mut signature = vec![0; self.rsa.public_modulus_len()];
                self.rsa.sign_digest(&RSA_PKCS1_SHA256, &digest, &mut signature).unwrap();
                signature
            }
            Algorithm::Ed25519Sha256 => self.ed25519.sign(digest).as_ref().to_vec(),
        }
    }

    /// Signs with mail-auth in the place of our canonicalization.
    fn sign_by_judge(&self, message: &[u8]) -> Vec<u8> {
        let names = ["From", "To", "Subject", "Date", "X-Folded", "MIME-Version"];
        let pkcs8: Pkcs8V1Der<'_> = self.rsa.as_der().unwrap();
        let key = RsaKey::<Sha256>::from_key_der(PrivatePkcs8KeyDer::from(pkcs8.as_ref()).into()).unwrap();
        let rsa = DkimSigner::from_key(key).domain("x.test").selector("rsa").headers(names).sign(message).unwrap();
        let pkcs8: Pkcs8V1Der<'_> = self.ed25519.as_der().unwrap();
        let key = Ed25519Key::from_pkcs8_maybe_unchecked_der(pkcs8.as_ref()).unwrap();
        let ed = DkimSigner::from_key(key).domain("x.test").selector("ed").headers(names).sign(message).unwrap();
        [rsa.to_header().as_bytes(), ed.to_header().as_bytes(), message].concat()
    }
}

/// Messages of all shapes that come in. Every one has a body, so that it can be changed.
fn shapes() -> Vec<Vec<u8>> {
    let head = "From: a@x.test\r\nTo: b@y.test\r\nSubject: s\r\n";
    let large = "A line of an ordinary length, as most lines of most messages are.\r\n".repeat(160);
    let texts = [
        format!("{head}\r\nbody\r\n"),
        format!("{head}\r\nno final line end"),
        format!("{head}\r\ntrailing\r\n\r\n\r\n\r\n"),
        format!("{head}\r\n\r\n\r\nleading\r\n"),
        format!("{head}\r\n\ttabs \t and  blanks \r\n between\r\n\r\n \r\nlines\t\r\n"),
        format!("{head}X-Folded: a\r\n\tb\r\n   c \r\n d\r\nSUBJECT: again\r\n\r\nbody\r\n"),
        format!("{head}Subject: twice\r\nSubject: thrice\r\nReceived: a\r\nReceived: b\r\n\r\nbody\r\n"),
        format!("{head}X-Empty:\r\nDate:\r\nMIME-Version:   1.0\t\r\n\r\nbody\r\n"),
        format!("{head}X-Folded:\r\n first line empty\r\n\r\nbody\r\n"),
        "From: J\u{fc}rgen <a@x.test>\r\n\r\n8-bit \u{fc}\u{a0}\u{fc}\r\n".to_owned(),
        format!("{head}\r\n{large}"),
        format!("{head}\r\n.\r\n..\r\nFrom here\r\n=20\r\n"),
    ];
    let mut shapes = texts.into_iter().map(String::into_bytes).collect::<Vec<_>>();
    shapes.push([head.as_bytes(), b"\r\nnot UTF-8: \xff\xfe\x00\r\n"].concat());
    shapes.push(mail::compose::compose(&mail::compose::Draft {
        from: mail::Mailbox::parse("J\u{fc}rgen <a@x.test>").unwrap(),
        to: vec![mail::Mailbox::parse("b@y.test").unwrap()],
        cc: Vec::new(),
        reply_to: Vec::new(),
        subject: "Gr\u{fc}\u{df}e ".repeat(20),
        html: Some("<p>h</p>".into()),
        text: Some("t\n".repeat(10)),
        attachments: Vec::new(),
        headers: vec![("List-Unsubscribe".into(), "<https://x.test/u>".into())],
        message_id: "<1@x.test>".into(),
        date_s: 1_700_000_000,
    }));
    shapes
}

/// The message with one thing changed that a signature must not survive.
fn tampered(message: &[u8]) -> Vec<(Fate, Vec<u8>)> {
    let text = |from: &[u8], to: &[u8]| {
        let at = message.windows(from.len()).rposition(|window| window == from).unwrap();
        [&message[..at], to, &message[at + from.len()..]].concat()
    };
    let mut added = b"From: eve@evil.test\r\n".to_vec();
    added.extend_from_slice(message);
    let (fields, body) = header::split(message).unwrap();
    let last = fields.last().unwrap();
    let mut appended = message.to_vec();
    appended.extend_from_slice(b"more\r\n");
    let mut changed = vec![
        (Fate::Fail, added),
        (Fate::Fail, header::prepend(message, &["List-Unsubscribe: <https://evil.test>".into()])),
        (Fate::Fail, header::prepend(message, &["Content-Type: text/html".into()])),
        (Fate::Fail, text(b"a@x.test", b"b@x.test")),
        (Fate::Fail, text(b"\r\nFrom:", b"\r\nFrom: c@x.test\r\nX-Was:")),
        (Fate::Body, appended),
        (Fate::Body, [&message[..body], b"other".as_slice()].concat()),
        (Fate::Body, message[..body].to_vec()),
    ];
    assert!(!last.is(dkim::FIELD_NAME));
    changed.push((Fate::Fail, text(b"t=1700000000;", b"t=1700000001;")));
    changed
}

#[tokio::test]
async fn the_judge_verifies_what_we_sign() {
    let signer = Signer::new();
    for message in shapes() {
        let signed = signer.sign(&message);
        assert_eq!(header::check_format(&signed), Ok(()));
        let shown = String::from_utf8_lossy(&signed).into_owned();
        assert_eq!(judged(&signed, &signer.keys).await, [Fate::Pass, Fate::Pass], "{shown}");
        let fates = verified(&signed, &signer.keys);
        assert_eq!(fates, [("rsa".to_owned(), Fate::Pass), ("ed".to_owned(), Fate::Pass)], "{shown}");
    }
}

#[tokio::test]
async fn nobody_verifies_what_was_changed() {
    let signer = Signer::new();
    for message in shapes() {
        for (fate, changed) in tampered(&signer.sign(&message)) {
            let shown = String::from_utf8_lossy(&changed).into_owned();
            // The Ed25519 signature is the lower field: its time is the one that `tampered` finds.
            let is_lower_only = shown.contains("t=1700000001");
            let expected = if is_lower_only { [Fate::Pass, fate] } else { [fate, fate] };
            assert_eq!(judged(&changed, &signer.keys).await, expected, "{shown}");
            let ours = verified(&changed, &signer.keys).into_iter().map(|(_, fate)| fate).collect::<Vec<_>>();
            assert_eq!(ours, expected, "{shown}");
        }
    }
}

#[tokio::test]
async fn we_verify_what_the_judge_signs() {
    let signer = Signer::new();
    for message in shapes() {
        let signed = signer.sign_by_judge(&message);
        let shown = String::from_utf8_lossy(&signed).into_owned();
        let fates = verified(&signed, &signer.keys);
        assert_eq!(fates, [("rsa".to_owned(), Fate::Pass), ("ed".to_owned(), Fate::Pass)], "{shown}");
        let mut changed = signed.clone();
        changed.extend_from_slice(b"more\r\n");
        assert!(verified(&changed, &signer.keys).iter().all(|(_, fate)| *fate == Fate::Body), "{shown}");
    }
}
