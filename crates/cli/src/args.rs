//! The command line. Each flag of a role is also an environment variable, `TDC_…`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::next_hop::NextHopArgs;
use clap::{Args, FromArgMatches as _, Parser, Subcommand, ValueEnum};
use ipnet::IpNet;
use tdc_proto::channel::{self, PolicyAddress};
use tdc_proto::tls::{ClientTls, ServerTls, TlsFiles};
use tdc_telemetry::LogFormat;

use crate::dlq::DlqArgs;
use crate::hosts::{HostStatusArgs, TopHostsArgs};
use tonic::transport::Channel;

use crate::error::CliError;

/// Journals clean incoming mail to a threat-defense service, and relays it untouched.
#[derive(Debug, Parser)]
#[command(name = "tdc", version, about, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Everything in one process: ingress, policy from files, delivery
    Standalone(Box<StandaloneArgs>),
    /// The SMTP edge: relays mail to the next hop and queues the copies that are due
    Ingress(Box<IngressArgs>),
    /// The policy service; or, with a subcommand, a look at what the policies do
    Policy(Box<crate::roles::policy::PolicyArgs>),
    /// The operator: says on every resource of a cluster what became of it
    Operator(Box<crate::roles::operator::OperatorArgs>),
    /// The delivery worker: brings queued copies to their intake
    Worker(Box<WorkerArgs>),
    /// A mailbox server or an intake for tests, demonstrations and staging
    Simulate(SimulateArgs),
    /// Sends one mail, to see whether a server takes it
    Send(crate::send::SendArgs),
    /// Runs the main job here, with sample mail and simulators, and checks every byte
    Demo(DemoArgs),
    /// Shows the counters of the queue and of each intake, as the original's tophosts does
    #[command(name = "tophosts")]
    TopHosts(TopHostsArgs),
    /// Shows what is known of the.tdc.queue, or of one intake, as the original's hoststatus does
    #[command(name = "hoststatus")]
    HostStatus(HostStatusArgs),
    /// Lists, shows, replays or purges copies that ended undelivered
    Dlq(DlqArgs),
    /// Prints the custom resource definitions as YAML
    Crds {
        /// The reference of every field as Markdown instead: docs/resources.md
        #[arg(long)]
        reference: bool,
    },
}

#[derive(Debug, Clone, Args)]
pub(crate) struct CommonArgs {
    /// Form of the log and the mail log on standard output: json, asyncos or text
    #[arg(long, env = "TDC_LOG_FORMAT", default_value = "json", value_name = "FORMAT")]
    pub(crate) log_format: LogFormat,
    /// What is logged, as directives: info, or info,tdc_ingress=debug
    #[arg(long, env = "TDC_LOG", default_value = "info", value_name = "FILTER")]
    pub(crate) log: String,
    /// Serves /livez, /readyz and /metrics here; absent: nowhere
    #[arg(long, env = "TDC_ADMIN_LISTEN", value_name = "ADDR:PORT")]
    pub(crate) admin_listen: Option<SocketAddr>,
    /// Name of this process among its peers; the default is made of the host's name and the process id
    #[arg(long, env = "TDC_INSTANCE", value_name = "NAME")]
    pub(crate) instance: Option<String>,
    /// The host's name in greetings and EHLO; the default is the system's
    #[arg(long, env = "TDC_HOSTNAME", value_name = "NAME")]
    pub(crate) hostname: Option<String>,
}

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

#[derive(Debug, Clone, Args)]
pub(crate) struct RedisArgs {
    /// The queue: redis://HOST:PORT/DB, or rediss:// for TLS
    #[arg(long, env = "TDC_REDIS", value_name = "URL")]
    pub(crate) redis: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum EvaluationArg {
    /// The policy service decides; the local snapshot when it does not answer
    Remote,
    /// The local snapshot decides
    Local,
}

/// Mutual TLS between the roles: all three or none.
#[derive(Debug, Clone, Args)]
pub(crate) struct GrpcTlsArgs {
    /// Certificate chain for gRPC in PEM; with it gRPC is mutual TLS. The three files are read again when they change
    #[arg(long, env = "TDC_GRPC_TLS_CERT", requires_all = ["grpc_tls_key", "grpc_tls_ca"], value_name = "FILE")]
    pub(crate) grpc_tls_cert: Option<PathBuf>,
    /// Its private key in PEM
    #[arg(
        long,
        env = "TDC_GRPC_TLS_KEY",
        requires = "grpc_tls_cert",
        value_name = "FILE"
    )]
    pub(crate) grpc_tls_key: Option<PathBuf>,
    /// The authorities that sign the other side's certificate, in PEM
    #[arg(
        long,
        env = "TDC_GRPC_TLS_CA",
        requires = "grpc_tls_cert",
        value_name = "FILE"
    )]
    pub(crate) grpc_tls_ca: Option<PathBuf>,
}

