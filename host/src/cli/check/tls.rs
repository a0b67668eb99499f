//! Whether the certificate of `[tls]` can be used, and what peers that verify will say to it.

use std::path::Path;
use std::sync::Arc;

use mail::Domain;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::crypto::aws_lc_rs;
use rustls::{CertificateError, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::Finding;
use crate::config::Config;
use crate::server::tls;

/// The pair is readable, matches, is valid now and for our name.
pub(super) fn pair(config: &Config) -> Vec<Finding> {
    let Some(files) = &config.tls else {
        let offered = config.https.is_some() || !config.smtp.listen.is_empty() || !config.smtp.listen_tls.is_empty();
        let text = "no [tls] pair: a self-signed one is made, which clients that verify refuse";
        let advice = format!("get a certificate for {} and name it: [tls] cert = \"…\", key = \"…\"", config.hostname);
        return if offered { vec![Finding::warn("tls", text, advice)] } else { Vec::new() };
    };
    if let Err(error) = tls::load(Some(files), &config.data, &config.hostname) {
        return vec![Finding::fail("tls", error.to_string(), "")];
    }
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    vec![verify(&files.cert, &config.hostname, roots, UnixTime::now())]
}

/// What a peer with these roots says to the certificate.
fn verify(cert: &Path, hostname: &Domain, roots: RootCertStore, now: UnixTime) -> Finding {
    let renew = "renew it; a running host takes the new files with `posthaste reload`";
    let chain: Result<Vec<CertificateDer<'static>>, _> =
        CertificateDer::pem_file_iter(cert).and_then(|certificates| certificates.collect());
    let chain = match chain {
        Ok(chain) => chain,
        Err(error) => return Finding::fail("tls", format!("cannot read {}: {error}", cert.display()), ""),
    };
    let name = ServerName::try_from(hostname.to_string());
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
    let (Some((own, others)), Ok(name), Ok(verifier)) = (chain.split_first(), name, verifier) else {
        let text = "the pair matches; whether peers trust it is not known: this system has no root certificates";
        return Finding::warn("tls", text, "install the package ca-certificates");
    };
    match verifier.verify_server_cert(own, others, &name, &[], now) {
        Ok(_) => Finding::ok("tls", format!("the certificate is valid for {hostname}")),
        Err(rustls::Error::InvalidCertificate(error)) => match error {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                Finding::fail("tls", "the certificate has expired", renew)
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                Finding::fail("tls", "the certificate is not valid yet", "check the clock of this machine")
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                let advice = format!("get one for {hostname}, or set `hostname` to a name it is for");
                Finding::warn("tls", format!("the certificate is not for {hostname}"), advice)
            }
            CertificateError::UnknownIssuer => {
                let advice = "if it comes from a public authority, put its chain behind it in the same file";
                Finding::warn("tls", "the certificate's issuer is not known here", advice)
            }
            other => Finding::warn("tls", format!("peers that verify will refuse the certificate: {other:?}"), ""),
        },
        Err(error) => Finding::warn("tls", format!("the certificate cannot be judged: {error}"), ""),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use super::super::Level;
    use super::*;

    #[test]
    fn certificates_are_judged() {
        let folder = tempfile::tempdir().unwrap();
        let authority_key = rcgen::KeyPair::generate().unwrap();
        let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
        parameters.distinguished_name.push(rcgen::DnType::CommonName, "an authority");
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let authority = parameters.self_signed(&authority_key).unwrap();
        let issuer = rcgen::Issuer::new(parameters, authority_key);
        let key = rcgen::KeyPair::generate().unwrap();
        let mut parameters = rcgen::CertificateParams::new(vec!["mail.example.com".to_owned()]).unwrap();
        parameters.not_before = rcgen::date_time_ymd(2026, 1, 1);
        parameters.not_after = rcgen::date_time_ymd(2027, 1, 1);
        let certificate = parameters.signed_by(&key, &issuer).unwrap();
        let file = folder.path().join("cert.pem");
        std::fs::write(&file, certificate.pem()).unwrap();

        let check = |name: &str, known: bool, seconds: u64, level: Level, part: &str| {
            let mut roots = RootCertStore::empty();
            let other = rcgen::generate_simple_self_signed(vec!["other.example".to_owned()]).unwrap();
            roots.add(if known { authority.der().clone() } else { other.cert.der().clone() }).unwrap();
            let now = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
            let finding = verify(&file, &Domain::parse(name).unwrap(), roots, now);
            assert_eq!(finding.level, level, "{finding}");
            assert!(finding.text.contains(part), "{finding}");
        };
        let (within, before, after) = (1_780_000_000, 1_700_000_000, 1_900_000_000);
        check("mail.example.com", true, within, Level::Ok, "valid for mail.example.com");
        check("other.example.com", true, within, Level::Warn, "not for other.example.com");
        check("mail.example.com", false, within, Level::Warn, "issuer is not known");
        check("mail.example.com", true, after, Level::Fail, "expired");
        check("mail.example.com", true, before, Level::Fail, "not valid yet");
    }
}
