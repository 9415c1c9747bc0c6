//! `tdc`: every role of Threat Defense Connector, and the commands of its operator, in one program.
//!
//! Exit codes: 0 done, 1 failed (the reason is on standard error), 2 wrong usage.

mod args;
mod client;
mod cluster;
mod demo;
mod dlq;
mod error;
mod hosts;
mod next_hop;
mod policy;
mod process;
mod roles;
mod send;
mod simulate;

use std::process::ExitCode;

use clap::Parser as _;

use crate::args::{Cli, Command};
use crate::error::CliError;

/// The whole program: reads the arguments, runs the command, and says with what code to exit.
pub fn main() -> ExitCode {
    // Everything that speaks TLS in this process uses ring; whoever asks first must find it.
    if rustls::crypto::ring::default_provider()
        .install_default()
        .is_err()
    {
        complain("the TLS provider is already chosen");
        return ExitCode::FAILURE;
    }
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cli.command.threads())
        .enable_all()
        .build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(run(cli.command)),
        Err(error) => Err(CliError::new("cannot start the runtime", error)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> Result<(), CliError> {
    match command {
        Command::Standalone(args) => Box::pin(roles::standalone::run(*args)).await,
        Command::Ingress(args) => Box::pin(roles::ingress::run(*args)).await,
        Command::Policy(args) => Box::pin(roles::policy::run(*args)).await,
        Command::Operator(args) => Box::pin(roles::operator::run(*args)).await,
        Command::Worker(args) => Box::pin(roles::worker::run(*args)).await,
        Command::Simulate(args) => Box::pin(simulate::run(args)).await,
        Command::Send(args) => Box::pin(send::run(args)).await,
        Command::Demo(args) => Box::pin(demo::run(args)).await,
        Command::TopHosts(args) => Box::pin(hosts::top(args)).await,
        Command::HostStatus(args) => Box::pin(hosts::status(args)).await,
        Command::Dlq(args) => Box::pin(dlq::run(args)).await,
        Command::Crds { reference } => {
            say(if reference {
                tdc_api::reference()
            } else {
                tdc_api::crds_yaml()
            });
            Ok(())
        }
    }
}

/// Writes octets to standard output as they are.
pub(crate) fn say_bytes(octets: &[u8]) {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(octets).and_then(|()| out.flush());
}

/// Writes to standard output. Nobody reading it is no failure of ours.
pub(crate) fn say(text: impl std::fmt::Display) {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

fn complain(text: impl std::fmt::Display) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr().lock(), "tdc: {text}");
}
