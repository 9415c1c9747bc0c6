//! The command line. Each flag of a role is also an environment variable, `TDC_…`.

mod edge;
mod grpc;
mod simulate;
mod time;

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use tdc_telemetry::LogFormat;

use crate::dlq::DlqArgs;
use crate::hosts::{HostStatusArgs, TopHostsArgs};

pub(crate) use edge::{BareLfArg, EdgeArgs, FailurePolicyArg};
pub(crate) use grpc::{GrpcTlsArgs, PolicyClientArgs};
pub(crate) use simulate::{SimulateArgs, SimulateCommonArgs, SimulateWhat};
pub(crate) use time::duration;

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

impl Command {
    /// Threads that carry its connections.
    ///
    /// A role shares its machine with the kernel's part of its mail, with Redis and with other roles; a thread that finds
    /// no core wakes for nothing, so half of the cores is its part. Whatever is alone takes all.
    pub(crate) fn threads(&self) -> usize {
        let cores = std::thread::available_parallelism().map_or(2, NonZeroUsize::get);
        let (asked, default) = match self {
            Self::Ingress(args) => (args.common.threads, cores / 2),
            Self::Policy(args) => (args.common.threads, cores / 2),
            Self::Operator(args) => (args.common.threads, cores / 2),
            Self::Worker(args) => (args.common.threads, cores / 2),
            Self::Standalone(args) => (args.common.threads, cores),
            _ => (None, cores),
        };
        asked.map_or(default.max(1), NonZeroUsize::get)
    }
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
    /// Threads that carry connections; the default is half of the cores, for standalone all of them
    #[arg(long, env = "TDC_THREADS", value_name = "COUNT")]
    pub(crate) threads: Option<NonZeroUsize>,
    /// The host's name in greetings and EHLO; the default is the system's
    #[arg(long, env = "TDC_HOSTNAME", value_name = "NAME")]
    pub(crate) hostname: Option<String>,
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

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Goes on after the report, and says what to try
    #[arg(long)]
    pub(crate) keep: bool,
    /// The policy directory; its intakes are pointed at the simulators
    #[arg(long, default_value = "deploy/demo", value_name = "DIR")]
    pub(crate) config: PathBuf,
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
    fn threads_are_those_asked_for_or_half_of_the_cores() {
        let cores = std::thread::available_parallelism().map_or(2, NonZeroUsize::get);
        let worker = "tdc worker --redis redis://r --policy p:1";
        let cases = [
            (format!("{worker} --threads 3"), Some(3)),
            (worker.to_owned(), Some((cores / 2).max(1))),
            (
                "tdc standalone --next-hop h:25 --config d".to_owned(),
                Some(cores),
            ),
            (format!("{worker} --threads 0"), None),
        ];
        for (line, expected) in cases {
            let cli = Cli::try_parse_from(line.split(' '));
            assert_eq!(cli.ok().map(|cli| cli.command.threads()), expected, "{line}");
        }
    }
}
