//! Leases on the connections to an intake: how many the cluster may have, and how many of them one worker.
//!
//! Connections are counted for the cluster, not for the worker: each worker says what it has and what it would like,
//! and hears what it may have now. [`Book`] is the whole decision, without a clock; `lua/lease.lua` is the same one for
//! Redis, and `tests/leases.rs` holds the two against each other.
//!
//! What always holds:
//!
//! 1. What is granted never takes the total above the target, nor the target above `max`.
//! 2. A count is never below the connections that exist: `max(granted, open)` is written down.
//! 3. A call changes the caller's own lease only. One that leaves it with no connection leaves it no lease.
//! 4. A lease that was not renewed for [`LEASE_FOR`] is gone, and its share is free for the others.
//! 5. Workers that want more than there is get equal shares; who has more than its share is granted less at its next
//!    call. What a worker wants is remembered as long as a lease is, also when it was granted nothing.
//!
//! The target: while entries wait at least `min` connections, but no more than entries; more when the backlog would take
//! longer than [`DRAIN`]; never more than `max` nor than the window. The window is what the intake is believed to bear:
//! each refusal takes it to one less than there were connections (1/N), each good delivery raises it by 1/N, so that
//! it grows by one for every round of good deliveries (as in Postfix's scheduler). A death between two calls costs at
//! most the feedback that was not handed in.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::entry::bounded;

/// A lease that is not renewed for this long is gone.
pub const LEASE_FOR: Duration = Duration::from_secs(15);
/// How often a worker that has connections or wants some calls, at least; one that has and wants none never calls.
pub const LEASE_EVERY: Duration = Duration::from_secs(1);
/// A backlog should be gone within this time: well below the 120 s that a copy lives.
pub(crate) const DRAIN: Duration = Duration::from_secs(10);
/// The service time before anything was measured: a transaction of a few round trips.
pub(crate) const FIRST_GUESS: Duration = Duration::from_millis(100);

/// What a worker says of its connections to an intake, and what it would like.
///
/// When to call: [`LEASE_EVERY`] while it has connections or would like some, and at once when something is ready and
/// it has too few; once more with `open` and `wanted` 0 after its last connection ended, which gives everything back.
/// A worker that has and wants nothing does not call: however many intakes there are, idle ones cost nothing
/// ([`crate::JournalQueue::backlog`] asks for all of them at once). Between a call and its answer no connection is
/// opened, so that `open` stays true.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaseRequest {
    /// While entries wait, at least this many connections in the cluster (`spec.connections.min` of the intake).
    pub min: u32,
    /// Never more than this many in the cluster (`spec.connections.max`).
    pub max: u32,
    /// Connections of this worker that exist now, with those being opened.
    pub open: u32,
    /// How many it would like to have at most; 0: none any more.
    pub wanted: u32,
    /// Good deliveries since its last call.
    pub delivered: u32,
    /// Connections refused, ended to be left alone, or too slow, since its last call.
    pub refused: u32,
    /// Its mean service time of a copy since the last call.
    pub service: Option<Duration>,
    /// Whether the newest attempt to connect succeeded; `None`: not tried since the last call.
    pub reachable: Option<bool>,
    /// The newest failure, for `hoststatus`; cut to [`crate::MAX_DETAIL`] bytes.
    pub last_error: Option<String>,
}

/// What a worker may have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeaseGrant {
    /// Connections that it may have now. With more open than that, it ends some after their message.
    pub connections: u32,
    /// What the cluster should have now.
    pub target: u32,
    /// What is leased in the cluster, this call's included; above `target` only while a smaller one is being reached.
    pub total: u32,
    /// Entries that are ready or in flight.
    pub waiting: u64,
}

/// The connections of the cluster to one intake.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LeaseStatus {
    /// Leased by all workers together.
    pub total: u32,
    /// Workers that hold some.
    pub holders: u32,
    /// What the intake is believed to bear; `None`: it has not refused any, or bears `max` by now.
    pub window: Option<f64>,
    /// Smoothed time of one copy.
    pub service: Duration,
    /// Since when the newest attempt to connect has failed, Unix milliseconds by the queue's clock; `None`: it is up.
    pub down_since_ms: Option<u64>,
    /// The newest failure and when it was told, Unix milliseconds by the queue's clock.
    pub last_error: Option<(String, u64)>,
    /// When a worker last told of a delivery or of an attempt to connect, Unix milliseconds by the queue's clock.
    pub last_activity_ms: Option<u64>,
}

/// One worker's part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Holder {
    /// Leased: the larger of what was granted and what existed.
    count: u32,
    /// Existed at its last call.
    open: u32,
    wanted: u32,
    /// When it is gone, in ms.
    until: u64,
}

/// The leases of one intake. Times are milliseconds of one clock.
#[derive(Clone, Debug)]
pub(crate) struct Book {
    holders: BTreeMap<Arc<str>, Holder>,
    /// At least 1; infinite until the intake refuses for the first time.
    window: f64,
    /// Smoothed time for one copy, µs.
    service: f64,
    down_since: Option<u64>,
    last_error: Option<(String, u64)>,
    last_activity: Option<u64>,
}

