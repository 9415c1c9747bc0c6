//! `tdc send`: one mail through a server, to see whether it takes it. `helm test` runs this.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use clap::Args;
use tdc_ingress::HostPort;

use crate::args::duration;
use crate::client::{self, Mail};
use crate::error::CliError;
use crate::say;

#[derive(Debug, Args)]
pub(crate) struct SendArgs {
    /// The server
    #[arg(long, value_name = "HOST:PORT")]
    server: HostPort,
    /// MAIL FROM; empty or <> is the null sender
    #[arg(long, value_name = "ADDRESS")]
    from: String,
    /// RCPT TO, separated by commas; every one must be accepted
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',', required = true)]
    to: Vec<String>,
    /// The name for EHLO
    #[arg(long, default_value = "localhost", value_name = "NAME")]
    helo: String,
    /// How long everything may take
    #[arg(long, default_value = "60s", value_parser = duration, value_name = "TIME")]
    timeout: Duration,
}

pub(crate) async fn run(args: SendArgs) -> Result<(), CliError> {
    let from = args.from.trim().trim_start_matches('<').trim_end_matches('>');
    let to: Vec<&str> = args.to.iter().map(|to| to.trim()).collect();
    let id = format!("{}.{}", unix_nanos(), std::process::id());
    let bytes = format!(
        "From: <{from}>\r\nTo: <{}>\r\nSubject: A test of Threat Defense Connector\r\n\
         Message-ID: <{id}@{}>\r\n\r\nThis mail was sent by tdc send, to see whether it goes through.\r\n",
        to.join(">, <"),
        args.helo,
    );
    let mail = Mail {
        helo: &args.helo,
        from,
        to: &to,
        eight_bit: false,
        bytes: Bytes::from(bytes),
    };
    let server = args.server.to_string();
    let sent = tokio::time::timeout(args.timeout, client::send(&args.server, mail))
        .await
        .map_err(|_| CliError::new(&server, format!("no end within {:?}", args.timeout)))?
        .map_err(|error| CliError::new(&server, error))?;
    let how = if sent.tls { "over TLS" } else { "in the clear" };
    say(format_args!("{server} took the message {how}: {}", sent.reply));
    Ok(())
}

fn unix_nanos() -> u128 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_nanos())
}
