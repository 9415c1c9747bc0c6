//! The settings of both servers as plain structs: the command line fills them, tests write them out.
//!
//! Every field does something; the defaults are those of the command line, with a port chosen by the system.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use tdc_smtp::{BareLf, Extensions};

use crate::refuse::Rejection;
use crate::script::Script;
use crate::tls::TlsSource;

/// The message limit that both servers announce (`SIZE`), in octets: what Exchange Online accepts at most.
pub const DEFAULT_MAX_MESSAGE: u64 = 150 * 1024 * 1024;

/// Which of the two servers to run.
#[derive(Clone, Debug)]
pub enum SimulateConfig {
    /// The mailbox server behind the connector: takes everything.
    Mailbox(MailboxConfig),
    /// The Message Intake Address: wants TLS, and checks each copy.
    Intake(IntakeConfig),
}

impl From<MailboxConfig> for SimulateConfig {
    fn from(config: MailboxConfig) -> Self {
        Self::Mailbox(config)
    }
}

impl From<IntakeConfig> for SimulateConfig {
    fn from(config: IntakeConfig) -> Self {
        Self::Intake(config)
    }
}

/// What both servers have in common.
#[derive(Clone, Debug)]
pub struct Common {
    /// Where to listen; port 0 lets the system choose ([`crate::Server::local_addr`] tells).
    pub listen: SocketAddr,
    /// The name in the greeting and the EHLO reply.
    pub hostname: String,
    /// Folder that keeps each message as `<n>.eml` and `<n>.json`; created when missing. None: only counted.
    pub store: Option<PathBuf>,
    /// File that holds the report as JSON, written at most twice a second and at the end.
    pub report: Option<PathBuf>,
    /// Pause before the reply to the end of data: a slow server.
    pub latency: Duration,
    /// Connections beyond this many are answered 421 and closed.
    pub max_connections: usize,
    /// How long a client may be silent before the connection is closed (RFC 5321 section 4.5.3.2.7: 5 minutes).
    pub idle_timeout: Duration,
    /// How long running transactions may take to finish once the shutdown began.
    pub grace: Duration,
    /// What happens to a message with a bare LF: normalised as most servers do, or refused so that it is noticed.
    pub bare_lf: BareLf,
    /// Rules that turn clients away, asked in this order.
    pub rejections: Vec<Rejection>,
    /// Faults by stage and odds, asked before the rejections. A script that was read from a file is read again when
    /// the file changes.
    pub script: Option<Script>,
}

impl Default for Common {
    fn default() -> Self {
        Self {
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0),
            hostname: "localhost".to_owned(),
            store: None,
            report: None,
            latency: Duration::ZERO,
            max_connections: 2000,
            idle_timeout: Duration::from_secs(300),
            grace: Duration::from_secs(10),
            bare_lf: BareLf::Normalize,
            rejections: Vec::new(),
            script: None,
        }
    }
}

/// The mailbox server.
#[derive(Clone, Debug)]
pub struct MailboxConfig {
    /// What both servers have in common.
    pub common: Common,
    /// What EHLO announces; [`set_keyword`] turns single ones on and off. `starttls` follows from [`Self::tls`].
    pub extensions: Extensions,
    /// STARTTLS with this certificate; None: not offered.
    pub tls: Option<TlsSource>,
}

impl Default for MailboxConfig {
    fn default() -> Self {
        Self {
            common: Common::default(),
            extensions: all_extensions(),
            tls: None,
        }
    }
}

/// The Message Intake Address.
#[derive(Clone, Debug)]
pub struct IntakeConfig {
    /// What both servers have in common.
    pub common: Common,
    /// What EHLO announces; `starttls` is always on.
    pub extensions: Extensions,
    /// The certificate for STARTTLS (TLS 1.2 or newer).
    pub tls: TlsSource,
    /// `530 5.7.0` to every transaction before STARTTLS, as the real service does.
    pub require_tls: bool,
}

impl Default for IntakeConfig {
    fn default() -> Self {
        Self {
            common: Common::default(),
            extensions: all_extensions(),
            tls: TlsSource::default(),
            require_tls: true,
        }
    }
}

