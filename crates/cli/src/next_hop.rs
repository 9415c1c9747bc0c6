//! The flags about the next hop, and what they become.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use tdc_ingress::{Deadlines, HostPort, NextHopConfig, NextHopTls};

use crate::args::duration;
use crate::error::CliError;

/// What is asked of TLS towards the next hop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum NextHopTlsArg {
    /// No TLS
    Off,
    /// STARTTLS where it is offered, whatever the certificate; else in the clear
    Opportunistic,
    /// STARTTLS with a valid certificate, or no mail
    Verify,
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Next hop")]
pub(crate) struct NextHopArgs {
    /// The mailbox servers to which all mail goes, the preferred one first; to be repeated, or separated by commas
    #[arg(
        long = "next-hop",
        env = "TDC_NEXT_HOP",
        value_name = "HOST:PORT",
        value_delimiter = ',',
        required = true
    )]
    pub(crate) hosts: Vec<HostPort>,
    /// TLS to them
    #[arg(
        long = "next-hop-tls",
        env = "TDC_NEXT_HOP_TLS",
        value_enum,
        default_value = "off"
    )]
    pub(crate) tls: NextHopTlsArg,
    /// Authorities to trust, in PEM; the default is the system's
    #[arg(long = "next-hop-ca", env = "TDC_NEXT_HOP_CA", value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// The name that the certificate must carry; the default is the host's
    #[arg(
        long = "next-hop-server-name",
        env = "TDC_NEXT_HOP_SERVER_NAME",
        value_name = "NAME"
    )]
    pub(crate) server_name: Option<String>,
    /// How long a look-up, a connection to one address, or a TLS handshake may take
    #[arg(long = "next-hop-connect-timeout", env = "TDC_NEXT_HOP_CONNECT_TIMEOUT", default_value = "10s", value_parser = duration, value_name = "TIME")]
    pub(crate) connect_timeout: Duration,
    /// How long the greeting and the answers to EHLO and STARTTLS may take
    #[arg(long = "next-hop-greeting-timeout", env = "TDC_NEXT_HOP_GREETING_TIMEOUT", default_value = "30s", value_parser = duration, value_name = "TIME")]
    pub(crate) greeting_timeout: Duration,
    /// How long the answer to a command may take
    #[arg(long = "next-hop-timeout", env = "TDC_NEXT_HOP_TIMEOUT", default_value = "100s", value_parser = duration, value_name = "TIME")]
    pub(crate) timeout: Duration,
    /// How long a block of a message may take to be written
    #[arg(long = "next-hop-data-timeout", env = "TDC_NEXT_HOP_DATA_TIMEOUT", default_value = "60s", value_parser = duration, value_name = "TIME")]
    pub(crate) data_timeout: Duration,
    /// How long the answer to the end of a message may take
    #[arg(long = "next-hop-dot-timeout", env = "TDC_NEXT_HOP_DOT_TIMEOUT", default_value = "100s", value_parser = duration, value_name = "TIME")]
    pub(crate) dot_timeout: Duration,
    /// How long an unused connection is kept; less than the next hop keeps it
    #[arg(long = "next-hop-max-idle", env = "TDC_NEXT_HOP_MAX_IDLE", default_value = "30s", value_parser = duration, value_name = "TIME")]
    pub(crate) max_idle: Duration,
    /// How long a connection is used at all
    #[arg(long = "next-hop-max-age", env = "TDC_NEXT_HOP_MAX_AGE", default_value = "5m", value_parser = duration, value_name = "TIME")]
    pub(crate) max_age: Duration,
    /// How many unused connections are kept for each host
    #[arg(
        long = "next-hop-keep",
        env = "TDC_NEXT_HOP_KEEP",
        default_value_t = 100,
        value_name = "N"
    )]
    pub(crate) keep: usize,
    /// How often each host is asked what it offers, and whether it is there
    #[arg(long = "next-hop-refresh", env = "TDC_NEXT_HOP_REFRESH", default_value = "1m", value_parser = duration, value_name = "TIME")]
    pub(crate) refresh: Duration,
}

impl NextHopArgs {
    /// The configuration that they say.
    pub(crate) fn config(&self, hostname: &str) -> Result<NextHopConfig, CliError> {
        Ok(NextHopConfig {
            hosts: self.hosts.clone(),
            helo: hostname.to_owned(),
            tls: self.tls()?,
            deadlines: Deadlines {
                connect: self.connect_timeout,
                greeting: self.greeting_timeout,
                command: self.timeout,
                block: self.data_timeout,
                dot: self.dot_timeout,
            },
            max_idle: self.max_idle,
            max_age: self.max_age,
            keep: self.keep,
            refresh: self.refresh,
        })
    }

    /// The hosts as they were given.
    pub(crate) fn names(&self) -> String {
        let names: Vec<String> = self.hosts.iter().map(ToString::to_string).collect();
        names.join(",")
    }

    fn tls(&self) -> Result<NextHopTls, CliError> {
        let unused = |flag: &str| {
            CliError::text(format!(
                "{flag} has no meaning without --next-hop-tls verify; add that, or leave it out"
            ))
        };
        match self.tls {
            NextHopTlsArg::Verify => {}
            _ if self.ca.is_some() => return Err(unused("--next-hop-ca")),
            _ if self.server_name.is_some() => return Err(unused("--next-hop-server-name")),
            NextHopTlsArg::Off => return Ok(NextHopTls::Off),
            NextHopTlsArg::Opportunistic => {
                return NextHopTls::opportunistic().map_err(|error| CliError::new("--next-hop-tls", error));
            }
        }
        let file = |error: &dyn std::fmt::Display| {
            let path = self.ca.as_deref().unwrap_or_else(|| "".as_ref());
            CliError::new(format!("--next-hop-ca {}", path.display()), error)
        };
        let ca = match &self.ca {
            Some(path) => Some(std::fs::read(path).map_err(|error| file(&error))?),
            None => None,
        };
        NextHopTls::verify(ca.as_deref(), self.server_name.as_deref()).map_err(|error| match error {
            tdc_ingress::NextHopTlsError::Bundle(_) => file(&error),
            other => CliError::new("--next-hop-tls verify", other),
        })
    }
}
