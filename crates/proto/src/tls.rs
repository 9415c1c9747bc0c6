//! Mutual TLS between the roles, from three files each: certificate chain, private key, and the authorities to trust.
//!
//! What always holds: both sides present a certificate and check the other's against `ca`; there is no fallback to
//! clear text and no unverified mode. The files are read again every few seconds, so that a mounted Secret that was
//! renewed comes into use without a restart; files that cannot be used (one was replaced and not yet the others, or
//! it is no PEM) are said once in the log and change nothing. Connections that exist keep what they were made with,
//! until the service ends them for their age.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use thiserror::Error;
use tokio::sync::watch;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

/// How often the files are looked at. A kubelet brings a changed Secret within about a minute; this adds little.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// The protocol of gRPC in ALPN (RFC 9113, section 3.2).
const ALPN: &[u8] = b"h2";

/// Where the three files are.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// The chain in PEM, this process's own certificate first. It must be good for the side it is used on: a service
    /// needs its name in it.
    pub cert: PathBuf,
    /// Its private key in PEM.
    pub key: PathBuf,
    /// The authorities, in PEM, that sign the other side's certificates.
    pub ca: PathBuf,
}

/// The files cannot be used.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file is no PEM of its kind, or the files do not belong together.
    #[error("{}: {reason}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// What the files held at one moment.
#[derive(PartialEq, Eq)]
struct Material {
    cert: Vec<u8>,
    key: Vec<u8>,
    ca: Vec<u8>,
}

/// What a client presents and trusts, always the newest that could be used. Cheap to clone.
#[derive(Clone)]
pub struct ClientTls(watch::Receiver<ClientTlsConfig>);

/// What a service presents and trusts, always the newest that could be used. Cheap to clone.
#[derive(Clone)]
pub struct ServerTls(watch::Receiver<Arc<ServerConfig>>);

impl ClientTls {
    /// Reads the files, and follows them for as long as a clone exists. `host` is the name that the service's
    /// certificate must carry. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When the files cannot be used now.
    pub async fn follow(files: TlsFiles, host: &str) -> Result<Self, TlsError> {
        let host = host.to_owned();
        let build = move |files: &TlsFiles, material: &Material| material.client(files, &host);
        follow(files, build).await.map(Self)
    }

    pub(crate) fn current(&mut self) -> ClientTlsConfig {
        self.0.borrow_and_update().clone()
    }

    /// Ends when there is something new; never when there will be nothing more.
    pub(crate) async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl ServerTls {
    /// Reads the files, and follows them for as long as a clone exists. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When the files cannot be used now.
    pub async fn follow(files: TlsFiles) -> Result<Self, TlsError> {
        follow(files, |files, material| material.server(files))
            .await
            .map(Self)
    }

    /// The settings for the next connection.
    pub fn current(&self) -> Arc<ServerConfig> {
        self.0.borrow().clone()
    }
}

async fn follow<T, B>(files: TlsFiles, build: B) -> Result<watch::Receiver<T>, TlsError>
where
    T: Send + Sync + 'static,
    B: Fn(&TlsFiles, &Material) -> Result<T, TlsError> + Send + 'static,
{
    let mut material = read(&files).await?;
    let (sender, receiver) = watch::channel(build(&files, &material)?);
    tokio::spawn(async move {
        let mut complaint = String::new();
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = sender.closed() => return,
            }
            let newer = match read(&files).await {
                Ok(newer) if newer == material => continue,
                Ok(newer) => build(&files, &newer).map(|built| (newer, built)),
                Err(error) => Err(error),
            };
            match newer {
                Ok((newer, built)) => {
                    material = newer;
                    complaint.clear();
                    sender.send_replace(built);
                    tracing::info!(cert = %files.cert.display(), "The certificate for gRPC was renewed.");
                }
                Err(error) if error.to_string() == complaint => {}
                Err(error) => {
                    complaint = error.to_string();
                    tracing::warn!(%error, "The new certificate for gRPC cannot be used; going on with the one before it.");
                }
            }
        }
    });
    Ok(receiver)
}

async fn read(files: &TlsFiles) -> Result<Material, TlsError> {
    let file = async |path: &PathBuf| {
        tokio::fs::read(path).await.map_err(|source| TlsError::Read {
            path: path.clone(),
            source,
        })
    };
    Ok(Material {
        cert: file(&files.cert).await?,
        key: file(&files.key).await?,
        ca: file(&files.ca).await?,
    })
}

impl Material {
    fn client(&self, files: &TlsFiles, host: &str) -> Result<ClientTlsConfig, TlsError> {
        // What tonic would only find out at the first connection: each file by its own name.
        self.server(files)?;
        let config = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(&self.ca))
            .identity(Identity::from_pem(&self.cert, &self.key))
            .domain_name(host);
        Endpoint::from_static("https://policy")
            .tls_config(config.clone())
            .map_err(|error| unusable(&files.cert, source_text(&error)))?;
        Ok(config)
    }

    fn server(&self, files: &TlsFiles) -> Result<Arc<ServerConfig>, TlsError> {
        let mut roots = RootCertStore::empty();
        for authority in certificates(&self.ca, &files.ca)? {
            roots.add(authority).map_err(|error| unusable(&files.ca, error))?;
        }
        let verifier = WebPkiClientVerifier::builder(Arc::new(roots))
            .build()
            .map_err(|error| unusable(&files.ca, error))?;
        let key = PrivateKeyDer::from_pem_slice(&self.key).map_err(|error| unusable(&files.key, error))?;
        let mut config = ServerConfig::builder()
            .with_client_cert_verifier(verifier)
            .with_single_cert(certificates(&self.cert, &files.cert)?, key)
            .map_err(|error| unusable(&files.key, error))?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Arc::new(config))
    }
}

fn certificates(pem: &[u8], path: &std::path::Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| unusable(path, error))?;
    if chain.is_empty() {
        return Err(unusable(path, "it holds no certificate in PEM"));
    }
    Ok(chain)
}

fn unusable(path: &std::path::Path, reason: impl std::fmt::Display) -> TlsError {
    TlsError::Unusable {
        path: path.to_owned(),
        reason: reason.to_string(),
    }
}

/// tonic's own text is "transport error"; what happened is in its source.
fn source_text(error: &dyn std::error::Error) -> String {
    error
        .source()
        .map_or_else(|| error.to_string(), ToString::to_string)
}
