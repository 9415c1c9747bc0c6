//! One worker process: its lanes, its heartbeat, its housekeeping, and the order in which they end.
//!
//! The stop has two steps. *Draining*: no entry is taken any more, entries that have not reached the intake go back
//! to the queue, running transactions go on. *Over*, after the grace: what still runs is cut off. [`run`] returns
//! when every connection is closed and every entry is settled, given back, or left to lapse.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tdc_core::evaluator::Snapshot;
use tdc_failpoint::hit;
use tdc_queue::{ClaimRef, HEARTBEAT_EVERY, IdSource, JournalQueue, Series};
use tdc_telemetry::{MailLog, Shutdown};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use crate::account::Account;
use crate::claims::Claims;
use crate::config::WorkerConfig;
use crate::lane::{self, Lane};
use crate::metrics::WorkerMetrics;
use crate::resolve::Resolver;

/// Between two rounds of housekeeping, with up to a quarter more or less, so that workers do not sweep in step.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// The longest time without a look at the queue.
const BELL_AT_LEAST: Duration = Duration::from_secs(1);
/// The shortest time between two looks at the queue, however often it rings: for each, and more for each intake.
const BELL_AT_MOST: (Duration, Duration) = (Duration::from_millis(5), Duration::from_micros(50));
/// Every intake is swept once in so many rounds, also when it holds nothing: workers that are gone are forgotten.
const SWEEP_ALL: usize = 60;
/// What the tasks may take to end after the grace.
const LAST_STEPS: Duration = Duration::from_secs(3);

/// What a worker works with.
pub struct Deps {
    /// Where the entries are.
    pub queue: Arc<dyn JournalQueue>,
    /// The newest policy snapshot; `None` until the first one came. Its intakes are the ones that are served.
    pub snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
    /// Where mail-log events go.
    pub mail_log: MailLog,
    /// What is counted: the metrics of [`WorkerMetrics::register`].
    pub metrics: WorkerMetrics,
    /// Numbers for delivery connections.
    pub ids: Arc<IdSource>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Running,
    Draining,
    Over,
}

/// What all tasks of the worker share.
pub(crate) struct Worker {
    pub(crate) config: WorkerConfig,
    pub(crate) queue: Arc<dyn JournalQueue>,
    pub(crate) account: Account,
    pub(crate) resolver: Resolver,
    pub(crate) claims: Claims,
    pub(crate) started: Instant,
    /// Who claims while memory is scarce.
    pub(crate) turns: tokio::sync::Mutex<()>,
    ids: Arc<IdSource>,
    phase: watch::Receiver<Phase>,
}

impl Worker {
    pub(crate) fn next_dcid(&self) -> u64 {
        self.ids.next(Series::Dcid)
    }

    /// A wait before a retry.
    pub(crate) fn retry_delay(&self) -> Duration {
        let (least, most) = self.config.retry_delay;
        least + most.saturating_sub(least).mul_f64(fastrand::f64())
    }

    pub(crate) fn draining(&self) -> bool {
        *self.phase.borrow() >= Phase::Draining
    }

    /// Returns when the worker drains.
    pub(crate) async fn drained(&self) {
        self.reached(Phase::Draining).await;
    }

    /// Returns when the grace is over.
    pub(crate) async fn over(&self) {
        self.reached(Phase::Over).await;
    }

    async fn reached(&self, phase: Phase) {
        // An error means that `run` was dropped, and all of this with it.
        let _ = self.phase.clone().wait_for(|now| *now >= phase).await;
    }
}

