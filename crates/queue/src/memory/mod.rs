//! The queue in memory: for one process, and gone with it.
//!
//! For `tdc standalone`, demos and tests. It keeps the same invariants as the one in Redis but the one of durability,
//! and is bounded in bytes. Each step takes one lock for a short computation, never across an `await`.

mod lane;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::Instant;

use self::lane::Lane;
use crate::doorbell::Doorbell;
use crate::entry::{
    ABANDONED_AFTER, ClaimRef, Claims, DEAD_FOR, End, EntryKey, MAX_CHUNK, NewEntry, RetryReason, Series,
    Stats, Sweep,
};
use crate::{
    DeadLetter, DeadLetters, JournalQueue, LeaseGrant, LeaseRequest, LeaseStatus, QueueError, Replayed,
};

/// Settings of a [`MemoryQueue`].
#[derive(Clone, Debug)]
pub struct MemoryOptions {
    /// Memory for bodies and metadata in bytes, retained ones included; beyond it steps answer [`QueueError::Full`].
    pub max_bytes: u64,
    /// A claim without a heartbeat for this long passes to another consumer.
    pub takeover: Duration,
    /// How long an entry in flight may outlive its lifetime before a sweep ends it.
    pub grace: Duration,
    /// How long an unfinished body stays after its last chunk.
    pub write_ttl: Duration,
    /// How many dead letters stay for each intake.
    pub dead_letters: usize,
    /// How long a dead letter stays whose body is not retained.
    pub dead_for: Duration,
}

impl Default for MemoryOptions {
    fn default() -> Self {
        Self {
            max_bytes: 256 * 1024 * 1024,
            takeover: ABANDONED_AFTER,
            grace: Duration::from_secs(60),
            write_ttl: Duration::from_secs(15 * 60),
            dead_letters: 1000,
            dead_for: DEAD_FOR,
        }
    }
}

/// A moment after another; so late that nobody waits for it when the sum cannot be said.
fn later(now: Instant, by: Duration) -> Instant {
    const NEVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
    now + by.min(NEVER)
}

/// A [`JournalQueue`] in the memory of one process.
#[derive(Debug)]
pub struct MemoryQueue {
    options: MemoryOptions,
    inner: Mutex<Inner>,
    bell: Doorbell,
    /// Unix time at the start, and that moment.
    began: (Duration, Instant),
}

impl Default for MemoryQueue {
    fn default() -> Self {
        Self::new(MemoryOptions::default())
    }
}

#[derive(Debug, Default)]
struct Inner {
    lanes: BTreeMap<Arc<str>, Lane>,
    /// The last number handed out of each series.
    ids: [u64; 3],
}

impl Inner {
    fn lane(&mut self, intake: &Arc<str>) -> &mut Lane {
        self.lanes.entry(Arc::clone(intake)).or_default()
    }

    fn has_room(&self, more: u64, max: u64) -> Result<(), QueueError> {
        let used: u64 = self.lanes.values().map(Lane::bytes).sum();
        if used.saturating_add(more) > max {
            return Err(QueueError::Full(format!(
                "{used} of {max} bytes are in use, {more} more are wanted"
            )));
        }
        Ok(())
    }
}

impl MemoryQueue {
    /// An empty queue.
    pub fn new(options: MemoryOptions) -> Self {
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Self {
            options,
            inner: Mutex::default(),
            bell: Doorbell::default(),
            began: (since_epoch.unwrap_or_default(), Instant::now()),
        }
    }

    /// Makes a consumer's claims look as if it had not been heard of for `by`: a crash without the waiting, for tests.
    #[doc(hidden)]
    pub fn age_claims(&self, consumer: &str, by: Duration) {
        self.inner()
            .lanes
            .values_mut()
            .for_each(|lane| lane.age_claims(consumer, by));
    }

    /// The same for its leases.
    #[doc(hidden)]
    pub fn age_leases(&self, consumer: &str, by: Duration) {
        let by = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        self.inner()
            .lanes
            .values_mut()
            .for_each(|lane| lane.leases.age(consumer, by));
    }

    /// Unix milliseconds that never go back: the wall clock at the start, and a monotonic one from there.
    fn now_ms(&self) -> u64 {
        let now = self.began.0 + self.began.1.elapsed();
        u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
    }

