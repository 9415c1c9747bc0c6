//! TLS for clients: STARTTLS and from the first octet, which versions, what is required, and the certificate's files.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme, SupportedProtocolVersion};
use tdc_tests::process::wait_for;
use tempfile::TempDir;

use crate::client::Client;
use crate::rig::Rig;

/// Takes every certificate: the tests look at it themselves.
#[derive(Debug)]
struct Any;

impl ServerCertVerifier for Any {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = ring::default_provider().signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, signature, &algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = ring::default_provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, signature, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ring::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

pub(crate) fn tls(versions: &[&'static SupportedProtocolVersion]) -> Arc<ClientConfig> {
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Any))
        .with_no_client_auth();
    Arc::new(config)
}

fn any_version() -> Arc<ClientConfig> {
    tls(rustls::ALL_VERSIONS)
}

/// A new pair in a folder of its own, as a Secret is mounted: the files are links into `..data`, and that is one link.
fn mount(dir: &Path, version: &str) -> Vec<u8> {
    let made = rcgen::generate_simple_self_signed(["edge.example".to_owned()]).unwrap();
    let data = dir.join(version);
    std::fs::create_dir_all(&data).unwrap();
    std::fs::write(data.join("tls.crt"), made.cert.pem()).unwrap();
    std::fs::write(data.join("tls.key"), made.signing_key.serialize_pem()).unwrap();
    swap(dir, version);
    made.cert.der().to_vec()
}

fn swap(dir: &Path, version: &str) {
    let (new, data) = (dir.join("..data_tmp"), dir.join("..data"));
    std::os::unix::fs::symlink(version, &new).unwrap();
    std::fs::rename(new, data).unwrap();
    for file in ["tls.crt", "tls.key"] {
        let link = dir.join(file);
        if !link.exists() {
            std::os::unix::fs::symlink(Path::new("..data").join(file), link).unwrap();
        }
    }
}

/// A rig with a certificate; its files' folder and the certificate.
pub(crate) fn secured(flags: &[&str]) -> (Rig, PathBuf, Vec<u8>) {
    let dir = TempDir::new().unwrap();
    let secret = dir.path().join("secret");
    let certificate = mount(&secret, "..1");
    let (cert, key) = (secret.join("tls.crt"), secret.join("tls.key"));
    let mut all = vec![
        "--tls-cert",
        cert.to_str().unwrap(),
        "--tls-key",
        key.to_str().unwrap(),
    ];
    all.extend(flags);
    let rig = Rig::in_dir(dir, &all, None);
    (rig, secret, certificate)
}

fn starttls(rig: &Rig) -> (Client, Vec<u8>) {
    let mut client = rig.greeted();
    assert_eq!(client.says("STARTTLS"), 220);
    let certificate = client.start_tls(&any_version()).unwrap();
    (client, certificate)
}

#[test]
fn a_changed_certificate_is_taken_and_a_bad_one_is_not() {
    let (rig, secret, first) = secured(&[]);
    let (mut client, certificate) = starttls(&rig);
    assert_eq!(certificate, first);
    assert_eq!((client.says("EHLO c"), client.message()), (250, 250));

    let second = mount(&secret, "..2");
    assert_ne!(first, second);
    rig.reaches("tdc_ingress_certificate_reloads_total{outcome=\"reloaded\"}", 1.0);
    assert_eq!(starttls(&rig).1, second, "a swapped link");
    assert_eq!(client.message(), 250, "open connections go on");

    // A key that belongs to another certificate, then a file that is none.
    std::fs::create_dir_all(secret.join("..3")).unwrap();
    std::fs::copy(secret.join("..1/tls.crt"), secret.join("..3/tls.crt")).unwrap();
    std::fs::copy(secret.join("..2/tls.key"), secret.join("..3/tls.key")).unwrap();
    swap(&secret, "..3");
    rig.edge.says("is not the key of the certificate");
    assert_eq!(starttls(&rig).1, second, "the old one stays in use");
    std::fs::write(secret.join("..3/tls.crt"), "rubbish").unwrap();
    rig.reaches("tdc_ingress_certificate_reloads_total{outcome=\"failed\"}", 2.0);
    assert_eq!(starttls(&rig).1, second);

    // Rewritten in place.
    let third = mount(&secret, "..4");
    rig.reaches("tdc_ingress_certificate_reloads_total{outcome=\"reloaded\"}", 2.0);
    assert_eq!(starttls(&rig).1, third);
}