impl GrpcTlsArgs {
    /// The three files, when they are given.
    fn files(&self) -> Option<TlsFiles> {
        Some(TlsFiles {
            cert: self.grpc_tls_cert.clone()?,
            key: self.grpc_tls_key.clone()?,
            ca: self.grpc_tls_ca.clone()?,
        })
    }

    /// For the service's side.
    pub(crate) async fn server(&self) -> Result<Option<ServerTls>, CliError> {
        let Some(files) = self.files() else {
            return Ok(None);
        };
        let tls = ServerTls::follow(files).await;
        tls.map(Some)
            .map_err(|error| CliError::new("mutual TLS (--grpc-tls-*)", error))
    }

    /// For a client of the service at this address.
    pub(crate) async fn client(&self, address: &PolicyAddress) -> Result<Option<ClientTls>, CliError> {
        let Some(files) = self.files() else {
            return Ok(None);
        };
        let tls = ClientTls::follow(files, address.host()).await;
        tls.map(Some)
            .map_err(|error| CliError::new("mutual TLS (--grpc-tls-*)", error))
    }
}

#[derive(Debug, Clone, Args)]
pub(crate) struct PolicyClientArgs {
    /// The policy service; all addresses of the name are used
    #[arg(long, env = "TDC_POLICY", value_name = "HOST:PORT")]
    pub(crate) policy: PolicyAddress,
    #[command(flatten)]
    pub(crate) tls: GrpcTlsArgs,
}

impl PolicyClientArgs {
    /// A channel over all replicas of the service.
    pub(crate) async fn connect(&self) -> Result<Channel, CliError> {
        let tls = self.tls.client(&self.policy).await?;
        Ok(channel::connect(self.policy.clone(), tls))
    }
}

#[derive(Debug, Args)]
pub(crate) struct StandaloneArgs {
    #[command(flatten)]
    pub(crate) common: CommonArgs,
    #[command(flatten)]
    pub(crate) edge: EdgeArgs,
    /// Directory of YAML files with the resources
    #[arg(long, env = "TDC_CONFIG", value_name = "DIR")]
    pub(crate) config: PathBuf,
    /// The queue: redis://HOST:PORT/DB; absent: in memory, and lost with the process
    #[arg(long, env = "TDC_REDIS", value_name = "URL")]
    pub(crate) redis: Option<String>,
    #[command(flatten)]
    pub(crate) delivery: DeliveryArgs,
}

#[derive(Debug, Args)]
pub(crate) struct IngressArgs {
    #[command(flatten)]
    pub(crate) common: CommonArgs,
    #[command(flatten)]
    pub(crate) edge: EdgeArgs,
    #[command(flatten)]
    pub(crate) redis: RedisArgs,
    #[command(flatten)]
    pub(crate) policy: PolicyClientArgs,
    /// Who decides first
    #[arg(long, env = "TDC_EVALUATION", value_enum, default_value = "remote")]
    pub(crate) evaluation: EvaluationArg,
    /// How old the last snapshot may be when the policy service is out of reach
    #[arg(long, env = "TDC_MAX_STALENESS", default_value = "10m", value_parser = duration, value_name = "TIME")]
    pub(crate) max_staleness: Duration,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct DeliveryArgs {
    /// A name server for the intake's MX and addresses; the default is the system's
    #[arg(long, env = "TDC_RESOLVER", value_name = "ADDR:PORT")]
    pub(crate) resolver: Option<SocketAddr>,
    /// Memory for the copies that are being delivered, in octets; beyond it no further one is taken
    #[arg(long, env = "TDC_DELIVERY_MEMORY", default_value_t = 256 * 1024 * 1024, value_name = "OCTETS")]
    pub(crate) delivery_memory: u64,
}

#[derive(Debug, Args)]
pub(crate) struct WorkerArgs {
    #[command(flatten)]
    pub(crate) common: CommonArgs,
    #[command(flatten)]
    pub(crate) redis: RedisArgs,
    #[command(flatten)]
    pub(crate) policy: PolicyClientArgs,
    #[command(flatten)]
    pub(crate) delivery: DeliveryArgs,
    /// After the signal to stop, how long running deliveries may take
    #[arg(long, env = "TDC_GRACE", default_value = "25s", value_parser = duration, value_name = "TIME")]
    pub(crate) grace: Duration,
}

/// What `--script` takes, in short; docs/simulate.md has all of it.
const SCRIPT_HELP: &str = "\
Scripts: a list of rules; at each stage the first rule that fits strikes. Stages: connect, greeting, ehlo, starttls, \
handshake, mail, rcpt, data, body, dot, rset, quit, between.

