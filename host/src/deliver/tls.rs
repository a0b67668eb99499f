//! TLS towards peers: verified against roots and host name, or encrypting with whoever is there (RFC 7435).

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, ProtocolVersion, RootCertStore, SignatureScheme,
};
use tokio_rustls::TlsConnector;

use crate::config::TlsPolicy;

/// How long a host whose TLS failed is spoken to in the clear, under the opportunistic policy.
const BROKEN_FOR: Duration = Duration::from_secs(3600);
/// Hosts remembered as broken.
const BROKEN_MAX: usize = 1024;

/// What a handshake with one host needs.
pub(super) struct TlsTarget<'a> {
    pub(super) connector: &'a TlsConnector,
    pub(super) name: ServerName<'static>,
}

/// The last failed handshake with a host.
struct Failed {
    at: Instant,
    /// Whether TLS counts as broken there: one that a lost connection may explain does not, a second one does.
    broken: bool,
}

/// Both ways of encrypting; they share no session tickets, so that a resumed session is as verified as a new one.
pub(super) struct Tls {
    unverified: TlsConnector,
    verified: TlsConnector,
    broken: Mutex<HashMap<String, Failed>>,
}

impl Tls {
    pub(super) fn new(roots: RootCertStore) -> Result<Tls, Error> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verified = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let unverified = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
            .with_no_client_auth();
        Ok(Tls {
            unverified: TlsConnector::from(Arc::new(unverified)),
            verified: TlsConnector::from(Arc::new(verified)),
            broken: Mutex::default(),
        })
    }

    /// How to shake hands with a host; the error says that its name can stand in no certificate.
    pub(super) fn target(&self, host: &str, address: IpAddr, policy: TlsPolicy) -> Result<TlsTarget<'_>, String> {
        let verify = policy == TlsPolicy::Verify;
        let connector = if verify { &self.verified } else { &self.unverified };
        let name = match ServerName::try_from(host.to_owned()) {
            Ok(name) => name,
            Err(_) if !verify => ServerName::from(address),
            Err(err) => return Err(format!("no certificate can be for `{host}`: {err}")),
        };
        Ok(TlsTarget { connector, name })
    }

    pub(super) fn is_broken(&self, host: &str) -> bool {
        let broken = self.broken.lock().unwrap_or_else(PoisonError::into_inner);
        broken.get(host).is_some_and(|failed| failed.broken && failed.at.elapsed() < BROKEN_FOR)
    }

    /// After a session that opened with TLS where it is offered.
    pub(super) fn forget_failed(&self, host: &str) {
        self.broken.lock().unwrap_or_else(PoisonError::into_inner).remove(host);
    }

    /// Remembers a failed handshake; `broken`: it shows that TLS is broken there, else only a second one in a row does.
    pub(super) fn remember_failed(&self, host: &str, broken: bool) {
        let mut known = self.broken.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= BROKEN_MAX {
            known.retain(|_, failed| failed.at.elapsed() < BROKEN_FOR);
        }
        if known.len() >= BROKEN_MAX {
            known.clear();
        }
        let again = known.get(host).is_some_and(|failed| failed.at.elapsed() < BROKEN_FOR);
        known.insert(host.to_owned(), Failed { at: Instant::now(), broken: broken || again });
    }
}

/// `TLSv1.3 TLS13_AES_256_GCM_SHA384`.
pub(super) fn describe(session: &ClientConnection) -> String {
    let version = match session.protocol_version() {
        Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
        Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
        _ => "TLS",
    };
    match session.negotiated_cipher_suite() {
        Some(suite) => format!("{version} {:?}", suite.suite()),
        None => version.to_owned(),
    }
}

/// Takes every certificate: whoever could forge one could have struck STARTTLS out of the offer as well. The handshake's
/// own signatures are checked all the same.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