/// Runs a worker until the shutdown, then for at most `config.grace` and a few seconds.
///
/// While the queue does not answer, deliveries wait; nothing ends the worker but the shutdown.
pub async fn run(config: WorkerConfig, deps: Deps, shutdown: Shutdown) {
    let Deps {
        queue,
        mut snapshots,
        mail_log,
        metrics,
        ids,
    } = deps;
    let (phase, watching) = watch::channel(Phase::Running);
    let resolver = Resolver::new(config.resolver, config.mx_port, config.timeouts.resolve);
    let worker = Arc::new(Worker {
        config,
        queue,
        account: Account::new(mail_log, metrics),
        resolver,
        claims: Claims::default(),
        started: Instant::now(),
        turns: tokio::sync::Mutex::default(),
        ids,
        phase: watching,
    });
    let (names, served) = watch::channel(HashMap::new());
    let mut helpers = JoinSet::new();
    helpers.spawn(ring(worker.clone(), served.clone()));
    helpers.spawn(heartbeat(worker.clone()));
    helpers.spawn(sweep(worker.clone(), served));
    let mut lanes = Lanes {
        worker: worker.clone(),
        tasks: JoinSet::new(),
        names,
    };
    loop {
        let snapshot = snapshots.borrow_and_update().clone();
        if let Some(snapshot) = snapshot {
            lanes.apply(&snapshot);
        }
        tokio::select! {
            changed = snapshots.changed() => if changed.is_err() {
                // Nobody sends snapshots any more: the last one stays.
                shutdown.started().await;
                break;
            },
            () = shutdown.started() => break,
        }
    }
    phase.send_replace(Phase::Draining);
    hit("delivery.draining");
    tracing::info!("the worker takes no entries any more and finishes what it has begun");
    if timeout(worker.config.grace, lanes.ended()).await.is_err() {
        tracing::warn!("the grace is over; transactions that still run are cut off");
        phase.send_replace(Phase::Over);
        let _ = timeout(LAST_STEPS, lanes.ended()).await;
    }
    phase.send_replace(Phase::Over);
    // Seen before the tasks are cut off: with a task its claim is forgotten.
    let left = worker.claims.undelivered();
    lanes.tasks.shutdown().await;
    helpers.shutdown().await;
    give_back(&worker, &left).await;
}

/// Entries whose task was cut off.
async fn give_back(worker: &Worker, left: &[ClaimRef]) {
    if left.is_empty() {
        return;
    }
    let giving = worker.queue.release(&worker.config.consumer, left);
    if !matches!(timeout(LAST_STEPS, giving).await, Ok(Ok(()))) {
        tracing::warn!(
            entries = left.len(),
            "entries could not be given back; their claims lapse"
        );
    }
}

/// The intakes that are served, by name.
struct Lanes {
    worker: Arc<Worker>,
    tasks: JoinSet<()>,
    names: watch::Sender<HashMap<Arc<str>, Arc<Lane>>>,
}

impl Lanes {
    /// Follows a new snapshot: changed, added and removed intakes.
    fn apply(&mut self, snapshot: &Snapshot) {
        while self.tasks.try_join_next().is_some() {}
        let Self { worker, tasks, names } = self;
        names.send_modify(|lanes| {
            lanes.retain(|name, lane| {
                let stays = snapshot.table.intake(name).is_some();
                if !stays {
                    tracing::info!(intake = %name, "the intake is gone; its entries wait until they expire");
                    lane.retire();
                }
                stays
            });
            for intake in &snapshot.table.intakes {
                if let Some(lane) = lanes.get(&intake.name) {
                    lane.update(intake);
                    continue;
                }
                tracing::info!(intake = %intake.name, "the intake is served");
                let lane = Arc::new(Lane::new(Arc::new(intake.clone())));
                tasks.spawn(lane::run(worker.clone(), lane.clone()));
                lanes.insert(intake.name.clone(), lane);
            }
        });
    }

    async fn ended(&mut self) {
        while self.tasks.join_next().await.is_some() {}
    }
}

/// The intakes that are served, by name.
type Served = watch::Receiver<HashMap<Arc<str>, Arc<Lane>>>;

