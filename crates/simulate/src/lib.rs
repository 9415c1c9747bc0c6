//! Servers that stand in for the two ends of the connector: the mailbox server and the Message Intake Address.
//!
//! They exist so that tests, demonstrations and staging have something true to talk to: both speak the SMTP of
//! `tdc-smtp`, over real sockets and real TLS, and keep what arrived exactly as it arrived. What always holds:
//!
//! * A message is answered `250` only after it was counted and, with a store, after its files are complete under
//!   their final names. A watcher of the store never sees half a file.
//! * Memory is bounded whatever a client sends: large messages go on in the store's files, and what stays in memory
//!   comes out of one budget of 1 GiB for all connections together.
//! * Nothing that a peer does ends the server: a connection fails alone, and accept errors back off.
//! * At shutdown running transactions are finished within [`Common::grace`], and the report is written last.
//!
//! | module | holds |
//! |---|---|
//! | [`config`] | the settings of both servers as plain structs |
//! | [`server`] | the listener, the accept loop, the orderly end |
//! | `connection`, `transaction` | the session of `tdc-smtp` driven over a socket; what becomes of each message |
//! | [`refuse`] | the hook that decides at each stage whether a client is turned away |
//! | [`script`] | which faults happen at which stage, and how often |
//! | `inject` | carries a fault out on a connection |
//! | `body` | a message body on its way in: memory first, then the store's file |
//! | [`store`] | numbered messages in a folder, and their records |
//! | [`inspect`] | what a copy that reached the intake says about itself |
//! | [`report`] | the counts, and the file they are written to |
//! | [`tls`] | the certificate: read from a folder, or made on the spot |

mod body;
mod clock;
mod connection;
mod inject;
mod transaction;

pub mod config;
pub mod inspect;
pub mod refuse;
pub mod report;
pub mod script;
pub mod server;
pub mod store;
pub mod tls;

use std::future::Future;
use std::io::Write as _;

pub use config::{Common, IntakeConfig, MailboxConfig, SimulateConfig};
pub use refuse::{Refuse, Rejection, Stage};
pub use report::{Report, ReportHandle};
pub use script::Script;
pub use server::{Server, bind};
pub use store::{Record, Store};
pub use tls::{TlsFiles, TlsSource};

/// Why a simulator could not start, or could not keep its promise at the end.
#[derive(Debug, thiserror::Error)]
pub enum SimulateError {
    /// The listening socket could not be made.
    #[error("cannot listen on {addr}: {source}")]
    Listen {
        /// The address asked for.
        addr: std::net::SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The store folder or the report's file cannot be used.
    #[error("cannot {action} {path}: {source}", path = path.display())]
    File {
        /// What was tried, as a verb: "create", "write", …
        action: &'static str,
        /// On what.
        path: std::path::PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// No usable certificate.
    #[error(transparent)]
    Tls(#[from] tls::TlsError),
}

/// Runs one simulator until `shutdown` completes, then prints one line with its counts to standard output.
///
/// The listening address is logged once the socket is bound. Callers inside the same process that need the port, or
/// want nothing printed, use [`bind`] and [`Server::run`].
///
/// # Errors
/// When the socket, the store, the certificate or the report cannot be set up, or the last report cannot be written.
pub async fn run(
    config: impl Into<SimulateConfig>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), SimulateError> {
    let server = bind(config).await?;
    let report = server.run(shutdown).await?;
    // Nobody reads standard output any more: not a reason to fail at the very end.
    let _ = writeln!(std::io::stdout().lock(), "{report}");
    Ok(())
}
