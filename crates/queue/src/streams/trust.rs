//! Whether the server may be trusted with copies, as of the last connection.
//!
//! A server that evicts would lose copies that were acknowledged. So one that was replaced by such a server, or was
//! restarted with other settings, takes no new ones: `prepare` and `check` say why, until it is mended. What is in it is
//! still delivered.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use redis::Client;
use tracing::{error, info};

use super::server::{self, Durability};
use crate::QueueError;

/// The verdict on the server.
#[derive(Debug)]
pub(super) struct Trust {
    limit: Duration,
    /// The last one that could be reached.
    verdict: Mutex<Result<Durability, QueueError>>,
}

impl Trust {
    pub(super) fn new(limit: Duration, durability: Durability) -> Self {
        server::tell(&durability);
        Self {
            limit,
            verdict: Mutex::new(Ok(durability)),
        }
    }

    /// Fails with the reason when it may not take copies.
    pub(super) fn check(&self) -> Result<(), QueueError> {
        self.get().map(drop)
    }

    pub(super) fn get(&self) -> Result<Durability, QueueError> {
        self.verdict
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Looks at the server again. One that does not answer keeps its verdict: the steps say that themselves.
    pub(super) async fn renew(&self, client: &Client) {
        let verdict = match server::inspect(client, self.limit).await {
            Err(QueueError::Unavailable(_)) => return,
            verdict => verdict,
        };
        let before = std::mem::replace(
            &mut *self.verdict.lock().unwrap_or_else(PoisonError::into_inner),
            verdict.clone(),
        );
        match (before, verdict) {
            (_, Err(error)) => error!(%error, "The queue takes no copies until this is mended."),
            (Err(_), Ok(now)) => {
                info!("The queue takes copies again.");
                server::tell(&now);
            }
            (Ok(before), Ok(now)) if before != now => server::tell(&now),
            (Ok(_), Ok(_)) => {}
        }
    }
}