    /// Memory in use, in bytes, as it counts against [`MemoryOptions::max_bytes`].
    pub fn bytes(&self) -> u64 {
        self.inner().lanes.values().map(Lane::bytes).sum()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // A panic inside would be a defect; going on with what is there loses less than stopping.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_chunk(chunk: &Bytes) -> Result<u64, QueueError> {
        if chunk.len() > MAX_CHUNK {
            return Err(QueueError::Full(format!(
                "a chunk of {} bytes: at most {MAX_CHUNK} are taken",
                chunk.len()
            )));
        }
        Ok(chunk.len() as u64)
    }
}

#[async_trait]
impl JournalQueue for MemoryQueue {
    async fn write_chunk(&self, entry: &EntryKey, index: u32, chunk: Bytes) -> Result<(), QueueError> {
        let size = Self::check_chunk(&chunk)?;
        let now = Instant::now();
        let mut inner = self.inner();
        inner.has_room(size + lane::OVERHEAD, self.options.max_bytes)?;
        inner
            .lane(&entry.intake)
            .write(&entry.id, index, chunk, later(now, self.options.write_ttl), now);
        Ok(())
    }

    async fn prepare(&self, entry: NewEntry, first_index: u32, rest: Vec<Bytes>) -> Result<(), QueueError> {
        let size = rest
            .iter()
            .try_fold(0, |sum, chunk| Self::check_chunk(chunk).map(|size| sum + size))?;
        let now = Instant::now();
        let mut inner = self.inner();
        inner.has_room(size + lane::cost(&entry.meta), self.options.max_bytes)?;
        let lane = inner.lane(&entry.key.intake);
        let mut index = first_index;
        for chunk in rest {
            lane.write(
                &entry.key.id,
                index,
                chunk,
                later(now, self.options.write_ttl),
                now,
            );
            index += 1;
        }
        lane.prepare(entry, index, now)
    }

    async fn commit(&self, entries: &[EntryKey]) -> Result<(), QueueError> {
        let now = Instant::now();
        let mut unknown = None;
        let mut inner = self.inner();
        for entry in entries {
            if inner.lane(&entry.intake).commit(&entry.id, false, now).is_none() {
                unknown.get_or_insert_with(|| entry.id.to_string());
            }
        }
        drop(inner);
        self.bell.ring();
        unknown.map_or(Ok(()), |id| Err(QueueError::Unknown(id)))
    }

    async fn abort(&self, entries: &[EntryKey]) -> Result<(), QueueError> {
        let mut inner = self.inner();
        for entry in entries {
            inner.lane(&entry.intake).abort(&entry.id);
        }
        Ok(())
    }

    async fn claim(&self, intake: &str, consumer: &str, max: usize) -> Result<Claims, QueueError> {
        let mut inner = self.inner();
        let Some((name, _)) = inner.lanes.get_key_value(intake) else {
            return Ok(Claims::default());
        };
        let name = Arc::clone(name);
        Ok(inner
            .lane(&name)
            .claim(&name, consumer, max, &self.options, Instant::now()))
    }

    async fn heartbeat(&self, consumer: &str, claimed: &[ClaimRef]) -> Result<(), QueueError> {
        let now = Instant::now();
        let mut inner = self.inner();
        for claim in claimed {
            inner.lane(&claim.key.intake).heartbeat(consumer, claim, now);
        }
        Ok(())
    }

    async fn complete(&self, consumer: &str, claimed: &ClaimRef, end: End) -> Result<bool, QueueError> {
        let mut inner = self.inner();
        let lane = inner.lane(&claimed.key.intake);
        Ok(lane.complete(consumer, claimed, &end, &self.options, Instant::now()))
    }

    async fn retry(
        &self,
        consumer: &str,
        claimed: &ClaimRef,
        delay: Duration,
        why: RetryReason,
    ) -> Result<bool, QueueError> {
        Ok(self.inner().lane(&claimed.key.intake).retry(
            consumer,
            claimed,
            later(Instant::now(), delay),
            &why,
        ))
    }

    async fn release(&self, consumer: &str, claimed: &[ClaimRef]) -> Result<(), QueueError> {
        let mut inner = self.inner();
        let mut given = false;
        for claim in claimed {
            given |= inner.lane(&claim.key.intake).release(consumer, claim);
        }
        drop(inner);
        if given {
            self.bell.ring();
        }
        Ok(())
    }

    async fn sweep(&self, intake: &str) -> Result<Sweep, QueueError> {
        let mut inner = self.inner();
        let Some((name, _)) = inner.lanes.get_key_value(intake) else {
            return Ok(Sweep::default());
        };
        let name = Arc::clone(name);
        let done = inner.lane(&name).sweep(&name, &self.options, Instant::now());
        drop(inner);
        if done != Sweep::default() {
            self.bell.ring();
        }
        Ok(done)
    }

