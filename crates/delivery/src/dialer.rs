//! Opens a connection to an intake: every host in order, every address of each, until one is ready for a message.
//!
//! All of that is one step of one attempt. When no host is ready, the attempt ends with the failure that speaks for
//! trying again, if there is one: a first host that is away for a moment outweighs a backup that is badly set up.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::ClientConfig;
use tdc_core::outcome::{Next, Outcome, Stage, next};
use tdc_core::policy::{Intake, IntakeTls, TlsMode};
use tokio::net::TcpStream;

use crate::link::{Budget, Fault, Link};
use crate::resolve::Target;
use crate::tls;
use crate::worker::Worker;

/// No host was ready.
#[derive(Debug)]
pub(crate) struct Undialed {
    /// Why.
    pub(crate) outcome: Outcome,
    /// The last connection that was opened; 0: none.
    pub(crate) dcid: u64,
}

/// The TLS settings of one intake, kept from connection to connection, because they hold the sessions to resume.
#[derive(Default)]
pub(crate) struct TlsCache(Mutex<Option<(IntakeTls, Arc<ClientConfig>)>>);

impl TlsCache {
    fn get(&self, tls: &IntakeTls) -> Result<Arc<ClientConfig>, tls::TlsSetupError> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((settings, config)) = &*kept
            && settings == tls
        {
            return Ok(config.clone());
        }
        let config = tls::client_config(tls)?;
        *kept = Some((tls.clone(), config.clone()));
        Ok(config)
    }
}

/// Walks through the hosts.
pub(crate) async fn dial(
    worker: &Worker,
    cache: &TlsCache,
    intake: &Arc<Intake>,
    budget: Budget,
) -> Result<Link, Undialed> {
    let mut failed = Undialed {
        outcome: Outcome::Expired,
        dcid: 0,
    };
    let resolving = worker.resolver.targets(intake);
    let targets = match budget.limit(budget.left(), resolving).await {
        Ok(Ok(targets)) => targets,
        Ok(Err(outcome)) => return Err(Undialed { outcome, dcid: 0 }),
        Err(fault) => {
            return Err(Undialed {
                outcome: fault.outcome(Stage::Resolve),
                dcid: 0,
            });
        }
    };
    let mut first = true;
    for target in &targets {
        let addresses = match budget
            .limit(budget.left(), worker.resolver.addresses(target))
            .await
        {
            Ok(Ok(addresses)) => addresses,
            Ok(Err(outcome)) => {
                failed.outcome = better(std::mem::take(&mut first), failed.outcome, outcome, intake);
                continue;
            }
            Err(_) => break,
        };
        for address in addresses {
            if budget.left().is_zero() {
                break;
            }
            match open(worker, cache, intake, target, address, budget).await {
                Ok(link) => return Ok(link),
                Err(Undialed { outcome, dcid }) => {
                    failed.dcid = if dcid == 0 { failed.dcid } else { dcid };
                    failed.outcome = better(std::mem::take(&mut first), failed.outcome, outcome, intake);
                }
            }
        }
    }
    if budget.left().is_zero() {
        failed.outcome = Outcome::Expired;
    }
    Err(failed)
}

/// Of two failures the later, but never a final one for one that may pass.
fn better(first: bool, old: Outcome, new: Outcome, intake: &Intake) -> Outcome {
    let passes = |outcome: &Outcome| next(outcome, 0, &intake.retry) == Next::Retry;
    if !first && passes(&old) && !passes(&new) {
        old
    } else {
        new
    }
}

async fn open(
    worker: &Worker,
    cache: &TlsCache,
    intake: &Arc<Intake>,
    target: &Target,
    address: SocketAddr,
    budget: Budget,
) -> Result<Link, Undialed> {
    let mut dcid = 0;
    let opened = connect(worker, cache, intake, target, address, budget, &mut dcid).await;
    opened.map_err(|outcome| {
        worker
            .account
            .connection_failed(&intake.name, dcid, address, &outcome);
        if dcid != 0 {
            worker.account.closed(dcid);
        }
        Undialed { outcome, dcid }
    })
}

async fn connect(
    worker: &Worker,
    cache: &TlsCache,
    intake: &Arc<Intake>,
    target: &Target,
    address: SocketAddr,
    budget: Budget,
    dcid: &mut u64,
) -> Result<Link, Outcome> {
    let timeouts = worker.config.timeouts;
    let settings = match intake.tls.mode {
        TlsMode::None => None,
        TlsMode::Verify | TlsMode::Encrypt => {
            let settings = cache
                .get(&intake.tls)
                .and_then(|config| Ok((config, tls::server_name(&intake.tls, &target.host)?)));
            Some(settings.map_err(|error| Fault::Tls(error.to_string()).outcome(Stage::StartTls))?)
        }
    };
    let at_connect = |fault: Fault| fault.outcome(Stage::Connect);
    let stream = budget
        .limit(timeouts.connect, TcpStream::connect(address))
        .await
        .map_err(at_connect)?;
    let stream = stream.map_err(|error| at_connect(error.into()))?;
    let local = stream.local_addr().map_err(|error| at_connect(error.into()))?;
    *dcid = worker.next_dcid();
    worker.account.connected(*dcid, local, address);
    let mut link = Link::new(stream, *dcid, intake.clone(), &worker.config.helo, timeouts)
        .map_err(|error| at_connect(error.into()))?;
    match link.set_up(settings, budget).await {
        Ok(secured) => {
            worker.account.connection_ready(&intake.name);
            if let Some((protocol, cipher)) = secured {
                worker.account.secured(*dcid, protocol, cipher);
            }
            Ok(link)
        }
        Err(fault) => Err(fault.outcome(link.stage)),
    }
}
