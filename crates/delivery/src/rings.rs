//! Whether there is anything to claim, as far as that can be known without asking.
//!
//! The queue rings when entries become ready. What always holds: a claim that has left nothing is believed only until the
//! next ring, also when that came while the claim was under way; and not for longer than [`BELIEVED`], since a ring may be
//! lost on its way.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// Somewhat longer than it takes from ring to ring where many entries come.
const BELIEVED: Duration = Duration::from_millis(20);

/// The rings for one intake.
#[derive(Debug)]
pub(crate) struct Rings {
    began: Instant,
    /// How often it has rung.
    last: AtomicU64,
    /// One more than the ring after which a claim has left nothing; 0: none has.
    emptied: AtomicU64,
    /// When that was, in milliseconds since the beginning.
    at: AtomicU64,
}

impl Default for Rings {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            last: AtomicU64::new(0),
            emptied: AtomicU64::new(0),
            at: AtomicU64::new(0),
        }
    }
}

impl Rings {
    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// There may be something again.
    pub(crate) fn ring(&self) {
        self.last.fetch_add(1, Ordering::AcqRel);
    }

    /// To be noted before a claim is made.
    pub(crate) fn last(&self) -> u64 {
        self.last.load(Ordering::Acquire)
    }

    /// A claim that was made after that ring has left nothing.
    pub(crate) fn emptied(&self, ring: u64) {
        self.at.store(self.now(), Ordering::Release);
        self.emptied.store(ring + 1, Ordering::Release);
    }

    /// Nothing is to be found before the next ring.
    pub(crate) fn is_empty(&self) -> bool {
        let age = || self.now().saturating_sub(self.at.load(Ordering::Acquire));
        self.emptied.load(Ordering::Acquire) == self.last() + 1 && u128::from(age()) < BELIEVED.as_millis()
    }
}

#[cfg(test)]
mod tests {
    use super::{BELIEVED, Rings};

    #[tokio::test(start_paused = true)]
    async fn a_claim_is_believed_until_the_next_ring_and_not_for_long() {
        let rings = Rings::default();
        assert!(!rings.is_empty(), "nobody has looked");
        rings.emptied(rings.last());
        assert!(rings.is_empty());
        rings.ring();
        assert!(!rings.is_empty());
        let before = rings.last();
        rings.ring();
        rings.emptied(before);
        assert!(!rings.is_empty(), "it rang while the claim was under way");
        rings.emptied(rings.last());
        assert!(rings.is_empty());
        tokio::time::advance(BELIEVED).await;
        assert!(!rings.is_empty(), "a ring may have been lost");
    }
}
