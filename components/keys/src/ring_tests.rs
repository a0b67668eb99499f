//! Keys made by another library, and signatures judged by it.

#![allow(clippy::unwrap_used)]

use aws_lc_rs::digest::{Digest as Imported, SHA256};
use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::*;

fn pem(der: &[u8]) -> String {
    let base64 = STANDARD.encode(der);
    let lines: Vec<&str> = base64.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", lines.join("\n"))
}

fn rsa_pair() -> (KeyPair, String) {
    let pair = KeyPair::generate(KeySize::Rsa2048).unwrap();
    let der = AsDer::<Pkcs8V1Der<'_>>::as_der(&pair).unwrap();
    let pem = pem(der.as_ref());
    (pair, pem)
}

/// As OpenSSL makes them: the first version of PKCS#8, without the public half.
const ED25519_PEM: &str = "-----BEGIN PRIVATE KEY-----\n\
    MC4CAQAwBQYDK2VwBCIEIDeTO93AlG51kO3a2mJ2F/ziPHnbO47KoPHt4sJpLB79\n-----END PRIVATE KEY-----\n";

fn ed25519_key(domain: &str, selector: &str) -> Value {
    json!({"domain": domain, "selector": selector, "algorithm": "ed25519-sha256", "private_key": ED25519_PEM})
}

fn ring(items: &[Value]) -> Ring {
    Ring::read(&Value::from(items).to_string()).map_err(|fault| panic!("{fault}")).unwrap()
}

fn ids(ring: &Ring, domain: &str) -> Vec<String> {
    ring.identities(domain).into_iter().map(|identity| identity.key_id).collect()
}

#[test]
fn rsa_signatures_verify() {
    let (pair, pem) = rsa_pair();
    let ring = ring(&[json!({"domain": "src.test", "selector": "r1", "algorithm": "rsa-sha256", "private_key": pem})]);
    let [identity] = <[Identity; 1]>::try_from(ring.identities("src.test")).unwrap();
    assert_eq!(identity.algorithm, Algorithm::RsaSha256);
    assert_eq!((identity.domain.as_str(), identity.selector.as_str()), ("src.test", "r1"));
    let digest = [7; 32];
    let signature = ring.sign_digest(&identity.key_id, &digest).unwrap();
    let judge = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, pair.public_key().as_ref());
    judge.verify_digest(&Imported::import_less_safe(&digest, &SHA256).unwrap(), &signature).unwrap();
    assert_eq!(ring.sign_digest(&identity.key_id, &digest).unwrap(), signature, "blinding leaves no trace");
}

#[test]
fn ed25519_signatures_verify() {
    // Both versions of PKCS#8: with and without the public half.
    let first = Ed25519KeyPair::generate_pkcs8v1(&SystemRandom::new()).unwrap();
    let second = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
    for der in [first.as_ref(), second.as_ref()] {
        let mut key = ed25519_key("src.test", "e1");
        key["private_key"] = pem(der).into();
        let signature = ring(&[key]).sign_digest("e1._domainkey.src.test", &[9; 32]).unwrap();
        let public = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).unwrap();
        UnparsedPublicKey::new(&ED25519, public.public_key().as_ref()).verify(&[9; 32], &signature).unwrap();
    }
}

#[test]
fn the_nearest_domain_with_keys() {
    let ring = ring(&[ed25519_key("src.test", "a"), ed25519_key("Src.Test", "b"), ed25519_key("news.src.test", "n")]);
    assert_eq!(ids(&ring, "src.test"), ["a._domainkey.src.test", "b._domainkey.src.test"]);
    assert_eq!(ids(&ring, "SRC.test"), ids(&ring, "src.test"));
    assert_eq!(ids(&ring, "deep.down.src.test"), ids(&ring, "src.test"));
    assert_eq!(ids(&ring, "x.news.src.test"), ["n._domainkey.news.src.test"]);
    for stranger in ["othersrc.test", "test", "", ".", "src.test.evil.test"] {
        assert!(ids(&ring, stranger).is_empty(), "{stranger}");
    }
}

#[test]
fn no_variable_is_no_key() {
    for text in ["", " \n", "[]"] {
        assert!(ids(&Ring::read(text).map_err(|fault| panic!("{fault}")).unwrap(), "src.test").is_empty());
    }
}

