//! TLS of the listeners: the `[tls]` pair, or a self-signed one that is made in the data folder on first start.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use mail::Domain;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use thiserror::Error;

use crate::config::TlsFiles;
use crate::store::private;

/// Configurations of the host's listeners, one pair behind both.
#[derive(Clone, Debug)]
pub struct Tls {
    /// STARTTLS and implicit TLS.
    pub smtp: Arc<ServerConfig>,
    /// Offers HTTP/2 and HTTP/1.1 (ALPN).
    pub https: Arc<ServerConfig>,
    /// The pair behind both.
    pub certificate: Arc<Certificate>,
}

/// A pair that can be exchanged while listeners use it. Sessions that are open keep theirs.
#[derive(Debug)]
pub struct Certificate(RwLock<Arc<CertifiedKey>>);

impl Certificate {
    /// Uses another pair for handshakes to come; whether its certificate is another.
    pub fn exchange(&self, pair: Arc<CertifiedKey>) -> bool {
        let mut present = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let is_another = present.cert != pair.cert;
        *present = pair;
        is_another
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.read().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

/// Why there is no TLS.
#[derive(Debug, Error)]
pub enum TlsError {
    #[error("[tls] cannot read {path}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("[tls] {path} is not a PEM file: {why}")]
    NotPem { path: PathBuf, why: pem::Error },
    #[error("[tls] {path} holds no {what}: it needs a `-----BEGIN {label}-----` block")]
    Empty { path: PathBuf, what: &'static str, label: &'static str },
    #[error("[tls] {cert} and {key} cannot be used together: {source}")]
    Pair { cert: PathBuf, key: PathBuf, source: rustls::Error },
    #[error("TLS cannot be set up: {source}")]
    Unusable { source: rustls::Error },
    #[error("cannot make a self-signed certificate for {hostname}: {why}")]
    SelfSigned { hostname: Domain, why: String },
    #[error("cannot write {path}: {source}")]
    Write { path: PathBuf, source: std::io::Error },
}

/// Loads the pair given, or the self-signed one, which is made where it lacks: then a warning tells that clients which
/// verify will refuse it.
pub fn load(files: Option<&TlsFiles>, data: &Path, hostname: &Domain) -> Result<Tls, TlsError> {
    let certificate = Arc::new(Certificate(RwLock::new(read(files, data, hostname)?)));
    let unusable = |source| TlsError::Unusable { source };
    // TLS 1.2 and 1.3, the provider named so that none has to be installed for the process.
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(unusable)?
        .with_no_client_auth()
        .with_cert_resolver(certificate.clone());
    config.ticketer = aws_lc_rs::Ticketer::new().map_err(unusable)?;
    let mut https = config.clone();
    https.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Tls { smtp: Arc::new(config), https: Arc::new(https), certificate })
}

/// The pair given, or the self-signed one; the key must be the certificate's.
pub fn read(files: Option<&TlsFiles>, data: &Path, hostname: &Domain) -> Result<Arc<CertifiedKey>, TlsError> {
    match files {
        Some(files) => read_pair(files),
        None => read_pair(&self_signed(data, hostname)?),
    }
}

fn read_pair(files: &TlsFiles) -> Result<Arc<CertifiedKey>, TlsError> {
    let (chain, key) = (read_chain(&files.cert)?, read_key(&files.key)?);
    let pair = CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider());
    let fault = |source| TlsError::Pair { cert: files.cert.clone(), key: files.key.clone(), source };
    pair.map(Arc::new).map_err(fault)
}

fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = read_file(path)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let chain = chain.map_err(|why| TlsError::NotPem { path: path.to_owned(), why })?;
    if chain.is_empty() {
        return Err(TlsError::Empty { path: path.to_owned(), what: "certificate", label: "CERTIFICATE" });
    }
    Ok(chain)
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(&read_file(path)?).map_err(|why| match why {
        pem::Error::NoItemsFound => {
            TlsError::Empty { path: path.to_owned(), what: "private key", label: "PRIVATE KEY" }
        }
        why => TlsError::NotPem { path: path.to_owned(), why },
    })
}

fn read_file(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|source| TlsError::Read { path: path.to_owned(), source })
}

