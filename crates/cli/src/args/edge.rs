//! Flags of whoever takes mail: `ingress`, `standalone`, and the commands that hold an ingress inside.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, FromArgMatches as _, ValueEnum};
use ipnet::IpNet;

use super::duration;
use crate::error::CliError;
use crate::next_hop::NextHopArgs;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum BareLfArg {
    /// A bare LF becomes CRLF
    Normalize,
    /// The message is refused with 550
    Reject,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum FailurePolicyArg {
    /// 451: the sender keeps the message and tries again
    Fail,
    /// The message goes on without a copy, which is counted and logged
    Ignore,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct EdgeArgs {
    /// Listens for SMTP here; several addresses are separated by commas
    #[arg(
        long,
        env = "TDC_LISTEN",
        default_value = "127.0.0.1:2525",
        value_delimiter = ',',
        value_name = "ADDR:PORT"
    )]
    pub(crate) listen: Vec<SocketAddr>,
    /// Listens for SMTP over TLS here (implicit TLS, port 465)
    #[arg(
        long,
        env = "TDC_LISTEN_TLS",
        requires = "tls_cert",
        value_delimiter = ',',
        value_name = "ADDR:PORT"
    )]
    pub(crate) listen_tls: Vec<SocketAddr>,
    /// Listens here for load balancers that put a PROXY header (v1 or v2) in front of each connection
    #[arg(
        long,
        env = "TDC_LISTEN_PROXY",
        requires = "proxy_from",
        value_delimiter = ',',
        value_name = "ADDR:PORT"
    )]
    pub(crate) listen_proxy: Vec<SocketAddr>,
    /// The same, with TLS behind the PROXY header
    #[arg(
        long,
        env = "TDC_LISTEN_PROXY_TLS",
        requires = "proxy_from",
        requires = "tls_cert",
        value_delimiter = ',',
        value_name = "ADDR:PORT"
    )]
    pub(crate) listen_proxy_tls: Vec<SocketAddr>,
    /// Networks of the load balancers whose PROXY header counts; others are refused there
    #[arg(long, env = "TDC_PROXY_FROM", value_delimiter = ',', value_name = "CIDR")]
    pub(crate) proxy_from: Vec<IpNet>,
    /// How long a PROXY header may take
    #[arg(long, env = "TDC_PROXY_TIMEOUT", default_value = "5s", value_parser = duration, value_name = "TIME")]
    pub(crate) proxy_timeout: Duration,
    /// Networks of the proxies that may name the client with XCLIENT and XFORWARD
    #[arg(long, env = "TDC_XCLIENT_FROM", value_delimiter = ',', value_name = "CIDR")]
    pub(crate) xclient_from: Vec<IpNet>,
    #[command(flatten)]
    pub(crate) next_hop: NextHopArgs,
    /// Networks that may send, separated by commas
    #[arg(
        long,
        env = "TDC_ALLOW_FROM",
        default_value = "0.0.0.0/0,::/0",
        value_delimiter = ',',
        value_name = "CIDR"
    )]
    pub(crate) allow_from: Vec<IpNet>,
    /// The largest message, in octets
    #[arg(long, env = "TDC_MAX_SIZE", default_value_t = 50 * 1024 * 1024, value_name = "OCTETS")]
    pub(crate) max_size: u64,
    /// The most recipients of one message
    #[arg(long, env = "TDC_MAX_RECIPIENTS", default_value_t = 1000, value_name = "N")]
    pub(crate) max_recipients: usize,
    /// The most client connections at a time
    #[arg(long, env = "TDC_MAX_CONNECTIONS", default_value_t = 2000, value_name = "N")]
    pub(crate) max_connections: usize,
    /// The most connections of one client network at a time
    #[arg(
        long,
        env = "TDC_MAX_CONNECTIONS_PER_NETWORK",
        default_value_t = 1000,
        value_name = "N"
    )]
    pub(crate) max_connections_per_network: usize,
    /// The most connections of one client network in a minute; 0 is no limit
    #[arg(long, env = "TDC_CONNECTION_RATE", default_value_t = 0, value_name = "N")]
    pub(crate) connection_rate: u32,
    /// Bits of an IPv4 address that make a client network
    #[arg(long, env = "TDC_NETWORK_PREFIX_V4", default_value_t = 32, value_name = "BITS",
        value_parser = clap::value_parser!(u8).range(0..=32))]
    pub(crate) network_prefix_v4: u8,
    /// Bits of an IPv6 address that make a client network
    #[arg(long, env = "TDC_NETWORK_PREFIX_V6", default_value_t = 64, value_name = "BITS",
        value_parser = clap::value_parser!(u8).range(0..=128))]
    pub(crate) network_prefix_v6: u8,
    /// The most messages of one connection
    #[arg(long, env = "TDC_MAX_MESSAGES", default_value_t = 10_000, value_name = "N")]
    pub(crate) max_messages: u32,
    /// The longest command line, in octets
    #[arg(long, env = "TDC_MAX_LINE", default_value_t = 2048, value_name = "OCTETS",
        value_parser = clap::value_parser!(u32).range(512..=1_048_576))]
    pub(crate) max_line: u32,
    /// The largest header section of a message, in octets
    #[arg(long, env = "TDC_MAX_HEADER", default_value_t = 262_144, value_name = "OCTETS",
        value_parser = clap::value_parser!(u32).range(1024..=262_144))]
    pub(crate) max_header: u32,
    /// Received fields from which on a message is taken to be in a loop
    #[arg(long, env = "TDC_MAX_HOPS", default_value_t = 50, value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_hops: u32,
    /// Errors of one connection before each further reply to one is delayed
    #[arg(long, env = "TDC_SOFT_ERRORS", default_value_t = 10, value_name = "N")]
    pub(crate) soft_errors: u32,
    /// How long such a reply is delayed
    #[arg(long, env = "TDC_ERROR_DELAY", default_value = "1s", value_parser = duration, value_name = "TIME")]
    pub(crate) error_delay: Duration,
    /// Errors of one connection before it is closed
    #[arg(long, env = "TDC_MAX_ERRORS", default_value_t = 20, value_name = "N")]
    pub(crate) max_errors: u32,
    /// Commands that do nothing (NOOP, RSET, VRFY, HELP) before each further one counts as an error
    #[arg(long, env = "TDC_MAX_JUNK", default_value_t = 100, value_name = "N")]
    pub(crate) max_junk: u32,
    /// Memory for all messages on their way, in octets; beyond it new ones get 452
    #[arg(long, env = "TDC_MEMORY_BUDGET", default_value_t = 512 * 1024 * 1024, value_name = "OCTETS")]
    pub(crate) memory_budget: u64,
    /// What to do with a bare LF
    #[arg(long, env = "TDC_BARE_LF", value_enum, default_value = "normalize")]
    pub(crate) bare_lf: BareLfArg,
    /// What happens to mail as long as no policies have arrived; after that their failurePolicy holds
    #[arg(long, env = "TDC_FAILURE_POLICY", value_enum, default_value = "fail")]
    pub(crate) failure_policy: FailurePolicyArg,
    /// How long a step of the queue may take; then the copy counts as one that cannot be made
    #[arg(long, env = "TDC_QUEUE_TIMEOUT", default_value = "5s", value_parser = duration, value_name = "TIME")]
    pub(crate) queue_timeout: Duration,
    /// Ends a session in which octets wait behind EHLO, DATA, NOOP or VRFY (RFC 2920)
    #[arg(
        long,
        env = "TDC_FORBID_UNAUTH_PIPELINING",
        default_value_t = true,
        action = clap::ArgAction::Set,
        value_name = "BOOL"
    )]
    pub(crate) forbid_unauth_pipelining: bool,
    /// Octets of a message that buy one more second; 0: a message must arrive within --client-timeout
    #[arg(long, env = "TDC_MIN_DATA_RATE", default_value_t = 500, value_name = "OCTETS")]
    pub(crate) min_data_rate: u64,
    /// How long a connection may last; a message that has begun may take as long again
    #[arg(long, env = "TDC_SESSION_LIFETIME", default_value = "1h", value_parser = duration, value_name = "TIME")]
    pub(crate) session_lifetime: Duration,
    /// How long a client's TLS handshake may take
    #[arg(long, env = "TDC_TLS_HANDSHAKE_TIMEOUT", default_value = "10s", value_parser = duration, value_name = "TIME")]
    pub(crate) tls_handshake_timeout: Duration,
    /// How long one command may take, and how far ahead the octets of a message may buy time
    #[arg(long, env = "TDC_CLIENT_TIMEOUT", default_value = "300s", value_parser = duration, value_name = "TIME")]
    pub(crate) client_timeout: Duration,
    /// Certificate chain in PEM; with it STARTTLS is offered. It is read again when it changes
    #[arg(long, env = "TDC_TLS_CERT", requires = "tls_key", value_name = "FILE")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// Private key in PEM
    #[arg(long, env = "TDC_TLS_KEY", requires = "tls_cert", value_name = "FILE")]
    pub(crate) tls_key: Option<PathBuf>,
    /// Refuses MAIL before STARTTLS
    #[arg(long, env = "TDC_TLS_REQUIRED", requires = "tls_cert")]
    pub(crate) tls_required: bool,
    /// After the signal to stop, how long connections are still accepted
    #[arg(long, env = "TDC_DRAIN_DELAY", default_value = "0s", value_parser = duration, value_name = "TIME")]
    pub(crate) drain_delay: Duration,
    /// After the signal to stop, how long running work may take
    #[arg(long, env = "TDC_GRACE", default_value = "25s", value_parser = duration, value_name = "TIME")]
    pub(crate) grace: Duration,
}

impl EdgeArgs {
    /// As if these flags had been given: for commands that hold an ingress inside.
    pub(crate) fn from_flags<'a>(flags: impl IntoIterator<Item = &'a str>) -> Result<Self, CliError> {
        let command = Self::augment_args(clap::Command::new("tdc").no_binary_name(true));
        command
            .try_get_matches_from(flags)
            .and_then(|matches| Self::from_arg_matches(&matches))
            .map_err(|error| CliError::new("the flags of the ingress", error))
    }
}
