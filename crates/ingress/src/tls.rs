//! TLS for clients: 1.2 and 1.3, and a certificate that is read again when its files change.
//!
//! What always holds: a handshake uses one whole pair, the old or the new one; a pair that cannot be used (half written,
//! a key of another certificate) never takes the place of one that can. Files are compared by their octets, so that it
//! makes no difference whether they are rewritten, renamed over, or swapped by a symbolic link as Kubernetes does.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::crypto::ring;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tdc_telemetry::Shutdown;
use thiserror::Error;

use crate::metrics::IngressMetrics;

/// How often the files are looked at. Kubernetes takes about a minute to bring a changed Secret to a node.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// The largest file that is read, in octets; a chain of a few certificates has a few thousand.
const MAX_FILE: u64 = 1024 * 1024;

/// Where certificate chain and private key are, in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The chain, the server's own certificate first.
    pub cert: PathBuf,
    /// The key of the first certificate.
    pub key: PathBuf,
}

/// Why a pair of files cannot be used.
#[derive(Debug, Error)]
pub enum TlsError {
    /// The chain.
    #[error("--tls-cert {0}: {1}")]
    Cert(String, String),
    /// The key.
    #[error("--tls-key {0}: {1}")]
    Key(String, String),
    /// Both are well formed and do not belong together.
    #[error("--tls-key {0}: {1}")]
    Mismatch(String, String),
}

/// The octets of both files.
#[derive(Clone, PartialEq, Eq)]
struct Contents {
    cert: Vec<u8>,
    key: Vec<u8>,
}

/// The pair in use.
#[derive(Debug)]
struct Current(ArcSwap<CertifiedKey>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

/// The certificate of all listeners.
pub(crate) struct Certificate {
    files: TlsFiles,
    seen: Contents,
    current: Arc<Current>,
    config: Arc<rustls::ServerConfig>,
}

impl Certificate {
    /// Reads the files.
    pub(crate) fn load(files: TlsFiles) -> Result<Self, TlsError> {
        let seen = read(&files)?;
        let pair = parse(&files, &seen)?;
        let current = Arc::new(Current(ArcSwap::from_pointee(pair)));
        // The provider is named, so that no other can be picked; its defaults are TLS 1.2 and 1.3.
        let config = rustls::ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| TlsError::Cert(files.cert.display().to_string(), error.to_string()))?
            .with_no_client_auth()
            .with_cert_resolver(current.clone());
        Ok(Self {
            files,
            seen,
            current,
            config: Arc::new(config),
        })
    }

    /// For handshakes; always with the newest pair.
    pub(crate) fn config(&self) -> Arc<rustls::ServerConfig> {
        self.config.clone()
    }

    /// Looks at the files again and again. Never ends before the shutdown.
    pub(crate) async fn watch(mut self, metrics: IngressMetrics, shutdown: Shutdown) {
        let mut found = None;
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = shutdown.started() => return,
            }
            let files = self.files.clone();
            let now = tokio::task::spawn_blocking(move || read(&files)).await;
            let Ok(now) = now.unwrap_or_else(|error| Err(TlsError::Cert("".into(), error.to_string())))
            else {
                // In the middle of a swap a file may be missing; one that stays missing changes nothing.
                continue;
            };
            if now == self.seen {
                found = None;
            } else if found.as_ref() == Some(&now) {
                // The same twice: nobody is in the middle of writing.
                self.take(now, &metrics);
                found = None;
            } else {
                found = Some(now);
            }
        }
    }

    /// Takes a new pair if it can be used.
    fn take(&mut self, now: Contents, metrics: &IngressMetrics) -> bool {
        let pair = parse(&self.files, &now);
        self.seen = now;
        match pair {
            Ok(pair) => {
                self.current.0.store(Arc::new(pair));
                metrics.certificate("reloaded");
                tracing::info!(cert = %self.files.cert.display(), "The certificate was read again.");
                true
            }
            Err(error) => {
                metrics.certificate("failed");
                tracing::error!(%error, "The new certificate cannot be used; the old one stays in use.");
                false
            }
        }
    }
}

fn read(files: &TlsFiles) -> Result<Contents, TlsError> {
    let shown = |path: &Path, error: &io::Error| (path.display().to_string(), error.to_string());
    Ok(Contents {
        cert: read_file(&files.cert).map_err(|error| {
            let (path, why) = shown(&files.cert, &error);
            TlsError::Cert(path, why)
        })?,
        key: read_file(&files.key).map_err(|error| {
            let (path, why) = shown(&files.key, &error);
            TlsError::Key(path, why)
        })?,
    })
}

fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    if std::fs::metadata(path)?.len() > MAX_FILE {
        return Err(io::Error::other("it is larger than 1 MiB"));
    }
    std::fs::read(path)
}

