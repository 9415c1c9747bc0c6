//! The journal queue: holds the copies between the moment a message is relayed and the moment its copy is delivered.
//! (The invariants stand here; see the helper's text below.)

pub mod entry;

pub use entry::*;

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

/// See the module's text.
#[async_trait]
pub trait JournalQueue: Send + Sync + 'static {
    /// Stores one chunk of a body that is still arriving. Chunks of an entry are numbered from 0 without gaps, each
    /// at most [`MAX_CHUNK`] bytes. Until `prepare`, nothing but this body exists and it expires by itself.
    async fn write_chunk(&self, entry: &EntryKey, index: u32, chunk: Bytes) -> Result<(), QueueError>;

    /// Makes the entry durable and *prepared*: not yet deliverable, in doubt after `entry.deadline`.
    /// `rest` are the chunks from `first_index` on that were not written before. One round trip.
    async fn prepare(&self, entry: NewEntry, first_index: u32, rest: Vec<Bytes>) -> Result<(), QueueError>;

    /// Makes prepared entries ready for delivery; their lifetime starts now. Safe to repeat.
    async fn commit(&self, entries: &[EntryKey]) -> Result<(), QueueError>;

    /// Forgets entries that were not committed, prepared or still being written. Safe to repeat.
    async fn abort(&self, entries: &[EntryKey]) -> Result<(), QueueError>;

    /// Takes up to `max` ready entries of one intake for `consumer`, abandoned ones of other consumers first.
    /// Entries whose lifetime is over are expired on the way and not returned.
    async fn claim(&self, intake: &str, consumer: &str, max: usize) -> Result<Vec<Claimed>, QueueError>;

    /// Says that `consumer` still works on these; without it another consumer takes them over after [`ABANDONED_AFTER`].
    async fn heartbeat(&self, consumer: &str, claimed: &[ClaimRef]) -> Result<(), QueueError>;

    /// Ends an entry. `Ok(false)`: it was not this consumer's any more; nothing was counted.
    async fn complete(&self, consumer: &str, claimed: &ClaimRef, end: End) -> Result<bool, QueueError>;

    /// Puts an entry back to be tried again after `delay` (counts a soft bounce and one attempt).
    async fn retry(&self, consumer: &str, claimed: &ClaimRef, delay: Duration, why: RetryReason) -> Result<bool, QueueError>;

    /// Gives entries back at once, as if they had never been claimed: no attempt is counted.
    async fn release(&self, consumer: &str, claimed: &[ClaimRef]) -> Result<(), QueueError>;

    /// One round of housekeeping for an intake: promotes due retries, commits entries in doubt (marked so),
    /// expires what is over its lifetime. Any number of processes may sweep at the same time.
    async fn sweep(&self, intake: &str) -> Result<Sweep, QueueError>;

    /// Depth, ages and counters of one intake.
    async fn stats(&self, intake: &str) -> Result<Stats, QueueError>;

    /// Every intake that has or had entries.
    async fn intakes(&self) -> Result<Vec<String>, QueueError>;

    /// Returns when an entry of some intake may have become ready, or after `at_most`; may wake without reason.
    async fn wait(&self, at_most: Duration);

    /// Hands out `count` consecutive numbers of a series, never handed out before by this queue; returns the first.
    async fn reserve_ids(&self, series: Series, count: u64) -> Result<u64, QueueError>;

    /// Fails with the reason when the queue cannot take entries now. For readiness.
    async fn check(&self) -> Result<(), QueueError>;
}
