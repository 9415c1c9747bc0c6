//! The journal queue: holds the copies between the moment a message is relayed and the moment its copy is delivered.
//!
//! It exists so that the sender's `250` depends on nothing slower than a store in memory or Redis, and so that every copy
//! ends in exactly one counted outcome, whichever process dies in between.
//!
//! An entry is one copy of one message for one intake:
//!
//! ```text
//! write_chunk* ─▶ prepare ─▶ commit ─▶ ready ─▶ claim ─▶ in flight ─▶ complete ─▶ done (Delivered, HardBounced,
//!                    │         ▲         ▲                  │ │ │              PossibleDelivery, Expired)
//!                    ├─ abort  │         ├──── release ─────┘ │ │
//!                    └─ sweep ─┘         ├─ no heartbeat ─────┘ │
//!                     (in doubt)         └─ sweep ◀─ waiting ◀──┘ retry
//! ```
//!
//! What always holds, for both implementations (`tests/conformance.rs` runs one suite on each, `tests/model.rs` random
//! interleavings and crashes against a model):
//!
//! 1. Every committed entry is in exactly one of *ready*, *in flight*, *waiting for retry*, *done*.
//! 2. Counters are exact: they change in the same atomic step as the state. Ends plus active entries are the commits.
//! 3. A claim is one hand-out to one consumer. Once the entry has passed on, the old claim changes nothing: `complete`
//!    and `retry` answer `false`, `heartbeat` and `release` do nothing.
//! 4. An entry whose worker is gone is handed out again: [`ABANDONED_AFTER`] after its last heartbeat, plus at most a
//!    second until somebody claims or sweeps.
//! 5. A prepared entry that nobody commits or aborts is committed by `sweep` after its deadline, marked *in doubt*:
//!    a copy too many can be recognised, a missing one cannot.
//! 6. A delivered or aborted entry leaves nothing but counters. Of one that ended otherwise its metadata stays among the
//!    dead letters (a bounded list) for a time, and its body only when [`NewEntry::retain`] asks for it, and only so
//!    long. A dead letter that is replayed is committed once more: it is among the dead or in the queue, never both.
//! 7. Nothing outlives its lifetime (and retention) by more than the grace, whatever died: bodies carry a TTL. An entry
//!    whose body is gone ends as expired and is counted; it never blocks others.
//! 8. An entry keeps its place in the order of commits until it ends: given back, abandoned or due for a retry, it goes
//!    before what was never claimed.
//!
//! Every step may be repeated after [`QueueError::Unavailable`], which says that its effect is unknown. A repeated
//! `complete` or `retry` that had worked answers `false`; a repeated `commit` whose entry has ended in the meantime
//! answers [`QueueError::Unknown`], as does one whose entry was lost, so that a loss never looks like success.

mod doorbell;
pub mod entry;
mod ids;
mod lease;
mod memory;
mod streams;

pub use entry::*;
pub use ids::{DEFAULT_BLOCK, IdSource};
pub use lease::{LEASE_EVERY, LEASE_FOR, LeaseGrant, LeaseRequest, LeaseStatus};
pub use memory::{MemoryOptions, MemoryQueue};
pub use streams::{Durability, RedisOptions, RedisQueue};

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

