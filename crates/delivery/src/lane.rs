//! One intake as this process sees it: its settings, its connections, and the task that decides how many there are.
//!
//! The controller rests as long as nothing waits and nothing is open: however many intakes there are, those cost no
//! call. With work it asks the queue what it may have of the cluster's connections ([`Lease`]), at once when there is
//! work for which nobody is idle, and every [`LEASE_EVERY`] else; it opens connections as far as it may, and wakes idle
//! ones. It never waits for a connection.
//!
//! While nothing is known of the intake's state, that is with no connection established, one connection at a time
//! (the *probe*) takes an entry first and dials on its account. Others dial first and take an entry afterwards, so
//! that an intake that refuses further connections costs no message an attempt; and an intake that is down is asked
//! at a slowing pace ([`Lane::pause`]), so that its backlog is not burnt while it restarts.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use tdc_core::outcome::{Next, Outcome, next};
use tdc_core::policy::Intake;
use tdc_failpoint::hit;
use tdc_queue::LEASE_EVERY;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::Instrument as _;

use crate::connection;
use crate::dialer::TlsCache;
use crate::lease::{self, Lease};
use crate::rings::Rings;
use crate::settle;
use crate::slots::Slots;
use crate::stock::{self, Stock};
use crate::worker::Worker;

/// Between two questions while there is work for which nobody is idle.
const ROUND: Duration = Duration::from_millis(200);
/// The least between two questions whatever happens.
const SHORTEST_ROUND: Duration = Duration::from_millis(20);
/// Between two renewals while the worker drains: a third of what a lease lasts.
const DRAINING_ROUND: Duration = Duration::from_secs(5);
/// What telling the queue that nothing is left may take; if it fails the lease lapses.
const FAREWELL: Duration = Duration::from_secs(1);
/// The first pause after a refusal; it doubles with each further one, up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(125);
/// Short enough that an intake that is back is noticed at once, long enough that one that restarts does not cost its
/// whole backlog two attempts each.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// One intake.
pub(crate) struct Lane {
    pub(crate) name: Arc<str>,
    intake: ArcSwap<Intake>,
    pub(crate) tls: TlsCache,
    pub(crate) slots: Slots,
    pub(crate) stock: Stock,
    pub(crate) lease: Lease,
    /// Entries that were ready or in flight when the queue was last asked.
    backlog: AtomicU64,
    /// They were fewer before.
    more: AtomicBool,
    /// Connections that are ready for a message or carry one.
    established: AtomicU32,
    /// Connections that wait for an entry.
    idle: AtomicU32,
    probing: AtomicBool,
    refusals: AtomicU32,
    retired: AtomicBool,
    /// Wakes the controller.
    poke: Notify,
    /// Wakes one idle connection.
    work: Notify,
    pub(crate) rings: Rings,
}

/// How a connection may begin.
pub(crate) enum Start {
    /// Take an entry, then dial on its account; nobody else does as long as the guard lives.
    Probe(Guard),
    /// Dial, then take an entry.
    DialFirst,
}

/// Which count a [`Guard`] keeps raised.
#[derive(Clone, Copy, Debug)]
enum Count {
    Established,
    Idle,
    Probing,
}

/// Undoes its count when dropped.
#[must_use = "the count falls when this is dropped"]
pub(crate) struct Guard(Arc<Lane>, Count);

impl Drop for Guard {
    fn drop(&mut self) {
        match self.1 {
            Count::Probing => self.0.probing.store(false, Ordering::Release),
            Count::Established => {
                self.0.established.fetch_sub(1, Ordering::AcqRel);
            }
            Count::Idle => {
                self.0.idle.fetch_sub(1, Ordering::AcqRel);
            }
        }
    }
}

impl Lane {
    pub(crate) fn new(intake: Arc<Intake>) -> Self {
        Self {
            name: intake.name.clone(),
            intake: ArcSwap::new(intake),
            tls: TlsCache::default(),
            slots: Slots::default(),
            stock: Stock::default(),
            lease: Lease::default(),
            backlog: AtomicU64::new(0),
            more: AtomicBool::new(false),
            established: AtomicU32::new(0),
            idle: AtomicU32::new(0),
            probing: AtomicBool::new(false),
            refusals: AtomicU32::new(0),
            retired: AtomicBool::new(false),
            poke: Notify::new(),
            work: Notify::new(),
            rings: Rings::default(),
        }
    }

