//! A task that holds one SMTP connection at a time, and brings entries over it: claim, deliver, settle, again.
//!
//! What always holds: an entry that was claimed here is settled exactly once (ended, put back for a retry, or
//! released), unless the queue does not answer; then its claim lapses and another worker takes it. A connection that
//! the server has left before it saw a message costs that message nothing.

use std::sync::Arc;
use std::time::Duration;

use tdc_core::outcome::{Outcome, Stage};
use tdc_queue::Claimed;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::Instrument as _;

use crate::account::Attempt;
use crate::conclude::{History, conclude};
use crate::copy;
use crate::dialer::{self, Undialed};
use crate::lane::{Guard, Lane, Start};
use crate::link::{Budget, Link};
use crate::settle;
use crate::slots::Slot;
use crate::transaction::{self, Reset, Sent};
use crate::worker::Worker;

/// How long a connection that has no entry yet may take to be opened, over all hosts.
const DIAL_WITHIN: Duration = Duration::from_secs(45);
/// After the queue failed to answer.
const QUEUE_PAUSE: Duration = Duration::from_millis(500);

struct Connection {
    worker: Arc<Worker>,
    lane: Arc<Lane>,
    slot: Slot,
    link: Option<(Link, Guard)>,
}

/// How an attempt was left.
enum Left {
    /// It ended, on the connection of that number.
    Ended(Outcome, u64),
    /// The worker stops; the entry has not reached the intake.
    Undone,
}

/// Runs until there is no work, no right to a connection, or the worker stops.
pub(crate) async fn run(worker: Arc<Worker>, lane: Arc<Lane>, slot: Slot) {
    let mut connection = Connection {
        worker,
        lane: lane.clone(),
        slot,
        link: None,
    };
    while connection.turn().await {}
    connection.close().await;
    drop(connection);
    lane.poke();
}

impl Connection {
    /// One entry; false when the task is to end.
    async fn turn(&mut self) -> bool {
        if self.worker.draining()
            || self.lane.is_retired()
            || self.slot.give_back_above(self.lane.lease.limit())
        {
            return false;
        }
        let mut probe = None;
        if self.link.is_none() {
            match self.lane.start() {
                Start::Probe(guard) => {
                    probe = Some(guard);
                    let pause = self.lane.pause();
                    tokio::select! {
                        () = sleep(pause) => {}
                        () = self.worker.drained() => return false,
                    }
                }
                Start::DialFirst => {
                    if !self.dial_first().await {
                        return false;
                    }
                }
            }
        }
        let Some(entry) = self.next_entry().await else {
            return false;
        };
        self.deliver(entry, probe).await;
        true
    }

    async fn dial_first(&mut self) -> bool {
        let intake = self.lane.intake();
        let budget = Budget::lasting(DIAL_WITHIN);
        let dialed = tokio::select! {
            dialed = dialer::dial(&self.worker, &self.lane.tls, &intake, budget) => dialed,
            () = self.worker.drained() => return false,
        };
        match dialed {
            Ok(link) => {
                self.link = Some((link, self.lane.established()));
                true
            }
            Err(undialed) => {
                self.lane.refused(&undialed.outcome);
                false
            }
        }
    }

    /// The next entry; waits for one as long as the connection is worth keeping.
    async fn next_entry(&mut self) -> Option<Claimed> {
        let until = Instant::now() + self.worker.config.idle;
        loop {
            if self.worker.draining() || self.lane.is_retired() {
                return None;
            }
            match self
                .worker
                .queue
                .claim(&self.lane.name, &self.worker.config.consumer, 1)
                .await
            {
                Ok(mut claims) => {
                    self.worker.account.expired(&claims.expired);
                    if let Some(entry) = claims.entries.pop() {
                        // Where one was there may be another.
                        self.lane.wake(1);
                        return Some(entry);
                    }
                }
                Err(error) => {
                    tracing::debug!(intake = %self.lane.name, %error, "no entry could be claimed");
                    sleep(QUEUE_PAUSE).await;
                }
            }
            let (link, _) = self.link.as_mut()?;
            tokio::select! {
                () = self.lane.work() => {}
                () = sleep_until(until) => return None,
                () = link.disturbed() => {
                    self.drop_link();
                    return None;
                }
                () = self.worker.drained() => return None,
            }
        }
    }