/// The self-signed pair of a host name; made anew when the name changes.
fn self_signed(data: &Path, hostname: &Domain) -> Result<TlsFiles, TlsError> {
    let folder = data.join("tls");
    let files = TlsFiles {
        cert: folder.join(format!("{hostname}.self-signed.crt")),
        key: folder.join(format!("{hostname}.self-signed.key")),
    };
    if !(files.cert.exists() && files.key.exists()) {
        let failed = |why: rcgen::Error| TlsError::SelfSigned { hostname: hostname.clone(), why: why.to_string() };
        let names = vec![hostname.as_str().trim_matches(['[', ']']).to_owned(), "localhost".to_owned()];
        let pair = rcgen::generate_simple_self_signed(names).map_err(failed)?;
        private::folder(&folder).map_err(|source| TlsError::Write { path: folder, source })?;
        // The certificate last: while it lacks the pair is made again.
        write_private(&files.key, pair.signing_key.serialize_pem().as_bytes())?;
        write_private(&files.cert, pair.cert.pem().as_bytes())?;
    }
    // A development host has no [tls] to set, and its clients need no TLS.
    if hostname.as_str() != "localhost" {
        tracing::warn!(
            certificate = %files.cert.display(),
            "TLS uses a self-signed certificate, which clients that verify will refuse: set [tls] cert and key"
        );
    }
    Ok(files)
}

/// Writes a file that only its owner can read, all of it or nothing.
fn write_private(path: &Path, bytes: &[u8]) -> Result<(), TlsError> {
    let draft = path.with_extension("new");
    let written = (|| {
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&draft, path)
    })();
    written.map_err(|source| TlsError::Write { path: path.to_owned(), source })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn hostname() -> Domain {
        Domain::parse("relay.test").unwrap()
    }

    fn pair(folder: &Path, cert: &str, key: &str) -> TlsFiles {
        let files = TlsFiles { cert: folder.join("given.crt"), key: folder.join("given.key") };
        fs::write(&files.cert, cert).unwrap();
        fs::write(&files.key, key).unwrap();
        files
    }

    #[test]
    fn a_self_signed_pair_is_made_once_and_kept_private() {
        let folder = tempfile::tempdir().unwrap();
        let tls = load(None, folder.path(), &hostname()).unwrap();
        assert!(tls.smtp.alpn_protocols.is_empty());
        assert_eq!(tls.https.alpn_protocols, [b"h2".to_vec(), b"http/1.1".to_vec()]);
        let key = folder.path().join("tls/relay.test.self-signed.key");
        let first = fs::read(&key).unwrap();
        assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
        load(None, folder.path(), &hostname()).unwrap();
        assert_eq!(fs::read(&key).unwrap(), first);
        // Half a pair is made again.
        fs::remove_file(&key).unwrap();
        load(None, folder.path(), &hostname()).unwrap();
        assert!(key.exists());
    }

    #[test]
    fn a_given_pair_is_used_and_its_faults_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let made = || rcgen::generate_simple_self_signed(vec!["relay.test".to_owned()]).unwrap();
        let (one, other) = (made(), made());
        let (cert, key) = (one.cert.pem(), one.signing_key.serialize_pem());
        let check = |cert: &str, key: &str, expect: &[&str]| {
            let files = pair(folder.path(), cert, key);
            let error = load(Some(&files), folder.path(), &hostname()).unwrap_err().to_string();
            assert!(expect.iter().all(|part| error.contains(part)), "{error}");
        };
        load(Some(&pair(folder.path(), &cert, &key)), folder.path(), &hostname()).unwrap();
        check(&cert, &other.signing_key.serialize_pem(), &["given.crt", "given.key", "together"]);
        check("", &key, &["given.crt", "no certificate"]);
        check(&cert, &cert, &["given.key", "no private key"]);
        check("-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n", &key, &["given.crt", "PEM"]);
        fs::remove_file(folder.path().join("given.crt")).unwrap();
        let files = TlsFiles { cert: folder.path().join("given.crt"), key: folder.path().join("given.key") };
        let error = load(Some(&files), folder.path(), &hostname()).unwrap_err().to_string();
        assert!(error.contains("given.crt") && error.contains("cannot read"), "{error}");
    }
}
