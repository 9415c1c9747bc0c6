//! A task that holds one SMTP connection at a time, and brings entries over it: claim, deliver, settle, again.
//!
//! What always holds: an entry that was claimed here is settled exactly once (ended, put back for a retry, or
//! released), unless the queue does not answer; then its claim lapses and another worker takes it. A connection that
//! the server has left before it saw a message costs that message nothing.
//!
//! The end of a delivery is noted while the next one goes on ([`Unsettled`]), and entries are claimed ahead where they
//! go fast ([`crate::stock`]): a good connection waits for the queue once for many messages. Where a claim has left
//! nothing, nobody asks before the queue rings.

use std::sync::Arc;
use std::time::Duration;

use tdc_core::outcome::{Outcome, Stage};
use tdc_failpoint::hit;
use tdc_queue::{Claimed, QueueError};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::Instrument as _;

use crate::account::Attempt;
use crate::conclude::{History, conclude};
use crate::copy;
use crate::dialer::{self, Undialed};
use crate::lane::{Guard, Lane, Start};
use crate::link::{Budget, Link};
use crate::settle::{self, Ended, Unsettled};
use crate::slots::Slot;
use crate::stock::Taken;
use crate::transaction::{self, Reset, Sent};
use crate::worker::Worker;

/// How long a connection that has no entry yet may take to be opened, over all hosts.
const DIAL_WITHIN: Duration = Duration::from_secs(45);
/// After the queue failed to answer.
const QUEUE_PAUSE: Duration = Duration::from_millis(500);
/// Up to this part of the memory, connections claim without waiting for each other.
const FREELY: u64 = 8;

struct Connection {
    worker: Arc<Worker>,
    lane: Arc<Lane>,
    slot: Slot,
    link: Option<(Link, Guard)>,
    unsettled: Unsettled,
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
        unsettled: Unsettled::default(),
    };
    while connection.turn().await {}
    // Whoever goes on may take it at once; perhaps nobody does.
    let left = lane.stock.older_than(Duration::ZERO);
    settle::release(&connection.worker, left).await;
    connection.close().await;
    connection.unsettled.all().await;
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
        // Outside of the delivery's own limit: an earlier one may take longer to be noted.
        self.unsettled.room().await;
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
        let Some(taken) = self.next_entry().await else {
            return false;
        };
        let mid = taken.entry.meta.mid;
        let limit = taken.entry.remaining + self.worker.config.stuck_after;
        if timeout(limit, self.deliver(taken, probe)).await.is_err() {
            stuck(&self.worker, &self.lane.name, mid);
            self.drop_link();
        }
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

    /// An entry, when one is ready and there is memory for it; further ones go to the stock.
    async fn claim(&self) -> Result<Option<Taken>, QueueError> {
        if let Some(taken) = self.lane.stock.take() {
            return Ok(Some(taken));
        }
        // An open connection can wait for the ring: the others may have no reason to be there any more.
        if self.link.is_some() && self.lane.rings.is_empty() {
            return Ok(None);
        }
        let (claims, memory) = (&self.worker.claims, self.worker.config.memory);
        // How large an entry is shows only when it is here: while much is held they come one by one.
        let turn = if claims.bytes() > memory / FREELY {
            Some(self.worker.turns.lock().await)
        } else {
            None
        };
        if claims.bytes() >= memory {
            return Ok(None);
        }
        let ahead = if turn.is_some() {
            0
        } else {
            self.lane.stock.wants(self.lane.slots.count())
        };
        let consumer = &self.worker.config.consumer;
        let ring = self.lane.rings.last();
        let found = self
            .worker
            .queue
            .claim(&self.lane.name, consumer, 1 + ahead)
            .await?;
        self.worker.account.expired(&found.expired);
        if !found.more {
            self.lane.rings.emptied(ring);
        }
        if found.entries.is_empty() {
            return Ok(None);
        }
        hit("delivery.claimed");
        let mut taken = found.entries.into_iter().map(|entry| {
            let bytes = entry.body.iter().map(|chunk| chunk.len() as u64).sum();
            let held = claims.hold(entry.claim.clone(), bytes);
            Taken { entry, held }
        });
        let first = taken.next();
        let others = taken.len() as u64;
        self.lane.stock.put(taken);
        self.lane.wake(u64::from(found.more) + others);
        Ok(first)
    }

    /// The next entry; waits for one as long as the connection is worth keeping.
    async fn next_entry(&mut self) -> Option<Taken> {
        let until = Instant::now() + self.worker.config.idle;
        loop {
            if self.worker.draining() || self.lane.is_retired() {
                return None;
            }
            // Idle already while it looks, so that a ring in this moment is not lost.
            let idle = self.lane.idle();
            match self.claim().await {
                Ok(found) if found.is_some() => return found,
                Ok(_) => {}
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
            drop(idle);
        }
    }

    /// One attempt for one entry, and what follows from it.
    async fn deliver(&mut self, taken: Taken, probe: Option<Guard>) {
        let Taken { entry, held } = taken;
        let started = Instant::now();
        let budget = Budget::until(started + entry.remaining);
        let span = self.worker.account.span(&entry);
        let left = self.attempt(&entry, budget, probe).instrument(span.clone()).await;
        let Left::Ended(outcome, dcid) = left else {
            settle::release(&self.worker, [Taken { entry, held }]).await;
            return;
        };
        if matches!(outcome, Outcome::Delivered(_)) {
            let octets = entry.body.iter().map(|chunk| chunk.len() as u64).sum();
            self.lane.lease.delivered(started.elapsed());
            self.lane.stock.delivered(started.elapsed(), octets);
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
        // The body is not needed any more, and may be large.
        let Claimed {
            claim, meta, body, ..
        } = entry;
        drop(body);
        let delivered = matches!(outcome, Outcome::Delivered(_));
        held.attempted(delivered);
        let (worker, intake) = (self.worker.clone(), self.lane.name.clone());
        let limit = budget.left() + self.worker.config.stuck_after;
        let settling = async move {
            let mid = meta.mid;
            let ended = Ended { claim, mid };
            let settled = settle::settle(&worker, &ended, step, budget);
            if timeout(limit, settled).await.is_err() {
                stuck(&worker, &intake, mid);
            }
            drop(held);
        };
        let settling = settling.instrument(span);
        if delivered {
            self.unsettled.push(settling);
        } else {
            settling.await;
        }
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
                    Ok(link) => {
                        hit("delivery.dialed");
                        self.link = Some((link, self.lane.established()));
                    }
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
            self.worker.account.begins(entry.meta.mid, dcid);
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
            hit("delivery.quit");
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

/// Every step has a limit of its own, so this is a defect. The claim is not spoken for any more and lapses.
fn stuck(worker: &Worker, intake: &str, mid: u64) {
    tracing::error!(mid, intake, "a delivery was stuck and is given up");
    worker.account.stuck(intake);
}