    /// The settings now.
    pub(crate) fn intake(&self) -> Arc<Intake> {
        self.intake.load_full()
    }

    /// Takes new settings; connections that were opened with others end after their message.
    pub(crate) fn update(&self, intake: &Intake) {
        if **self.intake.load() != *intake {
            self.intake.store(Arc::new(intake.clone()));
            self.poke.notify_one();
        }
    }

    /// No entry is taken any more.
    pub(crate) fn retire(&self) {
        self.retired.store(true, Ordering::Release);
        self.poke.notify_one();
    }

    pub(crate) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Acquire)
    }

    /// Something changed that the controller should look at.
    pub(crate) fn poke(&self) {
        self.poke.notify_one();
    }

    /// That many entries are ready or in flight, of which some may be unserved.
    pub(crate) fn waits(&self, entries: u64) {
        let before = self.backlog.swap(entries, Ordering::AcqRel);
        if entries > before {
            self.more.store(true, Ordering::Release);
        }
        if entries > 0 {
            self.poke.notify_one();
        }
    }

    /// Wakes up to `most` idle connections.
    pub(crate) fn wake(&self, most: u64) {
        let idle = u64::from(self.idle.load(Ordering::Acquire));
        for _ in 0..most.min(idle) {
            self.work.notify_one();
        }
    }

    /// How the next connection begins.
    pub(crate) fn start(self: &Arc<Self>) -> Start {
        let alone = self.established.load(Ordering::Acquire) == 0;
        if alone && !self.probing.swap(true, Ordering::AcqRel) {
            return Start::Probe(Guard(self.clone(), Count::Probing));
        }
        Start::DialFirst
    }

    /// A connection is ready; it is one as long as the guard lives.
    pub(crate) fn established(self: &Arc<Self>) -> Guard {
        self.refusals.store(0, Ordering::Release);
        self.lease.established();
        self.established.fetch_add(1, Ordering::AcqRel);
        Guard(self.clone(), Count::Established)
    }

    /// A connection waits for work as long as the guard lives.
    pub(crate) fn idle(self: &Arc<Self>) -> Guard {
        self.idle.fetch_add(1, Ordering::AcqRel);
        Guard(self.clone(), Count::Idle)
    }

    /// The queue has rung: there may be work again.
    pub(crate) fn rung(&self) {
        self.rings.ring();
        // Before anything is known: who is idle looks for itself.
        self.wake(1);
    }

    /// Returns when there may be work.
    pub(crate) async fn work(&self) {
        self.work.notified().await;
    }

    /// The intake would not have a connection. Only trouble that may pass is worth a pause: the table of outcomes
    /// wants the others to end at once.
    pub(crate) fn refused(&self, outcome: &Outcome) {
        let passes = next(outcome, 0, &self.intake.load().retry) == Next::Retry;
        if passes {
            self.refusals.fetch_add(1, Ordering::AcqRel);
        } else {
            self.refusals.store(0, Ordering::Release);
        }
        self.lease.refused(outcome.to_string(), false, passes);
    }

    /// The intake ended a connection that had been good, to be left alone.
    pub(crate) fn dismissed(&self, outcome: &Outcome) {
        self.lease.refused(outcome.to_string(), true, true);
    }

    /// How long to wait before the intake is asked again.
    pub(crate) fn pause(&self) -> Duration {
        match self.refusals.load(Ordering::Acquire) {
            0 => Duration::ZERO,
            count => FIRST_PAUSE
                .saturating_mul(1 << (count - 1).min(8))
                .min(LONGEST_PAUSE),
        }
    }

    /// When the queue is to be asked, after it was asked at `asked`; `None`: not before something happens.
    fn due(&self, asked: Option<Instant>) -> Option<Instant> {
        let open = self.slots.count();
        let backlog = self.backlog.load(Ordering::Acquire);
        if open == 0 && backlog == 0 && !self.lease.is_held() {
            return None;
        }
        let Some(asked) = asked else {
            return Some(Instant::now());
        };
        let unserved = backlog > 0 && self.idle.load(Ordering::Acquire) == 0;
        let refused = self.lease.limit() == 0 && !self.more.load(Ordering::Acquire);
        Some(if !self.lease.is_held() || (open == 0 && backlog == 0) {
            asked + SHORTEST_ROUND
        } else if unserved && !refused {
            asked + ROUND
        } else {
            asked + LEASE_EVERY
        })
    }
}

