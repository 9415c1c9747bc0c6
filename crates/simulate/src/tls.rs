//! The certificate of a simulator: read from a folder, or made on the spot.
//!
//! A folder holds [`CA_FILE`], [`CERT_FILE`] and [`KEY_FILE`], and certificates of the same CA and key that should not
//! verify ([`bad_file`]), for scripts. What always holds: files that are there are used and
//! never changed; what is made is made completely, the key readable by its owner only, or not at all. The key of the
//! made CA is thrown away at once, so that it can never sign anything else.

use std::collections::HashMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use crate::script::{BadCertificate, OnlyVersion, TlsFault};

/// The CA that clients should trust.
pub const CA_FILE: &str = "ca.pem";
/// The server's certificate, followed by intermediates if there are any.
pub const CERT_FILE: &str = "cert.pem";
/// The server's private key; made with mode 0600.
pub const KEY_FILE: &str = "key.pem";

/// The name of a made CA.
const CA_NAME: &str = "TDC simulator throw-away CA";
/// The host name in the certificate for another host.
const WRONG_NAME: &str = "wrong-name.invalid";
/// How long a made certificate is valid: long enough that a staging set-up never stops over it.
const VALIDITY: Duration = Duration::from_secs(10 * 365 * 86_400);
/// It begins a day early: clocks of client and server differ.
const BACKDATE: Duration = Duration::from_secs(86_400);
/// The CA, and the certificate that has ended, began this long ago.
const LONG_AGO: Duration = Duration::from_secs(30 * 86_400);

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
    bad: HashMap<BadCertificate, String>,
    names: Vec<String>,
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
    /// A script wants a certificate that the folder does not have.
    #[error(
        "the script wants the certificate {0}, which the folder does not have: add it, or empty the folder to get new ones"
    )]
    NoBadCertificate(String),
    /// A script is about TLS, and the server has none.
    #[error(
        "the rule \"{0}\" of the script is about TLS, and this server has no certificate: give it a folder for one"
    )]
    NoCertificate(String),
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
            return make(&self.names, CA_NAME);
        };
        let read = |name: &str| read_if_there(&dir.join(name));
        match (read(CERT_FILE)?, read(KEY_FILE)?) {
            (Some(cert), Some(key)) => {
                let mut bad = HashMap::new();
                for kind in SIGNED {
                    if let Some(cert) = read(&bad_file(kind))? {
                        bad.insert(kind, cert);
                    }
                }
                Ok(TlsFiles {
                    ca: read(CA_FILE)?,
                    cert,
                    key,
                    bad,
                    names: self.names.clone(),
                })
            }
            (None, None) => {
                let files = make(&self.names, CA_NAME)?;
                files.write(dir)?;
                Ok(files)
            }
            _ => Err(TlsError::Incomplete(dir.clone())),
        }
    }
}

/// The bad certificates that the good one's CA signs.
const SIGNED: [BadCertificate; 3] = [
    BadCertificate::Expired,
    BadCertificate::NotYetValid,
    BadCertificate::WrongName,
];

/// The file of a bad certificate; its key is [`KEY_FILE`].
#[must_use]
pub fn bad_file(kind: BadCertificate) -> String {
    let kind = match kind {
        BadCertificate::Expired => "expired",
        BadCertificate::NotYetValid => "not-yet-valid",
        BadCertificate::WrongName => "wrong-name",
        BadCertificate::UnknownCa => "unknown-ca",
    };
    format!("cert-{kind}.pem")
}

/// What performs handshakes: as they should be, and as scripts want them.
pub(crate) struct Acceptors {
    pub(crate) good: TlsAcceptor,
    files: TlsFiles,
    made: Mutex<HashMap<TlsFault, TlsAcceptor>>,
}

impl Acceptors {
    pub(crate) fn new(files: TlsFiles) -> Result<Self, TlsError> {
        Ok(Self {
            good: files.server_config()?.into(),
            files,
            made: Mutex::default(),
        })
    }