  seed: 7                         # the same odds again
  rules:
  - { at: rcpt, odds: 0.1, do: { reply: 451 4.3.0 Later } }
  - { at: dot, when: { attempt: 1 }, keep: true, do: close }    # taken, and never answered
  - { at: mail, times: 3, do: { stall: 5s } }
  - { at: greeting, when: { connection: 1-2 }, do: { half: 220 mx, then: close } }
  - { at: handshake, after: 10, do: { certificate: expired } }
  - { at: between, when: { idle: 1s }, do: { reply: 421 4.4.2 Bye } }

What can be done: close, reset, stall, pass, garbage, {reply}, {half}, {raw}, {stall}, {slow}, {refuse}, {without}, \
{with}, {tls}, {certificate}, {alert}; docs/simulate.md describes each. --report counts the strikes of each rule, and \
says for each message what its sender heard.";

#[derive(Debug, Args)]
pub(crate) struct SimulateArgs {
    #[command(subcommand)]
    pub(crate) what: SimulateWhat,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SimulateWhat {
    /// The mailbox server behind the connector: takes everything
    Mailbox(SimulateMailboxArgs),
    /// The Message Intake Address: wants STARTTLS, and checks each copy
    Intake(SimulateIntakeArgs),
}

#[derive(Debug, Args)]
pub(crate) struct SimulateCommonArgs {
    /// Listens here
    #[arg(long, default_value = "127.0.0.1:0", value_name = "ADDR:PORT")]
    pub(crate) listen: SocketAddr,
    /// Keeps each message as N.eml and N.json in this folder
    #[arg(long, value_name = "DIR")]
    pub(crate) store: Option<PathBuf>,
    /// Writes the counts to this file, as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,
    /// Certificate folder (ca.pem, cert.pem, key.pem); an empty one gets a throw-away CA and certificate
    #[arg(long, value_name = "DIR")]
    pub(crate) tls_dir: Option<PathBuf>,
    /// A further name for a throw-away certificate
    #[arg(long, value_name = "NAME")]
    pub(crate) tls_name: Vec<String>,
    /// Waits this long before the reply to a message
    #[arg(long, default_value = "0s", value_parser = duration, value_name = "TIME")]
    pub(crate) latency: Duration,
    /// Refuses a recipient: ADDRESS=CODE TEXT, or * for everyone
    #[arg(long, value_name = "RULE")]
    pub(crate) reject_rcpt: Vec<String>,
    /// Refuses the message of a recipient at its end: ADDRESS=CODE TEXT
    #[arg(long, value_name = "RULE")]
    pub(crate) reject_message: Vec<String>,
    /// Injects the faults of this script (YAML), and reads it again when it changes
    #[arg(long, value_name = "FILE")]
    pub(crate) script: Option<PathBuf>,
    /// Does not offer this EHLO keyword
    #[arg(long, value_name = "KEYWORD")]
    pub(crate) without: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_long_help = SCRIPT_HELP)]
pub(crate) struct SimulateMailboxArgs {
    #[command(flatten)]
    pub(crate) common: SimulateCommonArgs,
}

#[derive(Debug, Args)]
#[command(after_long_help = SCRIPT_HELP)]
pub(crate) struct SimulateIntakeArgs {
    #[command(flatten)]
    pub(crate) common: SimulateCommonArgs,
    /// Takes copies in the clear too
    #[arg(long)]
    pub(crate) allow_plaintext: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Goes on after the report, and says what to try
    #[arg(long)]
    pub(crate) keep: bool,
    /// The policy directory; its intakes are pointed at the simulators
    #[arg(long, default_value = "deploy/demo", value_name = "DIR")]
    pub(crate) config: PathBuf,
}

/// `300s`, `10m`, `1h30m`, `250ms`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let fail = || format!("\"{text}\" is no length of time; write 300s, 10m or 1h30m");
    let mut total = Duration::ZERO;
    let mut rest = text;
    if rest.is_empty() {
        return Err(fail());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(fail)?;
        let number: u64 = rest[..digits].parse().map_err(|_| fail())?;
        let unit_end = rest[digits..]
            .find(|c: char| c.is_ascii_digit())
            .map_or(rest.len(), |at| digits + at);
        let millis = match &rest[digits..unit_end] {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return Err(fail()),
        };
        total += Duration::from_millis(number.checked_mul(millis).ok_or_else(fail)?);
        rest = &rest[unit_end..];
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn lengths_of_time() {
        let cases = [
            ("300s", Some(300_000)),
            ("1h30m", Some(5_400_000)),
            ("250ms", Some(250)),
            ("0s", Some(0)),
            ("5", None),
            ("s", None),
            ("1d", None),
            ("", None),
            ("-1s", None),
        ];
        for (text, millis) in cases {
            assert_eq!(duration(text).ok(), millis.map(Duration::from_millis), "{text}");
        }
    }
}