#[test]
fn unknown_keys_and_wrong_digests() {
    let ring = ring(&[ed25519_key("src.test", "a")]);
    let gone = ring.sign_digest("b._domainkey.src.test", &[0; 32]);
    assert_eq!(gone, Err(KeyError::UnknownKey("b._domainkey.src.test".to_owned())));
    assert!(matches!(ring.sign_digest("a._domainkey.src.test", &[0; 31]), Err(KeyError::Unavailable(_))));
}

/// What is wrong is named, and no value is repeated.
#[track_caller]
fn check_fault(text: &str, expect: &str) {
    let fault = Ring::read(text).err().unwrap();
    assert!(fault.contains(expect), "{fault}");
    assert!(!fault.contains("SECRET"), "{fault}");
}

#[test]
fn faults_are_named_and_nothing_is_told() {
    check_fault("-----BEGIN SECRET", "not JSON: line 1, column 2");
    check_fault(r#""SECRET""#, "must be a JSON list");
    check_fault(r#"{"domain": "SECRET"}"#, "must be a JSON list");
    check_fault(r#"["SECRET"]"#, "`dkim_keys[0]` must be an object with domain");
    check_fault(r#"[{"SECRET": 1}]"#, "`dkim_keys[0]` has a field that does not exist");
    let with = |name: &str, value: Value| {
        let mut key = ed25519_key("src.test", "a");
        key[name] = value;
        json!([ed25519_key("src.test", "z"), key]).to_string()
    };
    for field in FIELDS {
        let mut key = ed25519_key("src.test", "a");
        key.as_object_mut().unwrap().remove(field);
        check_fault(&json!([key]).to_string(), &format!("`dkim_keys[0].{field}` is missing"));
        check_fault(&with(field, json!(["SECRET"])), &format!("`dkim_keys[1].{field}` must be a string"));
    }
    for name in ["", "SECRET.", "a..b", "SECRET x", "ä.test"] {
        check_fault(&with("domain", json!(name)), "`dkim_keys[1].domain` must be a DNS name");
        check_fault(&with("selector", json!(name)), "`dkim_keys[1].selector` must be a DNS name");
    }
    check_fault(&with("algorithm", json!("SECRET")), "`dkim_keys[1].algorithm` must be `rsa-sha256` or");
    check_fault(
        &with("private_key", json!("SECRET")),
        "`dkim_keys[1].private_key` is not an Ed25519 key in PKCS#8 PEM",
    );
    check_fault(&with("algorithm", json!("rsa-sha256")), "`dkim_keys[1].private_key` is not an RSA key");
    check_fault(&with("selector", json!("z")), "z._domainkey.src.test is there twice");
}

/// RFC 8301 s3.2. Made by OpenSSL, of 512 bits, and used nowhere.
#[test]
fn short_rsa_keys_are_refused() {
    let pem = pem(&STANDARD.decode(SHORT).unwrap());
    let key = json!([{"domain": "src.test", "selector": "r", "algorithm": "rsa-sha256", "private_key": pem}]);
    check_fault(&key.to_string(), "`dkim_keys[0].private_key` has 512 bits: at least 1024 are needed");
}

const SHORT: &str = "MIIBVQIBADANBgkqhkiG9w0BAQEFAASCAT8wggE7AgEAAkEAy0FXb3czSGTBcG9nUcpbcOV7/iFsxUq5H+hMGY6J1Wd/QJ4Uw3/7S3eH\
    UwAVxxT3kmr7kOIPd06wywF7kw34TQIDAQABAkEAracNxLXaoqcyfZUweLiilzn5TY3RGF5W++PD4LHfIOrb6wnxjqZLXpmK3iXE1EaJcSHdTNusr72h\
    vjZztXrfIQIhAP1J5zE3UthYJIsCSYY2389qv/ftYnDZYdwdKJrXWdurAiEAzW5UcKhXTNhO4d8tIPI3uke7Cr2JYOV+um+hIFJxQ+cCIHXVoNnTrBX8\
    A5wsBzqKYtrjBcX4yPhJGW7GnfJTR3mbAiBBUxw21tEr9nzfBoDrQRrHeZfYynys+01ZK7Yo+Q5bcQIhAMZgSwtWfBz4+cW9ofP93zvwOl2d3P1oz50C\
    JsTwOTj9";
