//! A queue that does not answer some calls, and counts them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tdc_queue::{
    ClaimRef, Claims, End, EntryKey, JournalQueue, LeaseGrant, LeaseRequest, LeaseStatus, MemoryOptions,
    MemoryQueue, NewEntry, QueueError, RetryReason, Series, Stats, Sweep,
};

/// Answers the first calls of some kinds with "not available".
pub struct Flaky {
    pub inner: MemoryQueue,
    claims: AtomicU32,
    completes: AtomicU32,
    retries: AtomicU32,
    pub heartbeats: AtomicU32,
    /// Calls about single intakes.
    pub calls: AtomicU32,
    /// The end of an entry is never answered.
    pub mute: AtomicBool,
    /// The end of an entry is not answered as long as this is set.
    pub slow: AtomicBool,
    /// No lease is answered.
    pub no_lease: AtomicBool,
}

impl Flaky {
    pub fn new(claims: u32, completes: u32, retries: u32) -> Arc<Self> {
        Arc::new(Self {
            inner: MemoryQueue::new(MemoryOptions::default()),
            claims: claims.into(),
            completes: completes.into(),
            retries: retries.into(),
            heartbeats: 0.into(),
            calls: 0.into(),
            mute: false.into(),
            slow: false.into(),
            no_lease: false.into(),
        })
    }
}

fn fails(left: &AtomicU32) -> Result<(), QueueError> {
    let less = |count: u32| count.checked_sub(1);
    match left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less) {
        Ok(_) => Err(QueueError::Unavailable("for a test".into())),
        Err(_) => Ok(()),
    }
}

#[async_trait]
impl JournalQueue for Flaky {
    async fn write_chunk(&self, entry: &EntryKey, index: u32, chunk: Bytes) -> Result<(), QueueError> {
        self.inner.write_chunk(entry, index, chunk).await
    }
    async fn prepare(&self, entry: NewEntry, first_index: u32, rest: Vec<Bytes>) -> Result<(), QueueError> {
        self.inner.prepare(entry, first_index, rest).await
    }
    async fn commit(&self, entries: &[EntryKey]) -> Result<(), QueueError> {
        self.inner.commit(entries).await
    }
    async fn abort(&self, entries: &[EntryKey]) -> Result<(), QueueError> {
        self.inner.abort(entries).await
    }
    async fn claim(&self, intake: &str, consumer: &str, max: usize) -> Result<Claims, QueueError> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        fails(&self.claims)?;
        self.inner.claim(intake, consumer, max).await
    }
    async fn heartbeat(&self, consumer: &str, claimed: &[ClaimRef]) -> Result<(), QueueError> {
        self.heartbeats.fetch_add(1, Ordering::SeqCst);
        self.inner.heartbeat(consumer, claimed).await
    }
    async fn complete(&self, consumer: &str, claimed: &ClaimRef, end: End) -> Result<bool, QueueError> {
        fails(&self.completes)?;
        if self.mute.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        while self.slow.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.inner.complete(consumer, claimed, end).await
    }
    async fn retry(
        &self,
        consumer: &str,
        claimed: &ClaimRef,
        delay: Duration,
        why: RetryReason,
    ) -> Result<bool, QueueError> {
        fails(&self.retries)?;
        self.inner.retry(consumer, claimed, delay, why).await
    }
    async fn release(&self, consumer: &str, claimed: &[ClaimRef]) -> Result<(), QueueError> {
        self.inner.release(consumer, claimed).await
    }
    async fn sweep(&self, intake: &str) -> Result<Sweep, QueueError> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        self.inner.sweep(intake).await
    }
    async fn stats(&self, intake: &str) -> Result<Stats, QueueError> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        self.inner.stats(intake).await
    }
    async fn lease(
        &self,
        intake: &str,
        consumer: &str,
        request: &LeaseRequest,
    ) -> Result<LeaseGrant, QueueError> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        if self.no_lease.load(Ordering::SeqCst) {
            return Err(QueueError::Unavailable("for a test".into()));
        }
        self.inner.lease(intake, consumer, request).await
    }
    async fn leases(&self, intake: &str) -> Result<LeaseStatus, QueueError> {
        self.inner.leases(intake).await
    }
    async fn backlog(&self, intakes: &[&str]) -> Result<Vec<u64>, QueueError> {
        self.inner.backlog(intakes).await
    }
    async fn occupied(&self, intakes: &[&str]) -> Result<Vec<bool>, QueueError> {
        self.inner.occupied(intakes).await
    }
    async fn intakes(&self) -> Result<Vec<String>, QueueError> {
        self.inner.intakes().await
    }
    async fn wait(&self, at_most: Duration) {
        self.inner.wait(at_most).await;
    }
    async fn reserve_ids(&self, series: Series, count: u64) -> Result<u64, QueueError> {
        self.inner.reserve_ids(series, count).await
    }
    async fn check(&self) -> Result<(), QueueError> {
        self.inner.check().await
    }
}