    async fn stats(&self, intake: &str) -> Result<Stats, QueueError> {
        let inner = self.inner();
        Ok(inner
            .lanes
            .get(intake)
            .map(|lane| lane.stats(Instant::now()))
            .unwrap_or_default())
    }

    async fn lease(
        &self,
        intake: &str,
        consumer: &str,
        request: &LeaseRequest,
    ) -> Result<LeaseGrant, QueueError> {
        let now = self.now_ms();
        let mut inner = self.inner();
        let lane = inner.lane(&intake.into());
        let waiting = lane.backlog();
        Ok(lane.leases.lease(consumer, request, waiting, now))
    }

    async fn leases(&self, intake: &str) -> Result<LeaseStatus, QueueError> {
        let now = self.now_ms();
        let inner = self.inner();
        let lane = inner.lanes.get(intake);
        Ok(lane.map(|lane| lane.leases.status(now)).unwrap_or_default())
    }

    async fn backlog(&self, intakes: &[&str]) -> Result<Vec<u64>, QueueError> {
        let inner = self.inner();
        let waiting = |name: &&str| inner.lanes.get(*name).map_or(0, Lane::backlog);
        Ok(intakes.iter().map(waiting).collect())
    }

    async fn occupied(&self, intakes: &[&str]) -> Result<Vec<bool>, QueueError> {
        let inner = self.inner();
        let occupied = |name: &&str| inner.lanes.get(*name).is_some_and(Lane::is_occupied);
        Ok(intakes.iter().map(occupied).collect())
    }

    async fn intakes(&self) -> Result<Vec<String>, QueueError> {
        Ok(self.inner().lanes.keys().map(|name| name.to_string()).collect())
    }

    async fn wait(&self, at_most: Duration) {
        self.bell.wait(at_most).await;
    }

    async fn reserve_ids(&self, series: Series, count: u64) -> Result<u64, QueueError> {
        let mut inner = self.inner();
        let last = match series {
            Series::Icid => &mut inner.ids[0],
            Series::Mid => &mut inner.ids[1],
            Series::Dcid => &mut inner.ids[2],
        };
        let first = *last + 1;
        *last += count.max(1);
        Ok(first)
    }

    async fn check(&self) -> Result<(), QueueError> {
        // Room for one more chunk: a message smaller than that is not turned away after it was said to be ready.
        self.inner().has_room(MAX_CHUNK as u64, self.options.max_bytes)
    }
}

#[async_trait]
impl DeadLetters for MemoryQueue {
    async fn dead_letters(
        &self,
        intake: &str,
        before: Option<&str>,
        max: usize,
    ) -> Result<Vec<DeadLetter>, QueueError> {
        let inner = self.inner();
        let Some((name, lane)) = inner.lanes.get_key_value(intake) else {
            return Ok(Vec::new());
        };
        let named = |letter: &DeadLetter| {
            let key = EntryKey {
                intake: Arc::clone(name),
                id: Arc::clone(&letter.key.id),
            };
            DeadLetter {
                key,
                ..letter.clone()
            }
        };
        Ok(lane.dead_letters(before).take(max).map(named).collect())
    }

    async fn dead_body(&self, entry: &EntryKey) -> Result<Vec<Bytes>, QueueError> {
        let inner = self.inner();
        let body = inner
            .lanes
            .get(&entry.intake)
            .and_then(|lane| lane.dead_body(&entry.id, Instant::now()));
        body.ok_or_else(|| {
            QueueError::Unknown(format!("{}: its body was not retained, or not so long", entry.id))
        })
    }
    async fn replay(&self, letters: &[DeadLetter]) -> Result<Vec<Replayed>, QueueError> {
        let now = Instant::now();
        let mut inner = self.inner();
        let replay = |letter: &DeadLetter| inner.lane(&letter.key.intake).replay(letter, now);
        let done = letters.iter().map(replay).collect();
        drop(inner);
        self.bell.ring();
        Ok(done)
    }

    async fn purge(&self, letters: &[DeadLetter]) -> Result<u64, QueueError> {
        let mut inner = self.inner();
        let purge = |letter: &&DeadLetter| inner.lane(&letter.key.intake).purge(letter);
        Ok(letters.iter().filter(purge).count() as u64)
    }
}
