//! The certificate of a simulator: read from a folder, or made on the spot.
//!
//! A folder holds [`CA_FILE`], [`CERT_FILE`] and [`KEY_FILE`]. What always holds: files that are there are used and
//! never changed; what is made is made completely, the key readable by its owner only, or not at all. The key of the
//! made CA is thrown away at once, so that it can never sign anything else.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// The CA that clients should trust.
pub const CA_FILE: &str = "ca.pem";
/// The server's certificate, followed by intermediates if there are any.
pub const CERT_FILE: &str = "cert.pem";
/// The server's private key; made with mode 0600.
pub const KEY_FILE: &str = "key.pem";

/// How long a made certificate is valid: long enough that a staging set-up never stops over it.
const VALIDITY: Duration = Duration::from_secs(10 * 365 * 86_400);
/// It begins a day early: clocks of client and server differ.
const BACKDATE: Duration = Duration::from_secs(86_400);

/// Where the certificate comes from.
#[derive(Clone, Debug, Default)]
pub struct TlsSource {
    /// The folder; made, and filled, when it is missing or empty. None: a certificate that lives in memory only.
    pub dir: Option<PathBuf>,
    /// DNS names and addresses that a made certificate holds besides `localhost`, `127.0.0.1`, `::1` and the
    /// machine's host name. A certificate that is read stays as it is.
    pub names: Vec<String>,
}

/// A certificate as PEM texts.
#[derive(Clone)]
pub struct TlsFiles {
    /// The CA that signed it; None when the folder has none.
    pub ca: Option<String>,
    /// The chain, the server's own certificate first.
    pub cert: String,
    key: String,
}

impl std::fmt::Debug for TlsFiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsFiles")
            .field("ca", &self.ca)
            .field("cert", &self.cert)
            .finish_non_exhaustive()
    }
}

/// Why there is no usable certificate.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The folder or a file in it cannot be read or written.
    #[error("cannot {action} {path}: {source}", path = path.display())]
    File {
        /// What was tried, as a verb.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// One of the two files that belong together is missing.
    #[error(
        "{dir} holds only one of {CERT_FILE} and {KEY_FILE}: add the other, or empty the folder to get new ones",
        dir = .0.display()
    )]
    Incomplete(PathBuf),
    /// Not PEM, or not what it should be.
    #[error("cannot use {what}: {source}")]
    Pem {
        /// Which text.
        what: &'static str,
        /// What is wrong with it.
        #[source]
        source: rustls_pki_types::pem::Error,
    },
    /// `rustls` does not take the certificate with its key.
    #[error("cannot use the certificate with its key: {0}")]
    Rejected(#[from] rustls::Error),
    /// The certificate could not be made.
    #[error("cannot make a certificate for the names given: {0}")]
    Made(#[from] rcgen::Error),
}

impl TlsSource {
    /// Reads the certificate, or makes it. Two servers that share a folder should not start into it empty at the
    /// same moment.
    ///
    /// # Errors
    /// When files cannot be read or written, or do not hold what they should; when a name is not a DNS name.
    pub fn load(&self) -> Result<TlsFiles, TlsError> {
        let Some(dir) = &self.dir else {
            return make(&self.names);
        };
        let read = |name| read_if_there(&dir.join(name));
        match (read(CERT_FILE)?, read(KEY_FILE)?) {
            (Some(cert), Some(key)) => Ok(TlsFiles {
                ca: read(CA_FILE)?,
                cert,
                key,
            }),
            (None, None) => {
                let files = make(&self.names)?;
                files.write(dir)?;
                Ok(files)
            }
            _ => Err(TlsError::Incomplete(dir.clone())),
        }
    }
}

impl TlsFiles {
    /// A server that speaks TLS 1.2 and 1.3 with this certificate and asks clients for none.
    ///
    /// # Errors
    /// When the texts are not PEM, or certificate and key do not belong together.
    pub fn server_config(&self) -> Result<Arc<ServerConfig>, TlsError> {
        let pem = |what| move |source| TlsError::Pem { what, source };
        let chain = CertificateDer::pem_slice_iter(self.cert.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(pem(CERT_FILE))?;
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).map_err(pem(KEY_FILE))?;
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        Ok(Arc::new(config))
    }

    /// The key first and the certificate last: a folder that looks complete is.
    fn write(&self, dir: &Path) -> Result<(), TlsError> {
        let fault = |action, path: &Path| {
            let path = path.to_owned();
            move |source| TlsError::File { action, path, source }
        };
        fs::create_dir_all(dir).map_err(fault("create", dir))?;
        let ca = self.ca.as_deref().unwrap_or_default();
        for (name, text, mode) in [
            (KEY_FILE, self.key.as_str(), 0o600),
            (CA_FILE, ca, 0o644),
            (CERT_FILE, self.cert.as_str(), 0o644),
        ] {
            let path = dir.join(name);
            let part = dir.join(format!(".{name}.part"));
            write_new(&part, text, mode)
                .and_then(|()| fs::rename(&part, &path))
                .map_err(fault("write", &path))?;
        }
        Ok(())
    }
}

fn write_new(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    // A rest of an earlier start that was interrupted; its mode may be another.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)?
        .write_all(text.as_bytes())
}

fn read_if_there(path: &Path) -> Result<Option<String>, TlsError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(TlsError::File {
            action: "read",
            path: path.to_owned(),
            source,
        }),
    }
}