/// The queue as ingress, workers and commands see it. The crate's text says what always holds.
#[async_trait]
pub trait JournalQueue: Send + Sync + 'static {
    /// Stores one chunk of a body that is still arriving. Chunks of an entry are numbered from 0 without gaps, each
    /// at most [`MAX_CHUNK`] bytes (else [`QueueError::Full`]). Until `prepare`, nothing but this body exists and it
    /// expires by itself.
    async fn write_chunk(&self, entry: &EntryKey, index: u32, chunk: Bytes) -> Result<(), QueueError>;

    /// Makes the entry durable and *prepared*: not yet deliverable, in doubt after `entry.in_doubt_after`.
    /// `rest` are the chunks from `first_index` on that were not written before. One round trip.
    ///
    /// Fails with [`QueueError::Unknown`] when the chunks do not add up to `entry.size`, for instance because the
    /// earlier ones have expired.
    async fn prepare(&self, entry: NewEntry, first_index: u32, rest: Vec<Bytes>) -> Result<(), QueueError>;

    /// Makes prepared entries ready for delivery; their lifetime starts now. Safe to repeat.
    ///
    /// All that exist are committed, even when the answer is [`QueueError::Unknown`] for another.
    async fn commit(&self, entries: &[EntryKey]) -> Result<(), QueueError>;

    /// Forgets entries that were not committed, prepared or still being written. Safe to repeat.
    async fn abort(&self, entries: &[EntryKey]) -> Result<(), QueueError>;

    /// Takes up to `max` ready entries of one intake for `consumer`, given-back and abandoned ones first.
    /// Entries whose lifetime is over are expired on the way, and told of beside the others.
    ///
    /// `consumer` must be unique to the process (a pod's name and a nonce) and not in parentheses.
    async fn claim(&self, intake: &str, consumer: &str, max: usize) -> Result<Claims, QueueError>;

    /// Says that `consumer` still works on these; without it another consumer takes them over after [`ABANDONED_AFTER`].
    async fn heartbeat(&self, consumer: &str, claimed: &[ClaimRef]) -> Result<(), QueueError>;

    /// Ends an entry. `Ok(false)`: it was not this consumer's any more; nothing was counted.
    async fn complete(&self, consumer: &str, claimed: &ClaimRef, end: End) -> Result<bool, QueueError>;

    /// Puts an entry back to be tried again after `delay` (counts a soft bounce and one attempt). `Ok(false)` as in
    /// `complete`. The first `sweep` after `delay` makes it ready.
    async fn retry(
        &self,
        consumer: &str,
        claimed: &ClaimRef,
        delay: Duration,
        why: RetryReason,
    ) -> Result<bool, QueueError>;

    /// Gives entries back at once, as if they had never been claimed: no attempt is counted.
    async fn release(&self, consumer: &str, claimed: &[ClaimRef]) -> Result<(), QueueError>;

    /// One round of housekeeping for an intake: promotes due retries, commits entries in doubt (marked so),
    /// expires what is over its lifetime. Any number of processes may sweep at the same time.
    async fn sweep(&self, intake: &str) -> Result<Sweep, QueueError>;

    /// Depth, ages and counters of one intake.
    async fn stats(&self, intake: &str) -> Result<Stats, QueueError>;

    /// Takes a worker's feedback on an intake's connections, and says how many it may have. [`LeaseRequest`] says when
    /// to call, and the module `lease` what always holds. One round trip.
    ///
    /// After [`QueueError::Unavailable`] a worker keeps to what it was granted last, and opens no more. A repeated call
    /// may count its feedback twice, which moves the window by a little and harms nothing. `consumer` as for `claim`.
    async fn lease(
        &self,
        intake: &str,
        consumer: &str,
        request: &LeaseRequest,
    ) -> Result<LeaseGrant, QueueError>;

    /// The connections that are leased to an intake, and what is known of it.
    async fn leases(&self, intake: &str) -> Result<LeaseStatus, QueueError>;

    /// How many entries are ready or in flight, for each of these intakes. One round trip, however many they are.
    async fn backlog(&self, intakes: &[&str]) -> Result<Vec<u64>, QueueError>;

    /// Whether there is any entry, committed or prepared, for each of these intakes: whether a sweep may have something
    /// to do. One round trip, however many they are.
    async fn occupied(&self, intakes: &[&str]) -> Result<Vec<bool>, QueueError>;

    /// Every intake that has or had entries.
    async fn intakes(&self) -> Result<Vec<String>, QueueError>;

    /// Returns when an entry of some intake may have become ready, or after `at_most`; may wake without reason.
    async fn wait(&self, at_most: Duration);

    /// Hands out `count` consecutive numbers of a series, never handed out before by this queue; returns the first.
    async fn reserve_ids(&self, series: Series, count: u64) -> Result<u64, QueueError>;

    /// Fails with the reason when the queue cannot take entries now. For readiness.
    async fn check(&self) -> Result<(), QueueError>;
}

/// What became of entries that ended undelivered.
///
/// A dead letter stays for its retention, else for [`DEAD_FOR`], unless newer ones push it out (the list is bounded) or
/// an operator replays or purges it. Whatever way it goes, its body goes with it.
#[async_trait]
pub trait DeadLetters: Send + Sync + 'static {
    /// The dead letters of an intake, newest first, at most `max`; with `before` (a [`DeadLetter::place`]) those that
    /// are older.
    async fn dead_letters(
        &self,
        intake: &str,
        before: Option<&str>,
        max: usize,
    ) -> Result<Vec<DeadLetter>, QueueError>;

    /// The retained body of a dead letter; [`QueueError::Unknown`] when it was not retained or its time is over.
    async fn dead_body(&self, entry: &EntryKey) -> Result<Vec<Bytes>, QueueError>;

    /// Puts dead letters back into the queue, each in one atomic step: out of the dead letters, ready, counted as a
    /// commit and as replayed. The delivery id stays, so that an intake that has the copy recognises it; lifetime and
    /// attempts start anew.
    ///
    /// Safe to repeat: one that is in the queue again by an earlier call is [`Replayed::Done`]. A death on the way leaves
    /// some replayed and the others as they were.
    async fn replay(&self, letters: &[DeadLetter]) -> Result<Vec<Replayed>, QueueError>;

    /// Removes dead letters and their bodies; how many there were. Safe to repeat.
    async fn purge(&self, letters: &[DeadLetter]) -> Result<u64, QueueError>;
}

/// What is cleared away by whoever knows which intakes exist. Nothing that could still be delivered is touched.
#[async_trait]
pub trait Janitor: Send + Sync + 'static {
    /// Every intake that has or had entries, as [`JournalQueue::intakes`].
    async fn intakes(&self) -> Result<Vec<String>, QueueError>;

    /// Depth, ages and counters of one intake, as [`JournalQueue::stats`].
    async fn stats(&self, intake: &str) -> Result<Stats, QueueError>;

    /// Removes the names of workers that hold no entry of this intake and have asked for none for `idle`. A worker
    /// that is alive after all takes its name again when it claims. Returns how many.
    async fn remove_dead_consumers(&self, intake: &str, idle: Duration) -> Result<u64, QueueError>;

    /// Clears the lane of an intake away, with its counters and old dead letters, when it holds no entry in any state
    /// and has had none, nor a dead letter, for `empty_for`. `false`: it stays. Safe to repeat; an entry that comes
    /// meanwhile stays.
    async fn forget(&self, intake: &str, empty_for: Duration) -> Result<bool, QueueError>;
}
