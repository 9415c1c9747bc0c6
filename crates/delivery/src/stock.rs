//! Entries that were claimed ahead, for whichever connection to the intake is free next: one call to the queue for many
//! messages, where messages are many.
//!
//! What always holds: an entry in here is held (heartbeats speak for it), and it leaves to a connection, or back to the
//! queue: when it has lain here for [`LONGEST`], when a connection ends, when the worker drains. So much is claimed
//! ahead as the open connections bring away in [`AHEAD`], by what the last copies took: what another worker could
//! deliver sooner is left to it. When the process dies, the entries here were not begun: another worker takes them over
//! as it does those that were being delivered.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tdc_queue::Claimed;
use tokio::time::Instant;

use crate::claims::Held;

/// Work for so long is claimed ahead.
const AHEAD: Duration = Duration::from_millis(20);
/// Entries that are claimed ahead, at most.
const MOST: u64 = 16;
/// Octets that are claimed ahead, at most, as far as the last entry tells how large they are.
const MOST_OCTETS: u64 = 1024 * 1024;
/// An entry that nobody had time for is given back.
pub(crate) const LONGEST: Duration = Duration::from_secs(1);

/// An entry in this process's hands.
pub(crate) struct Taken {
    pub(crate) entry: Claimed,
    pub(crate) held: Held,
}

/// What was claimed ahead for one intake, and how much that should be.
#[derive(Default)]
pub(crate) struct Stock {
    entries: Mutex<VecDeque<(Instant, Taken)>>,
    /// Moving averages: microseconds that a copy took, and its octets. 0: none was delivered yet.
    service: AtomicU64,
    octets: AtomicU64,
}

impl Stock {
    fn entries(&self) -> MutexGuard<'_, VecDeque<(Instant, Taken)>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The oldest entry, with the time that it lay here taken from its lifetime.
    pub(crate) fn take(&self) -> Option<Taken> {
        let (since, mut taken) = self.entries().pop_front()?;
        let waited = since.elapsed();
        taken.entry.remaining = taken.entry.remaining.saturating_sub(waited);
        taken.entry.age += waited;
        Some(taken)
    }

    pub(crate) fn put(&self, taken: impl IntoIterator<Item = Taken>) {
        let now = Instant::now();
        self.entries().extend(taken.into_iter().map(|taken| (now, taken)));
    }

    /// What has lain here for longer than that.
    pub(crate) fn older_than(&self, age: Duration) -> Vec<Taken> {
        let mut entries = self.entries();
        let old = entries.partition_point(|(since, _)| since.elapsed() >= age);
        entries.drain(..old).map(|(_, taken)| taken).collect()
    }

    /// A copy of so many octets was delivered in that time.
    pub(crate) fn delivered(&self, took: Duration, octets: u64) {
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1);
        // Two at a time may lose one of both: it is an average.
        for (average, value) in [(&self.service, took), (&self.octets, octets.max(1))] {
            let next = match average.load(Ordering::Relaxed) {
                0 => value,
                before => before - before / 8 + value / 8,
            };
            average.store(next.max(1), Ordering::Relaxed);
        }
    }

    /// How many entries to claim beside the one that is needed, with so many open connections.
    pub(crate) fn wants(&self, connections: u32) -> usize {
        let (service, octets) = (
            self.service.load(Ordering::Relaxed),
            self.octets.load(Ordering::Relaxed),
        );
        if service == 0 || octets == 0 {
            return 0;
        }
        let ahead = AHEAD.as_micros() as u64 * u64::from(connections) / service;
        usize::try_from(ahead.min(MOST).min(MOST_OCTETS / octets)).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tdc_queue::{ClaimRef, Claimed, EntryKey};
    use tokio::time::advance;

    use super::{LONGEST, Stock, Taken};
    use crate::claims::Claims;

    #[test]
    fn how_much_is_claimed_ahead() {
        let cases = [
            (1_000, 10_240, 3, 16, "a fast intake: the most"),
            (10_000, 10_240, 3, 6, "20 ms of three connections"),
            (50_000, 10_240, 1, 0, "a slow intake with one connection: nothing"),
            (50_000, 10_240, 20, 8, "with many: what they bring away in 20 ms"),
            (1_000, 75_000, 3, 13, "no more than a megabyte"),
            (1_000, 25_000_000, 40, 0, "large ones come one by one"),
        ];
        for (micros, octets, connections, expected, why) in cases {
            let stock = Stock::default();
            assert_eq!(stock.wants(connections), 0, "nothing is known");
            for _ in 0..100 {
                stock.delivered(Duration::from_micros(micros), octets);
            }
            assert_eq!(stock.wants(connections), expected, "{why}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_lay_here_has_less_time() {
        let claims = Claims::default();
        let taken = |name: &str| {
            let claim = ClaimRef {
                key: EntryKey::new(name),
                token: "t".into(),
            };
            Taken {
                held: claims.hold(claim.clone(), 1),
                entry: Claimed {
                    claim,
                    meta: Default::default(),
                    body: Vec::new(),
                    attempts: 0,
                    remaining: Duration::from_secs(100),
                    age: Duration::from_secs(1),
                    in_doubt: false,
                    possible_delivery: false,
                },
            }
        };
        let stock = Stock::default();
        stock.put([taken("first")]);
        advance(Duration::from_millis(600)).await;
        stock.put([taken("second"), taken("third")]);
        advance(Duration::from_millis(400)).await;
        assert_eq!(claims.all().len(), 3, "heartbeats speak for what lies here");
        let old = stock.older_than(LONGEST);
        assert_eq!(old.len(), 1);
        assert_eq!(&*old[0].entry.claim.key.intake, "first");
        let next = stock.take().unwrap();
        assert_eq!(&*next.entry.claim.key.intake, "second");
        assert_eq!(next.entry.remaining, Duration::from_millis(99_600));
        assert_eq!(next.entry.age, Duration::from_millis(1_400));
        assert_eq!(stock.older_than(Duration::ZERO).len(), 1, "the third");
        assert!(stock.take().is_none());
    }
}