/// A CA, and a certificate signed by it for this machine and the names given.
fn make(names: &[String]) -> Result<TlsFiles, TlsError> {
    let now = SystemTime::now();
    let validity = |params: &mut CertificateParams| {
        params.not_before = (now - BACKDATE).into();
        params.not_after = (now + VALIDITY).into();
    };

    let mut ca = CertificateParams::new(Vec::new())?;
    validity(&mut ca);
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    ca.distinguished_name
        .push(DnType::CommonName, "TDC simulator throw-away CA");
    let ca_key = KeyPair::generate()?;
    let ca_cert = ca.self_signed(&ca_key)?;
    let issuer = Issuer::new(ca, ca_key);

    let mut all = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    all.extend(machine_name());
    all.extend(names.iter().cloned());
    all.sort();
    all.dedup();
    let mut server = CertificateParams::new(all)?;
    validity(&mut server);
    server.use_authority_key_identifier_extension = true;
    server.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    server
        .distinguished_name
        .push(DnType::CommonName, "TDC simulator");
    let key = KeyPair::generate()?;
    let cert = server.signed_by(&key, &issuer)?;
    Ok(TlsFiles {
        ca: Some(ca_cert.pem()),
        cert: cert.pem(),
        key: key.serialize_pem(),
    })
}

/// The host name, when it is one that a certificate can hold.
fn machine_name() -> Option<String> {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    let name = name.trim();
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
    };
    (name.len() <= 253 && name.split('.').all(label)).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use rustls::client::WebPkiServerVerifier;
    use rustls::client::danger::ServerCertVerifier as _;
    use rustls_pki_types::{ServerName, UnixTime};

    use super::*;

    fn verifies(files: &TlsFiles, ca: &str, name: &str) -> bool {
        let mut roots = rustls::RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(ca.as_bytes()).unwrap())
            .unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(roots.into(), provider)
            .build()
            .unwrap();
        let cert = CertificateDer::from_pem_slice(files.cert.as_bytes()).unwrap();
        let name = ServerName::try_from(name).unwrap();
        verifier
            .verify_server_cert(&cert, &[], &name, &[], UnixTime::now())
            .is_ok()
    }

    #[test]
    fn a_made_certificate_verifies_with_its_own_ca_and_its_names_only() {
        let source = TlsSource {
            dir: None,
            names: vec!["mx.intake.example".to_owned(), "10.1.2.3".to_owned()],
        };
        let files = source.load().unwrap();
        let ca = files.ca.clone().unwrap();
        for name in ["localhost", "127.0.0.1", "::1", "mx.intake.example", "10.1.2.3"] {
            assert!(verifies(&files, &ca, name), "{name}");
        }
        for name in ["intake.example", "127.0.0.2", "sub.mx.intake.example"] {
            assert!(!verifies(&files, &ca, name), "{name}");
        }
        let other = source.load().unwrap().ca.unwrap();
        assert!(
            !verifies(&files, &other, "localhost"),
            "another CA must not vouch for it"
        );
        files.server_config().unwrap();
    }

    #[test]
    fn a_folder_is_filled_once_and_then_read() {
        let dir = tempfile::tempdir().unwrap();
        let source = TlsSource {
            dir: Some(dir.path().join("new/tls")),
            names: Vec::new(),
        };
        let made = source.load().unwrap();
        let read = source.load().unwrap();
        assert_eq!(made.cert, read.cert);
        assert_eq!(made.ca, read.ca);
        let tls = dir.path().join("new/tls");
        let mode = |name: &str| fs::metadata(tls.join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(KEY_FILE), 0o600);
        let mut names: Vec<_> = fs::read_dir(&tls)
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        names.sort();
        assert_eq!(names, [CA_FILE, CERT_FILE, KEY_FILE], "nothing else is left");
    }

    #[test]
    fn unusable_folders_say_why() {
        let dir = tempfile::tempdir().unwrap();
        let source = TlsSource {
            dir: Some(dir.path().to_owned()),
            names: Vec::new(),
        };
        fs::write(dir.path().join(CERT_FILE), "nonsense").unwrap();
        assert!(matches!(source.load(), Err(TlsError::Incomplete(_))));
        fs::write(dir.path().join(KEY_FILE), "nonsense").unwrap();
        let files = source.load().unwrap();
        assert!(matches!(
            files.server_config(),
            Err(TlsError::Pem { what: KEY_FILE, .. })
        ));
        let bad = TlsSource {
            dir: None,
            names: vec!["n\u{f6}t ascii".to_owned()],
        };
        assert!(matches!(bad.load(), Err(TlsError::Made(_))));
    }
}