fn parse(files: &TlsFiles, contents: &Contents) -> Result<CertifiedKey, TlsError> {
    let bad_cert = |why: String| TlsError::Cert(files.cert.display().to_string(), why);
    let bad_key = |why: String| TlsError::Key(files.key.display().to_string(), why);
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&contents.cert)
        .collect::<Result<_, _>>()
        .map_err(|error| bad_cert(error.to_string()))?;
    if chain.is_empty() {
        return Err(bad_cert("it holds no certificate in PEM".to_owned()));
    }
    let key = PrivateKeyDer::from_pem_slice(&contents.key)
        .map_err(|error| bad_key(format!("it holds no private key in PEM ({error})")))?;
    CertifiedKey::from_der(chain, key, &ring::default_provider()).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => TlsError::Mismatch(
            files.key.display().to_string(),
            format!("it is not the key of the certificate in {}", files.cert.display()),
        ),
        error => bad_key(error.to_string()),
    })
}

/// Protocol and cipher as AsyncOS, which is built on OpenSSL, logs them: `TLSv1.2`, `ECDHE-RSA-AES256-GCM-SHA384`.
pub(crate) fn describe(tls: &rustls::ServerConnection) -> (String, String) {
    let protocol = tls
        .protocol_version()
        .map(|version| format!("{version:?}").replace('_', "."));
    let cipher = tls
        .negotiated_cipher_suite()
        .map(|suite| openssl_name(&format!("{:?}", suite.suite())));
    (protocol.unwrap_or_default(), cipher.unwrap_or_default())
}

/// `TLS13_AES_256_GCM_SHA384` is `TLS_AES_256_GCM_SHA384` there, and `TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384` is
/// `ECDHE-RSA-AES256-GCM-SHA384`.
fn openssl_name(suite: &str) -> String {
    if let Some(rest) = suite.strip_prefix("TLS13_") {
        return format!("TLS_{rest}");
    }
    let name = suite.strip_prefix("TLS_").unwrap_or(suite).replace("_WITH_", "_");
    let name = name.replace("AES_", "AES").replace('_', "-");
    name.strip_suffix("-SHA256")
        .filter(|name| name.ends_with("POLY1305"))
        .map_or_else(|| name.clone(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use tdc_telemetry::Metrics;

    use super::*;

    fn pair(name: &str) -> (String, String) {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    fn write(dir: &Path, cert: &str, key: &str) -> TlsFiles {
        let files = TlsFiles {
            cert: dir.join("tls.crt"),
            key: dir.join("tls.key"),
        };
        std::fs::write(&files.cert, cert).unwrap();
        std::fs::write(&files.key, key).unwrap();
        files
    }

    #[test]
    fn a_bad_pair_never_takes_the_place_of_a_good_one() {
        let dir = tempfile::tempdir().unwrap();
        let ((cert, key), (other_cert, other_key)) = (pair("one.example"), pair("two.example"));
        let files = write(dir.path(), &cert, &key);
        let mut certificate = Certificate::load(files.clone()).unwrap();
        let metrics = IngressMetrics::new(&Metrics::new("test"));
        let first = certificate.current.0.load_full();
        let bad = [
            (
                other_cert.as_str(),
                key.as_str(),
                "is not the key of the certificate",
            ),
            ("", key.as_str(), "holds no certificate"),
            (cert.as_str(), "", "holds no private key"),
            (&cert[..cert.len() / 2], key.as_str(), "--tls-cert"),
            (cert.as_str(), &key[..key.len() / 2], "--tls-key"),
        ];
        for (cert, key, why) in bad {
            write(dir.path(), cert, key);
            let contents = read(&files).unwrap();
            let error = parse(&files, &contents).unwrap_err().to_string();
            assert!(error.contains(why), "{why}: {error}");
            assert!(!certificate.take(contents, &metrics), "{why}");
            assert!(Arc::ptr_eq(&first, &certificate.current.0.load_full()), "{why}");
        }
        write(dir.path(), &other_cert, &other_key);
        assert!(certificate.take(read(&files).unwrap(), &metrics));
        assert_ne!(first.cert, certificate.current.0.load_full().cert);
    }

    #[test]
    fn missing_files_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let (cert, key) = pair("one.example");
        let files = write(dir.path(), &cert, &key);
        std::fs::remove_file(&files.key).unwrap();
        let error = Certificate::load(files).err().unwrap().to_string();
        assert!(
            error.starts_with("--tls-key ") && error.contains("tls.key"),
            "{error}"
        );
    }

    #[test]
    fn ciphers_are_called_as_in_openssl() {
        for (suite, name) in [
            ("TLS13_AES_256_GCM_SHA384", "TLS_AES_256_GCM_SHA384"),
            ("TLS13_CHACHA20_POLY1305_SHA256", "TLS_CHACHA20_POLY1305_SHA256"),
            (
                "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
                "ECDHE-RSA-AES256-GCM-SHA384",
            ),
            (
                "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
                "ECDHE-ECDSA-AES128-GCM-SHA256",
            ),
            (
                "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
                "ECDHE-RSA-CHACHA20-POLY1305",
            ),
        ] {
            assert_eq!(openssl_name(suite), name);
        }
    }
}
