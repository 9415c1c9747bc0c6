//! Hands out the mail log's numbers without waiting.
//!
//! Numbers come from blocks that a task reserves at the queue ahead of time. Within a process they only grow. Between
//! processes they differ as long as the queue answers; when it is away for longer than a block lasts, the process counts
//! on by itself and says so once: mail must not wait for a number that only people read.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tracing::{debug, warn};

use crate::{JournalQueue, QueueError, Series};

/// Numbers reserved at a time: seconds of mail, and few enough that restarts do not make the numbers jump far.
pub const DEFAULT_BLOCK: u64 = 1000;
/// How long the task waits before it asks a queue that was away again.
const ASK_AGAIN: Duration = Duration::from_secs(1);

const ALL: [Series; 3] = [Series::Icid, Series::Mid, Series::Dcid];

/// A source of numbers for each [`Series`]. Dropping it ends its task; the rest of its blocks is never used.
#[derive(Debug)]
pub struct IdSource {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    series: [Mutex<Blocks>; 3],
    low: Notify,
    block: u64,
}

/// The numbers at hand of one series.
#[derive(Debug)]
struct Blocks {
    /// The next number; all that were handed out are smaller.
    next: u64,
    /// The end (exclusive) of the reserved numbers from `next` on. Equal to `next`: none is left.
    end: u64,
    /// The block to go on with; its end is above `next`.
    then: Option<(u64, u64)>,
    /// How far the queue's numbers are behind those this process used while the queue was away.
    behind: u64,
    /// The last number was not reserved.
    adrift: bool,
}

impl IdSource {
    /// Reserves the first blocks and starts the task that reserves the next ones. When the queue is away it starts all
    /// the same and counts from 1, so that numbers of an earlier run may come again.
    pub async fn start(queue: Arc<dyn JournalQueue>) -> Self {
        Self::with_block(queue, DEFAULT_BLOCK).await
    }

    /// As [`Self::start`], with blocks of `block` numbers (at least 2).
    pub async fn with_block(queue: Arc<dyn JournalQueue>, block: u64) -> Self {
        let empty = || {
            Mutex::new(Blocks {
                next: 1,
                end: 1,
                then: None,
                behind: 0,
                adrift: false,
            })
        };
        let shared = Arc::new(Shared {
            series: [empty(), empty(), empty()],
            low: Notify::new(),
            block: block.max(2),
        });
        // When it fails the task tries again, and `next` says so if it comes too late.
        let _ = shared.refill(queue.as_ref()).await;
        let task = tokio::spawn(keep_filled(Arc::clone(&shared), queue));
        Self { shared, task }
    }

    /// The next number of a series. Never waits, never fails.
    pub fn next(&self, series: Series) -> u64 {
        let (id, cast_adrift, low) = self.shared.blocks(series).take(self.shared.block);
        if low {
            self.shared.low.notify_one();
        }
        if cast_adrift {
            warn!(
                ?series,
                "The queue gives no numbers: counting on alone. Other processes may use the same ones until it answers."
            );
        }
        id
    }
}

impl Drop for IdSource {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    fn blocks(&self, series: Series) -> MutexGuard<'_, Blocks> {
        let slot = match series {
            Series::Icid => &self.series[0],
            Series::Mid => &self.series[1],
            Series::Dcid => &self.series[2],
        };
        // No code that holds it can panic; were there some, the numbers would still only grow.
        slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reserves until no series is low.
    async fn refill(&self, queue: &dyn JournalQueue) -> Result<(), QueueError> {
        for series in ALL {
            loop {
                let wanted = self.blocks(series).wanted(self.block);
                let Some(count) = wanted else { break };
                let first = queue.reserve_ids(series, count).await?;
                self.blocks(series).add(first, count);
            }
        }
        Ok(())
    }
}

impl Blocks {
    /// Takes a number. Also: it is the first of those that nobody reserved; the task should reserve more.
    fn take(&mut self, block: u64) -> (u64, bool, bool) {
        if self.next == self.end
            && let Some((first, end)) = self.then.take()
        {
            self.next = self.next.max(first);
            self.end = end;
        }
        let id = self.next;
        self.next += 1;
        let alone = id >= self.end;
        self.end = self.end.max(self.next);
        let cast_adrift = alone && !self.adrift;
        self.adrift = alone;
        (id, cast_adrift, self.is_low(block))
    }

    fn is_low(&self, block: u64) -> bool {
        self.then.is_none() && self.end - self.next <= block / 2
    }

    /// How many numbers to reserve, if any are wanted.
    fn wanted(&self, block: u64) -> Option<u64> {
        self.is_low(block).then_some(block + self.behind)
    }

    /// Adds a reserved block. One below what this process has used already is of no use: the next is asked to pass it.
    fn add(&mut self, first: u64, count: u64) {
        let end = first.saturating_add(count);
        self.behind = self.next.saturating_sub(end);
        if end > self.next {
            self.then = Some((first, end));
        }
    }
}

async fn keep_filled(shared: Arc<Shared>, queue: Arc<dyn JournalQueue>) {
    loop {
        match shared.refill(queue.as_ref()).await {
            Ok(()) => shared.low.notified().await,
            Err(error) => {
                debug!(%error, "Could not reserve numbers; asking again.");
                tokio::time::sleep(ASK_AGAIN).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks() -> Blocks {
        Blocks {
            next: 1,
            end: 1,
            then: None,
            behind: 0,
            adrift: false,
        }
    }

    #[test]
    fn goes_from_block_to_block() {
        let mut b = blocks();
        b.add(100, 4);
        let taken: Vec<_> = (0..4).map(|_| b.take(4)).collect();
        assert_eq!(
            taken,
            [
                (100, false, false),
                (101, false, true),
                (102, false, true),
                (103, false, true)
            ],
            "reserved numbers, and low from the half on"
        );
        b.add(200, 4);
        assert_eq!(
            b.take(4),
            (200, false, false),
            "the next block, whoever had the numbers between"
        );
    }

    #[test]
    fn counts_on_alone_and_says_so_once() {
        let mut b = blocks();
        b.add(1, 2);
        let said: Vec<_> = (0..5).map(|_| b.take(2)).map(|(id, say, _)| (id, say)).collect();
        assert_eq!(said, [(1, false), (2, false), (3, true), (4, false), (5, false)]);

        b.add(3, 2);
        assert_eq!(
            b.wanted(2),
            Some(2 + 1),
            "numbers 3 and 4 are used: the next block must reach past 5"
        );
        b.add(5, 3);
        assert_eq!(b.take(2).0, 6, "5 was used, 6 and 7 are fresh");
        assert_eq!(b.take(2).0, 7);
        assert_eq!(b.take(2), (8, true, true), "away again: said again");
    }
}