    /// For one fault; made once.
    pub(crate) fn acceptor(&self, fault: TlsFault) -> Result<TlsAcceptor, TlsError> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(acceptor) = made.get(&fault) {
            return Ok(acceptor.clone());
        }
        let files = match fault.certificate {
            None => self.files.clone(),
            Some(BadCertificate::UnknownCa) => make(&self.files.names, "TDC simulator unknown CA")?,
            Some(kind) => {
                let cert = self.files.bad.get(&kind);
                TlsFiles {
                    cert: cert
                        .ok_or_else(|| TlsError::NoBadCertificate(bad_file(kind)))?
                        .clone(),
                    ..self.files.clone()
                }
            }
        };
        let versions: &[_] = match fault.version {
            None => &[&rustls::version::TLS13, &rustls::version::TLS12],
            Some(OnlyVersion::V1_3) => &[&rustls::version::TLS13],
            // What speaks 1.1 is not made of rustls.
            Some(OnlyVersion::V1_2 | OnlyVersion::V1_1) => &[&rustls::version::TLS12],
        };
        let acceptor = TlsAcceptor::from(files.config(versions)?);
        made.insert(fault, acceptor.clone());
        Ok(acceptor)
    }
}

impl TlsFiles {
    /// A server that speaks TLS 1.2 and 1.3 with this certificate and asks clients for none.
    ///
    /// # Errors
    /// When the texts are not PEM, or certificate and key do not belong together.
    pub fn server_config(&self) -> Result<Arc<ServerConfig>, TlsError> {
        self.config(&[&rustls::version::TLS13, &rustls::version::TLS12])
    }

    fn config(
        &self,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> Result<Arc<ServerConfig>, TlsError> {
        let pem = |what| move |source| TlsError::Pem { what, source };
        let chain = CertificateDer::pem_slice_iter(self.cert.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(pem(CERT_FILE))?;
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).map_err(pem(KEY_FILE))?;
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(versions)?
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
        let bad = self
            .bad
            .iter()
            .map(|(kind, cert)| (bad_file(*kind), cert.as_str(), 0o644));
        let good = [
            (KEY_FILE, self.key.as_str(), 0o600),
            (CA_FILE, ca, 0o644),
            (CERT_FILE, self.cert.as_str(), 0o644),
        ];
        let good = good.map(|(name, text, mode)| (name.to_owned(), text, mode));
        for (name, text, mode) in bad.chain(good) {
            let path = dir.join(&name);
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

/// A CA, and certificates signed by it: one for this machine and the names given, and those that should not verify.
fn make(names: &[String], ca_name: &str) -> Result<TlsFiles, TlsError> {
    let now = SystemTime::now();
    let mut ca = CertificateParams::new(Vec::new())?;
    ca.not_before = (now - LONG_AGO).into();
    ca.not_after = (now + VALIDITY).into();
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    ca.distinguished_name.push(DnType::CommonName, ca_name);
    let ca_key = KeyPair::generate()?;
    let ca_cert = ca.self_signed(&ca_key)?;
    let issuer = Issuer::new(ca, ca_key);

    let mut all = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    all.extend(machine_name());
    all.extend(names.iter().cloned());
    all.sort();
    all.dedup();
    let key = KeyPair::generate()?;
    let sign = |names: &[String], begin: SystemTime, end: SystemTime| {
        let mut server = CertificateParams::new(names.to_vec())?;
        server.not_before = begin.into();
        server.not_after = end.into();
        server.use_authority_key_identifier_extension = true;
        server.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        server
            .distinguished_name
            .push(DnType::CommonName, "TDC simulator");
        Ok::<_, TlsError>(server.signed_by(&key, &issuer)?.pem())
    };
    let good = (now - BACKDATE, now + VALIDITY);
    let bad = SIGNED.map(|kind| {
        let cert = match kind {
            BadCertificate::Expired => sign(&all, now - LONG_AGO, now - BACKDATE),
            BadCertificate::NotYetValid => sign(&all, now + BACKDATE, now + VALIDITY),
            BadCertificate::WrongName | BadCertificate::UnknownCa => {
                sign(&[WRONG_NAME.to_owned()], good.0, good.1)
            }
        };
        Ok::<_, TlsError>((kind, cert?))
    });
    Ok(TlsFiles {
        ca: Some(ca_cert.pem()),
        cert: sign(&all, good.0, good.1)?,
        bad: bad.into_iter().collect::<Result<_, _>>()?,
        names: names.to_vec(),
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
        let mut want: Vec<_> = SIGNED.map(bad_file).to_vec();
        want.extend([CA_FILE, CERT_FILE, KEY_FILE].map(str::to_owned));
        want.sort();
        let names: Vec<_> = names
            .iter()
            .map(|name| name.to_string_lossy().into_owned())
            .collect();
        assert_eq!(names, want, "nothing else is left");
        assert_eq!(made.bad, read.bad);
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
