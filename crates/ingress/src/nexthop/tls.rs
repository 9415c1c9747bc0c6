//! TLS towards the next hop: what is asked of it.
//!
//! `Verify` checks the chain against the system's authorities or a bundle, and the name; without TLS no mail goes.
//! `Opportunistic` takes any certificate and goes on in the clear where TLS cannot be had: it keeps out those who only
//! listen. Both speak TLS 1.2 or 1.3.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tdc_smtp::ClientTls;
use thiserror::Error;

/// What is asked of TLS.
#[derive(Clone, Debug, Default)]
pub enum NextHopTls {
    /// None.
    #[default]
    Off,
    /// STARTTLS where it is offered, whatever the certificate.
    Opportunistic(Arc<ClientConfig>),
    /// STARTTLS with a certificate that holds, or no mail.
    Verify {
        /// Trusted authorities and sessions to resume.
        config: Arc<ClientConfig>,
        /// The name that the certificate must carry; absent: the host's.
        server_name: Option<ServerName<'static>>,
    },
}

/// TLS cannot be asked for in this way.
#[derive(Debug, Error)]
pub enum NextHopTlsError {
    /// The bundle is not PEM, or holds no certificate that can be used.
    #[error("the CA file cannot be used: {0}")]
    Bundle(String),
    /// No authority to trust is installed.
    #[error("the system has no certificate authorities; give a CA file")]
    NoRoots,
    /// Neither a host name nor an address.
    #[error("\"{0}\" is not a name that a certificate can carry")]
    Name(String),
    /// The library refuses the settings.
    #[error("TLS cannot be set up: {0}")]
    Library(String),
}

impl NextHopTls {
    /// Any certificate, or none.
    ///
    /// # Errors
    /// When the library refuses.
    pub fn opportunistic() -> Result<Self, NextHopTlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = Arc::new(AnyCertificate(provider.clone()));
        Ok(Self::Opportunistic(client(provider, verifier)?))
    }

    /// A valid certificate: of an authority in `ca` (PEM; absent: the system's), for `server_name` (absent: the host).
    ///
    /// # Errors
    /// When the bundle, the system's authorities or the name cannot be used.
    pub fn verify(ca: Option<&[u8]>, server_name: Option<&str>) -> Result<Self, NextHopTlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let roots = match ca {
            Some(pem) => bundle(pem)?,
            None => system_roots()?,
        };
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
            .build()
            .map_err(|error| NextHopTlsError::Library(error.to_string()))?;
        Ok(Self::Verify {
            config: client(provider, verifier)?,
            server_name: server_name.map(certificate_name).transpose()?,
        })
    }

    /// What the session has to do about it.
    pub(super) fn session(&self) -> ClientTls {
        match self {
            Self::Off => ClientTls::Never,
            Self::Opportunistic(_) => ClientTls::IfOffered,
            Self::Verify { .. } => ClientTls::Required,
        }
    }

    /// What a handshake with that host needs; `None` without TLS.
    pub(super) fn handshake(
        &self,
        host: &str,
    ) -> Option<Result<(Arc<ClientConfig>, ServerName<'static>), NextHopTlsError>> {
        match self {
            Self::Off => None,
            Self::Opportunistic(config) => Some(certificate_name(host).map(|name| (config.clone(), name))),
            Self::Verify { config, server_name } => Some(match server_name {
                Some(name) => Ok((config.clone(), name.clone())),
                None => certificate_name(host).map(|name| (config.clone(), name)),
            }),
        }
    }
}

fn certificate_name(name: &str) -> Result<ServerName<'static>, NextHopTlsError> {
    let key = tdc_core::address::domain_key(name);
    ServerName::try_from(key.into_owned()).map_err(|_| NextHopTlsError::Name(name.to_owned()))
}

fn client(
    provider: Arc<CryptoProvider>,
    verifier: Arc<dyn ServerCertVerifier>,
) -> Result<Arc<ClientConfig>, NextHopTlsError> {
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|error| NextHopTlsError::Library(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

fn bundle(pem: &[u8]) -> Result<RootCertStore, NextHopTlsError> {
    let bad = |error: &dyn std::fmt::Display| NextHopTlsError::Bundle(error.to_string());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| bad(&error))?;
        roots.add(certificate).map_err(|error| bad(&error))?;
    }
    if roots.is_empty() {
        return Err(bad(&"it holds no certificate in PEM"));
    }
    Ok(roots)
}

fn system_roots() -> Result<RootCertStore, NextHopTlsError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err(NextHopTlsError::NoRoots);
    }
    Ok(roots)
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
