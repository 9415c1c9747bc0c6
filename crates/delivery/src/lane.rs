//! One intake as this process sees it: its settings, its connections, and the task that decides how many there are.
//!
//! The controller looks at the queue when the queue rings, when a connection ends, and every [`ROUND`] while there is
//! work; it opens connections as [`Demand`] says and wakes idle ones. It never waits for a connection.
//!
//! While nothing is known of the intake's state, that is with no connection established, one connection at a time
//! (the *probe*) takes an entry first and dials on its account. Others dial first and take an entry afterwards, so
//! that an intake that refuses further connections costs no message an attempt; and an intake that is down is asked
//! at a slowing pace ([`Lane::pause`]), so that its backlog is not burnt while it restarts.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tdc_core::outcome::{Next, Outcome, next};
use tdc_core::policy::Intake;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tracing::Instrument as _;

use crate::connection;
use crate::demand::Demand;
use crate::dialer::TlsCache;
use crate::slots::Slots;
use crate::worker::Worker;

/// Between two looks while there is work.
const ROUND: Duration = Duration::from_millis(200);
/// Between two looks when nothing rings.
const IDLE_ROUND: Duration = Duration::from_secs(1);
/// Between two looks however often it rings.
const SHORTEST_ROUND: Duration = Duration::from_millis(20);
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
    demand: Mutex<Demand>,
    /// Connections that are ready for a message or carry one.
    established: AtomicU32,
    /// Entries in this lane's hands.
    busy: AtomicU32,
    /// Connections that wait for an entry.
    idle: AtomicU32,
    probing: AtomicBool,
    refusals: AtomicU32,
    retired: AtomicBool,
    /// Wakes the controller.
    poke: Notify,
    /// Wakes one idle connection.
    work: Notify,
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
    Busy,
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
            count => {
                self.0.counter(count).fetch_sub(1, Ordering::AcqRel);
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
            demand: Mutex::default(),
            established: AtomicU32::new(0),
            busy: AtomicU32::new(0),
            idle: AtomicU32::new(0),
            probing: AtomicBool::new(false),
            refusals: AtomicU32::new(0),
            retired: AtomicBool::new(false),
            poke: Notify::new(),
            work: Notify::new(),
        }
    }

    fn counter(&self, count: Count) -> &AtomicU32 {
        match count {
            Count::Established => &self.established,
            Count::Idle => &self.idle,
            Count::Busy | Count::Probing => &self.busy,
        }
    }

    fn guard(self: &Arc<Self>, count: Count) -> Guard {
        self.counter(count).fetch_add(1, Ordering::AcqRel);
        Guard(self.clone(), count)
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
        self.guard(Count::Established)
    }

    /// An entry is being worked on.
    pub(crate) fn busy(self: &Arc<Self>) -> Guard {
        self.guard(Count::Busy)
    }

    /// Waits for work.
    pub(crate) async fn work(self: &Arc<Self>) {
        let _idle = self.guard(Count::Idle);
        self.work.notified().await;
    }

    /// The intake would not have a connection. Only trouble that may pass is worth a pause: the table of outcomes
    /// wants the others to end at once.
    pub(crate) fn refused(&self, outcome: &Outcome) {
        if next(outcome, 0, &self.intake.load().retry) == Next::Retry {
            self.refusals.fetch_add(1, Ordering::AcqRel);
        } else {
            self.refusals.store(0, Ordering::Release);
        }
        self.demand().refused(self.slots.count());
    }

    /// A copy was delivered.
    pub(crate) fn delivered(&self, took: Duration) {
        let limits = self.intake.load().connections;
        self.demand().delivered(took, &limits);
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

    /// Connections that there may be at most, whatever waits.
    pub(crate) fn most(&self) -> u32 {
        self.demand().target(u64::MAX, &self.intake.load().connections)
    }

    fn demand(&self) -> std::sync::MutexGuard<'_, Demand> {
        self.demand.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs the controller until the worker drains or the intake is gone, then waits for its connections.
pub(crate) async fn run(worker: Arc<Worker>, lane: Arc<Lane>, mut bell: watch::Receiver<u64>) {
    let mut connections = JoinSet::new();
    let mut reachable = true;
    while !worker.draining() && !lane.is_retired() {
        let round = Instant::now();
        match worker.queue.stats(&lane.name).await {
            Ok(stats) => {
                if !std::mem::replace(&mut reachable, true) {
                    tracing::info!(intake = %lane.name, "the queue answers again");
                }
                worker.account.queue(&lane.name, &stats);
                open(&worker, &lane, &mut connections, stats.ready);
            }
            Err(error) => {
                if std::mem::replace(&mut reachable, false) {
                    tracing::error!(intake = %lane.name, %error, "the queue cannot be read; deliveries wait");
                }
            }
        }
        while connections.try_join_next().is_some() {}
        let rest = if lane.slots.count() > 0 { ROUND } else { IDLE_ROUND };
        tokio::select! {
            _ = bell.changed() => {}
            () = lane.poke.notified() => {}
            () = sleep(rest) => {}
            () = worker.drained() => {}
        }
        tokio::time::sleep_until(round + SHORTEST_ROUND).await;
    }
    while connections.join_next().await.is_some() {}
    worker.account.connections(&lane.name, 0, 0);
}

/// Wakes idle connections for what is ready, and opens those that are missing.
fn open(worker: &Arc<Worker>, lane: &Arc<Lane>, connections: &mut JoinSet<()>, ready: u64) {
    let idle = u64::from(lane.idle.load(Ordering::Acquire));
    for _ in 0..ready.min(idle) {
        lane.work.notify_one();
    }
    let limits = lane.intake.load().connections;
    let waiting = ready + u64::from(lane.busy.load(Ordering::Acquire));
    let target = lane.demand().target(waiting, &limits);
    if ready > idle {
        for _ in 0..Demand::growth(target, lane.slots.count(), &limits) {
            let Some(slot) = lane.slots.take(target) else {
                break;
            };
            let task = connection::run(worker.clone(), lane.clone(), slot);
            connections.spawn(task.in_current_span());
        }
    }
    worker.account.connections(&lane.name, lane.slots.count(), target);
}
