//! The end-to-end benchmark: what the connector costs beside Postfix and beside the wire, and as work grows.
//!
//! It starts everything that it measures, on loopback and on ports that are free, and stops it again. A run whose sinks
//! do not have exactly what was sent ends the benchmark without figures.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a program for a terminal, which waits for the processes that it starts"
)]

mod backlog;
mod compare;
mod document;
mod fail;
mod growth;
mod interrupt;
mod load;
mod pairs;
mod postfix;
mod proc;
mod profile;
mod report;
mod run;
mod scratch;
mod sink;
mod sinks;
mod tdc;
mod template;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::fail::{Fail, Outcome};

#[derive(Debug, Parser)]
#[command(name = "tdc-bench", about, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The wire, Postfix and the connector in turn
    Compare(compare::CompareArgs),
    /// The connector as work grows
    Growth(growth::GrowthArgs),
    /// Where the time of each process goes
    Profile(profile::ProfileArgs),
    /// Sends messages, and prints what became of them as JSON
    Load(load::LoadArgs),
    /// Takes messages, and checks every octet of them
    Sink(sink::SinkArgs),
}

fn main() -> ExitCode {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let command = Cli::parse().command;
    if !matches!(command, Command::Load(_) | Command::Sink(_)) {
        interrupt::watch();
    }
    let result = match command {
        Command::Compare(args) => compare::compare(&args),
        Command::Growth(args) => growth::growth(&args),
        Command::Profile(args) => profile::profile(&args),
        Command::Load(args) => single(load::run(args)).and_then(|sent| {
            let text = serde_json::to_string(&sent).map_err(Fail::of("cannot write the report"))?;
            println!("{text}");
            Ok(())
        }),
        Command::Sink(args) => single(sink::run(args)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tdc-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Generator and sinks have one thread each, as `smtp-source` and `smtp-sink` have.
fn single<T>(work: impl Future<Output = Outcome<T>>) -> Outcome<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Fail::of("cannot start"))?;
    tokio::task::LocalSet::new().block_on(&runtime, work)
}