/// Runs the controller until the worker drains or the intake is gone, then waits for its connections.
pub(crate) async fn run(worker: Arc<Worker>, lane: Arc<Lane>) {
    let mut connections = JoinSet::new();
    let mut asked: Option<Instant> = None;
    let mut reachable = true;
    while !worker.draining() && !lane.is_retired() {
        while connections.try_join_next().is_some() {}
        let due = lane.due(asked);
        if due.is_some_and(|due| due <= Instant::now()) {
            asked = Some(Instant::now());
            settle::release(&worker, lane.stock.older_than(stock::LONGEST)).await;
            let answered = ask(&worker, &lane, &mut connections).await;
            if std::mem::replace(&mut reachable, answered) != answered {
                say(&lane.name, answered);
            }
            if !answered {
                sleep(ROUND).await;
            }
            continue;
        }
        tokio::select! {
            () = lane.poke.notified() => {}
            () = until(due) => {}
            () = worker.drained() => {}
        }
        if let Some(asked) = asked {
            sleep_until(asked + SHORTEST_ROUND).await;
        }
    }
    end(&worker, &lane, connections).await;
}

/// Sleeps until then, or for ever.
async fn until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}

fn say(intake: &str, answered: bool) {
    if answered {
        tracing::info!(intake, "the queue answers again");
    } else {
        tracing::error!(
            intake,
            "the queue does not say what may be opened; nothing new is"
        );
    }
}

/// Asks what may be open, and does it. False: no answer.
async fn ask(worker: &Arc<Worker>, lane: &Arc<Lane>, connections: &mut JoinSet<()>) -> bool {
    let limits = lane.intake.load().connections;
    let open = lane.slots.count();
    let step = lease::step(open, &limits);
    lane.more.store(false, Ordering::Release);
    let backlog = lane.backlog.load(Ordering::Acquire);
    let wanted = if backlog == 0 {
        0
    } else {
        open.saturating_add(step)
    };
    let request = lane.lease.request(&limits, open, wanted);
    let asked = Instant::now();
    let grant = match worker
        .queue
        .lease(&lane.name, &worker.config.consumer, &request)
        .await
    {
        Ok(grant) => grant,
        Err(error) => {
            tracing::debug!(intake = %lane.name, %error, "no lease was granted");
            lane.lease.unanswered(request);
            return false;
        }
    };
    hit("delivery.leased");
    lane.lease.granted(&request, &grant, asked);
    lane.backlog.store(grant.waiting, Ordering::Release);
    lane.wake(grant.waiting);
    for _ in 0..step {
        let Some(slot) = lane.slots.take(grant.connections) else {
            break;
        };
        let task = connection::run(worker.clone(), lane.clone(), slot);
        connections.spawn(task.in_current_span());
    }
    worker
        .account
        .connections(&lane.name, lane.slots.count(), grant.target, grant.total);
    true
}

/// Waits for the last connections, renews what they hold meanwhile, and gives it back.
async fn end(worker: &Arc<Worker>, lane: &Arc<Lane>, mut connections: JoinSet<()>) {
    settle::release(worker, lane.stock.older_than(Duration::ZERO)).await;
    let limits = lane.intake.load().connections;
    loop {
        let open = lane.slots.count();
        if lane.lease.is_held() {
            let request = lane.lease.request(&limits, open, 0);
            let asked = Instant::now();
            let telling = worker.queue.lease(&lane.name, &worker.config.consumer, &request);
            match timeout(FAREWELL, telling).await {
                Ok(Ok(grant)) => {
                    lane.lease.granted(&request, &grant, asked);
                    worker
                        .account
                        .connections(&lane.name, open, grant.target, grant.total);
                }
                Ok(Err(_)) | Err(_) => lane.lease.unanswered(request),
            }
        }
        if connections.is_empty() {
            break;
        }
        let again = sleep(DRAINING_ROUND);
        tokio::pin!(again);
        loop {
            tokio::select! {
                ended = connections.join_next() => if ended.is_none() { break },
                () = &mut again => break,
            }
        }
    }
    worker.account.connections(&lane.name, 0, 0, 0);
}