    /// One attempt for one entry, and what follows from it.
    async fn deliver(&mut self, entry: Claimed, probe: Option<Guard>) {
        let started = Instant::now();
        let budget = Budget::until(started + entry.remaining);
        let _held = self.worker.claims.hold(entry.claim.clone());
        let _busy = self.lane.busy();
        let span = self.worker.account.span(&entry);
        let left = self.attempt(&entry, budget, probe).instrument(span.clone()).await;
        let Left::Ended(outcome, dcid) = left else {
            settle::release(&self.worker, &entry.claim).await;
            return;
        };
        if matches!(outcome, Outcome::Delivered(_)) {
            self.lane.lease.delivered(started.elapsed());
        }
        let history = History {
            attempts: entry.attempts,
            possible_delivery: entry.possible_delivery,
            left: budget.left(),
        };
        let step = conclude(
            &outcome,
            history,
            &self.lane.intake().retry,
            self.worker.retry_delay(),
        );
        let attempt = Attempt {
            entry: &entry,
            dcid,
            outcome: &outcome,
            took: started.elapsed(),
        };
        self.worker.account.attempt(&attempt, &step, &span);
        settle::settle(&self.worker, &entry, step, budget)
            .instrument(span)
            .await;
        // Only now: what the server answers to RSET or QUIT must not keep the entry's end from the queue.
        self.after(&outcome).await;
    }

    /// Tries to bring one entry to the intake.
    async fn attempt(&mut self, entry: &Claimed, budget: Budget, mut probe: Option<Guard>) -> Left {
        let intake = self.lane.intake();
        let copy = copy::make(entry, &intake, &self.worker.config.helo);
        self.worker.account.bytes(copy.size);
        let retry = entry.attempts > 0;
        let worn = |link: &Link| !Arc::ptr_eq(&link.intake, &intake) || (retry && link.messages > 0);
        if self.link.as_ref().is_some_and(|(link, _)| worn(link)) {
            self.close().await;
        }
        loop {
            if self.link.is_none() {
                let dialed = tokio::select! {
                    dialed = dialer::dial(&self.worker, &self.lane.tls, &intake, budget) => dialed,
                    () = self.worker.drained() => return Left::Undone,
                };
                match dialed {
                    Ok(link) => self.link = Some((link, self.lane.established())),
                    Err(Undialed { outcome, dcid }) => {
                        self.lane.refused(&outcome);
                        return Left::Ended(outcome, dcid);
                    }
                }
            }
            drop(probe.take());
            let Some((link, _)) = self.link.as_mut() else {
                return Left::Undone;
            };
            let dcid = link.dcid;
            let sent = tokio::select! {
                sent = transaction::send(link, &copy, budget) => sent,
                () = self.worker.over() => {
                    let stage = link.stage;
                    self.drop_link();
                    return if stage == Stage::Dot {
                        Left::Ended(Outcome::NoAnswer("the worker had to stop".into()), dcid)
                    } else {
                        Left::Undone
                    };
                }
            };
            match sent {
                Sent::Stale(outcome) => {
                    tracing::debug!(dcid, %outcome, "the intake had left the connection; another is opened");
                    self.drop_link();
                }
                Sent::Done(outcome) => return Left::Ended(outcome, dcid),
            }
        }
    }

    /// Keeps the connection for the next entry, or ends it.
    async fn after(&mut self, outcome: &Outcome) {
        let Some((link, _)) = self.link.as_mut() else {
            return;
        };
        link.messages += 1;
        if matches!(outcome, Outcome::Replied { code: 421, .. }) {
            self.lane.dismissed(outcome);
        }
        let full = link.messages >= link.intake.connections.messages_per_connection.max(1);
        match transaction::reusable(link, outcome) {
            None => self.drop_link(),
            Some(_) if full => self.close().await,
            Some(Reset::No) => {}
            Some(Reset::Yes) => {
                link.session.rset();
                let limit = link.timeouts.quit;
                let reply = link.reply(limit, Budget::lasting(limit)).await;
                if !reply.is_ok_and(|reply| reply.is_positive()) {
                    self.drop_link();
                }
            }
        }
    }

    /// Ends the connection in order.
    async fn close(&mut self) {
        if let Some((link, established)) = self.link.take() {
            drop(established);
            let dcid = link.dcid;
            link.quit().await;
            self.worker.account.closed(dcid);
        }
    }

    /// Ends a connection on which nothing can be said any more.
    fn drop_link(&mut self) {
        if let Some((link, _)) = self.link.take() {
            self.worker.account.closed(link.dcid);
        }
    }
}
