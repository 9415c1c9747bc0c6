//! Open connections to the next hop, and what it offers.
//!
//! The newest idle connection is used first, so that the others age and are closed. A connection that the server has
//! closed, or on which it has said something unasked, is never handed out.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwapOption;
use tdc_smtp::Extensions;

use super::connection::Connection;
use super::{NextHopConfig, NextHopError};

/// Cheap to clone.
#[derive(Clone)]
pub(crate) struct Pool {
    shared: Arc<Shared>,
}

struct Shared {
    config: NextHopConfig,
    idle: Mutex<Vec<Connection>>,
    extensions: ArcSwapOption<Extensions>,
}

impl Pool {
    pub(crate) fn new(config: NextHopConfig) -> Self {
        let shared = Shared {
            config,
            idle: Mutex::default(),
            extensions: ArcSwapOption::empty(),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// An idle connection, or a new one.
    pub(crate) async fn get(&self) -> Result<Connection, NextHopError> {
        while let Some(connection) = self.take_idle() {
            if connection.idle_since.elapsed() < self.shared.config.idle && connection.is_quiet() {
                return Ok(connection);
            }
            tokio::spawn(connection.quit());
        }
        self.dial().await
    }

    /// A new connection. Remembers what the server offers.
    pub(crate) async fn dial(&self) -> Result<Connection, NextHopError> {
        let connection = Connection::dial(&self.shared.config).await?;
        let offered = connection.extensions();
        if self.shared.extensions.load().as_deref() != Some(offered) {
            self.shared.extensions.store(Some(Arc::new(offered.clone())));
        }
        Ok(connection)
    }

    /// Takes a connection back on which no transaction is open.
    pub(crate) fn put(&self, mut connection: Connection) {
        connection.idle_since = Instant::now();
        connection.reused = true;
        let mut idle = self.lock();
        if idle.len() < self.shared.config.max_idle {
            idle.push(connection);
            return;
        }
        drop(idle);
        tokio::spawn(connection.quit());
    }

    /// What the next hop offers, asked once if it is not known yet; `None` when it cannot be asked now.
    pub(crate) async fn extensions(&self) -> Option<Arc<Extensions>> {
        if let Some(known) = self.shared.extensions.load_full() {
            return Some(known);
        }
        match self.dial().await {
            Ok(connection) => self.put(connection),
            Err(error) => tracing::warn!(%error, "The next hop cannot be asked what it offers."),
        }
        self.shared.extensions.load_full()
    }

    /// Closes idle connections that nobody used for long; to be called now and then.
    pub(crate) fn expire_idle(&self) {
        let mut idle = self.lock();
        let limit = self.shared.config.idle;
        let (keep, old): (Vec<_>, Vec<_>) = idle
            .drain(..)
            .partition(|connection| connection.idle_since.elapsed() < limit && connection.is_quiet());
        *idle = keep;
        drop(idle);
        for connection in old {
            tokio::spawn(connection.quit());
        }
    }

    /// Closes every idle connection.
    pub(crate) async fn close(&self) {
        let idle: Vec<Connection> = self.lock().drain(..).collect();
        for connection in idle {
            connection.quit().await;
        }
    }

    fn take_idle(&self) -> Option<Connection> {
        self.lock().pop()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        // The list is in order even if a holder panicked: each change is one push, pop or assignment.
        self.shared.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pool {
    /// Takes a connection back after the reply that ended its transaction, unless that was a 421.
    pub(crate) fn put_unless_closing(&self, connection: Connection, reply: &tdc_smtp::Reply) {
        if reply.code() != 421 {
            self.put(connection);
        }
    }
}
