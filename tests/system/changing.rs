//! What a reload changes, seen over the wire: limits of a message, and a certificate that was renewed.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, Stream};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use serde_json::json;
use tests::http;
use tests::product::{Product, Setup, binary, free_port};
use tests::smtp::Client;

/// Takes every certificate: which one it is, is what is asked.
#[derive(Debug)]
struct Anybody(CryptoProvider);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

fn client() -> ClientConnection {
    let provider = aws_lc_rs::default_provider();
    let config = ClientConfig::builder_with_provider(Arc::new(provider.clone()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
        .with_no_client_auth();
    ClientConnection::new(Arc::new(config), ServerName::try_from("relay.test").unwrap()).unwrap()
}

/// An HTTPS connection that is open: asks over it, and tells which certificate it began with.
struct Https(ClientConnection, TcpStream);

impl Https {
    fn connect(server: SocketAddr) -> Https {
        Https(client(), TcpStream::connect(server).unwrap())
    }

    fn ask(&mut self) -> String {
        let mut stream = Stream::new(&mut self.0, &mut self.1);
        stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: relay.test\r\n\r\n").unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).unwrap();
        String::from_utf8(answer.to_vec()).unwrap()
    }

    fn certificate(&mut self) -> Vec<u8> {
        assert_eq!(self.ask(), "HTTP/1.1 200");
        self.0.peer_certificates().unwrap()[0].to_vec()
    }
}

/// Writes a fresh pair and gives its certificate.
fn renew(folder: &Path) -> Vec<u8> {
    let made = rcgen::generate_simple_self_signed(vec!["relay.test".to_owned()]).unwrap();
    std::fs::write(folder.join("cert.pem"), made.cert.pem()).unwrap();
    std::fs::write(folder.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    made.cert.der().to_vec()
}

fn reload(setup: &Setup) -> String {
    let config = setup.folder().join("posthaste.toml");
    let output = Command::new(binary().unwrap()).args(["reload", "--config"]).arg(config).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn send(product: &Product, key: &str, to: &[&str], text: &str) -> u16 {
    let body = json!({ "from": "a@src.test", "to": to, "subject": "Hi", "text": text });
    http::post(product.http, "/emails", key, &body).unwrap().status
}

fn size(product: &Product) -> String {
    let mut client = Client::connect(product.smtp).unwrap();
    let said = client.command("EHLO client.test", 250).unwrap();
    said.lines().find_map(|line| line.strip_prefix("SIZE ").map(str::to_owned)).unwrap()
}

#[test]
fn a_renewed_certificate_is_served_after_a_reload() {
    let setup = Setup::new().unwrap();
    let folder = setup.folder().to_owned();
    let https = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port().unwrap()));
    let (cert, key) = (folder.join("cert.pem"), folder.join("key.pem"));
    let setup = setup.with(&format!(
        "[https]\nlisten = \"{https}\"\n[tls]\ncert = \"{}\"\nkey = \"{}\"",
        cert.display(),
        key.display()
    ));
    let first = renew(&folder);
    let _product = setup.start().unwrap();
    let mut open = Https::connect(https);
    assert_eq!(open.certificate(), first);
    let second = renew(&folder);
    assert_eq!(Https::connect(https).certificate(), first, "not read yet");
    assert_eq!(reload(&setup), "changed: [tls]\n");
    assert_eq!(Https::connect(https).certificate(), second);
    assert_eq!(reload(&setup), "nothing changed\n");
}

#[test]
fn sizes_of_messages_change_without_a_restart() {
    let setup = Setup::new().unwrap().with("[[route]]\ndomain = \"*\"\nrelay = \"127.0.0.1:1\"");
    setup.command(&["domain", "add", "src.test"]).unwrap();
    let key = setup.create_key().unwrap();
    let product = setup.start().unwrap();
    let file = setup.folder().join("posthaste.toml");
    let first = std::fs::read_to_string(&file).unwrap();
    let large = "x".repeat(300_000);
    let two = ["b@dst.test", "c@dst.test"];
    assert_eq!((size(&product), send(&product, &key, &two, &large)), ((25 << 20).to_string(), 200));

    let limits = |limits: &str| std::fs::write(&file, format!("{first}\n[limits]\n{limits}")).unwrap();
    limits("message_bytes = \"100KiB\"\nrecipients = 1\n");
    assert_eq!(reload(&setup), "changed: [limits] message_bytes, [limits] recipients\n");
    assert_eq!((size(&product), send(&product, &key, &two[..1], &large)), ((100 << 10).to_string(), 413));
    assert_eq!(send(&product, &key, &two, "x"), 422);
    let mut open = Client::greeted(product.smtp).unwrap();
    let message = format!("From: a@src.test\r\nTo: b@dst.test\r\n\r\n{}", "x\r\n".repeat(100_000));
    assert_eq!(open.submit("a@src.test", "b@dst.test", message.as_bytes()).unwrap().0, 552);

    limits("message_bytes = \"1MiB\"\nhttp_body_bytes = \"3MiB\"\n");
    let said = reload(&setup);
    assert_eq!(said, "changed: [limits] message_bytes, [limits] recipients, [limits] http_body_bytes\n");
    assert_eq!((size(&product), send(&product, &key, &two, &large)), ((1 << 20).to_string(), 200));
    // What was laid out at the start cannot grow.
    limits("message_bytes = \"26MiB\"\n");
    let said = reload(&setup);
    assert_eq!(said, "changed: [limits] http_body_bytes\nneeds a restart: [limits] message_bytes\n");
    assert_eq!(size(&product), (1 << 20).to_string());
}