/// An EHLO keyword that the servers cannot turn on or off.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown EHLO keyword `{0}`: use one of PIPELINING, SIZE, 8BITMIME, ENHANCEDSTATUSCODES, CHUNKING, SMTPUTF8, DSN, REQUIRETLS, XFORWARD"
)]
pub struct UnknownKeyword(pub String);

/// Turns one EHLO keyword on or off (any case). `SIZE` on means [`DEFAULT_MAX_MESSAGE`]; off means that the limit is
/// neither announced nor enforced beyond that same default, which keeps memory bounded.
///
/// # Errors
/// When the keyword is not one of those that the servers know.
pub fn set_keyword(extensions: &mut Extensions, keyword: &str, on: bool) -> Result<(), UnknownKeyword> {
    match keyword.to_ascii_uppercase().as_str() {
        "PIPELINING" => extensions.pipelining = on,
        "SIZE" => extensions.size = on.then_some(DEFAULT_MAX_MESSAGE),
        "8BITMIME" => extensions.eight_bit_mime = on,
        "ENHANCEDSTATUSCODES" => extensions.enhanced_status_codes = on,
        "CHUNKING" => extensions.chunking = on,
        "SMTPUTF8" => extensions.smtputf8 = on,
        "DSN" => extensions.dsn = on,
        "REQUIRETLS" => extensions.requiretls = on,
        "XFORWARD" => extensions.xforward = if on { xforward_names() } else { Vec::new() },
        _ => return Err(UnknownKeyword(keyword.chars().take(64).collect())),
    }
    Ok(())
}

/// The same for a script, which may also offer `SIZE` with a limit of its own, and offer or withdraw `STARTTLS`.
pub(crate) fn offer_keyword(
    extensions: &mut Extensions,
    keyword: &str,
    on: bool,
) -> Result<(), UnknownKeyword> {
    let unknown = || UnknownKeyword(keyword.chars().take(64).collect());
    match keyword.split_once(' ') {
        Some((size, limit)) if on && size.eq_ignore_ascii_case("SIZE") => {
            extensions.size = Some(limit.trim().parse().map_err(|_| unknown())?);
        }
        Some(_) => return Err(unknown()),
        None if keyword.eq_ignore_ascii_case("STARTTLS") => extensions.starttls = on,
        None => set_keyword(extensions, keyword, on)?,
    }
    Ok(())
}

/// Everything that the servers can do, without STARTTLS (that needs a certificate) and REQUIRETLS (that needs TLS).
#[must_use]
pub fn all_extensions() -> Extensions {
    Extensions {
        pipelining: true,
        size: Some(DEFAULT_MAX_MESSAGE),
        eight_bit_mime: true,
        enhanced_status_codes: true,
        chunking: true,
        smtputf8: true,
        dsn: true,
        xforward: xforward_names(),
        ..Extensions::default()
    }
}

/// The attributes that Postfix documents for XFORWARD (XFORWARD_README).
fn xforward_names() -> Vec<String> {
    ["NAME", "ADDR", "PORT", "PROTO", "HELO", "IDENT", "SOURCE"]
        .map(str::to_owned)
        .to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keywords_switch_one_extension_each() {
        type IsOn = fn(&Extensions) -> bool;
        let rows: &[(&str, IsOn)] = &[
            ("pipelining", |e| e.pipelining),
            ("SIZE", |e| e.size.is_some()),
            ("8BitMime", |e| e.eight_bit_mime),
            ("ENHANCEDSTATUSCODES", |e| e.enhanced_status_codes),
            ("CHUNKING", |e| e.chunking),
            ("SMTPUTF8", |e| e.smtputf8),
            ("DSN", |e| e.dsn),
            ("REQUIRETLS", |e| e.requiretls),
            ("XFORWARD", |e| !e.xforward.is_empty()),
        ];
        for (keyword, is_on) in rows {
            for on in [false, true, false] {
                let mut extensions = all_extensions();
                set_keyword(&mut extensions, keyword, on).unwrap();
                assert_eq!(is_on(&extensions), on, "{keyword} {on}");
            }
        }
        assert_eq!(
            set_keyword(&mut all_extensions(), "STARTTLS", true),
            Err(UnknownKeyword("STARTTLS".to_owned())),
            "STARTTLS follows from the certificate, not from a keyword"
        );
    }
}