/// Looks for work when the queue rings, and once in a second: one call for all intakes.
async fn ring(worker: Arc<Worker>, served: Served) {
    while !worker.draining() {
        tokio::select! {
            () = worker.queue.wait(BELL_AT_LEAST) => {}
            () = worker.drained() => return,
        }
        let lanes: Vec<Arc<Lane>> = served.borrow().values().cloned().collect();
        for lane in &lanes {
            lane.rung();
        }
        let names: Vec<&str> = lanes.iter().map(|lane| &*lane.name).collect();
        match worker.queue.backlog(&names).await {
            Ok(counts) => lanes.iter().zip(counts).for_each(|(lane, entries)| {
                lane.waits(entries);
                lane.wake(entries);
            }),
            Err(error) => tracing::debug!(%error, "the queue does not say what waits"),
        }
        let (least, each) = BELL_AT_MOST;
        sleep(least + each * u32::try_from(lanes.len()).unwrap_or(u32::MAX)).await;
    }
}

/// Says for all held entries that they are being worked on.
async fn heartbeat(worker: Arc<Worker>) {
    let mut ticks = interval(HEARTBEAT_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let held = worker.claims.all();
        if held.is_empty() {
            continue;
        }
        hit("delivery.heartbeat");
        if let Err(error) = worker.queue.heartbeat(&worker.config.consumer, &held).await {
            tracing::warn!(entries = held.len(), %error, "the queue did not hear the heartbeat");
        }
    }
}

/// Keeps house for every intake that the queue or the snapshot knows, as far as it holds something.
async fn sweep(worker: Arc<Worker>, served: Served) {
    let mut holding: BTreeSet<String> = BTreeSet::new();
    let mut round = 0;
    loop {
        sleep(SWEEP_EVERY.mul_f64(0.75 + fastrand::f64() / 2.0)).await;
        let lanes = served.borrow().clone();
        let mut names: BTreeSet<String> = lanes.keys().map(|name| name.to_string()).collect();
        let known = match worker.queue.intakes().await {
            Ok(known) => known,
            Err(error) => {
                tracing::debug!(%error, "the queue does not say which intakes it has");
                continue;
            }
        };
        names.extend(known);
        let asked: Vec<&str> = names.iter().map(String::as_str).collect();
        let occupied = match worker.queue.occupied(&asked).await {
            Ok(occupied) => occupied,
            Err(error) => {
                tracing::debug!(%error, "the queue does not say which intakes hold something");
                continue;
            }
        };
        round = (round + 1) % SWEEP_ALL;
        for (number, (name, occupied)) in names.iter().zip(occupied).enumerate() {
            // What is empty now may not have been so when it was looked at last.
            let was = if occupied {
                !holding.insert(name.clone())
            } else {
                holding.remove(name)
            };
            if occupied || was || number % SWEEP_ALL == round {
                sweep_one(&worker, name, lanes.get(&**name)).await;
            }
        }
    }
}

async fn sweep_one(worker: &Worker, name: &str, lane: Option<&Arc<Lane>>) {
    match worker.queue.sweep(name).await {
        Ok(sweep) => {
            hit("delivery.swept");
            worker.account.swept(name, &sweep);
            worker.account.expired(&sweep.expired);
            if !sweep.expired.is_empty() {
                tracing::warn!(
                    intake = name,
                    expired = sweep.expired.len(),
                    "copies expired in the queue"
                );
            }
            if sweep.committed_in_doubt > 0 {
                tracing::warn!(
                    intake = name,
                    in_doubt = sweep.committed_in_doubt,
                    "copies in doubt were committed"
                );
            }
        }
        Err(error) => {
            tracing::debug!(intake = name, %error, "housekeeping was not done");
            return;
        }
    }
    // Of an intake that is not served any more, too: its entries wait until they expire.
    match worker.queue.stats(name).await {
        Ok(stats) => {
            worker.account.queue(name, &stats);
            if let Some(lane) = lane {
                lane.waits(stats.ready + stats.in_flight);
            }
        }
        Err(error) => tracing::debug!(intake = name, %error, "the state of the queue is not known"),
    }
}
