//! Whether an intake could be delivered to: everything of an attempt up to the first command about a message.
//!
//! It walks through the hosts as an attempt does, with the same resolver, TLS settings and session, and then says QUIT.
//! No mail is sent, no queue is asked, nothing is counted as an attempt.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tdc_core::outcome::{Outcome, Stage};
use tdc_core::policy::{Intake, TlsMode};
use tokio::net::TcpStream;

use crate::config::Timeouts;
use crate::link::{Budget, Fault, Link};
use crate::resolve::{Resolver, Target};
use crate::tls;

/// A whole probe takes at most this long.
const PROBE_WITHIN: Duration = Duration::from_secs(60);

/// Looks whether intakes can be reached.
pub struct Prober {
    resolver: Resolver,
    helo: String,
    timeouts: Timeouts,
}

impl Prober {
    /// Greets as `helo`; asks `resolver`, or the system's name servers; `mx_port` is 25, but for tests.
    pub fn new(helo: impl Into<String>, resolver: Option<SocketAddr>, mx_port: u16) -> Self {
        let timeouts = Timeouts::default();
        Self {
            resolver: Resolver::new(resolver, mx_port, timeouts.resolve),
            helo: helo.into(),
            timeouts,
        }
    }

    /// Opens a session with the first host that takes one, secured as the intake asks, and ends it.
    ///
    /// # Errors
    /// How an attempt would have ended: the failure of the last host that was tried.
    pub async fn probe(&self, intake: Arc<Intake>) -> Result<(), Outcome> {
        let budget = Budget::lasting(PROBE_WITHIN);
        let looking = self.resolver.targets(&intake);
        let targets = match budget.limit(budget.left(), looking).await {
            Ok(targets) => targets?,
            Err(fault) => return Err(fault.outcome(Stage::Resolve)),
        };
        let mut failed = Outcome::Expired;
        for target in &targets {
            let addresses = match budget.limit(budget.left(), self.resolver.addresses(target)).await {
                Ok(Ok(addresses)) => addresses,
                Ok(Err(outcome)) => {
                    failed = outcome;
                    continue;
                }
                Err(fault) => return Err(fault.outcome(Stage::Resolve)),
            };
            for address in addresses {
                match self.session(&intake, target, address, budget).await {
                    Ok(()) => return Ok(()),
                    Err(outcome) => failed = outcome,
                }
            }
        }
        Err(failed)
    }

    async fn session(
        &self,
        intake: &Arc<Intake>,
        target: &Target,
        address: SocketAddr,
        budget: Budget,
    ) -> Result<(), Outcome> {
        let settings = match intake.tls.mode {
            TlsMode::None => None,
            TlsMode::Verify | TlsMode::Encrypt => {
                let settings = tls::client_config(&intake.tls)
                    .and_then(|config| Ok((config, tls::server_name(&intake.tls, &target.host)?)));
                Some(settings.map_err(|error| Fault::Tls(error.to_string()).outcome(Stage::StartTls))?)
            }
        };
        let at_connect = |fault: Fault| match fault.outcome(Stage::Connect) {
            Outcome::Network { stage, detail } => Outcome::Network {
                stage,
                detail: format!("{address}: {detail}"),
            },
            other => other,
        };
        let stream = budget
            .limit(self.timeouts.connect, TcpStream::connect(address))
            .await
            .map_err(at_connect)?;
        let stream = stream.map_err(|error| at_connect(error.into()))?;
        let mut link = Link::new(stream, 0, intake.clone(), &self.helo, self.timeouts)
            .map_err(|error| at_connect(error.into()))?;
        match link.set_up(settings, budget).await {
            Ok(_) => {
                link.quit().await;
                Ok(())
            }
            Err(fault) => Err(fault.outcome(link.stage)),
        }
    }
}