#[test]
fn from_the_first_octet_and_behind_a_proxy_header() {
    let flags = [
        "--listen-tls",
        "127.0.0.1:0",
        "--listen-proxy-tls",
        "127.0.0.1:0",
        "--proxy-from",
        "127.0.0.1/32",
    ];
    let (rig, _, certificate) = secured(&flags);
    let implicit = rig.edge.address("Accepting mail over TLS.");
    let proxied = rig.edge.address("Accepting mail over TLS behind PROXY headers.");
    for (versions, name) in [
        (&[&rustls::version::TLS12][..], "TLSv1.2"),
        (&[&rustls::version::TLS13], "TLSv1.3"),
    ] {
        for (address, header) in [
            (implicit, ""),
            (proxied, "PROXY TCP4 192.0.2.1 198.51.100.2 4711 25\r\n"),
        ] {
            let mut client = Client::connect(address);
            client.send(header);
            assert_eq!(client.start_tls(&tls(versions)).unwrap(), certificate);
            assert_eq!(client.code(), 220);
            let offer = client.asks("EHLO c");
            assert!(!offer.contains("STARTTLS"), "TLS runs already: {offer}");
            assert_eq!(
                (client.says("STARTTLS"), client.message(), client.says("QUIT")),
                (554, 250, 221)
            );
            rig.edge.says(&format!("\"protocol\":\"{name}\""));
        }
    }
    assert_eq!(rig.mailbox().len(), 4);
}

#[test]
fn octets_behind_starttls_end_the_session_and_all_state_is_new() {
    let (rig, _, _) = secured(&[]);
    let mut client = rig.greeted();
    client.send("STARTTLS\r\nMAIL FROM:<evil@x.example>\r\n");
    assert_eq!(client.code(), 554);
    assert!(client.is_closed());
    rig.reaches(
        "tdc_ingress_sessions_closed_total{reason=\"plaintext_behind_starttls\"}",
        1.0,
    );
    let mut client = rig.greeted();
    assert_eq!(
        (client.says("MAIL FROM:<a@x.example>"), client.says("STARTTLS")),
        (250, 220)
    );
    client.start_tls(&any_version()).unwrap();
    assert_eq!(
        client.says("RCPT TO:<b@y.example>"),
        503,
        "the sender is forgotten"
    );
    assert_eq!(client.says("MAIL FROM:<a@x.example>"), 503, "and the greeting");
    assert_eq!((client.says("EHLO c"), client.message()), (250, 250));
}

#[test]
fn tls_can_be_required() {
    let (rig, _, _) = secured(&["--tls-required"]);
    let mut client = rig.greeted();
    for command in [
        "MAIL FROM:<a@x.example>",
        "RCPT TO:<b@y.example>",
        "DATA",
        "VRFY a",
        "HELP",
    ] {
        assert_eq!(
            client.asks(command),
            "530 5.7.0 Must issue a STARTTLS command first\r\n",
            "{command}"
        );
    }
    assert_eq!((client.says("NOOP"), client.says("STARTTLS")), (250, 220));
    client.start_tls(&any_version()).unwrap();
    assert_eq!(
        (client.says("EHLO c"), client.message(), client.says("QUIT")),
        (250, 250, 221)
    );
}

#[test]
fn a_handshake_ends_in_time_and_older_versions_get_none() {
    let (rig, _, _) = secured(&["--listen-tls", "127.0.0.1:0", "--tls-handshake-timeout", "500ms"]);
    let implicit = rig.edge.address("Accepting mail over TLS.");
    // Half open: nothing, or half a ClientHello.
    for start in [&b""[..], b"\x16\x03\x01\x02\x00\x01\x00"] {
        let mut client = Client::connect(implicit);
        client.send(start);
        assert!(client.is_closed());
    }
    let mut client = rig.greeted();
    assert_eq!(client.says("STARTTLS"), 220);
    assert!(client.is_closed(), "behind STARTTLS too");
    rig.reaches("tdc_ingress_sessions_closed_total{reason=\"tls_failed\"}", 3.0);
    // A ClientHello of TLS 1.1, as OpenSSL sends it: refused with an alert.
    let mut hello = vec![0x16, 3, 1, 0, 45, 1, 0, 0, 41, 3, 2];
    hello.extend([7; 32]);
    hello.extend([0, 0, 2, 0, 0x2f, 1, 0]);
    let mut client = Client::connect(implicit);
    client.send(&hello);
    let mut answer = [0; 7];
    std::io::Read::read_exact(&mut client.tcp, &mut answer).unwrap();
    assert_eq!((answer[0], answer[5]), (0x15, 2), "a fatal alert: {answer:?}");
    let found = wait_for("the failure in the log", || {
        Some(rig.lines("\"tls_failed\"")).filter(|n| *n >= 4)
    });
    assert_eq!(found, 4);
    assert_eq!(rig.greeted().message(), 250);
}
