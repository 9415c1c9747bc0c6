//! TLS towards an intake: what is asked of it, and what its failures mean.
//!
//! A failure of TLS itself (no common version, a certificate that does not verify) will not pass by trying again; a
//! connection that breaks during the handshake may. [`handshake`] keeps the two apart.
//!
//! `Verify` checks the chain against the system's authorities or the intake's own bundle, and the name. `Encrypt`
//! takes any certificate, but still checks that the peer holds its key.

use std::io;
use std::sync::{Arc, OnceLock};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme, SupportedProtocolVersion};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tdc_core::policy::{IntakeTls, TlsMode, TlsVersion};
use thiserror::Error;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// TLS cannot be asked for as the intake says.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(crate) enum TlsSetupError {
    /// The bundle is not PEM, or holds no certificate that can be used.
    #[error("spec.tls.caBundle cannot be used: {0}")]
    Bundle(String),
    /// No authority to trust is installed.
    #[error("the system has no certificate authorities; set spec.tls.caBundle or SSL_CERT_FILE")]
    NoRoots,
    /// The name to verify is neither a host name nor an address.
    #[error("{0} is not a name that a certificate can carry; set spec.tls.serverName")]
    Name(String),
    /// The library refuses the settings.
    #[error("TLS cannot be set up: {0}")]
    Library(String),
}

/// What broke a handshake.
#[derive(Debug, Error)]
pub(crate) enum HandshakeError {
    /// The peers cannot agree, or the certificate is not accepted.
    #[error("{0}")]
    Tls(rustls::Error),
    /// The connection broke.
    #[error("{0}")]
    Network(io::Error),
}

impl HandshakeError {
    fn from_io(error: io::Error) -> Self {
        let tls = error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<rustls::Error>())
            .cloned();
        match tls {
            Some(tls) => Self::Tls(tls),
            None => Self::Network(error),
        }
    }
}

/// The settings for an intake that wants TLS. Reuse them: sessions are resumed by them.
pub(crate) fn client_config(tls: &IntakeTls) -> Result<Arc<ClientConfig>, TlsSetupError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let library = |error: &dyn std::fmt::Display| TlsSetupError::Library(error.to_string());
    let verifier: Arc<dyn ServerCertVerifier> = match tls.mode {
        TlsMode::Encrypt | TlsMode::None => Arc::new(AnyCertificate(provider.clone())),
        TlsMode::Verify => {
            let roots = if tls.ca_bundle.trim().is_empty() {
                system_roots()?
            } else {
                bundle(&tls.ca_bundle)?
            };
            WebPkiServerVerifier::builder_with_provider(roots, provider.clone())
                .build()
                .map_err(|error| library(&error))?
        }
    };
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions(tls.min_version))
        .map_err(|error| library(&error))?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// The name that the certificate must carry: the configured one, or the host that was connected to.
pub(crate) fn server_name(tls: &IntakeTls, host: &str) -> Result<ServerName<'static>, TlsSetupError> {
    let name = tls.server_name.as_deref().unwrap_or(host);
    let bare = name
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(name);
    let key = tdc_core::address::domain_key(bare);
    ServerName::try_from(key.into_owned()).map_err(|_| TlsSetupError::Name(name.to_owned()))
}

/// Performs the handshake on a connection on which STARTTLS was accepted.
pub(crate) async fn handshake(
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    stream: TcpStream,
) -> Result<TlsStream<TcpStream>, HandshakeError> {
    TlsConnector::from(config)
        .connect(name, stream)
        .await
        .map_err(HandshakeError::from_io)
}

/// Protocol and cipher as AsyncOS logs them: `TLSv1.3`, `TLS13_AES_256_GCM_SHA384`.
pub(crate) fn describe(stream: &TlsStream<TcpStream>) -> (String, String) {
    let (_, session) = stream.get_ref();
    let protocol = session
        .protocol_version()
        .and_then(|version| version.as_str().map(str::to_owned));
    let cipher = session
        .negotiated_cipher_suite()
        .and_then(|suite| suite.suite().as_str());
    (
        protocol.map_or_else(|| "unknown".to_owned(), |name| name.replace('_', ".")),
        cipher.unwrap_or("unknown").to_owned(),
    )
}

fn versions(min: TlsVersion) -> &'static [&'static SupportedProtocolVersion] {
    static FROM_1_2: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS13, &rustls::version::TLS12];
    match min {
        TlsVersion::V1_2 => &FROM_1_2,
        TlsVersion::V1_3 => &FROM_1_2[..1],
    }
}

fn bundle(pem: &str) -> Result<Arc<RootCertStore>, TlsSetupError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|error| TlsSetupError::Bundle(error.to_string()))?;
        roots
            .add(certificate)
            .map_err(|error| TlsSetupError::Bundle(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(TlsSetupError::Bundle("it holds no certificate".into()));
    }
    Ok(Arc::new(roots))
}

/// Read once: the file is large, and a change of it comes with a new image anyway.
fn system_roots() -> Result<Arc<RootCertStore>, TlsSetupError> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    let roots = ROOTS.get_or_init(|| {
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::warn!(%error, "a certificate authority of the system cannot be read");
        }
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(found.certs);
        Arc::new(roots)
    });
    if roots.is_empty() {
        Err(TlsSetupError::NoRoots)
    } else {
        Ok(roots.clone())
    }
}

/// Accepts every certificate; signatures are still checked, so that the peer must hold the key.
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