impl Default for Book {
    fn default() -> Self {
        Self {
            holders: BTreeMap::new(),
            window: f64::INFINITY,
            service: micros(FIRST_GUESS),
            down_since: None,
            last_error: None,
            last_activity: None,
        }
    }
}

/// Microseconds, as the scripts take them.
pub(crate) fn micros(time: Duration) -> f64 {
    // A year is beyond every timeout, and keeps all sums exact enough.
    const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);
    time.min(LONGEST).as_micros() as f64
}

impl Book {
    /// Takes a worker's feedback, and says what it may have.
    pub(crate) fn lease(
        &mut self,
        consumer: &str,
        request: &LeaseRequest,
        waiting: u64,
        now: u64,
    ) -> LeaseGrant {
        self.holders.retain(|_, holder| holder.until > now);
        let before = self.holders.remove(consumer).map_or(0, |own| own.count);
        self.learn(request, before, now);
        let target = self.target(request, waiting);
        let others: u32 = self.count();
        let share = self.share(request.wanted, before.max(request.open), target, consumer);
        let connections = share.min(target.saturating_sub(others));
        let count = connections.max(request.open);
        if count > 0 || request.wanted > 0 {
            let own = Holder {
                count,
                open: request.open,
                wanted: request.wanted,
                until: now.saturating_add(u64::try_from(LEASE_FOR.as_millis()).unwrap_or(u64::MAX)),
            };
            self.holders.insert(consumer.into(), own);
        }
        LeaseGrant {
            connections,
            target,
            total: others.saturating_add(count),
            waiting,
        }
    }

    /// What there is.
    pub(crate) fn status(&self, now: u64) -> LeaseStatus {
        let alive = self.holders.values().filter(|h| h.until > now && h.count > 0);
        LeaseStatus {
            total: alive.clone().fold(0, |sum, h| sum.saturating_add(h.count)),
            holders: u32::try_from(alive.count()).unwrap_or(u32::MAX),
            window: self.window.is_finite().then_some(self.window),
            service: Duration::from_micros(self.service as u64),
            down_since_ms: self.down_since,
            last_error: self.last_error.clone(),
            last_activity_ms: self.last_activity,
        }
    }

    /// Makes a worker look as if it had not called for `by` ms: a crash without the waiting, for tests.
    pub(crate) fn age(&mut self, consumer: &str, by: u64) {
        if let Some(holder) = self.holders.get_mut(consumer) {
            holder.until = holder.until.saturating_sub(by);
        }
    }

    fn count(&self) -> u32 {
        self.holders
            .values()
            .fold(0, |sum, h| sum.saturating_add(h.count))
    }

    fn learn(&mut self, request: &LeaseRequest, before: u32, now: u64) {
        if let Some(time) = request.service {
            // The weight of a mean grows with how many it is made of: one counts a fifth.
            let n = f64::from(request.delivered.max(1));
            self.service += n / (n + 4.0) * (micros(time) - self.service);
        }
        // 1/w for each delivery, summed: w² grows by two.
        self.window = (self.window * self.window + 2.0 * f64::from(request.delivered)).sqrt();
        if request.refused > 0 {
            let others = self
                .holders
                .values()
                .fold(0_u32, |sum, h| sum.saturating_add(h.open));
            // Of the caller's: those that were refused are gone, those that were slow are not.
            let own = before
                .max(request.open)
                .min(request.open.saturating_add(request.refused));
            let there = f64::from(others) + f64::from(own);
            self.window = (self.window.min(there) - f64::from(request.refused)).max(1.0);
        }
        if self.window >= f64::from(request.max) {
            self.window = f64::INFINITY;
        }
        if request.delivered > 0 || request.refused > 0 || request.reachable.is_some() {
            self.last_activity = Some(now);
        }
        match request.reachable {
            Some(true) => self.down_since = None,
            Some(false) => self.down_since = self.down_since.or(Some(now)),
            None => {}
        }
        if let Some(error) = request.last_error.as_ref().filter(|text| !text.is_empty()) {
            self.last_error = Some((bounded(error).to_owned(), now));
        }
    }

    fn target(&self, request: &LeaseRequest, waiting: u64) -> u32 {
        if waiting == 0 {
            return 0;
        }
        let waiting = waiting as f64;
        let floor = f64::from(request.min.max(1)).min(waiting);
        let backlog = (waiting * self.service / micros(DRAIN)).ceil().min(waiting);
        let most = f64::from(request.max.max(1)).min(self.window.floor());
        // Between 1 and `max`, so that the conversion is exact.
        floor.max(backlog).min(most).max(1.0) as u32
    }

    /// The caller's fair share of the target: those that want little get it, the others equal parts of the rest. What
    /// does not divide goes to those that have most already, so that nothing moves without need.
    fn share(&self, wanted: u32, count: u32, target: u32, consumer: &str) -> u32 {
        let mut all: Vec<(u32, u32, &str)> = self
            .holders
            .iter()
            .map(|(name, h)| (h.wanted, h.count, &**name))
            .chain([(wanted, count, consumer)])
            .collect();
        all.sort_unstable();
        let mut rest = target;
        for (left, (wanted, _, name)) in (1..=all.len()).rev().zip(all) {
            let share = wanted.min(rest / u32::try_from(left).unwrap_or(u32::MAX));
            if name == consumer {
                return share;
            }
            rest -= share;
        }
        0
    }
}
