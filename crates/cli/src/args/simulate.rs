//! Flags of `simulate`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::duration;

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
